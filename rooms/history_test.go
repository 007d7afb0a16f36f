package rooms_test

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// inRoom is a path below a room, its segments escaped.
func inRoom(room string, segments ...string) string {
	p := v3 + "/rooms/" + url.PathEscape(room)
	for _, s := range segments {
		p += "/" + url.PathEscape(s)
	}
	return p
}

// bodies lists the text of the messages among some events.
func bodies(events gjson.Result) []string {
	list := []string{}
	for _, e := range events.Array() {
		if body := e.Get("content.body"); body.Exists() {
			list = append(list, body.String())
		}
	}
	return list
}

// ids lists the ids of events.
func ids(events gjson.Result) []string {
	list := []string{}
	for _, e := range events.Array() {
		list = append(list, e.Get("event_id").String())
	}
	return list
}

// pages reads a room's history from a token to its end, and returns the ids of all events.
func pages(t *testing.T, u *homeservertest.User, room string, query url.Values) []string {
	t.Helper()
	var list []string
	for n := 0; ; n++ {
		require.Less(t, n, 1000, "the pages do not end")
		r := u.Messages(room, query).WantOK()
		list = append(list, ids(r.Get("chunk"))...)
		if from := query.Get("from"); from != "" {
			require.Equal(t, from, r.Get("start").String(), "start is from")
		}
		if !r.Get("end").Exists() {
			return list
		}
		query.Set("from", r.Get("end").String())
	}
}

func reversed(list []string) []string {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

// PA-01, PA-02: every event once, in both directions, whatever the size of the pages.
func TestPagesMissNothingAndRepeatNothing(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	for i := range 300 {
		alice.Send(room, fmt.Sprint(i))
	}
	all := ids(alice.Messages(room, url.Values{"dir": {"f"}, "limit": {"1000"}}).WantOK().Get("chunk"))
	require.Greater(t, len(all), 300)
	for _, limit := range []int{1, 7, 64, 100, 999} {
		q := url.Values{"limit": {strconv.Itoa(limit)}}
		q.Set("dir", "f")
		require.Equal(t, all, pages(t, alice, room, q), "forwards by %d", limit)
		q = url.Values{"limit": {strconv.Itoa(limit)}, "dir": {"b"}}
		require.Equal(t, reversed(all), pages(t, alice, room, q), "backwards by %d", limit)
	}
}

// Sending while somebody pages takes nothing from the pages and adds nothing to them.
func TestPagesBackwardsWhileOthersSend(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	for i := range 30 {
		alice.Send(room, fmt.Sprint(i))
	}
	all := ids(alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1000"}}).WantOK().Get("chunk"))
	var got []string
	q := url.Values{"dir": {"b"}, "limit": {"4"}}
	for more := true; more; {
		r := alice.Messages(room, q).WantOK()
		got = append(got, ids(r.Get("chunk"))...)
		alice.Send(room, "meanwhile")
		q.Set("from", r.Get("end").String())
		more = r.Get("end").Exists()
	}
	require.Equal(t, all, got)
}

// PA-02: a page's end read in the other direction gives that page again.
func TestTokensWorkInBothDirections(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	for i := range 20 {
		alice.Send(room, fmt.Sprint(i))
	}
	first := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"5"}}).WantOK()
	require.Equal(t, []string{"19", "18", "17", "16", "15"}, bodies(first.Get("chunk")))
	back := alice.Messages(room, url.Values{"dir": {"f"}, "from": {first.Get("end").String()}, "to": {first.Get("start").String()}}).WantOK()
	require.Equal(t, []string{"15", "16", "17", "18", "19"}, bodies(back.Get("chunk")))
	to := alice.Messages(room, url.Values{"dir": {"b"}, "from": {first.Get("start").String()}, "to": {first.Get("end").String()}, "limit": {"50"}}).WantOK()
	require.Equal(t, []string{"19", "18", "17", "16", "15"}, bodies(to.Get("chunk")), "to is where it stops")
}

