package federation_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// catchingUp is what is stored for a server to catch up with.
func (o *outside) catchingUp(server id.ServerName) (list []storage.CatchUp) {
	o.t.Helper()
	require.NoError(o.t, o.db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		list, err = tx.CatchUp(server, 1000)
		return err
	}))
	return list
}

// TestSenderCatchUp: a server that was away for long gets the newest event of each room, the oldest first, then what
// comes.
func TestSenderCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		end := o.start()
		o.is("a", dead)
		first := o.send(1, "a", "b") // the transaction that may have arrived
		synctest.Wait()
		newest := map[int64]int64{}
		for i := range 300 {
			room := int64(i % 60)
			if i >= 240 {
				room = 59 - room
			}
			newest[room] = o.send(room, "a", "b")
			time.Sleep(time.Minute)
		}
		o.send(61, "b")
		time.Sleep(2 * time.Hour)
		require.Len(t, o.catchingUp("a"), 60)
		outgoing, _ := o.rows()
		require.Empty(t, outgoing)
		end()

		defer o.start()()
		o.is("a", func(context.Context, received) error { time.Sleep(time.Second); return nil })
		time.Sleep(time.Hour)
		live := o.send(3, "a")
		time.Sleep(time.Minute)
		got := o.events("a")
		require.Equal(t, first, got[0])
		require.Equal(t, live, got[len(got)-1])
		require.Len(t, got, 62)
		require.IsIncreasing(t, got)
		for _, pos := range newest {
			require.Contains(t, got, pos)
		}
		require.Empty(t, o.catchingUp("a"))
		require.Len(t, o.events("b"), 302)
		o.check()
	})
}

// TestSenderTidiesAgain: what is sent while the queue is tidied up is not forgotten there.
func TestSenderTidiesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		o.cfg.SweepEvery = time.Second
		defer o.start()()
		for range 50 {
			o.send(1, "a")
			time.Sleep(time.Second) // until the very moment of the sweep
			o.send(1, "a")
			time.Sleep(time.Minute)
			outgoing, _ := o.rows()
			require.Empty(t, outgoing)
		}
		o.check()
	})
}

// TestSenderCatchUpByCount: in a shorter time more events than a server wants at once may be missed.
func TestSenderCatchUpByCount(t *testing.T) {
	tests := []struct {
		name    string
		events  int
		away    time.Duration
		atMost  int // get there
		atLeast int
	}{
		{"few", 90, 10 * time.Minute, 90, 90},
		{"many", 200, 10 * time.Minute, 52, 3},
		{"many in a short time", 200, 20 * time.Second, 200, 200},
		{"few in a long time", 90, 3 * time.Hour, 52, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutside(t)
				defer o.start()()
				o.is("a", dead)
				var last int64
				for i := range tt.events { // at most 50 of them are in the transaction under way
					last = o.send(int64(i%2), "a")
				}
				time.Sleep(tt.away)
				o.is("a", nil)
				o.sender.Alive("a")
				time.Sleep(time.Hour)
				got := o.events("a")
				require.Equal(t, last, got[len(got)-1])
				require.LessOrEqual(t, len(got), tt.atMost)
				require.GreaterOrEqual(t, len(got), tt.atLeast)
				o.check()
			})
		})
	}
}

// TestSenderCatchUpMeanwhile: events that come while a server catches up are behind what it has missed.
func TestSenderCatchUpMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", dead)
		for i := range 200 {
			o.send(int64(i), "a")
			time.Sleep(time.Minute)
		}
		o.is("a", func(context.Context, received) error { time.Sleep(time.Minute); return nil })
		o.sender.Alive("a")
		var last int64
		for range 3 {
			time.Sleep(30 * time.Second)
			last = o.send(1000, "a")
		}
		time.Sleep(time.Hour)
		got := o.events("a")
		require.Equal(t, last, got[len(got)-1])
		require.IsIncreasing(t, got)
		o.check()
	})
}

// TestSenderGoneForGood: a server that is away keeps nothing that is for others, be there never anything for it again.
func TestSenderGoneForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		end := o.start()
		o.is("a", dead)
		first := o.send(1, "a", "b")
		for range 5 {
			time.Sleep(2 * time.Hour)
			o.send(1, "b")
		}
		time.Sleep(2 * time.Hour)
		outgoing, destinations := o.rows()
		require.Empty(t, outgoing)
		for _, d := range destinations {
			require.Greater(t, d.Past, first, "server %s is past what is no longer there", d.Server)
		}
		end()

		defer o.start()()
		o.is("a", nil)
		time.Sleep(2 * time.Hour)
		require.Equal(t, []int64{first}, o.events("a"))
		require.Empty(t, o.catchingUp("a"))
		o.check()
	})
}
