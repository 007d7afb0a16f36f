package roomstate_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// While rooms are pushed out of memory all the time, whoever looks after a commit sees what was committed.
func TestReadersSeeCommitsOfEvictedRooms(t *testing.T) {
	w := newWorld(t, roomstate.Config{Rooms: 1, Events: 1, Nodes: 1})
	const rooms, senders, each = 3, 4, 30
	for i := range rooms {
		w.create(id.RoomID(fmt.Sprintf("!r%d:x", i)))
	}
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for n := range each {
				room := id.RoomID(fmt.Sprintf("!r%d:x", n%rooms))
				e, err := w.trySend(room)
				if !noError(t, err) {
					return
				}
				r, err := w.cache.Room(context.Background(), room)
				if !noError(t, err) {
					return
				}
				if v := r.View(); v.Pos < e.Pos {
					t.Errorf("the view of %s ends at %d, before the committed event at %d", room, v.Pos, e.Pos)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range rooms {
		r, err := w.cache.Room(context.Background(), id.RoomID(fmt.Sprintf("!r%d:x", i)))
		require.NoError(t, err)
		list, _, err := r.Timeline(context.Background(), 0, w.db.Published(), 1000)
		require.NoError(t, err)
		require.Len(t, list, senders*each/rooms+1)
	}
}

func noError(t *testing.T, err error) bool {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

// trySend sends a message from any goroutine.
func (w *world) trySend(room id.RoomID) (*roomstate.Event, error) {
	ctx := context.Background()
	wr, err := w.cache.Lock(ctx, room)
	if err != nil {
		return nil, err
	}
	err = wr.Propose(w.event(wr, room, "m.room.message", nil, `{}`), roomstate.Meta{})
	if err != nil {
		wr.Unlock()
		return nil, err
	}
	p := wr.Queue()
	wr.Unlock()
	return p.Events[0], p.Wait(ctx)
}

// When an act cannot get its place, whatever was built on it is refused with it.
func TestActThatGetsNoPlace(t *testing.T) {
	w := newWorld(t, roomstate.Config{Nodes: 1})
	w.create("!r:x")
	for i := range 70 { // a tree of two levels, of which only one node stays in memory
		key := fmt.Sprint(i)
		_, err := w.send("!r:x", "k", &key, `{}`)
		require.NoError(t, err)
	}
	gate := make(chan struct{})
	w.db.Queue(&storage.Act{Committed: func(storage.Pos) { <-gate }}) // nothing is written meanwhile

	ctx, cancel := context.WithCancel(context.Background())
	wr, err := w.cache.Lock(ctx, "!r:x")
	require.NoError(t, err)
	key := "3"
	require.NoError(t, wr.Propose(w.event(wr, "!r:x", "k", &key, `{"n":1}`), roomstate.Meta{}))
	cancel()
	lost := wr.Queue()
	wr.Unlock()

	wr, err = w.cache.Lock(context.Background(), "!r:x")
	require.NoError(t, err)
	require.NoError(t, wr.Propose(w.event(wr, "!r:x", "m", nil, `{}`), roomstate.Meta{}))
	behind := wr.Queue()
	wr.Unlock()
	close(gate)
	require.Error(t, lost.Wait(context.Background()))
	require.ErrorIs(t, behind.Wait(context.Background()), storage.ErrStale)

	_, err = w.send("!r:x", "k", &key, `{"n":2}`)
	require.NoError(t, err)
	r, err := w.cache.Room(context.Background(), "!r:x")
	require.NoError(t, err)
	state, err := r.State(context.Background(), r.View().State)
	require.NoError(t, err)
	require.Len(t, state, 71)
}

// A Writer that finds nothing to do can wait until what it found is durable.
func TestUnsettled(t *testing.T) {
	w := newWorld(t, roomstate.Config{})
	w.create("!r:x")
	gate := make(chan struct{})
	w.db.Queue(&storage.Act{Committed: func(storage.Pos) { <-gate }}) // nothing is written meanwhile
	ctx := context.Background()
	wr, err := w.cache.Lock(ctx, "!r:x")
	require.NoError(t, err)
	require.Nil(t, wr.Unsettled())
	require.NoError(t, wr.Propose(w.event(wr, "!r:x", "m", nil, `{}`), roomstate.Meta{}))
	queued := wr.Queue()
	wr.Unlock()

	wr, err = w.cache.Lock(ctx, "!r:x")
	require.NoError(t, err)
	require.Same(t, queued, wr.Unsettled())
	wr.Unlock()
	close(gate)
	require.NoError(t, queued.Wait(ctx))
	wr, err = w.cache.Lock(ctx, "!r:x")
	require.NoError(t, err)
	require.Nil(t, wr.Unsettled())
	wr.Unlock()
}

// A state that is on its way to storage can be built upon, however little of it stays in the cache.
func TestStatesThatAreNotWritten(t *testing.T) {
	w := newWorld(t, roomstate.Config{Nodes: 1})
	w.create("!r:x")
	gate := make(chan struct{})
	w.db.Queue(&storage.Act{Committed: func(storage.Pos) { <-gate }}) // nothing is written meanwhile
	var last *roomstate.Pending
	for i := range 70 {
		wr, err := w.cache.Lock(context.Background(), "!r:x")
		require.NoError(t, err)
		key := fmt.Sprint(i)
		require.NoError(t, wr.Propose(w.event(wr, "!r:x", "k", &key, `{}`), roomstate.Meta{}))
		last = wr.Queue()
		wr.Unlock()
	}
	close(gate)
	require.NoError(t, last.Wait(context.Background()))
	r, err := w.cache.Room(context.Background(), "!r:x")
	require.NoError(t, err)
	state, err := r.State(context.Background(), r.View().State)
	require.NoError(t, err)
	require.Len(t, state, 71)
}
