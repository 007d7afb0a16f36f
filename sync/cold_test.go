package syncing_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	syncing "github.com/embedmatrix/homeserver/sync"
)

// BenchmarkCold: an initial sync of one room of which nothing is in memory, as after a start.
func BenchmarkCold(b *testing.B) {
	for _, members := range []int{20, 2000} {
		p := newPlant(b)
		room := p.room(0, members)
		for range 20 {
			p.send(room, message(user(0), "hello"))
		}
		for _, filter := range []string{`{}`, lazy} {
			b.Run(fmt.Sprintf("members=%d/filter=%s", members, filter), func(b *testing.B) {
				q := syncing.Request{User: user(1), Device: "D", Filter: p.filter(filter)}
				b.ReportAllocs()
				for b.Loop() {
					cold := syncing.New(syncing.Config{
						DB: p.db, Cache: roomstate.NewCache(p.db, p.hub, roomstate.Config{}), Hub: p.hub,
						Typing: ephemeral.NewTyping("boot", func(id.RoomID) {}),
					})
					if _, err := cold.Sync(context.Background(), q); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
