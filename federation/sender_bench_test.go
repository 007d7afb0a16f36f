package federation_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// BenchmarkSendWithDeadDestinations: what one message costs that is for nobody else, for a server that is there, and for
// 1,000 that are not. It ends when it is durable and its servers were woken.
func BenchmarkSendWithDeadDestinations(b *testing.B) {
	for _, tt := range []struct {
		name    string
		servers int
		behave  func(context.Context, received) error
	}{{"nobody", 0, nil}, {"1 live", 1, nil}, {"1000 dead", 1000, dead}, {"1000 black holes", 1000, hole}} {
		b.Run(tt.name, func(b *testing.B) { benchmarkSend(b, tt.servers, tt.behave) })
	}
}

func benchmarkSend(b *testing.B, servers int, behave func(context.Context, received) error) {
	o := newOutside(b)
	engine, err := sqlite.Open(filepath.Join(b.TempDir(), "bench.db"))
	require.NoError(b, err)
	o.db, err = storage.Open(context.Background(), engine)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, o.db.Close()) })
	o.cfg.DB = o.db
	var names []id.ServerName
	for i := range servers {
		names = append(names, id.ServerName(fmt.Sprintf("s%d.example.org", i)))
		o.is(names[i], behave)
	}
	end := o.start()
	o.everybody = o.send(1, names...)
	time.Sleep(200 * time.Millisecond)
	b.ReportAllocs()
	for b.Loop() {
		o.send(1, names...)
	}
	b.StopTimer()
	end()
	o.check()
}

// BenchmarkWake: what the batcher's goroutine spends on a message for 1,000 servers that are not there.
func BenchmarkWake(b *testing.B) {
	o := newOutside(b)
	var names []id.ServerName
	for i := range 1000 {
		names = append(names, id.ServerName(fmt.Sprintf("s%d.example.org", i)))
		o.is(names[i], dead)
	}
	o.cfg.FirstRetry = time.Hour
	end := o.start()
	o.send(1, names...)
	time.Sleep(500 * time.Millisecond)
	b.ReportAllocs()
	for b.Loop() {
		o.sender.Wake(names)
	}
	b.StopTimer()
	end()
}

// BenchmarkDeliver: an event that 1,000 servers get, from its commit to the last answer.
func BenchmarkDeliver(b *testing.B) {
	o := newOutside(b)
	var names []id.ServerName
	for i := range 1000 {
		names = append(names, id.ServerName(fmt.Sprintf("s%d.example.org", i)))
	}
	end := o.start()
	sent := 0
	arrived := func(n int) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, name := range names {
			got := o.got[name]
			if len(got) == 0 || got[len(got)-1].events[len(got[len(got)-1].events)-1] < int64(n) {
				return false
			}
		}
		return true
	}
	b.ReportAllocs()
	for b.Loop() {
		at := o.send(1, names...)
		for sent = 0; !arrived(int(at)); sent++ {
			time.Sleep(time.Millisecond)
		}
	}
	b.StopTimer()
	end()
	o.check()
}
