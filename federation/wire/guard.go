package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// ErrDenied is why nothing is sent to an address in a network that this server must not reach.
var ErrDenied = errors.New("wire: the network is denied")

// Networks says which addresses this server may connect to. The zero value allows the public internet only.
//
// Allow is asked first, then Deny, then the rule: no loopback, private, shared (100.64.0.0/10), link-local, multicast,
// unspecified, documentation or reserved address, neither in IPv4 nor in IPv6, nor as IPv4 inside of IPv6.
type Networks struct {
	AllowPrivate bool           // loopback, private, shared and unique local addresses are allowed; link-local and the rest are not
	Allow        []netip.Prefix // allowed whatever else holds
	Deny         []netip.Prefix // denied though public
}

// Guard decides about addresses. It is asked with the address that is dialled, after DNS, so that no name and no
// redirect leads round it. It never changes and may be used by many at once.
type Guard struct {
	private     bool
	allow, deny []netip.Prefix
}

// NewGuard makes a Guard of its own copy of n.
func NewGuard(n Networks) *Guard {
	return &Guard{private: n.AllowPrivate, allow: unmapped(n.Allow), deny: unmapped(n.Deny)}
}

// unmapped turns prefixes of IPv4 inside of IPv6 into IPv4, as Check does with addresses.
func unmapped(all []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(all))
	for _, p := range all {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out
}

// Check returns nil when addr may be connected to, and otherwise an error that is ErrDenied.
func (g *Guard) Check(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("") // no prefix contains an address with a zone
	inner := embedded(addr)
	switch {
	case within(g.allow, addr):
		return nil
	case within(g.deny, addr) || within(g.deny, inner):
		return fmt.Errorf("%w: %s", ErrDenied, addr)
	case g.public(addr) && (!inner.IsValid() || within(g.allow, inner) || g.public(inner)):
		return nil
	}
	return fmt.Errorf("%w: %s", ErrDenied, addr)
}

// Control is for net.Dialer: it is called with the address of each socket before it connects.
func (g *Guard) Control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrDenied, address)
	}
	return g.Check(at.Addr())
}

// public reports whether the rule of Networks allows an address.
func (g *Guard) public(addr netip.Addr) bool {
	if g.private && within(privateNetworks, addr) {
		return true
	}
	if addr.Is4() {
		return !within(closedIPv4, addr)
	}
	return within(openIPv6, addr) && !within(closedIPv6, addr)
}

// embedded is the IPv4 address that a translator (NAT64) would connect to instead of addr, if there is one.
func embedded(addr netip.Addr) netip.Addr {
	if !nat64.Contains(addr) {
		return netip.Addr{}
	}
	bytes := addr.As16()
	return netip.AddrFrom4([4]byte(bytes[12:]))
}

func within(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// The networks with a meaning of their own. They never change.
//
// Spec: https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry
var (
	nat64           = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	privateNetworks = prefixes("10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16 ::1/128 fc00::/7")
	closedIPv4      = prefixes("0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 " +
		"192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4")
	openIPv6 = prefixes("2000::/3 64:ff9b::/96") // what is not global unicast or translated is never a server
	// Protocol assignments with Teredo and ORCHID, documentation, 6to4, documentation again.
	closedIPv6 = prefixes("2001::/23 2001:db8::/32 2002::/16 3fff::/20")
)

func prefixes(list string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range strings.Fields(list) {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}
