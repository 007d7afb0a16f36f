package keyring_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// TestAnswers is F-21: what is believed of an answer of peer, whose key is asked for.
func TestAnswers(t *testing.T) {
	w := newWorld(t)
	k, other := key(t, "a", 1), key(t, "b", 2)
	good := keysOf("peer", w.now.Add(time.Hour), k)
	many := object{}
	for i := range 101 {
		many[fmt.Sprint("ed25519:", i)] = object{"key": signing.Encode(k.Public())}
	}
	keys := func(list object) []byte { return good.with("verify_keys", list).signed(t, "peer", k) }
	tests := []struct {
		name string
		body []byte
		ok   bool
	}{
		{"as it should be", good.signed(t, "peer", k), true},
		{"with members that nobody knows", good.with("x", []int{1}).signed(t, "peer", k), true},
		{"without old_verify_keys", good.signed(t, "peer", k), true},
		{"with a key of another algorithm", keys(object{k.ID: object{"key": signing.Encode(k.Public())}, "rsa:1": object{"key": 5}}), true},
		{"with a key id that is none", keys(object{k.ID: object{"key": signing.Encode(k.Public())}, "ed25519:a-b": object{}}), true},
		{"with padding", keys(object{k.ID: object{"key": signing.Encode(k.Public()) + "="}}), true},
		{"signed by another key as well", good.signed(t, "peer", k, other), true},
		{"of another server", keysOf("other", w.now.Add(time.Hour), k).signed(t, "other", k), false},
		{"of another server, signed by this one too", keysOf("other", w.now.Add(time.Hour), k).signed(t, "peer", k), false},
		{"not signed", good.signed(t, "peer"), false},
		{"signed by another server", good.signed(t, "other", k), false},
		{"signed by a key it does not list", good.signed(t, "peer", other), false},
		{"signed by an old key only", good.old(other, w.now).signed(t, "peer", other), false},
		{"changed after it was signed", bytes.Replace(good.signed(t, "peer", k), []byte(`"valid_until_ts":17`), []byte(`"valid_until_ts":18`), 1), false},
		{"without valid_until_ts", func() []byte { o := good.with("x", 1); delete(o, "valid_until_ts"); return o.signed(t, "peer", k) }(), false},
		{"with a valid_until_ts that is text", good.with("valid_until_ts", "1").signed(t, "peer", k), false},
		{"with a valid_until_ts of 0", good.with("valid_until_ts", 0).signed(t, "peer", k), false},
		{"with a server_name that is none", good.with("server_name", "a b").signed(t, "peer", k), false},
		{"with a server_name that is no text", good.with("server_name", 7).signed(t, "peer", k), false},
		{"with a list of keys that is no object", good.with("verify_keys", []string{k.ID}).signed(t, "peer", k), false},
		{"with a key that is too short", keys(object{k.ID: object{"key": "AAAA"}}), false},
		{"with a key that is no object", keys(object{k.ID: "key"}), false},
		{"with an old key without expired_ts", good.with("old_verify_keys", object{other.ID: object{"key": signing.Encode(other.Public())}}).signed(t, "peer", k), false},
		{"with more than 100 keys", keys(many), false},
		{"longer than 64 KiB", good.with("x", strings.Repeat("a", 64<<10)).signed(t, "peer", k), false},
		{"100 MB", bytes.Repeat([]byte(`{"a":`), 20<<20), false},
		{"with a key twice", []byte(`{"server_name":"peer","server_name":"peer"}`), false},
		{"no JSON", []byte(`<html>`), false},
		{"a list", []byte(`[]`), false},
		{"nothing", nil, false},
		{"deep", []byte(strings.Repeat("[", 30000)), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.says("peer", tt.body)
			_, err := w.ring().Key(t.Context(), "peer", k.ID, w.now)
			require.Equal(t, tt.ok, err == nil, "%v", err)
			require.Equal(t, !tt.ok, err != nil)
		})
	}
}

