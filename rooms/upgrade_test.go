package rooms_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/rooms"
)

type object = map[string]any

// upgrade replaces a room and returns the new one.
func upgrade(u *homeservertest.User, room, version string, creators ...*homeservertest.User) string {
	body := object{"new_version": version}
	if len(creators) > 0 {
		list := []string{}
		for _, c := range creators {
			list = append(list, c.ID)
		}
		body["additional_creators"] = list
	}
	return u.Do("POST", v3+"/rooms/"+room+"/upgrade", body).WantOK().Get("replacement_room").String()
}

// content is a state event's content; an absent one is "".
func content(u *homeservertest.User, room, eventType string) gjson.Result {
	r := u.State(room, eventType, "")
	if r.Status == 404 {
		return gjson.Result{}
	}
	return gjson.ParseBytes(r.WantOK().Body)
}

// levelOf is what m.room.power_levels says of a user.
func levelOf(u *homeservertest.User, room string, of *homeservertest.User) gjson.Result {
	return content(u, room, "m.room.power_levels").Get("users." + gjson.Escape(of.ID))
}

// RC-18, RC-20: between all versions; both rooms are whole and name each other, also after a restart.
func TestUpgradeBetweenAllVersions(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	before := map[string][]string{}
	for _, from := range roomversion.All() {
		for _, to := range roomversion.All() {
			old := alice.CreateRoomWith(object{"room_version": from, "topic": from})
			next := upgrade(alice, old, to)
			create := content(alice, next, "m.room.create")
			require.Equal(t, to, create.Get("room_version").String(), "%s to %s", from, to)
			require.Equal(t, old, create.Get("predecessor.room_id").String(), "%s to %s", from, to)
			require.Equal(t, from, content(alice, next, "m.room.topic").Get("topic").String(), "%s to %s", from, to)
			require.Equal(t, next, content(alice, old, "m.room.tombstone").Get("replacement_room").String(), "%s to %s", from, to)
			before[old], before[next] = types(alice, old), types(alice, next)
			alice.Send(next, "here we go on")
			alice.SetState(next, "m.room.server_acl", "", object{"allow": []string{"*"}}).WantOK()
		}
	}
	hs.Restart()
	for room, list := range before {
		now := types(alice, room)
		require.Equal(t, list, now[:len(list)], room)
	}
}

// RC-20: the predecessor's event_id is the tombstone, but from version 12 on, where that names the room by the hash
// of the event which would have to name the tombstone.
func TestUpgradePredecessor(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	for to, named := range map[string]bool{"1": true, "2": true, "11": true, "12": false} {
		old := alice.CreateRoom(homeservertest.Private)
		create := content(alice, upgrade(alice, old, to), "m.room.create")
		state := alice.Do("GET", v3+"/rooms/"+old+"/state", nil).WantOK()
		tombstone := state.Get(`#(type=="m.room.tombstone")`)
		require.NotEmpty(t, tombstone.Get("content.body").String())
		require.Equal(t, named, create.Get("predecessor.event_id").Exists(), "version %s", to)
		if named {
			require.Equal(t, tombstone.Get("event_id").String(), create.Get("predecessor.event_id").String(), "version %s", to)
		}
	}
}

// RC-19: what is refused has made nothing.
func TestUpgradeRefusals(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	before := types(alice, room)
	path := v3 + "/rooms/" + room + "/upgrade"
	alice.Do("POST", path, object{"new_version": "my_bad_version"}).WantError(400, "M_UNSUPPORTED_ROOM_VERSION")
	alice.Do("POST", path, object{}).WantError(400, "M_MISSING_PARAM")
	alice.Do("POST", path, object{"new_version": 11}).WantError(400, "M_BAD_JSON")
	alice.Do("POST", path, object{"new_version": "12", "additional_creators": []string{"bob"}}).WantError(400, "M_INVALID_PARAM")
	alice.Do("POST", v3+"/rooms/!fail:unknown/upgrade", object{"new_version": "11"}).WantError(404, "M_NOT_FOUND")
	bob.Do("POST", path, object{"new_version": "11"}).WantError(403, "M_FORBIDDEN")
	carol.Do("POST", path, object{"new_version": "11"}).WantError(403, "M_FORBIDDEN")
	require.Equal(t, before, types(alice, room))
	for _, u := range []*homeservertest.User{alice, bob} {
		rooms := u.Do("GET", v3+"/joined_rooms", nil).WantOK().Get("joined_rooms")
		require.JSONEq(t, `["`+room+`"]`, rooms.Raw)
	}
	hs.Restart()
	alice.MustLeave(room)
	alice.Do("POST", path, object{"new_version": "11"}).WantError(403, "M_FORBIDDEN")
}

