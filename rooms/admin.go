package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Removal is the wish to close a room for this server's users.
type Removal struct {
	Room  id.RoomID
	By    id.UserID // who wishes it; "" is the host
	Block bool      // nobody of this server comes in again

	// NewRoomUser, if not empty, makes a room in which only they can speak; who was in the old one is in it at once, and
	// the old one's aliases lead there.
	NewRoomUser id.UserID
	NewRoomName string // empty: "Content Violation Notification"
	Message     string // is said in the new room; may be empty
}

// Removed is what became of a Removal.
type Removed struct {
	Left    []id.UserID    // who was in the room, or invited
	Failed  []id.UserID    // whom the room did not let go
	Aliases []id.RoomAlias // of this server, which do not lead to the room any more
	NewRoom id.RoomID      // "" for none
}

// RemoveRoom takes every user of this server out of a room, whose history none of them can read any more, and the room
// out of the directory. Nothing is undone when a part fails; a second call goes on. What is stored of the room stays.
// The error is mxerr.NotFound for a room that this server does not know, unless it is only to be blocked.
func (s *Service) RemoveRoom(ctx context.Context, rm Removal) (*Removed, error) {
	if err := s.checkNewRoomUser(ctx, rm.NewRoomUser); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // half of a removal is worse than a late answer
	if rm.Block {                    // first: nobody comes back meanwhile
		if err := s.block(ctx, rm); err != nil {
			return nil, err
		}
	}
	r, err := s.Cache.Room(ctx, rm.Room)
	if errors.Is(err, storage.ErrNotFound) && rm.Block {
		return &Removed{}, nil
	}
	if err != nil {
		return nil, unknownRoom(err)
	}
	out := &Removed{}
	if out.NewRoom, err = s.replacement(ctx, rm); err != nil {
		return nil, err
	}
	s.empty(ctx, r, out)
	if out.Aliases, err = s.unlist(ctx, r, out.NewRoom); err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Service) block(ctx context.Context, rm Removal) error {
	return s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		return tx.BlockRoom(rm.Room, rm.By, s.Now().UnixMilli())
	})
}

// UnblockRoom lets users of this server come into a room again; mxerr.NotFound for one that is not blocked.
func (s *Service) UnblockRoom(ctx context.Context, room id.RoomID) error {
	return s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		was, err := tx.UnblockRoom(room)
		if err == nil && !was {
			err = mxerr.NotFound.With("the room is not blocked")
		}
		return err
	})
}

// checkBlocked refuses to bring anybody into a room that is blocked.
func (s *Service) checkBlocked(ctx context.Context, room id.RoomID) error {
	return s.DB.Read(ctx, func(tx *storage.Tx) error {
		blocked, err := tx.RoomBlocked(room)
		if err == nil && blocked {
			err = mxerr.Forbidden.With("the administrators of this server have blocked this room")
		}
		return err
	})
}

// checkNewRoomUser refuses who cannot make a room here; "" is nobody.
func (s *Service) checkNewRoomUser(ctx context.Context, user id.UserID) error {
	if user == "" {
		return nil
	}
	if !s.local(user) {
		return mxerr.InvalidParam.With("%s is not a user of this server", user)
	}
	return s.checkKnown(ctx, user)
}

// replacement makes the room that takes in who was in the old one.
func (s *Service) replacement(ctx context.Context, rm Removal) (id.RoomID, error) {
	if rm.NewRoomUser == "" {
		return "", nil
	}
	name := cmp.Or(rm.NewRoomName, "Content Violation Notification")
	room, err := s.Create(ctx, rm.NewRoomUser, NewRoom{
		Preset: "public_chat", Name: name, PowerOverride: map[string]any{"users_default": -10},
	})
	if err != nil || rm.Message == "" {
		return room, err
	}
	content, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": rm.Message})
	if err != nil {
		return "", err
	}
	_, err = s.Send(ctx, Draft{Room: room, Sender: rm.NewRoomUser, Type: "m.room.message", Content: content})
	return room, err
}

