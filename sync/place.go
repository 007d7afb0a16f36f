package syncing

import (
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// section is where in an answer a room stands.
type section uint8

const (
	untold section = iota
	joined
	invited
	knocked
	left
)

// place is a room of which there may be something to tell, with how the user stands to it.
type place struct {
	*roomstate.Room
	hint    hint
	section section

	// end is the state at the end of what is told, upTo the position of that end: the look's, or where the
	// user left.
	end  roomstate.Root
	upTo storage.Pos

	// fresh says that the client knows nothing of the room, or what it knows was broken off by a leave: it is
	// told the whole state. been says that the user was in the room during the look, up to its end.
	fresh, been bool

	member *roomstate.Event // the user's member event at the end; nil for a room joined long since
	since  storage.Pos      // when that became the current one, as far as is known now
}

// stand finds out how the user stands to a room at the end of the look; m is what it is now.
func (l *look) stand(p *place, m roomstate.Membership) (err error) {
	p.upTo, p.since = l.to, m.Since
	if p.end, err = p.StateAt(l.ctx, l.to); err != nil {
		return err
	}
	if m.Membership == "join" && m.Since <= l.from || m.Membership == "join" && m.Since <= l.to && l.initial {
		p.section, p.been, p.fresh = joined, true, l.initial
		return nil
	}
	if p.member, err = l.memberIn(p, p.end); err != nil || p.member == nil {
		return err
	}
	switch p.member.Membership() {
	case "join":
		p.section, p.been = joined, true
		p.fresh, err = l.joinedAnew(p, p.member)
	case "invite":
		p.section = l.invitation(p)
	case "knock":
		if p.changed() > l.from {
			p.section = knocked
		}
	default:
		return l.standOutside(p)
	}
	return err
}

// memberIn returns the user's member event in a state, nil for none.
func (l *look) memberIn(p *place, root roomstate.Root) (*roomstate.Event, error) {
	return p.StateEvent(l.ctx, root, "m.room.member", string(l.User))
}

// joinedAnew reports whether a user, who is joined by e, was not joined at some time since the look's beginning.
func (l *look) joinedAnew(p *place, e *roomstate.Event) (bool, error) {
	for e.Arrived() > l.from {
		before, err := l.memberIn(p, e.Before)
		if err != nil {
			return false, err
		}
		if before == nil || before.Membership() != "join" {
			return true, nil
		}
		e = before
	}
	start, err := p.StateAt(l.ctx, l.from)
	if err != nil {
		return false, err
	}
	before, err := l.memberIn(p, start) // state resolution may have brought the membership back
	return before == nil || before.Membership() != "join", err
}

// changed is when the user's membership at the end came about: state resolution may bring an old one back.
func (p *place) changed() storage.Pos {
	if p.since > p.upTo {
		return p.member.Arrived()
	}
	return max(p.since, p.member.Arrived())
}

// invitation leaves out invites that the user does not want to see.
//
// "Servers must not send room invites from ignored users to clients."
func (l *look) invitation(p *place) section {
	unwanted := l.wishes.invites.Of(p.member.Sender) != eventauth.TakeInvite || l.wishes.ignores(p.member.Sender)
	if unwanted && (l.Notices == "" || p.member.Sender != l.Notices) || p.changed() <= l.from {
		return untold
	}
	return invited
}

// standOutside finds out when and how the user got out of a room: the earliest of the member events since which
// they are out. Whoever was never in, invited or knocking has nothing to be told.
func (l *look) standOutside(p *place) error {
	e := p.member
	for {
		before, err := l.memberIn(p, e.Before)
		if err != nil || before == nil {
			return err
		}
		switch before.Membership() {
		case "join":
			p.been = true
			p.fresh, err = l.joinedAnew(p, before)
			if err != nil {
				return err
			}
			return l.stopAt(p, e)
		case "invite", "knock":
			return l.stopAt(p, e)
		}
		e = before
	}
}

// stopAt ends what is told of a room with the event by which the user got out of it.
func (l *look) stopAt(p *place, e *roomstate.Event) (err error) {
	at := e.Arrived()
	if e == p.member {
		at = p.changed()
	}
	if !l.worth("leave", at) {
		return nil
	}
	p.section, p.member, p.end, p.upTo = left, e, e.Now, at
	if at != e.Arrived() {
		p.end, err = p.StateAt(l.ctx, at)
	}
	p.fresh = p.fresh || l.initial
	return err
}
