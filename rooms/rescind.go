package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
)

// receiveOutside takes events of a room in which nobody is from here: those that end an invite or a knock of a local
// user. There is no state by which to judge them, so that only who has invited may take the invite back. A knock may be
// refused by any user, since nobody here knows who can.
func (s *Service) receiveOutside(ctx context.Context, origin id.ServerName, r *roomstate.Room, pdus []json.RawMessage) []error {
	errs := make([]error, len(pdus))
	for i, raw := range pdus {
		errs[i] = s.rescinded(ctx, origin, r, raw)
	}
	return errs
}

// rescinded takes in one such event.
func (s *Service) rescinded(ctx context.Context, origin id.ServerName, r *roomstate.Room, raw json.RawMessage) error {
	ev, err := event.ParseUntrusted(r.Rules, raw)
	if err != nil {
		return err
	}
	if err := s.mayRescind(ctx, origin, r, ev); err != nil {
		return err
	}
	if err := s.verify(ctx, ev); err != nil {
		return err
	}
	if ev, err = checkHash(ev); err != nil {
		return err
	}
	w, err := s.Cache.Lock(ctx, r.ID)
	if err != nil {
		return err
	}
	if err := s.endsNow(w, ev); err != nil {
		w.Unlock()
		return err
	}
	return s.graftOutside(ctx, w, ev, nil)
}

// endsNow sees that what an event ends is there still: while it was verified the user may have knocked or been invited
// again, or somebody may have brought this server into the room.
func (s *Service) endsNow(w *roomstate.Writer, ev *event.Event) error {
	if w.HeadHasServer(s.ServerName) {
		return mxerr.Forbidden.With("this server has come into the room meanwhile")
	}
	now := w.Event("m.room.member", *ev.StateKey)
	if err := w.Err(); err != nil {
		return err
	}
	if now == nil || !slices.Contains(ev.AuthEvents, now.ID) {
		return mxerr.Forbidden.With("the event does not follow the membership")
	}
	return nil
}

// mayRescind sees that an event ends what there is of a local user in a room.
func (s *Service) mayRescind(ctx context.Context, origin id.ServerName, r *roomstate.Room, ev *event.Event) error {
	ends := ev.Membership() == "leave" || ev.Membership() == "ban"
	if ev.Type != "m.room.member" || ev.StateKey == nil || !ends || ev.Room != r.ID {
		return mxerr.Forbidden.With("nobody of this server is in the room")
	}
	user := id.UserID(*ev.StateKey)
	m, ok := r.Member(user)
	if !ok || !s.local(user) || m.Membership != "invite" && m.Membership != "knock" {
		return mxerr.Forbidden.With("nobody of this server is in the room")
	}
	if ev.Sender.Server() != origin {
		return mxerr.Forbidden.With("the event is of another server")
	}
	now, err := r.EventAt(ctx, m.Pos)
	if err != nil {
		return err
	}
	// An event that ends this one names it; any other is late, for it came before.
	if !slices.Contains(ev.AuthEvents, now.ID) {
		return mxerr.Forbidden.With("the event does not follow the %s", m.Membership)
	}
	if m.Membership == "invite" && now.Sender != ev.Sender {
		return mxerr.Forbidden.With("the invite is of somebody else")
	}
	return nil
}
