package rooms_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// hierarchy asks for a page of a space.
func hierarchy(u *homeservertest.User, space, query string) *homeservertest.Response {
	return u.Do("GET", "/_matrix/client/v1/rooms/"+url.PathEscape(space)+"/hierarchy"+query, nil)
}

// tree are the ids of the rooms of a page.
func tree(r *homeservertest.Response) []string { return texts(r.WantOK().Get("rooms.#.room_id")) }

// space makes a public space.
func space(u *homeservertest.User, more map[string]any) string {
	body := map[string]any{"preset": "public_chat", "creation_content": map[string]any{"type": "m.space"}}
	for k, v := range more {
		body[k] = v
	}
	return u.CreateRoomWith(body)
}

// adopt names a room as the child of a space.
func adopt(u *homeservertest.User, space, room string, more map[string]any) {
	content := map[string]any{"via": []string{homeservertest.Name}}
	for k, v := range more {
		content[k] = v
	}
	u.SetState(space, "m.space.child", room, content).WantOK()
}

// ruled makes a room of version 10 with a join rule.
func ruled(u *homeservertest.User, rule string, allow ...string) string {
	return u.CreateRoomWith(map[string]any{"preset": "private_chat", "room_version": "10", "initial_state": []any{
		map[string]any{"type": "m.room.join_rules", "content": condition(rule, allow...)},
	}})
}

func condition(rule string, allow ...string) map[string]any {
	content := map[string]any{"join_rule": rule}
	var list []any
	for _, room := range allow {
		list = append(list, map[string]any{"type": "m.room_membership", "room_id": room})
	}
	if list != nil {
		content["allow"] = list
	}
	return content
}

// ticking gives a server a clock that goes on whenever it is asked, so that no two events are of one time.
func ticking(c *homeserver.Config) {
	var asked atomic.Int64
	start := time.Now()
	c.Now = func() time.Time { return start.Add(time.Duration(asked.Add(1)) * time.Millisecond) }
}

// DR-11, DR-13, DR-16: a space with rooms and spaces in it, as clients page through it.
func TestSpaceHierarchy(t *testing.T) {
	hs := homeservertest.New(t, ticking)
	alice := hs.User("alice")
	root, inner, deep := space(alice, map[string]any{"name": "Root"}), space(alice, nil), space(alice, nil)
	var r [6]string
	for i := range r {
		r[i] = alice.CreateRoom(homeservertest.Public)
	}
	adopt(alice, root, r[0], map[string]any{"suggested": true})
	adopt(alice, root, inner, nil)
	adopt(alice, root, r[1], map[string]any{"suggested": true})
	adopt(alice, inner, deep, nil)
	adopt(alice, deep, r[2], nil)
	adopt(alice, deep, r[3], nil)
	adopt(alice, r[1], r[4], nil)                        // of a room that is no space it says nothing
	adopt(alice, root, r[5], map[string]any{"via": nil}) // removed
	adopt(alice, root, "no room", nil)
	adopt(alice, deep, root, nil)  // a loop
	adopt(alice, inner, r[0], nil) // a second time
	want := []string{root, r[0], inner, deep, r[2], r[3], r[1]}
	all := hierarchy(alice, root, "").WantOK()
	require.Equal(t, want, tree(all))
	require.False(t, all.Get("next_batch").Exists())
	require.Equal(t, "Root", all.Get("rooms.0.name").String())
	require.Equal(t, "m.space", all.Get("rooms.0.room_type").String())
	require.Equal(t, "12", all.Get("rooms.0.room_version").String())
	require.Equal(t, []string{r[0], inner, r[1]}, texts(all.Get("rooms.0.children_state.#.state_key")))
	require.Equal(t, "[]", all.Get("rooms.1.children_state").Raw)
	require.JSONEq(t, fmt.Sprintf(`{"type":"m.space.child","state_key":%q,"sender":%q,"content":{"via":["hs.test"],"suggested":true},"origin_server_ts":%d}`,
		r[0], alice.ID, all.Get("rooms.0.children_state.0.origin_server_ts").Int()), all.Get("rooms.0.children_state.0").Raw)

	require.Equal(t, []string{root}, tree(hierarchy(alice, root, "?max_depth=0")))
	shallow := hierarchy(alice, root, "?max_depth=1").WantOK()
	require.Equal(t, []string{root, r[0], inner, r[1]}, tree(shallow))
	require.Equal(t, []string{deep, r[0]}, texts(shallow.Get("rooms.2.children_state.#.state_key")), "the links are told")
	suggested := hierarchy(alice, root, "?suggested_only=true").WantOK()
	require.Equal(t, []string{root, r[0], r[1]}, tree(suggested))
	require.Equal(t, []string{r[0], r[1]}, texts(suggested.Get("rooms.0.children_state.#.state_key")))

	for limit := 1; limit <= 7; limit++ {
		var got []string
		query := fmt.Sprint("?limit=", limit)
		for from := query; from != ""; {
			page := hierarchy(alice, root, from).WantOK()
			require.LessOrEqual(t, len(tree(page)), limit)
			require.Equal(t, tree(page), tree(hierarchy(alice, root, from)), "a page can be asked for again")
			got = append(got, tree(page)...)
			if from = ""; page.Get("next_batch").Exists() {
				from = query + "&from=" + page.Get("next_batch").String()
			}
		}
		require.Equal(t, want, got, "pages of %d", limit)
	}
	alice.SetState(root, "m.space.child", inner, map[string]any{}).WantOK()
	require.Equal(t, []string{root, r[0], r[1]}, tree(hierarchy(alice, root, "")))
	link := alice.SetState(root, "m.space.child", r[4], map[string]any{"via": []string{"hs.test"}}).WantOK().Get("event_id").String()
	require.Equal(t, []string{root, r[0], r[1], r[4]}, tree(hierarchy(alice, root, "")))
	alice.Redact(root, link).WantOK()
	require.Equal(t, []string{root, r[0], r[1]}, tree(hierarchy(alice, root, "")))
}

