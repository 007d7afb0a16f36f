// Package authtest holds an auth.Authenticator to its contract.
package authtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
)

// Make returns an Authenticator that has these users, by localpart and password, and no others. It cleans up by
// t.Cleanup.
type Make func(t testing.TB, users map[string]string) auth.Authenticator

// Run checks an implementation of Authenticator and every further ability that it has:
//
//	func TestMyUsers(t *testing.T) { authtest.Run(t, newMyUsers) }
func Run(t *testing.T, make Make) {
	t.Run("Authenticate", func(t *testing.T) { authenticate(t, make) })
	t.Run("Lookup", func(t *testing.T) { lookup(t, make) })
	t.Run("AtOnce", func(t *testing.T) { atOnce(t, make) })
	t.Run("Context", func(t *testing.T) { endsWithContext(t, make) })
	t.Run("Registrar", func(t *testing.T) { registrar(t, make) })
	t.Run("PasswordSetter", func(t *testing.T) { passwordSetter(t, make) })
	t.Run("Deactivator", func(t *testing.T) { deactivator(t, make) })
	t.Run("FlowLister", func(t *testing.T) { flowLister(t, make) })
}

func two() map[string]string {
	return map[string]string{"alice": "correct horse", "bob": "schönes Paßwort"}
}

func password(localpart, password string) auth.Credential {
	return auth.Credential{Type: auth.TypePassword, Localpart: localpart, Password: password}
}

func authenticate(t *testing.T, make Make) {
	a, ctx := make(t, two()), t.Context()
	for name, pw := range two() {
		who, err := a.Authenticate(ctx, password(name, pw))
		require.NoError(t, err, "Authenticate(%s) with the right password", name)
		require.Equal(t, name, who.Localpart)
	}
	tests := []struct {
		name string
		cred auth.Credential
	}{
		{"wrong password", password("alice", "wrong")},
		{"password of another", password("alice", "schönes Paßwort")},
		{"password and more", password("alice", "correct horse ")},
		{"password in other case", password("alice", "Correct horse")},
		{"no password", password("alice", "")},
		{"endless password", password("alice", strings.Repeat("x", 1<<20))},
		{"password after NUL", password("alice", "correct horse\x00")},
		{"unknown user", password("carol", "correct horse")},
		{"name in other case", password("Alice", "correct horse")},
		{"name and space", password("alice ", "correct horse")},
		{"nobody", password("", "correct horse")},
		{"name with NUL", password("alice\x00", "correct horse")},
		{"name that is no UTF-8", password("alice\xff", "correct horse")},
		{"whole user id", password("@alice:example.org", "correct horse")},
		{"third-party identifier of nobody", auth.Credential{Type: auth.TypePassword, Medium: "email", Address: "x@example.org", Password: "correct horse"}},
		{"unknown type", auth.Credential{Type: "com.example.unknown", Localpart: "alice", Password: "correct horse", Token: "x"}},
		{"no type", auth.Credential{Localpart: "alice", Password: "correct horse"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			who, err := a.Authenticate(ctx, tt.cred)
			require.ErrorIs(t, err, auth.ErrRefused)
			require.Equal(t, auth.ErrRefused.Error(), err.Error(), "the error must not tell why")
			require.Zero(t, who)
		})
	}
}

func lookup(t *testing.T, make Make) {
	a, ctx := make(t, two()), t.Context()
	who, err := a.Lookup(ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, "alice", who.Localpart)
	for _, unknown := range []string{"carol", "Alice", "alic", "", "alice\x00", "alice\xff", "@alice:example.org"} {
		_, err := a.Lookup(ctx, unknown)
		require.ErrorIs(t, err, auth.ErrNoUser, "Lookup(%q)", unknown)
	}
}

