package rooms_test

import (
	"net/url"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

func receipt(u *homeservertest.User, room, kind, event string, body any) *homeservertest.Response {
	return u.Do("POST", inRoom(room, "receipt", kind, event), body)
}

// told is a receipt as /sync tells it: event, kind, user and thread.
type told struct{ event, kind, user, thread string }

// receipts lists the receipts that a user is told of in a room.
func receipts(t *testing.T, s *homeservertest.Sync, room string) []told {
	t.Helper()
	var list []told
	for _, e := range s.Joined(room).Get(`ephemeral.events.#(type=="m.receipt")#`).Array() {
		for event, kinds := range e.Get("content").Map() {
			for kind, users := range kinds.Map() {
				for user, r := range users.Map() {
					require.Positive(t, r.Get("ts").Int())
					list = append(list, told{event, kind, user, r.Get("thread_id").String()})
				}
			}
		}
	}
	return list
}

func reply(relType, event string) map[string]any {
	return map[string]any{
		"msgtype": "m.text", "body": relType, "m.relates_to": map[string]any{"rel_type": relType, "event_id": event},
	}
}

// PT-06, PT-07, PT-12: what a receipt may name.
func TestReceiptRefusals(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	other := alice.CreateRoom(homeservertest.Public)
	send := func(content any) string {
		return alice.SendEvent(room, "m.room.message", content).WantOK().Get("event_id").String()
	}
	root := alice.Send(room, "root")
	inThread := send(reply("m.thread", root))
	hop := send(reply("m.reference", inThread))
	hop2 := send(reply("m.reference", hop))
	ofRoot := send(reply("m.reference", root))
	tests := []struct {
		name, kind, event, body string
		status                  int
		code                    string
	}{
		{"unthreaded", "m.read", inThread, `{}`, 200, ""},
		{"no body", "m.read.private", inThread, ``, 200, ""},
		{"fully read", "m.fully_read", root, `{}`, 200, ""},
		{"main", "m.read", root, `{"thread_id":"main"}`, 200, ""},
		{"main, related to a root", "m.read", ofRoot, `{"thread_id":"main"}`, 200, ""},
		{"in the thread", "m.read", inThread, `{"thread_id":"` + root + `"}`, 200, ""},
		{"one hop from it", "m.read", hop, `{"thread_id":"` + root + `"}`, 200, ""},
		{"two hops from it", "m.read", hop2, `{"thread_id":"` + root + `"}`, 200, ""},
		{"the root in its thread", "m.read", root, `{"thread_id":"` + root + `"}`, 200, ""},
		{"main, but in a thread", "m.read", inThread, `{"thread_id":"main"}`, 400, "M_INVALID_PARAM"},
		{"main, but hops from a thread", "m.read", hop2, `{"thread_id":"main"}`, 400, "M_INVALID_PARAM"},
		{"of another thread", "m.read", inThread, `{"thread_id":"$other"}`, 400, "M_INVALID_PARAM"},
		{"not in the thread", "m.read", ofRoot, `{"thread_id":"` + inThread + `"}`, 400, "M_INVALID_PARAM"},
		{"thread_id is empty", "m.read", root, `{"thread_id":""}`, 400, "M_INVALID_PARAM"},
		{"thread_id is no string", "m.read", root, `{"thread_id":1}`, 400, "M_INVALID_PARAM"},
		{"thread_id is null", "m.read", root, `{"thread_id":null}`, 400, "M_INVALID_PARAM"},
		{"fully read of a thread", "m.fully_read", root, `{"thread_id":"main"}`, 400, "M_INVALID_PARAM"},
		{"unknown type", "m.odd", root, `{}`, 400, "M_INVALID_PARAM"},
		{"unknown event", "m.read", "$unknown", `{}`, 404, "M_NOT_FOUND"},
		{"no event", "m.read", "unknown", `{}`, 400, "M_INVALID_PARAM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := receipt(alice, room, tt.kind, tt.event, []byte(tt.body))
			require.Equal(t, []any{tt.status, tt.code}, []any{r.Status, r.Get("errcode").String()}, "%s", r.Body)
		})
	}
	receipt(alice, other, "m.read", root, nil).WantError(404, "M_NOT_FOUND")
	receipt(bob, room, "m.read", root, nil).WantError(403, "M_FORBIDDEN")
	bob.MustJoin(room)
	receipt(bob, room, "m.read", root, nil).WantOK()
	bob.MustLeave(room)
	receipt(bob, room, "m.read", root, nil).WantError(403, "M_FORBIDDEN")
}

// PT-06, PT-08, PT-09: who is told of which receipt.
func TestReceipts(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	first, second := alice.Send(room, "1"), alice.Send(room, "2")
	s := alice.Sync("")
	news := func() []told {
		s = alice.Sync(s.NextBatch)
		return receipts(t, s, room)
	}
	receipt(bob, room, "m.read", first, nil).WantOK()
	require.Equal(t, []told{{first, "m.read", bob.ID, ""}}, news())
	receipt(bob, room, "m.read.private", second, nil).WantOK()
	require.Empty(t, news(), "private receipts are told to nobody else")
	require.Contains(t, receipts(t, bob.Sync(""), room), told{second, "m.read.private", bob.ID, ""})

	receipt(bob, room, "m.read", second, map[string]any{"thread_id": "main"}).WantOK()
	require.Equal(t, []told{{second, "m.read", bob.ID, "main"}}, news())
	require.ElementsMatch(t, []told{{first, "m.read", bob.ID, ""}, {second, "m.read", bob.ID, "main"}},
		receipts(t, alice.Sync(""), room), "one for each thread")
	receipt(bob, room, "m.read", second, nil).WantOK()
	require.Equal(t, []told{{second, "m.read", bob.ID, ""}}, news())
	receipt(bob, room, "m.read", first, nil).WantOK()
	require.Empty(t, news(), "a receipt does not move backwards")
	require.Contains(t, receipts(t, alice.Sync(""), room), told{second, "m.read", bob.ID, ""})
}

