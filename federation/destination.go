package federation

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	maxSentPDUs = 50  // "Transactions are limited in size; they can have at most 50 PDUs
	maxSentEDUs = 100 // and 100 EDUs."

	maxSentBytes  = 1 << 20          // bytes of events and EDUs after which a transaction gets no more
	maxDoubtBytes = 64 << 10         // the same for servers that may not be there
	sendTimeout   = time.Minute      // a server may have to fetch much before it answers
	maxSendAnswer = 256 << 10        // bytes; 50 errors fit
	maxRefusals   = 5                // answers of 5xx with an error of Matrix's,
	refusedFor    = 10 * time.Minute // in at least this time, after which something in the transaction is thought to be bad
	hinderedFor   = 10 * time.Second // pause after a fault of our own
	loggedErrors  = 5                // of the events of a transaction
)

// phase is what a destination is doing.
type phase int

const (
	idle    phase = iota
	ready         // in a line
	flying        // an attempt is under way
	pausing       // waiting for another try
)

// destination is a server to which something is sent.
type destination struct {
	name id.ServerName

	// The following are guarded by Sender.mu.
	phase   phase
	class   class
	woken   bool // since the attempt under way began
	past    storage.Pos
	retryAt time.Time
	triedAt time.Time
	place   int   // in Sender.waiting, -1 outside
	flies   class // what the attempt under way counts as
	slow    alarm
	edus    []*waitingEDU // that may be lost; oldest first
	bytes   int           // of edus

	// The following belong to the attempt under way.
	row      storage.Destination // as it is stored, or is to be when unsaved
	txn      *sending            // not answered yet
	catchUp  bool                // there is something in mx_catch_up
	unsaved  bool                // row has changed in a way that may be lost: what was answered
	refusals int                 // of txn
}

// outcome is how an attempt went.
type outcome struct {
	verdict verdict
	pause   time.Duration // before another one, when it was in vain
}

type verdict int

const (
	nothing   verdict = iota // there was nothing to send
	delivered                // there may be more
	failed                   // by the server's fault
	hindered                 // by ours
)

// sending is a transaction: what its body is made of, so that it can be made again.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1sendtxnid
type sending struct {
	ID       string            `json:"-"`
	TS       int64             `json:"ts"`             // origin_server_ts
	PDUs     []storage.Pos     `json:"pdus,omitempty"` // positions of events
	EDUs     []json.RawMessage `json:"edus,omitempty"`
	Firm     bool              `json:"firm,omitempty"`  // some of the EDUs must arrive
	CaughtUp storage.Pos       `json:"up,omitempty"`    // what of mx_catch_up is in it
	Alone    bool              `json:"alone,omitempty"` // one of them was refused: they are sent one by one
}

// durable reports whether the transaction must outlive the process.
func (t *sending) durable() bool { return len(t.PDUs) > 0 || t.Firm }

// decodeSending reads a stored transaction. One that is damaged becomes empty, and whoever gets it answers nothing.
func decodeSending(txnID string, text []byte, log *slog.Logger) *sending {
	t := &sending{}
	if err := json.Unmarshal(text, t); err != nil {
		log.Error("a stored transaction cannot be read", "txn", txnID, "error", err)
	}
	t.ID = txnID
	return t
}

// attempt sends a destination one transaction: the one that was not answered, or what is next.
func (s *Sender) attempt(ctx context.Context, d *destination) outcome {
	if err := s.supersede(ctx, d); err != nil {
		return s.hindered(d, err)
	}
	t, err := s.next(ctx, d)
	if err != nil {
		return s.hindered(d, err)
	}
	if t == nil {
		s.saveUnsaved(d)
		return outcome{verdict: nothing}
	}
	body, err := s.body(ctx, t)
	if err != nil {
		return s.hindered(d, err)
	}
	answer, err := s.cfg.Client.Do(ctx, wire.Request{
		Destination: d.name, Method: http.MethodPut, Path: "/_matrix/federation/v1/send/" + t.ID,
		Body: body, Timeout: sendTimeout, MaxAnswer: maxSendAnswer, Force: true, // the pauses are the Sender's
	})
	return s.judge(ctx, d, answer, err)
}

// hindered says that an attempt was in vain without the destination's fault.
func (s *Sender) hindered(d *destination, err error) outcome {
	if s.ctx.Err() == nil {
		s.cfg.Log.Error("nothing can be sent", "server", d.name, "error", err)
	}
	return outcome{hindered, hinderedFor}
}

// next returns the transaction that is to be sent now, stored if it must not be lost; nil when there is nothing.
func (s *Sender) next(ctx context.Context, d *destination) (*sending, error) {
	if d.txn != nil {
		return d.txn, nil
	}
	row := d.row
	t := &sending{ID: rand.Text(), TS: s.cfg.Now().UnixMilli()}
	left, err := s.fill(ctx, d, t, &row)
	if err != nil {
		return nil, err
	}
	s.addEDUs(d, t, left)
	if len(t.PDUs) == 0 && len(t.EDUs) == 0 {
		d.row = row
		return nil, nil
	}
	if t.durable() {
		row.TxnID, row.Txn = t.ID, t.encode()
		if err := s.save(ctx, row); err != nil {
			return nil, err
		}
		d.unsaved = false
	}
	d.row, d.txn, d.refusals = row, t, 0
	return t, nil
}

