package rooms

import (
	"context"

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