// TestNotary: keys of a server that does not answer, from a notary.
func TestNotary(t *testing.T) {
	k, vouching, other := key(t, "a", 1), key(t, "n", 2), key(t, "o", 3)
	tests := []struct {
		name string
		said func(w *world, o object) []byte
		ok   bool
	}{
		{"signed by both", func(_ *world, o object) []byte {
			return both(t, o.signed(t, "peer", k), "notary", vouching)
		}, true},
		{"not signed by the notary", func(_ *world, o object) []byte { return o.signed(t, "peer", k) }, false},
		{"signed by the notary only", func(_ *world, o object) []byte { return both(t, o.signed(t, "peer"), "notary", vouching) }, false},
		{"signed by a key the notary has not", func(_ *world, o object) []byte {
			return both(t, o.signed(t, "peer", k), "notary", other)
		}, false},
		{"signed by another notary", func(_ *world, o object) []byte {
			return both(t, o.signed(t, "peer", k), "other", vouching)
		}, false},
		{"about somebody else", func(w *world, _ object) []byte {
			return both(t, keysOf("else", w.now.Add(time.Hour), k).signed(t, "else", k), "notary", vouching)
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.says("notary", keysOf("notary", w.now.Add(time.Hour), vouching).signed(t, "notary", vouching))
			w.notaries["notary"] = func([]keyring.Query) ([][]byte, error) {
				return [][]byte{[]byte("garbage"), tt.said(w, keysOf("peer", w.now.Add(time.Hour), k))}, nil
			}
			r := w.ring(func(c *keyring.Config) { c.Notaries = []id.ServerName{"broken", "notary"} })
			_, err := r.Key(t.Context(), "peer", k.ID, w.now)
			require.Equal(t, tt.ok, err == nil, "%v", err)
			require.Len(t, w.queries, 2)
			require.Equal(t, []keyring.Query{{Server: "peer", KeyIDs: []string{k.ID}, MinimumValidUntil: w.now.UnixMilli()}}, w.queries[1])
			require.Equal(t, 1, w.times("peer"))

			clear(w.notaries)
			_, err = r.Key(t.Context(), "else", k.ID, w.now.Add(-time.Minute))
			require.Error(t, err, "no notary speaks of whom it was not asked about")
		})
	}
}

// both adds a notary's signature to an answer.
func both(t testing.TB, answer []byte, notary string, k signing.Key) []byte {
	t.Helper()
	answer, err := signing.SignJSON(notary, k, answer)
	require.NoError(t, err)
	return answer
}

func TestNotariesFirst(t *testing.T) {
	w := newWorld(t)
	k, vouching := key(t, "a", 1), key(t, "n", 2)
	w.says("notary", keysOf("notary", w.now.Add(time.Hour), vouching).signed(t, "notary", vouching))
	w.says("direct", keysOf("direct", w.now.Add(time.Hour), k).signed(t, "direct", k))
	w.notaries["notary"] = func([]keyring.Query) ([][]byte, error) {
		return [][]byte{both(t, keysOf("peer", w.now.Add(time.Hour), k).signed(t, "peer", k), "notary", vouching)}, nil
	}
	r := w.ring(func(c *keyring.Config) { c.Notaries, c.NotariesFirst = []id.ServerName{"notary"}, true })
	requests := []keyring.Request{{Server: "peer", KeyID: k.ID, At: w.now}, {Server: "direct", KeyID: k.ID, At: w.now}, {Server: "notary", KeyID: vouching.ID, At: w.now}}
	for i, res := range r.Keys(t.Context(), requests) {
		require.NoError(t, res.Err, i)
	}
	require.Zero(t, w.times("peer"))
	require.Equal(t, 1, w.times("direct"))
	require.Equal(t, 1, w.times("notary"))
}

// TestNotaryRevivesNothing: what a notary has heard long ago does not undo what the server itself has said since.
func TestNotaryRevivesNothing(t *testing.T) {
	w := newWorld(t)
	stolen, k, vouching := key(t, "s", 1), key(t, "a", 2), key(t, "n", 3)
	w.says("notary", keysOf("notary", w.now.Add(time.Hour), vouching).signed(t, "notary", vouching))
	w.says("peer", keysOf("peer", w.now.Add(time.Hour), k).old(stolen, w.now.Add(-time.Hour)).signed(t, "peer", k))
	w.notaries["notary"] = func([]keyring.Query) ([][]byte, error) {
		return [][]byte{both(t, keysOf("peer", w.now.AddDate(1, 0, 0), stolen).signed(t, "peer", stolen), "notary", vouching)}, nil
	}
	r := w.ring(func(c *keyring.Config) { c.Notaries = []id.ServerName{"notary"} })
	_, err := r.Key(t.Context(), "peer", k.ID, w.now)
	require.NoError(t, err)
	w.does("peer", nil)
	w.pass(2 * time.Hour)
	_, err = r.Key(t.Context(), "peer", "ed25519:x", w.now)
	require.Error(t, err)
	require.NotEmpty(t, w.queries)
	_, err = r.Key(t.Context(), "peer", stolen.ID, w.now)
	require.ErrorIs(t, err, keyring.ErrExpired)
}

