package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/storage"
)

// enter takes over a room in which this server is not, as another server has told it in answer to a join. Nothing of
// it is believed that does not pass the checks on receipt; what does not is left out, and the join has to be allowed
// by what remains.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#joining-rooms
func (s *Service) enter(ctx context.Context, server id.ServerName, join *event.Event, answer *JoinAnswer) error {
	here, err := s.resident(ctx, join.Room)
	if err != nil {
		return err
	}
	if here {
		return s.Receive(ctx, server, join.Room, []json.RawMessage{join.JSON})[0]
	}
	if err := s.ensureRoom(ctx, join.Room, join.Rules); err != nil {
		return err
	}
	d, err := s.newEntry(ctx, server, join, answer)
	if err != nil {
		return err
	}
	state, err := d.takeOver(ctx, answer)
	if err != nil {
		return err
	}
	return d.begin(ctx, join, state)
}

// ensureRoom makes a room known here, of which nothing is known yet.
func (s *Service) ensureRoom(ctx context.Context, room id.RoomID, rules *roomversion.Rules) error {
	r, err := s.Cache.Room(ctx, room)
	if err == nil && r.Rules != rules {
		return mxerr.IncompatibleVersion.With("the room has version %s, not %s", r.Rules.Version, rules.Version)
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	w, err := s.Cache.Create(ctx, room, rules)
	if err != nil {
		return err
	}
	p := w.Queue()
	w.Unlock()
	return p.Wait(ctx)
}

// newEntry is a delivery of a room as a whole, whose m.room.create is part of what is delivered.
func (s *Service) newEntry(ctx context.Context, server id.ServerName, join *event.Event, answer *JoinAnswer) (*delivery, error) {
	r, err := s.room(ctx, join.Room)
	if err != nil {
		return nil, err
	}
	d := &delivery{
		Service: s, origin: server, room: r, parse: event.ParseUntrusted,
		verdicts: map[id.EventID]error{}, delivered: map[id.EventID]bool{},
	}
	for _, raw := range slices.Concat(answer.State, answer.Auth) {
		if gjson.GetBytes(raw, "type").String() != "m.room.create" {
			continue
		}
		create, err := event.ParseUntrusted(join.Rules, raw)
		if err == nil && create.Room == join.Room && create.Is("m.room.create", "") && versionOf(create) == join.Rules.Version {
			d.create = &roomstate.Event{Event: create}
			return d, nil
		}
	}
	return nil, mxerr.BadJSON.With("the state has no m.room.create event of version %s", join.Rules.Version)
}

// versionOf is the room version that a create event names.
func versionOf(create *event.Event) string {
	v := gjson.GetBytes(create.Content(), "room_version")
	switch {
	case !v.Exists():
		return "1"
	case v.Type != gjson.String:
		return ""
	}
	return v.String()
}

// takeOver stores the events of a state and its auth chain, and returns those of the state that may be part of it.
func (d *delivery) takeOver(ctx context.Context, answer *JoinAnswer) ([]*roomstate.Event, error) {
	state, _ := d.inspect(ctx, d.parse, bounded(answer.State))
	auth, _ := d.inspect(ctx, d.parse, bounded(answer.Auth))
	unique := map[id.EventID]bool{}
	all := slices.DeleteFunc(slices.Concat(auth, state), func(ev *event.Event) bool {
		drop := ev == nil || ev.StateKey == nil || unique[ev.ID]
		if ev != nil {
			unique[ev.ID] = true
		}
		return drop
	})
	ordered, _ := order(all, func(ev *event.Event, yield func([]id.EventID)) { yield(ev.AuthEvents) })
	put, err := d.putOutliers(ctx, ordered)
	if err != nil {
		return nil, err
	}
	d.await(ctx)
	var list []*roomstate.Event
	for _, ev := range state {
		if ev == nil {
			continue
		}
		if e := put[ev.ID]; e != nil && !e.Flagged(storage.Rejected) {
			list = append(list, e)
		}
	}
	return list, d.fault
}

// begin lets the room begin here with a join, on the state before it.
func (d *delivery) begin(ctx context.Context, join *event.Event, state []*roomstate.Event) error {
	err := d.underAdmission(ctx, []*event.Event{join}, func(a *admission) error {
		b := &basis{before: a.w.StateOf(state), missing: withoutPlace(join.PrevEvents, a.known)}
		for _, eventID := range join.AuthEvents {
			b.auth = append(b.auth, a.known[eventID])
		}
		if err := a.byAuthEvents(join, b.auth); err != nil {
			return err
		}
		if err := a.byState(join, b.before); err != nil {
			return err
		}
		if err := d.inheritElsewhere(a.w, d.create.Event, join.Sender); err != nil {
			return err
		}
		_, err := a.put(join, roomstate.Graft{
			Meta: roomstate.Meta{AtMS: a.Now().UnixMilli()}, Flags: storage.InTimeline, Auth: b.auth, Missing: b.missing,
			Before: b.before, Stored: a.known[join.ID], Anew: true,
		})
		return err
	})
	if err != nil {
		return err
	}
	d.await(ctx)
	return d.fault
}
