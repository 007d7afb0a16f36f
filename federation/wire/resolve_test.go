package wire_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
)

// srv makes records of "priority weight port target".
func srv(records ...string) []*net.SRV {
	var all []*net.SRV
	for _, r := range records {
		f := strings.Fields(r)
		number := func(s string) uint16 { n, _ := strconv.ParseUint(s, 10, 16); return uint16(n) }
		all = append(all, &net.SRV{Priority: number(f[0]), Weight: number(f[1]), Port: number(f[2]), Target: f[3]})
	}
	return all
}

// web serves the well-known files of all hosts at 1.1.1.1.
type web struct {
	once  sync.Once
	asked atomic.Int32

	mu    sync.Mutex // guards the following
	hosts map[string]http.HandlerFunc
}

func (s *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	s.mu.Lock()
	h := s.hosts[r.Host]
	s.mu.Unlock()
	if h == nil {
		h = http.NotFound
	}
	h(rw, r)
}

// handle lets a host answer for its well-known.
func (w *world) handle(host string, h http.HandlerFunc) {
	w.web.once.Do(func() { w.serve("1.1.1.1:443", w.web.ServeHTTP) })
	w.name(host, "1.1.1.1")
	w.web.mu.Lock()
	defer w.web.mu.Unlock()
	if w.web.hosts == nil {
		w.web.hosts = map[string]http.HandlerFunc{}
	}
	w.web.hosts[host] = h
}

func (w *world) delegate(host, body string) {
	w.handle(host, func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, body) })
}

func (w *world) redirect(host, to string) {
	w.handle(host, func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, to, http.StatusFound) })
}

