package wire_test

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// world is an internet of its own: names, addresses and a certificate authority. Its addresses are public ones, so
// that the guard is what it is outside; nothing leaves the machine.
type world struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	ca   *x509.Certificate
	pool *x509.CertPool
	web  web

	onlyHTTP1 bool

	mu      sync.Mutex // guards the following
	names   map[string][]netip.Addr
	srv     map[string][]*net.SRV // by _service._tcp.name
	servers map[string]string     // by public address: the real one
	dialled []string
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, names: map[string][]netip.Addr{}, srv: map[string][]*net.SRV{}, servers: map[string]string{}, pool: x509.NewCertPool()}
	var err error
	w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	w.ca = w.issue(nil, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	w.pool.AddCert(w.ca)
	return w
}

// issue makes a certificate for names and addresses; without a CA it signs itself.
func (w *world) issue(names []string, change func(*x509.Certificate)) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(w.t, err)
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
	change(c)
	parent := w.ca
	if parent == nil || c.Subject.CommonName == "self" {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &w.key.PublicKey, w.key)
	require.NoError(w.t, err)
	made, err := x509.ParseCertificate(der)
	require.NoError(w.t, err)
	return made
}

// serve starts a TLS server for a public address, with a certificate for names, or for whatever name is asked for.
func (w *world) serve(at string, h http.HandlerFunc, names ...string) {
	w.serveWith(at, h, func(asked string) *x509.Certificate {
		if len(names) == 0 {
			host, _, err := net.SplitHostPort(at) // who is asked for by address sends no name
			require.NoError(w.t, err)
			return w.issue([]string{cmp.Or(asked, host)}, func(*x509.Certificate) {})
		}
		return w.issue(names, func(*x509.Certificate) {})
	})
}

func (w *world) serveWith(at string, h http.HandlerFunc, certificate func(asked string) *x509.Certificate) {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = !w.onlyHTTP1
	s.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{certificate(hello.ServerName).Raw}, PrivateKey: w.key}, nil
	}}
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	// httptest puts a certificate of its own first, which would be used for names it knows.
	s.TLS.Certificates = nil
	w.t.Cleanup(s.Close)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers[at] = s.Listener.Addr().String()
}

func (w *world) name(host string, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[host] = nil
	for _, a := range addrs {
		w.names[host] = append(w.names[host], netip.MustParseAddr(a))
	}
}

func (w *world) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if found, ok := w.names[host]; ok {
		return found, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (w *world) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	full := fmt.Sprintf("_%s._%s.%s", service, proto, name)
	if found, ok := w.srv[full]; ok {
		return "", found, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: full, IsNotFound: true}
}

func (w *world) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, address)
	to, ok := w.servers[address]
	w.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("connect to %s: connection refused", address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

// DialReal is Dial that connects to addresses of this machine, if the guard lets it.
func (w *world) DialReal(ctx context.Context, network, address string) (net.Conn, error) {
	if conn, err := w.Dial(ctx, network, address); err == nil {
		return conn, nil
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// dials returns what was dialled since it was last called.
func (w *world) dials() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.dialled)
	w.dialled = nil
	return all
}

func (w *world) config() wire.Config {
	key, err := signing.NewKey("1", make([]byte, 32))
	require.NoError(w.t, err)
	return wire.Config{Origin: "us.example", Key: key, Roots: w.pool, DNS: w, Dial: w.Dial}
}

func (w *world) client(change ...func(*wire.Config)) *wire.Client {
	cfg := w.config()
	for _, f := range change {
		f(&cfg)
	}
	c := wire.NewClient(cfg)
	w.t.Cleanup(c.Close)
	return c
}

// quiet is for servers whose clients hang up.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
