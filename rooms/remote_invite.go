package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

// inviteElsewhere invites a user of another server: that server signs the invite before it becomes part of the room.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#inviting-to-a-room
func (s *Service) inviteElsewhere(ctx context.Context, c *Change) error {
	invite, state, err := s.draftInvite(ctx, c)
	if err != nil || invite == nil {
		return err
	}
	r, err := s.room(ctx, c.Room)
	if err != nil {
		return err
	}
	if invite, err = s.recommended(ctx, r, invite); err != nil {
		return err
	}
	raw, err := s.Remote.SendInvite(ctx, c.Target.Server(), invite, state)
	if err != nil {
		return inviteRefused(c, err)
	}
	if invite, err = countersigned(invite, c.Target.Server(), raw); err != nil {
		return err
	}
	_, err = s.takeIn(ctx, s.ServerName, r, invite)
	return err
}

// draftInvite builds an invite on the room's head without putting it there; nil when there is nothing to do.
func (s *Service) draftInvite(ctx context.Context, c *Change) (*event.Event, []json.RawMessage, error) {
	content, err := c.content("", "")
	if err != nil {
		return nil, nil, err
	}
	w, err := s.lock(ctx, c.Room)
	if err != nil {
		return nil, nil, err
	}
	defer w.Unlock()
	if done, err := alreadySo(w, c); done || err != nil {
		return nil, nil, err
	}
	if !federates(w.Event("m.room.create", "")) {
		return nil, nil, mxerr.Forbidden.With("the room is for users of this server alone")
	}
	key := string(c.Target)
	ev, err := s.build(w, Draft{Room: c.Room, Sender: c.Sender, Type: "m.room.member", StateKey: &key, Content: content})
	if err != nil {
		return nil, nil, err
	}
	if err := check(w, ev); err != nil {
		return nil, nil, err
	}
	return ev, recognisable(w, c.Sender), w.Err()
}

// federates reports whether users of other servers can ever join the room: nothing else keeps an invite from them.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroomcreate
func federates(create *event.Event) bool {
	return create == nil || gjson.GetBytes(create.Content(), `m\.federate`).Type != gjson.False
}

// recognisable are the events of a room's state by which somebody outside recognises it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#stripped-state
func recognisable(w *roomstate.Writer, inviter id.UserID) []json.RawMessage {
	var list []json.RawMessage
	for _, key := range []roomstate.Key{
		{Type: "m.room.create"}, {Type: "m.room.name"}, {Type: "m.room.avatar"}, {Type: "m.room.topic"},
		{Type: "m.room.join_rules"}, {Type: "m.room.canonical_alias"}, {Type: "m.room.encryption"},
		{Type: "m.room.member", StateKey: string(inviter)},
	} {
		if e := w.Event(key.Type, key.StateKey); e != nil {
			list = append(list, e.JSON)
		}
	}
	return list
}

// inviteRefused is what a client is told when the server of who is invited does not take the invite.
//
// "One or more users being invited to the room are residents of a homeserver which does not support the requested room
// version. The errcode will be M_UNSUPPORTED_ROOM_VERSION in these cases."
func inviteRefused(c *Change, err error) error {
	var told *mxerr.Error
	if !errors.As(err, &told) {
		told = mxerr.Unknown.With("%v", err)
	}
	switch {
	case errors.Is(told, mxerr.Forbidden):
		return mxerr.Forbidden.With("%s", told.Message)
	case errors.Is(told, mxerr.InviteBlocked):
		return mxerr.InviteBlocked.With("%s", told.Message)
	case errors.Is(told, mxerr.IncompatibleVersion):
		return mxerr.UnsupportedRoomVersion.With("%s", told.Message)
	}
	return mxerr.Unknown.WithStatus(502).With("%s could not be invited: %s", c.Target, told.Message)
}