// EV-14: a tombstone does not lead back to its own room.
func TestTombstoneOfItself(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room, other := alice.CreateRoom(homeservertest.Private), alice.CreateRoom(homeservertest.Private)
	itself := object{"body": "gone", "replacement_room": room}
	alice.SendEvent(room, "m.room.tombstone", itself).WantError(400, "M_INVALID_PARAM")
	alice.SetState(room, "m.room.tombstone", "", itself).WantError(400, "M_INVALID_PARAM")
	alice.SetState(room, "m.room.tombstone", "", object{"body": "gone", "replacement_room": other}).WantOK()
}

// RC-18: the recommended state, the type and whether the room federates are taken over; the rest is not.
func TestUpgradeCopiesState(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	old := alice.CreateRoomWith(object{
		"room_version": "5", "preset": "public_chat",
		"creation_content": object{"m.federate": false, "type": "org.example.kind", "org.example.other": 1},
	})
	bob.MustJoin(old)
	taken := map[string]object{
		"m.room.server_acl":         {"allow": []string{"*"}, "allow_ip_literals": false, "deny": []string{"evil.com"}},
		"m.room.encryption":         {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_ms": 604800000},
		"m.room.name":               {"name": "name"},
		"m.room.avatar":             {"url": "mxc://hs.test/a"},
		"m.room.topic":              {"topic": "topic"},
		"m.room.guest_access":       {"guest_access": "can_join"},
		"m.room.history_visibility": {"history_visibility": "joined"},
		"m.room.join_rules":         {"join_rule": "public"},
	}
	for eventType, c := range taken {
		alice.SetState(old, eventType, "", c).WantOK()
	}
	alice.SetState(old, "m.room.pinned_events", "", object{"pinned": []string{"$a"}}).WantOK()
	alice.SetState(old, "org.example.state", "", object{"a": 1}).WantOK()

	next := upgrade(alice, old, "11")
	for eventType := range taken {
		require.JSONEq(t, content(alice, old, eventType).Raw, content(alice, next, eventType).Raw, eventType)
	}
	require.JSONEq(t, content(alice, old, "m.room.create").Get("type").Raw, content(alice, next, "m.room.create").Get("type").Raw)
	require.JSONEq(t, `false`, content(alice, next, "m.room.create").Get(`m\.federate`).Raw)
	require.False(t, content(alice, next, "m.room.create").Get(`org\.example\.other`).Exists())
	for _, eventType := range []string{"m.room.pinned_events", "org.example.state", "m.room.canonical_alias", "m.room.related_groups"} {
		require.False(t, content(alice, next, eventType).Exists(), eventType)
	}
	require.Equal(t, 404, alice.State(next, "m.room.member", bob.ID).Status, "RC-22: nobody is moved")
	require.Equal(t, "create ", types(alice, next)[0])
	require.Equal(t, []string{"tombstone ", "power_levels "}, lastTwo(types(alice, old)))
}

func lastTwo(list []string) []string { return list[len(list)-2:] }

// What an old version took and a new one does not is left out, and the upgrade goes on.
func TestUpgradeFromLenientNumbers(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	old := alice.CreateRoomWith(object{"room_version": "5"})
	alice.Do("PUT", v3+"/rooms/"+old+"/state/m.room.name", []byte(`{"name":"n","org.example.scale":1.5,"z":[1]}`)).WantOK()
	require.JSONEq(t, `{"name":"n","z":[1]}`, content(alice, upgrade(alice, old, "6"), "m.room.name").Raw)
	require.JSONEq(t, `{"name":"n","z":[1],"org.example.scale":1.5}`, content(alice, upgrade(alice, old, "4"), "m.room.name").Raw)
}

// RC-18: a join rule that the new version does not know becomes one that lets in nobody else.
func TestUpgradeJoinRules(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	for _, tt := range []struct{ rule, version, want string }{
		{"public", "1", "public"},
		{"invite", "12", "invite"},
		{"knock", "6", "invite"},
		{"knock", "7", "knock"},
		{"restricted", "7", "invite"},
		{"restricted", "8", "restricted"},
		{"knock_restricted", "6", "invite"},
		{"knock_restricted", "7", "knock"},
		{"knock_restricted", "9", "restricted"},
		{"knock_restricted", "10", "knock_restricted"},
	} {
		old := alice.CreateRoomWith(object{"room_version": "11"})
		alice.SetState(old, "m.room.join_rules", "", object{"join_rule": tt.rule, "allow": []any{}}).WantOK()
		got := content(alice, upgrade(alice, old, tt.version), "m.room.join_rules").Get("join_rule").String()
		require.Equal(t, tt.want, got, "%s in version %s", tt.rule, tt.version)
	}
}

// RC-22: bans are repeated, with their reasons, and hold.
func TestUpgradeCopiesBans(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	for _, version := range []string{"11", "12"} {
		old := alice.CreateRoomWith(object{"preset": "public_chat", "room_version": "10"})
		levels := object{"users": object{alice.ID: 100, bob.ID: 99}}
		alice.SetState(old, "m.room.power_levels", "", levels).WantOK()
		ban := object{"user_id": bob.ID, "reason": "spam"}
		alice.Do("POST", v3+"/rooms/"+old+"/ban", ban).WantOK()
		alice.Do("POST", v3+"/rooms/"+old+"/ban", object{"user_id": "@evil:elsewhere"}).WantOK()
		alice.MustBan(old, carol)
		alice.Unban(old, carol).WantOK()
		levels["users"] = object{alice.ID: 100, bob.ID: 100}
		alice.SetState(old, "m.room.power_levels", "", levels).WantOK()

		next := upgrade(alice, old, version)
		require.JSONEq(t, `{"membership":"ban","reason":"spam"}`, string(alice.State(next, "m.room.member", bob.ID).WantOK().Body))
		require.JSONEq(t, `{"membership":"ban"}`, string(alice.State(next, "m.room.member", "@evil:elsewhere").WantOK().Body))
		require.Equal(t, 404, alice.State(next, "m.room.member", carol.ID).Status)
		require.EqualValues(t, 100, levelOf(alice, next, bob).Int(), "though he is as strong as she is")
		bob.Join(next).WantError(403, "M_FORBIDDEN")
		carol.MustJoin(next)
	}
	old := alice.CreateRoom(homeservertest.Public)
	alice.MustBan(old, bob)
	bob.MustJoin(upgrade(alice, old, "12", bob)) // who is made a creator is not banned
}

// RC-18: power levels are preserved, the user's own included, in one event where they let the user set up the room.
func TestUpgradePreservesPowerLevels(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	for _, tt := range []struct {
		name   string
		levels object
		events int
	}{
		{"an admin", object{"users": object{alice.ID: 100, bob.ID: 100}, "invite": 30, "org.example": object{"a": 1}}, 1},
		{"above 100", object{"users": object{alice.ID: 500, bob.ID: 500}}, 1},
		{"a moderator", object{"users": object{alice.ID: 100, bob.ID: 50}, "events": object{"m.room.tombstone": 50, "m.room.name": 75}}, 2},
		{"everybody", object{"users": object{alice.ID: 100}, "users_default": 50, "events": object{"m.room.tombstone": 50}}, 2},
		{"a level out of reach", object{"users": object{alice.ID: 100, bob.ID: 100}, "events": object{"m.x": int64(9007199254740991)}}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old := alice.CreateRoomWith(object{
				"preset": "public_chat", "room_version": "11", "name": "n", "power_level_content_override": tt.levels,
			})
			bob.MustJoin(old)
			want := content(bob, old, "m.room.power_levels")
			next := upgrade(bob, old, "10")
			require.JSONEq(t, want.Raw, content(bob, next, "m.room.power_levels").Raw)
			require.Equal(t, "n", content(bob, next, "m.room.name").Get("name").String())
			list := slices.DeleteFunc(types(bob, next), func(s string) bool { return s != "power_levels " })
			require.Len(t, list, tt.events)
		})
	}
}

