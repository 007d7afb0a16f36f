package wire_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/inprocess"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// answer is a handler that answers with a status and a body.
func answer(status int, body string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(status)
		fmt.Fprint(rw, body)
	}
}

func get(server id.ServerName) wire.Request {
	return wire.Request{Destination: server, Method: "GET", Path: "/x"}
}

// TestRequests: what arrives is addressed by the rules, signed by us for the name before delegation, and nothing else.
func TestRequests(t *testing.T) {
	w := newWorld(t)
	w.name("target.example", "1.2.3.4")
	w.srv["_matrix-fed._tcp.delegate.example"] = srv("0 0 443 target.example.")
	w.delegate("a.example", `{"m.server":"delegate.example"}`)
	key := w.config().Key
	w.serve("1.2.3.4:443", func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		verified := "unsigned"
		if header := r.Header.Values("Authorization"); len(header) == 1 {
			c, err := wire.ParseAuthorization(header[0])
			require.NoError(t, err)
			require.NoError(t, wire.Verify(c, c.Destination, r.Method, r.RequestURI, body, key.Public()))
			verified = fmt.Sprintf("%s for %s", c.Origin, c.Destination)
		}
		fmt.Fprintf(rw, `[%q,%q,%q,%q,%q,%q,%q]`, r.Proto, r.Host, r.TLS.ServerName, r.RequestURI, r.Header.Get("Content-Type"), body, verified)
	})
	tests := []struct {
		name string
		r    wire.Request
		want string
	}{
		{"delegated", wire.Request{Destination: "a.example", Method: "GET", Path: "/x"},
			`["HTTP/2.0","delegate.example","delegate.example","/x","","","us.example for a.example"]`},
		{"with a port", wire.Request{Destination: "target.example:443", Method: "GET", Path: "/x"},
			`["HTTP/2.0","target.example:443","target.example","/x","","","us.example for target.example:443"]`},
		{"an address has no SNI", wire.Request{Destination: "1.2.3.4:443", Method: "GET", Path: "/x"},
			`["HTTP/2.0","1.2.3.4:443","","/x","","","us.example for 1.2.3.4:443"]`},
		{"escapes stay", wire.Request{Destination: "a.example", Method: "GET", Path: "/state/!a%2Fb:c/%24%20", Query: url.Values{"q": {"a b", "%&"}}},
			`["HTTP/2.0","delegate.example","delegate.example","/state/!a%2Fb:c/%24%20?q=a+b\u0026q=%25%26","","","us.example for a.example"]`},
		{"a body", wire.Request{Destination: "a.example", Method: "PUT", Path: "/send/1", Body: []byte(`{"a":1}`)},
			`["HTTP/2.0","delegate.example","delegate.example","/send/1","application/json","{\"a\":1}","us.example for a.example"]`},
		{"unsigned", wire.Request{Destination: "a.example", Method: "GET", Path: "/x", Unsigned: true},
			`["HTTP/2.0","delegate.example","delegate.example","/x","","","unsigned"]`},
	}
	c := w.client()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := c.Do(t.Context(), tt.r)
			require.NoError(t, err)
			require.Equal(t, 200, a.Status)
			require.JSONEq(t, tt.want, string(a.Body))
		})
	}
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	for name, r := range map[string]wire.Request{
		"to ourselves":        {Destination: "us.example", Method: "GET", Path: "/x"},
		"a path without /":    {Destination: "a.example", Method: "GET", Path: "x"},
		"a bad escape":        {Destination: "a.example", Method: "GET", Path: "/%zz"},
		"a query in the path": {Destination: "a.example", Method: "GET", Path: "/x?y"},
		"a bad method":        {Destination: "a.example", Method: "G T", Path: "/x"},
		"a body that is none": {Destination: "a.example", Method: "PUT", Path: "/x", Body: []byte(`{`)},
	} {
		_, err := c.Do(t.Context(), r)
		require.Error(t, err, name)
		_, err = c.Stream(t.Context(), r)
		require.Error(t, err, name)
	}
	require.Empty(t, w.dials())
	require.Zero(t, c.Backoff("a.example"), "it is not the server's fault")
}

