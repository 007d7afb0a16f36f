package rooms_test

import (
	"fmt"
	"net/url"
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

// SB-19: a new access token is the same client, which goes on with its transactions.
func TestTransactionIDsOutliveRefresh(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	login := alice.Do("POST", v3+"/login", map[string]any{
		"type": "m.login.password", "user": alice.ID, "password": alice.Password, "refresh_token": true, "device_id": alice.Device,
	}).WantOK()
	alice.Token = login.Get("access_token").String()
	send := func() string {
		return alice.SendTxn(room, "m.room.message", "1", text("a")).WantOK().Get("event_id").String()
	}
	first := send()
	renewed := alice.Do("POST", v3+"/refresh", map[string]any{"refresh_token": login.Get("refresh_token").String()}).WantOK()
	require.NotEqual(t, alice.Token, renewed.Get("access_token").String())
	alice.Token = renewed.Get("access_token").String()
	require.Equal(t, first, send())
	require.Equal(t, "1", alice.Expect(room, homeservertest.ID(first)).Get("unsigned.transaction_id").String())
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
		for path, in := range map[string]string{
			inRoom(room, "event", sent): "@this", inRoom(room, "context", sent): "event", inRoom(room, "messages") + "?dir=b": "chunk.0",
		} {
			got := u.Do("GET", path, nil).WantOK().Get(in + ".unsigned.transaction_id").String()
			require.Equal(t, want, got, u.ID+" "+u.Device+" "+path)
		}
	}
}

// SB-24, ST-06: state has neither POST nor transaction ids.
func TestStateHasNoTransactions(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	alice.Do("POST", inRoom(room, "state", "m.x", "k"), map[string]any{}).WantError(405, "M_UNRECOGNIZED")
	alice.Do("PUT", inRoom(room, "state", "m.x", "k", "1"), map[string]any{}).WantError(404, "M_UNRECOGNIZED")
	alice.Do("PUT", inRoom(room, "state", "m.x"), map[string]any{"a": 1}).WantOK() // SB-23: without the slash
	require.JSONEq(t, `{"a":1}`, string(alice.Do("GET", inRoom(room, "state", "m.x")+"/", nil).WantOK().Body))
}

// ST-11: only application services say when something was sent.
func TestClientsDoNotSetTheTime(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	sent := alice.Do("PUT", inRoom(room, "send", "m.x", "1")+"?ts=1", map[string]any{}).WantOK().Get("event_id").String()
	require.Greater(t, alice.Expect(room, homeservertest.ID(sent)).Get("origin_server_ts").Int(), int64(1))
}

// EV-14, RC-10: power levels are integers and of users, in every version that would let others pass.
func TestPowerLevelsAsState(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	for _, version := range []string{"1", "5", "9", "11"} {
		room := alice.CreateRoomWith(map[string]any{"room_version": version})
		for _, content := range []string{
			`{"ban":"50"}`, `{"users":{"` + alice.ID + `":"100"}}`, `{"events":{"m.x":1.5}}`, `{"users_default":"0"}`,
			`{"notifications":{"room":"50"}}`, `{"users":{"nobody":1}}`,
		} {
			alice.SetState(room, "m.room.power_levels", "", []byte(content)).WantError(400, "M_BAD_JSON")
		}
		alice.SetState(room, "m.room.power_levels", "", []byte(`{"users":{"`+alice.ID+`":100},"ban":51}`)).WantOK()
		alice.SetState(room, "m.room.create", "", map[string]any{}).WantError(400, "M_INVALID_PARAM")
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
		{"no msgtype", "m.room.message", `{"body":"hi"}`, 400, "M_BAD_JSON"},
		{"body is no string", "m.room.message", `{"msgtype":"m.text","body":1}`, 400, "M_BAD_JSON"},
		{"no JSON", "m.room.message", `{"msgtype":`, 400, "M_NOT_JSON"},
		{"a float", "m.x", `{"a":1.5}`, 400, "M_BAD_JSON"},
		{"a large integer", "m.x", `{"a":9007199254740992}`, 400, "M_BAD_JSON"},
		{"no object", "m.x", `[]`, 400, "M_BAD_JSON"},
		{"too large", "m.x", `{"a":"` + strings.Repeat("x", 65536) + `"}`, 413, "M_TOO_LARGE"},
		{"type too long", strings.Repeat("x", 256), `{}`, 413, "M_TOO_LARGE"},
		{"create", "m.room.create", `{}`, 400, "M_INVALID_PARAM"},
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

// ST-05: what is redacted is gone wherever the event is read.
func TestRedactedEverywhere(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	topic := alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "a secret"}).WantOK().Get("event_id").String()
	alice.Redact(room, topic).WantOK()
	alice.SetState(room, "m.room.name", "", map[string]any{"name": "n"}).WantOK()
	for range 2 {
		for _, path := range []string{
			inRoom(room, "event", topic), inRoom(room, "context", topic), inRoom(room, "messages") + "?dir=b&limit=50",
			inRoom(room, "state"), inRoom(room, "state", "m.room.topic"), v3 + "/sync", v3 + "/sync?use_state_after=true",
			v3 + "/sync?filter=" + url.QueryEscape(`{"event_format":"federation"}`),
		} {
			require.NotContains(t, string(alice.Do("GET", path, nil).WantOK().Body), "a secret", path)
		}
		hs.Restart()
	}
	next := alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "another"}).WantOK().Get("event_id").String()
	require.JSONEq(t, `{}`, alice.Do("GET", inRoom(room, "event", next), nil).WantOK().Get("unsigned.prev_content").Raw)
}

