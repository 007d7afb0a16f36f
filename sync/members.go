package syncing

import (
	"container/list"
	"maps"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// maxSent bounds how many member events are remembered as sent, of all devices together: about 20 MB.
const maxSent = 200_000

// sentMembers remembers which member events lazily loading devices have got, so that they are not sent again
// and again. Only what a device has acknowledged counts, by coming back with the token of the answer: a device
// that repeats a token gets what followed it again, and one that comes with any other starts over.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#lazy-loading-room-members
type sentMembers struct {
	mu sync.Mutex // guards the following and what is in them
	// devices are those remembered, order has them by last use, and size counts the members of all.
	devices map[deviceKey]*list.Element
	order   *list.List // of *sentTo
	size    int
}

type deviceKey struct {
	user   id.UserID
	device id.DeviceID
}

// memberKey is a member of a room, by the room's number.
type memberKey struct {
	room int64
	user id.UserID
}

// sentTo is what one device has got. Positions are those of member events.
type sentTo struct {
	key       deviceKey
	confirmed string // the token with which the device last came back
	got       map[memberKey]storage.Pos
	offered   string                    // the token of the latest answer,
	pending   map[memberKey]storage.Pos // and what it brought
}

func newSentMembers() *sentMembers {
	return &sentMembers{devices: map[deviceKey]*list.Element{}, order: list.New()}
}

// begin notes that a device comes with a token, empty for none.
func (s *sentMembers) begin(key deviceKey, since string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	el, ok := s.devices[key]
	if !ok {
		return
	}
	s.order.MoveToFront(el)
	d := el.Value.(*sentTo)
	s.size -= d.cost()
	switch {
	case since == "" || since != d.offered && since != d.confirmed:
		clear(d.got)
	case since == d.offered:
		maps.Copy(d.got, d.pending)
	}
	d.confirmed, d.offered, d.pending = since, "", nil
	s.size += d.cost()
}

// has reports whether the device has got the member event at a position.
func (s *sentMembers) has(key deviceKey, m memberKey, pos storage.Pos) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	el, ok := s.devices[key]
	return ok && el.Value.(*sentTo).got[m] == pos
}

// offer notes what an answer from a token to the next brings. Devices that were not heard of for longest are
// forgotten when there is too much to remember.
func (s *sentMembers) offer(key deviceKey, since, next string, members map[memberKey]storage.Pos) {
	if since == next { // coming back with it would prove nothing
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	el, ok := s.devices[key]
	if !ok {
		if len(members) == 0 {
			return
		}
		el = s.order.PushFront(&sentTo{key: key, confirmed: since, got: map[memberKey]storage.Pos{}})
		s.devices[key] = el
		s.size++
	}
	d := el.Value.(*sentTo)
	s.size -= d.cost()
	d.offered, d.pending = next, members
	s.size += d.cost()
	for s.size > maxSent {
		s.dropLocked(s.order.Back())
	}
}

func (s *sentMembers) dropLocked(el *list.Element) {
	d := el.Value.(*sentTo)
	s.order.Remove(el)
	delete(s.devices, d.key)
	s.size -= d.cost()
}

func (d *sentTo) cost() int { return 1 + len(d.got) + len(d.pending) }
