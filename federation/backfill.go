package federation

import (
	"context"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
)

// transaction is events as one server gives them to another.
type transaction struct {
	Origin         id.ServerName   `json:"origin"`
	OriginServerTS int64           `json:"origin_server_ts"`
	PDUs           json.RawMessage `json:"pdus"`
}

// AppendJSON copies the events as they are stored: a signature covers them.
func (t *transaction) AppendJSON(dst []byte) []byte {
	return appendFields(dst, field{"origin", quote(string(t.Origin))}, field{"origin_server_ts", number(t.OriginServerTS)}, field{"pdus", t.PDUs})
}

func (s *Service) transaction(pdus json.RawMessage) *transaction {
	return &transaction{s.cfg.ServerName, s.cfg.Now().UnixMilli(), pdus}
}

// maxNamed is how many events a request may name; what is beyond is not looked at.
const maxNamed = 100

// backfillRoom implements GET /_matrix/federation/v1/backfill/{roomId}.
//
// At most 100 events are returned, whatever the limit.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1backfillroomid
func (s *Service) backfillRoom(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*transaction, error) {
	from, err := eventIDs(c.QueryAll("v"))
	if err != nil {
		return nil, err
	}
	if len(from) == 0 {
		return nil, mxerr.MissingParam.With("v is missing")
	}
	if !c.HasQuery("limit") {
		return nil, mxerr.MissingParam.With("limit is missing")
	}
	limit, err := c.Int("limit", 0)
	if err != nil {
		return nil, err
	}
	if limit < 0 {
		return nil, mxerr.InvalidParam.With("limit is negative")
	}
	pdus, err := s.cfg.Rooms.BackfillFor(ctx, c.Origin, c.RoomID("roomId"), from, limit)
	if err != nil {
		return nil, err
	}
	return s.transaction(pdus), nil
}

// eventIDs reads ids of events.
func eventIDs(texts []string) ([]id.EventID, error) {
	ids := make([]id.EventID, 0, min(len(texts), maxNamed))
	for _, text := range texts[:min(len(texts), maxNamed)] {
		eventID, err := id.ParseEventID(text)
		if err != nil {
			return nil, mxerr.InvalidParam.With("%q is no event id", text)
		}
		ids = append(ids, eventID)
	}
	return ids, nil
}

// missingQuery is what another server misses. Lists that are left out count as empty, though the specification
// requires them: others have always taken it so, and what is asked with them is nothing.
type missingQuery struct {
	EarliestEvents []string `json:"earliest_events"`
	LatestEvents   []string `json:"latest_events"`
	Limit          *int     `json:"limit"`
	MinDepth       int64    `json:"min_depth"`
}

type missingEvents struct {
	Events json.RawMessage `json:"events"`
}

// AppendJSON copies the events as they are stored.
func (m *missingEvents) AppendJSON(dst []byte) []byte {
	return appendFields(dst, field{"events", m.Events})
}

const defaultMissing = 10 // "Defaults to 10."

// getMissingPreviousEvents implements POST /_matrix/federation/v1/get_missing_events/{roomId}.
//
// At most 20 events are returned, whatever the limit.
//
// https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1get_missing_eventsroomid
func (s *Service) getMissingPreviousEvents(ctx context.Context, c *httpapi.Call, in *missingQuery) (*missingEvents, error) {
	q := rooms.MissingQuery{Limit: defaultMissing, MinDepth: in.MinDepth}
	if in.Limit != nil {
		q.Limit = *in.Limit
	}
	if q.Limit < 0 {
		return nil, mxerr.InvalidParam.With("limit is negative")
	}
	var err error
	if q.Earliest, err = eventIDs(in.EarliestEvents); err != nil {
		return nil, err
	}
	if q.Latest, err = eventIDs(in.LatestEvents); err != nil {
		return nil, err
	}
	events, err := s.cfg.Rooms.MissingFor(ctx, c.Origin, c.RoomID("roomId"), q)
	if err != nil {
		return nil, err
	}
	return &missingEvents{events}, nil
}
