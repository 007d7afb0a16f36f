package rooms

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// lack is why an event cannot be decided: others that it names are not here.
type lack struct {
	ev         *event.Event
	prev, auth []id.EventID
	policy     *policy // whose signature it lacks, nil if nobody's
}

func (l *lack) refusal() error {
	return fmt.Errorf("%w: %w", ErrPostponed,
		mxerr.NotFound.With("%d of its prev_events and %d of its auth_events could not be had", len(l.prev), len(l.auth)))
}

// decide takes the events into the room. What some of them lack it asks for, one delivery at a time for a room.
func (d *delivery) decide(ctx context.Context) {
	defer func() { d.await(ctx) }()
	if len(d.admitRecommended(ctx)) == 0 || d.fault != nil {
		return
	}
	leave, err := d.lanes.enter(ctx, d.room.ID)
	if err != nil {
		d.fault = err
		return
	}
	defer leave()
	lacking := d.admitRecommended(ctx) // somebody else may have asked meanwhile
	if len(lacking) > 0 && d.fault == nil {
		d.fill(ctx, lacking)
		lacking = d.admitRecommended(ctx)
	}
	for _, l := range lacking {
		d.verdicts[l.ev.ID] = l.refusal()
	}
	d.await(ctx) // who asks next finds it stored
}

// await returns when everything queued is durable: it shares commits.
func (d *delivery) await(ctx context.Context) {
	for _, p := range d.pending {
		if err := p.Wait(ctx); err != nil {
			d.fault = errors.Join(d.fault, err)
			break
		}
	}
	for _, fn := range d.stored {
		fn()
	}
	d.pending, d.stored = nil, nil
}

// admission is the part of a delivery that holds the room's lock. Nothing here waits for other servers.
type admission struct {
	*delivery
	w      *roomstate.Writer
	known  map[id.EventID]*roomstate.Event // of the events and those that they name: what is here
	others map[id.EventID]bool             // which of them are of other rooms
	early  map[id.EventID][]storage.Pos    // redactions that came before them
	gaps   map[*gap]roomstate.Root         // the states made of what was asked for
	levels eventauth.Memo
	place  int64 // of the next event of the past;
	floor  int64 // no place is at or below it
}

// admit decides about the events that lack nothing and returns what the others lack.
func (d *delivery) admit(ctx context.Context) (lacking []*lack) {
	open := d.undecided()
	err := d.underAdmission(ctx, open, func(a *admission) error {
		for _, ev := range open {
			l, err := a.receive(ev)
			if err != nil && !refused(err) {
				return err
			}
			if l != nil {
				lacking = append(lacking, l)
				continue
			}
			d.verdicts[ev.ID] = err
		}
		return a.heal()
	})
	if err != nil {
		d.fault = errors.Join(d.fault, err)
	}
	return lacking
}

// refused reports whether an error is about an event, and not a fault of this server.
func refused(err error) bool {
	var e *mxerr.Error
	return errors.As(err, &e) && e.Status < 500
}

func (d *delivery) undecided() []*event.Event {
	var open []*event.Event
	for _, ev := range d.events {
		if _, decided := d.verdicts[ev.ID]; !decided {
			open = append(open, ev)
		}
	}
	return open
}

// underAdmission runs fn under the room's lock, with everything at hand that these events name.
func (d *delivery) underAdmission(ctx context.Context, events []*event.Event, fn func(a *admission) error) error {
	w, err := d.lock(ctx, d.room.ID)
	if err != nil {
		return err
	}
	a := &admission{delivery: d, w: w, gaps: map[*gap]roomstate.Root{}}
	defer func() { a.w.Unlock() }()
	if err := a.prepare(ctx, events); err != nil {
		return err
	}
	return fn(a)
}

