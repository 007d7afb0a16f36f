package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// A dehydrated device is nobody's session: it has keys, and messages come to it while its user has no other device. A
// device of the user that knows its secret takes it up, reads the messages, and puts another one in its place.

const (
	maxDehydrated      = 256 << 10 // bytes of what is kept of one, beside its keys
	maxDehydratedBody  = 1 << 20
	maxDehydratedEvent = 100 // messages of one answer
)

type dehydratedBody struct {
	Device     id.DeviceID     `json:"device_id"`
	Data       json.RawMessage `json:"device_data"`
	Name       string          `json:"initial_device_display_name"`
	DeviceKeys json.RawMessage `json:"device_keys"`
	OneTime    json.RawMessage `json:"one_time_keys"`
	Fallback   json.RawMessage `json:"fallback_keys"`
}

type dehydratedDevice struct {
	Device id.DeviceID     `json:"device_id"`
	Data   json.RawMessage `json:"device_data,omitempty"`
}

// putDehydratedDevice implements PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device.
//
// The dehydrated device that the user had before goes, with its messages. A session's device cannot be taken.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/3814
func (s *Service) putDehydratedDevice(ctx context.Context, c *httpapi.Call, in *dehydratedBody) (*dehydratedDevice, error) {
	data, err := canonjson.Append(nil, in.Data)
	switch {
	case in.Device == "" || in.Data == nil || in.DeviceKeys == nil:
		return nil, mxerr.MissingParam.With("device_id, device_data or device_keys is missing")
	case !validName(string(in.Device)):
		return nil, mxerr.InvalidParam.With("device_id is no name of a device")
	case err != nil || !canonjson.IsObject(data):
		return nil, mxerr.BadJSON.With("device_data is no object")
	case len(data) > maxDehydrated:
		return nil, mxerr.TooLarge.With("device_data may have %d bytes", maxDehydrated)
	case len(in.Name) > maxName:
		return nil, mxerr.InvalidParam.With("initial_device_display_name may have %d bytes", maxName)
	}
	u, err := checkUpload(c.User, in.Device, Upload{DeviceKeys: in.DeviceKeys, OneTime: in.OneTime, Fallback: in.Fallback})
	if err != nil {
		return nil, err
	}
	if err := s.verify(ctx, u); err != nil {
		return nil, err
	}
	err = s.DB.Write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		d := storage.DehydratedDevice{DeviceName: storage.DeviceName{User: c.User, ID: in.Device}, Data: data}
		if err := s.dehydrate(tx, at, d, in.Name); err != nil {
			return err
		}
		return s.store(tx, at, u)
	})
	if err != nil {
		return nil, err
	}
	return &dehydratedDevice{Device: in.Device}, nil
}

// dehydrate makes the device in the place of the one before.
func (s *Service) dehydrate(tx *storage.Tx, at storage.Pos, d storage.DehydratedDevice, name string) error {
	switch reserved, err := isCrossSigningKey(tx, d.User, d.ID); {
	case err != nil:
		return err
	case reserved:
		return mxerr.InvalidParam.With("the device id is the name of a key")
	}
	old, err := tx.PutDehydratedDevice(d)
	if err != nil {
		return err
	}
	if old != "" {
		if err := s.deleteDehydrated(tx, at, d.User, old); err != nil {
			return err
		}
	}
	now := s.Now().UnixMilli()
	fresh, err := tx.InsertDevice(storage.Device{User: d.User, ID: d.ID, Name: name, CreatedMS: now, SeenMS: now})
	switch {
	case err != nil:
		return err
	case !fresh:
		return mxerr.InvalidParam.With("the device is a session")
	}
	return s.Changed(tx, at, d.User, d.ID)
}

// deleteDehydrated deletes a device with its keys and its messages.
func (s *Service) deleteDehydrated(tx *storage.Tx, at storage.Pos, user id.UserID, device id.DeviceID) error {
	gone := []id.DeviceID{device}
	if err := tx.DeleteDevices(user, gone); err != nil {
		return err
	}
	if err := tx.DeleteToDevices(user, gone); err != nil {
		return err
	}
	return s.Deleted(tx, at, user, gone)
}

// errNotDehydrated is the answer about a dehydrated device that is not there.
var errNotDehydrated = mxerr.NotFound.With("you have no such dehydrated device")

// getDehydratedDevice implements GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/3814
func (s *Service) getDehydratedDevice(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*dehydratedDevice, error) {
	var d storage.DehydratedDevice
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		d, err = tx.DehydratedDevice(c.User)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNotDehydrated
	}
	return &dehydratedDevice{d.ID, d.Data}, err
}

// deleteDehydratedDevice implements DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/3814
func (s *Service) deleteDehydratedDevice(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*dehydratedDevice, error) {
	var d storage.DehydratedDevice
	err := s.DB.Write(ctx, func(tx *storage.Tx, at storage.Pos) (err error) {
		if d, err = tx.DehydratedDevice(c.User); err != nil {
			return err
		}
		if err := tx.DeleteDehydratedDevices(c.User, []id.DeviceID{d.ID}); err != nil {
			return err
		}
		return s.deleteDehydrated(tx, at, c.User, d.ID)
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNotDehydrated
	}
	return &dehydratedDevice{Device: d.ID}, err
}

type dehydratedEvents struct {
	Events []json.RawMessage `json:"events"`
	Next   string            `json:"next_batch"`
}

// getDehydratedEvents implements POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events.
//
// It tells messages to the device in order, behind next_batch if that is sent. None is deleted: they go with the device.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/3814
func (s *Service) getDehydratedEvents(ctx context.Context, c *httpapi.Call, in *struct {
	Next string `json:"next_batch"`
}) (*dehydratedEvents, error) {
	after := storage.Pos(0)
	if in.Next != "" {
		var err error
		if after, err = strconv.ParseInt(in.Next, 10, 64); err != nil || after < 0 {
			return nil, mxerr.InvalidParam.With("next_batch is not a token of this server")
		}
	}
	name := storage.DeviceName{User: c.User, ID: c.DeviceID("deviceId")}
	out := &dehydratedEvents{Events: []json.RawMessage{}}
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		d, err := tx.DehydratedDevice(c.User)
		if err == nil && d.ID != name.ID {
			err = storage.ErrNotFound
		}
		if err != nil {
			return err
		}
		messages, err := tx.ToDevice(name, after, s.DB.Published(), maxDehydratedEvent)
		for _, m := range messages {
			out.Events, after = append(out.Events, m.Message), m.Pos
		}
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNotDehydrated
	}
	out.Next = strconv.FormatInt(after, 10)
	return out, err
}
