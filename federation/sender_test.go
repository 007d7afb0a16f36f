package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

func TestSenderOrderAndBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		var forA, forB []int64
		for i := range 120 {
			forA = append(forA, o.send(int64(i%3), "a", "own"))
			if i%10 == 0 {
				forB = append(forB, o.send(7, "b", "own"))
			}
		}
		defer o.start()()
		synctest.Wait()
		require.Equal(t, forA, o.events("a"))
		require.Equal(t, forB, o.events("b"))
		require.Len(t, o.transactions("a"), 3)
		require.Len(t, o.transactions("b"), 1)
		require.Empty(t, o.triedAt("own"))

		forA = append(forA, o.send(1, "a"))
		synctest.Wait()
		require.Equal(t, forA, o.events("a"), "a wake-up is enough")
		o.check()
	})
}

// TestSenderOneInFlight: what comes while a transaction is under way is in the next one, and no server waits for another.
func TestSenderOneInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", func(context.Context, received) error { time.Sleep(time.Second); return nil })
		var want []int64
		for range 10 {
			want = append(want, o.send(1, "a", "b"))
			synctest.Wait()
		}
		require.Equal(t, want, o.events("b"))
		require.Len(t, o.transactions("b"), 10)
		time.Sleep(3 * time.Second)
		require.Equal(t, want, o.events("a"))
		require.Len(t, o.transactions("a"), 2)
		o.check()
	})
}

func TestSenderLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		end := o.start()
		o.is("a", func(_ context.Context, txn received) error { o.take("a", txn); return errGone })
		first := o.send(1, "a")
		o.sender.SendEDU([]id.ServerName{"a"}, "m.receipt", "r", json.RawMessage(`{"r":1}`))
		time.Sleep(20 * time.Second)
		second := o.send(1, "a")
		tries := len(o.triedAt("a"))
		require.Greater(t, tries, 3)
		require.Equal(t, []int64{first}, o.events("a"), "one id, however often")
		end()

		defer o.start()()
		o.is("a", nil)
		time.Sleep(time.Minute)
		require.Equal(t, []int64{first, second}, o.events("a"))
		require.Len(t, o.transactions("a"), 2)
		o.check()
	})
}

// TestSenderExactlyOnce: servers fail before and after they have taken a transaction, and the process ends at any time.
func TestSenderExactlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		o.cfg.LongestRetry = 5 * time.Second
		o.cfg.CatchUpAfter, o.cfg.CatchUpRows = 1000*time.Hour, 1<<30
		o.cfg.SweepEvery = time.Second
		random := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		chance := func(n int) int { mu.Lock(); defer mu.Unlock(); return random.IntN(n) }
		servers := []id.ServerName{"a", "b", "c"}
		for _, server := range servers {
			o.is(server, func(_ context.Context, txn received) error {
				time.Sleep(time.Duration(chance(300)) * time.Millisecond)
				switch chance(4) {
				case 0:
					return errGone
				case 1:
					o.take(server, txn)
					return errGone
				}
				return nil
			})
		}
		want := map[id.ServerName][]int64{}
		for range 20 {
			end := o.start()
			for range 30 {
				to := servers[chance(3):]
				at := o.send(int64(chance(5)), to...)
				for _, s := range to {
					want[s] = append(want[s], at)
				}
				time.Sleep(time.Duration(chance(100)) * time.Millisecond)
			}
			end()
		}
		defer o.start()()
		time.Sleep(5 * time.Minute)
		for _, s := range servers {
			require.Equal(t, want[s], o.events(s), "server %s", s)
		}
		outgoing, _ := o.rows()
		require.Empty(t, outgoing, "everybody has got everything")
		o.check()
	})
}

// TestSenderCloseInFlight: Close ends what is under way at once, and leaves no goroutine.
func TestSenderCloseInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		end := o.start()
		o.is("a", hole)
		at := o.send(1, "a")
		synctest.Wait()
		began := time.Now()
		end()
		require.Zero(t, time.Since(began))
		_, destinations := o.rows()
		require.Len(t, destinations, 1)
		require.NotEmpty(t, destinations[0].TxnID)
		require.Zero(t, destinations[0].FailingSinceMS, "it is not the server's fault")

		o.is("a", nil)
		defer o.start()()
		synctest.Wait()
		require.Equal(t, []int64{at}, o.events("a"))
		require.Equal(t, destinations[0].TxnID, o.transactions("a")[0].id)
	})
}

func TestSenderBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		end := o.start()
		o.is("a", dead)
		o.send(1, "a")
		time.Sleep(12 * time.Hour)
		tries := o.triedAt("a")
		var before time.Duration
		for i := 1; i < len(tries); i++ {
			pause := tries[i].Sub(tries[i-1])
			switch {
			case before == 0:
				require.InDelta(t, 1.125, pause.Seconds(), 0.13)
			case pause < 48*time.Minute:
				require.GreaterOrEqual(t, pause, 2*before, "at least doubled")
			default:
				require.LessOrEqual(t, pause, time.Hour)
			}
			before = pause
		}
		require.InDelta(t, 24, len(tries), 4)
		end()

		defer o.start()()
		o.send(1, "a")
		synctest.Wait()
		require.Len(t, o.triedAt("a"), len(tries), "the next process leaves it alone as well")
		time.Sleep(time.Hour)
		again := len(o.triedAt("a")) - len(tries)
		require.True(t, again == 1 || again == 2, "%d tries in an hour, of which each is at least 48 minutes after the one before", again)
		o.check()
	})
}

// TestSenderJitter: servers that failed together are not tried together.
func TestSenderJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		var names []id.ServerName
		for i := range 50 {
			names = append(names, id.ServerName(fmt.Sprintf("s%d", i)))
			o.is(names[i], dead)
		}
		o.send(1, names...)
		time.Sleep(10 * time.Minute)
		at := map[time.Time]bool{}
		for _, name := range names {
			tries := o.triedAt(name)
			at[tries[len(tries)-1].Truncate(time.Second)] = true
		}
		require.Greater(t, len(at), 25)
	})
}

func TestSenderAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", dead)
		o.send(1, "a")
		time.Sleep(6 * time.Hour)
		tries := len(o.triedAt("a"))
		for range 100 {
			o.sender.Alive("a")
			synctest.Wait()
		}
		require.Len(t, o.triedAt("a"), tries+1, "tried at once, but not by every request that comes")
		o.is("a", nil)
		o.sender.Alive("a")
		o.sender.Alive("nobody")
		time.Sleep(11 * time.Second)
		require.Len(t, o.events("a"), 1)
		o.check()
	})
}

func TestSenderRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", func(context.Context, received) error {
			return &wire.Error{Status: 429, Code: "M_LIMIT_EXCEEDED", RetryAfter: 30 * time.Second}
		})
		o.send(1, "a")
		time.Sleep(29 * time.Second)
		require.Len(t, o.triedAt("a"), 1)
		time.Sleep(2 * time.Second)
		require.Len(t, o.triedAt("a"), 2)
	})
}

// TestSenderBadEvent: an event that a server cannot bear is given up, and nothing else.
func TestSenderBadEvent(t *testing.T) {
	for name, err := range map[string]error{"refused": status(400, "M_BAD_JSON"), "breaks": status(500, "M_UNKNOWN"), "large": status(413, "")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutside(t)
				var want []int64
				bad := int64(0)
				for i := range 60 {
					at := o.send(1, "a")
					if i == 20 {
						bad = at
						continue
					}
					want = append(want, at)
				}
				o.is("a", refusing(bad, err))
				defer o.start()()
				time.Sleep(time.Hour)
				require.Equal(t, want, o.events("a"))
				o.check()
			})
		})
	}
}

// TestSenderSickServer: one that can take nothing for hours loses next to nothing.
func TestSenderSickServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		var want []int64
		for range 40 {
			want = append(want, o.send(1, "a"))
		}
		o.is("a", func(context.Context, received) error { return status(500, "M_UNKNOWN") })
		defer o.start()()
		time.Sleep(6 * time.Hour)
		o.is("a", nil)
		time.Sleep(3 * time.Hour)
		got := o.events("a")
		require.Equal(t, want[len(want)-len(got):], got)
		require.GreaterOrEqual(t, len(got), 38)
		o.check()
	})
}

// TestSenderAllowed: nothing goes to a server that is not allowed.
func TestSenderAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		o.cfg.Allowed = func(s id.ServerName) bool { return s != "a" }
		o.send(1, "a", "b")
		defer o.start()()
		o.send(1, "a", "b")
		o.tell("a", "m.x", "", 1)
		time.Sleep(time.Hour)
		require.Empty(t, o.triedAt("a"))
		require.Len(t, o.events("b"), 2)
		outgoing, _ := o.rows()
		require.Empty(t, outgoing)
	})
}

// TestSenderRefusedAltogether: a server that wants nothing from us is failing, it loses nothing.
func TestSenderRefusedAltogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", func(context.Context, received) error { return status(403, "M_FORBIDDEN") })
		at := o.send(1, "a")
		time.Sleep(30 * time.Second)
		o.is("a", nil)
		time.Sleep(2 * time.Minute)
		require.Equal(t, []int64{at}, o.events("a"))
	})
}

// TestSenderLargeEvents: a transaction is bounded in bytes as well.
func TestSenderLargeEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		large := make([]byte, 60_000)
		for i := range large {
			large[i] = 'x'
		}
		for range 60 {
			_, act := o.queue(1, `"text":"`+string(large)+`"`, []id.ServerName{"a"})
			require.NoError(t, act.Wait(context.Background()))
		}
		defer o.start()()
		time.Sleep(time.Second)
		require.Len(t, o.events("a"), 60)
		for _, txn := range o.transactions("a") {
			require.Less(t, len(txn.body), 1<<20+1000)
		}
		require.LessOrEqual(t, len(o.transactions("a")), 6)
		o.check()
	})
}

