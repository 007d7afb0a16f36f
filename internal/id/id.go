// Package id holds the typed identifiers of Matrix. A value of a type of this package is valid:
// it came through its Parse function or was built from parts that did.
//
// No identifier contains NUL or invalid UTF-8, so each can be a TEXT column in any database.
//
// Spec: https://spec.matrix.org/latest/appendices/#identifier-grammar
package id

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// UserID is "@localpart:server".
type UserID string

// RoomID is "!opaque:server", or "!hash" from room version 12 on.
type RoomID string

// EventID is "$opaque:server" in room versions 1 and 2, and "$hash" later.
type EventID string

// RoomAlias is "#localpart:server".
type RoomAlias string

// ServerName is a hostname with an optional port. It is case-sensitive.
type ServerName string

// DeviceID names a device of one user. It is opaque; Matrix has no grammar for it.
type DeviceID string

// MaxLength is the longest identifier in bytes, with sigil and server name.
const MaxLength = 255

// The ways in which a text is not an identifier.
var (
	errEmpty   = errors.New("it is empty")
	errLong    = fmt.Errorf("it is longer than %d bytes", MaxLength)
	errSigil   = errors.New("it has the wrong first character")
	errNoColon = errors.New("it has no server name")
	errChars   = errors.New("it has a character that is not allowed")
	errServer  = errors.New("the server name is not valid")
)

// ParseUserID accepts every user id that may appear in an event: the localpart may have any
// code points but ':' and NUL, and may be empty.
//
// Spec: https://spec.matrix.org/latest/appendices/#historical-user-ids
func ParseUserID(s string) (UserID, error) {
	if _, err := splitServer('@', s); err != nil {
		return "", fmt.Errorf("user id %q: %w", clip(s), err)
	}
	return UserID(s), nil
}

// NewUserID builds the id of a user that may be registered today: the localpart must not be
// empty and must contain only a-z, 0-9 and "._=-/+".
//
// Spec: https://spec.matrix.org/latest/appendices/#user-identifiers
func NewUserID(localpart string, server ServerName) (UserID, error) {
	s := "@" + localpart + ":" + string(server)
	switch {
	case localpart == "":
		return "", fmt.Errorf("user id %q: the localpart is empty", clip(s))
	case len(s) > MaxLength:
		return "", fmt.Errorf("user id %q: %w", clip(s), errLong)
	case strings.IndexFunc(localpart, notLocalpart) >= 0:
		return "", fmt.Errorf("user id %q: %w", clip(s), errChars)
	}
	return UserID(s), nil
}

// Localpart is what stands between '@' and the first ':'.
func (u UserID) Localpart() string { return localpart(string(u)) }

// Server is the server that gave the id.
func (u UserID) Server() ServerName { return server(string(u)) }

// Compliant reports whether the localpart is not empty and has only the characters U+0021 to U+007E.
// An id that is not may appear in events but should not be shown to clients elsewhere.
//
// Spec: https://spec.matrix.org/latest/appendices/#historical-user-ids
func (u UserID) Compliant() bool {
	local := u.Localpart()
	for i := range len(local) {
		if local[i] < 0x21 || local[i] > 0x7e {
			return false
		}
	}
	return local != ""
}

// ParseRoomID accepts both forms of room ids, whatever the room's version.
//
// Spec: https://spec.matrix.org/latest/appendices/#room-ids
func ParseRoomID(s string) (RoomID, error) {
	if err := opaque('!', s); err != nil {
		return "", fmt.Errorf("room id %q: %w", clip(s), err)
	}
	return RoomID(s), nil
}

// Server is the server in the id, or "" when the id has none (room version 12).
func (r RoomID) Server() ServerName { return server(string(r)) }

// ParseEventID accepts both forms of event ids, whatever the room's version.
//
// Spec: https://spec.matrix.org/latest/appendices/#event-ids
func ParseEventID(s string) (EventID, error) {
	if err := opaque('$', s); err != nil {
		return "", fmt.Errorf("event id %q: %w", clip(s), err)
	}
	return EventID(s), nil
}

// Server is the server in the id, or "" when the id has none (room version 3 and later).
func (e EventID) Server() ServerName { return server(string(e)) }

