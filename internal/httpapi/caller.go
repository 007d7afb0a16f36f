package httpapi

import (
	"net/http"
	"net/netip"
	"strings"
)

// accessToken returns the token of a request, or "". The header wins over the query.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#using-access-tokens
func accessToken(r *http.Request, allowQuery bool) string {
	const scheme = "bearer "
	header := r.Header.Get("Authorization")
	if len(header) > len(scheme) && strings.EqualFold(header[:len(scheme)], scheme) {
		if token := strings.Trim(header[len(scheme):], " "); token != "" {
			return token
		}
	}
	if !allowQuery || r.URL.RawQuery == "" {
		return ""
	}
	token, _ := queryValue(r.URL.RawQuery, "access_token")
	return token
}

// clientIP returns the address the request came from, past proxies that are trusted; the zero Addr when unknown.
//
// X-Forwarded-For is read from its end, where our own proxies write, up to the first address that is
// not one of them: what a client puts before it is never believed. A peer without an address, on a Unix
// socket, is trusted if any proxy is.
func clientIP(r *http.Request, trusted []netip.Prefix) netip.Addr {
	addr := peerIP(r.RemoteAddr)
	if len(trusted) == 0 || (addr.IsValid() && !contains(trusted, addr)) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, ok := parseHop(strings.TrimSpace(hops[i]))
		if !ok {
			break
		}
		addr = hop
		if !contains(trusted, addr) {
			break
		}
	}
	return addr
}

func peerIP(remote string) netip.Addr {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

// parseHop reads an address of X-Forwarded-For; some proxies write its port too.
func parseHop(text string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Unmap().WithZone(""), true
	}
	if peer, err := netip.ParseAddrPort(text); err == nil {
		return peer.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
