package auth_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

func TestLogin(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	require.Contains(t, s.get("/login", "").ok()["flows"], M{"type": "m.login.password"})

	tests := []struct {
		name string
		body M
	}{
		{"localpart", M{"identifier": M{"type": "m.id.user", "user": "alice"}}},
		{"whole id", M{"identifier": M{"type": "m.id.user", "user": "@alice:example.org"}}},
		{"capitals", M{"identifier": M{"type": "m.id.user", "user": "ALICE"}}},
		{"whole id in capitals", M{"identifier": M{"type": "m.id.user", "user": "@ALICE:example.org"}}},
		{"deprecated user", M{"user": "alice"}},
		{"deprecated user, whole id", M{"user": "@alice:example.org"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.body["type"], tt.body["password"] = "m.login.password", "pw-alice"
			body := s.post("/login", "", tt.body).ok()
			require.Equal(t, "@alice:example.org", body["user_id"])
			require.NotEmpty(t, body["device_id"])
			require.Equal(t, "@alice:example.org", s.whoami(body["access_token"].(string)).ok()["user_id"])
		})
	}
	require.NotEqual(t, alice.again(nil).device, alice.again(nil).device)
}

// LO-02, LO-03, LO-06, C-10, C-11: who is not proven learns nothing.
func TestLoginRefuses(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	s.user("gone")
	require.NoError(t, s.auth.Deactivate(context.Background(), "@gone:example.org", false))
	g := guest(s)
	by := func(identifier M) M {
		return M{"type": "m.login.password", "identifier": identifier, "password": "pw-alice"}
	}
	tests := []struct {
		name   string
		body   any
		status int
		code   string
	}{
		{"wrong password", M{"type": "m.login.password", "user": "alice", "password": "wrong"}, 403, "M_FORBIDDEN"},
		{"empty password", M{"type": "m.login.password", "user": "alice", "password": ""}, 403, "M_FORBIDDEN"},
		{"endless password", M{"type": "m.login.password", "user": "alice", "password": strings.Repeat("x", 60000)}, 403, "M_FORBIDDEN"},
		{"unknown user", by(M{"type": "m.id.user", "user": "nobody"}), 403, "M_FORBIDDEN"},
		{"deactivated", M{"type": "m.login.password", "user": "gone", "password": "pw-gone"}, 403, "M_FORBIDDEN"},
		{"guest", M{"type": "m.login.password", "user": g.name, "password": ""}, 403, "M_FORBIDDEN"},
		{"other server", by(M{"type": "m.id.user", "user": "@alice:elsewhere.org"}), 403, "M_FORBIDDEN"},
		{"server with port", by(M{"type": "m.id.user", "user": "@alice:example.org:8448"}), 403, "M_FORBIDDEN"},
		{"space behind", by(M{"type": "m.id.user", "user": "@alice:example.org "}), 403, "M_FORBIDDEN"},
		{"localpart with server", by(M{"type": "m.id.user", "user": "alice:example.org"}), 403, "M_FORBIDDEN"},
		{"NUL", by(M{"type": "m.id.user", "user": "alice\x00"}), 403, "M_FORBIDDEN"},
		{"long", by(M{"type": "m.id.user", "user": strings.Repeat("x", 300)}), 403, "M_FORBIDDEN"},
		{"sign alone", by(M{"type": "m.id.user", "user": "@"}), 403, "M_FORBIDDEN"},
		{"unknown e-mail", by(M{"type": "m.id.thirdparty", "medium": "email", "address": "alice@example.org"}), 403, "M_FORBIDDEN"},
		{"deprecated e-mail", M{"type": "m.login.password", "medium": "email", "address": "a@b", "password": "x"}, 403, "M_FORBIDDEN"},
		{"unknown phone", by(M{"type": "m.id.phone", "country": "GB", "phone": "07700900001"}), 403, "M_FORBIDDEN"},
		{"unknown identifier", by(M{"type": "m.id.dna"}), 400, "M_UNKNOWN"},
		{"no user", by(M{"type": "m.id.user"}), 400, "M_MISSING_PARAM"},
		{"no password", M{"type": "m.login.password", "user": "alice"}, 400, "M_MISSING_PARAM"},
		{"no type", M{"user": "alice", "password": "pw-alice"}, 400, "M_MISSING_PARAM"},
		{"unknown type", M{"type": "m.login.magic", "user": "alice", "password": "pw-alice"}, 400, "M_UNKNOWN"},
		{"application service", M{"type": "m.login.application_service", "user": "alice"}, 400, "M_UNKNOWN"},
		{"password of another type", M{"type": "m.login.password", "user": "alice", "password": 1}, 400, "M_BAD_JSON"},
		{"identifier of another type", M{"type": "m.login.password", "identifier": "alice"}, 400, "M_BAD_JSON"},
		{"array", `[]`, 400, "M_BAD_JSON"},
		{"null", `null`, 400, "M_BAD_JSON"},
		{"device with NUL", M{"type": "m.login.password", "user": "alice", "password": "pw-alice", "device_id": "\x00"}, 400, "M_INVALID_PARAM"},
		{"long device name", M{"type": "m.login.password", "user": "alice", "password": "pw-alice", "initial_device_display_name": strings.Repeat("x", 256)}, 400, "M_INVALID_PARAM"},
	}
	wrong := s.post("/login", "", tests[0].body).body
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := s.post("/login", "", tt.body).fails(tt.status, tt.code)
			if tt.status == 403 {
				require.Equal(t, wrong, body, "it tells why")
			}
		})
	}
	require.Len(t, s.get("/devices", alice.token).ok()["devices"], 1, "a refused login left a device")
}

