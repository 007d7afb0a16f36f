package syncing_test

import (
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// TestAccountDataIsKept is AD-01 and AD-03, and the account data of SY-29.
func TestAccountDataIsKept(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(private)
	since := alice.Sync("").NextBatch
	for _, in := range []string{"", room} {
		path := dataPath(alice, in, "org.example/x y")
		alice.Do("GET", path, nil).WantError(404, "M_NOT_FOUND")
		alice.Do("PUT", path, object{"in": in, "order": 0.5}).WantOK()
		require.JSONEq(t, `{"in":"`+in+`","order":0.5}`, string(alice.Do("GET", path, nil).WantOK().Body))
		bob.Do("GET", path, nil).WantError(403, "M_FORBIDDEN")
		bob.Do("PUT", path, object{}).WantError(403, "M_FORBIDDEN")
		alice.Do("PUT", path, []byte(`[]`)).WantError(400, "M_BAD_JSON")
		alice.Do("PUT", path, []byte(`{`)).WantError(400, "M_NOT_JSON")
	}
	alice.Do("PUT", strings.Replace(dataPath(alice, room, "x"), url.PathEscape(room), "nowhere", 1), object{}).WantError(400, "M_INVALID_PARAM")
	setData(alice, "org.global", object{})
	alice.Do("GET", dataPath(alice, room, "org.global"), nil).WantError(404, "M_NOT_FOUND")

	s := alice.Sync(since)
	require.JSONEq(t, `[{"type":"org.example/x y","content":{"in":"","order":0.5}},{"type":"org.global","content":{}}]`, s.Get("account_data.events").Raw)
	require.JSONEq(t, `[{"type":"org.example/x y","content":{"in":"`+room+`","order":0.5}}]`, s.Joined(room).Get("account_data.events").Raw)
	setData(alice, "org.global", object{"again": true})
	s = alice.Sync(s.NextBatch)
	require.JSONEq(t, `[{"type":"org.global","content":{"again":true}}]`, s.Get("account_data.events").Raw)
	require.False(t, s.Get("rooms").Exists())
	require.Equal(t, `{"events":[]}`, bob.Sync("").Get("account_data").Raw, "another user")
}

// TestServersOwnAccountData is AD-02, PT-11 and PU-13: clients cannot set it here, but read it.
func TestServersOwnAccountData(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	event := alice.Send(room, "1")
	for _, typ := range []string{"m.fully_read", "m.push_rules"} {
		for _, in := range []string{"", room} {
			alice.Do("PUT", dataPath(alice, in, typ), object{}).WantError(405, "M_BAD_JSON")
		}
	}
	alice.Do("POST", roomPath(room, "read_markers"), object{"m.fully_read": event}).WantOK()
	require.Equal(t, event, alice.Do("GET", dataPath(alice, room, "m.fully_read"), nil).WantOK().Get("event_id").Str)
	require.Equal(t, event, alice.Sync("").Joined(room).Get("account_data.events.0.content.event_id").Str)
}

// TestAccountDataOfRoomJoined: what a user keeps of a room is told when the room is new to the client.
func TestAccountDataOfRoomJoined(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.Do("PUT", dataPath(bob, room, "org.early"), object{"a": 1}).WantOK()
	s := bob.Sync("")
	require.False(t, s.Get("rooms").Exists())
	bob.MustJoin(room)
	require.Equal(t, "org.early", bob.Sync(s.NextBatch).Joined(room).Get("account_data.events.0.type").Str)
}

func TestAccountDataFilters(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	for _, typ := range []string{"org.a", "org.b"} {
		setData(alice, typ, object{"a": 1})
		alice.Do("PUT", dataPath(alice, room, typ), object{"a": 1}).WantOK()
	}
	s := ask(alice, "filter", `{"account_data":{"types":["*.a"]},"room":{"account_data":{"not_types":["org.a"]}}}`)
	require.Equal(t, `["org.a"]`, s.Get("account_data.events.#.type").Raw)
	require.Equal(t, `["org.b"]`, s.Joined(room).Get("account_data.events.#.type").Raw)
	s = ask(alice, "filter", `{"account_data":{"types":[]},"room":{"account_data":{"types":[]}}}`)
	require.Equal(t, `{"events":[]}`, s.Get("account_data").Raw)
	require.Equal(t, `{"events":[]}`, s.Joined(room).Get("account_data").Raw)
}

func tagPath(u *homeservertest.User, room, tag string) string {
	p := "/_matrix/client/v3/user/" + url.PathEscape(u.ID) + "/rooms/" + url.PathEscape(room) + "/tags"
	if tag != "" {
		p += "/" + url.PathEscape(tag)
	}
	return p
}

// TestTags is AD-04.
func TestTags(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(private)
	require.JSONEq(t, `{"tags":{}}`, string(alice.Do("GET", tagPath(alice, room, ""), nil).WantOK().Body))
	alice.Do("PUT", tagPath(alice, room, "m.favourite"), object{"order": 0.25, "org.x": true}).WantOK()
	alice.Do("PUT", tagPath(alice, room, "u.a/b"), object{}).WantOK()
	want := `{"tags":{"m.favourite":{"order":0.25,"org.x":true},"u.a/b":{}}}`
	require.JSONEq(t, want, string(alice.Do("GET", tagPath(alice, room, ""), nil).WantOK().Body))
	s := alice.Sync("")
	require.JSONEq(t, `[{"type":"m.tag","content":`+want+`}]`, s.Joined(room).Get("account_data.events").Raw)

	alice.Do("DELETE", tagPath(alice, room, "u.none"), nil).WantOK()
	require.False(t, alice.Sync(s.NextBatch).Get("rooms").Exists(), "nothing has changed")
	alice.Do("DELETE", tagPath(alice, room, "m.favourite"), nil).WantOK()
	alice.Do("DELETE", tagPath(alice, room, "u.a/b"), object{}).WantOK()
	require.JSONEq(t, `{"tags":{}}`, alice.Sync(s.NextBatch).Joined(room).Get("account_data.events.0.content").Raw)

	for _, body := range []string{`{"order":"1"}`, `{"order":true}`, `[]`} {
		alice.Do("PUT", tagPath(alice, room, "u.x"), []byte(body)).WantError(400, "M_BAD_JSON")
	}
	for _, body := range []string{`{"order":1.01}`, `{"order":-0.1}`} {
		alice.Do("PUT", tagPath(alice, room, "u.x"), []byte(body)).WantError(400, "M_INVALID_PARAM")
	}
	alice.Do("PUT", tagPath(alice, room, "u."+strings.Repeat("x", 253)), object{"order": 1}).WantOK()
	alice.Do("PUT", tagPath(alice, room, "u."+strings.Repeat("x", 254)), object{}).WantError(400, "M_INVALID_PARAM")
	for _, method := range []string{"PUT", "DELETE"} {
		bob.Do(method, tagPath(alice, room, "u.x"), object{}).WantError(403, "M_FORBIDDEN")
	}
	bob.Do("GET", tagPath(alice, room, ""), nil).WantError(403, "M_FORBIDDEN")
}

// TestTagsAtOnce: two devices that tag a room at once both have their way.
func TestTagsAtOnce(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	var wg sync.WaitGroup
	for _, tag := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		wg.Go(func() { alice.Do("PUT", tagPath(alice, room, "u."+tag), object{}).WantOK() })
	}
	wg.Wait()
	require.Len(t, alice.Do("GET", tagPath(alice, room, ""), nil).Get("tags").Map(), 8)
}

