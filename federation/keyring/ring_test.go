package keyring_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

func TestKeyIsFetchedOnceAndKept(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", 1)
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), k).signed(t, "peer", k))
	first := w.ring()
	for range 3 {
		public, err := first.Key(t.Context(), "peer", k.ID, w.now)
		require.NoError(t, err)
		require.Equal(t, k.Public(), public)
	}
	require.Equal(t, 1, w.times("peer"))

	w.stored()
	public, err := w.ring().Key(t.Context(), "peer", k.ID, w.now)
	require.NoError(t, err)
	require.Equal(t, k.Public(), public)
	require.Equal(t, 1, w.times("peer"), "after a restart it comes from storage")
}

func TestManyAskAtOnceAndOneFetches(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", 1)
	w.does("peer", func(context.Context) ([]byte, error) {
		time.Sleep(20 * time.Millisecond)
		return keysOf("peer", w.clock().Add(time.Hour), k).signed(t, "peer", k), nil
	})
	r := w.ring()
	var all sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		all.Go(func() { _, errs[i] = r.Key(t.Context(), "peer", k.ID, w.now) })
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, 1, w.times("peer"))
}

// TestValidity: which keys count when, for an answer that is valid for a day and names an old key.
func TestValidity(t *testing.T) {
	w := newWorld(t)
	current, former := key(t, "new", 1), key(t, "old", 2)
	end, expired := w.now.Add(24*time.Hour), w.now.Add(-time.Hour)
	w.says("peer", keysOf("peer", end, current).old(former, expired).signed(t, "peer", current))
	tests := []struct {
		name string
		key  signing.Key
		at   time.Time
		any  bool
		want error
	}{
		{"now", current, w.now, false, nil},
		{"long ago", current, w.now.AddDate(-5, 0, 0), false, nil},
		{"at the last moment", current, end, false, nil},
		{"after it", current, end.Add(time.Millisecond), false, keyring.ErrExpired},
		{"after it, in an old room", current, end.Add(time.Millisecond), true, nil},
		{"an old key before it expired", former, expired, false, nil},
		{"an old key after that", former, expired.Add(time.Millisecond), false, keyring.ErrExpired},
		{"an old key now", former, w.now, false, keyring.ErrExpired},
		{"an old key now, in an old room", former, w.now, true, nil},
		{"a key it has not", key(t, "other", 3), w.now, false, keyring.ErrUnknown},
		{"a key it has not, in an old room", key(t, "other", 3), w.now, true, keyring.ErrUnknown},
		{"no ed25519 key", signing.Key{ID: "rsa:1"}, w.now, true, keyring.ErrUnknown},
	}
	r := w.ring()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := keyring.Request{Server: "peer", KeyID: tt.key.ID, At: tt.at, EvenExpired: tt.any}
			got := r.Keys(t.Context(), []keyring.Request{q})[0]
			require.ErrorIs(t, got.Err, tt.want)
			require.Equal(t, tt.want == nil, got.Key != nil)
		})
	}
	require.Equal(t, 1, w.times("peer"), "no key that it has not makes us ask again at once")
}

// TestSevenDays: "Servers MUST use the lesser of this field and 7 days into the future".
func TestSevenDays(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", 1)
	w.says("peer", keysOf("peer", w.now.AddDate(10, 0, 0), k).signed(t, "peer", k))
	r := w.ring()
	week := w.now.Add(7 * 24 * time.Hour)
	_, err := r.Key(t.Context(), "peer", k.ID, week)
	require.NoError(t, err)
	_, err = r.Key(t.Context(), "peer", k.ID, week.Add(time.Millisecond))
	require.ErrorIs(t, err, keyring.ErrExpired)
	require.LessOrEqual(t, w.times("peer"), 1)

	w.pass(8 * 24 * time.Hour)
	_, err = r.Key(t.Context(), "peer", k.ID, w.now)
	require.NoError(t, err, "asked again")
	require.Equal(t, 2, w.times("peer"))
}

