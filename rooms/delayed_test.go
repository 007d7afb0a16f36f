package rooms_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	homeserver "github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

const delayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"

// later sends an event by PUT with a delay in milliseconds.
func later(u *homeservertest.User, room, rest string, delay int64, content any) *homeservertest.Response {
	return u.Do("PUT", fmt.Sprintf("%s/rooms/%s/%s?org.matrix.msc4140.delay=%d", v3, url.PathEscape(room), rest, delay), content)
}

// scheduled are the events that a user has scheduled.
func scheduled(u *homeservertest.User) []gjson.Result {
	return u.Do("GET", delayed, nil).WantOK().Get("delayed_events").Array()
}

// handle does something with a scheduled event, without a token.
func handle(u *homeservertest.User, delayID, action string) *homeservertest.Response {
	return anybody(u).Do("POST", delayed+"/"+delayID+"/"+action, map[string]any{})
}

// anybody is a client without a token.
func anybody(u *homeservertest.User) *homeservertest.User {
	nobody := u.Login()
	nobody.Token = ""
	return nobody
}

// talks are the texts of the messages in a room, oldest first.
func talks(u *homeservertest.User, room string) (list []string) {
	for _, e := range u.Messages(room, url.Values{"dir": {"f"}, "limit": {"100"}}).WantOK().Get("chunk").Array() {
		if e.Get("type").Str == "m.room.message" {
			list = append(list, e.Get("content.body").Str)
		}
	}
	return list
}

// TestDelayedMessages: messages are sent when their time has come, in its order, and once.
func TestDelayedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice, bob := hs.User("alice"), hs.User("bob")
		room := alice.CreateRoom(homeservertest.Public)
		began := time.Now().UnixMilli()
		third := later(alice, room, "send/m.room.message/c", 3000, text("three")).WantOK().Get("delay_id").Str
		later(alice, room, "send/m.room.message/a", 1000, text("one")).WantOK()
		later(alice, room, "send/m.room.message/b", 2000, text("two")).WantOK()
		require.Equal(t, third, later(alice, room, "send/m.room.message/c", 3000, text("three")).WantOK().Get("delay_id").Str, "the same transaction")

		list := scheduled(alice)
		require.Len(t, list, 3)
		require.Equal(t, "one", list[0].Get("content.body").Str)
		require.Equal(t, room, list[0].Get("room_id").Str)
		require.Equal(t, "m.room.message", list[0].Get("type").Str)
		require.Equal(t, int64(1000), list[0].Get("delay").Int())
		require.Equal(t, began, list[0].Get("running_since").Int())
		require.False(t, list[0].Get("state_key").Exists())
		require.Empty(t, scheduled(bob), "those of others are nobody's business")
		anybody(alice).Do("GET", delayed, nil).WantError(401, "M_MISSING_TOKEN")

		time.Sleep(2500 * time.Millisecond)
		require.Equal(t, []string{"one", "two"}, talks(alice, room))
		time.Sleep(time.Second)
		require.Equal(t, []string{"one", "two", "three"}, talks(alice, room))
		require.Empty(t, scheduled(alice))
		require.Equal(t, third, later(alice, room, "send/m.room.message/c", 3000, text("three")).WantOK().Get("delay_id").Str, "also when it was sent")
		require.Equal(t, third, alice.SendTxn(room, "m.room.message", "c", text("three")).WantOK().Get("delay_id").Str)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"one", "two", "three"}, talks(alice, room))
	})
}

// TestDelayedEventsByHand: who knows the id may cancel, restart or send an event.
func TestDelayedEventsByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice := hs.User("alice")
		room := alice.CreateRoom(homeservertest.Private)
		schedule := func(key string) string {
			return later(alice, room, "state/org.example/"+key, 10_000, map[string]any{"a": 1}).WantOK().Get("delay_id").Str
		}
		cancelled, restarted, sent, old := schedule("cancelled"), schedule("restarted"), schedule("sent"), schedule("old")
		handle(alice, sent, "send").WantOK()
		alice.State(room, "org.example", "sent").WantOK()
		time.Sleep(9 * time.Second)
		handle(alice, cancelled, "cancel").WantOK()
		handle(alice, restarted, "restart").WantOK()
		anybody(alice).Do("POST", delayed+"/"+old, map[string]any{"action": "cancel"}).WantOK()
		for _, action := range []string{"cancel", "restart", "send"} {
			handle(alice, sent, action).WantError(404, "M_NOT_FOUND")
			handle(alice, cancelled, action).WantError(404, "M_NOT_FOUND")
		}
		time.Sleep(9 * time.Second)
		alice.State(room, "org.example", "restarted").WantError(404, "M_NOT_FOUND")
		require.Len(t, scheduled(alice), 1)
		time.Sleep(2 * time.Second)
		alice.State(room, "org.example", "restarted").WantOK()
		alice.State(room, "org.example", "cancelled").WantError(404, "M_NOT_FOUND")
		alice.State(room, "org.example", "old").WantError(404, "M_NOT_FOUND")
		require.Empty(t, scheduled(alice))
	})
}