// PA-02: the tokens of /sync name places too.
func TestSyncTokensInMessages(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	for i := range 30 {
		alice.Send(room, fmt.Sprint(i))
	}
	s := alice.Sync("")
	timeline := s.Joined(room).Get("timeline")
	rest := pages(t, alice, room, url.Values{"dir": {"b"}, "from": {timeline.Get("prev_batch").String()}})
	all := ids(alice.Messages(room, url.Values{"dir": {"f"}, "limit": {"1000"}}).WantOK().Get("chunk"))
	require.Equal(t, all, slices.Concat(reversed(rest), ids(timeline.Get("events"))), "prev_batch and timeline meet")
	alice.Send(room, "new")
	news := alice.Messages(room, url.Values{"dir": {"f"}, "from": {s.NextBatch}}).WantOK()
	require.Equal(t, []string{"new"}, bodies(news.Get("chunk")), "next_batch is behind what was told")
	old := alice.Messages(room, url.Values{"dir": {"b"}, "from": {s.NextBatch}, "limit": {"1"}}).WantOK()
	require.Equal(t, []string{"29"}, bodies(old.Get("chunk")))
}

// PA-04, PA-06.
func TestMessagesRefusals(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	tests := []struct{ name, query, code string }{
		{"no dir", "", "M_MISSING_PARAM"},
		{"odd dir", "dir=x", "M_INVALID_PARAM"},
		{"limit is no number", "dir=b&limit=x", "M_INVALID_PARAM"},
		{"limit is negative", "dir=b&limit=-1", "M_INVALID_PARAM"},
		{"from is no token", "dir=b&from=x", "M_INVALID_PARAM"},
		{"from is odd", "dir=b&from=t99999999999999999999999", "M_INVALID_PARAM"},
		{"to is no token", "dir=b&to=s", "M_INVALID_PARAM"},
		{"filter is no JSON", "dir=b&filter={", "M_BAD_JSON"},
		{"filter is odd", "dir=b&filter=" + url.QueryEscape(`{"types":1}`), "M_BAD_JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			alice.Do("GET", inRoom(room, "messages")+"?"+tt.query, nil).WantError(400, tt.code)
		})
	}
	bob.Do("GET", inRoom(room, "messages"), nil).WantError(403, "M_FORBIDDEN")
	alice.Messages("!nowhere:"+homeservertest.Name, url.Values{"dir": {"b"}}).WantError(403, "M_FORBIDDEN")
	require.Len(t, alice.Messages(room, url.Values{"dir": {"f"}, "limit": {"0"}}).WantOK().Get("chunk").Array(), 0)
}

// A filtered page goes on behind what it left out, be it a thousand events.
func TestFilteredPagesGoOn(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	first := bob.Send(room, "first")
	for range 1100 {
		alice.SendEvent(room, "m.noise", map[string]any{}).WantOK()
	}
	last := bob.Send(room, "last")
	r := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"5000"}}).WantOK()
	require.Len(t, r.Get("chunk").Array(), 1000, "PA-04: as much as a client gets at once")
	timeline := alice.SyncWith(url.Values{"filter": {`{"room":{"timeline":{"limit":5000}}}`}}).Joined(room).Get("timeline")
	require.Len(t, timeline.Get("events").Array(), 1000, "FI-04, SY-11")
	require.True(t, timeline.Get("limited").Bool())
	q := func(filter string) url.Values { return url.Values{"dir": {"b"}, "filter": {filter}} }
	require.Equal(t, []string{last, first}, pages(t, alice, room, q(`{"types":["m.room.message"]}`)))
	require.Equal(t, []string{last, first}, pages(t, alice, room, q(`{"senders":["`+bob.ID+`"],"not_types":["m.room.mem*"]}`)))
	require.Empty(t, pages(t, alice, room, q(`{"types":[]}`)))
	require.Empty(t, pages(t, alice, room, q(`{"not_rooms":["`+room+`"]}`)))
	require.Empty(t, pages(t, alice, room, q(`{"rooms":[]}`)))
}

func TestContainsURL(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	alice.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.image", "body": "image", "url": "mxc://a/b"}).WantOK()
	alice.Send(room, "text")
	with := alice.Messages(room, url.Values{"dir": {"b"}, "filter": {`{"contains_url":true}`}}).WantOK()
	require.Equal(t, []string{"image"}, bodies(with.Get("chunk")))
	without := alice.Messages(room, url.Values{"dir": {"b"}, "filter": {`{"contains_url":false,"types":["m.room.message"]}`}}).WantOK()
	require.Equal(t, []string{"text"}, bodies(without.Get("chunk")))
}

