package event_test

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/sjson"
)

const (
	prevID = "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"
	roomID = "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"
)

// valid is a message that parses in versions from to to.
func valid(version int) string {
	room, refs, eventID := "!r:example.org", `["`+prevID+`"]`, ""
	if version <= 2 {
		refs, eventID = `[["$p:example.org",{"sha256":"cA"}]]`, `"event_id":"$e:example.org",`
	}
	if version == 12 {
		room = roomID
	}
	return `{` + eventID + `"type":"m.room.message","room_id":"` + room + `","sender":"@a:example.org","content":{"body":"hi"},
		"depth":7,"origin_server_ts":1700000000000,"prev_events":` + refs + `,"auth_events":` + refs + `,
		"hashes":{"sha256":"aGFzaA"},"signatures":{"example.org":{"ed25519:1":"c2ln"}}}`
}

// set returns raw with one value changed; an empty value deletes it.
func set(t testing.TB, raw, path, value string) string {
	t.Helper()
	var out string
	var err error
	if value == "" {
		out, err = sjson.Delete(raw, path)
	} else {
		out, err = sjson.SetRaw(raw, path, value)
	}
	require.NoError(t, err)
	return out
}

func TestParseUntrusted(t *testing.T) {
	raw := set(t, valid(11), "unsigned", `{"age":5}`)
	raw = set(t, raw, "zzz", `[1]`)
	raw = set(t, raw, "state_key", `"k\u000a"`)
	e, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(raw))
	require.NoError(t, err)
	require.Equal(t, id.RoomID("!r:example.org"), e.Room)
	require.Equal(t, id.UserID("@a:example.org"), e.Sender)
	require.Equal(t, "m.room.message", e.Type)
	require.Equal(t, "k\n", *e.StateKey)
	require.True(t, e.IsState())
	require.True(t, e.Is("m.room.message", "k\n"))
	require.False(t, e.Is("m.room.message", ""))
	require.Equal(t, int64(7), e.Depth)
	require.Equal(t, int64(1700000000000), e.OriginServerTS)
	require.Equal(t, []id.EventID{prevID}, e.PrevEvents)
	require.Equal(t, []id.EventID{prevID}, e.AuthEvents)
	require.Equal(t, `{"body":"hi"}`, string(e.Content()))
	require.Equal(t, rulesOf(t, "11"), e.Rules)
	require.Regexp(t, `^\$[A-Za-z0-9_-]{43}$`, string(e.ID))
	require.NotContains(t, string(e.JSON), "unsigned")
	require.Contains(t, string(e.JSON), `,"type":"m.room.message","zzz":[1]}`)
}

func TestParseUntrustedDropsUnsigned(t *testing.T) {
	plain, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(valid(11)))
	require.NoError(t, err)
	big := `{"x":"` + strings.Repeat("y", 70000) + `"}`
	for _, unsigned := range []string{`{}`, `null`, `"x"`, `[{"unsigned":1}]`, big} {
		e, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(set(t, valid(11), "unsigned", unsigned)))
		require.NoError(t, err)
		require.Equal(t, plain, e)
		require.Less(t, cap(e.JSON), 3000, "what the event holds on to")
	}
}

func TestParseEveryVersion(t *testing.T) {
	for v := 1; v <= 12; v++ {
		e, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(v)), []byte(valid(v)))
		require.NoError(t, err, "version %d", v)
		again, err := event.ParseTrusted(e.Rules, e.JSON, e.ID, e.Room)
		require.NoError(t, err)
		require.Equal(t, e, again)
	}
}

