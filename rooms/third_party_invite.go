package rooms

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
)

// Exchange makes an invite of a third-party invite of a local user, for a user of another server whose identity was
// found out meanwhile. partial is the m.room.member event as that server wants it; of it the room, who invites whom,
// and what the identity server has signed count. It returns when the user is invited.
//
// The error is mxerr.InvalidParam for what is no invite of the room, mxerr.NotFound when this server is not in it, and
// mxerr.Forbidden when the invite was revoked, is another's, or is not signed by a key that is valid still.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#third-party-invites
func (s *Service) Exchange(ctx context.Context, origin id.ServerName, room id.RoomID, partial json.RawMessage) error {
	c, signed, err := partialInvite(room, partial)
	if err != nil {
		return err
	}
	if _, err := s.residence(ctx, origin, room); err != nil {
		return err
	}
	switch {
	case c.Target.Server() != origin:
		return mxerr.Forbidden.With("%s is not a user of %s", c.Target, origin)
	case !s.local(c.Sender):
		return mxerr.Forbidden.With("%s is not a user of this server", c.Sender)
	}
	return s.exchange(ctx, c, signed)
}

// partialInvite reads an invite that another server wants.
func partialInvite(room id.RoomID, partial json.RawMessage) (*Change, json.RawMessage, error) {
	var p struct {
		Type     string    `json:"type"`
		Room     id.RoomID `json:"room_id"`
		Sender   string    `json:"sender"`
		StateKey string    `json:"state_key"`
		Content  struct {
			Membership string `json:"membership"`
			ThirdParty struct {
				Signed json.RawMessage `json:"signed"`
			} `json:"third_party_invite"`
		} `json:"content"`
	}
	if err := json.Unmarshal(partial, &p); err != nil {
		return nil, nil, mxerr.BadJSON.With("this is no event")
	}
	sender, senderErr := id.ParseUserID(p.Sender)
	target, targetErr := id.ParseUserID(p.StateKey)
	switch {
	case p.Type != "m.room.member" || p.Content.Membership != "invite":
		return nil, nil, mxerr.InvalidParam.With("the event is no invite")
	case p.Room != room:
		return nil, nil, mxerr.InvalidParam.With("the event is of another room")
	case senderErr != nil || targetErr != nil:
		return nil, nil, mxerr.InvalidParam.With("sender and state_key have to be user ids")
	case !gjson.ParseBytes(p.Content.ThirdParty.Signed).IsObject():
		return nil, nil, mxerr.InvalidParam.With("content.third_party_invite.signed is missing")
	}
	return &Change{Room: room, Sender: sender, Target: target, Membership: "invite"}, p.Content.ThirdParty.Signed, nil
}

// exchange invites a user who has the signature that a third-party invite asks for.
func (s *Service) exchange(ctx context.Context, c *Change, signed json.RawMessage) error {
	invite, err := s.thirdPartyInvite(ctx, c.Room, signed)
	if err != nil {
		return err
	}
	c.Content = map[string]any{"third_party_invite": map[string]any{
		"display_name": gjson.GetBytes(invite.Content(), "display_name").String(), "signed": signed,
	}}
	member, _, err := s.draftInvite(ctx, c)
	if err != nil || member == nil {
		return err
	}
	if err := s.checkInviteKeys(ctx, eventauth.InviteKeys(member, invite)); err != nil {
		return err
	}
	return s.SetMembership(ctx, *c)
}

// thirdPartyInvite returns the m.room.third_party_invite that has the token of a signed object.
func (s *Service) thirdPartyInvite(ctx context.Context, room id.RoomID, signed json.RawMessage) (*event.Event, error) {
	r, err := s.room(ctx, room)
	if err != nil {
		return nil, err
	}
	var invite *roomstate.Event
	if token := gjson.GetBytes(signed, "token"); token.Type == gjson.String {
		invite, err = r.StateEvent(ctx, r.View().State, "m.room.third_party_invite", token.Str)
	}
	if err == nil && invite == nil {
		err = mxerr.Forbidden.With("the third-party invite does not exist")
	}
	if err != nil {
		return nil, err
	}
	return invite.Event, nil
}

