package homeservertest_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// administered makes @root an administrator who can tell users something.
func administered(cfg *homeserver.Config) {
	cfg.Admins = []string{"@root:" + cfg.ServerName}
	cfg.AdminContact = "mailto:root@example.org"
	cfg.ServerNotices = homeserver.ServerNotices{Localpart: "server", RoomName: "From the staff", RoomAvatarURL: "mxc://hs.test/staff"}
	cfg.Registration.SharedSecret = "secret"
}

// suspend suspends a user or lifts that.
func suspend(t *testing.T, hs *homeservertest.Server, who *homeservertest.User, is bool) {
	t.Helper()
	require.NoError(t, hs.Homeserver().Admin().SetSuspended(context.Background(), who.ID, is))
}

// reported is the host's notebook of reports.
type reported struct {
	mu   sync.Mutex // guards list
	list []homeserver.Report
}

func (r *reported) hook(cfg *homeserver.Config) {
	cfg.Hooks.OnReport = func(_ context.Context, report homeserver.Report) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.list = append(r.list, report)
	}
}

func (r *reported) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.list)
}

func clientPath(segments ...string) string {
	p := v3
	for _, s := range segments {
		p += "/" + url.PathEscape(s)
	}
	return p
}

// MO-01, MO-02, MO-03, C-55: reports reach the administrators; what the reporter may not see does not exist.
func TestReports(t *testing.T) {
	notebook := &reported{}
	hs := homeservertest.New(t, administered, notebook.hook)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Private)
	alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "joined"}).WantOK()
	before := alice.Send(room, "before bob came")
	alice.MustInvite(room, bob)
	bob.MustJoin(room)
	rude := alice.Send(room, "rude")
	report := func(who *homeservertest.User, body any, segments ...string) *homeservertest.Response {
		return who.Do("POST", clientPath(append(segments, "report")...), body)
	}
	event := func(who *homeservertest.User, event string, body any) *homeservertest.Response {
		return who.Do("POST", clientPath("rooms", room, "report", event), body)
	}
	reason := map[string]any{"reason": "not nice"}

	event(bob, rude, map[string]any{"reason": "not nice", "score": -100}).WantOK()
	event(bob, rude, map[string]any{}).WantOK() // the reason may be missing, and the last one counts
	event(carol, rude, reason).WantError(404, "M_NOT_FOUND")
	event(bob, before, reason).WantError(404, "M_NOT_FOUND")
	event(bob, "$nothing", reason).WantError(404, "M_NOT_FOUND")
	event(bob, "nothing", reason).WantError(400, "M_INVALID_PARAM")
	report(carol, reason, "rooms", room).WantOK()                                        // she is not in it
	report(carol, map[string]any{"reason": ""}, "rooms", room).WantOK()                  // "May be blank"
	report(carol, reason, "rooms", "!nowhere:hs.test").WantError(404, "M_NOT_FOUND")     //
	report(carol, reason, "users", alice.ID).WantOK()                                    // they share no room
	report(carol, reason, "users", "@stranger:elsewhere.org").WantOK()                   // who exists there is not known here
	report(carol, reason, "users", "@nobody:hs.test").WantError(404, "M_NOT_FOUND")      //
	report(carol, map[string]any{}, "rooms", room).WantError(400, "M_MISSING_PARAM")     //
	report(carol, map[string]any{}, "users", alice.ID).WantError(400, "M_MISSING_PARAM") //
	for _, path := range []string{clientPath("rooms", room, "report", rude), clientPath("rooms", room, "report"), clientPath("users", alice.ID, "report")} {
		bob.Do("POST", path, map[string]any{"reason": strings.Repeat("x", 4097)}).WantError(400, "M_INVALID_PARAM")
		bob.Do("POST", path, map[string]any{"reason": strings.Repeat("x", 10<<20)}).WantError(413, "M_TOO_LARGE")
		bob.Do("POST", path, map[string]any{"reason": 1}).WantError(400, "M_BAD_JSON")
		hs.Guest().Do("POST", path, reason).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
	}
	bob.MustLeave(room)
	event(bob, rude, reason).WantError(404, "M_NOT_FOUND")

	admin := hs.Homeserver().Admin()
	page := func(after int64, limit int) []homeserver.Report {
		list, err := admin.Reports(context.Background(), after, limit)
		require.NoError(t, err)
		return list
	}
	all := page(0, 0)
	require.Len(t, all, 4, "one of each thing and reporter")
	require.Equal(t, 4, notebook.count())
	require.Equal(t, []string{rude, alice.ID, room, bob.ID, ""}, []string{
		string(all[0].Event), string(all[0].User), string(all[0].Room), string(all[0].Reporter), all[0].Reason,
	})
	require.Equal(t, []string{"", "", room, carol.ID}, []string{string(all[1].Event), string(all[1].User), string(all[1].Room), string(all[1].Reporter)})
	require.Equal(t, []string{"", alice.ID, ""}, []string{string(all[2].Event), string(all[2].User), string(all[2].Room)})
	require.NotZero(t, all[3].AtMS)
	require.Equal(t, all[1:3], page(all[0].ID, 2))
	require.NoError(t, admin.DeleteReport(context.Background(), all[0].ID))
	require.Error(t, admin.DeleteReport(context.Background(), all[0].ID))
	hs.Restart()
	admin = hs.Homeserver().Admin()
	require.Equal(t, all[1:], page(0, 10))
}

