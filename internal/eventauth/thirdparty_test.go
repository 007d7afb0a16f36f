package eventauth_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// A third-party invite with many made-up signatures costs a bounded time, even if a good one follows.
func TestThirdPartyInviteBound(t *testing.T) {
	tests := []struct {
		bad  int
		want string
	}{
		{10, ""}, {255, ""}, {256, "4.4.1.8"}, {500, "4.4.1.8"},
	}
	key, err := signing.NewKey("1", make([]byte, 32))
	require.NoError(t, err)
	r := newRoom(t, "11")
	r.set(t, "m.room.third_party_invite", "tok", `{"public_key":"`+signing.Encode(key.Public())+`"}`)
	for _, tt := range tests {
		carol := "@carol:two"
		e := r.event(t, draft{Type: "m.room.member", StateKey: &carol, Content: []byte(inviteWith(t, key, tt.bad))})
		require.Equal(t, tt.want, ruleOf(eventauth.Check(e, r)), "%d bad signatures", tt.bad)
	}
}

// inviteWith has bad signatures in front of a good one.
func inviteWith(t *testing.T, key signing.Key, bad int) string {
	signed, err := signing.SignJSON("z", key, []byte(`{"mxid":"@carol:two","token":"tok"}`))
	require.NoError(t, err)
	var servers strings.Builder
	for i := range bad {
		fmt.Fprintf(&servers, `"a%03d":{"ed25519:1":"%s"},`, i, strings.Repeat("A", 86))
	}
	text := strings.Replace(string(signed), `"signatures":{`, `"signatures":{`+servers.String(), 1)
	return `{"membership":"invite","third_party_invite":{"signed":` + text + `}}`
}
