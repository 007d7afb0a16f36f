package roomstate_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// world is a cache over a database whose commits can be made to fail.
type world struct {
	t      *testing.T
	db     *storage.DB
	cache  *roomstate.Cache
	key    signing.Key
	rules  *roomversion.Rules
	faulty *faulty
}

// faulty is an engine whose next commits of writes fail.
type faulty struct {
	storage.Engine
	commits atomic.Int64
}

func (f *faulty) Begin(ctx context.Context, readOnly bool) (storage.Conn, error) {
	c, err := f.Engine.Begin(ctx, readOnly)
	if err != nil || readOnly {
		return c, err
	}
	return &faultyConn{c, f}, nil
}

type faultyConn struct {
	storage.Conn
	f *faulty
}

func (c *faultyConn) Commit() error {
	if c.f.commits.Add(-1) >= 0 {
		return errors.New("planted")
	}
	return c.Conn.Commit()
}

func newWorld(t *testing.T, limits roomstate.Config) *world {
	t.Helper()
	faulty := &faulty{Engine: sqlite.Memory()}
	db, err := storage.Open(context.Background(), faulty)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	key, err := signing.Generate(rand.Reader)
	require.NoError(t, err)
	rules, _ := roomversion.Get("11")
	return &world{t, db, roomstate.NewCache(db, notify.New(0), limits), key, rules, faulty}
}

// event makes an event on a writer's head; who may send it is not asked here.
func (w *world) event(wr *roomstate.Writer, room id.RoomID, eventType string, stateKey *string, content string) *event.Event {
	w.t.Helper()
	d := event.Draft{
		Room: room, Sender: "@a:x", Type: eventType, StateKey: stateKey, Content: []byte(content), Depth: 1, Rules: w.rules,
	}
	if wr != nil {
		for _, x := range wr.Extremities() {
			d.PrevEvents, d.Depth = append(d.PrevEvents, x.ID), x.Depth+1
		}
	}
	ev, err := event.Build(d, "x", w.key)
	require.NoError(w.t, err)
	return ev
}

func (w *world) create(room id.RoomID) {
	w.t.Helper()
	wr, err := w.cache.Create(context.Background(), room, w.rules)
	require.NoError(w.t, err)
	key := ""
	require.NoError(w.t, wr.Propose(w.event(nil, room, "m.room.create", &key, `{"room_version":"11"}`), roomstate.Meta{}))
	p := wr.Queue()
	wr.Unlock()
	require.NoError(w.t, p.Wait(context.Background()))
}

func (w *world) send(room id.RoomID, eventType string, stateKey *string, content string) (*roomstate.Event, error) {
	w.t.Helper()
	ctx := context.Background()
	wr, err := w.cache.Lock(ctx, room)
	require.NoError(w.t, err)
	require.NoError(w.t, wr.Propose(w.event(wr, room, eventType, stateKey, content), roomstate.Meta{}))
	p := wr.Queue()
	wr.Unlock()
	return p.Events[0], p.Wait(ctx)
}

// What a reader finds in memory and what it reads back from storage are the same.
func TestViewIsWhatIsStored(t *testing.T) {
	w := newWorld(t, roomstate.Config{})
	w.create("!r:x")
	user := "@a:x"
	for i := range 400 {
		_, err := w.send("!r:x", "m.room.message", nil, fmt.Sprintf(`{"n":%d}`, i))
		require.NoError(t, err)
		if i%50 == 0 {
			_, err := w.send("!r:x", "m.room.member", &user, fmt.Sprintf(`{"membership":"join","n":%d}`, i))
			require.NoError(t, err)
		}
	}
	ctx := context.Background()
	fresh := roomstate.NewCache(w.db, notify.New(0), roomstate.Config{Events: 1, Nodes: 1})
	for _, after := range []int64{0, 5, 200, 390, 405} {
		var got [2][]id.EventID
		var roots [2]roomstate.Root
		for i, c := range []*roomstate.Cache{w.cache, fresh} {
			r, err := c.Room(ctx, "!r:x")
			require.NoError(t, err)
			list, _, err := r.Timeline(ctx, after, w.db.Published(), 1000)
			require.NoError(t, err)
			for _, e := range list {
				got[i] = append(got[i], e.ID)
			}
			roots[i], err = r.StateAt(ctx, after)
			require.NoError(t, err)
			m, ok := r.Member("@a:x")
			require.True(t, ok)
			require.Equal(t, "join", m.Membership)
		}
		require.Equal(t, got[0], got[1], "since %d", after)
		require.Len(t, got[0], int(w.db.Published()-after), "since %d", after)
		require.Equal(t, roots[0], roots[1], "state at %d", after)
	}
}

