package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/storage"
)

// NewRoom is the wish for a room.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3createroom
type NewRoom struct {
	Visibility    string          `json:"visibility"` // public puts it in the directory
	AliasName     string          `json:"room_alias_name"`
	Name          string          `json:"name"`
	Topic         string          `json:"topic"`
	Invite        []id.UserID     `json:"invite"`
	Invite3PID    json.RawMessage `json:"invite_3pid"`
	Version       string          `json:"room_version"`
	Creation      map[string]any  `json:"creation_content"`
	InitialState  []InitialState  `json:"initial_state"`
	Preset        string          `json:"preset"`
	IsDirect      bool            `json:"is_direct"`
	PowerOverride map[string]any  `json:"power_level_content_override"`
}

// InitialState is a state event of a new room.
type InitialState struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// createRoom implements POST /_matrix/client/v3/createRoom.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3createroom
func (s *Service) createRoom(ctx context.Context, c *httpapi.Call, in *NewRoom) (*roomID, error) {
	if err := notSuspended(c); err != nil {
		return nil, err
	}
	if err := c.Charge(httpapi.Invites, len(in.Invite)); err != nil {
		return nil, err
	}
	room, err := s.Create(ctx, c.User, *in)
	if err != nil {
		return nil, err
	}
	s.Presence.Active(c.User, c.Device)
	return &roomID{room}, nil
}

// Create makes a room with everything that was wished for, in one act: it is there whole or not at all.
func (s *Service) Create(ctx context.Context, creator id.UserID, n NewRoom) (id.RoomID, error) {
	b, err := s.blueprint(ctx, creator, n)
	if err != nil {
		return "", err
	}
	p, room, err := s.lay(ctx, b)
	if err != nil {
		return "", err
	}
	if err := p.Wait(ctx); err != nil {
		return "", fmt.Errorf("create a room: %w", err)
	}
	s.inviteOthers(ctx, room, b)
	return room, nil
}

// inviteOthers invites those users of other servers who are to be in a new room. The room is there, whether their
// servers can be asked or not.
func (s *Service) inviteOthers(ctx context.Context, room id.RoomID, b *blueprint) {
	var wg sync.WaitGroup
	for _, user := range b.others {
		wg.Go(func() {
			c := Change{Room: room, Sender: b.creator, Target: user, Membership: "invite", Content: map[string]any{}}
			if b.IsDirect {
				c.Content["is_direct"] = true
			}
			if err := s.SetMembership(ctx, c); err != nil {
				s.Log.InfoContext(ctx, "invite to a new room", "room", room, "user", user, "error", err)
			}
		})
	}
	wg.Wait()
}

// blueprint is a room before it is made.
type blueprint struct {
	NewRoom
	creator  id.UserID
	rules    *roomversion.Rules
	creation []byte
	alias    id.RoomAlias            // "" for none
	profiles map[id.UserID][2]string // display name and avatar of the creator and those invited
	// noticesTo is whose room of notices this will be; "" for any other room
	noticesTo id.UserID
	others    []id.UserID // users of other servers who are to be invited: once the room is there
	calls     bool        // everybody may be in a call of many
}

// blueprint checks a wish before anything is made.
func (s *Service) blueprint(ctx context.Context, creator id.UserID, n NewRoom) (*blueprint, error) {
	b := &blueprint{NewRoom: n, creator: creator, profiles: map[id.UserID][2]string{}, calls: len(s.Calls.LiveKit) > 0}
	if err := b.preset(); err != nil {
		return nil, err
	}
	var err error
	if b.rules, err = rulesOf(cmp.Or(n.Version, s.Version, roomversion.Default)); err != nil {
		return nil, err
	}
	if err := b.creationContent(); err != nil {
		return nil, err
	}
	return b, s.checkBlueprint(ctx, b)
}

// rulesOf returns the rules of a version that a client has asked for.
func rulesOf(version string) (*roomversion.Rules, error) {
	rules, ok := roomversion.Get(version)
	if !ok {
		return nil, mxerr.UnsupportedRoomVersion.With("this server does not know room version %q", version)
	}
	return rules, nil
}

// preset fills in the preset that the visibility stands for.
func (b *blueprint) preset() error {
	switch b.Visibility {
	case "", "private", "public":
	default:
		return mxerr.InvalidParam.With("visibility is public or private")
	}
	switch {
	case b.Preset == "" && b.Visibility == "public":
		b.Preset = "public_chat"
	case b.Preset == "":
		b.Preset = "private_chat"
	}
	if !slices.Contains([]string{"private_chat", "trusted_private_chat", "public_chat"}, b.Preset) {
		return mxerr.InvalidParam.With("there is no preset %q", b.Preset)
	}
	return nil
}

