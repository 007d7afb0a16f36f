package federation_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What a policy server says becomes a signature, an error in its words, or one that blames it.
func TestPolicySign(t *testing.T) {
	for _, tt := range []struct {
		name, answer, signature, code string
		status                        int
	}{
		{"signed", `{"peer.test":{"ed25519:policy_server":"abc"}}`, "abc", "", 0},
		{"signed by others", `{"other.test":{"ed25519:policy_server":"abc"},"peer.test":{"ed25519:a":"x"}}`, "", "", 0},
		{"not signed", `{}`, "", "", 0},
		{"another form", `{"peer.test":"abc"}`, "", "M_UNKNOWN", 502},
		{"a list", `[]`, "", "M_UNKNOWN", 502},
		{"refused", `400|{"errcode":"M_FORBIDDEN","error":"spam"}`, "", "M_FORBIDDEN", 400},
		{"kept out", `403|{"errcode":"M_FORBIDDEN","error":"spam"}`, "", "M_FORBIDDEN", 403},
		{"unknown room", `404|{"errcode":"M_NOT_FOUND","error":"spam"}`, "", "M_NOT_FOUND", 404},
		{"no policy server", `404|{"errcode":"M_UNRECOGNIZED","error":"spam"}`, "", "M_UNKNOWN", 502},
		{"too much", `429|{"errcode":"M_LIMIT_EXCEEDED","error":"spam"}`, "", "M_LIMIT_EXCEEDED", 429},
		{"a trap", `403|{"errcode":"M_UNKNOWN_TOKEN","error":"spam"}`, "", "M_UNKNOWN", 502},
		{"broken", `500|{}`, "", "M_UNKNOWN", 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAsker(t)
			a.script(map[string]string{"policy": tt.answer})
			signature, err := a.PolicySign(t.Context(), peerName, a.event("11", "join"))
			require.Equal(t, tt.signature, signature)
			told, status := code(err)
			require.Equal(t, tt.code, told, "%v", err)
			require.Equal(t, tt.status, status)
			require.Equal(t, tt.code == "", err == nil)
			require.Equal(t, []string{"POST /_matrix/policy/v1/sign"}, a.asked)
		})
	}
}
