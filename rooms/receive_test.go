package rooms_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
)

// In every room version an event of another server becomes part of the room, and ours follow it.
func TestReceiveInEveryVersion(t *testing.T) {
	for _, version := range roomversion.All() {
		t.Run(version, func(t *testing.T) {
			f := newFederated(t, version)
			ev := f.peer.message(mal, "hello")
			require.NoError(t, f.deliver(ev))
			require.Equal(t, []id.EventID{ev.ID}, f.heads())
			require.Equal(t, ev.ID, f.timeline()[len(f.timeline())-1])
			require.Equal(t, []id.EventID{ev.ID}, f.say(alice, "hello mal").PrevEvents)
			require.NoError(t, f.deliver(ev), "delivered again")
			topic := f.peer.state(mal, "m.room.topic", "", map[string]any{"topic": "mine"})
			require.ErrorIs(t, f.deliver(topic), mxerr.Forbidden, "mal has no power")
			require.Equal(t, storage.Rejected, f.flags(topic))
			require.Nil(t, f.current("m.room.topic", ""))
			f.alive()
		})
	}
}

// FP-01: what is no event of the room's version is dropped.
func TestCheck1Format(t *testing.T) {
	f := newFederated(t, "11")
	before := f.timeline()
	for name, change := range map[string]func(map[string]json.RawMessage){
		"no type":               func(m map[string]json.RawMessage) { delete(m, "type") },
		"another room":          func(m map[string]json.RawMessage) { m["room_id"] = []byte(`"!other:hs.test"`) },
		"an event_id":           func(m map[string]json.RawMessage) { m["event_id"] = []byte(`"$x:peer.test"`) },
		"prev_events: a string": func(m map[string]json.RawMessage) { m["prev_events"] = []byte(`"$x"`) },
		"prev_events: pairs":    func(m map[string]json.RawMessage) { m["prev_events"] = []byte(`[["$x",{}]]`) },
		"no prev_events":        func(m map[string]json.RawMessage) { m["prev_events"] = []byte(`[]`) },
		"21 prev_events":        func(m map[string]json.RawMessage) { m["prev_events"] = idList(21) },
		"10000 prev_events":     func(m map[string]json.RawMessage) { m["prev_events"] = idList(10000) },
		"11 auth_events":        func(m map[string]json.RawMessage) { m["auth_events"] = idList(11) },
		"a depth beyond":        func(m map[string]json.RawMessage) { m["depth"] = []byte(`9007199254740992`) },
		"a negative depth":      func(m map[string]json.RawMessage) { m["depth"] = []byte(`-1`) },
		"a fraction":            func(m map[string]json.RawMessage) { m["content"] = []byte(`{"n":1.5}`) },
		"too large": func(m map[string]json.RawMessage) {
			m["content"] = []byte(`{"b":"` + strings.Repeat("x", 66000) + `"}`)
		},
		"a long type": func(m map[string]json.RawMessage) { m["type"] = []byte(`"` + strings.Repeat("x", 256) + `"`) },
	} {
		err := f.deliverRaw(forge(t, f.peer.message(mal, "x"), change))
		require.Error(t, err, name)
		var known *mxerr.Error
		require.ErrorAs(t, err, &known, name)
	}
	for _, garbage := range []string{``, `null`, `[]`, `{}`, `{"type":`, "\xff", strings.Repeat("[", 100000)} {
		require.Error(t, f.deliverRaw([]byte(garbage)), "%.20q", garbage)
	}
	require.Equal(t, before, f.timeline())
	require.Empty(t, f.peer.forget(), "nobody is asked because of what is no event")
	f.alive()
}

func idList(n int) []byte {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("$%043d", i)
	}
	raw, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return raw
}

// F-11: 20 prev_events are allowed.
func TestF11TwentyPrevEvents(t *testing.T) {
	f := newFederated(t, "11")
	base := f.heads()
	fan := f.fan(20, base)
	last := f.peer.after(mal, "all of them", fan...)
	require.NoError(t, f.deliver(last))
	require.Equal(t, []id.EventID{last.ID}, f.heads())
}

