package syncing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// initialSync implements GET /_matrix/client/v3/initialSync.
//
// It is deprecated: what an initial /sync tells, in the form of old, in which an event has a user_id, its sender, too.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3initialsync
func (s *Service) initialSync(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*Answer, error) {
	q, err := s.oldRequest(c)
	if err != nil {
		return nil, err
	}
	if q.Filter.Room.IncludeLeave, err = c.Bool("archived", false); err != nil {
		return nil, err
	}
	defer s.Presence.Syncing(c.User, c.Device, ephemeral.Online)()
	return s.oneOfFewLarge(ctx, func() (*Answer, error) {
		l := s.newLook(ctx, &q)
		if err := l.initialSync(); err != nil {
			return nil, fmt.Errorf("initial sync of %s: %w", c.User, err)
		}
		return &Answer{body: l.out.b}, nil
	})
}

// oldRequest is what an old initial sync asks for: everything as it is now, with a limit on the messages of a room.
func (s *Service) oldRequest(c *httpapi.Call) (Request, error) {
	q := Request{User: c.User, Device: c.Device, Filter: &Filter{}, StateAfter: true, old: true}
	limit, err := oldLimit(c, defaultTimeline)
	q.Filter.Room.Timeline.Limit = &limit
	return q, err
}

// oldLimit reads how many messages a client wants, where they are not limited by a filter.
func oldLimit(c *httpapi.Call, def int) (int, error) {
	limit, err := c.Int("limit", def)
	if err == nil && limit < 0 {
		err = mxerr.InvalidParam.With("limit is negative")
	}
	return limit, err
}

// initialSync writes the whole answer.
func (l *look) initialSync() error {
	if err := l.find(); err != nil {
		return err
	}
	if err := l.read(); err != nil {
		return err
	}
	published, err := l.published()
	if err != nil {
		return err
	}
	l.out.b = append(make([]byte, 0, l.likelySize()), '{')
	l.oldData("")
	l.out.key("end").text(l.next().String())
	l.oldPresence(l.present)
	l.oldReceipts(l.places...)
	l.out.key("rooms").raw("[")
	for _, p := range l.places {
		if err := l.oldPlace(p, published[p.Num]); err != nil {
			return fmt.Errorf("room %s: %w", p.ID, err)
		}
	}
	l.out.raw("]}")
	return nil
}

// published tells which of the places are in the room directory.
func (l *look) published() (map[int64]bool, error) {
	rooms, listed := make([]int64, len(l.places)), map[int64]bool{}
	for i, p := range l.places {
		rooms[i] = p.Num
	}
	err := l.DB.Read(l.ctx, func(tx *storage.Tx) error {
		list, err := tx.ListingsOf(rooms)
		for i := range list {
			listed[list[i].Room] = true
		}
		return err
	})
	return listed, err
}

// oldPlace writes a room. Those at which somebody knocked have no place in the form of old.
func (l *look) oldPlace(p *place, published bool) error {
	switch p.section {
	case invited:
		return l.oldInvite(p)
	case joined, left:
		l.out.item().raw("{")
		if err := l.oldRoom(p, published); err != nil {
			return err
		}
		l.out.raw("}")
	}
	return nil
}

// oldInvite writes a room to which the user is invited, with the event that says so: it is theirs, whatever else of the
// room they may see.
func (l *look) oldInvite(p *place) error {
	v, err := p.Viewer(l.ctx, l.User, l.Device, l.now, l.to)
	if err != nil {
		return err
	}
	seen, err := v.SeeState(l.ctx, p.member)
	if err != nil {
		return err
	}
	l.out.item().raw("{").key("invite")
	if err := l.oldEvent(v, p.member, seen); err != nil {
		return err
	}
	l.out.key("membership").text("invite").key("room_id").text(string(p.ID)).raw("}")
	return nil
}

// oldRoom writes a room that the user is in, was in, or looks into, without its braces.
func (l *look) oldRoom(p *place, published bool) error {
	v, err := p.Viewer(l.ctx, l.User, l.Device, l.now, l.to)
	if err != nil {
		return err
	}
	t, err := l.timelineOf(p, v)
	if err != nil {
		return err
	}
	l.oldData(p.ID)
	if m := p.membership(); m != "" {
		l.out.key("membership").text(m)
	}
	if err := l.oldMessages(p, v, t); err != nil {
		return err
	}
	l.out.key("room_id").text(string(p.ID))
	if err := l.oldState(p, v, t); err != nil {
		return err
	}
	l.out.key("visibility").text(map[bool]string{true: "public", false: "private"}[published])
	return nil
}

// membership is the user's in a room, "" of one that they only look into.
func (p *place) membership() string {
	switch p.section {
	case joined:
		return "join"
	case left:
		return p.member.Membership()
	}
	return ""
}

