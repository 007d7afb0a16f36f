package rooms

import (
	"context"
	"slices"
	"sync"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// dummyType is the type of events that only join branches of a room. Clients are never told of them.
const dummyType = "org.matrix.dummy_event"

// putRedacting puts an event that was decided about into the room, with what it redacts and what redacts it.
//
// Spec: https://spec.matrix.org/latest/rooms/v11/#handling-redactions
func (a *admission) putRedacting(ev *event.Event, g roomstate.Graft) error {
	if g.Stored != nil {
		g.RedactedBy = g.Stored.RedactedBy
	}
	shown, err := a.graftEarly(&ev, &g)
	if err == nil {
		err = a.graftCleared(&ev, &g)
	}
	if err != nil {
		return err
	}
	if g.Flags == storage.InTimeline {
		a.hide(ev, &g)
	}
	if err := a.w.Err(); err != nil {
		return err
	}
	e, err := a.put(ev, g)
	if err != nil {
		return err
	}
	if g.Awaits != "" {
		a.early[g.Awaits] = append(a.early[g.Awaits], e.Pos)
		a.stored = append(a.stored, a.Service.early.add(earlyKey{a.room.ID, g.Awaits}, e.Pos))
	}
	return a.show(shown)
}

// hide keeps an accepted event from clients that they are not told of, and lets a redaction take effect.
func (a *admission) hide(ev *event.Event, g *roomstate.Graft) {
	switch {
	case ev.Type == dummyType && ev.StateKey == nil:
		g.Flags, g.Hidden = 0, true
	case ev.Type == "m.room.redaction" && ev.Redacts != "":
		a.redact(ev, g)
	}
}

// redact lets a redaction take effect, if its target is here and may be redacted. "If the server would apply a
// redaction, the redaction event is also sent to clients. Otherwise, the server simply waits for a valid partner
// event to arrive". In versions 1 and 2 the rules have allowed it already.
func (a *admission) redact(ev *event.Event, g *roomstate.Graft) {
	target := a.known[ev.Redacts]
	if target == nil && !a.others[ev.Redacts] {
		g.Awaits = ev.Redacts
	}
	if target == nil || target.Flagged(storage.Rejected) || !applies(ev, target.Event, g.Before) {
		if !ev.Rules.RedactionAuthRule {
			g.Flags, g.Hidden = 0, true
		}
		return
	}
	if target.RedactedBy == 0 {
		g.Redacts = target
	}
	a.w.Act().Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteAnnotation(target.ID) })
}

// applies reports whether a redaction takes effect on its target. The m.room.create event of a room stays what it is.
func applies(redaction, target *event.Event, before eventauth.State) bool {
	return target.Type != "m.room.create" && eventauth.RedactionApplies(redaction, target, before)
}

// graftEarly looks for redactions that came before their target, which is to be put into the room now: if one takes
// effect, the event becomes its redacted form. It returns those that clients are to be told of then.
func (a *admission) graftEarly(ev **event.Event, g *roomstate.Graft) (shown []*roomstate.Event, err error) {
	target := *ev
	early := a.early[target.ID]
	if len(early) == 0 || g.Stored != nil || g.Flags&storage.Rejected != 0 {
		return nil, nil
	}
	redactions, err := a.w.EventsAt(a.w.Context(), early)
	if err != nil {
		return nil, err
	}
	for _, r := range redactions {
		if r.Flagged(storage.Rejected|storage.SoftFailed) || !applies(r.Event, target, a.w.At(r.Before)) {
			continue
		}
		if g.RedactedBy == 0 {
			g.RedactedBy = r.Pos
		}
		if r.Flags == 0 {
			shown = append(shown, r)
		}
	}
	if g.RedactedBy != 0 {
		if *ev, err = target.Redacted(); err != nil {
			return nil, err
		}
	}
	a.w.Act().Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.DeletePendingRedactions(target.ID) })
	return shown, a.w.Err()
}

// show lets clients be told of redactions whose targets have come.
func (a *admission) show(redactions []*roomstate.Event) error {
	for _, r := range redactions {
		if err := a.w.Show(r); err != nil {
			return err
		}
		if err := a.next(); err != nil {
			return err
		}
	}
	return nil
}

// findEarly finds the redactions of events that came before them.
func (a *admission) findEarly(ctx context.Context, targets []id.EventID) error {
	a.early = a.Service.early.of(a.room.ID, targets)
	return a.DB.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.PendingRedactionsOf(a.w.Num, targets)
		for _, p := range list {
			if !slices.Contains(a.early[p.Target], p.Pos) {
				a.early[p.Target] = append(a.early[p.Target], p.Pos)
			}
		}
		return err
	})
}

// early remembers redactions that came before their targets until storage has them. The zero value is ready.
type early struct {
	mu   sync.Mutex // guards list
	list map[earlyKey][]storage.Pos
}

type earlyKey struct {
	room   id.RoomID
	target id.EventID
}

// of returns the redactions of these targets, a map of its own.
func (e *early) of(room id.RoomID, targets []id.EventID) map[id.EventID][]storage.Pos {
	e.mu.Lock()
	defer e.mu.Unlock()
	found := map[id.EventID][]storage.Pos{}
	if len(e.list) == 0 {
		return found
	}
	for _, target := range targets {
		if list := e.list[earlyKey{room, target}]; list != nil {
			found[target] = slices.Clone(list)
		}
	}
	return found
}

// add remembers a redaction; forget ends that.
func (e *early) add(key earlyKey, redaction storage.Pos) (forget func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.list == nil {
		e.list = map[earlyKey][]storage.Pos{}
	}
	e.list[key] = append(e.list[key], redaction)
	return func() { e.remove(key, redaction) }
}

func (e *early) remove(key earlyKey, redaction storage.Pos) {
	e.mu.Lock()
	defer e.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(e.list[key]), func(pos storage.Pos) bool { return pos == redaction })
	if e.list[key] = left; len(left) == 0 {
		delete(e.list, key)
	}
}
