package syncing

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/storage"
)

// getAccountData implements GET /_matrix/client/v3/user/{userId}/account_data/{type} and, with a room,
// GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3useruseridaccount_datatype
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3useruseridroomsroomidaccount_datatype
func (s *Service) getAccountData(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*json.RawMessage, error) {
	if err := ownOnly(c); err != nil {
		return nil, err
	}
	content, err := s.AccountData(ctx, c.User, c.RoomID("roomId"), c.PathValue("type"))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.With("there is no account data of this type")
	}
	return (*json.RawMessage)(&content), err
}

// setAccountData implements PUT /_matrix/client/v3/user/{userId}/account_data/{type} and, with a room,
// PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3useruseridaccount_datatype
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype
func (s *Service) setAccountData(ctx context.Context, c *httpapi.Call, content *json.RawMessage) (*httpapi.Empty, error) {
	if err := ownOnly(c); err != nil {
		return nil, err
	}
	typ := c.PathValue("type")
	// "The server MUST reject attempts to set m.fully_read or m.push_rules with M_BAD_JSON": other endpoints do that.
	if slices.Contains(keptByServer, typ) {
		return nil, mxerr.BadJSON.WithStatus(405).With("%s cannot be set here", typ)
	}
	return nil, s.SetAccountData(ctx, c.User, c.RoomID("roomId"), typ, *content)
}

// keptByServer are the types of account data that have endpoints of their own.
var keptByServer = []string{"m.fully_read", "m.push_rules"}

// deleteAccountData implements DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type} and,
// with a room, DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/3391
func (s *Service) deleteAccountData(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	if err := ownOnly(c); err != nil {
		return nil, err
	}
	typ := c.PathValue("type")
	if slices.Contains(keptByServer, typ) {
		return nil, mxerr.BadJSON.WithStatus(405).With("%s cannot be deleted", typ)
	}
	_, err := s.AccountData(ctx, c.User, c.RoomID("roomId"), typ)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, s.SetAccountData(ctx, c.User, c.RoomID("roomId"), typ, []byte(deleted))
}

// deleted is the content of account data that was deleted: devices that sync are told so, all others nothing. "A PUT with
// an empty object is equivalent to deleting."
const deleted = `{}`

// ownOnly refuses to touch what other users keep.
func ownOnly(c *httpapi.Call) error {
	if c.UserID("userId") != c.User {
		return mxerr.Forbidden.With("this belongs to another user")
	}
	return nil
}

// AccountData returns account data of a user for a room, or global when room is empty;
// storage.ErrNotFound when it was never set, or was deleted.
func (s *Service) AccountData(ctx context.Context, user id.UserID, room id.RoomID, typ string) ([]byte, error) {
	var content []byte
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		content, err = tx.AccountData(user, room, typ)
		return err
	})
	if err == nil && string(content) == deleted {
		return nil, storage.ErrNotFound
	}
	return content, err
}

// SetAccountData sets account data of a user for a room, or global when room is empty. content is a JSON
// object. It is durable, and the user's devices are told, when SetAccountData returns.
func (s *Service) SetAccountData(ctx context.Context, user id.UserID, room id.RoomID, typ string, content []byte) error {
	canonical, err := canonjson.Append(nil, content)
	if err != nil {
		return mxerr.BadJSON.With("%v", err)
	}
	act := s.accountDataAct(user, room, typ)
	act.Place = func(a *storage.Act, pos storage.Pos) {
		a.Add(storage.UpsertAccountData, string(user), string(room), []byte(typ), canonical, pos)
	}
	s.DB.Queue(act)
	return act.Wait(ctx)
}

// accountDataAct is an act that changes one piece of account data, without its write.
func (s *Service) accountDataAct(user id.UserID, room id.RoomID, typ string) *storage.Act {
	return &storage.Act{
		Positions: 1,
		Committed: func(pos storage.Pos) {
			s.dataChanged(user, room, typ)
			s.Hub.Record(notify.Change{Pos: pos, Kind: notify.AccountData, Room: room, User: user})
		},
		Announced: func(storage.Pos) { s.Hub.Wake(nil, user) },
		Refused:   func(error) { s.dataChanged(user, room, typ) }, // it may be stored all the same
	}
}

// dataOfDevices begin the types of account data that belong to one device, before its name.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/3890
var dataOfDevices = []string{"m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."}

// deleteDeviceData deletes the account data that belongs to devices, inside the act that removes them. The user's other
// devices are told.
func (s *Service) deleteDeviceData(tx *storage.Tx, at storage.Pos, user id.UserID, devices []id.DeviceID) error {
	for _, device := range devices {
		for _, typ := range dataOfDevices {
			if err := s.deleteGlobalData(tx, at, user, typ+string(device)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) deleteGlobalData(tx *storage.Tx, at storage.Pos, user id.UserID, typ string) error {
	content, err := tx.AccountData(user, "", typ)
	if errors.Is(err, storage.ErrNotFound) || err == nil && string(content) == deleted {
		return nil
	}
	if err != nil {
		return err
	}
	act := s.accountDataAct(user, "", typ)
	tx.Then(act.Committed, act.Announced)
	return tx.PutAccountData(user, "", typ, []byte(deleted), at)
}

// dataChanged lets go what is kept elsewhere of account data.
func (s *Service) dataChanged(user id.UserID, room id.RoomID, typ string) {
	if room == "" {
		s.Cache.AccountDataChanged(user, typ)
	}
	s.wishes.changed(user, room, typ)
}
