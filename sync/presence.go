package syncing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// maxStatus bounds what somebody says of their status, in bytes.
const maxStatus = 1000

type presenceChange struct {
	Presence ephemeral.State `json:"presence"`
	Message  *string         `json:"status_msg"`
}

// setPresence implements PUT /_matrix/client/v3/presence/{userId}/status.
//
// A status_msg that is not sent is taken away. Where presence is off, nothing happens.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3presenceuseridstatus
func (s *Service) setPresence(_ context.Context, c *httpapi.Call, in *presenceChange) (*httpapi.Empty, error) {
	switch {
	case c.UserID("userId") != c.User:
		return nil, mxerr.Forbidden.With("you can only set your own presence")
	case in.Presence == "":
		return nil, mxerr.MissingParam.With("presence is missing")
	case !in.Presence.Valid():
		return nil, mxerr.InvalidParam.With("presence is online, offline or unavailable")
	case in.Message == nil:
		in.Message = new(string)
	case len(*in.Message) > maxStatus:
		return nil, mxerr.InvalidParam.With("status_msg may have %d bytes", maxStatus)
	}
	if s.Presence != nil {
		s.Presence.Set(c.User, c.Device, in.Presence, *in.Message)
	}
	return &httpapi.Empty{}, nil
}

// presence is what others are told of somebody's presence.
type presence struct {
	User            id.UserID       `json:"user_id,omitempty"` // between servers
	State           ephemeral.State `json:"presence"`
	LastActiveAgo   *int64          `json:"last_active_ago,omitempty"` // milliseconds
	Message         string          `json:"status_msg,omitempty"`
	CurrentlyActive *bool           `json:"currently_active,omitempty"` // of who is online
}

func presenceOf(st *ephemeral.Status, now time.Time) *presence {
	p := &presence{State: st.State, Message: st.Message}
	if !st.LastActive.IsZero() {
		ago := max(now.Sub(st.LastActive).Milliseconds(), 0)
		p.LastActiveAgo = &ago
	}
	if st.State == ephemeral.Online {
		p.CurrentlyActive = &st.CurrentlyActive
	}
	return p
}

// getPresence implements GET /_matrix/client/v3/presence/{userId}/status.
//
// Whoever was not heard of is offline, and so is everybody where presence is off.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3presenceuseridstatus
func (s *Service) getPresence(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*presence, error) {
	user := c.UserID("userId")
	if s.Presence == nil {
		return &presence{State: ephemeral.Offline}, nil
	}
	if err := s.checkMayWatch(ctx, c.User, user); err != nil {
		return nil, err
	}
	st, ok := s.Presence.Of(user)
	if !ok {
		st.State = ephemeral.Offline
	}
	return presenceOf(&st, time.Now()), nil
}

// checkMayWatch lets users see the presence of themselves and those with whom they share a room.
func (s *Service) checkMayWatch(ctx context.Context, viewer, user id.UserID) error {
	if viewer == user {
		return nil
	}
	mine, err := s.Cache.RoomsOf(ctx, viewer)
	if err != nil {
		return err
	}
	theirs, err := s.Cache.RoomsOf(ctx, user)
	if err != nil || theirs.SharesWith(mine) {
		return err
	}
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		_, err := tx.Account(user)
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotFound) && len(theirs.All()) == 0:
		return mxerr.NotFound.With("this server knows nothing of %s", user)
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return err
	}
	return mxerr.Forbidden.With("you share no room with %s", user)
}

// Deactivated makes a user offline for good.
func (s *Service) Deactivated(_ *storage.Tx, _ storage.Pos, user id.UserID, _ bool) error {
	s.Presence.Deactivated(user)
	return nil
}

// What is believed of other servers' EDUs.
const (
	maxPushed   = 1000                  // updates of one EDU; the rest is ignored
	pushesBurst = 1000                  // updates that a server may send at once,
	pushesEvery = 10 * time.Millisecond // and how long it takes until it may send one more
	longAgo     = 1 << 40               // milliseconds; an older last_active_ago counts as this
)

// ReceivePresence takes the content, in canonical JSON, of an m.presence EDU that another server has sent: what it says
// of its own users who are in rooms that are known here, or will be within a minute. The rest is ignored, as is all
// beyond a thousand updates at once and a hundred a second after that; the error says why. It is told to local users and
// to no other server.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#presence
func (s *Service) ReceivePresence(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	push := gjson.GetBytes(content, "push")
	if !push.IsArray() {
		return mxerr.BadJSON.With("push is no list")
	}
	var refused error
	taken, n := 0, 0
	push.ForEach(func(_, update gjson.Result) bool {
		if n++; n > maxPushed || !s.pushes.allow(origin, time.Now()) {
			refused = mxerr.LimitExceeded.With("too many updates of presence")
			return false
		}
		if err := s.receivePush(ctx, origin, update); err != nil {
			refused = err
			return true
		}
		taken++
		return true
	})
	if refused != nil {
		return fmt.Errorf("took %d updates of presence of %d: %w", taken, n, refused)
	}
	return nil
}

