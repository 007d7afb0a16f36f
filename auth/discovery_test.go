package auth_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// SB-25, SB-26.
func TestVersions(t *testing.T) {
	s := newServer(t)
	for _, token := range []string{"", s.user("alice").token, guest(s).token} {
		body := s.call("GET", "/_matrix/client/versions", token, nil).ok()
		require.Contains(t, body["versions"], "r0.6.1")
		require.Contains(t, body["versions"], "v1.1")
		require.Contains(t, body["versions"], "v1.11")
		require.Contains(t, body["versions"], "v1.19")
		require.Equal(t, true, body["unstable_features"].(M)["org.matrix.msc2285.stable"])
		require.Equal(t, false, body["unstable_features"].(M)["io.element.e2ee_forced.private"])
	}
	s = newServer(t, func(c *auth.Config) {
		c.Discovery.Versions, c.Discovery.Unstable = []string{"v1.1"}, map[string]bool{"org.example.x": true, "org.matrix.msc2285.stable": false}
	})
	body := s.call("GET", "/_matrix/client/versions", "", nil).ok()
	require.Equal(t, []any{"v1.1"}, body["versions"])
	require.Equal(t, true, body["unstable_features"].(M)["org.example.x"])
	require.Equal(t, false, body["unstable_features"].(M)["org.matrix.msc2285.stable"])
}

// DI-01, DI-03, DI-06.
func TestWellKnown(t *testing.T) {
	names := []string{"client", "server", "support"}
	s := newServer(t)
	for _, name := range names {
		s.call("GET", "/.well-known/matrix/"+name, "", nil).fails(404, "M_NOT_FOUND")
	}
	s = newServer(t, func(c *auth.Config) {
		c.Discovery = auth.Discovery{
			BaseURL: "https://matrix.example.org/sub", IdentityServer: "https://id.example.org", Delegate: "matrix.example.org:443",
			WellKnown: map[string]any{"io.example.x": M{"a": 1}, "m.homeserver": "is ours"},
			Support:   auth.Support{Contacts: []auth.Contact{{Role: "m.role.admin", MatrixID: "@root:example.org"}}, Page: "https://example.org/help"},
		}
	})
	require.Equal(t, M{
		"m.homeserver": M{"base_url": "https://matrix.example.org/sub"}, "m.identity_server": M{"base_url": "https://id.example.org"},
		"io.example.x": M{"a": 1.0},
	}, s.call("GET", "/.well-known/matrix/client", "", nil).ok())
	require.Equal(t, M{"m.server": "matrix.example.org:443"}, s.call("GET", "/.well-known/matrix/server", "", nil).ok())
	require.Equal(t, M{
		"contacts": []any{M{"role": "m.role.admin", "matrix_id": "@root:example.org"}}, "support_page": "https://example.org/help",
	}, s.call("GET", "/.well-known/matrix/support", "", nil).ok())
}

// CA-01, CA-02.
func TestCapabilities(t *testing.T) {
	s := newServer(t, func(c *auth.Config) {
		c.Discovery.RoomVersion = "11"
		c.Discovery.Capabilities = map[string]any{"m.set_avatar_url": M{"enabled": false}, "org.example.x": 1}
	})
	alice := s.user("alice")
	got := s.get("/capabilities", alice.token).ok()["capabilities"].(M)
	require.Equal(t, M{"enabled": true}, got["m.change_password"])
	require.Equal(t, M{"enabled": true}, got["m.profile_fields"])
	require.Equal(t, M{"enabled": true}, got["m.set_displayname"])
	require.Equal(t, M{"enabled": false}, got["m.set_avatar_url"])
	require.Equal(t, M{"enabled": false}, got["m.3pid_changes"])
	require.Equal(t, M{"enabled": true}, got["m.get_login_token"])
	require.Equal(t, M{"enabled": false}, got["m.forget_forced_upon_leave"])
	require.Equal(t, 1.0, got["org.example.x"])
	rooms := got["m.room_versions"].(M)
	require.Equal(t, "11", rooms["default"])
	require.Len(t, rooms["available"], 12)
	require.Equal(t, "stable", rooms["available"].(M)["11"])
}

// CA-01, CA-03: what of a profile cannot be changed, and the older names for two of its fields.
func TestProfileFieldsCapability(t *testing.T) {
	tests := []struct {
		name            string
		fields          auth.ProfileFields
		want            M
		display, avatar bool // whether display names and avatars can be changed
	}{
		{"all", auth.ProfileFields{}, M{"enabled": true}, true, true},
		{"none", auth.ProfileFields{Fixed: true, Allowed: []string{"displayname"}}, M{"enabled": false}, false, false},
		{"some", auth.ProfileFields{Allowed: []string{"avatar_url", "m.tz"}}, M{"enabled": true, "allowed": []any{"avatar_url", "m.tz"}}, false, true},
		{"all but", auth.ProfileFields{Disallowed: []string{"avatar_url"}}, M{"enabled": true, "disallowed": []any{"avatar_url"}}, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, func(c *auth.Config) { c.ProfileFields = tt.fields })
			got := s.get("/capabilities", s.user("alice").token).ok()["capabilities"].(M)
			require.Equal(t, tt.want, got["m.profile_fields"])
			require.Equal(t, M{"enabled": tt.display}, got["m.set_displayname"])
			require.Equal(t, M{"enabled": tt.avatar}, got["m.set_avatar_url"])
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	defer db.Close()
	text := map[string]auth.PolicyText{"en": {Name: "P", URL: "https://example.org"}}
	bad := map[string]func(*auth.Config){
		"no server name":          func(c *auth.Config) { c.ServerName = "" },
		"no database":             func(c *auth.Config) { c.DB = nil },
		"base URL":                func(c *auth.Config) { c.Discovery.BaseURL = "matrix.example.org" },
		"administrator's contact": func(c *auth.Config) { c.AdminContact = "root" },
		"limit without a contact": func(c *auth.Config) { c.Registration.MaxUsers = 1 },
		"identity server":         func(c *auth.Config) { c.Discovery.IdentityServer = "ftp://x" },
		"room version":            func(c *auth.Config) { c.Discovery.RoomVersion = "99" },
		"contact without way":     func(c *auth.Config) { c.Discovery.Support.Contacts = []auth.Contact{{Role: "m.role.admin"}} },
		"contact without role":    func(c *auth.Config) { c.Discovery.Support.Contacts = []auth.Contact{{Email: "a@b"}} },
		"terms without version":   func(c *auth.Config) { c.Registration.Terms = map[string]auth.Policy{"p": {Texts: text}} },
		"terms without text":      func(c *auth.Config) { c.Registration.Terms = map[string]auth.Policy{"p": {Version: "1"}} },
		"terms with another URL": func(c *auth.Config) {
			c.Registration.Terms = map[string]auth.Policy{"p": {Version: "1", Texts: map[string]auth.PolicyText{"en": {Name: "P", URL: "javascript:x"}}}}
		},
	}
	for name, spoil := range bad {
		t.Run(name, func(t *testing.T) {
			cfg := auth.Config{ServerName: serverName, DB: db}
			_, err := auth.New(cfg)
			require.NoError(t, err)
			spoil(&cfg)
			_, err = auth.New(cfg)
			require.Error(t, err)
		})
	}
}
