package roomstate

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Sticky events reach everybody in a room for a while, be they in a timeline or not. Which rooms have any is known in
// memory, so that nobody asks storage about others.
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354

// stickies knows which rooms have sticky events.
type stickies struct {
	some    atomic.Bool // there may be any
	arrived func(room *Room, server id.ServerName)

	mu   sync.Mutex      // guards ends
	ends map[int64]int64 // until when, in milliseconds, a room has sticky events, by its number
}

// note notes that a room has sticky events until a time.
func (s *stickies) note(room, endMS int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		s.ends = map[int64]int64{}
	}
	s.ends[room] = max(s.ends[room], endMS)
	s.some.Store(true)
}

// LoadSticky learns from storage which rooms have, or had, sticky events.
func (c *Cache) LoadSticky(ctx context.Context) error {
	return c.db.Read(ctx, func(tx *storage.Tx) error {
		ends, err := tx.StickyRooms(0)
		for room, end := range ends {
			c.stickies.note(room, end)
		}
		return err
	})
}

// ForgetSticky forgets rooms whose sticky events have ended; false when there are none, and none that have any.
func (c *Cache) ForgetSticky(now time.Time) bool {
	s := &c.stickies
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.ends)
	maps.DeleteFunc(s.ends, func(_, end int64) bool { return end <= now.UnixMilli() })
	s.some.Store(len(s.ends) > 0)
	return before > 0
}

// WatchArrivals lets fn be called whenever a server comes into a room that has sticky events, after the commit. fn may not
// wait. WatchArrivals is called before the cache is used.
func (c *Cache) WatchArrivals(fn func(room *Room, server id.ServerName)) { c.stickies.arrived = fn }

// WakeSender tells the sender that there is something for a server that came about beside a room's act.
func (c *Cache) WakeSender(server id.ServerName) {
	if c.config.Sender != nil {
		c.config.Sender.Wake([]id.ServerName{server})
	}
}

// HasSticky reports whether the room has sticky events.
func (r *Room) HasSticky(now time.Time) bool {
	s := &r.cache.stickies
	if !s.some.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ends[r.Num] > now.UnixMilli()
}

// Sticky returns the events of the room that arrived in (from, to] and are sticky still, oldest first; of very many the
// newest. What was redacted is sticky no longer.
func (r *Room) Sticky(ctx context.Context, from, to storage.Pos, now time.Time) ([]*Event, error) {
	const most = 1000
	if !r.HasSticky(now) {
		return nil, nil
	}
	var positions []storage.Pos
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.Sticky(r.Num, from, to, now.UnixMilli(), most)
		for _, s := range list {
			positions = append(positions, s.Pos)
		}
		return err
	})
	if err != nil || len(positions) == 0 {
		return nil, err
	}
	events, err := r.EventsAt(ctx, positions)
	return keepSticky(events), err
}

func keepSticky(events []*Event) (kept []*Event) {
	for _, e := range events {
		if e.Sticky() > 0 {
			kept = append(kept, e)
		}
	}
	return kept
}

// StickyFor is for how much longer an event is sticky; 0 when it is not.
func (e *Event) StickyFor(now time.Time) time.Duration {
	d := e.Sticky()
	if d == 0 {
		return 0
	}
	began := time.UnixMilli(min(e.OriginServerTS, now.UnixMilli())) // nobody's clock lets an event be sticky for longer
	return max(began.Add(d).Sub(now).Truncate(time.Millisecond), 0)
}

// stick notes a sticky event that arrives, in the act that stores it.
func (w *Writer) stick(act *storage.Act, p *proposal) {
	if p.Sticky() == 0 || !p.arrives() && (p.graft == nil || !p.graft.Told) {
		return
	}
	now := time.UnixMilli(p.meta.AtMS)
	if p.meta.AtMS == 0 {
		now = time.Now()
	}
	left := p.StickyFor(now)
	if left == 0 {
		return
	}
	p.stickyEnd = now.Add(left).UnixMilli()
	act.Add(storage.InsertSticky, w.Num, p.Arrived(), p.Pos, p.stickyEnd)
}

// stuck lets the rest of the server know of sticky events that were committed.
func (w *Writer) stuck() {
	for i := range w.plan {
		if end := w.plan[i].stickyEnd; end > 0 {
			w.cache.stickies.note(w.Num, end)
		}
	}
}

// arrivals are the servers that come into the room by what was committed and is not shown yet, if that matters to
// anybody.
func (w *Writer) arrivals() (servers []id.ServerName) {
	if w.cache.stickies.arrived == nil || !w.HasSticky(time.UnixMilli(0)) { // what is over by the clock, fn finds out
		return nil
	}
	for i := range w.plan {
		for _, m := range w.plan[i].memberships() {
			server := m.User.Server()
			if m.Membership == "join" && server != w.cache.config.Server && !w.HasServer(server) {
				servers = append(servers, server)
			}
		}
	}
	return servers
}
