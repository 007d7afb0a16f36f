package federation

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// remoteKeys are what is stored of a user of another server.
type remoteKeys struct {
	devices []storage.DeviceKeys
	crosses []storage.CrossSigningKey
}

// check makes what a server has told what is stored. A device or key that cannot be taken is left out.
func (d *Devices) check(answer *UserDevices) (list storage.DeviceList, keys remoteKeys) {
	list = storage.DeviceList{User: answer.User, Stream: answer.Stream}
	for _, device := range answer.Devices {
		checked, err := e2ee.CheckRemoteDeviceKeys(answer.User, device.ID, device.Keys)
		if err != nil || !validDeviceID(device.ID) {
			d.Log.Debug("keys of a device are not taken", "user", answer.User, "device", string(device.ID), "error", err)
			continue
		}
		keys.devices = append(keys.devices, storage.DeviceKeys{
			User: answer.User, Device: device.ID, Keys: checked, Name: clipName(device.Name),
		})
	}
	keys.crosses = d.checkCrosses(answer.User, answer.Master, answer.SelfSigning)
	return list, keys
}

func (d *Devices) checkCrosses(user id.UserID, master, selfSigning json.RawMessage) (list []storage.CrossSigningKey) {
	for usage, raw := range map[string]json.RawMessage{"master": master, "self_signing": selfSigning} {
		if len(raw) == 0 || string(raw) == "null" {
			continue
		}
		key, err := e2ee.CheckCrossSigningKey(user, usage, raw)
		if err != nil {
			d.Log.Debug("a cross-signing key is not taken", "user", user, "usage", usage, "error", err)
			continue
		}
		list = append(list, key)
	}
	return list
}

// What is kept of other servers' devices, in bytes.
const (
	maxDeviceID   = 255
	maxDeviceName = 255
)

func validDeviceID(device id.DeviceID) bool {
	return device != "" && len(device) <= maxDeviceID && !slices.Contains([]byte(device), 0)
}

// clipName shortens a name at the end of a character.
func clipName(name string) string {
	if len(name) <= maxDeviceName {
		return name
	}
	end := 0
	for i := range name {
		if i > maxDeviceName {
			break
		}
		end = i
	}
	return name[:end]
}

// replace stores a list in the place of what is known, and says what of it is new.
func (d *Devices) replace(tx *storage.Tx, at storage.Pos, list storage.DeviceList, keys remoteKeys) error {
	known, err := tx.DeviceKeys(list.User)
	if err != nil {
		return err
	}
	changed, err := replaceDevices(tx, list.User, known, keys.devices)
	if err != nil {
		return err
	}
	crossed, err := replaceCrosses(tx, list.User, keys.crosses)
	if err != nil {
		return err
	}
	if crossed {
		changed = append(changed, "")
	}
	if len(changed) > 0 {
		if err := d.Changed(tx, at, list.User, changed...); err != nil {
			return err
		}
	}
	return tx.PutDeviceList(list)
}

// replaceDevices stores devices in the place of those that are known, and returns those that differ.
func replaceDevices(tx *storage.Tx, user id.UserID, known, told []storage.DeviceKeys) (changed []id.DeviceID, err error) {
	old := map[id.DeviceID]storage.DeviceKeys{}
	for _, k := range known {
		old[k.Device] = k
	}
	for _, k := range told {
		before, ok := old[k.Device]
		delete(old, k.Device)
		if ok && bytes.Equal(before.Keys, k.Keys) && before.Name == k.Name {
			continue
		}
		if err := tx.PutDeviceKeys(k); err != nil {
			return nil, err
		}
		changed = append(changed, k.Device)
	}
	var gone []id.DeviceID
	for device := range old {
		gone = append(gone, device)
	}
	if len(gone) == 0 {
		return changed, nil
	}
	return append(changed, gone...), tx.DeleteDeviceKeys(user, gone)
}

// replaceCrosses stores the cross-signing keys of a user in the place of those that are known, and reports whether they
// differ.
func replaceCrosses(tx *storage.Tx, user id.UserID, told []storage.CrossSigningKey) (changed bool, err error) {
	known, err := tx.CrossSigningKeys(user)
	if err != nil {
		return false, err
	}
	for _, k := range known {
		if !slices.ContainsFunc(told, func(t storage.CrossSigningKey) bool { return t.Usage == k.Usage }) {
			changed = true
			if err := tx.DeleteCrossSigningKey(user, k.Usage); err != nil {
				return false, err
			}
		}
	}
	differs, err := putCrosses(tx, known, told)
	return changed || differs, err
}

// putCrosses stores those of some cross-signing keys that differ from the known ones, and reports whether there are any.
func putCrosses(tx *storage.Tx, known, told []storage.CrossSigningKey) (changed bool, err error) {
	for _, k := range told {
		same := func(t storage.CrossSigningKey) bool { return t.Usage == k.Usage && bytes.Equal(t.Key, k.Key) }
		if slices.ContainsFunc(known, same) {
			continue
		}
		changed = true
		if err := tx.PutCrossSigningKey(k); err != nil {
			return false, err
		}
	}
	return changed, nil
}
