// Package notify wakes readers. A wake-up carries no data: readers hold a position and pull what follows
// it, so a lost or doubled wake-up costs time, never a message. Beside the wake-ups it remembers where the
// latest changes were, so that a reader looks at what changed and not at everything it could see.
package notify

import (
	"sort"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Kind says what changed.
type Kind uint8

// The kinds of change.
const (
	Timeline    Kind = iota + 1 // an event in Room
	Membership                  // User's membership of Room (beside Timeline)
	Receipt                     // a receipt in Room by User
	AccountData                 // account data of User; Room is empty for global
	Device                      // something that concerns User's devices
)

// Change is where something changed at a position.
type Change struct {
	Pos  int64
	Kind Kind
	Room id.RoomID
	User id.UserID
}

// Members is a set of users to wake.
type Members interface {
	Len() int
	Has(id.UserID) bool
	Each(func(id.UserID) bool) // until false
}

// Hub wakes those who wait and remembers the latest changes. Its methods may be called at once.
type Hub struct {
	mu sync.Mutex // guards the following
	// waiting is who waits; drained answers every wait at once.
	waiting map[id.UserID]map[*Waiter]struct{}
	drained bool
	// ring holds changes in order of position, from start, and is complete after floor.
	ring  []Change
	start int
	floor int64
}

// keepChanges is how many changes a Hub remembers: about 3 MB, minutes on a busy server.
const keepChanges = 32768

// New returns a Hub that knows of nothing at or before position floor.
func New(floor int64) *Hub {
	return &Hub{waiting: map[id.UserID]map[*Waiter]struct{}{}, floor: floor}
}

// Record remembers changes. It is called in the order of positions, before they are published.
func (h *Hub) Record(changes ...Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring = append(h.ring, changes...)
	if len(h.ring)-h.start <= keepChanges {
		return
	}
	h.start = len(h.ring) - keepChanges
	h.floor = max(h.floor, h.ring[h.start-1].Pos)
	if h.start >= keepChanges {
		h.ring = append(h.ring[:0:0], h.ring[h.start:]...)
		h.start = 0
	}
}

// Doubt lets everything at or before a position count as forgotten: there may be changes that were never recorded.
func (h *Hub) Doubt(pos int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.floor = max(h.floor, pos)
}

// Since returns the changes in (from, to], oldest first; false when they reach further back than the Hub remembers.
func (h *Hub) Since(from, to int64) ([]Change, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if from < h.floor {
		return nil, false
	}
	known := h.ring[h.start:]
	first := sort.Search(len(known), func(i int) bool { return known[i].Pos > from })
	last := sort.Search(len(known), func(i int) bool { return known[i].Pos > to })
	return append([]Change(nil), known[first:last]...), true
}

// Waiter is one reader that waits.
type Waiter struct {
	// C receives when there may be news since Wait was called.
	C    <-chan struct{}
	c    chan struct{}
	hub  *Hub
	user id.UserID
}

// Wait registers a reader for user. The caller looks for news after it has registered, then receives from C,
// and calls Close in the end.
func (h *Hub) Wait(user id.UserID) *Waiter {
	c := make(chan struct{}, 1)
	w := &Waiter{C: c, c: c, hub: h, user: user}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting[user] == nil {
		h.waiting[user] = map[*Waiter]struct{}{}
	}
	h.waiting[user][w] = struct{}{}
	if h.drained {
		w.wake()
	}
	return w
}

// WaitNamed is Wait for whoever is interested in all users that Wake names: those whose memberships have changed.
func (h *Hub) WaitNamed() *Waiter { return h.Wait("") }

// WaitOutside is Wait for whoever looks into a room without being in it: a Members of its has its id too.
func (h *Hub) WaitOutside(room id.RoomID) *Waiter { return h.Wait(id.UserID(room)) }

// everybody is woken by every Wake. No user and no room is called so.
const everybody id.UserID = "*"

// WaitAll is Wait for whoever is interested in everything that is committed.
func (h *Hub) WaitAll() *Waiter { return h.Wait(everybody) }

// Close ends the waiting.
func (w *Waiter) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	delete(w.hub.waiting[w.user], w)
	if len(w.hub.waiting[w.user]) == 0 {
		delete(w.hub.waiting, w.user)
	}
}

func (w *Waiter) wake() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// Wake wakes users, and those in room who wait; room may be nil. It looks at the smaller of the two sets.
func (h *Hub) Wake(room Members, users ...id.UserID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeLocked(everybody)
	for _, u := range users {
		h.wakeLocked(u)
	}
	if len(users) > 0 {
		h.wakeLocked("") // WaitNamed
	}
	if room == nil || len(h.waiting) == 0 {
		return
	}
	if room.Len() < len(h.waiting) {
		room.Each(func(u id.UserID) bool { h.wakeLocked(u); return true })
		return
	}
	for u := range h.waiting {
		if room.Has(u) {
			h.wakeLocked(u)
		}
	}
}

func (h *Hub) wakeLocked(user id.UserID) {
	for w := range h.waiting[user] {
		w.wake()
	}
}

// Drain wakes everybody and lets nobody wait from now on: Drained is true.
func (h *Hub) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drained = true
	for user := range h.waiting {
		h.wakeLocked(user)
	}
}

// Drained reports whether readers should answer with what they have instead of waiting.
func (h *Hub) Drained() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drained
}
