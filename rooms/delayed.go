package rooms

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Delays bounds the events that users may schedule to be sent later.
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4140
type Delays struct {
	// Max is how far in the future an event may be sent. Zero means a day; below zero nothing can be scheduled.
	Max time.Duration

	// PerUser is how many events a user may have scheduled at a time. Zero means 100.
	PerUser int
}

// Allowed reports whether anything can be scheduled.
func (d Delays) Allowed() bool { return d.Max >= 0 }

// Bounds are the limits in force.
func (d Delays) Bounds() (longest time.Duration, perUser int) {
	longest, perUser = d.Max, d.PerUser
	if longest == 0 {
		longest = 24 * time.Hour
	}
	if perUser <= 0 {
		perUser = 100
	}
	return longest, perUser
}

// delayParameter is by how many milliseconds the sending of an event is to be delayed.
const delayParameter = "org.matrix.msc4140.delay"

// sent is what came of an event that was to be sent: the event, or an entry of the schedule.
type sent struct {
	EventID id.EventID `json:"event_id,omitempty"`
	DelayID string     `json:"delay_id,omitempty"`
}

// madeBy tells what a transaction has made by its id: those of events begin with a sigil.
func madeBy(made string) *sent {
	if strings.HasPrefix(made, "$") {
		return &sent{EventID: id.EventID(made)}
	}
	return &sent{DelayID: made}
}

// sendNowOrLater sends the event of a request, or schedules it when the request has a delay.
func (s *Service) sendNowOrLater(ctx context.Context, c *httpapi.Call, d Draft) (*sent, error) {
	var err error
	if d.Sticky, err = stickiness(c); err != nil {
		return nil, err
	}
	if c.HasQuery(delayParameter) {
		return s.sendLater(ctx, c, d)
	}
	ev, err := s.Send(ctx, d)
	if err != nil {
		return nil, err
	}
	return madeBy(string(ev)), nil
}

func (s *Service) sendLater(ctx context.Context, c *httpapi.Call, d Draft) (*sent, error) {
	ms, err := c.Int64(delayParameter, 0)
	if err != nil {
		return nil, err
	}
	longest, _ := s.Delays.Bounds()
	switch {
	case ms < 0:
		return nil, mxerr.InvalidParam.With("the delay is negative")
	case !s.Delays.Allowed():
		return nil, mxerr.Forbidden.With("this server sends nothing later")
	case ms > longest.Milliseconds():
		return nil, mxerr.BadRequest.With("the delay is longer than %d milliseconds", longest.Milliseconds()).
			Set("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED").
			Set("org.matrix.msc4140.max_delay", longest.Milliseconds())
	}
	made, err := s.Schedule(ctx, d, time.Duration(ms)*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return madeBy(made), nil
}

// Schedule lets an event be sent after a delay, by somebody who is in the room, and returns by what it can be cancelled,
// restarted or sent sooner: a secret. Once it returns the event will be sent, also after a restart. Whether the room
// allows the event is asked when it is sent; if not, it never is. A state event is not sent if somebody else has changed
// that state meanwhile. A Txn already used in the same way returns what that has made and schedules nothing.
func (s *Service) Schedule(ctx context.Context, d Draft, delay time.Duration) (made string, err error) {
	if made, err = s.madeBefore(ctx, &d); err != nil || made != "" {
		return made, err
	}
	if err := s.normalise(ctx, &d); err != nil {
		return "", err
	}
	if _, err := s.roomOf(ctx, d.Room, d.Sender); err != nil {
		return "", err
	}
	row, err := s.entry(&d, delay)
	if err != nil {
		return "", err
	}
	err = s.DB.Write(ctx, func(tx *storage.Tx, pos storage.Pos) error {
		row.Pos, made = pos, row.ID
		return s.enlist(tx, row, &d, &made)
	})
	if err != nil {
		return "", err
	}
	s.schedule.look()
	return made, nil
}

// madeBefore returns what the transaction id of a draft has made, "" for nothing.
func (s *Service) madeBefore(ctx context.Context, d *Draft) (made string, err error) {
	hash := d.hash()
	if hash == nil {
		return "", nil
	}
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		made, err = transaction(tx, hash)
		return err
	})
	return made, err
}

func transaction(tx *storage.Tx, hash *[32]byte) (string, error) {
	made, err := tx.Transaction(hash[:])
	if errors.Is(err, storage.ErrNotFound) {
		return "", nil
	}
	return string(made), err
}

// entry is a draft as it stands in the schedule.
func (s *Service) entry(d *Draft, delay time.Duration) (*storage.Delayed, error) {
	content, err := canonjson.Append(nil, d.Content)
	switch {
	case err != nil:
		return nil, mxerr.BadJSON.With("%v", err)
	case len(content) > event.MaxPDU:
		return nil, mxerr.TooLarge.With("an event may have %d bytes", event.MaxPDU)
	case len(d.Type) > event.MaxPDU || d.StateKey != nil && len(*d.StateKey) > event.MaxPDU:
		return nil, mxerr.TooLarge.With("the type or the state key is too long")
	}
	var secret [18]byte
	if _, err := io.ReadFull(s.Rand, secret[:]); err != nil {
		return nil, fmt.Errorf("draw a delay id: %w", err)
	}
	return &storage.Delayed{
		ID: "d" + base64.RawURLEncoding.EncodeToString(secret[:]), User: d.Sender, Device: d.Device, Room: d.Room,
		Type: d.Type, StateKey: d.StateKey, Content: content, StickyMS: d.Sticky.Milliseconds(),
		DelayMS: delay.Milliseconds(), DueMS: s.Now().Add(delay).UnixMilli(),
	}, nil
}

