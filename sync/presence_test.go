package syncing_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/token"
	syncing "github.com/embedmatrix/homeserver/sync"
)

func statusPath(userID string) string {
	return "/_matrix/client/v3/presence/" + url.PathEscape(userID) + "/status"
}

func setStatus(u *homeservertest.User, state, message string) {
	u.Do("PUT", statusPath(u.ID), object{"presence": state, "status_msg": message}).WantOK()
}

// quiet syncs without telling that it does.
func quiet(u *homeservertest.User, since string, pairs ...string) *homeservertest.Sync {
	pairs = append(pairs, "set_presence", "offline")
	if since != "" {
		pairs = append(pairs, "since", since)
	}
	return ask(u, pairs...)
}

// present are the states that an answer tells, by user.
func present(answer interface{ Get(string) gjson.Result }) map[string]string {
	list := map[string]string{}
	for _, e := range answer.Get("presence.events").Array() {
		list[e.Get("sender").Str] = e.Get("content.presence").Str
	}
	return list
}

type states = map[string]string

// TestPresenceStatus is PT-01: one's own can be set, that of whoever shares a room can be read.
func TestPresenceStatus(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	get := func(u *homeservertest.User, of string) *homeservertest.Response {
		return u.Do("GET", statusPath(of), nil)
	}
	require.JSONEq(t, `{"presence":"offline"}`, string(get(alice, alice.ID).WantOK().Body), "before anything is known")
	setStatus(alice, "online", "here")
	own := get(alice, alice.ID).WantOK()
	require.Equal(t, "online", own.Get("presence").Str)
	require.Equal(t, "here", own.Get("status_msg").Str)
	require.True(t, own.Get("currently_active").Bool())
	require.Less(t, own.Get("last_active_ago").Int(), int64(10_000))

	get(bob, alice.ID).WantError(403, "M_FORBIDDEN")
	get(bob, "@nobody:hs.test").WantError(404, "M_NOT_FOUND")
	get(bob, "@nobody:elsewhere.test").WantError(404, "M_NOT_FOUND")
	bob.MustJoin(alice.CreateRoom(public))
	require.Equal(t, "here", get(bob, alice.ID).WantOK().Get("status_msg").Str)
	get(carol, alice.ID).WantError(403, "M_FORBIDDEN")

	alice.Do("PUT", statusPath(alice.ID), object{"presence": "unavailable"}).WantOK()
	require.False(t, get(bob, alice.ID).Get("status_msg").Exists(), "a message that is not sent is taken away")
	require.False(t, get(bob, alice.ID).Get("currently_active").Exists())

	bob.Do("PUT", statusPath(alice.ID), object{"presence": "online"}).WantError(403, "M_FORBIDDEN")
	tests := []struct {
		body object
		code string
	}{
		{object{}, "M_MISSING_PARAM"},
		{object{"presence": "asleep"}, "M_INVALID_PARAM"},
		{object{"presence": "online", "status_msg": strings.Repeat("x", 1001)}, "M_INVALID_PARAM"},
		{object{"presence": 1}, "M_BAD_JSON"},
		{object{"presence": "online", "status_msg": 1}, "M_BAD_JSON"},
	}
	for _, tt := range tests {
		alice.Do("PUT", statusPath(alice.ID), tt.body).WantError(400, tt.code)
	}
	alice.Do("PUT", statusPath(alice.ID), object{"presence": "online", "status_msg": nil}).WantOK()
}