// checkInviteKeys sees that one of some keys is valid still: the server that makes the invite "MUST validate that the
// public key used for signing is still valid". "If this URL is absent, the key must be considered valid indefinitely."
//
// Spec: https://spec.matrix.org/latest/client-server-api/#third-party-invites
func (s *Service) checkInviteKeys(ctx context.Context, keys []eventauth.InviteKey) error {
	for _, key := range keys {
		if key.ValidityURL == "" {
			return nil
		}
		if s.Remote == nil {
			continue
		}
		valid, err := s.Remote.KeyValid(ctx, key.ValidityURL, key.Text)
		if err == nil && valid {
			return nil
		}
		s.Log.DebugContext(ctx, "a key of a third-party invite does not count", "url", key.ValidityURL, "valid", valid, "error", err)
	}
	return mxerr.Forbidden.With("the third-party invite is not signed by a key that is valid still")
}

// Bound is a third-party invite whose receiver an identity server knows now.
type Bound struct {
	Room   id.RoomID
	Sender id.UserID       // who has invited them
	Signed json.RawMessage // by the identity server
}

// redeem makes an invite of the third-party invite that a client shows with its join: "the homeserver must verify that it
// matches a pending m.room.third_party_invite event in the room, and perform key validity checking".
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidjoin
func (s *Service) redeem(ctx context.Context, c *httpapi.Call, room id.RoomID) error {
	signed := gjson.GetBytes(c.Body, "third_party_signed")
	if signed.Type == gjson.Null { // it is not there, or says nothing
		return nil
	}
	var who struct {
		Sender string `json:"sender"`
	}
	if err := json.Unmarshal([]byte(signed.Raw), &who); err != nil {
		return mxerr.BadJSON.With("third_party_signed has to be an object")
	}
	sender, err := id.ParseUserID(who.Sender)
	if err != nil {
		return mxerr.InvalidParam.With("the sender in third_party_signed is not a user id")
	}
	if _, err := s.roomOf(ctx, room, c.User); err == nil {
		return nil // who is in the room needs no invite
	}
	return s.bind(ctx, c.User, Bound{Room: room, Sender: sender, Signed: json.RawMessage(signed.Raw)})
}

// bindTime is how long the invites of one binding may take.
const bindTime = time.Minute

// Bind has a local user invited to the rooms of third-party invites: by this server, or by those of who has invited
// them. An invite that does not come about is only logged, for nobody waits for it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv13pidonbind
func (s *Service) Bind(ctx context.Context, user id.UserID, invites []Bound) error {
	if err := s.checkKnown(ctx, user); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bindTime)
	defer cancel()
	eachBeside(invites, func(b Bound) {
		if err := s.bind(ctx, user, b); err != nil {
			s.Log.WarnContext(ctx, "a third-party invite did not become an invite", "room", b.Room, "user", user, "error", err)
		}
	})
	return nil
}

func (s *Service) bind(ctx context.Context, user id.UserID, b Bound) error {
	if mxid := gjson.GetBytes(b.Signed, "mxid"); mxid.String() != string(user) {
		return mxerr.InvalidParam.With("the invite is signed for %s", mxid)
	}
	c := &Change{Room: b.Room, Sender: b.Sender, Target: user, Membership: "invite"}
	if s.local(b.Sender) {
		return s.exchange(ctx, c, b.Signed)
	}
	if s.Remote == nil {
		return mxerr.Forbidden.With("this server does not federate")
	}
	partial, err := json.Marshal(map[string]any{
		"type": "m.room.member", "room_id": b.Room, "sender": b.Sender, "state_key": user,
		"content": map[string]any{"membership": "invite", "third_party_invite": map[string]any{"display_name": string(user), "signed": b.Signed}},
	})
	if err != nil {
		return err
	}
	return s.Remote.ExchangeInvite(ctx, b.Sender.Server(), b.Room, partial)
}