func TestAnswersForOthers(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", 1)
	said := keysOf("peer", w.now.Add(2*time.Hour), k).signed(t, "peer", k)
	w.says("peer", said)
	r := w.ring()
	query := func(q keyring.Query) [][]byte {
		q.Server = "peer"
		return r.Answers(t.Context(), []keyring.Query{{Server: "dead"}, q, q})
	}
	canonical, err := canonjson.Append(nil, said)
	require.NoError(t, err)
	require.Equal(t, [][]byte{canonical}, query(keyring.Query{}))
	require.Equal(t, [][]byte{canonical}, query(keyring.Query{KeyIDs: []string{k.ID}, MinimumValidUntil: w.now.Add(time.Hour).UnixMilli()}))
	require.Equal(t, 1, w.times("peer"))

	w.pass(time.Minute)
	query(keyring.Query{MinimumValidUntil: w.now.Add(3 * time.Hour).UnixMilli()})
	require.Equal(t, 2, w.times("peer"), "valid for too short a time")
	w.pass(time.Minute)
	query(keyring.Query{KeyIDs: []string{"ed25519:new"}})
	require.Equal(t, 3, w.times("peer"), "a key that is not known")
	w.pass(time.Hour)
	query(keyring.Query{})
	require.Equal(t, 4, w.times("peer"), "half of its time is over")
	w.does("peer", nil)
	w.pass(24 * time.Hour)
	require.Equal(t, [][]byte{canonical}, query(keyring.Query{}), "dead now")

	w.stored()
	require.Empty(t, w.ring().Answers(t.Context(), []keyring.Query{{Server: "peer"}}), "nothing was written for others")
}

func TestStoredAnswersAreThereForOthers(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", 1)
	w.says("peer", keysOf("peer", w.now.Add(2*time.Hour), k).signed(t, "peer", k))
	_, err := w.ring().Key(t.Context(), "peer", k.ID, w.now)
	require.NoError(t, err)
	w.stored()
	w.does("peer", nil)
	answers := w.ring().Answers(t.Context(), []keyring.Query{{Server: "peer"}})
	require.Len(t, answers, 1)
	require.NoError(t, signing.VerifyJSON("peer", k.ID, k.Public(), answers[0]))
}

// FuzzAnswers: whatever a server says, if it is believed, one of the keys it names has signed it, and what
// is kept of it is believed again.
func FuzzAnswers(f *testing.F) {
	now, k := time.UnixMilli(1_700_000_000_000), key(f, "a", 1)
	f.Add(keysOf("peer", now.Add(time.Hour), k).signed(f, "peer", k))
	f.Add(keysOf("peer", now.Add(time.Hour), k).old(key(f, "b", 2), now).signed(f, "peer", k))
	f.Add([]byte(`{"server_name":"peer","valid_until_ts":1,"verify_keys":{"ed25519:a":{"key":""}},"signatures":{"peer":{}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		server, keys, kept, err := keyring.ReadAnswer(body, now.UnixMilli())
		if err != nil {
			return
		}
		signed := false
		for keyID, public := range keys {
			signed = signed || signing.VerifyJSON(server, keyID, public, body) == nil
		}
		require.True(t, signed, "%s", body)
		again, keysAgain, _, err := keyring.ReadAnswer(kept, now.UnixMilli())
		require.NoError(t, err)
		require.Equal(t, server, again)
		require.Equal(t, keys, keysAgain)
	})
}

// A notary does not forget keys that their server forgets, and asks again at once, but not often.
func TestNotaryRemembers(t *testing.T) {
	w := newWorld(t)
	first, second := key(t, "a", 1), key(t, "b", 2)
	over := w.now.Add(-time.Hour)
	said := keysOf("peer", over, first).signed(t, "peer", first)
	canonical, err := canonjson.Append(nil, said)
	require.NoError(t, err)
	w.says("peer", said)
	r := w.ring()
	ask := func(keyID string) [][]byte {
		return r.Answers(t.Context(), []keyring.Query{{Server: "peer", KeyIDs: []string{keyID}, MinimumValidUntil: w.now.UnixMilli()}})
	}
	require.Equal(t, [][]byte{canonical}, ask(first.ID), "it is over, but there is no other")
	w.says("peer", keysOf("peer", over, second).signed(t, "peer", second))
	require.Equal(t, [][]byte{canonical}, ask(first.ID), "the server names another key by now")
	require.Equal(t, 2, w.times("peer"))
	w.does("peer", func(context.Context) ([]byte, error) { return nil, &wire.Error{Server: "peer", Status: 400} })
	require.Equal(t, [][]byte{canonical}, ask(first.ID))
	for range 20 {
		require.NoError(t, signing.VerifyJSON("peer", second.ID, second.Public(), ask(second.ID)[0]))
	}
	require.Equal(t, 8, w.times("peer"))
}
