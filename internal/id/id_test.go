package id_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/stretchr/testify/require"
)

func TestParseUserID(t *testing.T) {
	tests := []struct {
		name, in, local, server string
		ok                      bool
	}{
		{"plain", "@alice:example.org", "alice", "example.org", true},
		{"port stays with the server", "@alice:example.org:8448", "alice", "example.org:8448", true},
		{"IPv6", "@alice:[1234:5678::abcd]:5678", "alice", "[1234:5678::abcd]:5678", true},
		{"historical: upper case", "@Alice:example.org", "Alice", "example.org", true},
		{"historical: any code point", "@ālice \t日本\u0001@:example.org", "ālice \t日本\u0001@", "example.org", true},
		{"historical: empty localpart", "@:example.org", "", "example.org", true},
		{"255 bytes", "@" + strings.Repeat("a", 242) + ":example.org", strings.Repeat("a", 242), "example.org", true},
		{"256 bytes", "@" + strings.Repeat("a", 243) + ":example.org", "", "", false},
		{"256 bytes in 130 code points", "@" + strings.Repeat("é", 121) + "a:example.org", "", "", false},
		{"empty", "", "", "", false},
		{"no sigil", "alice:example.org", "", "", false},
		{"sigil of a room", "!alice:example.org", "", "", false},
		{"no server", "@alice", "", "", false},
		{"empty server", "@alice:", "", "", false},
		{"colon in the localpart", "@al:ice:example.org", "", "", false},
		{"space in the server", "@alice:exam ple.org", "", "", false},
		{"NUL", "@al\x00ice:example.org", "", "", false},
		{"invalid UTF-8", "@al\xffice:example.org", "", "", false},
		{"encoded surrogate", "@al\xed\xa0\x80ice:example.org", "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := id.ParseUserID(tt.in)
			require.Equal(t, tt.ok, err == nil, "ParseUserID(%q): %v", tt.in, err)
			require.Equal(t, tt.local, u.Localpart())
			require.Equal(t, id.ServerName(tt.server), u.Server())
		})
	}
}

func TestNewUserID(t *testing.T) {
	tests := []struct {
		name, local string
		want        id.UserID
		ok          bool
	}{
		{"all that is allowed", "az09._=-/+", "@az09._=-/+:example.org", true},
		{"empty", "", "", false},
		{"upper case", "Alice", "", false},
		{"colon", "a:b", "", false},
		{"not ASCII", "ālice", "", false},
		{"space", "a b", "", false},
		{"255 bytes", strings.Repeat("a", 242), id.UserID("@" + strings.Repeat("a", 242) + ":example.org"), true},
		{"256 bytes", strings.Repeat("a", 243), "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := id.NewUserID(tt.local, "example.org")
			require.Equal(t, tt.ok, err == nil, "NewUserID(%q): %v", tt.local, err)
			require.Equal(t, tt.want, u)
		})
	}
}

func TestCompliant(t *testing.T) {
	tests := []struct {
		user id.UserID
		want bool
	}{
		{"@alice:x", true},
		{"@Al!ce:x", true},
		{"@:x", false},
		{"@a b:x", false},
		{"@ālice:x", false},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, tt.user.Compliant(), "%s.Compliant()", tt.user)
	}
}

func TestParseRoomID(t *testing.T) {
	tests := []struct {
		name, in, server string
		ok               bool
	}{
		{"with a server", "!abc:example.org", "example.org", true},
		{"with a server and port", "!abc:example.org:1", "example.org:1", true},
		{"without a server", "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ", "", true},
		{"control characters are legal", "!a\u0001b:x", "x", true},
		{"empty", "", "", false},
		{"only a sigil", "!", "", false},
		{"empty opaque part", "!:example.org", "", false},
		{"empty server", "!abc:", "", false},
		{"two colons", "!a:b:c", "", false},
		{"sigil of an alias", "#abc:example.org", "", false},
		{"NUL", "!a\x00:x", "", false},
		{"too long", "!" + strings.Repeat("a", 255), "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := id.ParseRoomID(tt.in)
			require.Equal(t, tt.ok, err == nil, "ParseRoomID(%q): %v", tt.in, err)
			require.Equal(t, id.ServerName(tt.server), r.Server())
		})
	}
}

func TestParseEventID(t *testing.T) {
	tests := []struct {
		name, in, server string
		ok               bool
	}{
		{"version 1", "$abc:example.org", "example.org", true},
		{"version 3", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk", "", true},
		{"version 4", "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", "", true},
		{"only a sigil", "$", "", false},
		{"no sigil", "abc", "", false},
		{"empty opaque part", "$:x", "", false},
		{"NUL", "$a\x00", "", false},
		{"invalid UTF-8", "$a\xff", "", false},
		{"too long", "$" + strings.Repeat("a", 255), "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := id.ParseEventID(tt.in)
			require.Equal(t, tt.ok, err == nil, "ParseEventID(%q): %v", tt.in, err)
			require.Equal(t, id.ServerName(tt.server), e.Server())
		})
	}
}