// TestResolve: every step of the specification.
func TestResolve(t *testing.T) {
	w := newWorld(t)
	w.srv["_matrix-fed._tcp.srv.example"] = srv("10 0 1000 second.example.", "5 0 1001 first.example.")
	w.srv["_matrix._tcp.srv.example"] = srv("0 0 2000 old.example.")
	w.srv["_matrix._tcp.old.example"] = srv("0 0 2000 target.example.")
	w.srv["_matrix-fed._tcp.delegate-srv.example"] = srv("0 0 3000 target.example.")
	w.srv["_matrix._tcp.delegate-old.example"] = srv("0 0 3001 target.example.")
	w.srv["_matrix-fed._tcp.useless.example"] = srv("0 0 0 target.example.", "0 0 1 .")
	w.delegate("to-ip.example", `{"m.server":"1.2.3.4"}`)
	w.delegate("to-ip-port.example", `{"m.server":"1.2.3.4:1"}`)
	w.delegate("to-six.example", `{"m.server":"[2606::1]"}`)
	w.delegate("to-port.example", `{"m.server":"delegate.example:443"}`)
	w.delegate("to-srv.example", `{"m.server":"delegate-srv.example"}`)
	w.delegate("to-old.example", `{"m.server":"delegate-old.example"}`)
	w.delegate("to-plain.example", `{"m.server":"delegate.example", "other":[1.5]}`)
	w.delegate("not-json.example", `<html>`)
	w.delegate("no-key.example", `{"server":"x"}`)
	w.delegate("number.example", `{"m.server":1}`)
	w.delegate("bad-name.example", `{"m.server":"https://x/"}`)
	w.delegate("bad-port.example", `{"m.server":"x:99999"}`)
	w.delegate("twice.example", `{"m.server":"a.example","m.server":"b.example"}`)
	w.handle("missing.example", http.NotFound)
	w.handle("broken.example", func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(500)
		fmt.Fprint(rw, `{"m.server":"x.example"}`)
	})
	w.redirect("redirect.example", "https://to-port.example/.well-known/matrix/server")

	tests := []struct {
		name, server string
		want         []wire.Target
	}{
		{"1. IPv4", "1.2.3.4", []wire.Target{{"1.2.3.4", 8448, "1.2.3.4", "1.2.3.4"}}},
		{"1. IPv4 with a port", "1.2.3.4:1", []wire.Target{{"1.2.3.4", 1, "1.2.3.4:1", "1.2.3.4"}}},
		{"1. IPv6", "[2606::1]", []wire.Target{{"2606::1", 8448, "[2606::1]", "2606::1"}}},
		{"1. IPv6 with a port", "[2606::1]:1", []wire.Target{{"2606::1", 1, "[2606::1]:1", "2606::1"}}},
		{"2. an explicit port", "srv.example:443", []wire.Target{{"srv.example", 443, "srv.example:443", "srv.example"}}},
		{"3.1. to an IP", "to-ip.example", []wire.Target{{"1.2.3.4", 8448, "1.2.3.4", "1.2.3.4"}}},
		{"3.1. to an IP with a port", "to-ip-port.example", []wire.Target{{"1.2.3.4", 1, "1.2.3.4:1", "1.2.3.4"}}},
		{"3.1. to IPv6", "to-six.example", []wire.Target{{"2606::1", 8448, "[2606::1]", "2606::1"}}},
		{"3.2. to a name with a port", "to-port.example", []wire.Target{{"delegate.example", 443, "delegate.example:443", "delegate.example"}}},
		{"3.2. by a redirect", "redirect.example", []wire.Target{{"delegate.example", 443, "delegate.example:443", "delegate.example"}}},
		{"3.3. to a name with SRV", "to-srv.example", []wire.Target{{"target.example", 3000, "delegate-srv.example", "delegate-srv.example"}}},
		{"3.4. to a name with the old SRV", "to-old.example", []wire.Target{{"target.example", 3001, "delegate-old.example", "delegate-old.example"}}},
		{"3.5. to a name", "to-plain.example", []wire.Target{{"delegate.example", 8448, "delegate.example", "delegate.example"}}},
		{"4. SRV, by priority", "srv.example", []wire.Target{{"first.example", 1001, "srv.example", "srv.example"}, {"second.example", 1000, "srv.example", "srv.example"}}},
		{"5. the old SRV", "old.example", []wire.Target{{"target.example", 2000, "old.example", "old.example"}}},
		{"6. nothing", "plain.example", []wire.Target{{"plain.example", 8448, "plain.example", "plain.example"}}},
		{"6. records that are none", "useless.example", []wire.Target{{"useless.example", 8448, "useless.example", "useless.example"}}},
		{"no JSON", "not-json.example", plain("not-json.example")},
		{"no m.server", "no-key.example", plain("no-key.example")},
		{"m.server a number", "number.example", plain("number.example")},
		{"m.server a URL", "bad-name.example", plain("bad-name.example")},
		{"m.server with a port that is none", "bad-port.example", plain("bad-port.example")},
		{"m.server twice", "twice.example", plain("twice.example")},
		{"404", "missing.example", plain("missing.example")},
		{"500", "broken.example", plain("broken.example")},
		{"what looks like a number is a name", "2130706433", plain("2130706433")},
	}
	r := wire.NewResolver(w.config())
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := r.Resolve(t.Context(), id.ServerName(tt.server))
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func plain(host string) []wire.Target { return []wire.Target{{host, 8448, host, host}} }