// prepare reads in a few queries what the events need.
func (a *admission) prepare(ctx context.Context, events []*event.Event) (err error) {
	own, named := namesOf(events)
	if a.known, err = a.w.Known(ctx, append(named, own...)); err != nil {
		return err
	}
	if err := a.findOthers(ctx, own, named); err != nil {
		return err
	}
	if err := a.findEarly(ctx, own); err != nil {
		return err
	}
	a.delivery.extremities = a.delivery.extremities[:0]
	for _, x := range a.w.Extremities() {
		a.delivery.extremities = append(a.delivery.extremities, x.ID)
	}
	return a.findPlace(ctx, len(events))
}

// namesOf returns the ids of events, and of others that they name.
func namesOf(events []*event.Event) (own, named []id.EventID) {
	inside := make(map[id.EventID]bool, len(events))
	for _, ev := range events {
		inside[ev.ID] = true
		own = append(own, ev.ID)
	}
	add := func(list ...id.EventID) {
		for _, eventID := range list {
			if !inside[eventID] {
				inside[eventID] = true
				named = append(named, eventID)
			}
		}
	}
	for _, ev := range events {
		add(ev.PrevEvents...)
		add(ev.AuthEvents...)
		if ev.Redacts != "" {
			add(ev.Redacts)
		}
	}
	return own, named
}

// findOthers finds out which of the events that are not here are those of other rooms. A new event can be one only
// where its sender has chosen its id.
func (a *admission) findOthers(ctx context.Context, own, named []id.EventID) error {
	a.others = map[id.EventID]bool{}
	ask := slices.DeleteFunc(slices.Clone(named), func(eventID id.EventID) bool { return a.known[eventID] != nil })
	if len(own) > 0 && own[0].Server() != "" {
		ask = append(ask, own...)
	}
	if len(ask) == 0 {
		return nil
	}
	return a.DB.Read(ctx, func(tx *storage.Tx) error {
		list, err := tx.Strangers(a.w.Num, ask)
		for _, eventID := range list {
			a.others[eventID] = true
		}
		return err
	})
}

// receive decides about one event, unless it lacks something. The error is its verdict, or a fault.
func (a *admission) receive(ev *event.Event) (*lack, error) {
	stored := a.known[ev.ID]
	switch {
	case stored != nil && !stored.Flagged(storage.Outlier):
		return nil, nil
	case stored != nil:
		ev = stored.Event // in the form in which it was checked first
	case a.others[ev.ID]:
		return nil, mxerr.Forbidden.With("another room has an event with this id")
	}
	if ev.ID == a.create.ID {
		return nil, a.receiveCreate(ev, stored)
	}
	l := &lack{ev: ev}
	if a.isOld(ev) {
		return a.receiveOld(ev, stored, l)
	}
	b, err := a.basisOf(ev, l)
	if err != nil || len(l.prev)+len(l.auth) > 0 {
		return l.orNil(err), err
	}
	if l.policy = a.lacksPolicy(ev, b); l.policy != nil {
		return l, nil
	}
	return nil, a.graft(ev, stored, b)
}

// isOld reports whether an event is from before the room began here, and follows nothing that came since. It is no
// branch of the room: what came of it is part of the state with which the room began, and as a branch it would bring
// back what that state was before. Whoever follows it makes it one.
func (a *admission) isOld(ev *event.Event) bool {
	return ev.Depth < a.began && !slices.ContainsFunc(ev.PrevEvents, func(eventID id.EventID) bool {
		e := a.known[eventID]
		return e != nil && !e.Flagged(storage.Outlier)
	})
}

// receiveOld keeps an old event as an outlier, until the room's history is told so far.
func (a *admission) receiveOld(ev *event.Event, stored *roomstate.Event, l *lack) (*lack, error) {
	if stored != nil {
		return nil, nil
	}
	for _, eventID := range ev.AuthEvents {
		if a.known[eventID] == nil && !a.others[eventID] {
			l.auth = append(l.auth, eventID)
		}
	}
	g, ok := a.outlier(ev)
	if !ok {
		return l, nil
	}
	// A sticky one may be from before the join of its reader, so far as the room still allows it.
	g.Told = g.Flags == storage.Outlier && ev.Sticky() > 0 && a.byState(ev, a.w.Current()) == nil
	_, err := a.put(ev, g)
	return nil, err
}

