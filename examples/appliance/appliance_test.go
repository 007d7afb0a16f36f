package main

import (
	"crypto/tls"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	ownerAccount      = regexp.MustCompile(`user id: +(\S+)\n +password: (\S+)\n`)
	registrationToken = regexp.MustCompile(`registration token, .*: (\S+)\n`)
	homeserverURL     = regexp.MustCompile(`Homeserver URL: (\S+)\n`)
)

// printed waits until the appliance has printed something, and returns the match with its groups.
func (p *process) printed(t *testing.T, what *regexp.Regexp) []string {
	t.Helper()
	var match []string
	require.Eventually(t, func() bool {
		match = what.FindStringSubmatch(p.output.String())
		return match != nil
	}, readyWithin, time.Millisecond, "%s is not in what was printed", what)
	return match
}

// logInAsOwner uses what the first start printed.
func logInAsOwner(t *testing.T, p *process) credentials {
	t.Helper()
	account := p.printed(t, ownerAccount)
	session, err := logIn(t.Context(), newClient(p.url), "", account[1], account[2])
	require.NoError(t, err)
	return session
}

func TestOwnerIsMadeOnce(t *testing.T) {
	folder, addr := t.TempDir(), freeAddr(t)
	first := started(t, folder, addr)
	require.Equal(t, "@owner:localhost", logInAsOwner(t, first).User)
	require.Equal(t, "http://"+addr, first.printed(t, homeserverURL)[1])
	first.kill()

	second := started(t, folder, addr)
	second.printed(t, homeserverURL) // the last that it prints
	require.NotContains(t, second.output.String(), "password")
}

func TestRegistrationIsClosedByDefault(t *testing.T) {
	p := started(t, t.TempDir(), freeAddr(t))
	body := map[string]any{"username": "eve", "password": "correct horse battery staple"}
	err := newClient(p.url).do(t.Context(), "", "POST", "/register", body, nil)
	refusal, ok := isRefused(err)
	require.True(t, ok && refusal.Status == 403, "POST /register: %v", err)
}

func TestRegistrationTokenIsPrinted(t *testing.T) {
	p := started(t, t.TempDir(), freeAddr(t), "--registration", "token")
	token := p.printed(t, registrationToken)
	c := newClient(p.url)
	body := map[string]any{"username": "friend", "password": "correct horse battery staple"}
	asked, _ := isRefused(c.do(t.Context(), "", "POST", "/register", body, nil))
	require.NotNil(t, asked, "POST /register without auth")
	body["auth"] = map[string]any{"type": "m.login.registration_token", "token": token[1], "session": asked.Session}
	var session credentials
	require.NoError(t, c.do(t.Context(), "", "POST", "/register", body, &session))
	require.Equal(t, "@friend:localhost", session.User)
}

func TestSecondProcessIsRefused(t *testing.T) {
	folder := t.TempDir()
	started(t, folder, freeAddr(t))
	second := launch(t, folder, "--data-dir", "data", "--client-addr", freeAddr(t))
	select {
	case <-second.ended:
	case <-time.After(readyWithin):
		require.FailNow(t, "a second process runs on the same data")
	}
	require.Equal(t, 1, second.cmd.ProcessState.ExitCode(), "%s", second.output)
	require.Contains(t, second.output.String(), "appliance: ", "what it says of that") // Wait has read all of it
}

// TestBothListenersServeEverything: federation with TLS, clients without, each every path.
func TestBothListenersServeEverything(t *testing.T) {
	folder, federation := t.TempDir(), freeAddr(t)
	ca := newAuthority(t)
	ca.issue(t, folder, "127.0.0.1")
	p := started(t, folder, freeAddr(t), "--federation-addr", federation, "--tls-cert", "cert.pem", "--tls-key", "key.pem",
		"--ca-cert", "ca.pem")
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}}}
	for _, base := range []string{p.url, "https://" + federation} {
		for _, path := range []string{"/_matrix/client/versions", "/_matrix/key/v2/server", "/_matrix/federation/v1/version"} {
			answer, err := web.Get(base + path)
			require.NoError(t, err)
			answer.Body.Close()
			require.Equal(t, 200, answer.StatusCode, "GET %s%s", base, path)
		}
	}
}
