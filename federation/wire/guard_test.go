package wire_test

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestGuard(t *testing.T) {
	var (
		public  = wire.Networks{}
		private = wire.Networks{AllowPrivate: true}
		listed  = wire.Networks{
			Allow: []netip.Prefix{prefix("10.1.2.3/32"), prefix("fe80::1/128"), prefix("::ffff:192.168.1.0/120")},
			Deny:  []netip.Prefix{prefix("8.8.8.0/24"), prefix("2a00::/16"), prefix("10.0.0.0/8")},
		}
	)
	tests := []struct {
		addr                    string
		public, private, listed bool
	}{
		{"1.1.1.1", true, true, true},
		{"8.8.8.8", true, true, false},
		{"::ffff:8.8.8.8", true, true, false},
		{"64:ff9b::8.8.8.8", true, true, false},
		{"64:ff9b::1.1.1.1", true, true, true},
		{"2606:4700::1", true, true, true},
		{"2a00::1", true, true, false},

		{"127.0.0.1", false, true, false},
		{"127.255.255.254", false, true, false},
		{"10.0.0.1", false, true, false},
		{"10.1.2.3", false, true, true},
		{"172.16.0.1", false, true, false},
		{"172.31.255.255", false, true, false},
		{"172.32.0.1", true, true, true},
		{"192.168.0.1", false, true, false},
		{"192.168.1.7", false, true, true},
		{"::ffff:192.168.1.7", false, true, true},
		{"100.64.0.1", false, true, false},
		{"100.127.255.255", false, true, false},
		{"100.128.0.1", true, true, true},
		{"::1", false, true, false},
		{"fd00::1", false, true, false},
		{"fc00::1", false, true, false},
		{"::ffff:127.0.0.1", false, true, false},
		{"::ffff:7f00:1", false, true, false},
		{"64:ff9b::127.0.0.1", false, true, false},
		{"64:ff9b::10.1.2.3", false, true, false},

		{"0.0.0.0", false, false, false},
		{"0.1.2.3", false, false, false},
		{"169.254.169.254", false, false, false},
		{"::ffff:169.254.169.254", false, false, false},
		{"64:ff9b::169.254.169.254", false, false, false},
		{"192.0.0.1", false, false, false},
		{"192.0.2.1", false, false, false},
		{"198.18.0.1", false, false, false},
		{"198.51.100.1", false, false, false},
		{"203.0.113.1", false, false, false},
		{"224.0.0.1", false, false, false},
		{"240.0.0.1", false, false, false},
		{"255.255.255.255", false, false, false},
		{"::", false, false, false},
		{"::127.0.0.1", false, false, false},
		{"fe80::1", false, false, true},
		{"fe80::1%eth0", false, false, true},
		{"fe80::2%eth0", false, false, false},
		{"fec0::1", false, false, false},
		{"ff02::1", false, false, false},
		{"100::1", false, false, false},
		{"2001::1", false, false, false},
		{"2001:db8::1", false, false, false},
		{"2002:7f00:1::", false, false, false},
		{"3fff::1", false, false, false},
		{"5f00::1", false, false, false},
		{"64:ff9b:1::1", false, false, false},
	}
	for _, tt := range tests {
		addr := netip.MustParseAddr(tt.addr)
		check := func(n wire.Networks) bool { return wire.NewGuard(n).Check(addr) == nil }
		require.Equal(t, tt.public, check(public), "%s, by default", addr)
		require.Equal(t, tt.private, check(private), "%s, with AllowPrivate", addr)
		require.Equal(t, tt.listed, check(listed), "%s, with lists", addr)
		at := netip.AddrPortFrom(addr, 443).String()
		require.Equal(t, tt.public, wire.NewGuard(public).Control("tcp", at, nil) == nil, "%s, when dialled", at)
	}
	require.ErrorIs(t, wire.NewGuard(public).Check(netip.Addr{}), wire.ErrDenied)
	require.ErrorIs(t, wire.NewGuard(public).Control("unix", "/run/x", nil), wire.ErrDenied)
}