// PA-05: lazy loading tells of the senders, as they are at the newest event of the page.
func TestLazyMembersOfMessages(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	carol.MustJoin(room)
	bob.Send(room, "from bob")
	carol.Send(room, "from carol")
	r := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1"}, "filter": {`{"lazy_load_members":true}`}}).WantOK()
	require.Equal(t, []string{carol.ID}, stateKeys(r.Get("state")))
	r = alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"2"}, "filter": {`{"lazy_load_members":true}`}}).WantOK()
	require.ElementsMatch(t, []string{bob.ID, carol.ID}, stateKeys(r.Get("state")))
	require.Equal(t, "join", r.Get("state.0.content.membership").String())
	r = alice.Messages(room, url.Values{"dir": {"b"}}).WantOK()
	require.False(t, r.Get("state").Exists(), "nobody asked for members")
}

func stateKeys(events gjson.Result) []string {
	list := []string{}
	for _, e := range events.Array() {
		list = append(list, e.Get("state_key").String())
	}
	return list
}

// HV-02: who sees what was said before they came, with each visibility.
func TestHistoryVisibility(t *testing.T) {
	tests := []struct {
		visibility      string
		before          []string // seen by who is not in the room; nil: 403
		afterJoin       []string // of all that was said
		beforeJoinState bool     // who is not in the room may read its state
	}{
		{"world_readable", []string{"early"}, []string{"early", "invited", "joined"}, true},
		{"shared", nil, []string{"early", "invited", "joined"}, false},
		{"invited", nil, []string{"invited", "joined"}, false},
		{"joined", nil, []string{"joined"}, false},
		{"odd", nil, []string{"early", "invited", "joined"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.visibility, func(t *testing.T) {
			hs := homeservertest.New(t)
			alice, bob := hs.User("alice"), hs.User("bob")
			room := alice.CreateRoom(homeservertest.Private)
			alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": tt.visibility}).WantOK()
			early := alice.Send(room, "early")
			for _, reader := range []*homeservertest.User{bob, hs.Guest()} {
				r := reader.Messages(room, url.Values{"dir": {"f"}, "limit": {"100"}})
				if tt.before == nil {
					r.WantError(403, "M_FORBIDDEN")
					reader.Do("GET", inRoom(room, "event", early), nil).WantError(404, "M_NOT_FOUND")
					reader.Do("GET", inRoom(room, "context", early), nil).WantError(403, "M_FORBIDDEN")
				} else {
					require.Equal(t, tt.before, bodies(r.WantOK().Get("chunk")))
					reader.Do("GET", inRoom(room, "event", early), nil).WantOK()
					reader.Do("GET", inRoom(room, "context", early), nil).WantOK()
				}
				want := 403
				if tt.beforeJoinState {
					want = 200
				}
				for _, path := range []string{"state", "members"} {
					require.Equal(t, want, reader.Do("GET", inRoom(room, path), nil).Status, path)
				}
				require.Equal(t, want, reader.State(room, "m.room.create", "").Status)
			}
			alice.MustInvite(room, bob)
			alice.Send(room, "invited")
			bob.MustJoin(room)
			alice.Send(room, "joined")
			r := bob.Messages(room, url.Values{"dir": {"f"}, "limit": {"100"}}).WantOK()
			require.Equal(t, tt.afterJoin, bodies(r.Get("chunk")))
			require.Equal(t, "join", r.Get("chunk.@reverse.0.unsigned.membership").String(), "EV-05")
		})
	}
}

// HV-05, ST-08, ME-25: who has left sees the room as it was then, and nothing later.
func TestFormerMembers(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	alice.SetState(room, "m.room.name", "", map[string]any{"name": "before"}).WantOK()
	early := alice.Send(room, "early")
	bob.MustLeave(room)
	later := alice.Send(room, "later")
	alice.SetState(room, "m.room.name", "", map[string]any{"name": "after"}).WantOK()

	require.Equal(t, "before", bob.State(room, "m.room.name", "").WantOK().Get("name").String())
	members := bob.Do("GET", inRoom(room, "members"), nil).WantOK()
	require.Equal(t, "leave", members.Get(`chunk.#(state_key=="`+bob.ID+`").content.membership`).String())
	whole := bob.Do("GET", inRoom(room, "state"), nil).WantOK()
	require.Equal(t, "before", whole.Get(`#(type=="m.room.name").content.name`).String())
	r := bob.Messages(room, url.Values{"dir": {"b"}, "limit": {"2"}}).WantOK()
	require.Equal(t, bob.ID, r.Get("chunk.0.state_key").String(), "the leaving itself")
	require.Equal(t, early, r.Get("chunk.1.event_id").String())
	bob.Do("GET", inRoom(room, "event", early), nil).WantOK()
	bob.Do("GET", inRoom(room, "event", later), nil).WantError(404, "M_NOT_FOUND")
	bob.Do("GET", inRoom(room, "context", later), nil).WantError(404, "M_NOT_FOUND")
	around := bob.Do("GET", inRoom(room, "context", early), nil).WantOK()
	require.Equal(t, []string{}, bodies(around.Get("events_after")))
	forwards := bob.Messages(room, url.Values{"dir": {"f"}, "from": {r.Get("start").String()}}).WantOK()
	require.Empty(t, forwards.Get("chunk").Array())
	bob.Do("GET", inRoom(room, "joined_members"), nil).WantError(403, "M_FORBIDDEN")

	bob.Forget(room).WantOK()
	bob.Messages(room, url.Values{"dir": {"b"}}).WantError(403, "M_FORBIDDEN")
	bob.Do("GET", inRoom(room, "event", early), nil).WantError(404, "M_NOT_FOUND")
	bob.Do("GET", inRoom(room, "state"), nil).WantError(403, "M_FORBIDDEN")
	bob.MustJoin(room)
	require.Contains(t, bodies(bob.Messages(room, url.Values{"dir": {"b"}}).WantOK().Get("chunk")), "later", "shared history")
}

// Whoever left and was invited again still reads only what was before the leaving.
func TestInvitedAgain(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	alice.MustInvite(room, bob)
	bob.MustJoin(room)
	alice.MustKick(room, bob)
	alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "secret"}).WantOK()
	alice.MustInvite(room, bob)
	bob.State(room, "m.room.topic", "").WantError(404, "M_NOT_FOUND")
	alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "world_readable"}).WantOK()
	bob.State(room, "m.room.topic", "").WantOK()
}

