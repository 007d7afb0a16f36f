package syncing_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// roomKeys are the keys of the state that every public test room has.
func roomKeys(more ...string) []string {
	list := append([]string{
		"m.room.create/", "m.room.history_visibility/", "m.room.join_rules/", "m.room.power_levels/",
	}, more...)
	return list
}

// TestStateAtTheStart is SY-12 for an initial sync: the whole state at the start of the timeline, without what
// the timeline tells.
func TestStateAtTheStart(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	name(alice, room, "old")
	send(alice, room, numbers(1, 9)...)
	name(alice, room, "new")
	r := alice.Sync("").Joined(room)
	require.ElementsMatch(t, roomKeys("m.room.guest_access/", "m.room.member/"+alice.ID, "m.room.name/"), keys(r.Get("state.events")))
	require.Equal(t, "old", state(r.Get("state.events"), "m.room.name", "").Get("content.name").Str)
	require.Equal(t, "new", state(r.Get("timeline.events"), "m.room.name", "").Get("content.name").Str)
	require.False(t, r.Get("state_after").Exists(), "SY-13")

	all := ask(alice, "filter", `{"room":{"timeline":{"limit":50}}}`).Joined(room)
	require.Empty(t, all.Get("state.events").Array(), "all of it is in the timeline")
}

// TestStateOfAGap is SY-12 for an incremental sync: what changed between since and the start of the timeline.
func TestStateOfAGap(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	name(alice, room, "0")
	since := alice.Sync("").NextBatch
	name(alice, room, "1")
	name(alice, room, "2")
	alice.SetState(room, "m.room.topic", "", object{"topic": "t"}).WantOK()
	send(bob, room, numbers(1, 10)...)
	r := alice.Sync(since).Joined(room)
	require.True(t, r.Get("timeline.limited").Bool())
	require.Equal(t, []string{"m.room.name/", "m.room.topic/"}, keys(r.Get("state.events")))
	require.Equal(t, "2", r.Get("state.events.0.content.name").Str)
	r = ask(alice, "since", since, "filter", `{"room":{"timeline":{"limit":20}}}`).Joined(room)
	require.Empty(t, r.Get("state.events").Array(), "without a gap the timeline tells everything")
}

// TestStateLeftOutOfTheTimeline is SY-14: a change that the filter keeps out of the timeline is told as state.
func TestStateLeftOutOfTheTimeline(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	name(alice, room, "0")
	filter := `{"room":{"timeline":{"types":["m.room.message"]}}}`
	since := ask(alice, "filter", filter).NextBatch
	alice.Send(room, "1")
	name(alice, room, "1")
	name(alice, room, "2")
	alice.Send(room, "2")
	for _, s := range []*homeservertest.Sync{ask(alice, "since", since, "filter", filter), ask(alice, "filter", filter)} {
		r := s.Joined(room)
		require.Equal(t, []string{"1", "2"}, texts(r))
		require.Equal(t, "2", state(r.Get("state.events"), "m.room.name", "").Get("content.name").Str)
		require.Equal(t, 1, count(r.Get("state.events"), "m.room.name"), "told once")
	}
}

func count(events gjson.Result, eventType string) (n int) {
	for _, e := range events.Array() {
		if e.Get("type").Str == eventType {
			n++
		}
	}
	return n
}

// TestStateAfter is SY-13: the state at the end, in every room that is told, and no other.
func TestStateAfter(t *testing.T) {
	alice, bob := two(t)
	room, gone := alice.CreateRoom(public), alice.CreateRoom(public)
	bob.MustJoin(room)
	bob.MustJoin(gone)
	name(alice, room, "0")
	send(alice, room, numbers(1, 9)...)
	name(alice, room, "1")
	r := ask(alice, "use_state_after", "true").Joined(room)
	require.False(t, r.Get("state").Exists())
	require.ElementsMatch(t, roomKeys("m.room.member/"+alice.ID, "m.room.member/"+bob.ID, "m.room.name/"), keys(r.Get("state_after.events")))
	require.Equal(t, "1", state(r.Get("state_after.events"), "m.room.name", "").Get("content.name").Str)

	since := alice.Sync("").NextBatch
	typing(bob, room, true)
	s := ask(alice, "since", since, "use_state_after", "true")
	require.Equal(t, "[]", s.Joined(room).Get("state_after.events").Raw, "even if it is empty")
	require.False(t, s.Joined(room).Get("state").Exists())

	name(alice, room, "2")
	alice.SetState(gone, "m.room.topic", "", object{"topic": "t"}).WantOK()
	alice.MustLeave(gone)
	s = ask(alice, "since", s.NextBatch, "use_state_after", "true")
	require.Equal(t, []string{"m.room.name/"}, keys(s.Joined(room).Get("state_after.events")))
	require.Equal(t, []string{"m.room.member/" + alice.ID, "m.room.topic/"}, keys(s.Left(gone).Get("state_after.events")), "in left rooms too")
	require.False(t, s.Left(gone).Get("state").Exists())
}

