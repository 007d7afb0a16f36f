package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Wish is what a user of another server, which is not in the room, wants to be in a room that this server is in.
type Wish struct {
	Origin     id.ServerName // who asks
	Room       id.RoomID
	User       id.UserID
	Membership string   // join, leave or knock
	Versions   []string // the room versions that Origin supports; nil: any
}

// Template is an event that another server is to complete, sign and send back.
type Template struct {
	Event   json.RawMessage `json:"event"`
	Version string          `json:"room_version"`
}

// Template returns the member event by which a wish would come true.
//
// The error is mxerr.NotFound when this server is not in the room, mxerr.IncompatibleVersion, mxerr.Forbidden, or,
// for a restricted room, mxerr.UnableToAuthoriseJoin or mxerr.UnableToGrantJoin.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#joining-rooms
func (s *Service) Template(ctx context.Context, wish Wish) (*Template, error) {
	if wish.User.Server() != wish.Origin {
		return nil, mxerr.Forbidden.With("%s is not a user of %s", wish.User, wish.Origin)
	}
	r, err := s.residence(ctx, wish.Origin, wish.Room)
	if err != nil {
		return nil, err
	}
	if err := compatible(r, wish); err != nil {
		return nil, err
	}
	w, err := s.lock(ctx, wish.Room)
	if err != nil {
		return nil, err
	}
	defer w.Unlock()
	return s.template(w, wish)
}

// residence returns a room that this server is in and that another may ask about.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#server-access-control-lists-acls
func (s *Service) residence(ctx context.Context, origin id.ServerName, room id.RoomID) (*roomstate.Room, error) {
	r, err := s.room(ctx, room)
	if err != nil {
		return nil, err
	}
	if !r.HasServer(s.ServerName) {
		return nil, mxerr.NotFound.With("this server is not in the room")
	}
	return r, s.checkACL(ctx, r, origin)
}

// checkACL refuses servers that a room does not allow.
func (s *Service) checkACL(ctx context.Context, r *roomstate.Room, origin id.ServerName) error {
	acl, err := r.StateEvent(ctx, r.View().State, "m.room.server_acl", "")
	if err != nil || acl == nil {
		return err
	}
	if !eventauth.ServerAllowed(acl.Event, origin) {
		return mxerr.Forbidden.With("%s is denied by the room's server ACL", origin)
	}
	return nil
}

func compatible(r *roomstate.Room, wish Wish) error {
	if wish.Versions != nil && !slices.Contains(wish.Versions, r.Rules.Version) {
		return mxerr.IncompatibleVersion.Set("room_version", r.Rules.Version)
	}
	if wish.Membership == "knock" && !r.Rules.Knock {
		return mxerr.Forbidden.With("room version %s knows no knocking", r.Rules.Version)
	}
	return nil
}

func (s *Service) template(w *roomstate.Writer, wish Wish) (*Template, error) {
	content := map[string]any{"membership": wish.Membership}
	if wish.Membership == "join" {
		voucher, err := s.vouch(w, wish.User)
		if err != nil {
			return nil, err
		}
		if voucher != "" {
			content["join_authorised_via_users_server"] = voucher
		}
	}
	body, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	key := string(wish.User)
	ev, err := s.build(w, Draft{Room: wish.Room, Sender: wish.User, Type: "m.room.member", StateKey: &key, Content: body})
	if err != nil {
		return nil, err
	}
	if err := check(w, ev); err != nil {
		return nil, err
	}
	return &Template{s.unfinished(ev), w.Rules.Version}, nil
}

// unfinished is an event without what only the server that sends it can know, and with "the name of the resident
// homeserver".
func (s *Service) unfinished(ev *event.Event) json.RawMessage {
	raw := ev.JSON
	for _, key := range []string{"hashes", "signatures", "event_id"} {
		raw, _ = sjson.DeleteBytes(raw, key) // the event is an object
	}
	raw, _ = sjson.SetBytes(raw, "origin", string(s.ServerName))
	return raw
}

