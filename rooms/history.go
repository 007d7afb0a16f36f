package rooms

import (
	"context"
	"errors"
	"slices"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/filter"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// How many events an answer has.
const (
	defaultEvents = 10   // "Default: 10."
	maxEvents     = 1000 // what a client may ask for at most
)

// getOneRoomEvent implements GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomideventeventid
func (s *Service) getOneRoomEvent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	rd, err := s.reader(ctx, c)
	switch {
	case errors.Is(err, mxerr.Forbidden) && rd != nil && rd.now.Membership == "invite":
		// "If the user's membership was invite, and the history_visibility was set to invited, allow."
	case errors.Is(err, mxerr.Forbidden):
		return nil, unknownEvent() // whether there is such an event is nobody else's business
	case err != nil:
		return nil, err
	}
	e, err := rd.event(ctx, c.EventID("eventId"))
	if err != nil {
		return nil, err
	}
	if err := rd.aggregate(ctx, []*roomstate.Event{e}); err != nil {
		return nil, err
	}
	body, _, err := rd.Append(ctx, nil, e, true)
	return answer(body), err
}

// getRoomState implements GET /_matrix/client/v3/rooms/{roomId}/state.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidstate
func (s *Service) getRoomState(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	rd, err := s.reader(ctx, c)
	if err != nil {
		return nil, err
	}
	events, err := rd.Room.State(ctx, rd.state)
	if err != nil {
		return nil, err
	}
	body, err := rd.appendState(ctx, nil, events)
	return answer(body), err
}

// getRoomStateWithKey implements GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey
func (s *Service) getRoomStateWithKey(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	rd, err := s.reader(ctx, c)
	if err != nil {
		return nil, err
	}
	e, err := rd.Room.StateEvent(ctx, rd.state, c.PathValue("eventType"), c.PathValue("stateKey"))
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, mxerr.NotFound.With("the room has no such state")
	}
	switch c.Query("format") {
	case "", "content":
		return answer(e.Content()), nil
	case "event":
		body, err := rd.AppendState(ctx, nil, e, true)
		return answer(body), err
	}
	return nil, mxerr.InvalidParam.With("format is content or event")
}

// getMembersByRoom implements GET /_matrix/client/v3/rooms/{roomId}/members.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidmembers
func (s *Service) getMembersByRoom(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	rd, err := s.reader(ctx, c)
	if err != nil {
		return nil, err
	}
	wanted, err := memberFilter(c)
	if err != nil {
		return nil, err
	}
	root, err := rd.stateAt(ctx, c.Query("at"))
	if err != nil {
		return nil, err
	}
	members, err := rd.members(ctx, root)
	if err != nil {
		return nil, err
	}
	members = slices.DeleteFunc(members, func(e *roomstate.Event) bool { return !wanted(e.Membership()) })
	body, err := rd.appendState(ctx, []byte(`{"chunk":`), members)
	return answer(append(body, '}')), err
}

// memberFilter reads membership and not_membership: "the two parameters create an 'or' condition".
func memberFilter(c *httpapi.Call) (func(membership string) bool, error) {
	is, not := c.Query("membership"), c.Query("not_membership")
	for _, m := range []string{is, not} {
		if m != "" && !slices.Contains([]string{"join", "invite", "knock", "leave", "ban"}, m) {
			return nil, mxerr.InvalidParam.With("%q is no membership", m)
		}
	}
	return func(membership string) bool {
		return is == "" && not == "" || is != "" && membership == is || not != "" && membership != not
	}, nil
}

// stateAt returns the root of the state that a pagination token names; an empty one names what the user may
// read as the state now. Whoever has left reads no later state than that in which they left.
func (rd *reader) stateAt(ctx context.Context, text string) (roomstate.Root, error) {
	if text == "" {
		return rd.state, nil
	}
	before, err := place(text)
	if err != nil {
		return 0, err
	}
	e, err := rd.lastBefore(ctx, min(before, roomstate.OrdAfter(rd.upTo)))
	if e == nil && err == nil {
		e, err = rd.founding(ctx)
	}
	switch {
	case err != nil || e == nil:
		return 0, err
	case e.Ord > rd.JoinedUntil() && !eventauth.MayReadState(rd.now):
		return rd.state, nil
	}
	if _, ok, err := rd.See(ctx, e); err != nil || ok {
		return e.Now, err
	}
	return 0, mxerr.Forbidden.With("you may not see the room as it was then")
}

