package federation_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	hst "github.com/embedmatrix/homeserver/homeservertest"
)

func (p *pair) ask(endpoint string) *hst.Response {
	p.t.Helper()
	return p.peer.Do(p.hs, "GET", "/_matrix/federation/v1/"+endpoint, nil)
}

func TestQueryDirectory(t *testing.T) {
	p := newPair(t)
	room := p.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_alias_name": "dén%2F/x"})
	p.peer.Join(p.hs, room, p.bob)
	query := func(alias string) *hst.Response { return p.ask("query/directory?room_alias=" + url.QueryEscape(alias)) }
	require.JSONEq(t, fmt.Sprintf(`{"room_id":%q,"servers":["hs.test","peer.test"]}`, room), string(query("#dén%2F/x:hs.test").WantOK().Body))
	query("#none:hs.test").WantError(404, "M_NOT_FOUND")
	query("#den:other.test").WantError(404, "M_NOT_FOUND")
	query("den").WantError(400, "M_INVALID_PARAM")
	query("#"+strings.Repeat("x", 300)+":hs.test").WantError(400, "M_INVALID_PARAM")
	p.ask("query/directory").WantError(400, "M_MISSING_PARAM")
}

// TestQueryProfile is F-97 too.
func TestQueryProfile(t *testing.T) {
	p := newPair(t)
	for key, value := range map[string]string{"displayname": "Alice <&> Ω", "avatar_url": "mxc://hs.test/a", "org.example.x": "y"} {
		p.alice.Do("PUT", "/_matrix/client/v3/profile/"+url.PathEscape(p.alice.ID)+"/"+key, map[string]any{key: value}).WantOK()
	}
	query := func(user, field string) *hst.Response {
		return p.ask("query/profile?user_id=" + url.QueryEscape(user) + field)
	}
	require.JSONEq(t, `{"avatar_url":"mxc://hs.test/a","displayname":"Alice <&> Ω","org.example.x":"y"}`, string(query(p.alice.ID, "").WantOK().Body))
	require.JSONEq(t, `{"displayname":"Alice <&> Ω"}`, string(query(p.alice.ID, "&field=displayname").WantOK().Body))
	require.JSONEq(t, `{}`, string(query(p.alice.ID, "&field=m.tz").WantOK().Body))
	require.JSONEq(t, `{}`, string(query(p.hs.User("plain").ID, "").WantOK().Body))

	gone := p.hs.User("gone")
	deactivate := func(auth map[string]any) *hst.Response {
		return gone.Do("POST", "/_matrix/client/v3/account/deactivate", map[string]any{"auth": auth})
	}
	session := deactivate(nil).Get("session").String()
	deactivate(map[string]any{
		"type": "m.login.password", "session": session, "identifier": map[string]any{"type": "m.id.user", "user": gone.ID}, "password": gone.Password,
	}).WantOK()
	unknown, former := query("@nobody:hs.test", ""), query(gone.ID, "")
	unknown.WantError(404, "M_NOT_FOUND")
	former.WantError(404, "M_NOT_FOUND")
	require.Equal(t, strings.ReplaceAll(string(unknown.Body), "nobody", "gone"), string(former.Body))
	query("@x:other.test", "").WantError(404, "M_NOT_FOUND")
	query("@user1:localhost:http", "&field=displayname").WantError(400, "M_INVALID_PARAM")
	p.ask("query/profile").WantError(400, "M_MISSING_PARAM")
	p.ask("query/other").WantError(404, "M_UNRECOGNIZED")
}

