package syncing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// look is one look at what is new for a device: everything at a position in (from, to]. Memory may be a moment
// ahead of to; what is later is left to the next look. It is used by one goroutine.
type look struct {
	*Service
	*Request
	ctx      context.Context
	now      time.Time
	from, to storage.Pos
	initial  bool
	more     bool // there is something behind to already

	mine   *roomstate.UserRooms
	wishes *wishes
	places []*place // the rooms of which there may be something to tell

	typing    map[id.RoomID]struct{} // rooms in which typing changed
	typingNow int64

	people      map[id.UserID]struct{} // whose presence is told,
	present     []ephemeral.Status     // in that order
	presenceNow int64

	data     map[id.RoomID][]storage.AccountData // by room, "" for global
	receipts map[int64][]storage.Receipt         // by the room's number

	changed, left []id.UserID // whose devices have to be asked for again, and whose are needed no more
	counts        keyCounts   // what the device has left

	messages []storage.ToDevice // to the device,
	inbox    storage.Pos        // of which there are more behind this position, if it is not 0

	out     page
	scratch []byte
	members map[memberKey]storage.Pos // the member events that are told, of lazily loading devices
}

// hint says what may be new in a room.
type hint uint8

const (
	newEvents hint = 1 << iota
	newReceipts
	newData
	newTyping
)

// tell looks once and makes the answer of what is new.
func (s *Service) tell(ctx context.Context, q *Request) (*Answer, error) {
	l := s.newLook(ctx, q)
	if err := l.find(); err != nil {
		return nil, fmt.Errorf("sync of %s: %w", q.User, err)
	}
	if err := l.read(); err != nil {
		return nil, fmt.Errorf("sync of %s: %w", q.User, err)
	}
	if err := l.readMessages(); err != nil {
		return nil, fmt.Errorf("messages to %s of %s: %w", q.Device, q.User, err)
	}
	if err := l.readCounts(); err != nil {
		return nil, fmt.Errorf("keys of %s of %s: %w", q.Device, q.User, err)
	}
	if err := l.write(); err != nil {
		return nil, fmt.Errorf("sync of %s: %w", q.User, err)
	}
	return &Answer{body: l.out.b, next: l.next(), news: l.out.said, more: l.more, members: l.members, counts: l.counts}, nil
}

// newLook is a look at what is new since a request's token, up to now.
func (s *Service) newLook(ctx context.Context, q *Request) *look {
	l := &look{Service: s, Request: q, ctx: ctx, now: s.Now(), to: s.DB.Published(), initial: q.Since == nil}
	if q.Since != nil {
		l.from = min(q.Since.Pos, l.to)
	}
	return l
}

// next is where the following look begins.
func (l *look) next() token.Stream {
	t := token.Stream{Pos: l.to, Inbox: l.inbox, Typing: l.typingNow, Presence: l.presenceNow, Boot: l.Typing.Boot}
	if l.old {
		t = l.keepMessages(t)
	}
	return t
}

// find finds the rooms of which there may be something to tell.
func (l *look) find() (err error) {
	if l.mine, err = l.Cache.RoomsOf(l.ctx, l.User); err != nil {
		return err
	}
	if err = l.stopEarly(); err != nil {
		return err
	}
	if l.wishes, err = l.wishesOf(l.ctx, l.User); err != nil {
		return err
	}
	n, err := l.hints()
	if err != nil {
		return err
	}
	for room, h := range n.hints {
		if err := l.consider(room, h); err != nil {
			return err
		}
	}
	if !l.initial && !l.old {
		if l.changed, l.left, err = l.findDevices(n); err != nil {
			return err
		}
	}
	return l.findPeople(n.moved, n.whole)
}

// hints collects where something may be new, and whose memberships and devices have changed. Of the hints, the key ""
// stands for global account data.
func (l *look) hints() (n news, err error) {
	hints := map[id.RoomID]hint{}
	n.hints = hints
	l.typing = map[id.RoomID]struct{}{}
	for _, room := range l.typingSince() {
		l.typing[room] = struct{}{}
		hints[room] |= newTyping
	}
	if l.initial || l.FullState {
		l.hintAll(hints)
	}
	if l.initial {
		n.whole = true
		return n, nil
	}
	changes, ok := l.Hub.Since(l.from, l.to)
	if !ok {
		return n, l.hintStored(hints)
	}
	n.whole = true
	for i := range changes {
		switch c := &changes[i]; c.Kind {
		case notify.Timeline:
			hints[c.Room] |= newEvents
		case notify.Receipt:
			hints[c.Room] |= newReceipts
		case notify.AccountData:
			if c.User == l.User {
				hints[c.Room] |= newData
			}
		case notify.Membership:
			n.moved = append(n.moved, *c)
		case notify.Device:
			if n.changers == nil {
				n.changers = map[id.UserID]struct{}{}
			}
			n.changers[c.User] = struct{}{}
		}
	}
	return n, nil
}

