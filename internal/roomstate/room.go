package roomstate

import (
	"context"
	"maps"
	"math"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/storage"
)

// tailLength is how many of a room's newest events its view holds at least, if there are so many.
const tailLength = 64

// Key names an entry of a state.
type Key struct{ Type, StateKey string }

// Room is a room in memory. Readers take its View and ask for states by their roots; a writer holds its
// Lock. A Room that fell out of the cache stays correct for what was committed by then.
type Room struct {
	ID    id.RoomID
	Num   int64
	Rules *roomversion.Rules

	cache *Cache
	lock  chan struct{} // capacity 1: the right to write; guards head
	head  head
	stale atomic.Bool  // a write was refused, or it was evicted: load it again
	pins  atomic.Int32 // writers and queued acts: not to be evicted; negative once it is

	view   atomic.Pointer[View]
	chains chains // the auth graph as readers have it
	// broken is the newest place behind which everything here arrived live, as far as the tail goes back; it only grows.
	broken atomic.Int64
	// related is the newest place of an event that another one relates to, or which relates to one; it only grows. searched says
	// that no event is left of which it is not known whether it relates to one.
	related  atomic.Int64
	searched atomic.Bool
	// began is one more than the depth of the oldest event that arrived live, 0 while that was not looked up.
	began atomic.Int64

	// tail is about what the events of the view's tail hold in memory, base what everything else does.
	tail, base atomic.Int64

	mu sync.RWMutex // guards the following; no I/O under it
	// numbers and keys number the state keys; queued are events that are not yet committed, onWay the same by id.
	numbers map[Key]int64
	keys    []Key // by number
	queued  map[storage.Pos]*Event
	onWay   map[id.EventID]*Event
	// members is everybody's current membership; joined and invited count them; first are the earliest
	// joined or invited by the order of their events, at most maxFirst and at least as many as there are.
	members         map[id.UserID]Member
	servers         map[id.ServerName]int // how many of the joined users each has
	joined, invited int
	first           []Member
}

// View is what readers see of a room: committed, though perhaps a moment ahead of what is published.
// It is immutable.
type View struct {
	State Root
	Pos   storage.Pos // of the newest event in the timeline
	Tail  []*Event    // the newest events of the timeline, oldest first
	Whole bool        // Tail is the whole timeline
}

// Member is a current membership.
type Member struct {
	User       id.UserID
	Membership string
	Pos        storage.Pos // of the member event
	Since      storage.Pos // when that became the current one
}

// head is the room as the next writer finds it; it may hold what is queued and not yet committed.
type head struct {
	seq         int64
	state       Root
	lastPos     storage.Pos
	extremities []Extremity
	txns        map[[32]byte]*Pending // transaction ids whose acts are queued
	pruneTxns   int                   // how many of them are too many
	last        *Pending              // the latest act
	levels      eventauth.Memo
	graph       *authGraph          // nil until it is needed
	gaps        map[id.EventID]bool // backward extremities: what is missing here and was named by others
	parents     []id.EventID        // of the latest relations, each once, the latest last

	servers map[id.ServerName]int // how many joined users each has
	moved   map[id.UserID]Member  // memberships that are queued and not yet committed; guarded by the room's mu
	set     *serverSet            // the servers to which events are sent; nil: it has changed since it was last stored
}

// evicted is far below what pins can make up for.
const evicted = math.MinInt32 / 2

// pin keeps the room in the cache until unpin; false when it is evicted already, for then another value may
// stand for the same room, and its readers would not learn what is written here.
func (r *Room) pin() bool {
	if r.pins.Add(1) > 0 {
		return true
	}
	r.pins.Add(-1)
	return false
}

func (r *Room) unpin() { r.pins.Add(-1) }

// evict takes the room out of use, unless it is pinned. Nobody writes it from then on.
func (r *Room) evict() bool {
	if !r.pins.CompareAndSwap(0, evicted) {
		return false
	}
	r.stale.Store(true) // whoever found it in the cache a moment ago takes it anew
	return true
}

// About what a room holds in memory, in bytes: for itself, for each state key and for each member.
const (
	roomCost   = 4096
	keyCost    = 200
	memberCost = 150
)

// size is about what the room holds in memory. It waits for nobody, for others wait meanwhile.
func (r *Room) size() int { return int(roomCost + r.base.Load() + r.tail.Load()) }

// costOf is about what events hold in memory.
func costOf(events []*Event) (bytes int64) {
	for _, e := range events {
		bytes += int64(e.cost())
	}
	return bytes
}

// View returns the newest view.
func (r *Room) View() *View { return r.view.Load() }

// StateAt returns the root of the room's current state as of a position.
func (r *Room) StateAt(ctx context.Context, pos storage.Pos) (Root, error) {
	v := r.View()
	i := sort.Search(len(v.Tail), func(i int) bool { return v.Tail[i].Arrived() > pos })
	if i > 0 {
		return v.Tail[i-1].Now, nil
	}
	if v.Whole {
		return 0, nil
	}
	list, err := r.HistoryBackwards(ctx, OrdAfter(pos), math.MinInt64, 1)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[0].Now, nil
}

