package homeservertest_test

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// kind is what of a write has to hold.
type kind int

// The kinds of writes. Of what visitors do, and of memberships, servers that were parted may think differently, so
// that such writes are only never told twice.
const (
	loose kind = iota
	firm       // it is in the history of every server of the core
	redaction
)

// write is one that was answered with 200.
type write struct {
	kind  kind
	n     int // is in its content
	event string
	by    *citizen
	hall  *hall
	about string // what a redaction redacts
}

// ledger is every write that was answered with 200.
type ledger struct {
	mu     sync.Mutex // guards writes
	writes []*write
}

func (l *ledger) add(w *write) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes = append(l.writes, w)
}

// of are the writes in a room that its core has to have.
func (l *ledger) of(h *hall) []*write {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.writes), func(w *write) bool { return w.hall != h || w.kind == loose })
}

// said are the ids of messages that somebody has sent to a room.
func (l *ledger) said(c *citizen, h *hall) (ids []string) {
	for _, w := range l.of(h) {
		if w.by == c && w.kind == firm {
			ids = append(ids, w.event)
		}
	}
	return ids
}

// What people do, of a hundred acts.
const (
	saying    = 74
	topics    = saying + 5
	names     = topics + 4
	redacting = names + 5
	noticing  = redacting + 2
	reading   = noticing + 1
	moderates = reading + 3 // and so far it is the core who acts
	visiting  = 100
)

// actor is who does something.
func (h *hall) actor(a act) *citizen {
	who := a.roll / 100
	switch what := a.roll % 100; {
	case what < reading:
		return h.core[who%len(h.core)]
	case what < moderates:
		return h.core[who%2]
	default:
		return h.visitors[who%len(h.visitors)]
	}
}

// perform does what somebody is to do, one thing after the other.
func (w *world) perform(c *citizen) {
	for a := range c.todo {
		switch what := a.roll % 100; {
		case what < saying:
			w.say(c, a, firm)
		case what < topics:
			w.set(c, a, "m.room.topic", map[string]any{"topic": fmt.Sprint("about ", a.n), "n": a.n})
		case what < names:
			w.set(c, a, "m.room.name", map[string]any{"name": fmt.Sprint("Hall ", a.n), "n": a.n})
		case what < redacting:
			w.redact(c, a)
		case what < noticing:
			w.notice(c, a)
		case what < reading:
			w.expected(c.Messages(a.hall.id, url.Values{"dir": {"b"}, "limit": {"100"}}))
		case what < moderates:
			w.moderate(c, a)
		default:
			w.visit(c, a)
		}
	}
}

// insist does something until it was answered with 200 or refused: a server that is being restarted answers 503.
func (w *world) insist(do func() *homeservertest.Response) *homeservertest.Response {
	for tries := 1; ; tries++ {
		r := do()
		if r.Status != 503 || tries == 20 {
			return r
		}
		time.Sleep(time.Second)
	}
}

// firmly is insist for what must not be refused. "" stands for a failure.
func (w *world) firmly(c *citizen, a act, do func() *homeservertest.Response) string {
	r := w.insist(do)
	if r.Status != 200 {
		w.t.Errorf("act %d of %s in %s: %d %s", a.n, c.ID, a.hall.id, r.Status, r.Body)
		return ""
	}
	return r.Get("event_id").String()
}

// expected refuses answers that blame the server, but for those about other servers.
func (w *world) expected(r *homeservertest.Response) {
	if r.Status == 500 {
		w.t.Errorf("%d %s", r.Status, r.Body)
	}
}

func (w *world) say(c *citizen, a act, k kind) {
	content := map[string]any{"msgtype": "m.text", "body": fmt.Sprint("act ", a.n), "n": a.n}
	send := func() *homeservertest.Response {
		return c.SendTxn(a.hall.id, "m.room.message", strconv.Itoa(a.n), content)
	}
	if k == loose {
		if r := w.insist(send); r.Status == 200 {
			w.ledger.add(&write{loose, a.n, r.Get("event_id").String(), c, a.hall, ""})
		} else {
			w.expected(r)
		}
		return
	}
	event := w.firmly(c, a, send)
	if event == "" {
		return
	}
	w.ledger.add(&write{firm, a.n, event, c, a.hall, ""})
	if a.roll/100%8 == 0 { // the answer was lost on its way
		if again := w.firmly(c, a, send); again != event {
			w.t.Errorf("act %d of %s is %s and then %s", a.n, c.ID, event, again)
		}
	}
}

func (w *world) set(c *citizen, a act, eventType string, content map[string]any) {
	event := w.firmly(c, a, func() *homeservertest.Response { return c.SetState(a.hall.id, eventType, "", content) })
	if event != "" {
		w.ledger.add(&write{firm, a.n, event, c, a.hall, ""})
	}
}