// PA-17, PA-21: an edit leaves the event that it edits as it was, and a relation that is none does no harm.
func TestRelationsChangeNothing(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	sent := alice.Send(room, "teh")
	alice.SendEvent(room, "m.room.message", map[string]any{
		"msgtype": "m.text", "body": "* the", "m.new_content": text("the"),
		"m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": sent},
	}).WantOK()
	require.Equal(t, "teh", alice.Do("GET", inRoom(room, "event", sent), nil).WantOK().Get("content.body").String())
	for _, relation := range []string{
		`1`, `[]`, `{}`, `{"rel_type":1,"event_id":2}`, `{"rel_type":"m.thread"}`, `{"rel_type":"m.thread","event_id":"nothing"}`,
		`{"rel_type":"m.annotation"}`, `{"rel_type":"m.annotation","event_id":"$unknown","key":{}}`,
	} {
		alice.SendEvent(room, "m.x", []byte(`{"m.relates_to":`+relation+`}`)).WantOK()
	}
	alice.Messages(room, url.Values{"dir": {"b"}}).WantOK()
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

// A redaction that was redacted in turn tells no further: the answers of a chain do not grow.
func TestChainOfRedactions(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	first := alice.Send(room, "x")
	for target, n := first, 0; n < 5; n++ {
		target = alice.Redact(room, target).WantOK().Get("event_id").String()
	}
	e := alice.Do("GET", inRoom(room, "event", first), nil).WantOK()
	require.True(t, e.Get("unsigned.redacted_because.event_id").Exists())
	require.False(t, e.Get("unsigned.redacted_because.unsigned.redacted_because").Exists())
}

// What a room stands on is not redacted, not even by its creator.
func TestFoundationsAreNotRedacted(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	for _, version := range []string{"10", "12"} {
		room := alice.CreateRoomWith(map[string]any{"room_version": version})
		acl := alice.SetState(room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}}).WantOK().Get("event_id").String()
		state := alice.Do("GET", inRoom(room, "state"), nil).WantOK()
		alice.Redact(room, state.Get(`#(type=="m.room.create").event_id`).String()).WantError(403, "M_FORBIDDEN")
		alice.Redact(room, acl).WantError(403, "M_FORBIDDEN")
	}
}

// The old form of a send has no transaction id: each makes an event.
func TestSendWithoutTransaction(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	send := func() string {
		return alice.Do("POST", v3+"/rooms/"+room+"/send/m.room.message", text("a")).WantOK().Get("event_id").String()
	}
	first := send()
	require.NotEqual(t, first, send())
}

// As of old, a redaction may come without a transaction id.
func TestRedactionWithoutTransaction(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	sent := alice.Send(room, "regretted")
	by := alice.Do("POST", inRoom(room, "redact", sent), map[string]any{}).WantOK().Get("event_id").String()
	got := alice.Do("GET", inRoom(room, "event", sent), nil).WantOK()
	require.Equal(t, by, got.Get("unsigned.redacted_because.event_id").String())
}

// Levels that nobody may set are the client's mistake: those of creators, who stand above all levels.
func TestLevelsOfCreators(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	room := alice.CreateRoomWith(map[string]any{"room_version": "12"})
	alice.SetState(room, "m.room.power_levels", "", []byte(`{"users":{"`+alice.ID+`":100}}`)).WantError(400, "M_BAD_JSON")
}

// Who is in a restricted room changes their name without a voucher, whatever their client says of one.
func TestNameInRestrictedRoom(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	room := alice.CreateRoomWith(map[string]any{"room_version": "8", "initial_state": []any{
		map[string]any{"type": "m.room.join_rules", "content": map[string]any{"join_rule": "restricted", "allow": []any{}}},
	}})
	alice.SetState(room, "m.room.member", alice.ID, map[string]any{
		"membership": "join", "displayname": "Al", "join_authorised_via_users_server": "unused",
	}).WantOK()
	member := alice.State(room, "m.room.member", alice.ID).WantOK()
	require.Equal(t, "Al", member.Get("displayname").String())
	require.False(t, member.Get("join_authorised_via_users_server").Exists())
}