// PA-07.
func TestEvent(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room, other := alice.CreateRoom(homeservertest.Private), alice.CreateRoom(homeservertest.Private)
	sent := alice.Send(room, "hi")
	e := alice.Do("GET", inRoom(room, "event", sent), nil).WantOK()
	require.Equal(t, "hi", e.Get("content.body").String())
	require.Equal(t, room, e.Get("room_id").String())
	require.Positive(t, e.Get("unsigned.age").Int())
	for _, key := range []string{"auth_events", "prev_events", "hashes", "signatures", "depth"} {
		require.False(t, e.Get(key).Exists(), "EV-02: %s", key)
	}
	alice.Do("GET", inRoom(room, "event", "$unknown"), nil).WantError(404, "M_NOT_FOUND")
	alice.Do("GET", inRoom(other, "event", sent), nil).WantError(404, "M_NOT_FOUND")
	bob.Do("GET", inRoom(room, "event", sent), nil).WantError(404, "M_NOT_FOUND")
	alice.Do("GET", inRoom("!nowhere:x", "event", sent), nil).WantError(404, "M_NOT_FOUND")
}

// EV-04: the content of the state before is told only to who may see it.
func TestPrevContent(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "joined"}).WantOK()
	old := alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "old"}).WantOK().Get("event_id").String()
	bob.MustJoin(room)
	now := alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "new"}).WantOK().Get("event_id").String()
	mine := alice.Do("GET", inRoom(room, "event", now), nil).WantOK()
	require.Equal(t, "old", mine.Get("unsigned.prev_content.topic").String())
	require.Equal(t, old, mine.Get("unsigned.replaces_state").String())
	his := bob.Do("GET", inRoom(room, "event", now), nil).WantOK()
	require.False(t, his.Get("unsigned.prev_content").Exists())
	require.Equal(t, old, his.Get("unsigned.replaces_state").String())
}

