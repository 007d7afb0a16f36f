package roomstate

import (
	"context"
	"math"
	"time"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Viewer reads the events of one room for one user: every event that reaches a client came through a
// Viewer's See, which asks eventauth. It is used by one goroutine, for one request.
type Viewer struct {
	Room   *Room
	User   id.UserID
	Device id.DeviceID
	Now    time.Time // for unsigned.age

	upTo        storage.Pos
	joinedUntil int64 // a place in the history: the user was in the room at some time up to it
	before      map[Root]eventauth.Viewing
	bundles     map[storage.Pos]*bundle // of the events that Aggregate has seen; nil: nothing is aggregated
}

// Viewer returns a reader of the room as it is at position upTo.
func (r *Room) Viewer(ctx context.Context, user id.UserID, device id.DeviceID, now time.Time, upTo storage.Pos) (*Viewer, error) {
	v := &Viewer{Room: r, User: user, Device: device, Now: now, upTo: upTo, before: map[Root]eventauth.Viewing{}}
	if err := r.cache.users.loadErased(ctx); err != nil {
		return nil, err
	}
	root, err := r.StateAt(ctx, upTo)
	if err == nil {
		v.joinedUntil, err = r.joinedUntil(ctx, root, user)
	}
	return v, err
}

// joinedUntil is the place in the history up to which a user was in the room at some time: the end of
// time for who is joined in the state at root, the latest leaving for who was, and else nothing.
func (r *Room) joinedUntil(ctx context.Context, root Root, user id.UserID) (int64, error) {
	until := int64(math.MaxInt64)
	for {
		e, err := r.StateEvent(ctx, root, "m.room.member", string(user))
		if err != nil || e == nil {
			return math.MinInt64, err
		}
		if e.Membership() == "join" {
			return until, nil
		}
		until, root = e.Ord, e.Before
	}
}

// EverIn reports whether the user was ever joined to the room.
func (v *Viewer) EverIn() bool { return v.joinedUntil != math.MinInt64 }

// JoinedUntil is the place in the history at which the user last left the room: math.MaxInt64 while joined,
// math.MinInt64 for who never was.
func (v *Viewer) JoinedUntil() int64 { return v.joinedUntil }

// Viewing is what counts for visibility of the state with a root.
func (v *Viewer) Viewing(ctx context.Context, root Root) (eventauth.Viewing, error) {
	if b, ok := v.before[root]; ok {
		return b, nil
	}
	visibility, err := v.Room.StateEvent(ctx, root, "m.room.history_visibility", "")
	if err != nil {
		return eventauth.Viewing{}, err
	}
	membership, err := v.Room.MembershipIn(ctx, root, v.User)
	if err != nil {
		return eventauth.Viewing{}, err
	}
	b := eventauth.Viewing{Visibility: eventauth.VisibilityOf(inner(visibility)), Membership: membership}
	v.before[root] = b
	return b, nil
}

func inner(e *Event) *event.Event {
	if e == nil {
		return nil
	}
	return e.Event
}

// See decides whether the user may read an event.
func (v *Viewer) See(ctx context.Context, e *Event) (eventauth.Seen, bool, error) {
	before, err := v.Viewing(ctx, e.Before)
	if err != nil {
		return eventauth.Seen{}, false, err
	}
	seen, ok := eventauth.See(e.Event, before, e.Ord < v.joinedUntil, v.User)
	if ok && v.Room.cache.users.isErased(e.Sender) {
		seen, err = seen.OfErasedSender()
	}
	return seen, ok && err == nil, err
}

// SeeAll returns those of a page of events that the user may read, in their order.
func (v *Viewer) SeeAll(ctx context.Context, events []*Event) ([]*Event, error) {
	list := make([]*Event, 0, len(events))
	for _, e := range events {
		_, ok, err := v.See(ctx, e)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, e)
		}
	}
	return list, nil
}

// Append appends an event in client form, with or without its room_id; ok is false when the user may not
// read it, and then nothing is appended.
func (v *Viewer) Append(ctx context.Context, dst []byte, e *Event, withRoom bool) (_ []byte, ok bool, err error) {
	seen, ok, err := v.See(ctx, e)
	if err != nil || !ok {
		return dst, false, err
	}
	dst, err = v.AppendSeen(ctx, dst, e, seen, withRoom)
	return dst, err == nil, err
}