// RC-21, RC-19: creators above all levels are not among the users; those of the old room are not taken over.
func TestUpgradeToPrivilegedCreators(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	for _, from := range []string{"11", "12"} {
		users := object{bob.ID: 150, carol.ID: 50}
		if from == "11" {
			users[alice.ID] = 150
		}
		old := alice.CreateRoomWith(object{
			"preset": "public_chat", "room_version": from, "power_level_content_override": object{"users": users},
		})
		bob.MustJoin(old)

		next := upgrade(bob, old, "12")
		require.False(t, content(bob, next, "m.room.create").Get("additional_creators").Exists())
		require.False(t, levelOf(bob, next, bob).Exists(), "he is the creator")
		require.EqualValues(t, 50, levelOf(bob, next, carol).Int())
		require.Equal(t, from == "11", levelOf(bob, next, alice).Exists(), "from %s: a former creator", from)
		require.EqualValues(t, 150, content(bob, next, "m.room.power_levels").Get(`events.m\.room\.tombstone`).Int())

		next = upgrade(bob, old, "12", carol)
		require.JSONEq(t, `["`+carol.ID+`"]`, content(bob, next, "m.room.create").Get("additional_creators").Raw)
		require.False(t, levelOf(bob, next, carol).Exists(), "she is a creator")
		next = upgrade(bob, old, "11", carol)
		require.False(t, content(bob, next, "m.room.create").Get("additional_creators").Exists(), "ignored where there are none")
	}
}

