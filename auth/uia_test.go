package auth_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (s *server) deleteDevice(token, device string, body any) *answer {
	s.t.Helper()
	return s.call("DELETE", client+"/devices/"+device, token, body)
}

// UI-01, UI-03, UI-10.
func TestProofByPassword(t *testing.T) {
	s := newServer(t)
	alice, eve := s.user("alice"), s.user("eve")
	phone := alice.again(M{"device_id": "PHONE"})

	for name, body := range map[string]any{"no body": nil, "empty body": M{}, "null": M{"auth": nil}} {
		t.Run(name, func(t *testing.T) {
			a := s.deleteDevice(alice.token, "PHONE", body)
			a.asks("")
			require.Equal(t, []any{M{"stages": []any{"m.login.password"}}}, a.body["flows"])
			require.NotContains(t, a.body, "completed")
		})
	}
	session := s.deleteDevice(alice.token, "PHONE", nil).asks("")

	wrong := alice.proof(session)
	wrong["password"] = "wrong"
	a := s.deleteDevice(alice.token, "PHONE", M{"auth": wrong})
	require.Equal(t, session, a.asks("M_FORBIDDEN"))
	require.Equal(t, []any{}, a.body["completed"])

	s.deleteDevice(alice.token, "PHONE", M{"auth": eve.proof(session)}).fails(403, "M_FORBIDDEN")
	s.deleteDevice(alice.token, "PHONE", M{"auth": eve.proof("")}).fails(403, "M_FORBIDDEN")
	guess := eve.proof(session)
	guess["password"] = "wrong" // whether somebody else's password is right is not told
	s.deleteDevice(alice.token, "PHONE", M{"auth": guess}).fails(403, "M_FORBIDDEN")
	s.deleteDevice(alice.token, "PHONE", M{"auth": M{"type": "m.login.dummy", "session": session}}).asks("M_FORBIDDEN")
	s.deleteDevice(alice.token, "PHONE", M{"auth": M{"type": "m.login.password", "session": session}}).fails(400, "M_MISSING_PARAM")
	s.deleteDevice(alice.token, "PHONE", M{"auth": M{"type": "m.login.password", "password": 1, "user": "alice"}}).fails(400, "M_BAD_JSON")
	s.deleteDevice(alice.token, "PHONE", M{"auth": M{"type": "m.login.password", "password": "x",
		"identifier": M{"type": "m.id.thirdparty", "medium": "email", "address": "alice@example.org"}}}).asks("M_FORBIDDEN")
	s.whoami(phone.token).ok()

	require.Equal(t, M{}, s.deleteDevice(alice.token, "PHONE", M{"auth": alice.proof(session)}).ok())
	s.whoami(phone.token).fails(401, "M_UNKNOWN_TOKEN")

	t.Run("in one request, by the deprecated key", func(t *testing.T) {
		alice.again(M{"device_id": "PHONE"})
		s.deleteDevice(alice.token, "PHONE", M{"auth": M{"type": "m.login.password", "user": "alice", "password": "pw-alice"}}).ok()
		s.get("/devices/PHONE", alice.token).fails(404, "M_NOT_FOUND")
	})
}

