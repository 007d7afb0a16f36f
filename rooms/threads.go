package rooms

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// getThreadRoots implements GET /_matrix/client/v1/rooms/{roomId}/threads.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidthreads
func (s *Service) getThreadRoots(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	rd, err := s.reader(ctx, c)
	if err != nil {
		return nil, err
	}
	p, err := readThreadPage(c)
	if err != nil {
		return nil, err
	}
	if err := rd.Room.FindRelations(ctx); err != nil {
		return nil, err
	}
	st, err := rd.threads(ctx, p)
	if err != nil {
		return nil, err
	}
	body, err := appendList([]byte(`{"chunk":`), st.events, func(dst []byte, e *roomstate.Event) ([]byte, error) {
		return rd.appendRoot(ctx, dst, e)
	})
	if !st.whole {
		body = appendToken(append(body, `,"next_batch":`...), st.next)
	}
	return answer(append(body, '}')), err
}

// threadPage is what a client asks of /threads.
type threadPage struct {
	participated bool  // only threads in which the user takes part
	before       int64 // those whose newest event has a place before this one
	limit        int
}

func readThreadPage(c *httpapi.Call) (p *threadPage, err error) {
	p = &threadPage{participated: c.Query("include") == "participated", before: lastPlace}
	if include := c.Query("include"); include != "" && include != "all" && !p.participated {
		return nil, mxerr.InvalidParam.With("include is all or participated")
	}
	if p.limit, err = positiveLimit(c); err != nil {
		return nil, err
	}
	if from := c.Query("from"); from != "" {
		p.before, err = place(from)
	}
	return p, err
}

// threadsAtOnce is how many threads are read at once at most.
const threadsAtOnce = 100

// threads collects the roots of threads that the user may see, that with the newest event first.
func (rd *reader) threads(ctx context.Context, p *threadPage) (st stretch, err error) {
	st.next = p.before
	n := min(p.limit+1, threadsAtOnce)
	for looked := 0; looked < maxLooked; looked += n {
		rows, err := rd.Room.Threads(ctx, rd.User, st.next, n, rd.ignored)
		if err != nil {
			return st, err
		}
		roots, err := rd.roots(ctx, rows, p.participated)
		if err != nil {
			return st, err
		}
		for i := range rows {
			e := roots[rows[i].Root]
			if e != nil && len(st.events) == p.limit {
				return st, nil
			}
			if e != nil {
				st.events = append(st.events, e)
			}
			st.next = rows[i].Newest
		}
		if len(rows) < n {
			st.whole = true
			return st, nil
		}
	}
	return st, nil
}

// roots returns those roots of threads that are told, with what is told of their threads at hand.
func (rd *reader) roots(ctx context.Context, rows []storage.Thread, participated bool) (map[id.EventID]*roomstate.Event, error) {
	took := map[id.EventID]bool{}
	ids := make([]id.EventID, 0, len(rows))
	for i := range rows {
		took[rows[i].Root] = rows[i].Participated
		ids = append(ids, rows[i].Root)
	}
	events, err := rd.Room.StoredByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	if err := rd.Prepare(ctx, events); err != nil {
		return nil, err
	}
	var seen []*roomstate.Event
	for _, e := range events {
		if e.Flags != storage.InTimeline || participated && !took[e.ID] && e.Sender != rd.User {
			continue
		}
		_, ok, err := rd.See(ctx, e)
		if err != nil {
			return nil, err
		}
		if ok {
			seen = append(seen, e)
		}
	}
	if err := rd.Aggregate(ctx, seen); err != nil {
		return nil, err
	}
	roots := map[id.EventID]*roomstate.Event{}
	for _, e := range seen {
		if rd.ThreadOf(e) != nil {
			roots[e.ID] = e
		}
	}
	return roots, nil
}

// appendRoot appends the root of a thread. "If the thread root event was sent by an ignored user, the event is returned redacted
// to the caller."
func (rd *reader) appendRoot(ctx context.Context, dst []byte, e *roomstate.Event) ([]byte, error) {
	seen, ok, err := rd.See(ctx, e)
	if err == nil && ok && rd.ignored.Has(e.Sender) {
		seen, err = seen.Redacted()
	}
	if err != nil {
		return dst, err
	}
	return rd.AppendSeen(ctx, dst, e, seen, true)
}