// founding returns the second event of a room, by which its creator is in it: a token of the beginning, such as the
// prev_batch of a room that was told whole, means that there is nothing before, not that nobody is there.
func (rd *reader) founding(ctx context.Context) (*roomstate.Event, error) {
	list, err := rd.Room.HistoryForwards(ctx, firstPlace, roomstate.OrdAfter(rd.upTo), 2)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[len(list)-1], nil
}

// members returns the member events of a state.
func (rd *reader) members(ctx context.Context, root roomstate.Root) ([]*roomstate.Event, error) {
	var positions []storage.Pos
	err := rd.Room.StateKeys(ctx, root, func(k roomstate.Key, pos storage.Pos) {
		if k.Type == "m.room.member" {
			positions = append(positions, pos)
		}
	})
	if err != nil {
		return nil, err
	}
	return rd.Room.EventsAt(ctx, positions)
}

// getJoinedMembersByRoom implements GET /_matrix/client/v3/rooms/{roomId}/joined_members.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidjoined_members
func (s *Service) getJoinedMembersByRoom(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	r, err := s.roomOf(ctx, c.RoomID("roomId"), c.User)
	if err != nil {
		return nil, err
	}
	var positions []storage.Pos
	r.Members(func(m roomstate.Member) bool {
		if m.Membership == "join" {
			positions = append(positions, m.Pos)
		}
		return true
	})
	slices.Sort(positions)
	events, err := r.EventsAt(ctx, positions)
	if err != nil {
		return nil, err
	}
	body := []byte(`{"joined":{`)
	for i, e := range events {
		if i > 0 {
			body = append(body, ',')
		}
		body = appendMember(body, e)
	}
	return answer(append(body, "}}"...)), nil
}

// appendMember appends a member's id and profile. What is not set is left out: the specification has strings there,
// though other servers say null.
func appendMember(dst []byte, e *roomstate.Event) []byte {
	dst = append(canonjson.AppendString(dst, *e.StateKey), ":{"...)
	avatar, name := canonjson.Get(e.Content(), "avatar_url"), canonjson.Get(e.Content(), "displayname")
	if canonjson.IsString(avatar) {
		dst = append(append(dst, `"avatar_url":`...), avatar...)
	}
	if canonjson.IsString(name) {
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(append(dst, `"display_name":`...), name...)
	}
	return append(dst, '}')
}

// getRoomEvents implements GET /_matrix/client/v3/rooms/{roomId}/messages.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidmessages
func (s *Service) getRoomEvents(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	rd, err := s.reader(ctx, c) // first of all: who may not read learns nothing else
	if err != nil {
		return nil, err
	}
	p, err := readPage(c)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx, rd, p)
	if err != nil {
		return nil, err
	}
	body, err := rd.appendPage(ctx, p, st)
	return answer(body), err
}

// page is what a client asks of /messages.
type page struct {
	backwards bool
	from, to  int64
	start     string // the token of from
	limit     int
	filter    *filter.RoomEventFilter
}

// readPage reads the query of /messages.
func readPage(c *httpapi.Call) (*page, error) {
	dir := c.Query("dir")
	if dir == "" {
		return nil, mxerr.MissingParam.With("dir is missing")
	}
	p, err := readRange(c, dir)
	if err != nil {
		return nil, err
	}
	if p.filter, err = filter.ParseRoomEvents(c.Query("filter")); err != nil {
		return nil, err
	}
	p.limit, err = limitOf(c, p.filter)
	return p, err
}

