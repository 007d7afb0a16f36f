package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

type eventID struct {
	EventID id.EventID `json:"event_id"`
}

// sendEvent implements PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid
func (s *Service) sendEvent(ctx context.Context, c *httpapi.Call, content *json.RawMessage) (*sent, error) {
	if err := notSuspended(c); err != nil {
		return nil, err
	}
	return s.sendNowOrLater(ctx, c, Draft{
		Room:    c.RoomID("roomId"),
		Sender:  c.User,
		Device:  c.Device,
		Type:    c.PathValue("eventType"),
		Content: *content,
		Admin:   c.Admin,
		Txn:     c.PathValue("txnId"),
	})
}

type redaction struct {
	Reason *string `json:"reason,omitempty"`
}

type redactionBody struct {
	redaction
	WithRelTypes []string `json:"with_rel_types"` // MSC3912: what relates to the event in these ways is redacted as well
	Unstable     []string `json:"org.matrix.msc3912.with_relations"`
}

// redactEvent implements PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid
func (s *Service) redactEvent(ctx context.Context, c *httpapi.Call, in *redactionBody) (*eventID, error) {
	if err := s.mayRedactWhileSuspended(ctx, c); err != nil {
		return nil, err
	}
	content, err := json.Marshal(in.redaction)
	if err != nil {
		return nil, err
	}
	ev, err := s.Send(ctx, Draft{
		Room:    c.RoomID("roomId"),
		Sender:  c.User,
		Device:  c.Device,
		Type:    "m.room.redaction",
		Content: content,
		Redacts: c.EventID("eventId"),
		Admin:   c.Admin,
		Txn:     c.PathValue("txnId"),
	})
	if err != nil {
		return nil, err
	}
	s.redactRelated(ctx, c, content, append(in.WithRelTypes, in.Unstable...))
	return &eventID{ev}, nil
}

// setRoomStateWithKey implements PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
func (s *Service) setRoomStateWithKey(ctx context.Context, c *httpapi.Call, content *json.RawMessage) (*sent, error) {
	if err := notSuspended(c); err != nil {
		return nil, err
	}
	stateKey := c.PathValue("stateKey")
	return s.sendNowOrLater(ctx, c, Draft{
		Room:     c.RoomID("roomId"),
		Sender:   c.User,
		Device:   c.Device,
		Type:     c.PathValue("eventType"),
		StateKey: &stateKey,
		Content:  *content,
	})
}

// notSuspended refuses what a suspended user may not do.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#account-suspension
func notSuspended(c *httpapi.Call) error {
	if c.Session != nil && c.Session.Suspended {
		return mxerr.UserSuspended
	}
	return nil
}

// Send adds a local event to a room and returns its id once it is durable. A Txn already used by the same
// user and device for the same type in the room returns the first event and adds nothing; so does a state
// event that would change nothing. An event that the room's rules refuse is mxerr.Forbidden.
func (s *Service) Send(ctx context.Context, d Draft) (id.EventID, error) {
	p, known, err := s.propose(ctx, d)
	u, unsigned := errors.AsType[*unrecommended](err)
	if unsigned {
		known, err = s.sendRecommended(ctx, u)
	}
	if err != nil {
		return "", fmt.Errorf("send %s to %s: %w", d.Type, d.Room, err)
	}
	if p != nil {
		if err := p.Wait(ctx); err != nil {
			return "", fmt.Errorf("store %s in %s: %w", d.Type, d.Room, err)
		}
		known = p.Events[0].ID
	}
	if d.StateKey != nil && (p != nil || unsigned) {
		s.afterState(ctx, d)
	}
	if d.turn == nil { // what was scheduled is nothing that its sender does now
		s.Presence.Active(d.Sender, d.Device)
	}
	return known, nil
}

// propose queues the event of a draft. It returns what is on its way, or an event that is there already.
func (s *Service) propose(ctx context.Context, d Draft) (p *roomstate.Pending, known id.EventID, err error) {
	if err := s.normalise(ctx, &d); err != nil {
		return nil, "", err
	}
	w, err := s.lock(ctx, d.Room)
	if err != nil {
		return nil, "", err
	}
	defer w.Unlock()
	if p, known, err = s.sentBefore(ctx, w, &d); err != nil || p != nil || known != "" {
		return p, known, err
	}
	if err := d.turn.check(w); err != nil {
		return nil, "", err
	}
	if known, err = unchanged(w, &d); err != nil || known != "" {
		return nil, known, err
	}
	if err := s.refine(ctx, w, &d); err != nil {
		return nil, "", err
	}
	if _, err := s.append(w, d); err != nil {
		return nil, "", err
	}
	return w.Queue(), "", nil
}

// sentBefore looks the transaction id up: in flight first, then stored.
func (s *Service) sentBefore(ctx context.Context, w *roomstate.Writer, d *Draft) (*roomstate.Pending, id.EventID, error) {
	hash := d.hash()
	if hash == nil {
		return nil, "", nil
	}
	if p := w.Pending(hash); p != nil {
		return p, "", nil
	}
	var known id.EventID
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		known, err = tx.Transaction(hash[:])
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		err = nil
	}
	return nil, known, err
}

// unchanged returns the current state event when the draft would only repeat it and its sender may still say so.
func unchanged(w *roomstate.Writer, d *Draft) (id.EventID, error) {
	if d.StateKey == nil {
		return "", nil
	}
	now, err := w.Settled(d.Type, *d.StateKey)
	if err != nil || now == nil || now.Sender != d.Sender {
		return "", err
	}
	content, err := canonjson.Append(nil, d.Content)
	if err != nil || !bytes.Equal(content, now.Content()) || check(w, now.Event) != nil {
		return "", nil // the append says what is wrong, if anything is
	}
	return now.ID, nil
}

// normalise brings a draft into the form in which it is stored and refuses what never can be an event.
func (s *Service) normalise(ctx context.Context, d *Draft) error {
	switch {
	case d.Type == "":
		return mxerr.InvalidParam.With("the event type is empty")
	case d.Type == "m.room.create":
		return mxerr.InvalidParam.With("a room has one m.room.create event, which is made with it")
	case d.Type == "m.room.redaction" && d.StateKey == nil:
		return normaliseRedaction(d)
	case d.Type == "m.room.message" && d.StateKey == nil:
		return checkMessage(d.Content)
	case d.Type == "m.room.tombstone":
		return checkTombstone(d)
	case d.StateKey != nil:
		return s.checkState(ctx, d)
	}
	return nil
}

// normaliseRedaction takes the target from content.redacts, where clients of every room version may put it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid
func normaliseRedaction(d *Draft) error {
	if d.Redacts != "" {
		return nil
	}
	target := gjson.GetBytes(d.Content, "redacts")
	parsed, err := id.ParseEventID(target.String())
	if target.Type != gjson.String || err != nil {
		return mxerr.InvalidParam.With("redacts has to be an event id")
	}
	d.Redacts = parsed
	d.Content, err = sjson.DeleteBytes(bytes.Clone(d.Content), "redacts")
	return err
}

// checkMessage refuses an m.room.message that clients could not show.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-behaviour (instant messaging)
func checkMessage(content []byte) error {
	for _, key := range []string{"msgtype", "body"} {
		if gjson.GetBytes(content, key).Type != gjson.String {
			return mxerr.BadJSON.With("an m.room.message needs a %s that is a string", key)
		}
	}
	return nil
}