// TestPresenceIsTold is SY-30 and PT-04: those who share a room, and the user, are told of changes, once.
func TestPresenceIsTold(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	bob.MustJoin(alice.CreateRoom(public))
	since := map[*homeservertest.User]string{}
	for _, u := range p {
		since[u] = quiet(u, "").NextBatch
	}
	setStatus(alice, "online", "Update for room members")
	told := quiet(bob, since[bob])
	require.Equal(t, states{alice.ID: "online"}, present(told))
	e := told.Get("presence.events.0")
	require.Equal(t, "m.presence", e.Get("type").Str)
	require.Equal(t, "Update for room members", e.Get("content.status_msg").Str)
	require.True(t, e.Get("content.currently_active").Bool())
	require.True(t, e.Get("content.last_active_ago").Exists())
	require.False(t, quiet(bob, told.NextBatch).Get("presence").Exists(), "only changes")
	require.Equal(t, states{alice.ID: "online"}, present(quiet(bob, since[bob])), "the same token, the same answer")
	require.Equal(t, states{alice.ID: "online"}, present(quiet(alice, since[alice])), "she herself")
	require.Empty(t, present(quiet(carol, since[carol])), "a stranger")
	require.Equal(t, states{alice.ID: "online"}, present(quiet(bob, "")), "initial")
	setStatus(alice, "offline", "")
	require.Equal(t, states{alice.ID: "offline"}, present(quiet(bob, told.NextBatch)))
	require.Empty(t, present(quiet(bob, "")), "who is offline is not told of at first")
}

// TestSetPresenceOfSync is SY-38.
func TestSetPresenceOfSync(t *testing.T) {
	alice, bob := two(t)
	bob.MustJoin(alice.CreateRoom(public))
	since := quiet(bob, "").NextBatch
	tests := []struct {
		query []string
		want  states
	}{
		{[]string{"set_presence", "offline"}, states{}},
		{nil, states{alice.ID: "online"}},
		{[]string{"set_presence", "offline"}, states{}},
		{[]string{"set_presence", "unavailable"}, states{alice.ID: "unavailable"}},
		{[]string{"set_presence", "online"}, states{alice.ID: "online"}},
		{[]string{"set_presence", "online"}, states{}},
	}
	for i, tt := range tests {
		ask(alice, tt.query...)
		told := quiet(bob, since)
		require.Equal(t, tt.want, present(told), "step %d", i)
		since = told.NextBatch
	}
}

// TestPresenceFilter: FI-07.
func TestPresenceFilter(t *testing.T) {
	alice, bob := two(t)
	bob.MustJoin(alice.CreateRoom(public))
	setStatus(alice, "online", "")
	setStatus(bob, "unavailable", "")
	tests := []struct {
		filter string
		want   states
	}{
		{`{}`, states{alice.ID: "online", bob.ID: "unavailable"}},
		{`{"presence":{"types":["m.presence"]}}`, states{alice.ID: "online", bob.ID: "unavailable"}},
		{`{"presence":{"types":[]}}`, states{}},
		{`{"presence":{"not_types":["m.*"]}}`, states{}},
		{`{"presence":{"senders":["` + bob.ID + `"]}}`, states{bob.ID: "unavailable"}},
		{`{"presence":{"not_senders":["` + bob.ID + `"]}}`, states{alice.ID: "online"}},
		{`{"presence":{"limit":0}}`, states{}},
		{`{"presence":{"limit":1,"not_senders":["` + alice.ID + `"]}}`, states{bob.ID: "unavailable"}},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, present(quiet(alice, "", "filter", tt.filter)), "filter %s", tt.filter)
	}
	first := quiet(alice, "", "filter", `{"presence":{"limit":1}}`)
	require.Equal(t, states{alice.ID: "online"}, present(first))
	require.Equal(t, states{bob.ID: "unavailable"}, present(quiet(alice, first.NextBatch, "filter", `{"presence":{"limit":1}}`)),
		"what did not fit comes next")
}

// Who comes into a room is told who is there, and those there who comes.
func TestPresenceOfNewMembers(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	room := alice.CreateRoom(public)
	for _, u := range p {
		setStatus(u, "online", "")
	}
	before := map[*homeservertest.User]string{}
	for _, u := range p {
		before[u] = quiet(u, "").NextBatch
	}
	bob.MustJoin(room)
	joined := quiet(bob, before[bob])
	require.Equal(t, states{alice.ID: "online"}, present(joined))
	require.Equal(t, states{bob.ID: "online"}, present(quiet(alice, before[alice])))
	require.Empty(t, present(quiet(carol, before[carol])))
	require.Empty(t, present(quiet(bob, joined.NextBatch)))
	bob.MustLeave(room)
	left := quiet(bob, joined.NextBatch)
	setStatus(alice, "unavailable", "")
	require.Empty(t, present(quiet(bob, left.NextBatch)), "who has left is told nothing")
}

