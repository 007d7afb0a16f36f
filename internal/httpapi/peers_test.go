package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// peers knows those who say who they are, and reads their bodies twice.
type peers struct{ bodies []string }

func (p *peers) Peer(_ context.Context, r *http.Request, body func() ([]byte, error)) (id.ServerName, error) {
	origin := r.Header.Get("X-Origin")
	if origin == "" {
		return "", mxerr.Unauthorized
	}
	for range 2 {
		b, err := body()
		if err != nil {
			return "", err
		}
		p.bodies = append(p.bodies, string(b))
	}
	return id.ServerName(origin), nil
}

func TestServerRoutes(t *testing.T) {
	type seen struct {
		Origin, Asked id.ServerName
		Body          json.RawMessage
	}
	see := func(_ context.Context, c *httpapi.Call, in *json.RawMessage) (*seen, error) {
		return &seen{c.Origin, c.ServerName("serverName"), *in}, nil
	}
	raw := func(w http.ResponseWriter, c *httpapi.Call) error {
		_, err := w.Write(c.Body)
		return err
	}
	p := &peers{}
	h := httpapi.NewRouter(httpapi.Config{Peers: p, Limits: httpapi.Limits{Address: httpapi.Rate{PerSecond: 1e-9, Burst: 1}}}, []httpapi.Route{
		httpapi.Handle(httpapi.Server, "POST /fed/{serverName}", see, httpapi.MaxBody(20)),
		httpapi.Handle(httpapi.Server, "POST /limited/{serverName}", see, httpapi.RateLimited()),
		httpapi.HandleRaw(httpapi.Server, "PUT /fed/{serverName}", raw),
	})
	for _, tt := range []struct {
		name, method, target, origin, body string
		status                             int
		want                               string
	}{
		{"signed", "POST", "/fed/x:1", "peer", `{"a":1}`, 200, `{"Origin":"peer","Asked":"x:1","Body":{"a":1}}`},
		{"without a body", "POST", "/fed/x", "peer", "", 200, `{"Origin":"peer","Asked":"x","Body":{}}`},
		{"raw", "PUT", "/fed/x", "peer", "anything", 200, "anything"},
		{"not signed", "POST", "/limited/x", "", `{"a":1}`, 401, "M_UNAUTHORIZED"},
		{"not signed, too often", "POST", "/limited/x", "", `{"a":1}`, 429, "M_LIMIT_EXCEEDED"},
		{"signed, though the address is limited", "POST", "/limited/x", "peer", `{"a":1}`, 200, `"peer"`},
		{"too large", "POST", "/fed/x", "peer", `{"a":"1234567890123"}`, 413, "M_TOO_LARGE"},
		{"no object", "POST", "/fed/x", "peer", `[]`, 400, "M_BAD_JSON"},
		{"a path that is no name", "POST", "/fed/a%20b", "peer", `{}`, 400, "M_INVALID_PARAM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(h, tt.method, tt.target, tt.body, "X-Origin", tt.origin)
			require.Equal(t, tt.status, w.Code, "%s", w.Body)
			require.Contains(t, w.Body.String(), tt.want)
		})
	}
	require.Equal(t, []string{`{"a":1}`, `{"a":1}`}, p.bodies[:2], "read once, there twice")
	require.Equal(t, []string{"", ""}, p.bodies[2:4], "no body is none, also when it counts as {}")
}

// Other servers have a limit of the keys they claim, each its own, and of nothing else.
func TestLimitsOfServers(t *testing.T) {
	none := func(context.Context, *httpapi.Call, *httpapi.None) (*httpapi.Empty, error) { return nil, nil }
	limits := httpapi.Limits{PeerKeyClaims: httpapi.Rate{PerSecond: 1e-9, Burst: 2}, Address: httpapi.Rate{PerSecond: 1e-9, Burst: 1}}
	h := httpapi.NewRouter(httpapi.Config{Peers: &peers{}, Limits: limits}, []httpapi.Route{
		httpapi.Handle(httpapi.Server, "POST /claim", none, httpapi.RateLimited(httpapi.KeyClaims)),
		httpapi.Handle(httpapi.Server, "POST /other", none, httpapi.RateLimited()),
	})
	for _, origin := range []string{"one", "two"} {
		for range 2 {
			require.Equal(t, 200, ask(h, "POST", "/claim", "{}", "X-Origin", origin).Code)
		}
		require.Equal(t, 429, ask(h, "POST", "/claim", "{}", "X-Origin", origin).Code)
		require.Equal(t, 200, ask(h, "POST", "/other", "{}", "X-Origin", origin).Code)
	}
}

func TestInt64(t *testing.T) {
	var got int64
	h := httpapi.NewRouter(httpapi.Config{}, []httpapi.Route{
		httpapi.Handle(httpapi.Public, "GET /n", func(_ context.Context, c *httpapi.Call, _ *httpapi.None) (_ *httpapi.Empty, err error) {
			got, err = c.Int64("n", -1)
			return nil, err
		}),
	})
	for query, want := range map[string]int64{"": -1, "?n=1700000000000": 1_700_000_000_000, "?n=-5": -5} {
		require.Equal(t, 200, ask(h, "GET", "/n"+query, "").Code)
		require.Equal(t, want, got, query)
	}
	for _, query := range []string{"?n=", "?n=x", "?n=9223372036854775808"} {
		require.Equal(t, 400, ask(h, "GET", "/n"+query, "").Code, query)
	}
}