// fill puts what must arrive into a transaction and moves the row past it. It returns how many bytes are left.
func (s *Sender) fill(ctx context.Context, d *destination, t *sending, row *storage.Destination) (left int, err error) {
	left = maxSentBytes
	if row.FailingSinceMS != 0 || row.Past == 0 {
		left = maxDoubtBytes
	}
	if d.catchUp {
		if left, err = s.addCatchUp(ctx, d, t, left); err != nil {
			return 0, err
		}
	}
	if !d.catchUp {
		if left, err = s.addNew(ctx, t, row, left); err != nil {
			return 0, err
		}
	}
	return s.addDurable(ctx, t, row, left)
}

// addNew adds the next events.
func (s *Sender) addNew(ctx context.Context, t *sending, row *storage.Destination, left int) (int, error) {
	for {
		var list []storage.Outgoing
		past, err := s.journal.each(ctx, row.Server, row.Past, func(o storage.Outgoing) bool {
			list = append(list, o)
			return len(list) < maxSentPDUs
		})
		if err != nil {
			return left, err
		}
		n, rest, err := s.addPDUs(ctx, t, positionsOf(list), left)
		if err != nil {
			return left, err
		}
		if n < len(list) {
			past = list[n].At - 1
		}
		row.Past = past
		if len(t.PDUs) > 0 || len(list) < maxSentPDUs {
			return rest, nil
		}
	}
}

func positionsOf(list []storage.Outgoing) []storage.Pos {
	positions := make([]storage.Pos, len(list))
	for i, o := range list {
		positions[i] = o.Pos
	}
	return positions
}

// addPDUs adds events as long as there is room, at least one, and returns how many it has dealt with. Those that are
// not here any more are left out.
func (s *Sender) addPDUs(ctx context.Context, t *sending, positions []storage.Pos, left int) (n, rest int, err error) {
	texts, err := s.events.get(ctx, positions)
	if err != nil {
		return 0, left, err
	}
	for i, text := range texts {
		if len(text) > left && len(t.PDUs) > 0 {
			return i, left, nil
		}
		if text != nil {
			t.PDUs = append(t.PDUs, positions[i])
			left -= len(text)
		}
	}
	return len(positions), left, nil
}

func (t *sending) encode() []byte {
	text, err := json.Marshal(t)
	if err != nil {
		panic(fmt.Sprintf("federation: encode a transaction: %v", err)) // its EDUs were checked when they came
	}
	return text
}

// part is what of a transaction is sent now.
func (t *sending) part() (pdus []storage.Pos, edus []json.RawMessage) {
	switch {
	case !t.Alone:
		return t.PDUs, t.EDUs
	case len(t.PDUs) > 0:
		return t.PDUs[:1], nil
	default:
		return nil, t.EDUs[:min(len(t.EDUs), 1)]
	}
}

// body is the transaction as it is sent.
func (s *Sender) body(ctx context.Context, t *sending) ([]byte, error) {
	pdus, edus := t.part()
	texts, err := s.events.get(ctx, pdus)
	if err != nil {
		return nil, err
	}
	texts = slices.DeleteFunc(texts, func(text []byte) bool { return text == nil })
	b := append(appendList([]byte(`{"edus":[`), edus), `],"origin":`...)
	b = append(canonjson.AppendString(b, string(s.cfg.ServerName)), `,"origin_server_ts":`...)
	b = append(strconv.AppendInt(b, t.TS, 10), `,"pdus":[`...)
	return append(appendList(b, texts), "]}"...), nil
}

func appendList[T ~[]byte](b []byte, items []T) []byte {
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, item...)
	}
	return b
}

// judge says what an answer means, or that there was none.
func (s *Sender) judge(ctx context.Context, d *destination, answer wire.Answer, err error) outcome {
	var refused *wire.Error
	switch {
	case err == nil:
		s.logErrors(d, answer.Body)
		row := d.row
		row.FailingSinceMS, row.RetryAtMS, row.RetryIntervalMS = 0, 0, 0
		return s.answered(ctx, d, row)
	case ctx.Err() != nil || errors.Is(err, wire.ErrClosed):
		return outcome{hindered, hinderedFor}
	case errors.As(err, &refused) && s.refuses(d, refused):
		return s.refused(ctx, d, refused)
	}
	return s.failed(d, err)
}

// answered goes on behind a transaction, or a part of one, that the destination has got or will not get. The row says
// whether it is failing.
func (s *Sender) answered(ctx context.Context, d *destination, row storage.Destination) outcome {
	if rest := d.txn.rest(); rest != nil {
		row.TxnID, row.Txn = rest.ID, rest.encode()
		if err := s.save(ctx, row); err != nil {
			return s.hindered(d, err)
		}
		d.row, d.txn, d.refusals = row, rest, 0
		return outcome{verdict: delivered}
	}
	row.TxnID, row.Txn = "", nil
	if d.txn.CaughtUp > 0 {
		if err := s.caughtUp(ctx, row, d.txn.CaughtUp); err != nil {
			return s.hindered(d, err)
		}
	}
	d.unsaved = d.unsaved || d.txn.durable() || d.row.FailingSinceMS != row.FailingSinceMS
	d.row, d.txn = row, nil
	return outcome{verdict: delivered}
}

