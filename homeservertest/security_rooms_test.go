package homeservertest_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// The cases of users who mean harm to rooms and their names. Beside these:
//
//	C-59            rooms TestUpgradeRefusals, TestUpgradeCopiesState, TestUpgradeCopiesBans, TestUpgradeQuietsTheOldRoom,
//	                TestUpgradeToPrivilegedCreators, TestUpgradesAtOnce
//	C-62            rooms TestCreateRoomRefusals, TestCreateRoomInEveryVersion, TestInitialStateIsBounded
//	C-63            rooms TestMembershipTransitions, TestKnock

func aliasPath(alias string) string { return v3 + "/directory/room/" + url.PathEscape(alias) }

// TestC57AliasesOfOthers: nobody takes, moves or claims the name of another's room, or names without end.
func TestC57AliasesOfOthers(t *testing.T) {
	hs := homeservertest.New(t, func(c *homeserver.Config) {
		c.Limits.Off, c.Limits.User.PerSecond, c.Limits.User.Burst = false, 0.01, 20
	})
	alice, mal := hs.User("alice"), hs.User("mal")
	room, other := alice.CreateRoomWith(object{"preset": "public_chat", "room_alias_name": "den"}), mal.CreateRoom(homeservertest.Public)
	mal.MustJoin(room)
	put := func(u *homeservertest.User, alias, room string) *homeservertest.Response {
		return u.Do("PUT", aliasPath(alias), object{"room_id": room})
	}
	put(mal, "#den:hs.test", other).WantError(409, "M_UNKNOWN")
	mal.Do("DELETE", aliasPath("#den:hs.test"), nil).WantError(403, "M_FORBIDDEN")
	put(mal, "#den:elsewhere.test", other).WantError(400, "M_INVALID_PARAM")
	mal.Do("DELETE", aliasPath("#den:elsewhere.test"), nil).WantError(404, "M_NOT_FOUND")
	for _, content := range []object{{"alias": "#den:hs.test"}, {"alt_aliases": []string{"#den:hs.test"}}} {
		mal.SetState(other, "m.room.canonical_alias", "", content).WantError(400, "M_BAD_ALIAS")
	}
	mal.SetState(other, "m.room.canonical_alias", "", object{"alt_aliases": make([]string, 500)}).WantError(400, "M_INVALID_PARAM")
	mal.SetState(room, "m.room.canonical_alias", "", object{}).WantError(403, "M_FORBIDDEN")
	require.Equal(t, room, mal.Do("GET", aliasPath("#den:hs.test"), nil).WantOK().Get("room_id").String())
	require.Equal(t, "#den:hs.test", alice.State(room, "m.room.canonical_alias", "").WantOK().Get("alias").String())
	for i := range 500 {
		if r := put(mal, fmt.Sprintf("#n%d:hs.test", i), other); r.Status != 200 {
			r.WantError(429, "M_LIMIT_EXCEEDED")
			return
		}
	}
	t.Fatal("five hundred aliases at once")
}

// TestC59UpgradeByThoseWhoMayNot: a moderator replaces no room, and nothing of a replaced one is lost.
func TestC59UpgradeByThoseWhoMayNot(t *testing.T) {
	hs := homeservertest.New(t)
	alice, mod, evil := hs.User("alice"), hs.User("mod"), hs.User("evil")
	acl := object{"allow": []string{"*"}, "deny": []string{"evil.test"}}
	for version, users := range map[string]object{"11": {alice.ID: 100, mod.ID: 50}, "12": {mod.ID: 50}} {
		room := alice.CreateRoomWith(object{
			"preset": "public_chat", "room_version": version, "room_alias_name": "room" + version,
			"power_level_content_override": object{"users": users},
			"initial_state":                []any{object{"type": "m.room.server_acl", "content": acl}},
		})
		mod.MustJoin(room)
		alice.MustBan(room, evil)
		upgrade := func(u *homeservertest.User, body object) *homeservertest.Response {
			return u.Do("POST", v3+"/rooms/"+url.PathEscape(room)+"/upgrade", body)
		}
		upgrade(mod, object{"new_version": "12"}).WantError(403, "M_FORBIDDEN")
		upgrade(evil, object{"new_version": "12"}).WantError(403, "M_FORBIDDEN")
		upgrade(alice, object{"new_version": "org.unknown"}).WantError(400, "M_UNSUPPORTED_ROOM_VERSION")
		next := upgrade(alice, object{"new_version": "12", "additional_creators": []string{mod.ID}}).WantOK().Get("replacement_room").String()
		require.Equal(t, "ban", alice.State(next, "m.room.member", evil.ID).WantOK().Get("membership").String())
		require.Equal(t, "evil.test", alice.State(next, "m.room.server_acl", "").WantOK().Get("deny.0").String())
		require.Equal(t, next, alice.Do("GET", aliasPath("#room"+version+":hs.test"), nil).WantOK().Get("room_id").String())
		evil.Join(next).WantError(403, "M_FORBIDDEN")
		mal := hs.User("mal" + version)
		mal.MustJoin(room)
		mal.SendEvent(room, "m.room.message", object{"msgtype": "m.text", "body": "still here"}).WantError(403, "M_FORBIDDEN")
		upgrade(alice, object{"new_version": "12"}).WantOK() // a second time, since the first one may have been a mistake
	}
}

