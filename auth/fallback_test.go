package auth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
)

// page asks for a page as a browser does; a nil form is a GET.
func (s *server) page(path string, form url.Values) (int, string, http.Header) {
	s.t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	if form != nil {
		r = httptest.NewRequest("POST", path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

// UI-07, UI-19.
func TestStageFallback(t *testing.T) {
	s := newServer(t, func(c *auth.Config) {
		c.Registration.Mode = auth.WithToken
		c.Registration.Terms = map[string]auth.Policy{"p": {Version: "1", Texts: map[string]auth.PolicyText{"en": {Name: "<Privacy>", URL: "https://example.org/p"}}}}
	})
	token, err := s.auth.CreateRegistrationToken(context.Background(), auth.RegistrationToken{})
	require.NoError(t, err)
	session := s.post("/register", "", M{"username": "alice", "password": "x"}).asks("")
	path := func(stage string) string { return client + "/auth/" + stage + "/fallback/web?session=" + session }
	form := func(token string) url.Values { return url.Values{"session": {session}, "token": {token}} }

	status, html, header := s.page(path("m.login.registration_token"), nil)
	require.Equal(t, 200, status, html)
	require.Contains(t, html, `name="token"`)
	require.Equal(t, "text/html; charset=utf-8", header.Get("Content-Type"))
	require.Contains(t, header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
	require.NotContains(t, html, "onAuthDone")

	status, html, _ = s.page(path("m.login.terms"), form(""))
	require.Equal(t, 404, status, html)
	status, html, _ = s.page(path("m.login.registration_token"), form("wrong"))
	require.Equal(t, 403, status, html)
	require.NotContains(t, html, "onAuthDone")
	status, html, _ = s.page(path("m.login.registration_token"), form(token))
	require.Equal(t, 200, status, html)
	require.Contains(t, html, "window.onAuthDone()")
	require.Contains(t, html, `window.opener.postMessage("authDone", "*")`)

	_, html, _ = s.page(path("m.login.terms"), nil)
	require.Contains(t, html, `<a href="https://example.org/p" target="_blank" rel="noopener">&lt;Privacy&gt;</a>`)
	s.post("/register", "", M{"auth": M{"session": session}}).asks("")
	_, html, _ = s.page(path("m.login.terms"), form(""))
	require.Contains(t, html, "window.onAuthDone()")
	require.Equal(t, "@alice:example.org", s.post("/register", "", M{"auth": M{"session": session}}).ok()["user_id"])

	session = "made-up"
	status, _, _ = s.page(path("m.login.terms"), nil)
	require.Equal(t, 404, status)
}

func TestPasswordFallback(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	alice.again(M{"device_id": "D"})
	session := s.deleteDevice(alice.token, "D", nil).asks("")
	path := client + "/auth/m.login.password/fallback/web?session=" + session
	try := func(name, password string) int {
		status, _, _ := s.page(path, url.Values{"session": {session}, "user": {name}, "password": {password}})
		return status
	}
	require.Equal(t, 403, try("alice", "wrong"))
	require.Equal(t, 403, try("bob", bob.password))
	require.Equal(t, 400, try("", ""))
	s.deleteDevice(alice.token, "D", M{"auth": M{"session": session}}).asks("")
	require.Equal(t, 200, try("alice", alice.password))
	s.deleteDevice(bob.token, "D", M{"auth": M{"session": session}}).fails(403, "M_FORBIDDEN")
	s.deleteDevice(alice.token, "D", M{"auth": M{"session": session}}).ok()
	s.get("/devices/D", alice.token).fails(404, "M_NOT_FOUND")
}

// LO-11.
func TestLoginFallback(t *testing.T) {
	s := newServer(t)
	status, html, header := s.page("/_matrix/static/client/login/?device_id=D", nil)
	require.Equal(t, 200, status)
	require.Contains(t, html, "window.matrixLogin.onLogin(body)")
	require.Contains(t, html, "device_id")
	nonce := header.Get("Content-Security-Policy")
	nonce = nonce[strings.Index(nonce, "'nonce-")+len("'nonce-"):]
	require.Contains(t, html, `<script nonce="`+strings.TrimSuffix(nonce, "'")+`">`)
	_, again, _ := s.page("/_matrix/static/client/login/", nil)
	require.NotEqual(t, html, again, "a nonce is used once")
}
