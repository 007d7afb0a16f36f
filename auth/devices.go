package auth

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// clientDevice is a device as its owner sees it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#device-management
type clientDevice struct {
	ID     id.DeviceID `json:"device_id"`
	Name   string      `json:"display_name,omitempty"`
	SeenIP string      `json:"last_seen_ip,omitempty"`
	SeenMS int64       `json:"last_seen_ts,omitempty"`
}

type clientDevices struct {
	Devices []clientDevice `json:"devices"`
}

// getDevices implements GET /_matrix/client/v3/devices.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3devices
func (s *Service) getDevices(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*clientDevices, error) {
	devices, err := s.Devices(ctx, c.User)
	if err != nil {
		return nil, err
	}
	out := &clientDevices{Devices: []clientDevice{}}
	for _, d := range devices {
		out.Devices = append(out.Devices, clientDevice{d.ID, d.Name, d.SeenIP, d.SeenMS})
	}
	return out, nil
}

// Devices returns the devices of user, oldest first, with when they were last seen.
func (s *Service) Devices(ctx context.Context, user id.UserID) ([]storage.Device, error) {
	var devices []storage.Device
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		devices, err = tx.Devices(user)
		return err
	})
	s.sightings.merge(devices)
	return devices, err
}

// HasDevice reports whether user has a device, as long polls ask that wait for longer than a session may last.
func (s *Service) HasDevice(ctx context.Context, user id.UserID, device id.DeviceID) (bool, error) {
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := tx.Device(user, device)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// errNoDevice is the answer about a device that the caller does not have.
var errNoDevice = mxerr.NotFound.With("you have no such device")

// getDevice implements GET /_matrix/client/v3/devices/{deviceId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3devicesdeviceid
func (s *Service) getDevice(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*clientDevice, error) {
	one := make([]storage.Device, 1)
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		one[0], err = tx.Device(c.User, c.DeviceID("deviceId"))
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNoDevice
	}
	if err != nil {
		return nil, err
	}
	s.sightings.merge(one)
	return &clientDevice{one[0].ID, one[0].Name, one[0].SeenIP, one[0].SeenMS}, nil
}

type deviceUpdate struct {
	Name *string `json:"display_name"`
}

// updateDevice implements PUT /_matrix/client/v3/devices/{deviceId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3devicesdeviceid
func (s *Service) updateDevice(ctx context.Context, c *httpapi.Call, in *deviceUpdate) (*httpapi.Empty, error) {
	device := c.DeviceID("deviceId")
	if in.Name == nil {
		there, err := s.HasDevice(ctx, c.User, device)
		if err == nil && !there {
			err = errNoDevice
		}
		return nil, err
	}
	return nil, s.RenameDevice(ctx, c.User, device, *in.Name)
}

// RenameDevice sets the display name of a device, which others may see. mxerr.NotFound: user has no such device.
func (s *Service) RenameDevice(ctx context.Context, user id.UserID, device id.DeviceID, name string) error {
	if err := checkDeviceName(name); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		there, err := tx.RenameDevice(user, device, name)
		if err != nil {
			return err
		}
		if !there {
			return errNoDevice
		}
		for _, d := range s.cfg.Dependants {
			if d.Renamed == nil {
				continue
			}
			if err := d.Renamed(tx, at, user, device); err != nil {
				return err
			}
		}
		return nil
	})
}

// deleteDevice implements DELETE /_matrix/client/v3/devices/{deviceId}.
//
// https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3devicesdeviceid
func (s *Service) deleteDevice(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*httpapi.Empty, error) {
	if _, err := s.Confirm(ctx, c, *body); err != nil {
		return nil, err
	}
	return nil, s.Logout(ctx, c.User, c.DeviceID("deviceId"))
}

// deleteSeveral implements POST /_matrix/client/v3/delete_devices.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3delete_devices
func (s *Service) deleteSeveral(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*httpapi.Empty, error) {
	a, err := s.interact(ctx, c, *body, []flow{{TypePassword}})
	if err != nil {
		return nil, err
	}
	defer a.release()
	var in struct {
		Devices []id.DeviceID `json:"devices"`
	}
	if err := a.decode(&in); err != nil {
		return nil, err
	}
	if in.Devices == nil {
		return nil, mxerr.MissingParam.With("devices is missing")
	}
	if err := s.prove(ctx, a); err != nil {
		return nil, err
	}
	return nil, s.Logout(ctx, c.User, in.Devices...)
}
