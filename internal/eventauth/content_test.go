package eventauth_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// EV-14: whatever an old room has accepted is written anew with integers that every version takes.
func TestLevelContent(t *testing.T) {
	tests := []struct{ name, version, in, out string }{
		{"nothing", "11", `{}`, `{}`},
		{"empty lists stay", "11", `{"events":{},"users":{}}`, `{"events":{},"users":{}}`},
		{"text", "9", `{"ban":" 050 ","users":{"@a:x":"+100"}}`, `{"ban":50,"users":{"@a:x":100}}`},
		{"fractions", "1", `{"events":{"m.x":1.9},"kick":-1e1}`, `{"events":{"m.x":1},"kick":-10}`},
		{"too large", "1", `{"redact":9223372036854775807,"users":{"@a:x":-1e30}}`, `{"redact":9007199254740991,"users":{"@a:x":-9007199254740991}}`},
		{"what no rule knows stays", "11", `{"org.x":{"a":[1]},"invite":0}`, `{"org.x":{"a":[1]},"invite":0}`},
		{"unless it is no canonical JSON", "1", `{"org.x":{"a":1.5},"invite":0}`, `{"invite":0}`},
		{"notifications that nobody can read", "1", `{"notifications":"none"}`, `{"notifications":{}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, _ := roomversion.Get(tt.version)
			c, err := eventauth.ReadLevelContent(rules, []byte(tt.in))
			require.NoError(t, err)
			out, err := json.Marshal(c)
			require.NoError(t, err)
			require.JSONEq(t, tt.out, string(out))
		})
	}
}

func TestLevelContentChanges(t *testing.T) {
	rules, _ := roomversion.Get("11")
	c, err := eventauth.ReadLevelContent(rules, []byte(`{"users_default":10,"invite":70}`))
	require.NoError(t, err)
	require.EqualValues(t, 70, c.Top())
	require.False(t, c.Raise("invite", 60), "it is higher already")
	require.True(t, c.Raise("events_default", 50))
	c.SetUser("@a:x", 1<<60)
	c.SetEvent("m.x", 5)
	require.EqualValues(t, int64(1<<53-1), c.User("@a:x"))
	require.EqualValues(t, 10, c.User("@b:x"))
	require.EqualValues(t, int64(1<<53-1), c.Top())
	require.EqualValues(t, 50, c.Level("ban"))
	out, err := json.Marshal(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"users_default":10,"invite":70,"events_default":50,"users":{"@a:x":9007199254740991},"events":{"m.x":5}}`, string(out))
	_, err = eventauth.ReadLevelContent(rules, []byte(`{"ban":"50"}`))
	require.Error(t, err, "no version 11 room has accepted that")
}
