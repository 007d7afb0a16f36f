package naive

import (
	"cmp"
	"crypto/sha1"
	"fmt"
	"maps"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
)

// resolveV1 is the algorithm of version 1. A result becomes part of R when its pass is over.
func (r *room) resolveV1(sets []State) State {
	// Start by setting R to the union of the states to be resolved, excluding any conflicting events.
	result, conflicts := r.splitV1(sets)
	for _, pass := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member", "the rest"} {
		added := State{}
		for key, conflict := range conflicts {
			if passOf(key) != pass {
				continue
			}
			// Sort the list by ascending depth then descending sha1(event_id).
			slices.SortFunc(conflict, func(x, y *event.Event) int {
				return cmp.Or(cmp.Compare(x.Depth, y.Depth), -cmp.Compare(sum(x), sum(y)))
			})
			pick := r.auth
			if pass == "the rest" {
				pick = r.deepest
			}
			if e := pick(maps.Clone(result), key, conflict); e != nil {
				added[key] = e.ID
			}
		}
		maps.Copy(result, added)
	}
	return result
}

func passOf(key eventauth.Key) string {
	switch key.Type {
	case "m.room.power_levels", "m.room.join_rules", "m.room.member":
		return key.Type
	}
	return "the rest"
}

func sum(e *event.Event) string { return fmt.Sprintf("%x", sha1.Sum([]byte(e.ID))) }

// splitV1: "A conflict occurs between states where those states have different event_ids for the same
// (event_type, state_key)." An event that some states have, and the others nothing in its place, is no conflict.
func (r *room) splitV1(sets []State) (State, map[eventauth.Key][]*event.Event) {
	result, differing := Split(sets)
	conflicts := map[eventauth.Key][]*event.Event{}
	for eid := range differing {
		if e, rejected := r.events(eid); e != nil && e.StateKey != nil && !rejected {
			key := eventauth.Key{Type: e.Type, StateKey: *e.StateKey}
			conflicts[key] = append(conflicts[key], e)
		}
	}
	for key, list := range conflicts {
		if len(list) == 1 {
			result[key] = list[0].ID
			delete(conflicts, key)
		}
	}
	return result, conflicts
}

// auth: "Add the first event in the list to R. For each subsequent event in the list, check that the event
// would be allowed by the authorisation rules for a room in state R. If the event would be allowed, then update
// R with the event and continue with the next event in the list. If it would not be allowed, stop".
func (r *room) auth(state State, key eventauth.Key, list []*event.Event) *event.Event {
	last := list[0]
	for _, e := range list[1:] {
		state[key] = last.ID
		if eventauth.Check(e, around{r: r, state: state}) != nil {
			return last
		}
		last = e
	}
	return last
}

// deepest: "just pick the event with the highest depth and lowest sha1(event_id) that passes authentication in
// R and add it to R". Of events that all fail, the one with the least depth: the specification is silent there, and
// the servers in use do so.
func (r *room) deepest(state State, _ eventauth.Key, list []*event.Event) *event.Event {
	slices.Reverse(list)
	for _, e := range list {
		if eventauth.Check(e, around{r: r, state: state}) == nil {
			return e
		}
	}
	return list[len(list)-1]
}
