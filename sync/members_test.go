package syncing_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const lazy = `{"room":{"state":{"lazy_load_members":true}}}`

// crowd is a named room of alice, bob, carol and dave, in which the others have joined long since.
func crowd(t *testing.T) (alice, bob, carol, dave *homeservertest.User, room string) {
	t.Helper()
	p := people(t, "alice", "bob", "carol", "dave")
	room = p[0].CreateRoom(public)
	name(p[0], room, "a name")
	for _, u := range p[1:3] {
		u.MustJoin(room)
	}
	return p[0], p[1], p[2], p[3], room
}

// lazily syncs with lazy loading and returns the members in the room's state.
func lazily(u *homeservertest.User, room, since string, more ...string) (*homeservertest.Sync, map[string]string) {
	s := ask(u, append([]string{"since", since, "filter", lazy}, more...)...)
	return s, membersIn(s.Joined(room).Get("state.events"))
}

// TestOnlySendersAreMembers is FI-09, FI-10 and FI-11 in sync, and FI-13 beside it.
func TestOnlySendersAreMembers(t *testing.T) {
	alice, bob, carol, _, room := crowd(t)
	send(bob, room, numbers(1, 12)...)
	all := alice.Sync("").Joined(room)
	require.Len(t, membersIn(all.Get("state.events")), 3, "without lazy loading")
	s, members := lazily(alice, room, "")
	require.Equal(t, map[string]string{alice.ID: "join", bob.ID: "join"}, members, "the sender, and oneself")

	carol.Send(room, "1")
	first := s.NextBatch
	s, members = lazily(alice, room, first)
	require.Equal(t, map[string]string{carol.ID: "join"}, members)
	_, members = lazily(alice, room, first)
	require.Equal(t, map[string]string{carol.ID: "join"}, members, "a repeated token: the answer may have been lost")

	carol.Send(room, "2")
	bob.Send(room, "3")
	s, members = lazily(alice, room, s.NextBatch)
	require.Empty(t, members, "the client has got them")
	carol.Send(room, "4")
	_, members = lazily(alice.Login(), room, s.NextBatch)
	require.Equal(t, map[string]string{carol.ID: "join"}, members, "another device has not")
	again := ask(alice, "since", s.NextBatch, "filter", `{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}`)
	require.Equal(t, map[string]string{carol.ID: "join"}, membersIn(again.Joined(room).Get("state.events")), "who asks for redundant ones")

	carol.SetState(room, "m.room.member", carol.ID, object{"membership": "join", "displayname": "C"}).WantOK()
	carol.Send(room, "5")
	s, members = lazily(alice, room, s.NextBatch)
	require.Empty(t, members, "before the change in the timeline she was as the client knows")
	carol.Send(room, "6")
	_, members = lazily(alice, room, s.NextBatch)
	require.Empty(t, members, "the timeline told of the change")
	_, members = lazily(alice, room, "")
	require.Contains(t, members, carol.ID, "a new beginning")
	_, members = lazily(alice, room, s.NextBatch, "full_state", "true")
	require.Contains(t, members, alice.ID, "FI-11: oneself in a full state")
}

// TestMembersOfAGap is FI-12: what happened in the gap is told, redundant or not.
func TestMembersOfAGap(t *testing.T) {
	alice, bob, carol, dave, room := crowd(t)
	send(bob, room, numbers(1, 12)...)
	s, _ := lazily(alice, room, "")
	dave.MustJoin(room)
	send(carol, room, numbers(1, 12)...)
	s, members := lazily(alice, room, s.NextBatch)
	require.Equal(t, map[string]string{carol.ID: "join", dave.ID: "join"}, members, "who joined, and who spoke")
	dave.MustLeave(room)
	bob.MustLeave(room)
	send(carol, room, numbers(1, 12)...)
	whole, members := lazily(alice, room, s.NextBatch, "full_state", "true")
	require.Equal(t, map[string]string{carol.ID: "join", alice.ID: "join", dave.ID: "leave", bob.ID: "leave"}, members)
	_, members = lazily(alice, room, s.NextBatch)
	require.Equal(t, map[string]string{dave.ID: "leave", bob.ID: "leave"}, members)
	_, members = lazily(alice, room, whole.NextBatch)
	require.Empty(t, members)
}