// FP-02, F-15: an event that its sender's server did not sign is dropped; one of which the content was changed counts
// in its redacted form.
func TestCheck2And3(t *testing.T) {
	f := newFederated(t, "11")
	ev := f.peer.message(mal, "as it was sent")
	changed := forge(t, ev, func(m map[string]json.RawMessage) { m["content"] = []byte(`{"msgtype":"m.text","body":"changed"}`) })
	require.NoError(t, f.deliverRaw(changed))
	require.JSONEq(t, `{}`, string(f.stored(ev).Content()), "FP-03")
	require.NoError(t, f.deliver(ev), "it is known")
	require.JSONEq(t, `{}`, string(f.stored(ev).Content()))

	other := f.peer.message(mal, "x")
	for name, change := range map[string]func(map[string]json.RawMessage){
		"no signature":    func(m map[string]json.RawMessage) { m["signatures"] = []byte(`{}`) },
		"another sender":  func(m map[string]json.RawMessage) { m["sender"] = []byte(`"@alice:hs.test"`) },
		"a foreign event": func(m map[string]json.RawMessage) { m["sender"] = []byte(`"@x:nobody.test"`) },
		"another type":    func(m map[string]json.RawMessage) { m["type"] = []byte(`"m.room.name"`) },
	} {
		require.ErrorIs(t, f.deliverRaw(forge(t, other, change)), mxerr.Forbidden, name)
	}
	f.alive()
}

// One bad event does not stop the rest, wherever it stands.
func TestOneBadEventStopsNothing(t *testing.T) {
	f := newFederated(t, "11")
	a := f.peer.message(mal, "a")
	b := f.peer.after(mal, "b", a)
	bad := f.peer.after(eve, "eve is not in the room", b)
	c := f.peer.after(mal, "c", bad)
	list := raws(c, bad, a, b, a)
	list = append(list, json.RawMessage(`{"garbage":true}`), json.RawMessage(`nonsense`))
	errs := f.Receive(context.Background(), "peer.test", f.room.ID, list)
	require.ErrorIs(t, errs[1], mxerr.Forbidden)
	require.ErrorIs(t, errs[5], mxerr.BadJSON)
	require.ErrorIs(t, errs[6], mxerr.BadJSON)
	for _, i := range []int{0, 2, 3, 4} {
		require.NoError(t, errs[i], i)
	}
	require.Equal(t, storage.Rejected, f.flags(bad))
	end := f.timeline()
	require.Equal(t, idsOf(a, b, c), end[len(end)-3:], "in the order of the graph")
	require.Empty(t, f.peer.forget())
}

// Events of rooms that are not known, in which nobody is from here any more, or that keep the server out.
func TestRoomsThatTakeNothing(t *testing.T) {
	f := newFederated(t, "11")
	ev := f.peer.message(mal, "x")
	errs := f.Receive(context.Background(), "peer.test", "!unknown:hs.test", raws(ev, ev))
	require.ErrorIs(t, errs[0], mxerr.NotFound)
	require.ErrorIs(t, errs[1], mxerr.NotFound)

	f.put(alice, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{"peer.test"}})
	require.ErrorIs(t, f.deliver(f.peer.message(mal, "kept out")), mxerr.Forbidden)
	f.put(alice, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}})
	require.NoError(t, f.deliver(f.peer.message(mal, "let in")))

	f.set(bob, bob, "leave")
	f.set(alice, alice, "leave")
	require.ErrorIs(t, f.deliver(f.peer.message(mal, "to nobody")), mxerr.Forbidden)
}

// A second m.room.create is never taken, from wherever it comes.
func TestNoSecondCreate(t *testing.T) {
	for _, version := range []string{"1", "6", "11"} {
		f := newFederated(t, version)
		key := ""
		d := event.Draft{
			Room: f.room.ID, Rules: f.room.Rules, Sender: "@root:hs.test", Type: "m.room.create", StateKey: &key,
			Content: []byte(`{"creator":"@root:hs.test"}`), Depth: 1, OriginServerTS: 1,
		}
		create, err := event.Build(d, here, f.peer.keys[here])
		require.NoError(t, err)
		require.ErrorIs(t, f.deliver(create), mxerr.Forbidden)
		require.EqualValues(t, -1, f.flags(create))

		f.peer.serve(create)
		d.Type, d.Sender, d.StateKey = "m.room.message", mal, nil
		d.PrevEvents, d.AuthEvents = f.heads(), []id.EventID{create.ID, f.current("m.room.member", string(mal)).ID}
		require.ErrorIs(t, f.deliver(f.peer.make(d)), mxerr.NotFound)
		require.EqualValues(t, -1, f.flags(create))
		f.alive()
	}
}