// readRange reads between which places a client wants to read, in a direction.
func readRange(c *httpapi.Call, dir string) (*page, error) {
	if dir != "b" && dir != "f" {
		return nil, mxerr.InvalidParam.With("dir is b or f")
	}
	p := &page{backwards: dir == "b", start: c.Query("from"), from: firstPlace, to: lastPlace}
	if p.backwards {
		p.from, p.to = lastPlace, firstPlace
	}
	var err error
	for name, to := range map[string]*int64{"from": &p.from, "to": &p.to} {
		if text := c.Query(name); text != "" {
			if *to, err = place(text); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// limitOf reads how many events the client wants: by the query, or else by the filter.
func limitOf(c *httpapi.Call, f *filter.RoomEventFilter) (int, error) {
	def := defaultEvents
	if f.Limit != nil {
		def = *f.Limit
	}
	limit, err := c.Int("limit", def)
	if err == nil && limit < 0 {
		err = mxerr.InvalidParam.With("limit is negative")
	}
	return min(limit, maxEvents), err
}

// read reads the page's events, with what other servers know of those that are missing here.
func (s *Service) read(ctx context.Context, rd *reader, p *page) (stretch, error) {
	if p.backwards {
		p.from = min(p.from, roomstate.OrdAfter(rd.upTo))
		return s.history(ctx, rd, p.from, p.to, p.limit, p.filter)
	}
	return s.onwards(ctx, rd, p.from, p.to, p.limit, p.filter)
}

// appendPage appends the answer of /messages. It has an end, where the client may go on, unless there is
// nothing more to come: that is certain once a page is empty.
func (rd *reader) appendPage(ctx context.Context, p *page, st stretch) ([]byte, error) {
	body, err := rd.appendEvents(ctx, append(make([]byte, 0, sizeOf(st.events)), `{"chunk":`...), st.events)
	if err != nil {
		return nil, err
	}
	if !st.whole || len(st.events) > 0 {
		body = appendToken(append(body, `,"end":`...), st.next)
	}
	body = append(body, `,"start":`...)
	if p.start != "" {
		body = canonjson.AppendString(body, p.start)
	} else {
		body = appendToken(body, p.from)
	}
	if p.filter.LazyLoadMembers {
		if body, err = rd.appendLazy(ctx, append(body, `,"state":`...), st.events, p.backwards); err != nil {
			return nil, err
		}
	}
	return append(body, '}'), nil
}

// appendLazy appends the member events of those who sent the events, as of the newest of these.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#lazy-loading-room-members
func (rd *reader) appendLazy(ctx context.Context, dst []byte, events []*roomstate.Event, newestFirst bool) ([]byte, error) {
	if len(events) == 0 {
		return append(dst, "[]"...), nil
	}
	newest := events[len(events)-1]
	if newestFirst {
		newest = events[0]
	}
	members, err := rd.membersOf(ctx, newest.Now, senders(events))
	if err != nil {
		return nil, err
	}
	return rd.appendState(ctx, dst, members)
}

// senders returns who sent some events, each once.
func senders(events []*roomstate.Event) []id.UserID {
	var list []id.UserID
	seen := map[id.UserID]bool{}
	for _, e := range events {
		if !seen[e.Sender] {
			seen[e.Sender] = true
			list = append(list, e.Sender)
		}
	}
	return list
}

// membersOf returns the member events of users in a state; who has none is left out.
func (rd *reader) membersOf(ctx context.Context, root roomstate.Root, users []id.UserID) ([]*roomstate.Event, error) {
	var positions []storage.Pos
	for _, user := range users {
		pos, err := rd.Room.StatePos(ctx, root, "m.room.member", string(user))
		if err != nil {
			return nil, err
		}
		if pos != 0 {
			positions = append(positions, pos)
		}
	}
	return rd.Room.EventsAt(ctx, positions)
}

// getEventContext implements GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidcontexteventid
func (s *Service) getEventContext(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	rd, err := s.reader(ctx, c)
	if err != nil {
		return nil, err
	}
	f, err := filter.ParseRoomEvents(c.Query("filter"))
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(c, f)
	if err != nil {
		return nil, err
	}
	e, err := rd.event(ctx, c.EventID("eventId"))
	if err != nil {
		return nil, err
	}
	sur, err := s.surroundings(ctx, rd, e, limit, f)
	if err != nil {
		return nil, err
	}
	body, err := rd.appendContext(ctx, sur, f)
	return answer(body), err
}

// surroundings is an event with what happened just before and after it.
type surroundings struct {
	event         *roomstate.Event
	before, after stretch
}

// surroundings reads up to limit events around an event: half of them before it, the others after.
func (s *Service) surroundings(ctx context.Context, rd *reader, e *roomstate.Event, limit int, f *filter.RoomEventFilter) (*surroundings, error) {
	before, err := s.history(ctx, rd, e.Ord, firstPlace, limit/2, f)
	if err != nil {
		return nil, err
	}
	after, err := rd.forwards(ctx, e.Ord+1, lastPlace, limit-limit/2, f)
	return &surroundings{e, before, after}, err
}

// all returns the events, the last one last.
func (sur *surroundings) all() []*roomstate.Event {
	return slices.Concat(sur.before.events, []*roomstate.Event{sur.event}, sur.after.events)
}

// appendContext appends the answer of /context, with the state at the last event.
func (rd *reader) appendContext(ctx context.Context, sur *surroundings, f *filter.RoomEventFilter) ([]byte, error) {
	all := sur.all()
	if err := rd.aggregate(ctx, all); err != nil {
		return nil, err
	}
	body := append(make([]byte, 0, sizeOf(all)), `{"end":`...)
	body = append(appendToken(body, sur.after.next), `,"event":`...)
	body, _, err := rd.Append(ctx, body, sur.event, true)
	if err != nil {
		return nil, err
	}
	if body, err = rd.appendEvents(ctx, append(body, `,"events_after":`...), sur.after.events); err != nil {
		return nil, err
	}
	if body, err = rd.appendEvents(ctx, append(body, `,"events_before":`...), sur.before.events); err != nil {
		return nil, err
	}
	body = append(appendToken(append(body, `,"start":`...), sur.before.next), `,"state":`...)
	state, err := rd.stateBehind(ctx, all, f)
	if err != nil {
		return nil, err
	}
	body, err = rd.appendState(ctx, body, state)
	return append(body, '}'), err
}

// stateBehind returns the state after the last of some events, as far as it passes the filter; with lazy
// loading only those members who sent one of the events. Whoever has left reads no later state than that in which
// they left, though they may see an event behind it: how a later invite or knock of theirs ended.
func (rd *reader) stateBehind(ctx context.Context, events []*roomstate.Event, f *filter.RoomEventFilter) ([]*roomstate.Event, error) {
	last := events[len(events)-1]
	root := last.Now
	if last.Ord > rd.JoinedUntil() && !eventauth.MayReadState(rd.now) {
		root = rd.state
	}
	var positions []storage.Pos
	wanted := senders(events)
	err := rd.Room.StateKeys(ctx, root, func(k roomstate.Key, pos storage.Pos) {
		if !f.LazyLoadMembers || k.Type != "m.room.member" || slices.Contains(wanted, id.UserID(k.StateKey)) {
			positions = append(positions, pos)
		}
	})
	if err != nil {
		return nil, err
	}
	state, err := rd.Room.EventsAt(ctx, positions)
	return slices.DeleteFunc(state, func(e *roomstate.Event) bool { return !f.Passes(e.Type, e.Sender, e.Content()) }), err
}

// aggregate lets be told beside events what relates to them.
func (rd *reader) aggregate(ctx context.Context, events []*roomstate.Event) error {
	if err := rd.Room.FindRelations(ctx); err != nil {
		return err
	}
	return rd.Aggregate(ctx, events)
}

// appendEvents appends a list of events that the user may see, with what relates to them.
func (rd *reader) appendEvents(ctx context.Context, dst []byte, events []*roomstate.Event) ([]byte, error) {
	if err := rd.aggregate(ctx, events); err != nil {
		return nil, err
	}
	return appendList(dst, events, func(dst []byte, e *roomstate.Event) ([]byte, error) {
		dst, _, err := rd.Append(ctx, dst, e, true)
		return dst, err
	})
}

// appendState appends a list of events of a state that the user may read.
func (rd *reader) appendState(ctx context.Context, dst []byte, events []*roomstate.Event) ([]byte, error) {
	if err := rd.Prepare(ctx, events); err != nil {
		return nil, err
	}
	return appendList(dst, events, func(dst []byte, e *roomstate.Event) ([]byte, error) {
		return rd.AppendState(ctx, dst, e, true)
	})
}

func appendList[T any](dst []byte, items []T, appendItem func([]byte, T) ([]byte, error)) ([]byte, error) {
	dst = append(dst, '[')
	for i, item := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendItem(dst, item); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

// appendToken appends the token of a place as a JSON string.
func appendToken(dst []byte, ord int64) []byte {
	return append(append(append(dst, '"'), token.History{Ord: ord}.String()...), '"')
}

// sizeOf is about what events take in an answer.
func sizeOf(events []*roomstate.Event) int {
	n := 256
	for _, e := range events {
		n += 256 + len(e.Content())
	}
	return n
}