// MO-07, ME-24: one room of notices for each user, to which they are invited and whose invite stays; it is used again.
func TestServerNotices(t *testing.T) {
	hs := homeservertest.New(t, administered)
	root, alice := hs.User("root"), hs.User("alice")
	const path = "/_synapse/admin/v1/send_server_notice"
	notice := map[string]any{"user_id": alice.ID, "content": map[string]any{"msgtype": "m.text", "body": "hello"}}
	alice.Do("POST", path, nil).WantError(403, "M_FORBIDDEN")
	alice.Do("PUT", path+"/1", []byte("{")).WantError(403, "M_FORBIDDEN")
	hs.Guest().Do("POST", path, notice).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")

	first := root.Do("POST", path, notice).WantOK().Get("event_id").String()
	invites := alice.Sync("").Get("rooms.invite").Map()
	require.Len(t, invites, 1)
	var room string
	for id, invite := range invites {
		room = id
		require.Equal(t, "@server:hs.test", invite.Get("invite_state.events.0.sender").String())
		require.Equal(t, "From the staff", invite.Get(`invite_state.events.#(type=="m.room.name").content.name`).String())
		require.Equal(t, "mxc://hs.test/staff", invite.Get(`invite_state.events.#(type=="m.room.avatar").content.url`).String())
	}
	alice.Leave(room).WantError(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
	alice.SetState(room, "m.room.member", alice.ID, map[string]any{"membership": "leave"}).WantError(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
	alice.MustJoin(room)
	alice.Expect(room, homeservertest.ID(first))
	joined := alice.Sync("").Joined(room)
	require.True(t, joined.Get(`account_data.events.#(type=="m.tag").content.tags.m\.server_notice`).Exists(), joined.Raw)
	alice.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hi"}).WantError(403, "M_FORBIDDEN")
	alice.Invite(room, root).WantError(403, "M_FORBIDDEN")

	once := root.Do("PUT", path+"/2", notice).WantOK().Get("event_id").String()
	require.Equal(t, once, root.Do("PUT", path+"/2", notice).WantOK().Get("event_id").String())
	require.NotEqual(t, once, root.Do("PUT", path+"/3", notice).WantOK().Get("event_id").String())

	alice.MustLeave(room)
	alice.Forget(room).WantOK()
	root.Do("POST", path, notice).WantOK()
	require.True(t, alice.Sync("").Invited(room).Exists(), "the same room again")
	alice.MustJoin(room)

	for body, code := range map[string]string{
		`{"content":{}}`: "M_MISSING_PARAM", `{"user_id":"@alice:hs.test"}`: "M_MISSING_PARAM", `{"user_id":"alice","content":{}}`: "M_INVALID_PARAM",
		`{"user_id":"@x:elsewhere.org","content":{}}`: "M_INVALID_PARAM", `{"user_id":"@alice:hs.test","content":[]}`: "M_BAD_JSON",
	} {
		root.Do("POST", path, []byte(body)).WantError(400, code)
	}
	root.Do("POST", path, []byte(`{"user_id":"@nobody:hs.test","content":{}}`)).WantError(404, "M_NOT_FOUND")
}

// MO-07: by the library, with what the specification says of notices; many at once make one room; whoever takes no
// invites gets this one; who is deactivated leaves it, whatever they may not do themselves.
func TestServerNoticesOfTheHost(t *testing.T) {
	hs := homeservertest.New(t, administered)
	ctx, admin := context.Background(), hs.Homeserver().Admin()
	alice := hs.User("alice")
	alice.Do("PUT", clientPath("user", alice.ID, "account_data", "m.invite_permission_config"), map[string]any{"default_action": "block"}).WantOK()
	content := map[string]any{"body": "full", "server_notice_type": "m.server_notice.usage_limit_reached", "limit_type": "monthly_active_user"}
	var all sync.WaitGroup
	events := make([]string, 10)
	for i := range events {
		all.Go(func() {
			id, err := admin.SendNotice(ctx, alice.ID, content)
			if err == nil {
				events[i] = id
			}
		})
	}
	all.Wait()
	require.NotContains(t, events, "")
	invites := alice.Sync("").Get("rooms.invite").Map()
	require.Len(t, invites, 1)
	for room := range invites {
		alice.MustJoin(room)
		e := alice.Expect(room, homeservertest.ID(events[9]))
		require.Equal(t, "m.server_notice", e.Get("content.msgtype").String())
		require.Equal(t, "mailto:root@example.org", e.Get("content.admin_contact").String())
		require.Equal(t, "monthly_active_user", e.Get("content.limit_type").String())
		require.Equal(t, "From the staff", alice.State(room, "m.room.member", "@server:hs.test").Get("displayname").String())
	}
	_, err := admin.SendNotice(ctx, "@nobody:hs.test", content)
	require.Error(t, err)

	bob := hs.User("bob")
	_, err = admin.SendNotice(ctx, bob.ID, content)
	require.NoError(t, err)
	require.NoError(t, admin.Deactivate(ctx, bob.ID, false))
	_, err = admin.SendNotice(ctx, bob.ID, content)
	require.Error(t, err)

	name := map[string]any{"username": "server", "password": "x", "auth": map[string]any{"type": "m.login.dummy"}}
	hs.Client("").Do("POST", v3+"/register", name).WantError(400, "M_EXCLUSIVE")
	plain := homeservertest.New(t)
	_, err = plain.Homeserver().Admin().SendNotice(ctx, plain.User("alice").ID, content)
	require.Error(t, err, "this server sends none")
}

// LK-07: an administrator closes a room; its people are out, do not come back, and find the one that replaces it.
func TestRoomIsRemoved(t *testing.T) {
	hs := homeservertest.New(t, administered)
	root, alice, bob, carol := hs.User("root"), hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoomWith(map[string]any{"preset": "public_chat", "visibility": "public", "room_alias_name": "bad"})
	bob.MustJoin(room)
	alice.MustInvite(room, carol)
	alice.Send(room, "bad things")
	remove := func(as *homeservertest.User, room string, body any) *homeservertest.Response {
		return as.Do("DELETE", "/_synapse/admin/v1/rooms/"+url.PathEscape(room), body)
	}
	remove(alice, room, map[string]any{}).WantError(403, "M_FORBIDDEN")
	remove(root, "!nowhere:hs.test", map[string]any{}).WantError(404, "M_NOT_FOUND")
	remove(root, room, map[string]any{"new_room_user_id": "root"}).WantError(400, "M_INVALID_PARAM")

	done := remove(root, room, map[string]any{"block": true, "purge": false, "new_room_user_id": root.ID, "room_name": "Closed", "message": "This room is closed."}).WantOK()
	require.Equal(t, []string{alice.ID, bob.ID, carol.ID}, texts(done.Get("kicked_users")))
	require.Empty(t, texts(done.Get("failed_to_kick_users")))
	require.Equal(t, []string{"#bad:hs.test"}, texts(done.Get("local_aliases")))
	instead := done.Get("new_room_id").String()

	alice.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "x"}).WantError(403, "M_FORBIDDEN")
	alice.Messages(room, url.Values{"dir": {"b"}}).WantError(403, "M_FORBIDDEN")
	alice.Join(room).WantError(403, "M_FORBIDDEN")
	alice.SetState(room, "m.room.member", alice.ID, map[string]any{"membership": "join"}).WantError(403, "M_FORBIDDEN")
	root.Do("POST", clientPath("knock", room), map[string]any{}).WantError(403, "M_FORBIDDEN")
	require.False(t, carol.Sync("").Invited(room).Exists())
	require.False(t, alice.Sync("").Joined(room).Exists())
	require.Equal(t, instead, alice.Do("GET", clientPath("directory", "room", "#bad:hs.test"), nil).WantOK().Get("room_id").String())
	require.Equal(t, "private", alice.Do("GET", clientPath("directory", "list", "room", room), nil).WantOK().Get("visibility").String())
	require.Equal(t, "Closed", alice.State(instead, "m.room.name", "").WantOK().Get("name").String())
	bob.Expect(instead, homeservertest.Text("This room is closed."))
	alice.SendEvent(instead, "m.room.message", map[string]any{"msgtype": "m.text", "body": "x"}).WantError(403, "M_FORBIDDEN")
	require.Empty(t, texts(remove(root, room, map[string]any{"block": true}).WantOK().Get("kicked_users")), "once more harms nothing")

	hs.Restart()
	ctx, admin := context.Background(), hs.Homeserver().Admin()
	alice.Join(room).WantError(403, "M_FORBIDDEN")
	require.NoError(t, admin.UnblockRoom(ctx, room))
	require.Error(t, admin.UnblockRoom(ctx, room))
	other := alice.CreateRoom(homeservertest.Public)
	remove(root, other, map[string]any{"block": true, "new_room_user_id": "@nobody:hs.test"}).WantError(404, "M_NOT_FOUND")
	remove(root, other, map[string]any{"block": true, "new_room_user_id": "@x:elsewhere.org"}).WantError(400, "M_INVALID_PARAM")
	bob.MustJoin(other) // what was refused has blocked nothing
	failed, err := admin.RemoveRoom(ctx, other, false)
	require.NoError(t, err)
	require.Empty(t, failed)
	_, err = admin.RemoveRoom(ctx, "!nowhere:hs.test", true)
	require.NoError(t, err, "a room can be blocked before it is known")
	alice.Join("!nowhere:hs.test").WantError(403, "M_FORBIDDEN")
}

