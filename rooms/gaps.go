package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// How a gap is filled.
const (
	maxMissing = 20 // events that are asked for at a time, between ours and one that lacks predecessors
	maxRounds  = 3  // how often, as long as every answer is full
	maxAfter   = 8  // predecessors after which the state is asked for; beyond them it is that before the event
	maxSingly  = 10 // events that are asked for one by one; beyond them a whole state or auth chain is
)

// gap is a state that another server has told of: that after a missing predecessor, or that before an event.
type gap struct {
	state []*roomstate.Event
	after *roomstate.Event // the missing predecessor; nil for the state before an event
	less  bool             // something that was told is left out: what is not there says nothing
}

// search is how the events of a delivery get what they lack from the server that has sent them. Nothing of it
// happens under the room's lock.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#backfilling-and-retrieving-missing-events
type search struct {
	*delivery
	q       *inquiry
	looked  map[id.EventID]*roomstate.Event // what was looked for here; nil is not here
	fetched map[id.EventID]*event.Event     // what came and is to be an outlier
	came    map[id.EventID]bool             // what was asked for singly and was answered, if with something unusable
	after   map[id.EventID][]id.EventID     // by missing predecessor: the state before that
	before  map[id.EventID][]id.EventID     // by event: the state before it
	less    map[id.EventID]bool             // by event: the state before it came whole, and not all of it is usable
}

// fill asks for what events lack. What it gets is stored as outliers, or joins the events of the delivery.
func (d *delivery) fill(ctx context.Context, lacking []*lack) {
	asking, cancel := context.WithTimeout(ctx, gapTime)
	defer cancel()
	f := &search{
		delivery: d, q: &inquiry{Remote: d.Remote, server: d.origin, room: d.room.ID},
		looked: map[id.EventID]*roomstate.Event{}, fetched: map[id.EventID]*event.Event{},
		after: map[id.EventID][]id.EventID{}, before: map[id.EventID][]id.EventID{}, came: map[id.EventID]bool{},
		less: map[id.EventID]bool{},
	}
	for _, step := range []func(context.Context) error{f.missingEvents, f.states, f.authEvents} {
		if err := step(asking); err != nil {
			d.fault = errors.Join(d.fault, err)
			return
		}
	}
	if err := f.keep(ctx); err != nil {
		d.fault = errors.Join(d.fault, err)
	}
}

// failed notes that another server did not give an answer. What was asked for goes on lacking.
func (f *search) failed(ctx context.Context, asked string, err error) {
	f.Log.DebugContext(ctx, "no answer", slog.String("asked", asked), slog.String("server", string(f.origin)),
		slog.String("room", string(f.room.ID)), slog.Any("reason", err))
}

// look looks for events here, once each.
func (f *search) look(ctx context.Context, lists ...[]id.EventID) error {
	var ask []id.EventID
	for _, list := range lists {
		for _, eventID := range list {
			if _, again := f.looked[eventID]; !again {
				f.looked[eventID] = nil
				ask = append(ask, eventID)
			}
		}
	}
	stored, err := f.room.StoredByID(ctx, ask)
	for _, e := range stored {
		f.looked[e.ID] = e
	}
	return err
}

// lookNamed looks for what events name, and for themselves.
func (f *search) lookNamed(ctx context.Context, events []*event.Event) error {
	own, named := namesOf(slices.DeleteFunc(slices.Clone(events), func(ev *event.Event) bool { return ev == nil }))
	return f.look(ctx, own, named)
}

// here reports whether an event is stored, among those to be decided, or fetched.
func (f *search) here(eventID id.EventID) bool {
	return f.looked[eventID] != nil || f.fetched[eventID] != nil || f.among(eventID)
}

func (f *search) among(eventID id.EventID) bool {
	return slices.ContainsFunc(f.events, func(ev *event.Event) bool { return ev.ID == eventID })
}

// missingPrevs returns the predecessors of undecided events after which the state is not known, and the events that
// name them.
func (f *search) missingPrevs() (missing []id.EventID, of []*event.Event) {
	old := f.old()
	for _, ev := range f.undecided() {
		if old[ev.ID] {
			continue
		}
		lacks := false
		for _, eventID := range ev.PrevEvents {
			if f.placed(eventID) || f.among(eventID) && !old[eventID] {
				continue
			}
			lacks = true
			if !slices.Contains(missing, eventID) {
				missing = append(missing, eventID)
			}
		}
		if lacks {
			of = append(of, ev)
		}
	}
	return missing, of
}

