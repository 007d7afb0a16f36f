package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// What other servers are told at most in one answer, and how many events are looked at for it.
const (
	maxToldBackfill = 100
	maxToldMissing  = 20
	maxToldWalk     = 500
)

// peer is another server that may read a room, because it has users there, or had.
type peer struct{ *roomstate.ServerViewer }

// peer returns a server as a reader of a room, or mxerr.Forbidden: for a room that this server does not know or has
// left, as for one that the other was never in. What it may read there the ServerViewer decides.
func (s *Service) peer(ctx context.Context, server id.ServerName, room id.RoomID) (*peer, error) {
	r, err := s.Cache.Room(ctx, room)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, serverNotIn()
	}
	if err != nil {
		return nil, err
	}
	return s.peerOf(ctx, server, r)
}

func (s *Service) peerOf(ctx context.Context, server id.ServerName, r *roomstate.Room) (*peer, error) {
	if !r.HasServer(s.ServerName) { // what it knows of the room is history, to be told by those who are there
		return nil, serverNotIn()
	}
	v, err := r.ServerViewer(ctx, server)
	if err != nil {
		return nil, err
	}
	if !v.EverIn() {
		return nil, serverNotIn()
	}
	return &peer{v}, s.checkACL(ctx, r, server)
}

func serverNotIn() error { return mxerr.Forbidden.With("your server is not in this room") }

// unknown is the answer about an event that is not here, is of another room, or may not be seen. Who is in the room
// may know that; who has left it may not.
func (p *peer) unknown() error {
	if p.In() {
		return unknownEvent()
	}
	return serverNotIn()
}

// BackfillFor returns a JSON list of PDUs for another server: of those events from which it knows, and what comes before
// them, newest first, at most limit and never more than 100. What the server may not see is redacted, and rejected
// events are left out. Events that are unknown, or of other rooms, count as none.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1backfillroomid
func (s *Service) BackfillFor(ctx context.Context, server id.ServerName, room id.RoomID, from []id.EventID, limit int) (json.RawMessage, error) {
	p, err := s.peer(ctx, server, room)
	if err != nil {
		return nil, err
	}
	events, err := p.before(ctx, from, min(limit, maxToldBackfill))
	if err != nil {
		return nil, err
	}
	return p.list(ctx, events)
}

// MissingQuery is what /get_missing_events asks for.
type MissingQuery struct {
	Earliest, Latest []id.EventID
	Limit            int   // never more than 20
	MinDepth         int64 // older events are left out
}

// MissingFor returns a JSON list of PDUs for another server: the events before the latest, without those and the
// earliest and what comes before them, each behind those that it follows.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1get_missing_eventsroomid
func (s *Service) MissingFor(ctx context.Context, server id.ServerName, room id.RoomID, q MissingQuery) (json.RawMessage, error) {
	p, err := s.peer(ctx, server, room)
	if err != nil {
		return nil, err
	}
	q.Limit = min(q.Limit, maxToldMissing)
	events, err := p.between(ctx, q)
	if err != nil {
		return nil, err
	}
	return p.list(ctx, oldestFirst(events))
}

// list renders events, whole or redacted, as a JSON list. For a server that has left, those that it may not see are
// left out.
func (p *peer) list(ctx context.Context, events []*roomstate.Event) (json.RawMessage, error) {
	if err := p.Prepare(ctx, events); err != nil {
		return nil, err
	}
	list := append(make([]byte, 0, sizeOf(events)), '[')
	for _, e := range events {
		whole, err := p.See(ctx, e)
		if err != nil {
			return nil, err
		}
		if !whole && !p.In() {
			continue
		}
		if len(list) > 1 {
			list = append(list, ',')
		}
		if list, err = p.Append(list, e, whole); err != nil {
			return nil, err
		}
	}
	return append(list, ']'), nil
}

// EventFor returns an event of any room for another server, as a PDU; redacted, if it is in the room but may not see
// the event. The error is mxerr.NotFound for whatever it may not have, as for what is not here.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1eventeventid
func (s *Service) EventFor(ctx context.Context, server id.ServerName, eventID id.EventID) (json.RawMessage, error) {
	r, err := s.roomWith(ctx, eventID)
	if err != nil {
		return nil, err
	}
	p, err := s.peerOf(ctx, server, r)
	if err != nil {
		return nil, hideEvent(err)
	}
	e, err := p.find(ctx, eventID)
	if err != nil {
		return nil, hideEvent(err)
	}
	whole, err := p.See(ctx, e)
	if err != nil {
		return nil, err
	}
	if !whole && (!p.In() || e.Flagged(storage.Outlier)) {
		return nil, unknownEvent()
	}
	return p.Append(nil, e, whole)
}

// hideEvent makes an event that a server may not have look like one that is not here.
func hideEvent(err error) error {
	if errors.Is(err, mxerr.Forbidden) {
		return unknownEvent()
	}
	return err
}

// roomWith returns the room of an event, or mxerr.NotFound.
func (s *Service) roomWith(ctx context.Context, eventID id.EventID) (*roomstate.Room, error) {
	var room storage.Room
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		e, err := tx.EventByID(eventID)
		if err == nil {
			room, err = tx.RoomByNumber(e.Room)
		}
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, unknownEvent()
	}
	if err != nil {
		return nil, err
	}
	return s.Cache.Room(ctx, room.ID)
}

// find returns an event of the room that was not rejected.
func (p *peer) find(ctx context.Context, eventID id.EventID) (*roomstate.Event, error) {
	list, err := p.Room.StoredByID(ctx, []id.EventID{eventID})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || list[0].Flagged(storage.Rejected) {
		return nil, p.unknown()
	}
	return list[0], nil
}

