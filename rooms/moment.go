package rooms

import (
	"context"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Moment is what /timestamp_to_event asks for: the event closest to a time, at it or in one direction from it.
type Moment struct {
	TS        int64 // milliseconds
	Backwards bool
}

// ReadMoment reads the query parameters ts and dir.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
func ReadMoment(c *httpapi.Call) (m Moment, err error) {
	if c.Query("ts") == "" || c.Query("dir") == "" {
		return m, mxerr.MissingParam.With("ts and dir are required")
	}
	if dir := c.Query("dir"); dir != "b" && dir != "f" {
		return m, mxerr.InvalidParam.With("dir is b or f")
	}
	m.Backwards = c.Query("dir") == "b"
	m.TS, err = c.Int64("ts", 0)
	return m, err
}

// closer reports whether a time is closer to the moment than another, given that both are on the right side of it.
func (m Moment) closer(ts, than int64) bool {
	if m.Backwards {
		return ts > than
	}
	return ts < than
}

// on reports whether a time is on the right side of the moment.
func (m Moment) on(ts int64) bool { return ts == m.TS || (ts < m.TS) == m.Backwards }

// EventNearFor returns the event that is closest to a moment and that another server may see, with its
// origin_server_ts. The error is mxerr.NotFound when there is none.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
func (s *Service) EventNearFor(ctx context.Context, server id.ServerName, room id.RoomID, m Moment) (id.EventID, int64, error) {
	p, err := s.peer(ctx, server, room)
	if err != nil {
		return "", 0, err
	}
	e, err := s.near(ctx, p.Room, m, p.See)
	if err != nil {
		return "", 0, err
	}
	if e == nil {
		return "", 0, nothingNear()
	}
	return e.ID, e.OriginServerTS, nil
}

func nothingNear() error { return mxerr.NotFound.With("there is no event in that direction") }

// nearAtOnce is how many events are read at once while one is looked for that may be seen.
const nearAtOnce = 50

// near returns the event of the history that is closest to a moment and that may be seen, nil when there is none
// among the first thousand.
func (s *Service) near(ctx context.Context, r *roomstate.Room, m Moment, sees func(context.Context, *roomstate.Event) (bool, error)) (*roomstate.Event, error) {
	if err := s.noteTimes(ctx, r); err != nil {
		return nil, err
	}
	for skip := 0; skip < maxLooked; skip += nearAtOnce {
		events, err := r.EventsNear(ctx, m.TS, m.Backwards, nearAtOnce, skip)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if ok, err := sees(ctx, e); err != nil || ok {
				return e, err
			}
		}
		if len(events) < nearAtOnce {
			return nil, nil
		}
	}
	return nil, nil
}

// timedAtOnce is how many events are made known by time in one transaction.
const timedAtOnce = 1000

// noteTimes lets those events of a room be found by time that came since somebody asked last. Nothing of it is done
// when events are sent, since few rooms are ever asked.
func (s *Service) noteTimes(ctx context.Context, r *roomstate.Room) error {
	var fresh []storage.Pos
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		upTo, err := tx.TimedUpTo(r.Num)
		if err == nil {
			fresh, err = tx.PositionsAfter(r.Num, upTo)
		}
		return err
	})
	for len(fresh) > 0 && err == nil {
		some := fresh[:min(len(fresh), timedAtOnce)]
		fresh = fresh[len(some):]
		err = s.noteSome(ctx, r, some)
	}
	return err
}

func (s *Service) noteSome(ctx context.Context, r *roomstate.Room, positions []storage.Pos) error {
	var events []storage.Event
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		events, err = tx.EventsAt(positions)
		return err
	})
	if err != nil {
		return err
	}
	act := &storage.Act{}
	for i := range events {
		ts, _ := canonjson.Int(canonjson.Get(events[i].JSON, "origin_server_ts"))
		act.Add(storage.InsertTime, r.Num, ts, events[i].Pos)
	}
	act.Add(storage.UpsertTimed, r.Num, positions[len(positions)-1])
	s.DB.Queue(act)
	return act.Wait(ctx)
}

// RemoteHistory is what rooms ask of other servers about the past, beside Remote.Backfill. A Remote that has it not is
// not asked.
type RemoteHistory interface {
	// EventNear asks for the event that is closest to a moment, and its origin_server_ts.
	EventNear(ctx context.Context, server id.ServerName, room id.RoomID, m Moment) (id.EventID, int64, error)
}

type eventNear struct {
	EventID        id.EventID `json:"event_id"`
	OriginServerTS int64      `json:"origin_server_ts"`
}

// getEventByTimestamp implements GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
func (s *Service) getEventByTimestamp(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*eventNear, error) {
	rd, err := s.reader(ctx, c)
	if err != nil {
		return nil, err
	}
	m, err := ReadMoment(c)
	if err != nil {
		return nil, err
	}
	e, err := s.nearest(ctx, rd, m)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, nothingNear()
	}
	return &eventNear{e.ID, e.OriginServerTS}, nil
}

