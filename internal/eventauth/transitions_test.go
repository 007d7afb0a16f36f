package eventauth_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// TestMembershipTransitions walks the table of m.room.member: who may bring @bob:two from one
// membership to another. "self" is bob, "admin" another member with power, "" is "Must never happen".
//
// The table's "from knock to join: must never happen" is what the rules of a room with the join rules
// knock or invite give; a room that became public lets everybody in who is not banned.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroommember
func TestMembershipTransitions(t *testing.T) {
	to := []string{"invite", "join", "leave", "ban", "knock"}
	tests := []struct {
		joinRule, from string
		who            [5]string // by to
	}{
		{"knock", "invite", [5]string{"admin", "self", "self admin", "admin", ""}},
		{"knock", "join", [5]string{"", "self", "self admin", "admin", ""}},
		{"knock", "leave", [5]string{"admin", "", "admin", "admin", "self"}},
		{"knock", "ban", [5]string{"", "", "admin", "admin", ""}},
		{"knock", "knock", [5]string{"admin", "", "self admin", "admin", "self"}},
		{"public", "invite", [5]string{"admin", "self", "self admin", "admin", ""}},
		{"public", "join", [5]string{"", "self", "self admin", "admin", ""}},
		{"public", "leave", [5]string{"admin", "self", "admin", "admin", ""}},
		{"public", "ban", [5]string{"", "", "admin", "admin", ""}},
		{"public", "knock", [5]string{"admin", "self", "self admin", "admin", ""}},
		{"invite", "invite", [5]string{"admin", "self", "self admin", "admin", ""}},
		{"invite", "join", [5]string{"", "self", "self admin", "admin", ""}},
		{"invite", "leave", [5]string{"admin", "", "admin", "admin", ""}},
		{"invite", "ban", [5]string{"", "", "admin", "admin", ""}},
		{"invite", "knock", [5]string{"admin", "", "self admin", "admin", ""}},
	}
	for _, tt := range tests {
		r := newRoom(t, "11")
		r.set(t, "m.room.join_rules", "", `{"join_rule":"`+tt.joinRule+`"}`)
		r.set(t, "m.room.member", "@bob:two", `{"membership":"`+tt.from+`"}`)
		for i, want := range tt.who {
			require.Equal(t, want, movers(t, r, to[i]), "%s: from %s to %s", tt.joinRule, tt.from, to[i])
		}
	}
}

// movers says who may bring bob to a membership.
func movers(t *testing.T, r room, to string) (who string) {
	for name, sender := range map[string]id.UserID{"self": "@bob:two", "admin": "@alice:one"} {
		bob := "@bob:two"
		content := json.RawMessage(`{"membership":"` + to + `"}`)
		e := r.event(t, draft{Sender: sender, Type: "m.room.member", StateKey: &bob, Content: content})
		switch err := eventauth.Check(e, r); {
		case err != nil:
		case who == "":
			who = name
		default:
			who = "self admin"
		}
	}
	return who
}

// F-28: what a user without power tries, in every version.
func TestPowerlessUser(t *testing.T) {
	alice, carol, bob, none := "@alice:one", "@carol:two", "@bob:two", ""
	tests := []struct {
		name, eventType string
		stateKey        *string
		content         string
	}{
		{"power for oneself", "m.room.power_levels", &none, `{"users":{"@alice:one":100,"@mod:one":50,"@bob:two":100}}`},
		{"power for nobody", "m.room.power_levels", &none, `{}`},
		{"the name", "m.room.name", &none, `{"name":"mine"}`},
		{"a kick", "m.room.member", &alice, `{"membership":"leave"}`},
		{"a ban", "m.room.member", &alice, `{"membership":"ban"}`},
		{"a ban of one who is not there", "m.room.member", &carol, `{"membership":"ban"}`},
		{"a join for another", "m.room.member", &carol, `{"membership":"join"}`},
		{"the profile of another", "m.room.member", &alice, `{"membership":"join","displayname":"x"}`},
		{"a ban of oneself", "m.room.member", &bob, `{"membership":"ban"}`},
		{"the join rules", "m.room.join_rules", &none, `{"join_rule":"public"}`},
		{"the history visibility", "m.room.history_visibility", &none, `{"history_visibility":"world_readable"}`},
		{"the servers", "m.room.server_acl", &none, `{"allow":["two"]}`},
		{"a tombstone", "m.room.tombstone", &none, `{"replacement_room":"!x:two"}`},
		{"state of another", "org.example.state", &alice, `{}`},
		{"a second create", "m.room.create", &none, `{"creator":"@bob:two"}`},
	}
	for _, version := range roomversion.All() {
		r := newRoom(t, version)
		for _, tt := range tests {
			e := r.event(t, draft{Sender: "@bob:two", Type: tt.eventType, StateKey: tt.stateKey, Content: json.RawMessage(tt.content)})
			require.Error(t, eventauth.Check(e, r), "version %s, %s", version, tt.name)
		}
	}
}
