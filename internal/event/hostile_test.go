package event_test

import (
	"encoding/base64"
	"strconv"
	"strings"
	"testing"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/stretchr/testify/require"
)

// Events as a hostile server sends them, in every room version.

// taken reports for which versions ParseUntrusted takes an event whose value at path is another.
func taken(t *testing.T, path, value string) (versions []int) {
	t.Helper()
	for v := 1; v <= 12; v++ {
		_, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(v)), []byte(set(t, valid(v), path, value)))
		if err == nil {
			versions = append(versions, v)
		}
	}
	return versions
}

func versions(first, last int) (all []int) {
	for v := first; v <= last; v++ {
		all = append(all, v)
	}
	return all
}

// FP-01, F-01, F-03: the depth is an integer from 0 to 2^53-1, before version 6 to 2^63-1.
func TestDepth(t *testing.T) {
	tests := []struct {
		depth string
		want  []int
	}{
		{`0`, versions(1, 12)},
		{`1`, versions(1, 12)},
		{`9007199254740990`, versions(1, 12)},
		{`9007199254740991`, versions(1, 12)},
		{`9007199254740992`, versions(1, 5)},
		{`9223372036854775807`, versions(1, 5)},
		{`9223372036854775808`, nil},
		{`99999999999999999999999`, nil},
		{`-1`, nil},
		{`-9007199254740991`, nil},
		{`-9223372036854775808`, nil},
		{`7.0`, nil},
		{`7.5`, nil},
		{`1e-1`, nil},
		{`1e400`, nil},
		{`NaN`, nil},
		{`Infinity`, nil},
		{`-0`, versions(1, 5)}, // is 0 in canonical form, which version 6 on must have already
		{`07`, nil},
		{`+7`, nil},
		{`"7"`, nil},
		{`true`, nil},
		{`null`, nil},
		{`[7]`, nil},
		{`{}`, nil},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, taken(t, "depth", tt.depth), "depth %s", tt.depth)
	}
}

// F-07, FP-20, FP-21: numbers that are not canonical JSON are refused from version 6 on, and kept
// byte for byte before it.
func TestNumbersInContent(t *testing.T) {
	tests := []struct {
		number string
		want   []int
		kept   string // in versions 1 to 5
	}{
		{`1.0`, versions(1, 5), `1.0`},
		{`1.50`, versions(1, 5), `1.50`},
		{`1E-3`, versions(1, 5), `1E-3`},
		{`-0.0`, versions(1, 5), `-0.0`},
		{`9007199254740992`, versions(1, 5), `9007199254740992`},
		{`-9007199254740992`, versions(1, 5), `-9007199254740992`},
		{`123456789012345678901234567890`, versions(1, 5), `123456789012345678901234567890`},
		{`-0`, versions(1, 5), `0`},
		{`1e10`, versions(1, 5), `10000000000`}, // as the appendix writes it
		{`9007199254740991`, versions(1, 12), `9007199254740991`},
		{`-9007199254740991`, versions(1, 12), `-9007199254740991`},
		{`NaN`, nil, ``},
		{`-Infinity`, nil, ``},
		{`01`, nil, ``},
		{`.5`, nil, ``},
		{`1.`, nil, ``},
		{`0x10`, nil, ``},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, taken(t, "content.n", tt.number), "%s", tt.number)
		require.Equal(t, tt.want, taken(t, "content.a.b.c", "["+tt.number+"]"), "%s inside", tt.number)
		if tt.kept == "" {
			continue
		}
		e, err := event.ParseUntrusted(rulesOf(t, "5"), []byte(set(t, valid(5), "content.n", tt.number)))
		require.NoError(t, err)
		require.Equal(t, `{"body":"hi","n":`+tt.kept+`}`, string(e.Content()))
		again, err := event.ParseUntrusted(e.Rules, e.JSON)
		require.NoError(t, err)
		require.Equal(t, e, again, "its bytes, and so its hashes, stay")
	}
}