// TestTagsThatAreNone: a client may have put anything into m.tag.
func TestTagsThatAreNone(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	for _, content := range []string{`{"tags":[]}`, `{"tags":null}`, `{"tags":{"u.x":17}}`, `{}`} {
		alice.Do("PUT", dataPath(alice, room, "m.tag"), []byte(content)).WantOK()
		alice.Do("GET", tagPath(alice, room, ""), nil).WantOK()
		alice.Do("PUT", tagPath(alice, room, "u.y"), object{}).WantOK()
		require.JSONEq(t, `{}`, alice.Do("GET", tagPath(alice, room, ""), nil).Get(`tags.u\.y`).Raw, content)
	}
}

// ignore sets the list of ignored users.
func ignore(u *homeservertest.User, users ...string) {
	list := object{}
	for _, other := range users {
		list[other] = object{}
	}
	setData(u, "m.ignored_user_list", object{"ignored_users": list})
}

// TestIgnoredUsers is SY-20, SY-21 and AD-05.
func TestIgnoredUsers(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	carol.MustJoin(room)
	since := alice.Sync("").NextBatch
	ignore(alice, bob.ID, alice.ID)

	event := bob.Send(room, "from bob")
	bob.SetState(room, "m.room.member", bob.ID, object{"membership": "join", "displayname": "Robert"}).WantOK()
	carol.Send(room, "from carol")
	alice.Send(room, "from alice")
	typing(bob, room, true)
	read(bob, room, "m.read", event, object{})
	byBob, byCarol := bob.CreateRoom(private), carol.CreateRoom(private)
	bob.MustInvite(byBob, alice)
	carol.MustInvite(byCarol, alice)

	for _, s := range []*homeservertest.Sync{alice.Sync(since), alice.Sync("")} {
		require.Equal(t, []string{"from carol", "from alice"}, texts(s.Joined(room)), "messages; one cannot ignore oneself")
		require.Equal(t, "Robert", state(s.Joined(room).Get("timeline.events"), "m.room.member", bob.ID).Get("content.displayname").Str, "state events stay")
		require.NotContains(t, s.Joined(room).Get("ephemeral").Raw, bob.ID)
		require.False(t, s.Invited(byBob).Exists(), "an invite of an ignored user")
		require.True(t, s.Invited(byCarol).Exists())
	}
	require.Equal(t, []string{"from bob", "from carol", "from alice"}, texts(bob.Sync("").Joined(room)), "others see them")

	since = alice.Sync("").NextBatch
	ignore(alice)
	bob.Send(room, "again")
	require.Equal(t, []string{"again"}, texts(alice.Sync(since).Joined(room)), "what was missed is not sent later")
}