func (l *lack) orNil(err error) *lack {
	if err != nil {
		return nil
	}
	return l
}

// receiveCreate gives the room's first event its place, when its history has been told so far. Otherwise there is
// nothing to do with it: it is known.
func (a *admission) receiveCreate(ev *event.Event, stored *roomstate.Event) error {
	if a.past == nil || stored == nil {
		return nil
	}
	_, err := a.put(ev, roomstate.Graft{Flags: storage.InTimeline, Before: a.w.At(0), Stored: stored, Ord: a.placeOf()})
	return err
}

// basis is what an event is judged by.
type basis struct {
	auth    []*roomstate.Event // its auth events, nil for one of another room
	prev    []*roomstate.Event
	missing []id.EventID // the other predecessors
	before  *roomstate.State
}

// basisOf finds what an event is judged by, and notes what it lacks.
func (a *admission) basisOf(ev *event.Event, l *lack) (*basis, error) {
	b := &basis{}
	for _, eventID := range ev.AuthEvents {
		e := a.known[eventID]
		if e == nil && !a.others[eventID] {
			l.auth = append(l.auth, eventID)
		}
		b.auth = append(b.auth, e)
	}
	states, err := a.statesBefore(ev, b, l)
	if err != nil || len(l.prev)+len(l.auth) > 0 {
		return nil, err
	}
	if a.isHead(ev) {
		b.before = a.w.Current()
		return b, nil
	}
	b.before, err = a.w.Resolve(states...)
	return b, err
}

// statesBefore returns the states after the predecessors of an event.
func (a *admission) statesBefore(ev *event.Event, b *basis, l *lack) ([]*roomstate.State, error) {
	var states []*roomstate.State
	for _, eventID := range ev.PrevEvents {
		e := a.known[eventID]
		switch {
		case a.others[eventID]:
			return nil, mxerr.Forbidden.With("an event of another room is among its prev_events")
		case e != nil && !e.Flagged(storage.Outlier):
			b.prev = append(b.prev, e)
			states = append(states, a.w.At(e.After))
		case e != nil && eventID == a.create.ID: // nothing comes before it: what it leaves is known without its place
			b.missing = append(b.missing, eventID)
			states = append(states, a.w.StateOf([]*roomstate.Event{e}))
		case a.after[eventID] != nil:
			b.missing = append(b.missing, eventID)
			states = append(states, a.stateOf(a.after[eventID]))
		default:
			l.prev = append(l.prev, eventID)
		}
	}
	if g := a.before[ev.ID]; g != nil && len(l.prev) > 0 { // it was told for all of them
		b.missing, l.prev = append(b.missing, l.prev...), nil
		states = []*roomstate.State{a.stateOf(g)}
	}
	return states, nil
}

// isHead reports whether the event follows exactly the room's forward extremities.
func (a *admission) isHead(ev *event.Event) bool {
	head := a.w.Extremities()
	return len(head) == len(ev.PrevEvents) && !slices.ContainsFunc(head, func(x roomstate.Extremity) bool {
		return !slices.Contains(ev.PrevEvents, x.ID)
	})
}

// graft judges an event and puts it where it belongs. The error is its verdict, or a fault.
func (a *admission) graft(ev *event.Event, stored *roomstate.Event, b *basis) error {
	flags, verdict := a.judge(ev, b)
	if err := a.w.Err(); err != nil {
		return err
	}
	g := roomstate.Graft{
		Meta: a.meta(a.draft), Flags: flags, Auth: b.auth, Prev: b.prev, Missing: b.missing,
		Before: b.before, Stored: stored, Ord: a.placeOf(),
	}
	if flags == storage.InTimeline {
		g.Clears = clears(ev, b.before)
	}
	if a.relay && flags == storage.InTimeline {
		g.Relay, g.NotTo = true, a.origin
	}
	if a.past != nil && g.Ord == 0 {
		return mxerr.Forbidden.With("the room's history has no place left there")
	}
	if err := a.putRedacting(ev, g); err != nil || verdict == nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRejected, verdict)
}

