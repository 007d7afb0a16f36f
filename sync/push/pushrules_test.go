package push_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/sync/push"
)

func TestDefaultRules(t *testing.T) {
	rules := push.DefaultRules("@alice:example.org")
	require.Equal(t, []string{
		".m.rule.master", ".m.rule.suppress_notices", ".m.rule.invite_for_me", ".m.rule.member_event",
		".m.rule.is_user_mention", ".m.rule.is_room_mention", ".m.rule.tombstone", ".m.rule.reaction",
		".m.rule.room.server_acl", ".m.rule.suppress_edits",
	}, ids(rules.Override))
	require.Equal(t, []string{
		".m.rule.call", ".m.rule.encrypted_room_one_to_one", ".m.rule.room_one_to_one", ".m.rule.message",
		".m.rule.encrypted",
	}, ids(rules.Underride))
	for _, rule := range append(rules.Override, rules.Underride...) {
		require.Equal(t, rule.ID != ".m.rule.master", rule.Enabled, "enabled: %s", rule.ID)
		require.True(t, rule.Default, "default: %s", rule.ID)
	}
}

func TestDefaultRulesAsJSON(t *testing.T) {
	rules := push.DefaultRules("@alice:example.org")
	tests := []struct {
		name string
		rule push.Rule
		want string
	}{
		{"no condition, no action", rules.Override[0],
			`{"rule_id":".m.rule.master","default":true,"enabled":false,"conditions":[],"actions":[]}`},
		{"the user as a pattern", rules.Override[2], `{"rule_id":".m.rule.invite_for_me","default":true,"enabled":true,
			"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.member"},
				{"kind":"event_match","key":"content.membership","pattern":"invite"},
				{"kind":"event_match","key":"state_key","pattern":"@alice:example.org"}],
			"actions":["notify",{"set_tweak":"sound","value":"default"}]}`},
		{"the user as a value", rules.Override[4], `{"rule_id":".m.rule.is_user_mention","default":true,"enabled":true,
			"conditions":[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"@alice:example.org"}],
			"actions":["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]}`},
		{"an empty pattern", rules.Override[6], `{"rule_id":".m.rule.tombstone","default":true,"enabled":true,
			"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.tombstone"},
				{"kind":"event_match","key":"state_key","pattern":""}],
			"actions":["notify",{"set_tweak":"highlight"}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.rule)
			require.NoError(t, err)
			require.JSONEq(t, tt.want, string(got))
		})
	}
}

func ids(rules []push.Rule) []string {
	var all []string
	for _, rule := range rules {
		all = append(all, rule.ID)
	}
	return all
}
