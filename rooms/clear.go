package rooms

import (
	"context"
	"errors"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// redactEvents says in the content of a member event that who is kicked or banned leaves nothing behind.
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4293
const redactEvents = "org.matrix.msc4293.redact_events"

// How the clearer works.
const (
	clearAtOnce = 200              // events that are looked at under a room's lock
	retryClear  = 30 * time.Second // until what could not be done is tried again
)

// clears reports whether all that the target of an event has sent is to be redacted: who puts them out of the room says so,
// and could redact each of those events.
func clears(ev *event.Event, before *roomstate.State) bool {
	if ev.Type != "m.room.member" || ev.StateKey == nil || *ev.StateKey == string(ev.Sender) {
		return false
	}
	out := ev.Membership() == "ban" || ev.Membership() == "leave"
	if !out || string(canonjson.Get(ev.Content(), redactEvents)) != "true" {
		return false
	}
	if before.Event("m.room.create", "") == nil {
		return false
	}
	// "This means having a power level higher than or equal to `redacts` *and* `events["m.room.redaction"]` (if set)."
	levels, err := before.Levels()
	return err == nil && levels.User(ev.Sender) >= max(levels.Redact(), levels.Event("m.room.redaction", false))
}

// clearable reports whether an event is redacted with everything else of its sender. What a room is, and which servers
// it shuts out, stays.
func clearable(ev *event.Event) bool {
	return ev.Type != "m.room.create" && !(ev.Type == "m.room.server_acl" && ev.StateKey != nil)
}

// graftCleared redacts what comes late, or from the past, of somebody who was put out of the room with all that they had
// sent and has not come back.
func (a *admission) graftCleared(ev **event.Event, g *roomstate.Graft) error {
	late := g.Flags == storage.SoftFailed || g.Ord != 0 && g.Flags == storage.InTimeline
	if !late || g.RedactedBy != 0 || g.Stored != nil || !clearable(*ev) {
		return nil
	}
	by, err := a.w.StateEvent(a.w.Context(), a.w.Current().Root(), "m.room.member", string((*ev).Sender))
	if err != nil || by == nil {
		return err
	}
	before := a.w.At(by.Before)
	if by.Before == 0 { // another server has told of it
		before = a.w.Current()
	}
	if !clears(by.Event, before) {
		return a.w.Err()
	}
	g.RedactedBy = by.Pos
	*ev, err = (*ev).Redacted()
	return err
}

// clearer redacts what users have sent who were put out of rooms with all of it, some events at a time, and goes on where a
// process before it has stopped. It has one goroutine.
type clearer struct {
	*Service
	changed chan struct{} // capacity 1: there is something to do
	stop    context.CancelFunc
	ended   chan struct{} // closed when the goroutine has ended
}

func newClearer(s *Service) *clearer { return &clearer{Service: s, changed: make(chan struct{}, 1)} }

// start begins with what was left undone. It runs until close.
func (cl *clearer) start() {
	ctx, stop := context.WithCancel(context.Background())
	cl.stop, cl.ended = stop, make(chan struct{})
	cl.look()
	go cl.run(ctx)
}

// close ends the clearer and awaits its end.
func (cl *clearer) close() {
	if cl.stop == nil {
		return
	}
	cl.stop()
	<-cl.ended
}

// look has the clearer look for what is to be done.
func (cl *clearer) look() {
	select {
	case cl.changed <- struct{}{}:
	default:
	}
}

func (cl *clearer) run(ctx context.Context) {
	defer close(cl.ended)
	retry := time.NewTimer(retryClear) // there may be nothing to try; then it is no harm
	defer retry.Stop()
	for {
		select {
		case <-cl.changed:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
		if err := cl.work(ctx); err != nil && ctx.Err() == nil {
			cl.Log.ErrorContext(ctx, "redact what a user has sent", "error", err)
			retry.Reset(retryClear)
		}
	}
}

// work does everything that is to be done. A room in which it fails keeps no other one back.
func (cl *clearer) work(ctx context.Context) error {
	for {
		var list []storage.Clearing
		err := cl.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			list, err = tx.Clearings(clearAtOnce)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for i := range list {
			err = errors.Join(err, cl.clear(ctx, &list[i]))
		}
		if err != nil {
			return err
		}
	}
}

// clear redacts what is to be redacted because of one event.
func (cl *clearer) clear(ctx context.Context, c *storage.Clearing) error {
	for c.Done < c.UpTo {
		some, err := cl.next(ctx, c)
		if err != nil {
			return err
		}
		if len(some.sent) > 0 || some.last == c.UpTo { // else nobody has to be held up
			if err := cl.strip(ctx, c, some); err != nil {
				return err
			}
		}
		c.Done = some.last
	}
	return nil
}

// cleared are the next events that are looked at.
type cleared struct {
	room id.RoomID
	sent []storage.Pos // those that are to be redacted
	last int64         // the place up to which they are all
}

// next returns the events that are to be looked at.
func (cl *clearer) next(ctx context.Context, c *storage.Clearing) (some cleared, err error) {
	err = cl.DB.Read(ctx, func(tx *storage.Tx) error {
		r, err := tx.RoomByNumber(c.Room)
		if err != nil {
			return err
		}
		by, err := tx.EventsAt([]storage.Pos{c.By})
		if err == nil && len(by) == 0 {
			err = storage.ErrNotFound
		}
		if err != nil {
			return err
		}
		events, err := tx.EventsForwards(c.Room, c.Done, c.UpTo, clearAtOnce)
		target, _ := canonjson.String(canonjson.Get(by[0].JSON, "state_key"))
		some = cleared{room: r.ID, sent: sentBy(target, events), last: c.UpTo}
		if len(events) == clearAtOnce {
			some.last = events[clearAtOnce-1].Ord
		}
		return err
	})
	return some, err
}

// strip redacts some events and notes how far everything is done.
func (cl *clearer) strip(ctx context.Context, c *storage.Clearing, some cleared) error {
	p, err := cl.stripLocked(ctx, c, some)
	if err != nil {
		return err
	}
	return p.Wait(ctx)
}

// stripLocked is the part of strip that holds the room's lock.
func (cl *clearer) stripLocked(ctx context.Context, c *storage.Clearing, some cleared) (*roomstate.Pending, error) {
	w, err := cl.lock(ctx, some.room)
	if err != nil {
		return nil, err
	}
	defer w.Unlock()
	events, err := w.EventsAt(ctx, append([]storage.Pos{c.By}, some.sent...))
	if err != nil {
		return nil, err
	}
	for _, target := range events[1:] {
		if target.RedactedBy == 0 && clearable(target.Event) {
			w.Strip(target, events[0])
			w.Act().Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteAnnotation(target.ID) })
		}
	}
	w.Act().Also(func(tx *storage.Tx, _ storage.Pos) error {
		if some.last == c.UpTo {
			return tx.Cleared(c.By)
		}
		return tx.ClearedUpTo(c.By, some.last)
	})
	return w.Queue(), nil
}

// sentBy returns the positions of those events that a user has sent.
func sentBy(user string, events []storage.Event) []storage.Pos {
	var positions []storage.Pos
	for i := range events {
		sender, _ := canonjson.String(canonjson.Get(events[i].JSON, "sender"))
		if sender == user && events[i].RedactedBy == 0 {
			positions = append(positions, events[i].Pos)
		}
	}
	return positions
}
