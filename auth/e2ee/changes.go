package e2ee

import (
	"context"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Changed says, inside the act that does it, that devices of a user came, went, or got other keys or another name; no
// device stands for the cross-signing keys. It is the one place where this is noted, for users of other servers too:
// everybody who shares a room with the user, and the user, is told as of at, and is woken after the commit.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#tracking-the-device-list-for-a-user
func (s *Service) Changed(tx *storage.Tx, at storage.Pos, user id.UserID, devices ...id.DeviceID) error {
	if len(devices) == 0 {
		devices = []id.DeviceID{""}
	}
	for _, device := range devices {
		if err := tx.PutDeviceChange(storage.DeviceChange{User: user, Pos: at, Device: device}); err != nil {
			return err
		}
	}
	tx.Then(s.record(user), func(storage.Pos) { s.waker.add(user) })
	return nil
}

// changedFor is Changed for what only viewer may see: a signature by viewer, or the own user-signing key.
func (s *Service) changedFor(tx *storage.Tx, at storage.Pos, viewer, user id.UserID) error {
	err := tx.PutDeviceChange(storage.DeviceChange{User: user, Pos: at, Audience: viewer})
	if err != nil {
		return err
	}
	tx.Then(s.record(viewer), func(storage.Pos) { s.Hub.Wake(one(viewer)) })
	return nil
}

// record lets readers find the change of a user without asking storage.
func (s *Service) record(user id.UserID) func(storage.Pos) {
	return func(at storage.Pos) { s.Hub.Record(notify.Change{Pos: at, Kind: notify.Device, User: user}) }
}

// waker has the users whose devices have changed and who share rooms with somebody who may wait.
type waker struct {
	wake chan struct{} // capacity 1: there are some

	mu sync.Mutex // guards changed
	// changed has those whose rooms are to be woken.
	changed map[id.UserID]struct{}
}

func newWaker() waker { return waker{wake: make(chan struct{}, 1), changed: map[id.UserID]struct{}{}} }

func (w *waker) add(user id.UserID) {
	w.mu.Lock()
	w.changed[user] = struct{}{}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns all of them, and has none any more.
func (w *waker) take() map[id.UserID]struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.changed
	w.changed = map[id.UserID]struct{}{}
	return taken
}

// wakeSharers wakes those who share rooms with users whose devices have changed, until ctx ends.
func (s *Service) wakeSharers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.waker.wake:
		}
		for user := range s.waker.take() {
			s.wakeRooms(ctx, user)
		}
	}
}

// wakeRooms wakes a user and whoever waits in one of the rooms of the user. What cannot be read now is told whenever
// somebody asks.
func (s *Service) wakeRooms(ctx context.Context, user id.UserID) {
	s.Hub.Wake(one(user))
	rooms, err := s.Cache.RoomsOf(ctx, user)
	if err != nil {
		return
	}
	for _, roomID := range rooms.Joined() {
		room, err := s.Cache.Room(ctx, roomID)
		if err != nil {
			continue
		}
		s.Hub.Wake(roomstate.Joined{Room: room})
	}
}

// one is a set of one user, for wake-ups.
type one id.UserID

// Len is 1.
func (o one) Len() int { return 1 }

// Has reports whether it is user.
func (o one) Has(user id.UserID) bool { return user == id.UserID(o) }

// Each calls fn once.
func (o one) Each(fn func(id.UserID) bool) { fn(id.UserID(o)) }
