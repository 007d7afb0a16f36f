package rooms_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// directory asks for a page of the directory with a filter and the like; somebody without a token only with a query.
func directory(u *homeservertest.User, query string, body map[string]any) *homeservertest.Response {
	if body == nil {
		return u.Do("GET", v3+"/publicRooms"+query, nil)
	}
	return u.Do("POST", v3+"/publicRooms"+query, body)
}

// anonymous is somebody who is not logged in.
func anonymous(hs *homeservertest.Server) *homeservertest.User {
	u := *hs.User("token-less")
	u.Token = ""
	return &u
}

// published makes a public room that is in the directory.
func published(u *homeservertest.User, more map[string]any) string {
	body := map[string]any{"preset": "public_chat", "visibility": "public"}
	for k, v := range more {
		body[k] = v
	}
	return u.CreateRoomWith(body)
}

// chunk are the ids of the rooms of a page.
func chunk(r *homeservertest.Response) []string { return texts(r.WantOK().Get("chunk.#.room_id")) }

func texts(list gjson.Result) []string {
	out := []string{}
	for _, v := range list.Array() {
		out = append(out, v.String())
	}
	return out
}

// DR-07, DR-09.
func TestPublicRoomList(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, nobody := hs.User("alice"), hs.User("bob"), anonymous(hs)
	require.JSONEq(t, `{"chunk":[],"total_room_count_estimate":0}`, string(directory(nobody, "", nil).WantOK().Body))
	quiet := published(alice, map[string]any{"name": "Quiet"})
	busy := published(alice, map[string]any{
		"name": "Busy", "topic": "Everything", "room_alias_name": "busy",
		"initial_state": []any{map[string]any{"type": "m.room.avatar", "content": map[string]any{"url": "mxc://hs.test/a"}}},
	})
	private := alice.CreateRoomWith(map[string]any{"visibility": "public", "preset": "private_chat"})
	alice.CreateRoom(homeservertest.Public) // not published
	require.Equal(t, []string{quiet, busy, private}, chunk(directory(nobody, "", nil)), "of as many members, the oldest first")
	bob.MustJoin(busy)
	r := directory(nobody, "", nil).WantOK()
	require.Equal(t, []string{busy, quiet, private}, chunk(r), "the one with the most members first")
	require.JSONEq(t, fmt.Sprintf(`{"room_id":%q,"name":"Busy","topic":"Everything","canonical_alias":"#busy:hs.test","avatar_url":"mxc://hs.test/a",
		"num_joined_members":2,"world_readable":false,"guest_can_join":false,"join_rule":"public","room_version":"12"}`, busy), r.Get("chunk.0").Raw)
	require.Equal(t, "invite", r.Get("chunk.2.join_rule").String(), "published says nothing about who may join")
	require.False(t, r.Get("chunk.2.world_readable").Bool())
	require.Equal(t, int64(3), r.Get("total_room_count_estimate").Int())

	require.Equal(t, []string{busy, quiet, private}, chunk(directory(bob, "", map[string]any{})))
	require.Equal(t, []string{busy, quiet, private}, chunk(directory(hs.Guest(), "?server="+hs.Name(), map[string]any{})))
	require.Equal(t, []string{busy}, chunk(directory(bob, "?limit=1", nil)))
	hs.Restart()
	require.Equal(t, []string{busy, quiet, private}, chunk(directory(bob, "", nil)))
}

// What the directory tells follows the rooms: each change is told by the next request.
func TestPublicRoomListIsUpToDate(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := published(alice, map[string]any{"name": "Old", "room_version": "10"})
	get := func(path string) string { return directory(bob, "", nil).WantOK().Get("chunk.0." + path).String() }
	require.Equal(t, "Old", get("name"))

	alice.SetState(room, "m.room.name", "", map[string]any{"name": "New"}).WantOK()
	require.Equal(t, "New", get("name"))
	bob.MustJoin(room)
	require.Equal(t, "2", get("num_joined_members"))
	bob.MustLeave(room)
	require.Equal(t, "1", get("num_joined_members"))
	name := alice.SetState(room, "m.room.name", "", map[string]any{"name": "Offensive"}).WantOK().Get("event_id").String()
	require.Equal(t, "Offensive", get("name"))
	alice.Redact(room, name).WantOK()
	require.Empty(t, get("name"), "a redacted name is not told")
	alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "old", "m.topic": map[string]any{"m.text": []any{
		map[string]any{"mimetype": "text/html", "body": "<b>x</b>"}, map[string]any{"body": "plain"},
	}}}).WantOK()
	require.Equal(t, "plain", get("topic"))
	alice.SetState(room, "m.room.avatar", "", map[string]any{"url": "javascript:x"}).WantOK()
	require.Empty(t, get("avatar_url"))

	list := v3 + "/directory/list/room/" + url.PathEscape(room)
	alice.Do("PUT", list, map[string]any{"visibility": "private"}).WantOK()
	require.Empty(t, chunk(directory(bob, "", nil)))
	alice.Do("PUT", list, map[string]any{"visibility": "public"}).WantOK()
	next := alice.Do("POST", inRoom(room, "upgrade"), map[string]any{"new_version": "11"}).WantOK().Get("replacement_room").String()
	require.Equal(t, []string{next}, chunk(directory(bob, "", nil)))
	alice.MustLeave(next)
	require.Empty(t, chunk(directory(bob, "", nil)), "nobody is there to let others in")
}

