package rooms

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// The types of account data that a user keeps when a room is replaced.
const (
	tagData    = "m.tag"
	directData = "m.direct" // global: which rooms are chats with whom
)

// inherit lets a local user who comes into a room keep what they have set for the one that it replaces: its tags,
// and that it is a direct chat. It is part of the act by which the user joins.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-upgrades ("When a user joins the new room …")
func (s *Service) inherit(w *roomstate.Writer, user id.UserID) error {
	create := w.Event("m.room.create", "")
	if !s.local(user) || create == nil || membershipNow(w, user) == "join" {
		return w.Err()
	}
	old, replaced, err := s.predecessor(w, create)
	if err != nil || old == nil || !replaced && create.Sender != user {
		return err // otherwise anybody could pass a room off as a favourite of others
	}
	s.hand(w, user, old)
	return nil
}

// inheritElsewhere is inherit for a room in which this server is not yet, by its m.room.create. The aliases of this
// server and its directory go on to the room too, as they have on the server that replaced the old one.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-upgrades ("Moves any local aliases to the new room")
func (s *Service) inheritElsewhere(w *roomstate.Writer, create *event.Event, user id.UserID) error {
	old, replaced, err := s.predecessor(w, create)
	if err != nil || !replaced {
		return err
	}
	s.hand(w, user, old)
	w.Act().Also(func(tx *storage.Tx, _ storage.Pos) error { return s.moveNames(tx, old.Num, w.Num) })
	return nil
}

// hand gives a user's settings for an old room to the new one.
func (s *Service) hand(w *roomstate.Writer, user id.UserID, old *roomstate.Room) {
	var changed []id.RoomID // whose account data is; "" for global
	act := w.Act()
	act.Also(func(tx *storage.Tx, first storage.Pos) (err error) {
		changed, err = inheritData(tx, user, old.ID, w.ID, lastOf(act, first))
		return err
	})
	act.Then(func(first storage.Pos) {
		for _, room := range changed {
			s.Hub.Record(notify.Change{Pos: lastOf(act, first), Kind: notify.AccountData, Room: room, User: user})
		}
	})
}

// lastOf is the last position of an act.
func lastOf(act *storage.Act, first storage.Pos) storage.Pos {
	return first + storage.Pos(act.Positions) - 1
}

// predecessor returns the room that a room says it replaces, nil when there is none or this server does not know
// it, and whether the old room says the same.
func (s *Service) predecessor(w *roomstate.Writer, create *event.Event) (old *roomstate.Room, replaced bool, err error) {
	name, _ := textOf(canonjson.Get(create.Content(), "predecessor", "room_id"))
	room, err := id.ParseRoomID(name)
	if err != nil {
		return nil, false, nil
	}
	old, err = s.Cache.Room(w.Context(), room)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	tombstone, err := old.StateEvent(w.Context(), old.View().State, "m.room.tombstone", "")
	if err != nil || tombstone == nil {
		return old, false, err
	}
	successor, _ := textOf(canonjson.Get(tombstone.Content(), "replacement_room"))
	return old, successor == string(w.ID), nil
}

// inheritData copies a user's account data from one room to another, and returns the rooms whose account data
// has changed.
func inheritData(tx *storage.Tx, user id.UserID, from, to id.RoomID, pos storage.Pos) (changed []id.RoomID, err error) {
	tags, err := inheritedTags(tx, user, from, to)
	if err != nil {
		return nil, err
	}
	if tags != nil {
		changed = append(changed, to)
		if err := tx.PutAccountData(user, to, tagData, tags, pos); err != nil {
			return nil, err
		}
	}
	direct, err := inheritedDirect(tx, user, from, to)
	if err != nil || direct == nil {
		return changed, err
	}
	return append(changed, ""), tx.PutAccountData(user, "", directData, direct, pos)
}

// inheritedTags returns the tags of a room for another one that never had any, nil for none.
func inheritedTags(tx *storage.Tx, user id.UserID, from, to id.RoomID) ([]byte, error) {
	if own, err := accountData(tx, user, to, tagData); err != nil || own != nil {
		return nil, err
	}
	return accountData(tx, user, from, tagData)
}

// inheritedDirect returns m.direct with a room named wherever another one is, nil when that changes nothing.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mdirect
func inheritedDirect(tx *storage.Tx, user id.UserID, from, to id.RoomID) ([]byte, error) {
	content, err := accountData(tx, user, "", directData)
	if err != nil || content == nil {
		return nil, err
	}
	var chats map[string]json.RawMessage
	if json.Unmarshal(content, &chats) != nil {
		return nil, nil // what a client has put there in another form stays
	}
	changed := false
	for with, list := range chats {
		var rooms []id.RoomID
		if json.Unmarshal(list, &rooms) != nil || !slices.Contains(rooms, from) || slices.Contains(rooms, to) {
			continue
		}
		changed = true
		if chats[with], err = json.Marshal(append(rooms, to)); err != nil {
			return nil, err
		}
	}
	if !changed {
		return nil, nil
	}
	raw, err := json.Marshal(chats)
	if err != nil {
		return nil, err
	}
	return canonjson.Append(nil, raw)
}

// accountData returns account data, nil when it was never set.
func accountData(tx *storage.Tx, user id.UserID, room id.RoomID, typ string) ([]byte, error) {
	data, err := tx.AccountData(user, room, typ)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	return data, err
}
