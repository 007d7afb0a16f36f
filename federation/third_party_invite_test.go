package federation_test

import (
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	hst "github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/signing"
)

const isValid = "https://peer.test/_matrix/identity/v2/pubkey/isvalid?x=1"

// identify lets the peer be an identity server, too.
func (p *pair) identify(answer string) (asked func() int) {
	n := 0
	p.peer.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/_matrix/identity/") {
			return false
		}
		n++
		require.Equal(p.t, url.Values{"x": {"1"}, "public_key": {p.publicKey()}}, r.URL.Query())
		require.Empty(p.t, r.Header.Get("Authorization"))
		io.WriteString(w, answer) //nolint:errcheck // a test
		return true
	})
	return func() int { return n }
}

func (p *pair) publicKey() string {
	return signing.Encode(p.peer.Key.Public().(ed25519.PublicKey))
}

// thirdParty puts a third-party invite into a room.
func (p *pair) thirdParty(room, token string, content map[string]any) {
	p.t.Helper()
	p.alice.SetState(room, "m.room.third_party_invite", token, content).WantOK()
}

func (p *pair) key() map[string]any {
	return map[string]any{"display_name": "B…", "public_key": p.publicKey(), "key_validity_url": isValid}
}

func (p *pair) proof(mxid, token string) json.RawMessage {
	return p.peer.SignJSON(map[string]any{"mxid": mxid, "token": token, "sender": p.alice.ID})
}

func partial(room, sender, target string, signed any) map[string]any {
	return map[string]any{
		"type": "m.room.member", "room_id": room, "sender": sender, "state_key": target,
		"content": map[string]any{"membership": "invite", "third_party_invite": map[string]any{"display_name": "x", "signed": signed}},
	}
}

func (p *pair) exchange(room string, body any) *hst.Response {
	p.t.Helper()
	return p.peer.Do(p.hs, "PUT", to("v1/exchange_third_party_invite", room), body)
}

func TestExchangeThirdPartyInvite(t *testing.T) {
	p := newPair(t)
	asked := p.identify(`{"valid":true}`)
	for _, version := range []string{"1", "11", "12"} {
		room := p.room(version, hst.Private)
		p.thirdParty(room, "tök", p.key())
		require.JSONEq(t, `{}`, string(p.exchange(room, partial(room, p.alice.ID, p.bob, p.proof(p.bob, "tök"))).WantOK().Body))
		member := p.alice.State(room, "m.room.member", p.bob)
		require.Equal(t, "invite", member.Get("membership").String())
		require.Equal(t, "B…", member.Get("third_party_invite.display_name").String())
		require.Equal(t, "tök", member.Get("third_party_invite.signed.token").String())
		p.exchange(room, partial(room, p.alice.ID, p.bob, p.proof(p.bob, "tök"))).WantOK() // it is so already
		require.Equal(t, 1, asked())
		asked = p.identify(`{"valid":true}`)
	}
}

// TestExchangeRefusals is F-50, and of F-44 what concerns third-party invites.
func TestExchangeRefusals(t *testing.T) {
	p := newPair(t)
	asked := p.identify(`{"valid":true}`)
	room, other := p.room("11", hst.Private), p.room("11", hst.Private)
	carol := p.hs.User("carol")
	p.thirdParty(room, "token", p.key())
	p.thirdParty(room, "revoked", map[string]any{})
	wrong := p.key()
	wrong["public_key"] = strings.Repeat("A", 43)
	p.thirdParty(room, "wrong", wrong)
	change := func(key string, value any) map[string]any {
		body := partial(room, p.alice.ID, p.bob, p.proof(p.bob, "token"))
		body[key] = value
		return body
	}
	tests := []struct {
		name, room string
		body       any
		status     int
	}{
		{"another key", room, partial(room, p.alice.ID, p.bob, p.proof(p.bob, "wrong")), 403},
		{"nobody's signature", room, partial(room, p.alice.ID, p.bob, map[string]any{"mxid": p.bob, "token": "token"}), 403},
		{"for somebody else", room, partial(room, p.alice.ID, p.bob, p.proof(p.peer.UserID("ben"), "token")), 403},
		{"an unknown token", room, partial(room, p.alice.ID, p.bob, p.proof(p.bob, "none")), 403},
		{"a token that is a number", room, partial(room, p.alice.ID, p.bob, map[string]any{"mxid": p.bob, "token": 5}), 403},
		{"revoked", room, partial(room, p.alice.ID, p.bob, p.proof(p.bob, "revoked")), 403},
		{"of another inviter", room, partial(room, carol.ID, p.bob, p.proof(p.bob, "token")), 403},
		{"of an inviter elsewhere", room, partial(room, p.peer.UserID("ben"), p.bob, p.proof(p.bob, "token")), 403},
		{"for a user of a third server", room, partial(room, p.alice.ID, "@x:third.test", p.proof("@x:third.test", "token")), 403},
		{"for a user here", room, partial(room, p.alice.ID, carol.ID, p.proof(carol.ID, "token")), 403},
		{"another room in the path", other, partial(room, p.alice.ID, p.bob, p.proof(p.bob, "token")), 400},
		{"a room without the invite", other, partial(other, p.alice.ID, p.bob, p.proof(p.bob, "token")), 403},
		{"an unknown room", "!gone:hs.test", partial("!gone:hs.test", p.alice.ID, p.bob, p.proof(p.bob, "token")), 404},
		{"a message", room, change("type", "m.room.message"), 400},
		{"a join", room, change("content", map[string]any{"membership": "join", "third_party_invite": map[string]any{"signed": map[string]any{}}}), 400},
		{"no signed", room, change("content", map[string]any{"membership": "invite"}), 400},
		{"signed is a list", room, partial(room, p.alice.ID, p.bob, []any{}), 400},
		{"no sender", room, change("sender", "alice"), 400},
		{"a sender that is a number", room, change("sender", 5), 400},
		{"nothing", room, map[string]any{}, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer := p.exchange(tt.room, tt.body)
			require.Equal(t, tt.status, answer.Status, "%s", answer.Body)
			require.Empty(t, p.membership(room, p.bob))
		})
	}
	require.Zero(t, asked(), "nobody makes this server ask somewhere without a signature")
}