// TestConnections: they are kept, shared by those who delegate to the same name, and never by different ports.
func TestConnections(t *testing.T) {
	w := newWorld(t)
	w.name("b.example", "1.2.3.4")
	w.delegate("a1.example", `{"m.server":"b.example:1"}`)
	w.delegate("a2.example", `{"m.server":"b.example:1"}`)
	for _, port := range []string{"1", "443", "8448"} {
		w.serve("1.2.3.4:"+port, answer(200, port))
	}
	c := w.client()
	for server, want := range map[id.ServerName]string{"a1.example": "1", "a2.example": "1", "b.example:1": "1", "b.example:443": "443", "b.example": "8448", "b.example:8448": "8448"} {
		a, err := c.Do(t.Context(), get(server))
		require.NoError(t, err)
		require.Equal(t, want, string(a.Body), server)
	}
	dials := slices.DeleteFunc(w.dials(), func(at string) bool { return strings.HasPrefix(at, "1.1.1.1") })
	slices.Sort(dials)
	require.Equal(t, []string{"1.2.3.4:1", "1.2.3.4:443", "1.2.3.4:443", "1.2.3.4:8448", "1.2.3.4:8448"}, dials, "443 is asked for the well-known too")
}

// TestSecondChoices: targets and addresses that do not answer are passed over.
func TestSecondChoices(t *testing.T) {
	w := newWorld(t)
	w.srv["_matrix-fed._tcp.a.example"] = srv("1 0 1 dead.example.", "2 0 1 unknown.example.", "3 0 1 b.example.")
	w.name("dead.example", "1.2.3.9", "2606::9")
	w.name("b.example", "2606::1", "::ffff:1.2.3.4")
	w.serve("1.2.3.4:1", answer(200, `{}`))
	_, err := w.client().Do(t.Context(), get("a.example"))
	require.NoError(t, err)
	require.Equal(t, []string{"1.2.3.9:1", "[2606::9]:1", "[2606::1]:1", "1.2.3.4:1"}, w.dials())
}

// TestIPv6 in every place of a server name.
func TestIPv6(t *testing.T) {
	w := newWorld(t)
	h := func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "%q", r.Host) }
	w.serve("[2606::1]:8448", h, "2606::1")
	w.serve("[2606::1]:1", h, "2606::1")
	for _, server := range []id.ServerName{"[2606::1]", "[2606::1]:1", "[2606:0::0001]:1"} {
		a, err := w.client().Do(t.Context(), get(server))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%q", server), string(a.Body))
	}
}

// TestCertificates: F-105, nothing is sent to a server whose certificate is not good.
func TestCertificates(t *testing.T) {
	w := newWorld(t)
	w.name("a.example", "1.2.3.4")
	reached := func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") }
	tests := []struct {
		name, server string
		names        []string
		change       func(*x509.Certificate)
	}{
		{"expired", "a.example", []string{"a.example"}, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }},
		{"not valid yet", "a.example", []string{"a.example"}, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }},
		{"wrong name", "a.example", []string{"b.example"}, func(*x509.Certificate) {}},
		{"no name", "a.example", nil, func(*x509.Certificate) {}},
		{"signed by itself", "a.example", []string{"a.example"}, func(c *x509.Certificate) { c.Subject.CommonName = "self" }},
		{"an address by the name", "1.2.3.4", []string{"a.example"}, func(*x509.Certificate) {}},
		{"a name by the address", "a.example", []string{"1.2.3.4"}, func(*x509.Certificate) {}},
		{"another address", "1.2.3.4", []string{"1.2.3.5"}, func(*x509.Certificate) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.serveWith("1.2.3.4:8448", reached, func(string) *x509.Certificate { return w.issue(tt.names, tt.change) })
			_, err := w.client().Do(t.Context(), get(id.ServerName(tt.server)))
			var bad *tls.CertificateVerificationError
			require.ErrorAs(t, err, &bad)
		})
	}
}

// TestDelegationKeepsTheName: with SRV the certificate is for the name and not for the record's target.
func TestDelegationKeepsTheName(t *testing.T) {
	w := newWorld(t)
	w.srv["_matrix-fed._tcp.a.example"] = srv("1 0 1 target.example.")
	w.name("target.example", "1.2.3.4")
	w.serve("1.2.3.4:1", func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") }, "target.example")
	_, err := w.client().Do(t.Context(), get("a.example"))
	var bad *tls.CertificateVerificationError
	require.ErrorAs(t, err, &bad)
}

func TestOldTLS(t *testing.T) {
	w := newWorld(t)
	w.name("a.example", "1.2.3.4")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10,
		Certificates: []tls.Certificate{{Certificate: [][]byte{w.issue([]string{"a.example"}, func(*x509.Certificate) {}).Raw}, PrivateKey: w.key}},
	})
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake() //nolint:errcheck // it fails
			conn.Close()
		}
	}()
	w.servers["1.2.3.4:8448"] = l.Addr().String()
	_, err = w.client().Do(t.Context(), get("a.example"))
	require.ErrorContains(t, err, "protocol version")
}

