package rooms_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// crowded is a server over a SQLite file with a room of many members.
func crowded(b *testing.B, members int) *federated {
	b.Helper()
	engine, err := sqlite.Open(filepath.Join(b.TempDir(), "db"))
	require.NoError(b, err)
	f := emptyFederated(b, engine)
	room, err := f.Create(context.Background(), alice, rooms.NewRoom{Preset: "public_chat", Version: "11"})
	require.NoError(b, err)
	f.enter(room)
	require.NoError(b, f.deliver(f.peer.member(mal, "join")))
	eachBeside(members-2, func(i int) { f.join(id.UserID(fmt.Sprintf("@u%d:hs.test", i))) })
	return f
}

// eachBeside calls fn for many numbers, sixteen at a time.
func eachBeside(n int, fn func(i int)) {
	free := make(chan struct{}, 16)
	for i := range n {
		free <- struct{}{}
		go func() {
			defer func() { <-free }()
			fn(i)
		}()
	}
	for range cap(free) {
		free <- struct{}{}
	}
}

// following makes chains of events, ahead of the clock of a benchmark.
type following struct {
	f    *federated
	prev []id.EventID
	auth []id.EventID
	n    int
}

func (f *federated) following() *following {
	return &following{f: f, prev: f.heads(), auth: f.peer.message(mal, "x").AuthEvents}
}

func (c *following) next() *event.Event {
	c.n++
	d := c.f.peer.text(mal, fmt.Sprintf("a message of about one hundred bytes, which is what people write to each other now and then %d", c.n))
	d.PrevEvents, d.AuthEvents = c.prev, c.auth
	ev := c.f.peer.make(d)
	c.prev = []id.EventID{ev.ID}
	return ev
}

// Receiving an event costs the same in rooms of every size.
func BenchmarkReceive(b *testing.B) {
	for _, members := range []int{10, 10000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			f := crowded(b, members)
			chain := f.following()
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				ev := chain.next()
				b.StartTimer()
				if err := f.deliver(ev); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A whole transaction.
func BenchmarkReceive50(b *testing.B) {
	f := crowded(b, 1000)
	chain := f.following()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		var list []json.RawMessage
		for range 50 {
			list = append(list, json.RawMessage(chain.next().JSON))
		}
		b.StartTimer()
		for _, err := range f.Receive(context.Background(), "peer.test", f.room.ID, list) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