// oldMessages writes the latest events. Their end is where /events goes on, and /messages too.
func (l *look) oldMessages(p *place, v *roomstate.Viewer, t *timeline) error {
	l.out.key("messages").raw("{").key("chunk").raw("[")
	for i, e := range t.events {
		l.out.item()
		if err := l.oldEvent(v, e, t.seen[i]); err != nil {
			return err
		}
	}
	end := l.next()
	end.Pos = p.upTo
	l.out.raw("]").key("end").text(end.String()).key("start").text(p.beginning(t).String()).raw("}")
	return nil
}

// oldState writes the state at the end of the messages.
func (l *look) oldState(p *place, v *roomstate.Viewer, t *timeline) error {
	events, err := l.stateToRead(p, t)
	if err != nil {
		return err
	}
	if err := v.Prepare(l.ctx, events); err != nil {
		return err
	}
	l.out.key("state").raw("[")
	for _, e := range events {
		seen, err := v.SeeState(l.ctx, e)
		if err != nil {
			return err
		}
		l.out.item()
		if err := l.oldEvent(v, e, seen); err != nil {
			return err
		}
	}
	l.out.raw("]")
	return nil
}

// stateToRead is the state at the end of a timeline: all of it for whoever looks into a world-readable room.
func (l *look) stateToRead(p *place, t *timeline) ([]*roomstate.Event, error) {
	if p.section == untold {
		return p.State(l.ctx, p.end)
	}
	return l.stateOf(p, t, 0, nil)
}

// oldEvent writes an event with its room and, under the key of old, its sender.
func (l *look) oldEvent(v *roomstate.Viewer, e *roomstate.Event, seen eventauth.Seen) (err error) {
	if l.out.b, err = v.AppendSeen(l.ctx, l.out.b, e, seen, true); err != nil {
		return err
	}
	l.out.cut(l.out.mark() - len("}"))
	l.out.key("user_id").text(string(e.Sender)).raw("}")
	return nil
}

// oldData writes the account data of a room, "" for global.
func (l *look) oldData(room id.RoomID) {
	l.out.key("account_data").raw("[")
	for _, d := range l.data[room] {
		if string(d.Content) == deleted {
			continue
		}
		l.out.item().raw(`{"content":`).bytes(d.Content).key("type").text(d.Type).raw("}")
	}
	l.out.raw("]")
}

// oldReceipts writes what was read in rooms.
func (l *look) oldReceipts(places ...*place) {
	l.out.key("receipts").raw("[")
	for _, p := range places {
		l.inRoom(p, func() { l.writeReceipts(p) })
	}
	l.out.raw("]")
}

// inRoom names a room in the events that write writes, which have no sender.
func (l *look) inRoom(p *place, write func()) {
	before := l.out
	l.out = page{b: []byte("[")}
	write()
	list := gjson.ParseBytes(append(l.out.b, ']'))
	l.out = before
	for _, e := range list.Array() {
		l.out.item().raw("{").key("room_id").text(string(p.ID)).raw(",").raw(e.Raw[1:])
	}
}

// oldPresence writes the presence of users, who are named in the content as well.
func (l *look) oldPresence(list []ephemeral.Status) {
	l.out.key("presence").raw("[")
	l.oldStatuses(list)
	l.out.raw("]")
}

func (l *look) oldStatuses(list []ephemeral.Status) {
	now := time.Now()
	for i := range list {
		l.out.item().raw(`{"content":{`).key("user_id").text(string(list[i].User))
		l.writeStatus(&list[i], now)
	}
}

// roomInitialSync implements GET /_matrix/client/v3/rooms/{roomId}/initialSync.
//
// Members see the room as it is, those who have left it as they left it; everybody else may look into a room that is
// world-readable.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidinitialsync
func (s *Service) roomInitialSync(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*Answer, error) {
	q, err := s.oldRequest(c)
	if err != nil {
		return nil, err
	}
	q.Filter.Room.IncludeLeave = true
	defer s.Presence.Syncing(c.User, c.Device, ephemeral.Online)()
	l := s.newLook(ctx, &q)
	p, err := l.enter(c.RoomID("roomId"))
	if err != nil {
		return nil, err
	}
	if err := l.roomInitialSync(p); err != nil {
		return nil, fmt.Errorf("initial sync of %s in %s: %w", c.User, p.ID, err)
	}
	return &Answer{body: l.out.b}, nil
}

// enter finds a room and how the user stands to it: in it, out of it after having been in, or looking into it. The error
// is mxerr.Forbidden when they may not.
func (l *look) enter(roomID id.RoomID) (*place, error) {
	var err error
	if l.wishes, err = l.wishesOf(l.ctx, l.User); err != nil {
		return nil, err
	}
	if l.mine, err = l.Cache.RoomsOf(l.ctx, l.User); err != nil {
		return nil, err
	}
	if err := l.consider(roomID, newEvents); err != nil {
		return nil, err
	}
	for _, p := range l.places {
		if p.section == joined || p.section == left && p.been {
			return p, nil
		}
	}
	return l.peek(roomID)
}

