package eventauth_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// draft is an event as the files in testdata write it.
type draft struct {
	EventID    string          `json:"event_id"`     // "$event" by default
	RoomID     string          `json:"room_id"`      // that of the room by default
	WireRoomID string          `json:"wire_room_id"` // in the JSON of a create event that should have none
	Sender     id.UserID       `json:"sender"`       // @alice:one by default
	Type       string          `json:"type"`         // m.room.message by default
	StateKey   *string         `json:"state_key"`
	Content    json.RawMessage `json:"content"`
	Prev       *string         `json:"prev"` // "$other" by default
	Redacts    string          `json:"redacts"`
}

func (d draft) key() eventauth.Key { return eventauth.Key{Type: d.Type, StateKey: *d.StateKey} }

// room is a state of a room of one version; it is an eventauth.State.
type room struct {
	rules  *roomversion.Rules
	events map[eventauth.Key]*event.Event
}

func (r room) Event(eventType, stateKey string) *event.Event {
	return r.events[eventauth.Key{Type: eventType, StateKey: stateKey}]
}

// levelled is a room that keeps its power levels read.
type levelled struct {
	room
	memo *eventauth.Memo
}

func (l levelled) Levels() (*eventauth.PowerLevels, error) {
	return l.memo.Levels(l.Event("m.room.create", ""), l.Event("m.room.power_levels", ""))
}

// newRoom makes the room that testdata/README.md describes.
func newRoom(t testing.TB, version string) room {
	rules, ok := roomversion.Get(version)
	require.True(t, ok)
	r := room{rules, map[eventauth.Key]*event.Event{}}
	create := `{"room_version":"` + version + `"}`
	if rules.CreatorInContent {
		create = `{"creator":"@creator:one","room_version":"` + version + `"}`
	}
	r.set(t, "m.room.create", "", create)
	for user, membership := range map[string]string{
		"@creator:one": "join", "@alice:one": "join", "@mod:one": "join", "@bob:two": "join",
		"@ivan:two": "invite", "@dan:two": "ban", "@kim:two": "knock",
	} {
		r.set(t, "m.room.member", user, `{"membership":"`+membership+`"}`)
	}
	r.set(t, "m.room.join_rules", "", `{"join_rule":"invite"}`)
	r.set(t, "m.room.power_levels", "", `{"users":{"@alice:one":100,"@mod:one":50}}`)
	return r
}

func (r room) set(t testing.TB, eventType, stateKey, content string) {
	r.apply(t, []draft{{Type: eventType, StateKey: &stateKey, Content: json.RawMessage(content)}})
}

// apply puts events into the state, and takes out those whose content is null.
func (r room) apply(t testing.TB, state []draft) {
	for _, d := range state {
		if string(d.Content) == "null" {
			delete(r.events, d.key())
			continue
		}
		if d.Type == "m.room.create" {
			d.EventID, d.Prev, d.Sender = "$create", new(string), "@creator:one"
		}
		r.events[d.key()] = r.event(t, d)
	}
}

// with is a copy of the room whose state is changed.
func (r room) with(t testing.TB, changes ...[]draft) room {
	c := room{r.rules, make(map[eventauth.Key]*event.Event, len(r.events))}
	for k, e := range r.events {
		c.events[k] = e
	}
	for _, state := range changes {
		c.apply(t, state)
	}
	return c
}

// event makes an event of the room.
func (r room) event(t testing.TB, d draft) *event.Event {
	e, err := r.parse(d)
	require.NoError(t, err)
	return e
}

func (r room) parse(d draft) (*event.Event, error) {
	d.defaults()
	roomID := id.RoomID(or(d.RoomID, r.id()))
	fields := map[string]any{
		"auth_events": []string{}, "prev_events": r.refs(*d.Prev), "content": d.Content, "depth": 1,
		"hashes": struct{}{}, "signatures": struct{}{}, "origin_server_ts": 1, "sender": d.Sender, "type": d.Type,
	}
	optional(fields, "redacts", d.Redacts)
	optional(fields, "room_id", d.WireRoomID)
	if !r.rules.RoomIDIsCreateHash || d.Type != "m.room.create" {
		fields["room_id"] = roomID
	}
	if d.StateKey != nil {
		fields["state_key"] = *d.StateKey
	}
	if r.rules.EventIDs == roomversion.EventIDInEvent {
		fields["event_id"] = r.eventID(d.EventID, d.Sender.Server())
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	if raw, err = canonjson.Append(nil, raw); err != nil {
		return nil, err
	}
	return event.ParseTrusted(r.rules, raw, r.eventID(d.EventID, d.Sender.Server()), roomID)
}

func (d *draft) defaults() {
	d.EventID = or(d.EventID, "$event")
	d.Sender = id.UserID(or(string(d.Sender), "@alice:one"))
	d.Type = or(d.Type, "m.room.message")
	if d.Content == nil {
		d.Content = json.RawMessage(`{}`)
	}
	if d.Prev == nil {
		other := "$other"
		d.Prev = &other
	}
}

func optional(fields map[string]any, key, value string) {
	if value != "" {
		fields[key] = value
	}
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func (r room) id() string {
	if r.rules.RoomIDIsCreateHash {
		return "!create"
	}
	return "!room:one"
}

// eventID adds the server to an id of versions 1 and 2.
func (r room) eventID(s string, server id.ServerName) id.EventID {
	if r.rules.EventIDs != roomversion.EventIDInEvent || strings.Contains(s, ":") {
		return id.EventID(s)
	}
	return id.EventID(s + ":" + string(server))
}

func (r room) refs(prev string) any {
	ids := strings.Fields(prev)
	if r.rules.EventIDs != roomversion.EventIDInEvent {
		return ids
	}
	refs := make([]any, len(ids))
	for i, s := range ids {
		refs[i] = []any{s + ":one", map[string]string{"sha256": ""}}
	}
	return refs
}
