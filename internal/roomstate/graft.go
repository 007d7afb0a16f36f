package roomstate

import (
	"fmt"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/storage"
)

// Graft says how an event gets into a room that did not come about on its head: another server has sent it, or
// history lacked it. The caller has checked the event and brings its verdict.
type Graft struct {
	Meta

	// Flags is the verdict: storage.InTimeline for an event that is accepted, Rejected, SoftFailed, Outlier for one
	// of which only the event itself is known, and 0 for one that clients are not told of yet.
	Flags int64

	Auth    []*Event     // its auth events in the order in which it names them, nil for one that is not here
	Prev    []*Event     // those of its predecessors that are here
	Missing []id.EventID // those that are not: backward extremities
	Before  *State       // the state before it; nil for an outlier

	Stored     *Event      // the event as it is stored already, as an outlier; nil for a new one
	Ord        int64       // the place of an event of the past in the room's history; 0 for one that arrives now
	Anew       bool        // the room begins here for this server: what it thought the head was counts no more
	Hidden     bool        // with Flags 0: it is accepted and on the head all the same
	Told       bool        // of an outlier: everybody in the room is told of it as long as it is sticky
	Relay      bool        // it is sent on to the other servers of the room, but for NotTo
	Awaits     id.EventID  // the event that a redaction would redact, while it is not here
	RedactedBy storage.Pos // the redaction that came before the event, which is given in its redacted form
}

// grafted is a Graft in a plan.
type grafted struct {
	Graft
	onHead  bool // it is the head's newest event
	after   Root // the state after it, 0 while it has to be made
	now     Root // the room's current state from it on, 0 when that is after
	members []Member
}

// accepted reports whether the event becomes the newest of the room's head.
func (g *Graft) accepted() bool {
	return (g.Flags&^storage.Outlier == storage.InTimeline || g.Flags == 0 && g.Hidden) && g.Ord == 0 && g.Before != nil
}

// begins reports whether this server gets into the room with the event: what it was told outside is no history.
func (g *Graft) begins() bool { return g.Anew && g.Flags == storage.InTimeline }

// Receive puts a checked event into the room in an act of its own and returns the Writer of what follows; the lock
// stays with it. The Pending is the last of what was queued.
func (w *Writer) Receive(ev *event.Event, g Graft) (next *Writer, p *Pending, err error) {
	if g.accepted() && ev.StateKey != nil && g.Stored == nil && w.forks(ev, &g) {
		// Its state takes part in a resolution, for which it needs a position.
		outlier := Graft{Meta: Meta{AtMS: g.AtMS}, Flags: storage.Outlier, Auth: g.Auth}
		if err := w.Graft(ev, outlier); err != nil {
			return w, nil, err
		}
		p = w.Queue()
		before := g.Before.root
		w = w.Next()
		if p.Events[0].Pos == 0 { // the queue did not take it
			return w, p, nil
		}
		g.Stored, g.Before = p.Events[0], w.At(before)
	}
	if err := w.Graft(ev, g); err != nil {
		return w, nil, err
	}
	p = w.Queue()
	return w.Next(), p, nil
}

// Next returns the Writer of what follows a queued act, under the same lock: Unlock is called on the last one alone.
func (w *Writer) Next() *Writer {
	return &Writer{Room: w.Room, ctx: w.ctx, extremities: w.head.extremities}
}

// forks reports whether other branches of the room stay beside the event.
func (w *Writer) forks(ev *event.Event, g *Graft) bool {
	if g.Anew {
		return false
	}
	followed, err := w.followed(ev, g.Prev)
	return err != nil || slices.ContainsFunc(w.extremities, func(x Extremity) bool { return !followed[x.ID] })
}

// Graft proposes an event that did not come about on the head.
func (w *Writer) Graft(ev *event.Event, g Graft) error {
	p := proposal{meta: g.Meta, graft: &grafted{Graft: g}, auth: g.Auth}
	p.Event = &Event{Event: ev, Device: g.Device, Txn: g.Txn, Flags: g.Flags, RedactedBy: g.RedactedBy}
	if g.Stored != nil {
		p.Pos = g.Stored.Pos
	}
	if ev.StateKey != nil {
		p.number, p.newKey = w.numberOf(Key{ev.Type, *ev.StateKey})
	}
	extremities := w.extremities
	if err := w.prepare(&p); err != nil {
		w.forgetKey(&p)
		w.extremities = extremities
		return err
	}
	w.take(p)
	return nil
}

// prepare reads what the event's place depends on.
func (w *Writer) prepare(p *proposal) error {
	if err := w.prepareAfter(p); err != nil {
		return err
	}
	switch {
	case !p.graft.accepted():
		return nil
	case w.head.gaps[p.ID]:
		return w.prepareFollowed(p)
	}
	return w.prepareHead(p)
}

