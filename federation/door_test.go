package federation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// peers are the other servers: each has the key of world, "silent" never answers, "dead" refuses.
type peers struct {
	key  signing.Key
	now  func() time.Time
	mu   sync.Mutex // guards the following
	seen map[id.ServerName]int
}

func (p *peers) ServerKeys(ctx context.Context, server id.ServerName) ([]byte, error) {
	p.mu.Lock()
	p.seen[server]++
	p.mu.Unlock()
	if strings.HasPrefix(string(server), "silent") {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if strings.HasPrefix(string(server), "dead") {
		return nil, errors.New("connection refused")
	}
	said := fmt.Sprintf(`{"server_name":%q,"valid_until_ts":%d,"verify_keys":{%q:{"key":%q}},"old_verify_keys":{"ed25519:former":{"key":%[4]q,"expired_ts":5}}}`,
		server, p.now().Add(24*time.Hour).UnixMilli(), p.key.ID, signing.Encode(p.key.Public()))
	return signing.SignJSON(string(server), p.key, []byte(said))
}

func (p *peers) NotaryKeys(context.Context, id.ServerName, []keyring.Query) ([][]byte, error) {
	return nil, errors.New("there is no notary")
}

// door is a server with one route for other servers, which says who called and with what.
type door struct {
	http.Handler
	peers *peers
	own   signing.Key
	alive []id.ServerName
	calls int
}

func newDoor(t testing.TB) *door {
	t.Helper()
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	theirs, err := signing.NewKey("p", []byte(strings.Repeat("p", 32)))
	require.NoError(t, err)
	ours, err := signing.NewKey("o", []byte(strings.Repeat("o", 32)))
	require.NoError(t, err)
	d := &door{peers: &peers{key: theirs, now: time.Now, seen: map[id.ServerName]int{}}, own: ours}
	ring := keyring.New(keyring.Config{Server: "own", DB: db, Fetcher: d.peers})
	t.Cleanup(ring.Close)
	service := federation.New(federation.Config{
		ServerName: "own", Key: ours, Ring: ring,
		Allowed: func(s id.ServerName) bool { return s != "banned" },
		Alive:   func(s id.ServerName) { d.alive = append(d.alive, s) },
	})
	routes := append(service.Routes(),
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v1/echo/{eventId}", d.echo, httpapi.MaxBody(1000)),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/echo/{eventId}", d.name))
	d.Handler = httpapi.NewRouter(httpapi.Config{Peers: service}, routes)
	return d
}

type echoed struct {
	Origin id.ServerName   `json:"origin"`
	Body   json.RawMessage `json:"body,omitempty"`
}

func (d *door) echo(_ context.Context, c *httpapi.Call, in *json.RawMessage) (*echoed, error) {
	d.calls++
	return &echoed{c.Origin, *in}, nil
}

func (d *door) name(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*echoed, error) {
	d.calls++
	return &echoed{Origin: c.Origin}, nil
}

