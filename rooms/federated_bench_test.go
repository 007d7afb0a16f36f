package rooms_test

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/rooms"
)

// The server asks itself here: it is in the room, like any other that asks.

func BenchmarkBackfill100(b *testing.B) {
	s := onDisk(b)
	room := newRoom(b, s, "@a:hs.test")
	var last id.EventID
	for i := range 300 {
		var err error
		last, err = s.Send(context.Background(), rooms.Draft{Room: room, Sender: "@a:hs.test", Type: "m.room.message", Content: message, Device: "D", Txn: fmt.Sprint(i)})
		require.NoError(b, err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, err := s.BackfillFor(context.Background(), "hs.test", room, []id.EventID{last}, 100)
		require.NoError(b, err)
	}
}

// manyMembers is a room with many members, and its newest event.
func manyMembers(b *testing.B, members int) (s *rooms.Service, room id.RoomID, last id.EventID) {
	b.Helper()
	s = onDisk(b)
	room = newRoom(b, s, "@a:hs.test")
	var wg sync.WaitGroup
	users := make(chan int)
	for range 64 {
		wg.Go(func() {
			for n := range users {
				user := id.UserID(fmt.Sprintf("@u%d:hs.test", n))
				if err := s.SetMembership(context.Background(), rooms.Change{Room: room, Sender: user, Target: user, Membership: "join"}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for n := range members {
		users <- n
	}
	close(users)
	wg.Wait()
	last, err := s.Send(context.Background(), rooms.Draft{Room: room, Sender: "@a:hs.test", Type: "m.room.message", Content: message})
	require.NoError(b, err)
	return s, room, last
}

func BenchmarkStateIDs10000(b *testing.B) {
	s, room, last := manyMembers(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		state, err := s.StateFor(context.Background(), "hs.test", room, last)
		require.NoError(b, err)
		ids, _, err := state.IDs(context.Background())
		require.NoError(b, err)
		require.Greater(b, len(ids), 10_000)
	}
}

func BenchmarkState10000(b *testing.B) {
	s, room, last := manyMembers(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		state, err := s.StateFor(context.Background(), "hs.test", room, last)
		require.NoError(b, err)
		require.NoError(b, state.WriteState(context.Background(), io.Discard))
		require.NoError(b, state.WriteChain(context.Background(), io.Discard))
	}
}
