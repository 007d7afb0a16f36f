package auth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/id"
)

// AC-01, C-08.
func TestChangePassword(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	phone := alice.again(M{"refresh_token": true})
	s.whoami(phone.token).ok()

	s.post("/account/password", alice.token, M{"new_password": "two"}).asks("")
	s.post("/account/password", alice.token, M{"new_password": "two", "auth": alice.proof("")}).ok()
	s.whoami(alice.token).ok()
	s.whoami(phone.token).fails(401, "M_UNKNOWN_TOKEN")
	s.post("/refresh", "", M{"refresh_token": phone.next}).fails(401, "M_UNKNOWN_TOKEN")
	s.get("/devices/"+phone.device, alice.token).fails(404, "M_NOT_FOUND")
	s.whoami(bob.token).ok()
	alice.login(nil).fails(403, "M_FORBIDDEN")
	alice.password = "two"
	phone = alice.again(nil)

	s.post("/account/password", alice.token, M{"new_password": "three", "logout_devices": false, "auth": alice.proof("")}).ok()
	s.whoami(phone.token).ok()
	alice.login(nil).fails(403, "M_FORBIDDEN")
	alice.password = "three"
	alice.login(nil).ok()

	s.post("/account/password", alice.token, M{}).fails(400, "M_MISSING_PARAM")
	s.post("/account/password", alice.token, M{"new_password": ""}).fails(400, "M_WEAK_PASSWORD")
	s.post("/account/password", alice.token, M{"new_password": 1}).fails(400, "M_BAD_JSON")
	s.post("/account/password", alice.token, M{"new_password": "x", "logout_devices": "no"}).fails(400, "M_BAD_JSON")
	s.post("/account/password", alice.token, M{"new_password": strings.Repeat("x", 513)}).fails(400, "M_INVALID_PARAM")

	t.Run("without a token all sessions end", func(t *testing.T) {
		s.post("/account/password", "", M{"new_password": "four", "auth": bob.proof("")}).ok()
		s.whoami(bob.token).fails(401, "M_UNKNOWN_TOKEN")
		s.whoami(alice.token).ok()
		bob.password = "four"
		bob.login(nil).ok()
	})
}

// rooms notes who leaves, and fails as often as it is told.
type rooms struct {
	left  []string
	fails atomic.Int32
}

func (r *rooms) LeaveAll(_ context.Context, user id.UserID, reason string) error {
	if r.fails.Add(-1) >= 0 {
		return errors.New("not now")
	}
	r.left = append(r.left, fmt.Sprintf("%s: %s", user, reason))
	return nil
}

// AC-03, AC-04, RE-11.
func TestDeactivate(t *testing.T) {
	r := &rooms{}
	s := newServer(t, func(c *auth.Config) { c.Rooms = r })
	alice := s.user("alice")
	phone := alice.again(M{"refresh_token": true})

	session := s.post("/account/deactivate", alice.token, M{"erase": true}).asks("")
	wrong := alice.proof(session)
	wrong["password"] = "wrong"
	s.post("/account/deactivate", alice.token, M{"auth": wrong}).asks("M_FORBIDDEN")
	s.post("/account/deactivate", alice.token, M{"erase": 1}).fails(400, "M_BAD_JSON")
	s.whoami(alice.token).ok()

	body := s.post("/account/deactivate", alice.token, M{"auth": alice.proof(session)}).ok()
	require.Equal(t, M{"id_server_unbind_result": "success"}, body)
	require.Equal(t, []string{"@alice:example.org: account deactivated"}, r.left)
	for _, u := range []*user{alice, phone} {
		s.whoami(u.token).fails(401, "M_UNKNOWN_TOKEN")
	}
	s.post("/refresh", "", M{"refresh_token": phone.next}).fails(401, "M_UNKNOWN_TOKEN")
	alice.login(nil).fails(403, "M_FORBIDDEN")
	s.post("/register", "", M{"auth": dummy, "username": "alice", "password": "x"}).fails(400, "M_USER_IN_USE")
	a, err := s.auth.Account(context.Background(), alice.id)
	require.NoError(t, err)
	require.True(t, a.Erased, "what the first request asked for")
	require.Empty(t, a.PasswordHash)
	require.Error(t, s.auth.SetPassword(context.Background(), alice.id, "back", false))
	require.Error(t, s.auth.SetAdmin(context.Background(), alice.id, true))

	t.Run("without a token", func(t *testing.T) {
		bob := s.user("bob")
		s.post("/account/deactivate", "", M{"auth": bob.proof("")}).ok()
		s.whoami(bob.token).fails(401, "M_UNKNOWN_TOKEN")
	})
}

// A deactivation that was broken off is finished, in the same process and after a restart.
func TestDeactivationIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rooms{}
		s := newServer(t, func(c *auth.Config) { c.Rooms = r })
		ctx := context.Background()
		alice, bob := s.user("alice"), s.user("bob")

		r.fails.Store(2)
		require.NoError(t, s.auth.Deactivate(ctx, alice.id, false))
		require.Empty(t, r.left)
		require.NoError(t, s.auth.Start(ctx)) // as after a restart
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"@alice:example.org: account deactivated"}, r.left)

		r.fails.Store(2)
		require.NoError(t, s.auth.Deactivate(ctx, bob.id, false))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Len(t, r.left, 2)
		time.Sleep(time.Hour)
		require.Len(t, r.left, 2, "nobody leaves twice")
		require.NoError(t, s.auth.Close(ctx))
		require.NoError(t, s.db.Close())
	})
}

func TestServiceSetPassword(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	alice := s.user("alice")
	require.NoError(t, s.auth.SetPassword(ctx, alice.id, "two", false))
	s.whoami(alice.token).ok()
	require.NoError(t, s.auth.SetPassword(ctx, alice.id, "three", true))
	s.whoami(alice.token).fails(401, "M_UNKNOWN_TOKEN")
	alice.password = "three"
	alice.login(nil).ok()
	require.Error(t, s.auth.SetPassword(ctx, "@nobody:example.org", "x", false))
	require.Error(t, s.auth.SetPassword(ctx, alice.id, strings.Repeat("x", 513), false))
}
