package syncing_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// TestInvite is SY-19 and EV-15.
func TestInvite(t *testing.T) {
	alice, bob := two(t)
	since := bob.Sync("").NextBatch
	room := alice.CreateRoomWith(object{
		"preset": "private_chat", "name": "a name", "topic": "a topic",
		"initial_state": []object{
			{"type": "m.room.encryption", "content": object{"algorithm": "m.megolm.v1.aes-sha2"}},
			{"type": "org.secret", "content": object{"secret": true}},
		},
	})
	alice.MustInvite(room, bob)
	name(alice, room, "a later name")
	for _, s := range []*homeservertest.Sync{bob.Sync(since), bob.Sync("")} {
		events := s.Invited(room).Get("invite_state.events")
		require.ElementsMatch(t, []string{
			"m.room.create/", "m.room.name/", "m.room.topic/", "m.room.join_rules/", "m.room.encryption/",
			"m.room.member/" + alice.ID, "m.room.member/" + bob.ID,
		}, keys(events))
		require.Equal(t, "invite", membersIn(events)[bob.ID])
		require.Equal(t, "a name", state(events, "m.room.name", "").Get("content.name").Str, "as it was at the invite")
		for _, e := range events.Array() {
			require.Len(t, e.Map(), 4, "stripped to content, sender, state_key and type: %s", e.Raw)
		}
		require.False(t, s.Joined(room).Exists())
		require.False(t, bob.Sync(s.NextBatch).Get("rooms").Exists(), "it is told once")
	}
	alice.Send(room, "hi")
	name(alice, room, "another name")
	require.False(t, bob.Sync(bob.Sync("").NextBatch).Get("rooms").Exists())
	filtered := ask(bob, "filter", `{"room":{"not_rooms":["`+room+`"]}}`)
	require.False(t, filtered.Get("rooms").Exists())
}

// TestKnock is SY-19 for knocks.
func TestKnock(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoomWith(object{"name": "a name", "initial_state": []object{
		{"type": "m.room.join_rules", "content": object{"join_rule": "knock"}},
	}})
	since := bob.Sync("").NextBatch
	bob.Do("POST", "/_matrix/client/v3/knock/"+room, object{}).WantOK()
	s := bob.Sync(since)
	events := s.Get("rooms.knock").Map()[room].Get("knock_state.events")
	require.Subset(t, keys(events), []string{"m.room.create/", "m.room.name/", "m.room.join_rules/", "m.room.member/" + bob.ID})
	require.Equal(t, "knock", membersIn(events)[bob.ID])
	require.True(t, bob.Sync("").Get("rooms.knock").Exists())
	bob.MustLeave(room)
	s = bob.Sync(s.NextBatch)
	require.True(t, s.Left(room).Exists(), "SY-18: a knock that was taken back")
	require.False(t, s.Get("rooms.knock").Exists())
}
