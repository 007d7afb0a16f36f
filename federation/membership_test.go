package federation_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	hst "github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// pair is a server, its user alice, and a peer that speaks for itself.
type pair struct {
	t     *testing.T
	hs    *hst.Server
	alice *hst.User
	peer  *hst.Rogue
	bob   string // of the peer
}

func newPair(t *testing.T) *pair {
	t.Helper()
	network := hst.NewNetwork(t)
	p := &pair{t: t, hs: network.New("hs.test"), peer: network.Rogue("peer.test")}
	p.alice, p.bob = p.hs.User("alice"), p.peer.UserID("bob")
	return p
}

// to is an endpoint of federation with escaped segments.
func to(endpoint string, segments ...string) string {
	p := "/_matrix/federation/" + endpoint
	for _, s := range segments {
		p += "/" + url.PathEscape(s)
	}
	return p
}

// room makes a room of a version with some state more.
func (p *pair) room(version string, preset hst.Preset, state ...map[string]any) string {
	p.t.Helper()
	return p.alice.CreateRoomWith(map[string]any{"preset": preset, "room_version": version, "initial_state": state})
}

func stateEvent(eventType string, content any) map[string]any {
	return map[string]any{"type": eventType, "state_key": "", "content": content}
}

// made is the event of a template, changed and signed.
func (p *pair) made(verb, room, user string, change func(hst.Fields)) hst.PDU {
	p.t.Helper()
	query := url.Values{"ver": roomversion.All()}
	answer := p.peer.Do(p.hs, "GET", to("v1/make_"+verb, room, user)+"?"+query.Encode(), nil).WantOK()
	fields := hst.Fields{}
	require.NoError(p.t, json.Unmarshal([]byte(answer.Get("event").Raw), &fields))
	if change != nil {
		change(fields)
	}
	version := answer.Get("room_version").String()
	if version == "1" || version == "2" {
		fields["event_id"] = fmt.Sprintf("$made-%s-%s:peer.test", verb, strings.Trim(strings.ReplaceAll(room, ":", "-"), "!"))
	}
	return p.peer.Sign(version, fields, nil)
}

// send hands an event over.
func (p *pair) send(endpoint, room string, ev hst.PDU) *hst.Response {
	p.t.Helper()
	return p.peer.Do(p.hs, "PUT", to(endpoint, room, ev.ID), ev.JSON)
}

func (p *pair) membership(room, user string) string {
	p.t.Helper()
	return p.alice.State(room, "m.room.member", user).Get("membership").String()
}

func TestJoinOfAnotherServer(t *testing.T) {
	p := newPair(t)
	for _, version := range roomversion.All() {
		for _, form := range []string{"v1", "v2"} {
			t.Run(version+" "+form, func(t *testing.T) {
				room := p.room(version, hst.Public)
				join := p.made("join", room, p.bob, nil)
				answer := p.send(form+"/send_join", room, join).WantOK()
				root := ""
				if form == "v1" {
					require.Equal(t, int64(200), answer.Get("0").Int())
					root = "1."
				}
				require.Equal(t, "join", p.membership(room, p.bob))
				require.False(t, answer.Get(root+"members_omitted").Bool())
				require.Equal(t, `["hs.test"]`, answer.Get(root+"servers_in_room").Raw)
				require.Equal(t, "hs.test", answer.Get(root+"origin").String())
				require.Equal(t, p.bob, answer.Get(root+"event.state_key").String())
				require.Len(t, answer.Get(root+`state.#(type=="m.room.member")#`).Array(), 1, "the state before the join")
				require.NotEmpty(t, answer.Get(root+`auth_chain.#(type=="m.room.power_levels")`).Raw)
				for _, ev := range append(answer.Get(root+"state").Array(), answer.Get(root+"auth_chain").Array()...) {
					require.NotEmpty(t, ev.Get("signatures").Raw, "%s", ev)
					require.False(t, ev.Get("unsigned").Exists(), "%s", ev)
				}
				p.send(form+"/send_join", room, join).WantOK() // F-46: twice
			})
		}
	}
}

func TestJoinThatMayOmitMembers(t *testing.T) {
	p := newPair(t)
	room := p.room("11", hst.Public)
	join := p.made("join", room, p.bob, nil)
	answer := p.peer.Do(p.hs, "PUT", to("v2/send_join", room, join.ID)+"?omit_members=true", join.JSON).WantOK()
	require.False(t, answer.Get("members_omitted").Bool())
	require.NotEmpty(t, answer.Get(`state.#(type=="m.room.member")`).Raw)
	require.Empty(t, answer.Get(`auth_chain.#(type=="m.room.create")`).Raw, "it is in the state")
	join = p.made("join", room, p.peer.UserID("ben"), nil)
	p.peer.Do(p.hs, "PUT", to("v2/send_join", room, join.ID)+"?omit_members=maybe", join.JSON).WantError(400, "M_INVALID_PARAM")
}

