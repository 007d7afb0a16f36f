package rooms_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

func lookUp(u *homeservertest.User, term string) *homeservertest.Response {
	return u.Do("POST", v3+"/user_directory/search", map[string]any{"search_term": term}).WantOK()
}

// people are whom the user directory finds.
func people(u *homeservertest.User, term string) []string {
	ids := []string{}
	for _, v := range lookUp(u, term).Get("results.#.user_id").Array() {
		ids = append(ids, v.String())
	}
	return ids
}

// PR-07: how one is found.
func TestUserDirectoryTerms(t *testing.T) {
	hs := homeservertest.New(t)
	alice, eve := hs.User("alice-b.c"), hs.User("eve")
	setField(alice, "displayname", "Ångström O'Neil 東京").WantOK()
	setField(alice, "avatar_url", "mxc://hs.test/a").WantOK()
	alice.CreateRoom(homeservertest.Public)
	for _, term := range []string{
		"alice-b.c", "alice", "ALICE", "ali", "ali c", "@alice-b.c:hs.test", "@ALICE-B.C:HS.TEST", "@ali", "alice-b.c:hs", "ångström", "ÅNGSTRÖM",
		"neil ång", "o'neil", "東", "東京", " alice\n", "alice \x00 c", "Alice alice alice",
	} {
		require.Equal(t, []string{alice.ID}, people(eve, term), "%q", term)
	}
	for _, term := range []string{"", " ", "lice", "hs.test", "bob", "ali bob", "%", "*", "_", "@", ":", "\x00", "'", "\xff", "京東x", strings.Repeat("zz ", 5000)} {
		require.Empty(t, people(eve, term), "%q", term)
	}
	require.JSONEq(t, `{"limited":false,"results":[{"user_id":"@alice-b.c:hs.test","display_name":"Ångström O'Neil 東京","avatar_url":"mxc://hs.test/a"}]}`,
		string(lookUp(eve, "alice").Body))
	eve.Do("POST", v3+"/user_directory/search", map[string]any{}).WantError(400, "M_MISSING_PARAM")
	eve.Do("POST", v3+"/user_directory/search", map[string]any{"search_term": 1}).WantError(400, "M_BAD_JSON")
	eve.Do("POST", v3+"/user_directory/search", map[string]any{"search_term": "a", "limit": -1}).WantError(400, "M_INVALID_PARAM")
}

// PR-07: limited says that there are others; who is called like that comes first.
func TestUserDirectoryLimit(t *testing.T) {
	hs := homeservertest.New(t)
	eve := hs.User("eve")
	room := eve.CreateRoom(homeservertest.Public)
	for i := range 12 {
		u := hs.User(fmt.Sprintf("person%d", i))
		u.MustJoin(room)
	}
	named := hs.User("zoe")
	setField(named, "displayname", "Person").WantOK()
	named.MustJoin(room)
	search := func(limit any) *homeservertest.Response {
		return eve.Do("POST", v3+"/user_directory/search", map[string]any{"search_term": "person", "limit": limit}).WantOK()
	}
	r := lookUp(eve, "person")
	require.Len(t, r.Get("results").Array(), 10)
	require.True(t, r.Get("limited").Bool())
	require.Equal(t, named.ID, r.Get("results.0.user_id").String())
	r = search(13)
	require.Len(t, r.Get("results").Array(), 13)
	require.False(t, r.Get("limited").Bool())
	require.Len(t, search(1e9).Get("results").Array(), 13)
	require.Equal(t, `{"results":[],"limited":true}`, string(search(0).Body))
}

