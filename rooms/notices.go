package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Notices describe the rooms in which users get what the server's administrators tell them. Without User there are none.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-notices
type Notices struct {
	User          id.UserID // who sends them: a user of this server whom nobody can be
	DisplayName   string    // of User in those rooms; empty: RoomName
	AvatarURL     string    // of User in those rooms, an mxc URI; may be empty
	RoomName      string    // empty: "Server Notices"
	RoomAvatarURL string    // an mxc URI; may be empty
	AdminContact  string    // a URI that notices name unless they name another; may be empty
}

const (
	noticeTag  = "m.server_notice" // of a room in which notices are
	noticeType = "m.server_notice" // the msgtype of notices
)

// Notice is a notice to a user of this server.
type Notice struct {
	User    id.UserID
	Content json.RawMessage // of an event of Type; an m.room.message without a msgtype becomes an m.server_notice

	Type     string  // empty: m.room.message
	StateKey *string // nil: none

	// Txn, if not empty, is sent once: a second notice to the user with the same one is the first event.
	Txn string
}

// SendNotice tells a user something in their room of notices, to which they are invited if they are not in it. It returns
// the event's id once it is durable.
//
// The error is mxerr.InvalidParam for users of other servers and mxerr.NotFound for those who are not or no longer here.
func (s *Service) SendNotice(ctx context.Context, n Notice) (id.EventID, error) {
	if s.Notices.User == "" {
		return "", mxerr.Forbidden.With("this server sends no notices")
	}
	if !s.local(n.User) {
		return "", mxerr.InvalidParam.With("%s is not a user of this server", n.User)
	}
	if err := s.checkKnown(ctx, n.User); err != nil {
		return "", err
	}
	content, err := s.noticeContent(n)
	if err != nil {
		return "", err
	}
	leave, err := s.noticed.enter(ctx, id.RoomID(n.User)) // of two first notices one makes the room
	if err != nil {
		return "", err
	}
	defer leave()
	room, err := s.noticeRoom(ctx, n.User)
	if err != nil {
		return "", fmt.Errorf("find the room of notices of %s: %w", n.User, err)
	}
	d := Draft{Room: room, Sender: s.Notices.User, Type: n.Type, StateKey: n.StateKey, Content: content, Txn: n.Txn}
	if d.Type == "" {
		d.Type = "m.room.message"
	}
	return s.Send(ctx, d)
}

// noticeContent completes the content of a notice.
func (s *Service) noticeContent(n Notice) ([]byte, error) {
	content := map[string]any{}
	if err := json.Unmarshal(n.Content, &content); err != nil || content == nil {
		return nil, mxerr.BadJSON.With("content has to be an object")
	}
	if n.Type != "" && n.Type != "m.room.message" {
		return n.Content, nil
	}
	if _, given := content["msgtype"]; !given {
		content["msgtype"] = noticeType
	}
	if _, given := content["admin_contact"]; !given && content["msgtype"] == noticeType && s.Notices.AdminContact != "" {
		content["admin_contact"] = s.Notices.AdminContact
	}
	return json.Marshal(content)
}

// noticeRoom returns the room of notices of a user who is in it or invited: the one there was, if it is fit for use, or
// a new one.
func (s *Service) noticeRoom(ctx context.Context, user id.UserID) (id.RoomID, error) {
	var room id.RoomID
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		room, err = tx.NoticeRoom(user)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return s.makeNoticeRoom(ctx, user)
	}
	if err != nil {
		return "", err
	}
	r, err := s.Cache.Room(ctx, room)
	if errors.Is(err, storage.ErrNotFound) {
		return s.makeNoticeRoom(ctx, user)
	}
	if err != nil {
		return "", err
	}
	if m, ok := r.Member(s.Notices.User); !ok || m.Membership != "join" { // it was deleted, or another user sends now
		return s.makeNoticeRoom(ctx, user)
	}
	if m, ok := r.Member(user); ok && (m.Membership == "join" || m.Membership == "invite") {
		return room, nil
	}
	return room, s.inviteToNotices(ctx, room, user)
}

func (s *Service) inviteToNotices(ctx context.Context, room id.RoomID, user id.UserID) error {
	err := s.DB.Write(ctx, func(tx *storage.Tx, pos storage.Pos) error { return s.tagNotices(tx, user, room, pos) })
	if err != nil {
		return err
	}
	return s.SetMembership(ctx, Change{Room: room, Sender: s.Notices.User, Target: user, Membership: "invite"})
}

// makeNoticeRoom makes the room of notices of a user: in one act with what makes it that, so that there never are two.
func (s *Service) makeNoticeRoom(ctx context.Context, user id.UserID) (id.RoomID, error) {
	b, err := s.blueprint(ctx, s.Notices.User, s.noticeWish(user))
	if err != nil {
		return "", err
	}
	b.profiles[s.Notices.User] = [2]string{cmp.Or(s.Notices.DisplayName, s.Notices.RoomName, "Server Notices"), s.Notices.AvatarURL}
	b.noticesTo = user
	p, room, err := s.lay(ctx, b)
	if err != nil {
		return "", err
	}
	return room, p.Wait(ctx)
}

