package rooms_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
)

// chain is n messages of mal, each after the one before.
func (f *federated) chain(n int) []*event.Event {
	f.t.Helper()
	list := []*event.Event{f.peer.message(mal, "0")}
	for i := 1; i < n; i++ {
		list = append(list, f.peer.after(mal, fmt.Sprint(i), list[i-1]))
	}
	return list
}

// FP-11: the events between ours and one that came are asked for, in one request while they fit.
func TestMissingEventsAreAskedFor(t *testing.T) {
	f := newFederated(t, "11")
	head := f.heads()
	list := f.chain(10)
	last := list[len(list)-1]
	f.peer.missing = func(earliest, latest []id.EventID, limit int) []*event.Event {
		require.Equal(t, head, earliest)
		require.Equal(t, idsOf(last), latest)
		require.Equal(t, 20, limit)
		return list[:9]
	}
	require.NoError(t, f.deliver(last))
	require.Equal(t, []string{"missing"}, f.peer.forget())
	end := f.timeline()
	require.Equal(t, idsOf(list...), end[len(end)-10:])
	require.Equal(t, idsOf(last), f.heads())
	f.alive()
}

// As long as the answers are full there are more requests.
func TestMissingEventsInSeveralRounds(t *testing.T) {
	f := newFederated(t, "11")
	list := f.chain(46)
	f.peer.missing = func(_, latest []id.EventID, limit int) []*event.Event {
		at := slices.IndexFunc(list, func(ev *event.Event) bool { return ev.ID == latest[0] })
		return list[max(0, at-limit):at]
	}
	require.NoError(t, f.deliver(list[45]))
	require.Equal(t, []string{"missing", "missing", "missing"}, f.peer.forget())
	end := f.timeline()
	require.Equal(t, idsOf(list...), end[len(end)-46:])
}

// What is told beside the missing events, from before what is here, is nothing new: neither does anybody read it now, nor
// does the state of that time come back.
func TestMissingEventsAndOlderOnes(t *testing.T) {
	f := newFederated(t, "11")
	base, head := f.roomState(), f.heads()
	list := f.chain(5)
	old, gap, here, missing, last := list[0], list[1], list[2], list[3], list[4]
	f.peer.serve(gap)
	f.peer.stateIDs[gap.ID] = base
	require.NoError(t, f.deliver(here))

	f.peer.missing = func([]id.EventID, []id.EventID, int) []*event.Event { return []*event.Event{old, gap, missing} }
	require.NoError(t, f.deliver(last))
	end := f.timeline()
	require.Equal(t, idsOf(here, missing, last), end[len(end)-3:])
	require.ElementsMatch(t, append(head, last.ID), f.heads(), "that the first head is followed is not known here")
	require.Equal(t, storage.Outlier, f.flags(gap))
}

// FP-11, FP-13, SR-11: when they are not to be had, the state before the oldest is, and takes part in the room's.
func TestStateAtAGap(t *testing.T) {
	for _, version := range []string{"1", "2", "11", "12"} {
		f := newFederated(t, version)
		f.put(alice, "m.room.power_levels", "", map[string]any{"users": powers(f, map[id.UserID]int{mal: 50})})
		base := f.roomState()
		key := "k"
		t1 := f.peer.state(mal, "m.test", "told", map[string]any{"a": 1})
		y := f.peer.make(event.Draft{
			Sender: mal, Type: "m.test", StateKey: &key, Content: []byte(`{}`), PrevEvents: idsOf(t1),
		})
		x := f.peer.after(mal, "x", y)
		c := f.peer.after(mal, "c", x)
		f.peer.missing = func([]id.EventID, []id.EventID, int) []*event.Event { return []*event.Event{x} }
		f.peer.serve(y, t1)
		f.peer.stateIDs[y.ID] = with(base, t1)
		require.NoError(t, f.deliver(c))
		require.Equal(t, []string{"missing", "event", "state_ids", "event"}, f.peer.forget())
		require.Equal(t, idsOf(x, c), f.timeline()[len(f.timeline())-2:])
		require.Equal(t, y.ID, f.current("m.test", "k").ID)
		require.Equal(t, t1.ID, f.current("m.test", "told").ID)
		require.Equal(t, storage.Outlier, f.flags(y))
		require.Equal(t, storage.Outlier, f.flags(t1))

		// FP-13: the outliers arrive later.
		f.peer.missing = nil
		require.NoError(t, f.deliver(t1))
		require.Equal(t, storage.InTimeline, f.flags(t1))
		require.NoError(t, f.deliver(y))
		require.Equal(t, storage.InTimeline, f.flags(y))
		require.Equal(t, []string(nil), f.peer.forget())
		f.alive()
	}
}

