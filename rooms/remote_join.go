package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/storage"
)

// errHere says that this server is in the room after all, so that what was to be asked of others is for itself to do.
var errHere = errors.New("rooms: this server is in the room")

// elsewhere changes the membership of a local user in a room in which this server is not: through a server that is.
// The error is errHere when this server has come into the room meanwhile.
func (s *Service) elsewhere(ctx context.Context, c *Change) error {
	if s.Remote == nil {
		return s.abandoned(ctx, c)
	}
	leave, err := s.lanes.enter(ctx, c.Room) // of two who join, the second finds the room here
	if err != nil {
		return err
	}
	defer leave()
	if here, err := s.resident(ctx, c.Room); err != nil || here {
		return errors.Join(err, errHere)
	}
	switch c.Membership {
	case "join":
		return s.through(ctx, c, s.joinThrough)
	case "knock":
		return s.through(ctx, c, s.knockThrough)
	case "leave":
		return s.leaveElsewhere(ctx, c)
	}
	return unknownHere(c)
}

// abandoned lets users turn down the invite to a room that everybody has left, and take a knock on it back: on a server
// that talks with no other, all there is of the room is here.
func (s *Service) abandoned(ctx context.Context, c *Change) error {
	if c.Membership != "leave" {
		return unknownHere(c)
	}
	r, err := s.Cache.Room(ctx, c.Room)
	if errors.Is(err, storage.ErrNotFound) {
		return unknownHere(c)
	}
	if err != nil {
		return err
	}
	if m, ok := r.Member(c.Target); !ok || m.Membership != "invite" && m.Membership != "knock" {
		return unknownHere(c)
	}
	return errHere
}

func unknownHere(c *Change) error {
	if c.Membership == "join" || c.Membership == "knock" {
		return mxerr.NotFound.With("this server does not know the room")
	}
	return mxerr.Forbidden.With("nobody of this server is in the room")
}

// through asks one server after the other until one of them does it.
func (s *Service) through(ctx context.Context, c *Change, try func(context.Context, *Change, id.ServerName) error) error {
	candidates := s.candidates(ctx, c)
	if len(candidates) == 0 {
		return mxerr.NotFound.With("no server is known that is in the room")
	}
	var errs []error
	for _, server := range candidates {
		err := try(ctx, c, server)
		if err == nil || ctx.Err() != nil || errors.Is(err, mxerr.GuestAccessForbidden) {
			return err // a room without guests has none, whichever server is asked
		}
		s.Log.DebugContext(ctx, "a server did not help with a membership", "room", c.Room, "server", server, "error", err)
		errs = append(errs, fmt.Errorf("%s: %w", server, err))
	}
	return asAnswer(c, errs)
}

// asAnswer is what a client is told when no server helped: what one of them has refused, or that none could be asked.
func asAnswer(c *Change, errs []error) error {
	for _, err := range errs {
		var refusal *mxerr.Error
		if errors.As(err, &refusal) && refusal.Status < 500 {
			return refusal
		}
	}
	return mxerr.Unknown.WithStatus(502).With("%s %s: no server could be asked: %v", c.Membership, c.Room, errors.Join(errs...))
}

// wish is a change as another server is asked for it.
func (s *Service) wish(c *Change) Wish {
	return Wish{Origin: s.ServerName, Room: c.Room, User: c.Target, Membership: c.Membership, Versions: roomversion.All()}
}