// TestParseRefuses changes one thing of a valid event.
func TestParseRefuses(t *testing.T) {
	long := `"` + strings.Repeat("é", 128) + `"` // 256 bytes
	tests := []struct {
		name, path, value string
		want              error
	}{
		{"no type", "type", ``, mxerr.BadJSON},
		{"type is a number", "type", `1`, mxerr.BadJSON},
		{"type is too long in bytes", "type", long, mxerr.TooLarge},
		{"no sender", "sender", ``, mxerr.BadJSON},
		{"sender is null", "sender", `null`, mxerr.BadJSON},
		{"sender is no user id", "sender", `"a"`, mxerr.BadJSON},
		{"sender with NUL", "sender", `"@a\u0000:b"`, mxerr.BadJSON},
		{"sender is too long", "sender", `"@` + strings.Repeat("a", 255) + `:b"`, mxerr.TooLarge},
		{"no room_id", "room_id", ``, mxerr.BadJSON},
		{"room_id is an array", "room_id", `["!r:x"]`, mxerr.BadJSON},
		{"room_id is no room id", "room_id", `"r"`, mxerr.BadJSON},
		{"room_id is too long", "room_id", `"!` + strings.Repeat("a", 255) + `:b"`, mxerr.TooLarge},
		{"state_key is null", "state_key", `null`, mxerr.BadJSON},
		{"state_key is a number", "state_key", `1`, mxerr.BadJSON},
		{"state_key is too long in bytes", "state_key", long, mxerr.TooLarge},
		{"no content", "content", ``, mxerr.BadJSON},
		{"content is null", "content", `null`, mxerr.BadJSON},
		{"content is a string", "content", `"{}"`, mxerr.BadJSON},
		{"content is an array", "content", `[]`, mxerr.BadJSON},
		{"no depth", "depth", ``, mxerr.BadJSON},
		{"depth is a string", "depth", `"7"`, mxerr.BadJSON},
		{"depth is negative", "depth", `-1`, mxerr.BadJSON},
		{"depth is too big for 64 bits", "depth", `9223372036854775808`, mxerr.BadJSON},
		{"depth is a fraction", "depth", `1.5`, mxerr.BadJSON},
		{"no origin_server_ts", "origin_server_ts", ``, mxerr.BadJSON},
		{"origin_server_ts is a string", "origin_server_ts", `"1"`, mxerr.BadJSON},
		{"no hashes", "hashes", ``, mxerr.BadJSON},
		{"hashes is an array", "hashes", `[]`, mxerr.BadJSON},
		{"no signatures", "signatures", ``, mxerr.BadJSON},
		{"signatures is a string", "signatures", `"x"`, mxerr.BadJSON},
		{"no prev_events", "prev_events", ``, mxerr.BadJSON},
		{"no prev_event", "prev_events", `[]`, mxerr.BadJSON},
		{"prev_events is a string", "prev_events", `"$p"`, mxerr.BadJSON},
		{"prev_events is an object", "prev_events", `{}`, mxerr.BadJSON},
		{"prev_events of numbers", "prev_events", `[1]`, mxerr.BadJSON},
		{"prev_events of no ids", "prev_events", `["p"]`, mxerr.BadJSON},
		{"prev_events with null", "prev_events", `["$p",null]`, mxerr.BadJSON},
		{"no auth_events", "auth_events", ``, mxerr.BadJSON},
		{"auth_events is null", "auth_events", `null`, mxerr.BadJSON},
		{"auth_events of objects", "auth_events", `[{}]`, mxerr.BadJSON},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for v := 1; v <= 12; v++ {
				raw := set(t, valid(v), tt.path, tt.value)
				_, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(v)), []byte(raw))
				require.ErrorIs(t, err, tt.want, "version %d", v)
			}
		})
	}
}