// vouch returns who lets a user into a restricted room, "" when nobody needs to.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#restricted-rooms
func (s *Service) vouch(w *roomstate.Writer, user id.UserID) (id.UserID, error) {
	rules := w.Event("m.room.join_rules", "")
	now := membershipNow(w, user)
	if rules == nil || !restricted(rules) || now == "invite" || now == "join" {
		return "", w.Err()
	}
	meets, sure, err := s.conditions(w.Context(), rules, user)
	switch {
	case err != nil:
		return "", err
	case !meets && !sure:
		return "", mxerr.UnableToAuthoriseJoin
	case !meets:
		return "", mxerr.Forbidden.With("the user is in none of the rooms whose members may join")
	}
	return s.voucher(w)
}

// conditions reports whether a user is in one of the rooms that a restricted room allows, and, if not, whether that
// is sure: this server is in all of them. What it knows of a room in which it is no more, may be over.
func (s *Service) conditions(ctx context.Context, rules *event.Event, user id.UserID) (meets, sure bool, err error) {
	sure = true
	for _, room := range allowedRooms(rules) {
		r, err := s.roomHere(ctx, room)
		if err != nil {
			return false, false, err
		}
		if r == nil {
			sure = false
			continue
		}
		if m, ok := r.Member(user); ok && m.Membership == "join" {
			return true, true, nil
		}
	}
	return false, sure, nil
}

// allowedRooms are the rooms whose members may join by the rules of a restricted room.
func allowedRooms(rules *event.Event) (rooms []id.RoomID) {
	for _, allow := range gjson.GetBytes(rules.Content(), "allow").Array() {
		room, err := id.ParseRoomID(allow.Get("room_id").String())
		if err == nil && allow.Get("type").String() == "m.room_membership" {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// Entered is what a server is told when its user has got into a room.
type Entered struct {
	Event   *event.Event   // the member event, signed by this server too if it vouches for it
	State   []*event.Event // the state before it
	Auth    []*event.Event // the auth chain of that state and of the event
	Servers []id.ServerName
	Version string

	Stripped []json.RawMessage // of a knock: the events by which the room is recognised
}

// signedMember parses a member event that another server has completed, and sees that it is what it says.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_joinroomideventid
func signedMember(r *roomstate.Room, wish Wish, eventID id.EventID, raw json.RawMessage) (*event.Event, error) {
	ev, err := event.ParseUntrusted(r.Rules, raw)
	if err != nil {
		return nil, err
	}
	switch {
	case ev.Room != r.ID:
		return nil, mxerr.InvalidParam.With("the event is of another room")
	case ev.ID != eventID:
		return nil, mxerr.InvalidParam.With("the event has the id %s", ev.ID)
	case ev.Type != "m.room.member" || ev.StateKey == nil || ev.Membership() != wish.Membership:
		return nil, mxerr.InvalidParam.With("the event is no m.room.member event with membership %s", wish.Membership)
	case *ev.StateKey != string(ev.Sender):
		return nil, mxerr.InvalidParam.With("state_key and sender differ")
	case ev.Sender.Server() != wish.Origin:
		return nil, mxerr.InvalidParam.With("%s is not a user of %s", ev.Sender, wish.Origin)
	case !event.CheckContentHash(ev):
		return nil, mxerr.InvalidParam.With("the content hash is wrong")
	}
	return ev, nil
}

// countersign adds this server's signature to a join that one of its users vouches for.
func (s *Service) countersign(r *roomstate.Room, ev *event.Event) (*event.Event, error) {
	voucher := id.UserID(gjson.GetBytes(ev.Content(), "join_authorised_via_users_server").String())
	if voucher == "" || !r.Rules.Restricted || ev.Membership() != "join" {
		return ev, nil
	}
	if !s.local(voucher) {
		return nil, mxerr.InvalidParam.With("%s is not a user of this server", voucher)
	}
	return ev.Sign(s.ServerName, s.Key)
}

// wholeState returns the state before an event and its auth chain.
func (s *Service) wholeState(ctx context.Context, r *roomstate.Room, e *roomstate.Event) (state, auth []*roomstate.Event, err error) {
	if state, err = r.State(ctx, e.Before); err != nil {
		return nil, nil, err
	}
	positions := make([]storage.Pos, len(state), len(state)+1)
	for i, x := range state {
		positions[i] = x.Pos
	}
	chain, err := r.AuthChain(ctx, append(positions, e.Pos))
	if err != nil {
		return nil, nil, err
	}
	slices.Reverse(chain) // each after those that it names: some take the last of a key for the current one
	auth, err = r.EventsAt(ctx, chain)
	return state, auth, err
}
