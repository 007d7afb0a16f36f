package rooms_test

import (
	"fmt"
	"testing"

	homeserver "github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// BenchmarkSchedule: what does an event cost that is scheduled and restarted, beside two thousand others?
func BenchmarkSchedule(b *testing.B) {
	hs := homeservertest.New(b, func(c *homeserver.Config) { c.Delays.PerUser = 1 << 20 })
	alice, others := hs.User("alice"), hs.User("others")
	room, theirs := alice.CreateRoom(homeservertest.Private), others.CreateRoom(homeservertest.Private)
	for i := range 2_000 {
		later(others, theirs, fmt.Sprint("send/m.room.message/", i), 80_000_000, text("a")).WantOK()
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		made := later(alice, room, fmt.Sprint("send/m.room.message/", i), 80_000_000, text("a")).WantOK().Get("delay_id").Str
		alice.Do("POST", delayed+"/"+made+"/restart", nil).WantOK()
		alice.Do("POST", delayed+"/"+made+"/cancel", nil).WantOK()
		i++
	}
}