// typingSince returns the rooms in which typing changed. After a restart of the server the numbers of the
// client's token mean nothing: then it is told where somebody is typing now.
func (l *look) typingSince() (rooms []id.RoomID) {
	since := int64(0)
	if l.Since != nil && l.Since.Boot == l.Typing.Boot {
		since = l.Since.Typing
	}
	rooms, l.typingNow = l.Typing.Since(since)
	return rooms
}

// hintAll adds every room that an initial sync, or one with the full state, tells of.
func (l *look) hintAll(hints map[id.RoomID]hint) {
	all := newEvents
	if l.initial {
		all |= newReceipts | newData
		hints[""] |= newData
	}
	for _, m := range l.mine.All() {
		hints[m.Room] |= all
	}
}

// hintStored adds what storage knows to be new, because the hub no longer does.
func (l *look) hintStored(hints map[id.RoomID]hint) error {
	for _, m := range l.mine.All() {
		if m.Since > l.from {
			hints[m.Room] |= newEvents
		}
	}
	return l.DB.Read(l.ctx, func(tx *storage.Tx) error {
		rooms, err := tx.RoomsWithNews(l.User, l.from)
		for _, room := range rooms {
			hints[room] |= newEvents | newReceipts
		}
		if err != nil {
			return err
		}
		data, err := tx.AccountDataSince(l.User, l.from, l.to)
		for i := range data {
			hints[data[i].Room] |= newData
		}
		return err
	})
}

// consider adds a room to the places if the user's membership lets there be something to tell.
func (l *look) consider(roomID id.RoomID, h hint) error {
	if roomID == "" {
		l.data = map[id.RoomID][]storage.AccountData{}
		return nil
	}
	m, known := l.mine.Get(roomID)
	if !known || !l.Filter.Room.wants(roomID) {
		return nil
	}
	// A user's other devices are told of the leave, lest they show for ever a room that was forgotten at once.
	if m.Forgotten && (l.initial || m.Since <= l.from) {
		return nil
	}
	if m.Since <= l.to && !l.worth(m.Membership, m.Since) {
		return nil
	}
	room, err := l.Cache.Room(l.ctx, roomID)
	if err != nil {
		return err
	}
	p := &place{Room: room, hint: h}
	if err := l.stand(p, m); err != nil || p.section == untold {
		return err
	}
	l.places = append(l.places, p)
	return nil
}

// worth reports whether a room is told of, whose membership is since a position what it is.
func (l *look) worth(membership string, since storage.Pos) bool {
	switch membership {
	case "join":
		return true
	case "invite", "knock":
		return since > l.from
	}
	// "Left rooms are otherwise shown only with include_leave: true."
	if l.initial || l.FullState && since <= l.from {
		return l.Filter.Room.IncludeLeave
	}
	return since > l.from
}

// read reads from storage what is not in memory: account data and receipts, if there are new ones.
func (l *look) read() error {
	if l.data == nil && !slices.ContainsFunc(l.places, func(p *place) bool { return p.hint&(newData|newReceipts) != 0 || p.fresh }) {
		return nil
	}
	if l.data == nil {
		l.data = map[id.RoomID][]storage.AccountData{}
	}
	l.receipts = map[int64][]storage.Receipt{}
	return l.DB.Read(l.ctx, func(tx *storage.Tx) error {
		if err := l.readData(tx); err != nil {
			return err
		}
		return l.readReceipts(tx)
	})
}

// readData reads the account data that changed, and all of a room that is new to the client.
func (l *look) readData(tx *storage.Tx) error {
	list, err := tx.AccountDataSince(l.User, l.from, l.to)
	if err != nil {
		return err
	}
	for _, d := range list {
		l.data[d.Room] = append(l.data[d.Room], d)
	}
	for _, p := range l.places {
		if !p.fresh || l.initial {
			continue
		}
		if l.data[p.ID], err = tx.RoomAccountData(l.User, p.ID, l.to); err != nil {
			return err
		}
	}
	return nil
}