// prepareFollowed finds out what the room's head is once an event is there that others follow already: it is no
// extremity, and what it follows is none any more.
func (w *Writer) prepareFollowed(p *proposal) error {
	followed, err := w.followed(p.Event.Event, p.graft.Prev)
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(w.extremities), func(x Extremity) bool { return followed[x.ID] })
	if len(kept) == len(w.extremities) || len(kept) == 0 {
		return nil
	}
	p.graft.onHead, w.extremities = true, kept
	var roots []Root
	for _, x := range kept {
		if !slices.Contains(roots, x.State) {
			roots = append(roots, x.State)
		}
	}
	if p.graft.now, err = w.merge(roots); err != nil {
		return err
	}
	return w.findMembers(p, p.graft.now)
}

// prepareAfter makes the state after the event, or sees to it that nothing has to be read for that.
func (w *Writer) prepareAfter(p *proposal) (err error) {
	g := p.graft
	switch {
	case g.Before == nil:
	case p.StateKey == nil || p.Flagged(storage.Rejected):
		g.after = g.Before.root
	case g.Stored != nil:
		g.after, err = w.cache.trees.change(w.ctx, &w.act, g.Before.root, []leaf{{p.number, p.Pos}})
	default:
		_, err = w.cache.trees.path(w.ctx, g.Before.root, p.number)
	}
	return err
}

// prepareHead finds out what the room's head is once the event is there.
func (w *Writer) prepareHead(p *proposal) error {
	g := p.graft
	g.onHead = true
	if err := w.moveExtremities(p); err != nil {
		return err
	}
	if g.after == 0 && p.StateKey != nil { // no other branch is left
		return w.findMembers(p, g.Before.root)
	}
	roots := []Root{g.after}
	for _, x := range w.extremities {
		if x.ID != p.ID && !slices.Contains(roots, x.State) {
			roots = append(roots, x.State)
		}
	}
	var err error
	if g.now, err = w.merge(roots); err != nil {
		return err
	}
	return w.findMembers(p, g.now)
}

// moveExtremities puts the event in the place of those that it follows.
func (w *Writer) moveExtremities(p *proposal) error {
	x, err := ExtremityOf(p.Event.Event)
	if err != nil {
		return err
	}
	if p.graft.Anew {
		w.extremities = []Extremity{x}
		return nil
	}
	followed, err := w.followed(p.Event.Event, p.graft.Prev)
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(w.extremities), func(x Extremity) bool { return followed[x.ID] })
	w.extremities = append(trim(kept), x)
	return nil
}

// maxExtremities is how many forward extremities a room keeps, if some of them leave the same state.
const maxExtremities = 10

// trim leaves out the oldest extremities beyond the limit whose state another one leaves as well: nothing is lost by
// not referring to them.
func trim(list []Extremity) []Extremity {
	for i := 0; i < len(list) && len(list) >= maxExtremities; {
		same := func(x Extremity) bool { return x.State == list[i].State }
		if slices.ContainsFunc(list[i+1:], same) {
			list = slices.Delete(list, i, i+1)
		} else {
			i++
		}
	}
	return list
}

// maxFollowed bounds how far an event is followed through those that are no extremities.
const maxFollowed = 100

// followed are the events after which an event comes: its predecessors, and theirs as long as they are rejected or
// soft-failed, for nothing else follows those.
func (w *Writer) followed(ev *event.Event, prev []*Event) (map[id.EventID]bool, error) {
	followed := map[id.EventID]bool{}
	for _, eventID := range ev.PrevEvents {
		followed[eventID] = true
	}
	for len(prev) > 0 && len(followed) < maxFollowed {
		var ids []id.EventID
		for _, e := range prev {
			if !e.Flagged(storage.Rejected | storage.SoftFailed) {
				continue
			}
			for _, eventID := range e.PrevEvents {
				if !followed[eventID] {
					followed[eventID] = true
					ids = append(ids, eventID)
				}
			}
		}
		known, err := w.Known(w.ctx, ids)
		if err != nil {
			return nil, err
		}
		prev = prev[:0:0]
		for _, e := range known {
			prev = append(prev, e)
		}
	}
	return followed, nil
}

// findMembers notes the memberships in which a state differs from the one that the head has.
func (w *Writer) findMembers(p *proposal, root Root) error {
	changes, err := w.Diff(w.ctx, w.head.state, root)
	if err != nil {
		return err
	}
	changes = slices.DeleteFunc(changes, func(c Change) bool { return !ofUser(c.Type, c.StateKey) })
	positions := make([]storage.Pos, 0, len(changes))
	for _, c := range changes {
		if c.After != 0 {
			positions = append(positions, c.After)
		}
	}
	events, err := w.EventsAt(w.ctx, positions)
	if err != nil {
		return err
	}
	for _, c := range changes {
		m := Member{User: id.UserID(c.StateKey), Membership: "leave", Pos: c.After}
		if c.After != 0 {
			m.Membership, events = events[0].Membership(), events[1:]
		}
		p.graft.members = append(p.graft.members, m)
	}
	return nil
}

