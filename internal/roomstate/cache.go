// Package roomstate is the hot part of rooms: their current state, newest events and members in memory,
// bounded in bytes, and states of any time as trees that share their nodes. Readers find here what is
// committed; writers build on the head of a room under its lock. What is not in memory is read from storage.
package roomstate

import (
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/storage"
)

// Config bounds what is kept in memory, in bytes, where zero takes the default of each, and says who sends events to
// other servers.
type Config struct {
	Events int // parsed events; default 48 MiB
	Nodes  int // nodes of states; default 16 MiB
	Rooms  int // rooms with their members and newest events; default 128 MiB

	Server id.ServerName // this server's name; only needed with Sender
	Sender Sender        // nil: nothing is sent to other servers
}

// Sender sends events to other servers.
type Sender interface {
	// Wake tells that rows of mx_outgoing for these servers were committed. It may not wait.
	Wake(servers []id.ServerName)
}

func (c Config) withDefaults() Config {
	for v, def := range map[*int]int{&c.Events: 48 << 20, &c.Nodes: 16 << 20, &c.Rooms: 128 << 20} {
		if *v == 0 {
			*v = def
		}
	}
	return c
}

// Cache holds the rooms and users in use. Its methods may be called at once.
type Cache struct {
	db     *storage.DB
	hub    *notify.Hub
	trees  *Trees
	events *lru[storage.Pos, *Event]
	users  *users
	config Config

	ignores  ignores
	stickies stickies
	oldRooms atomic.Int64  // one more than the number up to which rooms may be that old, 0 while that was not read
	watch    []func(*Room) // called when the current state of a room has changed
	clears   func()        // called when all that a user has sent is to be redacted; may be nil

	mu sync.Mutex // guards the following
	// rooms are those in memory or being loaded; order has them by last use; bytes is about their size.
	rooms map[id.RoomID]*list.Element
	order *list.List // of *entry
	bytes int
}

// entry is a room in the cache; room and err are set when ready is closed.
type entry struct {
	id    id.RoomID
	ready chan struct{}
	room  *Room
	err   error
	bytes int
}

// NewCache returns an empty cache over a database. Commits are recorded in hub.
func NewCache(db *storage.DB, hub *notify.Hub, config Config) *Cache {
	config = config.withDefaults()
	return &Cache{
		db: db, hub: hub, trees: newTrees(db, config.Nodes), events: newLRU[storage.Pos, *Event](config.Events),
		users: newUsers(db), config: config, rooms: map[id.RoomID]*list.Element{}, order: list.New(),
	}
}

// Watch lets fn be called whenever the current state of a room has changed, or an event of it was redacted: after the
// commit, when readers find the new state, and before whoever changed it is answered. fn may not wait. Watch is called
// before the cache is used.
func (c *Cache) Watch(fn func(*Room)) { c.watch = append(c.watch, fn) }

// changed tells those who watch that a room has another state.
func (c *Cache) changed(r *Room) {
	for _, fn := range c.watch {
		fn(r)
	}
}

// Room returns a room, from memory or storage; storage.ErrNotFound when this server does not know it.
func (c *Cache) Room(ctx context.Context, roomID id.RoomID) (*Room, error) {
	for {
		e, mine := c.entry(roomID)
		if mine {
			room, err := c.load(context.WithoutCancel(ctx), roomID)
			c.loaded(e, room, err)
			return room, err // fresh, even if others have pushed it out again
		}
		select {
		case <-e.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if e.err == nil && e.room.stale.Load() {
			c.forget(e)
			continue
		}
		return e.room, e.err
	}
}

// entry finds or makes the entry of a room; mine says that the caller has to load it.
func (c *Cache) entry(roomID id.RoomID) (e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.rooms[roomID]; ok {
		c.order.MoveToFront(el)
		e = el.Value.(*entry)
		c.measureLocked(e)
		return e, false
	}
	e = &entry{id: roomID, ready: make(chan struct{})}
	c.rooms[roomID] = c.order.PushFront(e)
	return e, true
}

// loaded ends the loading of an entry. Until then it has no room, and is not evicted.
func (c *Cache) loaded(e *entry, room *Room, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.err = err; err == nil {
		e.room = room
	}
	close(e.ready)
	if e.err != nil {
		c.forgetLocked(e)
		return
	}
	c.measureLocked(e)
}

// measureLocked notes how large a room has become, and makes room for it.
func (c *Cache) measureLocked(e *entry) {
	if e.room == nil {
		return
	}
	size := e.room.size()
	c.bytes += size - e.bytes
	e.bytes = size
	c.evictLocked()
}

// evictLocked drops the rooms that were not used for longest and that nobody writes, but for the newest.
func (c *Cache) evictLocked() {
	for el := c.order.Back(); el != nil && el != c.order.Front() && c.bytes > c.config.Rooms; {
		e := el.Value.(*entry)
		el = el.Prev()
		if e.room != nil && e.room.evict() {
			c.forgetLocked(e)
		}
	}
}

func (c *Cache) forget(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(e)
}

func (c *Cache) forgetLocked(e *entry) {
	if el, ok := c.rooms[e.id]; ok && el.Value.(*entry) == e {
		delete(c.rooms, e.id)
		c.order.Remove(el)
		c.bytes -= e.bytes
	}
}

// load reads a room: its head, keys, members and newest events.
func (c *Cache) load(ctx context.Context, roomID id.RoomID) (*Room, error) {
	var row storage.Room
	var keys []storage.StateKey
	var members []storage.Member
	var tail []storage.Event
	var missing []id.EventID
	var gaps []storage.Gap // the newest
	var related []storage.RelatedPlaces
	var searched bool
	epoch := c.events.begin()
	err := c.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if row, err = tx.Room(roomID); err != nil {
			return err
		}
		if keys, err = tx.StateKeys(row.Num); err != nil {
			return err
		}
		if members, err = tx.Members(row.Num); err != nil {
			return err
		}
		if missing, err = tx.MissingEvents(row.Num); err != nil {
			return err
		}
		if gaps, err = tx.Gaps(row.Num, math.MaxInt64, 0, 1); err != nil {
			return err
		}
		if related, err = tx.LatestRelations(row.Num, keepParents); err != nil {
			return err
		}
		if searched, err = c.searched(tx, row.Num); err != nil {
			return err
		}
		tail, err = tx.HistoryBackwards(row.Num, math.MaxInt64, math.MinInt64, tailLength)
		return err
	})
	if err != nil {
		return nil, err
	}
	r, err := c.newRoom(row.ID, row.Num, row.Version)
	if err != nil {
		return nil, err
	}
	for _, eventID := range missing {
		r.head.gaps[eventID] = true
	}
	for _, g := range gaps {
		r.breaks(g.Ord)
	}
	r.loadRelations(related)
	r.searched.Store(searched)
	return r, r.fill(row, keys, members, tail, epoch)
}

