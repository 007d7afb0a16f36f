package syncing_test

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// numbers are the texts from…to.
func numbers(from, to int) []string {
	var list []string
	for i := from; i <= to; i++ {
		list = append(list, strconv.Itoa(i))
	}
	return list
}

// TestLimit is SY-11: the newest events in order, limited when others are left out, and a token to read on.
func TestLimit(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	since := alice.Sync("").NextBatch
	send(alice, room, numbers(1, 12)...)
	for _, tt := range []struct {
		limit   string
		texts   []string
		limited bool
	}{
		{``, numbers(3, 12), true},
		{`"limit":12`, numbers(1, 12), false},
		{`"limit":11`, numbers(2, 12), true},
		{`"limit":1`, numbers(12, 12), true},
		{`"limit":0`, nil, true},
		{`"limit":1000000`, numbers(1, 12), false},
	} {
		filter := `{"room":{"timeline":{` + tt.limit + `}}}`
		r := ask(alice, "since", since, "filter", filter).Joined(room)
		require.Equal(t, tt.texts, texts(r), filter)
		require.Equal(t, tt.limited, r.Get("timeline.limited").Bool(), filter)

		page := alice.Messages(room, url.Values{"from": {r.Get("timeline.prev_batch").Str}, "dir": {"b"}, "limit": {"50"}}).WantOK()
		var before []string
		for _, e := range page.Get("chunk").Array() {
			if b := e.Get("content.body").Str; b != "" {
				before = append(before, b)
			}
		}
		slices.Reverse(before)
		require.Equal(t, numbers(1, 12), append(before, tt.texts...), "what prev_batch leads to, before the timeline: %s", filter)
	}
	require.False(t, ask(alice, "filter", `{"room":{"timeline":{"limit":50}}}`).Joined(room).Get("timeline.limited").Bool(), "the whole room")
	require.True(t, alice.Sync("").Joined(room).Get("timeline.limited").Bool(), "the end of the room")
}

// TestNextBatchPagesForwards: a token of sync is a place in a room's history too.
func TestNextBatchPagesForwards(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	since := alice.Sync("").NextBatch
	alice.Send(room, "1")
	page := alice.Messages(room, url.Values{"from": {since}, "dir": {"f"}}).WantOK()
	require.Equal(t, `["1"]`, page.Get("chunk.#.content.body").Raw)
}

// TestLimitedCountsWhatPasses: a timeline is limited by events that the filter would let pass, not by others.
func TestLimitedCountsWhatPasses(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	alice.Send(room, "1")
	for range 15 {
		alice.SendEvent(room, "org.filler", object{}).WantOK()
	}
	filter := `{"room":{"timeline":{"limit":1,"types":["m.room.message"]}}}`
	s := ask(alice, "filter", filter)
	require.Equal(t, []string{"1"}, texts(s.Joined(room)))
	require.False(t, s.Joined(room).Get("timeline.limited").Bool())
	alice.Send(room, "2")
	r := ask(alice, "filter", filter).Joined(room)
	require.Equal(t, []string{"2"}, texts(r))
	require.True(t, r.Get("timeline.limited").Bool())
}

// TestLongSearchEnds: a filter that lets next to nothing pass does not make the server read a whole history.
func TestLongSearchEnds(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	alice.SendEvent(room, "org.rare", object{}).WantOK()
	send(alice, room, numbers(1, 400)...)
	r := ask(alice, "filter", `{"room":{"timeline":{"limit":1,"types":["org.rare"]}}}`).Joined(room)
	require.Empty(t, r.Get("timeline.events").Array())
	require.True(t, r.Get("timeline.limited").Bool(), "there may be more")
}

// TestLongGap: more events than the server has at hand.
func TestLongGap(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	since := alice.Sync("").NextBatch
	send(bob, room, numbers(1, 300)...)
	filter := `{"room":{"timeline":{"limit":%d}}}`
	for _, limit := range []int{5, 290, 299, 300, 301} {
		r := ask(alice, "since", since, "filter", fmt.Sprintf(filter, limit)).Joined(room)
		require.Equal(t, numbers(max(1, 301-limit), 300), texts(r), "limit %d", limit)
		require.Equal(t, limit < 300, r.Get("timeline.limited").Bool(), "limit %d", limit)
	}
}

// TestTransactionID: only the device that sent an event is told by which transaction.
func TestTransactionID(t *testing.T) {
	alice, bob := two(t)
	other := alice.Login()
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	alice.SendTxn(room, "m.room.message", "my txn", object{"body": "hi", "msgtype": "m.text"}).WantOK()
	for u, want := range map[*homeservertest.User]string{alice: "my txn", other: "", bob: ""} {
		events := u.Sync("").Joined(room).Get("timeline.events").Array()
		require.Equal(t, want, events[len(events)-1].Get("unsigned.transaction_id").Str)
	}
}