func (d *door) do(method, target, body string, authorization ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for _, a := range authorization {
		r.Header.Add("Authorization", a)
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

// sign makes the header of a request.
func (d *door) sign(t testing.TB, method, target string, origin, destination id.ServerName, body string) string {
	t.Helper()
	c, err := wire.Sign(d.peers.key, method, target, origin, destination, []byte(body))
	require.NoError(t, err)
	return string(wire.AppendAuthorization(nil, c))
}

// TestDoor is F-19.
func TestDoor(t *testing.T) {
	d := newDoor(t)
	const target, body = "/_matrix/federation/v1/echo/$a%2Fb?x=%20y&x=z", `{"n": 1, "a":"é"}`
	good := d.sign(t, "PUT", target, "peer", "own", body)
	edit := func(old, with string) string { return strings.Replace(good, old, with, 1) }
	tests := []struct {
		name, target, body string
		authorization      []string
		status             int
		code               string
	}{
		{"as it should be", target, body, []string{good}, 200, ""},
		{"other white space in the body", target, `{ "a" : "é", "n":1 }`, []string{good}, 200, ""},
		{"without a destination, as older servers", target, body, []string{edit(`destination="own",`, "")}, 200, ""},
		{"names and scheme in other case, another order", target, body, []string{strings.NewReplacer("X-Matrix", "x-matrix", "origin", "Origin").Replace(good)}, 200, ""},
		{"no header", target, body, nil, 401, "M_UNAUTHORIZED"},
		{"a token", target, body, []string{"Bearer abc"}, 401, "M_UNAUTHORIZED"},
		{"two headers", target, body, []string{good, good}, 401, "M_UNAUTHORIZED"},
		{"another destination", target, body, []string{d.sign(t, "PUT", target, "peer", "else", body)}, 401, "M_UNAUTHORIZED"},
		{"signed for another server, without saying so", target, body, []string{strings.Replace(d.sign(t, "PUT", target, "peer", "else", body), `destination="else",`, "", 1)}, 401, "M_UNAUTHORIZED"},
		{"another body", target, `{"n":2}`, []string{good}, 401, "M_UNAUTHORIZED"},
		{"no body", target, "", []string{good}, 401, "M_UNAUTHORIZED"},
		{"another query", strings.Replace(target, "z", "q", 1), body, []string{good}, 401, "M_UNAUTHORIZED"},
		{"the same path in other words", strings.Replace(target, "%2F", "%2f", 1), body, []string{good}, 401, "M_UNAUTHORIZED"},
		{"another method", target, body, []string{d.sign(t, "POST", target, "peer", "own", body)}, 401, "M_UNAUTHORIZED"},
		{"another origin with a key of the same name", target, body, []string{edit(`origin="peer"`, `origin="other"`)}, 401, "M_UNAUTHORIZED"},
		{"a key it has not", target, body, []string{edit("ed25519:p", "ed25519:q")}, 401, "M_UNAUTHORIZED"},
		{"an old key", target, body, []string{edit("ed25519:p", "ed25519:former")}, 401, "M_UNAUTHORIZED"},
		{"another algorithm", target, body, []string{edit("ed25519:p", "rsa:p")}, 401, "M_UNAUTHORIZED"},
		{"a server that does not answer", target, body, []string{d.sign(t, "PUT", target, "dead", "own", body)}, 401, "M_UNAUTHORIZED"},
		{"this server itself", target, body, []string{d.sign(t, "PUT", target, "own", "own", body)}, 401, "M_UNAUTHORIZED"},
		{"no server name", target, body, []string{edit(`origin="peer"`, `origin="a b"`)}, 400, "M_INVALID_PARAM"},
		{"one that may not", target, body, []string{d.sign(t, "PUT", target, "banned", "own", body)}, 403, "M_FORBIDDEN"},
		{"no JSON", target, "<", []string{good}, 400, "M_NOT_JSON"},
		{"a key twice, not signed", target, `{"n":1,"n":1}`, []string{good}, 401, "M_UNAUTHORIZED"},
		{"no object", target, "[]", []string{d.sign(t, "PUT", target, "peer", "own", "[]")}, 400, "M_BAD_JSON"},
		{"too large", target, `{"n":"` + strings.Repeat("n", 1000) + `"}`, []string{good}, 413, "M_TOO_LARGE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := d.calls
			w := d.do("PUT", tt.target, tt.body, tt.authorization...)
			require.Equal(t, tt.status, w.Code, "%s", w.Body)
			require.Contains(t, w.Body.String(), tt.code)
			require.Equal(t, tt.status == 200, d.calls > before, "nothing is done for those who have not signed")
		})
	}
	require.Equal(t, 1, d.peers.seen["peer"])
	require.Zero(t, d.peers.seen["banned"])
	require.Zero(t, d.peers.seen["own"])
	require.NotContains(t, d.alive, id.ServerName("other"))
	require.Contains(t, d.alive, id.ServerName("peer"))
}

func TestDoorWithoutBody(t *testing.T) {
	d := newDoor(t)
	const target = "/_matrix/federation/v1/echo/$a"
	w := d.do("GET", target, "", d.sign(t, "GET", target, "peer", "own", ""))
	require.JSONEq(t, `{"origin":"peer"}`, w.Body.String())
	w = d.do("GET", target, "", d.sign(t, "GET", target, "peer", "own", "{}"))
	require.Equal(t, 401, w.Code, "content only if there is a body")
	w = d.do("GET", target, `{"a":1}`, d.sign(t, "GET", target, "peer", "own", ""))
	require.Equal(t, 401, w.Code, "a body is signed, whoever reads it")
}

// unread fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func TestBodiesOfStrangersAreNotRead(t *testing.T) {
	d := newDoor(t)
	const target = "/_matrix/federation/v1/echo/$a"
	for _, header := range []string{"", d.sign(t, "PUT", target, "dead", "own", "{}"), d.sign(t, "PUT", target, "peer", "else", "{}")} {
		r := httptest.NewRequest("PUT", target, unread{t})
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		require.Equal(t, 401, w.Code)
	}
}

