package homeservertest_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// gated is an engine whose commits wait at a gate, or fail there.
type gated struct {
	storage.Engine

	mu sync.Mutex // guards the following
	// gate, if not nil, is what commits wait for: whether they go through.
	gate    chan bool
	waiting chan struct{}
	// lost says that the next commit is stored and its answer lost; away that the next transaction cannot begin.
	lost, away bool
}

func (g *gated) Begin(ctx context.Context, readOnly bool) (storage.Conn, error) {
	if g.takeAway() {
		return nil, errors.New("planted: away")
	}
	c, err := g.Engine.Begin(ctx, readOnly)
	if err != nil || readOnly {
		return c, err
	}
	return &gatedConn{c, g}, nil
}

type gatedConn struct {
	storage.Conn
	g *gated
}

func (g *gated) takeAway() (away bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	away, g.away = g.away, false
	return away
}

// loseNext lets the answer to the next commit get lost, and the question what became of it.
func (g *gated) loseNext() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lost = true
}

func (c *gatedConn) Commit() error {
	c.g.mu.Lock()
	gate, lost := c.g.gate, c.g.lost
	c.g.lost, c.g.away = false, lost
	c.g.mu.Unlock()
	if lost {
		return errors.Join(c.Conn.Commit(), errors.New("planted: lost"))
	}
	if gate != nil {
		c.g.waiting <- struct{}{}
		if !<-gate {
			return errors.New("planted")
		}
	}
	return c.Conn.Commit()
}

// newGated is one of files, where reads go on beside a write.
func newGated(t *testing.T) *gated {
	t.Helper()
	engine, err := sqlite.Open(t.TempDir() + "/matrix.db")
	require.NoError(t, err)
	return &gated{Engine: engine}
}

// shut closes the gate.
func (g *gated) shut() (gate chan<- bool, waiting <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gate, g.waiting = make(chan bool, 16), make(chan struct{}, 16)
	return g.gate, g.waiting
}

func (g *gated) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gate = nil
}

// Whoever asks for what is on its way already gets a 200 only when it is durable, and an error when it failed.
func TestNothingIsAcknowledgedBeforeItIsDurable(t *testing.T) {
	for _, through := range []bool{true, false} {
		g := newGated(t)
		hs := homeservertest.New(t, func(c *homeserver.Config) { c.Storage = g })
		alice, bob := hs.User("alice"), hs.User("bob")
		room := alice.CreateRoom(homeservertest.Public)

		gate, waiting := g.shut()
		answers := make(chan int, 2)
		join := func() { answers <- bob.Join(room).Status }
		go join()
		<-waiting
		go join()
		select {
		case status := <-answers:
			t.Fatalf("answered %d while the commit was under way", status)
		case <-time.After(100 * time.Millisecond):
		}
		want := 200
		if !through {
			want = 500
		}
		g.open()
		gate <- through
		require.Equal(t, want, <-answers)
		require.Equal(t, want, <-answers)
		bob.MustJoin(room)
	}
}

// What was stored though nobody knew it is told once the next commit is, and who joined by it is in the room.
func TestCommitWhoseAnswerIsLost(t *testing.T) {
	g := newGated(t)
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.Storage = g })
	alice, bob := hs.User("alice"), hs.User("bob")
	room, other := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Public)
	since, bobs := alice.Sync("").NextBatch, bob.Sync("").NextBatch
	g.loseNext()
	require.Equal(t, 500, bob.Join(room).Status)
	g.loseNext()
	require.Equal(t, 500, alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "x"}).Status)
	alice.Send(other, "next")

	news := alice.Sync(since).Joined(room)
	require.Equal(t, bob.ID, news.Get(`timeline.events.#(type=="m.room.member").state_key`).String(), news.Raw)
	require.Equal(t, "x", news.Get(`timeline.events.#(type=="m.room.topic").content.topic`).String(), news.Raw)
	require.True(t, bob.Sync(bobs).Joined(room).Exists())
	bob.Send(room, "here")
}
