package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// How an event that was handled by the rules did not become part of a room's history. Its sender has nothing to mend.
var (
	ErrRejected  = errors.New("rooms: the event is rejected")            // and stored as such
	ErrPostponed = errors.New("rooms: the event has to wait for others") // which are asked for when an event names it
)

// Receive takes events of a room that another server has sent in a transaction, through all the checks on receipt of
// a PDU. What they lack it asks that server for. It returns when everything is durable, with one result for each:
// nil for an event that was accepted, soft-failed or known before; an mxerr.Error for one that was dropped, with
// ErrRejected for one that was rejected and with ErrPostponed for one that lacks what could not be had; any other
// error is a fault of this server, which may take the event when it is sent again.
//
// One bad event never stops the others.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#checks-performed-on-receipt-of-a-pdu
func (s *Service) Receive(ctx context.Context, origin id.ServerName, room id.RoomID, pdus []json.RawMessage) []error {
	if r, err := s.Cache.Room(ctx, room); err == nil && s.Remote != nil && !r.HasServer(s.ServerName) {
		return s.receiveOutside(ctx, origin, r, pdus)
	}
	d, err := s.newDelivery(ctx, origin, room)
	if err != nil {
		return all(err, len(pdus))
	}
	return d.receive(ctx, pdus)
}

// ReceivePast is Receive for history that another server has told, an answer of /backfill: events that come before
// the one at the place before. They become part of the room's past, whatever its current state would say to them.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#backfilling-and-retrieving-missing-events
func (s *Service) ReceivePast(ctx context.Context, origin id.ServerName, room id.RoomID, pdus []json.RawMessage, before int64) []error {
	d, err := s.newDelivery(ctx, origin, room)
	if err != nil {
		return all(err, len(pdus))
	}
	d.past, d.parse, d.began = &past{before: before}, event.ParseBackfilled, 0
	return d.receive(ctx, pdus)
}

func all(err error, n int) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// delivery is events of a room that one server has sent, on their way through the checks.
type delivery struct {
	*Service
	origin id.ServerName
	room   *roomstate.Room
	create *roomstate.Event // the room's m.room.create
	parse  parser
	past   *past  // nil: the events arrive now
	relay  bool   // accepted events are sent on to the room's other servers
	began  int64  // the depth at which the room began here; 0: nothing counts as older
	draft  *Draft // of an event of this server; nil for those of others

	delivered map[id.EventID]bool  // those that were sent to us, unlike those that were asked for because of them
	events    []*event.Event       // those that passed checks 1 to 3, each after those of them that it names
	verdicts  map[id.EventID]error // of those that are decided; nil: it is in
	after     map[id.EventID]*gap  // what was asked for: the states after missing predecessors,
	before    map[id.EventID]*gap  // and those before events that have too many of them

	vouched map[id.EventID]policy // whose signature an event has, which was verified
	asked   map[id.EventID]bool   // about which the room's policy server was asked for one

	extremities []id.EventID // of the room when it was last looked at
	pending     []*roomstate.Pending
	stored      []func() // to be called once everything queued is stored
	fault       error    // a fault of this server: nothing more is decided
}

// parser is event.ParseUntrusted or event.ParseBackfilled.
type parser func(rules *roomversion.Rules, raw []byte) (*event.Event, error)

func (s *Service) newDelivery(ctx context.Context, origin id.ServerName, room id.RoomID) (*delivery, error) {
	r, err := s.room(ctx, room)
	if err != nil {
		return nil, err
	}
	d := &delivery{
		Service: s, origin: origin, room: r, parse: event.ParseUntrusted,
		verdicts: map[id.EventID]error{}, after: map[id.EventID]*gap{}, before: map[id.EventID]*gap{},
		delivered: map[id.EventID]bool{}, vouched: map[id.EventID]policy{}, asked: map[id.EventID]bool{},
	}
	if d.began, err = r.Began(ctx); err != nil {
		return nil, err
	}
	return d, d.mayDeliver(ctx)
}

// mayDeliver refuses events of rooms in which nobody is from here, and those of servers that the room keeps out.
func (d *delivery) mayDeliver(ctx context.Context) (err error) {
	if d.Remote == nil || !d.room.HasServer(d.ServerName) {
		return mxerr.Forbidden.With("nobody of this server is in the room")
	}
	if d.create, err = d.room.StateEvent(ctx, d.room.View().State, "m.room.create", ""); err != nil {
		return err
	}
	if d.create == nil {
		return fmt.Errorf("room %s has no m.room.create", d.room.ID)
	}
	return d.checkACL(ctx, d.room, d.origin)
}

func (d *delivery) receive(ctx context.Context, pdus []json.RawMessage) []error {
	events, errs := d.inspect(ctx, d.parse, pdus)
	d.add(events)
	for _, ev := range d.events {
		d.delivered[ev.ID] = true
	}
	d.decide(ctx)
	for i, ev := range events {
		if ev != nil {
			errs[i] = d.verdict(ev.ID)
		}
		if errs[i] != nil {
			d.logRefused(ctx, ev, errs[i])
		}
	}
	d.afterwards(ctx)
	return errs
}

// afterwards does what events that have arrived bring about elsewhere.
func (d *delivery) afterwards(ctx context.Context) {
	if d.past != nil {
		return
	}
	for _, ev := range d.events {
		if ev.Is("m.room.guest_access", "") && d.verdict(ev.ID) == nil {
			d.removeGuests(ctx, d.room.ID)
			return
		}
	}
}

