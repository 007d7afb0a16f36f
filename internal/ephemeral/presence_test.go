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
	online, away, offline = ephemeral.Online, ephemeral.Unavailable, ephemeral.Offline
	phone, desk           = id.DeviceID("PHONE"), id.DeviceID("DESK")
	remote                = id.UserID("@carol:other")
)

// watcher is a Presence whose time passes as that of the test does.
type watcher struct {
	*ephemeral.Presence
	t     *testing.T
	woken int
}

func watch(t *testing.T) *watcher {
	w := &watcher{t: t}
	w.Presence = ephemeral.NewPresence(func() { w.woken++ })
	return w
}

// after lets time pass, looking whenever something is over.
func (w *watcher) after(d time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(d); ; {
		_, next := w.Expire(time.Now())
		if next.IsZero() || next.After(end) {
			time.Sleep(time.Until(end))
			return
		}
		require.Greater(w.t, time.Until(next), time.Duration(0), "what is over is settled")
		time.Sleep(time.Until(next))
	}
}

// is checks what is told of a user.
func (w *watcher) is(user id.UserID, s ephemeral.State, active bool) {
	w.t.Helper()
	w.Expire(time.Now())
	st, ok := w.Of(user)
	require.True(w.t, ok, "%s is not known", user)
	require.Equal(w.t, s, st.State)
	require.Equal(w.t, active, st.CurrentlyActive, "currently_active")
}

// PT-02: who syncs is online, after five minutes of doing nothing unavailable, and offline half a minute after the last
// request; PT-03: currently active for a minute.
func TestPresenceTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		ended := w.Syncing(alice, phone, online)
		w.is(alice, online, true)
		w.after(time.Minute - time.Millisecond)
		w.is(alice, online, true)
		w.after(time.Millisecond)
		w.is(alice, online, false)
		ended()
		w.after(20 * time.Second)
		ended = w.Syncing(alice, phone, online) // goes on, which is nothing that the user does
		w.is(alice, online, false)
		w.after(5*time.Minute - 80*time.Second)
		w.is(alice, away, false)
		w.Syncing(alice, phone, online)()
		w.is(alice, away, false)
		w.Active(alice, phone)
		w.is(alice, online, true)
		w.after(time.Hour) // of one long poll
		w.is(alice, away, false)
		ended()
		w.after(30*time.Second - time.Millisecond)
		w.is(alice, away, false)
		w.after(time.Millisecond)
		w.is(alice, offline, false)
		_, next := w.Expire(time.Now())
		require.Zero(t, next, "who is offline costs nothing")
	})
}

// What a user does is told once, however often they do it.
func TestPresenceActivityIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		defer w.Syncing(alice, phone, online)()
		now := w.Now()
		for range 1000 {
			w.Active(alice, phone)
			w.after(time.Second)
		}
		require.Equal(t, now, w.Now())
		st, _ := w.Of(alice)
		require.Equal(t, time.Second, time.Since(st.LastActive), "the time is kept all the same")
	})
}

// Of who is offline and does something it is known when; nobody is told.
func TestPresenceOfTheOfflineWhoAct(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		now := w.Now()
		w.Active(alice, phone)
		w.is(alice, offline, false)
		st, _ := w.Of(alice)
		require.Equal(t, time.Now(), st.LastActive)
		require.Equal(t, now, w.Now())
		list, _ := w.Since(0, 10)
		require.Empty(t, list)
		_, next := w.Expire(time.Now())
		require.Zero(t, next, "nothing will be over")
		w.Set(alice, phone, online, "")
		list, _ = w.Since(now, 10)
		require.Len(t, list, 1)
	})
}

// The best of a user's devices counts, each by what it last said.
func TestPresenceOfDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		w.Set(alice, phone, away, "at lunch")
		w.is(alice, away, false)
		w.Set(alice, desk, online, "")
		w.is(alice, online, true)
		w.Set(alice, desk, offline, "gone")
		w.is(alice, away, false)
		st, _ := w.Of(alice)
		require.Equal(t, "gone", st.Message)
		w.Active(alice, desk) // and makes whoever is unavailable online
		w.is(alice, online, true)
		w.LoggedOut(alice, []id.DeviceID{desk})
		w.is(alice, away, false)
		w.Deactivated(alice)
		w.is(alice, offline, false)
		st, _ = w.Of(alice)
		require.Empty(t, st.Message)
		w.Active(alice, phone)
		w.is(alice, offline, false) // who is offline stays so
		w.Syncing(bob, phone, offline)()
		_, known := w.Of(bob)
		require.False(t, known, "syncing offline says nothing")
		for i := range 1000 {
			w.Set(alice, id.DeviceID(fmt.Sprint(i)), online, "")
		}
		w.is(alice, online, true)
	})
}

