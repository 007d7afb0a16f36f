package rooms_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

func text(body string) map[string]any { return map[string]any{"msgtype": "m.text", "body": body} }

// SB-17 to SB-20: one transaction id, one event; other paths and devices have ids of their own.
func TestTransactionIDs(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room, other := alice.CreateRoom(homeservertest.Private), alice.CreateRoom(homeservertest.Private)
	event := func(r *homeservertest.Response) string { return r.WantOK().Get("event_id").String() }

	first := event(alice.SendTxn(room, "m.room.message", "1", text("a")))
	require.Equal(t, first, event(alice.SendTxn(room, "m.room.message", "1", text("a"))))
	require.NotEqual(t, first, event(alice.SendTxn(other, "m.room.message", "1", text("a"))))
	require.NotEqual(t, first, event(alice.SendTxn(room, "m.other", "1", text("a"))))
	require.NotEqual(t, first, event(alice.Login().SendTxn(room, "m.room.message", "1", text("a"))))
	hs.Restart()
	require.Equal(t, first, event(alice.SendTxn(room, "m.room.message", "1", text("a"))), "after a restart")
}

// SB-20: of two requests at once with one transaction id, one makes the event.
func TestConcurrentTransactionIDs(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			ids[i] = alice.SendTxn(room, "m.room.message", "same", text("a")).Get("event_id").String()
		})
	}
	wg.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	require.NotEmpty(t, ids[0])
}

// SB-21: the sending device, and no other, sees its transaction id.
func TestUnsignedTransactionID(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	sent := alice.SendTxn(room, "m.room.message", "mine", text("a")).WantOK().Get("event_id").String()
	for u, want := range map[*homeservertest.User]string{alice: "mine", alice.Login(): "", bob: ""} {
		e := u.Expect(room, homeservertest.ID(sent))
		require.Equal(t, want, e.Get("unsigned.transaction_id").String(), u.ID+" "+u.Device)
	}
}

// ST-01, EV-08, EV-12, EV-13: what cannot be an event is refused.
func TestSendRefusals(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	for _, tt := range []struct {
		name, eventType, body string
		status                int
		code                  string
	}{
		{"no body", "m.room.message", `{"msgtype":"m.text"}`, 400, "M_BAD_JSON"},
		{"no JSON", "m.room.message", `{"msgtype":`, 400, "M_NOT_JSON"},
		{"a float", "m.x", `{"a":1.5}`, 400, "M_BAD_JSON"},
		{"a large integer", "m.x", `{"a":9007199254740992}`, 400, "M_BAD_JSON"},
		{"no object", "m.x", `[]`, 400, "M_BAD_JSON"},
		{"too large", "m.x", `{"a":"` + strings.Repeat("x", 65536) + `"}`, 413, "M_TOO_LARGE"},
		{"type too long", strings.Repeat("x", 256), `{}`, 413, "M_TOO_LARGE"},
		{"create", "m.room.create", `{}`, 403, "M_FORBIDDEN"},
		{"redaction of nothing", "m.room.redaction", `{}`, 400, "M_INVALID_PARAM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			alice.SendEvent(room, tt.eventType, []byte(tt.body)).WantError(tt.status, tt.code)
		})
	}
	bob.SendEvent(room, "m.room.message", text("x")).WantError(403, "M_FORBIDDEN")
	alice.SetState(room, "m.x", "@bob:hs.test", map[string]any{}).WantError(403, "M_FORBIDDEN")
}

