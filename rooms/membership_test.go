package rooms_test

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// ME-01: the table of transitions, as far as one user can try them.
func TestMembershipTransitions(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Private)

	bob.Join(room).WantError(403, "M_FORBIDDEN")
	bob.Leave(room).WantError(403, "M_FORBIDDEN")
	carol.Invite(room, bob).WantError(403, "M_FORBIDDEN")
	alice.Kick(room, bob).WantError(403, "M_FORBIDDEN")
	alice.MustInvite(room, bob)
	alice.MustInvite(room, bob) // ME-05: already invited is 200
	bob.MustJoin(room)
	bob.MustJoin(room) // ME-09: joining when joined is a no-op
	alice.Invite(room, bob).WantError(403, "M_FORBIDDEN")
	bob.Ban(room, alice).WantError(403, "M_FORBIDDEN")
	alice.MustBan(room, bob)
	bob.Join(room).WantError(403, "M_FORBIDDEN")
	alice.Invite(room, bob).WantError(403, "M_FORBIDDEN")
	alice.Unban(room, bob).WantOK()
	alice.Unban(room, bob).WantError(403, "M_BAD_STATE")
	alice.MustInvite(room, bob)
	bob.MustLeave(room)
	bob.MustLeave(room) // ME-18: idempotent
	alice.Kick(room, carol).WantError(403, "M_FORBIDDEN")
	alice.MustBan(room, carol) // ME-22: works on users who were never there
}

func TestBannedUserCannotRejoin(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	alice.MustBan(room, bob)
	bob.Join(room).WantError(403, "M_FORBIDDEN")
}

// ME-03: a reason is part of the event.
func TestReasons(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	at := func(want string) {
		t.Helper()
		require.Equal(t, want, alice.State(room, "m.room.member", bob.ID).WantOK().Get("reason").String())
	}
	bob.Do("POST", v3+"/join/"+room, map[string]any{"reason": "r1"}).WantOK()
	at("r1")
	alice.Do("POST", v3+"/rooms/"+room+"/kick", map[string]any{"user_id": bob.ID, "reason": "r2"}).WantOK()
	at("r2")
	alice.Do("POST", v3+"/rooms/"+room+"/invite", map[string]any{"user_id": bob.ID, "reason": "r3"}).WantOK()
	at("r3")
	bob.Do("POST", v3+"/rooms/"+room+"/leave", map[string]any{"reason": "r4"}).WantOK()
	at("r4")
	alice.Do("POST", v3+"/rooms/"+room+"/ban", map[string]any{"user_id": bob.ID, "reason": "r5"}).WantOK()
	at("r5")
	alice.Do("POST", v3+"/rooms/"+room+"/unban", map[string]any{"user_id": bob.ID, "reason": "r6"}).WantOK()
	at("r6")
	alice.SetState(room, "m.room.join_rules", "", map[string]any{"join_rule": "knock"}).WantOK()
	bob.Do("POST", v3+"/knock/"+room, map[string]any{"reason": "r7"}).WantOK()
	at("r7")
}

// A join carries what the client wants it to say besides, but for what the server says itself.
func TestJoinWithContent(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.Do("POST", v3+"/join/"+room, map[string]any{"foo": "bar", "membership": "ban", "join_authorised_via_users_server": "@x:y"}).WantOK()
	require.JSONEq(t, `{"foo":"bar","membership":"join"}`, string(alice.State(room, "m.room.member", bob.ID).WantOK().Body))
	bob.Do("POST", v3+"/join/"+room, []byte(`{"reason":1}`)).WantError(400, "M_BAD_JSON")
}

// ME-13: guests only where guest_access says so, and out again when it no longer does.
func TestGuests(t *testing.T) {
	hs := homeservertest.New(t)
	alice, guest := hs.User("alice"), hs.Guest()
	room := alice.CreateRoom(homeservertest.Public)
	guest.Join(room).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
	alice.SetState(room, "m.room.guest_access", "", map[string]any{"guest_access": "can_join"}).WantOK()
	guest.MustJoin(room)
	guest.Send(room, "hi")
	guest.Invite(room, hs.User("bob")).WantError(403, "M_GUEST_ACCESS_FORBIDDEN") // ME-05
	alice.SetState(room, "m.room.guest_access", "", map[string]any{"guest_access": "forbidden"}).WantOK()
	require.Equal(t, "leave", alice.State(room, "m.room.member", guest.ID).WantOK().Get("membership").String())
	guest.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "x"}).WantError(403, "M_FORBIDDEN")
}