// The level for tombstones is kept above state_default: above what an old room had, if that was not.
func TestUpgradeTombstoneLevel(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	for _, tt := range []struct {
		from   string
		levels object
		want   int64
	}{
		{"11", object{}, 150},
		{"11", object{"events": object{}}, 150},
		{"11", object{"events": object{"m.room.tombstone": 200}, "users": object{alice.ID: 200}}, 200},
		{"11", object{"state_default": 170, "users": object{alice.ID: 200}}, 171},
		{"12", object{}, 150},
		{"12", object{"events": object{"m.room.tombstone": 120}}, 120},
		{"12", object{"events": object{"m.room.tombstone": 10}}, 51},
	} {
		old := alice.CreateRoomWith(object{"room_version": tt.from, "power_level_content_override": tt.levels})
		got := content(alice, upgrade(alice, old, "12"), "m.room.power_levels").Get(`events.m\.room\.tombstone`).Int()
		require.Equal(t, tt.want, got, "from %s with %v", tt.from, tt.levels)
	}
}

// Creators who no longer stand above all levels get the highest.
func TestUpgradeFromPrivilegedCreators(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	old := alice.CreateRoomWith(object{
		"room_version": "12", "creation_content": object{"additional_creators": []string{bob.ID}},
	})
	next := upgrade(alice, old, "11")
	require.EqualValues(t, 150, levelOf(alice, next, alice).Int(), "enough for a tombstone")
	require.EqualValues(t, 150, levelOf(alice, next, bob).Int())
	levels := object{"events": object{}, "users": object{}}
	old = alice.CreateRoomWith(object{"room_version": "12", "power_level_content_override": levels})
	require.EqualValues(t, 100, levelOf(alice, upgrade(alice, old, "3"), alice).Int())
}

// RC-18: in the old room only those who stand above the others may still talk and invite.
func TestUpgradeQuietsTheOldRoom(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	for _, tt := range []struct {
		name         string
		levels       object
		talk, invite int64
	}{
		{"as ever", object{}, 50, 50},
		{"unusual", object{"users_default": 80}, 81, 81},
		{"higher already", object{"events_default": 60, "invite": 70}, 60, 70},
		{"out of reach", object{"users_default": 100}, 0, 50},
		{"not hers to change", object{"events": object{"m.room.power_levels": 101}}, 0, 50},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old := alice.CreateRoomWith(object{"preset": "public_chat", "room_version": "11", "power_level_content_override": tt.levels})
			bob.MustJoin(old)
			upgrade(alice, old, "12")
			levels := content(alice, old, "m.room.power_levels")
			require.Equal(t, tt.talk, levels.Get("events_default").Int())
			require.Equal(t, tt.invite, levels.Get("invite").Int())
			if tt.talk > 0 {
				bob.SendEvent(old, "m.room.message", object{"msgtype": "m.text", "body": "hi"}).WantError(403, "M_FORBIDDEN")
			}
		})
	}
}

