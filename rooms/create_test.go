package rooms_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

const v3 = "/_matrix/client/v3"

// types lists the (type, state key) of a room's events in order, oldest first.
func types(u *homeservertest.User, room string) []string {
	r := u.Do("GET", v3+"/rooms/"+room+"/messages?dir=f&limit=100", nil).WantOK()
	var list []string
	for _, e := range r.Get("chunk").Array() {
		list = append(list, strings.TrimPrefix(e.Get("type").String(), "m.room.")+" "+e.Get("state_key").String())
	}
	return list
}

// RC-01, RC-05, RC-06: the order of a new room's events.
func TestCreateRoomOrder(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoomWith(map[string]any{
		"preset": "public_chat", "name": "n", "topic": "t", "room_alias_name": "here", "invite": []string{bob.ID},
		"initial_state": []any{
			map[string]any{"type": "m.room.guest_access", "content": map[string]any{"guest_access": "can_join"}},
			map[string]any{"type": "m.room.name", "content": map[string]any{"name": "not this"}},
		},
	})
	require.Equal(t, []string{
		"create ", "member " + alice.ID, "power_levels ", "canonical_alias ", "join_rules ", "history_visibility ",
		"guest_access ", "name ", "name ", "topic ", "member " + bob.ID,
	}, types(alice, room))
	require.Equal(t, "n", alice.State(room, "m.room.name", "").WantOK().Get("name").String())
	require.Equal(t, "can_join", alice.State(room, "m.room.guest_access", "").WantOK().Get("guest_access").String())
	require.Equal(t, "t", alice.State(room, "m.room.topic", "").WantOK().Get(`m\.topic.m\.text.0.body`).String(), "RC-15")
	require.Equal(t, "#here:"+homeservertest.Name, alice.State(room, "m.room.canonical_alias", "").WantOK().Get("alias").String())
}

// RC-02, RC-03, RC-09, RC-17, RC-08: every version makes a room of its own form.
func TestCreateRoomInEveryVersion(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	for _, version := range roomversion.All() {
		t.Run(version, func(t *testing.T) {
			room := alice.CreateRoomWith(map[string]any{
				"room_version": version, "preset": "public_chat", "creation_content": map[string]any{"creator": "@evil:x", "room_version": "1", "k": "v"},
			})
			create := alice.State(room, "m.room.create", "").WantOK()
			require.Equal(t, version, create.Get("room_version").String())
			require.Equal(t, "v", create.Get("k").String())
			rules, _ := roomversion.Get(version)
			require.Equal(t, rules.CreatorInContent, create.Get("creator").Exists(), "creator in content")
			require.Equal(t, rules.RoomIDIsCreateHash, !strings.Contains(room, ":"), "room id %s", room)
			levels := alice.State(room, "m.room.power_levels", "").WantOK()
			require.Equal(t, rules.PrivilegedCreators, levels.Get(`events.m\.room\.tombstone`).Int() == 150, "RC-08: tombstone")
			for key, want := range map[string]int64{
				"users_default": 0, "events_default": 0, "state_default": 50, "ban": 50, "kick": 50, "redact": 50, "invite": 50, // 0 in other rooms
				`events.m\.room\.name`: 50, `events.m\.room\.power_levels`: 100,
			} {
				require.Equal(t, want, levels.Get(key).Int(), "RC-09: %s", key)
				require.Equal(t, gjson.Number, levels.Get(key).Type, "RC-10: %s", key)
			}
			require.Equal(t, !rules.PrivilegedCreators, gjson.GetBytes(levels.Body, "users."+gjson.Escape(alice.ID)).Exists(), "creator in users")
			bob.MustJoin(room)
			sent := bob.Send(room, "hi")
			alice.Expect(room, homeservertest.ID(sent))
			alice.Redact(room, sent).WantOK()
			got := bob.Do("GET", v3+"/rooms/"+room+"/event/"+strings.ReplaceAll(sent, "/", "%2F"), nil).WantOK()
			require.False(t, got.Get("content.body").Exists(), "redacted content")
			require.True(t, got.Get("unsigned.redacted_because").Exists())
			require.Equal(t, sent, got.Get("unsigned.redacted_because.redacts").String())
			require.Equal(t, sent, got.Get("unsigned.redacted_because.content.redacts").String())
		})
	}
}