// ST-02, ST-03, ST-04: redaction by both ways, of own events and of others'.
func TestRedact(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	for _, version := range []string{"2", "10", "12"} {
		room := alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_version": version})
		bob.MustJoin(room)
		hers, his := alice.Send(room, "hers"), bob.Send(room, "his")
		bob.Redact(room, hers).WantError(403, "M_FORBIDDEN")
		bob.Redact(room, "$unknown:"+homeservertest.Name).WantError(400, "M_INVALID_PARAM")
		elsewhere := bob.Send(bob.CreateRoomWith(map[string]any{"room_version": version}), "elsewhere")
		bob.Redact(room, elsewhere).WantError(400, "M_INVALID_PARAM")
		bob.Redact(room, his).WantOK()
		alice.SendEvent(room, "m.room.redaction", map[string]any{"redacts": hers, "reason": "r"}).WantOK()
		hs.Restart()
		for _, e := range []string{hers, his} {
			got := alice.Expect(room, homeservertest.ID(e))
			require.Equal(t, "{}", got.Get("content").Raw)
			require.True(t, got.Get("unsigned.redacted_because").Exists())
		}
	}
}

// ST-06: repeating the current state makes no event; a transaction id has no place there.
func TestSameStateAgain(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	set := func(name string) string {
		return alice.SetState(room, "m.room.name", "", map[string]any{"name": name}).WantOK().Get("event_id").String()
	}
	first := set("a")
	require.Equal(t, first, set("a"))
	second := set("b")
	require.NotEqual(t, first, second)
	require.NotEqual(t, first, set("a"))
}

// ST-12, ST-13: relations that may not be made.
func TestRelations(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	target := alice.Send(room, "hi")
	react := func(u *homeservertest.User, key string) *homeservertest.Response {
		return u.SendEvent(room, "m.reaction", map[string]any{
			"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": target, "key": key},
		})
	}
	first := react(alice, "+").WantOK().Get("event_id").String()
	react(alice, "+").WantError(400, "M_DUPLICATE_ANNOTATION")
	react(alice, "-").WantOK()
	react(bob, "+").WantOK()
	alice.Redact(room, first).WantOK()
	react(alice, "+").WantOK()

	reply := text("in a thread")
	reply["m.relates_to"] = map[string]any{"rel_type": "m.thread", "event_id": target}
	inThread := alice.SendEvent(room, "m.room.message", reply).WantOK().Get("event_id").String()
	reply["m.relates_to"] = map[string]any{"rel_type": "m.thread", "event_id": inThread}
	alice.SendEvent(room, "m.room.message", reply).WantError(400, "M_UNKNOWN")
}

// ST-07: canonical aliases point to their room.
func TestCanonicalAlias(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoomWith(map[string]any{"room_alias_name": "mine"})
	alice.CreateRoomWith(map[string]any{"room_alias_name": "other"})
	set := func(content string) *homeservertest.Response {
		return alice.SetState(room, "m.room.canonical_alias", "", []byte(content))
	}
	set(`{"alias":"#mine:hs.test","alt_aliases":["#mine:hs.test"]}`).WantOK()
	set(`{"alias":"#other:hs.test"}`).WantError(400, "M_BAD_ALIAS")
	set(`{"alias":"#nothing:hs.test"}`).WantError(400, "M_BAD_ALIAS")
	set(`{"alias":"odd"}`).WantError(400, "M_INVALID_PARAM")
	set(`{"alt_aliases":[1]}`).WantError(400, "M_INVALID_PARAM")
	set(`{}`).WantOK()
}

// Many senders at once: every event is there, in one order, once.
func TestConcurrentSenders(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	since := bob.Sync("").NextBatch
	var wg sync.WaitGroup
	for s := range 8 {
		wg.Go(func() {
			for i := range 20 {
				alice.SendTxn(room, "m.room.message", fmt.Sprint(s, "-", i), text(fmt.Sprint(s, "-", i)))
			}
		})
	}
	seen := map[string]int{}
	for n := 0; n < 160; {
		s := bob.SyncWith(map[string][]string{"since": {since}, "timeout": {"1000"}, "filter": {`{"room":{"timeline":{"limit":1000}}}`}})
		events := s.Joined(room).Get("timeline.events").Array()
		require.False(t, s.Joined(room).Get("timeline.limited").Bool())
		for _, e := range events {
			seen[e.Get("content.body").String()]++
		}
		n += len(events)
		since = s.NextBatch
	}
	wg.Wait()
	require.Len(t, seen, 160)
}
