package rooms

import (
	"context"
	"errors"
	"strconv"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// getRelatingEvents implements GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId} and, narrowed down,
// GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType} and
// GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidrelationseventid
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltype
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltypeeventtype
func (s *Service) getRelatingEvents(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	rd, err := s.reader(ctx, c)
	if errors.Is(err, mxerr.Forbidden) {
		return nil, unknownEvent() // "The parent event was not found or the user does not have permission to read this event"
	}
	if err != nil {
		return nil, err
	}
	p, err := readRelationPage(c)
	if err != nil {
		return nil, err
	}
	parent, err := rd.event(ctx, c.EventID("eventId"))
	if err != nil {
		return nil, err
	}
	if err := rd.Room.FindRelations(ctx); err != nil {
		return nil, err
	}
	st, err := rd.relations(ctx, p.query(rd, parent), p.limit)
	if err != nil {
		return nil, err
	}
	body, err := rd.appendRelations(ctx, p, st)
	return answer(body), err
}

// relationPage is what a client asks of /relations.
type relationPage struct {
	*page
	kind, eventType string
	recurse         bool
	depth           bool // the client wants to know the depth
}

// readRelationPage reads the path and the query of /relations.
func readRelationPage(c *httpapi.Call) (*relationPage, error) {
	p := &relationPage{kind: c.PathValue("relType"), eventType: c.PathValue("eventType"), depth: c.HasQuery("recurse")}
	var err error
	if p.recurse, err = c.Bool("recurse", false); err != nil {
		return nil, err
	}
	dir := c.Query("dir")
	if dir == "" {
		dir = "b" // "Optional (default b)"
	}
	if p.page, err = readRange(c, dir); err != nil {
		return nil, err
	}
	p.limit, err = positiveLimit(c)
	return p, err
}

// positiveLimit reads how many events the client wants, of an endpoint where none makes no sense.
func positiveLimit(c *httpapi.Call) (int, error) {
	limit, err := c.Int("limit", defaultEvents)
	if err == nil && limit < 1 {
		err = mxerr.InvalidParam.With("limit has to be greater than zero")
	}
	return min(limit, maxEvents), err
}

// query asks for the first events of the page.
func (p *relationPage) query(rd *reader, parent *roomstate.Event) *storage.RelationQuery {
	q := &storage.RelationQuery{
		Room: rd.Room.Num, Parent: parent.ID, Kind: p.kind, Type: p.eventType, Forwards: !p.backwards, Recurse: p.recurse,
	}
	q.After, q.Before = p.to-1, p.from
	if !p.backwards {
		q.After, q.Before = p.from-1, p.to
	}
	q.Before = min(q.Before, roomstate.OrdAfter(rd.upTo))
	return q
}

// relations collects up to limit events that relate to one and that the user may see.
func (rd *reader) relations(ctx context.Context, q *storage.RelationQuery, limit int) (st stretch, err error) {
	q.Limit = limit + 1
	for looked := 0; looked < maxLooked; looked += q.Limit {
		rows, events, err := rd.readRelations(ctx, q)
		if err != nil {
			return st, err
		}
		for i, e := range events {
			ok, err := rd.tells(ctx, e)
			if err != nil {
				return st, err
			}
			if ok && len(st.events) == limit {
				return st, nil
			}
			if ok {
				st.events = append(st.events, e)
			}
			st.next = passed(q, &rows[i])
		}
		if len(rows) < q.Limit {
			st.whole = true
			return st, nil
		}
	}
	return st, nil
}

// passed moves a query on behind a relation, and returns the place where that is.
func passed(q *storage.RelationQuery, row *storage.Relation) (next int64) {
	if q.Forwards {
		q.After = row.Ord
		return row.Ord + 1
	}
	q.Before = row.Ord
	return row.Ord
}

func (rd *reader) readRelations(ctx context.Context, q *storage.RelationQuery) (rows []storage.Relation, events []*roomstate.Event, err error) {
	rows, err = rd.Room.Relations(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	positions := make([]storage.Pos, len(rows))
	for i := range rows {
		positions[i] = rows[i].Pos
	}
	if events, err = rd.Room.EventsAt(ctx, positions); err != nil {
		return nil, nil, err
	}
	return rows, events, rd.Prepare(ctx, events)
}

// appendRelations appends the answer of /relations.
func (rd *reader) appendRelations(ctx context.Context, p *relationPage, st stretch) ([]byte, error) {
	body, err := rd.appendEvents(ctx, append(make([]byte, 0, sizeOf(st.events)), `{"chunk":`...), st.events)
	if err != nil {
		return nil, err
	}
	if !st.whole {
		body = appendToken(append(body, `,"next_batch":`...), st.next)
	}
	if p.start != "" {
		body = appendToken(append(body, `,"prev_batch":`...), p.from)
	}
	if p.depth {
		steps := int64(1)
		if p.recurse {
			steps = storage.RelationSteps
		}
		body = strconv.AppendInt(append(body, `,"recursion_depth":`...), steps, 10)
	}
	return append(body, '}'), nil
}