// judge is checks 4 to 7. The error says why an event is rejected.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#checks-performed-on-receipt-of-a-pdu
func (a *admission) judge(ev *event.Event, b *basis) (flags int64, err error) {
	flags, err = a.judgeByRules(ev, b)
	// "7. Is validated by the Policy Server, if the room is using a Policy Server, otherwise it is "soft failed"."
	if flags == storage.InTimeline && !a.isRecommended(ev) {
		flags = storage.SoftFailed
	}
	return flags, err
}

// judgeByRules is checks 4 to 6.
func (a *admission) judgeByRules(ev *event.Event, b *basis) (flags int64, err error) {
	// "4. Passes authorisation rules based on the event's auth events, otherwise it is rejected."
	if err := a.byAuthEvents(ev, b.auth); err != nil {
		return storage.Rejected, err
	}
	// "5. Passes authorisation rules based on the state before the event, otherwise it is rejected."
	if err := a.byState(ev, b.before); err != nil {
		return storage.Rejected, err
	}
	// "6. Passes authorisation rules based on the current state of the room, otherwise it is "soft failed"."
	if a.past == nil && a.byState(ev, a.w.Current()) != nil {
		return storage.SoftFailed, nil
	}
	return storage.InTimeline, nil
}

// byAuthEvents applies the rules about auth events, and all rules to the state that they form.
func (a *admission) byAuthEvents(ev *event.Event, auth []*roomstate.Event) (err error) {
	defer survived(&err)
	state := &authState{create: a.create.Event, memo: &a.levels}
	for _, e := range auth {
		if e == nil {
			return refusal(&eventauth.Rejection{Reason: "an auth event is of another room"})
		}
		if e.Flagged(storage.Rejected) {
			return refusal(eventauth.RejectedAuthEvent(ev))
		}
		state.events = append(state.events, e.Event)
	}
	if err := eventauth.CheckAuthEvents(ev, state.events); err != nil {
		return refusal(err)
	}
	return refusal(eventauth.Check(ev, state))
}

// byState applies the rules to a state of the room.
func (a *admission) byState(ev *event.Event, state *roomstate.State) (err error) {
	defer survived(&err)
	if state.Root() == a.w.Current().Root() {
		return refusal(eventauth.Check(ev, a.w)) // it has its power levels at hand
	}
	if state.Event("m.room.create", "") == nil {
		return mxerr.Forbidden.With("the state before the event has no m.room.create")
	}
	return refusal(eventauth.Check(ev, state))
}

// refusal is the verdict of the rules as an error for the server that has sent the event.
func refusal(err error) error {
	var r *eventauth.Rejection
	if !errors.As(err, &r) {
		return err
	}
	if r.Rule == "" {
		return mxerr.Forbidden.With("%s", r.Reason)
	}
	return mxerr.Forbidden.With("rule %s: %s", r.Rule, r.Reason)
}

// authState is the state that an event's auth events form. In version 12, whose events do not name it, it has the
// room's m.room.create all the same.
type authState struct {
	events []*event.Event
	create *event.Event
	memo   *eventauth.Memo
}

// Event returns the auth event of a type and state key, nil for none.
func (s *authState) Event(eventType, stateKey string) *event.Event {
	for _, e := range s.events {
		if e.Is(eventType, stateKey) {
			return e
		}
	}
	if s.create.Rules.RoomIDIsCreateHash && s.create.Is(eventType, stateKey) {
		return s.create
	}
	return nil
}

// Levels returns the power levels of the state.
func (s *authState) Levels() (*eventauth.PowerLevels, error) {
	return s.memo.Levels(s.Event("m.room.create", ""), s.Event("m.room.power_levels", ""))
}