// enlist puts an entry into the schedule, unless the transaction of its draft has made something already.
func (s *Service) enlist(tx *storage.Tx, row *storage.Delayed, d *Draft, made *string) error {
	hash := d.hash()
	if hash != nil {
		known, err := transaction(tx, hash)
		if err != nil || known != "" {
			*made = known
			return err
		}
	}
	if err := s.checkRoomFor(tx, row); err != nil {
		return err
	}
	if err := tx.InsertDelayed(row); err != nil || hash == nil {
		return err
	}
	return tx.RememberTransaction(hash[:], row.ID, s.Now().UnixMilli())
}

// checkRoomFor refuses an entry of a user who has enough of them.
func (s *Service) checkRoomFor(tx *storage.Tx, row *storage.Delayed) error {
	_, most := s.Delays.Bounds()
	list, err := tx.DelayedOf(row.User, most)
	if err != nil || len(list) < most {
		return err
	}
	wait := max(list[0].DueMS-s.Now().UnixMilli(), 1)
	full := mxerr.LimitExceeded.With("you may have %d events scheduled", most).
		Set("org.matrix.msc4140.errcode", "M_MAX_DELAYED_EVENTS_EXCEEDED").Set("retry_after_ms", wait)
	full.RetryAfter = time.Duration(wait) * time.Millisecond
	return full
}

// delayedEvent is an entry of the schedule as its owner sees it. Times are milliseconds.
type delayedEvent struct {
	ID           string          `json:"delay_id"`
	Room         id.RoomID       `json:"room_id"`
	Type         string          `json:"type"`
	StateKey     *string         `json:"state_key,omitempty"`
	Delay        int64           `json:"delay"`
	RunningSince int64           `json:"running_since"`
	Content      json.RawMessage `json:"content"`
}

type delayedEvents struct {
	Events []delayedEvent `json:"delayed_events"`
}

// getDelayedEvents implements GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4140
func (s *Service) getDelayedEvents(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*delayedEvents, error) {
	_, most := s.Delays.Bounds()
	var list []storage.Delayed
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.DelayedOf(c.User, most)
		return err
	})
	out := &delayedEvents{Events: []delayedEvent{}}
	for i := range list {
		over, err := s.isOvertaken(ctx, &list[i])
		if err != nil {
			return nil, err
		}
		if d := &list[i]; !over {
			out.Events = append(out.Events, delayedEvent{d.ID, d.Room, d.Type, d.StateKey, d.DelayMS, d.DueMS - d.DelayMS, d.Content})
		}
	}
	return out, err
}

// updateDelayedEvent implements POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}.
//
// Who knows the id needs no token: it is what lets a delegate keep an event waiting when its sender cannot.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4140
func (s *Service) updateDelayedEvent(ctx context.Context, c *httpapi.Call, in *delayedAction) (*httpapi.Empty, error) {
	switch in.Action {
	case "":
		return nil, mxerr.MissingParam.With("action is missing")
	case "cancel":
		return s.cancelDelayedEvent(ctx, c, nil)
	case "restart":
		return s.restartDelayedEvent(ctx, c, nil)
	case "send":
		return s.sendDelayedEvent(ctx, c, nil)
	}
	return nil, mxerr.InvalidParam.With("action is cancel, restart or send")
}

type delayedAction struct {
	Action string `json:"action"`
}

// cancelDelayedEvent implements POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/cancel.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4140
func (s *Service) cancelDelayedEvent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	row, err := s.scheduled(ctx, c.PathValue("delayId"))
	if err != nil {
		return nil, err
	}
	return &httpapi.Empty{}, s.changeSchedule(ctx, func(tx *storage.Tx) (bool, error) { return tx.DeleteDelayed(row.ID) })
}

// restartDelayedEvent implements POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/restart.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4140
func (s *Service) restartDelayedEvent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	row, err := s.scheduled(ctx, c.PathValue("delayId"))
	if err != nil {
		return nil, err
	}
	return &httpapi.Empty{}, s.changeSchedule(ctx, func(tx *storage.Tx) (bool, error) {
		return tx.RestartDelayed(row.ID, s.Now().UnixMilli())
	})
}

// sendDelayedEvent implements POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/send.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4140
func (s *Service) sendDelayedEvent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	row, err := s.scheduled(ctx, c.PathValue("delayId"))
	if err != nil {
		return nil, err
	}
	return &httpapi.Empty{}, s.sendScheduled(ctx, row, true)
}

// errNotScheduled is the answer about an event that is not in the schedule, or no longer.
var errNotScheduled = mxerr.NotFound.With("no such event is scheduled")