// SeeState is See for an event of a state that the user may read as a whole: the caller has asked
// eventauth.MayReadState, or the user is in the room.
func (v *Viewer) SeeState(ctx context.Context, e *Event) (eventauth.Seen, error) {
	before, err := v.Viewing(ctx, e.Before)
	return eventauth.SeeState(e.Event, eventauth.MembershipAt(e.Event, before, v.User)), err
}

// AppendState appends what SeeState lets the user see, in client form, with or without its room_id.
func (v *Viewer) AppendState(ctx context.Context, dst []byte, e *Event, withRoom bool) ([]byte, error) {
	seen, err := v.SeeState(ctx, e)
	if err != nil {
		return dst, err
	}
	return v.AppendSeen(ctx, dst, e, seen, withRoom)
}

// AppendSeen appends an event in client form, with or without its room_id; seen is what See or SeeState said of it.
func (v *Viewer) AppendSeen(ctx context.Context, dst []byte, e *Event, seen eventauth.Seen, withRoom bool) ([]byte, error) {
	f := eventauth.Seen.AppendClientNoRoom
	if withRoom {
		f = eventauth.Seen.AppendClient
	}
	return v.append(ctx, dst, e, seen, f)
}

// AppendFederation is AppendSeen in the form in which servers exchange the event.
func (v *Viewer) AppendFederation(ctx context.Context, dst []byte, e *Event, seen eventauth.Seen) ([]byte, error) {
	return v.append(ctx, dst, e, seen, eventauth.Seen.AppendFederation)
}

// form is one of the forms in which clients get events.
type form func(seen eventauth.Seen, dst []byte, u eventauth.Unsigned) []byte

func (v *Viewer) append(ctx context.Context, dst []byte, e *Event, seen eventauth.Seen, f form) ([]byte, error) {
	u, err := v.unsigned(ctx, e)
	if b := v.bundles[e.Pos]; b != nil && err == nil {
		u.Relations, err = v.appendBundle(ctx, nil, b, seen.Event() == e.Event, f)
	}
	if err != nil {
		return dst, err
	}
	return f(seen, dst, u), nil
}

// unsigned is what the server says beside an event.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#definition-clientevent_unsigneddata
func (v *Viewer) unsigned(ctx context.Context, e *Event) (eventauth.Unsigned, error) {
	u, err := v.beside(ctx, e)
	if err == nil && e.RedactedBy != 0 {
		u.RedactedBecause, u.RedactedBy, err = v.redaction(ctx, e.RedactedBy)
	}
	return u, err
}

// beside is unsigned without the redaction.
func (v *Viewer) beside(ctx context.Context, e *Event) (eventauth.Unsigned, error) {
	u := eventauth.Unsigned{AgeMS: max(1, v.Now.UnixMilli()-e.OriginServerTS), StickyMS: e.StickyFor(v.Now).Milliseconds()}
	if e.Txn != "" && e.Sender == v.User && e.Device == v.Device {
		u.TransactionID = e.Txn
	}
	if e.StateKey != nil {
		if err := v.replaced(ctx, e, &u); err != nil {
			return u, err
		}
	}
	return u, nil
}

// redaction is the redaction at a position, nil if the user may not read it. That it was redacted itself is not
// told: a chain of redactions would make every answer longer than the one before.
func (v *Viewer) redaction(ctx context.Context, pos storage.Pos) ([]byte, id.EventID, error) {
	e, err := v.Room.EventAt(ctx, pos)
	if err != nil {
		return nil, "", err
	}
	seen, ok, err := v.See(ctx, e)
	if err != nil || !ok {
		return nil, "", err
	}
	u, err := v.beside(ctx, e)
	return seen.AppendClient(nil, u), e.ID, err
}

// replaced tells of the state event before this one; its content only if the user may read it.
func (v *Viewer) replaced(ctx context.Context, e *Event, u *eventauth.Unsigned) error {
	prev, err := v.Room.StateEvent(ctx, e.Before, e.Type, *e.StateKey)
	if err != nil || prev == nil {
		return err
	}
	u.ReplacesState = prev.ID
	seen, ok, err := v.See(ctx, prev)
	if ok {
		u.PrevContent, u.PrevSender = seen.Event().Content(), prev.Sender
	}
	return err
}