// TestJoinedAnew is SY-15: a room that is joined, or joined again, is told whole, with the join in its timeline.
func TestJoinedAnew(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	name(alice, room, "a name")
	send(alice, room, numbers(1, 20)...)
	since := bob.Sync("").NextBatch
	bob.MustJoin(room)
	check := func(since string) *homeservertest.Sync {
		s := bob.Sync(since)
		r := s.Joined(room)
		require.Subset(t, keys(r.Get("state.events")), roomKeys("m.room.name/", "m.room.member/"+alice.ID))
		require.Equal(t, "join", state(r.Get("timeline.events"), "m.room.member", bob.ID).Get("content.membership").Str)
		require.True(t, r.Get("timeline.limited").Bool())
		require.True(t, r.Get("summary").Exists())
		return s
	}
	s := check(since)
	send(alice, room, "more")
	r := bob.Sync(s.NextBatch)
	require.Empty(t, r.Joined(room).Get("state.events").Array(), "afterwards only what changes")
	bob.MustLeave(room)
	name(alice, room, "another name")
	bob.MustJoin(room)
	check(r.NextBatch)

	s = bob.Sync(r.NextBatch)
	bob.SetState(room, "m.room.member", bob.ID, object{"membership": "join", "displayname": "B"}).WantOK()
	require.Empty(t, bob.Sync(s.NextBatch).Joined(room).Get("state.events").Array(), "a new profile is no new join")
}

// TestNewRoomIsNotLimited: who makes a room has not missed anything of it; who joins one that was there before has,
// though all of it may be in the timeline.
func TestNewRoomIsNotLimited(t *testing.T) {
	alice, bob := two(t)
	since := alice.Sync("").NextBatch
	room := alice.CreateRoom(public)
	r := alice.Sync(since).Joined(room)
	require.False(t, r.Get("timeline.limited").Bool())
	require.Equal(t, "m.room.create", r.Get("timeline.events.0.type").Str)
	since = bob.Sync("").NextBatch
	bob.MustJoin(room)
	r = bob.Sync(since).Joined(room)
	require.True(t, r.Get("timeline.limited").Bool())
	require.Equal(t, "m.room.create", r.Get("timeline.events.0.type").Str)
	require.False(t, bob.Sync("").Joined(room).Get("timeline.limited").Bool(), "an initial sync has no time before")
}

func TestFullState(t *testing.T) {
	alice, bob := two(t)
	room, quiet := alice.CreateRoom(private), alice.CreateRoom(private)
	send(alice, room, numbers(1, 12)...)
	s := alice.Sync("")
	send(alice, room, "new")
	s = ask(alice, "since", s.NextBatch, "full_state", "true")
	require.ElementsMatch(t, roomKeys("m.room.guest_access/", "m.room.member/"+alice.ID), keys(s.Joined(room).Get("state.events")))
	require.Equal(t, []string{"new"}, texts(s.Joined(room)), "the timeline goes on from since")
	require.ElementsMatch(t, roomKeys("m.room.guest_access/", "m.room.member/"+alice.ID), keys(s.Joined(quiet).Get("state.events")), "a room without news")
	require.Empty(t, s.Joined(quiet).Get("timeline.events").Array())
	require.True(t, s.Joined(quiet).Get("timeline.prev_batch").Exists())
	require.False(t, ask(bob, "since", s.NextBatch, "full_state", "true").Get("rooms").Exists())
}

func TestStateFilter(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	name(alice, room, "a name")
	bob.SetState(room, "m.room.member", bob.ID, object{"membership": "join", "avatar_url": "mxc://a/b"}).WantOK()
	for filter, want := range map[string][]string{
		`{"types":["m.room.name"]}`:    {"m.room.name/"},
		`{"types":[]}`:                 {},
		`{"senders":["@bob:hs.test"]}`: {"m.room.member/@bob:hs.test"},
		`{"types":["m.room.*"],"not_types":["m.room.[a-z]*","m.room.*e*"]}`: {"m.room.history_visibility/"},
		`{"rooms":["!other:hs.test"]}`:                                      {},
		`{"not_rooms":["` + room + `"]}`:                                    {},
	} {
		r := ask(alice, "filter", `{"room":{"timeline":{"limit":0},"state":`+filter+`}}`).Joined(room)
		require.Equal(t, want, keys(r.Get("state.events")), filter)
	}
}
