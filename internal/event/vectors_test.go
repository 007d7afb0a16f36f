package event_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/stretchr/testify/require"
)

// golden is a line of testdata/golden.jsonl. The file was made by a separate program, in another
// language, from the text of the specification: events of nine types in twelve versions.
type golden struct {
	Version       string
	Event         json.RawMessage
	Redacted      string
	EventID       id.EventID `json:"event_id"`
	ReferenceHash string     `json:"reference_hash"`
}

func readGolden(t testing.TB) []golden {
	file, err := os.ReadFile("testdata/golden.jsonl")
	require.NoError(t, err)
	var all []golden
	for lines := bufio.NewScanner(bytes.NewReader(file)); lines.Scan(); {
		var g golden
		require.NoError(t, json.Unmarshal(lines.Bytes(), &g))
		all = append(all, g)
	}
	require.Len(t, all, 12*9)
	return all
}

func rulesOf(t testing.TB, version string) *roomversion.Rules {
	rules, ok := roomversion.Get(version)
	require.True(t, ok, "room version %q", version)
	return rules
}

func TestGolden(t *testing.T) {
	for _, g := range readGolden(t) {
		rules := rulesOf(t, g.Version)
		e, err := event.ParseUntrusted(rules, g.Event)
		require.NoError(t, err, "version %s: %s", g.Version, g.Event)
		require.Equal(t, g.EventID, e.ID, "version %s, %s", g.Version, e.Type)
		require.True(t, event.CheckContentHash(e), "content hash: version %s, %s", g.Version, e.Type)

		hash, err := event.ReferenceHash(rules, g.Event)
		require.NoError(t, err)
		require.Equal(t, g.ReferenceHash, signing.Encode(hash))

		redacted, err := event.Redact(rules, g.Event)
		require.NoError(t, err)
		require.Equal(t, g.Redacted, string(redacted), "version %s, %s", g.Version, e.Type)

		after, err := e.Redacted()
		require.NoError(t, err)
		require.Equal(t, g.Redacted, string(after.JSON))
		require.Equal(t, e.ID, after.ID)
		require.Equal(t, e.Room, after.Room)
	}
}

// TestSpecification signs the events of the specification.
//
// Spec: https://spec.matrix.org/latest/appendices/#event-signing
func TestSpecification(t *testing.T) {
	tests := []struct{ name, given, hash, signature string }{
		{"minimal", `{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},"hashes":{},
			"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}`,
			"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
			"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"},
		{"content that is redacted", `{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,
			"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}`,
			"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
			"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"},
	}
	seed, err := signing.Decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	require.NoError(t, err)
	key, err := signing.NewKey("1", seed)
	require.NoError(t, err)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var members map[string]any
			require.NoError(t, json.Unmarshal([]byte(tt.given), &members))
			delete(members, "hashes")
			require.Equal(t, tt.hash, signing.Encode(event.ContentHash(toJSON(t, members))))

			members["hashes"] = map[string]string{"sha256": tt.hash}
			redacted, err := event.Redact(rulesOf(t, "1"), toJSON(t, members))
			require.NoError(t, err)
			signed, err := signing.SignJSON("domain", key, redacted)
			require.NoError(t, err)
			require.Equal(t, `"`+tt.signature+`"`, string(canonjson.Get(signed, "signatures", "domain", "ed25519:1")))
		})
	}
}

func toJSON(t *testing.T, v any) []byte {
	out, err := json.Marshal(v)
	require.NoError(t, err)
	return out
}
