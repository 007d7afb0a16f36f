package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Change is a wish to change a membership.
type Change struct {
	Room       id.RoomID
	Sender     id.UserID // who acts
	Target     id.UserID // whose membership it is
	Membership string
	Reason     string // may be empty
	Device     id.DeviceID

	// Content has further keys of the event's content; what the server sets itself wins.
	Content map[string]any
	// Guest says that the sender is a guest.
	Guest bool
	// Anyway lets who leaves turn down an invite that users may not turn down.
	Anyway bool
	// Via names servers that may be in the room, for a join or a knock by somebody whose server is not.
	Via []id.ServerName
}

type membershipBody struct {
	UserID id.UserID `json:"user_id"`
	Reason string    `json:"reason"`
	Redact bool      `json:"org.matrix.msc4293.redact_events"` // of those who are kicked or banned: all that they have sent
}

type roomID struct {
	RoomID id.RoomID `json:"room_id"`
}

type joinedRooms struct {
	JoinedRooms []id.RoomID `json:"joined_rooms"`
}

// getJoinedRooms implements GET /_matrix/client/v3/joined_rooms.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3joined_rooms
func (s *Service) getJoinedRooms(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*joinedRooms, error) {
	list, err := s.JoinedRooms(ctx, c.User)
	return &joinedRooms{list}, err
}

// JoinedRooms returns the rooms that a local user is in, in the order of joining.
func (s *Service) JoinedRooms(ctx context.Context, user id.UserID) ([]id.RoomID, error) {
	list := []id.RoomID{}
	u, err := s.Cache.RoomsOf(ctx, user)
	if err != nil {
		return list, err
	}
	all := u.All()
	slices.SortFunc(all, func(a, b roomstate.Membership) int { return int(a.Pos - b.Pos) })
	for _, m := range all {
		if m.Membership == "join" {
			list = append(list, m.Room)
		}
	}
	return list, nil
}

// joinBody is the body of a join: reason, third_party_signed, and whatever else the member event is to carry.
type joinBody map[string]any

