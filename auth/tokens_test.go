package auth_test

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

func reservesKey(_ *storage.Tx, _ id.UserID, device id.DeviceID) (bool, error) {
	return device == "KEY", nil
}

// AU-03, C-01.
func TestTokenNeeded(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	ended := alice.again(nil)
	s.post("/logout", ended.token, nil).ok()
	endpoints := []struct{ method, path string }{
		{"GET", "/account/whoami"}, {"GET", "/capabilities"}, {"GET", "/devices"}, {"GET", "/devices/D"}, {"PUT", "/devices/D"},
		{"DELETE", "/devices/D"}, {"POST", "/delete_devices"}, {"POST", "/logout"}, {"POST", "/logout/all"},
	}
	for _, e := range endpoints {
		t.Run(e.method+e.path, func(t *testing.T) {
			s.call(e.method, client+e.path, "", M{}).fails(401, "M_MISSING_TOKEN")
			for _, token := range []string{"null", "mxa_", alice.token + "x", ended.token, alice.device, string(bytes.Repeat([]byte("x"), 4000))} {
				s.call(e.method, client+e.path, token, M{}).fails(401, "M_UNKNOWN_TOKEN")
			}
		})
	}
	for _, path := range []string{"/account/password", "/account/deactivate"} {
		s.post(path, ended.token, M{"new_password": "x"}).fails(401, "M_UNKNOWN_TOKEN")
	}
	s.get("/account/whoami?access_token="+alice.token, "").ok()
	s.call("GET", "/_matrix/client/r0/account/whoami", alice.token, nil).ok()
}

// AU-13.
func TestLogout(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	phone := alice.again(M{"refresh_token": true})
	s.whoami(phone.token).ok() // it is in memory now

	require.Equal(t, M{}, s.post("/logout", phone.token, nil).ok())
	s.whoami(phone.token).fails(401, "M_UNKNOWN_TOKEN")
	s.post("/refresh", "", M{"refresh_token": phone.next}).fails(401, "M_UNKNOWN_TOKEN")
	s.get("/devices/"+phone.device, alice.token).fails(404, "M_NOT_FOUND")
	require.NotContains(t, s.whoami(phone.token).body, "soft_logout")

	laptop := alice.again(nil)
	s.post("/logout/all", alice.token, M{}).ok()
	for _, u := range []*user{alice, laptop} {
		s.whoami(u.token).fails(401, "M_UNKNOWN_TOKEN")
	}
	s.whoami(bob.token).ok()
	require.Len(t, s.get("/devices", alice.again(nil).token).ok()["devices"], 1)
}

// AU-09 to AU-12: the old pair is good until the new one is used.
func TestRefresh(t *testing.T) {
	s := newServer(t)
	u := s.user("alice")
	require.Empty(t, u.next, "a refresh token that was not asked for")
	u = u.again(M{"refresh_token": true})
	refresh := func(token string) *answer { return s.post("/refresh", "", M{"refresh_token": token}) }

	second := refresh(u.next).ok()
	require.NotContains(t, second, "user_id")
	require.EqualValues(t, time.Hour.Milliseconds(), second["expires_in_ms"])
	s.whoami(u.token).ok() // the answer may be lost: the old one is still good

	third := refresh(u.next).ok() // asked again; nobody used the second
	s.whoami(second["access_token"].(string)).fails(401, "M_UNKNOWN_TOKEN")
	refresh(second["refresh_token"].(string)).fails(401, "M_UNKNOWN_TOKEN")

	token := third["access_token"].(string)
	require.Equal(t, u.device, s.whoami(token).ok()["device_id"])
	s.whoami(u.token).fails(401, "M_UNKNOWN_TOKEN")
	require.Equal(t, true, refresh(u.next).fails(401, "M_UNKNOWN_TOKEN")["soft_logout"])
	s.whoami(token).ok()

	t.Run("using the refresh token counts too", func(t *testing.T) {
		fourth := refresh(third["refresh_token"].(string)).ok()
		fifth := refresh(fourth["refresh_token"].(string)).ok()
		refresh(third["refresh_token"].(string)).fails(401, "M_UNKNOWN_TOKEN")
		s.whoami(token).fails(401, "M_UNKNOWN_TOKEN")
		s.whoami(fourth["access_token"].(string)).ok()
		s.whoami(fifth["access_token"].(string)).ok()
		s.whoami(fourth["access_token"].(string)).fails(401, "M_UNKNOWN_TOKEN")
	})
	t.Run("of no use", func(t *testing.T) {
		refresh("").fails(400, "M_MISSING_PARAM")
		s.post("/refresh", "", M{}).fails(400, "M_MISSING_PARAM")
		s.post("/refresh", "", M{"refresh_token": 1}).fails(400, "M_BAD_JSON")
		refresh("nonsense").fails(401, "M_UNKNOWN_TOKEN")
		refresh(token).fails(401, "M_UNKNOWN_TOKEN")
		s.whoami(third["refresh_token"].(string)).fails(401, "M_UNKNOWN_TOKEN")
	})
	t.Run("of a deleted device", func(t *testing.T) {
		phone := u.again(M{"refresh_token": true})
		s.post("/logout", phone.token, nil).ok()
		refresh(phone.next).fails(401, "M_UNKNOWN_TOKEN")
	})
}

