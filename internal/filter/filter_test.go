package filter_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/filter"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

func TestPasses(t *testing.T) {
	const alice, bob = "@alice:test", "@bob:test"
	tests := []struct {
		name, filter, typ, sender, content string
		passes                             bool
	}{
		{"no filter", ``, "m.x", alice, `{}`, true},
		{"empty object", `{}`, "m.x", alice, `{}`, true},
		{"listed type", `{"types":["m.x"]}`, "m.x", alice, `{}`, true},
		{"other type", `{"types":["m.y"]}`, "m.x", alice, `{}`, false},
		{"an empty list lets nothing pass", `{"types":[]}`, "m.x", alice, `{}`, false},
		{"null is absent", `{"types":null}`, "m.x", alice, `{}`, true},
		{"wildcard", `{"types":["m.room.*"]}`, "m.room.name", alice, `{}`, true},
		{"wildcard elsewhere", `{"types":["m.room.*"]}`, "m.rooms", alice, `{}`, false},
		{"exclusion wins", `{"types":["m.x"],"not_types":["m.*"]}`, "m.x", alice, `{}`, false},
		{"an empty exclusion excludes nothing", `{"not_types":[]}`, "m.x", alice, `{}`, true},
		{"listed sender", `{"senders":["@alice:test"]}`, "m.x", alice, `{}`, true},
		{"other sender", `{"senders":["@alice:test"]}`, "m.x", bob, `{}`, false},
		{"excluded sender", `{"senders":["@bob:test"],"not_senders":["@bob:test"]}`, "m.x", bob, `{}`, false},
		{"wants a url", `{"contains_url":true}`, "m.x", alice, `{"url":"mxc://a/b"}`, true},
		{"has none", `{"contains_url":true}`, "m.x", alice, `{"info":{"url":1}}`, false},
		{"wants none", `{"contains_url":false}`, "m.x", alice, `{"url":null}`, false},
		{"none and wants none", `{"contains_url":false}`, "m.x", alice, `{}`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := filter.ParseRoomEvents(tt.filter)
			require.NoError(t, err)
			require.Equal(t, tt.passes, f.Passes(tt.typ, id.UserID(tt.sender), []byte(tt.content)), "filter %s", tt.filter)
		})
	}
}

func TestRooms(t *testing.T) {
	f, err := filter.ParseRoomEvents(`{"rooms":["!a:test","!b:test"],"not_rooms":["!b:test"]}`)
	require.NoError(t, err)
	require.True(t, f.PassesRoom("!a:test"))
	require.False(t, f.PassesRoom("!b:test"), "an excluded room")
	require.False(t, f.PassesRoom("!c:test"), "a room that is not listed")
}

func TestBadFiltersAreRefused(t *testing.T) {
	tests := []struct{ name, filter, code string }{
		{"not JSON", `{`, "M_BAD_JSON"},
		{"not an object", `[]`, "M_BAD_JSON"},
		{"types is no list", `{"types":"m.x"}`, "M_BAD_JSON"},
		{"limit is no integer", `{"limit":1.5}`, "M_BAD_JSON"},
		{"limit is negative", `{"limit":-1}`, "M_INVALID_PARAM"},
		{"sender is no user", `{"senders":["alice"]}`, "M_INVALID_PARAM"},
		{"excluded sender is no user", `{"not_senders":[""]}`, "M_INVALID_PARAM"},
		{"room is no room", `{"not_rooms":["#a:b"]}`, "M_INVALID_PARAM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := filter.ParseRoomEvents(tt.filter)
			var mx *mxerr.Error
			require.ErrorAs(t, err, &mx)
			require.Equal(t, tt.code, mx.Code)
		})
	}
}

// FuzzMatch: a pattern matches what the regular expression made of it matches.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{{"m.room.*", "m.room.name"}, {"*", ""}, {"a*b*a", "aba"}, {"a*a", "a"}, {"**", "x"}, {"a*bc*c", "abcc"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		expr := "(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$"
		re, err := regexp.Compile(expr)
		if err != nil {
			return // not UTF-8
		}
		if got, want := filter.Match(pattern, text), re.MatchString(text); got != want && !strings.ContainsRune(text, '�') {
			t.Errorf("Match(%q, %q) = %v, want %v", pattern, text, got, want)
		}
	})
}
