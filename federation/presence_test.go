package federation_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

func setPresence(u *homeservertest.User, state, message string) {
	u.Do("PUT", "/_matrix/client/v3/presence/"+u.ID+"/status", object{"presence": state, "status_msg": message}).WantOK()
}

type object = map[string]any

// presenceOf is what a user is told of another one's presence.
func presenceOf(u *homeservertest.User, of string) gjson.Result {
	s := u.SyncWith(url.Values{"set_presence": {"offline"}})
	return s.Get(`presence.events.#(sender=="` + of + `").content`)
}

// TestPresenceBetweenServers is PT-04 and FT-09: servers that share a room are told of each other's users, also of those
// who were there when the room came to be shared; and no others.
func TestPresenceBetweenServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		one, two, other := network.New("one.test"), network.New("two.test"), network.Rogue("other.test")
		alice, bob := one.User("alice"), two.User("bob")
		setPresence(alice, "online", "before")
		setPresence(bob, "unavailable", "away")
		other.Send(one, nil).WantOK()
		room := alice.CreateRoom(homeservertest.Private)
		alice.MustInvite(room, bob)
		network.Settle(t.Context())
		require.False(t, presenceOf(bob, alice.ID).Exists(), "an invite is no shared room")
		bob.MustJoin(room)
		time.Sleep(time.Second) // what came before the room is looked at again
		network.Settle(t.Context())
		require.Equal(t, "before", presenceOf(bob, alice.ID).Get("status_msg").Str)
		joined := presenceOf(alice, bob.ID)
		require.Equal(t, "away", joined.Get("status_msg").Str)
		require.Equal(t, "online", joined.Get("presence").Str, "who joins does something")

		setPresence(alice, "online", "Update for room members")
		time.Sleep(time.Second)
		network.Settle(t.Context())
		told := presenceOf(bob, alice.ID)
		require.Equal(t, "Update for room members", told.Get("status_msg").Str)
		require.True(t, told.Get("currently_active").Bool())
		require.GreaterOrEqual(t, told.Get("last_active_ago").Int(), int64(1000))
		bob.Do("GET", "/_matrix/client/v3/presence/"+alice.ID+"/status", nil).WantOK()

		time.Sleep(time.Minute)
		network.Settle(t.Context())
		require.Equal(t, "offline", bob.Do("GET", "/_matrix/client/v3/presence/"+alice.ID+"/status", nil).WantOK().Get("presence").Str)
		require.Empty(t, other.Asked("/_matrix/federation/v1/send/"))
	})
}

// A server that is told nothing of a user stops believing after half an hour, but for as long as they are online it is
// told again.
func TestPresenceIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		one, two := network.New("one.test"), network.New("two.test")
		alice, bob := one.User("alice"), two.User("bob")
		room := alice.CreateRoom(homeservertest.Public)
		bob.Do("POST", "/_matrix/client/v3/join/"+room+"?server_name=one.test", object{}).WantOK()
		for range 120 { // two hours
			alice.Sync("")
			alice.SyncWith(url.Values{"timeout": {"60000"}, "since": {alice.Sync("").NextBatch}})
			time.Sleep(20 * time.Second)
		}
		network.Settle(t.Context())
		require.Equal(t, "unavailable", presenceOf(bob, alice.ID).Get("presence").Str)
	})
}

