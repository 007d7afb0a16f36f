package homeservertest_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// answerMake has a rogue answer make_join with a template that is changed.
func answerMake(rogue *homeservertest.Rogue, change func(made homeservertest.Fields)) {
	rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/_matrix/federation/v1/make_join/") {
			return false
		}
		segments := strings.Split(r.URL.Path, "/")
		room, user := segments[5], segments[6]
		var auth []string
		for _, eventType := range []string{"m.room.create", "m.room.power_levels", "m.room.join_rules"} {
			if p, ok := rogue.Room(room).State(eventType, ""); ok {
				auth = append(auth, p.ID)
			}
		}
		made := homeservertest.Fields{"room_version": "11", "event": homeservertest.Fields{
			"type": "m.room.member", "sender": user, "state_key": user, "room_id": room, "depth": 5,
			"content":     homeservertest.Fields{"membership": "join"},
			"prev_events": rogue.Room(room).Heads(), "auth_events": auth,
		}}
		change(made)
		json.NewEncoder(w).Encode(made) //nolint:errcheck // who has asked has gone
		return true
	})
}

// F-24, CVE-2026-24471: whatever a template says, nothing is signed but the join that its user wants.
func TestF24TemplatesOfAnotherEvent(t *testing.T) {
	type fields = homeservertest.Fields
	network := homeservertest.NewNetwork(t)
	hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
	alice, bob := hs.User("alice"), hs.User("bob")
	set := func(key string, value any) func(fields) {
		return func(made fields) { made["event"].(fields)[key] = value }
	}
	for i, tt := range []struct {
		name   string
		change func(made fields)
	}{
		{"power levels", set("type", "m.room.power_levels")},
		{"a message", func(made fields) { delete(made["event"].(fields), "state_key"); set("type", "m.room.message")(made) }},
		{"of another user here", func(made fields) { set("sender", bob.ID)(made); set("state_key", bob.ID)(made) }},
		{"sent by another user here", set("sender", bob.ID)},
		{"about another user here", set("state_key", bob.ID)},
		{"of a user of theirs", func(made fields) {
			set("sender", rogue.UserID("u"))(made)
			set("state_key", rogue.UserID("u"))(made)
		}},
		{"in another room", set("room_id", "!other:rogue.test")},
		{"in no room", set("room_id", nil)},
		{"a ban", set("content", fields{"membership": "ban"})},
		{"an invite", set("content", fields{"membership": "invite"})},
		{"a leave", set("content", fields{"membership": "leave"})},
		{"no membership", set("content", fields{})},
		{"more content", set("content", fields{"membership": "join", "users": fields{rogue.UserID("u"): 100}, "displayname": "Mallory"})},
		{"more fields", set("users", fields{rogue.UserID("u"): 100})},
		{"a redaction beside", set("redacts", "$x")},
		{"signed for us", set("signatures", fields{"hs.test": fields{"ed25519:x": "x"}})},
		{"no event", func(made fields) { made["event"] = 1 }},
		{"a content that is no object", set("content", "join")},
		{"a type that is none", set("type", 1)},
	} {
		room := rogue.CreateRoom("11", rogue.UserID("creator"+strconv.Itoa(i)))
		answerMake(rogue, tt.change)
		answer := alice.Do("POST", v3+"/join/"+room.ID+"?server_name=rogue.test", map[string]any{})
		sent := rogue.Asked("/_matrix/federation/v2/send_join/" + url.PathEscape(room.ID))
		sent = append(sent, rogue.Asked("/_matrix/federation/v1/send_join/"+url.PathEscape(room.ID))...)
		for _, a := range sent {
			onlyTheJoin(t, tt.name, a.Body, room.ID, alice.ID)
		}
		if harmless := []string{"more content", "more fields", "a redaction beside", "signed for us"}; slices.Contains(harmless, tt.name) {
			answer.WantOK()
			require.Len(t, sent, 1, tt.name)
			continue
		}
		require.Empty(t, sent, tt.name)
		require.GreaterOrEqual(t, answer.Status, 400, tt.name)
	}
	require.Len(t, rogue.Asked("/_matrix/federation/v1/make_join/"), 19)
	for _, a := range rogue.Asked("/_matrix/federation/") {
		if !strings.Contains(a.Path, "/send_join/") {
			require.NotContains(t, string(a.Body), "signatures", a.Path)
		}
	}
}

// onlyTheJoin requires that an event is the join of a user and has nothing in it that others could have put there.
func onlyTheJoin(t *testing.T, name string, body []byte, room, user string) {
	t.Helper()
	e := gjson.ParseBytes(body)
	for path, want := range map[string]string{
		"type": "m.room.member", "sender": user, "state_key": user, "room_id": room, "content.membership": "join",
	} {
		require.Equal(t, want, e.Get(path).String(), "%s: %s", name, body)
	}
	for key := range e.Get("content").Map() {
		require.Contains(t, []string{"membership", "displayname", "avatar_url"}, key, name)
	}
	require.NotContains(t, e.Get("content").Raw, "Mallory", name)
	for key := range e.Map() {
		require.Contains(t, []string{
			"type", "sender", "state_key", "room_id", "content", "depth", "prev_events", "auth_events", "origin_server_ts", "hashes",
			"signatures", "unsigned", "origin",
		}, key, name)
	}
}

// F-48: a join to a restricted room counts if a user of this server vouches for it who is there and may invite.
func TestF48RestrictedJoins(t *testing.T) {
	for _, version := range []string{"8", "11", "12"} {
		t.Run(version, func(t *testing.T) { restrictedJoins(t, version) })
	}
}

func restrictedJoins(t *testing.T, version string) {
	s := besiege(t, version)
	space, left, weak := s.id, s.hs.User("left"), s.hs.User("weak")
	s.hs.User("elsewhere")
	levels := map[string]any{"invite": 50}
	restricted := s.alice.CreateRoomWith(map[string]any{
		"preset": "public_chat", "room_version": version, "power_level_content_override": levels,
	})
	left.MustJoin(restricted)
	left.MustLeave(restricted)
	weak.MustJoin(restricted)
	s.alice.SetState(restricted, "m.room.join_rules", "", map[string]any{
		"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": space}},
	}).WantOK()
	_, made := s.rogue.Make(s.hs, "join", restricted, s.mal)
	require.Equal(t, s.alice.ID, made.Get("content.join_authorised_via_users_server").String())
	send := func(voucher any) *homeservertest.Response {
		fields := decoded(t, made)
		fields["content"] = homeservertest.Fields{"membership": "join", "join_authorised_via_users_server": voucher}
		p := s.rogue.Sign(version, fields, nil)
		return s.rogue.Do(s.hs, "PUT", "/_matrix/federation/v2/send_join/"+url.PathEscape(restricted)+"/"+url.PathEscape(p.ID), p.JSON)
	}
	for name, voucher := range map[string]any{
		"who has left": left.ID, "without power": weak.ID, "who was never there": "@elsewhere:hs.test", "who is not": "@nobody:hs.test",
		"of another server": s.rogue.UserID("friend"), "himself": s.mal, "nobody": nil, "no user id": "x", "a list": []string{s.alice.ID},
	} {
		answer := send(voucher)
		require.Contains(t, []int{400, 403}, answer.Status, "vouched for by %s: %s", name, answer.Body)
	}
	s.takes("leaves the space", s.room.Build(member(s.mal, s.mal, "leave")))
	send(s.alice.ID).WantError(403, "M_FORBIDDEN")
	require.Equal(t, 404, s.alice.State(restricted, "m.room.member", s.mal).Status)
	s.enter(space)
	send(s.alice.ID).WantOK()
}