func TestOldKeyThatExpiresInTheFutureDoesNotSignNow(t *testing.T) {
	w := newWorld(t)
	current, former := key(t, "new", 1), key(t, "old", 2)
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), current).old(former, w.now.AddDate(1, 0, 0)).signed(t, "peer", current))
	_, err := w.ring().Key(t.Context(), "peer", former.ID, w.now)
	require.ErrorIs(t, err, keyring.ErrExpired)
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	before, after := key(t, "1", 1), key(t, "2", 2)
	start := w.now
	w.says("peer", keysOf("peer", start.AddDate(0, 0, 7), before).signed(t, "peer", before))
	r := w.ring()
	_, err := r.Key(t.Context(), "peer", before.ID, start)
	require.NoError(t, err)

	w.pass(time.Hour)
	changed := w.now
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), after).old(before, changed).signed(t, "peer", after))
	_, err = r.Key(t.Context(), "peer", after.ID, w.now)
	require.NoError(t, err, "an unknown key makes us ask again")
	w.pass(time.Minute)
	w.stored()
	for _, r := range []*keyring.Ring{r, w.ring()} {
		_, err = r.Key(t.Context(), "peer", before.ID, start)
		require.NoError(t, err, "old events stay verifiable")
		_, err = r.Key(t.Context(), "peer", before.ID, w.now)
		require.ErrorIs(t, err, keyring.ErrExpired, "though the first answer was valid for longer")
	}
	require.Equal(t, 2, w.times("peer"))
}

func TestKeyThatIsNamedNoMoreStaysForOldEvents(t *testing.T) {
	w := newWorld(t)
	lost, k := key(t, "lost", 1), key(t, "a", 2)
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), lost).signed(t, "peer", lost))
	r, start := w.ring(), w.now
	_, err := r.Key(t.Context(), "peer", lost.ID, start)
	require.NoError(t, err)
	w.pass(2 * time.Hour)
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), k).signed(t, "peer", k))
	_, err = r.Key(t.Context(), "peer", k.ID, w.now)
	require.NoError(t, err)
	_, err = r.Key(t.Context(), "peer", lost.ID, start)
	require.NoError(t, err)
	_, err = r.Key(t.Context(), "peer", lost.ID, w.now)
	require.ErrorIs(t, err, keyring.ErrExpired)
}

// TestRefresh: past half of its time an answer is renewed, while nobody waits.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := key(t, "a", 1)
		w.says("peer", keysOf("peer", w.now.Add(2*time.Hour), k).signed(t, "peer", k))
		r := w.ring()
		ask := func(at time.Time) {
			_, err := r.Key(t.Context(), "peer", k.ID, at)
			require.NoError(t, err)
			synctest.Wait()
		}
		ask(w.now)
		w.pass(59 * time.Minute)
		ask(w.now)
		require.Equal(t, 1, w.times("peer"))
		w.pass(2 * time.Minute)
		ask(w.now.Add(-time.Hour))
		require.Equal(t, 1, w.times("peer"), "old events need nothing newer")
		w.does("peer", silent)
		ask(w.now)
		require.Equal(t, 2, w.times("peer"))
		ask(w.now)
		require.Equal(t, 2, w.times("peer"), "one at a time")
		time.Sleep(time.Minute)
		ask(w.now)
		require.Equal(t, 2, w.times("peer"), "not again at once")
	})
}

// TestHostileKeyIDs: key ids that a server does not have do not make us ask it again and again.
func TestHostileKeyIDs(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", 1)
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), k).signed(t, "peer", k))
	r := w.ring()
	for i := range 50 {
		_, err := r.Key(t.Context(), "peer", fmt.Sprint("ed25519:", i), w.now)
		require.ErrorIs(t, err, keyring.ErrUnknown)
	}
	require.Equal(t, 1, w.times("peer"))
	w.pass(31 * time.Second)
	_, err := r.Key(t.Context(), "peer", "ed25519:x", w.now)
	require.ErrorIs(t, err, keyring.ErrUnknown)
	require.Equal(t, 2, w.times("peer"))
}

