package auth_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/auth/authtest"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

var seenNowhere = httpapi.Seen{}

func TestPasswords(t *testing.T) {
	authtest.Run(t, func(t testing.TB, users map[string]string) auth.Authenticator {
		db, err := storage.Open(context.Background(), sqlite.Memory())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		p := auth.NewPasswords(db, serverName, auth.Cheap())
		for name, password := range users {
			require.NoError(t, p.Register(context.Background(), name, password))
		}
		return p
	})
}

// host is the user database of an embedding program: all abilities, passwords in plain text.
type host struct {
	mu        sync.Mutex
	passwords map[string]string
	gone      map[string]bool
}

func newHost() *host { return &host{passwords: map[string]string{}, gone: map[string]bool{}} }

func (h *host) Authenticate(_ context.Context, c auth.Credential) (auth.Identity, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.Type == "com.example.ticket" && strings.HasPrefix(c.Token, "ticket-") {
		return auth.Identity{Localpart: strings.TrimPrefix(c.Token, "ticket-")}, nil
	}
	name := c.Localpart
	if c.Medium == "email" {
		name = strings.TrimSuffix(c.Address, "@example.com")
	}
	if pw, ok := h.passwords[name]; !ok || pw != c.Password || h.gone[name] || c.Type != auth.TypePassword {
		return auth.Identity{}, auth.ErrRefused
	}
	return auth.Identity{Localpart: name}, nil
}

func (h *host) Lookup(_ context.Context, localpart string) (auth.Identity, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.passwords[localpart]; !ok || h.gone[localpart] {
		return auth.Identity{}, auth.ErrNoUser
	}
	return auth.Identity{Localpart: localpart}, nil
}

func (h *host) Register(_ context.Context, localpart, password string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.passwords[localpart]; ok {
		return auth.ErrTaken
	}
	h.passwords[localpart] = password
	return nil
}

func (h *host) SetPassword(_ context.Context, localpart, password string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.passwords[localpart]; !ok {
		return auth.ErrNoUser
	}
	h.passwords[localpart] = password
	return nil
}

func (h *host) Deactivate(_ context.Context, localpart string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.passwords[localpart]; !ok {
		return auth.ErrNoUser
	}
	h.gone[localpart] = true
	return nil
}

func (h *host) LoginTypes() []string { return []string{auth.TypePassword, "com.example.ticket"} }

// plain is an Authenticator without any further ability.
type plain struct{ auth.Authenticator }

func TestHostSuite(t *testing.T) {
	authtest.Run(t, func(t testing.TB, users map[string]string) auth.Authenticator {
		h := newHost()
		for name, password := range users {
			require.NoError(t, h.Register(context.Background(), name, password))
		}
		return h
	})
}

// The host's users log in, by every type of login that the host knows, and get their accounts on the way.
func TestHostUsers(t *testing.T) {
	h := newHost()
	h.passwords["alice"] = "pw-alice"
	s := newServer(t, func(c *auth.Config) { c.Authenticator = h })
	ctx := context.Background()
	require.Equal(t, []any{M{"type": "m.login.password"}, M{"type": "com.example.ticket"}, M{"type": "m.login.token", "get_login_token": true}}, s.get("/login", "").ok()["flows"])

	alice := (&user{s: s, name: "alice", password: "pw-alice"}).again(nil)
	require.Equal(t, id.UserID("@alice:example.org"), alice.id)
	byTicket := s.post("/login", "", M{"type": "com.example.ticket", "token": "ticket-alice"}).ok()
	require.Equal(t, string(alice.id), byTicket["user_id"])
	byMail := s.post("/login", "", M{"type": "m.login.password", "password": "pw-alice",
		"identifier": M{"type": "m.id.thirdparty", "medium": "email", "address": "Alice@example.com"}}).ok()
	require.Equal(t, string(alice.id), byMail["user_id"])
	s.post("/login", "", M{"type": "com.example.ticket", "token": "forged"}).fails(403, "M_FORBIDDEN")

	h.passwords["carol"] = "x"
	s.post("/register", "", M{"auth": dummy, "username": "carol", "password": "y"}).fails(400, "M_USER_IN_USE")
	bob := s.user("bob")
	require.Equal(t, "pw-bob", h.passwords["bob"])

	s.post("/account/password", bob.token, M{"auth": bob.proof(""), "new_password": "pw2"}).ok()
	require.Equal(t, "pw2", h.passwords["bob"])
	bob.password = "pw2"
	s.post("/account/deactivate", bob.token, M{"auth": bob.proof("")}).ok()
	require.True(t, h.gone["bob"])

	// A host that goes on accepting somebody does not bring them back.
	h.gone["bob"] = false
	bob.login(nil).fails(403, "M_USER_DEACTIVATED")

	require.NoError(t, s.auth.Deactivate(ctx, "@carol:example.org", false), "who never was here")
	h.gone["carol"] = false
	s.post("/login", "", M{"type": "m.login.password", "user": "carol", "password": "x"}).fails(403, "M_USER_DEACTIVATED")

	s.post("/login", "", M{"type": "com.example.ticket", "token": "ticket-not a name"}).fails(500, "M_UNKNOWN")
}