// C-09: a race of many ends with one pair that is good.
func TestRefreshRace(t *testing.T) {
	s := newServer(t)
	u := s.user("alice").again(M{"refresh_token": true})
	var mu sync.Mutex
	var pairs []M
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			body := s.post("/refresh", "", M{"refresh_token": u.next}).ok()
			mu.Lock()
			defer mu.Unlock()
			pairs = append(pairs, body)
		})
	}
	group.Wait()
	good := 0
	for _, p := range pairs {
		if s.whoami(p["access_token"].(string)).status == 200 {
			good++
			s.post("/refresh", "", M{"refresh_token": p["refresh_token"]}).ok()
		}
	}
	require.Equal(t, 1, good)
	s.whoami(u.token).fails(401, "M_UNKNOWN_TOKEN")
}

// AU-04: an expired token says that the session goes on.
func TestExpiry(t *testing.T) {
	s := newServer(t, func(c *auth.Config) { c.Tokens.Session = 24 * time.Hour })
	alice := s.user("alice")
	phone := alice.again(M{"refresh_token": true})
	s.whoami(phone.token).ok()

	s.clock.advance(time.Hour)
	require.Equal(t, true, s.whoami(phone.token).fails(401, "M_UNKNOWN_TOKEN")["soft_logout"])
	next := s.post("/refresh", "", M{"refresh_token": phone.next}).ok()
	s.whoami(next["access_token"].(string)).ok()
	s.whoami(alice.token).ok()

	s.clock.advance(23 * time.Hour)
	require.Equal(t, true, s.whoami(alice.token).fails(401, "M_UNKNOWN_TOKEN")["soft_logout"])
	require.Equal(t, true, s.get("/devices", alice.token).fails(401, "M_UNKNOWN_TOKEN")["soft_logout"], "from memory")
	back := alice.again(M{"device_id": alice.device})
	s.whoami(back.token).ok()
}

func TestSoftLogout(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice").again(M{"refresh_token": true, "device_id": "D"})
	s.whoami(alice.token).ok()
	require.NoError(t, s.auth.SoftLogout(context.Background(), alice.id))
	require.Equal(t, true, s.whoami(alice.token).fails(401, "M_UNKNOWN_TOKEN")["soft_logout"])
	require.Equal(t, true, s.post("/refresh", "", M{"refresh_token": alice.next}).fails(401, "M_UNKNOWN_TOKEN")["soft_logout"])
	s.get("/devices/D", alice.again(M{"device_id": "D"}).token).ok()
}

// The memory of sessions must never outlive what it remembers, whatever happens at once.
func TestSessionsForgotten(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	for range 30 {
		u := alice.again(nil)
		var group sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			group.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						s.whoami(u.token)
					}
				}
			})
		}
		s.post("/logout", u.token, nil).ok()
		s.whoami(u.token).fails(401, "M_UNKNOWN_TOKEN")
		close(stop)
		group.Wait()
		s.whoami(u.token).fails(401, "M_UNKNOWN_TOKEN")
	}
}

// slowReads is an engine whose snapshots end when they may.
type slowReads struct {
	storage.Engine
	gate atomic.Pointer[gate] // nil: at once
}

type gate struct{ reached, open chan struct{} }

type slowConn struct {
	storage.Conn
	gate *gate
}

func (e *slowReads) Begin(ctx context.Context, readOnly bool) (storage.Conn, error) {
	conn, err := e.Engine.Begin(ctx, readOnly)
	if g := e.gate.Load(); g != nil && readOnly && err == nil {
		e.gate.Store(nil)
		return slowConn{conn, g}, nil
	}
	return conn, err
}

func (c slowConn) Rollback() error {
	err := c.Conn.Rollback()
	close(c.gate.reached)
	<-c.gate.open
	return err
}

