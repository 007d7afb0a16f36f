package stateres

import (
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
)

// partialState is the state that the iterative auth checks build. While an event is checked it is the
// eventauth.State of the check.
type partialState struct {
	r       *resolver
	initial eventauth.State
	entries map[eventauth.Key]entry
	checked *node // whose auth events fill in for what the state has not
}

// entry is what is known of a key.
type entry struct {
	e       *event.Event // nil when the state has none
	applied bool         // e came from the iterative auth checks and not from the initial state
}

func newPartialState(r *resolver, initial eventauth.State, size int) *partialState {
	return &partialState{r: r, initial: initial, entries: make(map[eventauth.Key]entry, size)}
}

// iterativeAuthChecks: "constructs a new room state by iterating through the event list and applying the
// state event to the room state if the state event is allowed by the authorisation rules. If the state event
// is not allowed by the authorisation rules, then the event is ignored."
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#definitions
func (s *partialState) iterativeAuthChecks(events []*node) {
	for _, n := range events {
		if n.rejected {
			continue
		}
		s.checked = n
		if eventauth.Check(n.e, s) == nil {
			s.entries[keyOf(n.e)] = entry{n.e, true}
		}
	}
}

// event is the entry of the state itself.
func (s *partialState) event(eventType, stateKey string) *event.Event {
	key := eventauth.Key{Type: eventType, StateKey: stateKey}
	found, ok := s.entries[key]
	if !ok {
		found.e = s.initial.Event(eventType, stateKey)
		s.entries[key] = found
	}
	return found.e
}

// Event: "If a `(event_type, state_key)` key that is required for checking the authorisation rules is not
// present in the state, then the appropriate state event from the event's `auth_events` is used if the auth
// event is not rejected."
func (s *partialState) Event(eventType, stateKey string) *event.Event {
	if e := s.event(eventType, stateKey); e != nil {
		return e
	}
	for _, a := range s.r.authEvents(s.checked) {
		if !a.rejected && a.e.Is(eventType, stateKey) {
			return a.e
		}
	}
	// "The `m.room.create` event MUST NOT be selected for `auth_events` on events. The `room_id` (being the
	// `m.room.create` event's ID) implies this instead."
	if eventType == "m.room.create" && stateKey == "" && s.r.Rules.RoomIDIsCreateHash {
		return s.r.Create
	}
	return nil
}

// Levels implements eventauth.Leveller.
func (s *partialState) Levels() (*eventauth.PowerLevels, error) {
	return s.r.readLevels(s.Event("m.room.create", ""), s.Event("m.room.power_levels", ""))
}

// without is what was applied, but for the keys of another state.
func (s *partialState) without(other eventauth.State) map[eventauth.Key]*event.Event {
	result := make(map[eventauth.Key]*event.Event, len(s.entries))
	for key, found := range s.entries {
		if found.applied && other.Event(key.Type, key.StateKey) == nil {
			result[key] = found.e
		}
	}
	return result
}