// peek finds a world-readable room to look into from outside.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-previews
func (l *look) peek(roomID id.RoomID) (*place, error) {
	room, err := l.Cache.Room(l.ctx, roomID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, notInside()
	}
	if err != nil {
		return nil, err
	}
	p := &place{Room: room, upTo: l.to, fresh: l.initial}
	if p.end, err = room.StateAt(l.ctx, l.to); err != nil {
		return nil, err
	}
	v, err := room.Viewer(l.ctx, l.User, l.Device, l.now, l.to)
	if err != nil {
		return nil, err
	}
	now, err := v.Viewing(l.ctx, p.end)
	if err == nil && !eventauth.MayReadState(now) {
		err = notInside()
	}
	return p, err
}

func notInside() error {
	return mxerr.Forbidden.With("you are not in this room, and it cannot be looked into from outside")
}

// roomInitialSync writes the answer about one room.
func (l *look) roomInitialSync(p *place) error {
	var published bool
	l.data, l.receipts = map[id.RoomID][]storage.AccountData{}, map[int64][]storage.Receipt{}
	err := l.DB.Read(l.ctx, func(tx *storage.Tx) (err error) {
		if published, err = tx.IsPublished(p.Num); err != nil {
			return err
		}
		if l.data[p.ID], err = tx.RoomAccountData(l.User, p.ID, l.to); err != nil || p.section == left {
			return err
		}
		l.receipts[p.Num], err = tx.ReceiptsSince([]int64{p.Num}, 0, l.to)
		return err
	})
	if err != nil {
		return err
	}
	l.typingNow, l.presenceNow = l.Typing.Now(), l.Presence.Now()
	l.out.b = append(make([]byte, 0, l.likelySize()), '{')
	if err := l.oldRoom(p, published); err != nil {
		return err
	}
	l.oldPresence(l.peopleIn(p))
	l.oldReceipts(p)
	l.out.raw("}")
	return nil
}

// peopleIn returns the presence of those who are in a room, at most of maxPeople; whoever was not heard of is offline.
// Those who are no longer in it learn of nobody.
func (l *look) peopleIn(p *place) (list []ephemeral.Status) {
	if l.Presence == nil || p.section == left {
		return nil
	}
	p.Members(func(m roomstate.Member) bool {
		if m.Membership == "join" && !l.wishes.ignores(m.User) {
			st, ok := l.Presence.Of(m.User)
			if !ok {
				st = ephemeral.Status{User: m.User, State: ephemeral.Offline}
			}
			list = append(list, st)
		}
		return len(list) < maxPeople
	})
	return list
}

// getOneEvent implements GET /_matrix/client/v3/events/{eventId}.
//
// It is deprecated: /rooms/{roomId}/event/{eventId} without the room.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3eventseventid
func (s *Service) getOneEvent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*Answer, error) {
	room, err := s.roomOf(ctx, c.EventID("eventId"))
	if err != nil {
		return nil, err
	}
	q := Request{User: c.User, Device: c.Device, Filter: &Filter{}}
	q.Filter.Room.IncludeLeave = true
	l := s.newLook(ctx, &q)
	p, err := l.enter(room)
	if errors.Is(err, mxerr.Forbidden) {
		return nil, unknownEvent() // whether there is such an event is nobody else's business
	}
	if err != nil {
		return nil, err
	}
	body, err := l.oneEvent(p, c.EventID("eventId"))
	return &Answer{body: body}, err
}

func unknownEvent() error {
	return mxerr.NotFound.With("there is no such event, or you may not see it")
}

// roomOf returns the room of an event, or mxerr.NotFound.
func (s *Service) roomOf(ctx context.Context, event id.EventID) (room id.RoomID, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		e, err := tx.EventByID(event)
		if err != nil {
			return err
		}
		r, err := tx.RoomByNumber(e.Room)
		room = r.ID
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		err = unknownEvent()
	}
	return room, err
}

// oneEvent returns an event of a room's history in the form of old.
func (l *look) oneEvent(p *place, event id.EventID) ([]byte, error) {
	e, err := p.EventByID(l.ctx, event)
	if errors.Is(err, storage.ErrNotFound) || err == nil && e.Flags != storage.InTimeline {
		return nil, unknownEvent()
	}
	if err != nil {
		return nil, err
	}
	v, err := p.Viewer(l.ctx, l.User, l.Device, l.now, l.to)
	if err != nil {
		return nil, err
	}
	seen, ok, err := v.See(l.ctx, e)
	if err == nil && !ok {
		err = unknownEvent()
	}
	if err != nil {
		return nil, err
	}
	if err := v.Aggregate(l.ctx, []*roomstate.Event{e}); err != nil {
		return nil, err
	}
	err = l.oldEvent(v, e, seen)
	return l.out.b, err
}