// TestParseByVersion: what one version takes and another refuses.
func TestParseByVersion(t *testing.T) {
	tests := []struct {
		name, path, value string
		first, last       int // the versions that take it
	}{
		{"references in pairs", "prev_events", `[["$p:x",{"sha256":"cA"}]]`, 1, 2},
		{"references are ids", "prev_events", `["$p"]`, 3, 12},
		{"pair without a hash", "prev_events", `[["$p:x"]]`, 0, 0},
		{"pair with a third", "prev_events", `[["$p:x",{},{}]]`, 0, 0},
		{"pair with a string for hashes", "prev_events", `[["$p:x","cA"]]`, 0, 0},
		{"event_id in the event", "event_id", `"$x:example.org"`, 1, 2},
		{"event_id without a server", "event_id", `"$x"`, 0, 0},
		{"no event_id", "event_id", ``, 3, 12},
		{"room_id with a server", "room_id", `"!r:example.org"`, 1, 11},
		{"room_id without a server", "room_id", `"` + roomID + `"`, 12, 12},
		{"a float in content", "content.x", `1.0`, 1, 5},
		{"an exponent in content", "content.x", `1e3`, 1, 5},
		{"-0 in content", "content.x", `-0`, 1, 5},
		{"2^53 in content", "content.x", `9007199254740992`, 1, 5},
		{"2^53 in unsigned", "unsigned.x", `9007199254740992`, 1, 5},
		{"2^53-1 in content", "content.x", `9007199254740991`, 1, 12},
		{"depth 2^53-1", "depth", `9007199254740991`, 1, 12},
		{"depth 2^53", "depth", `9007199254740992`, 1, 5},
		{"depth 2^63-1", "depth", `9223372036854775807`, 1, 5},
		{"deep content", "content.x", strings.Repeat("[", 98) + strings.Repeat("]", 98), 1, 12},
		{"too deep content", "content.x", strings.Repeat("[", 99) + strings.Repeat("]", 99), 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for v := 1; v <= 12; v++ {
				raw := set(t, valid(v), tt.path, tt.value)
				_, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(v)), []byte(raw))
				require.Equal(t, tt.first <= v && v <= tt.last, err == nil, "version %d: %v", v, err)
			}
		})
	}
}

func TestParseNumberOfReferences(t *testing.T) {
	list := func(n int) string {
		return `[` + strings.TrimSuffix(strings.Repeat(`"`+prevID+`",`, n), ",") + `]`
	}
	tests := []struct {
		path string
		n    int
		ok   bool
	}{
		{"prev_events", 20, true}, {"prev_events", 21, false}, {"prev_events", 500, false},
		{"auth_events", 0, true}, {"auth_events", 10, true}, {"auth_events", 11, false},
	}
	for _, tt := range tests {
		_, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(set(t, valid(11), tt.path, list(tt.n))))
		require.Equal(t, tt.ok, err == nil, "%d %s: %v", tt.n, tt.path, err)
	}
}

func TestParseSize(t *testing.T) {
	size := func(n int) string {
		e, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(set(t, valid(11), "content.body", `""`)))
		require.NoError(t, err)
		return set(t, valid(11), "content.body", `"`+strings.Repeat("x", n-len(e.JSON))+`"`)
	}
	e, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(size(65536)))
	require.NoError(t, err)
	require.Len(t, e.JSON, event.MaxPDU)
	_, err = event.ParseUntrusted(rulesOf(t, "11"), []byte(size(65537)))
	require.ErrorIs(t, err, mxerr.TooLarge)
}

func TestParseLongestKeys(t *testing.T) {
	long := strings.Repeat("a", 255)
	raw := set(t, set(t, valid(11), "type", `"`+long+`"`), "state_key", `"`+long+`"`)
	e, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(raw))
	require.NoError(t, err)
	require.True(t, e.Is(long, long))
}