// A name that was redacted is not told after a restart either, though no state has changed since.
func TestRedactedNameIsForgottenInTheDirectory(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := published(alice, nil)
	name := alice.SetState(room, "m.room.name", "", map[string]any{"name": "Offensive"}).WantOK().Get("event_id").String()
	require.Equal(t, "Offensive", directory(alice, "", nil).WantOK().Get("chunk.0.name").String())
	alice.Redact(room, name).WantOK()
	hs.Restart()
	require.False(t, directory(alice, "", nil).WantOK().Get("chunk.0.name").Exists())
}

// DR-07.
func TestPublicRoomListPages(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	var rooms []string
	for i := range 7 {
		rooms = append(rooms, published(alice, map[string]any{"name": fmt.Sprint("n", i%2)}))
	}
	bob.MustJoin(rooms[6])
	want := append([]string{rooms[6]}, rooms[:6]...)
	walk := func(since, token string, filter any) (got []string) {
		for pages := 0; ; pages++ {
			require.Less(t, pages, 10)
			r := directory(bob, "", map[string]any{"limit": 2, "since": since, "filter": filter}).WantOK()
			require.LessOrEqual(t, len(chunk(r)), 2)
			if token == "next_batch" {
				got = append(got, chunk(r)...)
			} else {
				got = append(chunk(r), got...)
			}
			if since = r.Get(token).String(); since == "" {
				return got
			}
		}
	}
	require.Equal(t, want, walk("", "next_batch", nil))
	last := directory(bob, "?limit=6", nil).WantOK()
	last = directory(bob, "?since="+last.Get("next_batch").String(), nil).WantOK()
	require.Equal(t, want[6:], chunk(last))
	require.Equal(t, want[:6], walk(last.Get("prev_batch").String(), "prev_batch", nil))
	odd := map[string]any{"generic_search_term": "n1"}
	require.Equal(t, []string{rooms[1], rooms[3], rooms[5]}, walk("", "next_batch", odd))
	first := directory(bob, "?limit=2", nil).WantOK()
	require.False(t, first.Get("prev_batch").Exists())
	second := directory(bob, "?limit=2&since="+first.Get("next_batch").String(), nil).WantOK()
	require.Equal(t, chunk(first), chunk(directory(bob, "?limit=2&since="+second.Get("prev_batch").String(), nil)))

	for _, query := range []string{"?limit=-1", "?limit=x", "?since=x", "?since=n", "?since=n1", "?since=n1_x", "?since=x1_1", "?server=a%20b", "?server=%20"} {
		require.Equal(t, 400, directory(bob, query, nil).Status, query)
	}
	for _, body := range []map[string]any{
		{"limit": -1}, {"limit": "x"}, {"since": 1}, {"filter": 1}, {"filter": map[string]any{"room_types": "x"}}, {"filter": map[string]any{"generic_search_term": 1}},
		{"include_all_networks": true, "third_party_instance_id": "irc"}, {"include_all_networks": "x"},
	} {
		require.Equal(t, 400, directory(bob, "", body).Status, "%v", body)
	}
	require.Empty(t, chunk(directory(bob, "", map[string]any{"third_party_instance_id": "irc"})))
	require.Len(t, chunk(directory(bob, "", map[string]any{"include_all_networks": true})), 7)
	require.Len(t, chunk(directory(bob, "", map[string]any{"limit": nil, "since": nil, "filter": nil})), 7)
}