// The depths that others claim decide nothing, and ours stay in range.
func TestDepthIsNotTrusted(t *testing.T) {
	f := newFederated(t, "11")
	d := f.peer.text(mal, "deep")
	d.PrevEvents, d.Depth = f.heads(), event.MaxDepth
	deep := f.peer.make(d)
	d = f.peer.text(mal, "shallow")
	d.PrevEvents, d.Depth = []id.EventID{deep.ID}, 1
	shallow := f.peer.make(d)
	require.Equal(t, []error{nil, nil}, f.receive(shallow, deep))
	end := f.timeline()
	require.Equal(t, idsOf(deep, shallow), end[len(end)-2:])
	require.EqualValues(t, 2, f.say(alice, "after it").Depth)

	d = f.peer.text(mal, "deepest")
	d.PrevEvents, d.Depth = f.heads(), event.MaxDepth
	require.NoError(t, f.deliver(f.peer.make(d)))
	require.Equal(t, int64(event.MaxDepth), f.say(alice, "clamped").Depth)
	f.alive()
}

// FP-04, FP-05, F-28: what a user without power may not do.
func TestF28NoPower(t *testing.T) {
	for _, version := range []string{"1", "6", "11", "12"} {
		f := newFederated(t, version)
		state := f.room.View().State
		for _, ev := range []*event.Event{
			f.peer.state(mal, "m.room.power_levels", "", map[string]any{"users": map[string]any{string(mal): 100}}),
			f.peer.state(mal, "m.room.name", "", map[string]any{"name": "mine"}),
			f.peer.state(mal, "m.room.join_rules", "", map[string]any{"join_rule": "public"}),
			f.peer.state(mal, "m.room.member", string(bob), map[string]any{"membership": "leave"}),
			f.peer.state(mal, "m.room.member", string(bob), map[string]any{"membership": "ban"}),
			f.peer.state(mal, "m.room.member", string(eve), map[string]any{"membership": "join"}),
		} {
			require.ErrorIs(t, f.deliver(ev), mxerr.Forbidden, "%s", ev.JSON)
			require.Equal(t, storage.Rejected, f.flags(ev))
		}
		require.Equal(t, state, f.room.View().State)
		f.alive()
	}
}

// AR-02, F-30: auth events of another room, of which mal is the admin, and other auth events that are none.
func TestF30AuthEvents(t *testing.T) {
	f := newFederated(t, "11")
	other, err := f.Create(context.Background(), alice, rooms.NewRoom{Preset: "public_chat", Version: "11"})
	require.NoError(t, err)
	first := f.room
	f.enter(other)
	require.NoError(t, f.deliver(f.peer.member(mal, "join")))
	f.put(alice, "m.room.power_levels", "", map[string]any{"users": map[string]any{string(alice): 100, string(mal): 100}})
	foreign := map[string]id.EventID{}
	for _, key := range [][2]string{{"m.room.create", ""}, {"m.room.power_levels", ""}, {"m.room.member", string(mal)}} {
		foreign[key[0]] = f.current(key[0], key[1]).ID
	}
	otherMessage := f.say(alice, "x")
	f.room = first
	message := f.say(alice, "y")
	own := func(eventType, key string) id.EventID { return f.current(eventType, key).ID }
	create, member, levels := own("m.room.create", ""), own("m.room.member", string(mal)), own("m.room.power_levels", "")
	key := ""
	for name, auth := range map[string][]id.EventID{
		"all of the other room":      {foreign["m.room.create"], foreign["m.room.power_levels"], foreign["m.room.member"]},
		"power of the other room":    {create, foreign["m.room.power_levels"], member},
		"no create":                  {levels, member},
		"one that does not belong":   {create, levels, member, own("m.room.history_visibility", "")},
		"somebody else's membership": {create, levels, own("m.room.member", string(alice))},
		"one that is no state":       {create, levels, member, message.ID},
		"two of the same key":        {create, levels, member, own("m.room.member", string(mal)), create},
	} {
		d := event.Draft{Sender: mal, Type: "m.room.topic", StateKey: &key, Content: []byte(`{"topic":"taken"}`), AuthEvents: auth}
		require.ErrorIs(t, f.deliver(f.peer.make(d)), mxerr.Forbidden, name)
		d = f.peer.text(mal, "just talk")
		d.AuthEvents = auth
		require.ErrorIs(t, f.deliver(f.peer.make(d)), mxerr.Forbidden, name)
	}
	d := f.peer.text(mal, "after an event of another room")
	d.PrevEvents = []id.EventID{otherMessage.ID}
	require.ErrorIs(t, f.deliver(f.peer.make(d)), mxerr.Forbidden)
	require.Empty(t, f.peer.forget(), "nobody has to be asked")
	require.Nil(t, f.current("m.room.topic", ""))
	f.alive()
}