func TestParseRoomAlias(t *testing.T) {
	tests := []struct {
		name, in, local, server string
		ok                      bool
	}{
		{"plain", "#a:example.org", "a", "example.org", true},
		{"port stays with the server", "#a:example.org:8448", "a", "example.org:8448", true},
		{"any code point", "#日本 語!:example.org", "日本 語!", "example.org", true},
		{"colon in the localpart", "#a:b:example.org", "", "", false},
		{"no sigil", "a:example.org", "", "", false},
		{"no server", "#a", "", "", false},
		{"empty localpart", "#:example.org", "", "", false},
		{"NUL", "#a\x00:example.org", "", "", false},
		{"256 bytes", "#" + strings.Repeat("a", 243) + ":example.org", "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := id.ParseRoomAlias(tt.in)
			require.Equal(t, tt.ok, err == nil, "ParseRoomAlias(%q): %v", tt.in, err)
			require.Equal(t, tt.local, a.Localpart())
			require.Equal(t, id.ServerName(tt.server), a.Server())
		})
	}
}

func TestParseServerName(t *testing.T) {
	tests := []struct {
		in, host, port string
		ok             bool
	}{
		{"matrix.org", "matrix.org", "", true},
		{"matrix.org:8888", "matrix.org", "8888", true},
		{"MATRIX.org", "MATRIX.org", "", true},
		{"localhost", "localhost", "", true},
		{"1.2.3.4", "1.2.3.4", "", true},
		{"1.2.3.4:1234", "1.2.3.4", "1234", true},
		{"[1234:5678::abcd]", "[1234:5678::abcd]", "", true},
		{"[1234:5678::abcd]:5678", "[1234:5678::abcd]", "5678", true},
		{"[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", "", true},
		{"", "", "", false},
		{":8448", "", "", false},
		{"a:", "", "", false},
		{"a:123456", "", "", false},
		{"a:1b", "", "", false},
		{"a:-1", "", "", false},
		{"a:1:2", "", "", false},
		{"a_b", "", "", false},
		{"a/b", "", "", false},
		{"ä.org", "", "", false},
		{"a b", "", "", false},
		{"a\x00", "", "", false},
		{"[::1", "", "", false},
		{"[::1]x", "", "", false},
		{"[]", "", "", false},
		{"[::1%eth0]", "", "", false},
		{"[1.2.3.4]", "", "", false},
		{"[gg::]", "", "", false},
		{"::1", "", "", false},
		{strings.Repeat("a", 256), "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			s, err := id.ParseServerName(tt.in)
			require.Equal(t, tt.ok, err == nil, "ParseServerName(%q): %v", tt.in, err)
			require.Equal(t, tt.host, s.Host())
			require.Equal(t, tt.port, s.Port())
		})
	}
}

// FuzzParse: an identifier that was accepted is unchanged, is no longer than it may be, has text
// that any database takes, and its parts make it up again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"@a:b", "@:b:1", "!a:b", "!hash", "$a:b", "$hash", "#a:b", "#日:[::1]:80", "@a\x00:b", "@\xff:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := id.ParseUserID(s); err == nil {
			wantSound(t, s, string(u), "@"+u.Localpart()+":"+string(u.Server()), u.Server())
		}
		if a, err := id.ParseRoomAlias(s); err == nil {
			wantSound(t, s, string(a), "#"+a.Localpart()+":"+string(a.Server()), a.Server())
		}
		if r, err := id.ParseRoomID(s); err == nil {
			wantSound(t, s, string(r), s, r.Server())
		}
		if e, err := id.ParseEventID(s); err == nil {
			wantSound(t, s, string(e), s, e.Server())
		}
		if u, err := id.NewUserID(s, "example.org"); err == nil {
			parsed, err := id.ParseUserID(string(u))
			require.NoError(t, err, "a new user id parses: %q", u)
			require.True(t, parsed.Compliant(), "a new user id is compliant: %q", u)
			require.Equal(t, s, parsed.Localpart())
		}
	})
}

func wantSound(t *testing.T, in, out, joined string, server id.ServerName) {
	t.Helper()
	require.Equal(t, in, out)
	require.Equal(t, in, joined)
	require.LessOrEqual(t, len(out), id.MaxLength)
	require.True(t, utf8.ValidString(out) && !strings.Contains(out, "\x00"), "%q is text for a database", out)
	if server != "" {
		_, err := id.ParseServerName(string(server))
		require.NoError(t, err)
	}
}
