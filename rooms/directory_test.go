package rooms_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// aliasPath is the path of an alias in the directory.
func aliasPath(alias string) string { return v3 + "/directory/room/" + url.PathEscape(alias) }

// local is an alias of the test server.
func local(name string) string { return "#" + name + ":" + homeservertest.Name }

func putAlias(u *homeservertest.User, alias, room string) *homeservertest.Response {
	return u.Do("PUT", aliasPath(alias), map[string]any{"room_id": room})
}

// DR-01, DR-02.
func TestAliases(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room, other := alice.CreateRoom(homeservertest.Private), alice.CreateRoom(homeservertest.Private)
	nobody := &homeservertest.User{}
	*nobody = *hs.User("nobody")
	nobody.Token = ""

	for _, alias := range []string{local("a"), local("老虎Â£я🤨👉ඞ"), local("a/b c%")} {
		putAlias(alice, alias, room).WantOK()
		r := nobody.Do("GET", aliasPath(alias), nil).WantOK()
		require.Equal(t, room, r.Get("room_id").String())
		require.JSONEq(t, `["`+homeservertest.Name+`"]`, r.Get("servers").Raw)
	}
	putAlias(alice, local("a"), room).WantError(409, "M_UNKNOWN")
	putAlias(alice, local("a"), other).WantError(409, "M_UNKNOWN")
	putAlias(bob, local("b"), room).WantError(403, "M_FORBIDDEN")
	putAlias(alice, local("b"), "!nowhere:x").WantError(403, "M_FORBIDDEN")
	putAlias(alice, "#a:elsewhere.test", room).WantError(400, "M_INVALID_PARAM")
	putAlias(alice, local("b"), "room").WantError(400, "M_INVALID_PARAM")
	alice.Do("PUT", aliasPath(local("b")), map[string]any{}).WantError(400, "M_MISSING_PARAM")
	alice.Do("PUT", aliasPath(local("b")), map[string]any{"room_id": 1}).WantError(400, "M_BAD_JSON")
	hs.Guest().Do("PUT", aliasPath(local("b")), map[string]any{"room_id": room}).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
	for _, bad := range []string{"a", "#:hs.test", "#a", "#a\x00:hs.test", "#" + strings.Repeat("a", 255) + ":hs.test"} {
		alice.Do("GET", aliasPath(bad), nil).WantError(400, "M_INVALID_PARAM")
	}
	alice.Do("GET", aliasPath(local("b")), nil).WantError(404, "M_NOT_FOUND")
	alice.Do("GET", aliasPath("#a:elsewhere.test"), nil).WantError(404, "M_NOT_FOUND")
	hs.Restart()
	require.Equal(t, room, alice.Do("GET", aliasPath(local("a")), nil).WantOK().Get("room_id").String())
}

// DR-03.
func TestDeleteAlias(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	putAlias(alice, local("of-alice"), room).WantOK()
	putAlias(bob, local("of-bob"), room).WantOK()
	drop := func(u *homeservertest.User, alias string) *homeservertest.Response {
		return u.Do("DELETE", aliasPath(alias), nil)
	}
	drop(bob, local("of-alice")).WantError(403, "M_FORBIDDEN")
	drop(carol, local("of-bob")).WantError(403, "M_FORBIDDEN")
	drop(bob, local("of-bob")).WantOK()
	drop(bob, local("of-bob")).WantError(404, "M_NOT_FOUND")
	putAlias(bob, local("of-bob"), room).WantOK()
	drop(alice, local("of-bob")).WantOK() // who may change the canonical alias may
	alice.Do("GET", aliasPath(local("of-bob")), nil).WantError(404, "M_NOT_FOUND")
}

// DR-03: an alias that is deleted is no canonical alias any more, if who deletes it may say so.
func TestDeletedAliasIsNotCanonical(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	for _, name := range []string{"one", "two", "three"} {
		putAlias(alice, local(name), room).WantOK()
	}
	putAlias(bob, local("bobs"), room).WantOK()
	canonical := func() string { return string(alice.State(room, "m.room.canonical_alias", "").WantOK().Body) }
	alice.SetState(room, "m.room.canonical_alias", "", map[string]any{
		"alias": local("one"), "alt_aliases": []string{local("two"), local("three"), local("bobs")}, "x": 1,
	}).WantOK()
	alice.Do("DELETE", aliasPath(local("two")), nil).WantOK()
	require.JSONEq(t, `{"alias":"`+local("one")+`","alt_aliases":["`+local("three")+`","`+local("bobs")+`"],"x":1}`, canonical())
	bob.Do("DELETE", aliasPath(local("bobs")), nil).WantOK()
	require.Contains(t, canonical(), local("bobs"), "bob may not change the event, but delete his alias")
	alice.SetState(room, "m.room.canonical_alias", "", map[string]any{"alias": local("one"), "alt_aliases": []string{local("one")}}).WantOK()
	alice.Do("DELETE", aliasPath(local("one")), nil).WantOK()
	require.JSONEq(t, `{}`, canonical())
}