func TestParseMalformed(t *testing.T) {
	good := valid(11)
	tests := []struct{ name, raw string }{
		{"nothing", ``},
		{"null", `null`},
		{"array", `[` + good + `]`},
		{"string", `"x"`},
		{"two events", good + good},
		{"cut short", good[:len(good)-1]},
		{"empty object", `{}`},
		{"only unsigned", `{"unsigned":{}}`},
		{"key twice", `{"type":"x",` + good[1:]},
		{"key twice, hidden", `{"\u0074ype":"x",` + good[1:]},
		{"invalid UTF-8", strings.Replace(good, "hi", "\xff", 1)},
		{"half of a surrogate pair", strings.Replace(good, "hi", `\ud800`, 1)},
		{"very deep", strings.Replace(good, `"hi"`, strings.Repeat("[", 60000), 1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, version := range []string{"1", "5", "6", "11", "12"} {
				_, err := event.ParseUntrusted(rulesOf(t, version), []byte(tt.raw))
				require.ErrorIs(t, err, mxerr.BadJSON, "version %s", version)
			}
		})
	}
}

func TestParseDoesNotKeepItsInput(t *testing.T) {
	raw := []byte(valid(11))
	e, err := event.ParseUntrusted(rulesOf(t, "11"), raw)
	require.NoError(t, err)
	before := string(e.JSON)
	clear(raw)
	require.Equal(t, before, string(e.JSON))
	require.Equal(t, `{"body":"hi"}`, string(e.Content()))
	require.Equal(t, "m.room.message", e.Type)
}

func TestCreateOfVersion12(t *testing.T) {
	create := set(t, set(t, valid(12), "type", `"m.room.create"`), "state_key", `""`)
	_, err := event.ParseUntrusted(rulesOf(t, "12"), []byte(create))
	require.ErrorIs(t, err, mxerr.BadJSON, "it has a room_id")

	create = set(t, set(t, set(t, create, "room_id", ``), "prev_events", `[]`), "auth_events", `[]`)
	e, err := event.ParseUntrusted(rulesOf(t, "12"), []byte(create))
	require.NoError(t, err)
	require.Equal(t, "!"+string(e.ID[1:]), string(e.Room))
	require.Contains(t, string(event.AppendClientPrefix(nil, e)), `"room_id":"`+string(e.Room)+`"`)

	_, err = event.ParseUntrusted(rulesOf(t, "11"), []byte(create))
	require.ErrorIs(t, err, mxerr.BadJSON, "in version 11 it needs one")
}

func TestMembership(t *testing.T) {
	tests := []struct{ eventType, content, want string }{
		{`"m.room.member"`, `{"membership":"join"}`, "join"},
		{`"m.room.member"`, `{"a":1,"membership":"b\u0061n"}`, "ban"},
		{`"m.room.member"`, `{"membership":1}`, ""},
		{`"m.room.member"`, `{"membership":{"membership":"join"}}`, ""},
		{`"m.room.member"`, `{}`, ""},
		{`"m.room.message"`, `{"membership":"join"}`, ""},
	}
	for _, tt := range tests {
		raw := set(t, set(t, valid(11), "type", tt.eventType), "content", tt.content)
		e, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(raw))
		require.NoError(t, err)
		require.Equal(t, tt.want, e.Membership(), "%s %s", tt.eventType, tt.content)
	}
}

func TestRedacts(t *testing.T) {
	tests := []struct {
		name, eventType, top, content string
		old, recent                   id.EventID // versions 3–10, and 11 on
	}{
		{"at the top level", "m.room.redaction", `"$t"`, `{}`, "$t", ""},
		{"in content", "m.room.redaction", ``, `{"redacts":"$c"}`, "", "$c"},
		{"in both", "m.room.redaction", `"$t"`, `{"redacts":"$c"}`, "$t", "$c"},
		{"no event id", "m.room.redaction", `"t"`, `{"redacts":"c"}`, "", ""},
		{"no string", "m.room.redaction", `["$t"]`, `{"redacts":{}}`, "", ""},
		{"of another type", "m.room.message", `"$t"`, `{"redacts":"$c"}`, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for v := 3; v <= 12; v++ {
				raw := set(t, set(t, valid(v), "type", `"`+tt.eventType+`"`), "content", tt.content)
				e, err := event.ParseUntrusted(rulesOf(t, strconv.Itoa(v)), []byte(set(t, raw, "redacts", tt.top)))
				require.NoError(t, err)
				want := tt.old
				if v >= 11 {
					want = tt.recent
				}
				require.Equal(t, want, e.Redacts, "version %d", v)
			}
		})
	}
}