// nearest returns the event that the user may see and that is closest to a moment; if history is missing beside what is
// here, other servers may know a closer one.
func (s *Service) nearest(ctx context.Context, rd *reader, m Moment) (*roomstate.Event, error) {
	e, err := s.near(ctx, rd.Room, m, rd.sees)
	if err != nil {
		return nil, err
	}
	gap, found, err := s.gapBeside(ctx, rd.Room, e, m)
	if err != nil || !found || !s.bring(ctx, rd.Room, e, m, gap) {
		return e, err
	}
	return s.near(ctx, rd.Room, m, rd.sees)
}

func (rd *reader) sees(ctx context.Context, e *roomstate.Event) (bool, error) {
	if e.Arrived() > rd.upTo {
		return false, nil
	}
	_, ok, err := rd.See(ctx, e)
	return ok, err
}

// gapBeside returns the place of a gap in the history beside an event, on the side on which a closer one may be
// missing: before it when it is the first after the moment, behind it when it is the last before that. Without an
// event it is the newest gap.
func (s *Service) gapBeside(ctx context.Context, r *roomstate.Room, e *roomstate.Event, m Moment) (place int64, found bool, err error) {
	if e == nil {
		return s.gapBelow(ctx, r, lastPlace, firstPlace)
	}
	at := e
	if m.Backwards {
		next, err := r.HistoryForwards(ctx, e.Ord, lastPlace, 1)
		if err != nil || len(next) == 0 {
			return 0, false, err
		}
		at = next[0]
	}
	return s.gapBelow(ctx, r, at.Ord, at.Ord)
}

// bring asks other servers for the event that is closest to a moment, and if that is closer than e, sees to it that it
// is here; true says that it may be.
func (s *Service) bring(ctx context.Context, r *roomstate.Room, e *roomstate.Event, m Moment, gap int64) bool {
	remote, ok := s.Remote.(RemoteHistory)
	if !ok || !r.HasServer(s.ServerName) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, pastTime)
	defer cancel()
	servers, err := s.whoWasThere(ctx, r, gap)
	if err != nil {
		return false
	}
	for _, server := range servers {
		eventID, ts, err := remote.EventNear(ctx, server, r.ID, m)
		if err != nil || !m.on(ts) || e != nil && !m.closer(ts, e.OriginServerTS) {
			continue
		}
		if s.bringEvent(ctx, r, server, eventID, gap) {
			return true
		}
	}
	return false
}

// maxFilled is how many pages of history are asked for on the way to one event.
const maxFilled = 3

// bringEvent fetches history from a gap on, as long as that may lead to an event soon; and then the event alone, which
// has gaps around it that are filled when somebody reads there.
func (s *Service) bringEvent(ctx context.Context, r *roomstate.Room, server id.ServerName, eventID id.EventID, gap int64) bool {
	for range maxFilled {
		if s.inHistory(ctx, r, eventID) {
			return true
		}
		if !s.fill(ctx, r, gap) {
			break
		}
		next, found, err := s.gapBelow(ctx, r, gap, firstPlace)
		if err != nil || !found {
			break
		}
		gap = next
	}
	if s.inHistory(ctx, r, eventID) {
		return true
	}
	return s.bringAlone(ctx, r, server, eventID)
}

// inHistory reports whether clients can be told of an event.
func (s *Service) inHistory(ctx context.Context, r *roomstate.Room, eventID id.EventID) bool {
	list, err := r.StoredByID(ctx, []id.EventID{eventID})
	return err == nil && len(list) > 0 && list[0].Flags == storage.InTimeline
}

// bringAlone fetches an event whose surroundings are not here.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
func (s *Service) bringAlone(ctx context.Context, r *roomstate.Room, server id.ServerName, eventID id.EventID) bool {
	raw, err := s.Remote.Event(ctx, server, r.ID, eventID)
	if err != nil {
		return false
	}
	leave, err := s.pasts.enter(ctx, r.ID)
	if err != nil {
		return false
	}
	defer leave()
	depth, _ := canonjson.Int(canonjson.Get(raw, "depth"))
	place, ok, err := s.placeAlone(ctx, r, depth)
	if err != nil || !ok {
		return false
	}
	s.ReceivePast(ctx, server, r.ID, []json.RawMessage{raw}, place)
	return s.inHistory(ctx, r, eventID)
}

// alone is how much place is left in front of an event that was fetched alone, where nothing older is known.
const alone = apart << 8

// placeAlone finds a place for an event of the past in the middle of a gap, by its depth: what its server says of it is
// all there is to know. Gaps between events that arrived live have no such place.
func (s *Service) placeAlone(ctx context.Context, r *roomstate.Room, depth int64) (place int64, ok bool, err error) {
	for from := int64(lastPlace); ; {
		gap, found, err := s.gapBelow(ctx, r, from, firstPlace)
		if err != nil || !found {
			return 0, false, err
		}
		older, err := r.HistoryBackwards(ctx, gap, firstPlace, 1)
		if err != nil {
			return 0, false, err
		}
		top := min(gap, 0)
		switch {
		case len(older) == 0:
			return top - alone, top-alone > firstPlace+alone, nil
		case older[0].Depth < depth && older[0].Ord <= 0:
			middle := older[0].Ord + (top-older[0].Ord)/2
			return middle, top-middle > 2*apart, nil
		}
		from = gap - 1
	}
}
