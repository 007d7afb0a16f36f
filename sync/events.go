package syncing

import (
	"context"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// maxChunk is how many events of rooms one answer of /events has at most.
const maxChunk = 100

// getEvents implements GET /_matrix/client/v3/events.
//
// It is deprecated: /sync with its answer laid flat, the oldest events first and none left out. Without from it tells what
// comes from now on. With a room_id it tells of that room alone, which the user need not be in if it is world-readable.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3events
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3events_1
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
	if c.HasQuery("room_id") {
		outside, err := s.entered(ctx, &q, c.Query("room_id"))
		if err != nil {
			return nil, err
		}
		if outside {
			return s.lookInto(ctx, &q, start)
		}
	}
	a, err := s.Sync(ctx, q)
	if err != nil {
		return nil, err
	}
	return flat(a, start, q.User), nil
}

// entered narrows a request to one room; outside says that the user is not in it, though they may look into it.
func (s *Service) entered(ctx context.Context, q *Request, text string) (outside bool, err error) {
	room, err := id.ParseRoomID(text)
	if err != nil {
		return false, mxerr.InvalidParam.With("room_id: %v", err)
	}
	q.Filter.Room.Rooms = []string{text}
	mine, err := s.Cache.RoomsOf(ctx, q.User)
	if err != nil {
		return false, err
	}
	if m, ok := mine.Get(room); ok && m.Membership == "join" {
		return false, nil
	}
	_, err = s.newLook(ctx, q).peek(room)
	return true, err
}

// lookInto tells somebody outside of a room what is new in it, as far as it was world-readable meanwhile. Once it no
// longer is, what tells so is the last that they learn.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-previews
func (s *Service) lookInto(ctx context.Context, q *Request, start string) (*chunk, error) {
	wait := s.Hub.WaitOutside(id.RoomID(q.Filter.Room.Rooms[0]))
	a, err := s.awaitNews(ctx, q, wait, s.tellOutside)
	if err != nil {
		return nil, err
	}
	return &chunk{page: page{b: a.body}, start: start, end: a.Next()}, nil
}

// tellOutside is tell for somebody who looks into the room of a request from outside; the answer is a chunk that is laid
// flat, without its end.
func (s *Service) tellOutside(ctx context.Context, q *Request) (*Answer, error) {
	l := s.newLook(ctx, q)
	p, err := l.windowOn(id.RoomID(q.Filter.Room.Rooms[0]))
	if err != nil {
		return nil, err
	}
	l.out.b = []byte("[")
	if err := l.writeOutside(p); err != nil {
		return nil, fmt.Errorf("look of %s into %s: %w", q.User, p.ID, err)
	}
	return &Answer{body: l.out.b, next: l.next(), news: len(l.out.b) > 1, more: l.more}, nil
}

// windowOn finds the room to look into. Whether that is allowed was asked when the request came.
func (l *look) windowOn(roomID id.RoomID) (p *place, err error) {
	if l.wishes, err = l.wishesOf(l.ctx, l.User); err != nil {
		return nil, err
	}
	if err = l.stopEarly(); err != nil {
		return nil, err
	}
	p = &place{upTo: l.to}
	if p.Room, err = l.Cache.Room(l.ctx, roomID); err != nil {
		return nil, err
	}
	p.end, err = p.StateAt(l.ctx, l.to)
	return p, err
}

// writeOutside writes what is new in a room for somebody who is not in it.
func (l *look) writeOutside(p *place) error {
	v, err := p.Viewer(l.ctx, l.User, l.Device, l.now, l.to)
	if err != nil {
		return err
	}
	t, err := l.timelineOf(p, v)
	if err != nil {
		return err
	}
	for i, e := range t.events {
		l.out.item()
		if err := l.oldEvent(v, e, t.seen[i]); err != nil {
			return err
		}
	}
	now, err := v.Viewing(l.ctx, p.end)
	l.typing = map[id.RoomID]struct{}{}
	for _, room := range l.typingSince() {
		l.typing[room] = struct{}{}
	}
	if err != nil || !eventauth.MayReadState(now) {
		l.presenceNow = l.Presence.Now()
		return err
	}
	return l.writeDoings(p)
}

// writeDoings writes who types, has read something or has come and gone among those in a room.
func (l *look) writeDoings(p *place) error {
	var err error
	l.receipts = map[int64][]storage.Receipt{}
	err = l.DB.Read(l.ctx, func(tx *storage.Tx) error {
		l.receipts[p.Num], err = tx.ReceiptsSince([]int64{p.Num}, l.from, l.to)
		return err
	})
	if err != nil {
		return err
	}
	l.inRoom(p, func() {
		l.writeTyping(p)
		l.writeReceipts(p)
	})
	l.oldStatuses(l.changedIn(p))
	return nil
}

