package rooms

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/filter"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// reader is a user who may read a room: members, those who were, and of a world-readable room everybody.
// Which of its events they may read the Viewer decides.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-history-visibility
type reader struct {
	*roomstate.Viewer
	upTo  storage.Pos       // nothing that arrived after it is told
	now   eventauth.Viewing // of the state at upTo
	state roomstate.Root    // what the user may read as the room's state: that at upTo, or that in which they left

	ignored roomstate.Ignored // whose messages are not told
}

// reader returns the caller as a reader of a room, or mxerr.Forbidden; a room that this server does not know
// looks like one that the caller may not read.
func (s *Service) reader(ctx context.Context, c *httpapi.Call) (*reader, error) {
	return s.readerIn(ctx, c.RoomID("roomId"), c.User, c.Device)
}

// readerIn is reader for any user and room.
func (s *Service) readerIn(ctx context.Context, room id.RoomID, user id.UserID, device id.DeviceID) (*reader, error) {
	rd := &reader{upTo: s.DB.Published()} // before the room is taken: then that has everything up to it
	r, err := s.Cache.Room(ctx, room)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, notInRoom()
	}
	if err != nil {
		return nil, err
	}
	if rd.ignored, err = s.Cache.IgnoredBy(ctx, user); err != nil {
		return nil, err
	}
	if rd.Viewer, err = r.Viewer(ctx, user, device, s.Now(), rd.upTo); err != nil {
		return nil, err
	}
	if rd.state, err = r.StateAt(ctx, rd.upTo); err != nil {
		return nil, err
	}
	if rd.now, err = rd.Viewing(ctx, rd.state); err != nil || eventauth.MayReadState(rd.now) {
		return rd, err
	}
	return rd, s.asFormerMember(ctx, rd)
}

// asFormerMember lets who has left, and not forgotten the room, read the state in which they left it.
func (s *Service) asFormerMember(ctx context.Context, rd *reader) error {
	if !rd.EverIn() {
		return notInRoom()
	}
	rooms, err := s.Cache.RoomsOf(ctx, rd.User)
	if err != nil {
		return err
	}
	if m, ok := rooms.Get(rd.Room.ID); ok && m.Forgotten {
		return notInRoom()
	}
	left, err := rd.lastBefore(ctx, rd.JoinedUntil()+1)
	if err != nil {
		return err
	}
	if left == nil || left.Ord != rd.JoinedUntil() {
		return fmt.Errorf("find where %s left %s: not in the history", rd.User, rd.Room.ID)
	}
	rd.state = left.Now
	return nil
}

func notInRoom() error { return mxerr.Forbidden.With("you are not in this room") }

// roomOf returns a room that user is joined to, or mxerr.Forbidden.
func (s *Service) roomOf(ctx context.Context, room id.RoomID, user id.UserID) (*roomstate.Room, error) {
	r, err := s.Cache.Room(ctx, room)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, notInRoom()
	}
	if err != nil {
		return nil, err
	}
	if m, ok := r.Member(user); !ok || m.Membership != "join" {
		return nil, notInRoom()
	}
	return r, nil
}

// eventOf is the event inside, nil of nil.
func eventOf(e *roomstate.Event) *event.Event {
	if e == nil {
		return nil
	}
	return e.Event
}