// ofUser reports whether a state key is that of a user's membership. The rules let another server put any text there.
func ofUser(eventType, stateKey string) bool {
	if eventType != "m.room.member" {
		return false
	}
	_, err := id.ParseUserID(stateKey)
	return err == nil
}

// placeGraft gives an event that was grafted its place at a position of the stream, and adds its rows.
func (w *Writer) placeGraft(act *storage.Act, p *proposal, at storage.Pos) error {
	g := p.graft
	if p.Ord = g.Ord; p.Ord == 0 {
		p.Ord = at << storage.OrdShift
	}
	if err := w.placeStates(act, p); err != nil {
		return err
	}
	before := w.head.set
	if g.onHead {
		w.placeHead(act, p, at)
	}
	if g.Relay {
		w.send(act, p, before)
	}
	p.Now = w.head.state
	w.stick(act, p)
	w.placeGaps(act, p)
	if g.begins() {
		w.began.Store(p.Depth + 1)
		act.Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.UnplaceOutside(w.Num) })
	}
	if g.Awaits != "" {
		act.Add(storage.InsertPendingRedaction, string(g.Awaits), p.Pos)
	}
	w.clear(act, p)
	if g.Stored == nil {
		w.addRows(act, p)
	} else {
		w.arrive(act, p)
	}
	return nil
}

// placeGaps notes what an event follows that is not here, and that the event itself is. History is missing there even if
// the event was refused, though to the head it counts then as if nothing followed it.
func (w *Writer) placeGaps(act *storage.Act, p *proposal) {
	if w.head.gaps[p.ID] && p.graft.Before != nil {
		delete(w.head.gaps, p.ID)
		act.Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.CloseGap(w.Num, p.ID) })
	}
	for _, missing := range p.graft.Missing {
		act.Add(storage.InsertGap, w.Num, string(missing), p.Ord)
		w.breaks(p.Ord)
		if !p.Flagged(storage.Rejected | storage.SoftFailed) {
			w.head.gaps[missing] = true
		}
	}
}

// placeStates sets the states before and after the event.
func (w *Writer) placeStates(act *storage.Act, p *proposal) error {
	g := p.graft
	switch {
	case g.Before == nil && g.Stored != nil: // it is shown at last
		p.Before, p.After = g.Stored.Before, g.Stored.After
		return nil
	case g.Before == nil:
		return nil
	}
	p.Before, p.After = g.Before.root, g.after
	if p.StateKey == nil || p.Flagged(storage.Rejected) || g.Stored != nil {
		return nil
	}
	way, err := w.cache.trees.path(w.ctx, p.Before, p.number)
	if err != nil {
		return err
	}
	p.After = w.cache.trees.set(act, p.Before, way, p.Pos)
	return nil
}

// placeHead moves the head on to the event.
func (w *Writer) placeHead(act *storage.Act, p *proposal, at storage.Pos) {
	g := p.graft
	w.head.lastPos, w.head.state = at, p.After
	if g.now != 0 {
		w.head.state = g.now
	}
	w.settle(p)
	if g.now == 0 && p.StateKey != nil && ofUser(p.Type, *p.StateKey) {
		user := id.UserID(*p.StateKey)
		g.members = slices.DeleteFunc(g.members, func(m Member) bool { return m.User == user })
		g.members = append(g.members, Member{User: user, Membership: p.Membership(), Pos: p.Pos})
	}
	for i := range g.members {
		m := &g.members[i]
		m.Since = at
		w.move(*m)
		if m.Pos != 0 {
			act.Add(storage.UpsertMember, w.Num, string(m.User), m.Membership, m.Pos, at, false)
			continue
		}
		act.Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteMember(w.Num, m.User) })
	}
}

// arrive gives the row of an event that was known already its place.
func (w *Writer) arrive(act *storage.Act, p *proposal) {
	row := w.rowOf(p.Event)
	act.Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.PlaceEvent(&row) })
	if p.graft.Stored.Flags != storage.InTimeline {
		w.relate(act, p)
	}
}

// Show lets clients be told of a stored event that was kept from them: a redaction whose target has come.
func (w *Writer) Show(e *Event) error {
	if e.Flags != 0 {
		return fmt.Errorf("show %s: its flags are %d", e.ID, e.Flags)
	}
	return w.Graft(e.Event, Graft{Flags: storage.InTimeline, Stored: e, RedactedBy: e.RedactedBy})
}

// changes are what the hub is told of an event at a position.
func (w *Writer) changes(p *proposal, at storage.Pos) []notify.Change {
	list := []notify.Change{{Pos: at, Kind: notify.Timeline, Room: w.ID, User: p.Sender}}
	for _, m := range p.memberships() {
		if len(list) > maxNoted { // a room that was joined as a whole; nobody needs the hub to know its members
			break
		}
		list = append(list, notify.Change{Pos: at, Kind: notify.Membership, Room: w.ID, User: m.User})
	}
	return list
}

const maxNoted = 100
