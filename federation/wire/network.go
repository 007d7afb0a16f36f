package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	maxDials         = 200 // connections being opened at the same time
	dialWait         = 30 * time.Second
	dialTimeout      = 15 * time.Second // for one connection with all its targets, DNS and TLS
	connectTimeout   = 5 * time.Second  // for one address
	handshakeTimeout = 10 * time.Second
	maxHeader        = 64 << 10 // bytes of an answer's header
)

// network opens connections, each to an address that the Guard allows.
type network struct {
	dns   DNS
	guard *Guard
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	tls   *tls.Config
	slots chan struct{} // one for each connection being opened

	mu     sync.Mutex // guards the following
	open   map[*socket]struct{}
	closed bool
}

// socket is an open connection, which its network knows.
type socket struct {
	net.Conn
	of *network
}

// Close may be called more than once.
func (s *socket) Close() error {
	s.of.mu.Lock()
	delete(s.of.open, s)
	s.of.mu.Unlock()
	return s.Conn.Close()
}

// opened makes conn one of those that close closes.
func (n *network) opened(conn net.Conn) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		conn.Close()
		return nil, ErrClosed
	}
	s := &socket{conn, n}
	n.open[s] = struct{}{}
	return s, nil
}

// close closes all connections, busy ones too, and lets none be opened any more.
func (n *network) close() {
	n.mu.Lock()
	open := slices.Collect(maps.Keys(n.open))
	n.closed = true
	n.mu.Unlock()
	for _, s := range open {
		s.Close()
	}
}

func newNetwork(cfg Config) *network {
	guard := NewGuard(cfg.Networks)
	n := &network{
		dns: cfg.DNS, guard: guard, dial: cfg.Dial, slots: make(chan struct{}, maxDials), open: map[*socket]struct{}{},
		tls: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots, NextProtos: []string{"h2", "http/1.1"},
			ClientSessionCache: tls.NewLRUClientSessionCache(256), Time: cfg.Now,
		},
	}
	if n.dial == nil {
		n.dial = (&net.Dialer{Control: guard.Control}).DialContext
	}
	return n
}

// errBusy says nothing about the server that was to be reached.
var errBusy = errors.New("wire: too many connections are being opened")

// enter awaits a slot; leave frees it.
func (n *network) enter(ctx context.Context) error {
	wait := time.NewTimer(dialWait)
	defer wait.Stop()
	select {
	case n.slots <- struct{}{}:
		return nil
	case <-wait.C:
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *network) leave() { <-n.slots }

// reach opens a TLS connection to the first of the targets that takes it and has the certificate.
func (n *network) reach(ctx context.Context, targets []Target) (net.Conn, error) {
	var first error
	for _, t := range targets {
		conn, err := n.secure(ctx, t)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// secure opens a connection to one target. Nothing is sent to a server before it has shown its certificate.
func (n *network) secure(ctx context.Context, t Target) (net.Conn, error) {
	conn, err := n.connect(ctx, t.Dial, t.Port)
	if err != nil {
		return nil, err
	}
	cfg := n.tls.Clone()
	cfg.ServerName = t.CertName
	secured := tls.Client(conn, cfg)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS with %s at %s: %w", t.CertName, conn.RemoteAddr(), err)
	}
	return secured, nil
}

// connect opens a connection to the first address of host that takes it.
func (n *network) connect(ctx context.Context, host string, port uint16) (net.Conn, error) {
	addrs, err := n.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	var first error
	for _, addr := range addrs[:min(len(addrs), maxTargets)] {
		conn, err := n.connectTo(ctx, netip.AddrPortFrom(addr, port))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (n *network) connectTo(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	if err := n.guard.Check(at.Addr()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := n.dial(ctx, "tcp", at.String())
	if err != nil {
		return nil, err
	}
	return n.opened(conn)
}

// addresses returns at least one address of a host, which may be an address itself.
func (n *network) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	found, err := n.dns.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	}
	addrs := make([]netip.Addr, len(found))
	for i, addr := range found {
		addrs[i] = addr.Unmap()
	}
	return addrs, nil
}

// dialWeb is the DialContext of webClient.
func (n *network) dialWeb(ctx context.Context, _, address string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	if err := n.enter(ctx); err != nil {
		return nil, err
	}
	defer n.leave()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return n.connect(ctx, host, uint16(port))
}

// webClient is for what is not federation: HTTPS only, with redirects, each to a network that is allowed, and without
// connections that stay open.
func (n *network) webClient() *http.Client {
	return &http.Client{
		CheckRedirect: checkRedirect,
		Transport: &http.Transport{
			DialContext: n.dialWeb, TLSClientConfig: n.tls.Clone(), TLSHandshakeTimeout: handshakeTimeout, ForceAttemptHTTP2: true,
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
		},
	}
}

// checkRedirect: "30x redirects should be followed, however redirection loops should be avoided."
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if req.URL.Scheme != "https" {
		return errors.New("a redirect leads away from HTTPS")
	}
	for _, before := range via {
		if before.URL.String() == req.URL.String() {
			return errors.New("the redirects go round in a circle")
		}
	}
	return nil
}