// A whole state is asked for when much of it is not here, or when ids are not to be had.
func TestWholeStateAtAGap(t *testing.T) {
	f := newFederated(t, "11")
	f.put(alice, "m.room.power_levels", "", map[string]any{"users": powers(f, map[id.UserID]int{mal: 50})})
	base := f.roomState()
	var told []*event.Event
	for i := range 30 {
		told = append(told, f.peer.state(mal, "m.test", fmt.Sprint(i), map[string]any{}))
	}
	gap := f.peer.message(mal, "missing")
	ev := f.peer.after(mal, "after it", gap)
	f.peer.serve(gap)
	f.peer.stateIDs[gap.ID] = with(base, told...)
	f.peer.states[gap.ID] = with(base, told...)
	require.NoError(t, f.deliver(ev))
	require.Equal(t, []string{"missing", "event", "state_ids", "state"}, f.peer.forget())
	require.NotNil(t, f.current("m.test", "29"))

	delete(f.peer.stateIDs, gap.ID)
	other := f.peer.make(event.Draft{Sender: mal, Type: "m.x", Content: []byte(`{}`), PrevEvents: []id.EventID{"$" + id.EventID(fmt.Sprintf("%043d", 1))}})
	require.ErrorIs(t, f.deliver(other), mxerr.NotFound, "nothing is to be had")
	require.EqualValues(t, -1, f.flags(other))
	f.alive()
}

// FP-12: missing auth events are asked for with their own, at once or one by one.
func TestMissingAuthEvents(t *testing.T) {
	for _, single := range []bool{false, true} {
		f := newFederated(t, "11")
		f.put(alice, "m.room.power_levels", "", map[string]any{"users": powers(f, map[id.UserID]int{mal: 50}), "events": map[string]any{"m.room.power_levels": 50}})
		base := f.heads()
		// Two changes of the power levels on a branch that nobody sends us; an event elsewhere builds on them.
		first := f.peer.state(mal, "m.room.power_levels", "", map[string]any{
			"users": powers(f, map[id.UserID]int{mal: 50}), "events": map[string]any{"m.room.power_levels": 50}, "kick": 50,
		})
		auth := func(levels *event.Event) []id.EventID {
			return []id.EventID{f.current("m.room.create", "").ID, levels.ID, f.current("m.room.member", string(mal)).ID}
		}
		second := f.peer.make(event.Draft{
			Sender: mal, Type: "m.room.power_levels", StateKey: new(string), AuthEvents: auth(first), PrevEvents: idsOf(first),
			Content: contentOf(map[string]any{"users": powers(f, map[id.UserID]int{mal: 50}), "events": map[string]any{"m.room.power_levels": 50}, "kick": 40}),
		})
		d := f.peer.text(mal, "x")
		d.AuthEvents, d.PrevEvents = auth(second), base
		ev := f.peer.make(d)
		if single {
			f.peer.serve(first, second)
		} else {
			f.peer.auth[ev.ID] = []*event.Event{second, first}
		}
		require.NoError(t, f.deliver(ev))
		require.Equal(t, storage.Outlier, f.flags(first))
		require.Equal(t, storage.Outlier, f.flags(second))
		require.Contains(t, f.timeline(), ev.ID)

		d.AuthEvents = append(auth(second)[:1:1], "$"+id.EventID(fmt.Sprintf("%043d", 1)))
		lost := f.peer.make(d)
		require.ErrorIs(t, f.deliver(lost), mxerr.NotFound)
		require.EqualValues(t, -1, f.flags(lost), "it may come again")
		f.alive()
	}
}