// What was read before a change and comes after it must not be remembered.
func TestSessionReadBeforeLogout(t *testing.T) {
	engine := &slowReads{Engine: sqlite.Memory()}
	db, err := storage.Open(context.Background(), engine)
	require.NoError(t, err)
	defer db.Close()
	s := newServerOn(t, db)
	alice := s.user("alice")

	g := &gate{make(chan struct{}), make(chan struct{})}
	engine.gate.Store(g)
	read := make(chan int)
	go func() { read <- s.whoami(alice.token).status }()
	<-g.reached
	require.NoError(t, s.auth.LogoutAll(context.Background(), alice.id))
	close(g.open)
	require.Equal(t, 200, <-read) // it came before the logout
	s.whoami(alice.token).fails(401, "M_UNKNOWN_TOKEN")
}

// A login that was proven with the old password must not survive its change.
func TestLoginDuringPasswordChange(t *testing.T) {
	var s *server
	changed := false
	s = newServer(t, func(c *auth.Config) {
		c.Hooks.CheckLogin = func(ctx context.Context, u string) error { // after the password was compared
			if changed {
				return nil
			}
			changed = true
			return s.auth.SetPassword(ctx, id.UserID(u), "new", true)
		}
	})
	alice := s.user("alice")
	alice.login(nil).fails(403, "M_FORBIDDEN")
	alice.login(M{"password": "new"}).ok()
}

// AU-17: when and where a device was seen, at once for its owner, in storage a little later.
func TestLastSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	engine, err := sqlite.Open(path)
	require.NoError(t, err)
	db, err := storage.Open(context.Background(), engine)
	require.NoError(t, err)
	s := newServerOn(t, db)
	require.NoError(t, s.auth.Start(context.Background()))
	alice := s.user("alice")
	seen := func() M { return s.get("/devices/"+alice.device, alice.token).ok() }
	require.Equal(t, "192.0.2.7", seen()["last_seen_ip"])
	require.EqualValues(t, s.clock.now().UnixMilli(), seen()["last_seen_ts"])

	s.clock.advance(10 * time.Minute)
	_, err = s.auth.Session(context.Background(), alice.token, httpapi.Seen{IP: netip.MustParseAddr("2001:db8::1"), UserAgent: "other/2"})
	require.NoError(t, err)
	require.Equal(t, "2001:db8::1", seen()["last_seen_ip"])
	require.EqualValues(t, s.clock.now().UnixMilli(), seen()["last_seen_ts"])

	require.NoError(t, s.auth.Close(context.Background()))
	require.NoError(t, s.auth.Close(context.Background()), "twice")
	require.NoError(t, db.Read(context.Background(), func(tx *storage.Tx) error {
		d, err := tx.Device(alice.id, id.DeviceID(alice.device))
		require.Equal(t, "2001:db8::1", d.SeenIP)
		require.Equal(t, "other/2", d.SeenAgent)
		return err
	}))
	require.NoError(t, db.Close())

	t.Run("no secret is stored", func(t *testing.T) {
		files, err := filepath.Glob(path + "*")
		require.NoError(t, err)
		for _, f := range files {
			raw, err := os.ReadFile(f)
			require.NoError(t, err)
			for _, secret := range []string{alice.token, alice.password} {
				require.False(t, bytes.Contains(raw, []byte(secret)), "%s is in %s", secret, f)
			}
		}
	})
}

// Sessions, refresh tokens and their state outlive a restart.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open := func() *server {
		engine, err := sqlite.Open(path)
		require.NoError(t, err)
		db, err := storage.Open(context.Background(), engine)
		require.NoError(t, err)
		return newServerOn(t, db)
	}
	s := open()
	alice := s.user("alice").again(M{"refresh_token": true})
	next := s.post("/refresh", "", M{"refresh_token": alice.next}).ok()
	ended := alice.again(nil)
	s.post("/logout", ended.token, nil).ok()
	require.NoError(t, s.db.Close())

	s = open()
	s.whoami(alice.token).ok()
	s.whoami(next["access_token"].(string)).ok()
	s.whoami(alice.token).fails(401, "M_UNKNOWN_TOKEN")
	s.whoami(ended.token).fails(401, "M_UNKNOWN_TOKEN")
	require.NoError(t, s.db.Close())
}

func TestLoginOfNobody(t *testing.T) {
	s := newServer(t)
	_, err := s.auth.Login(context.Background(), auth.LoginRequest{User: "@nobody:example.org"})
	require.ErrorIs(t, err, mxerr.NotFound)
}