// ME-14, ME-15: members of an allowed room come in, and a local member vouches for them.
func TestRestrictedJoin(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	space := alice.CreateRoom(homeservertest.Public)
	room := alice.CreateRoomWith(map[string]any{"initial_state": []any{map[string]any{
		"type": "m.room.join_rules", "content": map[string]any{"join_rule": "restricted", "allow": []any{
			map[string]any{"type": "m.room_membership", "room_id": space}, map[string]any{"type": "odd"},
		}},
	}}})
	bob.MustJoin(space)
	bob.MustJoin(room)
	member := alice.State(room, "m.room.member", bob.ID).WantOK()
	require.Equal(t, alice.ID, member.Get("join_authorised_via_users_server").String())
	carol.Join(room).WantError(403, "M_FORBIDDEN")
	alice.MustInvite(room, carol)
	carol.MustJoin(room)
	require.False(t, alice.State(room, "m.room.member", carol.ID).WantOK().Get("join_authorised_via_users_server").Exists())

	// ME-04: a change of the profile does not repeat who vouched.
	bob.Do("PUT", v3+"/profile/"+bob.ID+"/displayname", map[string]any{"displayname": "Bob"}).WantOK()
	member = alice.State(room, "m.room.member", bob.ID).WantOK()
	require.Equal(t, "Bob", member.Get("displayname").String())
	require.False(t, member.Get("join_authorised_via_users_server").Exists())
}

// ME-15: conditions of other kinds let nobody in, and without any condition only an invite does.
func TestRestrictedWithoutConditions(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	space := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(space)
	room := alice.CreateRoom(homeservertest.Private)
	for _, allow := range []string{
		`[{"type":"odd","room_id":"` + space + `"}]`, `[{"room_id":"` + space + `"}]`, `[{"type":"m.room_membership"}]`,
		`[{"type":"m.room_membership","room_id":"` + room + `"}]`, `[]`, `{}`, `"` + space + `"`,
	} {
		alice.SetState(room, "m.room.join_rules", "", []byte(`{"join_rule":"restricted","allow":`+allow+`}`)).WantOK()
		bob.Join(room).WantError(403, "M_FORBIDDEN")
	}
	alice.MustInvite(room, bob)
	bob.MustJoin(room)
}

// ME-16, ME-17: knocking, and being let in.
func TestKnock(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoomWith(map[string]any{"initial_state": []any{map[string]any{
		"type": "m.room.join_rules", "content": map[string]any{"join_rule": "knock"},
	}}})
	knock := func(u *homeservertest.User, room string) *homeservertest.Response {
		return u.Do("POST", v3+"/knock/"+room, map[string]any{"reason": "please"})
	}
	require.Equal(t, room, knock(bob, room).WantOK().Get("room_id").String())
	require.True(t, bob.Sync("").Get("rooms.knock").Exists())
	alice.MustInvite(room, bob)
	bob.MustJoin(room)
	knock(bob, room).WantError(403, "M_FORBIDDEN")
	knock(carol, room).WantOK()
	carol.MustLeave(room)
	alice.MustBan(room, carol)
	knock(carol, room).WantError(403, "M_FORBIDDEN")
	knock(carol, "!unknown:"+homeservertest.Name).WantError(404, "M_NOT_FOUND")
	knock(bob, alice.CreateRoom(homeservertest.Private)).WantError(403, "M_FORBIDDEN")
}

// ME-20: forgetting.
func TestForget(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	bob.Forget(room).WantError(400, "M_UNKNOWN")
	bob.MustLeave(room)
	alice.MustInvite(room, bob)
	bob.Forget(room).WantError(400, "M_UNKNOWN")
	bob.MustLeave(room)
	bob.Forget(room).WantOK()
	bob.Do("GET", v3+"/rooms/"+room+"/messages?dir=b", nil).WantError(403, "M_FORBIDDEN")
	bob.MustJoin(room)
	bob.Do("GET", v3+"/rooms/"+room+"/messages?dir=b", nil).WantOK()
}

