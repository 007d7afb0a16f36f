package notify_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
)

// set is a room of users.
type set map[id.UserID]bool

func (s set) Len() int                { return len(s) }
func (s set) Has(user id.UserID) bool { return s[user] }
func (s set) Each(fn func(id.UserID) bool) {
	for u := range s {
		if !fn(u) {
			return
		}
	}
}

func woken(w *notify.Waiter) bool {
	select {
	case <-w.C:
		return true
	default:
		return false
	}
}

func TestWakeReachesThoseConcerned(t *testing.T) {
	hub := notify.New(0)
	alice, bob, carol := hub.Wait("@a:x"), hub.Wait("@b:x"), hub.Wait("@c:x")
	for _, room := range []set{{"@a:x": true}, {"@a:x": true, "@d:x": true, "@e:x": true, "@f:x": true}} {
		hub.Wake(room, "@b:x")
		require.True(t, woken(alice), "a member of a room of %d", len(room))
		require.True(t, woken(bob), "a user named beside the room")
		require.False(t, woken(carol), "a stranger")
	}
	alice.Close()
	hub.Wake(set{"@a:x": true})
	require.False(t, woken(alice), "who has left")
	hub.Drain()
	require.True(t, woken(carol), "drained")
	require.True(t, woken(hub.Wait("@z:x")), "who comes after the drain")
}

// A wake-up between Wait and the receive is not lost, and two of them are one.
func TestWakeBeforeReceive(t *testing.T) {
	hub := notify.New(0)
	w := hub.Wait("@a:x")
	hub.Wake(nil, "@a:x")
	hub.Wake(nil, "@a:x")
	require.True(t, woken(w))
	require.False(t, woken(w))
}

func TestSinceIsCompleteOrSaysSo(t *testing.T) {
	hub := notify.New(100)
	_, ok := hub.Since(99, 200)
	require.False(t, ok, "before the floor nothing is known")
	const n = 100_000
	for pos := int64(101); pos <= n; pos++ {
		hub.Record(notify.Change{Pos: pos, Kind: notify.Timeline})
	}
	got, ok := hub.Since(n-10, n-3)
	require.True(t, ok)
	require.Len(t, got, 7)
	require.Equal(t, int64(n-9), got[0].Pos)
	require.Equal(t, int64(n-3), got[6].Pos)
	_, ok = hub.Since(200, n)
	require.False(t, ok, "what was forgotten is not called complete")
	for from := int64(n - 33_000); from < n; from += 997 {
		if got, ok := hub.Since(from, n); ok {
			require.Len(t, got, int(n-from), "since %d", from)
		}
	}
}

func BenchmarkWakeHundred(b *testing.B) {
	hub := notify.New(0)
	room := set{}
	for i := range 100 {
		user := id.UserID(string(rune('a'+i)) + ":x")
		room[user] = true
		hub.Wait(user)
	}
	b.ReportAllocs()
	for b.Loop() {
		hub.Wake(room)
	}
}
