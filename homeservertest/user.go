package homeservertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// Preset is a kind of room.
type Preset string

// The presets of /createRoom.
const (
	Private Preset = "private_chat"
	Trusted Preset = "trusted_private_chat"
	Public  Preset = "public_chat"
)

// Response is an answer of the server.
type Response struct {
	t      testing.TB
	what   string
	Status int
	Header http.Header
	Body   []byte
}

// Get returns a value of the body by its path, as gjson writes it.
func (r *Response) Get(path string) gjson.Result { return gjson.GetBytes(r.Body, path) }

// WantOK fails the test unless the answer is a 200, and returns it.
func (r *Response) WantOK() *Response {
	r.t.Helper()
	require.Equal(r.t, 200, r.Status, "%s: %s", r.what, r.Body)
	return r
}

// WantError fails the test unless the answer is this error.
func (r *Response) WantError(status int, errcode string) {
	r.t.Helper()
	require.Equal(r.t, status, r.Status, "%s: %s", r.what, r.Body)
	require.Equal(r.t, errcode, r.Get("errcode").String(), "%s: %s", r.what, r.Body)
}

// User is a client of one account and device. Its verbs answer what the server says; those that begin with
// Must, and those that return an id, fail the test on an error.
type User struct {
	server   *Server
	ID       string
	Device   string
	Token    string
	Password string
	txn      atomic.Int64
}

// User registers an account and logs it in.
func (s *Server) User(name string) *User {
	s.t.Helper()
	u := &User{server: s, Password: "secret of " + name}
	u.take(u.Do("POST", "/_matrix/client/v3/register", map[string]any{
		"username": name, "password": u.Password, "auth": map[string]string{"type": "m.login.dummy"},
	}).WantOK())
	return u
}

// Guest registers a guest.
func (s *Server) Guest() *User {
	s.t.Helper()
	u := &User{server: s}
	u.take(u.Do("POST", "/_matrix/client/v3/register?kind=guest", map[string]any{}).WantOK())
	return u
}

// Client is a client with an access token, which need not be valid; "" for none.
func (s *Server) Client(token string) *User { return &User{server: s, Token: token} }

// Login returns the same account on a new device.
func (u *User) Login() *User {
	u.server.t.Helper()
	v := &User{server: u.server, Password: u.Password}
	v.take(v.Do("POST", "/_matrix/client/v3/login", map[string]any{
		"type": "m.login.password", "password": u.Password,
		"identifier": map[string]string{"type": "m.id.user", "user": u.ID},
	}).WantOK())
	return v
}

func (u *User) take(r *Response) {
	u.ID, u.Device, u.Token = r.Get("user_id").String(), r.Get("device_id").String(), r.Get("access_token").String()
}

// Do sends a request. body is encoded as JSON unless it is nil or bytes.
func (u *User) Do(method, path string, body any) *Response {
	u.server.t.Helper()
	return u.DoContext(context.Background(), method, path, body)
}

// DoContext is Do with a context that may end the request.
func (u *User) DoContext(ctx context.Context, method, path string, body any) *Response {
	u.server.t.Helper()
	raw, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		raw, err = json.Marshal(body)
		require.NoError(u.server.t, err)
	}
	return u.server.do(ctx, method, path, u.Token, raw)
}

// path joins escaped segments below /_matrix/client/v3.
func path(segments ...string) string {
	p := "/_matrix/client/v3"
	for _, s := range segments {
		p += "/" + url.PathEscape(s)
	}
	return p
}

// CreateRoom makes a room.
func (u *User) CreateRoom(preset Preset) string {
	u.server.t.Helper()
	return u.CreateRoomWith(map[string]any{"preset": preset})
}

// CreateRoomWith makes a room with a body of /createRoom.
func (u *User) CreateRoomWith(body map[string]any) string {
	u.server.t.Helper()
	return u.Do("POST", path("createRoom"), body).WantOK().Get("room_id").String()
}

// Join joins a room by id or alias.
func (u *User) Join(room string) *Response {
	return u.Do("POST", path("join", room), map[string]any{})
}

// MustJoin is Join that has to succeed.
func (u *User) MustJoin(room string) { u.server.t.Helper(); u.Join(room).WantOK() }

// Leave leaves a room or turns down an invite to it.
func (u *User) Leave(room string) *Response {
	return u.Do("POST", path("rooms", room, "leave"), map[string]any{})
}

// MustLeave is Leave that has to succeed.
func (u *User) MustLeave(room string) { u.server.t.Helper(); u.Leave(room).WantOK() }

// Forget forgets a room.
func (u *User) Forget(room string) *Response {
	return u.Do("POST", path("rooms", room, "forget"), map[string]any{})
}

func (u *User) moderate(verb, room string, target *User) *Response {
	return u.Do("POST", path("rooms", room, verb), map[string]any{"user_id": target.ID})
}

// Invite invites somebody.
func (u *User) Invite(room string, target *User) *Response { return u.moderate("invite", room, target) }

// MustInvite is Invite that has to succeed.
func (u *User) MustInvite(room string, target *User) {
	u.server.t.Helper()
	u.Invite(room, target).WantOK()
}

// Kick removes somebody.
func (u *User) Kick(room string, target *User) *Response { return u.moderate("kick", room, target) }