// Began returns the depth of the join by which this server got into the room. 0 is a room that was made here, or in
// which the server is not.
func (r *Room) Began(ctx context.Context) (int64, error) {
	if began := r.began.Load(); began > 0 {
		return began - 1, nil
	}
	first, err := r.HistoryForwards(ctx, 0, math.MaxInt64, 1)
	if err != nil || len(first) == 0 || first[0].Flags != storage.InTimeline {
		return 0, err
	}
	depth := first[0].Depth
	if first[0].Type == "m.room.create" {
		depth = 0 // nothing is older, whatever depth it claims
	}
	r.began.CompareAndSwap(0, depth+1)
	return depth, nil
}

// Unbroken reports whether memory knows that storage.Tx.Break finds nothing behind a place: that everything from there on
// arrived as it happened. When it does not, storage is to be asked.
func (r *Room) Unbroken(after int64) bool {
	v, broken := r.View(), r.broken.Load()
	behind := sort.Search(len(v.Tail), func(i int) bool { return v.Tail[i].Ord > after })
	if behind == 0 {
		return v.Whole && broken <= after
	}
	last := v.Tail[behind-1]
	return last.Flags == storage.InTimeline && !last.filled() && broken <= last.Ord
}

// breaks notes that history did not arrive live at a place. It is called before anybody can read that.
func (r *Room) breaks(at int64) { r.broken.Store(max(r.broken.Load(), at)) }

// OrdAfter is the place in a history just behind everything that had arrived at a position.
func OrdAfter(pos storage.Pos) int64 { return (pos + 1) << storage.OrdShift }

// Timeline returns the newest events of the timeline with a position in (after, upTo], at most limit,
// oldest first; more says that the range holds others.
func (r *Room) Timeline(ctx context.Context, after, upTo storage.Pos, limit int) (list []*Event, more bool, err error) {
	v := r.View()
	first := sort.Search(len(v.Tail), func(i int) bool { return v.Tail[i].Arrived() > after })
	end := sort.Search(len(v.Tail), func(i int) bool { return v.Tail[i].Arrived() > upTo })
	first = min(first, end)
	if covered := v.Whole || first > 0; covered || end-first > limit {
		from := max(first, end-limit)
		return v.Tail[from:end:end], from > first, nil
	}
	list, err = r.HistoryBackwards(ctx, OrdAfter(upTo), after<<storage.OrdShift, limit+1)
	if err != nil {
		return nil, false, err
	}
	if len(list) > limit {
		list, more = list[:limit], true
	}
	slices.Reverse(list)
	return list, more, nil
}

// HistoryBackwards returns at most limit timeline events with a place in (after, before), newest first.
func (r *Room) HistoryBackwards(ctx context.Context, before, after int64, limit int) ([]*Event, error) {
	return r.history(ctx, func(tx *storage.Tx) ([]storage.Event, error) {
		return tx.HistoryBackwards(r.Num, before, after, limit)
	})
}

// HistoryForwards returns at most limit timeline events with a place in (after, before), oldest first.
func (r *Room) HistoryForwards(ctx context.Context, after, before int64, limit int) ([]*Event, error) {
	return r.history(ctx, func(tx *storage.Tx) ([]storage.Event, error) {
		return tx.HistoryForwards(r.Num, after, before, limit)
	})
}

func (r *Room) history(ctx context.Context, query func(*storage.Tx) ([]storage.Event, error)) ([]*Event, error) {
	var rows []storage.Event
	epoch := r.cache.events.begin()
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = query(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r.cachedAll(rows, epoch)
}

// number returns the number of a state key, or false when no state of the room ever had it.
func (r *Room) number(k Key) (int64, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n, ok := r.numbers[k]
	return n, ok
}

// Key returns the state key with a number.
func (r *Room) Key(number int64) Key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys[number]
}

// StatePos returns the position of an entry of a state, 0 when it has none.
func (r *Room) StatePos(ctx context.Context, root Root, eventType, stateKey string) (storage.Pos, error) {
	n, ok := r.number(Key{eventType, stateKey})
	if !ok {
		return 0, nil
	}
	return r.cache.trees.Get(ctx, root, n)
}

// StateEvent returns an entry of a state, nil when it has none.
func (r *Room) StateEvent(ctx context.Context, root Root, eventType, stateKey string) (*Event, error) {
	pos, err := r.StatePos(ctx, root, eventType, stateKey)
	if err != nil || pos == 0 {
		return nil, err
	}
	return r.EventAt(ctx, pos)
}

// MembershipIn returns a user's membership in a state, "leave" when it has none.
func (r *Room) MembershipIn(ctx context.Context, root Root, user id.UserID) (string, error) {
	e, err := r.StateEvent(ctx, root, "m.room.member", string(user))
	return membershipOf(e), err
}

// membershipOf is what a member event says, "leave" when there is none.
func membershipOf(e *Event) string {
	if e == nil || e.Membership() == "" {
		return "leave"
	}
	return e.Membership()
}

