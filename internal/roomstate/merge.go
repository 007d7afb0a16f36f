package roomstate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/stateres"
	"github.com/embedmatrix/homeserver/storage"
)

// State is a state of the room to be asked by the rules; it belongs to its Writer.
type State struct {
	w      *Writer
	root   Root
	levels eventauth.Memo
}

// Event returns an entry, nil when there is none or it cannot be read; the Writer's Err tells the latter.
func (s *State) Event(eventType, stateKey string) *event.Event {
	e, err := s.w.Room.StateEvent(s.w.ctx, s.root, eventType, stateKey)
	if err != nil {
		s.w.err = errors.Join(s.w.err, err)
	}
	return inner(e)
}

// Levels returns the power levels of the state.
func (s *State) Levels() (*eventauth.PowerLevels, error) {
	return s.levels.Levels(s.Event("m.room.create", ""), s.Event("m.room.power_levels", ""))
}

// Root returns the root of the state.
func (s *State) Root() Root { return s.root }

// At returns a state of the room by its root.
func (w *Writer) At(root Root) *State { return &State{w: w, root: root} }

// Current returns the room's current state.
func (w *Writer) Current() *State { return w.At(w.head.state) }

// StateOf makes the state that consists of some events of the room: another server has told so.
func (w *Writer) StateOf(events []*Event) *State {
	entries := make([]leaf, 0, len(events))
	seen := map[int64]bool{}
	for _, e := range events {
		if e.StateKey == nil {
			continue
		}
		number, _ := w.numberOf(Key{e.Type, *e.StateKey})
		if !seen[number] {
			seen[number] = true
			entries = append(entries, leaf{number, e.Pos})
		}
	}
	return w.At(w.cache.trees.build(&w.act, entries))
}

// Resolve returns the state that several branches of the room leave together.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#room-state-resolution
func (w *Writer) Resolve(states ...*State) (*State, error) {
	var roots []Root
	for _, s := range states {
		if !slices.Contains(roots, s.root) {
			roots = append(roots, s.root)
		}
	}
	root, err := w.merge(roots)
	return w.At(root), err
}

// merge resolves distinct states. Its cost follows what they differ in.
func (w *Writer) merge(roots []Root) (Root, error) {
	if len(roots) == 0 {
		return 0, nil
	}
	m := merger{w: w, roots: roots, numbers: map[int64]int{}, known: map[id.EventID]*Event{}, places: map[id.EventID]storage.Pos{}}
	if err := m.findConflicts(); err != nil || len(m.conflicts) == 0 {
		return roots[0], err
	}
	resolved, err := m.resolve()
	if err != nil {
		return 0, fmt.Errorf("resolve the state of %s: %w", w.ID, err)
	}
	return m.apply(resolved)
}

// merger is one resolution.
type merger struct {
	w       *Writer
	roots   []Root
	graph   *authGraph
	numbers map[int64]int // the conflicting numbers, and where they are in conflicts
	// conflicts has the positions of each conflicting number, one for each state, 0 for none.
	conflicts []conflict

	known  map[id.EventID]*Event      // what was read
	places map[id.EventID]storage.Pos // where auth events of what was read are
	err    error
}

type conflict struct {
	leaf  int64
	among []storage.Pos
}

// findConflicts finds the numbers in which the states differ.
func (m *merger) findConflicts() error {
	trees := m.w.cache.trees
	for _, other := range m.roots[1:] {
		err := trees.Diff(m.w.ctx, m.roots[0], other, func(n int64, _, _ storage.Pos) {
			if _, known := m.numbers[n]; !known {
				m.numbers[n] = len(m.conflicts)
				m.conflicts = append(m.conflicts, conflict{leaf: n})
			}
		})
		if err != nil {
			return err
		}
	}
	for i := range m.conflicts {
		c := &m.conflicts[i]
		for _, root := range m.roots {
			pos, err := trees.Get(m.w.ctx, root, c.leaf)
			if err != nil {
				return err
			}
			c.among = append(c.among, pos)
		}
	}
	return nil
}

// resolve gathers what state resolution needs to know and asks it.
func (m *merger) resolve() (map[eventauth.Key]*event.Event, error) {
	var err error
	if m.graph, err = m.w.graph(); err != nil {
		return nil, err
	}
	problem := stateres.Problem{Rules: m.w.Rules, Unconflicted: agreed{m}, Auth: m.authEvent}
	if problem.Conflicted, err = m.conflicted(); err != nil {
		return nil, err
	}
	if err := m.addGraphParts(&problem); err != nil {
		return nil, err
	}
	create, err := m.w.StateEvent(m.w.ctx, m.roots[0], "m.room.create", "")
	if err != nil {
		return nil, err
	}
	problem.Create = inner(create)
	resolved, err := stateres.Resolve(problem)
	return resolved, errors.Join(err, m.err)
}

// addGraphParts adds what the auth graph says: the auth difference and the conflicted state subgraph.
func (m *merger) addGraphParts(p *stateres.Problem) (err error) {
	if m.w.Rules.StateResolution == roomversion.StateResolutionV1 {
		return nil
	}
	sets := m.sets()
	if p.Difference, err = m.events(m.graph.Difference(sets, m.unconflicted)); err != nil {
		return err
	}
	if m.w.Rules.StateResolution == roomversion.StateResolutionV21 {
		p.Subgraph, err = m.events(m.graph.Subgraph(slices.Concat(sets...)))
	}
	return err
}

