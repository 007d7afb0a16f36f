package event_test

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/stretchr/testify/require"
)

// TestRedactContent reads testdata/redactions.json: what each range of versions leaves of a content.
func TestRedactContent(t *testing.T) {
	file, err := os.ReadFile("testdata/redactions.json")
	require.NoError(t, err)
	var tests []struct {
		Type    string
		Content json.RawMessage
		Leaves  map[string]json.RawMessage // "1-8": content
	}
	require.NoError(t, json.Unmarshal(file, &tests))
	require.NotEmpty(t, tests)
	for _, tt := range tests {
		covered := 0
		for versions, leaves := range tt.Leaves {
			for _, version := range spread(t, versions) {
				raw := `{"type":"` + tt.Type + `","content":` + string(tt.Content) + `}`
				want := `{"type":"` + tt.Type + `","content":` + string(leaves) + `}`
				got, err := event.Redact(rulesOf(t, version), []byte(raw))
				require.NoError(t, err)
				require.JSONEq(t, want, string(got), "version %s of %s", version, raw)
				covered++
			}
		}
		require.Equal(t, 12, covered, "%s says something of every version", tt.Type)
	}
}

// spread makes "3-5" into 3, 4, 5.
func spread(t *testing.T, versions string) []string {
	first, last, _ := strings.Cut(versions, "-")
	if last == "" {
		last = first
	}
	from, err := strconv.Atoi(first)
	require.NoError(t, err)
	to, err := strconv.Atoi(last)
	require.NoError(t, err)
	var all []string
	for v := from; v <= to; v++ {
		all = append(all, strconv.Itoa(v))
	}
	return all
}

func TestRedactTopLevel(t *testing.T) {
	const always = `"event_id":"$x","type":"t","room_id":"!r","sender":"@s","state_key":"k","content":{},"hashes":{"h":1},` +
		`"signatures":{"s":{}},"depth":1,"prev_events":[],"auth_events":[],"origin_server_ts":2`
	const old = `"prev_state":[],"origin":"o","membership":"join"`
	const never = `"redacts":"$y","unsigned":{"age":1},"age_ts":3,"x":{"content":1},"Content":{},"replaces_state":"$z"`
	for v := 1; v <= 12; v++ {
		got, err := event.Redact(rulesOf(t, strconv.Itoa(v)), []byte(`{`+never+`,`+old+`,`+always+`}`))
		require.NoError(t, err)
		want := `{` + always + `,` + old + `}`
		if v >= 11 {
			want = `{` + always + `}`
		}
		require.JSONEq(t, want, string(got), "version %d", v)
	}
}

func TestRedactRefuses(t *testing.T) {
	tests := []struct{ name, raw string }{
		{"nothing", ``},
		{"not an object", `[]`},
		{"no type", `{"content":{}}`},
		{"type is no string", `{"type":1,"content":{}}`},
		{"no content", `{"type":"t"}`},
		{"content is no object", `{"type":"t","content":"{}"}`},
		{"a key twice", `{"type":"t","content":{},"type":"u"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := event.Redact(rulesOf(t, "11"), []byte(tt.raw))
			require.ErrorIs(t, err, mxerr.BadJSON)
			_, err = event.ReferenceHash(rulesOf(t, "11"), []byte(tt.raw))
			require.ErrorIs(t, err, mxerr.BadJSON)
		})
	}
}

func TestRedactFollowsTheNumbersOfTheVersion(t *testing.T) {
	raw := []byte(`{"type":"m.room.power_levels","content":{"ban":50.0,"kick":12345678901234567890}}`)
	got, err := event.Redact(rulesOf(t, "5"), raw)
	require.NoError(t, err)
	require.Equal(t, `{"content":{"ban":50.0,"kick":12345678901234567890},"type":"m.room.power_levels"}`, string(got))
	_, err = event.Redact(rulesOf(t, "6"), raw)
	require.ErrorIs(t, err, mxerr.BadJSON)
}

// FuzzRedact: redacting twice is redacting once, and leaves the reference hash as it was.
func FuzzRedact(f *testing.F) {
	for _, g := range readGolden(f) {
		version, _ := strconv.Atoi(g.Version)
		f.Add(uint8(version), []byte(g.Event))
	}
	f.Fuzz(func(t *testing.T, v uint8, raw []byte) {
		rules := rulesOf(t, strconv.Itoa(int(v%12)+1))
		once, err := event.Redact(rules, raw)
		if err != nil {
			return // not an event; refusing it is correct
		}
		twice, err := event.Redact(rules, once)
		require.NoError(t, err, "a redacted event can be redacted: %s", once)
		require.Equal(t, string(once), string(twice))

		before, err := event.ReferenceHash(rules, raw)
		require.NoError(t, err)
		after, err := event.ReferenceHash(rules, once)
		require.NoError(t, err)
		require.Equal(t, before, after, "reference hash of %s", raw)
	})
}
