package rooms

import (
	"context"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
)

// Summary is what somebody outside is told of a room in directories and spaces. What a room has not is empty.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1room_summaryroomidoralias
type Summary struct {
	RoomID           id.RoomID    `json:"room_id"`
	RoomType         string       `json:"room_type,omitempty"`
	RoomVersion      string       `json:"room_version,omitempty"`
	Name             string       `json:"name,omitempty"`
	Topic            string       `json:"topic,omitempty"`
	AvatarURL        string       `json:"avatar_url,omitempty"`
	CanonicalAlias   id.RoomAlias `json:"canonical_alias,omitempty"`
	JoinRule         string       `json:"join_rule,omitempty"`
	AllowedRoomIDs   []id.RoomID  `json:"allowed_room_ids,omitempty"`
	Encryption       string       `json:"encryption,omitempty"`
	NumJoinedMembers int64        `json:"num_joined_members"`
	WorldReadable    bool         `json:"world_readable"`
	GuestCanJoin     bool         `json:"guest_can_join"`
}

// outline is the state of a room that decides who may know it and what they are told.
type outline struct {
	Summary
	federated bool
	root      roomstate.Root
}

// outline reads the current state of a room. State of a wrong form counts as missing.
func (s *Service) outline(ctx context.Context, r *roomstate.Room) (*outline, error) {
	o := &outline{root: r.View().State}
	joined, _ := r.Counts()
	o.RoomID, o.RoomVersion, o.NumJoinedMembers = r.ID, r.Rules.Version, int64(joined)
	var fault error
	get := func(eventType string) *roomstate.Event {
		e, err := r.StateEvent(ctx, o.root, eventType, "")
		if err != nil && fault == nil {
			fault = err
		}
		return e
	}
	create := get("m.room.create")
	o.federated = federates(eventOf(create))
	o.RoomType = text(create, "type")
	o.Name, o.Topic = text(get("m.room.name"), "name"), text(get("m.room.topic"), "topic")
	o.AvatarURL, o.Encryption = text(get("m.room.avatar"), "url"), text(get("m.room.encryption"), "algorithm")
	if alias, err := id.ParseRoomAlias(text(get("m.room.canonical_alias"), "alias")); err == nil {
		o.CanonicalAlias = alias
	}
	o.admits(get("m.room.join_rules"))
	o.GuestCanJoin = text(get("m.room.guest_access"), "guest_access") == "can_join"
	o.WorldReadable = eventauth.VisibilityOf(eventOf(get("m.room.history_visibility"))) == eventauth.WorldReadable
	return o, fault
}

// admits reads who may join.
func (o *outline) admits(rules *roomstate.Event) {
	o.JoinRule = "invite"
	if rule := text(rules, "join_rule"); rule != "" {
		o.JoinRule = rule
	}
	if rules != nil && restricted(rules.Event) {
		o.AllowedRoomIDs = allowedRooms(rules.Event)
	}
}

// field is a field of an event's content; e may be nil.
func field(e *roomstate.Event, path string) gjson.Result {
	if e == nil {
		return gjson.Result{}
	}
	return gjson.GetBytes(e.Content(), path)
}

// text is a field that is a string, "" for any other.
func text(e *roomstate.Event, path string) string {
	if f := field(e, path); f.Type == gjson.String {
		return f.Str
	}
	return ""
}