// sets are the conflicting events of each state.
func (m *merger) sets() [][]int64 {
	sets := make([][]int64, len(m.roots))
	for _, c := range m.conflicts {
		for i, pos := range c.among {
			if pos != 0 {
				sets[i] = append(sets[i], pos)
			}
		}
	}
	return sets
}

// conflicted returns the conflicted state set.
func (m *merger) conflicted() ([]*event.Event, error) {
	all := slices.Concat(m.sets()...)
	slices.Sort(all)
	return m.events(slices.Compact(all))
}

// events reads events by position.
func (m *merger) events(positions []storage.Pos) ([]*event.Event, error) {
	list, err := m.w.EventsAt(m.w.ctx, positions)
	if err != nil {
		return nil, err
	}
	events := make([]*event.Event, len(list))
	for i, e := range list {
		events[i] = e.Event
		m.note(e)
	}
	return events, nil
}

// note remembers an event, and where its auth events are.
func (m *merger) note(e *Event) {
	if m.known[e.ID] != nil {
		return
	}
	m.known[e.ID] = e
	auth := m.graph.Auth(e.Pos)
	if len(auth) != len(e.AuthEvents) { // some of them are not here
		return
	}
	for i, eventID := range e.AuthEvents {
		m.places[eventID] = auth[i]
	}
}

// authEvent returns an event that one of those read names, and whether it was rejected.
func (m *merger) authEvent(eventID id.EventID) (*event.Event, bool) {
	e := m.known[eventID]
	if e == nil {
		if e = m.read(eventID); e == nil {
			return nil, false
		}
		m.note(e)
	}
	return e.Event, e.Flagged(storage.Rejected)
}

// read reads an event that is named by one that was read before, nil when it is not here.
func (m *merger) read(eventID id.EventID) *Event {
	if pos, ok := m.places[eventID]; ok {
		e, err := m.w.EventAt(m.w.ctx, pos)
		m.err = errors.Join(m.err, err)
		return e
	}
	known, err := m.w.Known(m.w.ctx, []id.EventID{eventID})
	m.err = errors.Join(m.err, err)
	return known[eventID]
}

// unconflicted reports whether the event at a position is in the part of the states in which they agree.
func (m *merger) unconflicted(pos storage.Pos) bool {
	number, ok := m.graph.numbers[pos]
	if !ok {
		return false
	}
	if _, conflicting := m.numbers[number]; conflicting {
		return false
	}
	at, err := m.w.cache.trees.Get(m.w.ctx, m.roots[0], number)
	m.err = errors.Join(m.err, err)
	return at == pos
}

// agreed is the unconflicted state map.
type agreed struct{ *merger }

// Event returns the entry in which all states agree.
func (a agreed) Event(eventType, stateKey string) *event.Event {
	number, ok := a.w.Room.number(Key{eventType, stateKey})
	if !ok {
		return nil
	}
	if _, conflicting := a.numbers[number]; conflicting {
		return nil
	}
	e, err := a.w.StateEvent(a.w.ctx, a.roots[0], eventType, stateKey)
	if err != nil {
		a.err = errors.Join(a.err, err)
	}
	return inner(e)
}

// apply makes the state in which the conflicting entries are the resolved ones.
func (m *merger) apply(resolved map[eventauth.Key]*event.Event) (Root, error) {
	var entries []leaf
	for _, c := range m.conflicts {
		pos := storage.Pos(0)
		if e := resolved[eventauth.Key(m.w.Key(c.leaf))]; e != nil {
			pos = m.known[e.ID].Pos
		}
		if pos != c.among[0] {
			entries = append(entries, leaf{c.leaf, pos})
		}
	}
	for k, e := range resolved {
		number, _ := m.w.numberOf(Key(k))
		if _, conflicting := m.numbers[number]; !conflicting && e != nil {
			entries = append(entries, leaf{number, m.known[e.ID].Pos})
		}
	}
	return m.w.cache.trees.change(m.w.ctx, &m.w.act, m.roots[0], entries)
}

var _ eventauth.State = (*State)(nil)

// Known returns those of these events that this server has, whatever it thinks of them, queued or stored.
func (w *Writer) Known(ctx context.Context, ids []id.EventID) (map[id.EventID]*Event, error) {
	known := make(map[id.EventID]*Event, len(ids))
	var ask []id.EventID
	for _, eventID := range ids {
		if e := w.onItsWay(eventID); e != nil {
			known[eventID] = e
		} else {
			ask = append(ask, eventID)
		}
	}
	stored, err := w.Room.StoredByID(ctx, ask)
	for _, e := range stored {
		known[e.ID] = e
	}
	return known, err
}

// onItsWay returns an event that is proposed or queued.
func (w *Writer) onItsWay(eventID id.EventID) *Event {
	if e := w.planned(eventID); e != nil {
		return e
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.onWay[eventID]
}

// StoredByID returns those of these events of the room that are stored, whatever this server thinks of them.
func (r *Room) StoredByID(ctx context.Context, ids []id.EventID) ([]*Event, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var rows []storage.Event
	epoch := r.cache.events.begin()
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.EventsByID(ids)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read events of %s: %w", r.ID, err)
	}
	rows = slices.DeleteFunc(rows, func(row storage.Event) bool { return row.Room != r.Num })
	return r.cachedAll(rows, epoch)
}