// TestDelayedEventRefusals: what is no delay, too long, too much or no action is refused.
func TestDelayedEventRefusals(t *testing.T) {
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.Delays = homeserver.Delays{Max: time.Minute, PerUser: 2} })
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	too := later(alice, room, "send/m.room.message/1", 60_001, text("a"))
	too.WantError(400, "M_UNKNOWN")
	require.Equal(t, "M_MAX_DELAY_EXCEEDED", too.Get(`org\.matrix\.msc4140\.errcode`).Str)
	require.Equal(t, int64(60_000), too.Get(`org\.matrix\.msc4140\.max_delay`).Int())
	later(alice, room, "send/m.room.message/2", -1, text("a")).WantError(400, "M_INVALID_PARAM")
	alice.Do("PUT", v3+"/rooms/"+room+"/send/m.room.message/3?org.matrix.msc4140.delay=soon", text("a")).WantError(400, "M_INVALID_PARAM")
	later(alice, room, "send/m.room.message/4", 1000, map[string]any{}).WantError(400, "M_BAD_JSON")
	later(alice, room, "state/m.room.create", 1000, map[string]any{}).WantError(400, "M_INVALID_PARAM")
	later(bob, room, "send/m.room.message/5", 1000, text("a")).WantError(403, "M_FORBIDDEN")
	later(alice, "!none:hs.test", "send/m.room.message/6", 1000, text("a")).WantError(403, "M_FORBIDDEN")
	later(alice, room, "send/org.example/7", 1000, map[string]any{"a": strings.Repeat("a", 70_000)}).WantError(413, "M_TOO_LARGE")

	later(alice, room, "send/m.room.message/8", 60_000, text("a")).WantOK()
	later(alice, room, "send/m.room.message/9", 60_000, text("a")).WantOK()
	full := later(alice, room, "send/m.room.message/10", 60_000, text("a"))
	full.WantError(429, "M_LIMIT_EXCEEDED")
	require.Positive(t, full.Get("retry_after_ms").Int())
	later(alice, room, "send/m.room.message/9", 60_000, text("a")).WantOK()

	known := scheduled(alice)[0].Get("delay_id").Str
	alice.Do("POST", delayed+"/"+known, map[string]any{}).WantError(400, "M_MISSING_PARAM")
	alice.Do("POST", delayed+"/"+known, map[string]any{"action": "forget"}).WantError(400, "M_INVALID_PARAM")
	alice.Do("POST", delayed+"/"+known+"/forget", map[string]any{}).WantError(404, "M_UNRECOGNIZED")
	for _, action := range []string{"cancel", "restart", "send"} {
		alice.Do("POST", delayed+"/unknown/"+action, map[string]any{}).WantError(404, "M_NOT_FOUND")
		alice.Do("POST", delayed+"/unknown", map[string]any{"action": action}).WantError(404, "M_NOT_FOUND")
	}
}

// TestDelayedEventsAreAnnounced: clients learn whether they can schedule anything, and how much.
func TestDelayedEventsAreAnnounced(t *testing.T) {
	const flag, capability = `unstable_features.org\.matrix\.msc4140`, `capabilities.org\.matrix\.msc4140\.delayed_events`
	alice := homeservertest.New(t).User("alice")
	require.True(t, alice.Do("GET", "/_matrix/client/versions", nil).Get(flag).Bool())
	bounds := alice.Do("GET", v3+"/capabilities", nil).Get(capability)
	require.Equal(t, int64(24*time.Hour/time.Millisecond), bounds.Get("max_delay_ms").Int())
	require.Equal(t, int64(100), bounds.Get("max_scheduled").Int())

	never := homeservertest.New(t, func(c *homeserver.Config) { c.Delays.Max = -1 }).User("alice")
	require.False(t, never.Do("GET", "/_matrix/client/versions", nil).Get(flag).Bool())
	require.False(t, never.Do("GET", v3+"/capabilities", nil).Get(capability).Exists())
	later(never, never.CreateRoom(homeservertest.Private), "send/m.room.message/1", 1, text("a")).WantError(403, "M_FORBIDDEN")
}

// TestDelayedEventsSurviveRestarts: what became due while the server was away is sent when it is back, the rest in time.
func TestDelayedEventsSurviveRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice := hs.User("alice")
		room := alice.CreateRoom(homeservertest.Private)
		later(alice, room, "send/m.room.message/1", 100, text("overdue")).WantOK()
		later(alice, room, "send/m.room.message/2", 60_000, text("to come")).WantOK()
		hs.Restart()
		time.Sleep(time.Second)
		require.Equal(t, []string{"overdue"}, talks(alice, room))
		require.Len(t, scheduled(alice), 1)
		hs.Restart()
		time.Sleep(time.Minute)
		require.Equal(t, []string{"overdue", "to come"}, talks(alice, room))
	})
}