// FP-04: an outlier whose auth events do not allow it is rejected, and so is what it should allow.
func TestRejectedOutliers(t *testing.T) {
	f := newFederated(t, "11")
	levels := f.peer.state(mal, "m.room.power_levels", "", map[string]any{"users": map[string]any{string(mal): 100}})
	d := event.Draft{
		Sender: mal, Type: "m.room.topic", StateKey: new(string), Content: []byte(`{}`),
		AuthEvents: []id.EventID{f.current("m.room.create", "").ID, levels.ID, f.current("m.room.member", string(mal)).ID},
	}
	topic := f.peer.make(d)
	f.peer.serve(levels)
	require.ErrorContains(t, f.deliver(topic), "rule 2.3")
	require.Equal(t, storage.Outlier|storage.Rejected, f.flags(levels))
	require.ErrorIs(t, f.deliver(levels), mxerr.Forbidden, "it is judged again when it arrives")
	require.Equal(t, storage.Rejected, f.flags(levels))

	// Nor do they get into a state that is told at a gap.
	base := f.roomState()
	other := f.peer.state(mal, "m.room.power_levels", "", map[string]any{"users": map[string]any{string(mal): 99}})
	gap := f.peer.message(mal, "missing")
	ev := f.peer.after(mal, "after it", gap)
	f.peer.serve(gap, other)
	f.peer.stateIDs[gap.ID] = with(base, other)
	require.NoError(t, f.deliver(ev))
	require.Equal(t, storage.Outlier|storage.Rejected, f.flags(other))
	require.NotEqual(t, other.ID, f.current("m.room.power_levels", "").ID)
	f.alive()
}

// What is not usable of a state that is told leaves it without power levels: that speaks against nobody, however it came.
func TestStateWithoutLevels(t *testing.T) {
	for _, version := range []string{"1", "11"} {
		for _, way := range []string{"rejected", "unsigned", "unsigned and whole"} {
			f := newFederated(t, version)
			levels := f.put(alice, "m.room.power_levels", "", map[string]any{"users": powers(f, map[id.UserID]int{mal: 100})})
			base := f.roomState()
			sender := mal
			if way != "rejected" {
				sender = "@x:dead.test"
			}
			f.peer.keys["dead.test"] = f.peer.key
			seized := f.peer.state(sender, "m.room.power_levels", "", map[string]any{"users": map[id.UserID]int{mal: 100}})
			delete(f.peer.keys, "dead.test")
			y := f.peer.state(mal, "m.test", "k", map[string]any{})
			x := f.peer.after(mal, "x", y)
			f.peer.missing = func([]id.EventID, []id.EventID, int) []*event.Event { return []*event.Event{x} }
			f.peer.serve(y, seized)
			told := f.peer.stateIDs
			if way == "unsigned and whole" {
				told = f.peer.states
			}
			told[y.ID] = with(base, seized)
			require.NoError(t, f.deliver(f.peer.after(mal, "c", x)))
			if way == "rejected" {
				require.Equal(t, storage.Outlier|storage.Rejected, f.flags(seized))
			}
			require.Equal(t, y.ID, f.current("m.test", "k").ID, "%s, version %s", way, version)
			require.Equal(t, levels.ID, f.current("m.room.power_levels", "").ID)
			f.alive()
		}
	}
}