// PT-10.
func TestReadMarkers(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room, other := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Private)
	bob.MustJoin(room)
	first, second, third := alice.Send(room, "1"), alice.Send(room, "2"), alice.Send(room, "3")
	elsewhere := alice.Send(other, "0")
	mark := func(body map[string]any) *homeservertest.Response {
		return bob.Do("POST", inRoom(room, "read_markers"), body)
	}
	marker := func(s *homeservertest.Sync) string {
		return s.Joined(room).Get(`account_data.events.#(type=="m.fully_read").content.event_id`).String()
	}
	since := bob.Sync("").NextBatch
	mark(map[string]any{"m.fully_read": first, "m.read": second, "m.read.private": third}).WantOK()
	s := bob.Sync(since)
	require.Equal(t, first, marker(s))
	require.ElementsMatch(t, []told{{second, "m.read", bob.ID, ""}, {third, "m.read.private", bob.ID, ""}}, receipts(t, s, room))
	require.Equal(t, first, marker(bob.Sync("")))
	require.Empty(t, marker(alice.Sync("")), "a marker is its user's own")

	mark(map[string]any{"m.fully_read": third}).WantOK()
	mark(map[string]any{"m.fully_read": first}).WantOK()
	require.Equal(t, third, marker(bob.Sync("")), "a marker does not move backwards")
	mark(map[string]any{}).WantOK()
	mark(map[string]any{"m.fully_read": elsewhere}).WantError(404, "M_NOT_FOUND")
	mark(map[string]any{"m.fully_read": "x"}).WantError(400, "M_INVALID_PARAM")
	mark(map[string]any{"m.read": 1}).WantError(400, "M_BAD_JSON")
	mark(map[string]any{"m.read": second, "m.fully_read": "$unknown"}).WantError(404, "M_NOT_FOUND")
	bob.MustLeave(room)
	mark(map[string]any{"m.read": second}).WantError(403, "M_FORBIDDEN")
}

// Many receipts at once leave the furthest one.
func TestConcurrentReceipts(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	var sent []string
	for i := range 20 {
		sent = append(sent, alice.Send(room, strconv.Itoa(i)))
	}
	done := make(chan int)
	for _, event := range sent {
		go func() { done <- receipt(alice, room, "m.read", event, nil).Status }()
	}
	for range sent {
		require.Equal(t, 200, <-done)
	}
	require.Equal(t, []told{{sent[len(sent)-1], "m.read", alice.ID, ""}}, receipts(t, alice.Sync(""), room))
}

// PT-05.
func TestTyping(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	path := func(user string) string { return inRoom(room, "typing", user) }
	typists := func(u *homeservertest.User, since string) (string, string) {
		s := u.SyncWith(url.Values{"since": {since}})
		return s.Joined(room).Get(`ephemeral.events.#(type=="m.typing").content.user_ids`).Raw, s.NextBatch
	}
	list, since := typists(alice, "")
	require.Contains(t, []string{"", "[]"}, list)
	bob.Do("PUT", path(bob.ID), map[string]any{"typing": true, "timeout": 30000}).WantOK()
	list, since = typists(alice, since)
	require.JSONEq(t, `["`+bob.ID+`"]`, list)
	list, _ = typists(alice, "")
	require.JSONEq(t, `["`+bob.ID+`"]`, list, "an initial sync tells too")
	bob.Do("PUT", path(bob.ID), map[string]any{"typing": false}).WantOK()
	list, _ = typists(alice, since)
	require.JSONEq(t, `[]`, list)

	bob.Do("PUT", path(bob.ID), map[string]any{"typing": true}).WantOK()
	bob.Do("PUT", path(alice.ID), map[string]any{"typing": true}).WantError(403, "M_FORBIDDEN")
	bob.Do("PUT", path(bob.ID), map[string]any{}).WantError(400, "M_MISSING_PARAM")
	bob.Do("PUT", path(bob.ID), map[string]any{"typing": "yes"}).WantError(400, "M_BAD_JSON")
	bob.Do("PUT", path(bob.ID), map[string]any{"typing": true, "timeout": "x"}).WantError(400, "M_BAD_JSON")
	carol := hs.User("carol")
	carol.Do("PUT", path(carol.ID), map[string]any{"typing": true}).WantError(403, "M_FORBIDDEN")
	list, since = typists(alice, since)
	require.JSONEq(t, `["`+bob.ID+`"]`, list)
	bob.MustLeave(room)
	list, _ = typists(alice, since)
	require.JSONEq(t, `[]`, list, "who has left no longer types")
	bob.Do("PUT", path(bob.ID), map[string]any{"typing": true}).WantError(403, "M_FORBIDDEN")
}