// RC-18, RC-23: aliases, the canonical ones among them, and the place in the directory move along.
func TestUpgradeMovesNames(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	alias := func(name string) string { return "#" + name + ":" + homeservertest.Name }
	old := alice.CreateRoomWith(object{"visibility": "public", "room_alias_name": "one", "room_version": "11"})
	bob.MustJoin(old)
	bob.Do("PUT", v3+"/directory/room/"+url.PathEscape(alias("two")), object{"room_id": old}).WantOK()
	both := object{"alias": alias("one"), "alt_aliases": []string{alias("two")}, "org.example": 1}
	alice.SetState(old, "m.room.canonical_alias", "", both).WantOK()
	listed := func(room string) string {
		return alice.Do("GET", v3+"/directory/list/room/"+room, nil).WantOK().Get("visibility").String()
	}

	next := upgrade(alice, old, "12")
	for _, name := range []string{"one", "two"} {
		at := alice.Do("GET", v3+"/directory/room/"+url.PathEscape(alias(name)), nil).WantOK()
		require.Equal(t, next, at.Get("room_id").String())
	}
	require.JSONEq(t, `{"org.example":1}`, content(alice, old, "m.room.canonical_alias").Raw)
	require.JSONEq(t, `{"alias":"`+alias("one")+`","alt_aliases":["`+alias("two")+`"],"org.example":1}`,
		content(alice, next, "m.room.canonical_alias").Raw)
	require.Equal(t, "private", listed(old))
	require.Equal(t, "public", listed(next))
	bob.Do("DELETE", v3+"/directory/room/"+url.PathEscape(alias("two")), nil).WantOK() // it is still his

	require.Equal(t, "private", listed(upgrade(alice, alice.CreateRoom(homeservertest.Public), "12")))
	before := types(alice, old)
	again := upgrade(alice, old, "12") // the second has no names to move
	require.False(t, content(alice, again, "m.room.canonical_alias").Exists())
	require.Equal(t, append(before, "tombstone "), types(alice, old))
}

// A space is nothing without its rooms; RC-23: the children themselves stay as they are.
func TestUpgradeOfASpace(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	space := alice.CreateRoomWith(object{"creation_content": object{"type": "m.space"}})
	child, removed := alice.CreateRoom(homeservertest.Private), alice.CreateRoom(homeservertest.Private)
	via := object{"via": []string{homeservertest.Name}, "order": "a"}
	alice.SetState(space, "m.space.child", child, via).WantOK()
	alice.SetState(space, "m.space.child", removed, object{}).WantOK()
	alice.SetState(child, "m.space.child", removed, via).WantOK()

	next := upgrade(alice, space, "12")
	require.JSONEq(t, `{"via":["hs.test"],"order":"a"}`, string(alice.State(next, "m.space.child", child).WantOK().Body))
	require.Equal(t, 404, alice.State(next, "m.space.child", removed).Status)
	alice.State(space, "m.space.child", child).WantOK()
	next = upgrade(alice, child, "12")
	require.Equal(t, 404, alice.State(next, "m.space.child", removed).Status, "it is no space")
	alice.State(space, "m.space.child", child).WantOK()
}

// RC-22: tags and direct chats follow a user from room to room, at once for who replaces it and at the join for others.
func TestUpgradeKeepsTagsAndDirectChats(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	old := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(old)
	for _, u := range []*homeservertest.User{alice, bob} {
		u.Do("PUT", v3+"/user/"+u.ID+"/rooms/"+old+"/tags/u.work", object{"order": 0.5}).WantOK()
		u.Do("PUT", v3+"/user/"+u.ID+"/account_data/m.direct", object{"@x:y": []string{old}, "@z:y": []string{"!other:y"}}).WantOK()
	}
	tags := func(u *homeservertest.User, room string) string {
		return u.Do("GET", v3+"/user/"+u.ID+"/rooms/"+room+"/tags", nil).WantOK().Get("tags").Raw
	}
	direct := func(u *homeservertest.User) string {
		return string(u.Do("GET", v3+"/user/"+u.ID+"/account_data/m.direct", nil).WantOK().Body)
	}
	since := bob.Sync("").NextBatch
	next := upgrade(alice, old, "12")
	follows := fmt.Sprintf(`{"@x:y":[%q,%q],"@z:y":["!other:y"]}`, old, next)
	require.JSONEq(t, `{"u.work":{"order":0.5}}`, tags(alice, next))
	require.JSONEq(t, follows, direct(alice))
	require.JSONEq(t, `{}`, tags(bob, next), "he is not there yet")

	bob.MustJoin(next)
	require.JSONEq(t, `{"u.work":{"order":0.5}}`, tags(bob, next))
	require.JSONEq(t, follows, direct(bob))
	update := bob.Sync(since)
	require.JSONEq(t, follows, update.Get(`account_data.events.#(type=="m.direct").content`).Raw, "his devices are told")
	require.JSONEq(t, `{"u.work":{"order":0.5}}`, update.Joined(next).Get(`account_data.events.#(type=="m.tag").content.tags`).Raw)

	bob.Do("DELETE", v3+"/user/"+bob.ID+"/rooms/"+next+"/tags/u.work", nil).WantOK()
	bob.MustLeave(next)
	bob.MustJoin(next)
	require.JSONEq(t, `{}`, tags(bob, next), "what he took away does not come back")
}