// F-05: 65,536 bytes of canonical JSON with signatures and without unsigned, however the sender wrote it.
func TestSizeInEveryVersion(t *testing.T) {
	for v := 1; v <= 12; v++ {
		rules := rulesOf(t, strconv.Itoa(v))
		e, err := event.ParseUntrusted(rules, []byte(set(t, valid(v), "content.body", `""`)))
		require.NoError(t, err)
		room := event.MaxPDU - len(e.JSON)
		bodies := []struct {
			name, body string
			size       int // of the body in canonical form
		}{
			{"letters", strings.Repeat("x", room), room},
			{"one letter more", strings.Repeat("x", room+1), room + 1},
			{"escaped letters", strings.Repeat(`\u0078`, room), room},
			{"one escaped letter more", strings.Repeat(`\u0078`, room) + "x", room + 1},
			{"letters of two bytes", strings.Repeat("é", room/2), room / 2 * 2},
			{"one letter of two bytes more", strings.Repeat("é", room/2+1), room/2*2 + 2},
			{"quotes", strings.Repeat(`\"`, room/2), room / 2 * 2},
			{"one quote more", strings.Repeat(`\"`, room/2+1), room/2*2 + 2},
		}
		for _, b := range bodies {
			raw := []byte(strings.Replace(valid(v), `"hi"`, `"`+b.body+`"`, 1))
			e, err := event.ParseUntrusted(rules, raw)
			if b.size > room {
				require.ErrorIs(t, err, mxerr.TooLarge, "version %d, %s", v, b.name)
				_, err = event.ParseBackfilled(rules, raw)
				require.ErrorIs(t, err, mxerr.TooLarge, "version %d, %s, backfilled", v, b.name)
				continue
			}
			require.NoError(t, err, "version %d, %s", v, b.name)
			require.Len(t, e.JSON, event.MaxPDU-room+b.size)
		}
	}
}

// EV-09: 255 bytes, not code points, in every version.
func TestLengthOfIDs(t *testing.T) {
	fill := func(head, letter, tail string, size int) string {
		n := (size - len(head) - len(tail)) / len(letter)
		return head + strings.Repeat(letter, n) + strings.Repeat("a", size-len(head)-len(tail)-n*len(letter)) + tail
	}
	tests := []struct {
		path, head, letter, tail string
		first, last              int // the versions that take 255 bytes
	}{
		{"type", "", "a", "", 1, 12},
		{"type", "", "é", "", 1, 12},
		{"state_key", "", "a", "", 1, 12},
		{"state_key", "", "😀", "", 1, 12},
		{"sender", "@", "a", ":example.org", 1, 12},
		{"sender", "@", "é", ":example.org", 1, 12},
		{"room_id", "!", "a", ":example.org", 1, 11},
		{"room_id", "!", "é", ":example.org", 1, 11},
		{"event_id", "$", "a", ":example.org", 1, 2},
		{"event_id", "$", "é", ":example.org", 1, 2},
	}
	for _, tt := range tests {
		longest := fill(tt.head, tt.letter, tt.tail, 255)
		require.Len(t, longest, 255)
		require.Equal(t, versions(tt.first, tt.last), taken(t, tt.path, `"`+longest+`"`), "%s of 255 bytes of %s", tt.path, tt.letter)
		require.Empty(t, taken(t, tt.path, `"`+fill(tt.head, tt.letter, tt.tail, 256)+`"`), "%s of 256 bytes of %s", tt.path, tt.letter)
	}
}

