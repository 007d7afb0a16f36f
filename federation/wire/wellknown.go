package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
)

const (
	maxWellKnown     = 50 << 10 // bytes
	wellKnownTimeout = 10 * time.Second
	maxRedirects     = 10

	wellKnownDefault = 24 * time.Hour // "The recommended sensible default is 24 hours."
	wellKnownMax     = 48 * time.Hour // "a maximum cache time …: 48 hours is recommended"
	wellKnownMin     = 5 * time.Minute
	noWellKnownMin   = 5 * time.Minute
	noWellKnownMax   = time.Hour // "Errors are recommended to be cached for up to an hour"
)

// wellKnown is what is remembered of one host.
type wellKnown struct {
	server  id.ServerName // "" when the host delegates to nobody
	until   time.Time     // it is not asked again before
	last    time.Time     // when server was heard; zero when it was not
	refusal time.Duration // how long the last failure was remembered
}

// wellKnown returns whom a host delegates to, "" if to nobody. Only the end of ctx is an error.
func (r *Resolver) wellKnown(ctx context.Context, host string) (id.ServerName, error) {
	for {
		known, flight, leads := r.join(host)
		switch {
		case flight == nil:
			return known.server, nil
		case leads:
			return r.ask(ctx, host, known, flight)
		}
		select {
		case <-flight: // answered, or its leader gave up and somebody else leads
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// join returns what is known of a host, or else the request that is under way and whether the caller has to make it.
func (r *Resolver) join(host string) (known wellKnown, flight chan struct{}, leads bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.known[host]
	if ok && r.now().Before(known.until) {
		return known, nil, false
	}
	if flight, ok = r.flights[host]; ok {
		return known, flight, false
	}
	flight = make(chan struct{})
	r.flights[host] = flight
	return known, flight, true
}

// ask makes the request that others wait for, and remembers what came of it unless the caller gave up.
func (r *Resolver) ask(ctx context.Context, host string, before wellKnown, flight chan struct{}) (id.ServerName, error) {
	defer r.land(host, flight)
	server, header, err := r.fetch(ctx, host)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	known := before.heard(server, header, r.now())
	if err != nil {
		known = before.failed(err, r.now())
		r.log.Debug("no well-known", "host", host, "error", err, "until", known.until)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	makeRoom(r.known, func(k wellKnown) time.Time { return k.until })
	r.known[host] = known
	return known.server, nil
}

func (r *Resolver) land(host string, flight chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.flights, host)
	close(flight)
}

// forget lets a host that delegates to nobody be asked again.
func (r *Resolver) forget(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.known[host]; ok && known.refusal > 0 {
		known.until = time.Time{}
		r.known[host] = known
	}
}

// heard is what is known after an answer.
func (k wellKnown) heard(server id.ServerName, header http.Header, now time.Time) wellKnown {
	return wellKnown{server: server, until: now.Add(lifetime(header, now)), last: now}
}

// failed is what is known after a failure. The last answer holds for as long as it might have been cached, unless the
// host says clearly that there is none any more.
func (k wellKnown) failed(err error, now time.Time) wellKnown {
	next := wellKnown{server: k.server, last: k.last}
	if errors.Is(err, errNoWellKnown) || now.Sub(k.last) > wellKnownMax {
		next = wellKnown{}
	}
	next.refusal = NextPause(k.refusal, noWellKnownMin, noWellKnownMax)
	next.until = now.Add(next.refusal)
	return next
}

// errNoWellKnown is an answer that says that there is nothing, as opposed to none.
var errNoWellKnown = errors.New("there is no valid well-known file")

// fetch asks a host for its file. The second part of section 3 is the caller's: what is invalid is skipped.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#getwell-knownmatrixserver
func (r *Resolver) fetch(ctx context.Context, host string) (id.ServerName, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, wellKnownTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/matrix/server", nil)
	if err != nil {
		return "", nil, err
	}
	req.Header.Set("User-Agent", r.userAgent)
	resp, err := r.web.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
		return "", nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	if resp.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("%w: status %d", errNoWellKnown, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxWellKnown+1))
	if err != nil {
		return "", nil, err
	}
	server, err := parseWellKnown(body)
	return server, resp.Header, err
}

// parseWellKnown reads m.server. An error is errNoWellKnown.
func parseWellKnown(body []byte) (id.ServerName, error) {
	if len(body) > maxWellKnown {
		return "", fmt.Errorf("%w: it is longer than %d bytes", errNoWellKnown, maxWellKnown)
	}
	object, err := canonjson.Append(nil, body)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoWellKnown, err)
	}
	text, _ := canonjson.String(canonjson.Get(object, "m.server"))
	server, err := id.ParseServerName(text)
	if err == nil {
		_, err = portOf(server)
	}
	if err != nil {
		return "", fmt.Errorf("%w: m.server: %w", errNoWellKnown, err)
	}
	return server, nil
}

// lifetime is how long an answer may be kept by its headers, within our bounds.
func lifetime(header http.Header, now time.Time) time.Duration {
	return min(max(freshness(header, now), wellKnownMin), wellKnownMax)
}

func freshness(header http.Header, now time.Time) time.Duration {
	for directive := range strings.SplitSeq(strings.ToLower(strings.Join(header.Values("Cache-Control"), ",")), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch name {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			return seconds(strings.Trim(value, `"`))
		}
	}
	expires := header.Get("Expires")
	if expires == "" {
		return wellKnownDefault
	}
	at, err := http.ParseTime(expires)
	if err != nil {
		return 0 // an invalid date, "0" above all, is in the past (RFC 9111, 5.3)
	}
	return at.Sub(now)
}
