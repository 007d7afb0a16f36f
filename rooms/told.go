package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
)

// Peers is what rooms tell other servers that need not arrive; a *federation.Sender is one.
type Peers interface {
	// SendEDU sends an EDU to servers. It may not wait. One with the same type and key that was not sent yet is replaced.
	SendEDU(servers []id.ServerName, eduType, key string, content json.RawMessage)
}

// tellTyping tells the servers in a room that a local user types there, or no longer does.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#typing-notifications
func (s *Service) tellTyping(ctx context.Context, room *roomstate.Room, user id.UserID, types bool) {
	if s.Peers == nil || !s.typists.news(room.ID, user, types) {
		return
	}
	s.tell(ctx, room, "m.typing", string(user), map[string]any{"room_id": room.ID, "user_id": user, "typing": types})
}

// TypingEnded tells the servers in a room that a local user no longer types there, without having said so.
func (s *Service) TypingEnded(ctx context.Context, room id.RoomID, user id.UserID) {
	if s.Peers == nil || !s.local(user) {
		return
	}
	if r, err := s.room(ctx, room); err == nil {
		s.tellTyping(ctx, r, user, false)
	}
}

// tellRead tells the servers in a room of a local user's public receipts.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#receipts
func (s *Service) tellRead(ctx context.Context, room *roomstate.Room, user id.UserID, atMS int64, marks []placedMark) {
	if s.Peers == nil {
		return
	}
	for _, m := range marks {
		// "Servers MUST NOT send receipts of type m.read.private to any other user than the one who originally sent it."
		if m.Kind != readReceipt {
			continue
		}
		data := map[string]any{"ts": atMS}
		if m.Thread != "" {
			data["thread_id"] = m.Thread
		}
		receipt := map[id.UserID]any{user: map[string]any{"event_ids": []id.EventID{m.Event}, "data": data}}
		s.tell(ctx, room, "m.receipt", string(user)+" "+m.Thread, map[id.RoomID]any{room.ID: map[string]any{readReceipt: receipt}})
	}
}

// tell sends an EDU of a room to the other servers in it; key tells what it replaces from others of the room.
func (s *Service) tell(ctx context.Context, room *roomstate.Room, eduType, key string, content any) {
	servers := s.listeners(ctx, room)
	if len(servers) == 0 {
		return
	}
	encoded, err := json.Marshal(content)
	if err != nil {
		return // of strings and numbers, it never fails
	}
	s.Peers.SendEDU(servers, eduType, string(room.ID)+" "+key, encoded)
}

// listeners are the other servers in a room whom its ACL does not deny: they would tell nobody what they hear.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-access-control-lists-acls-for-rooms
func (s *Service) listeners(ctx context.Context, room *roomstate.Room) []id.ServerName {
	acl, err := room.StateEvent(ctx, room.View().State, "m.room.server_acl", "")
	if err != nil {
		return nil // it need not arrive
	}
	servers := slices.DeleteFunc(room.Servers(), func(server id.ServerName) bool { return server == s.ServerName })
	if acl == nil || len(servers) == 0 {
		return servers
	}
	return s.verdicts.allowed(room.Num, acl.Event, servers)
}

// maxVerdicts is of how many rooms the verdicts of their ACLs are kept.
const maxVerdicts = 1000

// verdicts remembers whom the ACLs of rooms deny, so that each server is compared with each pattern once.
type verdicts struct {
	mu    sync.Mutex // guards rooms and what is in it
	rooms map[int64]*verdict
}

type verdict struct {
	acl     id.EventID
	allowed map[id.ServerName]bool
}

// allowed takes out of servers, which it may change, whom the ACL of a room denies.
func (v *verdicts) allowed(room int64, acl *event.Event, servers []id.ServerName) []id.ServerName {
	v.mu.Lock()
	defer v.mu.Unlock()
	known := v.rooms[room]
	if known == nil || known.acl != acl.ID {
		if v.rooms == nil || len(v.rooms) >= maxVerdicts {
			v.rooms = map[int64]*verdict{}
		}
		known = &verdict{acl.ID, map[id.ServerName]bool{}}
		v.rooms[room] = known
	}
	var rules *eventauth.ACL
	return slices.DeleteFunc(servers, func(server id.ServerName) bool {
		ok, judged := known.allowed[server]
		if !judged {
			if rules == nil {
				rules = eventauth.ReadACL(acl)
			}
			ok = rules.Allows(server)
			known.allowed[server] = ok
		}
		return !ok
	})
}

// Others are told again that somebody still types, before they would stop believing it.
const (
	tellTypingAgain = 20 * time.Second
	maxTypists      = 10_000 // remembered; beyond it the others are told more often
)

// typists remembers what other servers were told of who types.
type typists struct {
	mu   sync.Mutex // guards told
	told map[typist]time.Time
}

type typist struct {
	room id.RoomID
	user id.UserID
}

// news reports whether others have to be told.
func (t *typists) news(room id.RoomID, user id.UserID, types bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	who, now := typist{room, user}, time.Now()
	told, known := t.told[who]
	switch {
	case !types:
		delete(t.told, who)
		return known
	case known && now.Sub(told) < tellTypingAgain:
		return false
	case t.told == nil, len(t.told) >= maxTypists:
		t.told = map[typist]time.Time{}
	}
	t.told[who] = now
	return true
}