// F-11: prev_events and auth_events are lists of ids, in versions 1 and 2 of pairs of an id and its
// hashes, and of limited length.
func TestReferences(t *testing.T) {
	pairs := func(n int) string {
		return `[` + strings.TrimSuffix(strings.Repeat(`["$p:example.org",{"sha256":"cA"}],`, n), ",") + `]`
	}
	ids := func(n int) string {
		return `[` + strings.TrimSuffix(strings.Repeat(`"`+prevID+`",`, n), ",") + `]`
	}
	long := `"$` + strings.Repeat("a", 255) + `"`
	tests := []struct {
		name, value string
		prev, auth  []int
	}{
		{"none", `[]`, nil, versions(1, 12)},
		{"one", ids(1), versions(3, 12), versions(3, 12)},
		{"one pair", pairs(1), versions(1, 2), versions(1, 2)},
		{"10", ids(10), versions(3, 12), versions(3, 12)},
		{"10 pairs", pairs(10), versions(1, 2), versions(1, 2)},
		{"11", ids(11), versions(3, 12), nil},
		{"11 pairs", pairs(11), versions(1, 2), nil},
		{"20", ids(20), versions(3, 12), nil},
		{"20 pairs", pairs(20), versions(1, 2), nil},
		{"21", ids(21), nil, nil},
		{"21 pairs", pairs(21), nil, nil},
		{"10,000", `[` + strings.TrimSuffix(strings.Repeat(`"$",`, 10000), ",") + `]`, nil, nil},
		{"a string", `"` + prevID + `"`, nil, nil},
		{"an object", `{"` + prevID + `":{}}`, nil, nil},
		{"null", `null`, nil, nil},
		{"a number", `1`, nil, nil},
		{"integers", `[1,2]`, nil, nil},
		{"objects", `[{"event_id":"$a"}]`, nil, nil},
		{"an id and a pair", `["` + prevID + `",["$p:example.org",{"sha256":"cA"}]]`, nil, nil},
		{"lists of ids", `[["` + prevID + `"]]`, nil, nil},
		{"the empty string", `[""]`, nil, nil},
		{"only a sigil", `["$"]`, nil, nil},
		{"ids of rooms", `["!a:example.org"]`, nil, nil},
		{"an id with NUL", `["$a\u0000b"]`, nil, nil},
		{"an id of 256 bytes", `[` + long + `]`, nil, nil},
		{"a pair with an id of 256 bytes", `[[` + long + `,{}]]`, nil, nil},
		{"a pair in the wrong order", `[[{"sha256":"cA"},"$p:example.org"]]`, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.prev, taken(t, "prev_events", tt.value))
			require.Equal(t, tt.auth, taken(t, "auth_events", tt.value))
		})
	}
}

// An event of versions 1 and 2 chooses its id, and could name itself as what came before it.
func TestSelfReference(t *testing.T) {
	for _, v := range []int{1, 2} {
		for _, path := range []string{"prev_events", "auth_events"} {
			raw := set(t, valid(v), path, `[["$p:example.org",{"sha256":"cA"}],["$e:example.org",{"sha256":"cA"}]]`)
			_, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(v)), []byte(raw))
			require.ErrorIs(t, err, mxerr.BadJSON, "version %d, %s", v, path)
			_, err = event.ParseBackfilled(rulesOf(t, strconv.Itoa(v)), []byte(raw))
			require.ErrorIs(t, err, mxerr.BadJSON, "version %d, %s, backfilled", v, path)
		}
	}
}

// FH-03: what /backfill answers may have more references than an event may have today, and can be
// stored and read again.
func TestParseBackfilled(t *testing.T) {
	refs := func(v, n int) string {
		ref := `"` + prevID + `",`
		if v <= 2 {
			ref = `["$p:example.org",{"sha256":"cA"}],`
		}
		return `[` + strings.TrimSuffix(strings.Repeat(ref, n), ",") + `]`
	}
	for v := 1; v <= 12; v++ {
		rules := rulesOf(t, strconv.Itoa(v))
		raw := set(t, set(t, valid(v), "prev_events", refs(v, 500)), "auth_events", refs(v, 300))
		_, err := event.ParseUntrusted(rules, []byte(raw))
		require.ErrorIs(t, err, mxerr.BadJSON, "version %d", v)
		e, err := event.ParseBackfilled(rules, []byte(raw))
		require.NoError(t, err, "version %d", v)
		require.Len(t, e.PrevEvents, 500)
		require.Len(t, e.AuthEvents, 300)
		require.Equal(t, e.PrevEvents[0], e.PrevEvents[499])

		stored, err := event.ParseTrusted(rules, e.JSON, e.ID, e.Room)
		require.NoError(t, err)
		require.Equal(t, e, stored)
		redacted, err := e.Redacted()
		require.NoError(t, err)
		require.Equal(t, e.ID, redacted.ID)
		require.Len(t, redacted.PrevEvents, 500)
	}
}