// changedIn returns those in a room whose presence has changed, and finds the number up to which that is told.
func (l *look) changedIn(p *place) (list []ephemeral.Status) {
	if l.Presence == nil {
		return nil
	}
	since := int64(0)
	if l.Since.Boot == l.Typing.Boot {
		since = l.Since.Presence
	}
	changed, upTo := l.Presence.Since(since, maxPeople)
	l.presenceNow = upTo
	for _, st := range changed {
		if m, ok := p.Member(st.User); ok && m.Membership == "join" && !l.wishes.ignores(st.User) {
			list = append(list, st)
		}
	}
	return list
}

// eventsRequest reads the parameters.
func (s *Service) eventsRequest(c *httpapi.Call) (Request, error) {
	q := Request{User: c.User, Device: c.Device, Filter: &Filter{}, old: true}
	limit, err := oldLimit(c, maxChunk)
	if err != nil {
		return q, err
	}
	limit = min(limit, maxChunk)
	q.Filter.Room.Timeline.Limit = &limit
	if q.Timeout, err = timeout(c); err != nil {
		return q, err
	}
	if q.Since, err = s.stream(c, "from"); err == nil && q.Since == nil {
		q.Since = s.present()
	}
	return q, err
}

// present is the token of all that there is now, but for messages to devices.
func (s *Service) present() *token.Stream {
	l := look{Service: s, Request: &Request{old: true}, to: s.DB.Published(), typingNow: s.Typing.Now(), presenceNow: s.Presence.Now()}
	t := l.next()
	return &t
}

// keepMessages leaves the messages to the device, of which the old endpoints do not tell, to /sync: a token of theirs
// acknowledges what the token before it did.
func (l *look) keepMessages(t token.Stream) token.Stream {
	inbox := storage.Pos(1) // before any message
	if l.Since != nil {
		inbox = l.Since.Messages()
	}
	if t.Inbox = 0; inbox < t.Pos {
		t.Inbox = inbox
	}
	return t
}

// stopEarly ends the look of /events behind as many events as its answer may have.
func (l *look) stopEarly() error {
	limit := l.Filter.Room.limit()
	if !l.old || l.initial || limit == 0 {
		return nil
	}
	next, err := l.eventAfter(limit)
	if err == nil && next > l.from+1 {
		l.to, l.more = next-1, true
	}
	return err
}

// eventAfter returns when the event arrived before which there are so many new ones; 0 when there are no more than those.
func (l *look) eventAfter(many int) (storage.Pos, error) {
	changes, whole := l.Hub.Since(l.from, l.to)
	if !whole {
		return l.storedAfter(many)
	}
	for i := range changes {
		if c := &changes[i]; c.Kind != notify.Timeline || !l.streams(c.Room) {
			continue
		}
		if many--; many < 0 {
			return changes[i].Pos, nil
		}
	}
	return 0, nil
}

// storedAfter is eventAfter where the hub no longer knows.
func (l *look) storedAfter(many int) (pos storage.Pos, err error) {
	var rooms []id.RoomID
	for _, room := range l.Filter.Room.Rooms {
		rooms = append(rooms, id.RoomID(room))
	}
	if rooms == nil {
		for _, m := range l.mine.All() {
			if l.streams(m.Room) {
				rooms = append(rooms, m.Room)
			}
		}
	}
	err = l.DB.Read(l.ctx, func(tx *storage.Tx) error {
		pos, err = tx.ArrivalAfter(rooms, l.from, l.to, many)
		return err
	})
	return pos, err
}

// streams reports whether the new events of a room may be told.
func (l *look) streams(room id.RoomID) bool {
	if only := l.Filter.Room.Rooms; only != nil {
		return only[0] == string(room)
	}
	m, ok := l.mine.Get(room)
	return ok && (m.Membership == "join" || m.Since > l.from)
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
	c.addPresence(body.Get("presence.events"))
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

// add appends events with the room they are of, if they are of one, and with their sender under the key of old too.
func (c *chunk) add(room string, events gjson.Result) {
	for _, e := range events.Array() {
		if room == "" {
			c.item().raw(e.Raw)
			continue
		}
		c.item().raw("{").key("room_id").text(room)
		if sender := e.Get("sender"); sender.Exists() {
			c.key("user_id").raw(sender.Raw)
		}
		c.rest(e)
	}
}

// addPresence appends the presence of users, who are named in the content as well.
func (c *chunk) addPresence(events gjson.Result) {
	for _, e := range events.Array() {
		c.item().raw(`{"content":{`).key("user_id").raw(e.Get("sender").Raw)
		c.rest(e.Get("content"))
		c.key("sender").raw(e.Get("sender").Raw).key("type").text(presenceType).raw("}")
	}
}

// rest appends the members of an object behind others, and ends it.
func (c *chunk) rest(object gjson.Result) {
	if inside := object.Raw[1:]; inside != "}" {
		c.raw(",")
	}
	c.raw(object.Raw[1:])
}

// addMember appends of what a room is recognised by the user's own member event.
func (c *chunk) addMember(room string, user id.UserID, events gjson.Result) {
	for _, e := range events.Array() {
		if e.Get("type").Str == memberType && e.Get("state_key").Str == string(user) {
			c.add(room, gjson.Parse("["+e.Raw+"]"))
		}
	}
}