// PA-08.
func TestContext(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	var sent []string
	for i := range 21 {
		sent = append(sent, alice.Send(room, strconv.Itoa(i)))
	}
	bob.SetState(room, "m.room.topic", "", map[string]any{"topic": "t"}).WantError(403, "M_FORBIDDEN")
	alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "t"}).WantOK()
	around := func(event, query string) *homeservertest.Response {
		t.Helper()
		return alice.Do("GET", inRoom(room, "context", event)+query, nil).WantOK()
	}
	r := around(sent[10], "")
	require.Equal(t, "10", r.Get("event.content.body").String())
	require.Equal(t, []string{"9", "8", "7", "6", "5"}, bodies(r.Get("events_before")))
	require.Equal(t, []string{"11", "12", "13", "14", "15"}, bodies(r.Get("events_after")))
	require.False(t, r.Get(`state.#(type=="m.room.topic")`).Exists(), "the state at the last event")

	on := alice.Messages(room, url.Values{"dir": {"b"}, "from": {r.Get("start").String()}, "limit": {"2"}}).WantOK()
	require.Equal(t, []string{"4", "3"}, bodies(on.Get("chunk")))
	on = alice.Messages(room, url.Values{"dir": {"f"}, "from": {r.Get("end").String()}, "limit": {"2"}}).WantOK()
	require.Equal(t, []string{"16", "17"}, bodies(on.Get("chunk")))

	r = around(sent[10], "?limit=0")
	require.Equal(t, "10", r.Get("event.content.body").String(), "always there")
	require.Empty(t, slices.Concat(r.Get("events_before").Array(), r.Get("events_after").Array()))
	on = alice.Messages(room, url.Values{"dir": {"b"}, "from": {r.Get("start").String()}, "limit": {"1"}}).WantOK()
	require.Equal(t, []string{"9"}, bodies(on.Get("chunk")))
	on = alice.Messages(room, url.Values{"dir": {"f"}, "from": {r.Get("end").String()}, "limit": {"1"}}).WantOK()
	require.Equal(t, []string{"11"}, bodies(on.Get("chunk")))

	r = around(sent[20], "?limit=4")
	require.Equal(t, "t", r.Get(`state.#(type=="m.room.topic").content.topic`).String())
	r = around(sent[10], "?limit=2&filter="+url.QueryEscape(`{"lazy_load_members":true}`))
	require.Equal(t, []string{alice.ID}, stateKeys(gjson.Get(string(r.Body), `state.#(type=="m.room.member")#`)))
	r = around(sent[10], "?limit=4&filter="+url.QueryEscape(`{"types":["m.room.topic"]}`))
	require.Empty(t, r.Get("events_before").Array())
	require.Len(t, r.Get("events_after").Array(), 1, "the topic")
	require.Equal(t, "10", r.Get("event.content.body").String(), "the filter is not for the event itself")
	require.Len(t, r.Get("state").Array(), 1)

	alice.Do("GET", inRoom(room, "context", "$unknown"), nil).WantError(404, "M_NOT_FOUND")
	alice.Do("GET", inRoom(room, "context", sent[0])+"?limit=-1", nil).WantError(400, "M_INVALID_PARAM")
}

