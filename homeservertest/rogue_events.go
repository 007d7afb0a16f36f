package homeservertest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// PDU is an event as servers exchange it.
type PDU struct {
	ID   string
	JSON []byte
}

// Get returns a value of the event by its path, as gjson writes it.
func (p PDU) Get(path string) gjson.Result { return gjson.GetBytes(p.JSON, path) }

// Fields is an event before it is encoded.
type Fields = map[string]any

// Draft is an event to be made. Only Type and Sender are needed.
type Draft struct {
	Type, Sender string
	StateKey     *string
	Content      any // {} if nil

	Prev, Auth []string  // ids; nil: the room's newest events, and those of its state that the event needs
	At         time.Time // zero: now

	// Before changes the event before it is hashed and signed, After when that is done.
	Before, After func(Fields)
}

// Key is a state key for a Draft.
func Key(stateKey string) *string { return &stateKey }

// Text is a message.
func (r *Rogue) Text(sender, text string) Draft {
	return Draft{Type: "m.room.message", Sender: sender, Content: Fields{"msgtype": "m.text", "body": text}}
}

// Sign gives an event of a room version its content hash, the rogue's signature and its id, whatever is in it. after, if
// not nil, changes it when that is done.
func (r *Rogue) Sign(version string, fields Fields, after func(Fields)) PDU {
	t := r.network.t
	t.Helper()
	rules := lenient(t, version)
	fields = maps.Clone(fields)
	fields["hashes"] = Fields{"sha256": contentHash(t, fields)}
	fields["signatures"] = r.signatures(rules, fields)
	if after != nil {
		after(fields)
	}
	return identified(t, rules, canonical(t, fields))
}

// lenient are the rules of a version for who minds no numbers.
func lenient(t testing.TB, version string) *roomversion.Rules {
	t.Helper()
	rules, ok := roomversion.Get(version)
	require.True(t, ok, "room version %q", version)
	own := *rules
	own.StrictJSON = false
	return &own
}

// canonical is the canonical form of anything that has one, with numbers of any kind.
func canonical(t testing.TB, v any) []byte {
	t.Helper()
	object, err := canonjson.Append(nil, encode(t, v))
	require.NoError(t, err)
	return object
}

// encode is JSON, which bytes are already; nil is nothing.
func encode(t testing.TB, v any) []byte {
	t.Helper()
	if raw, ok := v.([]byte); ok || v == nil {
		return raw
	}
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return raw
}

// contentHash is the hash of an event's content.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#calculating-the-content-hash-for-an-event
func contentHash(t testing.TB, fields Fields) string {
	t.Helper()
	bare := maps.Clone(fields)
	for _, key := range []string{"unsigned", "signatures", "hashes"} {
		delete(bare, key)
	}
	hash := sha256.Sum256(canonical(t, bare))
	return signing.Encode(hash[:])
}

// signatures are those that an event has, and the rogue's own.
func (r *Rogue) signatures(rules *roomversion.Rules, fields Fields) any {
	r.network.t.Helper()
	redacted, err := event.Redact(rules, canonical(r.network.t, fields))
	require.NoError(r.network.t, err)
	signed, err := signing.SignJSON(r.name, r.key(), redacted)
	require.NoError(r.network.t, err)
	return json.RawMessage(canonjson.Get(signed, "signatures"))
}

// identified is an event with its id.
func identified(t testing.TB, rules *roomversion.Rules, raw []byte) PDU {
	t.Helper()
	if rules.EventIDs == roomversion.EventIDInEvent {
		return PDU{gjson.GetBytes(raw, "event_id").String(), raw}
	}
	hash, err := event.ReferenceHash(rules, raw)
	require.NoError(t, err)
	text := signing.Encode(hash)
	if rules.EventIDs == roomversion.EventIDURLSafe {
		text = strings.NewReplacer("+", "-", "/", "_").Replace(text)
	}
	return PDU{"$" + text, raw}
}

// fieldsOf decodes an event, with its numbers as they are.
func fieldsOf(t testing.TB, raw []byte) (fields Fields) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&fields), "%s", raw)
	return fields
}

// RogueRoom is a room as a Rogue sees it: every event that it got and made, of which it believes all. Its state is what
// came last.
type RogueRoom struct {
	ID, Version string

	rogue *Rogue // whose mu guards the following
	rules *roomversion.Rules
	// events are all there are, in the order in which they came; heads are those that no other names.
	events []*knownEvent
	heads  []string
}

// place is an entry of a state.
type place struct{ eventType, stateKey string }

type knownEvent struct {
	PDU
	before, after map[place]string // the state, as event ids
}

// Build makes an event for the room, of which nobody knows yet.
func (room *RogueRoom) Build(d Draft) PDU {
	r := room.rogue
	r.network.t.Helper()
	fields := room.fields(d)
	if d.Before != nil {
		d.Before(fields)
	}
	return r.Sign(room.Version, fields, d.After)
}

// fields fills in what a draft leaves open.
func (room *RogueRoom) fields(d Draft) Fields {
	room.rogue.mu.Lock()
	defer room.rogue.mu.Unlock()
	fields := room.unstamped(d)
	maps.Copy(fields, room.stamps())
	if !d.At.IsZero() {
		fields["origin_server_ts"] = d.At.UnixMilli()
	}
	return fields
}

// unstamped is an event without what its sender's server gives it last.
func (room *RogueRoom) unstamped(d Draft) Fields {
	if d.Prev == nil {
		d.Prev = room.heads
	}
	if d.Content == nil {
		d.Content = Fields{}
	}
	if d.Auth == nil {
		d.Auth = room.authEvents(d)
	}
	fields := Fields{
		"type": d.Type, "sender": d.Sender, "content": d.Content, "depth": room.depth(d.Prev) + 1,
		"prev_events": room.references(d.Prev), "auth_events": room.references(d.Auth),
	}
	if d.StateKey != nil {
		fields["state_key"] = *d.StateKey
	}
	if room.ID != "" {
		fields["room_id"] = room.ID
	}
	return fields
}

