package rooms_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
)

// redacts is a redaction that follows the room's head, or other events.
func (p *peer) redacts(sender id.UserID, target id.EventID, prev ...*event.Event) *event.Event {
	p.t.Helper()
	d := event.Draft{Sender: sender, Type: "m.room.redaction", Content: []byte(`{}`), Redacts: target}
	if len(prev) > 0 {
		d.PrevEvents = idsOf(prev...)
	}
	return p.make(d)
}

// A redaction of an event that is here takes effect at once, in every room version.
func TestRedactionOfKnownEvent(t *testing.T) {
	for _, version := range roomversion.All() {
		f := newFederated(t, version)
		ev := f.peer.message(mal, "regretted")
		require.NoError(t, f.deliver(ev))
		redaction := f.peer.redacts(mal, ev.ID)
		require.NoError(t, f.deliver(redaction))
		e := f.stored(ev)
		require.JSONEq(t, `{}`, string(e.Content()), version)
		require.Equal(t, f.stored(redaction).Pos, e.RedactedBy)
		require.Contains(t, f.timeline(), redaction.ID)
		again := f.peer.redacts(mal, ev.ID)
		require.NoError(t, f.deliver(again))
		require.Equal(t, e.RedactedBy, f.stored(ev).RedactedBy, "the first counts")
		f.alive()
	}
}

// Who may redact any event may redact one that is not here yet: it is given redacted when it comes.
func TestOwnRedactionBeforeTarget(t *testing.T) {
	f := newFederated(t, "11")
	ev := f.peer.message(mal, "regretted")
	redaction := f.send(rooms.Draft{Sender: alice, Type: "m.room.redaction", Content: []byte(`{}`), Redacts: ev.ID})
	require.NoError(t, f.deliver(ev))
	e := f.stored(ev)
	require.JSONEq(t, `{}`, string(e.Content()))
	require.Equal(t, f.stored(redaction).Pos, e.RedactedBy)
}

// FP-24: a redaction that comes before its target is not told until the target is here, which is given redacted.
func TestRedactionBeforeTarget(t *testing.T) {
	for _, version := range []string{"1", "3", "10", "11", "12"} {
		for _, apart := range []bool{false, true} {
			f := newFederated(t, version)
			base := f.heads()
			ev := f.peer.message(mal, "regretted")
			redaction := f.peer.redacts(mal, ev.ID)
			require.Equal(t, base, redaction.PrevEvents)
			shown := version == "1" // there the rules have allowed it
			if apart {
				require.NoError(t, f.deliver(redaction))
				require.Equal(t, shown, slices.Contains(f.timeline(), redaction.ID), version)
				require.Equal(t, idsOf(redaction), f.heads(), "it is on the head all the same")
				f.say(alice, "after it")
				require.NoError(t, f.deliver(ev))
			} else {
				require.Equal(t, []error{nil, nil}, f.receive(redaction, ev))
			}
			e := f.stored(ev)
			require.JSONEq(t, `{}`, string(e.Content()), version)
			require.Equal(t, f.stored(redaction).Pos, e.RedactedBy)
			told := f.timeline()
			require.Contains(t, told, redaction.ID)
			if !shown {
				require.Greater(t, slices.Index(told, redaction.ID), slices.Index(told, ev.ID), "it is told after its target")
			}
			f.alive()
		}
	}
}

// A redaction that does not apply stays hidden, and is an event of the room all the same.
func TestRedactionThatDoesNotApply(t *testing.T) {
	f := newFederated(t, "11")
	ev := f.say(alice, "stays")
	redaction := f.peer.redacts(mal, ev.ID)
	require.NoError(t, f.deliver(redaction))
	require.Contains(t, string(f.stored(ev).Content()), "stays")
	require.EqualValues(t, 0, f.flags(redaction))
	require.NotContains(t, f.timeline(), redaction.ID)
	require.Equal(t, idsOf(redaction), f.heads())
	require.Equal(t, idsOf(redaction), f.say(alice, "next").PrevEvents)

	// Nor one that was waiting for its target.
	own := f.peer.make(event.Draft{Sender: mal, Type: "m.room.redaction", Content: []byte(`{}`), Redacts: "$unknown"})
	require.NoError(t, f.deliver(own))
	require.NotContains(t, f.timeline(), own.ID)
	f.alive()
}

