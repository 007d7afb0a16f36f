package federation_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// An invite is here before the room is. Who has come by one reads back past it, to the beginning.
func TestHistoryBeforeAnInvite(t *testing.T) {
	tests := []struct {
		name string
		in   func(network *homeservertest.Network, alice, bob *homeservertest.User, room string)
	}{
		{"at once", func(_ *homeservertest.Network, alice, bob *homeservertest.User, room string) {
			alice.MustInvite(room, bob)
			bob.MustJoin(room)
		}},
		{"later", func(_ *homeservertest.Network, alice, bob *homeservertest.User, room string) {
			alice.MustInvite(room, bob)
			alice.Send(room, "meanwhile")
			bob.MustJoin(room)
		}},
		{"the second time", func(_ *homeservertest.Network, alice, bob *homeservertest.User, room string) {
			alice.MustInvite(room, bob)
			bob.MustLeave(room)
			alice.Send(room, "meanwhile")
			alice.MustInvite(room, bob)
			bob.MustJoin(room)
		}},
		{"again", func(network *homeservertest.Network, alice, bob *homeservertest.User, room string) {
			alice.MustInvite(room, bob)
			bob.MustJoin(room)
			bob.MustLeave(room)
			network.Settle(t.Context())
			alice.Send(room, "meanwhile")
			alice.MustInvite(room, bob)
			bob.MustJoin(room)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			one, two := network.New("one.test"), network.New("two.test")
			alice, bob := one.User("alice"), two.User("bob")
			room := alice.CreateRoom(homeservertest.Private)
			alice.Send(room, "before")
			tt.in(network, alice, bob, room)
			last := alice.Send(room, "last")
			bob.Expect(room, homeservertest.ID(last))
			first := bob.Sync("").Joined(room)
			require.Equal(t, read(t, alice, room, 5), read(t, bob, room, 5))
			require.NotContains(t, first.Get("timeline.events.#.content.membership").String(), "invite")
		})
	}
}
