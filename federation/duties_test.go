package federation_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	hst "github.com/embedmatrix/homeserver/homeservertest"
)

// FM-02: what a restricted room says to a server that asks for a template.
func TestRestrictedTemplates(t *testing.T) {
	p := newPair(t)
	space := p.room("11", hst.Public)
	p.peer.Join(p.hs, space, p.bob)
	restricted := func(allowed string) map[string]any {
		return stateEvent("m.room.join_rules", map[string]any{
			"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": allowed}},
		})
	}
	ask := func(room, user string) *hst.Response {
		return p.peer.Do(p.hs, "GET", to("v1/make_join", room, user)+"?ver=11", nil)
	}
	room := p.room("11", hst.Public, restricted(space))
	require.Equal(t, p.alice.ID, ask(room, p.bob).WantOK().Get("event.content.join_authorised_via_users_server").String())
	ask(room, p.peer.UserID("stranger")).WantError(403, "M_FORBIDDEN")
	ask(p.room("11", hst.Public, restricted("!elsewhere:third.test")), p.bob).WantError(400, "M_UNABLE_TO_AUTHORISE_JOIN")

	carol := p.hs.User("carol")
	powerless := p.alice.CreateRoomWith(map[string]any{
		"preset": "public_chat", "room_version": "11", "power_level_content_override": map[string]any{"invite": 50},
	})
	carol.MustJoin(powerless)
	p.alice.SetState(powerless, "m.room.join_rules", "", restricted(space)["content"]).WantOK()
	p.alice.MustLeave(powerless)
	ask(powerless, p.bob).WantError(400, "M_UNABLE_TO_GRANT_JOIN")
}

// FM-14: an invite comes to its endpoint, comes there again and comes in a transaction: it is one invite, to a room in
// which nobody is from here and to one in which somebody is.
func TestInviteThatComesTwice(t *testing.T) {
	p := newPair(t)
	room := p.peer.CreateRoom("11", p.bob)
	invite := room.Invite(p.hs, p.bob, p.alice.ID)
	body := map[string]any{"room_version": "11", "event": json.RawMessage(invite.JSON), "invite_room_state": []any{}}
	p.peer.Do(p.hs, "PUT", to("v2/invite", room.ID, invite.ID), body).WantOK()
	p.peer.Send(p.hs, []hst.PDU{invite}).WantOK()
	require.NotEmpty(t, p.alice.Sync("").Invited(room.ID).Raw)
	p.alice.MustJoin(room.ID)

	carol := p.hs.User("carol")
	invite = room.Invite(p.hs, p.bob, carol.ID)
	p.peer.Send(p.hs, []hst.PDU{invite}).WantOK()
	p.peer.Send(p.hs, []hst.PDU{invite}).WantOK()
	require.NotEmpty(t, carol.Sync("").Invited(room.ID).Raw)
	invites := 0
	for _, e := range p.alice.Sync("").Joined(room.ID).Get("timeline.events").Array() {
		if e.Get("event_id").String() == invite.ID {
			invites++
		}
	}
	require.Equal(t, 1, invites)
}

// MO-09: a server that the room keeps out is told what happens there for as long as it has somebody in the room.
func TestDeniedServersAreToldEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := hst.NewNetwork(t)
		hs, peer := network.New("hs.test"), network.Rogue("peer.test")
		alice := hs.User("alice")
		room := alice.CreateRoom(hst.Public)
		peer.Join(hs, room, peer.UserID("bob"))
		deny := map[string]any{"allow": []string{"*"}, "deny": []string{"peer.test"}}
		alice.SetState(room, "m.room.server_acl", "", deny).WantOK()
		alice.Send(room, "for all of us")
		network.Settle(t.Context())
		var told []string
		for _, a := range peer.Asked("/_matrix/federation/v1/send/") {
			for _, pdu := range gjson.GetBytes(a.Body, "pdus").Array() {
				told = append(told, pdu.Get("content.body").String())
			}
		}
		require.Contains(t, told, "for all of us")
	})
}

// EV-16: whatever comes with an invite, clients see stripped events.
func TestInviteStateIsStripped(t *testing.T) {
	p := newPair(t)
	room := p.peer.CreateRoom("12", p.bob)
	invite := room.Build(hst.Draft{Type: "m.room.member", Sender: p.bob, StateKey: &p.alice.ID, Content: hst.Fields{"membership": "invite"}})
	create, _ := room.State("m.room.create", "")
	name := hst.Fields{"type": "m.room.name", "state_key": "", "sender": p.bob, "content": hst.Fields{"name": "x"}, "unsigned": hst.Fields{"a": 1}, "event_id": "$x"}
	p.peer.Do(p.hs, "PUT", to("v2/invite", room.ID, invite.ID), map[string]any{
		"room_version": "12", "event": json.RawMessage(invite.JSON), "invite_room_state": []any{json.RawMessage(create.JSON), name},
	}).WantOK()
	told := p.alice.Sync("").Invited(room.ID).Get("invite_state.events").Array()
	require.Len(t, told, 3)
	for _, e := range told {
		for key := range e.Map() {
			require.Contains(t, []string{"type", "state_key", "sender", "content"}, key, "%s", e)
		}
	}
}

// ME-10: an alias of another server leads to the room and to servers that are in it.
func TestJoinByAliasOfAnotherServer(t *testing.T) {
	network := hst.NewNetwork(t)
	alice, bob := network.New("one.test").User("alice"), network.New("two.test").User("bob")
	room := alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_alias_name": "tea"})
	require.Equal(t, room, bob.Join("#tea:one.test").WantOK().Get("room_id").String())
	bob.Join("#coffee:one.test").WantError(404, "M_NOT_FOUND")
	require.Equal(t, "join", alice.State(room, "m.room.member", bob.ID).WantOK().Get("membership").String())
}
