package stateres_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest/naive"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
)

// forked is a file of testdata: see its README.md.
type forked struct {
	About    string                 `json:"about"`
	Create   map[string]any         `json:"create"`
	Power    map[string]int         `json:"power"`
	Events   map[string]forkedEvent `json:"events"`
	Forks    [][]string             `json:"forks"`
	Expected map[string][]string    `json:"expected"` // by room versions
}

type forkedEvent struct {
	Sender    id.UserID       `json:"sender"`
	Type      string          `json:"type"`
	StateKey  string          `json:"state_key"`
	Content   json.RawMessage `json:"content"`
	Content12 json.RawMessage `json:"content12"` // in version 12
	Auth      []string        `json:"auth"`
	TS        *int64          `json:"ts"`
	Depth     int64           `json:"depth"`
	Rejected  bool            `json:"rejected"`
	Missing   bool            `json:"missing"`
}

// story is the room of a file in one version.
type story struct {
	*growing
	forked
	made map[string]*event.Event // by name
}

func readForked(t *testing.T, file string) (f forked) {
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&f), file)
	return f
}

// TestForks: the hard cases of testdata, by Resolve and by the naive algorithm.
func TestForks(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		f := readForked(t, file)
		for versions, want := range f.Expected {
			for _, version := range strings.Fields(versions) {
				t.Run(strings.TrimSuffix(filepath.Base(file), ".json")+"/"+version, func(t *testing.T) {
					tell(t, f, version).require(want)
				})
			}
		}
	}
}

func tell(t *testing.T, f forked, version string) *story {
	s := &story{&growing{room: newRoom(t, version), t: t}, f, map[string]*event.Event{}}
	for _, name := range []string{"create", "alice", "power", "rules", "bob", "carol"} {
		s.put(s.beginning(name), name, s.opening(name))
	}
	return s
}

// opening are the events that all rooms begin with.
func (s *story) opening(name string) forkedEvent {
	user := map[string]string{"alice": "@alice:one", "bob": "@bob:two", "carol": "@carol:two"}[name]
	switch name {
	case "create":
		content := map[string]any{"creator": "@alice:one", "room_version": s.rules.Version}
		for key, v := range s.Create {
			content[key] = v
		}
		return forkedEvent{Type: "m.room.create", Content: s.json(content)}
	case "power":
		users := map[string]int{"@alice:one": 100}
		if s.rules.PrivilegedCreators {
			users = map[string]int{}
		}
		for key, v := range s.Power {
			users[key] = v
		}
		return forkedEvent{Type: "m.room.power_levels", Content: s.json(map[string]any{"users": users})}
	case "rules":
		return forkedEvent{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"public"}`)}
	}
	return forkedEvent{Type: "m.room.member", Sender: id.UserID(user), StateKey: user, Content: json.RawMessage(`{"membership":"join"}`)}
}

func (s *story) json(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	require.NoError(s.t, err)
	return raw
}

// beginning is the state that the forks start from, as far as it was made before an event of it.
func (s *story) beginning(before string) naive.State {
	state := naive.State{}
	for _, name := range []string{"create", "alice", "power", "rules", "bob", "carol"} {
		if e := s.made[name]; e != nil && name != before {
			state[keyOf(e)] = e.ID
		}
	}
	return state
}

func keyOf(e *event.Event) eventauth.Key { return eventauth.Key{Type: e.Type, StateKey: *e.StateKey} }

// put puts an event into a state, and makes it when it is named for the first time.
func (s *story) put(state naive.State, name string, f forkedEvent) {
	if s.made[name] == nil {
		s.made[name] = s.makeNamed(state, name, f)
	}
	e := s.made[name]
	state[keyOf(e)] = e.ID
}

func (s *story) makeNamed(state naive.State, name string, f forkedEvent) *event.Event {
	d := draft{
		name: name, sender: f.Sender, eventType: f.Type, stateKey: &f.StateKey, content: string(f.Content),
		ts: 100, depth: f.Depth,
	}
	if s.rules.PrivilegedCreators && f.Content12 != nil {
		d.content = string(f.Content12)
	}
	if d.content == "" {
		d.content = "{}"
	}
	if d.sender == "" {
		d.sender = "@alice:one"
	}
	if f.TS != nil {
		d.ts = *f.TS
	}
	if d.depth == 0 {
		d.depth = int64(len(s.events) + 10)
	}
	if len(s.events) > 0 {
		d.prev = []id.EventID{s.events[len(s.events)-1].ID}
	}
	d.auth = s.authOf(state, d, f.Auth)
	e := s.add(s.t, d)
	s.rejected[e.ID], s.missing[e.ID] = f.Rejected, f.Missing
	return e
}

func (s *story) authOf(state naive.State, d draft, names []string) (auth []id.EventID) {
	if names == nil {
		return s.authEvents(d, state)
	}
	if !s.rules.RoomIDIsCreateHash {
		auth = append(auth, s.made["create"].ID)
	}
	for _, name := range names {
		if s.made[name] == nil {
			s.made[name] = s.makeNamed(state, name, s.Events[name])
		}
		auth = append(auth, s.made[name].ID)
	}
	return auth
}

// fork is the state after the events of the names.
func (s *story) fork(names []string) naive.State {
	state := s.beginning("")
	for _, name := range names {
		if out, ok := strings.CutPrefix(name, "-"); ok {
			delete(state, keyOf(s.made[out]))
			continue
		}
		f, ok := s.Events[name]
		require.True(s.t, ok, "there is no event %q", name)
		s.put(state, name, f)
	}
	return state
}

func (s *story) require(want []string) {
	var sets []naive.State
	for _, names := range s.Forks {
		sets = append(sets, s.fork(names))
	}
	expected := s.short(s.fork(want))
	require.Equal(s.t, expected, s.short(naive.Resolve(s.rules, sets, s.find)), "naive: %s", s.About)
	require.Equal(s.t, expected, s.short(s.resolve(s.t, sets)), s.About)
	s.requireGraph(sets, s.About)
}

// short is a state by the names of its events.
func (s *story) short(state naive.State) map[string]string {
	names := map[string]string{}
	for key, eid := range state {
		names[fmt.Sprint(key)] = string(eid)
		for name, e := range s.made {
			if e.ID == eid {
				names[fmt.Sprint(key)] = name
			}
		}
	}
	return names
}