func TestBackOff(t *testing.T) {
	w := newWorld(t)
	r := w.ring()
	count := func(span, step time.Duration, heard bool) int {
		before := w.times("dead")
		for range span / step {
			got := r.Keys(t.Context(), []keyring.Request{{Server: "dead", KeyID: "ed25519:a", At: w.clock(), Heard: heard}})[0]
			require.ErrorIs(t, got.Err, keyring.ErrUnreachable)
			w.pass(step)
		}
		return w.times("dead") - before
	}
	require.LessOrEqual(t, count(time.Hour, 5*time.Second, false), 8)
	require.InDelta(t, 24, count(24*time.Hour, time.Minute, false), 2, "once an hour in the end")
	require.InDelta(t, 60, count(time.Hour, time.Second, true), 2, "once a minute when it seems to be back")

	k := key(t, "a", 1)
	w.says("dead", keysOf("dead", w.now.Add(time.Hour), k).signed(t, "dead", k))
	got := r.Keys(t.Context(), []keyring.Request{{Server: "dead", KeyID: k.ID, At: w.clock(), Heard: true}})[0]
	require.NoError(t, got.Err)
}

// TestManyDeadServers is F-22: a transaction with events of 50 dead servers and one that lives.
func TestManyDeadServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := key(t, "a", 1)
		w.says("peer", keysOf("peer", w.now.Add(time.Hour), k).signed(t, "peer", k))
		w.says("later", keysOf("later", w.now.Add(time.Hour), k).signed(t, "later", k))
		requests := []keyring.Request{{Server: "peer", KeyID: k.ID, At: w.now}}
		for i := range 50 {
			server := id.ServerName(fmt.Sprintf("dead%d", i))
			w.does(server, silent)
			requests = append(requests, keyring.Request{Server: server, KeyID: k.ID, At: w.now})
		}
		r := w.ring(func(c *keyring.Config) { c.Notaries = []id.ServerName{"notary"} })
		start := time.Now()
		var background sync.WaitGroup
		background.Go(func() {
			for i, res := range r.Keys(t.Context(), requests) {
				require.Equal(t, i == 0, res.Err == nil, "%d: %v", i, res.Err)
			}
		})
		time.Sleep(time.Second)
		second := time.Now()
		_, err := r.Key(t.Context(), "later", k.ID, w.now)
		require.NoError(t, err)
		require.Zero(t, time.Since(second), "others do not wait")
		background.Wait()
		require.Less(t, time.Since(start), 12*time.Second)

		again := time.Now()
		for i, res := range r.Keys(t.Context(), requests) {
			require.Equal(t, i == 0, res.Err == nil)
		}
		require.Zero(t, time.Since(again), "they are known to be dead")
		for _, q := range requests {
			require.Equal(t, 1, w.times(q.Server), q.Server)
		}
	})
}

func TestThousandsOfDeadServersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var requests []keyring.Request
		for i := range 5000 {
			server := id.ServerName(fmt.Sprintf("dead%d", i))
			w.does(server, silent)
			requests = append(requests, keyring.Request{Server: server, KeyID: "ed25519:a", At: w.now})
		}
		r := w.ring()
		start := time.Now()
		for _, res := range r.Keys(t.Context(), requests) {
			require.ErrorIs(t, res.Err, keyring.ErrUnreachable)
		}
		require.LessOrEqual(t, time.Since(start), 12*time.Second)
		closing := time.Now()
		r.Close()
		require.Zero(t, time.Since(closing), "Close breaks off what is under way")
	})
}