// stamps are the time and, in versions that have it in the event, the id.
func (room *RogueRoom) stamps() Fields {
	fields := Fields{"origin_server_ts": time.Now().UnixMilli()}
	if room.rules.EventIDs == roomversion.EventIDInEvent {
		fields["event_id"] = "$" + rand.Text() + ":" + room.rogue.name
	}
	return fields
}

// references are event ids as events name others.
func (room *RogueRoom) references(ids []string) any {
	if room.rules.EventIDs != roomversion.EventIDInEvent {
		return append([]string{}, ids...)
	}
	list := []any{}
	for _, eventID := range ids {
		hash := ""
		if e := room.find(eventID); e != nil {
			raw, err := event.ReferenceHash(room.rules, e.JSON)
			require.NoError(room.rogue.network.t, err)
			hash = signing.Encode(raw)
		}
		list = append(list, []any{eventID, Fields{"sha256": hash}})
	}
	return list
}

// authEvents selects the events of the state that an event needs.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#auth-events-selection
func (room *RogueRoom) authEvents(d Draft) []string {
	ids := []string{}
	state := room.stateAfter(d.Prev)
	for _, key := range eventauth.Needed(event.Draft{
		Sender: id.UserID(d.Sender), Type: d.Type, StateKey: d.StateKey,
		Content: encode(room.rogue.network.t, d.Content), Rules: room.rules,
	}) {
		if eventID, ok := state[place{key.Type, key.StateKey}]; ok {
			ids = append(ids, eventID)
		}
	}
	return ids
}

// depth is the largest of some events.
func (room *RogueRoom) depth(ids []string) (depth int64) {
	for _, eventID := range ids {
		if e := room.find(eventID); e != nil {
			depth = max(depth, e.Get("depth").Int())
		}
	}
	return depth
}

func (room *RogueRoom) find(eventID string) *knownEvent {
	for _, e := range room.events {
		if e.ID == eventID {
			return e
		}
	}
	return nil
}

// stateAfter is the state behind some events: of two that differ the later one's.
func (room *RogueRoom) stateAfter(ids []string) map[place]string {
	state := map[place]string{}
	for _, e := range room.events {
		for _, eventID := range ids {
			if e.ID == eventID {
				maps.Copy(state, e.after)
			}
		}
	}
	return state
}

// Add lets the rogue know of an event.
func (room *RogueRoom) Add(pdus ...PDU) {
	room.rogue.mu.Lock()
	defer room.rogue.mu.Unlock()
	for _, p := range pdus {
		room.addLocked(p, room.stateAfter(idsOf(p.Get("prev_events"))))
		room.headLocked(p)
	}
}

func (room *RogueRoom) addLocked(p PDU, before map[place]string) {
	if room.find(p.ID) != nil {
		return
	}
	e := &knownEvent{p, before, maps.Clone(before)}
	if key := p.Get("state_key"); key.Exists() {
		e.after[place{p.Get("type").String(), key.String()}] = p.ID
	}
	room.events = append(room.events, e)
}

// headLocked makes an event one of the newest, in the place of those that it follows.
func (room *RogueRoom) headLocked(p PDU) {
	heads := []string{p.ID}
	follows := idsOf(p.Get("prev_events"))
	for _, head := range room.heads {
		if !slices.Contains(follows, head) && head != p.ID {
			heads = append(heads, head)
		}
	}
	room.heads = heads
}

// idsOf reads a list of references.
func idsOf(list gjson.Result) (ids []string) {
	for _, reference := range list.Array() {
		if reference.IsArray() {
			reference = reference.Get("0")
		}
		ids = append(ids, reference.String())
	}
	return ids
}

// Extend makes an event and adds it.
func (room *RogueRoom) Extend(d Draft) PDU {
	room.rogue.network.t.Helper()
	p := room.Build(d)
	room.Add(p)
	return p
}

// Send extends the room by an event and sends that to a server, which has to take it.
func (room *RogueRoom) Send(to Peer, d Draft) PDU {
	t := room.rogue.network.t
	t.Helper()
	p := room.Extend(d)
	answer := room.rogue.Send(to, []PDU{p}).WantOK()
	for eventID, verdict := range answer.Get("pdus").Map() {
		require.False(t, verdict.Get("error").Exists(), "%s: %s", eventID, verdict)
	}
	return p
}

// Heads are the newest events.
func (room *RogueRoom) Heads() []string {
	room.rogue.mu.Lock()
	defer room.rogue.mu.Unlock()
	return room.heads
}

// Event is an event that the rogue knows; false when it does not.
func (room *RogueRoom) Event(eventID string) (PDU, bool) {
	room.rogue.mu.Lock()
	defer room.rogue.mu.Unlock()
	if e := room.find(eventID); e != nil {
		return e.PDU, true
	}
	return PDU{}, false
}

// Events are all events of the room, in the order in which the rogue got or made them.
func (room *RogueRoom) Events() (all []PDU) {
	room.rogue.mu.Lock()
	defer room.rogue.mu.Unlock()
	for _, e := range room.events {
		all = append(all, e.PDU)
	}
	return all
}

// State is an event of the newest state; false when there is none.
func (room *RogueRoom) State(eventType, stateKey string) (PDU, bool) {
	room.rogue.mu.Lock()
	defer room.rogue.mu.Unlock()
	e := room.find(room.stateAfter(room.heads)[place{eventType, stateKey}])
	if e == nil {
		return PDU{}, false
	}
	return e.PDU, true
}