func TestPublicRooms(t *testing.T) {
	p := newPair(t)
	page := func(query string) *hst.Response { return p.ask("publicRooms" + query).WantOK() }
	require.JSONEq(t, `{"chunk":[],"total_room_count_estimate":0}`, string(page("").Body))
	var rooms []string
	for i := range 5 {
		body := map[string]any{"preset": "public_chat", "visibility": "public", "name": fmt.Sprint("Room ", i)}
		if i == 2 {
			body["creation_content"] = map[string]any{"type": "m.space"}
			body["topic"] = "About Üs"
			body["room_alias_name"] = "den"
			body["initial_state"] = []any{
				stateEvent("m.room.history_visibility", map[string]any{"history_visibility": "world_readable"}),
				stateEvent("m.room.guest_access", map[string]any{"guest_access": "can_join"}),
				stateEvent("m.room.avatar", map[string]any{"url": "mxc://hs.test/a"}),
			}
		}
		rooms = append(rooms, p.alice.CreateRoomWith(body))
	}
	p.alice.CreateRoomWith(map[string]any{"preset": "public_chat"})
	p.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "visibility": "public", "creation_content": map[string]any{"m.federate": false}})
	left := p.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "visibility": "public"})
	p.alice.MustLeave(left)

	all := page("")
	require.Equal(t, listed(rooms...), all.Get("chunk.#.room_id").Raw)
	require.False(t, all.Get("next_batch").Exists() || all.Get("prev_batch").Exists())
	require.JSONEq(t, fmt.Sprintf(`{"room_id":%q,"room_type":"m.space","room_version":"12","name":"Room 2","topic":"About Üs","avatar_url":"mxc://hs.test/a",
		"canonical_alias":"#den:hs.test","join_rule":"public","num_joined_members":1,"world_readable":true,"guest_can_join":true}`, rooms[2]), all.Get("chunk.2").Raw)
	require.Equal(t, rooms[0], page("?limit=0").Get("chunk.0.room_id").String())

	first := page("?limit=2")
	second := page("?limit=2&since=" + first.Get("next_batch").String())
	third := page("?limit=2&since=" + second.Get("next_batch").String())
	require.Equal(t, listed(rooms[:2]...), first.Get("chunk.#.room_id").Raw)
	require.Equal(t, listed(rooms[2:4]...), second.Get("chunk.#.room_id").Raw)
	require.Equal(t, listed(rooms[4:]...), third.Get("chunk.#.room_id").Raw)
	require.False(t, first.Get("prev_batch").Exists())
	require.False(t, third.Get("next_batch").Exists())
	back := page("?limit=2&since=" + third.Get("prev_batch").String())
	require.Equal(t, listed(rooms[2:4]...), back.Get("chunk.#.room_id").Raw)
	require.Equal(t, third.Get("chunk").Raw, page("?limit=2&since="+back.Get("next_batch").String()).Get("chunk").Raw)
	require.Equal(t, first.Get("chunk").Raw, page("?limit=2&since="+back.Get("prev_batch").String()).Get("chunk").Raw)

	for _, query := range []string{"?limit=-1", "?limit=x", "?since=x", "?since=n", "?since=nx", "?include_all_networks=2"} {
		require.Equal(t, 400, p.ask("publicRooms"+query).Status, query)
	}
	require.Equal(t, listed(), page("?third_party_instance_id=irc").Get("chunk.#.room_id").Raw)
	require.Equal(t, listed(rooms...), page("?third_party_instance_id=irc&include_all_networks=true").Get("chunk.#.room_id").Raw)
}

func listed(rooms ...string) string {
	if len(rooms) == 0 {
		return "[]"
	}
	return `["` + strings.Join(rooms, `","`) + `"]`
}

func TestPublicRoomsWithFilter(t *testing.T) {
	p := newPair(t)
	room := func(name, kind string) string {
		return p.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "visibility": "public", "name": name, "creation_content": map[string]any{"type": kind}})
	}
	space := room("The Space", "m.space")
	plain := p.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "visibility": "public", "topic": "in space", "room_alias_name": "alias"})
	other := room("Other", "org.example")
	post := func(body any) *hst.Response {
		return p.peer.Do(p.hs, "POST", "/_matrix/federation/v1/publicRooms", body)
	}
	tests := []struct {
		name   string
		filter any
		want   []string
	}{
		{"nothing", map[string]any{}, []string{space, plain, other}},
		{"null", nil, []string{space, plain, other}},
		{"a word in any case", map[string]any{"generic_search_term": "SPACE"}, []string{space, plain}},
		{"an alias", map[string]any{"generic_search_term": "#alias"}, []string{plain}},
		{"nothing like it", map[string]any{"generic_search_term": "%"}, nil},
		{"spaces", map[string]any{"room_types": []any{"m.space"}}, []string{space}},
		{"rooms of no type", map[string]any{"room_types": []any{nil}}, []string{plain}},
		{"either", map[string]any{"room_types": []any{nil, "org.example"}}, []string{plain, other}},
		{"none", map[string]any{"room_types": []any{}}, nil},
		{"both", map[string]any{"generic_search_term": "space", "room_types": []any{nil}}, []string{plain}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, listed(tt.want...), post(map[string]any{"filter": tt.filter}).WantOK().Get("chunk.#.room_id").Raw)
		})
	}
	require.Equal(t, listed(plain), post(map[string]any{"limit": 1, "since": post(map[string]any{"limit": 1}).Get("next_batch").String()}).Get("chunk.#.room_id").Raw)
	for _, body := range []any{map[string]any{"limit": "x"}, map[string]any{"filter": 1}, map[string]any{"filter": map[string]any{"room_types": []any{1}}}, map[string]any{"since": 5}} {
		require.Equal(t, 400, post(body).Status, "%v", body)
	}
}

