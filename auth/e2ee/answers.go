package e2ee

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// AppendJSON appends the answer to a query to dst.
func (out *Keys) AppendJSON(dst []byte) []byte {
	dst = appendMap(append(dst, `{"device_keys":`...), out.Devices, func(dst []byte, of map[id.DeviceID][]byte) []byte {
		return appendMap(dst, of, appendRaw)
	})
	if out.Failures != nil {
		dst = appendFailures(append(dst, `,"failures":`...), out.Failures)
	}
	dst = appendMap(append(dst, `,"master_keys":`...), out.Master, appendRaw)
	dst = appendMap(append(dst, `,"self_signing_keys":`...), out.SelfSigning, appendRaw)
	if out.UserSigning != nil {
		dst = appendMap(append(dst, `,"user_signing_keys":`...), out.UserSigning, appendRaw)
	}
	return append(dst, '}')
}

// appendMap appends an object in the order of its keys.
func appendMap[K ~string, V any](dst []byte, m map[K]V, value func([]byte, V) []byte) []byte {
	dst = append(dst, '{')
	for i, k := range slices.SortedFunc(maps.Keys(m), cmp.Compare[K]) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(canonjson.AppendString(dst, string(k)), ':')
		dst = value(dst, m[k])
	}
	return append(dst, '}')
}

func appendRaw(dst, raw []byte) []byte { return append(dst, raw...) }

// appendFailures appends why servers could not be asked. What they have answered is not handed on.
func appendFailures(dst []byte, failures map[id.ServerName]error) []byte {
	return appendMap(dst, failures, func(dst []byte, err error) []byte {
		why := mxerr.Unknown.With("the server could not be asked")
		if errors.Is(err, errAlone) {
			why = errAlone
		}
		return appendError(dst, why)
	})
}

func appendError(dst []byte, e *mxerr.Error) []byte {
	dst = canonjson.AppendString(append(dst, `{"errcode":`...), e.Code)
	return append(canonjson.AppendString(append(dst, `,"error":`...), e.Message), '}')
}

// checkedDevices are the devices of a user as another server tells them, those that were asked for and are well-formed.
func checkedDevices(user id.UserID, asked []id.DeviceID, told map[id.DeviceID]json.RawMessage) map[id.DeviceID][]byte {
	checked := map[id.DeviceID][]byte{}
	for device, raw := range told {
		if !validName(string(device)) || !listed(asked, device) {
			continue
		}
		if keys, err := CheckRemoteDeviceKeys(user, device, raw); err == nil {
			checked[device] = withName(keys, toldName(raw))
		}
	}
	return checked
}

// toldName is the display name in keys as another server tells them, empty for none.
func toldName(raw json.RawMessage) string {
	var keys struct {
		Unsigned struct {
			Name string `json:"device_display_name"`
		} `json:"unsigned"`
	}
	if json.Unmarshal(raw, &keys) != nil || len(keys.Unsigned.Name) > maxName {
		return ""
	}
	return keys.Unsigned.Name
}