// ME-12: unknown rooms.
func TestUnknownRoom(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	alice.Join("!nowhere:"+homeservertest.Name).WantError(404, "M_NOT_FOUND")
	alice.Join("#nowhere:"+homeservertest.Name).WantError(404, "M_NOT_FOUND")
	alice.Join("nowhere").WantError(400, "M_INVALID_PARAM")
}

// ME-07, ME-08, RC-13: who blocks invites gets none, on no road; what was sent before stays in the room.
func TestBlockedInvites(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Private)
	permit := func(config map[string]any) {
		bob.Do("PUT", v3+"/user/"+bob.ID+"/account_data/m.invite_permission_config", config).WantOK()
	}
	permit(map[string]any{"default_action": "block"})
	alice.Invite(room, bob).WantError(403, "M_INVITE_BLOCKED")
	alice.SetState(room, "m.room.member", bob.ID, map[string]any{"membership": "invite"}).WantError(403, "M_INVITE_BLOCKED")
	alice.Do("POST", v3+"/createRoom", map[string]any{"invite": []string{carol.ID, bob.ID}}).WantError(403, "M_INVITE_BLOCKED")
	alice.State(room, "m.room.member", bob.ID).WantError(404, "M_NOT_FOUND")
	alice.MustInvite(room, carol)
	bob.CreateRoom(homeservertest.Private) // of one's own

	permit(map[string]any{"default_action": "other"})
	alice.MustInvite(room, bob)
	permit(map[string]any{"default_action": "block"})
	require.Equal(t, "invite", alice.State(room, "m.room.member", bob.ID).WantOK().Get("membership").String())
	bob.MustJoin(room)
}

// MSC4155: invites of those whom somebody has blocked are refused, at every endpoint; of those who are ignored they are not.
func TestInviteFilter(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room, hers := alice.CreateRoom(homeservertest.Private), carol.CreateRoom(homeservertest.Private)
	filter := func(config map[string]any) {
		bob.Do("PUT", v3+"/user/"+bob.ID+"/account_data/org.matrix.msc4155.invite_permission_config", config).WantOK()
	}
	filter(map[string]any{"blocked_users": []string{"@al*:hs.test"}, "ignored_servers": []string{"hs.test"}})
	alice.Invite(room, bob).WantError(403, "M_INVITE_BLOCKED")
	alice.SetState(room, "m.room.member", bob.ID, map[string]any{"membership": "invite"}).WantError(403, "M_INVITE_BLOCKED")
	alice.Do("POST", v3+"/createRoom", map[string]any{"invite": []string{bob.ID}}).WantError(403, "M_INVITE_BLOCKED")
	alice.Do("POST", v3+"/createRoom", map[string]any{"initial_state": []any{
		map[string]any{"type": "m.room.member", "state_key": bob.ID, "content": map[string]any{"membership": "invite"}},
	}}).WantError(403, "M_INVITE_BLOCKED")
	carol.MustInvite(hers, bob)
	bob.MustJoin(hers)
	filter(map[string]any{"blocked_users": []string{"@al*:hs.test"}, "allowed_users": []string{alice.ID}})
	alice.MustInvite(room, bob)
}

// ME-06: a room is told of an invite only if the invitee's server has signed it, and this server asks no other yet.
func TestUsersOfOtherServersAreNotInvited(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	const stranger = "@bob:elsewhere.test"
	alice.Do("POST", inRoom(room, "invite"), map[string]any{"user_id": stranger}).WantError(403, "M_FORBIDDEN")
	alice.SetState(room, "m.room.member", stranger, map[string]any{"membership": "invite"}).WantError(403, "M_FORBIDDEN")
	alice.Do("POST", v3+"/createRoom", map[string]any{"invite": []string{stranger}}).WantError(403, "M_FORBIDDEN")
	alice.Do("POST", inRoom(room, "ban"), map[string]any{"user_id": stranger}).WantOK()
}