// State returns all events of a state, in the order in which their keys first came up.
func (r *Room) State(ctx context.Context, root Root) ([]*Event, error) {
	var positions []storage.Pos
	err := r.cache.trees.Each(ctx, root, func(_ int64, pos storage.Pos) { positions = append(positions, pos) })
	if err != nil {
		return nil, err
	}
	return r.EventsAt(ctx, positions)
}

// StateKeys calls fn for every entry of a state without reading the events.
func (r *Room) StateKeys(ctx context.Context, root Root, fn func(k Key, pos storage.Pos)) error {
	return r.cache.trees.Each(ctx, root, func(n int64, pos storage.Pos) { fn(r.Key(n), pos) })
}

// Change is an entry in which two states differ; a position is 0 where a state has none.
type Change struct {
	Key
	Before, After storage.Pos
}

// Diff returns the entries in which two states differ. Its cost follows the difference, not the states.
func (r *Room) Diff(ctx context.Context, a, b Root) ([]Change, error) {
	var list []Change
	err := r.cache.trees.Diff(ctx, a, b, func(n int64, before, after storage.Pos) {
		list = append(list, Change{r.Key(n), before, after})
	})
	return list, err
}

// maxFirst is how many of the earliest members are kept at hand: five heroes and the viewer, doubled.
const maxFirst = 12

// Member returns a user's current membership.
func (r *Room) Member(user id.UserID) (Member, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	m, ok := r.members[user]
	return m, ok
}

// Counts returns how many users are joined and invited now.
func (r *Room) Counts() (joined, invited int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.joined, r.invited
}

// Members calls fn for every current membership, in no order, until it returns false. fn may not wait.
func (r *Room) Members(fn func(Member) bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, m := range r.members {
		if !fn(m) {
			return
		}
	}
}

// Heroes returns up to n joined or invited members other than user, or else those who have left, in the
// order of their member events.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync (RoomSummary)
func (r *Room) Heroes(user id.UserID, n int) []id.UserID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if list := others(r.first, user, n); len(list) > 0 {
		return list
	}
	var gone []Member
	for _, m := range r.members {
		if m.Membership == "leave" || m.Membership == "ban" {
			gone = append(gone, m)
		}
	}
	slices.SortFunc(gone, byPos)
	return others(gone, user, n)
}

func others(members []Member, user id.UserID, n int) []id.UserID {
	var list []id.UserID
	for _, m := range members {
		if m.User != user && len(list) < n {
			list = append(list, m.User)
		}
	}
	return list
}

func byPos(a, b Member) int { return int(a.Pos - b.Pos) }

func present(membership string) bool { return membership == "join" || membership == "invite" }

// setMemberLocked changes a current membership; Pos is 0 when the state says nothing of the user any more.
func (r *Room) setMemberLocked(m Member) {
	before, known := r.members[m.User]
	r.members[m.User] = m
	if m.Pos == 0 {
		delete(r.members, m.User)
	}
	if !known {
		r.base.Add(memberCost)
	}
	r.joined += one(m.Membership == "join") - one(before.Membership == "join")
	r.invited += one(m.Membership == "invite") - one(before.Membership == "invite")
	r.countServerLocked(m.User, one(m.Membership == "join")-one(before.Membership == "join"))
	listed := slices.ContainsFunc(r.first, func(f Member) bool { return f.User == m.User })
	switch {
	case listed:
		r.findFirstLocked()
	case present(m.Membership) && len(r.first) < maxFirst && len(r.first) == r.joined+r.invited-1:
		r.first = append(slices.Clip(r.first), m)
	}
}

// countServerLocked counts a joined user more, or one less, for a server.
func (r *Room) countServerLocked(user id.UserID, by int) {
	server := user.Server()
	if r.servers[server] += by; r.servers[server] <= 0 {
		delete(r.servers, server)
	}
}

// Servers returns the servers that have joined users in the room now, in no order.
func (r *Room) Servers() []id.ServerName {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Collect(maps.Keys(r.servers))
}

// HasServer reports whether a server has joined users in the room now.
func (r *Room) HasServer(server id.ServerName) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.servers[server] > 0
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// findFirstLocked looks for the earliest members among all.
func (r *Room) findFirstLocked() {
	list := make([]Member, 0, r.joined+r.invited)
	for _, m := range r.members {
		if present(m.Membership) {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, byPos)
	r.first = slices.Clone(list[:min(len(list), maxFirst)])
}

// Joined is the set of users who are joined now, for wake-ups, and of those who look into the room from outside: they wait
// under its id, notify.Hub.WaitOutside.
type Joined struct{ *Room }

// Len counts them.
func (j Joined) Len() int { n, _ := j.Counts(); return n + 1 }

// Has reports whether user is joined.
func (j Joined) Has(user id.UserID) bool {
	m, ok := j.Member(user)
	return ok && m.Membership == "join" || string(user) == string(j.ID)
}

// Each calls fn for each until it returns false.
func (j Joined) Each(fn func(id.UserID) bool) {
	if fn(id.UserID(j.ID)) {
		j.Members(func(m Member) bool { return m.Membership != "join" || fn(m.User) })
	}
}
