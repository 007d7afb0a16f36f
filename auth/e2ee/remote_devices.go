package e2ee

import (
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// CheckRemoteDeviceKeys is CheckDeviceKeys for what another server tells of a device of its own. An object of another form
// is let pass, for clients check what they use, and its server knows what it is good for; but not one of another user or
// device, nor one that could not be sent on.
func CheckRemoteDeviceKeys(user id.UserID, device id.DeviceID, raw json.RawMessage) ([]byte, error) {
	keys, err := canonicalObject("device_keys", raw, maxKeys)
	if err != nil {
		return nil, err
	}
	for name, want := range map[string]string{"user_id": string(user), "device_id": string(device)} {
		if canonjson.Get(keys, name) != nil && !isText(keys, name, want) {
			return nil, mxerr.InvalidParam.With("device_keys: user_id and device_id are not those of the device")
		}
	}
	if s := canonjson.Get(keys, "signatures"); s != nil && !isSignatures(s) {
		return nil, mxerr.BadJSON.With("device_keys: signatures are no strings by user and key")
	}
	return onlySignedBy(user, keys), nil
}
