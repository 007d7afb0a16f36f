package rooms

import (
	"context"
	"encoding/base64"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// Identify returns which room an event belongs to that another server has sent, and its id, before anything of it is
// checked. An id may come with an error, which is an mxerr.Error if the event is at fault: mxerr.NotFound when the room
// is not here, whose version can then only be guessed.
func (s *Service) Identify(ctx context.Context, pdu json.RawMessage) (id.RoomID, id.EventID, error) {
	canonical, err := canonjson.Append(nil, pdu)
	if err != nil {
		return "", "", mxerr.BadJSON.With("the event is no JSON that all servers read alike")
	}
	roomID, err := roomNamed(canonical)
	if err != nil {
		return "", "", err
	}
	room, err := s.room(ctx, roomID)
	if err != nil {
		return roomID, eventNamed(likelyRules(canonical), canonical), err
	}
	return roomID, eventNamed(room.Rules, canonical), nil
}

// roomNamed is the room that an event names, or that it creates.
func roomNamed(canonical []byte) (id.RoomID, error) {
	named := canonjson.Get(canonical, "room_id")
	if eventType, _ := canonjson.String(canonjson.Get(canonical, "type")); named == nil && eventType == "m.room.create" {
		if eventID := eventNamed(likelyRules(canonical), canonical); eventID != "" {
			return id.RoomID("!" + eventID[1:]), nil
		}
	}
	text, _ := canonjson.String(named)
	roomID, err := id.ParseRoomID(text)
	if err != nil {
		return "", mxerr.BadJSON.With("the event has no room_id")
	}
	return roomID, nil
}

// likelyRules are those of the version that a create event gives its room, and otherwise of the newest one: from version
// 4 on, ids of ordinary events come about alike.
func likelyRules(canonical []byte) *roomversion.Rules {
	version, _ := canonjson.String(canonjson.Get(canonical, "content", "room_version"))
	if rules, ok := roomversion.Get(version); ok {
		return rules
	}
	rules, _ := roomversion.Get(roomversion.Default)
	return rules
}

// eventNamed is the id that the event has by the rules, "" if it has none.
func eventNamed(rules *roomversion.Rules, canonical []byte) id.EventID {
	if text, _ := canonjson.String(canonjson.Get(canonical, "event_id")); rules.EventIDs == roomversion.EventIDInEvent {
		eventID, _ := id.ParseEventID(text) // "" on an error
		return eventID
	}
	hash, err := event.ReferenceHash(rules, canonical)
	if err != nil {
		return ""
	}
	encoding := base64.RawURLEncoding
	if rules.EventIDs == roomversion.EventIDBase64 {
		encoding = base64.RawStdEncoding
	}
	return id.EventID("$" + encoding.EncodeToString(hash))
}