// What ParseBackfilled lifts is nothing but the number of references.
func TestParseBackfilledRefuses(t *testing.T) {
	tests := []struct{ path, value string }{
		{"prev_events", `[]`}, {"prev_events", `["p"]`}, {"prev_events", `{}`}, {"auth_events", `null`}, {"auth_events", `[1]`},
		{"depth", `-1`}, {"type", ``}, {"content", `[]`}, {"sender", `"a"`}, {"hashes", ``},
	}
	for v := 1; v <= 12; v++ {
		rules := rulesOf(t, strconv.Itoa(v))
		plain, err := event.ParseUntrusted(rules, []byte(valid(v)))
		require.NoError(t, err)
		backfilled, err := event.ParseBackfilled(rules, []byte(valid(v)))
		require.NoError(t, err)
		require.Equal(t, plain, backfilled)
		for _, tt := range tests {
			_, err := event.ParseBackfilled(rules, []byte(set(t, valid(v), tt.path, tt.value)))
			require.ErrorIs(t, err, mxerr.BadJSON, "version %d, %s %s", v, tt.path, tt.value)
		}
	}
}

// FP-22, F-09, F-10: JSON that two parsers may read differently, and text that no database need bear.
func TestHostileJSON(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	tests := []struct {
		name, old, new string // replaced in a valid event
		ok             bool
	}{
		{"a key twice in content", `"hi"`, `"hi","body":"ho"`, false},
		{"a key twice, equal", `"hi"`, `"hi","body":"hi"`, false},
		{"a key twice, one escaped", `"hi"`, `"hi","\u0062ody":"hi"`, false},
		{"a key twice, deep", `"hi"`, `{"a":[{"b":1,"c":2,"b":3}]}`, false},
		{"a key twice in unsigned", `"content":`, `"unsigned":{"a":1,"a":2},"content":`, false},
		{"two contents", `"content":`, `"content":{},"content":`, false},
		{"two senders", `"sender":`, `"sender":"@b:example.org","sender":`, false},
		{"keys that differ in case", `"sender":`, `"Sender":"@b:example.org","SENDER":1,"sender":`, true},
		{"arrays, 97 deep", `"hi"`, nested(97), true},
		{"arrays, 9,000 deep", `"hi"`, nested(9000), false},
		{"objects, 9,000 deep", `"hi"`, strings.Repeat(`{"a":`, 9000) + `1` + strings.Repeat(`}`, 9000), false},
		{"60,000 open brackets", `"hi"`, strings.Repeat("[", 60000), false},
		{"60,000 deep in unsigned", `"content":`, `"unsigned":` + nested(30000) + `,"content":`, false},
		{"a byte that is no UTF-8", `hi`, "\xff", false},
		{"an overlong NUL", `hi`, "\xc0\x80", false},
		{"a surrogate in UTF-8", `hi`, "\xed\xa0\x80", false},
		{"beyond Unicode", `hi`, "\xf4\x90\x80\x80", false},
		{"UTF-8 cut short", `hi`, "\xe2\x82", false},
		{"no UTF-8 in a key", `"body"`, "\"\xff\"", false},
		{"first half of a pair", `hi`, `\ud800`, false},
		{"second half of a pair", `hi`, `\udc00`, false},
		{"halves in the wrong order", `hi`, `\udc00\ud800`, false},
		{"half in a key", `"body"`, `"\ud800"`, false},
		{"half in the type", `m.room.message`, `\ud800`, false},
		{"a pair", `hi`, `\ud83d\ude00`, true},
		{"NUL in content", `hi`, `\u0000`, true},
		{"NUL in a key", `"body"`, `"\u0000"`, true},
		{"NUL in the type", `m.room.message`, `a\u0000b`, true},
		{"NUL in the sender", `@a:`, `@a\u0000:`, false},
		{"NUL in the sender's server", `@a:example`, `@a:exa\u0000mple`, false},
		{"NUL as it is", `hi`, "\x00", false},
		{"a line break as it is", `hi`, "\n", false},
		{"a byte order mark", `{"`, "\xef\xbb\xbf{\"", false},
		{"single quotes", `"hi"`, `'hi'`, false},
		{"a comment", `"hi"`, `/**/"hi"`, false},
		{"a comma too many", `"hi"`, `"hi",`, false},
		{"a second value", `"hi"}`, `"hi"}}{`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for v := 1; v <= 12; v++ {
				raw := strings.Replace(valid(v), tt.old, tt.new, 1)
				require.NotEqual(t, valid(v), raw)
				e, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(v)), []byte(raw))
				require.Equal(t, tt.ok, err == nil, "version %d: %v", v, err)
				if err == nil {
					require.Equal(t, id.UserID("@a:example.org"), e.Sender)
					wantClientForm(t, e)
				}
			}
		})
	}
}

