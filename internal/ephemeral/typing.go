// Package ephemeral holds what is told to clients and never stored: who is typing, and who is there. Its changes have
// numbers of their own, which mean something only beside the boot id of this process.
package ephemeral

import (
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
)

// A room in which nobody types any more is remembered for keepQuiet, so that whoever was told of typing there
// hears of its end; beyond maxRooms, older ones are forgotten.
const (
	maxRooms  = 4096
	keepQuiet = 10 * time.Minute
)

// Typing is who is typing where. Its methods may be called at once.
type Typing struct {
	// Boot names this process: the numbers of another one mean nothing here.
	Boot string

	// Ended, if not nil, is called without a lock held when somebody's time is over who has not said so. It is set before
	// the first use, and may not wait.
	Ended func(room id.RoomID, user id.UserID)

	wake  func(room id.RoomID)
	wakes sync.WaitGroup // the calls of wake under way or about to begin; none begins once closed is set

	mu sync.Mutex // guards the following
	// now is the number of the latest change; rooms has who types, and until when; closed stops timers.
	now    int64
	rooms  map[id.RoomID]*typingRoom
	swept  time.Time // when quiet rooms were last looked for
	closed bool
}

type typingRoom struct {
	changed int64
	at      time.Time // of the change
	users   []typist  // in the order in which they began
}

type typist struct {
	user  id.UserID
	until time.Time
	timer *time.Timer // fires then
}

// NewTyping returns an empty Typing; wake is called after each change of a room, without a lock held.
func NewTyping(boot string, wake func(room id.RoomID)) *Typing {
	// The first change has number 2: a token of before it says 1, for 0 stands for who was told nothing.
	return &Typing{Boot: boot, wake: wake, rooms: map[id.RoomID]*typingRoom{}, now: 1}
}

// Set says that user types in room for a time; 0 says that they stopped.
func (t *Typing) Set(room id.RoomID, user id.UserID, d time.Duration) {
	t.mu.Lock()
	changed := t.setLocked(room, user, d)
	t.mu.Unlock()
	if changed {
		t.wake(room)
		t.wakes.Done()
	}
}

// setLocked reports a change, of which the caller then wakes the room and tells wakes.
func (t *Typing) setLocked(room id.RoomID, user id.UserID, d time.Duration) (changed bool) {
	if t.closed {
		return false
	}
	r := t.rooms[room]
	if r == nil {
		r = &typingRoom{}
	}
	i := slices.IndexFunc(r.users, func(u typist) bool { return u.user == user })
	switch {
	case i < 0 && d <= 0:
		return false
	case i >= 0 && d > 0:
		r.users[i].until = time.Now().Add(d)
		r.users[i].timer.Reset(d)
		return false
	case i >= 0:
		r.users[i].timer.Stop()
		r.users = slices.Delete(r.users, i, i+1)
	default:
		timer := time.AfterFunc(d, func() { t.expire(room, user) })
		r.users = append(r.users, typist{user, time.Now().Add(d), timer})
	}
	t.now++
	r.changed, r.at = t.now, time.Now()
	t.rooms[room] = r
	t.forgetLocked(r.at)
	t.wakes.Add(1)
	return true
}

// expire ends a user's typing, unless the time was prolonged when the timer had already fired.
func (t *Typing) expire(room id.RoomID, user id.UserID) {
	t.mu.Lock()
	r := t.rooms[room]
	due := r != nil && slices.ContainsFunc(r.users, func(u typist) bool { return u.user == user && !time.Now().Before(u.until) })
	changed := due && t.setLocked(room, user, 0)
	t.mu.Unlock()
	if !changed {
		return
	}
	t.wake(room)
	if t.Ended != nil {
		t.Ended(room, user)
	}
	t.wakes.Done()
}

// forgetLocked drops rooms that have been quiet for long when there are too many.
func (t *Typing) forgetLocked(now time.Time) {
	if len(t.rooms) <= maxRooms || now.Sub(t.swept) < keepQuiet {
		return
	}
	t.swept = now
	for room, r := range t.rooms {
		if len(r.users) == 0 && now.Sub(r.at) >= keepQuiet {
			delete(t.rooms, room)
		}
	}
}

// In returns who is typing in a room, in the order in which they began.
func (t *Typing) In(room id.RoomID) []id.UserID {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil {
		return nil
	}
	users := make([]id.UserID, len(r.users))
	for i, u := range r.users {
		users[i] = u.user
	}
	return users
}

// Now is the number of the latest change.
func (t *Typing) Now() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// Since returns the rooms that changed after number since, and the number of the latest change.
// With since 0 it returns the rooms in which somebody is typing, or was not long ago.
func (t *Typing) Since(since int64) (rooms []id.RoomID, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since == t.now {
		return nil, t.now
	}
	for room, r := range t.rooms {
		if r.changed > since {
			rooms = append(rooms, room)
		}
	}
	return rooms, t.now
}

// Close stops the timers and awaits those that have fired; nothing changes any more.
func (t *Typing) Close() {
	t.stop()
	t.wakes.Wait()
}

func (t *Typing) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, r := range t.rooms {
		for _, u := range r.users {
			u.timer.Stop()
		}
	}
}
