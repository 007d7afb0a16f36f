package auth_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

const openIDOf = "/user/@alice:example.org/openid/request_token"

// XX-01: what a token looks like, who gets one, and that it opens nothing else.
func TestOpenIDToken(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	got := s.post(openIDOf, alice.token, M{}).ok()
	token := got["access_token"].(string)
	require.Equal(t, M{"access_token": token, "token_type": "Bearer", "matrix_server_name": "example.org", "expires_in": 3600.0}, got)
	user, err := s.auth.OpenIDUser(context.Background(), token)
	require.NoError(t, err)
	require.EqualValues(t, "@alice:example.org", user)

	s.post(openIDOf, bob.token, M{}).fails(403, "M_FORBIDDEN")
	s.post(openIDOf, "", M{}).fails(401, "M_MISSING_TOKEN")
	s.whoami(token).fails(401, "M_UNKNOWN_TOKEN")
	for _, other := range []string{alice.token, "", "mxo_", token + "x"} {
		_, err = s.auth.OpenIDUser(context.Background(), other)
		require.ErrorIs(t, err, mxerr.UnknownToken, "OpenIDUser(%q)", other)
	}
}

// Tokens end after an hour, with the account, and when there are too many; those that have ended are not kept.
func TestOpenIDTokensEnd(t *testing.T) {
	s := newServer(t)
	s.user("alice")
	ctx := context.Background()
	lives := func(token string) bool {
		_, err := s.auth.OpenIDUser(ctx, token)
		return err == nil
	}
	newToken := func() string {
		token, err := s.auth.NewOpenIDToken(ctx, "@alice:example.org")
		require.NoError(t, err)
		s.clock.advance(time.Second)
		return token
	}
	first, second := newToken(), newToken()
	for range 99 {
		newToken()
	}
	require.False(t, lives(first), "the hundred-and-first ends the oldest")
	require.True(t, lives(second))
	s.clock.advance(time.Hour - 100*time.Second)
	require.False(t, lives(second), "an hour has passed")
	last := newToken()
	require.True(t, lives(last))
	s.clock.advance(time.Hour)
	last = newToken()
	require.Equal(t, 1, openIDRows(t, s.db), "expired ones are forgotten")
	require.NoError(t, s.auth.Deactivate(ctx, "@alice:example.org", false))
	require.False(t, lives(last))
}

// A locked user is told of to nobody until the lock is gone.
func TestOpenIDTokenOfLockedUser(t *testing.T) {
	s := newServer(t)
	token := s.post(openIDOf, s.user("alice").token, M{}).ok()["access_token"].(string)
	require.NoError(t, s.auth.SetLocked(context.Background(), "@alice:example.org", true))
	_, err := s.auth.OpenIDUser(context.Background(), token)
	require.ErrorIs(t, err, mxerr.UnknownToken)
	require.NoError(t, s.auth.SetLocked(context.Background(), "@alice:example.org", false))
	_, err = s.auth.OpenIDUser(context.Background(), token)
	require.NoError(t, err)
}

// openIDRows counts the stored tokens.
func openIDRows(t *testing.T, db *storage.DB) (n int) {
	t.Helper()
	require.NoError(t, db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		n, err = tx.CountOpenIDTokens()
		return err
	}))
	return n
}