// A server that has named an event and does not tell it when it is asked is not asked for a state instead.
func TestPredecessorThatIsKeptBack(t *testing.T) {
	f := newFederated(t, "11")
	gap := f.peer.message(mal, "missing")
	ev := f.peer.after(mal, "after it", gap)
	f.peer.missing = func([]id.EventID, []id.EventID, int) []*event.Event { return nil }
	f.peer.stateIDs[gap.ID] = f.roomState()
	f.peer.serve(gap)
	require.ErrorIs(t, f.deliver(ev), rooms.ErrPostponed)
	require.Equal(t, []string{"missing"}, f.peer.forget())
	require.EqualValues(t, -1, f.flags(ev))
	f.peer.missing = func([]id.EventID, []id.EventID, int) []*event.Event { return []*event.Event{gap} }
	require.NoError(t, f.deliver(ev))
	require.Equal(t, []string{"missing"}, f.peer.forget())
}

// Whatever the other server answers: of another room, unsigned, garbage, too much, the wrong thing.
func TestHostileAnswers(t *testing.T) {
	f := newFederated(t, "11")
	own := f.room
	other, err := f.Create(context.Background(), alice, rooms.NewRoom{Preset: "public_chat", Version: "11"})
	require.NoError(t, err)
	f.enter(other)
	foreign := f.say(alice, "of another room")
	f.room = own

	gap := f.peer.message(mal, "missing")
	unsigned := json.RawMessage(forge(t, gap, func(m map[string]json.RawMessage) { m["signatures"] = []byte(`{}`) }))
	ev := f.peer.after(mal, "after it", gap)
	f.peer.missing = func([]id.EventID, []id.EventID, int) []*event.Event { return []*event.Event{foreign, ev} }
	for name, raw := range map[string]json.RawMessage{
		"unsigned": unsigned, "garbage": json.RawMessage(`{"x":[[[[`), "another event": json.RawMessage(f.say(alice, "x").JSON),
		"another room": json.RawMessage(foreign.JSON), "null": json.RawMessage(`null`), "nothing": nil,
	} {
		f.peer.raw[gap.ID] = raw
		f.peer.stateIDs[gap.ID] = f.roomState()
		require.ErrorIs(t, f.deliver(ev), mxerr.NotFound, name)
		require.EqualValues(t, -1, f.flags(ev))
	}
	delete(f.peer.raw, gap.ID)
	f.peer.missing = nil
	f.peer.serve(gap)
	// A state without the room's m.room.create, or with none of its events, is none.
	for name, state := range map[string][]*event.Event{
		"no create": f.roomState()[1:], "empty": nil, "another room": {foreign},
	} {
		f.peer.stateIDs[gap.ID] = state
		require.ErrorIs(t, f.deliver(ev), mxerr.NotFound, name)
	}
	f.peer.stateIDs[gap.ID] = f.roomState()
	require.NoError(t, f.deliver(ev), "delivered again, with good answers")
	require.Contains(t, f.timeline(), ev.ID)
	f.alive()
}

// F-63: a server that answers with ever more missing events is asked a bounded number of times, and others go on.
func TestF63EndlessGap(t *testing.T) {
	f := newFederated(t, "11")
	unknown := func(n int) []id.EventID {
		var list []id.EventID
		for i := range 20 {
			list = append(list, id.EventID(fmt.Sprintf("$%043d", 20*n+i)))
		}
		return list
	}
	n := 0
	more := func() *event.Event {
		n++
		d := f.peer.text(mal, fmt.Sprint(n))
		d.PrevEvents = unknown(n)
		return f.peer.make(d)
	}
	f.peer.missing = func([]id.EventID, []id.EventID, int) []*event.Event {
		var list []*event.Event
		for range 20 {
			list = append(list, more())
		}
		return list
	}
	began := time.Now()
	ev := more()
	require.ErrorIs(t, f.deliver(ev), mxerr.NotFound)
	require.LessOrEqual(t, len(f.peer.forget()), 20)
	require.Less(t, time.Since(began), 10*time.Second)
	require.EqualValues(t, -1, f.flags(ev))
	f.alive()
}