// An act that is refused leaves nothing in memory: the room goes on from what is stored.
func TestRefusedActIsForgotten(t *testing.T) {
	w := newWorld(t, roomstate.Config{})
	w.create("!r:x")
	first, err := w.send("!r:x", "m.room.message", nil, `{"n":1}`)
	require.NoError(t, err)
	w.faulty.commits.Store(1)
	name := ""
	lost, err := w.send("!r:x", "m.room.name", &name, `{"name":"lost"}`)
	require.Error(t, err)

	next, err := w.send("!r:x", "m.room.message", nil, `{"n":2}`)
	require.NoError(t, err)
	require.Equal(t, []id.EventID{first.ID}, next.PrevEvents, "the refused event is nobody's predecessor")
	r, err := w.cache.Room(context.Background(), "!r:x")
	require.NoError(t, err)
	_, err = r.EventByID(context.Background(), lost.ID)
	require.ErrorIs(t, err, storage.ErrNotFound)
	e, err := r.StateEvent(context.Background(), r.View().State, "m.room.name", "")
	require.NoError(t, err)
	require.Nil(t, e)
}

// A bound of nothing keeps working, with rooms coming and going.
func TestEviction(t *testing.T) {
	w := newWorld(t, roomstate.Config{Rooms: 1, Events: 1, Nodes: 1})
	for i := range 5 {
		w.create(id.RoomID(fmt.Sprintf("!r%d:x", i)))
	}
	for n := range 40 {
		_, err := w.send(id.RoomID(fmt.Sprintf("!r%d:x", n%5)), "m.room.message", nil, `{}`)
		require.NoError(t, err)
	}
	for i := range 5 {
		r, err := w.cache.Room(context.Background(), id.RoomID(fmt.Sprintf("!r%d:x", i)))
		require.NoError(t, err)
		list, _, err := r.Timeline(context.Background(), 0, w.db.Published(), 100)
		require.NoError(t, err)
		require.Len(t, list, 9)
	}
}

// Two rooms that are joined change together: after a commit both hold what was proposed, after a refusal neither.
func TestJoinedRoomsChangeTogether(t *testing.T) {
	w := newWorld(t, roomstate.Config{})
	w.create("!old:x")
	ctx, key := context.Background(), ""
	both := func(fresh id.RoomID) (*roomstate.Pending, error) {
		old, err := w.cache.Lock(ctx, "!old:x")
		require.NoError(t, err)
		defer old.Unlock()
		require.NoError(t, old.Propose(w.event(old, "!old:x", "m.room.tombstone", &key, `{"to":"`+string(fresh)+`"}`), roomstate.Meta{}))
		wr, err := w.cache.Create(ctx, fresh, w.rules)
		require.NoError(t, err)
		defer wr.Unlock()
		old.Join(wr)
		require.NoError(t, wr.Propose(w.event(nil, fresh, "m.room.create", &key, `{"room_version":"11"}`), roomstate.Meta{}))
		require.Same(t, old.Act(), wr.Act())
		p := old.Queue()
		return p, p.Wait(ctx)
	}
	w.faulty.commits.Store(1)
	_, err := both("!never:x")
	require.Error(t, err)
	_, err = w.cache.Room(ctx, "!never:x")
	require.ErrorIs(t, err, storage.ErrNotFound)
	old, err := w.cache.Room(ctx, "!old:x")
	require.NoError(t, err)
	e, err := old.StateEvent(ctx, old.View().State, "m.room.tombstone", "")
	require.NoError(t, err)
	require.Nil(t, e)

	p, err := both("!new:x")
	require.NoError(t, err)
	require.Len(t, p.Events, 2)
	require.Equal(t, p.Events[0].Pos+1, p.Events[1].Pos, "the joined room's events are behind")
	for _, c := range []*roomstate.Cache{w.cache, roomstate.NewCache(w.db, notify.New(0), roomstate.Config{})} {
		for room, eventType := range map[id.RoomID]string{"!old:x": "m.room.tombstone", "!new:x": "m.room.create"} {
			r, err := c.Room(ctx, room)
			require.NoError(t, err)
			e, err := r.StateEvent(ctx, r.View().State, eventType, "")
			require.NoError(t, err)
			require.NotNil(t, e, "%s in %s", eventType, room)
		}
	}
}

// What was proposed and not queued leaves no trace, not even in how state keys are numbered.
func TestUnlockForgetsWhatWasNotQueued(t *testing.T) {
	w := newWorld(t, roomstate.Config{})
	w.create("!r:x")
	ctx, key := context.Background(), ""
	wr, err := w.cache.Lock(ctx, "!r:x")
	require.NoError(t, err)
	for _, eventType := range []string{"m.room.name", "m.room.topic", "m.room.name"} {
		require.NoError(t, wr.Propose(w.event(wr, "!r:x", eventType, &key, `{}`), roomstate.Meta{}))
	}
	wr.Unlock()
	sent, err := w.send("!r:x", "m.room.topic", &key, `{"topic":"t"}`)
	require.NoError(t, err)
	fresh, err := roomstate.NewCache(w.db, notify.New(0), roomstate.Config{}).Room(ctx, "!r:x")
	require.NoError(t, err)
	e, err := fresh.StateEvent(ctx, fresh.View().State, "m.room.topic", "")
	require.NoError(t, err)
	require.NotNil(t, e, "the key of the topic is stored")
	require.Equal(t, sent.ID, e.ID)
	e, err = fresh.StateEvent(ctx, fresh.View().State, "m.room.name", "")
	require.NoError(t, err)
	require.Nil(t, e)
}