// TestPeerErrors: what a peer answers is an Error, whatever it is.
func TestPeerErrors(t *testing.T) {
	long := strings.Repeat("é", 400)
	tests := []struct {
		name   string
		status int
		body   string
		want   wire.Error
	}{
		{"of Matrix", 404, `{"error":"no","errcode":"M_NOT_FOUND"}`, wire.Error{Code: "M_NOT_FOUND", Message: "no", Body: []byte(`{"errcode":"M_NOT_FOUND","error":"no"}`)}},
		{"HTML", 403, `<html>`, wire.Error{}},
		{"nothing", 500, ``, wire.Error{}},
		{"an array", 400, `[]`, wire.Error{}},
		{"wrong types", 400, `{"errcode":1,"error":{},"retry_after_ms":"x"}`, wire.Error{Body: []byte(`{"errcode":1,"error":{},"retry_after_ms":"x"}`)}},
		{"a code that is none", 400, `{"errcode":"M_\n"}`, wire.Error{Body: []byte(`{"errcode":"M_\n"}`)}},
		{"a long code", 400, `{"errcode":"` + strings.Repeat("M", 65) + `"}`, wire.Error{Body: []byte(`{"errcode":"` + strings.Repeat("M", 65) + `"}`)}},
		{"a long message", 400, `{"error":"x` + long + `"}`, wire.Error{Message: "x" + long[:510], Body: []byte(`{"error":"x` + long + `"}`)}},
		{"endless", 400, `{"error":"` + strings.Repeat("x", 1<<20) + `"}`, wire.Error{}},
		{"a redirect", 302, `{}`, wire.Error{Body: []byte(`{}`)}},
		{"limited", 429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, wire.Error{Code: "M_LIMIT_EXCEEDED", RetryAfter: 1500 * time.Millisecond, Body: []byte(`{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`)}},
		{"limited for ever", 429, `{"retry_after_ms":9223372036854775807}`, wire.Error{RetryAfter: time.Hour, Body: []byte(`{"retry_after_ms":9223372036854775807}`)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := inProcess(t, func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Location", "https://elsewhere.example/")
				answer(tt.status, tt.body)(rw, r)
			})
			tt.want.Server, tt.want.Status = "a.example", tt.status
			_, err := c.Do(t.Context(), get("a.example"))
			var got *wire.Error
			require.ErrorAs(t, err, &got)
			require.Equal(t, tt.want, *got)
			_, err = c.Stream(t.Context(), wire.Request{Destination: "a.example", Method: "GET", Path: "/x", Force: true})
			require.ErrorAs(t, err, &got)
		})
	}
	require.ErrorIs(t, &wire.Error{Code: "M_NOT_FOUND"}, mxerr.NotFound)
	require.NotErrorIs(t, &wire.Error{Code: "M_NOT_FOUND"}, mxerr.Forbidden)
}

// inProcess is a client all of whose requests go to a handler.
func inProcess(t testing.TB, h http.HandlerFunc) *wire.Client {
	c := wire.NewClient(wire.Config{Origin: "us.example", Key: testKey(t, 1), Transport: inprocess.Transport{Handler: h}})
	t.Cleanup(c.Close)
	return c
}

// TestTransport: one that is given gets the server name, and nothing is resolved.
func TestTransport(t *testing.T) {
	c := inProcess(t, func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, `[%q,%q,%q]`, r.URL.Host, r.Host, r.URL.Scheme)
	})
	for _, server := range []string{"a.example", "a.example:1", "[::1]"} {
		a, err := c.Do(t.Context(), get(id.ServerName(server)))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf(`[%q,%q,"https"]`, server, server), string(a.Body))
	}
}