func TestResolveRefuses(t *testing.T) {
	w := newWorld(t)
	w.srv["_matrix-fed._tcp.none.example"] = srv("0 0 0 .")
	r := wire.NewResolver(w.config())
	for _, server := range []string{"a.example:0", "a.example:99999", "1.2.3.4:70000", "none.example"} {
		_, err := r.Resolve(t.Context(), id.ServerName(server))
		require.Error(t, err, server)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Resolve(ctx, "a.example")
	require.ErrorIs(t, err, context.Canceled)
}

// TestWeights: RFC 2782, weights are proportions.
func TestWeights(t *testing.T) {
	w := newWorld(t)
	w.srv["_matrix-fed._tcp.a.example"] = srv("1 0 1 last", "0 10 1 light", "0 90 1 heavy", "0 0 1 never")
	r := wire.NewResolver(w.config())
	first := map[string]int{}
	for range 1000 {
		targets, err := r.Targets(t.Context(), "a.example")
		require.NoError(t, err)
		require.Len(t, targets, 4)
		require.Equal(t, "last", targets[3].Dial)
		first[targets[0].Dial]++
	}
	require.InDelta(t, 900, first["heavy"], 80, "%v", first)
	require.InDelta(t, 100, first["light"], 80, "%v", first)
}

// TestWellKnownLifetime: F-100, what the headers say and how long it is kept.
func TestWellKnownLifetime(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	date := func(d time.Duration) string { return now.Add(d).UTC().Format(http.TimeFormat) }
	tests := []struct {
		name, header, value string
		want                time.Duration
	}{
		{"nothing", "X", "", 24 * time.Hour},
		{"ten years", "Cache-Control", "max-age=315360000", 48 * time.Hour},
		{"more than can be counted", "Cache-Control", "public, max-age=99999999999999999999999", 48 * time.Hour},
		{"an hour", "Cache-Control", "public, MAX-AGE=3600", time.Hour},
		{"a second", "Cache-Control", "max-age=1", 5 * time.Minute},
		{"no number", "Cache-Control", "max-age=x", 5 * time.Minute},
		{"negative", "Cache-Control", "max-age=-5", 5 * time.Minute},
		{"not at all", "Cache-Control", "no-store", 5 * time.Minute},
		{"something else", "Cache-Control", "private", 24 * time.Hour},
		{"expires in two hours", "Expires", date(2 * time.Hour), 2 * time.Hour},
		{"expires in a year", "Expires", date(365 * 24 * time.Hour), 48 * time.Hour},
		{"expired", "Expires", date(-time.Hour), 5 * time.Minute},
		{"expires never, they say", "Expires", "0", 5 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.handle("a.example", func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set(tt.header, tt.value)
				fmt.Fprint(rw, `{"m.server":"b.example:1"}`)
			})
			clock, r := w.resolver(now)
			w.ask(r, "a.example", "b.example:1", 1)
			clock(tt.want - time.Second)
			w.ask(r, "a.example", "b.example:1", 0)
			clock(2 * time.Second)
			w.ask(r, "a.example", "b.example:1", 1)
		})
	}
}

// resolver returns a Resolver whose clock stands still but for the function.
func (w *world) resolver(now time.Time) (func(time.Duration), *wire.Resolver) {
	cfg := w.config()
	var at atomic.Int64
	cfg.Now = func() time.Time { return now.Add(time.Duration(at.Load())) }
	return func(d time.Duration) { at.Add(int64(d)) }, wire.NewResolver(cfg)
}

// ask checks what a name delegates to and how many requests that took.
func (w *world) ask(r *wire.Resolver, server, want string, requests int) {
	before := w.web.asked.Load()
	got, err := r.Delegate(context.Background(), id.ServerName(server))
	require.NoError(w.t, err)
	require.Equal(w.t, id.ServerName(want), got)
	require.EqualValues(w.t, requests, w.web.asked.Load()-before, "requests")
}

// TestNoWellKnownBacksOff: that there is none is remembered for longer and longer, but never over an hour.
func TestNoWellKnownBacksOff(t *testing.T) {
	w := newWorld(t)
	w.handle("a.example", http.NotFound)
	clock, r := w.resolver(time.Now())
	for _, pause := range []time.Duration{5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute, 48 * time.Minute} {
		w.ask(r, "a.example", "a.example", 1)
		clock(pause - time.Second)
		w.ask(r, "a.example", "a.example", 0)
		clock(time.Hour - pause + time.Second)
	}
}

