package rooms

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
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
	o.Name, o.Topic = text(get("m.room.name"), "name"), plainTopic(get("m.room.topic"))
	o.AvatarURL, o.Encryption = text(get("m.room.avatar"), "url"), text(get("m.room.encryption"), "algorithm")
	o.CanonicalAlias = id.RoomAlias(text(get("m.room.canonical_alias"), "alias"))
	o.tidy()
	o.admits(get("m.room.join_rules"))
	o.GuestCanJoin = text(get("m.room.guest_access"), "guest_access") == "can_join"
	o.WorldReadable = eventauth.VisibilityOf(eventOf(get("m.room.history_visibility"))) == eventauth.WorldReadable
	return o, fault
}

// plainTopic is the topic as plain text: the representation that is, or else the topic of old.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroomtopic
func plainTopic(topic *roomstate.Event) string {
	for _, way := range field(topic, `m\.topic.m\.text`).Array() {
		if kind := way.Get("mimetype"); !kind.Exists() || kind.String() == "text/plain" {
			if body := way.Get("body"); body.Type == gjson.String {
				return body.Str
			}
		}
	}
	return text(topic, "topic")
}

// tidy takes out what is not of the form that clients are promised.
func (s *Summary) tidy() {
	if _, err := id.ParseRoomAlias(string(s.CanonicalAlias)); err != nil {
		s.CanonicalAlias = ""
	}
	if !strings.HasPrefix(s.AvatarURL, "mxc://") {
		s.AvatarURL = ""
	}
	s.AllowedRoomIDs = slices.DeleteFunc(s.AllowedRoomIDs, func(room id.RoomID) bool {
		_, err := id.ParseRoomID(string(room))
		return err != nil
	})
	s.NumJoinedMembers = max(0, s.NumJoinedMembers)
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

// summaryFor is a Summary for one user, or for somebody who is not logged in.
type summaryFor struct {
	Summary
	Membership string `json:"membership,omitempty"`

	// As clients that use the unstable prefix know them.
	OldVersion    string `json:"im.nheko.summary.version,omitempty"`
	OldEncryption string `json:"im.nheko.summary.encryption,omitempty"`
}

// getRoomSummary implements GET /_matrix/client/v1/room_summary/{roomIdOrAlias}.
//
// Who is not logged in is told of rooms that anybody may join, knock at or read, and has no other server asked.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1room_summaryroomidoralias
func (s *Service) getRoomSummary(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*summaryFor, error) {
	if alias, err := id.ParseRoomAlias(c.PathValue("roomIdOrAlias")); err == nil && c.User == "" && alias.Server() != s.ServerName {
		return nil, noSummary()
	}
	room, via, err := s.roomOrAlias(ctx, c)
	if err != nil {
		return nil, err
	}
	told, err := s.summary(ctx, c.User, room, via)
	if err != nil {
		return nil, err
	}
	out := &summaryFor{Summary: *told}
	if strings.Contains(c.Request.URL.Path, "/unstable/") {
		out.OldVersion, out.OldEncryption = told.RoomVersion, told.Encryption
	}
	if c.User != "" {
		out.Membership, err = s.membershipOf(ctx, c.User, room)
	}
	return out, err
}

func noSummary() error { return mxerr.NotFound.With("there is no such room, or you may not see it") }

// summary returns what a user may know of a room, "" for somebody who is not logged in, or mxerr.NotFound.
func (s *Service) summary(ctx context.Context, user id.UserID, room id.RoomID, via []id.ServerName) (*Summary, error) {
	told, err := s.summaryHere(ctx, room)
	if err == nil && told == nil {
		told, err = s.summaryElsewhere(ctx, user, room, via)
	}
	if err != nil {
		return nil, err
	}
	if told == nil {
		return nil, noSummary()
	}
	may, err := s.mayKnow(ctx, user, told)
	if err == nil && !may {
		err = noSummary()
	}
	return told, err
}

// summaryHere is that of a room in which this server is, nil for others.
func (s *Service) summaryHere(ctx context.Context, room id.RoomID) (*Summary, error) {
	r, err := s.roomHere(ctx, room)
	if err != nil || r == nil {
		return nil, err
	}
	o, err := s.outline(ctx, r)
	if err != nil {
		return nil, err
	}
	return &o.Summary, nil
}

// summaryPatience is how long other servers are asked for the summary of a room.
const summaryPatience = 15 * time.Second

// summaryElsewhere is what other servers say of a room, or what the user was told with an invite; nil if nothing.
func (s *Service) summaryElsewhere(ctx context.Context, user id.UserID, room id.RoomID, via []id.ServerName) (*Summary, error) {
	if user == "" {
		return nil, nil
	}
	asking, cancel := context.WithTimeout(ctx, summaryPatience)
	defer cancel()
	servers := s.candidates(ctx, &Change{Room: room, Target: user, Via: via})
	if said := s.hierarchyOf(asking, room, servers, false); said != nil {
		return &said.room, nil
	}
	return s.toldWithInvite(ctx, user, room)
}

// mayKnow reports whether a user, "" for somebody who is not logged in, may be told of a room: who is in it, may join it or
// knock, or could read it. A rule that another server does not name is public.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidhierarchy
func (s *Service) mayKnow(ctx context.Context, user id.UserID, told *Summary) (bool, error) {
	membership, err := s.membershipOf(ctx, user, told.RoomID)
	switch {
	case err != nil:
		return false, err
	case membership == "join" || membership == "invite" || told.WorldReadable:
		return true, nil
	case membership == "ban":
		return false, nil
	case told.JoinRule == "" || told.JoinRule == "public" || told.knockable():
		return true, nil
	}
	return s.inOneOf(ctx, user, told.AllowedRoomIDs)
}

// knockable reports whether anybody may knock. Of a version that is not known here, the rule alone tells.
func (s *Summary) knockable() bool {
	rules, known := roomversion.Get(s.RoomVersion)
	switch s.JoinRule {
	case "knock":
		return !known || rules.Knock
	case "knock_restricted":
		return !known || rules.KnockRestricted
	}
	return false
}

// membershipOf returns the membership of a user of this server, "leave" for who has none.
func (s *Service) membershipOf(ctx context.Context, user id.UserID, room id.RoomID) (string, error) {
	if user == "" {
		return "leave", nil
	}
	rooms, err := s.Cache.RoomsOf(ctx, user)
	if err != nil {
		return "", err
	}
	if m, ok := rooms.Get(room); ok {
		return m.Membership, nil
	}
	return "leave", nil
}

// inOneOf reports whether a user is in one of some rooms.
func (s *Service) inOneOf(ctx context.Context, user id.UserID, rooms []id.RoomID) (bool, error) {
	for _, room := range rooms {
		if membership, err := s.membershipOf(ctx, user, room); err != nil || membership == "join" {
			return err == nil, err
		}
	}
	return false, nil
}
