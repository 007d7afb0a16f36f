package event_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/stretchr/testify/require"
)

func testKey(t testing.TB, version string) signing.Key {
	key, err := signing.NewKey(version, []byte(strings.Repeat(version[:1], 32)))
	require.NoError(t, err)
	return key
}

func built(t testing.TB, d event.Draft) (*event.Event, signing.Key) {
	t.Helper()
	key := testKey(t, "1")
	e, err := event.Build(d, "example.org", key)
	require.NoError(t, err)
	return e, key
}

// draft is a message for any version.
func draft(t testing.TB, version int) event.Draft {
	d := event.Draft{
		Room: "!r:example.org", Sender: "@a:example.org", Type: "m.room.message",
		Content:    []byte(` { "msgtype": "m.text", "body": "h\u00e9 \"\u0001\"" } `),
		PrevEvents: []id.EventID{"$p:x", "$q:x"}, AuthEvents: []id.EventID{"$a:x"},
		Depth: 3, OriginServerTS: 1700000000000, Rules: rulesOf(t, strconv.Itoa(version)),
		PrevHashes: map[id.EventID]string{"$p:x": "cA", "$q:x": "cQ"},
		AuthHashes: map[id.EventID]string{"$a:x": "YQ"},
	}
	if version == 12 {
		d.Room = roomID
	}
	return d
}

func TestBuildEveryVersion(t *testing.T) {
	forms := map[int]string{1: `^\$[A-Z0-9]{26}:example\.org$`, 2: `^\$[A-Z0-9]{26}:example\.org$`, 3: `^\$[A-Za-z0-9+/]{43}$`}
	for v := 1; v <= 12; v++ {
		e, key := built(t, draft(t, v))
		form, ok := forms[v]
		if !ok {
			form = `^\$[A-Za-z0-9_-]{43}$`
		}
		require.Regexp(t, form, string(e.ID), "version %d", v)
		require.Equal(t, `{"body":"hé \"\u0001\"","msgtype":"m.text"}`, string(e.Content()))
		require.True(t, event.CheckContentHash(e), "version %d", v)
		require.NoError(t, event.VerifySignature(e, "example.org", key.ID, key.Public()))
		require.Equal(t, []string{"ed25519:1"}, e.SignedBy("example.org"))

		outside, err := event.ParseUntrusted(e.Rules, e.JSON)
		require.NoError(t, err)
		require.Equal(t, e, outside)
		redacted, err := e.Redacted()
		require.NoError(t, err)
		require.NoError(t, event.VerifySignature(redacted, "example.org", key.ID, key.Public()), "version %d", v)
		require.False(t, event.CheckContentHash(redacted))
	}
}

func TestBuildIsExact(t *testing.T) {
	d := draft(t, 1)
	key := ""
	d.StateKey = &key
	d.Type, d.Redacts, d.Depth = "m.room.redaction", "$x:y", 1<<62
	e, _ := built(t, d)
	want := `^\{"auth_events":\[\["\$a:x",\{"sha256":"YQ"\}\]\],"content":\{.*\},"depth":9007199254740991,"event_id":"\$\w+:example.org",` +
		`"hashes":\{"sha256":"[\w+/]{43}"\},"origin_server_ts":1700000000000,"prev_events":\[\["\$p:x",\{"sha256":"cA"\}\],\["\$q:x",\{"sha256":"cQ"\}\]\],` +
		`"redacts":"\$x:y","room_id":"!r:example.org","sender":"@a:example.org",` +
		`"signatures":\{"example.org":\{"ed25519:1":"[\w+/]{86}"\}\},"state_key":"","type":"m.room.redaction"\}$`
	require.Regexp(t, want, string(e.JSON))
}

func TestBuildCreateOfVersion12(t *testing.T) {
	d := draft(t, 12)
	key := ""
	d.Type, d.StateKey, d.PrevEvents, d.AuthEvents, d.Room = "m.room.create", &key, nil, nil, ""
	e, _ := built(t, d)
	require.Equal(t, "!"+string(e.ID[1:]), string(e.Room))
	require.NotContains(t, string(e.JSON), "room_id")
	outside, err := event.ParseUntrusted(e.Rules, e.JSON)
	require.NoError(t, err)
	require.Equal(t, e, outside)
}

