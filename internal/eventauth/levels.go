package eventauth

import (
	"cmp"
	"math"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// Creator is the power level of the creators of a room from version 12 on: above every level that
// can be written in an event.
const Creator int64 = math.MaxInt64

// scalar is a power level that stands directly in the content of m.room.power_levels.
type scalar int

const (
	usersDefault scalar = iota
	eventsDefault
	stateDefault
	banLevel
	redactLevel
	kickLevel
	inviteScalar
	scalarCount
)

var scalarNames = [scalarCount]string{
	"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite",
}

// scalarDefaults hold when a level, or the whole m.room.power_levels, is missing.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroompower_levels
var scalarDefaults = [scalarCount]int64{
	stateDefault: 50, banLevel: 50, redactLevel: 50, kickLevel: 50,
}

// defaultNotification is the level for a kind of notification that is not listed, such as "room".
const defaultNotification = 50

// optional is a level that may be missing.
type optional struct {
	level int64
	set   bool
}

func (o optional) or(level int64) int64 {
	if o.set {
		return o.level
	}
	return level
}

// entry is the level of one user, type of event or kind of notification.
type entry struct {
	key   string
	level int64
}

// named is a list of entries in the order of their keys.
type named []entry

func (n named) get(key string) optional {
	for low, high := 0, len(n); low < high; {
		at := int(uint(low+high) / 2)
		switch c := cmp.Compare(n[at].key, key); {
		case c == 0:
			return optional{n[at].level, true}
		case c < 0:
			low = at + 1
		default:
			high = at
		}
	}
	return optional{}
}

// PowerLevels are the power levels of a room, with all defaults applied. They never change, so many
// goroutines may share them.
type PowerLevels struct {
	scalars                      [scalarCount]optional
	users, events, notifications named

	creators     []id.UserID // those who have creatorLevel whatever users says
	creatorLevel int64
}

// Levels reads the power levels of a room from its m.room.create and m.room.power_levels events.
// power is nil in a room that has none. The error is a *Rejection: power could not have been
// accepted in a room of this version.
func Levels(rules *roomversion.Rules, create, power *event.Event) (*PowerLevels, error) {
	p := &PowerLevels{}
	switch {
	// "The power level of "room creators" is infinitely high."
	case rules.PrivilegedCreators && create != nil:
		p.creators, p.creatorLevel = creators(create), Creator
	// "If the room contains no `m.room.power_levels` event, the room's creator has a power level of
	// 100, and all other users have a power level of 0."
	case power == nil && create != nil:
		p.creators, p.creatorLevel = []id.UserID{creator(create)}, 100
	}
	if power == nil {
		return p, nil
	}
	if fault := p.read(rules, power.Content()); fault != nil {
		return nil, fault
	}
	return p, nil
}

// User is the power level of user; Creator for the creators of a room of version 12 or later.
func (p *PowerLevels) User(user id.UserID) int64 {
	if slices.Contains(p.creators, user) {
		return p.creatorLevel
	}
	return p.users.get(string(user)).or(p.scalar(usersDefault))
}

// Creators are the users whose level does not come from m.room.power_levels: the creators of a room of version
// 12 or later, and the creator of an older one that has no such event.
func (p *PowerLevels) Creators() []id.UserID { return slices.Clone(p.creators) }

// Event is the level needed to send an event of a type that is not m.room.member.
func (p *PowerLevels) Event(eventType string, isState bool) int64 {
	if isState {
		return p.events.get(eventType).or(p.scalar(stateDefault))
	}
	return p.events.get(eventType).or(p.scalar(eventsDefault))
}

// Invite is the level needed to invite.
func (p *PowerLevels) Invite() int64 { return p.scalar(inviteScalar) }

// Kick is the level needed to kick.
func (p *PowerLevels) Kick() int64 { return p.scalar(kickLevel) }

// Ban is the level needed to ban.
func (p *PowerLevels) Ban() int64 { return p.scalar(banLevel) }

// Redact is the level needed to redact events of others.
func (p *PowerLevels) Redact() int64 { return p.scalar(redactLevel) }

// Notification is the level needed for a kind of notification, such as "room" for @room.
func (p *PowerLevels) Notification(kind string) int64 {
	return p.notifications.get(kind).or(defaultNotification)
}

func (p *PowerLevels) scalar(s scalar) int64 { return p.scalars[s].or(scalarDefaults[s]) }

// Memo remembers the power levels it last read, for a State that is asked again and again while its
// power levels stay: its Levels method can be the State's. The zero Memo is ready. One goroutine may
// use it at a time.
type Memo struct {
	create, power *event.Event
	levels        *PowerLevels
	err           error
}

// Levels is Levels with the rules of create, which must not be nil.
func (m *Memo) Levels(create, power *event.Event) (*PowerLevels, error) {
	if m.create != create || m.power != power || create == nil {
		m.create, m.power = create, power
		m.levels, m.err = Levels(create.Rules, create, power)
	}
	return m.levels, m.err
}
