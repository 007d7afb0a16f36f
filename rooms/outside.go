package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/storage"
)

// A room in which this server is not is known to it all the same while one of its users is invited to it or knocks. Of
// such a room it has the member events of those users and nothing else; its state consists of them.

// Invitation is an invite of a local user that another server sends.
type Invitation struct {
	Origin  id.ServerName
	Room    id.RoomID
	EventID id.EventID
	Version string
	Event   json.RawMessage
	State   []json.RawMessage // what the inviting server tells of the room
}

// Invited takes in an invite from another server and returns the event with this server's signature.
//
// The error is mxerr.IncompatibleVersion for a room version that is not known here, mxerr.InvalidParam or
// mxerr.MissingParam for what is no invite of a local user, mxerr.Forbidden for a wrong signature and for users who
// take no invites.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2inviteroomideventid
func (s *Service) Invited(ctx context.Context, in Invitation) (*event.Event, error) {
	rules, ok := roomversion.Get(in.Version)
	if !ok {
		return nil, mxerr.IncompatibleVersion.Set("room_version", in.Version)
	}
	ev, err := parseInvite(rules, in)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.mayInvite(ctx, ev), s.checkBlocked(ctx, ev.Room)); err != nil {
		return nil, err
	}
	stripped, err := strippedState(rules, in)
	if err != nil {
		return nil, err
	}
	if err := s.verify(ctx, ev); err != nil {
		return nil, err
	}
	if ev, err = ev.Sign(s.ServerName, s.Key); err != nil {
		return nil, err
	}
	return ev, s.keepInvite(ctx, in, ev, stripped)
}

// parseInvite parses an invite and sees that it is what it says.
func parseInvite(rules *roomversion.Rules, in Invitation) (*event.Event, error) {
	ev, err := event.ParseUntrusted(rules, in.Event)
	if err != nil {
		return nil, err
	}
	switch {
	case ev.Room != in.Room:
		return nil, mxerr.InvalidParam.With("the event is of another room")
	case ev.ID != in.EventID:
		return nil, mxerr.InvalidParam.With("the event has the id %s", ev.ID)
	case ev.Type != "m.room.member" || ev.StateKey == nil || ev.Membership() != "invite":
		return nil, mxerr.InvalidParam.With("the event is no invite")
	case ev.Sender.Server() != in.Origin:
		return nil, mxerr.InvalidParam.With("%s is not a user of %s", ev.Sender, in.Origin)
	case !event.CheckContentHash(ev):
		return nil, mxerr.InvalidParam.With("the content hash is wrong")
	}
	return ev, nil
}

// mayInvite refuses invites of users of other servers, and of those who take none. Users who do not exist take them: other
// servers are not told who has an account here.
func (s *Service) mayInvite(ctx context.Context, ev *event.Event) error {
	user, err := id.ParseUserID(*ev.StateKey)
	if err != nil || !s.local(user) {
		return mxerr.InvalidParam.With("%s is not a user of this server", *ev.StateKey)
	}
	account, ok, err := s.account(ctx, user)
	if err != nil {
		return err
	}
	if ok && account.Deactivated {
		return mxerr.Forbidden.With("%s cannot be invited", user)
	}
	return s.checkInvitee(ctx, ev.Sender, user)
}

// maxStripped bounds the stripped state that comes with an invite or a knock; the specification names eight entries.
const maxStripped = 100

// strippedState keeps of the state that an inviting server tells what has the form of stripped state.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2inviteroomideventid
func strippedState(rules *roomversion.Rules, in Invitation) ([]byte, error) {
	list := keepStripped(in.State)
	if !rules.RoomIDIsCreateHash {
		return list, nil
	}
	for _, raw := range in.State {
		ev, err := event.ParseUntrusted(rules, raw)
		if err == nil && ev.Is("m.room.create", "") && ev.Room == in.Room {
			return list, nil
		}
	}
	return nil, mxerr.MissingParam.With("invite_room_state has no m.room.create event of the room")
}

// keepStripped returns what has the form of stripped state, as a JSON list.
func keepStripped(state []json.RawMessage) []byte {
	list := []byte{'['}
	seen := map[roomstate.Key]bool{}
	for _, raw := range state {
		k, stripped, ok := strip(raw)
		if !ok || seen[k] || len(seen) == maxStripped {
			continue
		}
		seen[k] = true
		if len(list) > 1 {
			list = append(list, ',')
		}
		list = append(list, stripped...)
	}
	return append(list, ']')
}

// strip returns an event as stripped state.
func strip(raw json.RawMessage) (k roomstate.Key, stripped []byte, ok bool) {
	if len(raw) > event.MaxPDU || canonjson.CheckLenient(raw) != nil || !gjson.ParseBytes(raw).IsObject() {
		return k, nil, false
	}
	fields := gjson.GetManyBytes(raw, "type", "state_key", "sender", "content")
	for _, f := range fields[:3] {
		if f.Type != gjson.String {
			return k, nil, false
		}
	}
	if !fields[3].IsObject() {
		return k, nil, false
	}
	stripped, err := json.Marshal(map[string]any{
		"type": fields[0].String(), "state_key": fields[1].String(), "sender": fields[2].String(),
		"content": json.RawMessage(fields[3].Raw),
	})
	return roomstate.Key{Type: fields[0].String(), StateKey: fields[1].String()}, stripped, err == nil
}