// FP-09: an event whose auth event was rejected is rejected; FP-08: one that only follows a rejected event is not.
func TestRejectionIsHandedOn(t *testing.T) {
	f := newFederated(t, "11")
	levels := f.peer.state(mal, "m.room.power_levels", "", map[string]any{"users": map[string]any{string(mal): 100}})
	topic := f.peer.make(event.Draft{
		Sender: mal, Type: "m.room.topic", StateKey: new(string), Content: []byte(`{}`), PrevEvents: idsOf(levels),
		AuthEvents: []id.EventID{f.current("m.room.create", "").ID, levels.ID, f.current("m.room.member", string(mal)).ID},
	})
	after := f.peer.after(mal, "still welcome", topic)
	errs := f.receive(after, topic, levels)
	require.NoError(t, errs[0])
	require.ErrorContains(t, errs[1], "rule 2.3")
	require.ErrorIs(t, errs[2], mxerr.Forbidden)
	require.Equal(t, []id.EventID{after.ID}, f.heads(), "the heads are what the rejected ones followed")
	next := f.say(alice, "x")
	require.Equal(t, []id.EventID{after.ID}, next.PrevEvents)
	for _, ev := range []*event.Event{levels, topic} {
		require.NotContains(t, f.timeline(), ev.ID)
		require.Equal(t, f.stored(ev).Before, f.stored(ev).After)
	}
}

// FP-06, FP-10: what the state before the event allows and the current one does not is soft-failed: ours do not follow
// it and clients are not told of it, but what follows it is judged as ever.
func TestSoftFailure(t *testing.T) {
	for _, version := range []string{"2", "11", "12"} {
		f := newFederated(t, version)
		base := f.heads()
		f.set(alice, mal, "ban")
		ban := f.heads()
		d := f.peer.text(mal, "evading")
		d.PrevEvents = base
		d.AuthEvents = f.authBefore(mal)
		evading := f.peer.make(d)
		require.NoError(t, f.deliver(evading))
		require.Equal(t, storage.SoftFailed, f.flags(evading))
		require.Equal(t, ban, f.heads())
		require.NotContains(t, f.timeline(), evading.ID)
		next := f.say(alice, "gone")
		require.Equal(t, ban, next.PrevEvents)

		d = f.peer.text(mal, "once more")
		d.PrevEvents, d.AuthEvents = idsOf(evading), f.authBefore(mal)
		more := f.peer.make(d)
		require.NoError(t, f.deliver(more))
		require.Equal(t, storage.SoftFailed, f.flags(more))
	}
}

// authBefore are the auth events of a message while mal was in the room.
func (f *federated) authBefore(user id.UserID) []id.EventID {
	f.t.Helper()
	list := []id.EventID{f.current("m.room.power_levels", "").ID}
	if !f.room.Rules.RoomIDIsCreateHash {
		list = append(list, f.current("m.room.create", "").ID)
	}
	history, err := f.room.HistoryForwards(context.Background(), -1<<62, 1<<62, 1000)
	require.NoError(f.t, err)
	for _, e := range history {
		if e.Is("m.room.member", string(user)) && e.Membership() == "join" {
			list = append(list, e.ID)
		}
	}
	return list
}

