package syncing_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const withLeft = `{"room":{"include_leave":true}}`

// TestLeavingIsToldOnce is SY-16 and HV-05: up to the leave and no further, once.
func TestLeavingIsToldOnce(t *testing.T) {
	for verb, out := range map[string]func(alice, bob *homeservertest.User, room string){
		"leave": func(_, bob *homeservertest.User, room string) { bob.MustLeave(room) },
		"kick":  func(alice, bob *homeservertest.User, room string) { alice.MustKick(room, bob) },
		"ban":   func(alice, bob *homeservertest.User, room string) { alice.MustBan(room, bob) },
	} {
		t.Run(verb, func(t *testing.T) {
			alice, bob := two(t)
			room := alice.CreateRoom(public)
			bob.MustJoin(room)
			since := bob.Sync("").NextBatch
			alice.Send(room, "before")
			out(alice, bob, room)
			alice.Send(room, "after")
			name(alice, room, "after")
			s := bob.Sync(since)
			r := s.Left(room)
			require.Equal(t, []string{"before"}, texts(r))
			require.Contains(t, []string{"leave", "ban"}, membersIn(r.Get("timeline.events"))[bob.ID])
			require.NotContains(t, string(s.Body), "after")
			require.False(t, s.Joined(room).Exists())
			require.True(t, r.Get("state").Exists())

			alice.Send(room, "much later")
			if verb == "kick" {
				alice.MustBan(room, bob)
			}
			require.False(t, bob.Sync(s.NextBatch).Get("rooms").Exists(), "it is told once")
			require.False(t, bob.Sync("").Left(room).Exists(), "SY-17: without include_leave")
			again := ask(bob, "filter", withLeft).Left(room)
			require.Equal(t, []string{"before"}, texts(again))
			require.NotContains(t, again.Raw, "after")
			require.False(t, ask(bob, "since", s.NextBatch, "filter", withLeft).Get("rooms").Exists())
			require.True(t, ask(bob, "since", s.NextBatch, "filter", withLeft, "full_state", "true").Left(room).Exists())
		})
	}
}

// TestNothingAfterTheLeave is SY-16 where even somebody outside may read on: /messages tells that, not /sync.
func TestNothingAfterTheLeave(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	alice.SetState(room, "m.room.history_visibility", "", object{"history_visibility": "world_readable"}).WantOK()
	bob.MustJoin(room)
	since := bob.Sync("").NextBatch
	bob.MustLeave(room)
	alice.Send(room, "after")
	name(alice, room, "after")
	for _, s := range []*homeservertest.Sync{bob.Sync(since), ask(bob, "filter", withLeft)} {
		require.NotContains(t, s.Left(room).Raw, "after")
	}
}

// TestForgottenRoomsAreNotTold is the rest of SY-17.
func TestForgottenRoomsAreNotTold(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	since := bob.Sync("").NextBatch
	bob.MustLeave(room)
	bob.Forget(room).WantOK()
	require.False(t, ask(bob, "filter", withLeft).Left(room).Exists())
	s := bob.Sync(since)
	require.True(t, s.Left(room).Exists(), "but that the user left is, to devices that have not heard of it")
	require.False(t, bob.Sync(s.NextBatch).Left(room).Exists())
	require.False(t, ask(bob, "since", s.NextBatch, "full_state", "true", "filter", withLeft).Left(room).Exists())
	bob.MustJoin(room)
	require.True(t, bob.Sync(since).Joined(room).Exists(), "until they join again")
}

// TestLeavingAndJoining: what counts is where the user is at the end.
func TestLeavingAndJoining(t *testing.T) {
	alice, bob := two(t)
	room, tried := alice.CreateRoom(public), alice.CreateRoom(public)
	since := bob.Sync("").NextBatch
	bob.MustJoin(room)
	bob.MustLeave(room)
	bob.MustJoin(room)
	name(alice, tried, "a name")
	send(alice, tried, numbers(1, 12)...)
	bob.MustJoin(tried)
	bob.MustLeave(tried)
	s := bob.Sync(since)
	require.True(t, s.Joined(room).Exists())
	require.False(t, s.Left(room).Exists())
	require.Subset(t, keys(s.Left(tried).Get("state.events")), roomKeys("m.room.name/"), "a room joined and left in between is told whole")
}

// TestRefusedInvitesAreTold is SY-18, whatever the history's visibility.
func TestRefusedInvitesAreTold(t *testing.T) {
	alice, bob := two(t)
	for _, visibility := range []string{"shared", "joined"} {
		room := alice.CreateRoom(private)
		alice.SetState(room, "m.room.history_visibility", "", object{"history_visibility": visibility}).WantOK()
		since := bob.Sync("").NextBatch
		alice.MustInvite(room, bob)
		s := bob.Sync(since)
		bob.MustLeave(room)
		r := bob.Sync(s.NextBatch).Left(room)
		require.Equal(t, map[string]string{bob.ID: "leave"}, membersIn(r.Get("timeline.events")), visibility)
		require.Equal(t, []string{"m.room.member/" + bob.ID}, keys(r.Get("timeline.events")), "nothing else of a room one never was in")
		require.Empty(t, r.Get("state.events").Array())
		none := ask(bob, "since", s.NextBatch, "filter", `{"room":{"timeline":{"limit":0}}}`).Left(room)
		require.Equal(t, []string{"m.room.member/" + bob.ID}, keys(none.Get("state.events")))
	}
}

// TestRefusedInvitesTellNoState: whoever looks back to a time before the room is told nothing of it either, for they
// never were in it.
func TestRefusedInvitesTellNoState(t *testing.T) {
	alice, bob := two(t)
	since := bob.Sync("").NextBatch
	room := alice.CreateRoom(private)
	name(alice, room, "a secret name")
	alice.MustInvite(room, bob)
	bob.MustLeave(room)
	for _, s := range []*homeservertest.Sync{bob.Sync(since), ask(bob, "filter", withLeft), ask(bob, "since", since, "filter", lazy)} {
		r := s.Left(room)
		require.Equal(t, []string{"m.room.member/" + bob.ID}, keys(r.Get("timeline.events")))
		require.Empty(t, r.Get("state.events").Array())
		require.False(t, r.Get("summary").Exists())
	}
	after := ask(bob, "since", since, "use_state_after", "true").Left(room)
	require.Equal(t, []string{"m.room.member/" + bob.ID}, keys(after.Get("state_after.events")))
}

// TestBanOfAStranger: a ban of somebody who was never there tells them nothing.
func TestBanOfAStranger(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(private)
	since := bob.Sync("").NextBatch
	alice.MustBan(room, bob)
	alice.Unban(room, bob).WantOK()
	require.False(t, bob.Sync(since).Get("rooms").Exists())
	require.False(t, ask(bob, "filter", withLeft).Get("rooms").Exists())
}

// TestArchivedTimelineMayBeEmpty: with no timeline the leave stands in the state.
func TestArchivedTimelineMayBeEmpty(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	name(alice, room, "before")
	bob.MustLeave(room)
	name(alice, room, "after")
	r := ask(bob, "filter", `{"room":{"include_leave":true,"timeline":{"limit":0}}}`).Left(room)
	require.Equal(t, "[]", r.Get("timeline.events").Raw)
	require.Equal(t, "leave", membersIn(r.Get("state.events"))[bob.ID])
	require.Equal(t, "before", state(r.Get("state.events"), "m.room.name", "").Get("content.name").Str)
}