func TestTemplateRefusals(t *testing.T) {
	p := newPair(t)
	public, private := p.room("11", hst.Public), p.room("11", hst.Private)
	denied := p.room("11", hst.Public, stateEvent("m.room.server_acl", map[string]any{"allow": []string{"*"}, "deny": []string{"peer.test"}}))
	closed := p.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_version": "11", "creation_content": map[string]any{"m.federate": false}})
	left := p.room("11", hst.Public)
	p.alice.MustLeave(left)
	const all = "?ver=11"
	tests := []struct {
		name, path string
		status     int
		code       string
	}{
		{"an unknown room", to("v1/make_join", "!gone:hs.test", p.bob) + all, 404, "M_NOT_FOUND"},
		{"a room that everybody has left", to("v1/make_join", left, p.bob) + all, 404, "M_NOT_FOUND"},
		{"a user of this server", to("v1/make_join", public, p.alice.ID) + all, 403, "M_FORBIDDEN"},
		{"a user of a third server", to("v1/make_join", public, "@x:third.test") + all, 403, "M_FORBIDDEN"},
		{"no user", to("v1/make_join", public, "x") + all, 400, "M_INVALID_PARAM"},
		{"no room", to("v1/make_join", "x", p.bob) + all, 400, "M_INVALID_PARAM"},
		{"by default version 1", to("v1/make_join", public, p.bob), 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"other versions", to("v1/make_join", public, p.bob) + "?ver=1&ver=10", 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"without an invite", to("v1/make_join", private, p.bob) + all, 403, "M_FORBIDDEN"},
		{"denied, join", to("v1/make_join", denied, p.bob) + all, 403, "M_FORBIDDEN"},
		{"denied, leave", to("v1/make_leave", denied, p.bob), 403, "M_FORBIDDEN"},
		{"denied, knock", to("v1/make_knock", denied, p.bob) + all, 403, "M_FORBIDDEN"},
		{"a room that does not federate", to("v1/make_join", closed, p.bob) + all, 403, "M_FORBIDDEN"},
		{"leave of who is not there", to("v1/make_leave", private, p.bob), 403, "M_FORBIDDEN"},
		{"leave of a room that nobody knows", to("v1/make_leave", "!gone:hs.test", p.bob), 404, "M_NOT_FOUND"},
		{"knock without versions", to("v1/make_knock", private, p.bob), 400, "M_MISSING_PARAM"},
		{"knock where that is not the rule", to("v1/make_knock", private, p.bob) + all, 403, "M_FORBIDDEN"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer := p.peer.Do(p.hs, "GET", tt.path, nil)
			answer.WantError(tt.status, tt.code)
			if tt.code == "M_INCOMPATIBLE_ROOM_VERSION" {
				require.Equal(t, "11", answer.Get("room_version").String())
			}
		})
	}
}