// Forks that merge: both branches change the state, what follows both sees one state, as the current one is.
func TestForksMerge(t *testing.T) {
	for _, version := range []string{"1", "2", "11", "12"} {
		f := newFederated(t, version)
		f.put(alice, "m.room.power_levels", "", map[string]any{
			"users": powers(f, map[id.UserID]int{mal: 50}), "state_default": 50,
		})
		base := f.heads()
		f.put(alice, "m.room.topic", "", map[string]any{"topic": "alice's"})
		f.put(alice, "m.room.name", "", map[string]any{"name": "alice's"})
		ours := f.heads()
		d := event.Draft{Sender: mal, Type: "m.room.topic", StateKey: new(string), Content: []byte(`{"topic":"mal's"}`), PrevEvents: base}
		topic := f.peer.make(d)
		d.Type = "m.test"
		d.PrevEvents = idsOf(topic)
		test := f.peer.make(d)
		require.Equal(t, []error{nil, nil}, f.receive(topic, test))
		require.Len(t, f.heads(), 2)
		require.NotNil(t, f.current("m.room.name", ""))
		require.Equal(t, test.ID, f.current("m.test", "").ID)
		now := f.current("m.room.topic", "")

		d = f.peer.text(mal, "merged")
		d.PrevEvents = append(slices.Clone(ours), test.ID)
		merged := f.peer.make(d)
		require.NoError(t, f.deliver(merged))
		require.Equal(t, []id.EventID{merged.ID}, f.heads())
		require.Equal(t, now, f.current("m.room.topic", ""))
		require.Equal(t, f.room.View().State, f.stored(merged).Before)
		require.Equal(t, []id.EventID{merged.ID}, f.say(alice, "x").PrevEvents)
	}
}

// powers are users' levels, alice's among them where she needs one.
func powers(f *federated, levels map[id.UserID]int) map[string]any {
	users := map[string]any{}
	if !f.room.Rules.PrivilegedCreators {
		users[string(alice)] = 100
	}
	for user, level := range levels {
		users[string(user)] = level
	}
	return users
}

// Circles, which only versions 1 and 2 can have, end.
func TestCircles(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		f := newFederated(t, version)
		a, b := f.peer.message(mal, "a"), f.peer.message(mal, "b")
		refs := func(list ...id.EventID) json.RawMessage {
			var pairs []any
			for _, eventID := range list {
				pairs = append(pairs, []any{eventID, map[string]string{"sha256": "x"}})
			}
			raw, err := json.Marshal(pairs)
			require.NoError(t, err)
			return raw
		}
		resign := func(ev *event.Event, key string, list ...id.EventID) json.RawMessage {
			raw := forge(t, ev, func(m map[string]json.RawMessage) { m[key] = refs(list...) })
			return signed(t, f, raw)
		}
		errs := f.Receive(context.Background(), "peer.test", f.room.ID, []json.RawMessage{
			resign(a, "prev_events", b.ID), resign(b, "prev_events", a.ID),
		})
		require.Error(t, errs[0])
		require.Error(t, errs[1])
		for _, key := range []string{"prev_events", "auth_events"} {
			require.Error(t, f.deliverRaw(resign(a, key, a.ID)), key)
		}
		auth := []id.EventID{f.current("m.room.create", "").ID, f.current("m.room.power_levels", "").ID, b.ID}
		errs = f.Receive(context.Background(), "peer.test", f.room.ID, []json.RawMessage{
			resign(a, "auth_events", auth...), resign(b, "prev_events", a.ID),
		})
		require.Error(t, errs[0])
		require.Error(t, errs[1])
		f.alive()
	}
}

// signed hashes and signs what was changed.
func signed(t *testing.T, f *federated, raw []byte) json.RawMessage {
	t.Helper()
	ev, err := event.ParseBackfilled(f.room.Rules, rehashed(t, raw))
	if err != nil {
		return raw
	}
	ev, err = ev.Sign("peer.test", f.peer.key)
	require.NoError(t, err)
	require.True(t, event.CheckContentHash(ev))
	return json.RawMessage(ev.JSON)
}

// rehashed gives an event the content hash that it should have.
func rehashed(t *testing.T, raw []byte) []byte {
	t.Helper()
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &fields))
	for _, key := range []string{"hashes", "signatures", "unsigned"} {
		delete(fields, key)
	}
	encode := func() []byte {
		raw, err := json.Marshal(fields)
		require.NoError(t, err)
		raw, err = canonjson.Append(nil, raw)
		require.NoError(t, err)
		return raw
	}
	sum := sha256.Sum256(encode())
	fields["hashes"] = []byte(`{"sha256":"` + signing.Encode(sum[:]) + `"}`)
	fields["signatures"] = []byte(`{}`)
	return encode()
}