// TestWellKnownOutlivesFailures: a server that is down for a while still delegates, one that says no does not.
func TestWellKnownOutlivesFailures(t *testing.T) {
	w := newWorld(t)
	w.delegate("a.example", `{"m.server":"b.example:1"}`)
	clock, r := w.resolver(time.Now())
	w.ask(r, "a.example", "b.example:1", 1)
	w.handle("a.example", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(502) })
	clock(25 * time.Hour)
	w.ask(r, "a.example", "b.example:1", 1)
	clock(24 * time.Hour)
	w.ask(r, "a.example", "a.example", 1)

	w.delegate("a.example", `{"m.server":"c.example:1"}`)
	clock(time.Hour)
	w.ask(r, "a.example", "c.example:1", 1)
	w.handle("a.example", http.NotFound)
	clock(25 * time.Hour)
	w.ask(r, "a.example", "a.example", 1)
}

// TestHostileWellKnown: F-100, bodies and redirects without end.
func TestHostileWellKnown(t *testing.T) {
	w := newWorld(t)
	var sent atomic.Int64
	flood := func(limit int64) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			sent.Store(0)
			fmt.Fprint(rw, `{"m.server":"evil.example:1"}`)
			for chunk := bytes.Repeat([]byte(" "), 32<<10); sent.Load() < limit; {
				n, err := rw.Write(chunk)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}
	}
	w.handle("large.example", flood(100<<20))
	w.handle("endless.example", flood(1<<62))
	hops := 0
	w.handle("far.example", func(rw http.ResponseWriter, r *http.Request) {
		hops++
		http.Redirect(rw, r, fmt.Sprintf("https://far.example/%d", hops), http.StatusFound)
	})
	w.redirect("loop.example", "https://loop.example/.well-known/matrix/server")
	w.redirect("http.example", "http://to.example/.well-known/matrix/server")
	r := wire.NewResolver(w.config())
	for _, host := range []string{"large.example", "endless.example", "far.example", "loop.example", "http.example"} {
		got, err := r.Delegate(t.Context(), id.ServerName(host))
		require.NoError(t, err)
		require.Equal(t, id.ServerName(host), got, "it delegates to nobody")
	}
	require.Less(t, sent.Load(), int64(8<<20), "bytes sent by the endless file")
	require.LessOrEqual(t, hops, 11)
	w.delegate("exact.example", `{"m.server":"b.example:1"}`+strings.Repeat(" ", 50<<10-len(`{"m.server":"b.example:1"}`)))
	w.ask(r, "exact.example", "b.example:1", 1)
}

// TestTenRedirects are followed.
func TestTenRedirects(t *testing.T) {
	w := newWorld(t)
	hops := 0
	w.handle("far.example", func(rw http.ResponseWriter, r *http.Request) {
		if hops++; hops > 10 {
			fmt.Fprint(rw, `{"m.server":"b.example:1"}`)
			return
		}
		http.Redirect(rw, r, fmt.Sprintf("https://far.example/%d", hops), http.StatusPermanentRedirect)
	})
	w.ask(wire.NewResolver(w.config()), "far.example", "b.example:1", 11)
}

// TestOneWellKnownAtATime: many ask, one request goes out; and who leads may give up without the others.
func TestOneWellKnownAtATime(t *testing.T) {
	w := newWorld(t)
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	w.handle("a.example", func(rw http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-release:
			fmt.Fprint(rw, `{"m.server":"b.example:1"}`)
		case <-r.Context().Done():
		}
	})
	r := wire.NewResolver(w.config())
	leader, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := r.Delegate(leader, "a.example")
		require.ErrorIs(t, err, context.Canceled)
	})
	<-arrived
	for range 20 {
		wg.Go(func() {
			got, err := r.Delegate(t.Context(), "a.example")
			require.NoError(t, err)
			require.Equal(t, id.ServerName("b.example:1"), got)
		})
	}
	giveUp()
	<-arrived
	close(release)
	wg.Wait()
	require.EqualValues(t, 2, w.web.asked.Load())
}

// TestManyNames: what is remembered is bounded.
func TestManyNames(t *testing.T) {
	w := newWorld(t)
	_, r := w.resolver(time.Now())
	for i := range 10_500 {
		_, err := r.Delegate(t.Context(), id.ServerName(fmt.Sprintf("%d.example", i)))
		require.NoError(t, err)
	}
	require.LessOrEqual(t, wire.Remembered(r), 10_000)
}
