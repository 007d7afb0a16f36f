package eventauth_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
)

func TestInviteRules(t *testing.T) {
	const take, ignore, refuse = eventauth.TakeInvite, eventauth.IgnoreInvite, eventauth.RefuseInvite
	tests := []struct {
		name, permission, filter string
		want                     map[id.UserID]eventauth.InviteRule
	}{
		{"nothing", ``, ``, map[id.UserID]eventauth.InviteRule{"@a:x": take}},
		{"all are refused", `{"default_action":"block"}`, `{"allowed_users":["@a:x"]}`, map[id.UserID]eventauth.InviteRule{"@a:x": refuse}},
		{"not understood", `{"default_action":7}`, `{"allowed_users":null,"blocked_users":[7,""],"blocked_servers":"x"}`,
			map[id.UserID]eventauth.InviteRule{"@a:x": take}},
		{"users", ``, `{"blocked_users":["@b:x"],"ignored_users":["@i?*:x"]}`,
			map[id.UserID]eventauth.InviteRule{"@a:x": take, "@b:x": refuse, "@b:y": take, "@i:x": take, "@ian:x": ignore}},
		{"servers", ``, `{"blocked_servers":["*.evil"],"ignored_servers":["x:8448"]}`,
			map[id.UserID]eventauth.InviteRule{"@a:most.evil": refuse, "@a:evil": take, "@a:x:8448": ignore, "@a:x": take}},
		{"users before servers", ``, `{"allowed_users":["@good:evil"],"blocked_servers":["evil"],"blocked_users":["@bad:good"],"allowed_servers":["good"]}`,
			map[id.UserID]eventauth.InviteRule{"@good:evil": take, "@a:evil": refuse, "@bad:good": refuse, "@a:good": take}},
		{"taken before ignored before refused", ``, `{"allowed_users":["@a:x"],"ignored_users":["@a:x","@b:x"],"blocked_users":["@*:x"]}`,
			map[id.UserID]eventauth.InviteRule{"@a:x": take, "@b:x": ignore, "@c:x": refuse}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules := eventauth.ReadInviteRules([]byte(tt.permission), []byte(tt.filter))
			for user, want := range tt.want {
				require.Equal(t, want, rules.Of(user), "an invite of %s", user)
			}
		})
	}
	require.Equal(t, take, new(eventauth.InviteRules).Of("@a:x"))
}
