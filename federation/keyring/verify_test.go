package keyring_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// message is an event of @u:server in a room of a version.
func message(t testing.TB, version string, server id.ServerName, at time.Time, k signing.Key) *event.Event {
	t.Helper()
	rules, ok := roomversion.Get(version)
	require.True(t, ok)
	user, err := id.NewUserID("u", server)
	require.NoError(t, err)
	e, err := event.Build(event.Draft{
		Room: "!r:somewhere", Sender: user, Type: "m.room.message", Content: []byte(`{"body":"hi"}`),
		Depth: 2, OriginServerTS: at.UnixMilli(), Rules: rules,
		PrevEvents: []id.EventID{"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, AuthEvents: []id.EventID{"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
	}, server, k)
	require.NoError(t, err)
	return e
}

// resigned is the event with other signatures.
func resigned(t testing.TB, e *event.Event, signatures any) *event.Event {
	t.Helper()
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(e.JSON))
	d.UseNumber()
	require.NoError(t, d.Decode(&fields))
	fields["signatures"] = signatures
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	e, err = event.ParseUntrusted(e.Rules, raw)
	require.NoError(t, err)
	return e
}

// TestSignatures is F-16 and F-17.
func TestSignatures(t *testing.T) {
	w := newWorld(t)
	k, former, stranger := key(t, "a", 1), key(t, "old", 2), key(t, "x", 3)
	for _, server := range []id.ServerName{"peer", "other"} {
		w.says(server, keysOf(server, w.now.Add(time.Hour), k).old(former, w.now.Add(-time.Hour)).signed(t, server, k))
	}
	e := message(t, "10", "peer", w.now, k)
	good := e.JSON[bytes.Index(e.JSON, []byte(`"ed25519:a":"`))+len(`"ed25519:a":"`):]
	sig := string(good[:bytes.IndexByte(good, '"')])
	flipped := func() string {
		raw, err := signing.Decode(sig)
		require.NoError(t, err)
		raw[5] ^= 1
		return signing.Encode(raw)
	}()
	type signatures map[string]map[string]string
	tests := []struct {
		name string
		e    *event.Event
		want error
	}{
		{"as it should be", e, nil},
		{"with padding", resigned(t, e, signatures{"peer": {"ed25519:a": sig + "=="}}), nil},
		{"by another server only", resigned(t, e, signatures{"other": {"ed25519:a": sig}}), keyring.ErrSignature},
		{"none", resigned(t, e, signatures{}), keyring.ErrSignature},
		{"none of this server", resigned(t, e, signatures{"peer": {}}), keyring.ErrSignature},
		{"one bit flipped", resigned(t, e, signatures{"peer": {"ed25519:a": flipped}}), keyring.ErrSignature},
		{"a space inside", resigned(t, e, signatures{"peer": {"ed25519:a": sig[:9] + " " + sig[9:]}}), keyring.ErrSignature},
		{"a line break inside", resigned(t, e, signatures{"peer": {"ed25519:a": sig[:9] + "\n" + sig[9:]}}), keyring.ErrSignature},
		{"empty", resigned(t, e, signatures{"peer": {"ed25519:a": ""}}), keyring.ErrSignature},
		{"under a key id the server has not", resigned(t, e, signatures{"peer": {"ed25519:x": sig}}), keyring.ErrUnknown},
		{"under another algorithm", resigned(t, e, signatures{"peer": {"rsa:1": sig}}), keyring.ErrSignature},
		{"by a key the server has not", message(t, "10", "peer", w.now, stranger), keyring.ErrUnknown},
		{"by such a key and by a good one", func() *event.Event {
			e, err := e.Sign("peer", stranger)
			require.NoError(t, err)
			return e
		}(), nil},
		{"a good one and garbage under unknown names", resigned(t, e, signatures{"peer": {"ed25519:a": sig, "ed25519:p": "?", "rsa:1": "?"}}), nil},
		{"a good one and a wrong one by an old key", resigned(t, message(t, "10", "peer", w.now.Add(-2*time.Hour), k), signatures{"peer": {"ed25519:a": sig, "ed25519:old": sig}}), keyring.ErrSignature},
		{"by a key that had expired", message(t, "10", "peer", w.now, former), keyring.ErrExpired},
		{"by a key before it expired", message(t, "10", "peer", w.now.Add(-2*time.Hour), former), nil},
		{"by a key that had expired, in version 4", message(t, "4", "peer", w.now, former), nil},
		{"later than the key is valid", message(t, "5", "peer", w.now.Add(2*time.Hour), k), keyring.ErrExpired},
		{"later than the key is valid, in version 4", message(t, "4", "peer", w.now.Add(2*time.Hour), k), nil},
		{"of a dead server", message(t, "10", "dead", w.now, k), keyring.ErrUnreachable},
	}
	r := w.ring()
	var events []*event.Event
	for _, tt := range tests {
		events = append(events, tt.e)
		require.ErrorIs(t, r.VerifyEvent(t.Context(), tt.e), tt.want, tt.name)
	}
	for i, err := range w.ring().VerifyEvents(t.Context(), events) {
		require.ErrorIs(t, err, tests[i].want, "%s, among others", tests[i].name)
	}
}