// TestF81PresenceOfStrangers is F-81 and FT-09: a server is believed what it says of its own users who share a room, no
// more than a thousand of them at once; it is told nothing of that itself.
func TestF81PresenceOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		hs, rogue, other := network.New("hs.test"), network.Rogue("rogue.test"), network.Rogue("other.test")
		alice := hs.User("alice")
		room := alice.CreateRoom(homeservertest.Public)
		u, stranger := rogue.UserID("u"), other.UserID("v")
		rogue.Join(hs, room, u)
		other.Join(hs, room, stranger)
		network.Settle(t.Context())
		before := len(rogue.Asked("/_matrix/federation/v1/send/")) + len(other.Asked("/_matrix/federation/v1/send/"))
		push := func(updates ...any) {
			rogue.Send(hs, nil, homeservertest.EDU("m.presence", object{"push": updates})).WantOK()
		}
		online := func(user any) object {
			return object{"user_id": user, "presence": "online", "last_active_ago": 5, "currently_active": true, "status_msg": "hi"}
		}
		var many []any
		for i := range 10_000 {
			many = append(many, online(fmt.Sprintf("@many%d:rogue.test", i)))
		}
		began := time.Now()
		push(append(many[:300:300], online(u), online(stranger), online(alice.ID), online(rogue.UserID("unknown")))...)
		for i := range 33 {
			push(many[i*300 : (i+1)*300]...)
		}
		require.Less(t, time.Since(began), time.Minute)
		require.Equal(t, "hi", presenceOf(alice, u).Get("status_msg").Str)
		told := alice.SyncWith(url.Values{"set_presence": {"offline"}}).Get("presence.events").Array()
		require.Len(t, told, 1, "%s", told)
		alice.Do("GET", "/_matrix/client/v3/presence/"+stranger+"/status", nil).WantOK()
		require.Equal(t, "offline", alice.Do("GET", "/_matrix/client/v3/presence/"+stranger+"/status", nil).Get("presence").Str)

		time.Sleep(time.Minute) // it may say something again
		odd := []any{
			nil, 7, "x", []any{}, object{}, online(7), online("u"), online(nil),
			object{"user_id": u, "presence": "asleep", "last_active_ago": 1}, object{"user_id": u, "presence": 1},
			object{"user_id": u, "presence": "offline", "last_active_ago": -1},
			object{"user_id": u, "presence": "offline", "last_active_ago": "1"},
			object{"user_id": u, "presence": "offline", "currently_active": 1},
			object{"user_id": u, "presence": "offline", "status_msg": object{}},
		}
		push(odd...)
		require.Equal(t, "online", presenceOf(alice, u).Get("presence").Str)
		for _, content := range []any{object{}, object{"push": nil}, object{"push": object{}}, object{"push": "x"}} {
			rogue.Send(hs, nil, homeservertest.EDU("m.presence", content)).WantOK()
		}
		push(object{"user_id": u, "presence": "unavailable", "last_active_ago": json.Number("9007199254740991"), "status_msg": strings.Repeat("x", 1001)})
		content := presenceOf(alice, u)
		require.Equal(t, "unavailable", content.Get("presence").Str)
		require.False(t, content.Get("status_msg").Exists(), "a message that is too long is left out")
		require.Positive(t, content.Get("last_active_ago").Int())
		network.Settle(t.Context())
		after := len(rogue.Asked("/_matrix/federation/v1/send/")) + len(other.Asked("/_matrix/federation/v1/send/"))
		require.Equal(t, before, after, "nothing is passed on")
	})
}

// Where presence is off, other servers are told nothing, and what they say is passed over.
func TestNoPresenceBetweenServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		hs, rogue := network.New("hs.test", func(cfg *homeserver.Config) { cfg.NoPresence = true }), network.Rogue("rogue.test")
		alice := hs.User("alice")
		room := alice.CreateRoom(homeservertest.Public)
		rogue.Join(hs, room, rogue.UserID("u"))
		setPresence(alice, "online", "")
		rogue.Send(hs, nil, homeservertest.EDU("m.presence", object{"push": []any{object{"user_id": rogue.UserID("u"), "presence": "online", "last_active_ago": 1}}})).WantOK()
		network.Settle(t.Context())
		require.False(t, presenceOf(alice, rogue.UserID("u")).Exists())
		for _, a := range rogue.Asked("/_matrix/federation/v1/send/") {
			require.NotContains(t, string(a.Body), "m.presence")
		}
	})
}
