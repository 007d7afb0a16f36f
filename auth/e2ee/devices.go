package e2ee

import (
	"encoding/json"
	"errors"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

// Reserved reports whether a session may not have a device: one with the name of a cross-signing key of the user, or the
// dehydrated one, which goes when another one takes its place; see auth.Dependant.
func (s *Service) Reserved(tx *storage.Tx, user id.UserID, device id.DeviceID) (bool, error) {
	switch d, err := tx.DehydratedDevice(user); {
	case err == nil && d.ID == device:
		return true, nil
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return false, err
	}
	return isCrossSigningKey(tx, user, device)
}

// isCrossSigningKey reports whether the name of a device would be that of a cross-signing key of the user.
//
// "servers MUST not allow devices to have the same IDs as cross-signing keys"
func isCrossSigningKey(tx *storage.Tx, user id.UserID, device id.DeviceID) (bool, error) {
	keys, err := tx.CrossSigningKeys(user)
	for _, k := range keys {
		if k.Public == string(device) {
			return true, err
		}
	}
	return false, err
}

// Deleted deletes the keys of devices that go; see auth.Dependant.
func (s *Service) Deleted(tx *storage.Tx, at storage.Pos, user id.UserID, devices []id.DeviceID) error {
	if err := tx.DeleteDeviceKeys(user, devices); err != nil {
		return err
	}
	signers := make([]string, len(devices))
	for i, device := range devices {
		s.recount(tx, user, device)
		signers[i] = signing.Algorithm + ":" + string(device)
	}
	if err := tx.DeleteSignaturesBy(user, signers); err != nil {
		return err
	}
	return s.Changed(tx, at, user, devices...)
}

// Renamed says that a device has another display name; see auth.Dependant.
func (s *Service) Renamed(tx *storage.Tx, at storage.Pos, user id.UserID, device id.DeviceID) error {
	return s.Changed(tx, at, user, device)
}

// Created says that a user has a new device; see auth.Dependant.
func (s *Service) Created(tx *storage.Tx, at storage.Pos, user id.UserID, device id.DeviceID) error {
	return s.Changed(tx, at, user, device)
}

// Deactivated deletes all keys and backups of a user who goes; see auth.Dependant.
func (s *Service) Deactivated(tx *storage.Tx, at storage.Pos, user id.UserID, _ bool) error {
	if err := tx.DeleteKeysOf(user); err != nil {
		return err
	}
	return s.Changed(tx, at, user)
}

// PublishedKeys are the keys of a local user as other servers are told them.
type PublishedKeys struct {
	Devices     []PublishedDevice
	Master      json.RawMessage // nil: none
	SelfSigning json.RawMessage // nil: none
}

// PublishedDevice is a device.
type PublishedDevice struct {
	ID   id.DeviceID
	Name string          // the display name; empty: none
	Keys json.RawMessage // nil: none
}

// Published returns all devices of a local user and the user's keys as other servers are told them, with the signatures by
// the user.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1userdevicesuserid
func (s *Service) Published(tx *storage.Tx, user id.UserID) (*PublishedKeys, error) {
	signed, err := signatures(tx, "", []id.UserID{user})
	if err != nil {
		return nil, err
	}
	out := &PublishedKeys{}
	if out.Devices, err = s.publishedDevices(tx, user, signed); err != nil {
		return nil, err
	}
	keys, err := tx.CrossSigningKeys(user)
	for _, k := range keys {
		switch k.Usage {
		case usageMaster:
			out.Master = signed.of(user, k.Public, k.Key)
		case usageSelfSigning:
			out.SelfSigning = signed.of(user, k.Public, k.Key)
		}
	}
	return out, err
}

func (s *Service) publishedDevices(tx *storage.Tx, user id.UserID, signed signed) ([]PublishedDevice, error) {
	all, err := tx.Devices(user)
	if err != nil {
		return nil, err
	}
	list, err := tx.DeviceKeys(user)
	keys := map[id.DeviceID][]byte{}
	for _, k := range list {
		keys[k.Device] = signed.of(user, string(k.Device), k.Keys)
	}
	out := make([]PublishedDevice, len(all))
	for i, d := range all {
		name := s.nameFor("", storage.DeviceKeys{User: user, Name: d.Name})
		out[i] = PublishedDevice{d.ID, name, keys[d.ID]}
	}
	return out, err
}
