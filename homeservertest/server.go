// Package homeservertest starts whole homeservers in memory for tests, and speaks to them as clients do.
//
//	hs := homeservertest.New(t)
//	alice, bob := hs.User("alice"), hs.User("bob")
//	room := alice.CreateRoom(homeservertest.Public)
//	bob.MustJoin(room)
//	alice.Send(room, "hi")
//	bob.Expect(room, homeservertest.Text("hi"))
//
// A server starts in milliseconds, needs no port, and works inside a testing/synctest bubble. Where the environment
// variable MATRIX_SPEC_OPENAPI names the specification's OpenAPI folder, every good answer is judged by it.
package homeservertest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/homeservertest/openapi"
	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// Name is the server name of a test server.
const Name = "hs.test"

// Server is a homeserver under test.
type Server struct {
	t      testing.TB
	cfg    homeserver.Config
	engine storage.Engine
	spec   *openapi.Specification // judges answers; nil judges none

	mu sync.Mutex // guards the following
	// server is replaced by Restart; faults are the answers planted by FailNext.
	server *homeserver.Server
	faults []fault
}

type fault struct {
	match   func(*http.Request) bool
	status  int
	errcode string
}

// New starts a server in memory that is closed when the test ends. Registration is open, guests are let in,
// there are no rate limits, and passwords cost next to nothing; opts change that.
func New(t testing.TB, opts ...func(*homeserver.Config)) *Server {
	t.Helper()
	cfg := homeserver.Config{
		ServerName:   Name,
		Registration: homeserver.Registration{Mode: homeserver.RegistrationOpen, Guests: true},
		PasswordCost: auth.Cheap(),
		Limits:       homeserver.Limits{Off: true},
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	if cfg.Storage == nil {
		cfg.Storage = sqlite.Memory()
	}
	if cfg.Media == nil {
		cfg.Media = media.Memory()
	}
	s := &Server{t: t, engine: cfg.Storage, spec: specification(t)}
	cfg.Storage = lasting{cfg.Storage}
	s.cfg = cfg
	s.start()
	t.Cleanup(s.stop)
	return s
}

// lasting keeps an engine open when a server that used it closes, for the next one.
type lasting struct{ storage.Engine }

func (lasting) Close() error { return nil }

func (s *Server) start() {
	s.t.Helper()
	server, err := homeserver.New(s.cfg)
	require.NoError(s.t, err, "homeserver.New")
	require.NoError(s.t, server.Start(context.Background()), "Start")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server = server
}

// stop closes the server and its storage.
func (s *Server) stop() {
	require.NoError(s.t, s.Homeserver().Close(context.Background()), "Close")
	require.NoError(s.t, s.engine.Close(), "close the storage")
}

// Homeserver is the server that runs now.
func (s *Server) Homeserver() *homeserver.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server
}

// Restart closes the server and starts another on the same data, as after an orderly end of the process.
func (s *Server) Restart() {
	s.t.Helper()
	require.NoError(s.t, s.Homeserver().Close(context.Background()), "Close")
	s.start()
}

// Name is the server's name.
func (s *Server) Name() string { return s.cfg.ServerName }

// ServeHTTP serves the homeserver, or an answer planted by FailNext.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.serve(s.Homeserver(), w, r)
}

// federate serves what other servers ask, or an answer planted by FailNext.
func (s *Server) federate(w http.ResponseWriter, r *http.Request) {
	s.serve(s.Homeserver().FederationHandler(), w, r)
}

func (s *Server) serve(handler http.Handler, w http.ResponseWriter, r *http.Request) {
	f, ok := s.fault(r)
	if !ok {
		s.judged(handler, w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	io.WriteString(w, `{"errcode":"`+f.errcode+`","error":"planted by the test"}`) //nolint:errcheck // a test reads it
}

// FailNext answers the next request that matches with an error, instead of serving it.
func (s *Server) FailNext(match func(*http.Request) bool, status int, errcode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fault{match, status, errcode})
}

func (s *Server) fault(r *http.Request) (fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if f.match(r) {
			s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			return f, true
		}
	}
	return fault{}, false
}

// Listen serves the homeserver on a loopback port until the test ends.
func (s *Server) Listen() *httptest.Server {
	l := httptest.NewServer(s)
	s.t.Cleanup(func() {
		s.Homeserver().Drain()
		l.Close()
	})
	return l
}

// do serves one request in this goroutine.
func (s *Server) do(ctx context.Context, method, path, token string, body []byte) *Response {
	r := httptest.NewRequestWithContext(ctx, method, "http://"+Name+path, bytes.NewReader(body))
	r.RemoteAddr = "127.0.0.1:1"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return &Response{t: s.t, what: method + " " + path, Status: w.Code, Header: w.Header(), Body: w.Body.Bytes()}
}

// patience is how long a User waits for what a test expects.
const patience = 10 * time.Second
