package e2ee

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

type changesAnswer struct {
	Changed []id.UserID `json:"changed"`
	Left    []id.UserID `json:"left"`
}

// getKeysChanges implements GET /_matrix/client/v3/keys/changes.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3keyschanges
func (s *Service) getKeysChanges(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*changesAnswer, error) {
	from, err := s.stream(c, "from")
	if err != nil {
		return nil, err
	}
	to, err := s.stream(c, "to")
	if err != nil {
		return nil, err
	}
	out := &changesAnswer{[]id.UserID{}, []id.UserID{}}
	if s.Changes == nil || to.Pos <= from.Pos {
		return out, nil
	}
	changed, left, err := s.Changes(ctx, c.User, from, to)
	out.Changed, out.Left = append(out.Changed, changed...), append(out.Left, left...)
	return out, err
}

// stream reads a token of /sync.
func (s *Service) stream(c *httpapi.Call, name string) (token.Stream, error) {
	if !c.HasQuery(name) {
		return token.Stream{}, mxerr.MissingParam.With("%s is missing", name)
	}
	t, err := token.ParseStream(c.Query(name))
	if err != nil || t.Pos > s.DB.Published() {
		return t, mxerr.InvalidParam.With("%s is not a token of this server", name)
	}
	return t, nil
}

// Changed says, inside the act that does it, that devices of a user came, went, or got other keys or another name; no
// device stands for the cross-signing keys. It is the one place where this is noted, for users of other servers too:
// everybody who shares a room with the user, and the user, is told as of at. The hub names the user after the commit.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#tracking-the-device-list-for-a-user
func (s *Service) Changed(tx *storage.Tx, at storage.Pos, user id.UserID, devices ...id.DeviceID) error {
	if len(devices) == 0 || user.Server() != s.ServerName { // which device of another server's user it was nobody asks
		devices = []id.DeviceID{""}
	}
	if err := tx.PutDeviceChange(storage.DeviceChange{User: user, Pos: at, Device: devices[0]}, devices[1:]...); err != nil {
		return err
	}
	s.record(tx, user)
	return nil
}

// changedFor is Changed for what only viewer may see: a signature by viewer, or the own user-signing key.
func (s *Service) changedFor(tx *storage.Tx, at storage.Pos, viewer, user id.UserID) error {
	err := tx.PutDeviceChange(storage.DeviceChange{User: user, Pos: at, Audience: viewer})
	if err != nil {
		return err
	}
	s.record(tx, viewer)
	return nil
}

// record lets readers find the change of a user without asking storage, unless nobody knows whether it was stored.
func (s *Service) record(tx *storage.Tx, user id.UserID) {
	tx.Then(func(at storage.Pos) { s.Hub.Record(notify.Change{Pos: at, Kind: notify.Device, User: user}) },
		func(storage.Pos) { s.Hub.Wake(nil, user) })
	tx.Doubt(s.Hub.Doubt)
}
