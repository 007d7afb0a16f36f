package rooms

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// hierarchyQuestion is what another server is asked of a room. What one says is no answer of another: users choose whom to
// ask, but not for each other.
type hierarchyQuestion struct {
	server        id.ServerName
	room          id.RoomID
	suggestedOnly bool
}

// hierarchyOf asks servers, one after the other, for a room in which this one is not; nil when none of them tells of it. An
// answer is remembered for five minutes, a refusal is not: what this server may know can change by whom it meets.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#spaces (server behaviour)
func (s *Service) hierarchyOf(ctx context.Context, room id.RoomID, servers []id.ServerName, suggestedOnly bool) *answers {
	servers = servers[:min(len(servers), maxChildVia)]
	for _, server := range servers {
		if known, ok := s.hierarchies.get(hierarchyQuestion{server, room, suggestedOnly}, s.Now()); ok {
			return known
		}
	}
	if s.Remote == nil {
		return nil
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return nil
	}
	for _, server := range servers {
		h, err := s.Remote.Hierarchy(ctx, server, room, suggestedOnly)
		if err != nil {
			s.Log.DebugContext(ctx, "ask for a room", "room", room, "server", server, "error", err)
			continue
		}
		said := readHierarchy(h, suggestedOnly)
		s.hierarchies.put(hierarchyQuestion{server, room, suggestedOnly}, said, said.weight, s.Now())
		return said
	}
	return nil
}

// toldWithInvite is what a user knows of a room by an invite or a knock, when this server is not in it; nil if nothing.
func (s *Service) toldWithInvite(ctx context.Context, user id.UserID, room id.RoomID) (*Summary, error) {
	membership, err := s.membershipOf(ctx, user, room)
	if err != nil || membership != "invite" && membership != "knock" {
		return nil, err
	}
	r, err := s.room(ctx, room)
	if err != nil {
		return nil, err
	}
	var state []byte
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		state, err = tx.Stripped(r.Num, user)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	told := summaryOf(state)
	told.RoomID, told.RoomVersion = room, r.Rules.Version
	return told, nil
}

// summaryOf reads stripped state, a JSON list.
func summaryOf(state []byte) *Summary {
	told := &Summary{JoinRule: "invite"}
	into := map[string]*string{
		"m.room.name": &told.Name, "m.room.topic": &told.Topic, "m.room.avatar": &told.AvatarURL, "m.room.create": &told.RoomType,
		"m.room.canonical_alias": (*string)(&told.CanonicalAlias), "m.room.join_rules": &told.JoinRule, "m.room.encryption": &told.Encryption,
	}
	fields := map[string]string{
		"m.room.name": "name", "m.room.topic": "topic", "m.room.avatar": "url", "m.room.create": "type",
		"m.room.canonical_alias": "alias", "m.room.join_rules": "join_rule", "m.room.encryption": "algorithm",
	}
	var events []json.RawMessage
	if json.Unmarshal(state, &events) != nil {
		return told
	}
	for _, e := range events {
		kind := gjson.GetBytes(e, "type").String()
		value := gjson.GetBytes(e, "content."+fields[kind])
		if into[kind] != nil && gjson.GetBytes(e, "state_key").String() == "" && value.Type == gjson.String && value.Str != "" {
			*into[kind] = value.Str
		}
	}
	told.tidy()
	return told
}
