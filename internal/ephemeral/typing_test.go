package ephemeral_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/id"
)

const (
	room, other      = id.RoomID("!a:test"), id.RoomID("!b:test")
	alice, bob, none = id.UserID("@alice:test"), id.UserID("@bob:test"), time.Duration(0)
)

// woken counts the wake-ups of rooms.
type woken struct {
	mu    sync.Mutex // guards rooms
	rooms []id.RoomID
}

func (w *woken) wake(room id.RoomID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rooms = append(w.rooms, room)
}

func (w *woken) take() []id.RoomID {
	w.mu.Lock()
	defer w.mu.Unlock()
	rooms := w.rooms
	w.rooms = nil
	return rooms
}

func TestTypingEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &woken{}
		typing := ephemeral.NewTyping("boot", w.wake)
		defer typing.Close()
		typing.Set(room, alice, 10*time.Second)
		typing.Set(room, bob, 30*time.Second)
		require.Equal(t, []id.UserID{alice, bob}, typing.In(room))
		require.Equal(t, []id.RoomID{room, room}, w.take())

		time.Sleep(9 * time.Second)
		typing.Set(room, alice, 10*time.Second) // goes on
		require.Empty(t, w.take(), "who goes on typing is no news")
		time.Sleep(9 * time.Second)
		synctest.Wait()
		require.Equal(t, []id.UserID{alice, bob}, typing.In(room))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []id.UserID{bob}, typing.In(room))
		typing.Set(room, bob, none)
		require.Empty(t, typing.In(room))
		require.Equal(t, []id.RoomID{room, room}, w.take())
		typing.Set(room, bob, none)
		typing.Set(other, bob, none)
		require.Empty(t, w.take(), "who did not type cannot stop")
	})
}

// Prolonging in the moment in which the time is over keeps the user in the list.
func TestTypingProlongedInTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		typing := ephemeral.NewTyping("boot", func(id.RoomID) {})
		defer typing.Close()
		typing.Set(room, alice, time.Second)
		for range 50 {
			time.Sleep(time.Second) // the timer and this goroutine wake at the same time
			typing.Set(room, alice, time.Second)
			require.Equal(t, []id.UserID{alice}, typing.In(room))
		}
	})
}

func TestTypingSince(t *testing.T) {
	typing := ephemeral.NewTyping("boot", func(id.RoomID) {})
	defer typing.Close()
	rooms, start := typing.Since(0)
	require.Empty(t, rooms)
	typing.Set(room, alice, time.Minute)
	rooms, first := typing.Since(start)
	require.Equal(t, []id.RoomID{room}, rooms)
	typing.Set(other, alice, time.Minute)
	typing.Set(room, alice, none)
	rooms, second := typing.Since(first)
	require.ElementsMatch(t, []id.RoomID{room, other}, rooms, "the end of typing is a change too")
	rooms, _ = typing.Since(0)
	require.ElementsMatch(t, []id.RoomID{room, other}, rooms, "who knows nothing hears of those who type, and who stopped")
	rooms, _ = typing.Since(second)
	require.Empty(t, rooms)
	require.Equal(t, second, typing.Now())
}

// Rooms that were quiet for long are forgotten when there are many; those of the last minutes never.
func TestTypingForgetsQuietRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		typing := ephemeral.NewTyping("boot", func(id.RoomID) {})
		defer typing.Close()
		typing.Set(room, bob, 10*time.Hour)
		for i := range 5000 {
			typing.Set(id.RoomID(fmt.Sprintf("!%d:test", i)), alice, time.Second)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		rooms, now := typing.Since(2)
		require.Len(t, rooms, 5000)
		time.Sleep(11 * time.Minute)
		typing.Set(other, alice, time.Second)
		rooms, _ = typing.Since(2)
		require.Equal(t, []id.RoomID{other}, rooms)
		rooms, _ = typing.Since(now)
		require.Equal(t, []id.RoomID{other}, rooms)
		require.Equal(t, []id.UserID{bob}, typing.In(room), "somebody still types there")
	})
}

func TestTypingAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &woken{}
		typing := ephemeral.NewTyping("boot", w.wake)
		typing.Set(room, alice, time.Second)
		w.take()
		typing.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		typing.Set(room, bob, time.Second)
		require.Empty(t, w.take())
	})
}

// At once from many goroutines: the list holds those whose last word was that they type.
func TestTypingAtOnce(t *testing.T) {
	typing := ephemeral.NewTyping("boot", func(id.RoomID) {})
	defer typing.Close()
	var wg sync.WaitGroup
	for i := range 8 {
		user := id.UserID(fmt.Sprintf("@u%d:test", i))
		wg.Go(func() {
			for n := range 200 {
				typing.Set(room, user, time.Duration((n+i)%2)*time.Minute)
				typing.In(room)
				typing.Since(int64(n))
			}
		})
	}
	wg.Wait()
	require.Len(t, typing.In(room), 4)
}

// A client that was told nothing yet of typing, with a token of before the first change, is told that it stopped.
func TestTypingStopsForTokenOfBefore(t *testing.T) {
	typing := ephemeral.NewTyping("boot", func(id.RoomID) {})
	before := typing.Now()
	typing.Set("!r:x", "@a:x", time.Minute)
	typing.Set("!r:x", "@a:x", 0)
	rooms, _ := typing.Since(before)
	require.Equal(t, []id.RoomID{"!r:x"}, rooms)
	rooms, _ = typing.Since(0)
	require.Equal(t, []id.RoomID{"!r:x"}, rooms, "an initial sync, whose client may have been told who was")
}

// Close returns when nobody is being woken any more.
func TestTypingCloseAwaitsWakes(t *testing.T) {
	began, woken := make(chan struct{}), false
	typing := ephemeral.NewTyping("boot", func(id.RoomID) {
		close(began)
		time.Sleep(20 * time.Millisecond)
		woken = true
	})
	go typing.Set("!r:x", "@a:x", time.Minute)
	<-began
	typing.Close()
	require.True(t, woken)
}