// scheduled returns an entry of the schedule that was not overtaken.
func (s *Service) scheduled(ctx context.Context, delayID string) (*storage.Delayed, error) {
	var row storage.Delayed
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.Delayed(delayID)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNotScheduled
	}
	if err != nil {
		return nil, err
	}
	over, err := s.isOvertaken(ctx, &row)
	if err == nil && over {
		err = errNotScheduled
	}
	return &row, err
}

// changeSchedule changes an entry, if it is still there.
func (s *Service) changeSchedule(ctx context.Context, change func(*storage.Tx) (found bool, err error)) error {
	return s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		found, err := change(tx)
		if err == nil && !found {
			err = errNotScheduled
		}
		return err
	})
}

// isOvertaken reports whether somebody else has changed the state that an event would set since it was scheduled.
// "If a new state event is sent to the same state … by a different user, the delayed event is cancelled": their own
// changes do not matter, for clients schedule their leaving before they join.
func (s *Service) isOvertaken(ctx context.Context, row *storage.Delayed) (bool, error) {
	if row.StateKey == nil {
		return false, nil
	}
	r, err := s.Cache.Room(ctx, row.Room)
	if err != nil {
		return false, unknownRoom(err)
	}
	return overtaken(ctx, r, row)
}

// overtaken is isOvertaken, in the room.
func overtaken(ctx context.Context, r *roomstate.Room, row *storage.Delayed) (bool, error) {
	for root := r.View().State; ; {
		e, err := r.StateEvent(ctx, root, row.Type, *row.StateKey)
		if err != nil || e == nil || e.Arrived() <= row.Pos {
			return false, err
		}
		if e.Sender != row.User {
			return true, nil
		}
		root = e.Before
	}
}

// turn is what makes a draft the event of an entry of the schedule, which goes in the same act: so it is sent once.
type turn struct {
	row    *storage.Delayed
	byHand bool // before its time
}

// check refuses an event that was overtaken. The room's lock is held: nothing comes between.
func (t *turn) check(w *roomstate.Writer) error {
	if t == nil || t.row.StateKey == nil {
		return nil
	}
	over, err := overtaken(w.Context(), w.Room, t.row)
	if head := w.Event(t.row.Type, *t.row.StateKey); err == nil && !over && head != nil && head.Sender != t.row.User {
		var seen *roomstate.Event // is the head on its way, and new therefore?
		seen, err = w.Room.StateEvent(w.Context(), w.View().State, t.row.Type, *t.row.StateKey)
		over = seen == nil || seen.ID != head.ID
	}
	if err = errors.Join(err, w.Err()); err == nil && over {
		return errNotScheduled
	}
	return err
}

// take lets the act of a room's Writer take the entry out of the schedule. The act is refused when it is not there, or
// was restarted meanwhile.
func (t *turn) take(w *roomstate.Writer, nowMS int64) {
	if t == nil {
		return
	}
	w.Act().Also(func(tx *storage.Tx, _ storage.Pos) error {
		found, err := t.remove(tx, nowMS)
		if err == nil && !found {
			err = errNotScheduled
		}
		return err
	})
}

// remove takes the entry out of the schedule; false when it is not in it, or its time is yet to come.
func (t *turn) remove(tx *storage.Tx, nowMS int64) (bool, error) {
	if t.byHand {
		return tx.DeleteDelayed(t.row.ID)
	}
	return tx.DeleteDue(t.row.ID, nowMS)
}

// sendScheduled sends the event of an entry. What its room, or the account of its sender, does not allow is dropped, and
// the error says why; with any other error it is still scheduled.
func (s *Service) sendScheduled(ctx context.Context, row *storage.Delayed, byHand bool) error {
	t := &turn{row, byHand}
	err := s.checkSender(ctx, row.User)
	if err == nil {
		_, err = s.Send(ctx, Draft{
			Room: row.Room, Sender: row.User, Device: row.Device, Type: row.Type, StateKey: row.StateKey, Content: row.Content,
			Sticky: time.Duration(row.StickyMS) * time.Millisecond, turn: t,
		})
	}
	if !isFinal(err) || err == nil && row.StateKey == nil {
		return err
	}
	// An event that was refused, or whose state would have changed nothing, has not taken its entry with it.
	dropped := s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		_, err := t.remove(tx, s.Now().UnixMilli())
		return err
	})
	if dropped != nil {
		return fmt.Errorf("drop a delayed event: %w", dropped)
	}
	return err
}

// checkSender refuses to send for somebody who may no longer send anything.
func (s *Service) checkSender(ctx context.Context, user id.UserID) error {
	account, known, err := s.account(ctx, user)
	if err == nil && known && (account.Deactivated || account.Suspended) {
		err = mxerr.Forbidden.With("this account may send nothing")
	}
	return err
}

// isFinal reports whether an event was sent, or never will be.
func isFinal(err error) bool {
	refused, ok := errors.AsType[*mxerr.Error](err)
	return err == nil || ok && refused.Status < 500 && !errors.Is(refused, mxerr.LimitExceeded)
}