// TestDelayedStateIsOvertaken: state that somebody else changes meanwhile is theirs; the user's own changes do not count,
// for clients schedule that they leave before they join.
func TestDelayedStateIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice, bob := hs.User("alice"), hs.User("bob")
		room := alice.CreateRoomWith(map[string]any{
			"preset": "public_chat", "power_level_content_override": map[string]any{"state_default": 0},
		})
		bob.MustJoin(room)
		set := func(u *homeservertest.User, key, by string) {
			u.SetState(room, "org.example", key, map[string]any{"by": by}).WantOK()
		}
		for _, key := range []string{"own", "theirs", "both"} {
			set(bob, key, "before")
			later(alice, room, "state/org.example/"+key, 10_000, map[string]any{"by": "later"}).WantOK()
		}
		hand := later(alice, room, "state/org.example/hand", 10_000, map[string]any{"by": "later"}).WantOK().Get("delay_id").Str
		set(alice, "own", "alice")
		set(bob, "theirs", "bob")
		set(bob, "both", "bob")
		set(alice, "both", "alice")
		set(bob, "hand", "bob")
		require.Len(t, scheduled(alice), 1)
		for _, action := range []string{"restart", "send", "cancel"} {
			handle(alice, hand, action).WantError(404, "M_NOT_FOUND")
		}
		time.Sleep(11 * time.Second)
		by := func(key string) string { return alice.State(room, "org.example", key).WantOK().Get("by").Str }
		require.Equal(t, "later", by("own"))
		require.Equal(t, "bob", by("theirs"))
		require.Equal(t, "alice", by("both"))
		require.Equal(t, "bob", by("hand"))
		require.Empty(t, scheduled(alice))
	})
}

// TestDelayedEventsThatMayNotBeSent: what the room does not allow when the time has come is dropped, and holds up
// nothing; nothing is sent for those who are gone, though it is for a device that was logged out.
func TestDelayedEventsThatMayNotBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
		room := alice.CreateRoom(homeservertest.Public)
		bob.MustJoin(room)
		carol.MustJoin(room)
		later(bob, room, "send/m.room.message/1", 1000, text("from outside")).WantOK()
		byHand := later(bob, room, "send/m.room.message/2", 60_000, text("from outside")).WantOK().Get("delay_id").Str
		later(carol, room, "send/m.room.message/1", 1000, text("from nobody")).WantOK()
		phone := alice.Login()
		later(phone, room, "send/m.room.message/1", 1000, text("from afar")).WantOK()
		alice.MustKick(room, bob)
		phone.Do("POST", v3+"/logout", nil).WantOK()
		carol.Do("POST", v3+"/account/deactivate", map[string]any{
			"auth": map[string]any{"type": "m.login.password", "user": carol.ID, "password": carol.Password},
		}).WantOK()
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"from afar"}, talks(alice, room))
		handle(bob, byHand, "send").WantError(403, "M_FORBIDDEN")
		require.Empty(t, scheduled(bob))
	})
}

// TestDelayedEventsAreNothingThatIsDone: presence follows what people do, not what they have left behind.
func TestDelayedEventsAreNothingThatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice := hs.User("alice")
		room := alice.CreateRoom(homeservertest.Private)
		status := v3 + "/presence/" + url.PathEscape(alice.ID) + "/status"
		alice.Do("PUT", status, map[string]any{"presence": "unavailable"}).WantOK()
		later(alice, room, "send/m.room.message/1", 1000, text("a")).WantOK()
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"a"}, talks(alice, room))
		require.Equal(t, "unavailable", alice.Do("GET", status, nil).WantOK().Get("presence").Str)
	})
}

// TestDelayedUnchangedState: state that is so already is not said again, and its entry is gone.
func TestDelayedUnchangedState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := homeservertest.New(t).User("alice")
		room := alice.CreateRoom(homeservertest.Private)
		first := alice.SetState(room, "org.example", "", map[string]any{"a": 1}).WantOK().Get("event_id").Str
		later(alice, room, "state/org.example", 1000, map[string]any{"a": 1}).WantOK()
		time.Sleep(2 * time.Second)
		now := alice.Do("GET", v3+"/rooms/"+url.PathEscape(room)+"/state/org.example?format=event", nil).WantOK()
		require.Equal(t, first, now.Get("event_id").Str)
		require.Empty(t, scheduled(alice))
	})
}

// TestManyDelayedEvents: a schedule that is full is worked off.
func TestManyDelayedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t, func(c *homeserver.Config) { c.Delays.PerUser = 1000 })
		alice := hs.User("alice")
		rooms := []string{alice.CreateRoom(homeservertest.Private), alice.CreateRoom(homeservertest.Private)}
		for i := range 250 {
			later(alice, rooms[i%2], fmt.Sprint("send/m.room.message/", i), 1000, text(fmt.Sprint(i))).WantOK()
		}
		time.Sleep(5 * time.Second)
		require.Empty(t, scheduled(alice))
		for _, room := range rooms {
			all := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"125"}}).WantOK().Get("chunk").Array()
			for i := range all[1:] {
				require.Greater(t, all[i].Get("content.body").Int(), all[i+1].Get("content.body").Int(), "in their order")
			}
		}
	})
}