// TestSenderLostWakeUp: the row is the message, not the wake-up.
func TestSenderLostWakeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		first := o.send(1, "a", "b")
		synctest.Wait()
		sender := o.sender
		o.mu.Lock()
		o.sender = nil
		o.mu.Unlock()
		second := o.send(1, "a", "b")
		third := o.send(1, "c")
		sender.Wake([]id.ServerName{"d"}) // something goes on
		time.Sleep(6 * time.Minute)
		require.Equal(t, []int64{first, second}, o.events("a"))
		require.Equal(t, []int64{third}, o.events("c"))
		time.Sleep(6 * time.Minute)
		outgoing, _ := o.rows()
		require.Empty(t, outgoing)
	})
}

func TestSenderConcurrentWakes(t *testing.T) {
	o := newOutside(t)
	end := o.start()
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[id.ServerName]int{}
	for i := range 8 {
		wg.Go(func() {
			for n := range 50 {
				to := []id.ServerName{"a", id.ServerName(fmt.Sprintf("s%d", (i+n)%10))}
				_, act := o.queue(int64(i), `"x":1`, to)
				_ = act.Wait(context.Background())
				o.wake(to)
				o.sender.SendEDU(to, "m.typing", fmt.Sprint(i), json.RawMessage(`{}`))
				o.sender.Alive(to[1])
				mu.Lock()
				for _, s := range to {
					count[s]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for s, n := range count {
		require.Eventually(t, func() bool { return len(o.events(s)) == n }, 10*time.Second, time.Millisecond, "server %s", s)
		require.IsIncreasing(t, o.events(s))
	}
	end()
	o.check()
}

// TestSenderDeadDestinations: a room with 1,000 servers of which one is there.
func TestSenderDeadDestinations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		end := o.start()
		names := []id.ServerName{"live"}
		for i := range deadServers {
			names = append(names, id.ServerName(fmt.Sprintf("dead%d", i)))
			o.is(names[i+1], []func(context.Context, received) error{dead, hole}[i%2])
		}
		o.sender.Alive("live") // it has sent the room's state
		var want []int64
		for range 100 {
			want = append(want, o.send(1, names...))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(4 * time.Second)
		require.Equal(t, want, o.events("live"), "it does not wait for the others")
		goroutines := runtime.NumGoroutine()
		require.LessOrEqual(t, o.mostAtOnce(), 192)
		time.Sleep(3 * time.Hour)
		require.LessOrEqual(t, o.mostAtOnce(), 192)
		require.Less(t, goroutines, 300)
		tries := 0
		for _, name := range names[1:] {
			tries += len(o.triedAt(name))
		}
		require.Less(t, tries, deadServers*16)
		outgoing, _ := o.rows()
		require.Empty(t, outgoing, "nothing is kept for those who are gone but the newest of each room")

		for _, name := range names {
			o.is(name, nil)
		}
		time.Sleep(2 * time.Hour)
		for _, name := range names[1:] {
			got := o.events(name)
			require.Equal(t, want[99], got[len(got)-1], "server %s", name)
		}
		end()
		o.check()
	})
}

// TestSenderMemory: what 1,000 dead servers and as many messages cost.
func TestSenderMemory(t *testing.T) {
	o := newOutside(t)
	before := heap()
	end := o.start()
	var names []id.ServerName
	for i := range 1000 {
		names = append(names, id.ServerName(fmt.Sprintf("dead%d.example.org", i)))
		o.is(names[i], dead)
	}
	for i := range 500 {
		o.send(int64(i%10), names...)
		o.sender.SendEDU(names, "m.receipt", fmt.Sprint(i), json.RawMessage(`{"some":"content that is as long as that of a receipt, which is about so much or a little more"}`))
	}
	time.Sleep(100 * time.Millisecond)
	used := heap() - before
	t.Logf("%d KB", used>>10)
	require.Less(t, used, int64(60<<20))
	end()
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

var _ roomstate.Sender = (*federation.Sender)(nil)

// TestSenderStoresBeforeItSends: a transaction is sent once the next process would find it.
func TestSenderStoresBeforeItSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", func(_ context.Context, txn received) error {
			_, destinations := o.rows()
			for _, d := range destinations {
				if d.Server == "a" && d.TxnID == txn.id && d.Past > 0 {
					return nil
				}
			}
			return fmt.Errorf("transaction %s is not stored", txn.id)
		})
		var want []storage.Pos
		for range 5 {
			want = append(want, o.send(1, "a"))
		}
		time.Sleep(time.Second)
		require.Equal(t, want, o.events("a"))
		require.Len(t, o.triedAt("a"), len(o.transactions("a")))
	})
}