// RC-03, RC-04, RC-11, RC-14: what cannot be made is refused, and nothing is left of it.
func TestCreateRoomRefusals(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	alice.CreateRoomWith(map[string]any{"room_alias_name": "taken"})
	for _, tt := range []struct {
		name string
		body string
		code string
	}{
		{"unknown version", `{"room_version":"99"}`, "M_UNSUPPORTED_ROOM_VERSION"},
		{"version is no string", `{"room_version":1}`, "M_BAD_JSON"},
		{"bad additional creators", `{"creation_content":{"additional_creators":["nobody"]}}`, "M_INVALID_PARAM"},
		{"creators no list", `{"creation_content":{"additional_creators":"@a:b"}}`, "M_INVALID_PARAM"},
		{"alias taken", `{"room_alias_name":"taken"}`, "M_ROOM_IN_USE"},
		{"alias malformed", `{"room_alias_name":"a:b"}`, "M_INVALID_PARAM"},
		{"bad invitee", `{"invite":["nobody"]}`, "M_INVALID_PARAM"},
		{"unknown preset", `{"preset":"odd"}`, "M_INVALID_PARAM"},
		{"unknown visibility", `{"visibility":"odd"}`, "M_INVALID_PARAM"},
		{"levels as strings", `{"power_level_content_override":{"ban":"50"}}`, "M_BAD_JSON"},
		{"state that is not allowed", `{"initial_state":[{"type":"m.x","state_key":"@bob:hs.test","content":{}}]}`, "M_INVALID_ROOM_STATE"},
		{"float in content", `{"initial_state":[{"type":"m.x","content":{"a":1.5}}]}`, "M_BAD_JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			alice.Do("POST", v3+"/createRoom", []byte(tt.body)).WantError(400, tt.code)
		})
	}
	rooms := alice.Do("GET", v3+"/joined_rooms", nil).WantOK().Get("joined_rooms").Array()
	require.Len(t, rooms, 1, "only the room with the alias exists")
}

// RC-05: trusted invitees have the creator's power.
func TestTrustedPrivateChat(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	for _, version := range []string{"11", "12"} {
		room := alice.CreateRoomWith(map[string]any{"preset": "trusted_private_chat", "invite": []string{bob.ID}, "room_version": version, "is_direct": true})
		require.True(t, alice.State(room, "m.room.member", bob.ID).WantOK().Get("is_direct").Bool())
		bob.MustJoin(room)
		bob.SetState(room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}}).WantOK()
	}
}

func TestPowerLevelOverride(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoomWith(map[string]any{"power_level_content_override": map[string]any{"invite": 70, "events": map[string]any{"m.x": 3}}})
	levels := alice.State(room, "m.room.power_levels", "").WantOK()
	require.EqualValues(t, 70, levels.Get("invite").Int())
	require.JSONEq(t, `{"m.x":3}`, levels.Get("events").Raw, "RC-07: top-level keys replace")
	require.EqualValues(t, 50, levels.Get("ban").Int())
}

// A wish with many events is one act: a restart finds the whole room.
func TestCreateRoomIsThereAfterRestart(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoomWith(map[string]any{"name": "n", "topic": "t"})
	before := types(alice, room)
	hs.Restart()
	require.Equal(t, before, types(alice, room))
	alice.Send(room, "goes on")
}

// RC-05: what the presets stand for, and which one visibility stands for.
func TestPresets(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	private, public := []string{"invite", "shared", "can_join"}, []string{"public", "shared", ""} // forbidden
	for body, want := range map[string][]string{
		`{}`:                                              private,
		`{"visibility":"private"}`:                        private,
		`{"visibility":"public"}`:                         public,
		`{"preset":"private_chat"}`:                       private,
		`{"preset":"trusted_private_chat"}`:               private,
		`{"preset":"public_chat"}`:                        public,
		`{"preset":"private_chat","visibility":"public"}`: private,
		`{"preset":"public_chat","visibility":"private"}`: public,
	} {
		room := alice.Do("POST", v3+"/createRoom", []byte(body)).WantOK().Get("room_id").String()
		got := []string{
			alice.State(room, "m.room.join_rules", "").Get("join_rule").String(),
			alice.State(room, "m.room.history_visibility", "").Get("history_visibility").String(),
			alice.State(room, "m.room.guest_access", "").Get("guest_access").String(),
		}
		require.Equal(t, want, got, body)
		// RC-12: only visibility puts a room into the directory.
		listed := alice.Do("GET", v3+"/directory/list/room/"+room, nil).WantOK().Get("visibility").String()
		require.Equal(t, strings.Contains(body, `"visibility":"public"`), listed == "public", body)
	}
}

// RC-16: a room has the type that it was made with.
func TestRoomType(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	space := alice.CreateRoomWith(map[string]any{"creation_content": map[string]any{"type": "m.space"}})
	require.Equal(t, "m.space", alice.State(space, "m.room.create", "").WantOK().Get("type").String())
}

// What initial_state says of members is checked as their endpoints would, and a room has a size to begin with.
func TestInitialStateIsBounded(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	create := func(state []any) *homeservertest.Response {
		return alice.Do("POST", v3+"/createRoom", map[string]any{"initial_state": state})
	}
	member := func(user string) any {
		return map[string]any{"type": "m.room.member", "state_key": user, "content": map[string]any{"membership": "invite"}}
	}
	create([]any{member("@bob:" + homeservertest.Name)}).WantOK()
	for _, user := range []string{"", "bob", "\x00", "@\x00:" + homeservertest.Name} {
		create([]any{member(user)}).WantError(400, "M_INVALID_PARAM")
	}
	create([]any{member("@bob:elsewhere")}).WantError(403, "M_FORBIDDEN")
	many := make([]any, 1001)
	for i := range many {
		many[i] = map[string]any{"type": "x", "state_key": strconv.Itoa(i), "content": map[string]any{}}
	}
	create(many).WantError(400, "M_INVALID_PARAM")
	create(many[:1000]).WantOK()
}