// seen is find for an event before which the state is known; a server that has left must be able to see it.
func (p *peer) seen(ctx context.Context, eventID id.EventID) (e *roomstate.Event, whole bool, err error) {
	if e, err = p.find(ctx, eventID); err != nil {
		return nil, false, err
	}
	if e.Flagged(storage.Outlier) {
		return nil, false, p.unknown()
	}
	whole, err = p.See(ctx, e)
	if err == nil && !whole && !p.In() {
		err = p.unknown()
	}
	return e, whole, err
}

// walk goes back through the events of a room. It reads what is near in the history at once, since most events follow
// the one before them.
type walk struct {
	room    *roomstate.Room
	met     map[id.EventID]bool
	near    map[id.EventID]*roomstate.Event // read, whether they are met or not
	strides int                             // how often what is near was read
}

const (
	stride     = 64 // events
	maxStrides = 8
)

func newWalk(r *roomstate.Room) *walk {
	return &walk{room: r, met: map[id.EventID]bool{}, near: map[id.EventID]*roomstate.Event{}}
}

// meet returns those of these events that were not met before and that are here, in their order.
func (w *walk) meet(ctx context.Context, ids []id.EventID) ([]*roomstate.Event, error) {
	fresh := make([]id.EventID, 0, len(ids))
	for _, eventID := range ids {
		if !w.met[eventID] {
			w.met[eventID] = true
			fresh = append(fresh, eventID)
		}
	}
	if err := w.read(ctx, fresh); err != nil {
		return nil, err
	}
	list := make([]*roomstate.Event, 0, len(fresh))
	for _, eventID := range fresh {
		if e := w.near[eventID]; e != nil && !e.Flagged(storage.Outlier) {
			list = append(list, e)
		}
	}
	return list, nil
}

// read reads events that are not near, and what is near the first of them.
func (w *walk) read(ctx context.Context, ids []id.EventID) error {
	var far []id.EventID
	for _, eventID := range ids {
		if w.near[eventID] == nil {
			far = append(far, eventID)
		}
	}
	events, err := w.room.StoredByID(ctx, far)
	if err != nil || len(events) == 0 {
		return err
	}
	if w.strides < maxStrides {
		w.strides++
		more, err := w.room.Past(ctx, events[0].Ord, stride)
		if err != nil {
			return err
		}
		events = append(events, more...)
	}
	for _, e := range events {
		w.near[e.ID] = e
	}
	return nil
}

// before returns events and what comes before them, newest first by depth. Rejected ones are left out, but not what
// comes before them.
func (p *peer) before(ctx context.Context, from []id.EventID, limit int) ([]*roomstate.Event, error) {
	w := newWalk(p.Room)
	var list []*roomstate.Event
	ahead, err := w.meet(ctx, from)
	for walked := 0; err == nil && len(ahead) > 0 && len(list) < limit && walked < maxToldWalk; walked++ {
		i := newest(ahead)
		e := ahead[i]
		ahead = slices.Delete(ahead, i, i+1)
		if !e.Flagged(storage.Rejected) {
			list = append(list, e)
		}
		var prev []*roomstate.Event
		prev, err = w.meet(ctx, e.PrevEvents)
		ahead = append(ahead, prev...)
	}
	return list, err
}

// newest is the index of the event with the greatest depth, and of those the latest here.
func newest(events []*roomstate.Event) (at int) {
	for i, e := range events {
		if b := events[at]; e.Depth > b.Depth || e.Depth == b.Depth && e.Ord > b.Ord {
			at = i
		}
	}
	return at
}

// between walks breadth first from the latest events.
func (p *peer) between(ctx context.Context, q MissingQuery) ([]*roomstate.Event, error) {
	w := newWalk(p.Room)
	level, err := w.meet(ctx, q.Latest)
	for _, eventID := range q.Earliest {
		w.met[eventID] = true
	}
	var found []*roomstate.Event
	for walked := 0; err == nil && len(level) > 0 && walked < maxToldWalk; walked += len(level) {
		var prev []id.EventID
		for _, e := range level {
			prev = append(prev, e.PrevEvents...)
		}
		level, err = w.meet(ctx, prev)
		level = slices.DeleteFunc(level, func(e *roomstate.Event) bool { return e.Depth < q.MinDepth })
		for _, e := range level {
			if len(found) >= q.Limit {
				return found, err
			}
			if !e.Flagged(storage.Rejected) {
				found = append(found, e)
			}
		}
	}
	return found, err
}

// oldestFirst orders a few events so that each stands behind those that it follows, whatever depths they claim.
func oldestFirst(events []*roomstate.Event) []*roomstate.Event {
	slices.SortStableFunc(events, func(a, b *roomstate.Event) int { return cmp.Compare(a.Depth, b.Depth) })
	waiting := map[id.EventID]bool{}
	for _, e := range events {
		waiting[e.ID] = true
	}
	ordered := make([]*roomstate.Event, 0, len(events))
	for len(events) > 0 {
		i := slices.IndexFunc(events, func(e *roomstate.Event) bool {
			return !slices.ContainsFunc(e.PrevEvents, func(eventID id.EventID) bool { return waiting[eventID] })
		})
		i = max(i, 0) // stored events are no circle
		delete(waiting, events[i].ID)
		ordered = append(ordered, events[i])
		events = slices.Delete(events, i, i+1)
	}
	return ordered
}
