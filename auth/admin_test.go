package auth_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/id"
)

const adminV1 = "/_matrix/client/v1/admin/"

// withRoot makes @root an administrator.
func withRoot(c *auth.Config) { c.Admins = []id.UserID{"@root:" + id.UserID(serverName)} }

// LK-04, LK-07: administrators lock and suspend; what they may not do is refused in the order of the specification, so
// that nobody else learns who has an account here.
func TestAdminModeration(t *testing.T) {
	s := newServer(t, withRoot)
	ctx := context.Background()
	root, alice, other := s.user("root"), s.user("alice"), s.user("other")
	s.user("gone")
	require.NoError(t, s.auth.Deactivate(ctx, "@gone:example.org", false))
	require.NoError(t, s.auth.SetAdmin(ctx, other.id, true))

	for verb, key := range map[string]string{"lock": "locked", "suspend": "suspended"} {
		path := adminV1 + verb + "/"
		aboutAlice := path + string(alice.id)
		require.Equal(t, M{key: false}, s.call("GET", aboutAlice, root.token, nil).ok())
		require.Equal(t, M{key: true}, s.call("PUT", aboutAlice, root.token, M{key: true}).ok())
		require.Equal(t, M{key: true}, s.call("GET", aboutAlice, root.token, nil).ok())
		require.Equal(t, M{key: true}, s.call("GET", aboutAlice, other.token, nil).ok(), "whoever made them an administrator")
		require.Equal(t, M{key: false}, s.call("PUT", aboutAlice, root.token, M{key: false}).ok())
		require.Equal(t, M{key: false}, s.call("GET", aboutAlice, root.token, nil).ok())

		refused := []struct {
			name, as, about string
			status          int
			code            string
		}{
			{"no administrator", alice.token, "@other:example.org", 403, "M_FORBIDDEN"},
			{"no administrator, about themselves", alice.token, "@alice:example.org", 403, "M_FORBIDDEN"},
			{"no administrator, about nobody", alice.token, "@nobody:example.org", 403, "M_FORBIDDEN"},
			{"no administrator, about somebody elsewhere", alice.token, "@x:elsewhere.org", 403, "M_FORBIDDEN"},
			{"no administrator, about what is no user", alice.token, "alice", 403, "M_FORBIDDEN"},
			{"another administrator", root.token, "@other:example.org", 403, "M_FORBIDDEN"},
			{"an administrator of the configuration", other.token, "@root:example.org", 403, "M_FORBIDDEN"},
			{"elsewhere", root.token, "@x:elsewhere.org", 400, "M_INVALID_PARAM"},
			{"no user id", root.token, "alice", 400, "M_INVALID_PARAM"},
			{"nobody", root.token, "@nobody:example.org", 404, "M_NOT_FOUND"},
			{"deactivated", root.token, "@gone:example.org", 404, "M_NOT_FOUND"},
			{"without a token", "", "@alice:example.org", 401, "M_MISSING_TOKEN"},
		}
		for _, tt := range refused {
			s.call("GET", path+tt.about, tt.as, nil).fails(tt.status, tt.code)
			s.call("PUT", path+tt.about, tt.as, M{key: true}).fails(tt.status, tt.code)
		}
		s.call("PUT", path+string(root.id), root.token, M{key: true}).fails(403, "M_FORBIDDEN")
		require.Equal(t, M{key: false}, s.call("GET", path+string(root.id), root.token, nil).ok(), "their own is asked for")
		s.call("PUT", aboutAlice, root.token, M{}).fails(400, "M_MISSING_PARAM")
		s.call("PUT", aboutAlice, root.token, M{key: "yes"}).fails(400, "M_BAD_JSON")
		s.call("PUT", aboutAlice, root.token, "{").fails(400, "M_NOT_JSON")
		s.call("PUT", aboutAlice, alice.token, "{").fails(403, "M_FORBIDDEN")
	}
}