// Unknown users take as long as known ones with a wrong password.
func TestLoginTiming(t *testing.T) {
	s := newServer(t, func(c *auth.Config) { c.PasswordCost = auth.Cost{MemoryKiB: 8 << 10, Passes: 2, Threads: 1} })
	s.user("alice")
	try := func(name, password string) time.Duration {
		start := time.Now()
		s.post("/login", "", M{"type": "m.login.password", "user": name, "password": password}).fails(403, "M_FORBIDDEN")
		return time.Since(start)
	}
	// The best of several, in turns: other work on the machine slows all of them. Without a password to compare, an
	// answer would come hundreds of times sooner.
	const factor = 4
	for name, password := range map[string]string{"nobody": "wrong", "@a:elsewhere.org": "wrong", "alice": strings.Repeat("x", 600)} {
		known, d := time.Hour, time.Hour
		for range 7 {
			known, d = min(known, try("alice", "wrong")), min(d, try(name, password))
		}
		require.Less(t, d, factor*known, "%s takes longer", name)
		require.Less(t, known, factor*d, "%s takes less", name)
	}
}

// AU-06, AU-07, AU-15: a device that is named is taken over, with what it is, but without its tokens.
func TestLoginTakesDeviceOver(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	first := alice.again(M{"device_id": "PHONE", "initial_device_display_name": "old phone", "refresh_token": true})
	second := alice.again(M{"device_id": "PHONE", "initial_device_display_name": "new phone"})

	require.Equal(t, "PHONE", second.device)
	s.whoami(first.token).fails(401, "M_UNKNOWN_TOKEN")
	s.post("/refresh", "", M{"refresh_token": first.next}).fails(401, "M_UNKNOWN_TOKEN")
	require.Equal(t, "old phone", s.get("/devices/PHONE", second.token).ok()["display_name"])
	s.whoami(alice.token).ok()

	// The same name at another user is another device.
	s.whoami(bob.again(M{"device_id": "PHONE"}).token).ok()
	s.whoami(second.token).ok()
}

