package syncing_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// SY-11: what is missing in a room's history makes a timeline limited, so that the client asks for it: of what fills
// the gap nothing is told live, neither if that happens after the answer nor if it happened before.
func TestGapsMakeTimelinesLimited(t *testing.T) {
	for _, filled := range []bool{false, true} {
		t.Run(fmt.Sprint("filled=", filled), func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			hs, peer := network.New("hs.test"), network.Rogue("peer.test")
			alice := hs.User("alice")
			room := alice.CreateRoom(homeservertest.Public)
			mal := peer.UserID("mal")
			theirs := peer.Join(hs, room, mal)
			alice.Expect(room, func(e gjson.Result) bool { return e.Get("state_key").String() == mal })
			since := alice.Sync("").NextBatch
			alice.Send(room, "before")
			network.Settle(t.Context())

			const missing = 100 // more than are asked for when the last one comes
			for i := range missing {
				theirs.Extend(peer.Text(mal, fmt.Sprint(i)))
			}
			theirs.Send(hs, peer.Text(mal, "last"))
			if filled {
				alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1000"}}).WantOK()
			}
			timeline := ask(alice, "since", since, "filter", `{"room":{"timeline":{"limit":500}}}`).Joined(room)
			require.True(t, timeline.Get("timeline.limited").Bool())
			told := texts(timeline)
			require.Equal(t, "last", told[len(told)-1])
			require.NotContains(t, told, "before", "it comes before the gap")

			page := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1000"}, "from": {timeline.Get("timeline.prev_batch").String()}}).WantOK()
			all := map[string]bool{}
			for _, e := range page.Get("chunk").Array() {
				all[e.Get("content.body").String()] = true
			}
			for i := range missing - len(told) + 1 {
				require.True(t, all[fmt.Sprint(i)], "message %d of %d", i, missing)
			}
			require.True(t, all["before"])
		})
	}
}

// keepMissing tells nobody what they lack when an event comes, though whoever reads back is told.
func keepMissing(w http.ResponseWriter, r *http.Request) bool {
	if !strings.Contains(r.URL.Path, "get_missing_events") {
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	io.WriteString(w, `{"errcode":"M_NOT_FOUND","error":"there are none"}`) //nolint:errcheck // the server reads it
	return true
}

// A gap is known while the room is in memory and after it was loaded again, filled or not, and whoever is still in the room.
func TestGapsAreRemembered(t *testing.T) {
	for _, tt := range []struct{ filled, restarted, left bool }{
		{}, {filled: true}, {restarted: true}, {filled: true, restarted: true}, {left: true}, {filled: true, left: true},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			hs, peer := network.New("hs.test"), network.Rogue("peer.test")
			alice := hs.User("alice")
			room := alice.CreateRoom(homeservertest.Public)
			mal := peer.UserID("mal")
			theirs := peer.Join(hs, room, mal)
			since := alice.Sync("").NextBatch
			alice.Send(room, "before")
			network.Settle(t.Context())
			theirs.Extend(peer.Text(mal, "missing"))
			peer.Handle(keepMissing)
			theirs.Send(hs, peer.Text(mal, "last"))
			if tt.filled {
				got := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"100"}}).WantOK()
				require.Contains(t, strs(got.Get("chunk.#.content.body")), "missing")
			}
			if tt.restarted {
				hs.Restart()
			}
			news := (*homeservertest.Sync).Joined
			if tt.left {
				alice.MustLeave(room)
				news = (*homeservertest.Sync).Left
			}
			timeline := news(alice.Sync(since), room).Get("timeline")
			require.True(t, timeline.Get("limited").Bool())
			told := strs(timeline.Get("events.#.content.body"))
			require.Contains(t, told, "last")
			require.NotContains(t, told, "before")
		})
	}
}

// A gap before an event of which nobody is told, as a redaction before what it redacts is here, makes the next timeline
// limited that has anything in it.
func TestGapsBehindHiddenEvents(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, peer := network.New("hs.test"), network.Rogue("peer.test")
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Public)
	mal := peer.UserID("mal")
	theirs := peer.Join(hs, room, mal)
	alice.Send(room, "before")
	network.Settle(t.Context())
	since := alice.Sync("").NextBatch

	first, second := theirs.Extend(peer.Text(mal, "first")), theirs.Extend(peer.Text(mal, "second"))
	peer.Handle(keepMissing)
	theirs.Send(hs, homeservertest.Draft{Type: "m.room.redaction", Sender: mal, Content: map[string]any{"redacts": first.ID}})
	alice.CreateRoom(homeservertest.Private) // something happens after it elsewhere
	r := alice.Sync(since)
	require.False(t, r.Joined(room).Exists(), "the redaction is kept back: %s", r.Body)

	theirs.Send(hs, peer.Text(mal, "last"))
	timeline := ask(alice, "since", r.NextBatch).Joined(room)
	require.Equal(t, []string{"last"}, texts(timeline))
	require.True(t, timeline.Get("timeline.limited").Bool())
	page := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1"}, "from": {timeline.Get("timeline.prev_batch").String()}}).WantOK()
	require.Equal(t, second.ID, page.Get("chunk.0.event_id").String())

	since = ask(alice, "since", r.NextBatch).NextBatch
	theirs.Send(hs, peer.Text(mal, "later"))
	require.False(t, ask(alice, "since", since).Joined(room).Get("timeline.limited").Bool(), "once")
}