// TestBlockedInvites is the rest of SY-20.
func TestBlockedInvites(t *testing.T) {
	alice, bob := two(t)
	room := bob.CreateRoom(private)
	bob.MustInvite(room, alice)
	setData(alice, "m.invite_permission_config", object{"default_action": "block"})
	require.False(t, alice.Sync("").Invited(room).Exists())
	setData(alice, "m.invite_permission_config", object{})
	require.True(t, alice.Sync("").Invited(room).Exists())
}

// The tags of a room are bounded, in size and in depth.
func TestTagsAreBounded(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	path := "/_matrix/client/v3/user/" + url.PathEscape(alice.ID) + "/rooms/" + url.PathEscape("!r:x") + "/tags/"
	deep := strings.Repeat("[", 99) + strings.Repeat("]", 99)
	alice.Do("PUT", path+"deep", []byte(`{"x":`+deep+`}`)).WantError(400, "M_BAD_JSON")
	long := map[string]any{"x": strings.Repeat("x", 40<<10)}
	alice.Do("PUT", path+"one", long).WantOK()
	alice.Do("PUT", path+"two", long).WantError(413, "M_TOO_LARGE")
	alice.Do("DELETE", path+"one", nil).WantOK()
	alice.Do("PUT", path+"two", long).WantOK()
}