// A request that ends after its device was logged out changes nothing.
func TestPresenceOfEndedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		first := w.Syncing(alice, phone, online)
		w.LoggedOut(alice, []id.DeviceID{phone})
		second := w.Syncing(alice, phone, online)
		first()
		w.after(time.Minute)
		w.is(alice, online, false)
		second()
		w.after(30 * time.Second)
		w.is(alice, offline, false)
	})
}

// What another server has said holds for half an hour; what is said of a local user is told again before that.
func TestPresenceOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		said := ephemeral.Status{User: remote, State: online, CurrentlyActive: true, LastActive: time.Now(), Message: "hi"}
		require.True(t, w.Hear(said))
		now := w.Now()
		require.True(t, w.Hear(said))
		require.Equal(t, now, w.Now(), "the same again is no news")
		w.after(30*time.Minute - time.Millisecond)
		w.is(remote, online, true)
		w.after(time.Millisecond)
		w.is(remote, offline, false)
		said.State = offline
		w.Hear(said)
		w.is(remote, offline, false)

		defer w.Syncing(alice, phone, online)()
		w.after(25*time.Minute + 5*time.Minute - time.Millisecond) // she has become unavailable after 5
		again, _ := w.Expire(time.Now())
		require.Empty(t, again)
		time.Sleep(time.Millisecond)
		again, _ = w.Expire(time.Now())
		require.Equal(t, []id.UserID{alice}, again)
	})
}

func TestPresenceSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		before := w.Now()
		list, upTo := w.Since(0, 10)
		require.Empty(t, list)
		require.Equal(t, before, upTo)
		w.Set(alice, phone, online, "")
		w.Set(bob, phone, online, "")
		w.Set(alice, phone, away, "")
		require.Equal(t, []id.UserID{bob, alice}, usersIn(w.Since(before, 10)), "each once, in the order of the latest changes")
		list, upTo = w.Since(before, 1)
		require.Equal(t, bob, list[0].User)
		require.Equal(t, []id.UserID{alice}, usersIn(w.Since(upTo, 1)), "a page follows another")
		require.Empty(t, usersIn(w.Since(w.Now(), 10)))
		for i := range 10_000 {
			w.Set(alice, phone, online, fmt.Sprint(i))
		}
		require.Equal(t, []id.UserID{bob, alice}, usersIn(w.Since(before, 10)), "what was long ago is forgotten")
	})
}

func usersIn(list []ephemeral.Status, _ int64) (users []id.UserID) {
	for _, st := range list {
		users = append(users, st.User)
	}
	return users
}

// Users of other servers are not known without bound; those who have been offline for long make room for others.
func TestPresenceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		hear := func(n int, s ephemeral.State) bool {
			return w.Hear(ephemeral.Status{User: id.UserID(fmt.Sprintf("@u%d:other", n)), State: s})
		}
		for i := range 100_000 {
			require.True(t, hear(i, offline))
		}
		require.False(t, hear(100_000, online))
		w.Set(alice, phone, online, "")
		w.is(alice, online, true)
		time.Sleep(10 * time.Minute)
		require.True(t, hear(100_000, online))
		_, known := w.Of("@u5:other")
		require.False(t, known)
		w.is("@u100000:other", online, false)
		w.is(alice, offline, false)
	})
}

// Where presence is off nobody is known.
func TestPresenceOff(t *testing.T) {
	var p *ephemeral.Presence
	p.Syncing(alice, phone, online)()
	p.Active(alice, phone)
	p.LoggedOut(alice, nil)
	p.Deactivated(alice)
	p.Renamed(alice, "A", "")
	_, known := p.Of(alice)
	require.False(t, known)
	require.Zero(t, p.Now())
}

// At once from many goroutines, everybody ends as they last said.
func TestPresenceAtOnce(t *testing.T) {
	p := ephemeral.NewPresence(func() {})
	var wg sync.WaitGroup
	for i := range 8 {
		user := id.UserID(fmt.Sprintf("@u%d:test", i))
		wg.Go(func() {
			for n := range 300 {
				p.Syncing(user, phone, online)()
				p.Set(user, desk, []ephemeral.State{online, away, offline}[n%3], "")
				p.Active(user, desk)
				p.Since(int64(n), 5)
				p.Expire(time.Now())
				p.LoggedOut(user, []id.DeviceID{phone})
			}
			p.Set(user, desk, away, "")
		})
	}
	wg.Wait()
	list, _ := p.Since(0, 100)
	require.Len(t, list, 8)
	for _, st := range list {
		require.Equal(t, away, st.State)
	}
}

// BenchmarkPresenceSyncing: a request of a user who is online begins and ends, among many.
func BenchmarkPresenceSyncing(b *testing.B) {
	p := ephemeral.NewPresence(func() {})
	for i := range 10_000 {
		p.Syncing(id.UserID(fmt.Sprintf("@u%d:test", i)), phone, online)()
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Syncing("@u77:test", phone, online)()
	}
}
