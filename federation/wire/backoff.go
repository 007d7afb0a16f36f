package wire

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
)

const (
	firstBackoff  = time.Second
	maxBackoff    = time.Hour
	maxRemembered = 10_000 // destinations, and answers of well-known
)

// backoff remembers which destinations fail and until when they are left alone. It keeps nothing of those that answer.
type backoff struct {
	now func() time.Time

	mu      sync.Mutex // guards the following
	failing map[id.ServerName]failure
}

type failure struct {
	pause time.Duration
	until time.Time
}

func newBackoff(now func() time.Time) *backoff {
	return &backoff{now: now, failing: map[id.ServerName]failure{}}
}

// until is when a destination may be tried again, zero when it may be now.
func (b *backoff) until(server id.ServerName) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.failing[server]
	if !ok || !b.now().Before(f.until) {
		return time.Time{}
	}
	return f.until
}

// failed notes that a request begun at start failed, and that the peer wants to be left alone for at least pause.
// Of requests that were under way together, or begun while the destination is left alone, one counts. It returns when
// the destination may be tried again.
func (b *backoff) failed(server id.ServerName, start time.Time, pause time.Duration) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	f, ok := b.failing[server]
	if ok && start.Before(f.until) {
		return f.until
	}
	if !ok {
		makeRoom(b.failing, func(f failure) time.Time { return f.until })
	}
	f.pause = min(max(NextPause(f.pause, firstBackoff, maxBackoff), pause), maxBackoff)
	f.until = now.Add(f.pause)
	b.failing[server] = f
	return f.until
}

// NextPause is the pause after one that was in vain: 2 to 2½ times as long, up to the longest; after none it is the
// first. There is chance in the first and in the longest as well, so that those who failed together are not tried together.
func NextPause(before, first, longest time.Duration) time.Duration {
	if before == 0 {
		return first + rand.N(first/4+1)
	}
	if next := 2*before + rand.N(before/2+1); next < longest {
		return next
	}
	return longest - rand.N(longest/5+1)
}

// alive forgets a destination and reports whether it had failed.
func (b *backoff) alive(server id.ServerName) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, failed := b.failing[server]
	delete(b.failing, server)
	return failed
}

// makeRoom keeps a map from growing past maxRemembered: of some entries at random it drops the one that ends first.
func makeRoom[K comparable, V any](m map[K]V, ends func(V) time.Time) {
	if len(m) < maxRemembered {
		return
	}
	var first K
	var at time.Time
	seen := 0
	for k, v := range m {
		if seen == 0 || ends(v).Before(at) {
			first, at = k, ends(v)
		}
		if seen++; seen == 16 {
			break
		}
	}
	delete(m, first)
}