// searched reports whether no event of a room is left of which it is not known whether it relates to another one.
func (c *Cache) searched(tx *storage.Tx, room int64) (bool, error) {
	old := c.oldRooms.Load()
	if old == 0 {
		from, err := tx.RelationsFrom()
		if err != nil {
			return false, err
		}
		old = from + 1
		c.oldRooms.Store(old)
	}
	if room >= old {
		return true, nil
	}
	_, done, err := tx.Related(room)
	return done, err
}

func (c *Cache) newRoom(roomID id.RoomID, num int64, version string) (*Room, error) {
	rules, ok := roomversion.Get(version)
	if !ok {
		return nil, fmt.Errorf("room %s has unknown version %q", roomID, version)
	}
	r := &Room{
		ID: roomID, Num: num, Rules: rules, cache: c, lock: make(chan struct{}, 1),
		numbers: map[Key]int64{}, queued: map[storage.Pos]*Event{}, onWay: map[id.EventID]*Event{},
		members: map[id.UserID]Member{}, servers: map[id.ServerName]int{},
	}
	r.head.gaps = map[id.EventID]bool{}
	r.head.txns, r.head.servers, r.head.moved = map[[32]byte]*Pending{}, map[id.ServerName]int{}, map[id.UserID]Member{}
	r.view.Store(&View{Whole: true})
	r.related.Store(math.MinInt64)
	r.searched.Store(true) // unless it is an old one: load sees to that
	return r, nil
}

func (r *Room) fill(row storage.Room, keys []storage.StateKey, members []storage.Member, tail []storage.Event, epoch int64) error {
	r.head.seq, r.head.state, r.head.lastPos = row.Seq, row.State, row.LastPos
	if err := json.Unmarshal(row.Extremities, &r.head.extremities); err != nil {
		return fmt.Errorf("extremities of %s: %w", r.ID, err)
	}
	for i := range r.head.extremities {
		if x := &r.head.extremities[i]; x.State == 0 { // written before branches were kept apart
			x.State = row.State
		}
	}
	r.mu.Lock()
	for _, k := range keys {
		r.numbers[Key{k.Type, k.StateKey}] = k.Number
		r.keys = append(r.keys, Key{k.Type, k.StateKey})
	}
	for _, m := range members {
		r.members[m.User] = Member{m.User, m.Membership, m.Pos, m.Since}
		r.joined += one(m.Membership == "join")
		r.invited += one(m.Membership == "invite")
		r.countServerLocked(m.User, one(m.Membership == "join"))
	}
	r.findFirstLocked()
	r.head.servers = maps.Clone(r.servers)
	r.mu.Unlock()
	events, err := r.cachedAll(tail, epoch)
	if err != nil {
		return err
	}
	slices.Reverse(events)
	for _, e := range events {
		if e.filled() {
			r.breaks(e.Ord)
		}
	}
	r.base.Store(int64(keyCost*len(keys) + memberCost*len(members)))
	r.tail.Store(costOf(events))
	r.view.Store(&View{State: row.State, Pos: row.LastPos, Tail: events, Whole: len(events) < tailLength})
	return nil
}