func TestExchangeWithKeysThatAreNoMore(t *testing.T) {
	p := newPair(t)
	room := p.room("11", hst.Private)
	p.thirdParty(room, "token", p.key())
	body := partial(room, p.alice.ID, p.bob, p.proof(p.bob, "token"))
	for _, answer := range []string{`{"valid":false}`, `{}`, `{"valid":"true"}`, `{`, `[]`, `{"valid":true,"x":"` + strings.Repeat("x", 20<<10) + `"}`} {
		p.identify(answer)
		p.exchange(room, body).WantError(403, "M_FORBIDDEN")
	}
	for i, address := range []string{"http://peer.test/x", "https://gone.test/", "file:///etc/passwd", "https://user@peer.test/", "%", "//peer.test"} {
		bad := p.key()
		bad["key_validity_url"] = address
		token := "token" + string(rune('a'+i))
		p.thirdParty(room, token, bad)
		p.exchange(room, partial(room, p.alice.ID, p.bob, p.proof(p.bob, token))).WantError(403, "M_FORBIDDEN")
	}
	require.Empty(t, p.membership(room, p.bob))
	free := map[string]any{"display_name": "B", "key_validity_url": "https://gone.test/", "public_key": strings.Repeat("A", 43), "public_keys": []any{map[string]any{"public_key": p.publicKey()}}}
	p.thirdParty(room, "free", free)
	p.exchange(room, partial(room, p.alice.ID, p.bob, p.proof(p.bob, "free"))).WantOK() // a key without a URL is valid
	require.Equal(t, "invite", p.membership(room, p.bob))
}

func (p *pair) bind(body any) *hst.Response {
	p.t.Helper()
	request := p.peer.Request(p.hs, "PUT", to("v1/3pid/onbind"), body)
	request.Header.Del("Authorization")
	return p.peer.Ask(request)
}

// TestOnBind is FM-15.
func TestOnBind(t *testing.T) {
	p := newPair(t)
	p.identify(`{"valid":true}`)
	carol := p.hs.User("carol")
	here := p.room("11", hst.Private)
	p.thirdParty(here, "token", p.key())
	there := p.peer.CreateRoom("11", p.bob)
	invite := func(room, sender, token string) map[string]any {
		return map[string]any{"medium": "email", "address": "c@x", "mxid": carol.ID, "room_id": room, "sender": sender, "signed": p.proof(carol.ID, token)}
	}
	body := map[string]any{"medium": "email", "address": "c@x", "mxid": carol.ID, "invites": []any{
		invite("!gone:hs.test", p.alice.ID, "token"), invite(here, p.alice.ID, "none"), invite(here, p.alice.ID, "token"), invite(there.ID, p.bob, "theirs"),
		map[string]any{"room_id": here, "sender": p.alice.ID, "signed": p.proof(p.alice.ID, "token")},
	}}
	require.JSONEq(t, `{}`, string(p.bind(body).WantOK().Body))
	require.Equal(t, "invite", p.membership(here, carol.ID))
	asked := p.peer.Asked(to("v1/exchange_third_party_invite", there.ID))
	require.Len(t, asked, 1)
	require.Contains(t, string(asked[0].Body), `"token":"theirs"`)

	many := make([]any, 51)
	for i := range many {
		many[i] = invite(here, p.alice.ID, "token")
	}
	for name, body := range map[string]any{
		"nobody": map[string]any{"invites": []any{}}, "no invites": map[string]any{"mxid": carol.ID}, "a user elsewhere": map[string]any{"mxid": p.bob, "invites": []any{}},
		"no user": map[string]any{"mxid": "x", "invites": []any{}}, "too many": map[string]any{"mxid": carol.ID, "invites": many},
		"no room":        map[string]any{"mxid": carol.ID, "invites": []any{map[string]any{"sender": p.alice.ID, "signed": map[string]any{}}}},
		"invites of one": map[string]any{"mxid": carol.ID, "invites": map[string]any{}},
	} {
		require.Equal(t, 400, p.bind(body).Status, name)
	}
	p.bind(map[string]any{"mxid": "@nobody:hs.test", "invites": []any{}}).WantError(404, "M_NOT_FOUND")
}
