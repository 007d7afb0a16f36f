package stateres_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest/naive"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/internal/stateres"
)

// room makes events and keeps them in the order in which they were made: an event's place in it is its
// position.
type room struct {
	rules    *roomversion.Rules
	id       id.RoomID
	events   []*event.Event
	at       map[id.EventID]int
	rejected map[id.EventID]bool
	missing  map[id.EventID]bool // named by others, but not known
}

func newRoom(t testing.TB, version string) *room {
	rules, ok := roomversion.Get(version)
	require.True(t, ok)
	return &room{
		rules: rules, id: "!room:one", at: map[id.EventID]int{},
		rejected: map[id.EventID]bool{}, missing: map[id.EventID]bool{},
	}
}

// draft is an event to be made.
type draft struct {
	name      string // its id in versions 1 and 2
	sender    id.UserID
	eventType string
	stateKey  *string
	content   string
	auth      []id.EventID
	prev      []id.EventID
	ts, depth int64
}

// add makes an event with its real id. It has no signatures, which state resolution does not look at.
func (r *room) add(t testing.TB, d draft) *event.Event {
	fields := map[string]any{
		"auth_events": r.refs(d.auth), "prev_events": r.refs(d.prev), "content": json.RawMessage(d.content), "depth": d.depth,
		"hashes": map[string]string{"sha256": d.name}, "signatures": struct{}{}, "origin_server_ts": d.ts, "sender": d.sender, "type": d.eventType,
	}
	if d.stateKey != nil {
		fields["state_key"] = *d.stateKey
	}
	isRoot := r.rules.RoomIDIsCreateHash && d.eventType == "m.room.create"
	if !isRoot {
		fields["room_id"] = r.id
	}
	eid := id.EventID("$" + d.name + ":" + string(d.sender.Server()))
	if r.rules.EventIDs == roomversion.EventIDInEvent {
		fields["event_id"] = eid
	}
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	raw, err = canonjson.Append(nil, raw)
	require.NoError(t, err)
	if r.rules.EventIDs != roomversion.EventIDInEvent {
		hash, err := event.ReferenceHash(r.rules, raw)
		require.NoError(t, err)
		eid = id.EventID("$" + signing.Encode(hash))
	}
	if isRoot && len(r.events) == 0 {
		r.id = id.RoomID("!" + eid[1:])
	}
	e, err := event.ParseTrusted(r.rules, raw, eid, r.id)
	require.NoError(t, err)
	_, again := r.at[eid]
	require.False(t, again, "two events are the same")
	r.at[eid] = len(r.events)
	r.events = append(r.events, e)
	return e
}

func (r *room) refs(ids []id.EventID) any {
	if r.rules.EventIDs != roomversion.EventIDInEvent {
		return append([]id.EventID{}, ids...)
	}
	refs := make([]any, len(ids))
	for i, eid := range ids {
		refs[i] = []any{eid, map[string]string{"sha256": ""}}
	}
	return refs
}

// find is the naive.Events of the room.
func (r *room) find(eid id.EventID) (*event.Event, bool) {
	if at, ok := r.at[eid]; ok && !r.missing[eid] {
		return r.events[at], r.rejected[eid]
	}
	return nil, false
}

// graph is the room's auth graph; what is missing is named in it but not added.
func (r *room) graph() *stateres.Graph {
	g := &stateres.Graph{}
	for i, e := range r.events {
		if !r.missing[e.ID] {
			g.Add(int64(i), r.positions(e.AuthEvents))
		}
	}
	return g
}

func (r *room) positions(ids []id.EventID) []int64 {
	var positions []int64
	for _, eid := range ids {
		if at, ok := r.at[eid]; ok {
			positions = append(positions, int64(at))
		}
	}
	return positions
}

func (r *room) known(positions []int64) []*event.Event {
	var events []*event.Event
	for _, pos := range positions {
		if e := r.events[pos]; !r.missing[e.ID] {
			events = append(events, e)
		}
	}
	return events
}

// state is an eventauth.State of a room.
type state struct {
	*room
	entries naive.State
}

func (s state) Event(eventType, stateKey string) *event.Event {
	e, _ := s.find(s.entries[eventauth.Key{Type: eventType, StateKey: stateKey}])
	return e
}

// problem is what a caller makes of states: with a graph of positions.
func (r *room) problem(sets []naive.State) stateres.Problem {
	unconflicted, conflicted := naive.Split(sets)
	var ids []id.EventID
	for eid := range conflicted {
		ids = append(ids, eid)
	}
	of := make([][]int64, len(sets))
	for i, s := range sets {
		for key, eid := range s {
			if unconflicted[key] == "" {
				of[i] = append(of[i], int64(r.at[eid]))
			}
		}
	}
	common := map[int64]bool{}
	for _, eid := range unconflicted {
		common[int64(r.at[eid])] = true
	}
	g := r.graph()
	return stateres.Problem{
		Rules: r.rules, Create: r.events[0], Unconflicted: state{r, unconflicted},
		Conflicted: r.known(r.positions(ids)),
		Difference: r.known(g.Difference(of, func(pos int64) bool { return common[pos] })),
		Subgraph:   r.known(g.Subgraph(r.positions(ids))),
		Auth:       r.find,
	}
}

// resolve is the whole resolved state.
func (r *room) resolve(t testing.TB, sets []naive.State) naive.State {
	result, err := stateres.Resolve(r.problem(sets))
	require.NoError(t, err)
	whole, _ := naive.Split(sets)
	for key, e := range result {
		require.Empty(t, whole[key], "all states agree on %s", key)
		require.False(t, r.rejected[e.ID], "a rejected event is in the state")
		whole[key] = e.ID
	}
	return whole
}

// names makes a state readable in a failure.
func (r *room) names(s naive.State) []string {
	var names []string
	for key, eid := range s {
		names = append(names, key.Type+"|"+key.StateKey+" = "+string(eid))
	}
	slices.Sort(names)
	return names
}

// requireSame compares with the naive resolution of the same states.
func (r *room) requireSame(t testing.TB, sets []naive.State, why string) {
	t.Helper()
	want := naive.Resolve(r.rules, sets, r.find)
	require.Equal(t, r.names(want), r.names(r.resolve(t, sets)), why)
}