// TestAnswers: what is no JSON, or JSON that two parsers may read differently, does not get in.
func TestAnswers(t *testing.T) {
	tests := []struct {
		body string
		want error
	}{
		{`{"a":1.5}`, nil},
		{``, canonjson.ErrSyntax},
		{`<html>`, canonjson.ErrSyntax},
		{"\"\xff\"", canonjson.ErrSyntax},
		{`{"a":1,"a":2}`, canonjson.ErrDuplicateKey},
		{strings.Repeat("[", 200) + strings.Repeat("]", 200), canonjson.ErrDepth},
		{`"` + strings.Repeat("x", 1000) + `"`, wire.ErrTooLarge},
		{`"` + strings.Repeat("x", 998) + `"`, nil},
	}
	for _, tt := range tests {
		c := inProcess(t, answer(200, tt.body))
		r := get("a.example")
		r.MaxAnswer = 1000
		_, err := c.Do(t.Context(), r)
		require.ErrorIs(t, err, tt.want, "%.40s", tt.body)
		require.Zero(t, c.Backoff("a.example"), "it is there")
	}
}

// TestCompressed: the bound is for what is unpacked.
func TestCompressed(t *testing.T) {
	w := newWorld(t)
	w.name("a.example", "1.2.3.4")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(bytes.Repeat([]byte(" "), 50<<20))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	w.serve("1.2.3.4:8448", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Encoding", "gzip")
		rw.Write(packed.Bytes())
	})
	_, err = w.client().Do(t.Context(), get("a.example"))
	require.ErrorIs(t, err, wire.ErrTooLarge)
}

func TestStream(t *testing.T) {
	c := inProcess(t, answer(200, strings.Repeat("x", 100)))
	r := get("a.example")
	r.MaxAnswer = 100
	s, err := c.Stream(t.Context(), r)
	require.NoError(t, err)
	all, err := io.ReadAll(s.Body)
	require.NoError(t, err)
	require.Len(t, all, 100)
	require.NoError(t, s.Body.Close())

	r.MaxAnswer = 99
	s, err = c.Stream(t.Context(), r)
	require.NoError(t, err)
	all, err = io.ReadAll(s.Body)
	require.ErrorIs(t, err, wire.ErrTooLarge)
	require.Len(t, all, 99)
	_, err = s.Body.Read(make([]byte, 1))
	require.ErrorIs(t, err, wire.ErrTooLarge)
	require.NoError(t, s.Body.Close())
}

// trickle sends n bytes at a time, with a pause.
func trickle(n int, pause time.Duration) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		for {
			if _, err := rw.Write(bytes.Repeat([]byte(" "), n)); err != nil {
				return
			}
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
		}
	}
}

// TestSlowAnswers are cut off: without a header, byte by byte, and streams too.
func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		for name, h := range map[string]http.HandlerFunc{"silent": silent, "trickling": trickle(1, time.Second)} {
			c := inProcess(t, h)
			start := time.Now()
			_, err := c.Do(t.Context(), get("a.example"))
			require.ErrorIs(t, err, wire.ErrTooSlow, name)
			require.Equal(t, 30*time.Second, time.Since(start), name)
			require.NotZero(t, c.Backoff("a.example"))
		}
		c := inProcess(t, silent)
		r := get("a.example")
		r.Timeout = 2 * time.Minute
		start := time.Now()
		_, err := c.Stream(t.Context(), r)
		require.ErrorIs(t, err, wire.ErrTooSlow)
		require.Equal(t, 2*time.Minute, time.Since(start))
	})
}

// TestSlowStreams: a stream must bring 16 KiB in 30 s of waiting; a reader who takes his time is no reason to end it.
func TestSlowStreams(t *testing.T) {
	tests := []struct {
		name  string
		n     int
		every time.Duration
		rest  time.Duration // the reader's, between two reads
		ends  time.Duration
	}{
		{"a byte a second", 1, time.Second, 0, 30 * time.Second},
		{"too little by half", 8 << 10, 30 * time.Second, 0, 30 * time.Second},
		{"enough, until the end of all", 16 << 10, 10 * time.Second, 0, 30 * time.Minute},
		{"a slow reader", 16 << 10, time.Millisecond, time.Minute, 30 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := inProcess(t, trickle(tt.n, tt.every)).Stream(t.Context(), get("a.example"))
				require.NoError(t, err)
				start := time.Now()
				for buf := make([]byte, 32<<10); err == nil; time.Sleep(tt.rest) {
					_, err = s.Body.Read(buf)
				}
				require.ErrorIs(t, err, wire.ErrTooSlow)
				require.InDelta(t, tt.ends, time.Since(start), float64(2*time.Minute*btoi(tt.rest > 0)+time.Second))
				require.NoError(t, s.Body.Close())
			})
		})
	}
}

