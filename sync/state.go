package syncing

import (
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

const memberType = "m.room.member"

// stateNews collects the state events that a client is told of a room beside its timeline.
//
// Told is what leads from the state that the client knows to the one at the start of the timeline or, if it asks
// for that, at its end. In the first case a change behind that start whose event is not in the timeline is told as
// well, for the client would miss it: the filter left it out, or it came about by state resolution.
type stateNews struct {
	*look
	place    *place
	timeline *timeline
	known    roomstate.Root // what the client knows; 0 for nothing
	target   roomstate.Root
	late     map[roomstate.Key]storage.Pos // changes behind target

	// lazy leaves out member events, but for those of needed users and those that are changes: "the server MUST
	// return membership events for events in the gap".
	lazy   bool
	needed map[id.UserID]struct{}

	positions []storage.Pos
}

// whole reports whether the client is told a room's whole state.
func (l *look) whole(p *place) bool { return p.fresh || l.FullState }

// stateOf returns the state events that are told of a room of which the client knows a state. heroes are those whose
// names stand in its summary.
func (l *look) stateOf(p *place, t *timeline, known roomstate.Root, heroes []id.UserID) ([]*roomstate.Event, error) {
	if !p.been {
		return l.ownState(p, t)
	}
	if none(&l.Filter.Room.State, p.ID) {
		return nil, nil
	}
	n := &stateNews{look: l, place: p, timeline: t, known: known, target: t.start, lazy: l.Filter.Room.lazy()}
	if l.StateAfter {
		n.target = p.end
	}
	if err := n.collect(heroes); err != nil {
		return nil, err
	}
	events, err := p.EventsAt(l.ctx, n.positions)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(events, func(e *roomstate.Event) bool {
		return !l.Filter.Room.State.Passes(e.Type, e.Sender, e.Content())
	}), nil
}

// ownState is what somebody who was not in the room is told of its state: how they got out of it, unless the
// timeline tells that.
func (l *look) ownState(p *place, t *timeline) ([]*roomstate.Event, error) {
	f := &l.Filter.Room.State
	if !l.StateAfter && t.has(p.member.Pos) || none(f, p.ID) || !f.Passes(p.member.Type, p.member.Sender, p.member.Content()) {
		return nil, nil
	}
	return []*roomstate.Event{p.member}, nil
}

func (n *stateNews) collect(heroes []id.UserID) error {
	if err := n.findLate(); err != nil {
		return err
	}
	for _, pos := range n.late {
		n.positions = append(n.positions, pos)
	}
	if err := n.findChanges(); err != nil {
		return err
	}
	if n.lazy {
		n.need(heroes)
	}
	if err := n.findNeeded(); err != nil {
		return err
	}
	slices.Sort(n.positions)
	n.positions = slices.Compact(n.positions)
	return nil
}

// findLate finds what changes behind the target and is not in the timeline.
func (n *stateNews) findLate() error {
	if n.target == n.place.end {
		return nil
	}
	changes, err := n.place.Diff(n.ctx, n.target, n.place.end)
	for _, c := range changes {
		if c.After == 0 || n.timeline.has(c.After) {
			continue
		}
		if n.late == nil {
			n.late = map[roomstate.Key]storage.Pos{}
		}
		n.late[c.Key] = c.After
	}
	return err
}

// findChanges finds what differs between what the client knows and the target, or the whole of it.
func (n *stateNews) findChanges() error {
	if n.whole(n.place) {
		err := n.place.StateKeys(n.ctx, n.target, func(k roomstate.Key, pos storage.Pos) {
			if !n.lazy || k.Type != memberType {
				n.add(k, pos)
			}
		})
		if err != nil || !n.lazy || n.known == 0 {
			return err
		}
	}
	if n.known == n.target {
		return nil
	}
	changes, err := n.place.Diff(n.ctx, n.known, n.target)
	for _, c := range changes {
		if c.After != 0 {
			n.add(c.Key, c.After)
		}
	}
	return err
}

// add adds an entry of the target, unless a later one is told.
func (n *stateNews) add(k roomstate.Key, pos storage.Pos) {
	if _, later := n.late[k]; !later {
		n.positions = append(n.positions, pos)
	}
}

// need notes whose member events a lazily loading client has to have.
func (n *stateNews) need(heroes []id.UserID) {
	n.needed = map[id.UserID]struct{}{}
	for _, e := range n.timeline.events {
		n.needed[e.Sender] = struct{}{}
	}
	for _, h := range heroes {
		n.needed[h] = struct{}{}
	}
	// "servers MUST include the syncing user's own membership event when they join a room, or when the full state
	// of rooms is requested"
	if n.whole(n.place) {
		n.needed[n.User] = struct{}{}
	}
}

// findNeeded adds the member events of needed users that the client has not got.
func (n *stateNews) findNeeded() error {
	for user := range n.needed {
		pos, err := n.place.StatePos(n.ctx, n.target, memberType, string(user))
		if err != nil {
			return err
		}
		if pos != 0 && !n.redundant(user, pos) {
			n.add(roomstate.Key{Type: memberType, StateKey: string(user)}, pos)
		}
	}
	return nil
}

// redundant reports whether a member event need not be told again.
func (n *stateNews) redundant(user id.UserID, pos storage.Pos) bool {
	if n.whole(n.place) || n.Filter.Room.State.IncludeRedundantMembers {
		return false
	}
	return n.sent.has(deviceKey{n.User, n.Device}, memberKey{n.place.Num, user}, pos)
}

// writeState writes state events under the key that the client asked for.
func (l *look) writeState(v *roomstate.Viewer, events []*roomstate.Event) error {
	if l.StateAfter {
		l.out.key("state_after")
	} else {
		l.out.key("state")
	}
	l.out.raw(`{"events":[`)
	if len(events) > 0 {
		if err := v.Prepare(l.ctx, events); err != nil {
			return err
		}
	}
	for _, e := range events {
		seen, err := v.SeeState(l.ctx, e)
		if err != nil {
			return err
		}
		if err := l.writeEvent(v, e, seen); err != nil {
			return err
		}
	}
	l.out.raw("]}")
	return nil
}

// noteMembers notes the member events that a lazily loading device is told, so that it is not told them again.
func (l *look) noteMembers(p *place, lists ...[]*roomstate.Event) {
	if !l.Filter.Room.lazy() {
		return
	}
	for _, events := range lists {
		for _, e := range events {
			if e.Type != memberType || e.StateKey == nil {
				continue
			}
			if l.members == nil {
				l.members = map[memberKey]storage.Pos{}
			}
			l.members[memberKey{p.Num, id.UserID(*e.StateKey)}] = e.Pos
		}
	}
}