// noticeWish is a room in which only the server speaks, and which no other server enters.
func (s *Service) noticeWish(user id.UserID) NewRoom {
	n := NewRoom{
		Preset: "private_chat", Name: cmp.Or(s.Notices.RoomName, "Server Notices"), Invite: []id.UserID{user},
		Creation:      map[string]any{"m.federate": false},
		PowerOverride: map[string]any{"users_default": -10, "invite": 100},
		InitialState:  []InitialState{{Type: "m.room.guest_access", Content: json.RawMessage(`{"guest_access":"can_join"}`)}},
	}
	if s.Notices.RoomAvatarURL != "" {
		content, err := json.Marshal(map[string]string{"url": s.Notices.RoomAvatarURL})
		if err == nil {
			n.InitialState = append(n.InitialState, InitialState{Type: "m.room.avatar", Content: content})
		}
	}
	return n
}

// keepNoticeRoom makes the room that is being laid the room of notices of a user, in the same act.
func (s *Service) keepNoticeRoom(w *roomstate.Writer, user id.UserID) {
	act, room := w.Act(), w.ID
	act.Also(func(tx *storage.Tx, first storage.Pos) error {
		if err := tx.PutNoticeRoom(user, room); err != nil {
			return err
		}
		return s.tagNotices(tx, user, room, lastOf(act, first))
	})
}

// tagNotices marks a room as one of notices, beside the tags that its user has given it; pos is a position of the act.
//
// "Servers must identify this room to clients with the m.server_notice tag."
func (s *Service) tagNotices(tx *storage.Tx, user id.UserID, room id.RoomID, pos storage.Pos) error {
	var content struct {
		Tags map[string]json.RawMessage `json:"tags"`
	}
	own, err := accountData(tx, user, room, tagData)
	if err != nil {
		return err
	}
	if json.Unmarshal(own, &content) != nil || content.Tags == nil {
		content.Tags = map[string]json.RawMessage{}
	}
	if _, tagged := content.Tags[noticeTag]; tagged {
		return nil
	}
	content.Tags[noticeTag] = json.RawMessage(`{}`)
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	tx.Then(func(storage.Pos) {
		s.Hub.Record(notify.Change{Pos: pos, Kind: notify.AccountData, Room: room, User: user})
	}, nil)
	return tx.PutAccountData(user, room, tagData, raw, pos)
}

// staysForNotices refuses to turn the invite to a room of notices down.
//
// "Attempting to reject the invite must result in a M_CANNOT_LEAVE_SERVER_NOTICE_ROOM error."
func (s *Service) staysForNotices(w *roomstate.Writer, user id.UserID) error {
	if s.Notices.User == "" {
		return nil
	}
	now := w.Event("m.room.member", string(user))
	if now == nil || now.Membership() != "invite" || now.Sender != s.Notices.User {
		return w.Err()
	}
	return mxerr.CannotLeaveNotices.With("the administrators of the server need this room to reach you; you can leave it once you are in it")
}

type noticeBody struct {
	User     id.UserID       `json:"user_id"`
	Content  json.RawMessage `json:"content"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key"`
}

// sendServerNotice implements POST /_synapse/admin/v1/send_server_notice.
//
// Not in the specification; https://spec.matrix.org/latest/client-server-api/#server-notices leaves it open.
func (s *Service) sendServerNotice(ctx context.Context, c *httpapi.Call, in *noticeBody) (*eventID, error) {
	if in.User == "" || len(in.Content) == 0 {
		return nil, mxerr.MissingParam.With("user_id and content are needed")
	}
	if _, err := id.ParseUserID(string(in.User)); err != nil {
		return nil, mxerr.InvalidParam.With("user_id is not a user id")
	}
	if !gjson.ParseBytes(in.Content).IsObject() {
		return nil, mxerr.BadJSON.With("content has to be an object")
	}
	n := Notice{User: in.User, Content: in.Content, Type: in.Type, StateKey: in.StateKey, Txn: c.PathValue("txnId")}
	if n.Txn != "" {
		n.Txn = string(c.User) + " " + n.Txn // of another administrator it means something else
	}
	ev, err := s.SendNotice(ctx, n)
	if err != nil {
		return nil, err
	}
	return &eventID{ev}, nil
}

// sendServerNoticeOnce implements PUT /_synapse/admin/v1/send_server_notice/{txnId}.
//
// Not in the specification; https://spec.matrix.org/latest/client-server-api/#server-notices leaves it open.
func (s *Service) sendServerNoticeOnce(ctx context.Context, c *httpapi.Call, in *noticeBody) (*eventID, error) {
	return s.sendServerNotice(ctx, c, in)
}