// A state key may be any text: NUL, what looks like another's id, what a database would sort otherwise.
func TestStateKeyIsAnyText(t *testing.T) {
	for key, want := range map[string]string{`""`: "", `"\u0000"`: "\x00", `"@b:example.org"`: "@b:example.org", `" \ufffe"`: " \ufffe"} {
		for v := 1; v <= 12; v++ {
			e, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(v)), []byte(set(t, valid(v), "state_key", key)))
			require.NoError(t, err)
			require.True(t, e.Is("m.room.message", want), "version %d: %q", v, *e.StateKey)
		}
	}
}

// FP-23: ids of users as they were before there was a grammar for them.
func TestHistoricalSenders(t *testing.T) {
	tests := []struct {
		sender string
		ok     bool
	}{
		{`@:example.org`, true},
		{`@A Space:example.org`, true},
		{`@é😀:example.org`, true},
		{`@\n\t\u0001:example.org`, true},
		{`@a@b#c$d!e:example.org`, true},
		{`@a:example.org:8448`, true},
		{`@a:[::1]:8448`, true},
		{`@a:1.2.3.4`, true},
		{`@a`, false},
		{`@a:`, false},
		{`@a:b c`, false},
		{`@a:exa_mple`, false},
		{`@a:b:port`, false},
		{`a:example.org`, false},
		{``, false},
	}
	for _, tt := range tests {
		var want []int
		if tt.ok {
			want = versions(1, 12)
		}
		require.Equal(t, want, taken(t, "sender", `"`+tt.sender+`"`), "sender %s", tt.sender)
	}
}

// F-27: what has the format of one version is refused in a room of another.
func TestFormatOfAnotherVersion(t *testing.T) {
	family := func(v int) int { // versions of a family share the format of a message
		switch {
		case v <= 2:
			return 1
		case v == 12:
			return 3
		}
		return 2
	}
	for sent := 1; sent <= 12; sent++ {
		for room := 1; room <= 12; room++ {
			_, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(room)), []byte(valid(sent)))
			require.Equal(t, family(sent) == family(room), err == nil, "version %d to a room of version %d: %v", sent, room, err)
		}
	}
}

// FP-03, F-15: an event whose content was changed after it was signed keeps its signature and its
// id, fails its content hash, and is used without what was changed.
func TestChangedContentIsRedacted(t *testing.T) {
	for v := 1; v <= 12; v++ {
		e, key := built(t, draft(t, v))
		raw := set(t, string(e.JSON), "content.body", `"something else"`)
		changed, err := event.ParseUntrusted(e.Rules, []byte(set(t, raw, "content.url", `"mxc://a/b"`)))
		require.NoError(t, err)
		require.False(t, event.CheckContentHash(changed), "version %d", v)
		require.NoError(t, event.VerifySignature(changed, "example.org", key.ID, key.Public()), "version %d", v)
		require.Equal(t, e.ID, changed.ID)

		redacted, err := changed.Redacted()
		require.NoError(t, err)
		require.Equal(t, `{}`, string(redacted.Content()))
		require.NotContains(t, string(redacted.JSON), "something else")
		honest, err := e.Redacted()
		require.NoError(t, err)
		require.Equal(t, honest, redacted, "it is what is left of the honest event")
	}
}

// What redaction keeps cannot be changed: it is under the signature, and from version 3 on in the id.
func TestChangedProtectedFields(t *testing.T) {
	member := "@a:example.org"
	for v := 1; v <= 12; v++ {
		d := draft(t, v)
		d.Type, d.StateKey, d.Content = "m.room.member", &member, []byte(`{"membership":"leave"}`)
		e, key := built(t, d)
		for path, value := range map[string]string{
			"content.membership": `"join"`, "state_key": `"@b:example.org"`, "sender": `"@b:example.org"`, "type": `"m.room.message"`,
			"depth": `4`, "origin_server_ts": `1`, "auth_events": `[]`, "hashes.sha256": `"AAAA"`, "hashes.md5": `"AAAA"`,
		} {
			changed, err := event.ParseUntrusted(e.Rules, []byte(set(t, string(e.JSON), path, value)))
			require.NoError(t, err)
			require.ErrorIs(t, event.VerifySignature(changed, "example.org", key.ID, key.Public()), signing.ErrInvalid, "version %d, %s", v, path)
			require.Equal(t, v <= 2, e.ID == changed.ID, "version %d, %s", v, path)
		}
	}
}