// MustKick is Kick that has to succeed.
func (u *User) MustKick(room string, target *User) {
	u.server.t.Helper()
	u.Kick(room, target).WantOK()
}

// Ban bans somebody.
func (u *User) Ban(room string, target *User) *Response { return u.moderate("ban", room, target) }

// MustBan is Ban that has to succeed.
func (u *User) MustBan(room string, target *User) { u.server.t.Helper(); u.Ban(room, target).WantOK() }

// Unban lifts a ban.
func (u *User) Unban(room string, target *User) *Response { return u.moderate("unban", room, target) }

// Send sends a text message and returns its event id.
func (u *User) Send(room, text string) string {
	u.server.t.Helper()
	content := map[string]any{"msgtype": "m.text", "body": text}
	return u.SendEvent(room, "m.room.message", content).WantOK().Get("event_id").String()
}

// SendEvent sends a message event.
func (u *User) SendEvent(room, eventType string, content any) *Response {
	return u.SendTxn(room, eventType, "t"+strconv.FormatInt(u.txn.Add(1), 10), content)
}

// SendTxn is SendEvent with a transaction id.
func (u *User) SendTxn(room, eventType, txn string, content any) *Response {
	return u.Do("PUT", path("rooms", room, "send", eventType, txn), content)
}

// Redact redacts an event.
func (u *User) Redact(room, event string) *Response {
	txn := "t" + strconv.FormatInt(u.txn.Add(1), 10)
	return u.Do("PUT", path("rooms", room, "redact", event, txn), map[string]any{})
}

// SetState sends a state event.
func (u *User) SetState(room, eventType, stateKey string, content any) *Response {
	return u.Do("PUT", path("rooms", room, "state", eventType, stateKey), content)
}

// State reads the content of a state event.
func (u *User) State(room, eventType, stateKey string) *Response {
	return u.Do("GET", path("rooms", room, "state", eventType, stateKey), nil)
}

// Messages reads a page of history: query is that of /messages.
func (u *User) Messages(room string, query url.Values) *Response {
	return u.Do("GET", path("rooms", room, "messages")+"?"+query.Encode(), nil)
}

// Sync asks for what is new since a token, without waiting; "" is an initial sync.
func (u *User) Sync(since string) *Sync {
	u.server.t.Helper()
	return u.SyncWith(url.Values{"since": {since}})
}

// SyncWith is Sync with any query; an empty since is left out.
func (u *User) SyncWith(query url.Values) *Sync {
	u.server.t.Helper()
	if query.Get("since") == "" {
		query.Del("since")
	}
	r := u.Do("GET", path("sync")+"?"+query.Encode(), nil).WantOK()
	return &Sync{Response: r, NextBatch: r.Get("next_batch").String()}
}

// Sync is an answer of /sync.
type Sync struct {
	*Response
	NextBatch string
}

// Joined returns what the answer says of a joined room.
func (s *Sync) Joined(room string) gjson.Result { return s.room("join", room) }

// Left returns what the answer says of a room that was left.
func (s *Sync) Left(room string) gjson.Result { return s.room("leave", room) }

// Invited returns what the answer says of an invite.
func (s *Sync) Invited(room string) gjson.Result { return s.room("invite", room) }

func (s *Sync) room(section, room string) gjson.Result {
	for id, r := range s.Get("rooms." + section).Map() {
		if id == room {
			return r
		}
	}
	return gjson.Result{}
}

// Match says whether an event is the one that a test waits for.
type Match func(event gjson.Result) bool

// Text matches a message with a text.
func Text(text string) Match {
	return func(e gjson.Result) bool { return e.Get("content.body").String() == text }
}

// ID matches the event with an id.
func ID(event string) Match {
	return func(e gjson.Result) bool { return e.Get("event_id").String() == event }
}

// Expect waits until an event that matches comes down the user's /sync for a room, and returns it.
// It fails the test after ten seconds.
func (u *User) Expect(room string, match Match) gjson.Result {
	u.server.t.Helper()
	e, ok := u.await(room, match, patience)
	require.True(u.server.t, ok, "%s waited %v for an event in %s", u.ID, patience, room)
	return e
}

// ExpectNothing fails the test if an event that matches is in the room's timeline or comes within d.
func (u *User) ExpectNothing(room string, match Match, d time.Duration) {
	u.server.t.Helper()
	e, ok := u.await(room, match, d)
	require.False(u.server.t, ok, "%s got an event that should not come: %s", u.ID, e.Raw)
}

func (u *User) await(room string, match Match, d time.Duration) (found gjson.Result, ok bool) {
	u.server.t.Helper()
	since, filter := "", `{"room":{"timeline":{"limit":100}}}`
	for deadline := time.Now().Add(d); ; {
		left := time.Until(deadline)
		s := u.SyncWith(url.Values{
			"since": {since}, "filter": {filter}, "timeout": {fmt.Sprint(max(0, left.Milliseconds()))},
		})
		for _, e := range s.Joined(room).Get("timeline.events").Array() {
			if match(e) {
				return e, true
			}
		}
		since = s.NextBatch
		if left <= 0 {
			return gjson.Result{}, false
		}
	}
}