// DR-07.
func TestPublicRoomListFilter(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	space := published(alice, map[string]any{"name": "The Space", "creation_content": map[string]any{"type": "m.space"}})
	plain := published(alice, map[string]any{"topic": "about SPÄCE", "room_alias_name": "alias"})
	long := published(alice, map[string]any{"name": strings.Repeat("é", 300) + "x", "creation_content": map[string]any{"type": "org.example"}})
	find := func(filter map[string]any) []string {
		return chunk(directory(alice, "", map[string]any{"filter": filter}))
	}
	require.Equal(t, []string{space}, find(map[string]any{"generic_search_term": "SPACE"}))
	require.Equal(t, []string{plain}, find(map[string]any{"generic_search_term": "späce"}))
	require.Equal(t, []string{plain}, find(map[string]any{"generic_search_term": "#alias:hs"}))
	require.Equal(t, []string{long}, find(map[string]any{"generic_search_term": "éé"}))
	require.Empty(t, find(map[string]any{"generic_search_term": "%"}))
	require.Equal(t, []string{plain}, find(map[string]any{"room_types": []any{nil}}))
	require.Equal(t, []string{space, plain}, find(map[string]any{"room_types": []any{nil, "m.space"}}))
	require.Empty(t, find(map[string]any{"room_types": []any{}}))
	require.Equal(t, []string{space, plain, long}, find(map[string]any{"room_types": nil, "generic_search_term": nil}))
}

// Who is not logged in reads this server's directory, unless it is private, and has no other server asked.
func TestPublicRoomListWithoutToken(t *testing.T) {
	hs := homeservertest.New(t)
	nobody := anonymous(hs)
	directory(nobody, "", nil).WantOK()
	directory(nobody, "?server=elsewhere.test", nil).WantError(401, "M_MISSING_TOKEN")
	directory(nobody, "", map[string]any{}).WantError(401, "M_MISSING_TOKEN")
	directory(hs.User("alice"), "?server=elsewhere.test", nil).WantError(404, "M_NOT_FOUND") // it does not federate
	closed := homeservertest.New(t, func(c *homeserver.Config) { c.PrivateDirectory = true })
	directory(anonymous(closed), "", nil).WantError(401, "M_MISSING_TOKEN")
	directory(closed.User("alice"), "", nil).WantOK()
}

// DR-08.
func TestPublicRoomListOfAnotherServer(t *testing.T) {
	net := homeservertest.NewNetwork(t)
	here, there := net.New("here.test"), net.New("there.test")
	alice, bob := here.User("alice"), there.User("bob")
	published(alice, nil)
	first, second := published(bob, map[string]any{"name": "one"}), published(bob, map[string]any{"name": "two", "creation_content": map[string]any{"type": "m.space"}})
	published(bob, map[string]any{"creation_content": map[string]any{"m.federate": false}})
	require.Equal(t, []string{first, second}, chunk(directory(alice, "?server=there.test", nil)))
	r := directory(alice, "?server=there.test&limit=1", nil).WantOK()
	require.Equal(t, []string{first}, chunk(r))
	require.Equal(t, []string{second}, chunk(directory(alice, "?server=there.test&limit=1&since="+r.Get("next_batch").String(), nil)))
	require.Equal(t, []string{second}, chunk(directory(alice, "?server=there.test", map[string]any{"filter": map[string]any{"room_types": []any{"m.space"}}})))
	require.Equal(t, []string{first}, chunk(directory(alice, "?server=there.test", map[string]any{"filter": map[string]any{"generic_search_term": "ONE"}})))
	directory(alice, "?server=there.test&since=x", nil).WantError(400, "M_INVALID_PARAM")
	require.Equal(t, 502, directory(alice, "?server=nowhere.test", nil).Status)

	rogue := net.Rogue("rogue.test")
	rogue.Handle(answering("/publicRooms", `{"chunk":[{"room_id":"!a:rogue.test","avatar_url":"javascript:x","canonical_alias":"x","num_joined_members":-4,
		"world_readable":true,"guest_can_join":false},{"room_id":"x"},null]}`))
	require.JSONEq(t, `[{"room_id":"!a:rogue.test","num_joined_members":0,"world_readable":true,"guest_can_join":false}]`,
		directory(alice, "?server=rogue.test", nil).WantOK().Get("chunk").Raw)
	rogue.Handle(answering("/publicRooms", `{"chunk":[{"room_id":5}]}`))
	directory(alice, "?server=rogue.test", nil).WantError(502, "M_UNKNOWN")
}

// answering answers every request whose path has a part.
func answering(part, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, part) {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_, err := w.Write([]byte(body))
		return err == nil
	}
}