// countersigned returns an invite with the signature that another server has put on it.
func countersigned(invite *event.Event, server id.ServerName, raw json.RawMessage) (*event.Event, error) {
	theirs, err := event.ParseUntrusted(invite.Rules, raw)
	if err != nil {
		return nil, fmt.Errorf("answer of %s to an invite: %w", server, err)
	}
	if theirs.ID != invite.ID {
		return nil, mxerr.Unknown.WithStatus(502).With("%s answers with another event", server)
	}
	for _, keyID := range theirs.SignedBy(server) {
		if signature, err := signing.Signature(theirs.JSON, string(server), keyID); err == nil {
			return invite.AddSignature(server, keyID, signing.Encode(signature))
		}
	}
	return nil, mxerr.Unknown.WithStatus(502).With("%s has not signed the invite", server)
}

// SendMember takes in a member event that a user of another server has completed from a template of this one, and
// tells that server what it needs to know of the room. The same event again has the same answer.
//
// The error is mxerr.NotFound when this server is not in the room, mxerr.InvalidParam for another event than the one
// that is wished for, mxerr.Forbidden for one that is not signed or not allowed.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_joinroomideventid
func (s *Service) SendMember(ctx context.Context, wish Wish, eventID id.EventID, raw json.RawMessage) (*Entered, error) {
	r, err := s.residence(ctx, wish.Origin, wish.Room)
	if err != nil {
		return nil, err
	}
	ev, err := signedMember(r, wish, eventID, raw)
	if err != nil {
		return nil, err
	}
	if ev, err = s.countersign(r, ev); err != nil {
		return nil, err
	}
	if err := s.verify(ctx, ev); err != nil {
		return nil, err
	}
	if err := s.mayEnter(ctx, r, ev); err != nil {
		return nil, err
	}
	e, err := s.takeIn(ctx, wish.Origin, r, ev)
	if err != nil {
		return nil, err
	}
	return s.entered(ctx, r, e)
}

// mayEnter sees that a user for whom one of this server vouches still meets a condition of a restricted room.
func (s *Service) mayEnter(ctx context.Context, r *roomstate.Room, join *event.Event) error {
	rules, err := r.StateEvent(ctx, r.View().State, "m.room.join_rules", "")
	if err != nil || rules == nil || !restricted(rules.Event) || join.Membership() != "join" {
		return err
	}
	if m, ok := r.Member(join.Sender); ok && (m.Membership == "join" || m.Membership == "invite") {
		return nil
	}
	meets, err := s.meetsCondition(ctx, rules.Event, join.Sender)
	if err == nil && !meets {
		err = mxerr.Forbidden.With("the user is in none of the rooms whose members may join")
	}
	return err
}

// takeIn puts an event, whose signatures were checked, into a room in which this server is, and lets the other servers
// know: nobody else sends it to them.
func (s *Service) takeIn(ctx context.Context, origin id.ServerName, r *roomstate.Room, ev *event.Event) (*roomstate.Event, error) {
	d, err := s.newDelivery(ctx, origin, r.ID)
	if err != nil {
		return nil, err
	}
	d.relay = true
	d.add([]*event.Event{ev})
	d.decide(ctx)
	if err := d.verdict(ev.ID); err != nil {
		return nil, err
	}
	stored, err := r.StoredByID(ctx, []id.EventID{ev.ID})
	if err != nil {
		return nil, err
	}
	if len(stored) != 1 || !stored[0].Flagged(storage.InTimeline) {
		return nil, mxerr.Forbidden.With("the room does not allow the event as it is now")
	}
	return stored[0], nil
}

// entered is what a server is told of a room that one of its users has got into.
func (s *Service) entered(ctx context.Context, r *roomstate.Room, e *roomstate.Event) (*Entered, error) {
	in := &Entered{Event: e.Event, Version: r.Rules.Version, Servers: r.Servers()}
	switch e.Membership() {
	case "join":
		state, auth, err := s.wholeState(ctx, r, e)
		in.State, in.Auth = inner(state), inner(auth)
		return in, err
	case "knock":
		w, err := s.lock(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		defer w.Unlock()
		in.Stripped = recognisable(w, e.Sender)
		return in, w.Err()
	}
	return in, nil
}

func inner(events []*roomstate.Event) []*event.Event {
	list := make([]*event.Event, len(events))
	for i, e := range events {
		list[i] = e.Event
	}
	return list
}