func TestServiceWithoutRingAcceptsNobody(t *testing.T) {
	service := federation.New(federation.Config{ServerName: "own", Key: key(t, "o", 1)})
	d := newDoor(t)
	r := httptest.NewRequest("GET", "/x", nil)
	r.Header.Set("Authorization", d.sign(t, "GET", "/x", "peer", "own", ""))
	_, err := service.Peer(t.Context(), r, func() ([]byte, error) { return nil, nil })
	require.Error(t, err)
}

func TestNotary(t *testing.T) {
	d := newDoor(t)
	var got struct {
		ServerKeys []json.RawMessage `json:"server_keys"`
	}
	ask := func(method, target, body string) []string {
		w := d.do(method, target, body)
		require.Equal(t, 200, w.Code, "%s", w.Body)
		got.ServerKeys = nil
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		require.NotNil(t, got.ServerKeys, "a list, be it empty")
		var servers []string
		for _, said := range got.ServerKeys {
			var answer struct {
				Server string `json:"server_name"`
			}
			require.NoError(t, json.Unmarshal(said, &answer))
			require.NoError(t, signing.VerifyJSON("own", d.own.ID, d.own.Public(), said), "signed by us")
			if answer.Server != "own" {
				require.NoError(t, signing.VerifyJSON(answer.Server, d.peers.key.ID, d.peers.key.Public(), said), "and by itself")
			}
			servers = append(servers, answer.Server)
		}
		return servers
	}
	require.Equal(t, []string{"peer"}, ask("GET", "/_matrix/key/v2/query/peer", ""))
	require.Equal(t, []string{"peer"}, ask("GET", "/_matrix/key/v2/query/peer?minimum_valid_until_ts=5", ""))
	require.Equal(t, []string{"own"}, ask("GET", "/_matrix/key/v2/query/own/ed25519:o", ""))
	require.Empty(t, ask("GET", "/_matrix/key/v2/query/dead", ""))
	require.ElementsMatch(t, []string{"peer", "other:8448", "own"}, ask("POST", "/_matrix/key/v2/query",
		`{"server_keys":{"peer":{},"own":{},"dead":{},"no name":{},"other:8448":{"ed25519:p":{"minimum_valid_until_ts":5}}}}`))
	require.Empty(t, ask("POST", "/_matrix/key/v2/query", `{"server_keys":{}}`))
	require.Equal(t, 1, d.peers.seen["peer"])
}

// TestNotaryRefusals is F-23, with names.
func TestNotaryRefusals(t *testing.T) {
	d := newDoor(t)
	many, manyKeys := map[string]any{}, map[string]any{}
	for i := range 5000 {
		many[fmt.Sprint("s", i)], manyKeys[fmt.Sprint("ed25519:", i)] = struct{}{}, struct{}{}
	}
	for name, in := range map[string]any{
		"5,000 servers": map[string]any{"server_keys": many}, "5,000 keys": map[string]any{"server_keys": map[string]any{"peer": manyKeys}},
		"nothing": struct{}{}, "a list": map[string]any{"server_keys": []int{}}, "a time that is none": map[string]any{"server_keys": map[string]any{"peer": map[string]any{"k": map[string]any{"minimum_valid_until_ts": "5"}}}},
	} {
		body, err := json.Marshal(in)
		require.NoError(t, err)
		w := d.do("POST", "/_matrix/key/v2/query", string(body))
		require.Equal(t, 400, w.Code, "%s: %s", name, w.Body)
	}
	require.Equal(t, 400, d.do("GET", "/_matrix/key/v2/query/a%20b", "").Code)
	require.Equal(t, 400, d.do("GET", "/_matrix/key/v2/query/peer?minimum_valid_until_ts=x", "").Code)
	require.Empty(t, d.peers.seen)
}

func TestNotaryDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t)
		servers := map[string]any{"peer": struct{}{}}
		for i := range 99 {
			servers[fmt.Sprint("silent", i)] = struct{}{}
		}
		body, err := json.Marshal(map[string]any{"server_keys": servers})
		require.NoError(t, err)
		start := time.Now()
		w := d.do("POST", "/_matrix/key/v2/query", string(body))
		require.Equal(t, 200, w.Code)
		require.Less(t, time.Since(start), 10*time.Second)
	})
}

// BenchmarkDoor: a signed request whose key is in memory, with its handler.
func BenchmarkDoor(b *testing.B) {
	d := newDoor(b)
	const target = "/_matrix/federation/v1/echo/$a"
	body := `{"n":"` + strings.Repeat("n", 500) + `"}`
	header := d.sign(b, "PUT", target, "peer", "own", body)
	b.ReportAllocs()
	for b.Loop() {
		if w := d.do("PUT", target, body, header); w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
}
