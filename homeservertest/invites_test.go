package homeservertest_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// An invite comes by itself and may overtake the leave before it, which takes nothing back then; the next leave does.
func TestALateLeaveTakesNoInviteBack(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	server, rogue := network.New("one.test"), network.Rogue("rogue.test")
	bob, mallory := server.User("bob"), rogue.UserID("mallory")
	room := rogue.CreateRoom("11", mallory)
	leave := func() homeservertest.PDU {
		content := map[string]any{"membership": "leave"}
		return room.Extend(homeservertest.Draft{Type: "m.room.member", Sender: mallory, StateKey: &bob.ID, Content: content})
	}
	room.Invite(server, mallory, bob.ID)
	early := leave()
	room.Invite(server, mallory, bob.ID)
	rogue.Send(server, []homeservertest.PDU{early})
	require.NotEmpty(t, bob.Sync("").Invited(room.ID).Raw, "the invite")
	rogue.Send(server, []homeservertest.PDU{leave()})
	require.Empty(t, bob.Sync("").Invited(room.ID).Raw, "the invite that was taken back")
}

// A late leave that is looked at while the next invite comes takes nothing back either.
func TestALateLeaveRacesWithTheNextInvite(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	server, rogue := network.New("one.test"), network.Rogue("rogue.test")
	bob, mallory := server.User("bob"), rogue.UserID("mallory")
	room := rogue.CreateRoom("11", mallory)
	for range 30 {
		room.Invite(server, mallory, bob.ID)
		content := map[string]any{"membership": "leave"}
		late := room.Extend(homeservertest.Draft{Type: "m.room.member", Sender: mallory, StateKey: &bob.ID, Content: content})
		var sent sync.WaitGroup
		sent.Go(func() { rogue.Send(server, []homeservertest.PDU{late}) })
		room.Invite(server, mallory, bob.ID)
		sent.Wait()
		require.NotEmpty(t, bob.Sync("").Invited(room.ID).Raw, "the invite")
	}
}