// ParseRoomAlias accepts a room alias. Its localpart may have any code points but ':' and NUL,
// and must not be empty.
//
// Spec: https://spec.matrix.org/latest/appendices/#room-aliases
func ParseRoomAlias(s string) (RoomAlias, error) {
	colon, err := splitServer('#', s)
	if err == nil && colon == 1 {
		err = errEmpty
	}
	if err != nil {
		return "", fmt.Errorf("room alias %q: %w", clip(s), err)
	}
	return RoomAlias(s), nil
}

// Localpart is what stands between '#' and the first ':'.
func (a RoomAlias) Localpart() string { return localpart(string(a)) }

// Server is the server that keeps the alias.
func (a RoomAlias) Server() ServerName { return server(string(a)) }

// ParseServerName accepts a DNS name, an IPv4 literal or an IPv6 literal in brackets,
// with an optional port of one to five digits.
//
// Spec: https://spec.matrix.org/latest/appendices/#server-name
func ParseServerName(s string) (ServerName, error) {
	if len(s) > MaxLength {
		return "", fmt.Errorf("server name %q: %w", clip(s), errLong)
	}
	if !validServer(s) {
		return "", fmt.Errorf("server name %q: %w", clip(s), errServer)
	}
	return ServerName(s), nil
}

// Host is the name without the port; an IPv6 literal keeps its brackets.
func (s ServerName) Host() string {
	host, _ := splitPort(string(s))
	return host
}

// Port is the text after the host's ':', or "".
func (s ServerName) Port() string {
	_, port := splitPort(string(s))
	return strings.TrimPrefix(port, ":")
}

// splitServer checks "&localpart:server" and returns where the first ':' stands.
func splitServer(sigil byte, s string) (int, error) {
	if err := common(sigil, s); err != nil {
		return 0, err
	}
	colon := strings.IndexByte(s, ':')
	if colon < 0 {
		return 0, errNoColon
	}
	if !validServer(s[colon+1:]) {
		return 0, errServer
	}
	return colon, nil
}

// opaque checks "&opaque" and "&opaque:server".
func opaque(sigil byte, s string) error {
	if err := common(sigil, s); err != nil {
		return err
	}
	colon := strings.IndexByte(s, ':')
	switch {
	case len(s) == 1 || colon == 1:
		return errEmpty
	case colon >= 0 && !validServer(s[colon+1:]):
		return errServer
	}
	return nil
}

// common checks what holds for every identifier with a sigil.
func common(sigil byte, s string) error {
	switch {
	case s == "":
		return errEmpty
	case len(s) > MaxLength:
		return errLong
	case s[0] != sigil:
		return errSigil
	case strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s):
		return errChars
	}
	return nil
}

func localpart(s string) string {
	local, _, _ := strings.Cut(s, ":")
	if local == "" {
		return ""
	}
	return local[1:]
}

func server(s string) ServerName {
	_, name, _ := strings.Cut(s, ":")
	return ServerName(name)
}

func notLocalpart(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("._=-/+", r))
}

func validServer(s string) bool {
	host, port := splitPort(s)
	if port != "" && !validPort(port) {
		return false
	}
	if strings.HasPrefix(host, "[") {
		return validIPv6(host)
	}
	return validDNS(host)
}

// splitPort cuts in front of the ':' that follows the host, if there is one.
func splitPort(s string) (host, port string) {
	from := 0
	if strings.HasPrefix(s, "[") {
		from = max(strings.IndexByte(s, ']'), 0)
	}
	if i := strings.IndexByte(s[from:], ':'); i >= 0 {
		return s[:from+i], s[from+i:]
	}
	return s, ""
}

// validPort: port = 1*5DIGIT, here with its ':'.
func validPort(s string) bool {
	if len(s) < 2 || len(s) > 6 {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// validIPv6 takes the literal with its brackets. A zone is no part of the grammar.
func validIPv6(s string) bool {
	if len(s) < 4 || s[len(s)-1] != ']' || strings.IndexByte(s, '%') >= 0 {
		return false
	}
	addr, err := netip.ParseAddr(s[1 : len(s)-1])
	return err == nil && addr.Is6()
}

// validDNS: dns-name = 1*255dns-char; IPv4 literals are inside this grammar.
func validDNS(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return s != ""
}

// clip keeps error texts short when a peer sends something long.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