func TestBuildDepth(t *testing.T) {
	for depth, want := range map[int64]int64{0: 0, 5: 5, 1<<53 - 1: 1<<53 - 1, 1 << 53: 1<<53 - 1, 1<<63 - 1: 1<<53 - 1, -1 << 63: 1<<53 - 1} {
		d := draft(t, 11)
		d.Depth = depth
		e, _ := built(t, d)
		require.Equal(t, want, e.Depth)
	}
}

func TestBuildPutsRedactsWhereItBelongs(t *testing.T) {
	for v := 1; v <= 12; v++ {
		d := draft(t, v)
		d.Type, d.Redacts, d.Content = "m.room.redaction", "$x:y", []byte(`{"reason":"r","redacts":"$other"}`)
		e, _ := built(t, d)
		require.Equal(t, id.EventID("$x:y"), e.Redacts, "version %d", v)
		require.Equal(t, v <= 10, strings.Contains(string(e.JSON), `],"redacts":"$x:y","room_id"`), "version %d: %s", v, e.JSON)
	}
}

func TestBuildRefuses(t *testing.T) {
	key := strings.Repeat("é", 128)
	tests := []struct {
		name   string
		change func(*event.Draft)
		want   error
	}{
		{"no content", func(d *event.Draft) { d.Content = nil }, mxerr.BadJSON},
		{"content is an array", func(d *event.Draft) { d.Content = []byte(`[]`) }, mxerr.BadJSON},
		{"content is null", func(d *event.Draft) { d.Content = []byte(`null`) }, mxerr.BadJSON},
		{"content is cut short", func(d *event.Draft) { d.Content = []byte(`{"a":1`) }, mxerr.BadJSON},
		{"a float in content", func(d *event.Draft) { d.Content = []byte(`{"a":1.5}`) }, mxerr.BadJSON},
		{"a big integer in content", func(d *event.Draft) { d.Content = []byte(`{"a":9007199254740992}`) }, mxerr.BadJSON},
		{"a key twice in content", func(d *event.Draft) { d.Content = []byte(`{"a":1,"a":2}`) }, mxerr.BadJSON},
		{"a key twice in content of a redaction", func(d *event.Draft) { d.Redacts, d.Content = "$x", []byte(`{"a":1,"a":2}`) }, mxerr.BadJSON},
		{"an array as content of a redaction", func(d *event.Draft) { d.Redacts, d.Content = "$x", []byte(`[1]`) }, mxerr.BadJSON},
		{"an event that is too large", func(d *event.Draft) { d.Content = []byte(`{"a":"` + strings.Repeat("x", 65536) + `"}`) }, mxerr.TooLarge},
		{"a type that is too long", func(d *event.Draft) { d.Type = key }, mxerr.TooLarge},
		{"a state key that is too long", func(d *event.Draft) { d.StateKey = &key }, mxerr.TooLarge},
		{"a sender that is no user", func(d *event.Draft) { d.Sender = "a" }, mxerr.BadJSON},
		{"a room of another version", func(d *event.Draft) { d.Room = roomID }, mxerr.BadJSON},
		{"too many prev_events", func(d *event.Draft) { d.PrevEvents = make([]id.EventID, 21) }, mxerr.BadJSON},
		{"too many auth_events", func(d *event.Draft) { d.AuthEvents = make([]id.EventID, 11) }, mxerr.BadJSON},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := draft(t, 11)
			tt.change(&d)
			_, err := event.Build(d, "example.org", testKey(t, "1"))
			require.ErrorIs(t, err, tt.want)
		})
	}
}

func TestBuildNeedsHashesInOldVersions(t *testing.T) {
	d := draft(t, 2)
	d.PrevHashes = nil
	_, err := event.Build(d, "example.org", testKey(t, "1"))
	require.ErrorContains(t, err, "the hash of $p:x is not given")
}

