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
}

func (g *gated) Begin(ctx context.Context, readOnly bool) (storage.Conn, error) {
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

func (c *gatedConn) Commit() error {
	c.g.mu.Lock()
	gate := c.g.gate
	c.g.mu.Unlock()
	if gate != nil {
		c.g.waiting <- struct{}{}
		if !<-gate {
			return errors.New("planted")
		}
	}
	return c.Conn.Commit()
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
		engine, err := sqlite.Open(t.TempDir() + "/matrix.db") // where reads go on beside a write
		require.NoError(t, err)
		g := &gated{Engine: engine}
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
