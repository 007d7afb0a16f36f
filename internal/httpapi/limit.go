package httpapi

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// Budget names what a call counts against. Budgets are apart: who has used one up has the others still.
type Budget uint8

// The budgets. A call is its user's, or without a token its address's.
const (
	General       Budget = iota // whatever has no budget of its own
	Messages                    // events sent to rooms
	Rooms                       // rooms made, and replaced
	Joins                       // joins and knocks
	Invites                     // users invited, one by one or with a new room
	Aliases                     // aliases made and removed
	Reports                     // reports to the administrator
	Logins                      // logins, and proofs of who somebody is
	LoginTokens                 // tokens that log further clients in
	Registrations               // steps of a registration
	KeyClaims                   // one-time keys of devices; the one budget that other servers have as well
	budgets
)

// Limits says how often calls may come. The zero value stands for the defaults. Whoever goes too far gets 429
// M_LIMIT_EXCEEDED with the time to wait, and nobody else notices.
type Limits struct {
	Off bool // no limit at all

	User    Rate // of one user, for what is not named below; 10 a second, 100 at once
	Address Rate // of one address without a token (an IPv6 /64 counts as one); 2 a second, 40 at once

	Messages    Rate // of one user; 10 a second, 200 at once
	Rooms       Rate // of one user; 1 in 5 seconds, 20 at once
	Joins       Rate // of one user; 1 a second, 50 at once
	Invites     Rate // of one user; 1 a second, 50 at once
	Aliases     Rate // of one user; 1 a second, 50 at once
	Reports     Rate // of one user; 1 in 10 seconds, 20 at once
	LoginTokens Rate // of one user; 1 in 30 seconds (each takes two calls), 4 at once
	KeyClaims   Rate // of one user; 20 a second, 5,000 at once

	PeerKeyClaims Rate // of one other server; 100 a second, 20,000 at once

	Logins        Rate // of one address, or user; 1 in 2 seconds, 40 at once
	Registrations Rate // of one address; 1 in 2 seconds (each takes two calls or more), 40 at once
}

// Rate is how many calls may come at once, and how many a second after that. Zero stands for the default; a negative
// PerSecond is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// rates are the limits of all budgets, of users, of addresses, and of other servers, for which zero is no limit.
func (l Limits) rates() (users, addresses, peers [budgets]Rate) {
	general, address := l.User.or(10, 100), l.Address.or(2, 40)
	for b := range budgets {
		users[b], addresses[b] = general, address
	}
	users[Messages], users[Rooms] = l.Messages.or(10, 200), l.Rooms.or(0.2, 20)
	users[Joins], users[Invites] = l.Joins.or(1, 50), l.Invites.or(1, 50)
	users[Aliases], users[Reports] = l.Aliases.or(1, 50), l.Reports.or(0.1, 20)
	users[LoginTokens], users[KeyClaims] = l.LoginTokens.or(1.0/30, 4), l.KeyClaims.or(20, 5000)
	peers[KeyClaims] = l.PeerKeyClaims.or(100, 20_000)
	users[Logins] = l.Logins.or(0.5, 40)
	addresses[Logins], addresses[Registrations] = users[Logins], l.Registrations.or(0.5, 40)
	return users, addresses, peers
}

func (r Rate) or(perSecond float64, burst int) Rate {
	return Rate{cmp.Or(r.PerSecond, perSecond), max(cmp.Or(r.Burst, burst), 1)}
}

type limits struct {
	users     buckets[id.UserID]
	addresses buckets[netip.Addr]
	peers     buckets[id.ServerName]
}

// newLimits returns nil when there is no limit.
func newLimits(l Limits) *limits {
	if l.Off {
		return nil
	}
	users, addresses, peers := l.rates()
	out := &limits{}
	out.users.set(users)
	out.addresses.set(addresses)
	out.peers.set(peers)
	return out
}

// user counts n calls and returns how long the user has to wait; zero if they may go on.
func (l *limits) user(u id.UserID, b Budget, n int) time.Duration {
	return l.users.take(bucketOf[id.UserID]{b, u}, n, time.Now())
}

// address does the same for an address. One that is not known is not limited: it is the host program
// itself, or a Unix socket without a trusted proxy.
func (l *limits) address(a netip.Addr, b Budget, n int) time.Duration {
	if !a.IsValid() {
		return 0
	}
	if a.Is6() {
		if prefix, err := a.Prefix(64); err == nil {
			a = prefix.Addr()
		}
	}
	return l.addresses.take(bucketOf[netip.Addr]{b, a}, n, time.Now())
}

// Charge counts n more acts of the caller against a budget, beside the call itself: for a call that does many things at
// once. The last of a budget may be overdrawn, so that what is allowed at all is never too large to be done; the debt is
// waited for. The error is mxerr.LimitExceeded when nothing was left.
func (c *Call) Charge(b Budget, n int) error {
	if c.limits == nil || n <= 0 {
		return nil
	}
	var wait time.Duration
	switch {
	case c.Origin != "":
		wait = c.limits.peers.take(bucketOf[id.ServerName]{b, c.Origin}, n, time.Now())
	case c.Session == nil:
		wait = c.limits.address(c.IP, b, n)
	case !c.Session.Unlimited:
		wait = c.limits.user(c.User, b, n)
	}
	if wait <= 0 {
		return nil
	}
	limited := mxerr.LimitExceeded.Set("retry_after_ms", wait.Milliseconds())
	limited.RetryAfter = wait
	return limited
}

// maxBuckets is how many buckets one generation remembers: about 4 MiB for each kind.
const maxBuckets = 1 << 16

// bucketOf is what somebody has of a budget.
type bucketOf[K comparable] struct {
	budget Budget
	key    K
}

// pace is a Rate in time.
type pace struct {
	interval time.Duration // between two calls in the long run; zero: no limit
	burst    time.Duration // how far ahead of now a bucket may be
}

// buckets is a token bucket for every key and budget. A bucket is one time: when it will be full again.
//
// Memory is bounded without a goroutine: when young is full it becomes old, and what was old and not
// asked for since is forgotten. Whoever is forgotten has a full bucket.
type buckets[K comparable] struct {
	paces [budgets]pace

	mu         sync.Mutex // guards the following
	young, old map[bucketOf[K]]time.Time
}

func (b *buckets[K]) set(rates [budgets]Rate) {
	for i, r := range rates {
		if r.PerSecond > 0 {
			interval := time.Duration(float64(time.Second) / r.PerSecond)
			b.paces[i] = pace{interval, time.Duration(r.Burst) * interval}
		}
	}
	b.young = map[bucketOf[K]]time.Time{}
}

// take takes n calls out of a bucket, or returns how long to wait until there is one in it.
func (b *buckets[K]) take(key bucketOf[K], n int, now time.Time) time.Duration {
	p := b.paces[key.budget]
	if p.interval == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	full, ok := b.young[key]
	if !ok {
		full = b.old[key]
	}
	if full.Before(now) {
		full = now
	}
	if wait := full.Add(p.interval).Sub(now) - p.burst; wait > 0 {
		return wait
	}
	if !ok && len(b.young) >= maxBuckets {
		b.old, b.young = b.young, make(map[bucketOf[K]]time.Time, maxBuckets)
	}
	b.young[key] = full.Add(time.Duration(n) * p.interval)
	return 0
}