func texts(list gjson.Result) (all []string) {
	for _, text := range list.Array() {
		all = append(all, text.String())
	}
	return all
}

// LK-02, LK-03: what suspended users may and may not do.
func TestSuspendedUsers(t *testing.T) {
	hs := homeservertest.New(t, administered)
	alice, bob := hs.User("alice"), hs.User("bob")
	room, public := alice.CreateRoom(homeservertest.Private), bob.CreateRoom(homeservertest.Public)
	invited := bob.CreateRoom(homeservertest.Private)
	bob.MustInvite(invited, alice)
	turnedDown := bob.CreateRoom(homeservertest.Private)
	bob.MustInvite(turnedDown, alice)
	alice.MustInvite(room, bob)
	bob.MustJoin(room)
	own, others := alice.Send(room, "mine"), bob.Send(room, "bob's")
	suspend(t, hs, alice, true)

	text := map[string]any{"msgtype": "m.text", "body": "x"}
	about := map[string]any{"user_id": bob.ID}
	refused := []struct {
		method, path string
		body         any
	}{
		{"PUT", clientPath("rooms", room, "send", "m.room.message", "s1"), text},
		{"PUT", clientPath("rooms", room, "send", "m.room.redaction", "s2"), map[string]any{"redacts": others}},
		{"PUT", clientPath("rooms", room, "redact", others, "s3"), map[string]any{}},
		{"PUT", clientPath("rooms", room, "state", "m.room.name", ""), map[string]any{"name": "x"}},
		{"PUT", clientPath("rooms", room, "state", "m.room.member", alice.ID), map[string]any{"membership": "join", "displayname": "x"}},
		{"POST", clientPath("rooms", public, "join"), map[string]any{}},
		{"POST", clientPath("join", public), map[string]any{}},
		{"POST", clientPath("join", invited), map[string]any{}},
		{"POST", clientPath("knock", public), map[string]any{}},
		{"POST", clientPath("rooms", room, "invite"), about},
		{"POST", clientPath("rooms", room, "kick"), about},
		{"POST", clientPath("rooms", room, "ban"), about},
		{"POST", clientPath("rooms", room, "unban"), about},
		{"POST", clientPath("rooms", room, "upgrade"), map[string]any{"new_version": "11"}},
		{"POST", clientPath("createRoom"), map[string]any{}},
		{"PUT", clientPath("profile", alice.ID, "displayname"), map[string]any{"displayname": "x"}},
		{"PUT", clientPath("profile", alice.ID, "avatar_url"), map[string]any{"avatar_url": "mxc://a/b"}},
		{"PUT", clientPath("profile", alice.ID, "org.example.x"), map[string]any{"org.example.x": 1}},
		{"DELETE", clientPath("profile", alice.ID, "displayname"), nil},
	}
	for _, tt := range refused {
		alice.Do(tt.method, tt.path, tt.body).WantError(403, "M_USER_SUSPENDED")
	}

	allowed := []struct {
		method, path string
		body         any
	}{
		{"GET", clientPath("sync"), nil},
		{"GET", clientPath("rooms", room, "messages") + "?dir=b", nil},
		{"GET", clientPath("rooms", room, "state"), nil},
		{"GET", clientPath("rooms", room, "event", others), nil},
		{"PUT", clientPath("rooms", room, "redact", own, "a1"), map[string]any{}},
		{"POST", clientPath("rooms", room, "receipt", "m.read", others), map[string]any{}},
		{"PUT", clientPath("user", alice.ID, "account_data", "org.example.x"), map[string]any{"a": 1}},
		{"POST", clientPath("rooms", room, "report", others), map[string]any{"reason": "x"}},
		{"POST", clientPath("rooms", turnedDown, "leave"), map[string]any{}},
		{"GET", clientPath("devices"), nil},
		{"GET", clientPath("account", "whoami"), nil},
		{"POST", clientPath("rooms", room, "leave"), map[string]any{}},
	}
	for _, tt := range allowed {
		alice.Do(tt.method, tt.path, tt.body).WantOK()
	}
	again := alice.Login()
	again.Do("POST", clientPath("join", public), map[string]any{}).WantError(403, "M_USER_SUSPENDED")
	again.Do("POST", clientPath("logout"), nil).WantOK()
	suspend(t, hs, alice, false)
	alice.MustJoin(public)
	alice.Send(public, "free again")
	suspend(t, hs, alice, true)
	password := map[string]any{"type": "m.login.password", "password": alice.Password, "identifier": map[string]any{"type": "m.id.user", "user": alice.ID}}
	alice.Do("POST", clientPath("account", "deactivate"), map[string]any{"auth": password}).WantOK()
}

