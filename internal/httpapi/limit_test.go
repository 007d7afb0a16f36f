package httpapi_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

// limited is a server whose calls have budgets.
func limited(l httpapi.Limits) func(token, path string) *httptest.ResponseRecorder {
	routes := []httpapi.Route{
		httpapi.Handle(httpapi.Authed, "POST /invite", plain(), httpapi.RateLimited(httpapi.Invites)),
		httpapi.Handle(httpapi.Authed, "POST /join", plain(), httpapi.RateLimited(httpapi.Joins)),
		httpapi.Handle(httpapi.Authed, "POST /send", plain(), httpapi.RateLimited(httpapi.Messages)),
		httpapi.Handle(httpapi.Authed, "POST /report", plain(), httpapi.RateLimited(httpapi.Reports)),
		httpapi.Handle(httpapi.Authed, "POST /alias", plain(), httpapi.RateLimited(httpapi.Aliases)),
		httpapi.Handle(httpapi.Authed, "POST /createRoom", plain(), httpapi.RateLimited(httpapi.Rooms)),
		httpapi.Handle(httpapi.Authed, "POST /other", plain(), httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "POST /claim", plain(), httpapi.RateLimited(httpapi.KeyClaims)),
		httpapi.Handle(httpapi.Authed, "POST /free", plain()),
		httpapi.Handle(httpapi.Public, "POST /login", plain(), httpapi.RateLimited(httpapi.Logins)),
		httpapi.Handle(httpapi.Public, "POST /register", plain(), httpapi.RateLimited(httpapi.Registrations)),
		httpapi.Handle(httpapi.Authed, "POST /many", func(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
			return nil, c.Charge(httpapi.Invites, 10)
		}),
	}
	h := httpapi.NewRouter(httpapi.Config{Sessions: &sessions{}, Limits: l}, routes)
	return func(token, path string) *httptest.ResponseRecorder { return ask(h, "POST", path, "", as(token)...) }
}

// passed counts how many of n calls are answered before the first 429, which says when to come again.
func passed(t *testing.T, n int, call func() *httptest.ResponseRecorder) int {
	t.Helper()
	for i := range n {
		w := call()
		if w.Code == 200 {
			continue
		}
		require.Equal(t, 429, w.Code, w.Body.String())
		require.Contains(t, w.Body.String(), `"errcode":"M_LIMIT_EXCEEDED"`)
		require.Contains(t, w.Body.String(), `"retry_after_ms":`)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		return i
	}
	return n
}

// C-26, C-57: whoever sends, invites, joins, reports or makes rooms and aliases without end is stopped; others are not,
// nor is what else the same user does.
func TestBudgetsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := limited(httpapi.Limits{})
		defaults := map[string]int{
			"/send": 200, "/createRoom": 20, "/invite": 50, "/join": 50, "/report": 20, "/alias": 50, "/other": 100, "/free": 1000,
			"/login": 40, "/register": 40,
		}
		for path, burst := range defaults {
			require.Equal(t, burst, passed(t, 1000, func() *httptest.ResponseRecorder { return call("alice", path) }), path)
		}
		for path := range defaults {
			if path != "/login" && path != "/register" { // of the same address, whoever it is
				require.Equal(t, 200, call("bob", path).Code, path)
			}
		}
		time.Sleep(10 * time.Second)
		require.Equal(t, 100, passed(t, 1000, func() *httptest.ResponseRecorder { return call("alice", "/send") }))
		require.Equal(t, 1, passed(t, 1000, func() *httptest.ResponseRecorder { return call("alice", "/report") }))
	})
}

func TestBudgetsOfTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := limited(httpapi.Limits{
			Invites: httpapi.Rate{PerSecond: -1}, Reports: httpapi.Rate{Burst: 3}, Logins: httpapi.Rate{PerSecond: 1, Burst: 2},
			KeyClaims: httpapi.Rate{Burst: 7},
		})
		require.Equal(t, 1000, passed(t, 1000, func() *httptest.ResponseRecorder { return call("alice", "/invite") }), "no limit")
		require.Equal(t, 3, passed(t, 1000, func() *httptest.ResponseRecorder { return call("alice", "/report") }))
		require.Equal(t, 2, passed(t, 1000, func() *httptest.ResponseRecorder { return call("", "/login") }))
		require.Equal(t, 40, passed(t, 1000, func() *httptest.ResponseRecorder { return call("", "/register") }))
		require.Equal(t, 7, passed(t, 1000, func() *httptest.ResponseRecorder { return call("alice", "/claim") }))
		call = limited(httpapi.Limits{Off: true})
		require.Equal(t, 1000, passed(t, 1000, func() *httptest.ResponseRecorder { return call("alice", "/report") }))
	})
}

// A call that does much at once may do it when anything is left, and the debt is waited for.
func TestCharge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := limited(httpapi.Limits{Invites: httpapi.Rate{PerSecond: 1, Burst: 5}})
		require.Equal(t, 200, call("alice", "/many").Code)
		require.Equal(t, 429, call("alice", "/invite").Code)
		require.Equal(t, 200, call("bridge", "/many").Code, "the bridge has no limit")
		require.Equal(t, 200, call("bridge", "/many").Code)
		time.Sleep(5 * time.Second)
		require.Equal(t, 429, call("alice", "/invite").Code)
		time.Sleep(time.Second)
		require.Equal(t, 200, call("alice", "/invite").Code)
		require.Equal(t, 429, call("alice", "/many").Code)
	})
}

// C-14, C-26: what is remembered of addresses does not grow with their number.
func TestLimitsForget(t *testing.T) {
	routes := []httpapi.Route{httpapi.Handle(httpapi.Public, "POST /login", plain(), httpapi.RateLimited(httpapi.Logins))}
	h := httpapi.NewRouter(httpapi.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, routes)
	r := httptest.NewRequest("POST", "/login", nil)
	fill := func(from, to int) uint64 {
		for i := from; i < to; i++ {
			r.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const generation = 1 << 16
	two := fill(0, 2*generation)
	three := fill(2*generation, 3*generation)
	require.Less(t, three, two+2<<20, "half as many more addresses take no more memory")
}

// The body of a request of somebody who may not make it is not looked at.
func TestAdminOnly(t *testing.T) {
	routes := []httpapi.Route{httpapi.Handle(httpapi.Authed, "POST /admin", withBody, httpapi.AdminOnly())}
	h := httpapi.NewRouter(httpapi.Config{Sessions: &sessions{}}, routes)
	require.Equal(t, 400, ask(h, "POST", "/admin", "{", as("admin")...).Code)
	require.Equal(t, 200, ask(h, "POST", "/admin", "{}", as("admin")...).Code)
	for _, body := range []string{"{", "{}", ""} {
		w := ask(h, "POST", "/admin", body, as("alice")...)
		require.Equal(t, 403, w.Code)
		require.Contains(t, w.Body.String(), "M_FORBIDDEN")
	}
	require.Equal(t, 401, ask(h, "POST", "/admin", "{}").Code)
}

func BenchmarkLimits(b *testing.B) {
	call := limited(httpapi.Limits{Messages: httpapi.Rate{PerSecond: 1e9, Burst: 1e9}})
	b.ReportAllocs()
	for b.Loop() {
		call("alice", "/send")
	}
}