// DR-05.
func TestAliasesOfRoom(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	list := func(u *homeservertest.User) *homeservertest.Response {
		return u.Do("GET", inRoom(room, "aliases"), nil)
	}
	require.JSONEq(t, `{"aliases":[]}`, string(list(alice).WantOK().Body))
	putAlias(alice, local("b"), room).WantOK()
	putAlias(alice, local("a"), room).WantOK()
	require.JSONEq(t, `{"aliases":["`+local("a")+`","`+local("b")+`"]}`, string(list(alice).WantOK().Body))
	list(bob).WantError(403, "M_FORBIDDEN")
	bob.MustJoin(room)
	list(bob).WantOK()
	bob.MustLeave(room)
	list(bob).WantError(403, "M_FORBIDDEN")
	alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "world_readable"}).WantOK()
	list(bob).WantOK()
	bob.Do("GET", inRoom("!nowhere:x", "aliases"), nil).WantError(403, "M_FORBIDDEN")
}

// DR-06.
func TestPublishedRooms(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	path := v3 + "/directory/list/room/" + url.PathEscape(room)
	is := func(want string) {
		t.Helper()
		require.Equal(t, want, bob.Do("GET", path, nil).WantOK().Get("visibility").String())
	}
	is("private")
	bob.Do("PUT", path, map[string]any{}).WantError(403, "M_FORBIDDEN")
	bob.MustJoin(room)
	bob.Do("PUT", path, map[string]any{}).WantError(403, "M_FORBIDDEN")
	alice.Do("PUT", path, map[string]any{}).WantOK()
	is("public")
	alice.Do("PUT", path, map[string]any{"visibility": "public"}).WantOK()
	alice.Do("PUT", path, map[string]any{"visibility": "odd"}).WantError(400, "M_INVALID_PARAM")
	alice.Do("PUT", path, map[string]any{"visibility": "private"}).WantOK()
	is("private")
	nowhere := v3 + "/directory/list/room/" + url.PathEscape("!nowhere:x")
	alice.Do("GET", nowhere, nil).WantError(404, "M_NOT_FOUND")
	alice.Do("PUT", nowhere, map[string]any{}).WantError(404, "M_NOT_FOUND")
}

// A server may let everybody list rooms and give them names.
func TestPublishByAnyone(t *testing.T) {
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.PublishByAnyone = true })
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	putAlias(bob, local("a"), room).WantOK()
	bob.Do("PUT", v3+"/directory/list/room/"+url.PathEscape(room), map[string]any{}).WantOK()
	putAlias(bob, local("b"), "!nowhere:x").WantError(404, "M_NOT_FOUND")
}

// DR-01: aliases of other servers are looked up there, also those that a room calls its own.
func TestAliasElsewhere(t *testing.T) {
	net := homeservertest.NewNetwork(t)
	here, there := net.New("here.test"), net.New("there.test")
	alice, bob := here.User("alice"), there.User("bob")
	room, other := alice.CreateRoom(homeservertest.Public), bob.CreateRoom(homeservertest.Public)
	bob.Do("POST", v3+"/join/"+url.PathEscape(room)+"?via=here.test", map[string]any{}).WantOK()
	putAlias(bob, "#a:there.test", room).WantOK()
	putAlias(bob, "#other:there.test", other).WantOK()
	r := alice.Do("GET", aliasPath("#a:there.test"), nil).WantOK()
	require.Equal(t, room, r.Get("room_id").String())
	require.JSONEq(t, `["here.test","there.test"]`, r.Get("servers").Raw)
	alice.Do("GET", aliasPath("#none:there.test"), nil).WantError(404, "M_NOT_FOUND")
	require.Equal(t, 502, alice.Do("GET", aliasPath("#a:nowhere.test"), nil).Status)

	canonical := func(content map[string]any) *homeservertest.Response {
		return alice.SetState(room, "m.room.canonical_alias", "", content)
	}
	canonical(map[string]any{"alias": "#a:there.test", "alt_aliases": []string{"#a:there.test"}}).WantOK()
	canonical(map[string]any{"alt_aliases": []string{"#other:there.test"}}).WantError(400, "M_BAD_ALIAS")
	canonical(map[string]any{"alt_aliases": []string{"#none:there.test"}}).WantError(400, "M_BAD_ALIAS")
	canonical(map[string]any{"alt_aliases": []string{"#a:nowhere.test"}}).WantError(400, "M_BAD_ALIAS")
	bob.Do("DELETE", aliasPath("#a:there.test"), nil).WantOK()
	canonical(map[string]any{"alias": "#a:there.test", "x": 1}).WantOK() // which the room has already
}