func TestBuildSize(t *testing.T) {
	d := draft(t, 11)
	body := func(n int) []byte { return []byte(`{"a":"` + strings.Repeat("x", n) + `"}`) }
	d.Content = body(0)
	small, _ := built(t, d)
	d.Content = body(event.MaxPDU - len(small.JSON))
	e, _ := built(t, d)
	require.Len(t, e.JSON, event.MaxPDU)
	d.Content = body(event.MaxPDU - len(small.JSON) + 1)
	_, err := event.Build(d, "example.org", testKey(t, "1"))
	require.ErrorIs(t, err, mxerr.TooLarge)
}

func TestContentHash(t *testing.T) {
	e, _ := built(t, draft(t, 11))
	tests := []struct {
		name, path, value string
		want              bool
	}{
		{"as it was", "depth", `3`, true},
		{"more signatures", "signatures.x", `{"ed25519:1":"y"}`, true},
		{"more hashes", "hashes.md5", `"x"`, true},
		{"changed content", "content.body", `"x"`, false},
		{"changed sender", "sender", `"@b:example.org"`, false},
		{"more members", "x", `1`, false},
		{"hash is no string", "hashes.sha256", `1`, false},
		{"hash is no base64", "hashes.sha256", `"!"`, false},
		{"no hash", "hashes", `{}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed, err := event.ParseUntrusted(e.Rules, []byte(set(t, string(e.JSON), tt.path, tt.value)))
			require.NoError(t, err)
			require.Equal(t, tt.want, event.CheckContentHash(changed))
		})
	}
}

func TestVerifySignature(t *testing.T) {
	e, key := built(t, draft(t, 11))
	other := testKey(t, "2")
	require.NoError(t, event.VerifySignature(e, "example.org", key.ID, key.Public()))
	require.ErrorIs(t, event.VerifySignature(e, "example.org", key.ID, other.Public()), signing.ErrInvalid)
	require.ErrorIs(t, event.VerifySignature(e, "example.org", other.ID, key.Public()), signing.ErrMissing)
	require.ErrorIs(t, event.VerifySignature(e, "example.com", key.ID, key.Public()), signing.ErrMissing)

	verify := func(path, value string) error {
		changed, err := event.ParseUntrusted(e.Rules, []byte(set(t, string(e.JSON), path, value)))
		require.NoError(t, err)
		return event.VerifySignature(changed, "example.org", key.ID, key.Public())
	}
	require.NoError(t, verify("content.body", `"content is covered by its hash"`))
	require.ErrorIs(t, verify("hashes.sha256", `"AAAA"`), signing.ErrInvalid)
	require.ErrorIs(t, verify("sender", `"@b:example.org"`), signing.ErrInvalid)
	require.ErrorIs(t, verify("type", `"x"`), signing.ErrInvalid)
	require.ErrorIs(t, verify("signatures.example\\.org.ed25519:1", `"AAAA"`), signing.ErrMalformed)
}

func TestSignAddsASignature(t *testing.T) {
	for v := 1; v <= 12; v++ {
		e, first := built(t, draft(t, v))
		second := testKey(t, "2")
		both, err := e.Sign("resident.example.org", second)
		require.NoError(t, err)
		require.NoError(t, event.VerifySignature(both, "example.org", first.ID, first.Public()))
		require.NoError(t, event.VerifySignature(both, "resident.example.org", second.ID, second.Public()))
		require.True(t, event.CheckContentHash(both))
		require.Equal(t, e.ID, both.ID)
		outside, err := event.ParseUntrusted(e.Rules, both.JSON)
		require.NoError(t, err)
		require.Equal(t, outside, both)
	}
}

func TestAddSignatureKeepsTheLimit(t *testing.T) {
	e, _ := built(t, draft(t, 11))
	_, err := e.AddSignature("policy.example.org", "ed25519:policy_server", strings.Repeat("x", event.MaxPDU))
	require.ErrorIs(t, err, mxerr.TooLarge)
}

func TestClientForm(t *testing.T) {
	key := "k\""
	for v := 1; v <= 12; v++ {
		d := draft(t, v)
		d.Content = []byte(`{"body":"x","redacts":"$other"}`)
		message, _ := built(t, d)
		wantClientForm(t, message)
		require.Equal(t, `{"content":{"body":"x","redacts":"$other"},"event_id":"`+string(message.ID)+`","origin_server_ts":1700000000000,`+
			`"sender":"@a:example.org","type":"m.room.message"`, string(event.AppendClientPrefixNoRoom(nil, message)))

		d.Type, d.StateKey = "x\"", &key
		state, _ := built(t, d)
		wantClientForm(t, state)
		require.Equal(t, `{"content":{"body":"x","redacts":"$other"},"sender":"@a:example.org","state_key":"k\"","type":"x\""}`,
			string(event.AppendStripped(nil, state)))
	}
}

// TestClientFormOfRedactions: old and new clients find redacts where they look for it.
func TestClientFormOfRedactions(t *testing.T) {
	for v := 1; v <= 12; v++ {
		for _, content := range []string{`{}`, `{"reason":"r"}`, `{"reason":"r","redacts":"$other"}`} {
			d := draft(t, v)
			d.Type, d.Redacts, d.Content = "m.room.redaction", "$x:y", []byte(content)
			e, _ := built(t, d)
			wantClientForm(t, e)
			client := clientForm(t, e)
			require.Equal(t, "$x:y", client["redacts"], "version %d", v)
			require.Equal(t, "$x:y", client["content"].(map[string]any)["redacts"], "version %d", v)
		}
	}
}

func clientForm(t *testing.T, e *event.Event) map[string]any {
	t.Helper()
	form := append(event.AppendClientPrefix(nil, e), `,"unsigned":{}}`...)
	var client map[string]any
	require.NoError(t, json.Unmarshal(form, &client), "%s", form)
	return client
}

// wantClientForm checks that the client form has what a client needs and nothing of federation.
func wantClientForm(t *testing.T, e *event.Event) {
	t.Helper()
	client := clientForm(t, e)
	want := map[string]any{
		"event_id": string(e.ID), "room_id": string(e.Room), "sender": string(e.Sender), "type": e.Type,
		"origin_server_ts": float64(e.OriginServerTS), "unsigned": map[string]any{},
	}
	if e.StateKey != nil {
		want["state_key"] = *e.StateKey
	}
	if e.Redacts != "" {
		want["redacts"] = string(e.Redacts)
	}
	delete(client, "content")
	require.Equal(t, want, client)
}

// FuzzBuild: a draft becomes an event whose hash and signature hold, which reads back as itself,
// or an error.
func FuzzBuild(f *testing.F) {
	f.Add(uint8(11), "m.room.message", "", `{"body":"hi"}`, int64(1))
	f.Add(uint8(0), "m.room.member", "@a:b", `{"membership":"join","x":1.50}`, int64(-1))
	f.Add(uint8(11), "m.room.create", "", `{"\u0000":"\ud83d\ude00"}`, int64(1<<62))
	f.Add(uint8(10), "m.room.redaction", "\"\x00", `{"redacts":"$x"}`, int64(0))
	key := testKey(f, "1")
	f.Fuzz(func(t *testing.T, v uint8, eventType, stateKey, content string, number int64) {
		d := draft(t, int(v%12)+1)
		d.Type, d.StateKey, d.Content, d.Depth, d.OriginServerTS = eventType, &stateKey, []byte(content), number, number
		e, err := event.Build(d, "example.org", key)
		if err != nil {
			return // not a valid draft
		}
		require.True(t, event.CheckContentHash(e))
		require.NoError(t, event.VerifySignature(e, "example.org", key.ID, key.Public()))
		outside, err := event.ParseUntrusted(e.Rules, e.JSON)
		require.NoError(t, err, "%s", e.JSON)
		require.Equal(t, e, outside)
	})
}