// TestEverySignerCounts: a restricted join is signed by who authorised it, too.
func TestEverySignerCounts(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", 1)
	for _, server := range []id.ServerName{"peer", "other"} {
		w.says(server, keysOf(server, w.now.Add(time.Hour), k).signed(t, server, k))
	}
	rules, _ := roomversion.Get("10")
	user := "@u:peer"
	join, err := event.Build(event.Draft{
		Room: "!r:somewhere", Sender: id.UserID(user), Type: "m.room.member", StateKey: &user, Depth: 1, OriginServerTS: w.now.UnixMilli(),
		Content: []byte(`{"membership":"join","join_authorised_via_users_server":"@v:other"}`), Rules: rules,
	}, "peer", k)
	require.NoError(t, err)
	r := w.ring()
	require.ErrorIs(t, r.VerifyEvent(t.Context(), join), keyring.ErrSignature)
	join, err = join.Sign("other", k)
	require.NoError(t, err)
	require.NoError(t, r.VerifyEvent(t.Context(), join))
}

func TestManySignatures(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", 1)
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), k).signed(t, "peer", k))
	list := map[string]string{}
	for i := range 400 {
		list[fmt.Sprintf("ed25519:k%03d", i)] = strings.Repeat("A", 86)
	}
	e := resigned(t, message(t, "10", "peer", w.now, k), map[string]any{"peer": list})
	require.Error(t, w.ring().VerifyEvent(t.Context(), e))
	require.Equal(t, 1, w.times("peer"))
}

func TestVerifyJSON(t *testing.T) {
	w := newWorld(t)
	k, former := key(t, "a", 1), key(t, "old", 2)
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), k).old(former, w.now).signed(t, "peer", k))
	said := object{"a": 1, "unsigned": object{"b": 2}}
	r := w.ring()
	require.NoError(t, r.VerifyJSON(t.Context(), "peer", said.signed(t, "peer", k)))
	require.NoError(t, r.VerifyJSON(t.Context(), "peer", bytes.Replace(said.signed(t, "peer", k), []byte(`"b":2`), []byte(`"b":3`), 1)))
	require.ErrorIs(t, r.VerifyJSON(t.Context(), "peer", bytes.Replace(said.signed(t, "peer", k), []byte(`"a":1`), []byte(`"a":2`), 1)), signing.ErrInvalid)
	require.ErrorIs(t, r.VerifyJSON(t.Context(), "peer", said.signed(t, "peer", former)), keyring.ErrExpired)
	require.ErrorIs(t, r.VerifyJSON(t.Context(), "peer", said.signed(t, "else", k)), signing.ErrMissing)
	require.Error(t, r.VerifyJSON(t.Context(), "peer", []byte(`{"a":1,"a":2}`)))
}

// BenchmarkVerifyEvent: an event whose key is in memory.
func BenchmarkVerifyEvent(b *testing.B) {
	w := newWorld(b)
	k := key(b, "a", 1)
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), k).signed(b, "peer", k))
	r, e := w.ring(), message(b, "10", "peer", w.now, k)
	require.NoError(b, r.VerifyEvent(b.Context(), e))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.VerifyEvent(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifySignature is the part of it that is not looking for the key.
func BenchmarkVerifySignature(b *testing.B) {
	k := key(b, "a", 1)
	e, public := message(b, "10", "peer", time.UnixMilli(1), k), k.Public()
	b.ReportAllocs()
	for b.Loop() {
		if err := event.VerifySignature(e, "peer", k.ID, public); err != nil {
			b.Fatal(err)
		}
	}
}
