package syncing

import (
	"context"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// maxInboxes is of how many devices it is remembered whether there are messages for them: about 20 MB.
const maxInboxes = 100_000

// inboxes knows for which devices there are messages, so that nobody asks storage for those that have none, and wakes
// who waits for some.
type inboxes struct {
	db *storage.DB

	mu sync.Mutex // guards the following
	// known has what is known of devices; dropped counts those that were forgotten for others.
	known   map[deviceKey]*inbox
	dropped int
	waiting map[deviceKey]map[chan struct{}]struct{}
}

// inbox is what is known of the messages to a device. What is stored is at a position in [first, last], or there is
// nothing, and both are 0. What is at or before acked was acknowledged and is not told again, even while it is stored.
type inbox struct {
	first, last, acked storage.Pos
	busy               int // acts under way that delete from it: it is not forgotten meanwhile
}

func newInboxes(db *storage.DB) *inboxes {
	return &inboxes{db: db, known: map[deviceKey]*inbox{}, waiting: map[deviceKey]map[chan struct{}]struct{}{}}
}

// look makes a device known and returns a copy of what is known of it.
func (s *inboxes) look(ctx context.Context, d deviceKey) (inbox, error) {
	for {
		known, ok, dropped := s.get(d)
		if ok {
			return known, nil
		}
		var first, last storage.Pos
		err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			first, last, err = tx.ToDeviceRange(d.name())
			return err
		})
		if err != nil {
			return inbox{}, err
		}
		if s.loaded(d, first, last, dropped) {
			return inbox{first: first, last: last}, nil
		}
	}
}

// name is the key in storage.
func (d deviceKey) name() storage.DeviceName { return storage.DeviceName{User: d.user, ID: d.device} }

func (s *inboxes) get(d deviceKey) (known inbox, ok bool, dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.known[d]; b != nil {
		return *b, true, s.dropped
	}
	return inbox{}, false, s.dropped
}

// loaded remembers what was read, unless the device became known meanwhile, or was and is forgotten again: then false.
func (s *inboxes) loaded(d deviceKey, first, last storage.Pos, dropped int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[d] != nil || s.dropped != dropped {
		return false
	}
	s.addLocked(d, &inbox{first: first, last: last})
	return true
}

// addLocked makes a device known, in the place of any other one.
func (s *inboxes) addLocked(d deviceKey, b *inbox) {
	for other, known := range s.known {
		if len(s.known) < maxInboxes {
			break
		}
		if known.busy == 0 {
			delete(s.known, other)
			s.dropped++
		}
	}
	s.known[d] = b
}

// stored says that there is a message to each of these devices at a position, in the order of positions. A device that is
// not known stays so, since there may be earlier ones.
func (s *inboxes) stored(devices []storage.DeviceName, pos storage.Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range devices {
		b := s.known[deviceKey{d.User, d.ID}]
		if b == nil {
			s.dropped++ // who is reading now has to read again
			continue
		}
		if b.last = pos; b.first == 0 {
			b.first = pos
		}
	}
}

// forget lets what there is for devices be read again.
func (s *inboxes) forget(devices []storage.DeviceName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range devices {
		delete(s.known, deviceKey{d.User, d.ID})
		s.dropped++
	}
}

// acknowledge says that a device has got its messages up to a position. It returns the act by which they are deleted,
// queued, or nil when there are none.
func (s *inboxes) acknowledge(ctx context.Context, d deviceKey, upTo storage.Pos) (*storage.Act, error) {
	for {
		known, err := s.look(ctx, d)
		if err != nil || known.first == 0 || known.first > upTo {
			return nil, err
		}
		if b := s.acking(d, upTo); b != nil {
			return s.delete(d, upTo, b), nil
		}
	}
}

// delete queues the act that deletes what b notes as acknowledged.
func (s *inboxes) delete(d deviceKey, upTo storage.Pos, b *inbox) *storage.Act {
	act := &storage.Act{
		Do:        func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteToDevice(d.name(), upTo) },
		Committed: func(storage.Pos) { s.deleted(d, upTo, b) },
		Refused:   func(error) { s.forget([]storage.DeviceName{d.name()}) },
	}
	s.db.Queue(act)
	return act
}

// acking notes what is acknowledged and not deleted yet, and returns where; nil when the device was forgotten meanwhile.
func (s *inboxes) acking(d deviceKey, upTo storage.Pos) *inbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.known[d]
	if b == nil {
		return nil
	}
	b.acked = max(b.acked, upTo)
	b.busy++
	return b
}

// deleted says that everything up to a position is deleted by an act that noted in. That is no longer what is known of
// the device when it was forgotten meanwhile.
func (s *inboxes) deleted(d deviceKey, upTo storage.Pos, in *inbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in.busy--
	b := s.known[d]
	if b == nil {
		return
	}
	switch {
	case b.last <= upTo:
		b.first, b.last = 0, 0
	case b.first <= upTo:
		b.first = upTo + 1
	}
}

// wait returns a channel that receives when there may be messages for a device since the call, and what ends that.
func (s *inboxes) wait(d deviceKey) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[d] == nil {
		s.waiting[d] = map[chan struct{}]struct{}{}
	}
	s.waiting[d][c] = struct{}{}
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.waiting[d], c); len(s.waiting[d]) == 0 {
			delete(s.waiting, d)
		}
	}
}

// wake wakes who waits for messages to devices.
func (s *inboxes) wake(devices []storage.DeviceName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range devices {
		for c := range s.waiting[deviceKey{d.User, d.ID}] {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

// devicesOf names devices of a user.
func devicesOf(user id.UserID, devices []id.DeviceID) []storage.DeviceName {
	names := make([]storage.DeviceName, len(devices))
	for i, d := range devices {
		names[i] = storage.DeviceName{User: user, ID: d}
	}
	return names
}