// TestHierarchy is F-92 too.
func TestHierarchy(t *testing.T) {
	p := newPair(t)
	room := func(rule map[string]any, more ...map[string]any) string {
		return p.room("11", hst.Private, append(more, stateEvent("m.room.join_rules", rule))...)
	}
	rule := func(name string) map[string]any { return map[string]any{"join_rule": name} }
	space := p.alice.CreateRoomWith(map[string]any{
		"preset": "public_chat", "room_version": "11", "name": "Space", "creation_content": map[string]any{"type": "m.space"},
	})
	secret, public, knock := room(rule("invite")), room(rule("public")), room(rule("knock"))
	readable := room(rule("invite"), stateEvent("m.room.history_visibility", map[string]any{"history_visibility": "world_readable"}))
	condition := map[string]any{"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": space}}}
	restricted := room(condition, stateEvent("m.room.encryption", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}))
	invited, denied := room(rule("invite")), room(rule("public"), stateEvent("m.room.server_acl", map[string]any{"allow": []string{"*"}, "deny": []string{"peer.test"}}))
	p.invite(invited)
	child := func(order, room string, more map[string]any) {
		content := map[string]any{"via": []string{"hs.test"}, "order": order}
		for k, v := range more {
			content[k] = v
		}
		p.alice.SetState(space, "m.space.child", room, content).WantOK()
	}
	for i, room := range []string{secret, public, knock, readable, restricted, invited, denied} {
		child(string(rune('a'+i)), room, nil)
	}
	child("A", "!elsewhere:third.test", map[string]any{"suggested": true})
	child("", "!removed:third.test", map[string]any{"via": nil})
	child("", "no room", nil)

	hierarchy := func(room, query string) *hst.Response {
		return p.peer.Do(p.hs, "GET", to("v1/hierarchy", room)+query, nil)
	}
	h := hierarchy(space, "").WantOK()
	require.Equal(t, "Space", h.Get("room.name").String())
	require.Equal(t, "m.space", h.Get("room.room_type").String())
	require.Equal(t, listed("!elsewhere:third.test", secret, public, knock, readable, restricted, invited, denied), h.Get("room.children_state.#.state_key").Raw)
	require.JSONEq(t, fmt.Sprintf(`{"type":"m.space.child","state_key":%q,"sender":%q,"content":{"via":["hs.test"],"order":"a"},"origin_server_ts":%d}`,
		secret, p.alice.ID, h.Get("room.children_state.1.origin_server_ts").Int()), h.Get("room.children_state.1").Raw)
	require.NotZero(t, h.Get("room.children_state.1.origin_server_ts").Int())
	require.Equal(t, listed(public, knock, readable, invited), h.Get("children.#.room_id").Raw)
	require.Equal(t, listed(secret, restricted, denied), h.Get("inaccessible_children").Raw)

	p.peer.Join(p.hs, space, p.bob)
	h = hierarchy(space, "").WantOK()
	require.Equal(t, listed(public, knock, readable, restricted, invited), h.Get("children.#.room_id").Raw)
	require.Equal(t, listed(space), h.Get("children.3.allowed_room_ids").Raw)
	require.Equal(t, "m.megolm.v1.aes-sha2", h.Get("children.3.encryption").String())
	require.Equal(t, "restricted", h.Get("children.3.join_rule").String())

	h = hierarchy(space, "?suggested_only=true").WantOK()
	require.Equal(t, listed("!elsewhere:third.test"), h.Get("room.children_state.#.state_key").Raw)
	require.Equal(t, "[]", h.Get("children").Raw)
	require.Equal(t, "[]", h.Get("inaccessible_children").Raw)
	h = hierarchy(public, "").WantOK()
	require.Equal(t, "[]", h.Get("room.children_state").Raw)

	hierarchy(secret, "").WantError(404, "M_NOT_FOUND")
	require.Equal(t, hierarchy("!gone:hs.test", "").Body, hierarchy(secret, "").Body)
	hierarchy(space, "?suggested_only=x").WantError(400, "M_INVALID_PARAM")
}

func TestSpaceWithManyChildren(t *testing.T) {
	p := newPair(t)
	state := make([]map[string]any, 320)
	for i := range state {
		state[i] = map[string]any{"type": "m.space.child", "state_key": fmt.Sprintf("!r%d:third.test", i), "content": map[string]any{"via": []string{"third.test"}}}
	}
	space := p.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "creation_content": map[string]any{"type": "m.space"}, "initial_state": state})
	h := p.peer.Do(p.hs, "GET", to("v1/hierarchy", space), nil).WantOK()
	require.Len(t, h.Get("room.children_state").Array(), 300)
}