// ME-09, ME-10: a join by id or alias answers with the room, also when one is there already.
func TestJoinAnswersWithTheRoom(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_alias_name": "here"})
	for _, path := range []string{
		v3 + "/join/" + url.PathEscape(local("here")), v3 + "/join/" + room + "?server_name=x&via=y", inRoom(room, "join"),
	} {
		before := len(types(alice, room))
		for range 2 {
			require.Equal(t, room, bob.Do("POST", path, nil).WantOK().Get("room_id").String(), path)
		}
		require.Len(t, types(alice, room), before+1, "one join")
		bob.MustLeave(room)
	}
}

// ME-25: the rooms that one is in, and no others.
func TestJoinedRooms(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	in, left, invited := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Private)
	joined := func() string { return string(bob.Do("GET", v3+"/joined_rooms", nil).WantOK().Body) }
	require.JSONEq(t, `{"joined_rooms":[]}`, joined())
	bob.MustJoin(in)
	bob.MustJoin(left)
	bob.MustLeave(left)
	alice.MustInvite(invited, bob)
	require.JSONEq(t, `{"joined_rooms":["`+in+`"]}`, joined())
}

// ME-21: who is joined, invited or knocking can be kicked, by those above them.
func TestKick(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoomWith(map[string]any{
		"initial_state": []any{map[string]any{"type": "m.room.join_rules", "content": map[string]any{"join_rule": "knock"}}},
		"invite":        []string{bob.ID, carol.ID}, "room_version": "11",
	})
	member := func(u *homeservertest.User) string {
		return alice.State(room, "m.room.member", u.ID).WantOK().Get("membership").String()
	}
	alice.MustKick(room, carol)
	require.Equal(t, "leave", member(carol), "from an invite")
	carol.Do("POST", v3+"/knock/"+room, nil).WantOK()
	alice.MustKick(room, carol)
	require.Equal(t, "leave", member(carol), "from a knock")
	bob.MustJoin(room)
	alice.MustInvite(room, carol)
	carol.MustJoin(room)
	bob.Kick(room, carol).WantError(403, "M_FORBIDDEN")
	alice.SetState(room, "m.room.power_levels", "", map[string]any{"users": map[string]any{alice.ID: 100, bob.ID: 60, carol.ID: 60}}).WantOK()
	bob.Kick(room, carol).WantError(403, "M_FORBIDDEN") // no higher than she
	bob.Kick(room, alice).WantError(403, "M_FORBIDDEN")
	alice.MustKick(room, carol)
	require.Equal(t, "leave", member(carol))
	alice.Kick(room, carol).WantError(403, "M_FORBIDDEN")
}

// ST-10: a membership that is set as state has the rules and the effects of its own endpoint.
func TestMembershipAsState(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, guest := hs.User("alice"), hs.User("bob"), hs.Guest()
	set := func(u *homeservertest.User, room string, target *homeservertest.User, membership string) *homeservertest.Response {
		return u.SetState(room, "m.room.member", target.ID, map[string]any{"membership": membership})
	}
	room := alice.CreateRoom(homeservertest.Private)
	set(bob, room, bob, "join").WantError(403, "M_FORBIDDEN")
	set(alice, room, bob, "invite").WantOK()
	require.True(t, bob.Sync("").Invited(room).Exists())
	set(bob, room, bob, "join").WantOK()
	bob.Do("PUT", inRoom(room, "typing", bob.ID), map[string]any{"typing": true}).WantOK()
	set(alice, room, bob, "leave").WantOK()
	require.NotContains(t, alice.Sync("").Joined(room).Get("ephemeral").Raw, bob.ID, "who is out of the room no longer types")
	set(alice, room, bob, "ban").WantOK()
	bob.Join(room).WantError(403, "M_FORBIDDEN")
	set(alice, room, alice, "odd").WantError(403, "M_FORBIDDEN")
	alice.SetState(room, "m.room.member", alice.ID, map[string]any{}).WantError(400, "M_BAD_JSON")
	alice.SetState(room, "m.room.member", "nobody", map[string]any{"membership": "invite"}).WantError(400, "M_INVALID_PARAM")

	open := alice.CreateRoom(homeservertest.Public) // whose guest_access is forbidden
	set(guest, open, guest, "join").WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
	restricted := alice.CreateRoomWith(map[string]any{"initial_state": []any{map[string]any{
		"type": "m.room.join_rules", "content": map[string]any{"join_rule": "restricted", "allow": []any{
			map[string]any{"type": "m.room_membership", "room_id": open},
		}},
	}}})
	set(bob, restricted, bob, "join").WantError(403, "M_FORBIDDEN")
	bob.MustJoin(open)
	set(bob, restricted, bob, "join").WantOK()
	require.Equal(t, alice.ID, alice.State(restricted, "m.room.member", bob.ID).Get("join_authorised_via_users_server").String())
}