// TestRedacted is SY-35: what was redacted is served so, with why.
func TestRedacted(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	event := alice.Send(room, "secret")
	since := alice.Sync("").NextBatch
	redaction := alice.Redact(room, event).WantOK().Get("event_id").Str
	s := alice.Sync("")
	require.NotContains(t, string(s.Body), "secret")
	require.Equal(t, redaction, s.Joined(room).Get(`timeline.events.#(event_id=="`+event+`").unsigned.redacted_because.event_id`).Str)
	require.Equal(t, redaction, s.Joined(room).Get(`timeline.events.#(event_id=="`+event+`").unsigned.redacted_by`).Str)
	r := alice.Sync(since).Joined(room)
	require.Equal(t, event, r.Get("timeline.events.0.redacts").Str, "SY-37")
	require.Equal(t, event, r.Get("timeline.events.0.content.redacts").Str, "SY-37")
}

// TestNoRoomID is EV-01: events of /sync have no room_id.
func TestNoRoomID(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	send(alice, room, numbers(1, 9)...)
	r := alice.Sync("").Joined(room)
	for _, e := range append(r.Get("timeline.events").Array(), r.Get("state.events").Array()...) {
		require.False(t, e.Get("room_id").Exists(), e.Raw)
		require.False(t, e.Get("auth_events").Exists(), "EV-02: %s", e.Raw)
		require.True(t, e.Get("unsigned.age").Exists(), e.Raw)
		require.True(t, e.Get("unsigned.membership").Exists(), "EV-05: %s", e.Raw)
	}
}

// TestHistoryVisibility is HV-02 in sync: what somebody who joins late, or was away, may read.
func TestHistoryVisibility(t *testing.T) {
	tests := []struct {
		visibility string
		texts      []string
	}{
		{"world_readable", []string{"before", "invited", "in", "away"}},
		{"shared", []string{"before", "invited", "in", "away"}},
		{"invited", []string{"invited", "in"}},
		{"joined", []string{"in"}},
	}
	for _, tt := range tests {
		t.Run(tt.visibility, func(t *testing.T) {
			alice, bob := two(t)
			room := alice.CreateRoom(public)
			alice.SetState(room, "m.room.history_visibility", "", object{"history_visibility": tt.visibility}).WantOK()
			since := bob.Sync("").NextBatch
			alice.Send(room, "before")
			alice.MustInvite(room, bob)
			alice.Send(room, "invited")
			bob.MustJoin(room)
			alice.Send(room, "in")
			bob.MustLeave(room)
			alice.Send(room, "away")
			left := bob.Sync(since).Left(room)
			require.Equal(t, slices.DeleteFunc(slices.Clone(tt.texts), func(s string) bool { return s == "away" }), texts(left), "HV-05: after leaving")
			bob.MustJoin(room)
			filter := `{"room":{"timeline":{"limit":30}}}`
			require.Equal(t, tt.texts, texts(ask(bob, "since", since, "filter", filter).Joined(room)))
			require.Equal(t, tt.texts, texts(ask(bob, "filter", filter).Joined(room)), "an initial sync")
		})
	}
}

// TestHiddenEventsDoNotCount is SY-34: what the user may not see takes no place in the timeline.
func TestHiddenEventsDoNotCount(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	alice.SetState(room, "m.room.history_visibility", "", object{"history_visibility": "joined"}).WantOK()
	send(bob, room, "seen 1", "seen 2")
	bob.MustLeave(room)
	send(alice, room, numbers(1, 30)...)
	bob.MustJoin(room)
	send(bob, room, "seen 3")
	r := ask(bob, "filter", `{"room":{"timeline":{"limit":4,"types":["m.room.message"]}}}`).Joined(room)
	require.Equal(t, []string{"seen 1", "seen 2", "seen 3"}, texts(r))
}

// TestStateOfThePresentIsShown: an event of the present state stands in the timeline though it was sent while
// the user was away, or the state that the client computes would be wrong.
func TestStateOfThePresentIsShown(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	alice.SetState(room, "m.room.history_visibility", "", object{"history_visibility": "joined"}).WantOK()
	since := bob.Sync("").NextBatch
	bob.MustLeave(room)
	name(alice, room, "a name that was")
	alice.Send(room, "hidden")
	carol.MustJoin(room)
	name(alice, room, "the name that is")
	bob.MustJoin(room)
	for _, s := range []*homeservertest.Sync{bob.Sync(since), bob.Sync("")} {
		events := s.Joined(room).Get("timeline.events")
		require.Equal(t, "join", state(events, "m.room.member", carol.ID).Get("content.membership").Str)
		require.Equal(t, "the name that is", state(events, "m.room.name", "").Get("content.name").Str)
		require.NotContains(t, string(s.Body), "hidden")
		require.NotContains(t, events.Raw, `"content":{"name":"a name that was"}`)
	}
}