// TestForgedRequestsDelayNobodyWhoIsKnown: those who only say to be somebody use up their own fetches.
func TestForgedRequestsDelayNobodyWhoIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		before, after := key(t, "1", 1), key(t, "2", 2)
		w.says("peer", keysOf("peer", w.now.Add(time.Hour), before).signed(t, "peer", before))
		w.says("new", keysOf("new", w.now.Add(time.Hour), before).signed(t, "new", before))
		r := w.ring()
		_, err := r.Key(t.Context(), "peer", before.ID, w.now)
		require.NoError(t, err)
		w.pass(time.Minute)
		var forged []keyring.Request
		for i := range 1000 {
			server := id.ServerName(fmt.Sprintf("forged%d", i))
			w.does(server, silent)
			forged = append(forged, keyring.Request{Server: server, KeyID: before.ID, At: w.now, Heard: true})
		}
		var background sync.WaitGroup
		background.Go(func() { r.Keys(t.Context(), forged) })
		synctest.Wait()
		start := time.Now()
		w.says("peer", keysOf("peer", w.now.Add(time.Hour), after).signed(t, "peer", after))
		for _, q := range []keyring.Request{{Server: "peer", KeyID: after.ID, At: w.now, Heard: true}, {Server: "new", KeyID: before.ID, At: w.now}} {
			require.NoError(t, r.Keys(t.Context(), []keyring.Request{q})[0].Err)
		}
		require.Zero(t, time.Since(start))
		background.Wait()
	})
}

func TestContextEndsTheWait(t *testing.T) {
	w := newWorld(t)
	w.does("peer", silent)
	r := w.ring()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := r.Key(ctx, "peer", "ed25519:a", w.now)
	require.ErrorIs(t, err, keyring.ErrUnreachable)
}

func TestOwnKeysAreNeverFetched(t *testing.T) {
	w := newWorld(t)
	k, former := key(t, "a", 1), key(t, "b", 2)
	r := w.ring(func(c *keyring.Config) {
		c.Own = []keyring.OwnKey{{ID: k.ID, Public: k.Public()}, {ID: former.ID, Public: former.Public(), ExpiredAt: w.now}}
	})
	_, err := r.Key(t.Context(), own, k.ID, w.now.AddDate(50, 0, 0))
	require.NoError(t, err)
	_, err = r.Key(t.Context(), own, former.ID, w.now)
	require.NoError(t, err)
	_, err = r.Key(t.Context(), own, former.ID, w.now.Add(time.Second))
	require.ErrorIs(t, err, keyring.ErrExpired)
	_, err = r.Key(t.Context(), own, "ed25519:c", w.now)
	require.ErrorIs(t, err, keyring.ErrUnknown)
	require.Zero(t, w.times(own))
	require.Empty(t, r.Answers(t.Context(), []keyring.Query{{Server: own}}))
}

func TestStorageThatFailsIsNoVerdict(t *testing.T) {
	w := newWorld(t)
	r := w.ring()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Key(ctx, "peer", "ed25519:a", w.now)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, keyring.ErrUnknown)
	require.Zero(t, w.times("peer"))
}

func TestKeysOfAServerAreBounded(t *testing.T) {
	w := newWorld(t)
	r := w.ring()
	first := key(t, "0_0", 1)
	for round := range 6 {
		var keys []signing.Key
		for i := range 60 {
			keys = append(keys, key(t, fmt.Sprintf("%d_%d", round, i), 1))
		}
		w.says("peer", keysOf("peer", w.now.Add(time.Hour), keys...).signed(t, "peer", keys[0]))
		_, err := r.Key(t.Context(), "peer", keys[0].ID, w.now)
		require.NoError(t, err)
		w.pass(time.Minute)
	}
	w.stored()
	for _, r := range []*keyring.Ring{r, w.ring()} {
		_, err := r.Key(t.Context(), "peer", first.ID, w.now.Add(-time.Hour))
		require.Error(t, err)
		_, err = r.Key(t.Context(), "peer", "ed25519:5_59", w.now.Add(-time.Hour))
		require.NoError(t, err)
	}
}
