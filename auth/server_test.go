package auth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

const (
	client     = "/_matrix/client/v3"
	serverName = id.ServerName("example.org")
)

// server is the routes of auth over a database in memory, with open registration and a clock that stands still.
type server struct {
	t       *testing.T
	auth    *auth.Service
	db      *storage.DB
	clock   *clock
	handler http.Handler
}

func newServer(t *testing.T, opts ...func(*auth.Config)) *server {
	t.Helper()
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return newServerOn(t, db, opts...)
}

func newServerOn(t *testing.T, db *storage.DB, opts ...func(*auth.Config)) *server {
	t.Helper()
	clock := &clock{}
	clock.ms.Store(1_700_000_000_000)
	cfg := auth.Config{
		ServerName: serverName, DB: db, PasswordCost: auth.Cheap(), Now: clock.now,
		Registration: auth.Registration{Mode: auth.Open, Guests: true},
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	service, err := auth.New(cfg)
	require.NoError(t, err)
	handler := httpapi.NewRouter(httpapi.Config{
		Sessions: service, Limits: httpapi.Limits{Off: true}, AllowQueryToken: true,
	}, service.Routes())
	return &server{t: t, auth: service, db: db, clock: clock, handler: handler}
}

// clock is the time of a server.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// M is a JSON object.
type M = map[string]any

// answer is what came back.
type answer struct {
	t      *testing.T
	what   string
	status int
	body   M
}

// call sends a request; a nil body is none, a string goes as it is.
func (s *server) call(method, path, token string, body any) *answer {
	s.t.Helper()
	var raw []byte
	switch b := body.(type) {
	case nil:
	case string:
		raw = []byte(b)
	default:
		var err error
		raw, err = json.Marshal(b)
		require.NoError(s.t, err)
	}
	r := httptest.NewRequest(method, path, bytes.NewReader(raw))
	r.RemoteAddr = "192.0.2.7:4711"
	r.Header.Set("User-Agent", "test/1")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	a := &answer{t: s.t, what: method + " " + path + ": " + w.Body.String(), status: w.Code}
	require.NoError(s.t, json.Unmarshal(w.Body.Bytes(), &a.body), a.what)
	return a
}

func (s *server) post(path, token string, body any) *answer {
	s.t.Helper()
	return s.call("POST", client+path, token, body)
}

func (s *server) get(path, token string) *answer {
	s.t.Helper()
	return s.call("GET", client+path, token, nil)
}

// ok returns the body of a 200.
func (a *answer) ok() M {
	a.t.Helper()
	require.Equal(a.t, 200, a.status, a.what)
	return a.body
}

// fails expects an ordinary error.
func (a *answer) fails(status int, code string) M {
	a.t.Helper()
	require.Equal(a.t, status, a.status, a.what)
	require.Equal(a.t, code, a.body["errcode"], a.what)
	require.NotEmpty(a.t, a.body["error"], a.what)
	require.NotContains(a.t, a.body, "flows", a.what)
	return a.body
}

// asks expects a 401 that asks for proof, and returns its session. code is "" when nothing failed.
func (a *answer) asks(code string) string {
	a.t.Helper()
	require.Equal(a.t, 401, a.status, a.what)
	require.NotEmpty(a.t, a.body["flows"], a.what)
	require.Contains(a.t, a.body, "params", a.what)
	if code == "" {
		require.NotContains(a.t, a.body, "errcode", a.what)
	} else {
		require.Equal(a.t, code, a.body["errcode"], a.what)
	}
	return a.body["session"].(string)
}

// user is somebody with a session.
type user struct {
	s                                   *server
	id                                  id.UserID
	name, password, token, device, next string
}

// user registers name with the password "pw-" and the name.
func (s *server) user(name string) *user {
	s.t.Helper()
	body := s.post("/register", "", M{"auth": M{"type": "m.login.dummy"}, "username": name, "password": "pw-" + name}).ok()
	return s.as(body, name)
}

func (s *server) as(body M, name string) *user {
	s.t.Helper()
	u := &user{s: s, name: name, password: "pw-" + name}
	u.id = id.UserID(body["user_id"].(string))
	u.token, u.device = body["access_token"].(string), body["device_id"].(string)
	u.next, _ = body["refresh_token"].(string)
	return u
}

// again logs in once more; extra is added to the request.
func (u *user) again(extra M) *user {
	u.s.t.Helper()
	return u.s.as(u.login(extra).ok(), u.name)
}

func (u *user) login(extra M) *answer {
	u.s.t.Helper()
	body := M{"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": u.name}, "password": u.password}
	for k, v := range extra {
		body[k] = v
	}
	return u.s.post("/login", "", body)
}

// proof is the password stage of u.
func (u *user) proof(session string) M {
	m := M{"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": u.id}, "password": u.password}
	if session != "" {
		m["session"] = session
	}
	return m
}

// whoami is the cheapest question that needs a token.
func (s *server) whoami(token string) *answer {
	s.t.Helper()
	return s.get("/account/whoami", token)
}

func guest(s *server) *user {
	s.t.Helper()
	body := s.post("/register?kind=guest", "", M{}).ok()
	return s.as(body, id.UserID(body["user_id"].(string)).Localpart())
}
