package auth_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
)

// loginToken asks for a token with proof.
func (u *user) loginToken() string {
	u.s.t.Helper()
	const path = "/_matrix/client/v1/login/get_token"
	session := u.s.call("POST", path, u.token, M{}).asks("")
	body := u.s.call("POST", path, u.token, M{"auth": u.proof(session)}).ok()
	require.Equal(u.s.t, 120000.0, body["expires_in_ms"])
	return body["login_token"].(string)
}

func (s *server) tokenLogin(token string) *answer {
	s.t.Helper()
	return s.post("/login", "", M{"type": "m.login.token", "token": token, "refresh_token": true, "initial_device_display_name": "new"})
}

// LO-02, LO-08, LO-09: a token logs in once, as who has asked for it.
func TestLoginToken(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	require.Equal(t, []any{M{"type": "m.login.password"}, M{"type": "m.login.token", "get_login_token": true}}, s.get("/login", "").ok()["flows"])
	require.Equal(t, M{"enabled": true}, s.get("/capabilities", alice.token).ok()["capabilities"].(M)["m.get_login_token"])

	token := alice.loginToken()
	body := s.tokenLogin(token).ok()
	require.Equal(t, string(alice.id), body["user_id"])
	require.NotEqual(t, alice.device, body["device_id"])
	require.NotEmpty(t, body["refresh_token"])
	s.whoami(body["access_token"].(string)).ok()
	s.tokenLogin(token).fails(403, "M_FORBIDDEN")
	s.tokenLogin("").fails(403, "M_FORBIDDEN")
	s.tokenLogin("mxl_nothing").fails(403, "M_FORBIDDEN")
	s.tokenLogin(alice.token).fails(403, "M_FORBIDDEN")

	late := alice.loginToken()
	s.clock.advance(2*time.Minute - time.Millisecond)
	s.tokenLogin(late).ok()
	late = alice.loginToken()
	s.clock.advance(2 * time.Minute)
	s.tokenLogin(late).fails(403, "M_FORBIDDEN")
}

// UI-22: every token is asked for with proof of its own.
func TestLoginTokenAlwaysAsks(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	const path = "/_matrix/client/v1/login/get_token"
	session := s.call("POST", path, alice.token, M{}).asks("")
	s.call("POST", path, alice.token, M{"auth": alice.proof(session)}).ok()
	s.call("POST", path, alice.token, M{}).asks("")
	s.call("POST", path, alice.token, M{"auth": M{"session": session}}).asks("M_FORBIDDEN")
	s.call("POST", path, alice.token, M{"auth": alice.proof(session)}).asks("M_FORBIDDEN")
	s.call("POST", path, alice.token, M{"auth": bob.proof("")}).fails(403, "M_FORBIDDEN")
	s.call("POST", path, guest(s).token, M{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	s.call("POST", path, "", M{}).fails(401, "M_MISSING_TOKEN")
}

// A token that is used by many at once logs one of them in.
func TestLoginTokenRace(t *testing.T) {
	s := newServer(t)
	token := s.user("alice").loginToken()
	var in atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if s.tokenLogin(token).status == 200 {
				in.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, in.Load())
}

// A token ends with the device that has asked for it, with the password when that takes the devices along, and with the
// account; locked users get no session, and have lost nothing.
func TestLoginTokenEnds(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	alice := s.user("alice")
	phone := alice.again(nil)
	ofPhone, ofAlice := phone.loginToken(), alice.loginToken()
	s.post("/logout", phone.token, nil).ok()
	s.tokenLogin(ofPhone).fails(403, "M_FORBIDDEN")
	require.NoError(t, s.auth.SetLocked(ctx, alice.id, true))
	s.tokenLogin(ofAlice).fails(401, "M_USER_LOCKED")
	require.NoError(t, s.auth.SetLocked(ctx, alice.id, false))
	s.tokenLogin(ofAlice).ok()

	ofAlice = alice.loginToken()
	require.NoError(t, s.auth.SetPassword(ctx, alice.id, "pw-alice", true))
	s.tokenLogin(ofAlice).fails(403, "M_FORBIDDEN")
	alice = alice.again(nil)
	ofAlice = alice.loginToken()
	require.NoError(t, s.auth.Deactivate(ctx, alice.id, false))
	s.tokenLogin(ofAlice).fails(403, "M_FORBIDDEN")
}

// tickets is a host whose users show a token of its own.
type tickets struct {
	*host
	types []string
}

func (h tickets) LoginTypes() []string { return h.types }

func (h tickets) Authenticate(ctx context.Context, c auth.Credential) (auth.Identity, error) {
	if c.Type == auth.TypeToken && c.Token == "sso" {
		return auth.Identity{Localpart: "alice"}, nil
	}
	return h.host.Authenticate(ctx, c)
}

// A host's own m.login.token stays beside the tokens of this server, which need users who have passwords.
func TestLoginTokenOfTheHost(t *testing.T) {
	h := newHost()
	require.NoError(t, h.Register(context.Background(), "alice", "pw-alice"))
	s := newServer(t, func(c *auth.Config) { c.Authenticator = tickets{h, []string{auth.TypeToken, auth.TypePassword}} })
	require.Equal(t, []any{M{"type": "m.login.password"}, M{"type": "m.login.token", "get_login_token": true}}, s.get("/login", "").ok()["flows"])
	alice := s.as(s.tokenLogin("sso").ok(), "alice")
	s.tokenLogin(alice.loginToken()).ok()
	s.tokenLogin("mxl_x").fails(403, "M_FORBIDDEN")
	s.tokenLogin("other").fails(403, "M_FORBIDDEN")

	s = newServer(t, func(c *auth.Config) { c.Authenticator = tickets{h, []string{auth.TypeToken}} })
	require.Equal(t, []any{M{"type": "m.login.token"}}, s.get("/login", "").ok()["flows"])
	alice = s.as(s.tokenLogin("sso").ok(), "alice")
	require.Equal(t, M{"enabled": false}, s.get("/capabilities", alice.token).ok()["capabilities"].(M)["m.get_login_token"])
	s.call("POST", "/_matrix/client/v1/login/get_token", alice.token, M{}).fails(400, "M_UNKNOWN")

	s = newServer(t, func(c *auth.Config) {
		c.Hooks.CheckLogin = func(_ context.Context, user string) error { return errors.New("not today") }
	})
	alice = s.user("alice")
	s.tokenLogin(alice.loginToken()).fails(403, "M_FORBIDDEN")
}
