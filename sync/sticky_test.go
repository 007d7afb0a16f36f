package syncing_test

import (
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// stick sends a sticky event.
func stick(u *homeservertest.User, room, rest, ms string, content any) *homeservertest.Response {
	return u.Do("PUT", roomPath(room, rest)+"?org.matrix.msc4354.sticky_duration_ms="+ms, content)
}

// sticky are the sticky events that an answer tells of a room beside its timeline.
func sticky(s *homeservertest.Sync, room string) []string {
	return strs(s.Joined(room).Get("msc4354_sticky.events.#.content.n"))
}

// reached are all the sticky events that an answer tells of a room.
func reached(s *homeservertest.Sync, room string) []string {
	list := sticky(s, room)
	for _, e := range typed(s.Joined(room).Get("timeline.events"), "org.example") {
		list = append(list, e.Get("content.n").Str)
	}
	return list
}

// TestStickyEvents (MSC4354): a sticky event is told to everybody in a room, be it in a limited timeline, sent before they
// came, or not for them by the room's history visibility; once, and until its time is over.
func TestStickyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
		room := alice.CreateRoom(public)
		alice.SetState(room, "m.room.history_visibility", "", object{"history_visibility": "joined"}).WantOK()
		bob.MustJoin(room)
		since := bob.Sync("").NextBatch
		event := stick(alice, room, "send/org.example/1", "60000", object{"n": "one"}).WantOK().Get("event_id").Str
		stick(alice, room, "send/org.example/2", "600000", object{"n": "two"}).WantOK()
		stick(alice, room, "state/org.example/key", "600000", object{"n": "state"}).WantOK()

		inTimeline := bob.Sync(since)
		told := inTimeline.Joined(room).Get("timeline.events.0")
		require.Equal(t, event, told.Get("event_id").Str)
		require.Equal(t, int64(60000), told.Get("msc4354_sticky.duration_ms").Int())
		require.Equal(t, int64(60000), told.Get("unsigned.msc4354_sticky_duration_ttl_ms").Int())
		require.Empty(t, sticky(inTimeline, room), "it is not told twice")

		for range 20 {
			alice.Send(room, "noise")
		}
		time.Sleep(10 * time.Second)
		limited := bob.Sync(since)
		require.True(t, limited.Joined(room).Get("timeline.limited").Bool())
		require.Equal(t, []string{"one", "two", "state"}, sticky(limited, room))
		require.Equal(t, int64(50000), limited.Joined(room).Get("msc4354_sticky.events.0.unsigned.msc4354_sticky_duration_ttl_ms").Int())
		require.Empty(t, sticky(bob.Sync(limited.NextBatch), room))

		since = carol.Sync("").NextBatch
		carol.MustJoin(room)
		require.Equal(t, []string{"one", "two", "state"}, reached(carol.Sync(since), room), "a room that is new to a client")
		require.Equal(t, []string{"one", "two", "state"}, reached(carol.Sync(""), room))
		hs.Restart()
		require.Equal(t, []string{"one", "two", "state"}, reached(carol.Sync(""), room))
		ignore(carol, alice.ID)
		require.Equal(t, []string{"state"}, reached(carol.Sync(""), room))
		ignore(carol)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"two", "state"}, reached(carol.Sync(""), room), "its time is over")
		second := carol.Sync("").Joined(room).Get("msc4354_sticky.events.0.event_id").Str
		alice.Redact(room, second).WantOK()
		require.Equal(t, []string{"state"}, reached(carol.Sync(""), room), "redacted")
		time.Sleep(2 * time.Hour)
		require.Empty(t, sticky(carol.Sync(""), room))
	})
}

// TestStickyParameters: a duration is a number; what is too long is as long as it may be.
func TestStickyParameters(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	for _, ms := range []string{"-1", "long", "9223372036854775808"} {
		stick(alice, room, "send/org.example/bad", ms, object{}).WantError(400, "M_INVALID_PARAM")
	}
	since := alice.Sync("").NextBatch
	stick(alice, room, "send/org.example/1", "9000000000", object{"n": "long"}).WantOK()
	stick(alice, room, "send/org.example/2", "0", object{"n": "not"}).WantOK()
	events := alice.Sync(since).Joined(room).Get("timeline.events")
	require.Equal(t, int64(3600000), events.Get("0.msc4354_sticky.duration_ms").Int())
	require.False(t, events.Get("1.msc4354_sticky").Exists())
	require.True(t, alice.Do("GET", "/_matrix/client/versions", nil).Get(`unstable_features.org\.matrix\.msc4354`).Bool())
}

// TestDelayedStickyEvents: an event that is sent later is as sticky as was wished for.
func TestDelayedStickyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := homeservertest.New(t).User("alice")
		room := alice.CreateRoom(private)
		stick(alice, room, "send/org.example/1", "60000&org.matrix.msc4140.delay=1000", object{"n": "later"}).WantOK()
		time.Sleep(2 * time.Second)
		for range 20 {
			alice.Send(room, "noise")
		}
		require.Equal(t, []string{"later"}, sticky(alice.Sync(""), room))
	})
}

// TestStickyEventsBetweenServers: those of other servers are told likewise, and a server that comes later is sent those
// of each server that is there.
func TestStickyEventsBetweenServers(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoom(public)
	stick(alice, room, "send/org.example/1", "600000", object{"n": "before"}).WantOK()
	for range 20 {
		alice.Send(room, "noise")
	}
	bob.Do("POST", "/_matrix/client/v3/join/"+url.PathEscape(room)+"?via=one.test", object{}).WantOK()
	require.Eventually(t, func() bool {
		return slices.Equal(reached(bob.Sync(""), room), []string{"before"})
	}, 5*time.Second, 20*time.Millisecond, "sent before the server came")

	since := bob.Sync("").NextBatch
	stick(alice, room, "send/org.example/2", "600000", object{"n": "after"}).WantOK()
	require.Eventually(t, func() bool { return bob.Sync(since).Joined(room).Exists() }, 5*time.Second, 20*time.Millisecond)
	for range 20 {
		bob.Send(room, "noise")
	}
	require.Contains(t, sticky(bob.Sync(since), room), "after")
}