// rest is what is left of a transaction whose parts are sent one by one, after the first; nil when that is nothing.
func (t *sending) rest() *sending {
	if !t.Alone || len(t.PDUs)+len(t.EDUs) <= 1 {
		return nil
	}
	rest := *t
	rest.ID = rand.Text()
	if len(rest.PDUs) > 0 {
		rest.PDUs = rest.PDUs[1:]
	} else {
		rest.EDUs = rest.EDUs[1:]
	}
	return &rest
}

// refuses reports whether an answer speaks against the transaction, not against this server or the destination's health.
func (s *Sender) refuses(d *destination, e *wire.Error) bool {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	if e.Status >= 500 && e.Code != "" {
		d.refusals++
		return d.refusals > maxRefusals && s.away(d) >= refusedFor
	}
	return e.Status >= 400 && e.Status < 500
}

// away is for how long a destination has failed.
func (s *Sender) away(d *destination) time.Duration {
	if d.row.FailingSinceMS == 0 {
		return 0
	}
	return s.cfg.Now().Sub(time.UnixMilli(d.row.FailingSinceMS))
}

// refused finds out what a destination cannot bear: the parts of the transaction are sent one by one, and the one that
// is refused again is given up. So one bad event keeps none of the others back. A destination that can take nothing at the
// moment stays one that fails, so that little is given up meanwhile.
func (s *Sender) refused(ctx context.Context, d *destination, e *wire.Error) outcome {
	t := d.txn
	if !t.durable() || t.Alone || len(t.PDUs)+len(t.EDUs) == 1 {
		s.cfg.Log.Warn("a server refuses what it was sent, which is given up", "server", d.name, "txn", t.ID,
			"pdus", t.names(), "edus", len(t.EDUs), "error", e)
		row := d.row
		if e.Status < 500 {
			row.FailingSinceMS, row.RetryAtMS, row.RetryIntervalMS = 0, 0, 0
		}
		return s.answered(ctx, d, row)
	}
	parts := *t
	parts.ID, parts.Alone = rand.Text(), true
	row := d.row
	row.TxnID, row.Txn = parts.ID, parts.encode()
	if err := s.save(ctx, row); err != nil {
		return s.hindered(d, err)
	}
	d.row, d.txn, d.refusals = row, &parts, 0
	return outcome{verdict: delivered}
}

// names are the positions of the events that were sent, for the log.
func (t *sending) names() []storage.Pos {
	pdus, _ := t.part()
	return pdus
}

// failed lets a destination alone for a while.
func (s *Sender) failed(d *destination, err error) outcome {
	now := s.cfg.Now()
	level := slog.LevelDebug
	if d.row.FailingSinceMS == 0 {
		d.row.FailingSinceMS, level = now.UnixMilli(), slog.LevelInfo
	}
	before := time.Duration(d.row.RetryIntervalMS) * time.Millisecond
	pause := wire.NextPause(before, s.cfg.FirstRetry, s.cfg.LongestRetry)
	d.row.RetryIntervalMS = pause.Milliseconds()
	var e *wire.Error
	if errors.As(err, &e) {
		pause = min(max(pause, e.RetryAfter), s.cfg.LongestRetry)
	}
	d.row.RetryAtMS = now.Add(pause).UnixMilli()
	d.unsaved = true
	s.saveUnsaved(d)
	s.cfg.Log.Log(s.ctx, level, "a server cannot be reached", "server", d.name, "pause", pause, "error", err)
	return outcome{failed, pause}
}

// save stores a destination and waits for it.
func (s *Sender) save(ctx context.Context, row storage.Destination) error {
	act := &storage.Act{}
	act.Add(storage.UpsertDestination, row.Row()...)
	s.cfg.DB.Queue(act)
	return act.Wait(ctx)
}

// saveUnsaved stores what may be lost: without it the next process sends a transaction once more, under the same id.
func (s *Sender) saveUnsaved(d *destination) {
	if !d.unsaved {
		return
	}
	act := &storage.Act{}
	act.Add(storage.UpsertDestination, d.row.Row()...)
	s.cfg.DB.Queue(act)
	d.unsaved = false
}

// logErrors tells what the destination thinks of single events. That is for the log alone: none is sent again.
func (s *Sender) logErrors(d *destination, body []byte) {
	var answer struct {
		PDUs map[id.EventID]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return // it is theirs to say nothing that can be understood
	}
	logged := 0
	for event, result := range answer.PDUs {
		if result.Error == "" || logged == loggedErrors {
			continue
		}
		logged++
		s.cfg.Log.Info("a server refuses an event", "server", d.name, "event", event, "error", result.Error[:min(len(result.Error), 512)])
	}
}