func btoi(b bool) time.Duration {
	if b {
		return 1
	}
	return 0
}

// TestBackoff: pauses at least double up to an hour, nothing is sent meanwhile, and any sign of life ends them.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int32
		status := 502
		c := inProcess(t, func(rw http.ResponseWriter, r *http.Request) { requests.Add(1); answer(status, `{}`)(rw, r) })
		var before time.Duration
		for range 20 {
			_, err := c.Do(t.Context(), get("a.example"))
			require.NotErrorIs(t, err, wire.ErrBackingOff)
			pause := time.Until(c.Backoff("a.example"))
			require.GreaterOrEqual(t, pause, min(max(2*before, time.Second), 48*time.Minute))
			require.LessOrEqual(t, pause, time.Hour)
			sent := requests.Load()
			time.Sleep(pause - time.Millisecond)
			_, err = c.Do(t.Context(), get("a.example"))
			require.ErrorIs(t, err, wire.ErrBackingOff)
			_, err = c.Stream(t.Context(), get("a.example"))
			require.ErrorIs(t, err, wire.ErrBackingOff)
			require.Equal(t, sent, requests.Load())
			time.Sleep(time.Millisecond)
			before = pause
		}
		_, err := c.Do(t.Context(), get("a.example"))
		require.Error(t, err)
		until := c.Backoff("a.example")
		r := get("a.example")
		r.Force = true
		_, err = c.Do(t.Context(), r)
		require.NotErrorIs(t, err, wire.ErrBackingOff)
		require.Equal(t, until, c.Backoff("a.example"), "trying nevertheless does not make it longer")
		status = 200
		_, err = c.Do(t.Context(), r)
		require.NoError(t, err)
		require.Zero(t, c.Backoff("a.example"))
		require.Zero(t, wire.Failing(c))
	})
}

// TestAlive: a server that contacts us is tried again at once, and its well-known is looked for again.
func TestAlive(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.Alive("a.example")
	_, err := c.Do(t.Context(), get("a.example"))
	require.Error(t, err)
	require.NotZero(t, c.Backoff("a.example"))
	require.NotZero(t, wire.Failing(c))

	w.name("b.example", "1.2.3.4")
	w.delegate("a.example", `{"m.server":"b.example:1"}`)
	w.serve("1.2.3.4:1", answer(200, `{}`))
	c.Alive("a.example")
	require.Zero(t, c.Backoff("a.example"))
	_, err = c.Do(t.Context(), get("a.example"))
	require.NoError(t, err)
}

// TestWhatCountsAsFailure: a server that says no is there, and a caller who gives up says nothing about it.
func TestWhatCountsAsFailure(t *testing.T) {
	tests := []struct {
		name string
		h    http.HandlerFunc
		want bool
	}{
		{"401", answer(401, `{"errcode":"M_UNAUTHORIZED"}`), false},
		{"403", answer(403, `{"errcode":"M_FORBIDDEN"}`), false},
		{"404 that is no Matrix", answer(404, `<html>`), false},
		{"504 for media", answer(504, `{"errcode":"M_NOT_YET_UPLOADED"}`), false},
		{"500", answer(500, `{"errcode":"M_UNKNOWN"}`), true},
		{"502 of a proxy", answer(502, `<html>`), true},
		{"429", answer(429, `{"errcode":"M_LIMIT_EXCEEDED"}`), true},
	}
	for _, tt := range tests {
		c := inProcess(t, tt.h)
		_, err := c.Do(t.Context(), get("a.example"))
		require.Error(t, err)
		require.Equal(t, tt.want, !c.Backoff("a.example").IsZero(), tt.name)
	}
	c := inProcess(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	_, err := c.Do(ctx, get("a.example"))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, c.Backoff("a.example"))
}

// TestRetryAfter: a peer may ask for more patience, but not for more than an hour.
func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{"60": time.Minute, "999999": time.Hour} {
		c := inProcess(t, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Retry-After", header)
			rw.WriteHeader(429)
		})
		_, err := c.Do(t.Context(), get("a.example"))
		require.Error(t, err)
		require.InDelta(t, want, time.Until(c.Backoff("a.example")), float64(time.Second))
	}
}

