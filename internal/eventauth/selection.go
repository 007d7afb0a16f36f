package eventauth

import (
	"slices"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// Key is a place in the state of a room.
type Key struct{ Type, StateKey string }

// Needed lists the places in the room's state whose events, as far as they exist, are the
// auth_events of d. There are seven at most and none twice.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#auth-events-selection
func Needed(d event.Draft) []Key {
	var content []byte
	if d.Type == "m.room.member" {
		content, _ = canonjson.Append(nil, d.Content) // what is not JSON will not become an event
	}
	return selection(d.Rules, d.Sender, d.Type, d.StateKey, content)
}

// NeededBy is Needed for an event that exists: what Check may ask its State for, but for the create
// event in version 12.
func NeededBy(e *event.Event) []Key {
	return selection(e.Rules, e.Sender, e.Type, e.StateKey, e.Content())
}

// selection takes the content as canonical JSON.
func selection(rules *roomversion.Rules, sender id.UserID, eventType string, stateKey *string, content []byte) []Key {
	if eventType == "m.room.create" {
		return nil
	}
	keys := make([]Key, 0, 7)
	// "Depending on the room version, the `m.room.create` event."
	if !rules.RoomIDIsCreateHash {
		keys = append(keys, Key{"m.room.create", ""})
	}
	// "The current `m.room.power_levels` event, if any. The sender's current `m.room.member` event,
	// if any."
	keys = append(keys, Key{"m.room.power_levels", ""}, Key{"m.room.member", string(sender)})
	if eventType == "m.room.member" && stateKey != nil {
		keys = appendMemberKeys(keys, rules, *stateKey, readMember(content))
	}
	return keys
}

// appendMemberKeys adds what only m.room.member needs.
func appendMemberKeys(keys []Key, rules *roomversion.Rules, target string, m memberContent) []Key {
	// "The target's current `m.room.member` event, if any."
	keys = appendNew(keys, Key{"m.room.member", target})
	// "If `membership` is `join`, `invite` or `knock`, the current `m.room.join_rules` event, if any."
	if m.membership == "join" || m.membership == "invite" || m.membership == "knock" {
		keys = append(keys, Key{"m.room.join_rules", ""})
	}
	// "If membership is `invite` and `content` contains a `third_party_invite` property, the current
	// `m.room.third_party_invite` event with `state_key` matching
	// `content.third_party_invite.signed.token`, if any."
	if token, ok := m.token(); ok && m.membership == "invite" {
		keys = append(keys, Key{"m.room.third_party_invite", token})
	}
	// "If `membership` is `join`, `content.join_authorised_via_users_server` is present, and the room
	// version supports restricted rooms, then the `m.room.member` event with `state_key` matching
	// `content.join_authorised_via_users_server`."
	if user, ok := canonjson.String(m.authorisedBy); ok && m.membership == "join" && rules.Restricted {
		keys = appendNew(keys, Key{"m.room.member", user})
	}
	return keys
}

func appendNew(keys []Key, k Key) []Key {
	if slices.Contains(keys, k) {
		return keys
	}
	return append(keys, k)
}

// CheckAuthEvents applies the rules about an event's auth_events themselves to e; authEvents are all
// the events that e lists. The error is nil or a *Rejection.
//
// That none of them was rejected is for the caller to know; RejectedAuthEvent is the verdict if one was.
func CheckAuthEvents(e *event.Event, authEvents []*event.Event) error {
	if e.Type == "m.room.create" {
		return nil // rule 1 allows it before the rules about auth events are reached
	}
	c := check{e: e, rules: e.Rules}
	needed := NeededBy(e)
	seen := make([]Key, 0, len(needed))
	for _, a := range authEvents {
		k, isState := keyOf(a)
		// v11 2.1: If there are duplicate entries for a given `type` and `state_key` pair, reject.
		if isState && slices.Contains(seen, k) {
			return c.reject(authDuplicate, "two auth events have the same type and state key")
		}
		// v11 2.2: If there are entries whose `type` and `state_key` don't match those specified by the
		// auth events selection algorithm described in the server specification, reject.
		if !isState || !slices.Contains(needed, k) {
			return c.reject(authSelection, "an auth event does not belong there")
		}
		seen = append(seen, k)
	}
	return c.authRoomRules(seen, authEvents)
}

func (c *check) authRoomRules(seen []Key, authEvents []*event.Event) error {
	// v11 2.4: If there is no `m.room.create` event among the entries, reject.
	if !c.rules.RoomIDIsCreateHash && !slices.Contains(seen, Key{"m.room.create", ""}) {
		return c.reject(authNoCreate, "m.room.create is not among the auth events")
	}
	// v11 2.5: If any event in `auth_events` has a `room_id` which does not match that of the event
	// being authorised, reject.
	for _, a := range authEvents {
		if a.Room != c.e.Room {
			return c.reject(authRoom, "an auth event is of another room")
		}
	}
	return nil
}

func keyOf(e *event.Event) (Key, bool) {
	if e.StateKey == nil {
		return Key{}, false
	}
	return Key{e.Type, *e.StateKey}, true
}

// RejectedAuthEvent is the verdict on e when one of its auth_events was rejected.
func RejectedAuthEvent(e *event.Event) *Rejection {
	// v11 2.3: If there are entries which were themselves rejected under the checks performed on
	// receipt of a PDU, reject.
	return &Rejection{Rule: number(e.Rules, authRejected), Reason: "an auth event was rejected"}
}
