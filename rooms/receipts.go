package rooms

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// The kinds of receipts.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#receipts
const (
	readReceipt    = "m.read"
	privateReceipt = "m.read.private" // told to its user only
	fullyRead      = "m.fully_read"   // a marker, kept as account data of the room
)

// mainThread is the thread of what is in no thread.
const mainThread = "main"

// receiptBody has thread_id as it came, to tell what is missing from what is no string.
type receiptBody struct {
	ThreadID json.RawMessage `json:"thread_id"`
}

// postReceipt implements POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
func (s *Service) postReceipt(ctx context.Context, c *httpapi.Call, in *receiptBody) (*httpapi.Empty, error) {
	mark := Mark{Kind: c.PathValue("receiptType"), Event: c.EventID("eventId")}
	if in.ThreadID != nil {
		thread, ok := textOf(in.ThreadID)
		if !ok || thread == "" {
			return nil, mxerr.InvalidParam.With("thread_id has to be a string that is not empty")
		}
		mark.Thread = thread
	}
	return &httpapi.Empty{}, s.markRead(ctx, c, mark)
}

type readMarkers struct {
	FullyRead *string `json:"m.fully_read"`
	Read      *string `json:"m.read"`
	Private   *string `json:"m.read.private"`
}

// setReadMarker implements POST /_matrix/client/v3/rooms/{roomId}/read_markers.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidread_markers
func (s *Service) setReadMarker(ctx context.Context, c *httpapi.Call, in *readMarkers) (*httpapi.Empty, error) {
	var marks []Mark
	for _, m := range []struct {
		kind  string
		event *string
	}{{fullyRead, in.FullyRead}, {readReceipt, in.Read}, {privateReceipt, in.Private}} {
		if m.event == nil {
			continue
		}
		eventID, err := id.ParseEventID(*m.event)
		if err != nil {
			return nil, mxerr.InvalidParam.With("%s is no event id", m.kind)
		}
		marks = append(marks, Mark{Kind: m.kind, Event: eventID})
	}
	return &httpapi.Empty{}, s.markRead(ctx, c, marks...)
}

// Mark says up to where somebody has read.
type Mark struct {
	Kind   string // m.read, m.read.private or m.fully_read
	Event  id.EventID
	Thread string // "main" or the id of a thread's root; empty: not of a thread
}

// placedMark is a Mark whose event was found.
type placedMark struct {
	Mark
	ord int64 // of the event
}

// markRead checks the marks of a caller who is in the room and stores them in one act. A mark that is behind
// the one it would replace changes nothing: a slow device must not take back what a faster one has read.
func (s *Service) markRead(ctx context.Context, c *httpapi.Call, marks ...Mark) error {
	rd, err := s.reader(ctx, c)
	if err != nil {
		return err
	}
	if rd.now.Membership != "join" {
		return notInRoom()
	}
	var placed []placedMark
	for _, m := range marks {
		p, err := rd.placeMark(ctx, m)
		if err != nil {
			return err
		}
		placed = append(placed, p)
	}
	if len(placed) == 0 {
		return nil
	}
	s.Presence.Active(c.User, c.Device)
	return s.storeMarks(ctx, rd, placed)
}

// placeMark checks a mark and finds its event.
func (rd *reader) placeMark(ctx context.Context, m Mark) (placedMark, error) {
	switch {
	case m.Kind != readReceipt && m.Kind != privateReceipt && m.Kind != fullyRead:
		return placedMark{}, mxerr.InvalidParam.With("there is no receipt type %q", m.Kind)
	case m.Kind == fullyRead && m.Thread != "":
		return placedMark{}, mxerr.InvalidParam.With("m.fully_read has no thread_id")
	}
	e, err := rd.event(ctx, m.Event)
	if err != nil {
		return placedMark{}, err
	}
	if m.Thread != "" {
		ok, err := rd.inThread(ctx, e, m.Thread)
		if err != nil {
			return placedMark{}, err
		}
		if !ok {
			return placedMark{}, mxerr.InvalidParam.With("the event is not in the thread of thread_id")
		}
	}
	return placedMark{m, e.Ord}, nil
}

