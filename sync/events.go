package syncing

import (
	"context"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/token"
)

// maxChunk is how many events of a room one answer of /events has at most: its newest.
const maxChunk = 100

// getEvents implements GET /_matrix/client/v3/events.
//
// It is deprecated: /sync with its answer laid flat. Without from it tells what comes from now on. A room_id, which
// asks for a look into a room from outside, is not served.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3events
func (s *Service) getEvents(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*chunk, error) {
	defer s.Presence.Syncing(c.User, c.Device, ephemeral.Online)() // before the stream begins
	q, err := s.eventsRequest(c)
	if err != nil {
		return nil, err
	}
	if q.Timeout > 0 {
		c.ExtendDeadline(q.Timeout)
	}
	start := q.Since.String()
	a, err := s.Sync(ctx, q)
	if err != nil {
		return nil, err
	}
	return flat(a, start, q.User), nil
}

// eventsRequest reads the parameters.
func (s *Service) eventsRequest(c *httpapi.Call) (Request, error) {
	limit := maxChunk
	q := Request{User: c.User, Device: c.Device, Filter: &Filter{}}
	q.Filter.Room.Timeline.Limit = &limit
	if c.HasQuery("room_id") {
		return q, mxerr.Forbidden.With("rooms cannot be looked into from outside")
	}
	var err error
	if q.Timeout, err = timeout(c); err != nil {
		return q, err
	}
	if q.Since, err = s.stream(c, "from"); err == nil && q.Since == nil {
		q.Since = s.present()
	}
	return q, err
}

// present is the token of all that there is now.
func (s *Service) present() *token.Stream {
	return &token.Stream{Pos: s.DB.Published(), Typing: s.Typing.Now(), Presence: s.Presence.Now(), Boot: s.Typing.Boot}
}

// chunk is an answer of /events.
type chunk struct {
	page
	start, end string
}

// AppendJSON appends the answer to dst.
func (c *chunk) AppendJSON(dst []byte) []byte {
	out := page{b: append(dst, '{')}
	out.key("chunk").bytes(c.b).raw("]").key("end").text(c.end).key("start").text(c.start)
	return append(out.b, '}')
}

// flat takes the events of an answer out of their rooms.
func flat(a *Answer, start string, user id.UserID) *chunk {
	c := &chunk{page: page{b: []byte("[")}, start: start, end: a.Next()}
	body := gjson.ParseBytes(a.body)
	c.add("", body.Get("account_data.events"))
	c.add("", body.Get("presence.events"))
	for _, in := range []string{"join", "leave"} {
		body.Get("rooms." + in).ForEach(func(room, news gjson.Result) bool {
			for _, list := range []string{"timeline.events", "ephemeral.events", "account_data.events"} {
				c.add(room.String(), news.Get(list))
			}
			return true
		})
	}
	for _, in := range []string{"invite", "knock"} {
		body.Get("rooms." + in).ForEach(func(room, news gjson.Result) bool {
			c.addMember(room.String(), user, news.Get(in+"_state.events"))
			return true
		})
	}
	return c
}

// add appends events with the room they are of, if they are of one.
func (c *chunk) add(room string, events gjson.Result) {
	for _, e := range events.Array() {
		c.item()
		if room == "" {
			c.raw(e.Raw)
			continue
		}
		c.raw("{").key("room_id").text(room)
		if inside := e.Raw[1:]; inside != "}" {
			c.raw(",").raw(inside)
		} else {
			c.raw(inside)
		}
	}
}

// addMember appends of what a room is recognised by the user's own member event.
func (c *chunk) addMember(room string, user id.UserID, events gjson.Result) {
	for _, e := range events.Array() {
		if e.Get("type").Str == memberType && e.Get("state_key").Str == string(user) {
			c.add(room, gjson.Parse("["+e.Raw+"]"))
		}
	}
}