// ME-27: who deactivates their account is in no room any more, and no invite is left open.
func TestDeactivatedUserLeaves(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	in, invited := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Private)
	bob.MustJoin(in)
	alice.MustInvite(invited, bob)
	bob.Do("POST", v3+"/account/deactivate", map[string]any{"auth": map[string]any{
		"type": "m.login.password", "password": bob.Password, "identifier": map[string]any{"type": "m.id.user", "user": bob.ID},
	}}).WantOK()
	for _, room := range []string{in, invited} {
		require.Equal(t, "leave", alice.State(room, "m.room.member", bob.ID).WantOK().Get("membership").String())
	}
}

// Who has left cannot look in again by knocking and taking it back: the end of the knock is theirs to see, the state
// behind it is not.
func TestContextOfAnOwnEventAfterLeaving(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	bob.MustLeave(room)
	alice.SetState(room, "m.room.join_rules", "", map[string]any{"join_rule": "knock"}).WantOK()
	alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "behind bob's back"}).WantOK()
	since := bob.Sync("").NextBatch
	bob.Do("POST", v3+"/knock/"+url.PathEscape(room), map[string]any{}).WantOK()
	bob.MustLeave(room)
	left := bob.Sync(since).Left(room)
	own := left.Get("timeline.events.@reverse.0.event_id").String()
	if own == "" {
		own = left.Get("state.events.0.event_id").String()
	}
	require.NotEmpty(t, own, left.Raw)
	around := bob.Do("GET", inRoom(room, "context", own), nil).WantOK()
	require.Empty(t, around.Get(`state.#(type=="m.room.topic").content.topic`).String())
	require.NotContains(t, string(around.Body), "behind bob's back")
}

// RC-13: who invites is told what the other server says, as far as it means something to them.
func TestInviteThatAnotherServerRefuses(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	alice := network.New("hs.test").User("alice")
	room := alice.CreateRoom(homeservertest.Public)
	other := network.Rogue("other.test")
	for _, tt := range []struct {
		said       string
		status     int
		code, text string
	}{
		{`403|{"errcode":"M_FORBIDDEN","error":"no"}`, 403, "M_FORBIDDEN", "other.test: no"},
		{`403|{"errcode":"M_INVITE_BLOCKED","error":"no"}`, 403, "M_INVITE_BLOCKED", "other.test: no"},
		{`400|{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"too new","room_version":"12"}`, 400, "M_UNSUPPORTED_ROOM_VERSION", "other.test: too new"},
		{`404|{"errcode":"M_NOT_FOUND","error":"?"}`, 502, "M_UNKNOWN", "@x:other.test could not be invited: other.test: ?"},
		{`500|{"errcode":"M_UNKNOWN","error":"?"}`, 502, "M_UNKNOWN", "@x:other.test could not be invited: other.test could not be asked"},
	} {
		status, body, _ := strings.Cut(tt.said, "|")
		other.Handle(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/invite/") {
				return false
			}
			code, _ := strconv.Atoi(status)
			w.WriteHeader(code)
			w.Write([]byte(body)) //nolint:errcheck // who has asked has gone
			return true
		})
		r := alice.Do("POST", inRoom(room, "invite"), map[string]any{"user_id": "@x:other.test"})
		r.WantError(tt.status, tt.code)
		require.Equal(t, tt.text, r.Get("error").String())
	}
}