// empty takes the users of this server out of a room, and lets them forget it.
func (s *Service) empty(ctx context.Context, r *roomstate.Room, out *Removed) {
	var members, others []roomstate.Member
	r.Members(func(m roomstate.Member) bool {
		switch {
		case !s.local(m.User):
		case m.Membership == "join":
			members = append(members, m)
		default:
			others = append(others, m)
		}
		return true
	})
	var mu sync.Mutex // guards out
	one := func(m roomstate.Member) {
		inside := m.Membership != "leave" && m.Membership != "ban"
		err := s.putOut(ctx, r, m, inside, out.NewRoom)
		if err != nil {
			s.Log.WarnContext(ctx, "take a user out of a room that is removed", "room", r.ID, "user", m.User, "error", err)
		}
		if !inside {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			out.Failed = append(out.Failed, m.User)
		} else {
			out.Left = append(out.Left, m.User)
		}
	}
	eachBeside(others, one)
	eachBeside(members, one) // as long as one is in it, the room is this server's
	slices.Sort(out.Left)
	slices.Sort(out.Failed)
}

// putOut takes one user out of a room, and if they were in it, into another one.
func (s *Service) putOut(ctx context.Context, r *roomstate.Room, m roomstate.Member, inside bool, to id.RoomID) error {
	if inside {
		leave := Change{Room: r.ID, Sender: m.User, Target: m.User, Membership: "leave", Anyway: true}
		if err := s.SetMembership(ctx, leave); err != nil {
			return fmt.Errorf("leave: %w", err)
		}
	}
	if err := s.Forget(ctx, r.ID, m.User); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	if to == "" || m.Membership != "join" {
		return nil
	}
	if err := s.SetMembership(ctx, Change{Room: to, Sender: m.User, Target: m.User, Membership: "join"}); err != nil {
		s.Log.WarnContext(ctx, "bring a user into the room that replaces a removed one", "room", to, "user", m.User, "error", err)
	}
	return nil
}

// unlist takes a room out of the directory; its aliases go, or lead to another room.
func (s *Service) unlist(ctx context.Context, r *roomstate.Room, to id.RoomID) (aliases []id.RoomAlias, err error) {
	if err := s.publish(ctx, r, false); err != nil {
		return nil, err
	}
	var target int64
	if to != "" {
		next, err := s.room(ctx, to)
		if err != nil {
			return nil, err
		}
		target = next.Num
	}
	err = s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		if aliases, err = tx.AliasesOf(r.Num); err != nil {
			return err
		}
		if to != "" {
			return tx.MoveAliases(r.Num, target)
		}
		return tx.DeleteAliasesOf(r.Num)
	})
	slices.Sort(aliases)
	return aliases, err
}

// removalBody says what becomes of a room. Other keys that servers know for this are passed over.
type removalBody struct {
	NewRoomUser id.UserID `json:"new_room_user_id"`
	NewRoomName string    `json:"room_name"`
	Message     string    `json:"message"`
	Block       bool      `json:"block"`
}

type removalAnswer struct {
	Left    []id.UserID    `json:"kicked_users"`
	Failed  []id.UserID    `json:"failed_to_kick_users"`
	Aliases []id.RoomAlias `json:"local_aliases"`
	NewRoom *id.RoomID     `json:"new_room_id"`
}

// deleteRoom implements DELETE /_synapse/admin/v1/rooms/{roomId}.
//
// What is stored of the room stays, whether its removal is asked for or not: nobody can read it any more.
//
// Not in the specification, which has https://spec.matrix.org/latest/client-server-api/#server-administration
func (s *Service) deleteRoom(ctx context.Context, c *httpapi.Call, in *removalBody) (*removalAnswer, error) {
	if _, err := id.ParseUserID(string(in.NewRoomUser)); in.NewRoomUser != "" && err != nil {
		return nil, mxerr.InvalidParam.With("new_room_user_id is not a user id")
	}
	done, err := s.RemoveRoom(ctx, Removal{
		Room: c.RoomID("roomId"), By: c.User, Block: in.Block,
		NewRoomUser: in.NewRoomUser, NewRoomName: in.NewRoomName, Message: in.Message,
	})
	if err != nil {
		return nil, err
	}
	out := &removalAnswer{Left: done.Left, Failed: done.Failed, Aliases: done.Aliases}
	if done.NewRoom != "" {
		out.NewRoom = &done.NewRoom
	}
	for _, list := range []*[]id.UserID{&out.Left, &out.Failed} {
		if *list == nil {
			*list = []id.UserID{}
		}
	}
	if out.Aliases == nil {
		out.Aliases = []id.RoomAlias{}
	}
	return out, nil
}
