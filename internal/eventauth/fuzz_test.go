package eventauth_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

var (
	users = []id.UserID{"@alice:one", "@mod:one", "@bob:two", "@ivan:two", "@dan:two", "@kim:two", "@carol:two", "@creator:one"}
	types = []string{"m.room.power_levels", "m.room.member", "m.room.message", "m.room.create", "m.room.third_party_invite",
		"m.room.aliases", "m.room.redaction"}
)

// FuzzCheck: whatever the contents, the rules give one answer, which does not depend on what else is
// in the state; and nobody gains power by an accepted m.room.power_levels but what its sender had to
// give.
func FuzzCheck(f *testing.F) {
	seed(f)
	var rooms []room
	for _, version := range roomversion.All() {
		rooms = append(rooms, newRoom(f, version))
	}
	f.Fuzz(func(t *testing.T, version, sender, target, eventType byte, content, power, joinRules, create []byte) {
		r, ok := fuzzRoom(t, pick(rooms, version), power, joinRules, create)
		if !ok {
			return
		}
		d := draft{Sender: pick(users, sender), Type: pick(types, eventType), Content: content}
		if target > 0 {
			d.StateKey = stateKey(d.Type, target)
		}
		e, err := r.parse(d)
		if err != nil {
			return // not an event; refusing it is correct
		}
		verdict := eventauth.Check(e, r)
		requireSame(t, verdict, eventauth.Check(e, r), "again")
		requireSame(t, verdict, eventauth.Check(e, levelled{r, &eventauth.Memo{}}), "with power levels kept")
		more := r.with(t)
		more.set(t, "m.room.name", "", `{"name":"x"}`)
		more.set(t, "m.room.member", "@elsewhere:three", `{"membership":"join"}`)
		requireSame(t, verdict, eventauth.Check(e, more), "with more state")
		if e.Is("m.room.power_levels", "") && verdict == nil {
			requireNoGain(t, r, e)
		}
	})
}

// seed adds every case of testdata as it is in one version.
func seed(f *testing.F) {
	for _, file := range []string{"create", "member", "send", "power"} {
		data, err := os.ReadFile("testdata/" + file + ".json")
		if err != nil {
			f.Fatal(err)
		}
		var rows []row
		if err := json.Unmarshal(data, &rows); err != nil {
			f.Fatal(err)
		}
		for i, r := range rows {
			for _, a := range slices.Concat(r.Accepted, r.Refused) {
				seedCase(f, byte(i), r, a)
			}
		}
	}
}

func seedCase(f *testing.F, version byte, r row, a attempt) {
	a.defaults()
	contents := map[string][]byte{
		"m.room.power_levels": []byte(`{"users":{"@alice:one":100,"@mod:one":50}}`),
		"m.room.join_rules":   []byte(`{"join_rule":"invite"}`),
		"m.room.create":       []byte(`{"creator":"@creator:one"}`),
	}
	for _, d := range slices.Concat(r.State, a.State) {
		contents[d.Type] = d.Content
	}
	sender := byte(max(0, slices.Index(users, a.Sender)))
	target := byte(0)
	if a.StateKey != nil {
		target = byte(1 + max(0, slices.Index(users, id.UserID(*a.StateKey))))
	}
	eventType := byte(max(0, slices.Index(types, a.Type)))
	f.Add(version, sender, target, eventType, []byte(a.Content),
		contents["m.room.power_levels"], contents["m.room.join_rules"], contents["m.room.create"])
}

// fuzzRoom is a copy of the room with other contents; it is not ok if one of them is not JSON.
func fuzzRoom(t *testing.T, clean room, power, joinRules, create []byte) (room, bool) {
	r := clean.with(t)
	for eventType, content := range map[string][]byte{
		"m.room.power_levels": power, "m.room.join_rules": joinRules, "m.room.create": create,
	} {
		if len(content) == 0 || string(content) == "null" {
			if eventType != "m.room.create" {
				delete(r.events, eventauth.Key{Type: eventType})
			}
			continue
		}
		d := draft{Sender: "@creator:one", Type: eventType, StateKey: new(string), Content: content}
		if eventType == "m.room.create" {
			d.EventID, d.Prev = "$create", new(string)
		}
		e, err := r.parse(d)
		if err != nil {
			return room{}, false
		}
		r.events[d.key()] = e
	}
	return r, true
}

func stateKey(eventType string, target byte) *string {
	key := ""
	if eventType == "m.room.member" {
		key = string(pick(users, target-1))
	}
	return &key
}

func pick[T any](all []T, i byte) T { return all[int(i)%len(all)] }

func requireSame(t *testing.T, want, got error, when string) {
	t.Helper()
	if (want == nil) != (got == nil) || want != nil && want.Error() != got.Error() {
		t.Errorf("%s: %v, not %v", when, got, want)
	}
}