// readReceipts reads the receipts that came, and all of a room that is new to the client.
func (l *look) readReceipts(tx *storage.Tx) error {
	var fresh, known []int64
	for _, p := range l.places {
		switch {
		case p.section != joined:
		case p.fresh:
			fresh = append(fresh, p.Num)
		case p.hint&newReceipts != 0:
			known = append(known, p.Num)
		}
	}
	for _, part := range []struct {
		rooms []int64
		from  storage.Pos
	}{{fresh, 0}, {known, l.from}} {
		if len(part.rooms) == 0 {
			continue
		}
		list, err := tx.ReceiptsSince(part.rooms, part.from, l.to)
		if err != nil {
			return err
		}
		for _, r := range list {
			l.receipts[r.Room] = append(l.receipts[r.Room], r)
		}
	}
	return nil
}

// write writes the answer.
func (l *look) write() error {
	l.out.b = append(make([]byte, 0, l.likelySize()), '{')
	global := l.accountData("", func(d *storage.AccountData) bool {
		return l.Filter.AccountData.Passes(d.Type, "") && !(l.initial && string(d.Content) == deleted)
	})
	l.out.said = global
	if !global && l.initial {
		l.out.key("account_data").raw(`{"events":[]}`)
	}
	l.writePresence()
	if err := l.writeRooms(); err != nil {
		return err
	}
	l.writeMessages()
	l.writeDevices()
	l.out.key("next_batch").text(l.next().String())
	l.out.raw("}")
	return nil
}

// likelySize is about how many bytes the answer will have.
func (l *look) likelySize() int {
	const answer, update, room, person = 512, 1 << 10, 6 << 10, 192
	if l.initial || l.FullState {
		return answer + room*len(l.places) + person*len(l.present)
	}
	return answer + update*len(l.places) + person*len(l.present)
}

func (l *look) writeRooms() error {
	start := l.out.mark()
	l.out.key("rooms").raw("{")
	empty := l.out.mark()
	for _, sec := range []struct {
		section
		key   string
		write func(*place) error
	}{
		{joined, "join", l.writeJoined}, {invited, "invite", l.writeInvite}, {knocked, "knock", l.writeKnock}, {left, "leave", l.writeLeft},
	} {
		if err := l.writeSection(sec.section, sec.key, sec.write); err != nil {
			return err
		}
	}
	if l.out.mark() == empty {
		l.out.cut(start)
		return nil
	}
	l.out.said = true
	l.out.raw("}")
	return nil
}

// writeSection writes the rooms of a section, if write has something to say of any.
func (l *look) writeSection(s section, key string, write func(*place) error) error {
	start := l.out.mark()
	l.out.key(key).raw("{")
	empty := l.out.mark()
	for _, p := range l.places {
		if p.section != s {
			continue
		}
		before := l.out.mark()
		l.out.key(string(p.ID)).raw("{")
		inside := l.out.mark()
		if err := write(p); err != nil {
			return fmt.Errorf("room %s: %w", p.ID, err)
		}
		if l.out.mark() == inside {
			l.out.cut(before)
			continue
		}
		l.out.raw("}")
	}
	if l.out.mark() == empty {
		l.out.cut(start)
		return nil
	}
	l.out.raw("}")
	return nil
}

// accountData writes the account data of a room, "" for global, that passes; false when there is none.
func (l *look) accountData(room id.RoomID, passes func(*storage.AccountData) bool) bool {
	list := l.data[room]
	if len(list) == 0 {
		return false
	}
	start := l.out.mark()
	l.out.key("account_data").raw(`{"events":[`)
	empty := l.out.mark()
	for i := range list {
		if d := &list[i]; passes(d) {
			l.out.item().raw(`{"content":`).bytes(d.Content).key("type").text(d.Type).raw("}")
		}
	}
	if l.out.mark() == empty {
		l.out.cut(start)
		return false
	}
	l.out.raw("]}")
	return true
}

// page is JSON that is being written.
type page struct {
	b    []byte
	said bool // there is news in it
}

// key begins a member of an object.
func (p *page) key(name string) *page {
	p.item()
	p.b = append(canonjson.AppendString(p.b, name), ':')
	return p
}

// item begins an element of an array.
func (p *page) item() *page {
	if c := p.b[len(p.b)-1]; c != '{' && c != '[' {
		p.b = append(p.b, ',')
	}
	return p
}

func (p *page) raw(json string) *page { p.b = append(p.b, json...); return p }

func (p *page) bytes(json []byte) *page { p.b = append(p.b, json...); return p }

func (p *page) text(s string) *page { p.b = canonjson.AppendString(p.b, s); return p }

// mark is a place to which cut can go back.
func (p *page) mark() int { return len(p.b) }

func (p *page) cut(mark int) { p.b = p.b[:mark] }