// DR-11, DR-13: the order of the specification.
func TestOrderOfSpaceChildren(t *testing.T) {
	hs := homeservertest.New(t, ticking)
	alice := hs.User("alice")
	root := space(alice, nil)
	orders := []any{nil, "first", " ", "aaaa", strings.Repeat("x", 51), "é", 5, "\x7f", "aaaa", strings.Repeat("x", 50), "~"}
	var rooms []string
	for _, order := range orders {
		room := alice.CreateRoom(homeservertest.Public)
		adopt(alice, root, room, map[string]any{"order": order})
		rooms = append(rooms, room)
	}
	want := []string{root}
	for _, i := range []int{2, 3, 8, 1, 9, 10, 0, 4, 5, 6, 7} {
		want = append(want, rooms[i])
	}
	require.Equal(t, want, tree(hierarchy(alice, root, "")))
}

// DR-12, HV-04: who may know of a room.
func TestWhoSeesRoomsOfASpace(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, eve := hs.User("alice"), hs.User("bob"), hs.User("eve")
	root := space(alice, map[string]any{"initial_state": []any{
		map[string]any{"type": "m.room.history_visibility", "content": map[string]any{"history_visibility": "world_readable"}},
	}})
	club := ruled(alice, "invite")
	secret, invited, public, knock := ruled(alice, "invite"), ruled(alice, "invite"), ruled(alice, "public"), ruled(alice, "knock")
	either := ruled(alice, "knock_restricted", club)
	restricted, clubbed := ruled(alice, "restricted", root), ruled(alice, "restricted", "!gone:x", club)
	old := alice.CreateRoomWith(map[string]any{"preset": "private_chat", "room_version": "6", "initial_state": []any{
		map[string]any{"type": "m.room.join_rules", "content": map[string]any{"join_rule": "knock"}},
	}})
	readable := alice.CreateRoomWith(map[string]any{"preset": "private_chat", "initial_state": []any{
		map[string]any{"type": "m.room.history_visibility", "content": map[string]any{"history_visibility": "world_readable"}},
	}})
	for i, room := range []string{secret, invited, public, knock, either, restricted, clubbed, old, readable, "!gone:hs.test"} {
		adopt(alice, root, room, map[string]any{"order": string(rune('a' + i))})
	}
	alice.MustInvite(invited, bob)
	alice.MustInvite(club, bob)
	require.Equal(t, []string{root, secret, invited, public, knock, either, restricted, clubbed, old, readable}, tree(hierarchy(alice, root, "")))
	require.Equal(t, []string{root, invited, public, knock, either, readable}, tree(hierarchy(bob, root, "")))
	bob.MustJoin(root)
	r := hierarchy(bob, root, "").WantOK()
	require.Equal(t, []string{root, invited, public, knock, either, restricted, readable}, tree(r))
	require.Equal(t, []string{root}, texts(r.Get("rooms.5.allowed_room_ids")))
	require.Equal(t, "restricted", r.Get("rooms.5.join_rule").String())
	bob.MustJoin(club)
	require.Contains(t, tree(hierarchy(bob, root, "")), clubbed)
	for _, room := range []string{public, knock, restricted, readable} {
		alice.MustBan(room, bob)
	}
	require.Equal(t, []string{root, invited, either, clubbed, readable}, tree(hierarchy(bob, root, "")), "who is banned may not join")
	require.Equal(t, []string{root, public, knock, either, readable}, tree(hierarchy(hs.Guest(), root, "")))
	require.Equal(t, []string{root}, tree(hierarchy(eve, root, "?max_depth=0")))

	// DR-15
	for _, room := range []string{secret, "!gone:hs.test", clubbed} {
		hierarchy(eve, room, "").WantError(403, "M_FORBIDDEN")
	}
	require.Equal(t, hierarchy(eve, "!gone:hs.test", "").Body, hierarchy(eve, secret, "").Body, "nobody learns that a room is there")
	hierarchy(bob, public, "").WantError(403, "M_FORBIDDEN")
	require.Equal(t, []string{public}, tree(hierarchy(eve, public, "")), "a room that is no space")
	hierarchy(anonymous(hs), root, "").WantError(401, "M_MISSING_TOKEN")
}