// placed reports whether the state after an event is known.
func (f *search) placed(eventID id.EventID) bool {
	e := f.looked[eventID]
	return e != nil && !e.Flagged(storage.Outlier)
}

// old are the undecided events that will be outliers: see admission.isOld.
func (f *search) old() map[id.EventID]bool {
	old := map[id.EventID]bool{}
	for _, ev := range f.undecided() {
		old[ev.ID] = ev.Depth < f.began && !slices.ContainsFunc(ev.PrevEvents, func(eventID id.EventID) bool {
			return f.placed(eventID) || f.among(eventID) && !old[eventID]
		})
	}
	return old
}

// missingEvents asks for the events between those that are here and those that lack predecessors.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1get_missing_eventsroomid
func (f *search) missingEvents(ctx context.Context) error {
	if err := f.lookNamed(ctx, f.undecided()); err != nil || f.past != nil {
		return err
	}
	var latest []id.EventID
	defer func() { f.giveUp(latest) }()
	for range maxRounds {
		_, of := f.missingPrevs()
		if len(of) == 0 {
			return nil
		}
		latest = nil
		for _, ev := range of[:min(len(of), maxMissing)] {
			latest = append(latest, ev.ID)
		}
		raws, err := f.q.missing(ctx, f.extremities, latest)
		if err != nil {
			f.failed(ctx, "get_missing_events", err)
			latest = nil // it may be a server that cannot tell; its states will do
			return nil
		}
		added, err := f.join(ctx, raws)
		if err != nil || added == 0 || len(raws) < maxMissing {
			return err
		}
	}
	return nil
}

// giveUp puts off events that were delivered and whose sender, asked for what comes before them, has not told their own
// predecessors. It has named them, so it has them: the state that it would tell instead need not be that of the room.
func (f *search) giveUp(asked []id.EventID) {
	_, lacking := f.missingPrevs()
	for _, ev := range lacking {
		if f.delivered[ev.ID] && slices.Contains(asked, ev.ID) {
			l := &lack{ev: ev, prev: slices.DeleteFunc(slices.Clone(ev.PrevEvents), f.here)}
			f.verdicts[ev.ID] = l.refusal()
		}
	}
}

// join lets events of an answer be decided about together with those that were delivered.
func (f *search) join(ctx context.Context, raws []json.RawMessage) (added int, err error) {
	events, _ := f.inspect(ctx, event.ParseUntrusted, raws)
	if err := f.lookNamed(ctx, events); err != nil {
		return 0, err
	}
	between := f.between(events)
	for i, ev := range events {
		if ev != nil && !between[ev.ID] {
			events[i] = nil
		}
	}
	return f.add(events), nil
}

// between are those of the events of an answer that come after what is here. A server that does not know our newest
// events tells what comes before them too, perhaps before this server was in the room: as something new it would bring
// the state of that time back.
func (f *search) between(events []*event.Event) map[id.EventID]bool {
	prev, here := map[id.EventID][]id.EventID{}, map[id.EventID]bool{}
	for _, ev := range slices.Concat(f.events, events) {
		if ev != nil {
			prev[ev.ID] = ev.PrevEvents
		}
	}
	for eventID, e := range f.looked {
		here[eventID] = e != nil && !e.Flagged(storage.Outlier)
	}
	missing, _ := f.missingPrevs()
	return reached(missing, prev, here)
}

// states asks for the states after predecessors that are still missing. If these are many, it asks for the states
// before the events that were delivered, and does without those in between.
func (f *search) states(ctx context.Context) error {
	missing, _ := f.missingPrevs()
	if len(missing) > maxAfter {
		return f.statesBefore(ctx)
	}
	for _, eventID := range missing {
		if err := f.fetch(ctx, []id.EventID{eventID}); err != nil {
			return err
		}
		if !f.here(eventID) {
			continue
		}
		state, err := f.stateAt(ctx, eventID)
		if err != nil {
			return err
		}
		f.after[eventID] = state
	}
	return f.statesOfRest(ctx)
}

// statesOfRest asks for the states before those events after one of whose predecessors the state could not be had: who
// knows an event knows the state before it, if perhaps not what it follows.
func (f *search) statesOfRest(ctx context.Context) error {
	old := f.old()
	_, of := f.missingPrevs()
	for _, ev := range of {
		if f.q.left() == 0 {
			return nil
		}
		unexplained := func(eventID id.EventID) bool {
			return !f.placed(eventID) && (old[eventID] || !f.among(eventID)) && len(f.after[eventID]) == 0
		}
		if !slices.ContainsFunc(ev.PrevEvents, unexplained) {
			continue
		}
		state, err := f.stateAt(ctx, ev.ID)
		if err != nil {
			return err
		}
		f.before[ev.ID] = state
	}
	return nil
}

