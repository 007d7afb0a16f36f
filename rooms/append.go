package rooms

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"time"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/storage"
)

// maxPrevEvents is how many forward extremities a local event names at most, so that forks heal without
// large events.
const maxPrevEvents = 10

// Draft is a local event to be sent.
type Draft struct {
	Room     id.RoomID
	Sender   id.UserID
	Type     string
	StateKey *string // nil for a message event
	Content  json.RawMessage
	Redacts  id.EventID // of an m.room.redaction
	Admin    bool       // the sender administers this server, and may redact the events of its users

	// Txn is the client's transaction id and Device the one that chose it. A Txn that Sender and Device have
	// used for the same type (and target) in this room returns the first event. Empty is none.
	Device id.DeviceID
	Txn    string

	Sticky time.Duration // for how long the event is to reach everybody in the room; 0: as any other

	turn *turn // of an event that was scheduled
}

// hash identifies the transaction, nil when there is none.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#transaction-identifiers
func (d *Draft) hash() *[32]byte {
	if d.Txn == "" {
		return nil
	}
	h := sha256.New()
	for _, part := range []string{string(d.Sender), string(d.Device), string(d.Room), d.Type, string(d.Redacts), d.Txn} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	var sum [32]byte
	h.Sum(sum[:0])
	return &sum
}

// lock takes a room for writing; mxerr.NotFound when this server does not know it.
func (s *Service) lock(ctx context.Context, room id.RoomID) (*roomstate.Writer, error) {
	w, err := s.Cache.Lock(ctx, room)
	return w, unknownRoom(err)
}

// append is the one door through which events of this server get into rooms: it builds the event on what
// the room holds, checks it and proposes it. The act is queued by the caller, who holds the room's lock. The error is an
// *unrecommended in a room whose policy server has to sign the event first; act and Send see to that.
func (s *Service) append(w *roomstate.Writer, d Draft) (*event.Event, error) {
	meta := s.meta(&d)
	ev, err := s.build(w, d)
	if err != nil {
		return nil, err
	}
	if err := check(w, ev); err != nil {
		return nil, err
	}
	if ev.Redacts != "" && ev.Type == "m.room.redaction" {
		if meta.Redacts, err = s.target(w, ev, d.Admin); err != nil {
			return nil, err
		}
		if meta.Redacts == nil {
			meta.Awaits = ev.Redacts
		}
	}
	if p := s.policyAt(w); p.asks(ev) {
		return nil, &unrecommended{ev, d, *p}
	}
	if meta.Redacts != nil {
		w.Act().Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteAnnotation(ev.Redacts) })
	}
	if err := s.beside(w, ev); err != nil {
		return nil, err
	}
	meta.Clears = clears(ev, w.Current())
	d.turn.take(w, s.Now().UnixMilli())
	return ev, w.Propose(ev, meta)
}

// beside adds to the act of an event of this server what changes beside the room.
func (s *Service) beside(w *roomstate.Writer, ev *event.Event) error {
	if ev.StateKey == nil && isAnnotation(ev.Content()) {
		w.Act().Add(storage.InsertAnnotation, w.Num, annotation(ev.Sender, ev.Type, ev.Content()), string(ev.ID))
	}
	if ev.StateKey != nil && ev.Membership() == "join" {
		return s.inherit(w, id.UserID(*ev.StateKey))
	}
	return nil
}

// meta is what is stored beside the event of a draft, nil for one of nobody here.
func (s *Service) meta(d *Draft) roomstate.Meta {
	m := roomstate.Meta{AtMS: s.Now().UnixMilli()}
	if d != nil {
		m.Device, m.Txn, m.Hash = d.Device, d.Txn, d.hash()
	}
	return m
}

// build makes the event of a draft on the room's head.
func (s *Service) build(w *roomstate.Writer, d Draft) (*event.Event, error) {
	extremities := w.Extremities()
	ev, err := s.buildOn(extremities[max(0, len(extremities)-maxPrevEvents):], w, w.Rules, d)
	if fault := w.Err(); fault != nil {
		return nil, fault
	}
	return ev, err
}

// buildOn makes the event of a draft that follows some events, which leave a state together.
func (s *Service) buildOn(prev []roomstate.Extremity, state eventauth.State, rules *roomversion.Rules, d Draft) (*event.Event, error) {
	draft := event.Draft{
		Room: d.Room, Sender: d.Sender, Type: d.Type, StateKey: d.StateKey, Content: d.Content,
		OriginServerTS: s.Now().UnixMilli(), Redacts: d.Redacts, Rules: rules, StickyMS: d.Sticky.Milliseconds(),
	}
	for _, x := range prev {
		draft.PrevEvents = append(draft.PrevEvents, x.ID)
		draft.Depth = max(draft.Depth, x.Depth)
		name(&draft.PrevHashes, x.ID, x.Hash)
	}
	draft.Depth = min(draft.Depth+1, event.MaxDepth)
	for _, key := range eventauth.Needed(draft) {
		if a := state.Event(key.Type, key.StateKey); a != nil {
			draft.AuthEvents = append(draft.AuthEvents, a.ID)
			if err := nameHash(&draft.AuthHashes, a); err != nil {
				return nil, err
			}
		}
	}
	return event.Build(draft, s.ServerName, s.Key)
}