// An absent ability answers M_FORBIDDEN and is not advertised.
func TestHostWithoutAbilities(t *testing.T) {
	h := newHost()
	h.passwords["alice"] = "pw-alice"
	s := newServer(t, func(c *auth.Config) { c.Authenticator = plain{h} })
	alice := (&user{s: s, name: "alice", password: "pw-alice"}).again(nil)
	s.post("/register", "", M{"auth": dummy, "username": "bob", "password": "x"}).fails(403, "M_FORBIDDEN")
	s.post("/account/password", alice.token, M{"auth": alice.proof(""), "new_password": "x"}).fails(403, "M_FORBIDDEN")
	require.Equal(t, M{"enabled": false}, s.get("/capabilities", alice.token).ok()["capabilities"].(M)["m.change_password"])
	require.Equal(t, []any{M{"type": "m.login.password"}, M{"type": "m.login.token", "get_login_token": true}}, s.get("/login", "").ok()["flows"])
	s.post("/account/deactivate", alice.token, M{"auth": alice.proof("")}).ok()
	alice.login(nil).fails(403, "M_USER_DEACTIVATED")
}

// AU-18: what is stored is a slow hash; accounts with other hashes get the present one when they log in.
func TestStoredPasswords(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	alice := s.user("alice")
	stored := func() string {
		a, err := s.auth.Account(ctx, alice.id)
		require.NoError(t, err)
		return a.PasswordHash
	}
	require.Regexp(t, `^\$argon2id\$v=19\$m=8,t=1,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$`, stored())
	set := func(hash string) {
		require.NoError(t, s.db.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
			a, err := tx.Account(alice.id)
			if err != nil {
				return err
			}
			a.PasswordHash = hash
			return tx.UpdateAccount(a)
		}))
	}
	old, err := bcrypt.GenerateFromPassword([]byte("pw-alice"), bcrypt.MinCost)
	require.NoError(t, err)
	// From the tests of the reference implementation, so that hashes that others made are read: 2 passes, 64 MiB.
	tool := "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

	for _, tt := range []struct{ name, hash, password string }{
		{"bcrypt", string(old), "pw-alice"},
		{"argon2id of another cost", tool, "password"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set(tt.hash)
			alice.login(M{"password": "wrong"}).fails(403, "M_FORBIDDEN")
			require.Equal(t, tt.hash, stored())
			alice.login(M{"password": tt.password}).ok()
			require.Contains(t, stored(), "$argon2id$v=19$m=8,t=1,p=1$")
			alice.login(M{"password": tt.password}).ok()
		})
	}
	for _, broken := range []string{"x", "$argon2id$", "$argon2id$v=19$m=99999999,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$"} {
		set(broken)
		alice.login(nil).fails(500, "M_UNKNOWN")
	}
}
