package homeservertest_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// settle waits until the servers of a network have told each other everything.
func settle(t *testing.T, network *homeservertest.Network) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	network.Settle(ctx)
}

// FM-01 to FM-06, FM-11: users of two servers get into one room by invite and by join, and read each other.
func TestTwoServersOneRoom(t *testing.T) {
	for _, version := range []string{"1", "6", "10", "11", "12"} {
		t.Run("version="+version, func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			one, two := network.New("one.test"), network.New("two.test")
			alice, bob := one.User("alice"), two.User("bob")
			room := alice.CreateRoomWith(map[string]any{
				"preset": "private_chat", "room_version": version, "name": "Both", "invite": []string{bob.ID},
			})
			settle(t, network)
			invite := bob.Sync("").Get("rooms.invite")
			require.True(t, invite.Exists(), "bob is invited")
			require.Contains(t, invite.Raw, `"Both"`)

			bob.MustJoin(room)
			settle(t, network)
			require.Equal(t, "join", alice.State(room, "m.room.member", bob.ID).WantOK().Get("membership").String())
			require.Equal(t, "Both", bob.State(room, "m.room.name", "").WantOK().Get("name").String())

			alice.Send(room, "hello")
			settle(t, network)
			bob.Send(room, "hello yourself")
			settle(t, network)
			for _, user := range []*homeservertest.User{alice, bob} {
				timeline := user.Sync("").Get("rooms.join").Raw
				require.Contains(t, timeline, `"hello"`, user.ID)
				require.Contains(t, timeline, `"hello yourself"`, user.ID)
			}
			bob.MustLeave(room)
			settle(t, network)
			require.Equal(t, "leave", alice.State(room, "m.room.member", bob.ID).WantOK().Get("membership").String())
		})
	}
}

// F-89: an invite can be taken back by who has invited, though the user's server is not in the room; nobody else's word
// ends it.
func TestInviteTakenBack(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	rogue := network.Rogue("rogue.test")
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoomWith(map[string]any{"preset": "public_chat"})
	joined := rogue.Join(one, room, rogue.UserID("mal"))
	alice.Invite(room, bob).WantOK()
	settle(t, network)
	require.True(t, bob.Sync("").Invited(room).Exists())

	for _, membership := range []string{"leave", "ban", "join"} {
		rogue.Send(two, []homeservertest.PDU{joined.Build(homeservertest.Draft{
			Type: "m.room.member", Sender: rogue.UserID("mal"), StateKey: &bob.ID, Content: map[string]any{"membership": membership},
		})}).WantOK()
		require.True(t, bob.Sync("").Invited(room).Exists(), "whoever did not invite cannot take it back by %s", membership)
	}
	since := bob.Sync("").NextBatch
	alice.Kick(room, bob).WantOK()
	settle(t, network)
	update := bob.Sync(since)
	require.True(t, update.Left(room).Exists(), "%s", update.Body)
	require.False(t, bob.Sync("").Invited(room).Exists())
	alice.Invite(room, bob).WantOK()
	settle(t, network)
	bob.MustJoin(room)
}

// FM-11: an invite from elsewhere is there after a restart, and so is that it was turned down.
func TestInviteFromElsewhereOutlivesARestart(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoomWith(map[string]any{"preset": "private_chat", "name": "Both", "invite": []string{bob.ID}})
	settle(t, network)
	before := bob.Sync("")
	require.True(t, before.Invited(room).Exists())
	two.Restart()
	require.Contains(t, bob.Sync("").Invited(room).Raw, `"Both"`)
	require.False(t, bob.Sync(before.NextBatch).Invited(room).Exists(), "it was told already")

	bob.MustLeave(room)
	two.Restart()
	require.True(t, bob.Sync(before.NextBatch).Left(room).Exists())
	require.False(t, bob.Sync("").Invited(room).Exists())
	settle(t, network)
	require.Equal(t, "leave", alice.State(room, "m.room.member", bob.ID).WantOK().Get("membership").String())
}

// FP-11: what was sent behind an invite, and before the join, is followed by the room's state and not by what the
// invited server knew of it.
func TestEventsBetweenInviteAndJoin(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoomWith(map[string]any{"preset": "private_chat", "invite": []string{bob.ID}})
	settle(t, network)
	alice.Send(room, "between")
	bob.MustJoin(room)
	alice.Send(room, "behind")
	settle(t, network)
	bob.Expect(room, homeservertest.Text("behind"))
	page := bob.Messages(room, url.Values{"dir": {"b"}, "limit": {"50"}}).WantOK()
	require.Contains(t, page.Get("chunk").Raw, "between")
	for _, key := range []string{"m.room.join_rules", "m.room.power_levels", "m.room.history_visibility"} {
		bob.State(room, key, "").WantOK()
	}
}