// RC-22 on other servers: what a user has set goes on to the new room, as do aliases and the place in the directory there;
// a room that only says that it replaces another gets none of it.
func TestUpgradeIsFollowedFromOtherServers(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test", func(c *homeserver.Config) { c.PublishByAnyone = true })
	alice, bob := one.User("alice"), two.User("bob")
	old := alice.CreateRoomWith(object{"preset": "public_chat", "room_version": "11"})
	come := func(room string) {
		bob.Do("POST", v3+"/join/"+room+"?via=one.test", object{}).WantOK()
	}
	tagged := func(room string) bool {
		return bob.Do("GET", v3+"/user/"+bob.ID+"/rooms/"+room+"/tags", nil).WantOK().Get(`tags.m\.favourite`).Exists()
	}
	alias := v3 + "/directory/room/" + url.PathEscape("#tea:two.test")
	listed := func(room string) string {
		return bob.Do("GET", v3+"/directory/list/room/"+room, nil).WantOK().Get("visibility").Str
	}
	come(old)
	bob.Do("PUT", v3+"/user/"+bob.ID+"/rooms/"+old+"/tags/m.favourite", object{}).WantOK()
	bob.Do("PUT", alias, object{"room_id": old}).WantOK()
	bob.Do("PUT", v3+"/directory/list/room/"+old, object{"visibility": "public"}).WantOK()

	fake := alice.CreateRoomWith(object{"preset": "public_chat", "creation_content": object{"predecessor": object{"room_id": old}}})
	come(fake)
	require.False(t, tagged(fake))
	require.Equal(t, old, bob.Do("GET", alias, nil).WantOK().Get("room_id").Str)

	next := upgrade(alice, old, "11")
	network.Settle(t.Context())
	come(next)
	require.True(t, tagged(next))
	require.Equal(t, next, bob.Do("GET", alias, nil).WantOK().Get("room_id").Str)
	require.Equal(t, []string{"private", "public"}, []string{listed(old), listed(next)})
	require.Equal(t, "forbidden", bob.State(next, "m.room.guest_access", "").WantOK().Get("guest_access").Str)
}

// Whoever joins by plain state, or makes the new room by hand, keeps their tags too; a room that only says that it
// replaces another gives nobody's tags to itself.
func TestPredecessorsMadeByHand(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, mallory := hs.User("alice"), hs.User("bob"), hs.User("mallory")
	old := alice.CreateRoom(homeservertest.Public)
	for _, u := range []*homeservertest.User{bob, mallory} {
		u.MustJoin(old)
	}
	for _, u := range []*homeservertest.User{alice, bob, mallory} {
		u.Do("PUT", v3+"/user/"+u.ID+"/rooms/"+old+"/tags/m.favourite", object{}).WantOK()
	}
	tagged := func(u *homeservertest.User, room string) bool {
		return u.Do("GET", v3+"/user/"+u.ID+"/rooms/"+room+"/tags", nil).WantOK().Get(`tags.m\.favourite`).Exists()
	}
	claim := object{"preset": "public_chat", "creation_content": object{"predecessor": object{"room_id": old}}}
	next, fake := alice.CreateRoomWith(claim), mallory.CreateRoomWith(claim)
	require.True(t, tagged(alice, next), "her own claim")
	alice.SetState(old, "m.room.tombstone", "", object{"body": "there", "replacement_room": next}).WantOK()
	bob.SetState(next, "m.room.member", bob.ID, object{"membership": "join"}).WantOK()
	require.True(t, tagged(bob, next))
	bob.MustJoin(fake)
	require.False(t, tagged(bob, fake))
	alice.MustJoin(fake)
	require.False(t, tagged(alice, fake))
	for _, predecessor := range []any{nil, "x", object{"room_id": 1}, object{"room_id": "!unknown:y"}} {
		alice.CreateRoomWith(object{"creation_content": object{"predecessor": predecessor}})
	}
}

