package homeservertest_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// audit compares the ledger with every server, the servers with each other, and what clients were told with both.
func (w *world) audit() {
	w.figures()
	for _, h := range w.halls {
		for _, c := range h.core {
			w.compare(h, c)
		}
		w.agree(h)
	}
	for _, c := range w.people {
		for c.client.more() {
		}
		c.client.audit()
	}
	require.Empty(w.t, w.log.errors(), "errors in the logs")
}

// figures logs how much was written.
func (w *world) figures() {
	firm := 0
	for _, h := range w.halls {
		firm += len(w.ledger.of(h))
	}
	require.Positive(w.t, firm, "writes that everybody has to have")
	w.t.Logf("%d writes in the ledger, %d of the core, in %v: %.0f an hour", len(w.ledger.writes), firm, w.lasts, float64(len(w.ledger.writes))/w.lasts.Hours())
}

// agree compares the state of a room at the servers of its core.
func (w *world) agree(h *hall) {
	first := w.stateOf(h, h.core[0])
	for _, c := range h.core[1:] {
		if state := w.stateOf(h, c); state != first {
			w.t.Errorf("%v: the state at %s differs from that at %s:\n%s", h, c.server.Name(), h.core[0].server.Name(), diff(first, state))
		}
	}
}

// compare reads the whole history of a room at a server and compares it with the ledger.
func (w *world) compare(h *hall, c *citizen) {
	at := fmt.Sprintf("%v at %s", h, c.server.Name())
	w.history(h, c, "", nil) // fills gaps; redactions that came before what they redact are only told then, as the newest
	read := w.tidy(at, w.history(h, c, "", nil))
	w.complete(at, h, func(event string) bool { return read[event].Exists() })
	for _, l := range w.ledger.of(h) {
		if l.kind == redaction && read[l.about].Get("content.body").Exists() {
			w.t.Errorf("%s: %s is not redacted by %s", at, l.about, l.event)
		}
	}
}

// tidy returns the events of a history by their ids: each is there once, and so is each act.
func (w *world) tidy(at string, history []gjson.Result) map[string]gjson.Result {
	read, acts := map[string]gjson.Result{}, map[int64]string{}
	for _, e := range history {
		event, n := e.Get("event_id").String(), e.Get("content.n")
		if read[event].Exists() {
			w.t.Errorf("%s: %s is there twice", at, event)
		}
		if first := acts[n.Int()]; n.Exists() && first != "" {
			w.t.Errorf("%s: act %d is there as %s and as %s", at, n.Int(), event, first)
		}
		read[event] = e
		if n.Exists() {
			acts[n.Int()] = event
		}
	}
	return read
}

// complete sees that everything of the ledger that a room's core has to have is there.
func (w *world) complete(where string, h *hall, has func(event string) bool) {
	var missing []string
	writes := w.ledger.of(h)
	for _, l := range writes {
		if !has(l.event) {
			missing = append(missing, fmt.Sprintf("%s (act %d of %s)", l.event, l.n, l.by.ID))
		}
	}
	if len(missing) > 0 {
		w.t.Errorf("%s: of %d writes %d are missing, as %v", where, len(writes), len(missing), missing[:min(len(missing), shown)])
	}
}

// shown is how many of many faults of a kind are shown.
const shown = 10

// stalls is how often history may have to wait until servers are asked again.
const stalls = 5

// history pages back through a room, from a place or "", its end, to its beginning or an event that is known.
func (w *world) history(h *hall, c *citizen, from string, known map[string]bool) (events []gjson.Result) {
	for stalled := 0; ; {
		query := url.Values{"dir": {"b"}, "limit": {"500"}}
		if from != "" {
			query.Set("from", from)
		}
		r := w.insist(func() *homeservertest.Response { return c.Messages(h.id, query) })
		if r.Status != 200 {
			w.t.Errorf("history of %s at %s: %d %s", h.id, c.server.Name(), r.Status, r.Body)
			return events
		}
		chunk, end := r.Get("chunk").Array(), r.Get("end").String()
		for _, e := range chunk {
			if known[e.Get("event_id").String()] {
				return events
			}
			events = append(events, e)
		}
		if end == "" {
			return events
		}
		if len(chunk) == 0 && end == from {
			if stalled++; stalled > stalls {
				w.t.Errorf("history of %s at %s does not go on at %s", h.id, c.server.Name(), from)
				return events
			}
			time.Sleep(time.Minute + time.Second)
		}
		from = end
	}
}

// stateOf is the current state of a room at somebody's server, as text.
func (w *world) stateOf(h *hall, c *citizen) string {
	r := w.insist(func() *homeservertest.Response { return c.Do("GET", roomPath(h, "state"), nil) })
	var lines []string
	for _, e := range r.WantOK().Get("@this").Array() {
		lines = append(lines, fmt.Sprintf("%s|%s %s\n", e.Get("type"), e.Get("state_key"), e.Get("event_id")))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// diff is what differs between two states.
func diff(a, b string) string {
	var out bytes.Buffer
	for i, lines := range [][]string{linesOf(a), linesOf(b)} {
		other := linesOf([]string{b, a}[i])
		for _, line := range lines {
			if !slices.Contains(other, line) {
				fmt.Fprintf(&out, "%c %s\n", "-+"[i], line)
			}
		}
	}
	return out.String()
}

// linesOf are the lines of a text.
func linesOf(text string) (lines []string) {
	for line := range bytes.Lines([]byte(text)) {
		lines = append(lines, string(bytes.TrimSpace(line)))
	}
	return lines
}

// more syncs without waiting and reports whether there was anything.
func (cl *client) more() bool {
	before := cl.since
	cl.sync()
	return cl.since != before
}

// audit compares what a client was told, once it has filled its gaps, with the ledger.
func (cl *client) audit() {
	for _, m := range cl.halls {
		heard := map[string]bool{}
		for _, gap := range m.gaps {
			for _, e := range cl.history(m.hall, cl.c, gap, m.told) {
				heard[e.Get("event_id").String()] = true
			}
		}
		cl.complete(fmt.Sprintf("what %s was told of %v", cl.c.ID, m.hall), m.hall, func(event string) bool { return m.told[event] || heard[event] })
	}
}

// faultLog keeps what servers log as errors.
type faultLog struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *faultLog) of(server string) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelError})).With("at", server)
}

// Write takes a line.
func (l *faultLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

var _ io.Writer = (*faultLog)(nil)

func (l *faultLog) errors() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
