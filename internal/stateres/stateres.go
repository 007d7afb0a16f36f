// Package stateres is state resolution: several branches of a room left several states, and every server
// must make the same one of them. It is pure: events in, a state out.
//
// Resolve is the algorithm of every room version. Graph is the auth graph of a room in memory, from which
// the caller takes the auth difference and the conflicted state subgraph that Resolve is given: both are
// questions about positions, which the caller has and an event has not.
//
// The work follows the conflict, not the room: nothing here walks a state, and what is read of the auth
// graph lies between the conflicted events.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#state-resolution
package stateres

import (
	"errors"
	"fmt"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// Problem is what is to be resolved: the states of a room that several branches left. The order of the
// lists does not matter and an event may stand in several. Resolve changes nothing of it.
type Problem struct {
	Rules *roomversion.Rules

	// Create is the m.room.create event of the room.
	Create *event.Event

	// Unconflicted is the unconflicted state map: the entry in which all states agree, nil when they do not
	// or when there is none.
	Unconflicted eventauth.State

	// Conflicted is the conflicted state set: of every key in which the states differ, each event that some
	// state has there. A state that has none contributes nothing.
	Conflicted []*event.Event

	// Difference is the auth difference of the states: see Graph.Difference. Version 1 does not look at it.
	Difference []*event.Event

	// Subgraph is the conflicted state subgraph: see Graph.Subgraph. Only version 12 has one; the others do
	// not look at it.
	Subgraph []*event.Event

	// Auth returns the event with an id from the room's auth graph, and whether it was rejected. The event
	// is nil when it is not known. It is asked at most once for an id.
	Auth func(id.EventID) (e *event.Event, rejected bool)
}

// Resolve returns the entries in which the resolved state differs from the unconflicted state map: one of
// each conflicted key, and of other keys that resolution puts events into. A conflicted key that is not in
// the result has no event in the resolved state.
//
// A rejected event never is in the result. The specification would let one in again that was rejected
// because of the state before it and not because of its auth events, if the rules allow it now; this server
// does not reopen its verdicts, nor do the others that are in use.
//
// The error is about the problem, never about an event: what is malformed, unknown or goes in circles among
// the events is passed over, in the same way by everybody who has the same events.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#algorithm
func Resolve(p Problem) (map[eventauth.Key]*event.Event, error) {
	if p.Rules == nil || p.Create == nil || p.Unconflicted == nil || p.Auth == nil {
		return nil, errors.New("resolve state: the problem is not complete")
	}
	r := newResolver(p)
	switch p.Rules.StateResolution {
	case roomversion.StateResolutionV1:
		return r.resolveV1(), nil
	case roomversion.StateResolutionV2:
		r.Subgraph = nil
		return r.resolveV2(p.Unconflicted), nil
	case roomversion.StateResolutionV21:
		return r.resolveV2(empty{}), nil
	}
	return nil, fmt.Errorf("resolve state: version %s has no algorithm", p.Rules.Version)
}

// empty is the empty state map.
type empty struct{}

func (empty) Event(string, string) *event.Event { return nil }