// AU-08, DM-05.
func TestDeviceIDReserved(t *testing.T) {
	s := newServer(t, func(c *auth.Config) { c.Dependants = []auth.Dependant{{}, {Reserved: reservesKey}} })
	alice := s.user("alice")
	alice.login(M{"device_id": "KEY"}).fails(403, "M_FORBIDDEN")
	s.post("/register", "", M{"auth": dummy, "username": "bob", "password": "x", "device_id": "KEY"}).fails(403, "M_FORBIDDEN")
	_, err := s.auth.Account(context.Background(), "@bob:example.org")
	require.ErrorIs(t, err, mxerr.NotFound, "the account was made all the same")
}

func TestCheckLogin(t *testing.T) {
	s := newServer(t, func(c *auth.Config) {
		c.Hooks.CheckLogin = func(context.Context, string) error { return errors.New("not at night") }
	})
	alice := s.user("alice")
	require.Equal(t, "not at night", alice.login(nil).fails(403, "M_FORBIDDEN")["error"])
	alice.login(M{"password": "wrong"}).fails(403, "M_FORBIDDEN")
}

// LO-10, LK-01, LK-02.
func TestLockedAndSuspended(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	alice := s.user("alice")
	phone := alice.again(M{"refresh_token": true})
	session, err := s.auth.Session(ctx, alice.token, seenNowhere)
	require.NoError(t, err)
	require.False(t, session.Suspended)

	require.NoError(t, s.auth.SetLocked(ctx, alice.id, true))
	locked := func(a *answer) { require.Equal(t, true, a.fails(401, "M_USER_LOCKED")["soft_logout"]) }
	locked(s.whoami(alice.token))
	locked(s.get("/devices", alice.token))
	locked(s.post("/account/password", alice.token, M{"auth": alice.proof(""), "new_password": "x"}))
	locked(alice.login(nil))
	locked(s.post("/refresh", "", M{"refresh_token": phone.next}))
	locked(s.post("/account/password", "", M{"auth": alice.proof(""), "new_password": "x"}))
	locked(s.post("/account/deactivate", "", M{"auth": alice.proof("")}))
	alice.login(M{"password": "wrong"}).fails(403, "M_FORBIDDEN")
	_, err = s.auth.Login(ctx, auth.LoginRequest{User: alice.id})
	require.ErrorIs(t, err, mxerr.UserLocked)

	require.NoError(t, s.auth.SetLocked(ctx, alice.id, false))
	s.whoami(alice.token).ok() // no token was lost
	require.NoError(t, s.auth.SetLocked(ctx, alice.id, true))
	s.post("/logout", alice.token, nil).ok()
	s.post("/logout/all", phone.token, nil).ok()
	require.NoError(t, s.auth.SetLocked(ctx, alice.id, false))
	s.whoami(phone.token).fails(401, "M_UNKNOWN_TOKEN")

	require.NoError(t, s.auth.SetSuspended(ctx, alice.id, true))
	alice = alice.again(nil)
	session, err = s.auth.Session(ctx, alice.token, seenNowhere)
	require.NoError(t, err)
	require.True(t, session.Suspended)
	require.NoError(t, s.auth.SetSuspended(ctx, alice.id, false))
	session, err = s.auth.Session(ctx, alice.token, seenNowhere)
	require.NoError(t, err)
	require.False(t, session.Suspended)

	require.ErrorIs(t, s.auth.SetLocked(ctx, "@nobody:example.org", true), mxerr.NotFound)
}

func TestAdmins(t *testing.T) {
	s := newServer(t, func(c *auth.Config) { c.Admins = []id.UserID{"@root:example.org"} })
	ctx := context.Background()
	root, alice := s.user("root"), s.user("alice")
	admin := func(u *user) bool {
		session, err := s.auth.Session(ctx, u.token, seenNowhere)
		require.NoError(t, err)
		return session.Admin
	}
	require.True(t, admin(root))
	require.False(t, admin(alice))
	require.NoError(t, s.auth.SetAdmin(ctx, alice.id, true))
	require.True(t, admin(alice))
	require.NoError(t, s.auth.SetAdmin(ctx, alice.id, false))
	require.False(t, admin(alice))
}