// event returns an event of the room's history that the user may read, or mxerr.NotFound.
func (rd *reader) event(ctx context.Context, eventID id.EventID) (*roomstate.Event, error) {
	e, err := rd.Room.EventByID(ctx, eventID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && e.Flags != storage.InTimeline {
		return nil, unknownEvent()
	}
	if err != nil {
		return nil, err
	}
	if _, ok, err := rd.See(ctx, e); err != nil || !ok {
		return nil, errors.Join(err, unknownUnless(err))
	}
	return e, nil
}

func unknownUnless(err error) error {
	if err != nil {
		return nil
	}
	return unknownEvent()
}

func unknownEvent() error {
	return mxerr.NotFound.With("there is no such event, or you may not see it")
}

// lastBefore returns the newest event with a place before ord, nil when there is none.
func (rd *reader) lastBefore(ctx context.Context, ord int64) (*roomstate.Event, error) {
	list, err := rd.Room.HistoryBackwards(ctx, ord, math.MinInt64, 1)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// The ends of every history: no event is at or outside them.
const (
	firstPlace = -1 << 62
	lastPlace  = 1 << 62
)

// place returns the place in a room's history that a token names: of /sync, /messages or /context.
func place(text string) (int64, error) {
	if h, err := token.ParseHistory(text); err == nil {
		return h.Ord, nil
	}
	s, err := token.ParseStream(text)
	if err != nil {
		return 0, mxerr.InvalidParam.With("%q is no pagination token of this server", text)
	}
	return roomstate.OrdAfter(s.Pos), nil
}

// stretch is a part of a room's history as its reader may see it.
type stretch struct {
	events []*roomstate.Event
	next   int64 // the place where it goes on
	whole  bool  // nothing is left beyond
}

// maxLooked bounds how many events are read for one answer: when most are filtered out or may not be seen,
// the answer is short and says where to go on.
const maxLooked = 1000

// backwards collects up to limit events that the user may see and that pass the filter, newest first, from
// the place before down to the place downTo.
func (rd *reader) backwards(ctx context.Context, before, downTo int64, limit int, f *filter.RoomEventFilter) (stretch, error) {
	before = min(before, roomstate.OrdAfter(rd.upTo))
	return rd.collect(ctx, stretch{next: before}, limit, f, func(at int64, n int) ([]*roomstate.Event, error) {
		return rd.Room.HistoryBackwards(ctx, at, downTo-1, n)
	}, func(e *roomstate.Event) int64 { return e.Ord })
}

// forwards collects likewise, oldest first, from the place from up to, and without, the place upTo.
func (rd *reader) forwards(ctx context.Context, from, upTo int64, limit int, f *filter.RoomEventFilter) (stretch, error) {
	upTo = min(upTo, roomstate.OrdAfter(rd.upTo))
	return rd.collect(ctx, stretch{next: from}, limit, f, func(at int64, n int) ([]*roomstate.Event, error) {
		return rd.Room.HistoryForwards(ctx, at-1, upTo, n)
	}, func(e *roomstate.Event) int64 { return e.Ord + 1 })
}

// collect reads on from st.next until it has limit events, or has looked at enough. read returns up to n
// events from a place on; behind is the place behind an event, in the direction of reading.
func (rd *reader) collect(ctx context.Context, st stretch, limit int, f *filter.RoomEventFilter,
	read func(at int64, n int) ([]*roomstate.Event, error), behind func(*roomstate.Event) int64,
) (stretch, error) {
	if !f.PassesRoom(rd.Room.ID) {
		return stretch{next: st.next, whole: true}, nil
	}
	n := limit
	for looked := 0; len(st.events) < limit && looked < maxLooked; looked += n {
		events, err := read(st.next, n)
		if err != nil {
			return st, err
		}
		if err := rd.Prepare(ctx, events); err != nil {
			return st, err
		}
		related, err := rd.relatedBy(ctx, events, f)
		if err != nil {
			return st, err
		}
		for _, e := range events {
			if e.Arrived() > rd.upTo {
				return st, nil // it will be told of once it is published
			}
			st.next = behind(e)
			ok, err := rd.takes(ctx, e, f)
			if err != nil {
				return st, err
			}
			if ok && (related == nil || related[e.ID]) {
				st.events = append(st.events, e)
			}
			if len(st.events) == limit {
				return st, nil
			}
		}
		if len(events) < n {
			st.whole = true
			return st, nil
		}
		n = min(max(2*n, 64), 500)
	}
	return st, nil
}

// relatedBy returns those of some events to which others relate as the filter wants; nil: it does not ask.
func (rd *reader) relatedBy(ctx context.Context, events []*roomstate.Event, f *filter.RoomEventFilter) (map[id.EventID]bool, error) {
	if !f.AsksRelated() {
		return nil, nil
	}
	if err := rd.Room.FindRelations(ctx); err != nil {
		return nil, err
	}
	ids := make([]id.EventID, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	list, err := rd.Room.RelatedBy(ctx, ids, f.RelatedByRelTypes, f.RelatedBySenders)
	related := make(map[id.EventID]bool, len(list))
	for _, eventID := range list {
		related[eventID] = true
	}
	return related, err
}

// takes reports whether an event is told: it passes the filter, and the user may see it.
func (rd *reader) takes(ctx context.Context, e *roomstate.Event, f *filter.RoomEventFilter) (bool, error) {
	if !f.Passes(e.Type, e.Sender, e.Content()) {
		return false, nil
	}
	return rd.tells(ctx, e)
}

// tells reports whether an event is told: the user may see it, and does not ignore who sent it.
//
// "Once ignored, the client will no longer receive events sent by that user, with the exception of state events."
//
// Spec: https://spec.matrix.org/latest/client-server-api/#ignoring-users
func (rd *reader) tells(ctx context.Context, e *roomstate.Event) (bool, error) {
	if e.StateKey == nil && rd.ignored.Has(e.Sender) {
		return false, nil
	}
	_, ok, err := rd.See(ctx, e)
	return ok, err
}