// In versions 1 and 2 servers choose the ids of events: one that another room has is not taken twice.
func TestIDOfAnotherRoom(t *testing.T) {
	f := newFederated(t, "1")
	ev := f.peer.message(mal, "x")
	require.NoError(t, f.deliver(ev))
	other, err := f.Create(context.Background(), alice, rooms.NewRoom{Preset: "public_chat", Version: "1"})
	require.NoError(t, err)
	f.enter(other)
	require.NoError(t, f.deliver(f.peer.member(mal, "join")))
	same := forge(t, f.peer.message(mal, "y"), func(m map[string]json.RawMessage) { m["event_id"] = []byte(`"` + ev.ID + `"`) })
	require.ErrorIs(t, f.deliverRaw(signed(t, f, same)), mxerr.Forbidden)
	f.alive()
}

// FP-26: an event with our signature that this server does not know is like any other.
func TestOwnEventFromOutside(t *testing.T) {
	f := newFederated(t, "11")
	own := f.peer.message(alice, "from a backup")
	require.NoError(t, f.deliver(own))
	require.Contains(t, f.timeline(), own.ID)
	f.alive()
}

// Deliveries, local sends and changes of the state at the same time: nothing is lost, and memory and storage agree.
func TestReceiveAtOnce(t *testing.T) {
	f := newFederated(t, "11")
	f.put(alice, "m.room.power_levels", "", map[string]any{"users": powers(f, map[id.UserID]int{mal: 50})})
	base := f.heads()
	var batches [8][]*event.Event
	for i := range batches {
		prev := base
		for n := range 10 {
			d := f.peer.text(mal, fmt.Sprint(i, n))
			if n%3 == 0 {
				key := fmt.Sprint(n)
				d.Type, d.StateKey = "m.test", &key
			}
			d.PrevEvents = prev
			ev := f.peer.make(d)
			batches[i], prev = append(batches[i], ev), []id.EventID{ev.ID}
		}
	}
	var wg sync.WaitGroup
	for _, batch := range batches {
		rest := batch[5:]
		wg.Go(func() {
			for len(batch) > 0 {
				require.Equal(t, []error{nil, nil}, f.receive(batch[:2]...))
				batch = batch[2:]
			}
		})
		wg.Go(func() { f.say(bob, "at the same time") })
		wg.Go(func() { f.receive(rest...) })
	}
	wg.Wait()
	told := f.timeline()
	for _, batch := range batches {
		require.Subset(t, told, idsOf(batch...))
	}
	f.alive()
}

// F-39: a long chain of changes of the power levels, each of which is an auth event of the next, is taken in good time.
func TestF39LongAuthChain(t *testing.T) {
	f := newFederated(t, "11")
	users := map[string]any{string(alice): 100, string(mal): 100}
	base := f.put(alice, "m.room.power_levels", "", map[string]any{"users": users})
	began := time.Now()
	key := ""
	var batch []*event.Event
	prev, levels := f.heads(), f.current("m.room.power_levels", "").ID
	for i := range 1000 {
		ev := f.peer.make(event.Draft{
			Sender: mal, Type: "m.room.power_levels", StateKey: &key, PrevEvents: prev,
			Content:    contentOf(map[string]any{"users": users, "kick": i % 100}),
			AuthEvents: []id.EventID{f.current("m.room.create", "").ID, levels, f.current("m.room.member", string(mal)).ID},
		})
		prev, levels, batch = []id.EventID{ev.ID}, ev.ID, append(batch, ev)
		if len(batch) == 50 {
			require.Equal(t, make([]error, 50), f.receive(batch...))
			batch = nil
		}
	}
	require.Equal(t, levels, f.current("m.room.power_levels", "").ID)
	// A branch from before the chain is merged with its end.
	topic := f.peer.make(event.Draft{
		Sender: mal, Type: "m.room.topic", StateKey: &key, Content: []byte(`{}`), PrevEvents: idsOf(base),
		AuthEvents: []id.EventID{f.current("m.room.create", "").ID, base.ID, f.current("m.room.member", string(mal)).ID},
	})
	require.NoError(t, f.deliver(topic))
	require.Equal(t, topic.ID, f.current("m.room.topic", "").ID)
	require.Equal(t, levels, f.current("m.room.power_levels", "").ID)
	require.Less(t, time.Since(began), 20*time.Second)
	f.alive()
}
