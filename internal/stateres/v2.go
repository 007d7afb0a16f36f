package stateres

import (
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
)

// resolveV2 is the algorithm of room version 2 where initial is the unconflicted state map, and of room
// version 12 where it is empty.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#algorithm, https://spec.matrix.org/latest/rooms/v12/#algorithm
func (r *resolver) resolveV2(initial eventauth.State) map[eventauth.Key]*event.Event {
	full := r.fullConflictedSet()
	state := newPartialState(r, initial, len(full))
	// 1. Select the set X of all power events that appear in the full conflicted set. For each such power
	// event P, enlarge X by adding the events in the auth chain of P which also belong to the full conflicted
	// set. Sort X into a list using the reverse topological power ordering.
	power := r.reverseTopologicalPowerOrdering(r.powerEvents(full))
	// 2. Apply the iterative auth checks algorithm to the list of events from the previous step to get a
	// partially resolved state.
	state.iterativeAuthChecks(power)
	// 3. Take all remaining events that weren't picked in step 1 and order them by the mainline ordering based
	// on the power level in the partially resolved state obtained in step 2.
	rest := slices.DeleteFunc(full, func(n *node) bool { return n.picked })
	r.mainlineOrdering(rest, state.event("m.room.power_levels", ""))
	// 4. Apply the iterative auth checks algorithm on the partial resolved state and the list of events from
	// the previous step.
	state.iterativeAuthChecks(rest)
	// 5. Update the result by replacing any event with the event with the same key from the unconflicted state
	// map, if such an event exists.
	return state.without(r.Unconflicted)
}

// fullConflictedSet: "The *full conflicted set* is the union of the conflicted state set, the conflicted
// state subgraph, and the auth difference." Before version 12 there is no subgraph.
//
// Spec: https://spec.matrix.org/latest/rooms/v12/#definitions
func (r *resolver) fullConflictedSet() []*node {
	full := make([]*node, 0, len(r.Conflicted)+len(r.Difference)+len(r.Subgraph))
	for _, set := range [][]*event.Event{r.Conflicted, r.Difference, r.Subgraph} {
		for _, e := range set {
			if n := r.lookUp(e.ID, e); !n.full && n.e.IsState() {
				n.full = true
				full = append(full, n)
			}
		}
	}
	return full
}

// powerEvents selects the power events of the full conflicted set and those of the set in their auth chains.
//
// A chain is followed from one event of the set to the next and not through what is outside. In version 12
// that is all of the chain, since the subgraph belongs to the set. Before, the text means also those
// events of the set that a chain reaches only through others that all states have in common; the servers in
// use have never looked for them, and to agree with them matters more.
func (r *resolver) powerEvents(full []*node) (picked []*node) {
	for _, n := range full {
		if isPowerEvent(n.e) && !n.picked {
			n.picked = true
			picked = append(picked, n)
		}
	}
	for i := 0; i < len(picked); i++ {
		for _, a := range r.authEvents(picked[i]) {
			if a.full && !a.picked {
				a.picked = true
				picked = append(picked, a)
			}
		}
	}
	return picked
}

// reverseTopologicalPowerOrdering sorts picked events from earliest to latest: none before its auth events,
// and of those that could be next the one whose sender has most power, then the earliest, then the one with
// the smallest id. Events that are auth events of one another in a circle are left out; no event of a room
// version from 3 on can be.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#definitions
func (r *resolver) reverseTopologicalPowerOrdering(picked []*node) []*node {
	var ready heap[*node]
	ready.less = func(a, b *node) bool {
		return a.power > b.power || a.power == b.power && earlier(a, b) < 0
	}
	for _, n := range picked {
		n.power = r.senderPower(n)
		for _, a := range r.authEvents(n) {
			if a.picked {
				n.waits++
				a.next = append(a.next, n)
			}
		}
	}
	for _, n := range picked {
		if n.waits == 0 {
			ready.push(n)
		}
	}
	ordered := make([]*node, 0, len(picked))
	for ready.len() > 0 {
		n := ready.pop()
		ordered = append(ordered, n)
		for _, waiting := range n.next {
			if waiting.waits--; waiting.waits == 0 {
				ready.push(waiting)
			}
		}
	}
	return ordered
}