// keepInvite stores an invite: as an event of the room where this server is in it, else beside what is known of it.
func (s *Service) keepInvite(ctx context.Context, in Invitation, ev *event.Event, stripped []byte) error {
	here, err := s.resident(ctx, in.Room)
	if err != nil {
		return err
	}
	if here {
		err := s.Receive(ctx, in.Origin, in.Room, []json.RawMessage{ev.JSON})[0]
		if err != nil && !errors.Is(err, ErrRejected) { // a rejected one changes nothing, whoever has signed it
			return mxerr.Forbidden.With("the invite is not allowed: %v", err)
		}
		return nil
	}
	if _, exists, err := s.account(ctx, id.UserID(*ev.StateKey)); err != nil || !exists {
		return err // there is nobody to tell
	}
	return s.keepOutside(ctx, ev, stripped)
}

// keepOutside stores a member event of a local user of a room in which this server is not, and what was told of the
// room with it.
func (s *Service) keepOutside(ctx context.Context, ev *event.Event, stripped []byte) error {
	w, err := s.lockOrCreate(ctx, ev.Room, ev.Rules)
	if err != nil {
		return err
	}
	return s.graftOutside(ctx, w, ev, stripped)
}

// graftOutside is keepOutside for a room that is locked, which it unlocks.
func (s *Service) graftOutside(ctx context.Context, w *roomstate.Writer, ev *event.Event, stripped []byte) error {
	if known, err := w.Known(ctx, []id.EventID{ev.ID}); err != nil || known[ev.ID] != nil {
		w.Unlock() // an invite may come twice
		return err
	}
	g := roomstate.Graft{
		Flags:  storage.InTimeline | storage.Outlier, // its place in the room's history comes with the room
		Before: w.Current(), Anew: true, Auth: make([]*roomstate.Event, len(ev.AuthEvents)),
	}
	if stripped != nil {
		w.Act().Add(storage.UpsertStripped, w.Num, *ev.StateKey, stripped)
	}
	w, p, err := w.Receive(ev, g)
	w.Unlock()
	if err != nil {
		return err
	}
	return p.Wait(ctx)
}

// lockOrCreate takes a room for writing that may not be known yet.
func (s *Service) lockOrCreate(ctx context.Context, room id.RoomID, rules *roomversion.Rules) (*roomstate.Writer, error) {
	w, err := s.Cache.Lock(ctx, room)
	if errors.Is(err, storage.ErrNotFound) {
		return s.Cache.Create(ctx, room, rules)
	}
	return w, err
}

// resident reports whether this server is in a room.
func (s *Service) resident(ctx context.Context, room id.RoomID) (bool, error) {
	r, err := s.roomHere(ctx, room)
	return r != nil, err
}

// roomHere returns a room in which this server is, nil for any other.
func (s *Service) roomHere(ctx context.Context, room id.RoomID) (*roomstate.Room, error) {
	r, err := s.Cache.Room(ctx, room)
	if errors.Is(err, storage.ErrNotFound) || err == nil && !r.HasServer(s.ServerName) {
		return nil, nil
	}
	return r, err
}

// candidates are the servers to ask for a membership of a room, likely ones first: those that the client names and that
// of who invited the user; without any, those that were in the room and that of the room's id.
func (s *Service) candidates(ctx context.Context, c *Change) []id.ServerName {
	list := slices.DeleteFunc(slices.Clone(c.Via), func(server id.ServerName) bool { return server == s.ServerName })
	if r, err := s.Cache.Room(ctx, c.Room); err == nil {
		e, err := r.StateEvent(ctx, r.View().State, "m.room.member", string(c.Target))
		if err == nil && e != nil && !s.local(e.Sender) {
			list = append(list, e.Sender.Server())
		}
		if len(list) == 0 {
			list = append(list, r.Servers()...)
		}
	}
	if server := c.Room.Server(); server != "" && len(list) == 0 {
		list = append(list, server)
	}
	var unique []id.ServerName
	for _, server := range list {
		if server != s.ServerName && !slices.Contains(unique, server) && len(unique) < maxCandidates {
			unique = append(unique, server)
		}
	}
	return unique
}

// maxCandidates is how many servers are asked for a membership, one after the other.
const maxCandidates = 10

// leavePatience is how long other servers are asked before a user is out of a room without them.
const leavePatience = 8 * time.Second

// withoutPlace are those events that are not here, or here with no place in the room's history: whoever reads back past
// what follows them asks for them.
func withoutPlace(ids []id.EventID, known map[id.EventID]*roomstate.Event) (missing []id.EventID) {
	for _, eventID := range ids {
		if e := known[eventID]; e == nil || e.Flagged(storage.Outlier) {
			missing = append(missing, eventID)
		}
	}
	return missing
}