// statesBefore asks for the states before the events that were delivered and lack predecessors.
func (f *search) statesBefore(ctx context.Context) error {
	f.events = slices.DeleteFunc(f.events, func(ev *event.Event) bool { return !f.delivered[ev.ID] })
	_, of := f.missingPrevs()
	for _, ev := range of {
		if f.q.left() == 0 {
			return nil
		}
		state, err := f.stateAt(ctx, ev.ID)
		if err != nil {
			return err
		}
		f.before[ev.ID] = state
	}
	return nil
}

// stateAt asks for the state before an event and sees to it that its events, and their auth events, are here. It is
// nil if it could not be had.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1state_idsroomid
func (f *search) stateAt(ctx context.Context, eventID id.EventID) ([]id.EventID, error) {
	state, auth, err := f.q.stateIDs(ctx, eventID)
	if err != nil {
		f.failed(ctx, "state_ids", err)
		return f.wholeState(ctx, eventID)
	}
	if err := f.look(ctx, state, auth); err != nil {
		return nil, err
	}
	f.reuse(state)
	lacking := slices.DeleteFunc(slices.Concat(state, auth), f.here)
	slices.Sort(lacking)
	if lacking = slices.Compact(lacking); len(lacking) > min(maxSingly, f.q.left()) {
		return f.wholeState(ctx, eventID)
	}
	return state, f.fetch(ctx, lacking)
}

// reuse lets events that are to be decided, and are part of a state that was told, be outliers until they are.
func (f *search) reuse(state []id.EventID) {
	for _, ev := range f.events {
		if f.looked[ev.ID] == nil && slices.Contains(state, ev.ID) {
			f.fetched[ev.ID] = ev
		}
	}
}

// wholeState asks for the state before an event with all its events.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1stateroomid
func (f *search) wholeState(ctx context.Context, eventID id.EventID) ([]id.EventID, error) {
	raws, auth, err := f.q.state(ctx, eventID)
	if err != nil {
		f.failed(ctx, "state", err)
		return nil, nil
	}
	state, err := f.take(ctx, raws)
	if err != nil {
		return nil, err
	}
	f.less[eventID] = len(state) < len(raws)
	_, err = f.take(ctx, auth)
	return state, err
}

// take checks the events of an answer and remembers those that are not here, for outliers. It returns the ids of all that
// are usable.
func (f *search) take(ctx context.Context, raws []json.RawMessage) ([]id.EventID, error) {
	events, _ := f.inspect(ctx, event.ParseUntrusted, raws)
	if err := f.lookNamed(ctx, events); err != nil {
		return nil, err
	}
	var ids []id.EventID
	for _, ev := range events {
		if ev == nil {
			continue
		}
		ids = append(ids, ev.ID)
		if f.looked[ev.ID] == nil {
			f.fetched[ev.ID] = ev
		}
	}
	return ids, nil
}