// creationContent makes the content of m.room.create.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroomcreate
func (b *blueprint) creationContent() error {
	content := maps.Clone(b.Creation)
	if content == nil {
		content = map[string]any{}
	}
	delete(content, "creator")
	if b.rules.CreatorInContent {
		content["creator"] = b.creator
	}
	content["room_version"] = b.rules.Version
	if b.rules.PrivilegedCreators {
		if err := b.additionalCreators(content); err != nil {
			return err
		}
	}
	var err error
	b.creation, err = json.Marshal(content)
	return err
}

// additionalCreators checks them and adds, in a room of trusted people, everybody invited.
func (b *blueprint) additionalCreators(content map[string]any) error {
	var creators []any
	if given, ok := content["additional_creators"]; ok {
		if creators, ok = given.([]any); !ok {
			return mxerr.InvalidParam.With("additional_creators has to be a list of user ids")
		}
	}
	for _, c := range creators {
		text, _ := c.(string)
		if _, err := id.ParseUserID(text); err != nil {
			return mxerr.InvalidParam.With("additional_creators has to be a list of user ids")
		}
	}
	if b.Preset == "trusted_private_chat" {
		for _, user := range b.Invite {
			if !slices.Contains(creators, any(string(user))) && user != b.creator {
				creators = append(creators, string(user))
			}
		}
	}
	if len(creators) > 0 {
		content["additional_creators"] = creators
	}
	return nil
}

// maxNewRoom is how many events a client can wish for in a new room, invites included: they are made and stored at once.
const maxNewRoom = 1000

// checkBlueprint refuses what cannot be made, and reads the profiles of those who will be in the room.
func (s *Service) checkBlueprint(ctx context.Context, b *blueprint) error {
	if len(b.Invite3PID) > 0 && string(b.Invite3PID) != "[]" && string(b.Invite3PID) != "null" {
		return mxerr.Forbidden.With("this server has no identity server to invite by address")
	}
	if b.AliasName != "" {
		alias, err := id.ParseRoomAlias("#" + b.AliasName + ":" + string(s.ServerName))
		if err != nil || alias.Localpart() != b.AliasName {
			return mxerr.InvalidParam.With("room_alias_name cannot be an alias")
		}
		b.alias = alias
		if err := s.aliasTaken(ctx, alias); err != nil {
			return err
		}
	}
	if len(b.InitialState)+len(b.Invite) > maxNewRoom {
		return mxerr.InvalidParam.With("a new room can have %d events of initial_state and invite", maxNewRoom)
	}
	for _, st := range b.InitialState {
		if st.Type == "" || len(st.Content) == 0 {
			return mxerr.BadJSON.With("initial_state needs a type and a content")
		}
		if st.Type == "m.room.member" {
			if err := s.checkMember(ctx, &Draft{Sender: b.creator, StateKey: &st.StateKey, Content: st.Content}); err != nil {
				return err
			}
		}
	}
	for _, user := range append([]id.UserID{b.creator}, b.Invite...) {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return mxerr.InvalidParam.With("%q is no user id", user)
		}
		if user != b.creator {
			if err := s.checkInvitee(ctx, b.creator, user); err != nil {
				return err
			}
		}
		if !s.local(user) {
			b.others = append(b.others, user)
			continue
		}
		name, avatar, err := s.profileOf(ctx, user)
		if err != nil {
			return err
		}
		b.profiles[user] = [2]string{name, avatar}
	}
	return nil
}

// lay builds the events of a room and queues them as one act.
func (s *Service) lay(ctx context.Context, b *blueprint) (*roomstate.Pending, id.RoomID, error) {
	room, err := s.newRoomID(b.rules)
	if err != nil {
		return nil, "", err
	}
	w, err := s.found(ctx, room, b)
	if err != nil {
		return nil, "", err
	}
	defer w.Unlock()
	for _, d := range b.drafts() {
		d.Room = w.ID
		if d.Type == "m.room.power_levels" {
			if err := checkPowerLevels(d.Content); err != nil {
				return nil, "", err
			}
		}
		if _, err := s.append(w, d); err != nil {
			return nil, "", asInitialState(d, err)
		}
	}
	if b.alias != "" || b.Visibility == "public" {
		w.Act().Also(func(tx *storage.Tx, _ storage.Pos) error { return b.list(tx, w.Num) })
		w.Act().Then(func(storage.Pos) { s.listing.mark(w.Num) })
	}
	if b.noticesTo != "" {
		s.keepNoticeRoom(w, b.noticesTo)
	}
	return w.Queue(), w.ID, nil
}

// asInitialState names the fault of a state event that cannot be part of the room.
func asInitialState(d Draft, err error) error {
	if errors.Is(err, mxerr.Forbidden) && d.Type != "m.room.member" {
		return mxerr.InvalidRoomState.With("%s: %s", d.Type, err)
	}
	return err
}

