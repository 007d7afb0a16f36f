package rooms_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
)

// F-41: a fan of 300 events leaves few forward extremities, and ours name few.
func TestF41Fan(t *testing.T) {
	f := newFederated(t, "11")
	base := f.heads()
	for range 6 {
		f.fan(50, base)
	}
	require.LessOrEqual(t, len(f.heads()), 10)
	began := time.Now()
	require.LessOrEqual(t, len(f.say(alice, "after all of them").PrevEvents), 10)
	require.Less(t, time.Since(began), time.Second)
	f.alive()
}

// Branches that leave different states are joined by events of ours that clients are not told of.
func TestHeal(t *testing.T) {
	for _, version := range []string{"1", "11", "12"} {
		f := newFederated(t, version)
		f.put(alice, "m.room.power_levels", "", map[string]any{"users": powers(f, map[id.UserID]int{mal: 50})})
		base := f.heads()
		var fan []*event.Event
		for i := range 45 {
			key := fmt.Sprint(i)
			fan = append(fan, f.peer.make(event.Draft{Sender: mal, Type: "m.test", StateKey: &key, Content: []byte(`{}`), PrevEvents: base}))
		}
		before := len(f.timeline())
		require.Equal(t, make([]error, 45), f.receive(fan...))
		require.LessOrEqual(t, len(f.heads()), 10)
		require.Len(t, f.timeline(), before+45, "nothing but what the peer has sent")
		for i := range 45 {
			require.NotNil(t, f.current("m.test", fmt.Sprint(i)), "%d in version %s", i, version)
		}
		last := f.say(alice, "x")
		require.LessOrEqual(t, len(last.PrevEvents), 10)
		require.Equal(t, idsOf(last), f.heads())
		f.alive()
	}
}

// Nobody here may send messages: the branches stay, and local users go on as they can.
func TestNobodyCanHeal(t *testing.T) {
	f := newFederated(t, "11")
	f.put(alice, "m.room.power_levels", "", map[string]any{
		"users": map[string]any{string(alice): 50, string(mal): 100}, "events": map[string]any{"org.matrix.dummy_event": 100, "m.room.power_levels": 50},
	})
	base := f.heads()
	for i := range 15 {
		key := fmt.Sprint(i)
		require.NoError(t, f.deliver(f.peer.make(event.Draft{Sender: mal, Type: "m.test", StateKey: &key, Content: []byte(`{}`), PrevEvents: base})))
	}
	require.Len(t, f.heads(), 15)
	require.Len(t, f.say(alice, "x").PrevEvents, 10)
	f.alive()
}

// The dummy events of others are not told to clients either.
func TestRemoteDummyEvents(t *testing.T) {
	f := newFederated(t, "11")
	ev := f.peer.make(event.Draft{Sender: mal, Type: "org.matrix.dummy_event", Content: []byte(`{}`)})
	require.NoError(t, f.deliver(ev))
	require.Equal(t, idsOf(ev), f.heads())
	require.NotContains(t, f.timeline(), ev.ID)
	f.alive()
}