func name(hashes *map[id.EventID]string, eventID id.EventID, hash string) {
	if hash == "" {
		return
	}
	if *hashes == nil {
		*hashes = map[id.EventID]string{}
	}
	(*hashes)[eventID] = hash
}

// nameHash notes the reference hash of an event, in the versions whose references carry it.
func nameHash(hashes *map[id.EventID]string, ev *event.Event) error {
	if ev.Rules.EventIDs != roomversion.EventIDInEvent {
		return nil
	}
	x, err := roomstate.ExtremityOf(ev)
	name(hashes, ev.ID, x.Hash)
	return err
}

// check asks the authorisation rules about an event on the room's head.
func check(w *roomstate.Writer, ev *event.Event) error {
	err := eventauth.Check(ev, w)
	if fault := w.Err(); fault != nil {
		return fault
	}
	var rejected *eventauth.Rejection
	if errors.As(err, &rejected) {
		if rejected.Content {
			return mxerr.BadJSON.With("%s", rejected.Reason)
		}
		return mxerr.Forbidden.With("%s", rejected.Reason)
	}
	return err
}

// target returns the event that a redaction strips; nil if it is not here, which those may redact who may redact any.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#redactions
func (s *Service) target(w *roomstate.Writer, redaction *event.Event, admin bool) (*roomstate.Event, error) {
	target, err := w.EventByID(w.Context(), redaction.Redacts)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, s.mayCome(w, redaction)
	}
	if err != nil {
		return nil, err
	}
	if !s.mayRedact(w, redaction, target, admin) {
		return nil, mxerr.Forbidden.With("you may not redact the events of others here")
	}
	if target.Is("m.room.create", "") || target.Is("m.room.server_acl", "") {
		return nil, mxerr.Forbidden.With("%s cannot be redacted: the room would be another one", target.Type)
	}
	return target, nil
}

// mayCome refuses a redaction of an event that is not in the room, unless it may come yet and its sender may redact any.
func (s *Service) mayCome(w *roomstate.Writer, redaction *event.Event) error {
	var elsewhere []id.EventID
	err := s.DB.Read(w.Context(), func(tx *storage.Tx) (err error) {
		elsewhere, err = tx.Strangers(w.Num, []id.EventID{redaction.Redacts})
		return err
	})
	if err == nil && (len(elsewhere) > 0 || !s.redactsAny(w, redaction)) {
		err = mxerr.InvalidParam.With("the event to redact is not in this room")
	}
	return err
}

// mayRedact lets users redact their own events, those with the redact level any, and administrators of this server those of
// its users: other servers go by the server of both senders.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid
func (s *Service) mayRedact(w *roomstate.Writer, redaction *event.Event, target *roomstate.Event, admin bool) bool {
	return redaction.Sender == target.Sender || admin && s.local(target.Sender) || s.redactsAny(w, redaction)
}

func (s *Service) redactsAny(w *roomstate.Writer, redaction *event.Event) bool {
	levels, err := w.Levels()
	return err == nil && levels.User(redaction.Sender) >= levels.Redact()
}

// act runs fn on a room under its lock and awaits what fn proposed. If that is nothing, it awaits what fn may have
// found: it could be on its way only. In a room with a policy server fn proposes one event, last of all.
func (s *Service) act(ctx context.Context, room id.RoomID, fn func(w *roomstate.Writer) (proposed bool, err error)) error {
	p, err := s.underLock(ctx, room, fn)
	if u, unsigned := errors.AsType[*unrecommended](err); unsigned {
		_, err = s.sendRecommended(ctx, u)
		return err
	}
	if err != nil || p == nil {
		return err
	}
	return p.Wait(ctx)
}

func (s *Service) underLock(ctx context.Context, room id.RoomID, fn func(w *roomstate.Writer) (bool, error)) (*roomstate.Pending, error) {
	w, err := s.lock(ctx, room)
	if err != nil {
		return nil, err
	}
	defer w.Unlock()
	proposed, err := fn(w)
	if err != nil {
		return nil, err
	}
	if !proposed {
		return w.Unsettled(), nil
	}
	return w.Queue(), nil
}