// fetch asks for events one by one, several at a time, as far as they are not here.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1eventeventid
func (f *search) fetch(ctx context.Context, ids []id.EventID) error {
	var mu sync.Mutex // guards raws and f.came
	var raws []json.RawMessage
	eachBeside(slices.DeleteFunc(slices.Clone(ids), f.here), func(eventID id.EventID) {
		raw, err := f.q.event(ctx, eventID)
		if err != nil {
			f.failed(ctx, "event", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		raws = append(raws, raw)
		f.came[eventID] = true
	})
	_, err := f.take(ctx, raws)
	return err
}

// authEvents asks for auth events that are named and not here.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#retrieving-event-authorization-information
func (f *search) authEvents(ctx context.Context) error {
	asked := map[id.EventID]bool{}
	for f.q.left() > 0 {
		ev := f.lackingAuth(asked)
		if ev == nil {
			return nil
		}
		asked[ev.ID] = true
		raws, err := f.q.eventAuth(ctx, ev.ID)
		if err != nil {
			f.failed(ctx, "event_auth", err)
		}
		if _, err := f.take(ctx, raws); err != nil {
			return err
		}
		if err := f.fetch(ctx, ev.AuthEvents); err != nil {
			return err
		}
	}
	return nil
}

// lackingAuth returns an event that lacks auth events, which were not asked for yet; nil when there is none.
func (f *search) lackingAuth(asked map[id.EventID]bool) *event.Event {
	for _, ev := range f.needed() {
		if !asked[ev.ID] && slices.ContainsFunc(ev.AuthEvents, func(eventID id.EventID) bool { return !f.here(eventID) }) {
			return ev
		}
	}
	return nil
}

// needed returns the undecided events and, of what was fetched, what they, the missing predecessors and the states
// lead to.
func (f *search) needed() []*event.Event {
	needed := f.undecided()
	seen := map[id.EventID]bool{}
	add := func(ids []id.EventID) {
		for _, eventID := range ids {
			if ev := f.fetched[eventID]; ev != nil && !seen[eventID] {
				seen[eventID] = true
				needed = append(needed, ev)
			}
		}
	}
	for _, told := range []map[id.EventID][]id.EventID{f.after, f.before} {
		for eventID, state := range told {
			add([]id.EventID{eventID})
			add(state)
		}
	}
	slices.SortFunc(needed[len(f.undecided()):], func(a, b *event.Event) int { return cmp.Compare(a.ID, b.ID) })
	for i := 0; i < len(needed); i++ {
		add(needed[i].AuthEvents)
	}
	return needed
}

// keep stores what was fetched and is needed as outliers, and makes the states.
func (f *search) keep(ctx context.Context) error {
	needed := slices.DeleteFunc(f.needed(), func(ev *event.Event) bool { return f.fetched[ev.ID] == nil })
	ordered, _ := order(needed, func(ev *event.Event, yield func([]id.EventID)) { yield(ev.AuthEvents) })
	put, err := f.putOutliers(ctx, ordered)
	if err != nil {
		return err
	}
	for eventID, e := range put {
		f.looked[eventID] = e
	}
	for eventID, state := range f.after {
		if g := f.gap(eventID, state); g != nil && f.looked[eventID] != nil {
			g.after = f.looked[eventID]
			f.delivery.after[eventID] = g
		}
	}
	for eventID, state := range f.before {
		if g := f.gap(eventID, state); g != nil {
			f.delivery.before[eventID] = g
		}
	}
	return nil
}

// gap returns the state before an event that consists of others, as far as they are usable and were not rejected. One without
// the room's m.room.create is none, and one of which something did not come would be wrong.
func (f *search) gap(before id.EventID, state []id.EventID) *gap {
	if !slices.Contains(state, f.create.ID) {
		return nil
	}
	g := &gap{less: f.less[before]}
	for _, eventID := range state {
		switch e := f.looked[eventID]; {
		case e == nil && !f.came[eventID]:
			return nil
		case e != nil && e.StateKey != nil && !e.Flagged(storage.Rejected):
			g.state = append(g.state, e)
		default:
			g.less = true
		}
	}
	return g
}

// past is where the events of an answer of /backfill get their places.
type past struct {
	before int64 // the place in front of which they belong
}

// apart is how far from each other parts of a room's past are at least whose connection is not known. None has as many
// events.
const apart = 1 << 32

// findPlace finds the places of a number of events that are to be in front of everything that is known there.
func (a *admission) findPlace(ctx context.Context, events int) error {
	if a.past == nil {
		return nil
	}
	older, err := a.w.HistoryBackwards(ctx, a.past.before, firstPlace, 1)
	if err != nil {
		return err
	}
	upTo := min(a.past.before, 0)
	after := upTo - apart
	if len(older) > 0 && older[0].Ord > 0 { // it is a gap between events that arrived live
		after, upTo = (a.past.before-1)>>storage.OrdShift<<storage.OrdShift, a.past.before
	}
	oldest := upTo
	err = a.DB.Read(ctx, func(tx *storage.Tx) error {
		found, err := tx.OldestPlace(a.w.Num, after, upTo)
		if err == nil {
			oldest = found
		}
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	a.place, a.floor = oldest-int64(events), after
	if oldest > 0 {
		return nil
	}
	below, err := a.w.Past(ctx, oldest, 1)
	if a.floor = firstPlace; len(below) > 0 {
		a.floor = below[0].Ord
	}
	return err
}

// placeOf returns the next place in the past, from the oldest on; 0 for an event that arrives now, or if there is no
// place left.
func (a *admission) placeOf() int64 {
	if a.past == nil {
		return 0
	}
	a.place++
	if a.place-1 <= a.floor {
		return 0
	}
	return a.place - 1
}