// joinRoom implements POST /_matrix/client/v3/join/{roomIdOrAlias}.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3joinroomidoralias
func (s *Service) joinRoom(ctx context.Context, c *httpapi.Call, in *joinBody) (*roomID, error) {
	room, via, err := s.roomOrAlias(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.joinCall(ctx, c, room, in, via)
}

// joinRoomByID implements POST /_matrix/client/v3/rooms/{roomId}/join.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidjoin
func (s *Service) joinRoomByID(ctx context.Context, c *httpapi.Call, in *joinBody) (*roomID, error) {
	return s.joinCall(ctx, c, c.RoomID("roomId"), in, via(c))
}

func (s *Service) joinCall(ctx context.Context, c *httpapi.Call, room id.RoomID, in *joinBody, via []id.ServerName) (*roomID, error) {
	if err := notSuspended(c); err != nil {
		return nil, err
	}
	reason, ok := (*in)["reason"].(string)
	if _, given := (*in)["reason"]; given && !ok {
		return nil, mxerr.BadJSON.With("reason has to be a string")
	}
	if err := s.redeem(ctx, c, room); err != nil {
		return nil, err
	}
	delete(*in, "third_party_signed") // a proof for the server, no part of the event
	s.Presence.Active(c.User, c.Device)
	return &roomID{room}, s.SetMembership(ctx, Change{
		Room: room, Sender: c.User, Target: c.User, Membership: "join", Reason: reason,
		Content: *in, Device: c.Device, Guest: c.Guest, Via: via,
	})
}

// roomOrAlias returns the room that a path names, and servers that may be in it.
func (s *Service) roomOrAlias(ctx context.Context, c *httpapi.Call) (id.RoomID, []id.ServerName, error) {
	text := c.PathValue("roomIdOrAlias")
	if alias, err := id.ParseRoomAlias(text); err == nil {
		room, servers, err := s.lookUp(ctx, alias)
		return room, append(via(c), servers...), err
	}
	room, err := id.ParseRoomID(text)
	if err != nil {
		return "", nil, mxerr.InvalidParam.With("%q is neither a room id nor an alias", text)
	}
	return room, via(c), nil
}

// maxVia is how many servers of those that a client names are asked.
const maxVia = 10

// via returns the servers that a client names as being in a room; server_name is the older parameter.
func via(c *httpapi.Call) []id.ServerName {
	var servers []id.ServerName
	for _, text := range append(c.QueryAll("via"), c.QueryAll("server_name")...) {
		if server, err := id.ParseServerName(text); err == nil && len(servers) < maxVia {
			servers = append(servers, server)
		}
	}
	return servers
}

type reasonBody struct {
	Reason string `json:"reason"`
}

// knockRoom implements POST /_matrix/client/v3/knock/{roomIdOrAlias}.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3knockroomidoralias
func (s *Service) knockRoom(ctx context.Context, c *httpapi.Call, in *reasonBody) (*roomID, error) {
	if err := notSuspended(c); err != nil {
		return nil, err
	}
	room, via, err := s.roomOrAlias(ctx, c)
	if err != nil {
		return nil, err
	}
	err = s.SetMembership(ctx, Change{
		Room: room, Sender: c.User, Target: c.User, Membership: "knock", Reason: in.Reason, Device: c.Device, Via: via,
	})
	return &roomID{room}, err
}

// leaveRoom implements POST /_matrix/client/v3/rooms/{roomId}/leave.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidleave
func (s *Service) leaveRoom(ctx context.Context, c *httpapi.Call, in *reasonBody) (*httpapi.Empty, error) {
	return nil, s.SetMembership(ctx, Change{
		Room: c.RoomID("roomId"), Sender: c.User, Target: c.User, Membership: "leave", Reason: in.Reason, Device: c.Device,
	})
}

// forgetRoom implements POST /_matrix/client/v3/rooms/{roomId}/forget.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidforget
func (s *Service) forgetRoom(ctx context.Context, c *httpapi.Call, _ *struct{}) (*httpapi.Empty, error) {
	return nil, s.Forget(ctx, c.RoomID("roomId"), c.User)
}

// Forget lets a user who has left a room lose sight of it: its history and /sync never show it again until
// the user comes back. Who is in it or invited gets M_UNKNOWN.
func (s *Service) Forget(ctx context.Context, room id.RoomID, user id.UserID) error {
	r, err := s.room(ctx, room)
	if err != nil {
		return err
	}
	var forgotten bool
	var at storage.Pos
	err = s.DB.Write(ctx, func(tx *storage.Tx, pos storage.Pos) (err error) {
		at = pos
		forgotten, err = tx.Forget(r.Num, user)
		return err
	})
	if err != nil {
		return err
	}
	if !forgotten {
		return mxerr.BadRequest.With("only a room that you have left can be forgotten")
	}
	s.Cache.Forgot(user, room, at)
	return nil
}

type inviteBody struct {
	UserID   id.UserID `json:"user_id"`
	Reason   string    `json:"reason"`
	IDServer string    `json:"id_server"`
	Medium   string    `json:"medium"`
	Address  string    `json:"address"`
}

// inviteUser implements POST /_matrix/client/v3/rooms/{roomId}/invite.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidinvite
func (s *Service) inviteUser(ctx context.Context, c *httpapi.Call, in *inviteBody) (*httpapi.Empty, error) {
	if in.Medium != "" || in.Address != "" || in.IDServer != "" {
		return nil, mxerr.Forbidden.With("this server has no identity server to invite by address")
	}
	return nil, s.moderate(ctx, c, "invite", &membershipBody{UserID: in.UserID, Reason: in.Reason})
}

// kick implements POST /_matrix/client/v3/rooms/{roomId}/kick.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidkick
func (s *Service) kick(ctx context.Context, c *httpapi.Call, in *membershipBody) (*httpapi.Empty, error) {
	return nil, s.moderate(ctx, c, kicked, in)
}

// ban implements POST /_matrix/client/v3/rooms/{roomId}/ban.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidban
func (s *Service) ban(ctx context.Context, c *httpapi.Call, in *membershipBody) (*httpapi.Empty, error) {
	return nil, s.moderate(ctx, c, "ban", in)
}

// unban implements POST /_matrix/client/v3/rooms/{roomId}/unban.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidunban
func (s *Service) unban(ctx context.Context, c *httpapi.Call, in *membershipBody) (*httpapi.Empty, error) {
	return nil, s.moderate(ctx, c, unbanned, in)
}

// What becomes a "leave" in the event but asks different things of the membership before it.
const (
	kicked   = "kick"
	unbanned = "unban"
)

func (s *Service) moderate(ctx context.Context, c *httpapi.Call, membership string, in *membershipBody) error {
	if err := notSuspended(c); err != nil {
		return err
	}
	if in.UserID == "" {
		return mxerr.MissingParam.With("user_id is missing")
	}
	target, err := id.ParseUserID(string(in.UserID))
	if err != nil {
		return mxerr.InvalidParam.With("user_id is not a user id")
	}
	change := Change{
		Room: c.RoomID("roomId"), Sender: c.User, Target: target, Membership: membership, Reason: in.Reason, Device: c.Device,
	}
	if in.Redact && (membership == kicked || membership == "ban") {
		change.Content = map[string]any{redactEvents: true}
	}
	return s.SetMembership(ctx, change)
}

// SetMembership changes a membership by the rules of the room, and returns once that is durable. What is so
// already is no error for a join, a leave or an invite. Membership may also be "kick" and "unban", which are
// a "leave" of somebody who is there, or is banned.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroommember
func (s *Service) SetMembership(ctx context.Context, c Change) error {
	if entering(c.Membership) {
		if err := s.checkBlocked(ctx, c.Room); err != nil {
			return err
		}
	}
	here, err := s.resident(ctx, c.Room)
	if err != nil {
		return err
	}
	if !here && c.Sender == c.Target {
		if err := s.elsewhere(ctx, &c); !errors.Is(err, errHere) {
			return err
		}
	}
	if c.Membership == "invite" {
		if err := s.checkInvitee(ctx, c.Sender, c.Target); err != nil {
			return err
		}
		if !s.local(c.Target) {
			return s.inviteElsewhere(ctx, &c)
		}
	}
	err = s.setMembership(ctx, c)
	switch {
	case !errors.Is(err, mxerr.UnableToGrantJoin):
		return err
	case s.Remote == nil:
		return mxerr.Forbidden.With("no member of this server may let you in")
	}
	return s.through(ctx, &c, s.joinThrough) // for whom nobody may vouch here, somebody may elsewhere
}

// entering reports whether a membership leads into a room.
func entering(membership string) bool {
	return membership == "join" || membership == "invite" || membership == "knock"
}

// setMembership changes a membership in a room in which this server is.
func (s *Service) setMembership(ctx context.Context, c Change) error {
	joinVia, err := s.prepareJoin(ctx, &c)
	if err != nil {
		return err
	}
	name, avatar, err := s.profileFor(ctx, c)
	if err != nil {
		return err
	}
	err = s.act(ctx, c.Room, func(w *roomstate.Writer) (bool, error) {
		done, err := alreadySo(w, &c)
		if done || err != nil {
			return false, err
		}
		if c.Membership == "join" {
			if err := s.admit(w, &c, joinVia); err != nil {
				return false, err
			}
		}
		if c.Membership == "leave" && !c.Anyway {
			if err := s.staysForNotices(w, c.Target); err != nil {
				return false, err
			}
		}
		content, err := c.content(name, avatar)
		if err != nil {
			return false, err
		}
		target := string(c.Target)
		_, err = s.append(w, Draft{
			Room: c.Room, Sender: c.Sender, Type: "m.room.member", StateKey: &target, Content: content, Device: c.Device,
		})
		return err == nil, err
	})
	if err == nil && c.Membership != "join" {
		s.Typing.Set(c.Room, c.Target, 0) // who is out of the room no longer types there
	}
	return err
}

// checkInvitee refuses to invite who is out of this server's reach, and who takes no invites. The server's notices reach
// everybody.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#invite-permission
func (s *Service) checkInvitee(ctx context.Context, by, user id.UserID) error {
	if !s.local(user) {
		if s.Remote == nil {
			return mxerr.Forbidden.With("this server does not federate: %s cannot be invited", user)
		}
		return nil
	}
	if by == s.Notices.User {
		return nil
	}
	rules, err := s.inviteRules(ctx, user)
	if err == nil && rules.Of(by) == eventauth.RefuseInvite {
		err = mxerr.InviteBlocked
	}
	return err
}

// inviteRules returns whose invites a local user takes.
func (s *Service) inviteRules(ctx context.Context, user id.UserID) (*eventauth.InviteRules, error) {
	var permission, filter []byte
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if permission, err = tx.AccountData(user, "", eventauth.InvitePermission); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		filter, err = tx.AccountData(user, "", eventauth.InviteFilter)
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	return eventauth.ReadInviteRules(permission, filter), nil
}

// alreadySo reports whether nothing has to be done, or why it cannot be.
func alreadySo(w *roomstate.Writer, c *Change) (done bool, err error) {
	now := membershipNow(w, c.Target)
	switch c.Membership {
	case "join", "invite":
		return now == c.Membership && membershipNow(w, c.Sender) == "join", nil
	case "leave":
		return now == "leave", neverThere(w, c, now)
	case kicked:
		if now == "" || now == "leave" || now == "ban" {
			return false, mxerr.Forbidden.With("the user is not in the room")
		}
	case unbanned:
		if now != "ban" {
			return false, mxerr.BadState.WithStatus(403).With("the user is not banned")
		}
	}
	return false, nil
}

func neverThere(w *roomstate.Writer, c *Change, now string) error {
	if now == "" && c.Sender == c.Target {
		return mxerr.Forbidden.With("you are not in this room")
	}
	return w.Err()
}

// membershipNow is a user's membership on the room's head, "" without any.
func membershipNow(w *roomstate.Writer, user id.UserID) string {
	if e := w.Event("m.room.member", string(user)); e != nil {
		return e.Membership()
	}
	return ""
}

// profileFor returns the profile that the event carries: that of a local target who joins, knocks or is invited.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#events-on-change-of-profile-information
func (s *Service) profileFor(ctx context.Context, c Change) (name, avatar string, err error) {
	switch c.Membership {
	case "join", "knock", "invite":
		if s.local(c.Target) {
			return s.profileOf(ctx, c.Target)
		}
	}
	return "", "", nil
}

func (c *Change) content(name, avatar string) ([]byte, error) {
	content := maps.Clone(c.Content)
	if content == nil {
		content = map[string]any{}
	}
	for key, val := range map[string]string{"displayname": name, "avatar_url": avatar, "reason": c.Reason} {
		if val != "" {
			content[key] = val
		}
	}
	content["membership"] = c.Membership
	if c.Membership == kicked || c.Membership == unbanned {
		content["membership"] = "leave"
	}
	return json.Marshal(content)
}

// prepareJoin finds out, before the room is locked, whether one of a restricted room's conditions lets the
// user in.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#restricted-rooms
func (s *Service) prepareJoin(ctx context.Context, c *Change) (joinVia bool, err error) {
	if c.Membership != "join" {
		return false, nil
	}
	r, err := s.room(ctx, c.Room)
	if err != nil {
		return false, err
	}
	rules, err := r.StateEvent(ctx, r.View().State, "m.room.join_rules", "")
	if err != nil || rules == nil || !restricted(rules.Event) {
		return false, err
	}
	return s.meetsCondition(ctx, rules.Event, c.Target)
}

// restricted reports whether join rules let members of other rooms in.
func restricted(rules *event.Event) bool {
	rule := gjson.GetBytes(rules.Content(), "join_rule").String()
	return rules.Rules.Restricted && rule == "restricted" || rules.Rules.KnockRestricted && rule == "knock_restricted"
}

// meetsCondition reports whether a user is in one of the rooms that a restricted room allows.
func (s *Service) meetsCondition(ctx context.Context, rules *event.Event, user id.UserID) (bool, error) {
	meets, _, err := s.conditions(ctx, rules, user)
	return meets, err
}

// admit refuses guests where they may not join, and lets a local member who may invite vouch for who meets
// a condition of a restricted room.
func (s *Service) admit(w *roomstate.Writer, c *Change, meets bool) error {
	c.Content = maps.Clone(c.Content)
	delete(c.Content, "join_authorised_via_users_server")
	if c.Guest && !guestsMayJoin(w) {
		return mxerr.GuestAccessForbidden
	}
	rules := w.Event("m.room.join_rules", "")
	now := membershipNow(w, c.Target)
	if rules == nil || !restricted(rules) || now == "invite" || now == "join" {
		return w.Err()
	}
	if !meets {
		return mxerr.Forbidden.With("you are in none of the rooms whose members may join")
	}
	voucher, err := s.voucher(w)
	if err != nil {
		return err
	}
	if c.Content == nil {
		c.Content = map[string]any{}
	}
	c.Content["join_authorised_via_users_server"] = voucher
	return nil
}

// voucher returns a local member of the room who may invite.
func (s *Service) voucher(w *roomstate.Writer) (voucher id.UserID, err error) {
	levels, err := w.Levels()
	if err != nil {
		return "", err
	}
	w.Members(func(m roomstate.Member) bool {
		if m.Membership == "join" && s.local(m.User) && levels.User(m.User) >= levels.Invite() {
			voucher = m.User
		}
		return voucher == ""
	})
	if voucher == "" {
		return "", mxerr.UnableToGrantJoin
	}
	return voucher, nil
}

func guestsMayJoin(w *roomstate.Writer) bool {
	e := w.Event("m.room.guest_access", "")
	return e != nil && gjson.GetBytes(e.Content(), "guest_access").String() == "can_join"
}

// refineMember gives a membership that was sent as plain state what its own endpoint would give it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroommember
func (s *Service) refineMember(ctx context.Context, w *roomstate.Writer, d *Draft) error {
	content := map[string]any{}
	if err := json.Unmarshal(d.Content, &content); err != nil {
		return mxerr.BadJSON
	}
	if content["membership"] == "leave" && *d.StateKey == string(d.Sender) {
		return s.staysForNotices(w, d.Sender)
	}
	if content["membership"] != "join" {
		return nil
	}
	if membershipNow(w, id.UserID(*d.StateKey)) == "join" {
		return withoutVoucher(d)
	}
	c := Change{Target: id.UserID(*d.StateKey), Content: content}
	rules := w.Event("m.room.join_rules", "")
	meets := false
	if rules != nil && restricted(rules) {
		var err error
		if meets, err = s.meetsCondition(ctx, rules, c.Target); err != nil {
			return err
		}
	}
	guest, err := s.isGuest(ctx, c.Target)
	if err != nil {
		return err
	}
	c.Guest = guest
	if err := s.admit(w, &c, meets); err != nil {
		return err
	}
	d.Content, err = json.Marshal(c.Content)
	return err
}

// withoutVoucher drops what only this server says: who vouches for a join. Who is in the room needs nobody.
func withoutVoucher(d *Draft) (err error) {
	if gjson.GetBytes(d.Content, "join_authorised_via_users_server").Exists() {
		d.Content, err = sjson.DeleteBytes(bytes.Clone(d.Content), "join_authorised_via_users_server")
	}
	return err
}

// updateMember sends a local member's join again, with the profile as it is now.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#events-on-change-of-profile-information
func (s *Service) updateMember(ctx context.Context, room id.RoomID, user id.UserID) error {
	return s.act(ctx, room, func(w *roomstate.Writer) (bool, error) {
		now := w.Event("m.room.member", string(user))
		if now == nil || now.Membership() != "join" {
			return false, w.Err()
		}
		// Under the lock: of two changes at once, whichever comes last here finds the later profile.
		name, avatar, err := s.profileOf(ctx, user)
		if err != nil {
			return false, err
		}
		c := Change{Membership: "join"}
		content, err := c.content(name, avatar)
		if err != nil {
			return false, err
		}
		key := string(user)
		d := Draft{Room: room, Sender: user, Type: "m.room.member", StateKey: &key, Content: content}
		if known, err := unchanged(w, &d); err != nil || known != "" {
			return false, err
		}
		_, err = s.append(w, d)
		return err == nil, err
	})
}

// LeaveAll lets a user leave every room and turn down every invite, as a deactivated account must. One room
// that cannot be left does not keep the others; the errors are joined.
func (s *Service) LeaveAll(ctx context.Context, user id.UserID, reason string) error {
	account, _, err := s.account(ctx, user)
	if err != nil {
		return err
	}
	if account.Erased {
		s.Cache.Erase(user)
	}
	u, err := s.Cache.RoomsOf(ctx, user)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range u.All() {
		if m.Membership == "leave" || m.Membership == "ban" {
			continue
		}
		errs = append(errs, s.SetMembership(ctx, Change{
			Room: m.Room, Sender: user, Target: user, Membership: "leave", Reason: reason, Anyway: true,
		}))
	}
	return errors.Join(errs...)
}

// removeGuests lets the guests leave a room that no longer takes any.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#guest-access
func (s *Service) removeGuests(ctx context.Context, room id.RoomID) {
	ctx = context.WithoutCancel(ctx) // whoever changed the rule has their answer coming
	r, err := s.room(ctx, room)
	if err != nil {
		s.Log.Error("find the guests of a room", "room", room, "error", err)
		return
	}
	access, err := r.StateEvent(ctx, r.View().State, "m.room.guest_access", "")
	if err != nil || access != nil && gjson.GetBytes(access.Content(), "guest_access").String() == "can_join" {
		return
	}
	var local []id.UserID
	r.Members(func(m roomstate.Member) bool {
		if m.Membership == "join" && s.local(m.User) {
			local = append(local, m.User)
		}
		return true
	})
	var guests []id.UserID
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		guests, err = tx.GuestsAmong(local)
		return err
	})
	if err != nil {
		s.Log.Error("find the guests of a room", "room", room, "error", err)
	}
	for _, user := range guests {
		if err := s.SetMembership(ctx, Change{Room: room, Sender: user, Target: user, Membership: "leave"}); err != nil {
			s.Log.Error("remove a guest", "room", room, "user", user, "error", err)
		}
	}
}
