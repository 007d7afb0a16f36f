package syncing

import (
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
}

// stand finds out how the user stands to a room at the end of the look; m is what it is now.
func (l *look) stand(p *place, m roomstate.Membership) (err error) {
	p.upTo = l.to
	if p.end, err = p.StateAt(l.ctx, l.to); err != nil {
		return err
	}
	if m.Membership == "join" && m.Pos <= l.from || m.Membership == "join" && m.Pos <= l.to && l.initial {
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
		if p.member.Pos > l.from {
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
	for e.Pos > l.from {
		before, err := l.memberIn(p, e.Before)
		if err != nil {
			return false, err
		}
		if before == nil || before.Membership() != "join" {
			return true, nil
		}
		e = before
	}
	return false, nil
}

// invitation leaves out invites that the user does not want to see.
//
// "Servers must not send room invites from ignored users to clients."
func (l *look) invitation(p *place) section {
	if l.wishes.noInvites || l.wishes.ignores(p.member.Sender) || p.member.Pos <= l.from {
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
			l.stopAt(p, e)
			return err
		case "invite", "knock":
			l.stopAt(p, e)
			return nil
		}
		e = before
	}
}

// stopAt ends what is told of a room with the event by which the user got out of it.
func (l *look) stopAt(p *place, e *roomstate.Event) {
	if !l.worth("leave", e.Pos) {
		return
	}
	p.section, p.member, p.end, p.upTo = left, e, e.Now, e.Pos
	p.fresh = p.fresh || l.initial
}
