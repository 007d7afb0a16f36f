package syncing

import (
	"errors"
	"slices"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// timeline is the part of a room's history that is told.
type timeline struct {
	events  []*roomstate.Event // oldest first
	seen    []eventauth.Seen   // what the user sees of each
	limited bool               // events before them, since the look's beginning, are left out
	start   roomstate.Root     // the state before the first of them, or at the end when there is none
}

// has reports whether the event at a position is told.
func (t *timeline) has(pos storage.Pos) bool {
	return slices.ContainsFunc(t.events, func(e *roomstate.Event) bool { return e.Pos == pos })
}

// The bounds of reading back for events that may be told.
const (
	morePage  = 100 // events that are read at once, behind the first page
	spareRead = 200 // events that may be read in vain, beside five for each that is wanted
)

// timelineOf collects the newest events of a room that may be told: after the look's beginning, or of the whole
// history when the room is new to the client.
func (l *look) timelineOf(p *place, v *roomstate.Viewer) (*timeline, error) {
	t := &timeline{start: p.end}
	if none(&l.Filter.Room.Timeline, p.ID) {
		return t, nil
	}
	after := l.from
	if p.fresh {
		after = 0
	}
	c := collector{look: l, place: p, viewer: v, timeline: t, limit: l.Filter.Room.limit(), oldest: l.to + 1}
	if err := c.collect(after); err != nil {
		return nil, err
	}
	if err := c.breakOff(after); err != nil {
		return nil, err
	}
	slices.Reverse(t.events)
	slices.Reverse(t.seen)
	if len(t.events) > 0 {
		t.start = t.events[0].Before
	}
	// A client that joins has not been told what was before. If that is all there, nothing is missing.
	if p.fresh && !l.initial && c.oldest <= l.from {
		t.limited = true
	}
	// "GET /sync when the relevant section has a limited value of true": otherwise the client has the events themselves.
	if t.limited || p.fresh {
		return t, v.Aggregate(l.ctx, t.events)
	}
	return t, nil
}

// collector gathers a timeline, newest event first.
type collector struct {
	*look
	*timeline
	place  *place
	viewer *roomstate.Viewer
	limit  int
	oldest storage.Pos // of what was read
}

// collect reads back until the limit is exceeded by an event that might have been told, the history ends, or too
// many were read in vain.
func (c *collector) collect(after storage.Pos) error {
	events, more, err := c.place.Timeline(c.ctx, after, c.place.upTo, c.limit+1)
	for budget := 5*c.limit + spareRead; ; {
		if err != nil || len(events) == 0 {
			return err
		}
		if full, err := c.take(events); err != nil || full {
			return err
		}
		if !more {
			return nil
		}
		if budget -= len(events); budget <= 0 {
			c.limited = true
			return nil
		}
		events, err = c.place.HistoryBackwards(c.ctx, events[0].Ord, after<<storage.OrdShift, morePage)
		slices.Reverse(events)
		more = len(events) == morePage
	}
}

// take adds those of a page, oldest first, that may be told; full says that there was one too many.
func (c *collector) take(page []*roomstate.Event) (full bool, err error) {
	if err := c.viewer.Prepare(c.ctx, page); err != nil {
		return false, err
	}
	for i := len(page) - 1; i >= 0; i-- {
		e := page[i]
		c.oldest = e.Arrived()
		seen, ok, err := c.see(c.viewer, c.place, e)
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		if len(c.events) == c.limit {
			c.limited = true
			return true, nil
		}
		c.events = append(c.events, e)
		c.seen = append(c.seen, seen)
	}
	return false, nil
}

// breakOff leaves out what is before the newest gap in the room's history, whether that was filled since or not: what
// belongs there is not told live, and only a limited timeline makes a client ask for it.
func (c *collector) breakOff(after storage.Pos) error {
	if len(c.events) == 0 {
		return nil
	}
	from := after << storage.OrdShift
	if c.limited {
		from = c.events[len(c.events)-1].Ord - 1
	}
	if c.place.Unbroken(from) {
		return nil
	}
	at, err := c.newestBreak(from)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	c.limited = true
	older := slices.IndexFunc(c.events, func(e *roomstate.Event) bool { return e.Arrived()<<storage.OrdShift < at })
	if older >= 0 {
		c.events, c.seen = c.events[:older], c.seen[:older]
	}
	return nil
}

// newestBreak is the newest place behind another one, up to the end of what is told, where history did not arrive live.
func (c *collector) newestBreak(from int64) (at int64, err error) {
	err = c.DB.Read(c.ctx, func(tx *storage.Tx) error {
		at, err = tx.Break(c.place.Num, from, roomstate.OrdAfter(c.place.upTo)-1)
		return err
	})
	return at, err
}

// see decides whether an event of a timeline is told.
func (l *look) see(v *roomstate.Viewer, p *place, e *roomstate.Event) (seen eventauth.Seen, ok bool, err error) {
	if !l.Filter.Room.Timeline.Passes(e.Type, e.Sender, e.Content()) {
		return seen, false, nil
	}
	// "State events will still be sent to the client, even if the user is ignored."
	if e.StateKey == nil && l.wishes.ignores(e.Sender) {
		return seen, false, nil
	}
	if seen, ok, err = v.See(l.ctx, e); ok || err != nil {
		return seen, ok, err
	}
	return l.seeAsState(v, p, e)
}

// seeAsState lets somebody who was in the room at the end of a timeline see an event in it that is part of the
// state at that end, though it was sent while they were away: they may read that state as a whole, and without the
// event what the client takes for the state would be wrong.
func (l *look) seeAsState(v *roomstate.Viewer, p *place, e *roomstate.Event) (seen eventauth.Seen, ok bool, err error) {
	if e.StateKey == nil || !p.been {
		return seen, false, nil
	}
	pos, err := p.StatePos(l.ctx, p.end, e.Type, *e.StateKey)
	if err != nil || pos != e.Pos {
		return seen, false, err
	}
	seen, err = v.SeeState(l.ctx, e)
	return seen, err == nil, err
}

// writeTimeline writes a timeline.
func (l *look) writeTimeline(p *place, v *roomstate.Viewer, t *timeline) error {
	l.out.key("timeline").raw(`{"events":[`)
	for i, e := range t.events {
		if err := l.writeEvent(v, e, t.seen[i]); err != nil {
			return err
		}
	}
	l.out.raw("]").key("limited")
	if t.limited {
		l.out.raw("true")
	} else {
		l.out.raw("false")
	}
	l.out.key("prev_batch").text(p.beginning(t).String()).raw("}")
	return nil
}

// beginning is the place in a room's history before a timeline.
func (p *place) beginning(t *timeline) token.History {
	if len(t.events) > 0 {
		return token.History{Ord: t.events[0].Ord}
	}
	return token.History{Ord: roomstate.OrdAfter(p.upTo)}
}

// writeEvent writes an event as the filter wants to have it.
func (l *look) writeEvent(v *roomstate.Viewer, e *roomstate.Event, seen eventauth.Seen) (err error) {
	l.out.item()
	if l.Filter.fields == nil {
		l.out.b, err = l.appendEvent(l.out.b, v, e, seen)
		return err
	}
	l.scratch, err = l.appendEvent(l.scratch[:0], v, e, seen)
	l.out.b = l.Filter.fields.append(l.out.b, l.scratch)
	return err
}

func (l *look) appendEvent(dst []byte, v *roomstate.Viewer, e *roomstate.Event, seen eventauth.Seen) ([]byte, error) {
	if l.Filter.EventFormat == "federation" {
		return v.AppendFederation(l.ctx, dst, e, seen)
	}
	return v.AppendSeen(l.ctx, dst, e, seen, false)
}