// TestSentMembersAreWhatTheySay is F-44 and F-46.
func TestSentMembersAreWhatTheySay(t *testing.T) {
	p := newPair(t)
	room, other := p.room("11", hst.Public), p.room("11", hst.Public)
	set := func(key string, value any) func(hst.Fields) { return func(f hst.Fields) { f[key] = value } }
	made := func(change func(hst.Fields)) hst.PDU { return p.made("join", room, p.bob, change) }
	good := made(nil)
	unsigned := p.peer.Sign("11", fields(t, good), func(f hst.Fields) { delete(f, "signatures") })
	another := p.peer.Sign("11", fields(t, good), func(f hst.Fields) {
		f["signatures"] = map[string]any{"third.test": map[string]any{p.peer.KeyID: strings.Repeat("A", 86)}}
	})
	forged := p.peer.Sign("11", fields(t, good), func(f hst.Fields) {
		f["signatures"] = map[string]any{"peer.test": map[string]any{p.peer.KeyID: strings.Repeat("A", 86)}}
	})
	tampered := p.peer.Sign("11", fields(t, good), func(f hst.Fields) { f["hashes"] = map[string]any{"sha256": strings.Repeat("A", 43)} })
	tests := []struct {
		name, path string
		body       any
		status     []int
	}{
		{"another id in the path", to("v2/send_join", room, made(set("depth", 99)).ID), good.JSON, []int{400}},
		{"another room in the path", to("v2/send_join", other, good.ID), good.JSON, []int{400}},
		{"no id in the path", to("v2/send_join", room, "x"), good.JSON, []int{400}},
		{"a message", to("v2/send_join", room, made(set("type", "m.room.message")).ID), made(set("type", "m.room.message")).JSON, []int{400}},
		{"a leave", to("v2/send_join", room, made(set("content", map[string]any{"membership": "leave"})).ID), made(set("content", map[string]any{"membership": "leave"})).JSON, []int{400}},
		{"a join that leaves", to("v2/send_leave", room, good.ID), good.JSON, []int{400}},
		{"a join that knocks", to("v1/send_knock", room, good.ID), good.JSON, []int{400}},
		{"somebody else's", to("v2/send_join", room, made(set("state_key", p.peer.UserID("carl"))).ID), made(set("state_key", p.peer.UserID("carl"))).JSON, []int{400, 403}},
		{"of a user here", to("v2/send_join", room, made(set("sender", p.alice.ID)).ID), made(set("sender", p.alice.ID)).JSON, []int{400, 403}},
		{"not signed", to("v2/send_join", room, unsigned.ID), unsigned.JSON, []int{403}},
		{"signed by another", to("v2/send_join", room, another.ID), another.JSON, []int{403}},
		{"signed wrongly", to("v2/send_join", room, forged.ID), forged.JSON, []int{403}},
		{"with another hash", to("v2/send_join", room, tampered.ID), tampered.JSON, []int{400}},
		{"no event", to("v2/send_join", room, good.ID), map[string]any{}, []int{403}},
		{"no object", to("v2/send_join", room, good.ID), []any{}, []int{400}},
		{"too large", to("v2/send_join", room, good.ID), map[string]any{"x": strings.Repeat("x", 2<<20)}, []int{413}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer := p.peer.Do(p.hs, "PUT", tt.path, tt.body)
			require.Contains(t, tt.status, answer.Status, "%s", answer.Body)
			require.Empty(t, p.membership(room, p.bob))
			require.Empty(t, p.membership(other, p.bob))
		})
	}
	p.send("v2/send_join", room, good).WantOK()

	bad := made(nil)
	bad.JSON = bytes.Replace(bad.JSON, []byte(`"membership"`), []byte(`"bad":1.5,"membership"`), 1)
	for _, endpoint := range []string{"v2/send_join", "v1/send_join", "v2/send_leave", "v1/send_leave", "v1/send_knock"} {
		p.peer.Do(p.hs, "PUT", to(endpoint, room, "xxx"), bad.JSON).WantError(400, "M_BAD_JSON")
		p.peer.Do(p.hs, "PUT", to(endpoint, room, strings.Repeat("x", 256)), bad.JSON).WantError(400, "M_INVALID_PARAM")
	}
}

func fields(t *testing.T, ev hst.PDU) hst.Fields {
	t.Helper()
	f := hst.Fields{}
	require.NoError(t, json.Unmarshal(ev.JSON, &f))
	delete(f, "hashes")
	delete(f, "signatures")
	return f
}

