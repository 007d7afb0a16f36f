package roomstate

import (
	"context"
	"fmt"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Event is an event of a room with its place there. It is immutable and shared; only a decision of
// eventauth about a viewer turns it into what a client may see.
type Event struct {
	*event.Event
	Pos        storage.Pos
	Ord        int64 // place in the room's history
	Before     Root  // the state before it
	After      Root  // the state after it, on its own branch of the room
	Now        Root  // the room's current state once it had arrived
	Flags      int64
	RedactedBy storage.Pos // 0 for none
	Device     id.DeviceID // local sends: by which device,
	Txn        string      // and its transaction id
}

// Arrived is the position at which the event became part of the timeline: Pos, unless it was known before as an
// outlier; at most 0 for what was backfilled.
func (e *Event) Arrived() storage.Pos { return e.Ord >> storage.OrdShift }

// filled reports whether the event has come to fill a gap, or was backfilled.
func (e *Event) filled() bool { return e.Ord&(1<<storage.OrdShift-1) != 0 }

// Flagged reports whether the event was given one of these flags of storage.
func (e *Event) Flagged(flags int64) bool { return e.Flags&flags != 0 }

// cost is about what the event holds in memory, with what was parsed of it.
func (e *Event) cost() int { return 600 + len(e.JSON) }

func (r *Room) fromRow(row *storage.Event) (*Event, error) {
	ev, err := event.ParseTrusted(r.Rules, row.JSON, row.ID, r.ID)
	if err != nil {
		return nil, fmt.Errorf("parse stored event %s: %w", row.ID, err)
	}
	return &Event{
		Event: ev, Pos: row.Pos, Ord: row.Ord, Before: row.Before, After: row.After, Now: row.Now, Flags: row.Flags,
		RedactedBy: row.RedactedBy, Device: row.Device, Txn: string(row.Txn),
	}, nil
}

// cached returns the shared value of a stored event that was read since epoch.
func (r *Room) cached(row *storage.Event, epoch int64) (*Event, error) {
	if e, ok := r.cache.events.get(row.Pos); ok {
		return e, nil
	}
	e, err := r.fromRow(row)
	if err == nil {
		r.cache.events.putRead(e.Pos, e, e.cost(), epoch)
	}
	return e, err
}

func (r *Room) cachedAll(rows []storage.Event, epoch int64) ([]*Event, error) {
	list := make([]*Event, 0, len(rows))
	for i := range rows {
		e, err := r.cached(&rows[i], epoch)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// EventsAt returns the room's events at positions, in that order. A position without one is an error.
func (r *Room) EventsAt(ctx context.Context, positions []storage.Pos) ([]*Event, error) {
	list := make([]*Event, len(positions))
	var missing []storage.Pos
	index := map[storage.Pos]int{}
	for i, pos := range positions {
		e := r.inMemory(pos)
		if e == nil {
			missing = append(missing, pos)
			index[pos] = i
		}
		list[i] = e
	}
	if len(missing) == 0 {
		return list, nil
	}
	var rows []storage.Event
	epoch := r.cache.events.begin()
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.EventsAt(missing)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read events of %s: %w", r.ID, err)
	}
	if len(rows) != len(missing) {
		return nil, fmt.Errorf("read events of %s: %d of %d are missing", r.ID, len(missing)-len(rows), len(missing))
	}
	for i := range rows {
		e, err := r.cached(&rows[i], epoch)
		if err != nil {
			return nil, err
		}
		list[index[e.Pos]] = e
	}
	return list, nil
}

// EventAt is EventsAt for one.
func (r *Room) EventAt(ctx context.Context, pos storage.Pos) (*Event, error) {
	if e := r.inMemory(pos); e != nil {
		return e, nil
	}
	list, err := r.EventsAt(ctx, []storage.Pos{pos})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

func (r *Room) inMemory(pos storage.Pos) *Event {
	r.mu.RLock()
	e := r.queued[pos] // the later value, when the event was known before
	r.mu.RUnlock()
	if e == nil {
		e, _ = r.cache.events.get(pos)
	}
	return e
}

// EventByID returns an event of this room that readers may be told of, or storage.ErrNotFound.
func (r *Room) EventByID(ctx context.Context, eventID id.EventID) (*Event, error) {
	for tail := r.View().Tail; len(tail) > 0; tail = tail[:len(tail)-1] {
		if e := tail[len(tail)-1]; e.ID == eventID && e.Arrived() <= r.cache.db.Published() {
			return e, nil
		}
	}
	var row storage.Event
	epoch := r.cache.events.begin()
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.EventByID(eventID)
		return err
	})
	if err == nil && (row.Room != r.Num || row.Pos > r.cache.db.Published()) {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return r.cached(&row, epoch)
}