// TestDeletedAccountData (MSC3391): what was deleted, or set to nothing, is told to devices that knew of it and to no
// others.
func TestDeletedAccountData(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(private)
	remove := func(u *homeservertest.User, room, typ string) *homeservertest.Response {
		return u.Do("DELETE", strings.Replace(dataPath(alice, room, typ), "/v3/", "/unstable/org.matrix.msc3391/", 1), nil)
	}
	for _, at := range []string{"", room} {
		told := func(s *homeservertest.Sync) []gjson.Result {
			list := s.Get("account_data.events")
			if at != "" {
				list = s.Joined(room).Get("account_data.events")
			}
			return typed(list, "org.example")
		}
		for _, byPut := range []bool{false, true} {
			alice.Do("PUT", dataPath(alice, at, "org.example"), object{"a": 1}).WantOK()
			since := alice.Sync("").NextBatch
			if byPut {
				alice.Do("PUT", dataPath(alice, at, "org.example"), object{}).WantOK()
			} else {
				remove(alice, at, "org.example").WantOK()
			}
			news := told(alice.Sync(since))
			require.Len(t, news, 1)
			require.Equal(t, "{}", news[0].Get("content").Raw)
			alice.Do("GET", dataPath(alice, at, "org.example"), nil).WantError(404, "M_NOT_FOUND")
			require.Empty(t, told(alice.Sync("")), "an initial sync")
		}
		since := alice.Sync("").NextBatch
		remove(alice, at, "org.example").WantOK()
		remove(alice, at, "org.example.never").WantOK()
		require.Empty(t, told(alice.Sync(since)), "deleted already")
		remove(bob, at, "org.example").WantError(403, "M_FORBIDDEN")
		for _, kept := range []string{"m.fully_read", "m.push_rules"} {
			remove(alice, at, kept).WantError(405, "M_BAD_JSON")
		}
	}
}

// TestAccountDataOfDevices (MSC3890): a device that goes takes with it how loud it was to be, and the others are told.
func TestAccountDataOfDevices(t *testing.T) {
	alice, _ := two(t)
	gone, stays := alice.Login(), alice.Login()
	types := func(device string) []string {
		return []string{"m.local_notification_settings." + device, "org.matrix.msc3890.local_notification_settings." + device}
	}
	for _, typ := range append(types(gone.Device), types(stays.Device)...) {
		setData(alice, typ, object{"is_silenced": true})
	}
	since := alice.Sync("").NextBatch
	gone.Do("POST", clientV3+"/logout", nil).WantOK()
	news := alice.Sync(since).Get("account_data.events")
	require.ElementsMatch(t, types(gone.Device), strs(news.Get("#.type")))
	require.Equal(t, `[{},{}]`, news.Get("#.content").Raw)
	for i, typ := range types(gone.Device) {
		alice.Do("GET", dataPath(alice, "", typ), nil).WantError(404, "M_NOT_FOUND")
		alice.Do("GET", dataPath(alice, "", types(stays.Device)[i]), nil).WantOK()
	}
}

// TestInviteFilter (MSC4155): invites of some are taken and not told, as long as the user wishes so.
func TestInviteFilter(t *testing.T) {
	alice, bob := two(t)
	room := bob.CreateRoom(private)
	since := alice.Sync("").NextBatch
	filter := func(config object) { setData(alice, "org.matrix.msc4155.invite_permission_config", config) }
	filter(object{"ignored_users": []string{bob.ID}})
	bob.MustInvite(room, alice)
	require.False(t, alice.Sync(since).Invited(room).Exists())
	require.False(t, alice.Sync("").Invited(room).Exists())
	require.False(t, oldRoom(alice.Do("GET", clientV3+"/initialSync", nil).WantOK(), room).Exists())
	filter(object{"ignored_users": []string{bob.ID}, "allowed_users": []string{"@b*"}})
	require.True(t, alice.Sync("").Invited(room).Exists())
	filter(object{"blocked_servers": []string{"hs.*"}})
	require.False(t, alice.Sync("").Invited(room).Exists())
	filter(object{})
	require.True(t, alice.Sync("").Invited(room).Exists())
	alice.MustJoin(room)
}
