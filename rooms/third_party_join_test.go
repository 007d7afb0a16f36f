package rooms_test

import (
	"crypto/rand"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// ME-11: a join may show what an identity server has signed of a third-party invite: it has to be pending, for who joins,
// and signed by its key.
func TestJoinByThirdPartyInvite(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	identity, err := signing.Generate(rand.Reader)
	require.NoError(t, err)
	stranger, err := signing.Generate(rand.Reader)
	require.NoError(t, err)
	room := alice.CreateRoom(homeservertest.Private)
	invite := func(token string) {
		alice.SetState(room, "m.room.third_party_invite", token, map[string]any{
			"display_name": "b…", "public_key": signing.Encode(identity.Public()), "key_validity_url": "https://id.test/valid",
			"public_keys": []any{map[string]any{"public_key": signing.Encode(identity.Public())}},
		}).WantOK()
	}
	invite("token")
	proof := func(key signing.Key, mxid, token, sender string) map[string]any {
		raw, err := json.Marshal(map[string]any{"mxid": mxid, "token": token, "sender": sender})
		require.NoError(t, err)
		raw, err = signing.SignJSON("id.test", key, raw)
		require.NoError(t, err)
		return map[string]any{"third_party_signed": json.RawMessage(raw)}
	}
	join := func(who *homeservertest.User, body any) *homeservertest.Response {
		return who.Do("POST", v3+"/rooms/"+room+"/join", body)
	}
	good := proof(identity, bob.ID, "token", alice.ID)
	join(bob, map[string]any{}).WantError(403, "M_FORBIDDEN")
	join(bob, proof(stranger, bob.ID, "token", alice.ID)).WantError(403, "M_FORBIDDEN")
	join(bob, proof(identity, bob.ID, "other", alice.ID)).WantError(403, "M_FORBIDDEN")
	join(bob, proof(identity, bob.ID, "token", carol.ID)).WantError(403, "M_FORBIDDEN")
	join(carol, good).WantError(400, "M_INVALID_PARAM")
	join(bob, map[string]any{"third_party_signed": "x"}).WantError(400, "M_BAD_JSON")
	join(bob, map[string]any{"third_party_signed": map[string]any{}}).WantError(400, "M_INVALID_PARAM")
	join(bob, good).WantOK()
	member := alice.State(room, "m.room.member", bob.ID).WantOK()
	require.Equal(t, "join", member.Get("membership").String())
	require.False(t, member.Get("third_party_signed").Exists())
	join(bob, good).WantOK() // it is so already

	public := alice.CreateRoom(homeservertest.Public)
	carol.Do("POST", v3+"/join/"+public, proof(identity, carol.ID, "token", alice.ID)).WantError(403, "M_FORBIDDEN")
	carol.Do("POST", v3+"/join/"+public, map[string]any{"third_party_signed": nil}).WantOK()
	alice.SetState(room, "m.room.third_party_invite", "token", map[string]any{}).WantOK() // revoked
	join(carol, proof(identity, carol.ID, "token", alice.ID)).WantError(403, "M_FORBIDDEN")
}