func atOnce(t *testing.T, make Make) {
	a, ctx := make(t, two()), t.Context()
	var group sync.WaitGroup
	var right, refused atomic.Int32
	for range 8 {
		group.Go(func() {
			if who, err := a.Authenticate(ctx, password("alice", "correct horse")); err == nil && who.Localpart == "alice" {
				right.Add(1)
			}
		})
		group.Go(func() {
			if who, err := a.Authenticate(ctx, password("bob", "correct horse")); err != nil && who == (auth.Identity{}) {
				refused.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 8, right.Load(), "accepted")
	require.EqualValues(t, 8, refused.Load(), "refused")
}

func endsWithContext(t *testing.T, make Make) {
	a := make(t, two())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	// It may still answer; it may not hang, nor refuse whom it did not check.
	if who, err := a.Authenticate(ctx, password("alice", "correct horse")); err == nil {
		require.Equal(t, "alice", who.Localpart)
	} else {
		require.NotErrorIs(t, err, auth.ErrRefused, "a broken off check is a failure, not a refusal")
	}
}

func registrar(t *testing.T, make Make) {
	a, ctx := make(t, two()), t.Context()
	r, ok := a.(auth.Registrar)
	if !ok {
		return
	}
	require.NoError(t, r.Register(ctx, "carol", "pw-carol"))
	_, err := a.Authenticate(ctx, password("carol", "pw-carol"))
	require.NoError(t, err)
	_, err = a.Lookup(ctx, "carol")
	require.NoError(t, err)

	require.ErrorIs(t, r.Register(ctx, "alice", "mine now"), auth.ErrTaken)
	_, err = a.Authenticate(ctx, password("alice", "mine now"))
	require.ErrorIs(t, err, auth.ErrRefused)
	_, err = a.Authenticate(ctx, password("alice", "correct horse"))
	require.NoError(t, err)

	var won atomic.Int32
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if r.Register(ctx, "dave", fmt.Sprint("pw", i)) == nil {
				won.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 1, won.Load(), "of several registrations of one name one may succeed")
}

func passwordSetter(t *testing.T, make Make) {
	a, ctx := make(t, two()), t.Context()
	s, ok := a.(auth.PasswordSetter)
	if !ok {
		return
	}
	require.NoError(t, s.SetPassword(ctx, "alice", "battery staple"))
	_, err := a.Authenticate(ctx, password("alice", "correct horse"))
	require.ErrorIs(t, err, auth.ErrRefused, "the old password")
	_, err = a.Authenticate(ctx, password("alice", "battery staple"))
	require.NoError(t, err, "the new password")
	_, err = a.Authenticate(ctx, password("bob", "schönes Paßwort"))
	require.NoError(t, err, "the password of somebody else")
	require.ErrorIs(t, s.SetPassword(ctx, "carol", "x"), auth.ErrNoUser)
}

func deactivator(t *testing.T, make Make) {
	a, ctx := make(t, two()), t.Context()
	d, ok := a.(auth.Deactivator)
	if !ok {
		return
	}
	require.NoError(t, d.Deactivate(ctx, "alice"))
	_, err := a.Authenticate(ctx, password("alice", "correct horse"))
	require.ErrorIs(t, err, auth.ErrRefused)
	require.NoError(t, d.Deactivate(ctx, "alice"), "again")
	require.ErrorIs(t, d.Deactivate(ctx, "carol"), auth.ErrNoUser)
	_, err = a.Authenticate(ctx, password("bob", "schönes Paßwort"))
	require.NoError(t, err, "somebody else")
	if r, ok := a.(auth.Registrar); ok {
		require.ErrorIs(t, r.Register(ctx, "alice", "x"), auth.ErrTaken, "a name is never given out again")
	}
}

func flowLister(t *testing.T, make Make) {
	l, ok := make(t, two()).(auth.FlowLister)
	if !ok {
		return
	}
	seen := map[string]bool{}
	for _, login := range l.LoginTypes() {
		require.NotEmpty(t, login)
		require.False(t, seen[login], "%s is listed twice", login)
		seen[login] = true
	}
	require.NotEmpty(t, seen)
}