// verdict is the result for an event that passed checks 1 to 3.
func (d *delivery) verdict(eventID id.EventID) error {
	err, decided := d.verdicts[eventID]
	if !decided || err == nil {
		return d.fault
	}
	return err
}

func (d *delivery) logRefused(ctx context.Context, ev *event.Event, err error) {
	attrs := []any{slog.String("origin", string(d.origin)), slog.String("room", string(d.room.ID)), slog.Any("reason", err)}
	if ev != nil {
		attrs = append(attrs, slog.String("event", string(ev.ID)))
	}
	d.Log.DebugContext(ctx, "event refused", attrs...)
}

// inspect applies checks 1 to 3 to what the server has sent: the one door for the events of others. An event is nil
// where there is an error.
func (d *delivery) inspect(ctx context.Context, parse parser, raws []json.RawMessage) ([]*event.Event, []error) {
	events, errs := make([]*event.Event, len(raws)), make([]error, len(raws))
	for i, raw := range raws {
		events[i], errs[i] = d.parseOne(parse, raw)
	}
	d.checkSignatures(ctx, events, errs)
	for i, ev := range events {
		if ev != nil {
			events[i], errs[i] = checkHash(ev)
		}
	}
	return events, errs
}

// parseOne is check 1: "Is a valid event, otherwise it is dropped."
func (d *delivery) parseOne(parse parser, raw []byte) (ev *event.Event, err error) {
	defer survived(&err)
	ev, err = parse(d.room.Rules, raw)
	switch {
	case err != nil:
		return nil, err
	case ev.Room != d.room.ID:
		return nil, mxerr.BadJSON.With("the event is of another room")
	case ev.Type == "m.room.create" && ev.ID != d.create.ID:
		return nil, mxerr.Forbidden.With("the room was created already")
	}
	return ev, nil
}

// checkSignatures is check 2: "Passes signature checks, otherwise it is dropped."
func (d *delivery) checkSignatures(ctx context.Context, events []*event.Event, errs []error) {
	var list []*event.Event
	var at []int
	for i, ev := range events {
		if ev != nil {
			list, at = append(list, ev), append(at, i)
		}
	}
	if len(list) == 0 {
		return
	}
	verified := d.Remote.VerifyEvents(ctx, list)
	for n, i := range at {
		if n >= len(verified) || verified[n] != nil {
			events[i], errs[i] = nil, badSignature(verified, n)
		}
	}
}

// verify is check 2 for an event that is not part of a delivery.
func (s *Service) verify(ctx context.Context, ev *event.Event) error {
	if verified := s.Remote.VerifyEvents(ctx, []*event.Event{ev}); len(verified) == 0 || verified[0] != nil {
		return badSignature(verified, 0)
	}
	return nil
}

// survived lets an event that makes a check panic be refused like any other: it must not take those beside it along.
func survived(err *error) {
	if p := recover(); p != nil {
		*err = mxerr.BadJSON.With("the event cannot be checked: %v", p)
	}
}

func badSignature(verified []error, n int) error {
	if n >= len(verified) {
		return errors.New("signatures were not checked")
	}
	var known *mxerr.Error
	if errors.As(verified[n], &known) {
		return verified[n]
	}
	return mxerr.Forbidden.With("the event is not signed as it has to be: %v", verified[n])
}

// checkHash is check 3: "Passes hash checks, otherwise it is redacted before being processed further."
func checkHash(ev *event.Event) (*event.Event, error) {
	if event.CheckContentHash(ev) {
		return ev, nil
	}
	return ev.Redacted()
}

// add puts events among those to be decided, once each, and orders them all. nil is none.
func (d *delivery) add(events []*event.Event) (added int) {
	known := map[id.EventID]bool{}
	for _, ev := range d.events {
		known[ev.ID] = true
	}
	for _, ev := range events {
		if ev != nil && !known[ev.ID] {
			known[ev.ID] = true
			d.events = append(d.events, ev)
			added++
		}
	}
	var circular []*event.Event
	d.events, circular = order(d.events, func(ev *event.Event, yield func([]id.EventID)) {
		yield(ev.PrevEvents)
		yield(ev.AuthEvents)
	})
	for _, ev := range circular {
		d.verdicts[ev.ID] = mxerr.BadJSON.With("the event comes after itself")
	}
	return added
}

// order puts each event after those of the list that it names, whatever depths they claim, and otherwise keeps the
// order. Events that are among their own ancestors, or come after such, are circular.
func order(events []*event.Event, names func(ev *event.Event, yield func([]id.EventID))) (ordered, circular []*event.Event) {
	waits := make(map[id.EventID]int, len(events)) // for how many each waits
	for _, ev := range events {
		waits[ev.ID] = 0
	}
	followers := map[id.EventID][]*event.Event{}
	for _, ev := range events {
		names(ev, func(list []id.EventID) {
			for _, before := range list {
				if _, inside := waits[before]; inside {
					waits[ev.ID]++
					followers[before] = append(followers[before], ev)
				}
			}
		})
	}
	ordered = make([]*event.Event, 0, len(events))
	for _, ev := range events {
		for free := []*event.Event{ev}; len(free) > 0; free = free[1:] {
			next := free[0]
			if waits[next.ID] != 0 {
				continue
			}
			waits[next.ID] = -1 // it has its place
			ordered = append(ordered, next)
			for _, f := range followers[next.ID] {
				waits[f.ID]--
				free = append(free, f)
			}
		}
	}
	for _, ev := range events {
		if waits[ev.ID] > 0 {
			circular = append(circular, ev)
		}
	}
	return ordered, circular
}
