package syncing_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// onDisk keeps a server's rows in a file, so that commits cost what they cost.
func onDisk(b *testing.B) func(*homeserver.Config) {
	return func(c *homeserver.Config) {
		engine, err := sqlite.Open(filepath.Join(b.TempDir(), "hs.db"))
		require.NoError(b, err)
		b.Cleanup(func() { engine.Close() })
		c.Storage = engine
	}
}

// BenchmarkToDevice sends messages to one idle device, eight senders at a time, and then delivers all of them: the metrics are
// messages a second, accepted and delivered.
func BenchmarkToDevice(b *testing.B) {
	messages := 10_000
	if testing.Short() {
		messages = 500
	}
	for b.Loop() {
		hs := homeservertest.New(b, onDisk(b))
		alice, bob := hs.User("alice"), hs.User("bob")
		since := bob.Sync("").NextBatch
		began := time.Now()
		var senders sync.WaitGroup
		for n := range 8 {
			senders.Go(func() {
				for i := n; i < messages; i += 8 {
					sendTo(alice, strconv.Itoa(i), to(bob, bob.Device, text("hello"))).WantOK()
				}
			})
		}
		senders.Wait()
		accepted := time.Since(began)
		began = time.Now()
		for got := 0; got < messages; {
			s := bob.Sync(since)
			list := told(s)
			require.NotEmpty(b, list)
			got, since = got+len(list), s.NextBatch
		}
		b.ReportMetric(float64(messages)/accepted.Seconds(), "accepted/s")
		b.ReportMetric(float64(messages)/time.Since(began).Seconds(), "delivered/s")
	}
}

// BenchmarkDeviceChange is a change of a device of somebody who shares rooms with others, up to the sync that tells one of
// these of it: the number of rooms does not matter.
func BenchmarkDeviceChange(b *testing.B) {
	for _, rooms := range []int{1, 500} {
		b.Run(fmt.Sprint(rooms, " rooms"), func(b *testing.B) {
			hs := homeservertest.New(b, onDisk(b))
			alice, bob := hs.User("alice"), hs.User("bob")
			for range rooms {
				bob.MustJoin(alice.CreateRoom(public))
			}
			since := bob.Sync("").NextBatch
			b.ReportAllocs()
			for b.Loop() {
				changeDevices(alice)
				s := bob.Sync(since)
				changed, _ := lists(s)
				require.Equal(b, []string{alice.ID}, changed)
				since = s.NextBatch
			}
		})
	}
}