// TestFailuresTogetherCountOnce: a hundred requests under way to a server that dies are one failure.
func TestFailuresTogetherCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inProcess(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				r := get("a.example")
				r.Timeout = time.Minute + time.Duration(i)*time.Millisecond
				_, err := c.Do(t.Context(), r)
				require.ErrorIs(t, err, wire.ErrTooSlow)
			})
		}
		wg.Wait()
		require.LessOrEqual(t, time.Until(c.Backoff("a.example")), 1250*time.Millisecond)
	})
}

// TestManyDeadServers: what is remembered is bounded, and so are the connections being opened.
func TestManyDeadServers(t *testing.T) {
	c := inProcess(t, answer(502, ``))
	for i := range 10_100 {
		_, err := c.Do(t.Context(), get(id.ServerName(fmt.Sprintf("%d.example", i))))
		require.Error(t, err)
	}
	require.LessOrEqual(t, wire.Failing(c), 10_000)
}

func TestDialsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		cfg := wire.Config{Origin: "us.example", Key: testKey(t, 1), Timeout: 10 * time.Second}
		cfg.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c := wire.NewClient(cfg)
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() {
				_, err := c.Do(t.Context(), get(id.ServerName(fmt.Sprintf("1.2.%d.%d:1", i/250, i%250))))
				require.Error(t, err)
			})
		}
		wg.Wait()
		c.Close()
		require.EqualValues(t, 200, most.Load())
	})
}

// TestPutIsSentAgain when the connection was closed while nobody used it; a POST, which may have been acted on, is not.
func TestPutIsSentAgain(t *testing.T) {
	w := newWorld(t)
	w.onlyHTTP1 = true
	w.name("a.example", "1.2.3.4")
	var requests atomic.Int32
	w.serve("1.2.3.4:8448", func(rw http.ResponseWriter, r *http.Request) {
		require.Empty(t, r.Header.Values("X-Idempotency-Key"))
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		if requests.Add(1)%2 == 0 {
			conn, _, err := rw.(http.Hijacker).Hijack()
			require.NoError(t, err)
			conn.Close()
			return
		}
		rw.Write(body)
	})
	c := w.client()
	send := func(method string) error {
		a, err := c.Do(t.Context(), wire.Request{Destination: "a.example", Method: method, Path: "/x", Body: []byte(`{"a":1}`), Force: true})
		require.True(t, err != nil || string(a.Body) == `{"a":1}`)
		return err
	}
	require.NoError(t, send("PUT"))
	require.NoError(t, send("PUT"))
	require.EqualValues(t, 3, requests.Load())
	require.Error(t, send("POST"))
	require.EqualValues(t, 4, requests.Load())
}

// TestClose ends what is under way, refuses what comes after, and leaves neither goroutine nor connection.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("", func(t *testing.T) {
		w := newWorld(t)
		w.name("a.example", "1.2.3.4")
		arrived := make(chan struct{})
		w.serve("1.2.3.4:8448", func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				close(arrived)
				<-r.Context().Done()
				return
			}
			fmt.Fprint(rw, `{}`)
		})
		c := w.client()
		_, err := c.Do(t.Context(), get("a.example"))
		require.NoError(t, err)
		ended := make(chan error)
		go func() {
			_, err := c.Do(t.Context(), wire.Request{Destination: "a.example", Method: "GET", Path: "/wait"})
			ended <- err
		}()
		<-arrived
		c.Close()
		require.ErrorIs(t, <-ended, wire.ErrClosed)
		require.Zero(t, c.Backoff("a.example"))
		_, err = c.Do(t.Context(), get("a.example"))
		require.ErrorIs(t, err, wire.ErrClosed)
		c.Close()
	})
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "goroutines are left")
	}
}

// FuzzWellKnown: what is accepted is a server name with a port that exists.
func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"m.server":"a.example:8448"}`))
	f.Add([]byte(`{"m.server":"[::1]"}`))
	f.Add([]byte(`{"m.server":"a:0"}`))
	f.Add([]byte(`{"m.server":1,"m.server":{}}`))
	cfg := wire.Config{DNS: newWorld(f)}
	f.Fuzz(func(t *testing.T, body []byte) {
		server, err := wire.ParseWellKnown(body)
		if err != nil {
			require.Empty(t, server)
			return
		}
		_, err = id.ParseServerName(string(server))
		require.NoError(t, err)
		targets, err := wire.NewResolver(cfg).Targets(t.Context(), server)
		require.NoError(t, err)
		require.NotZero(t, targets[0].Port)
		require.Equal(t, string(server), targets[0].Host)
	})
}
