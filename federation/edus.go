package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	maxSentEDU       = 64 << 10         // bytes of one EDU
	maxWaitingEDUs   = 1000             // that wait for one server,
	maxWaitingBytes  = 1 << 20          // and their size;
	maxWaitingDoubt  = 100              // the same for a server that fails
	doubtBytes       = 64 << 10         //
	typingIsOver     = 30 * time.Second // after which nobody is told any more that somebody was typing
	ephemeralPatient = time.Minute      // how long a transaction of EDUs that may be lost is tried
)

// waitingEDU is an EDU that may be lost, encoded once for all servers it is for.
type waitingEDU struct {
	typ, key string
	text     []byte
	at       time.Time
}

// DurableEDU is an EDU that must arrive. Its position is the one at which it was stored.
type DurableEDU struct {
	At   storage.Pos
	Text json.RawMessage // {"content":…,"edu_type":…}, canonical JSON of at most 64 KiB
}

// DurableEDUs is where EDUs that must arrive are stored: messages to devices and changes of their lists. As with events
// the row is the message: it is written by the act that brings it about, which calls Sender.Wake once it is announced.
// The Sender keeps how far each server is (mx_destinations.edus_past); rows up to there may be deleted by their owner.
type DurableEDUs interface {
	// After returns the EDUs for a server with a position in (after, upTo], in order, at most limit.
	After(ctx context.Context, server id.ServerName, after, upTo storage.Pos, limit int) ([]DurableEDU, error)

	// Waiting returns the servers that have not been sent everything.
	Waiting(ctx context.Context) ([]id.ServerName, error)
}

// SendEDU sends an EDU to servers, as soon as may be and at most once: it is kept in memory, a thousand for each server
// (a hundred while it fails), of which the oldest are dropped. One with the same type and key that still waits is
// replaced; the empty key replaces nothing. Content that is no canonical JSON object, or larger than 64 KiB, is dropped.
//
// The key says what a newer EDU makes obsolete: for typing the room and user, for receipts the room, user and thread, for
// presence the user.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#edus
func (s *Sender) SendEDU(servers []id.ServerName, eduType, key string, content json.RawMessage) {
	text, err := EncodeEDU(eduType, content)
	if err != nil {
		s.cfg.Log.Error("an EDU cannot be sent", "type", eduType, "error", err)
		return
	}
	e := &waitingEDU{typ: eduType, key: key, text: text, at: s.cfg.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range servers {
		if !s.sendsTo(name) {
			continue
		}
		d := s.destinationLocked(name)
		d.keepLocked(e)
		s.wakeLocked(d)
	}
	s.dispatchLocked()
}

var errLargeEDU = fmt.Errorf("federation: an EDU is larger than %d bytes", maxSentEDU)

// EncodeEDU returns an EDU as it stands in transactions. It may have 64 KiB, and must be canonical JSON: one that is not
// would have the whole transaction refused.
func EncodeEDU(eduType string, content json.RawMessage) (json.RawMessage, error) {
	text, err := json.Marshal(struct {
		Type    string          `json:"edu_type"`
		Content json.RawMessage `json:"content"`
	}{eduType, content})
	if err != nil {
		return nil, err
	}
	if len(text) > maxSentEDU {
		return nil, errLargeEDU
	}
	return canonjson.AppendStrict(nil, text)
}

// keepLocked puts an EDU behind those that wait.
func (d *destination) keepLocked(e *waitingEDU) {
	if e.key != "" {
		if i := slices.IndexFunc(d.edus, func(old *waitingEDU) bool { return old.key == e.key && old.typ == e.typ }); i >= 0 {
			d.bytes -= len(d.edus[i].text)
			d.edus = slices.Delete(d.edus, i, i+1)
		}
	}
	d.edus = append(d.edus, e)
	d.bytes += len(e.text)
	count, size := maxWaitingEDUs, maxWaitingBytes
	if d.class == doubtful {
		count, size = maxWaitingDoubt, doubtBytes
	}
	for len(d.edus) > count || d.bytes > size && len(d.edus) > 1 {
		d.dropLocked(1)
	}
}

// dropLocked forgets the oldest EDUs.
func (d *destination) dropLocked(n int) {
	for _, e := range d.edus[:n] {
		d.bytes -= len(e.text)
	}
	d.edus = slices.Delete(d.edus, 0, n)
	if len(d.edus) == 0 {
		d.edus = nil
	}
}

// addEDUs moves EDUs that wait into a transaction. While a server fails, they wait: what is tried again and again is
// small.
func (s *Sender) addEDUs(d *destination, t *sending, left int) {
	if d.row.FailingSinceMS != 0 && t.durable() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range d.edus {
		old := e.typ == "m.typing" && s.cfg.Now().Sub(e.at) > typingIsOver
		if !old && (len(t.EDUs) == maxSentEDUs || len(e.text) > left && len(t.EDUs)+len(t.PDUs) > 0) {
			break
		}
		if n++; !old {
			t.EDUs = append(t.EDUs, e.text)
			left -= len(e.text)
		}
	}
	d.dropLocked(n)
}

// addDurable adds EDUs that must arrive and moves the row past them.
func (s *Sender) addDurable(ctx context.Context, t *sending, row *storage.Destination, left int) (int, error) {
	if s.cfg.Durable == nil {
		return left, nil
	}
	upTo := s.cfg.DB.Published()
	list, err := s.cfg.Durable.After(ctx, row.Server, row.EDUsPast, upTo, maxSentEDUs)
	if err != nil {
		return left, err
	}
	for _, e := range list {
		if len(e.Text) > left && len(t.EDUs)+len(t.PDUs) > 0 {
			return left, nil
		}
		t.EDUs, t.Firm = append(t.EDUs, e.Text), true
		row.EDUsPast = e.At
		left -= len(e.Text)
	}
	if len(list) < maxSentEDUs {
		row.EDUsPast = upTo
	}
	return left, nil
}
