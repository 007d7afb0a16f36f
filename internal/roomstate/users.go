package roomstate

import (
	"context"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// maxUsers is how many users' lists of rooms are kept in memory.
const maxUsers = 10000

// Membership is a user's current membership of a room.
type Membership struct {
	Room       id.RoomID
	Membership string
	Pos        storage.Pos // of the member event
	Since      storage.Pos // when that became the current one
	Forgotten  bool
}

// UserRooms is the list of a user's rooms, kept up to date by commits.
type UserRooms struct {
	mu sync.RWMutex // guards the following
	// rooms has every room the user was ever a member of or invited to; joined those they are in, nil until asked for.
	rooms  map[id.RoomID]Membership
	joined []id.RoomID
}

// Get returns the user's membership of a room.
func (u *UserRooms) Get(room id.RoomID) (Membership, bool) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	m, ok := u.rooms[room]
	return m, ok
}

// All returns every membership, in no order.
func (u *UserRooms) All() []Membership {
	u.mu.RLock()
	defer u.mu.RUnlock()
	list := make([]Membership, 0, len(u.rooms))
	for _, m := range u.rooms {
		list = append(list, m)
	}
	return list
}

// Joined returns the rooms that the user is in, in no order. The caller may not change it.
func (u *UserRooms) Joined() []id.RoomID {
	u.mu.RLock()
	list := u.joined
	u.mu.RUnlock()
	if list != nil {
		return list
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.joined = make([]id.RoomID, 0, len(u.rooms))
	for _, m := range u.rooms {
		if m.Membership == "join" {
			u.joined = append(u.joined, m.Room)
		}
	}
	return u.joined
}

// SharesWith reports whether both users are in one room. Its cost follows the one who is in fewer.
func (u *UserRooms) SharesWith(other *UserRooms) bool {
	few, many := u, other
	if len(few.Joined()) > len(many.Joined()) {
		few, many = many, few
	}
	for _, room := range few.Joined() {
		if m, ok := many.Get(room); ok && m.Membership == "join" {
			return true
		}
	}
	return false
}

func (u *UserRooms) set(m Membership) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rooms[m.Room] = m
	u.joined = nil
}

// users caches the rooms of users.
type users struct {
	db     *storage.DB
	erased erased

	mu sync.Mutex // guards the following
	// known are the loaded lists; loading says for a list being loaded whether it has changed meanwhile.
	known   map[id.UserID]*UserRooms
	loading map[id.UserID]*loadingUser
}

type loadingUser struct {
	done    chan struct{}
	changed bool
}

func newUsers(db *storage.DB) *users {
	return &users{db: db, known: map[id.UserID]*UserRooms{}, loading: map[id.UserID]*loadingUser{}}
}

// RoomsOf returns the rooms of a user.
func (c *Cache) RoomsOf(ctx context.Context, user id.UserID) (*UserRooms, error) {
	return c.users.get(ctx, user)
}

func (s *users) get(ctx context.Context, user id.UserID) (*UserRooms, error) {
	for {
		known, load, mine := s.find(user)
		if known != nil {
			return known, nil
		}
		if mine {
			return s.load(ctx, user, load)
		}
		select {
		case <-load.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *users) find(user id.UserID) (known *UserRooms, load *loadingUser, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.known[user]; u != nil {
		return u, nil, false
	}
	if l := s.loading[user]; l != nil {
		return nil, l, false
	}
	l := &loadingUser{done: make(chan struct{})}
	s.loading[user] = l
	return nil, l, true
}

// load reads a list until it did not change while it was read.
func (s *users) load(ctx context.Context, user id.UserID, l *loadingUser) (*UserRooms, error) {
	defer close(l.done)
	for {
		u, err := s.read(ctx, user)
		s.mu.Lock()
		if err == nil && l.changed {
			l.changed = false
			s.mu.Unlock()
			continue
		}
		delete(s.loading, user)
		if err == nil {
			s.evictLocked()
			s.known[user] = u
		}
		s.mu.Unlock()
		return u, err
	}
}

// evictLocked drops any one list when there are too many.
func (s *users) evictLocked() {
	if len(s.known) < maxUsers {
		return
	}
	for user := range s.known {
		delete(s.known, user)
		return
	}
}

func (s *users) read(ctx context.Context, user id.UserID) (*UserRooms, error) {
	u := &UserRooms{rooms: map[id.RoomID]Membership{}}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.MembershipsOf(user)
		for _, m := range list {
			u.rooms[m.RoomID] = Membership{m.RoomID, m.Membership, m.Pos, m.Since, m.Forgotten}
		}
		return err
	})
	return u, err
}

// changed is told of every committed change.
func (s *users) changed(user id.UserID, m Membership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.loading[user]; l != nil {
		l.changed = true
	}
	if u := s.known[user]; u != nil {
		u.set(m)
	}
}

// moved tells of a user's new membership of a room; Pos is 0 when the room's state says nothing of the user any more.
func (s *users) moved(room id.RoomID, m Member) {
	if m.Pos == 0 {
		s.forget(m.User)
		return
	}
	s.changed(m.User, Membership{Room: room, Membership: m.Membership, Pos: m.Pos, Since: m.Since})
}

// forget drops what is known of a user; it is read again.
func (s *users) forget(user id.UserID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.loading[user]; l != nil {
		l.changed = true
	}
	delete(s.known, user)
}

// Forgot tells the cache, after the commit at a position, that a user has forgotten a room. Whoever has come back
// since has not.
func (c *Cache) Forgot(user id.UserID, room id.RoomID, at storage.Pos) {
	c.users.mu.Lock()
	defer c.users.mu.Unlock()
	if l := c.users.loading[user]; l != nil {
		l.changed = true
	}
	if u := c.users.known[user]; u != nil {
		if m, ok := u.Get(room); ok && m.Since < at {
			m.Forgotten = true
			u.set(m)
		}
	}
}