// make completes the template that a server gives.
func (s *Service) make(ctx context.Context, c *Change, server id.ServerName) (*event.Event, error) {
	t, err := s.Remote.MakeMember(ctx, server, s.wish(c))
	if err != nil {
		return nil, err
	}
	content, err := s.foreignContent(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.complete(t, s.wish(c), content)
}

// foreignContent is the content of the member event in a room of others.
func (s *Service) foreignContent(ctx context.Context, c *Change) (map[string]any, error) {
	name, avatar, err := s.profileFor(ctx, *c)
	if err != nil {
		return nil, err
	}
	raw, err := c.content(name, avatar)
	if err != nil {
		return nil, err
	}
	content := map[string]any{}
	err = json.Unmarshal(raw, &content)
	delete(content, "join_authorised_via_users_server") // says the template
	return content, err
}

// joinThrough lets a server take in a join, and takes over the room as it tells it.
func (s *Service) joinThrough(ctx context.Context, c *Change, server id.ServerName) error {
	join, err := s.make(ctx, c, server)
	if err != nil {
		return err
	}
	answer, err := s.Remote.SendJoin(ctx, server, join)
	if err != nil {
		return err
	}
	if c.Guest && !guestsWelcome(answer.State) {
		return s.backOut(ctx, c, server)
	}
	if join, err = s.vouchedFor(ctx, join, answer.Event); err != nil {
		return err
	}
	return s.enter(ctx, server, join, answer)
}

// guestsWelcome reports whether a state, as another server tells it, lets guests join: "Servers MUST only allow guest
// users to join rooms if the m.room.guest_access state event is present on the room, and has the … value can_join."
//
// Spec: https://spec.matrix.org/latest/client-server-api/#guest-access
func guestsWelcome(state []json.RawMessage) bool {
	return slices.ContainsFunc(state, func(raw json.RawMessage) bool {
		fields := gjson.GetManyBytes(raw, "type", "state_key", "content.guest_access")
		return fields[0].Str == "m.room.guest_access" && fields[1].Type == gjson.String && fields[1].Str == "" &&
			fields[2].Str == "can_join"
	})
}

// backOut takes back the join of a guest to a room that takes none: no server says so before it is joined.
func (s *Service) backOut(ctx context.Context, c *Change, server id.ServerName) error {
	leave := &Change{Room: c.Room, Sender: c.Sender, Target: c.Target, Membership: "leave"}
	if err := s.leaveThrough(ctx, leave, server); err != nil {
		s.Log.WarnContext(ctx, "take the join of a guest back", "room", c.Room, "user", c.Target, "server", server, "error", err)
	}
	return mxerr.GuestAccessForbidden.With("this room takes no guests")
}

// vouchedFor returns a join with the signature of the server whose user vouches for it, if that has signed it.
func (s *Service) vouchedFor(ctx context.Context, join *event.Event, raw json.RawMessage) (*event.Event, error) {
	if len(raw) == 0 {
		return join, nil
	}
	signed, err := event.ParseUntrusted(join.Rules, raw)
	if err != nil {
		return nil, err
	}
	if signed.ID != join.ID || !event.CheckContentHash(signed) {
		return nil, mxerr.BadJSON.With("the server answers with another event")
	}
	if err := s.Remote.VerifyEvents(ctx, []*event.Event{signed})[0]; err != nil {
		return nil, err
	}
	return signed, nil
}

// knockThrough lets a server take in a knock.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#knocking-upon-a-room
func (s *Service) knockThrough(ctx context.Context, c *Change, server id.ServerName) error {
	knock, err := s.make(ctx, c, server)
	if err != nil {
		return err
	}
	state, err := s.Remote.SendKnock(ctx, server, knock)
	if err != nil {
		return err
	}
	return s.keepOutside(ctx, knock, keepStripped(state))
}

// leaveElsewhere turns an invite down or takes a knock back. If no server can be asked, the user is out of the room
// here all the same.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#leaving-rooms-rejecting-invites
func (s *Service) leaveElsewhere(ctx context.Context, c *Change) error {
	r, err := s.room(ctx, c.Room)
	if err != nil {
		return err
	}
	now, err := r.MembershipIn(ctx, r.View().State, c.Target)
	switch {
	case err != nil:
		return err
	case now == "ban":
		return mxerr.Forbidden.With("you are banned from this room")
	case now == "leave":
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, leavePatience)
	defer cancel()
	err = s.through(asking, c, s.leaveThrough)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return s.leaveAlone(ctx, c)
}

func (s *Service) leaveThrough(ctx context.Context, c *Change, server id.ServerName) error {
	leave, err := s.make(ctx, c, server)
	if err != nil {
		return err
	}
	if err := s.Remote.SendLeave(ctx, server, leave); err != nil {
		return err
	}
	return s.keepOutside(ctx, leave, nil)
}

// leaveAlone makes a leave that only this server knows.
func (s *Service) leaveAlone(ctx context.Context, c *Change) error {
	w, err := s.lock(ctx, c.Room)
	if err != nil {
		return err
	}
	content, err := c.content("", "")
	if err != nil {
		w.Unlock()
		return err
	}
	key := string(c.Target)
	leave, err := s.build(w, Draft{Room: c.Room, Sender: c.Sender, Type: "m.room.member", StateKey: &key, Content: content})
	w.Unlock()
	if err != nil {
		return err
	}
	return s.keepOutside(ctx, leave, nil)
}