// TestC62RoomsThatCannotBe: a wish for a room gives that room or none.
func TestC62RoomsThatCannotBe(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	state := func(eventType, key string, content any) object {
		return object{"initial_state": []any{object{"type": eventType, "state_key": key, "content": content}}}
	}
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprintf("@u%d:hs.test", i)
	}
	for i, body := range []object{
		{"power_level_content_override": object{"users": object{"@other:hs.test": 100}, "users_default": 0}, "room_version": "11", "name": "n"},
		{"power_level_content_override": object{"users": object{alice.ID: 100}}, "room_version": "12"},
		{"power_level_content_override": object{"users": object{"nobody": 100}}},
		{"power_level_content_override": object{"events": object{"m.room.name": 1.5}}},
		{"power_level_content_override": []any{}},
		state("m.room.create", "", object{}),
		state("m.room.member", "@bob:hs.test", object{"membership": "join"}),
		state("m.room.member", "nobody", object{"membership": "invite"}),
		state("m.room.member", "@bob:hs.test", object{}),
		state("m.room.power_levels", "", object{"ban": "50"}),
		state("", "", object{}),
		{"initial_state": object{}}, {"initial_state": []any{5}}, {"initial_state": []any{object{"type": "x"}}},
		{"invite": many}, {"invite": "@bob:hs.test"}, {"invite": []any{5}},
		{"preset": "unknown"}, {"preset": 5}, {"visibility": "both"},
		{"room_version": "0"}, {"room_version": "13.5"}, {"room_version": 12},
		{"creation_content": []any{}}, {"creation_content": object{"m.federate": 1.5}},
		{"room_alias_name": "a\x00b"}, {"room_alias_name": "#a:hs.test"},
	} {
		r := alice.Do("POST", v3+"/createRoom", body)
		require.Contains(t, []int{400, 403}, r.Status, "%d: %v: %s", i, body, r.Body)
	}
	require.Empty(t, alice.Do("GET", v3+"/joined_rooms", nil).WantOK().Get("joined_rooms").Array(), "nothing is left of them")

	for _, version := range []string{"1", "6", "11", "12"} {
		room := alice.CreateRoomWith(object{
			"room_version": version, "creation_content": object{"room_version": "5", "creator": "@mal:evil.test", "x": 1},
		})
		create := alice.State(room, "m.room.create", "").WantOK()
		require.Equal(t, version, create.Get("room_version").String())
		require.NotEqual(t, "@mal:evil.test", create.Get("creator").String())
		require.Equal(t, int64(1), create.Get("x").Int())
	}
}

// TestC63InvitesThatMakeNoSense: of users who are there, of oneself, of who is banned, of addresses; and knocking where nobody
// may.
func TestC63InvitesThatMakeNoSense(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, banned := hs.User("alice"), hs.User("bob"), hs.User("banned")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	alice.MustBan(room, banned)
	for _, u := range []*homeservertest.User{alice, bob, banned} {
		alice.Invite(room, u).WantError(403, "M_FORBIDDEN")
	}
	path := v3 + "/rooms/" + url.PathEscape(room)
	byAddress := object{"medium": "email", "address": "a@b.test", "id_server": "id.test", "id_access_token": "x"}
	for _, body := range []object{{}, {"user_id": 5}, {"user_id": "bob"}, byAddress, {"user_id": "@" + string(make([]byte, 300)) + ":hs.test"}} {
		r := alice.Do("POST", path+"/invite", body)
		require.True(t, slices.Contains([]int{400, 403}, r.Status), "%v: %s", body, r.Body)
	}
	for _, rule := range []string{"public", "invite", "odd"} {
		alice.SetState(room, "m.room.join_rules", "", object{"join_rule": rule}).WantOK()
		hs.User("knocker"+rule).Do("POST", v3+"/knock/"+url.PathEscape(room), object{}).WantError(403, "M_FORBIDDEN")
	}
	members := alice.Do("GET", path+"/members", nil).WantOK().Get("chunk").Array()
	require.Len(t, members, 3, "nobody has come or gone")
}