// Nor is it left out that somebody is offline, when it is known since when.
func TestPresenceOfNewMembersWhoAreOffline(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	aliceKnows, bobKnows := quiet(alice, "").NextBatch, quiet(bob, "").NextBatch
	bob.MustJoin(room)
	joined := quiet(bob, bobKnows)
	require.Equal(t, states{alice.ID: "offline"}, present(joined))
	require.True(t, joined.Get("presence.events.0.content.last_active_ago").Exists())
	require.Empty(t, present(quiet(bob, joined.NextBatch)))
	require.Equal(t, states{bob.ID: "offline"}, present(quiet(alice, aliceKnows)))
}

// PR-05: a new name is told with the presence.
func TestPresenceTellsNewNames(t *testing.T) {
	alice, bob := two(t)
	bob.MustJoin(alice.CreateRoom(public))
	setStatus(alice, "online", "")
	since := quiet(bob, "").NextBatch
	alice.Do("PUT", "/_matrix/client/v3/profile/"+alice.ID+"/displayname", object{"displayname": "Alice"}).WantOK()
	alice.Do("PUT", "/_matrix/client/v3/profile/"+alice.ID+"/avatar_url", object{"avatar_url": "mxc://hs.test/a"}).WantOK()
	content := quiet(bob, since).Get("presence.events.0.content")
	require.Equal(t, "Alice", content.Get("displayname").Str)
	require.Equal(t, "mxc://hs.test/a", content.Get("avatar_url").Str)
	require.Equal(t, "online", content.Get("presence").Str)
}

// Nothing is told of users whom somebody ignores.
func TestPresenceOfIgnored(t *testing.T) {
	alice, bob := two(t)
	bob.MustJoin(alice.CreateRoom(public))
	setData(bob, "m.ignored_user_list", object{"ignored_users": object{alice.ID: object{}}})
	setStatus(alice, "online", "")
	require.Empty(t, present(quiet(bob, "")))
}

// TestPresenceWakes is SY-41 for presence, and PT-02 over the wire: long polls end when somebody comes, is idle, acts and
// goes; those who share no room sleep on.
func TestPresenceWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := people(t, "alice", "bob", "carol")
		alice, bob, carol := p[0], p[1], p[2]
		room := alice.CreateRoom(public)
		bob.MustJoin(room)
		since, began := quiet(bob, "").NextBatch, time.Now()
		// until polls as bob until alice is in a state, and then it has to be some time since the beginning.
		until := func(state string, active bool, want time.Duration) {
			t.Helper()
			for {
				r := bob.Do("GET", syncPath+"?set_presence=offline&timeout=100000&since="+since, nil).WantOK()
				since = r.Get("next_batch").Str
				e := r.Get("presence.events.0")
				require.Less(t, time.Since(began), time.Hour)
				if e.Get("sender").Str == alice.ID && e.Get("content.presence").Str == state && e.Get("content.currently_active").Bool() == active {
					require.Equal(t, want, time.Since(began), "%s is %s", alice.ID, state)
					return
				}
			}
		}
		ends, stop := context.WithCancel(t.Context())
		var polls sync.WaitGroup
		polls.Go(func() {
			for own := alice.Sync("").NextBatch; ends.Err() == nil; {
				r := alice.DoContext(ends, "GET", syncPath+"?timeout=60000&since="+own, nil)
				if ends.Err() == nil {
					own = r.WantOK().Get("next_batch").Str
				}
			}
		})
		until("online", true, 0)
		until("online", false, time.Minute)
		until("unavailable", false, 5*time.Minute)
		alice.Send(room, "back")
		until("online", true, 5*time.Minute)
		stop()
		polls.Wait()
		until("offline", false, 5*time.Minute+30*time.Second)

		go func() {
			time.Sleep(5 * time.Second)
			setStatus(alice, "online", "")
		}()
		r := carol.Do("GET", syncPath+"?set_presence=offline&timeout=10000&since="+quiet(carol, "").NextBatch, nil).WantOK()
		require.False(t, r.Get("presence").Exists())
		require.Equal(t, 5*time.Minute+40*time.Second, time.Since(began), "nobody whom it does not concern is woken")
	})
}

