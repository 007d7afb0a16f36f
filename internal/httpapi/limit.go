package httpapi

import (
	"net/netip"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Limits says how often RateLimited routes may be called. The zero value stands for the defaults.
type Limits struct {
	Off     bool
	User    Rate // of one user; 10 a second, 100 at once
	Address Rate // of one address without a token (an IPv6 /64 counts as one); 2 a second, 40 at once
}

// Rate is how many calls may come at once, and how many a second after that.
type Rate struct {
	PerSecond float64
	Burst     int
}

type limits struct {
	users     buckets[id.UserID]
	addresses buckets[netip.Addr]
}

// newLimits returns nil when there is no limit.
func newLimits(l Limits) *limits {
	if l.Off {
		return nil
	}
	out := &limits{}
	out.users.rate(l.User, Rate{PerSecond: 10, Burst: 100})
	out.addresses.rate(l.Address, Rate{PerSecond: 2, Burst: 40})
	return out
}

// user counts a call and returns how long the user has to wait; zero if the call may go on.
func (l *limits) user(u id.UserID) time.Duration { return l.users.take(u, time.Now()) }

// address does the same for an address. One that is not known is not limited: it is the host program
// itself, or a Unix socket without a trusted proxy.
func (l *limits) address(a netip.Addr) time.Duration {
	if !a.IsValid() {
		return 0
	}
	if a.Is6() {
		if prefix, err := a.Prefix(64); err == nil {
			a = prefix.Addr()
		}
	}
	return l.addresses.take(a, time.Now())
}

// maxBuckets is how many keys one generation of buckets remembers: about 8 MiB for both.
const maxBuckets = 1 << 16

// buckets is a token bucket for every key. A bucket is one time: when it will be full again.
//
// Memory is bounded without a goroutine: when young is full it becomes old, and what was old and not
// asked for since is forgotten. Whoever is forgotten has a full bucket.
type buckets[K comparable] struct {
	interval time.Duration // between two calls in the long run
	burst    time.Duration // how far ahead of now a bucket may be

	mu         sync.Mutex // guards the following
	young, old map[K]time.Time
}

func (b *buckets[K]) rate(r, otherwise Rate) {
	if r.PerSecond <= 0 {
		r.PerSecond = otherwise.PerSecond
	}
	if r.Burst <= 0 {
		r.Burst = otherwise.Burst
	}
	b.interval = time.Duration(float64(time.Second) / r.PerSecond)
	b.burst = time.Duration(r.Burst) * b.interval
	b.young = map[K]time.Time{}
}

// take takes one call out of the bucket of key, or returns how long to wait for the next one.
func (b *buckets[K]) take(key K, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	full, ok := b.young[key]
	if !ok {
		full = b.old[key]
	}
	if full.Before(now) {
		full = now
	}
	next := full.Add(b.interval)
	if wait := next.Sub(now) - b.burst; wait > 0 {
		return wait
	}
	if !ok && len(b.young) >= maxBuckets {
		b.old, b.young = b.young, make(map[K]time.Time, maxBuckets)
	}
	b.young[key] = next
	return 0
}
