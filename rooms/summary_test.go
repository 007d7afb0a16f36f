package rooms_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// summary asks for the summary of a room.
func summary(u *homeservertest.User, room, query string) *homeservertest.Response {
	return u.Do("GET", "/_matrix/client/v1/room_summary/"+url.PathEscape(room)+query, nil)
}

// DR-17, DR-16.
func TestRoomSummary(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, nobody := hs.User("alice"), hs.User("bob"), anonymous(hs)
	root := space(alice, nil)
	room := alice.CreateRoomWith(map[string]any{
		"preset": "public_chat", "room_version": "11", "room_alias_name": "den", "name": "Den", "topic": "Talk",
		"initial_state": []any{
			map[string]any{"type": "m.room.encryption", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}},
			map[string]any{"type": "m.room.guest_access", "content": map[string]any{"guest_access": "can_join"}},
		},
	})
	told := fmt.Sprintf(`"room_id":%q,"name":"Den","topic":"Talk","canonical_alias":"#den:hs.test","num_joined_members":1,"world_readable":false,
		"guest_can_join":true,"join_rule":"public","room_version":"11","encryption":"m.megolm.v1.aes-sha2"`, room)
	require.JSONEq(t, `{`+told+`}`, string(summary(nobody, room, "").WantOK().Body))
	require.JSONEq(t, `{`+told+`}`, string(summary(nobody, "#den:hs.test", "").WantOK().Body))
	require.JSONEq(t, `{`+told+`,"membership":"join"}`, string(summary(alice, "#den:hs.test", "?via=x&via=y").WantOK().Body))
	require.JSONEq(t, `{`+told+`,"membership":"leave"}`, string(summary(bob, room, "").WantOK().Body))
	require.JSONEq(t, `{`+told+`,"membership":"leave"}`, string(summary(hs.Guest(), room, "").WantOK().Body))
	for _, path := range []string{"summary/" + url.PathEscape(room), "rooms/" + url.PathEscape(room) + "/summary", "summary/" + url.PathEscape("#den:hs.test")} {
		r := bob.Do("GET", "/_matrix/client/unstable/im.nheko.summary/"+path, nil).WantOK()
		require.JSONEq(t, `{`+told+`,"membership":"leave","im.nheko.summary.version":"11","im.nheko.summary.encryption":"m.megolm.v1.aes-sha2"}`, string(r.Body))
	}
	for _, bad := range []string{"den", "@alice:hs.test", "$e"} {
		summary(alice, bad, "").WantError(400, "M_INVALID_PARAM")
	}
	summary(alice, "#none:hs.test", "").WantError(404, "M_NOT_FOUND")
	summary(alice, "!none:hs.test", "").WantError(404, "M_NOT_FOUND")

	restricted := ruled(alice, "restricted", root)
	r := summary(alice, restricted, "").WantOK()
	require.Equal(t, []string{root}, texts(r.Get("allowed_room_ids")))
	summary(bob, restricted, "").WantError(404, "M_NOT_FOUND")
	bob.MustJoin(root)
	summary(bob, restricted, "").WantOK()
	require.Equal(t, "m.space", summary(bob, root, "").WantOK().Get("room_type").String())
}

// DR-17, HV-04: who may know of a room.
func TestWhoSeesARoomSummary(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, nobody := hs.User("alice"), hs.User("bob"), anonymous(hs)
	secret, knock := ruled(alice, "invite"), ruled(alice, "knock")
	readable := alice.CreateRoomWith(map[string]any{"preset": "private_chat", "initial_state": []any{
		map[string]any{"type": "m.room.history_visibility", "content": map[string]any{"history_visibility": "world_readable"}},
	}})
	summary(nobody, knock, "").WantOK()
	require.True(t, summary(nobody, readable, "").WantOK().Get("world_readable").Bool())
	summary(nobody, secret, "").WantError(404, "M_NOT_FOUND")
	summary(bob, secret, "").WantError(404, "M_NOT_FOUND")
	require.Equal(t, summary(bob, "!none:hs.test", "").Body, summary(bob, secret, "").Body)
	bob.Do("POST", v3+"/knock/"+url.PathEscape(knock), map[string]any{}).WantOK()
	require.Equal(t, "knock", summary(bob, knock, "").WantOK().Get("membership").String())
	alice.MustInvite(secret, bob)
	require.Equal(t, "invite", summary(bob, secret, "").WantOK().Get("membership").String())
	bob.MustJoin(secret)
	require.Equal(t, "join", summary(bob, secret, "").WantOK().Get("membership").String())
	bob.MustLeave(secret)
	summary(bob, secret, "").WantError(404, "M_NOT_FOUND")
	alice.MustBan(readable, bob)
	require.Equal(t, "ban", summary(bob, readable, "").WantOK().Get("membership").String())
	alice.MustBan(knock, bob)
	summary(bob, knock, "").WantError(404, "M_NOT_FOUND")
}

// DR-17: rooms in which this server is not.
func TestRoomSummaryElsewhere(t *testing.T) {
	net := homeservertest.NewNetwork(t)
	here, there := net.New("here.test"), net.New("there.test")
	alice, bob, nobody := here.User("alice"), there.User("bob"), anonymous(here)
	room := published(bob, map[string]any{"name": "There", "room_alias_name": "there"})
	secret := bob.CreateRoomWith(map[string]any{"preset": "private_chat", "room_version": "11", "name": "Secret", "topic": "Plans"})
	require.Equal(t, "There", summary(alice, room, "?via=nowhere.test&via=there.test").WantOK().Get("name").String())
	require.Equal(t, "leave", summary(alice, "#there:there.test", "").WantOK().Get("membership").String())
	summary(nobody, secret, "?via=there.test").WantError(404, "M_NOT_FOUND")
	summary(nobody, "#there:there.test", "").WantError(404, "M_NOT_FOUND")
	summary(alice, "#none:there.test", "").WantError(404, "M_NOT_FOUND")
	summary(alice, secret, "?via=there.test").WantError(404, "M_NOT_FOUND")
	bob.Do("POST", inRoom(secret, "invite"), map[string]any{"user_id": alice.ID}).WantOK()
	net.Partition("there.test", "here.test")
	r := summary(alice, secret, "").WantOK()
	require.JSONEq(t, fmt.Sprintf(`{"room_id":%q,"name":"Secret","join_rule":"invite","room_version":"11","membership":"invite",
		"num_joined_members":0,"world_readable":false,"guest_can_join":false,"topic":"Plans"}`, secret), string(r.Body), "what came with the invite")
	summary(here.User("eve"), secret, "").WantError(404, "M_NOT_FOUND")
}

// Who is not logged in makes this server ask nobody.
func TestAnonymousSummaryAsksNobody(t *testing.T) {
	net := homeservertest.NewNetwork(t)
	nobody := anonymous(net.New("here.test"))
	rogue := net.Rogue("rogue.test")
	summary(nobody, "!a:rogue.test", "?via=rogue.test").WantError(404, "M_NOT_FOUND")
	summary(nobody, "#a:rogue.test", "").WantError(404, "M_NOT_FOUND")
	require.Empty(t, rogue.Asked("/"))
}