// Users who log out or are deactivated are offline at once.
func TestPresenceEndsWithTheSession(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	carol.MustJoin(room)
	setStatus(bob, "online", "bob")
	setStatus(carol, "online", "carol")
	told := quiet(alice, "")
	require.Equal(t, states{bob.ID: "online", carol.ID: "online"}, present(told))
	bob.Do("POST", "/_matrix/client/v3/logout", nil).WantOK()
	told = quiet(alice, told.NextBatch)
	require.Equal(t, states{bob.ID: "offline"}, present(told))
	require.NoError(t, hs.Homeserver().Admin().Deactivate(t.Context(), carol.ID, true))
	alice.Do("GET", statusPath(carol.ID), nil).WantError(403, "M_FORBIDDEN")
	require.Equal(t, states{bob.ID: "offline"}, present(quiet(alice, "")), "with what he has said of it")
}

// Where presence is off, everybody is offline, setting it changes nothing, and nobody is told.
func TestNoPresence(t *testing.T) {
	hs := homeservertest.New(t, func(cfg *homeserver.Config) { cfg.NoPresence = true })
	alice, bob := hs.User("alice"), hs.User("bob")
	bob.MustJoin(alice.CreateRoom(public))
	setStatus(alice, "online", "here")
	require.JSONEq(t, `{"presence":"offline"}`, string(bob.Do("GET", statusPath(alice.ID), nil).WantOK().Body))
	bob.Do("PUT", statusPath(alice.ID), object{"presence": "online"}).WantError(403, "M_FORBIDDEN")
	alice.Sync("")
	require.False(t, bob.Sync("").Get("presence").Exists())
}

// After a restart the numbers of before mean nothing: a client is told who is there now.
func TestPresenceAfterRestart(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	bob.MustJoin(alice.CreateRoom(public))
	setStatus(alice, "online", "")
	since := quiet(bob, "").NextBatch
	hs.Restart()
	setStatus(alice, "unavailable", "")
	require.Equal(t, states{alice.ID: "unavailable"}, present(quiet(bob, since)))
}

// gathering is a plant with a room of many.
func gathering(t testing.TB, members int) (*plant, *ephemeral.Presence) {
	p := newPlant(t)
	p.room(0, members)
	presence := ephemeral.NewPresence(func() { p.sync.PresenceChanged() })
	cfg := p.sync.Config
	cfg.Presence, cfg.ServerName = presence, "x"
	p.sync = syncing.New(cfg)
	return p, presence
}

// An answer tells of a thousand people; the next ones of the others, and then there is no more.
func TestPresenceOfManyComesInParts(t *testing.T) {
	p, presence := gathering(t, 2500)
	for i := range 2500 {
		presence.Set(user(i), "D", ephemeral.Online, "")
	}
	q := syncing.Request{User: user(1), Device: "D", Filter: p.filter(`{"room":{"rooms":[]}}`)}
	told := map[string]bool{}
	for _, want := range []int{1000, 1000, 500, 0} {
		a, err := p.sync.Sync(context.Background(), q)
		require.NoError(t, err)
		list := gjson.GetBytes(a.AppendJSON(nil), "presence.events").Array()
		require.Len(t, list, want)
		for _, e := range list {
			told[e.Get("sender").Str] = true
		}
		next, err := token.ParseStream(a.Next())
		require.NoError(t, err)
		q.Since = &next
	}
	require.Len(t, told, 2500)
}

// However often members of a large room change, the others are woken for it once in a while: 2,000 members every two
// seconds. The first change is told at once.
func TestPresenceOfLargeRoomsIsToldTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, presence := gathering(t, 2000)
		p.sync.Start()
		defer p.sync.Close()
		w := p.hub.Wait(user(1))
		defer w.Close()
		wakes := 0
		for i := range 600 { // a minute
			presence.Set(user(i%1000+2), "D", ephemeral.Online, fmt.Sprint(i))
			synctest.Wait()
			select {
			case <-w.C:
				wakes++
			default:
			}
			require.True(t, i > 0 || wakes == 1, "the first is told at once")
			time.Sleep(100 * time.Millisecond)
		}
		require.InDelta(t, 30, wakes, 3)
	})
}
