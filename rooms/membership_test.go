package rooms_test

import (
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