// An event with many missing predecessors gets the state before itself.
func TestManyMissingPredecessors(t *testing.T) {
	f := newFederated(t, "11")
	base := f.heads()
	var fan []*event.Event
	for i := range 15 {
		d := f.peer.text(mal, fmt.Sprint(i))
		d.PrevEvents = base
		fan = append(fan, f.peer.make(d))
	}
	ev := f.peer.after(mal, "after all", fan...)
	f.peer.stateIDs[ev.ID] = f.roomState()
	require.NoError(t, f.deliver(ev))
	require.Equal(t, []string{"missing", "state_ids"}, f.peer.forget())
	require.Contains(t, f.timeline(), ev.ID)
	require.NoError(t, f.deliver(fan[3]), "one of them comes later")
	f.alive()
}

// A gap in one room is asked about once at a time; other rooms, and events without gaps, do not wait.
func TestOneAtATimeAsks(t *testing.T) {
	f := newFederated(t, "11")
	list := f.chain(3)
	entered, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	asked := 0
	f.peer.missing = func([]id.EventID, []id.EventID, int) []*event.Event {
		mu.Lock()
		asked++
		first := asked == 1
		mu.Unlock()
		if first {
			close(entered)
			<-release
		}
		return list[:2]
	}
	whole := f.peer.message(mal, "without a gap")
	var wg sync.WaitGroup
	deliver := func() { require.NoError(t, f.deliver(list[2])) }
	wg.Go(deliver)
	<-entered
	wg.Go(deliver)
	require.NoError(t, f.deliver(whole))
	f.say(alice, "nor do we wait")
	close(release)
	wg.Wait()
	require.Equal(t, 1, asked)
	f.alive()
}

// FH-03: history that another server tells becomes the room's past, in front of what is known and whatever the current
// state would say.
func TestReceivePast(t *testing.T) {
	for _, version := range []string{"1", "6", "11", "12"} {
		f := newFederated(t, version)
		base := f.roomState()
		list := f.chain(6)
		first := list[0]
		gap := f.peer.after(mal, "the gap's event", list[5])
		f.peer.serve(list[5])
		f.peer.stateIDs[list[5].ID] = base
		require.NoError(t, f.deliver(gap))
		at := f.stored(gap).Ord
		f.set(alice, mal, "ban")
		head, state := f.heads(), f.room.View().State
		f.peer.forget()

		f.peer.serve(list[2])
		f.peer.stateIDs[list[2].ID] = base
		past := raws(list[5], list[4], list[3])
		require.Equal(t, make([]error, 3), f.ReceivePast(context.Background(), "peer.test", f.room.ID, past, at))
		require.Equal(t, []string{"event", "state_ids"}, f.peer.forget(), "events before those are not asked for")
		require.Equal(t, make([]error, 3), f.ReceivePast(context.Background(), "peer.test", f.room.ID, raws(list[2], list[1], first), at))
		require.Empty(t, f.peer.forget())
		require.Equal(t, head, f.heads())
		require.Equal(t, state, f.room.View().State)
		told := f.timeline()
		from := slices.Index(told, first.ID)
		require.Equal(t, append(idsOf(list...), gap.ID), told[from:from+7])
		f.say(alice, "x")
	}
}

// Backfilled events may have more predecessors than others; they are still checked.
func TestPastIsChecked(t *testing.T) {
	f := newFederated(t, "11")
	base := f.heads()
	fan := f.fan(20, base)
	last := f.peer.after(mal, "last", fan...)
	list, err := json.Marshal(append(idsOf(fan...), base[0], f.room.View().Tail[0].ID))
	require.NoError(t, err)
	wide := signed(t, f, forge(t, f.peer.message(mal, "wide"), func(m map[string]json.RawMessage) { m["prev_events"] = list }))
	require.Error(t, f.deliverRaw(wide), "21 are refused elsewhere")
	bad := f.peer.after(eve, "never here", fan[0])
	errs := f.ReceivePast(context.Background(), "peer.test", f.room.ID, append(raws(last, bad), wide, json.RawMessage(`{}`)), 1<<40)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], mxerr.Forbidden)
	require.NoError(t, errs[2])
	require.Error(t, errs[3])
	require.Equal(t, storage.Rejected, f.flags(bad))
}
