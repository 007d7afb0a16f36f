package homeservertest_test

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/homeservertest/naive"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// opinion is what a naive reading of the specification makes of the events of a room.
type opinion struct {
	create   *event.Event
	events   map[id.EventID]*event.Event
	rejected map[id.EventID]bool
	after    map[id.EventID]naive.State
}

// naiveState is the state that the room's events leave: event ids by type and state key.
func naiveState(t *testing.T, room *homeservertest.RogueRoom) map[string]string {
	t.Helper()
	rules, ok := roomversion.Get(room.Version)
	require.True(t, ok)
	o := &opinion{events: map[id.EventID]*event.Event{}, rejected: map[id.EventID]bool{}, after: map[id.EventID]naive.State{}}
	for _, p := range room.Events() {
		ev, err := event.ParseUntrusted(rules, p.JSON)
		require.NoError(t, err)
		o.judge(ev)
	}
	var heads []id.EventID
	for _, eventID := range room.Heads() {
		heads = append(heads, id.EventID(eventID))
	}
	state := map[string]string{}
	for key, eventID := range o.resolved(rules, heads) {
		state[key.Type+" "+key.StateKey] = string(eventID)
	}
	return state
}

// judge takes an event, each after those that it names.
func (o *opinion) judge(ev *event.Event) {
	if o.create == nil {
		o.create = ev
	}
	o.events[ev.ID] = ev
	before := o.resolved(ev.Rules, ev.PrevEvents)
	o.rejected[ev.ID] = !o.allows(ev, before)
	o.after[ev.ID] = before
	if ev.StateKey != nil && !o.rejected[ev.ID] {
		o.after[ev.ID] = maps.Clone(before)
		o.after[ev.ID][eventauth.Key{Type: ev.Type, StateKey: *ev.StateKey}] = ev.ID
	}
}

// resolved is the state that some events leave.
func (o *opinion) resolved(rules *roomversion.Rules, prev []id.EventID) naive.State {
	if len(prev) == 0 {
		return naive.State{}
	}
	var sets []naive.State
	for _, eventID := range prev {
		sets = append(sets, o.after[eventID])
	}
	return naive.Resolve(rules, sets, func(eventID id.EventID) (*event.Event, bool) { return o.events[eventID], o.rejected[eventID] })
}

// allows is checks 4 and 5.
func (o *opinion) allows(ev *event.Event, before naive.State) bool {
	var auth []*event.Event
	byAuth := naive.State{}
	for _, eventID := range ev.AuthEvents {
		a := o.events[eventID]
		if a == nil || o.rejected[eventID] || a.StateKey == nil {
			return false
		}
		auth = append(auth, a)
		byAuth[eventauth.Key{Type: a.Type, StateKey: *a.StateKey}] = eventID
	}
	return eventauth.CheckAuthEvents(ev, auth) == nil && eventauth.Check(ev, believed{o, byAuth}) == nil &&
		eventauth.Check(ev, believed{o, before}) == nil
}

// believed is a naive state that the rules can ask.
type believed struct {
	*opinion
	state naive.State
}

// Event returns the event of a type and state key, nil for none.
func (b believed) Event(eventType, stateKey string) *event.Event {
	if eventType == "m.room.create" && stateKey == "" && b.create.Rules.RoomIDIsCreateHash {
		return b.create
	}
	return b.events[b.state[eventauth.Key{Type: eventType, StateKey: stateKey}]]
}
