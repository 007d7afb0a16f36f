package rooms_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// onDisk is the rooms of a server over a SQLite file.
func onDisk(b *testing.B) *rooms.Service {
	b.Helper()
	engine, err := sqlite.Open(filepath.Join(b.TempDir(), "db"))
	require.NoError(b, err)
	db, err := storage.Open(context.Background(), engine)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, db.Close()) })
	key, err := signing.Generate(rand.Reader)
	require.NoError(b, err)
	hub := notify.New(db.Published())
	return rooms.New(rooms.Config{
		ServerName: "hs.test", Key: key, DB: db, Cache: roomstate.NewCache(db, hub, roomstate.Config{}), Hub: hub,
		Typing: ephemeral.NewTyping("boot", func(id.RoomID) {}), Now: time.Now, Rand: rand.Reader,
	})
}

func newRoom(b *testing.B, s *rooms.Service, creator id.UserID) id.RoomID {
	b.Helper()
	room, err := s.Create(context.Background(), creator, rooms.NewRoom{Preset: "public_chat"})
	require.NoError(b, err)
	return room
}

var message = []byte(`{"msgtype":"m.text","body":"a message of about one hundred bytes, which is what people write to each other now and then"}`)

func send(b *testing.B, s *rooms.Service, room id.RoomID, user id.UserID, txn string) {
	_, err := s.Send(context.Background(), rooms.Draft{
		Room: room, Sender: user, Type: "m.room.message", Content: message, Device: "D", Txn: txn,
	})
	if err != nil {
		b.Error(err)
	}
}

func BenchmarkSend(b *testing.B) {
	s := onDisk(b)
	room := newRoom(b, s, "@a:hs.test")
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		send(b, s, room, "@a:hs.test", fmt.Sprint(n))
	}
}

// Sixteen senders in four rooms, who share commits.
func BenchmarkSend16(b *testing.B) {
	s := onDisk(b)
	var list [4]id.RoomID
	for i := range list {
		list[i] = newRoom(b, s, "@a:hs.test")
	}
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(8) // times GOMAXPROCS
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			send(b, s, list[i%4], "@a:hs.test", fmt.Sprint(i))
		}
	})
}

func BenchmarkCreateRoom(b *testing.B) {
	s := onDisk(b)
	b.ReportAllocs()
	for b.Loop() {
		newRoom(b, s, "@a:hs.test")
	}
}

// A join costs the same however many are there.
func BenchmarkJoin(b *testing.B) {
	for _, members := range []int{10, 2000} {
		b.Run(fmt.Sprint("members=", members), func(b *testing.B) {
			s := onDisk(b)
			room := newRoom(b, s, "@a:hs.test")
			n := 0
			join := func() {
				n++
				user := id.UserID(fmt.Sprintf("@u%d:hs.test", n))
				err := s.SetMembership(context.Background(), rooms.Change{Room: room, Sender: user, Target: user, Membership: "join"})
				if err != nil {
					b.Error(err)
				}
			}
			for range members {
				join()
			}
			b.ReportAllocs()
			for b.Loop() {
				join()
			}
		})
	}
}