// maxHops is how many relations are followed to find an event's thread: "a maximum of 3 hops is recommended".
const maxHops = 3

// inThread reports whether a receipt of a thread may name an event: one in the thread or, of a thread that
// has a root, the root and what is related to it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#threaded-read-receipts
func (rd *reader) inThread(ctx context.Context, e *roomstate.Event, thread string) (bool, error) {
	for range maxHops {
		if string(e.ID) == thread {
			return true, nil
		}
		relType, parent := e.Relation()
		if relType == "m.thread" {
			return string(parent) == thread, nil
		}
		if relType == "" {
			break
		}
		next, err := rd.Room.EventByID(ctx, parent)
		if errors.Is(err, storage.ErrNotFound) {
			break
		}
		if err != nil {
			return false, err
		}
		e = next
	}
	return thread == mainThread || string(e.ID) == thread, nil
}

// storeMarks stores marks and wakes those who are told of them.
func (s *Service) storeMarks(ctx context.Context, rd *reader, marks []placedMark) error {
	a := &storage.Act{Positions: 1}
	room, user, atMS := rd.Room, rd.User, s.Now().UnixMilli()
	var kinds []notify.Kind
	for _, m := range marks {
		if m.Kind == fullyRead {
			kinds = append(kinds, notify.AccountData)
			a.Do = func(tx *storage.Tx, pos storage.Pos) error { return putFullyRead(tx, room.ID, user, m, pos) }
		} else {
			kinds = append(kinds, notify.Receipt)
		}
	}
	a.Place = func(a *storage.Act, pos storage.Pos) {
		for _, m := range marks {
			if m.Kind != fullyRead {
				a.Add(storage.UpsertReceipt, room.Num, string(user), m.Kind, m.Thread, string(m.Event), m.ord, atMS, pos)
			}
		}
	}
	a.Committed = func(pos storage.Pos) {
		for _, kind := range kinds {
			s.Hub.Record(notify.Change{Pos: pos, Kind: kind, Room: room.ID, User: user})
		}
	}
	a.Announced = func(storage.Pos) { s.wakeReaders(room, user, marks) }
	s.DB.Queue(a)
	if err := a.Wait(ctx); err != nil {
		return err
	}
	s.tellRead(ctx, room, user, atMS, marks) // not in Announced: whom the room's ACL denies is read from storage at worst
	return nil
}

// wakeReaders wakes the room for a public receipt, and otherwise only the user.
func (s *Service) wakeReaders(room *roomstate.Room, user id.UserID, marks []placedMark) {
	for _, m := range marks {
		if m.Kind == readReceipt {
			s.Hub.Wake(roomstate.Joined{Room: room})
			return
		}
	}
	s.Hub.Wake(nil, user)
}

// putFullyRead moves the fully read marker of a user forwards.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#fully-read-markers
func putFullyRead(tx *storage.Tx, room id.RoomID, user id.UserID, m placedMark, pos storage.Pos) error {
	now, err := fullyReadPlace(tx, room, user)
	if err != nil || now >= m.ord {
		return err
	}
	content, err := json.Marshal(map[string]id.EventID{"event_id": m.Event})
	if err != nil {
		return err
	}
	return tx.PutAccountData(user, room, fullyRead, content, pos)
}

// fullyReadPlace returns the place of the event that the marker is at, firstPlace when there is none.
func fullyReadPlace(tx *storage.Tx, room id.RoomID, user id.UserID) (int64, error) {
	data, err := tx.AccountData(user, room, fullyRead)
	if errors.Is(err, storage.ErrNotFound) {
		return firstPlace, nil
	}
	if err != nil {
		return 0, err
	}
	text, _ := textOf(canonjson.Get(data, "event_id"))
	e, err := tx.EventByID(id.EventID(text))
	if errors.Is(err, storage.ErrNotFound) {
		return firstPlace, nil
	}
	return e.Ord, err
}
