package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// What is believed of other servers' EDUs.
const (
	remoteTyping     = time.Minute // how long somebody types whose server says nothing more
	maxReceipts      = 1000        // of one EDU; the rest is ignored
	maxReceiptEvents = 10          // of one receipt
)

// ReceiveTyping takes the content, in canonical JSON, of an m.typing EDU that another server has sent. Only its own users
// can type, in rooms that they are in, and if the room does not keep it out; the error says why this one does not. Who
// never stops typing does so after a minute.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#typing-notifications
func (s *Service) ReceiveTyping(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	roomID, _ := canonjson.String(canonjson.Get(content, "room_id"))
	userID, _ := canonjson.String(canonjson.Get(content, "user_id"))
	types := string(canonjson.Get(content, "typing"))
	if types != "true" && types != "false" {
		return mxerr.BadJSON.With("typing is neither true nor false")
	}
	room, err := s.sharedRoom(ctx, origin, roomID)
	if err != nil {
		return err
	}
	user, err := memberOf(room, origin, userID)
	if err != nil {
		return err
	}
	if types == "true" {
		s.Typing.Set(room.ID, user, remoteTyping)
	} else {
		s.Typing.Set(room.ID, user, 0)
	}
	return nil
}

// sharedRoom is a room of which a server that is in it may tell something.
func (s *Service) sharedRoom(ctx context.Context, origin id.ServerName, roomID string) (*roomstate.Room, error) {
	parsed, err := id.ParseRoomID(roomID)
	if err != nil {
		return nil, mxerr.BadJSON.With("the room id is not valid")
	}
	room, err := s.room(ctx, parsed)
	if err != nil {
		return nil, err
	}
	if !room.HasServer(origin) || !room.HasServer(s.ServerName) {
		return nil, mxerr.Forbidden.With("one of the two servers is not in the room")
	}
	return room, s.checkACL(ctx, room, origin)
}

// memberOf is a user of a server who is in the room.
func memberOf(room *roomstate.Room, origin id.ServerName, userID string) (id.UserID, error) {
	user, err := id.ParseUserID(userID)
	if err != nil || user.Server() != origin {
		return "", mxerr.Forbidden.With("the user is not one of the server that speaks of them")
	}
	if m, ok := room.Member(user); !ok || m.Membership != "join" {
		return "", notInRoom()
	}
	return user, nil
}

// ReceiveReceipts takes the content, in canonical JSON, of an m.receipt EDU that another server has sent: receipts of its
// own users, in rooms that they are in, for events of those rooms. Others are ignored, and so is everything beyond the
// thousandth; the errors are joined.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#receipts
func (s *Service) ReceiveReceipts(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var errs []error
	left := maxReceipts
	for rooms := canonjson.Open(content); left > 0; {
		key, kinds, ok := rooms.Next()
		if !ok {
			break
		}
		receipts := canonjson.Get(kinds, readReceipt)
		errs = append(errs, s.receiptsIn(ctx, origin, keyText(key), receipts, &left))
	}
	return errors.Join(errs...)
}

// keyText is a key as it reads.
func keyText(key []byte) string {
	s, _ := canonjson.String(append(append([]byte{'"'}, key...), '"'))
	return s
}

// receiptsIn takes the receipts of one room, at most left.
func (s *Service) receiptsIn(ctx context.Context, origin id.ServerName, roomID string, receipts []byte, left *int) error {
	*left--
	room, err := s.sharedRoom(ctx, origin, roomID)
	if err != nil {
		return err
	}
	var errs []error
	var good []receipt
	for users := canonjson.Open(receipts); *left > 0; *left-- {
		key, value, ok := users.Next()
		if !ok {
			break
		}
		r, err := readReceiptOf(ctx, room, origin, keyText(key), value)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		good = append(good, r)
	}
	return errors.Join(append(errs, s.storeReceipts(ctx, room, good))...)
}

// receipt is a receipt of another server's user.
type receipt struct {
	placedMark
	user id.UserID
	atMS int64
}

// readReceiptOf checks one receipt.
func readReceiptOf(ctx context.Context, room *roomstate.Room, origin id.ServerName, userID string, value []byte) (r receipt, err error) {
	if r.user, err = memberOf(room, origin, userID); err != nil {
		return r, err
	}
	var ok bool
	if r.atMS, ok = canonjson.Int(canonjson.Get(value, "data", "ts")); !ok || r.atMS < 0 || r.atMS > canonjson.MaxInteger {
		return r, mxerr.BadJSON.With("a receipt has no ts")
	}
	if thread := canonjson.Get(value, "data", "thread_id"); thread != nil {
		if r.Thread, ok = canonjson.String(thread); !ok || !isThread(r.Thread) {
			return r, mxerr.BadJSON.With("thread_id has to be main or an event id")
		}
	}
	r.Kind = readReceipt
	return r, r.place(ctx, room, canonjson.Get(value, "event_ids"))
}

func isThread(name string) bool {
	_, err := id.ParseEventID(name)
	return err == nil || name == mainThread
}

// place finds the newest of the events that a receipt names.
func (r *receipt) place(ctx context.Context, room *roomstate.Room, eventIDs []byte) error {
	found := false
	list := canonjson.OpenArray(eventIDs)
	for range maxReceiptEvents {
		value, ok := list.Next()
		if !ok {
			break
		}
		name, _ := canonjson.String(value)
		e, err := room.EventByID(ctx, id.EventID(name))
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if !found || e.Ord > r.ord {
			found, r.Event, r.ord = true, e.ID, e.Ord
		}
	}
	if !found {
		return mxerr.NotFound.With("the room has no such event")
	}
	return nil
}

// storeReceipts stores receipts and wakes the room.
func (s *Service) storeReceipts(ctx context.Context, room *roomstate.Room, receipts []receipt) error {
	if len(receipts) == 0 {
		return nil
	}
	a := &storage.Act{Positions: 1}
	a.Place = func(a *storage.Act, pos storage.Pos) {
		for _, r := range receipts {
			a.Add(storage.UpsertReceipt, room.Num, string(r.user), r.Kind, r.Thread, string(r.Event), r.ord, r.atMS, pos)
		}
	}
	a.Committed = func(pos storage.Pos) {
		for _, r := range receipts {
			s.Hub.Record(notify.Change{Pos: pos, Kind: notify.Receipt, Room: room.ID, User: r.user})
		}
	}
	a.Announced = func(storage.Pos) { s.Hub.Wake(roomstate.Joined{Room: room}) }
	s.DB.Queue(a)
	return a.Wait(ctx)
}