// ST-08, ST-09.
func TestState(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	alice.SetState(room, "m.x", "k/1", map[string]any{"a": 1}).WantOK()
	for range 3 {
		alice.SetState(room, "m.x", "", map[string]any{"a": 2}).WantOK()
	}
	require.JSONEq(t, `{"a":1}`, string(alice.State(room, "m.x", "k/1").WantOK().Body))
	require.JSONEq(t, `{"a":2}`, string(alice.Do("GET", inRoom(room, "state", "m.x"), nil).WantOK().Body), "no slash")
	require.JSONEq(t, `{"a":2}`, string(alice.Do("GET", inRoom(room, "state", "m.x")+"/?format=content", nil).WantOK().Body))
	e := alice.Do("GET", inRoom(room, "state", "m.x", "k/1")+"?format=event", nil).WantOK()
	require.Equal(t, []any{room, alice.ID, "k/1", "m.x"},
		[]any{e.Get("room_id").String(), e.Get("sender").String(), e.Get("state_key").String(), e.Get("type").String()})
	alice.Do("GET", inRoom(room, "state", "m.x")+"?format=odd", nil).WantError(400, "M_INVALID_PARAM")
	alice.State(room, "m.x", "other").WantError(404, "M_NOT_FOUND")
	bob.State(room, "m.x", "").WantError(403, "M_FORBIDDEN")
	bob.Do("GET", inRoom(room, "state"), nil).WantError(403, "M_FORBIDDEN")
	alice.Do("GET", inRoom("!nowhere:x", "state"), nil).WantError(403, "M_FORBIDDEN")
	whole := alice.Do("GET", inRoom(room, "state"), nil).WantOK()
	require.Len(t, gjson.GetBytes(whole.Body, `#(type=="m.x")#`).Array(), 2)
	require.Equal(t, "m.room.create", whole.Get("0.type").String())
}

// ME-25.
func TestMembers(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol, dora := hs.User("alice"), hs.User("bob"), hs.User("carol"), hs.User("dora")
	room := alice.CreateRoom(homeservertest.Public)
	early := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1"}}).WantOK().Get("start").String()
	bob.MustJoin(room)
	carol.MustJoin(room)
	alice.MustKick(room, carol)
	alice.MustInvite(room, dora)
	tests := []struct {
		query string
		want  []*homeservertest.User
	}{
		{"", []*homeservertest.User{alice, bob, carol, dora}},
		{"?membership=join", []*homeservertest.User{alice, bob}},
		{"?membership=leave", []*homeservertest.User{carol}},
		{"?not_membership=leave", []*homeservertest.User{alice, bob, dora}},
		{"?membership=leave&not_membership=join", []*homeservertest.User{carol, dora}},
		{"?membership=knock", nil},
		{"?at=" + early, []*homeservertest.User{alice}},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			want := []string{}
			for _, u := range tt.want {
				want = append(want, u.ID)
			}
			r := alice.Do("GET", inRoom(room, "members")+tt.query, nil).WantOK()
			require.ElementsMatch(t, want, stateKeys(r.Get("chunk")))
		})
	}
	alice.Do("GET", inRoom(room, "members")+"?membership=odd", nil).WantError(400, "M_INVALID_PARAM")
	alice.Do("GET", inRoom(room, "members")+"?at=odd", nil).WantError(400, "M_INVALID_PARAM")
	dora.Do("GET", inRoom(room, "members"), nil).WantError(403, "M_FORBIDDEN")
	r := carol.Do("GET", inRoom(room, "members"), nil).WantOK()
	require.ElementsMatch(t, []string{alice.ID, bob.ID, carol.ID}, stateKeys(r.Get("chunk")), "as when she left")

	bob.Do("PUT", v3+"/profile/"+bob.ID+"/displayname", map[string]any{"displayname": "Bob"}).WantOK()
	joined := alice.Do("GET", inRoom(room, "joined_members"), nil).WantOK().Get("joined").Map()
	require.Len(t, joined, 2)
	require.JSONEq(t, `{"display_name":"Bob"}`, joined[bob.ID].Raw)
	dora.Do("GET", inRoom(room, "joined_members"), nil).WantError(403, "M_FORBIDDEN")
}

// A member may not learn who was there before anything was visible to them.
func TestMembersAtAPlaceBeforeJoining(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "joined"}).WantOK()
	alice.Send(room, "secret")
	early := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1"}}).WantOK().Get("start").String()
	bob.MustJoin(room)
	bob.Do("GET", inRoom(room, "members")+"?at="+early, nil).WantError(403, "M_FORBIDDEN")
	alice.Do("GET", inRoom(room, "members")+"?at="+early, nil).WantOK()
}

// The prev_batch of a room that was told whole names no place at which nobody was there.
func TestMembersAtTheBeginning(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	start := alice.Sync("").Joined(room).Get("timeline.prev_batch").String()
	bob.MustJoin(room)
	there := alice.Do("GET", inRoom(room, "members")+"?at="+start, nil).WantOK().Get("chunk.#.state_key")
	require.JSONEq(t, `["`+alice.ID+`"]`, there.Raw)
}