// C-01, C-23, LK-01: every endpoint that asks who calls refuses who is nobody, logged out, locked, or a guest where
// guests may not be, before it looks at anything else.
func TestEveryRouteAsksWhoCalls(t *testing.T) {
	hs := homeservertest.New(t, administered)
	locked, gone, guest := hs.User("locked"), hs.User("gone"), hs.Guest()
	require.NoError(t, hs.Homeserver().Admin().SetLocked(context.Background(), locked.ID, true))
	gone.Do("POST", clientPath("logout"), nil).WantOK()
	asked := 0
	for _, r := range rows(t, packages(t)) {
		if r.access == "Public" || r.access == "Server" {
			continue
		}
		path := filled(r.path)
		ask := func(token string) *homeservertest.Response {
			return hs.Client(token).Do(r.method, path, []byte(`{`))
		}
		if first := ask("unknown"); first.Status == 404 {
			first.WantError(404, "M_UNRECOGNIZED") // of what this server is not configured for
			continue
		}
		asked++
		for _, token := range []string{"null", "unknown", gone.Token} {
			ask(token).WantError(401, "M_UNKNOWN_TOKEN")
		}
		if r.access != "OptionalToken" {
			ask("").WantError(401, "M_MISSING_TOKEN")
			ask(" ").WantError(401, "M_MISSING_TOKEN")
		}
		if r.access == "Authed" {
			guest.Do(r.method, path, []byte(`{`)).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
		}
		if !slices.Contains(r.options, "EvenLocked") {
			answer := locked.Do(r.method, path, []byte(`{`))
			answer.WantError(http.StatusUnauthorized, "M_USER_LOCKED")
			require.True(t, answer.Get("soft_logout").Bool(), path)
		}
	}
	require.Greater(t, asked, 60)
	locked.Do("POST", clientPath("logout", "all"), nil).WantOK()
}