func TestParseTrustedRefusesGarbage(t *testing.T) {
	e, err := event.ParseUntrusted(rulesOf(t, "11"), []byte(valid(11)))
	require.NoError(t, err)
	for n := range e.JSON {
		_, err := event.ParseTrusted(e.Rules, e.JSON[:n], e.ID, e.Room)
		require.ErrorIs(t, err, mxerr.BadJSON, "the first %d bytes", n)
	}
}

func TestParseAllocations(t *testing.T) {
	e, _ := built(t, message())
	require.LessOrEqual(t, testing.AllocsPerRun(10, func() {
		parsed, _ := event.ParseUntrusted(e.Rules, e.JSON)
		event.CheckContentHash(parsed)
	}), 12.0)
	require.LessOrEqual(t, testing.AllocsPerRun(10, func() {
		_, _ = event.ParseTrusted(e.Rules, e.JSON, e.ID, e.Room)
	}), 3.0)
}

// FuzzParse: what was accepted is within the limits, keeps its meaning, and reads again as itself,
// from outside as from storage; its redacted form is the same event.
func FuzzParse(f *testing.F) {
	for _, g := range readGolden(f) {
		version, _ := strconv.Atoi(g.Version)
		f.Add(uint8(version), []byte(g.Event))
	}
	for v := 1; v <= 12; v++ {
		f.Add(uint8(v), []byte(valid(v)))
		f.Add(uint8(v), []byte(set(f, valid(v), "depth", `1e3`)))
	}
	f.Fuzz(func(t *testing.T, v uint8, raw []byte) {
		rules := rulesOf(t, strconv.Itoa(int(v%12)+1))
		e, err := event.ParseUntrusted(rules, raw)
		backfilled, otherwise := event.ParseBackfilled(rules, raw)
		if err != nil {
			require.Nil(t, e)
			require.True(t, otherwise != nil || len(backfilled.PrevEvents) > event.MaxPrevEvents || len(backfilled.AuthEvents) > event.MaxAuthEvents)
			return
		}
		require.Equal(t, e, backfilled)
		require.LessOrEqual(t, len(e.JSON), event.MaxPDU)
		require.True(t, json.Valid(e.JSON))
		again, err := event.ParseUntrusted(rules, e.JSON)
		require.NoError(t, err)
		require.Equal(t, e, again)
		stored, err := event.ParseTrusted(rules, bytes.Clone(e.JSON), e.ID, e.Room)
		require.NoError(t, err)
		require.Equal(t, e, stored)
		redacted, err := e.Redacted()
		require.NoError(t, err)
		outside, err := event.ParseUntrusted(rules, redacted.JSON)
		require.NoError(t, err)
		require.Equal(t, outside, redacted)
		require.Equal(t, e.ID, redacted.ID)
		wantClientForm(t, e)
	})
}

// FuzzParseTrusted: whatever bytes a database gives back, parsing ends in an event or an error.
func FuzzParseTrusted(f *testing.F) {
	f.Add(uint8(11), []byte(valid(11)))
	f.Add(uint8(1), []byte(valid(1)))
	f.Add(uint8(12), []byte(`{"auth_events":["$a],"content":{"a":"\`))
	f.Fuzz(func(t *testing.T, v uint8, raw []byte) {
		e, err := event.ParseTrusted(rulesOf(t, strconv.Itoa(int(v%12)+1)), raw, "$e", "!r:x")
		if err != nil {
			return
		}
		event.CheckContentHash(e)
		event.AppendClientPrefix(nil, e)
		_, _ = e.Redacted()
	})
}