// Everything is the same when nothing is in memory any more.
func TestHistoryAfterRestart(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	for i := range 100 {
		bob.Send(room, strconv.Itoa(i))
		alice.SetState(room, "m.room.topic", "", map[string]any{"topic": strconv.Itoa(i)}).WantOK()
	}
	bob.MustLeave(room)
	alice.Send(room, "later")
	reads := func() []string {
		var list []string
		for _, path := range []string{"messages?dir=b&limit=50", "messages?dir=f&limit=500", "state", "members"} {
			for _, u := range []*homeservertest.User{alice, bob} {
				r := u.Do("GET", inRoom(room)+"/"+path, nil).WantOK()
				chunk := r.Get("chunk")
				if !chunk.Exists() {
					chunk = gjson.ParseBytes(r.Body)
				}
				list = append(list, fmt.Sprint(path, u.ID, ids(chunk)))
			}
		}
		return list
	}
	before := reads()
	hs.Restart()
	require.Equal(t, before, reads())
}

// What is told of an event does not depend on how many others are told beside it, or on what is in memory.
func TestEventsLookTheSameInEveryPage(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	for i, visibility := range []string{"joined", "shared", "invited", "world_readable", "joined", "shared"} {
		alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": visibility}).WantOK()
		for k := range 8 {
			alice.SetState(room, "m.x", strconv.Itoa(k), map[string]any{"a": i}).WantOK()
		}
		alice.Redact(room, alice.Send(room, "gone")).WantOK()
		if i%2 == 1 {
			bob.MustJoin(room)
		} else {
			bob.Leave(room)
		}
	}
	for _, u := range []*homeservertest.User{alice, bob} {
		read := func(limit string) []string {
			hs.Restart()
			var list []string
			q := url.Values{"dir": {"f"}, "limit": {limit}}
			for more := true; more; {
				r := u.Messages(room, q).WantOK()
				for _, e := range r.Get("chunk").Array() {
					list = append(list, age.ReplaceAllString(e.Raw, ""))
				}
				q.Set("from", r.Get("end").String())
				more = r.Get("end").Exists()
			}
			return list
		}
		whole := read("1000")
		require.Greater(t, len(whole), 10)
		require.Equal(t, whole, read("1"))
		require.Equal(t, whole, read("9"))
	}
}

// age is what differs between two looks at an event.
var age = regexp.MustCompile(`"age":\d+,`)

// HV-08: what an erased user sent is redacted for those who were not there when it was sent.
func TestErasedUser(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	sent := alice.Send(room, "body")
	carol.MustJoin(room)
	alice.Send(room, "later")
	setField(alice, "displayname", "Alice").WantOK()
	setField(alice, "displayname", "Alicia").WantOK()
	sees := func(u *homeservertest.User) []string {
		return bodies(u.Messages(room, url.Values{"dir": {"f"}, "limit": {"100"}}).WantOK().Get("chunk"))
	}
	require.Equal(t, []string{"body", "later"}, sees(carol))
	alice.Do("POST", v3+"/account/deactivate", map[string]any{"erase": true, "auth": map[string]any{
		"type": "m.login.password", "password": alice.Password, "identifier": map[string]any{"type": "m.id.user", "user": alice.ID},
	}}).WantOK()
	for range 2 {
		require.Equal(t, []string{"body", "later"}, sees(bob))
		require.Equal(t, []string{"later"}, sees(carol))
		r := carol.Do("GET", inRoom(room, "event", sent), nil).WantOK()
		require.JSONEq(t, `{}`, r.Get("content").Raw)
		require.Equal(t, []string{sent}, foundIDs(search(bob, "body")))
		require.Empty(t, foundIDs(search(carol, "body")), "nor is it found by what it said")
		hs.Restart()
	}
	dora := hs.User("dora")
	dora.Do("GET", profilePath(alice.ID), nil).WantError(404, "M_NOT_FOUND")
	dora.MustJoin(room)
	r := dora.Messages(room, url.Values{"dir": {"f"}, "limit": {"100"}}).WantOK()
	require.Empty(t, bodies(r.Get("chunk")))
	require.NotContains(t, string(r.Body), `"Alice"`, "prev_content neither")
}
