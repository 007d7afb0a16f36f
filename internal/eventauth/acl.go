package eventauth

import (
	"net/netip"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
)

// ServerAllowed reports whether a room's m.room.server_acl event lets server take part. The event is
// nil in a room that has none. Who asks often keeps an ACL instead.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroomserver_acl
func ServerAllowed(acl *event.Event, server id.ServerName) bool {
	return ReadACL(acl).Allows(server)
}

// ACL is an m.room.server_acl event, read. It never changes. A nil ACL allows every server.
type ACL struct {
	allow, deny  []string // globs in lower case
	denyLiterals bool
}

// ReadACL reads an m.room.server_acl event; of nil it makes nil.
func ReadACL(e *event.Event) *ACL {
	if e == nil {
		return nil
	}
	return &ACL{
		allow: globs(canonjson.Get(e.Content(), "allow")),
		deny:  globs(canonjson.Get(e.Content(), "deny")),
		// "Defaults to `true` if missing or otherwise not a boolean."
		denyLiterals: string(canonjson.Get(e.Content(), "allow_ip_literals")) == "false",
	}
}

// globs reads a list of patterns; what is not text in it is passed over.
func globs(list []byte) (patterns []string) {
	for all := canonjson.OpenArray(list); ; {
		v, ok := all.Next()
		if !ok {
			return patterns
		}
		if s, ok := canonjson.String(v); ok {
			patterns = append(patterns, strings.ToLower(s))
		}
	}
}

// Allows applies the rules in the order of the specification.
func (a *ACL) Allows(server id.ServerName) bool {
	// 1. If there is no `m.room.server_acl` event in the room state, allow.
	if a == nil {
		return true
	}
	// "the suspect server's port number must not be considered"
	host := strings.ToLower(server.Host())
	switch {
	// 2. If the server name is an IP address (v4 or v6) literal, and `allow_ip_literals` is present and
	// `false`, deny.
	case a.denyLiterals && isLiteral(host):
		return false
	// 3. If the server name matches an entry in the `deny` list, deny.
	case matchesAny(a.deny, host):
		return false
	}
	// 4. If the server name matches an entry in the `allow` list, allow.
	// 5. Otherwise, deny.
	return matchesAny(a.allow, host)
}

func isLiteral(host string) bool {
	if strings.HasPrefix(host, "[") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

func matchesAny(patterns []string, host string) bool {
	for _, p := range patterns {
		if matches(p, host) {
			return true
		}
	}
	return false
}

// matches applies a glob: "The character `*` matches zero or more characters. `?` matches exactly one
// character." Server names are ASCII, so a character is a byte. The work is at most the product of
// the lengths, whatever the pattern.
//
// Spec: https://spec.matrix.org/latest/appendices/#glob-style-matching
func matches(pattern, host string) bool {
	star, resume := -1, 0 // the last '*', and where in host its match ends for now
	p, h := 0, 0
	for h < len(host) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, h
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == host[h]):
			p++
			h++
		case star >= 0:
			resume++
			p, h = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