// requireNoGain compares the levels before and after an accepted power levels event. Who removes the
// own entry has users_default, which may be more: rules 10.6 and 10.7 of version 1 allow it.
func requireNoGain(t *testing.T, r room, power *event.Event) {
	create, old := r.Event("m.room.create", ""), r.Event("m.room.power_levels", "")
	if old == nil {
		return // the first power levels may be anything
	}
	before, err := eventauth.Levels(r.rules, create, old)
	if err != nil {
		t.Fatalf("power levels that cannot be read let an event through: %v", err)
	}
	after, err := eventauth.Levels(r.rules, create, power)
	if err != nil {
		t.Fatalf("accepted power levels cannot be read: %v", err)
	}
	most := max(before.User(power.Sender), before.User("@nobody:one"))
	for _, user := range append(slices.Clone(users), "@nobody:one") {
		if now := after.User(user); now > max(most, before.User(user)) {
			t.Errorf("%s raised %s from %d to %d", power.Sender, user, before.User(user), now)
		}
	}
}

// FuzzCheckTrusted: an event from storage is not parsed again. Even if its bytes are damaged, the
// rules only refuse.
func FuzzCheckTrusted(f *testing.F) {
	for _, content := range []string{`{"membership":"join"}`, `{"membership":"`, `{"users":{"@a:b":1`, `{"a\`, `{"a":[}`, `{`, `{"users":[]]}`} {
		f.Add(byte(1), []byte(content), []byte(content))
	}
	clean := newRoom(f, "1")
	f.Fuzz(func(t *testing.T, eventType byte, content, power []byte) {
		r := clean.with(t)
		if e, err := trusted(r, "m.room.power_levels", power); err == nil {
			r.events[eventauth.Key{Type: "m.room.power_levels"}] = e
		}
		e, err := trusted(r, pick(types, eventType), content)
		if err != nil {
			return
		}
		verdict := eventauth.Check(e, r)
		requireSame(t, verdict, eventauth.Check(e, r), "again")
		eventauth.Signers(e)
		eventauth.ServerAllowed(e, "one")
		eventauth.VisibilityOf(e)
		_ = eventauth.CheckAuthEvents(e, []*event.Event{r.Event("m.room.create", ""), e})
	})
}

func trusted(r room, eventType string, content []byte) (*event.Event, error) {
	raw := `{"auth_events":[],"content":` + string(content) + `,"depth":1,"event_id":"$e:one","hashes":{},"origin_server_ts":1,` +
		`"prev_events":[["$other:one",{}]],"room_id":"!room:one","sender":"@alice:one","signatures":{},"state_key":"@alice:one","type":"` + eventType + `"}`
	return event.ParseTrusted(r.rules, []byte(raw), "$e:one", "!room:one")
}

// FuzzCheckAnything: an event and a state of any events whatever, as another server might send them. The rules never
// panic and give one answer.
func FuzzCheckAnything(f *testing.F) {
	for v, version := range roomversion.All() {
		r := newRoom(f, version)
		var state []json.RawMessage
		for _, e := range r.events {
			state = append(state, e.JSON)
		}
		list, _ := json.Marshal(state)
		for _, e := range r.events {
			f.Add(byte(v), []byte(e.JSON), list)
		}
		target := "@carol:two"
		invite := json.RawMessage(`{"membership":"invite","third_party_invite":{"signed":{"mxid":"@carol:two","token":"tok","signatures":{}}}}`)
		f.Add(byte(v), []byte(r.event(f, draft{Type: "m.room.member", StateKey: &target, Content: invite}).JSON), list)
		f.Add(byte(v), []byte(r.event(f, draft{Type: "m.room.redaction", Redacts: "$x:two"}).JSON), list)
	}
	f.Fuzz(func(t *testing.T, v byte, raw, list []byte) {
		rules, _ := roomversion.Get(pick(roomversion.All(), v))
		e, err := event.ParseUntrusted(rules, raw)
		if err != nil {
			return
		}
		events := parseAll(rules, list)
		state := stateOf(rules, events)
		verdict := eventauth.Check(e, state)
		requireSame(t, verdict, eventauth.Check(e, state), "again")
		requireSame(t, verdict, eventauth.Check(e, levelled{state, &eventauth.Memo{}}), "with power levels kept")
		aboutAuth := eventauth.CheckAuthEvents(e, events)
		requireSame(t, aboutAuth, eventauth.CheckAuthEvents(e, events), "auth events again")
		for _, other := range events {
			eventauth.RedactionApplies(e, other, state)
		}
		if len(eventauth.Needed(redraft(e))) != len(eventauth.NeededBy(e)) {
			t.Error("a draft needs other auth events than its event")
		}
		eventauth.Signers(e)
	})
}

// parseAll reads those events of a list that are events.
func parseAll(rules *roomversion.Rules, list []byte) (all []*event.Event) {
	var raws []json.RawMessage
	if json.Unmarshal(list, &raws) != nil {
		return nil
	}
	for _, raw := range raws {
		if e, err := event.ParseUntrusted(rules, raw); err == nil {
			all = append(all, e)
		}
	}
	return all
}

func stateOf(rules *roomversion.Rules, events []*event.Event) room {
	r := room{rules, map[eventauth.Key]*event.Event{}}
	for _, e := range events {
		if e.IsState() {
			r.events[eventauth.Key{Type: e.Type, StateKey: *e.StateKey}] = e
		}
	}
	return r
}

func redraft(e *event.Event) event.Draft {
	return event.Draft{Rules: e.Rules, Sender: e.Sender, Type: e.Type, StateKey: e.StateKey, Content: e.Content()}
}