// FP-16, F-16, F-17: one good signature of the server's own key, in base64 with or without padding.
func TestForgedSignatures(t *testing.T) {
	e, key := built(t, draft(t, 11))
	good, err := signing.Signature(e.JSON, "example.org", key.ID)
	require.NoError(t, err)
	flipped := append([]byte{good[0] ^ 1}, good[1:]...)
	other := testKey(t, "2")
	elsewhere, err := e.Sign("evil.example", other)
	require.NoError(t, err)
	raw := func(text string) string { return `{"example.org":{"ed25519:1":"` + text + `"}}` }
	text := base64.RawStdEncoding.EncodeToString(good)
	tests := []struct {
		name, signatures string
		want             error
	}{
		{"as it was", raw(text), nil},
		{"padded", raw(text + "=="), nil},
		{"another server's beside it", `{"evil.example":{"ed25519:1":"AAAA"},"example.org":{"ed25519:1":"` + text + `"}}`, nil},
		{"another algorithm beside it", `{"example.org":{"rsa:1":"AAAA","ed25519:1":"` + text + `"}}`, nil},
		{"none", `{}`, signing.ErrMissing},
		{"none of the server", `{"example.org":{}}`, signing.ErrMissing},
		{"of another server only", `{"evil.example":{"ed25519:1":"` + text + `"}}`, signing.ErrMissing},
		{"of another port", `{"example.org:8448":{"ed25519:1":"` + text + `"}}`, signing.ErrMissing},
		{"under another key id", `{"example.org":{"ed25519:2":"` + text + `"}}`, signing.ErrMissing},
		{"under another algorithm", `{"example.org":{"rsa:1":"` + text + `"}}`, signing.ErrMissing},
		{"not an object", `{"example.org":"` + text + `"}`, signing.ErrMissing},
		{"one bit flipped", raw(base64.RawStdEncoding.EncodeToString(flipped)), signing.ErrInvalid},
		{"cut short", raw(text[:84]), signing.ErrMalformed},
		{"a space inside", raw(text[:40] + " " + text[40:]), signing.ErrMalformed},
		{"a line break inside", raw(text[:40] + `\n` + text[40:]), signing.ErrMalformed},
		{"a line break behind", raw(text + `\r\n`), signing.ErrMalformed},
		{"empty", raw(""), signing.ErrMalformed},
		{"a number", `{"example.org":{"ed25519:1":5}}`, signing.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed, err := event.ParseUntrusted(e.Rules, []byte(set(t, string(e.JSON), "signatures", tt.signatures)))
			require.NoError(t, err)
			require.ErrorIs(t, event.VerifySignature(changed, "example.org", key.ID, key.Public()), tt.want)
		})
	}
	require.Equal(t, []string{"ed25519:1"}, elsewhere.SignedBy("example.org"))
	require.ErrorIs(t, event.VerifySignature(elsewhere, "example.org", key.ID, other.Public()), signing.ErrInvalid)
}

// FuzzSign: whatever is an event can be signed by one more server, without a change to what it says.
func FuzzSign(f *testing.F) {
	for v := 1; v <= 12; v++ {
		f.Add(uint8(v-1), []byte(valid(v)))
	}
	key := testKey(f, "1")
	f.Fuzz(func(t *testing.T, v uint8, raw []byte) {
		e, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(int(v%12)+1)), raw)
		if err != nil {
			return
		}
		signed, err := e.Sign("fuzz.example", key)
		if err != nil {
			require.ErrorIs(t, err, mxerr.TooLarge)
			return
		}
		require.NoError(t, event.VerifySignature(signed, "fuzz.example", key.ID, key.Public()))
		require.Equal(t, e.ID, signed.ID)
		require.Equal(t, event.CheckContentHash(e), event.CheckContentHash(signed))
		redacted, err := signed.Redacted()
		require.NoError(t, err)
		require.NoError(t, event.VerifySignature(redacted, "fuzz.example", key.ID, key.Public()))
	})
}
