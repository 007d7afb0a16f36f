package keyring_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
)

// transport is the network of a client.
type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func answer(status int, body io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body)}
}

func over(t testing.TB, network transport) keyring.Fetcher {
	client := wire.NewClient(wire.Config{Origin: own, Key: key(t, "own", 9), Transport: network})
	t.Cleanup(client.Close)
	return keyring.Over(client)
}

func TestOverWire(t *testing.T) {
	w := newWorld(t)
	k, vouching := key(t, "a", 1), key(t, "n", 2)
	var body, seen string
	f := over(t, func(r *http.Request) (*http.Response, error) {
		require.Empty(t, r.Header.Get("Authorization"))
		switch seen += r.Method + " " + r.URL.String() + "\n"; r.URL.Host {
		case "notary":
			if r.Method == http.MethodGet {
				return answer(200, strings.NewReader(string(keysOf("notary", w.now.Add(time.Hour), vouching).signed(t, "notary", vouching)))), nil
			}
			sent, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			body = string(sent)
			said := both(t, keysOf("dead", w.now.Add(time.Hour), k).signed(t, "dead", k), "notary", vouching)
			return answer(200, strings.NewReader(`{"server_keys":[`+string(said)+`]}`)), nil
		case "peer":
			return answer(200, strings.NewReader(string(keysOf("peer", w.now.Add(time.Hour), k).signed(t, "peer", k)))), nil
		}
		return nil, errors.New("connection refused")
	})
	r := w.ring(func(c *keyring.Config) { c.Fetcher, c.Notaries = f, []id.ServerName{"notary"} })
	_, err := r.Key(t.Context(), "peer", k.ID, w.now)
	require.NoError(t, err)
	_, err = r.Key(t.Context(), "dead", k.ID, w.now)
	require.NoError(t, err)
	require.JSONEq(t, `{"server_keys":{"dead":{"ed25519:a":{"minimum_valid_until_ts":1700000000000}}}}`, body)
	require.Equal(t, "GET https://peer/_matrix/key/v2/server\nGET https://dead/_matrix/key/v2/server\n"+
		"POST https://notary/_matrix/key/v2/query\nGET https://notary/_matrix/key/v2/server\n", seen)
}

// What a notary tells of one server, which no two parsers would read alike, is no reason to believe nothing of the others.
func TestNotariesThatTellOfOddServers(t *testing.T) {
	w := newWorld(t)
	k, vouching := key(t, "a", 1), key(t, "n", 2)
	for _, odd := range []string{`{"a":1,"a":1}`, "\"\xff\"", strings.Repeat("[", 200) + strings.Repeat("]", 200), `{"a":"\ud800"}`} {
		f := over(t, func(r *http.Request) (*http.Response, error) {
			switch r.Method + " " + r.URL.Host {
			case "GET notary":
				return answer(200, strings.NewReader(string(keysOf("notary", w.now.Add(time.Hour), vouching).signed(t, "notary", vouching)))), nil
			case "POST notary":
				said := both(t, keysOf("dead", w.now.Add(time.Hour), k).signed(t, "dead", k), "notary", vouching)
				return answer(200, strings.NewReader(`{"server_keys":[ `+odd+` , `+string(said)+`]}`)), nil
			}
			return nil, errors.New("connection refused")
		})
		r := newWorld(t).ring(func(c *keyring.Config) { c.Fetcher, c.Notaries = f, []id.ServerName{"notary"} })
		_, err := r.Key(t.Context(), "dead", k.ID, w.now)
		require.NoError(t, err, "%.20q", odd)
	}
}

func TestNotariesThatAnswerNonsense(t *testing.T) {
	for _, said := range []string{`{}`, `{"server_keys":{}}`, `{"server_keys":[1,"a",{},[]]}`, `[]`, `<`} {
		f := over(t, func(*http.Request) (*http.Response, error) { return answer(200, strings.NewReader(said)), nil })
		w := newWorld(t)
		_, err := w.ring(func(c *keyring.Config) { c.Fetcher, c.Notaries = f, []id.ServerName{"notary"} }).Key(t.Context(), "peer", "ed25519:a", w.now)
		require.ErrorIs(t, err, keyring.ErrUnreachable)
	}
}

// slow sends a byte a second until the request ends.
type slow struct{ ctx context.Context }

func (s slow) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}

// endless never ends, and comes as fast as it is read.
type endless struct{ read *int }

func (e endless) Read(p []byte) (int, error) {
	*e.read += len(p)
	return len(p), nil
}

// TestHostileServers is the part of F-21 that is about HTTP.
func TestHostileServers(t *testing.T) {
	var read int
	tests := map[string]transport{
		"a byte a second":        func(r *http.Request) (*http.Response, error) { return answer(200, slow{r.Context()}), nil },
		"without an end":         func(*http.Request) (*http.Response, error) { return answer(200, endless{&read}), nil },
		"never":                  func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
		"an error":               func(*http.Request) (*http.Response, error) { return answer(500, strings.NewReader("{}")), nil },
		"a redirect to itself":   func(r *http.Request) (*http.Response, error) { return redirect(r), nil },
		"a status without reply": func(*http.Request) (*http.Response, error) { return answer(204, strings.NewReader("")), nil },
	}
	for name, network := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				r := w.ring(func(c *keyring.Config) { c.Fetcher = over(t, network) })
				start := time.Now()
				_, err := r.Key(t.Context(), "peer", "ed25519:a", w.now)
				require.ErrorIs(t, err, keyring.ErrUnreachable)
				require.LessOrEqual(t, time.Since(start), 6*time.Second)
			})
		})
	}
	require.LessOrEqual(t, read, 4*keyring.MaxAnswer)
}

func redirect(r *http.Request) *http.Response {
	a := answer(302, strings.NewReader(""))
	a.Header.Set("Location", r.URL.String())
	return a
}