func (w *world) redact(c *citizen, a act) {
	said := w.ledger.said(c, a.hall)
	if len(said) == 0 {
		return
	}
	about := said[a.roll/100%len(said)]
	event := w.firmly(c, a, func() *homeservertest.Response {
		return c.Do("PUT", roomPath(a.hall, "redact", about, strconv.Itoa(a.n)), map[string]any{"reason": "n", "n": a.n})
	})
	if event != "" {
		w.ledger.add(&write{redaction, a.n, event, c, a.hall, about})
	}
}

func roomPath(h *hall, segments ...string) string {
	p := "/_matrix/client/v3/rooms/" + url.PathEscape(h.id)
	for _, s := range segments {
		p += "/" + url.PathEscape(s)
	}
	return p
}

// notice types, or reads what was said.
func (w *world) notice(c *citizen, a act) {
	said := w.ledger.said(c, a.hall)
	if a.roll/100%2 == 0 || len(said) == 0 {
		w.expected(c.Do("PUT", roomPath(a.hall, "typing", c.ID), map[string]any{"typing": true, "timeout": 5000}))
		return
	}
	w.expected(c.Do("POST", roomPath(a.hall, "receipt", "m.read", said[len(said)-1]), map[string]any{}))
}

// moderate is what administrators do, two of them at a time: what contradicts itself is the rule.
func (w *world) moderate(c *citizen, a act) {
	v := a.hall.visitors[a.roll/100%len(a.hall.visitors)]
	switch a.roll / 1000 % 8 {
	case 0, 1, 2:
		w.expected(c.Invite(a.hall.id, v.User))
	case 3:
		w.expected(c.Kick(a.hall.id, v.User))
	case 4:
		w.expected(c.Ban(a.hall.id, v.User))
	case 5:
		w.expected(c.Unban(a.hall.id, v.User))
	case 6:
		rule := []string{"public", "public", "invite"}[a.roll/10000%3]
		w.set(c, a, "m.room.join_rules", map[string]any{"join_rule": rule, "n": a.n})
	case 7:
		content := a.hall.wish()["power_level_content_override"].(map[string]any)
		content["kick"], content["n"] = 50+a.n%3, a.n
		w.set(c, a, "m.room.power_levels", content)
	}
}

// visit is what visitors do, as far as they may.
func (w *world) visit(c *citizen, a act) {
	switch a.roll / 1000 % 5 {
	case 0, 1:
		w.expected(w.insist(func() *homeservertest.Response { return c.enter(a.hall) }))
	case 2:
		w.expected(c.Leave(a.hall.id))
	default:
		w.say(c, a, loose)
	}
}

// client is somebody's client: it syncs, and remembers what it was told of the rooms of whose core they are.
type client struct {
	*world
	c     *citizen
	since string
	wait  time.Duration // between two requests; 0: long polls
	halls map[string]*memory
}

// memory is what a client was told of a room.
type memory struct {
	hall *hall
	told map[string]bool // events in timelines
	gaps []string        // where history is to be asked for, since a timeline was limited
}

const syncFilter = `{"room":{"timeline":{"limit":50}}}`

// begin syncs for the first time.
func (cl *client) begin(w *world, c *citizen) {
	cl.world, cl.c, cl.halls = w, c, map[string]*memory{}
	for _, h := range w.halls {
		if slices.Contains(h.core, c) {
			cl.halls[h.id] = &memory{hall: h, told: map[string]bool{}}
		}
	}
	dice := w.dice("sync of " + c.ID)
	if dice.IntN(4) > 0 {
		cl.wait = between(dice, 10*time.Second, 10*time.Minute)
	}
	cl.sync()
}

// watch syncs until the world is over, and now and then stops for a while.
func (cl *client) watch() {
	for cl.sleep(cl.wait) {
		cl.sync()
	}
}

// sync asks once.
func (cl *client) sync() {
	query := url.Values{"filter": {syncFilter}, "timeout": {"30000"}}
	if cl.since != "" {
		query.Set("since", cl.since)
	}
	r := cl.insist(func() *homeservertest.Response { return cl.c.Do("GET", "/_matrix/client/v3/sync?"+query.Encode(), nil) })
	if r.Status != 200 {
		cl.t.Errorf("sync of %s: %d %s", cl.c.ID, r.Status, r.Body)
		return
	}
	r.Get("rooms.join").ForEach(func(room, told gjson.Result) bool {
		if m := cl.halls[room.String()]; m != nil {
			cl.hear(m, told.Get("timeline"))
		}
		return true
	})
	cl.since = r.Get("next_batch").String()
}

// hear remembers a timeline.
func (cl *client) hear(m *memory, timeline gjson.Result) {
	for _, e := range timeline.Get("events").Array() {
		event := e.Get("event_id").String()
		if m.told[event] {
			cl.t.Errorf("%s is told twice of %s in %s", cl.c.ID, event, m.hall.id)
		}
		m.told[event] = true
	}
	if cl.since != "" && timeline.Get("limited").Bool() {
		m.gaps = append(m.gaps, timeline.Get("prev_batch").String())
	}
}