// DR-15.
func TestHierarchyRefusals(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	root := space(alice, nil)
	for range 3 {
		adopt(alice, root, alice.CreateRoom(homeservertest.Public), nil)
	}
	for _, query := range []string{"?limit=0", "?limit=-1", "?limit=x", "?max_depth=-1", "?max_depth=x", "?suggested_only=x", "?from=x", "?from="} {
		hierarchy(alice, root, query).WantError(400, "M_INVALID_PARAM")
	}
	from := "&from=" + hierarchy(alice, root, "?limit=1&max_depth=2").WantOK().Get("next_batch").String()
	hierarchy(alice, root, "?max_depth=3"+from).WantError(400, "M_INVALID_PARAM")
	hierarchy(alice, root, "?limit=1"+from).WantError(400, "M_INVALID_PARAM")
	hierarchy(alice, root, "?suggested_only=true&max_depth=2"+from).WantError(400, "M_INVALID_PARAM")
	hierarchy(bob, root, "?max_depth=2"+from).WantError(400, "M_INVALID_PARAM")
	hierarchy(alice, space(alice, nil), "?max_depth=2"+from).WantError(400, "M_INVALID_PARAM")
	require.Len(t, tree(hierarchy(alice, root, "?limit=100000000&max_depth=2"+from)), 3)
	hierarchy(alice, "no-room", "").WantError(400, "M_INVALID_PARAM")
}

// A page that follows is announced only if there is one.
func TestHierarchyEndsWhereNothingMayBeKnown(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	root := space(alice, nil)
	open := alice.CreateRoom(homeservertest.Public)
	adopt(alice, root, open, nil)
	for range 5 {
		adopt(alice, root, ruled(alice, "invite"), nil)
	}
	adopt(alice, root, open, nil)
	r := hierarchy(bob, root, "?limit=2").WantOK()
	require.Equal(t, []string{root, open}, tree(r))
	require.False(t, r.Get("next_batch").Exists())
}

// elsewhereSpace is a network of two servers: alice's has a space that names rooms of bob's.
func elsewhereSpace(t *testing.T) (net *homeservertest.Network, alice, bob *homeservertest.User, root string) {
	net = homeservertest.NewNetwork(t)
	alice, bob = net.New("here.test", ticking).User("alice"), net.New("there.test", ticking).User("bob")
	return net, alice, bob, space(alice, nil)
}

var there = map[string]any{"via": []string{"there.test"}}

// DR-14, FQ-05: what is not here is asked for where the space says.
func TestHierarchyElsewhere(t *testing.T) {
	_, alice, bob, root := elsewhereSpace(t)
	inner := space(bob, map[string]any{"name": "Inner"})
	plain, secret, back := published(bob, map[string]any{"name": "Plain"}), ruled(bob, "invite"), alice.CreateRoom(homeservertest.Private)
	adopt(alice, root, inner, there)
	adopt(alice, root, plain, map[string]any{"via": []string{"nowhere.test", "there.test"}})
	adopt(bob, inner, secret, there)
	adopt(bob, inner, plain, there)
	adopt(bob, inner, back, map[string]any{"via": []string{"here.test"}})
	r := hierarchy(alice, root, "").WantOK()
	require.Equal(t, []string{root, inner, plain, back}, tree(r))
	require.Equal(t, "Inner", r.Get("rooms.1.name").String())
	require.Equal(t, []string{secret, plain, back}, texts(r.Get("rooms.1.children_state.#.state_key")))
	require.Equal(t, "Plain", r.Get("rooms.2.name").String())
	require.Equal(t, "[]", r.Get("rooms.2.children_state").Raw)
	require.Equal(t, []string{inner, plain, back}, tree(hierarchy(alice, inner, "?via=there.test")), "a space elsewhere")
	hierarchy(alice, secret, "?via=there.test").WantError(403, "M_FORBIDDEN")
	var got []string
	for from := "?limit=1"; from != ""; {
		page := hierarchy(alice, root, from).WantOK()
		got = append(got, tree(page)...)
		if from = ""; page.Get("next_batch").Exists() {
			from = "?limit=1&from=" + page.Get("next_batch").String()
		}
	}
	require.Equal(t, []string{root, inner, plain, back}, got)
}