// m.direct that clients have written in another form stays as it is.
func TestUpgradeWithOddDirectChats(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	path := v3 + "/user/" + alice.ID + "/account_data/m.direct"
	for _, odd := range []string{`{"@x:y":"ROOM","@z:y":["ROOM"]}`, `{"@x:y":[1,"ROOM"]}`, `{"@x:y":7}`} {
		room := alice.CreateRoom(homeservertest.Private)
		odd = strings.ReplaceAll(odd, "ROOM", room)
		alice.Do("PUT", path, []byte(odd)).WantOK()
		next := upgrade(alice, room, "11")
		want := strings.ReplaceAll(odd, `["`+room+`"]`, `["`+room+`","`+next+`"]`)
		require.JSONEq(t, want, string(alice.Do("GET", path, nil).WantOK().Body))
	}
}

// Two upgrades at once, beside people who talk, ban and join: each makes a whole room, and the old one ends with the
// tombstone of the later.
func TestUpgradesAtOnce(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	old := alice.CreateRoomWith(object{"preset": "public_chat", "room_version": "11"})
	made := make([]string, 4)
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() {
			made[i] = upgrade(alice, old, "12")
			bob.MustJoin(made[i])
		})
		wg.Go(func() { alice.Send(old, "hi") })
		wg.Go(func() {
			alice.Do("POST", v3+"/rooms/"+old+"/ban", object{"user_id": fmt.Sprintf("@evil%d:y", i)}).WantOK()
		})
	}
	wg.Wait()
	require.Contains(t, made, content(alice, old, "m.room.tombstone").Get("replacement_room").String())
	hs.Restart()
	last := upgrade(alice, old, "12")
	for i := range made {
		require.Contains(t, types(bob, made[i]), "member "+alice.ID)
		alice.State(last, "m.room.member", fmt.Sprintf("@evil%d:y", i)).WantOK()
	}
}

// refusing is a policy server that signs for rooms with the key of the peer, but no power levels.
type refusing struct{ *peer }

func (r refusing) PolicySign(_ context.Context, server id.ServerName, ev *event.Event) (string, error) {
	if ev.Type == "m.room.power_levels" {
		return "", mxerr.Unknown.WithStatus(502).With("%s does not answer", server)
	}
	redacted, err := event.Redact(ev.Rules, ev.JSON)
	return signing.Encode(ed25519.Sign(r.key.Private, signing.AppendSigned(nil, redacted))), err
}

// Where a policy server has signed the end of a room, it is replaced, whatever else may be changed in it: its names move.
func TestUpgradeOfWhichPolicyServerSignsTheEndAlone(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		f := newFederated(t, "11")
		ctx, alias := t.Context(), id.RoomAlias("#names:hs.test")
		require.NoError(t, f.AddAlias(ctx, alice, alias, f.room.ID))
		f.set(alice, eve, "ban")
		f.Remote = refusing{f.peer}
		public := signing.Encode(f.peer.key.Private.Public().(ed25519.PublicKey))
		f.put(alice, "m.room.policy", "", map[string]any{"via": "peer.test", "public_keys": map[string]any{"ed25519": public}})

		successor, err := f.Upgrade(ctx, alice, f.room.ID, rooms.NewVersion{Version: version})
		require.NoError(t, err)
		require.JSONEq(t, fmt.Sprintf(`{"body":"This room has been replaced","replacement_room":%q}`, successor),
			string(f.current("m.room.tombstone", "").Content()))
		moved, _, err := f.AliasFor(ctx, alias)
		require.NoError(t, err)
		require.Equal(t, successor, moved)
		f.enter(successor)
		require.Equal(t, "ban", members(f.room)[eve])
	}
}