// UI-08, UI-09, C-04: a session is good for the request that began it, once.
func TestProofIsBound(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	alice.again(M{"device_id": "D1"})
	alice.again(M{"device_id": "D2"})
	bob.again(M{"device_id": "D1"})
	begin := func() string { return s.deleteDevice(alice.token, "D1", nil).asks("") }

	t.Run("other path", func(t *testing.T) {
		s.deleteDevice(alice.token, "D2", M{"auth": alice.proof(begin())}).fails(403, "M_FORBIDDEN")
	})
	t.Run("other endpoint", func(t *testing.T) {
		s.post("/account/password", alice.token, M{"auth": alice.proof(begin()), "new_password": "x"}).fails(403, "M_FORBIDDEN")
		s.post("/account/deactivate", alice.token, M{"auth": alice.proof(begin())}).fails(403, "M_FORBIDDEN")
		s.post("/register", "", M{"auth": M{"type": "m.login.dummy", "session": begin()}, "username": "x", "password": "x"}).fails(403, "M_FORBIDDEN")
	})
	t.Run("other user", func(t *testing.T) {
		s.deleteDevice(bob.token, "D1", M{"auth": bob.proof(begin())}).fails(403, "M_FORBIDDEN")
		s.deleteDevice(bob.token, "D1", M{"auth": alice.proof(begin())}).fails(403, "M_FORBIDDEN")
	})
	t.Run("no user", func(t *testing.T) {
		session := s.post("/account/password", alice.token, M{"new_password": "x"}).asks("")
		s.post("/account/password", "", M{"new_password": "x", "auth": alice.proof(session)}).fails(403, "M_FORBIDDEN")
	})
	t.Run("other body", func(t *testing.T) {
		session := s.post("/delete_devices", alice.token, M{"devices": []string{"D1"}}).asks("")
		s.post("/delete_devices", alice.token, M{"devices": []string{"D2"}, "auth": alice.proof(session)}).fails(403, "M_FORBIDDEN")
		s.post("/delete_devices", alice.token, M{"devices": []string{"D1"}, "more": 1, "auth": alice.proof(session)}).fails(403, "M_FORBIDDEN")
	})
	t.Run("second time", func(t *testing.T) {
		session := begin()
		s.deleteDevice(alice.token, "D1", M{"auth": alice.proof(session)}).ok()
		alice.again(M{"device_id": "D1"})
		fresh := s.deleteDevice(alice.token, "D1", M{"auth": alice.proof(session)}).asks("M_FORBIDDEN")
		require.NotEqual(t, session, fresh)
		s.deleteDevice(alice.token, "D1", M{"auth": M{"session": session}}).asks("M_FORBIDDEN")
	})
	t.Run("unknown", func(t *testing.T) {
		fresh := s.deleteDevice(alice.token, "D1", M{"auth": alice.proof("made-up")}).asks("M_FORBIDDEN")
		require.NotEqual(t, "made-up", fresh)
	})
	t.Run("expired", func(t *testing.T) {
		session := begin()
		s.clock.advance(31 * time.Minute)
		s.deleteDevice(alice.token, "D1", M{"auth": alice.proof(session)}).asks("M_FORBIDDEN")
	})
	for _, d := range []string{"D1", "D2"} {
		s.get("/devices/"+d, alice.token).ok()
	}
	s.get("/devices/D1", bob.token).ok()
}

// Of many requests with one session one acts.
func TestProofIsSpentOnce(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	session := s.post("/account/password", alice.token, M{"new_password": "pw-alice"}).asks("")
	var won atomic.Int32
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			a := s.post("/account/password", alice.token, M{"new_password": "pw-alice", "auth": alice.proof(session)})
			if a.status == 200 {
				won.Add(1)
			} else {
				a.asks("M_FORBIDDEN")
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 1, won.Load())
}

// The parameters of the first request are what is acted on; a later one may leave them out or write them otherwise.
func TestProofRemembersParameters(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	for _, d := range []string{"D1", "D2"} {
		alice.again(M{"device_id": d})
	}
	session := s.post("/delete_devices", alice.token, `{"devices":["D1"],"note":{"a":1,"b":[true]}}`).asks("")
	proof, err := json.Marshal(alice.proof(session))
	require.NoError(t, err)
	s.post("/delete_devices", alice.token, fmt.Sprintf(`{"auth":%s, "note": {"b":[ true ],"a":1}}`, proof)).ok()
	s.get("/devices/D1", alice.token).fails(404, "M_NOT_FOUND")
	s.get("/devices/D2", alice.token).ok()
}

// A crowd of beginnings pushes nobody with a token out, and takes bounded memory.
func TestProofsAreBounded(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	alice.again(M{"device_id": "D1"})
	session := s.deleteDevice(alice.token, "D1", nil).asks("")
	first := s.post("/register", "", M{"username": "first", "password": "x"}).asks("")
	big := strings.Repeat("x", 60<<10)
	for range 400 { // 24 MB
		s.post("/register", "", M{"username": "many", "password": "x", "ignored": big}).asks("")
	}
	s.post("/register", "", M{"auth": M{"type": "m.login.dummy", "session": first}}).asks("M_FORBIDDEN")
	s.deleteDevice(alice.token, "D1", M{"auth": alice.proof(session)}).ok()
}
