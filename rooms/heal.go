package rooms

import (
	"errors"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
)

// maxHealers is how many local users are tried as senders of an event that joins branches.
const maxHealers = 10

// heal joins branches of the room while it has more forward extremities than an event of this server may name: by
// events that clients are not told of, from somebody here who may send them. It gives up when there is nobody. Where a
// policy server would have to sign them, the messages that follow join the branches.
func (a *admission) heal() error {
	if a.policyAt(a.w) != nil {
		return nil
	}
	for len(a.w.Extremities()) > maxPrevEvents {
		joined, err := a.joinBranches(a.w.Extremities()[:maxPrevEvents])
		if err != nil || !joined {
			return err
		}
	}
	return nil
}

// joinBranches sends an event that follows some forward extremities; false when nobody may.
func (a *admission) joinBranches(prev []roomstate.Extremity) (bool, error) {
	var states []*roomstate.State
	for _, x := range prev {
		states = append(states, a.w.At(x.State))
	}
	state, err := a.w.Resolve(states...)
	if err != nil {
		return false, err
	}
	for _, user := range a.healers() {
		ev, err := a.dummy(user, prev, state)
		if errors.As(err, new(*eventauth.Rejection)) {
			continue
		}
		if err != nil {
			return false, err
		}
		_, err = a.put(ev, roomstate.Graft{
			Meta: roomstate.Meta{AtMS: a.Now().UnixMilli()}, Hidden: true, Relay: true, Before: state,
		})
		return err == nil, err
	}
	return false, nil
}

// healers returns some local users who are in the room and may send messages of this type.
func (a *admission) healers() []id.UserID {
	levels, err := a.w.Levels()
	if err != nil {
		return nil
	}
	needed := levels.Event(dummyType, false)
	var users []id.UserID
	a.w.Members(func(m roomstate.Member) bool {
		if m.Membership == "join" && a.local(m.User) && levels.User(m.User) >= needed {
			users = append(users, m.User)
		}
		return len(users) < maxHealers
	})
	return users
}

// dummy makes an event without a content, or an eventauth.Rejection if the user may not send it.
func (a *admission) dummy(user id.UserID, prev []roomstate.Extremity, state *roomstate.State) (*event.Event, error) {
	ev, err := a.buildOn(prev, state, a.w.Rules, Draft{Room: a.w.ID, Sender: user, Type: dummyType, Content: []byte(`{}`)})
	if err != nil {
		return nil, err
	}
	if err := eventauth.Check(ev, state); err != nil {
		return nil, err
	}
	err = eventauth.Check(ev, a.w)
	return ev, errors.Join(err, a.w.Err())
}
