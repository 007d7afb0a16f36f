package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
)

// stateV1 is R, "the results of the resolution so far".
type stateV1 struct {
	r        *resolver
	resolved map[eventauth.Key]*event.Event

	key eventauth.Key // whose conflict is being resolved
	own *event.Event  // what stands there so far
}

// Event implements eventauth.State.
func (s *stateV1) Event(eventType, stateKey string) *event.Event {
	key := eventauth.Key{Type: eventType, StateKey: stateKey}
	if key == s.key {
		return s.own
	}
	if e := s.resolved[key]; e != nil {
		return e
	}
	return s.r.Unconflicted.Event(eventType, stateKey)
}

// Levels implements eventauth.Leveller.
func (s *stateV1) Levels() (*eventauth.PowerLevels, error) {
	return s.r.readLevels(s.Event("m.room.create", ""), s.Event("m.room.power_levels", ""))
}

// conflictV1 are the events of a key, none of them rejected.
type conflictV1 struct {
	key    eventauth.Key
	events []candidateV1
}

type candidateV1 struct {
	e    *event.Event
	hash [sha1.Size]byte // of the event's id
}

// resolveV1 is the algorithm of room version 1. The conflicts of one pass do not see what others of the same
// pass came to, so that their order does not matter.
//
// Spec: https://spec.matrix.org/latest/rooms/v1/#state-resolution
func (r *resolver) resolveV1() map[eventauth.Key]*event.Event {
	s := &stateV1{r: r, resolved: map[eventauth.Key]*event.Event{}}
	conflicts := s.union(r.conflictsV1())
	// First we resolve conflicts between m.room.power_levels events. Repeat the above process for conflicts
	// between m.room.join_rules events. Repeat the above process for conflicts between m.room.member events.
	for _, eventType := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member"} {
		s.pass(conflicts, func(c conflictV1) bool { return c.key.Type == eventType }, s.lastAllowed)
	}
	// No other events affect the authorisation rules, so for all other conflicts, just pick the event with the
	// highest depth and lowest sha1(event_id) that passes authentication in R and add it to R.
	s.pass(conflicts, func(c conflictV1) bool { return !resolvedInOrder(c.key.Type) }, s.deepestAllowed)
	return s.resolved
}

func resolvedInOrder(eventType string) bool {
	return eventType == "m.room.power_levels" || eventType == "m.room.join_rules" || eventType == "m.room.member"
}

// conflictsV1 are the conflicted events by their keys.
func (r *resolver) conflictsV1() map[eventauth.Key]*conflictV1 {
	conflicts := make(map[eventauth.Key]*conflictV1, len(r.Conflicted))
	for _, e := range r.Conflicted {
		n := r.lookUp(e.ID, e)
		if n.full || n.rejected || !n.e.IsState() {
			continue
		}
		n.full = true
		key := keyOf(n.e)
		if conflicts[key] == nil {
			conflicts[key] = &conflictV1{key: key}
		}
		c := conflicts[key]
		c.events = append(c.events, candidateV1{n.e, sha1.Sum([]byte(n.e.ID))})
	}
	return conflicts
}

// union: "Start by setting R to the union of the states to be resolved, excluding any conflicting events." An
// event that some states have, and the others nothing in its place, is no conflict.
func (s *stateV1) union(all map[eventauth.Key]*conflictV1) (conflicts []conflictV1) {
	for key, c := range all {
		if len(c.events) == 1 {
			s.resolved[key] = c.events[0].e
			continue
		}
		// Sort the list by ascending depth then descending sha1(event_id).
		slices.SortFunc(c.events, func(a, b candidateV1) int {
			return cmp.Or(cmp.Compare(a.e.Depth, b.e.Depth), bytes.Compare(b.hash[:], a.hash[:]))
		})
		conflicts = append(conflicts, *c)
	}
	return conflicts
}

// pass resolves the conflicts that it is about and adds the results to R.
func (s *stateV1) pass(conflicts []conflictV1, about func(conflictV1) bool, resolve func([]candidateV1) *event.Event) {
	var results []*event.Event
	for _, c := range conflicts {
		if !about(c) {
			continue
		}
		s.key, s.own = c.key, nil
		if e := resolve(c.events); e != nil {
			results = append(results, e)
		}
	}
	s.key, s.own = eventauth.Key{}, nil
	for _, e := range results {
		s.resolved[keyOf(e)] = e
	}
}

// lastAllowed: "Add the first event in the list to R. For each subsequent event in the list, check that the
// event would be allowed by the authorisation rules for a room in state R. If the event would be allowed,
// then update R with the event and continue with the next event in the list. If it would not be allowed,
// stop".
func (s *stateV1) lastAllowed(events []candidateV1) *event.Event {
	s.own = events[0].e
	for _, c := range events[1:] {
		if eventauth.Check(c.e, s) != nil {
			break
		}
		s.own = c.e
	}
	return s.own
}

// deepestAllowed picks "the event with the highest depth and lowest sha1(event_id) that passes authentication
// in R". Of events that all fail, on which the specification is silent, it picks the one with the least depth, as
// the servers in use do.
func (s *stateV1) deepestAllowed(events []candidateV1) *event.Event {
	for _, c := range slices.Backward(events) {
		if eventauth.Check(c.e, s) == nil {
			return c.e
		}
	}
	return events[0].e
}