// trap counts who connects to an address of this machine.
func trap(t *testing.T) (port string, touched *atomic.Int32) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	touched = &atomic.Int32{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			touched.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	_, port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port, touched
}

// TestDeniedNetworks: F-98, no connection to a denied network, whatever the name looks like and whatever DNS says.
func TestDeniedNetworks(t *testing.T) {
	port, touched := trap(t)
	w := newWorld(t)
	for host, addr := range map[string]string{
		"inside.example": "127.0.0.1", "mapped.example": "::ffff:127.0.0.1", "six.example": "::1", "any.example": "0.0.0.0",
		"2130706433": "127.0.0.1", "0x7f000001": "127.0.0.1", "127.1": "127.0.0.1", "017700000001": "127.0.0.1", "localhost": "127.0.0.1",
	} {
		w.name(host, addr)
	}
	for _, host := range []string{
		"127.0.0.1", "[::1]", "[::ffff:7f00:1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "10.0.0.1", "169.254.169.254", "[fe80::1]",
		"inside.example", "mapped.example", "six.example", "any.example", "2130706433", "0x7f000001", "127.1", "017700000001", "localhost",
	} {
		t.Run(host, func(t *testing.T) {
			c := w.client(func(cfg *wire.Config) { cfg.Dial = nil })
			start := time.Now()
			server, err := id.ParseServerName(host + ":" + port)
			require.NoError(t, err)
			_, err = c.Do(t.Context(), wire.Request{Destination: server, Method: "GET", Path: "/x"})
			require.ErrorIs(t, err, wire.ErrDenied)
			require.Less(t, time.Since(start), time.Second)
		})
	}
	require.Zero(t, touched.Load(), "the trap was touched")
}

// TestDeniedDetours: what a server in the open says leads to no denied network either.
func TestDeniedDetours(t *testing.T) {
	port, touched := trap(t)
	w := newWorld(t)
	w.name("inside.example", "127.0.0.1")
	w.name("open.example", "1.1.1.1")
	w.srv["_matrix-fed._tcp.srv.example"] = srv("0 0 "+port+" inside.example.", "1 0 "+port+" six.example")
	w.name("six.example", "::1", "::ffff:127.0.0.1")
	cfg := w.config()
	cfg.Dial = w.DialReal
	for _, to := range []string{"inside.example:" + port, "127.0.0.1:" + port, "[::1]:" + port, "srv.example"} {
		host := "to-" + id.ServerName(to).Host() + ".example"
		if host[3] == '[' {
			host = "to-six.example"
		}
		w.name(host, "1.1.1.1")
		w.delegate(host, `{"m.server":"`+to+`"}`)
		c := wire.NewClient(cfg)
		defer c.Close()
		_, err := c.Do(t.Context(), wire.Request{Destination: id.ServerName(host), Method: "GET", Path: "/x"})
		require.ErrorIs(t, err, wire.ErrDenied, to)
	}
	for _, to := range []string{"https://inside.example:" + port + "/", "https://127.0.0.1:" + port + "/", "https://[::ffff:7f00:1]:" + port + "/", "http://open.example/"} {
		w.redirect("redirect.example", to)
		server, err := wire.NewResolver(cfg).Delegate(t.Context(), "redirect.example")
		require.NoError(t, err)
		require.Equal(t, id.ServerName("redirect.example"), server, to)
	}
	require.Zero(t, touched.Load(), "the trap was touched")
}

// TestAllowPrivate: the same place, once it is allowed.
func TestAllowPrivate(t *testing.T) {
	port, touched := trap(t)
	w := newWorld(t)
	c := w.client(func(cfg *wire.Config) { cfg.Dial, cfg.Networks = nil, wire.Networks{AllowPrivate: true} })
	_, err := c.Do(context.Background(), wire.Request{Destination: id.ServerName("127.0.0.1:" + port), Method: "GET", Path: "/x"})
	require.Error(t, err)
	require.Eventually(t, func() bool { return touched.Load() == 1 }, time.Second, time.Millisecond)
}
