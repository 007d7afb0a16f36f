package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
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
	roots := certificate(t, folder)
	p := started(t, folder, freeAddr(t), "--federation-addr", federation, "--tls-cert", "cert.pem", "--tls-key", "key.pem",
		"--ca-cert", "cert.pem")
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for _, base := range []string{p.url, "https://" + federation} {
		for _, path := range []string{"/_matrix/client/versions", "/_matrix/key/v2/server", "/_matrix/federation/v1/version"} {
			answer, err := web.Get(base + path)
			require.NoError(t, err)
			answer.Body.Close()
			require.Equal(t, 200, answer.StatusCode, "GET %s%s", base, path)
		}
	}
}

// certificate writes cert.pem and key.pem for 127.0.0.1 and returns who trusts them.
func certificate(t *testing.T, folder string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(name, kind string, der []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), text, 0o600))
	}
	write("cert.pem", "CERTIFICATE", der)
	write("key.pem", "PRIVATE KEY", keyDER)
	roots := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots.AddCert(parsed)
	return roots
}