// found makes the first event of a room, which gives it its id if room is empty, and takes the room for writing.
func (s *Service) found(ctx context.Context, room id.RoomID, b *blueprint) (*roomstate.Writer, error) {
	create, err := s.buildCreate(room, b)
	if err != nil {
		return nil, err
	}
	w, err := s.Cache.Create(ctx, create.Room, b.rules)
	if err != nil {
		return nil, err
	}
	if err := check(w, create); err == nil {
		err = w.Propose(create, roomstate.Meta{})
		if err == nil {
			return w, nil
		}
	}
	w.Unlock()
	return nil, mxerr.InvalidRoomState.With("the content of m.room.create is not valid")
}

// list puts the room into the directory. An alias that was taken meanwhile refuses the whole room.
func (b *blueprint) list(tx *storage.Tx, room int64) error {
	if b.Visibility == "public" {
		if err := tx.Publish(room); err != nil {
			return err
		}
	}
	if b.alias == "" {
		return nil
	}
	ok, err := tx.PutAlias(b.alias, room, b.creator)
	if err == nil && !ok {
		err = mxerr.RoomInUse
	}
	return err
}

// drafts are the events of a new room behind m.room.create, in the order of the specification.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3createroom
func (b *blueprint) drafts() []Draft {
	list := []Draft{b.member(b.creator, "join"), b.state("m.room.power_levels", b.powerLevels())}
	if b.alias != "" {
		list = append(list, b.state("m.room.canonical_alias", map[string]any{"alias": b.alias}))
	}
	list = append(list, b.presetDrafts()...)
	for _, st := range b.InitialState {
		key := st.StateKey
		list = append(list, Draft{Sender: b.creator, Type: st.Type, StateKey: &key, Content: st.Content})
	}
	if b.Name != "" {
		list = append(list, b.state("m.room.name", map[string]any{"name": b.Name}))
	}
	if b.Topic != "" {
		list = append(list, b.state("m.room.topic", topic(b.Topic)))
	}
	for _, user := range b.Invite {
		if user != b.creator && !slices.Contains(b.others, user) {
			list = append(list, b.member(user, "invite"))
		}
	}
	return list
}

// topic is the content of m.room.topic, with the plain text also as a text block.
func topic(text string) map[string]any {
	return map[string]any{
		"topic": text, "m.topic": map[string]any{"m.text": []any{map[string]any{"body": text, "mimetype": "text/plain"}}},
	}
}

func (b *blueprint) state(eventType string, content map[string]any) Draft {
	key := ""
	body, err := json.Marshal(content)
	if err != nil {
		panic(fmt.Sprintf("rooms: encode %s: %v", eventType, err)) // made of decoded JSON and strings
	}
	return Draft{Sender: b.creator, Type: eventType, StateKey: &key, Content: body}
}

func (b *blueprint) member(user id.UserID, membership string) Draft {
	content := map[string]any{"membership": membership}
	if p := b.profiles[user]; p[0] != "" {
		content["displayname"] = p[0]
	}
	if p := b.profiles[user]; p[1] != "" {
		content["avatar_url"] = p[1]
	}
	if b.IsDirect && membership == "invite" {
		content["is_direct"] = true
	}
	d := b.state("m.room.member", content)
	*d.StateKey = string(user)
	return d
}

// presetDrafts are the events of the preset, without those that initial_state brings itself.
func (b *blueprint) presetDrafts() []Draft {
	joinRule := "invite"
	if b.Preset == "public_chat" {
		joinRule = "public"
	}
	list := []Draft{
		b.state("m.room.join_rules", map[string]any{"join_rule": joinRule}),
		b.state("m.room.history_visibility", map[string]any{"history_visibility": "shared"}),
	}
	if b.Preset != "public_chat" { // whose guest_access is forbidden, as it is without the event
		list = append(list, b.state("m.room.guest_access", map[string]any{"guest_access": "can_join"}))
	}
	return slices.DeleteFunc(list, func(d Draft) bool {
		return slices.ContainsFunc(b.InitialState, func(st InitialState) bool { return st.Type == d.Type && st.StateKey == "" })
	})
}

// creatorsOnly is the level for m.room.tombstone in rooms whose creators stand above all levels, so that at first
// nobody else can replace the room: "set to 150 instead of 100".
const creatorsOnly = 150

// powerLevels are the levels of a new room.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroompower_levels
func (b *blueprint) powerLevels() map[string]any {
	users := map[string]any{string(b.creator): 100}
	tombstone := 100
	if b.rules.PrivilegedCreators {
		users, tombstone = map[string]any{}, creatorsOnly
	} else if b.Preset == "trusted_private_chat" {
		for _, user := range b.Invite {
			users[string(user)] = 100
		}
	}
	invite := 0
	if b.Preset == "public_chat" { // who may invite lets others pass by the join rules too
		invite = 50
	}
	events := map[string]any{
		"m.room.name": 50, "m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.power_levels": 100,
		"m.room.history_visibility": 100, "m.room.encryption": 100, "m.room.server_acl": 100,
		"m.room.tombstone": tombstone,
	}
	if b.calls {
		events[callMember] = 0
	}
	levels := map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": invite,
		"events": events,
	}
	maps.Copy(levels, b.PowerOverride)
	return levels
}