// receivePush takes one update.
func (s *Service) receivePush(ctx context.Context, origin id.ServerName, update gjson.Result) error {
	st, err := readPush(update)
	if err != nil {
		return err
	}
	// "m.presence … updates for users of the sending homeserver."
	if st.User.Server() != origin || origin == s.ServerName {
		return mxerr.Forbidden.With("the user is not one of the server that speaks of them")
	}
	if _, known := s.Presence.Of(st.User); !known {
		rooms, err := s.Cache.RoomsOf(ctx, st.User)
		if err != nil {
			return err
		}
		if len(rooms.Joined()) == 0 {
			return s.holdEarly(st)
		}
	}
	if !s.Presence.Hear(st) {
		return mxerr.LimitExceeded.With("too many users are known")
	}
	return nil
}

// What is said of users who are in no known room is held for a while, of at most maxEarly: a server tells of those in a
// room that one of our users joins as soon as it knows of the join, which may be before we know the room.
const (
	maxEarly  = 1000
	holdFor   = time.Minute
	lookEvery = time.Second
)

// early holds updates that came too soon.
type early struct {
	mu sync.Mutex // guards held
	// held has the updates by user, with when they came.
	held map[id.UserID]earlyUpdate
}

type earlyUpdate struct {
	ephemeral.Status
	at time.Time
}

func (s *Service) holdEarly(st ephemeral.Status) error {
	s.early.mu.Lock()
	defer s.early.mu.Unlock()
	if s.early.held == nil {
		s.early.held = map[id.UserID]earlyUpdate{}
	}
	if _, held := s.early.held[st.User]; !held && len(s.early.held) >= maxEarly {
		return mxerr.Forbidden.With("the user is in no room that is known here")
	}
	s.early.held[st.User] = earlyUpdate{st, time.Now()}
	s.PresenceChanged()
	return nil
}

// take returns what is held, and holds nothing any more.
func (e *early) take() map[id.UserID]earlyUpdate {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.held
	e.held = nil
	return held
}

// giveBack holds what was taken, unless newer updates have come meanwhile.
func (e *early) giveBack(held map[id.UserID]earlyUpdate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for user, u := range e.held {
		held[user] = u
	}
	e.held = held
}

// readPush reads one update. A status_msg that is longer than those of local users is left out.
func readPush(update gjson.Result) (st ephemeral.Status, err error) {
	userID, state, message := update.Get("user_id"), update.Get("presence"), update.Get("status_msg")
	ago, active := update.Get("last_active_ago"), update.Get("currently_active")
	if st.User, err = id.ParseUserID(userID.Str); err != nil || userID.Type != gjson.String {
		return st, mxerr.BadJSON.With("user_id is no user id")
	}
	st.State = ephemeral.State(state.Str)
	switch {
	case state.Type != gjson.String || !st.State.Valid():
		return st, mxerr.BadJSON.With("presence is online, offline or unavailable")
	case message.Exists() && message.Type != gjson.String && message.Type != gjson.Null:
		return st, mxerr.BadJSON.With("status_msg is no string")
	case ago.Exists() && (ago.Type != gjson.Number || ago.Num < 0):
		return st, mxerr.BadJSON.With("last_active_ago is no time")
	case active.Exists() && !active.IsBool():
		return st, mxerr.BadJSON.With("currently_active is no boolean")
	}
	if len(message.Str) <= maxStatus {
		st.Message = message.Str
	}
	if ago.Exists() {
		st.LastActive = time.Now().Add(-time.Duration(min(ago.Int(), longAgo)) * time.Millisecond)
	}
	st.CurrentlyActive = active.Bool()
	return st, nil
}

// maxMetered is how many servers a meter remembers.
const maxMetered = 10_000

// meter bounds what servers may send: a burst, and then one thing in a while.
type meter struct {
	mu sync.Mutex // guards full
	// full is when a server may have its whole burst again.
	full map[id.ServerName]time.Time
}

func (m *meter) allow(server id.ServerName, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.full[server]
	if at.Before(now) {
		at = now
	}
	if at = at.Add(pushesEvery); at.Sub(now) > pushesBurst*pushesEvery {
		return false
	}
	if m.full == nil || len(m.full) >= maxMetered {
		m.full = map[id.ServerName]time.Time{}
	}
	m.full[server] = at
	return true
}