// TestHeroesAreMembers is SY-23.
func TestHeroesAreMembers(t *testing.T) {
	alice, bob, carol, dave, room := crowd(t)
	name(alice, room, "")
	send(alice, room, numbers(1, 12)...)
	s, members := lazily(alice, room, "")
	require.Equal(t, map[string]string{alice.ID: "join", bob.ID: "join", carol.ID: "join"}, members)
	dave.MustJoin(room)
	s, members = lazily(alice, room, s.NextBatch)
	require.Empty(t, members, "redundant ones, and one in the timeline")
	require.Len(t, s.Joined(room).Get(`summary.m\.heroes`).Array(), 3)
}

// TestLazyStateAfter: with the state at the end, members change there and not in the timeline.
func TestLazyStateAfter(t *testing.T) {
	alice, bob, _, dave, room := crowd(t)
	after := func(since string) (*homeservertest.Sync, map[string]string) {
		s := ask(alice, "since", since, "filter", lazy, "use_state_after", "true")
		return s, membersIn(s.Joined(room).Get("state_after.events"))
	}
	s, members := after("")
	require.Subset(t, members, map[string]string{alice.ID: "join", bob.ID: "join"}, "every sender of the timeline")
	dave.MustJoin(room)
	bob.MustLeave(room)
	_, members = after(s.NextBatch)
	require.Equal(t, map[string]string{dave.ID: "join", bob.ID: "leave"}, members)
}

// TestLazyJoin: who joins a room is told of themselves.
func TestLazyJoin(t *testing.T) {
	_, bob, _, dave, room := crowd(t)
	s := dave.Sync("")
	dave.MustJoin(room)
	send(bob, room, numbers(1, 12)...)
	_, members := lazily(dave, room, s.NextBatch)
	require.Equal(t, map[string]string{bob.ID: "join", dave.ID: "join"}, members)
}

// TestLazyClientStartsOver: what a device was sent before it began anew, or went back to a token of long ago, it may
// have lost.
func TestLazyClientStartsOver(t *testing.T) {
	alice, bob, carol, _, room := crowd(t)
	send(bob, room, numbers(1, 12)...)
	s, _ := lazily(alice, room, "")
	old := s.NextBatch
	for i := range 3 {
		carol.Send(room, numbers(i, i)[0])
		s, _ = lazily(alice, room, s.NextBatch)
	}
	carol.Send(room, "again")
	_, members := lazily(alice, room, old)
	require.Equal(t, map[string]string{carol.ID: "join"}, members, "an old token")

	_, members = lazily(alice, room, "")
	require.Contains(t, members, carol.ID)
	send(bob, room, numbers(1, 12)...)
	s, members = lazily(alice, room, "")
	require.NotContains(t, members, carol.ID)
	carol.Send(room, "and again")
	_, members = lazily(alice, room, s.NextBatch)
	require.Equal(t, map[string]string{carol.ID: "join"}, members, "a new beginning")
}

// TestSameTokenTwiceProvesNothing: an answer that ends where it began may be lost without the client's next request
// telling.
func TestSameTokenTwiceProvesNothing(t *testing.T) {
	alice, bob, carol, _, room := crowd(t)
	name(alice, room, "")
	send(alice, room, numbers(1, 12)...)
	s := ask(alice, "filter", `{"room":{"state":{"lazy_load_members":true,"types":["org.none"]}}}`)
	whole, members := lazily(alice, room, s.NextBatch, "full_state", "true")
	require.Equal(t, s.NextBatch, whole.NextBatch)
	require.Contains(t, members, carol.ID, "a hero")
	send(carol, room, "1")
	send(bob, room, "2")
	_, members = lazily(alice, room, s.NextBatch)
	require.Equal(t, map[string]string{carol.ID: "join", bob.ID: "join"}, members)
}