// LK-01: a lock holds at once, and ends with nothing lost.
func TestAdminLockHoldsAtOnce(t *testing.T) {
	s := newServer(t, withRoot)
	root, alice := s.user("root"), s.user("alice")
	s.whoami(alice.token).ok()
	s.call("PUT", adminV1+"lock/"+string(alice.id), root.token, M{"locked": true}).ok()
	require.Equal(t, true, s.whoami(alice.token).fails(401, "M_USER_LOCKED")["soft_logout"])
	s.call("PUT", adminV1+"lock/"+string(alice.id), root.token, M{"locked": false}).ok()
	s.whoami(alice.token).ok()
}

// LK-06.
func TestWhois(t *testing.T) {
	s := newServer(t, withRoot)
	root, alice, bob := s.user("root"), s.user("alice"), s.user("bob")
	laptop := alice.again(nil)
	whois := func(as *user, about string) *answer { return s.get("/admin/whois/"+about, as.token) }
	for _, as := range []*user{alice, root} {
		body := whois(as, string(alice.id)).ok()
		require.Equal(t, string(alice.id), body["user_id"])
		devices := body["devices"].(M)
		require.Len(t, devices, 2)
		for _, device := range []string{alice.device, laptop.device} {
			sessions := devices[device].(M)["sessions"].([]any)
			require.Len(t, sessions, 1)
			require.Equal(t, []any{M{"ip": "192.0.2.7", "user_agent": "test/1", "last_seen": 1_700_000_000_000.0}}, sessions[0].(M)["connections"])
		}
	}
	whois(bob, string(alice.id)).fails(403, "M_FORBIDDEN")
	whois(bob, "@nobody:example.org").fails(403, "M_FORBIDDEN")
	whois(root, "@nobody:example.org").fails(404, "M_NOT_FOUND")
	whois(root, "@x:elsewhere.org").fails(404, "M_NOT_FOUND")
	whois(guest(s), string(alice.id)).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
}

// LK-05, CA-01: who may moderate is told so, and nobody else.
func TestModerationCapability(t *testing.T) {
	s := newServer(t, withRoot)
	root, alice := s.user("root"), s.user("alice")
	require.NotContains(t, s.get("/capabilities", alice.token).ok()["capabilities"], "m.account_moderation")
	got := s.get("/capabilities", root.token).ok()["capabilities"].(M)
	require.Equal(t, M{"lock": true, "suspend": true}, got["m.account_moderation"])
}

// SB-10: who would be one user too many is told whom to turn to; nobody who has an account notices.
func TestMaxUsers(t *testing.T) {
	s := newServer(t, func(c *auth.Config) {
		c.Registration.MaxUsers, c.AdminContact = 3, "mailto:root@example.org"
	})
	alice := s.user("alice")
	s.user("bob")
	g := guest(s)
	full := func(a *answer) {
		require.Equal(t, "mailto:root@example.org", a.fails(403, "M_RESOURCE_LIMIT_EXCEEDED")["admin_contact"])
	}
	full(s.post("/register", "", M{"auth": M{"type": "m.login.dummy"}, "username": "carol", "password": "x"}))
	full(s.post("/register", "", M{"username": "carol", "password": "x"}))
	full(s.post("/register?kind=guest", "", M{}))
	s.whoami(alice.token).ok()
	alice.login(nil).ok()
	s.post("/register", "", M{
		"auth": M{"type": "m.login.dummy"}, "username": g.name, "password": "x", "guest_access_token": g.token,
	}).ok() // the guest is counted already
	_, err := s.auth.CreateUser(context.Background(), auth.NewUser{Localpart: "staff"})
	require.NoError(t, err, "the host makes users as it likes")
	require.NoError(t, s.auth.Deactivate(context.Background(), alice.id, false))
	full(s.post("/register?kind=guest", "", M{}))
	require.NoError(t, s.auth.Deactivate(context.Background(), "@bob:example.org", false))
	s.user("carol")
}
