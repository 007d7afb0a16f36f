package syncing_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

func roomPath(room, rest string) string {
	return "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/" + rest
}

// read sends a receipt.
func read(u *homeservertest.User, room, kind, event string, body any) {
	u.Do("POST", roomPath(room, "receipt/"+kind+"/"+url.PathEscape(event)), body).WantOK()
}

func typing(u *homeservertest.User, room string, types bool) {
	u.Do("PUT", roomPath(room, "typing/"+url.PathEscape(u.ID)), object{"typing": types, "timeout": 20000}).WantOK()
}

// TestTyping is SY-27: one event with everybody who types, none when nothing has changed.
func TestTyping(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	typing(alice, room, true)
	typing(bob, room, true)
	initial := carol.Sync("").NextBatch
	s := alice.Sync("")
	require.JSONEq(t, `[{"type":"m.typing","content":{"user_ids":["@alice:hs.test","@bob:hs.test"]}}]`, s.Joined(room).Get("ephemeral.events").Raw)
	require.False(t, alice.Sync(s.NextBatch).Joined(room).Exists(), "nothing has changed")
	typing(alice, room, false)
	s = alice.Sync(s.NextBatch)
	require.JSONEq(t, `[{"type":"m.typing","content":{"user_ids":["@bob:hs.test"]}}]`, s.Joined(room).Get("ephemeral.events").Raw)
	require.False(t, carol.Sync(initial).Joined(room).Exists(), "who is not in the room")
	initial = carol.Sync("").NextBatch
	carol.MustJoin(room)
	require.Equal(t, bob.ID, carol.Sync(initial).Joined(room).Get("ephemeral.events.0.content.user_ids.0").Str, "who joins")
	typing(bob, room, false)
	require.JSONEq(t, `[{"type":"m.typing","content":{"user_ids":[]}}]`, alice.Sync(s.NextBatch).Joined(room).Get("ephemeral.events").Raw)
}

// TestTypingAfterRestart: the numbers of another process mean nothing, so the present state is told in full.
func TestTypingAfterRestart(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	for range 5 {
		typing(bob, room, true)
		typing(bob, room, false)
	}
	since := alice.Sync("").NextBatch
	hs.Restart()
	typing(bob, room, true)
	s := alice.Sync(since)
	require.Equal(t, bob.ID, s.Joined(room).Get("ephemeral.events.0.content.user_ids.0").Str)
	require.False(t, alice.Sync(s.NextBatch).Joined(room).Exists())
}

// TestReceipts is SY-27 and SY-28.
func TestReceipts(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	first, second := alice.Send(room, "1"), alice.Send(room, "2")
	since := alice.Sync("").NextBatch
	bobs := bob.Sync("").NextBatch
	read(bob, room, "m.read", first, object{})
	read(bob, room, "m.read.private", second, object{})
	s := alice.Sync(since)
	events := s.Joined(room).Get("ephemeral.events")
	require.Len(t, events.Array(), 1)
	require.Equal(t, "m.receipt", events.Get("0.type").Str)
	got := events.Get("0.content").Map()
	require.Positive(t, got[first].Get(`m\.read`).Map()[bob.ID].Get("ts").Int())
	require.NotContains(t, events.Raw, second, "a private receipt of another user")
	for _, key := range []string{"event_id", "sender", "room_id"} {
		require.False(t, events.Get("0."+key).Exists(), key)
	}
	own := bob.Sync(bobs).Joined(room).Get("ephemeral.events.0.content").Map()
	require.Contains(t, own[second].Get(`m\.read\.private`).Map(), bob.ID, "one's own private receipt")
	require.False(t, alice.Sync(s.NextBatch).Joined(room).Exists(), "nothing has changed")

	fresh := carol.Sync("").NextBatch
	carol.MustJoin(room)
	events = carol.Sync(fresh).Joined(room).Get("ephemeral.events")
	require.Contains(t, events.Get("0.content").Map(), first, "who joins is told what was read: %s", events.Raw)
	require.NotContains(t, events.Raw, second, "a private receipt of another user")
	require.Contains(t, alice.Sync("").Joined(room).Get("ephemeral.events.0.content").Map(), first, "an initial sync")
}

// TestReceiptsOfThreads: receipts of one user on one event, unthreaded and in a thread, do not share an object.
func TestReceiptsOfThreads(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	event := alice.Send(room, "1")
	since := alice.Sync("").NextBatch
	read(bob, room, "m.read", event, object{})
	read(bob, room, "m.read", event, object{"thread_id": "main"})
	events := alice.Sync(since).Joined(room).Get("ephemeral.events")
	require.Len(t, events.Array(), 2)
	var threads []string
	for _, e := range events.Array() {
		receipt := e.Get("content").Map()[event].Get(`m\.read`).Map()[bob.ID]
		threads = append(threads, receipt.Get("thread_id").Str)
	}
	require.Equal(t, []string{"", "main"}, threads)
}

func TestEphemeralFilter(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	event := alice.Send(room, "1")
	typing(bob, room, true)
	read(bob, room, "m.read", event, object{})
	for filter, want := range map[string]string{
		`{}`:                      `["m.typing","m.receipt"]`,
		`{"types":["m.receipt"]}`: `["m.receipt"]`,
		`{"not_types":["m.r*"]}`:  `["m.typing"]`,
		`{"types":[]}`:            `[]`,
		`{"rooms":["!other:x"]}`:  `[]`,
	} {
		s := ask(alice, "filter", `{"room":{"ephemeral":`+filter+`}}`)
		require.Equal(t, want, s.Joined(room).Get("ephemeral.events.#.type").Raw, filter)
	}
}
