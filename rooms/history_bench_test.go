package rooms_test

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// filed is a server over a SQLite file.
func filed(b *testing.B) *homeservertest.Server {
	b.Helper()
	engine, err := sqlite.Open(filepath.Join(b.TempDir(), "db"))
	require.NoError(b, err)
	return homeservertest.New(b, func(c *homeserver.Config) { c.Storage = engine })
}

// BenchmarkMessages pages through a room of 2,000 messages by 100 and by 10, and reads its newest page.
func BenchmarkMessages(b *testing.B) {
	hs := filed(b)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	for range 2000 {
		alice.SendEvent(room, "m.room.message", message).WantOK()
	}
	for _, limit := range []string{"100", "10"} {
		b.Run(limit, func(b *testing.B) {
			b.ReportAllocs()
			q := url.Values{"dir": {"b"}, "limit": {limit}}
			for b.Loop() {
				r := alice.Messages(room, q).WantOK()
				q.Set("from", r.Get("end").String())
				if !r.Get("end").Exists() {
					q.Del("from")
				}
			}
		})
	}
	b.Run("newest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"20"}}).WantOK()
		}
	})
}

// BenchmarkState reads the state of a room with 500 state events, 184 KB in all.
func BenchmarkState(b *testing.B) {
	hs := filed(b)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	for i := range 500 {
		alice.SetState(room, "com.example.state", fmt.Sprint(i), map[string]any{"text": strings.Repeat("x", 50)}).WantOK()
	}
	b.ReportAllocs()
	for b.Loop() {
		alice.Do("GET", inRoom(room, "state"), nil).WantOK()
	}
}

// BenchmarkMembers reads who is in a room of 1,000.
func BenchmarkMembers(b *testing.B) {
	hs := filed(b)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Public)
	for i := range 1000 {
		hs.User(fmt.Sprintf("user-%d", i)).MustJoin(room)
	}
	for _, path := range []string{"members", "joined_members"} {
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				alice.Do("GET", inRoom(room, path), nil).WantOK()
			}
		})
	}
}

// BenchmarkReceipt moves a receipt between two messages and back, every other time for nothing.
func BenchmarkReceipt(b *testing.B) {
	hs := filed(b)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	sent := []string{alice.Send(room, "1"), alice.Send(room, "2")}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		receipt(alice, room, "m.read", sent[n%2], nil).WantOK()
	}
}
