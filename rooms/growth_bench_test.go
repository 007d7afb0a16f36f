package rooms_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/rooms"
)

// The sizes of rooms, in members and in state events, between which costs should stay flat.
const (
	smallRoom = 10
	bigRoom   = 2000
)

// BenchmarkGrowth does one thing in a small room and in a big one in turns, so that both meet the same moments of the
// machine, and reports how many times as long the big one takes, in the median and at p99. Use -benchtime 2000x.
func BenchmarkGrowth(b *testing.B) {
	for name, grow := range map[string]func(*testing.B, *rooms.Service, id.RoomID, int){
		"join": func(b *testing.B, s *rooms.Service, room id.RoomID, n int) {
			user := id.UserID(fmt.Sprintf("@u%d:hs.test", n))
			check(b, s.SetMembership(context.Background(), rooms.Change{Room: room, Sender: user, Target: user, Membership: "join"}))
		},
		"state": func(b *testing.B, s *rooms.Service, room id.RoomID, n int) {
			key := fmt.Sprint(n)
			_, err := s.Send(context.Background(), rooms.Draft{
				Room: room, Sender: "@a:hs.test", Type: "m.test", StateKey: &key, Content: message,
			})
			check(b, err)
		},
		"send": nil,
	} {
		b.Run(name, func(b *testing.B) { compareSizes(b, onDisk(b), grow) })
	}
}

func check(b *testing.B, err error) {
	if err != nil {
		b.Fatal(err)
	}
}

// compareSizes measures grow, or a send by members if grow is nil, in both sizes.
func compareSizes(b *testing.B, s *rooms.Service, grow func(*testing.B, *rooms.Service, id.RoomID, int)) {
	n, filler := 0, grow
	if grow == nil {
		filler = func(b *testing.B, s *rooms.Service, room id.RoomID, n int) {
			user := id.UserID(fmt.Sprintf("@u%d:hs.test", n))
			check(b, s.SetMembership(context.Background(), rooms.Change{Room: room, Sender: user, Target: user, Membership: "join"}))
		}
		grow = func(b *testing.B, s *rooms.Service, room id.RoomID, n int) {
			send(b, s, room, "@a:hs.test", fmt.Sprint(n))
		}
	}
	make := func(size int) id.RoomID {
		room := newRoom(b, s, "@a:hs.test")
		for range size {
			n++
			filler(b, s, room, n)
		}
		return room
	}
	timed := func(room id.RoomID) time.Duration {
		n++
		began := time.Now()
		grow(b, s, room, n)
		return time.Since(began)
	}
	big, small := make(bigRoom), id.RoomID("")
	var smalls, bigs []time.Duration
	for i := 0; b.Loop(); i++ {
		if i%smallRoom == 0 {
			small = make(smallRoom)
		}
		smalls, bigs = append(smalls, timed(small)), append(bigs, timed(big))
	}
	report(b, "p50", smalls, bigs, 0.50)
	report(b, "p99", smalls, bigs, 0.99)
}

func report(b *testing.B, name string, smalls, bigs []time.Duration, share float64) {
	at := func(list []time.Duration) time.Duration {
		list = slices.Sorted(slices.Values(list))
		return list[int(float64(len(list)-1)*share)]
	}
	b.ReportMetric(float64(at(bigs))/float64(at(smalls)), name+"-growth")
	b.ReportMetric(float64(at(bigs).Microseconds()), name+"-big-µs")
}