// F-37: redactions of others' events, of m.room.create, of each other, and of an event of another room.
func TestF37Redactions(t *testing.T) {
	for _, version := range []string{"1", "6", "11"} {
		f := newFederated(t, version)
		began := time.Now()
		first := f.room
		other, err := f.Create(context.Background(), alice, rooms.NewRoom{Preset: "public_chat", Version: version})
		require.NoError(t, err)
		f.enter(other)
		require.NoError(t, f.deliver(f.peer.member(mal, "join")))
		foreign := f.peer.message(mal, "in another room")
		require.NoError(t, f.deliver(foreign))
		f.room = first
		ev, create := f.say(alice, "stays"), f.current("m.room.create", "")
		for _, target := range []id.EventID{ev.ID, create.ID, foreign.ID} {
			f.deliver(f.peer.redacts(mal, target)) //nolint:errcheck // versions 1 and 2 reject some of them
		}
		require.Contains(t, string(f.stored(ev).Content()), "stays")
		require.Zero(t, f.stored(create).RedactedBy)
		f.enter(other)
		require.Contains(t, string(f.stored(foreign).Content()), "in another room")
		f.room = first

		if version == "1" {
			a := f.peer.redacts(mal, "$b:peer.test")
			b := f.peer.redacts(mal, a.ID)
			raw := forge(t, b, func(m map[string]json.RawMessage) { m["event_id"] = []byte(`"$b:peer.test"`) })
			require.NoError(t, f.deliver(a))
			require.NoError(t, f.deliverRaw(signed(t, f, raw)))
		}
		require.Less(t, time.Since(began), 2*time.Second)
		f.alive()
	}
}

// The room's admins redact what others have sent; m.room.create stays, whoever redacts it.
func TestRedactionByPower(t *testing.T) {
	f := newFederated(t, "9")
	f.put(alice, "m.room.power_levels", "", map[string]any{"users": map[string]any{string(alice): 100, string(mal): 100}})
	ev, create := f.say(bob, "goes"), f.current("m.room.create", "")
	redaction := f.peer.redacts(mal, create.ID)
	require.Equal(t, []error{nil, nil}, f.receive(f.peer.redacts(mal, ev.ID), redaction))
	require.JSONEq(t, `{}`, string(f.stored(ev).Content()))
	require.Contains(t, string(f.stored(create).Content()), "room_version")
	require.NotContains(t, f.timeline(), redaction.ID)
	f.alive()
}

// A redaction that the current state does not allow has no effect: it is soft-failed.
func TestSoftFailedRedaction(t *testing.T) {
	f := newFederated(t, "11")
	ev := f.peer.message(mal, "stays")
	require.NoError(t, f.deliver(ev))
	auth := f.authBefore(mal)
	f.set(alice, mal, "ban")
	redaction := f.peer.make(event.Draft{
		Sender: mal, Type: "m.room.redaction", Content: []byte(`{}`), Redacts: ev.ID, PrevEvents: idsOf(ev), AuthEvents: auth,
	})
	require.NoError(t, f.deliver(redaction))
	require.Equal(t, storage.SoftFailed, f.flags(redaction))
	require.Contains(t, string(f.stored(ev).Content()), "stays")
}

// State that is known as an outlier is redacted like any other event.
func TestRedactionOfOutlier(t *testing.T) {
	for _, first := range []string{"redaction", "outlier"} {
		f := newFederated(t, "11")
		f.put(alice, "m.room.power_levels", "", map[string]any{"users": map[string]any{string(alice): 100, string(mal): 50}})
		base := f.heads()
		state := f.peer.state(mal, "m.test", "", map[string]any{"secret": true})
		redaction := f.peer.redacts(mal, state.ID)
		require.Equal(t, base, redaction.PrevEvents)
		gap := f.peer.message(mal, "missing")
		ev := f.peer.after(mal, "after it", gap)
		f.peer.serve(gap, state)
		f.peer.stateIDs[gap.ID] = with(f.roomState(), state)
		if first == "redaction" {
			require.NoError(t, f.deliver(redaction))
			require.NoError(t, f.deliver(ev))
		} else {
			require.NoError(t, f.deliver(ev))
			require.NoError(t, f.deliver(redaction))
		}
		require.JSONEq(t, `{}`, string(f.current("m.test", "").Content()), first)
		require.Contains(t, f.timeline(), redaction.ID, first)
		require.NoError(t, f.deliver(state))
		require.Equal(t, storage.InTimeline, f.flags(state))
		require.JSONEq(t, `{}`, string(f.stored(state).Content()), first)
		require.NotZero(t, f.stored(state).RedactedBy)
		f.alive()
	}
}