// stateOf makes the state that another server has told of.
func (a *admission) stateOf(g *gap) *roomstate.State {
	root, made := a.gaps[g]
	if made {
		return a.w.At(root)
	}
	state := a.w.StateOf(g.state)
	if p := g.after; p != nil && p.StateKey != nil && !p.Flagged(storage.Rejected) && (g.less || a.byState(p.Event, state) == nil) {
		state = a.w.StateOf(slices.Concat([]*roomstate.Event{p}, g.state)) // the first of a key counts
	}
	a.gaps[g] = state.Root()
	return state
}

// put queues an event that was decided about.
func (a *admission) put(ev *event.Event, g roomstate.Graft) (*roomstate.Event, error) {
	next, p, err := a.w.Receive(ev, g)
	a.w = next
	if err != nil {
		return nil, err
	}
	if err := a.queued(p); err != nil {
		return nil, err
	}
	a.known[ev.ID] = p.Events[0]
	return p.Events[0], nil
}

// queued notes an act whose end is awaited; an error when it could not be queued.
func (a *admission) queued(p *roomstate.Pending) error {
	a.pending = append(a.pending, p)
	if p.Events[0].Pos == 0 {
		return fmt.Errorf("queue events of %s: %w", a.room.ID, p.Wait(a.w.Context()))
	}
	return nil
}

// outlierChunk is how many outliers are put into a room before others may write it.
const outlierChunk = 200

// putOutliers puts events of which only they themselves are known into the room: auth events, and states that others
// tell of. Each comes after its auth events. What cannot be judged, because auth events are missing, is left out.
func (d *delivery) putOutliers(ctx context.Context, events []*event.Event) (map[id.EventID]*roomstate.Event, error) {
	put := map[id.EventID]*roomstate.Event{}
	for chunk := range slices.Chunk(events, outlierChunk) {
		err := d.underAdmission(ctx, chunk, func(a *admission) error { return a.outliers(chunk, put) })
		if err == nil {
			err = d.keepUp(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
	return put, nil
}

// outlierActs is how many acts with outliers may be on their way, so that a slow disk does not fill the memory.
const outlierActs = 16

// keepUp waits until few acts are on their way.
func (d *delivery) keepUp(ctx context.Context) error {
	if n := len(d.pending) - outlierActs; n >= 0 {
		return d.pending[n].Wait(ctx)
	}
	return nil
}

// outliers puts a chunk of outliers into the room in one act.
func (a *admission) outliers(events []*event.Event, put map[id.EventID]*roomstate.Event) error {
	var early []*roomstate.Event
	planned := 0
	for _, ev := range events {
		if e := a.known[ev.ID]; e != nil {
			put[ev.ID] = e
			continue
		}
		g, ok := a.outlier(ev)
		if !ok {
			continue
		}
		shown, err := a.graftEarly(&ev, &g)
		if err == nil {
			err = a.w.Graft(ev, g)
		}
		if err != nil {
			return err
		}
		known, err := a.w.Known(a.w.Context(), []id.EventID{ev.ID})
		if err != nil {
			return err
		}
		early, planned = append(early, shown...), planned+1
		a.known[ev.ID], put[ev.ID] = known[ev.ID], known[ev.ID]
	}
	if planned == 0 {
		return nil
	}
	if err := a.next(); err != nil {
		return err
	}
	return a.show(early)
}

// next queues what was proposed and goes on behind it.
func (a *admission) next() error {
	p := a.w.Queue()
	a.w = a.w.Next()
	return a.queued(p)
}

// outlier judges an event by its auth events alone; false when it cannot be judged.
func (a *admission) outlier(ev *event.Event) (roomstate.Graft, bool) {
	g := roomstate.Graft{Meta: roomstate.Meta{AtMS: a.Now().UnixMilli()}, Flags: storage.Outlier}
	if a.others[ev.ID] {
		return g, false
	}
	for _, eventID := range ev.AuthEvents {
		e := a.known[eventID]
		if e == nil && !a.others[eventID] {
			return g, false
		}
		g.Auth = append(g.Auth, e)
	}
	if a.byAuthEvents(ev, g.Auth) != nil {
		g.Flags |= storage.Rejected
	}
	return g, true
}