// DR-12: a restricted room of another server, by membership here. What is refused at first is asked for again.
func TestRestrictedRoomElsewhereInASpace(t *testing.T) {
	_, alice, bob, root := elsewhereSpace(t)
	room := ruled(bob, "restricted", root)
	adopt(alice, root, room, there)
	require.Equal(t, []string{root}, tree(hierarchy(alice, root, "")), "there.test does not know that here.test is in the space")
	bob.Do("POST", v3+"/join/"+url.PathEscape(root)+"?via=here.test", map[string]any{}).WantOK()
	require.Equal(t, []string{root, room}, tree(hierarchy(alice, root, "")))
}

// DR-12: an invite lets its user know of a room, by what came with it when nobody else tells.
func TestInviteElsewhereInASpace(t *testing.T) {
	net, alice, bob, root := elsewhereSpace(t)
	room := bob.CreateRoomWith(map[string]any{"preset": "private_chat", "name": "Party", "topic": "Now"})
	adopt(alice, root, room, there)
	require.Equal(t, []string{root}, tree(hierarchy(alice, root, "")))
	bob.Do("POST", inRoom(room, "invite"), map[string]any{"user_id": alice.ID}).WantOK()
	r := hierarchy(alice, root, "").WantOK()
	require.Equal(t, []string{root, room}, tree(r))
	require.Equal(t, "1", r.Get("rooms.1.num_joined_members").String())
	net.Partition("there.test", "here.test")
	summary(alice, room, "").WantOK()
}

// DR-14: answers are remembered, and what a server keeps to itself is not asked for again.
func TestHierarchyIsRemembered(t *testing.T) {
	net := homeservertest.NewNetwork(t)
	clock := time.Now()
	here := net.New("here.test", func(c *homeserver.Config) { c.Now = func() time.Time { return clock } })
	alice := here.User("alice")
	root := space(alice, nil)
	rogue := net.Rogue("rogue.test")
	child := func(room string) string {
		return fmt.Sprintf(`{"type":"m.space.child","state_key":%q,"sender":"@a:rogue.test","content":{"via":["rogue.test"]},"origin_server_ts":1}`, room)
	}
	rogue.Handle(answering("/hierarchy/!inner:rogue.test", `{"room":{"room_id":"!inner:rogue.test","room_type":"m.space","num_joined_members":1,
		"world_readable":true,"guest_can_join":false,"children_state":[`+child("!a:rogue.test")+`,`+child("!kept:rogue.test")+`,{"type":"x"},
		{"type":"m.space.child","state_key":"!b:rogue.test","content":{"via":["rogue.test"]},"sender":"bad","origin_server_ts":1}]},
		"children":[{"room_id":"!a:rogue.test","num_joined_members":5,"join_rule":"knock","world_readable":false,"guest_can_join":false},
		{"room_id":"!other:rogue.test","num_joined_members":5,"world_readable":true,"guest_can_join":true}],
		"inaccessible_children":["!kept:rogue.test"]}`))
	adopt(alice, root, "!inner:rogue.test", map[string]any{"via": []string{"rogue.test"}})
	asked := func() int { return len(rogue.Asked("/_matrix/federation/v1/hierarchy")) }
	want := []string{root, "!inner:rogue.test", "!a:rogue.test"}
	r := hierarchy(alice, root, "").WantOK()
	require.Equal(t, want, tree(r))
	require.Equal(t, []string{"!a:rogue.test", "!kept:rogue.test"}, texts(r.Get("rooms.1.children_state.#.state_key")))
	require.Equal(t, 1, asked(), "%v", rogue.Asked("/_matrix/federation/v1/hierarchy"))
	require.Equal(t, want, tree(hierarchy(alice, root, "")))
	require.Equal(t, 1, asked())
	clock = clock.Add(6 * time.Minute)
	require.Equal(t, want, tree(hierarchy(alice, root, "")))
	require.Equal(t, 2, asked())
}

