// Package naive is state resolution as the specification tells it, word by word: whole states in plain maps,
// auth chains walked to their end, nothing kept, nothing clever. It is slow and is what the tests compare the
// server's own state resolution with; nothing but tests imports it.
//
// In two points it follows the servers in use and not the text: see chainOf and Difference.
//
// Spec: https://spec.matrix.org/latest/rooms/v1/#state-resolution,
// https://spec.matrix.org/latest/rooms/v2/#state-resolution, https://spec.matrix.org/latest/rooms/v12/#state-resolution
package naive

import (
	"cmp"
	"maps"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// State is a whole state of a room.
type State = map[eventauth.Key]id.EventID

// Set is a set of events.
type Set map[id.EventID]bool

// Events returns the event with an id, nil when it is not known, and whether it was rejected.
type Events func(id.EventID) (e *event.Event, rejected bool)

// Resolve returns the resolution of a set of states.
func Resolve(rules *roomversion.Rules, sets []State, events func(id.EventID) (e *event.Event, rejected bool)) State {
	r := &room{rules: rules, events: events}
	unconflicted, conflicted := Split(sets)
	r.create = r.findCreate(unconflicted, sets)
	switch rules.StateResolution {
	case roomversion.StateResolutionV1:
		return r.resolveV1(sets)
	case roomversion.StateResolutionV2:
		full := union(conflicted, Difference(sets, events))
		return r.resolveV2(unconflicted, full, unconflicted)
	default:
		full := union(conflicted, Difference(sets, events), Subgraph(conflicted, events))
		return r.resolveV2(State{}, full, unconflicted)
	}
}

// Split divides the entries of states: "If a given key K is present in every Si with the same value V in each
// state map, then the pair (K, V) belongs to the unconflicted state map. Otherwise, V belongs to the
// conflicted state set."
func Split(sets []State) (unconflicted State, conflicted Set) {
	unconflicted, conflicted = State{}, Set{}
	for _, s := range sets {
		for key, v := range s {
			if slices.ContainsFunc(sets, func(other State) bool { return other[key] != v }) {
				conflicted[v] = true
			} else {
				unconflicted[key] = v
			}
		}
	}
	return unconflicted, conflicted
}

// Chain is the auth chain of an event: "the set containing all of E's auth events, all of their auth events,
// and so on recursively".
func Chain(eid id.EventID, events Events) Set {
	chain := Set{}
	for todo := []id.EventID{eid}; len(todo) > 0; {
		e, _ := events(todo[0])
		todo = todo[1:]
		if e == nil {
			continue
		}
		for _, a := range e.AuthEvents {
			if known, _ := events(a); known != nil && !chain[a] {
				chain[a] = true
				todo = append(todo, a)
			}
		}
	}
	return chain
}

// Difference is the auth difference: "calculating the full auth chain for each state Si, that is the union of
// the auth chains for each event in Si, and then taking every event that doesn't appear in every auth chain".
// Without those that all states have: to the servers in use the events of Si belong to its full auth chain. (It
// makes no difference for the conflicted ones, which are in the full conflicted set anyhow.)
func Difference(sets []State, events Events) Set {
	var chains []Set
	for _, s := range sets {
		full := Set{}
		for _, eid := range s {
			maps.Copy(full, Chain(eid, events))
		}
		chains = append(chains, full)
	}
	difference := union(chains...)
	maps.DeleteFunc(difference, func(eid id.EventID, _ bool) bool {
		return !slices.ContainsFunc(chains, func(c Set) bool { return !c[eid] })
	})
	unconflicted, _ := Split(sets)
	for _, eid := range unconflicted {
		delete(difference, eid)
	}
	return difference
}

// Subgraph is the conflicted state subgraph: "Starting from an event in the conflicted state set and following
// auth_events edges may lead to another event in the conflicted state set. The union of all such paths between
// any pair of events in the conflicted state set (including endpoints)".
func Subgraph(conflicted Set, events Events) Set {
	subgraph := Set{}
	for from := range conflicted {
		for on := range Chain(from, events) {
			ends := Chain(on, events)
			ends[on] = true
			maps.DeleteFunc(ends, func(to id.EventID, _ bool) bool { return to == from || !conflicted[to] })
			if len(ends) > 0 {
				maps.Copy(subgraph, union(ends, Set{from: true, on: true}))
			}
		}
	}
	return subgraph
}

func union(sets ...Set) Set {
	all := Set{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return all
}

// room is what the algorithms are about.
type room struct {
	rules  *roomversion.Rules
	events Events
	create *event.Event
}

// findCreate is the m.room.create event of the room. In version 12 the room's id names it.
func (r *room) findCreate(unconflicted State, sets []State) *event.Event {
	for _, s := range append([]State{unconflicted}, sets...) {
		if eid, ok := s[eventauth.Key{Type: "m.room.create"}]; ok {
			e, _ := r.events(eid)
			return e
		}
	}
	for _, s := range sets {
		for _, eid := range s {
			if e, _ := r.events(eid); e != nil && r.rules.RoomIDIsCreateHash {
				create, _ := r.events("$" + id.EventID(e.Room[1:]))
				return create
			}
		}
	}
	return nil
}

// resolveV2 is the algorithm of versions 2 and 12.
func (r *room) resolveV2(initial State, full Set, unconflicted State) State {
	maps.DeleteFunc(full, func(eid id.EventID, _ bool) bool {
		e, _ := r.events(eid)
		return e == nil || e.StateKey == nil
	})
	state := maps.Clone(initial)
	// 1. Select the set X of all power events that appear in the full conflicted set. For each such power
	// event P, enlarge X by adding the events in the auth chain of P which also belong to the full conflicted
	// set. Sort X into a list using the reverse topological power ordering.
	x := Set{}
	for eid := range full {
		if r.isPowerEvent(eid) {
			x[eid] = true
			maps.Copy(x, r.chainOf(eid, full))
		}
	}
	// 2. Apply the iterative auth checks algorithm.
	r.iterativeAuthChecks(state, r.reverseTopologicalPowerOrdering(x, full))
	// 3. Take all remaining events that weren't picked in step 1 and order them by the mainline ordering based
	// on the power level in the partially resolved state obtained in step 2.
	rest := maps.Clone(full)
	maps.DeleteFunc(rest, func(eid id.EventID, _ bool) bool { return x[eid] })
	// 4. Apply the iterative auth checks algorithm on the partial resolved state and the list of events from
	// the previous step.
	r.iterativeAuthChecks(state, r.mainlineOrdering(rest, state[eventauth.Key{Type: "m.room.power_levels"}]))
	// 5. Update the result by replacing any event with the event with the same key from the unconflicted state
	// map, if such an event exists, to get the final resolved state.
	maps.Copy(state, unconflicted)
	return state
}

// chainOf are the events of the full conflicted set in the auth chain of an event.
//
// In version 12 that is what it says. Before version 12 the servers in use do not see an event of the set that
// is reached only through events outside of it.
func (r *room) chainOf(eid id.EventID, full Set) Set {
	events := r.events
	if r.rules.StateResolution == roomversion.StateResolutionV2 {
		events = func(eid id.EventID) (*event.Event, bool) {
			if !full[eid] {
				return nil, false
			}
			return r.events(eid)
		}
	}
	chain := Chain(eid, events)
	maps.DeleteFunc(chain, func(a id.EventID, _ bool) bool { return !full[a] })
	return chain
}

func (r *room) isPowerEvent(eid id.EventID) bool {
	e, _ := r.events(eid)
	switch e.Type {
	case "m.room.power_levels", "m.room.join_rules":
		return true
	case "m.room.member":
		return (e.Membership() == "leave" || e.Membership() == "ban") && string(e.Sender) != *e.StateKey
	}
	return false
}

// reverseTopologicalPowerOrdering is Kahn's algorithm, "at each step selecting, among all the candidate
// vertices, the smallest vertex using the above comparison relation".
func (r *room) reverseTopologicalPowerOrdering(x, full Set) (ordered []*event.Event) {
	waits := map[id.EventID]Set{}
	for eid := range x {
		waits[eid] = r.chainOf(eid, full)
	}
	for {
		var smallest *event.Event
		for eid, chain := range waits {
			e, _ := r.events(eid)
			if len(chain) == 0 && (smallest == nil || r.comparePower(e, smallest) < 0) {
				smallest = e
			}
		}
		if smallest == nil {
			return ordered
		}
		ordered = append(ordered, smallest)
		delete(waits, smallest.ID)
		for _, chain := range waits {
			delete(chain, smallest.ID)
		}
	}
}

func (r *room) comparePower(x, y *event.Event) int {
	return cmp.Or(-cmp.Compare(r.senderPower(x), r.senderPower(y)),
		cmp.Compare(x.OriginServerTS, y.OriginServerTS), cmp.Compare(x.ID, y.ID))
}

func (r *room) senderPower(e *event.Event) int64 {
	levels, err := eventauth.Levels(r.rules, r.create, r.powerLevels(e))
	if err != nil {
		levels, _ = eventauth.Levels(r.rules, r.create, nil)
	}
	return levels.User(e.Sender)
}

// powerLevels is the m.room.power_levels event in the auth_events of e.
func (r *room) powerLevels(e *event.Event) *event.Event {
	for _, a := range e.AuthEvents {
		if p, _ := r.events(a); p != nil && p.Is("m.room.power_levels", "") {
			return p
		}
	}
	return nil
}

const infinity = 1 << 30

func (r *room) mainlineOrdering(rest Set, power id.EventID) (ordered []*event.Event) {
	var mainline []id.EventID
	for p, _ := r.events(power); p != nil && !slices.Contains(mainline, p.ID); p = r.powerLevels(p) {
		mainline = append(mainline, p.ID)
	}
	for eid := range rest {
		e, _ := r.events(eid)
		ordered = append(ordered, e)
	}
	slices.SortFunc(ordered, func(x, y *event.Event) int {
		return cmp.Or(-cmp.Compare(r.mainlinePosition(x, mainline), r.mainlinePosition(y, mainline)),
			cmp.Compare(x.OriginServerTS, y.OriginServerTS), cmp.Compare(x.ID, y.ID))
	})
	return ordered
}

func (r *room) mainlinePosition(e *event.Event, mainline []id.EventID) int {
	seen := Set{}
	for e = r.powerLevels(e); e != nil && !seen[e.ID]; e = r.powerLevels(e) {
		if i := slices.Index(mainline, e.ID); i >= 0 {
			return i
		}
		seen[e.ID] = true
	}
	return infinity
}

// iterativeAuthChecks applies the events that are allowed to the state.
func (r *room) iterativeAuthChecks(state State, events []*event.Event) {
	for _, e := range events {
		if _, rejected := r.events(e.ID); rejected {
			continue
		}
		if eventauth.Check(e, around{r, state, e}) == nil {
			state[eventauth.Key{Type: e.Type, StateKey: *e.StateKey}] = e.ID
		}
	}
}

// around is a state filled up with the auth events of an event that were not rejected, and in version 12 with
// the m.room.create event. e is nil in version 1, which does not fill up.
type around struct {
	r     *room
	state State
	e     *event.Event
}

func (a around) Event(eventType, stateKey string) *event.Event {
	if eid, ok := a.state[eventauth.Key{Type: eventType, StateKey: stateKey}]; ok {
		e, _ := a.r.events(eid)
		return e
	}
	if a.e == nil {
		return nil
	}
	for _, eid := range a.e.AuthEvents {
		if e, rejected := a.r.events(eid); e != nil && !rejected && e.Is(eventType, stateKey) {
			return e
		}
	}
	if a.r.rules.RoomIDIsCreateHash && eventType == "m.room.create" && stateKey == "" {
		return a.r.create
	}
	return nil
}