func TestBannedWhoJoins(t *testing.T) {
	p := newPair(t)
	room := p.room("11", hst.Public)
	join := p.made("join", room, p.bob, nil)
	require.Equal(t, 200, p.alice.Do("POST", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/ban", map[string]any{"user_id": p.bob}).Status)
	p.send("v2/send_join", room, join).WantError(403, "M_FORBIDDEN")
	require.Equal(t, "ban", p.membership(room, p.bob))
}

func (p *pair) invite(room string) {
	p.t.Helper()
	answer := p.alice.Do("POST", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/invite", map[string]any{"user_id": p.bob})
	require.Equal(p.t, 200, answer.Status, "%s", answer.Body)
}

func TestInviteThatIsTurnedDown(t *testing.T) {
	p := newPair(t)
	for _, form := range []string{"v1", "v2"} {
		room := p.room("11", hst.Private)
		p.invite(room)
		require.Equal(t, "invite", p.membership(room, p.bob))
		leave := p.made("leave", room, p.bob, nil)
		answer := p.send(form+"/send_leave", room, leave).WantOK()
		require.JSONEq(t, map[string]string{"v1": `[200,{}]`, "v2": `{}`}[form], string(answer.Body))
		require.Equal(t, "leave", p.membership(room, p.bob))
	}
}

func TestKnockOfAnotherServer(t *testing.T) {
	p := newPair(t)
	rule := stateEvent("m.room.join_rules", map[string]any{"join_rule": "knock"})
	for _, version := range []string{"7", "10", "12"} {
		room := p.room(version, hst.Private, rule, stateEvent("m.room.name", map[string]any{"name": "Den"}))
		answer := p.send("v1/send_knock", room, p.made("knock", room, p.bob, nil)).WantOK()
		require.Equal(t, "knock", p.membership(room, p.bob))
		create := answer.Get(`knock_room_state.#(type=="m.room.create")`)
		require.True(t, create.Get("signatures").Exists(), "whole events: %s", answer.Body)
		require.Equal(t, "Den", answer.Get(`knock_room_state.#(type=="m.room.name").content.name`).String())
	}
	answer := p.peer.Do(p.hs, "GET", to("v1/make_knock", p.room("6", hst.Private, rule), p.bob)+"?ver=6", nil)
	answer.WantError(403, "M_FORBIDDEN")
}

func TestInviteOfAnotherServer(t *testing.T) {
	p := newPair(t)
	for _, version := range roomversion.All() {
		t.Run(version, func(t *testing.T) {
			room := p.peer.CreateRoom(version, p.bob)
			invite := room.Build(hst.Draft{Type: "m.room.member", Sender: p.bob, StateKey: &p.alice.ID, Content: hst.Fields{"membership": "invite"}})
			create, _ := room.State("m.room.create", "")
			answer := p.peer.Do(p.hs, "PUT", to("v2/invite", room.ID, invite.ID), map[string]any{
				"room_version": version, "event": json.RawMessage(invite.JSON), "invite_room_state": []any{json.RawMessage(create.JSON)},
			}).WantOK()
			require.True(t, answer.Get(`event.signatures.hs\.test`).Exists(), "%s", answer.Body)
			require.True(t, answer.Get(`event.signatures.peer\.test`).Exists(), "%s", answer.Body)
			require.NotEmpty(t, p.alice.Sync("").Invited(room.ID).Raw)
		})
	}
}

func TestInviteInTheFirstForm(t *testing.T) {
	p := newPair(t)
	for _, version := range []string{"1", "2"} {
		room := p.peer.CreateRoom(version, p.bob)
		create, _ := room.State("m.room.create", "")
		invite := room.Build(hst.Draft{
			Type: "m.room.member", Sender: p.bob, StateKey: &p.alice.ID, Content: hst.Fields{"membership": "invite"},
			After: func(f hst.Fields) {
				f["unsigned"] = map[string]any{"invite_room_state": []any{json.RawMessage(create.JSON)}}
			},
		})
		answer := p.send("v1/invite", room.ID, invite).WantOK()
		require.Equal(t, int64(200), answer.Get("0").Int())
		require.True(t, answer.Get(`1.event.signatures.hs\.test`).Exists(), "%s", answer.Body)
		require.NotEmpty(t, p.alice.Sync("").Invited(room.ID).Raw)
		p.alice.MustJoin(room.ID)
	}
	room := p.peer.CreateRoom("11", p.bob)
	invite := room.Build(hst.Draft{Type: "m.room.member", Sender: p.bob, StateKey: &p.alice.ID, Content: hst.Fields{"membership": "invite"}})
	require.Equal(t, 400, p.send("v1/invite", room.ID, invite).Status, "version 11 has another form")
}

// TestInvitesThatAreNone are the checks of the specification, F-43 and F-85.
func TestInvitesThatAreNone(t *testing.T) {
	p := newPair(t)
	room := p.peer.CreateRoom("11", p.bob)
	build := func(d hst.Draft) hst.PDU {
		d.Sender = p.bob
		return room.Build(d)
	}
	good := build(hst.Draft{Type: "m.room.member", StateKey: &p.alice.ID, Content: hst.Fields{"membership": "invite"}})
	join := build(hst.Draft{Type: "m.room.member", StateKey: &p.alice.ID, Content: hst.Fields{"membership": "join"}})
	nobody := build(hst.Draft{Type: "m.room.member", StateKey: hst.Key("@nobody:hs.test"), Content: hst.Fields{"membership": "invite"}})
	remote := build(hst.Draft{Type: "m.room.member", StateKey: hst.Key("@x:third.test"), Content: hst.Fields{"membership": "invite"}})
	message := build(hst.Draft{Type: "m.room.message"})
	float := good
	float.JSON = bytes.Replace(good.JSON, []byte(`"membership"`), []byte(`"bad":1.5,"membership"`), 1)
	body := func(ev hst.PDU, more hst.Fields) any {
		b := hst.Fields{"room_version": "11", "event": json.RawMessage(ev.JSON), "invite_room_state": []any{}}
		for k, v := range more {
			b[k] = v
		}
		return b
	}
	tests := []struct {
		name   string
		ev     hst.PDU
		more   hst.Fields
		status int
		code   string
	}{
		{"no invite", join, nil, 400, "M_INVALID_PARAM"},
		{"no membership", message, nil, 400, "M_INVALID_PARAM"},
		{"of a user of another server", remote, nil, 400, "M_INVALID_PARAM"},
		{"of a user who is not", nobody, nil, 200, ""}, // which nobody can tell from one who is
		{"a number that version 11 does not know", float, nil, 400, "M_BAD_JSON"},
		{"an unknown version", good, hst.Fields{"room_version": "99"}, 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"a version that is a number", good, hst.Fields{"room_version": 11}, 400, "M_BAD_JSON"},
		{"no version", good, hst.Fields{"room_version": ""}, 400, "M_MISSING_PARAM"},
		{"the format of version 12", good, hst.Fields{"room_version": "12"}, 400, ""},
		{"no event", good, hst.Fields{"event": nil}, 400, "M_MISSING_PARAM"},
		{"an event that is none", good, hst.Fields{"event": "x"}, 400, "M_BAD_JSON"},
		{"a state that is an object", good, hst.Fields{"invite_room_state": hst.Fields{}}, 400, "M_INVALID_PARAM"},
		{"a state that is a string", good, hst.Fields{"invite_room_state": "x"}, 400, "M_INVALID_PARAM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer := p.peer.Do(p.hs, "PUT", to("v2/invite", room.ID, tt.ev.ID), body(tt.ev, tt.more))
			require.Equal(t, tt.status, answer.Status, "%s", answer.Body)
			require.Contains(t, answer.Get("errcode").String(), tt.code)
			require.Empty(t, p.alice.Sync("").Invited(room.ID).Raw)
		})
	}
	p.peer.Do(p.hs, "PUT", to("v2/invite", room.ID, join.ID), body(good, nil)).WantError(400, "M_INVALID_PARAM")
	p.peer.Do(p.hs, "PUT", to("v2/invite", "!other:peer.test", good.ID), body(good, nil)).WantError(400, "M_INVALID_PARAM")
}

// TestInvitesWithAnyState is F-85, CVE-2024-52815: whatever comes with an invite, /sync goes on.
func TestInvitesWithAnyState(t *testing.T) {
	p := newPair(t)
	for i, state := range []any{
		nil, []any{nil}, []any{1}, []any{"x"}, []any{[]any{}}, []any{hst.Fields{}}, []any{hst.Fields{"type": "m.room.name"}},
		[]any{hst.Fields{"type": 1, "state_key": 2, "sender": 3, "content": 4}},
		[]any{hst.Fields{"type": "m.room.name", "state_key": "", "sender": p.bob, "content": nil}}, make([]int, 10_000),
	} {
		user := p.hs.User(fmt.Sprint("user", i))
		room := p.peer.CreateRoom("12", p.bob)
		create, _ := room.State("m.room.create", "")
		if list, ok := state.([]any); ok {
			state = append(list, json.RawMessage(create.JSON))
		}
		since := user.Sync("").NextBatch
		invite := room.Build(hst.Draft{Type: "m.room.member", Sender: p.bob, StateKey: &user.ID, Content: hst.Fields{"membership": "invite"}})
		answer := p.peer.Do(p.hs, "PUT", to("v2/invite", room.ID, invite.ID), map[string]any{
			"room_version": "12", "event": json.RawMessage(invite.JSON), "invite_room_state": state,
		})
		require.Contains(t, []int{200, 400}, answer.Status, "%v: %s", state, answer.Body)
		require.Equal(t, answer.Status == 200, user.Sync("").Invited(room.ID).Raw != "", "%v: %s", state, answer.Body)
		user.Sync(since)
	}
}

// TestServerACL is F-54 for what is about memberships.
func TestServerACL(t *testing.T) {
	p := newPair(t)
	room := p.room("11", hst.Public, stateEvent("m.room.join_rules", map[string]any{"join_rule": "public"}))
	join := p.made("join", room, p.bob, nil)
	p.alice.SetState(room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{"peer.test"}}).WantOK()
	for _, endpoint := range []string{"v1/send_join", "v2/send_join", "v1/send_leave", "v2/send_leave", "v1/send_knock"} {
		p.send(endpoint, room, join).WantError(403, "M_FORBIDDEN")
	}
	for _, verb := range []string{"join", "leave", "knock"} {
		p.peer.Do(p.hs, "GET", to("v1/make_"+verb, room, p.bob)+"?ver=11", nil).WantError(403, "M_FORBIDDEN")
	}
}