// What a server says of a room to whom has asked for it there is not told to those who ask others.
func TestHierarchyIsRememberedByWhoSaysIt(t *testing.T) {
	net := homeservertest.NewNetwork(t)
	here := net.New("here.test")
	alice, eve, bob := here.User("alice"), here.User("eve"), net.New("there.test").User("bob")
	room := published(bob, map[string]any{"name": "True"})
	rogue := net.Rogue("rogue.test")
	rogue.Handle(answering("/hierarchy/", fmt.Sprintf(`{"room":{"room_id":%q,"name":"False","num_joined_members":1,"world_readable":true,
		"guest_can_join":false,"children_state":[]},"children":[],"inaccessible_children":[]}`, room)))
	require.Equal(t, "False", summary(eve, room, "?via=rogue.test").WantOK().Get("name").String())
	require.Equal(t, "True", summary(alice, room, "?via=there.test").WantOK().Get("name").String())
	require.Equal(t, "False", summary(eve, room, "?via=rogue.test").WantOK().Get("name").String())
}

// What another server says of a room in which this one is counts for nothing, and lies about rooms without end do not.
func TestHierarchyOfALyingServer(t *testing.T) {
	net := homeservertest.NewNetwork(t)
	alice := net.New("here.test").User("alice")
	root, mine := space(alice, nil), alice.CreateRoomWith(map[string]any{"preset": "private_chat", "name": "Mine"})
	rogue := net.Rogue("rogue.test")
	var depth atomic.Int64
	rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/hierarchy/") {
			return false
		}
		room := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		next := fmt.Sprintf("!r%d:rogue.test", depth.Add(1))
		child := func(room string) any {
			return map[string]any{"type": "m.space.child", "state_key": room, "sender": "@a:rogue.test", "origin_server_ts": 1,
				"content": map[string]any{"via": []string{"rogue.test"}}}
		}
		told := map[string]any{"room_id": mine, "name": "Stolen", "num_joined_members": 1, "world_readable": true, "guest_can_join": true}
		body, err := json.Marshal(map[string]any{
			"room": map[string]any{"room_id": room, "room_type": "m.space", "world_readable": true, "guest_can_join": true, "num_joined_members": 1,
				"children_state": []any{child(mine), child(next), child(room)}},
			"children": []any{told}, "inaccessible_children": []string{},
		})
		if err == nil {
			_, err = w.Write(body)
		}
		return err == nil
	})
	adopt(alice, root, "!r0:rogue.test", map[string]any{"via": []string{"rogue.test"}})
	var name, from string
	for pages := 0; pages == 0 || from != ""; pages++ {
		require.Less(t, pages, 5, "there are a hundred levels and no more")
		query := "?limit=100"
		if from != "" {
			query += "&from=" + from
		}
		before := len(rogue.Asked("/"))
		r := hierarchy(alice, root, query).WantOK()
		require.LessOrEqual(t, len(rogue.Asked("/"))-before, 80)
		name += r.Get(`rooms.#(room_id=="` + mine + `").name`).String()
		from = r.Get("next_batch").String()
	}
	require.Equal(t, "Mine", name)

	for _, answer := range []string{`[]`, `{}`, `{"room":{}}`, `{"room":{"room_id":"!q:rogue.test","children_state":{}}}`,
		`{"room":{"room_id":"!q:rogue.test","children_state":[5]},"children":5}`, `{"room":{"room_id":5}}`, `x`} {
		rogue.Handle(answering("/hierarchy", answer))
		hierarchy(alice, "!q:rogue.test", "?via=rogue.test").WantError(403, "M_FORBIDDEN")
		summary(alice, "!q:rogue.test", "?via=rogue.test").WantError(404, "M_NOT_FOUND")
	}
}

// DR-18: claims of a room to be in a space are stored, and no more.
func TestSpaceParentIsJustState(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	root, room := space(alice, nil), bob.CreateRoom(homeservertest.Public)
	parent := map[string]any{"via": []string{"hs.test"}, "canonical": true}
	bob.SetState(room, "m.space.parent", root, parent).WantOK()
	require.JSONEq(t, `{"via":["hs.test"],"canonical":true}`, string(bob.State(room, "m.space.parent", root).WantOK().Body))
	require.Equal(t, []string{root}, tree(hierarchy(bob, root, "")))
}