// PR-07: whom one finds: in rooms that anybody may join or read, and in rooms that one shares.
func TestUserDirectoryVisibility(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, eve := hs.User("alice"), hs.User("bob"), hs.User("eve")
	require.Empty(t, people(eve, "alice"), "in no room")
	private := alice.CreateRoom(homeservertest.Private)
	require.Empty(t, people(eve, "alice"))
	alice.MustInvite(private, bob)
	require.Empty(t, people(bob, "alice"), "invited only")
	require.Empty(t, people(alice, "bob"))
	bob.MustJoin(private)
	require.Equal(t, []string{alice.ID}, people(bob, "alice"))
	require.Equal(t, []string{bob.ID}, people(alice, "bob"))
	require.Empty(t, people(eve, "alice"))
	require.Empty(t, people(alice, "alice"), "nobody looks for themselves")

	for _, open := range []struct{ eventType, key, on, off string }{
		{"m.room.join_rules", "join_rule", "public", "invite"},
		{"m.room.history_visibility", "history_visibility", "world_readable", "shared"},
	} {
		alice.SetState(private, open.eventType, "", map[string]any{open.key: open.on}).WantOK()
		require.Equal(t, []string{alice.ID}, people(eve, "alice"), open.eventType)
		require.Equal(t, []string{bob.ID}, people(bob, "bob"))
		alice.SetState(private, open.eventType, "", map[string]any{open.key: open.off}).WantOK()
		require.Empty(t, people(eve, "alice"), open.eventType)
		require.Equal(t, []string{alice.ID}, people(bob, "alice"))
	}
	alice.SetState(private, "m.room.join_rules", "", map[string]any{"join_rule": "public"}).WantOK()
	alice.SetState(private, "m.room.history_visibility", "", map[string]any{"history_visibility": "world_readable"}).WantOK()
	alice.SetState(private, "m.room.join_rules", "", map[string]any{"join_rule": "invite"}).WantOK()
	require.Equal(t, []string{alice.ID}, people(eve, "alice"), "the other one is enough")
	alice.SetState(private, "m.room.history_visibility", "", map[string]any{"history_visibility": "shared"}).WantOK()
	require.Empty(t, people(eve, "alice"))

	one, two := bob.CreateRoom(homeservertest.Public), bob.CreateRoom(homeservertest.Public)
	alice.MustJoin(one)
	alice.MustJoin(two)
	alice.MustLeave(two)
	require.Equal(t, []string{alice.ID}, people(eve, "alice"))
	hs.Restart()
	require.Equal(t, []string{alice.ID}, people(eve, "alice"))
	alice.MustLeave(one)
	require.Empty(t, people(eve, "alice"))
	bob.MustLeave(private)
	require.Empty(t, people(bob, "alice"))
}

// PR-07, C-51: a name that somebody has in a room is nobody else's business; their profile's is what is found.
func TestUserDirectoryKnowsNoRoomNames(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, eve := hs.User("alice"), hs.User("bob"), hs.User("eve")
	setField(alice, "displayname", "Alice Cooper").WantOK()
	open, private := alice.CreateRoom(homeservertest.Public), bob.CreateRoom(homeservertest.Private)
	bob.MustInvite(private, alice)
	alice.MustJoin(private)
	for _, room := range []string{open, private} {
		alice.SetState(room, "m.room.member", alice.ID, map[string]any{"membership": "join", "displayname": "Freddy", "avatar_url": "mxc://hs.test/nick"}).WantOK()
	}
	for _, u := range []*homeservertest.User{bob, eve, alice} {
		require.Empty(t, people(u, "freddy"))
		require.Equal(t, `[{"user_id":"@alice:hs.test","display_name":"Alice Cooper"}]`, lookUp(u, "Alice Cooper").Get("results").Raw)
	}
	setField(alice, "displayname", "Alice B").WantOK()
	require.Empty(t, people(eve, "cooper"))
	require.Empty(t, people(bob, "cooper"))
	require.Equal(t, []string{alice.ID}, people(eve, "alice b"))
	require.Equal(t, []string{alice.ID}, people(bob, "alice b"))
	alice.Do("DELETE", profilePath(alice.ID, "displayname"), nil).WantOK()
	require.Empty(t, people(bob, "b"))
}

// PR-07: who is gone is not found.
func TestUserDirectoryWithoutTheGone(t *testing.T) {
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.FindAllUsers = true })
	alice, eve := hs.User("alice"), hs.User("eve")
	require.Equal(t, []string{alice.ID}, people(eve, "alice"), "FindAllUsers: in no room")
	require.Equal(t, []string{eve.ID}, people(eve, "eve"))
	setField(alice, "displayname", "Zaphod").WantOK()
	require.Equal(t, []string{alice.ID}, people(eve, "zaphod"))
	alice.CreateRoom(homeservertest.Public)
	alice.Do("POST", v3+"/account/deactivate", map[string]any{"auth": map[string]any{
		"type": "m.login.password", "password": alice.Password, "identifier": map[string]any{"type": "m.id.user", "user": alice.ID},
	}}).WantOK()
	require.Empty(t, people(eve, "alice"))
	require.Empty(t, people(eve, "zaphod"))
}
