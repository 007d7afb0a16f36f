package eventauth

import (
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// createRules is rule 1.
func (c *check) createRules() error {
	content := c.e.Content()
	// v11 1.1: If it has any `prev_events`, reject.
	if len(c.e.PrevEvents) > 0 {
		return c.reject(createPrevEvents, "m.room.create must be the first event")
	}
	if !c.createHasRightRoomID() {
		return c.reject(createRoomID, "the room id of m.room.create is wrong")
	}
	// v11 1.3: If `content.room_version` is present and is not a recognised version, reject.
	if v := canonjson.Get(content, "room_version"); v != nil && !isVersion(v, c.rules) {
		return c.reject(createVersion, "the room version is not known")
	}
	// v1 1.4: If `content` has no `creator` property, reject.
	if c.rules.CreatorInContent && canonjson.Get(content, "creator") == nil {
		return c.reject(createCreator, "m.room.create names no creator")
	}
	// v12 1.4: If `additional_creators` is present in `content` and is not an array of strings where
	// each string passes the same user ID validation applied to `sender`, reject.
	if v := canonjson.Get(content, "additional_creators"); c.rules.PrivilegedCreators && v != nil && !areUserIDs(v) {
		return c.reject(createAdditional, "additional_creators is not a list of user ids")
	}
	return nil
}

// v11 1.2: If the domain of the `room_id` does not match the domain of the `sender`, reject.
// v12 1.2: If the event has a `room_id`, reject.
func (c *check) createHasRightRoomID() bool {
	if c.rules.RoomIDIsCreateHash {
		return canonjson.Get(c.e.JSON, "room_id") == nil
	}
	return c.e.Room.Server() == c.e.Sender.Server()
}

// isVersion is stricter than the rule by one case that can only be a mistake of the caller or a lie
// of a server we join through: a known version, but not the one whose rules are applied.
func isVersion(v []byte, rules *roomversion.Rules) bool {
	version, ok := canonjson.String(v)
	return ok && version == rules.Version
}

func areUserIDs(list []byte) bool {
	for users := canonjson.OpenArray(list); ; {
		v, ok := users.Next()
		if !ok {
			return users.Whole()
		}
		if _, ok := userID(v); !ok {
			return false
		}
	}
}

// userID reads a JSON string that is a user id.
func userID(v []byte) (id.UserID, bool) {
	s, ok := canonjson.String(v)
	if !ok {
		return "", false
	}
	user, err := id.ParseUserID(s)
	return user, err == nil
}

// creator is who made the room: whose first join needs no invite, and who has level 100 in a room
// without m.room.power_levels.
func creator(create *event.Event) id.UserID {
	if !create.Rules.CreatorInContent {
		return create.Sender
	}
	name, _ := canonjson.String(canonjson.Get(create.Content(), "creator"))
	return id.UserID(name)
}

// creators are the users above every power level in version 12.
//
// Spec: https://spec.matrix.org/latest/rooms/v12/#authorisation-rules
func creators(create *event.Event) []id.UserID {
	all := []id.UserID{create.Sender}
	for more := canonjson.OpenArray(canonjson.Get(create.Content(), "additional_creators")); ; {
		v, ok := more.Next()
		if !ok {
			return all
		}
		if user, ok := userID(v); ok {
			all = append(all, user)
		}
	}
}