// filled is a path of the route table as somebody would ask for it.
func filled(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			segments[i] = "x"
		}
		if s == "{$}" {
			segments[i] = ""
		}
	}
	return strings.Join(segments, "/")
}

// CA-01, CA-03: fields that users may not change stay as they are.
func TestProfileFieldsThatStay(t *testing.T) {
	hs := homeservertest.New(t, func(cfg *homeserver.Config) {
		cfg.ProfileFields.Disallowed = []string{"avatar_url", "org.example.role"}
	})
	alice := hs.User("alice")
	field := func(key string) string { return clientPath("profile", alice.ID, key) }
	alice.Do("PUT", field("displayname"), map[string]any{"displayname": "Alice"}).WantOK()
	for _, key := range []string{"avatar_url", "org.example.role"} {
		alice.Do("PUT", field(key), map[string]any{key: "mxc://a/b"}).WantError(403, "M_FORBIDDEN")
		alice.Do("DELETE", field(key), nil).WantError(403, "M_FORBIDDEN")
	}
	capabilities := alice.Do("GET", clientPath("capabilities"), nil).WantOK()
	require.JSONEq(t, `{"enabled":true,"disallowed":["avatar_url","org.example.role"]}`, capabilities.Get(`capabilities.m\.profile_fields`).Raw)
	require.False(t, capabilities.Get(`capabilities.m\.set_avatar_url.enabled`).Bool())
	require.True(t, capabilities.Get(`capabilities.m\.set_displayname.enabled`).Bool())
}
