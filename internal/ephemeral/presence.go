package ephemeral

import (
	"container/heap"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
)

// State is a state of presence.
type State string

// The states of presence.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#presence
const (
	Online      State = "online"
	Unavailable State = "unavailable"
	Offline     State = "offline"
)

// Valid reports whether the specification knows the state.
func (s State) Valid() bool { return s == Online || s == Unavailable || s == Offline }

// rank orders the states of a user's devices: the best counts.
func (s State) rank() int { return slices.Index([]State{Offline, Unavailable, Online}, s) }

// How long what is known of a user stays true.
const (
	activeFor    = time.Minute      // after doing something, a user counts as currently active
	idleAfter    = 5 * time.Minute  // without doing anything: unavailable
	offlineAfter = 30 * time.Second // without a request of a device: it is gone
	heardFor     = 30 * time.Minute // what another server said of its user; then they are offline
	tellAgain    = 25 * time.Minute // other servers are told again before they would stop believing
)

// Beyond maxPeople, those who have been offline for keepOffline are forgotten, and then users of other servers who are
// not known are passed over. maxDevices are remembered of a user; beyond it any other is dropped.
const (
	maxPeople   = 100_000
	keepOffline = 10 * time.Minute
	sweepEvery  = time.Minute
	maxDevices  = 50
)

// Status is what is told of a user's presence.
type Status struct {
	User            id.UserID
	State           State
	Message         string
	LastActive      time.Time // zero: not known
	CurrentlyActive bool

	// Displayname and AvatarURL are told once they have changed; nil before.
	Displayname, AvatarURL *string

	// Number is that of the latest change, Stated that of the latest which was of more than CurrentlyActive.
	Number, Stated int64
}

// Presence is who is there, as far as this server knows since it has started. Its methods may be called at once, and on
// nil, which knows nobody. It has no goroutines and no timers: Expire is called when time has passed.
type Presence struct {
	wake func()

	mu sync.Mutex // guards the following
	// now is the number of the latest change. log has the changes by number; an entry whose person has changed since
	// counts no more. due has those whose time will be over.
	now    int64
	people map[id.UserID]*person
	log    []change
	due    dues
	swept  time.Time
}

type change struct {
	number int64
	person *person
}

// person is what is known of a user: of a local one what their devices do, of others what their server says.
type person struct {
	Status
	at    time.Time // of the latest change
	local bool

	devices   map[id.DeviceID]*device
	announced time.Time // when other servers were last told

	heard time.Time // when the server last said something

	due   time.Time
	index int // in dues; -1: not there
}

// device is what a device last said, and does.
type device struct {
	said   State
	active time.Time // when its user last did something
	seen   time.Time // when it last said something, or a request ended
	syncs  int       // requests under way
}

// NewPresence returns a Presence that knows nobody. wake is called, without a lock held, when there are changes, or
// something will be over sooner than Expire has said; it may not wait.
func NewPresence(wake func()) *Presence {
	// The first change has number 2: a token of before it says 1, for 0 stands for who was told nothing.
	return &Presence{wake: wake, people: map[id.UserID]*person{}, now: 1}
}

// Set says what a user has chosen on a device, which is something that they do.
func (p *Presence) Set(user id.UserID, name id.DeviceID, s State, message string) {
	p.change(user, ours, func(who *person, now time.Time) {
		who.LastActive, who.Message = now, message
		if d := who.says(name, s, now); d != nil {
			d.active = now
		}
	})
}

// Syncing says that a device waits for news, or asks for them, and in what state it is; ended says that it no longer
// does. The first time that it is online the user has done something; then that they go on syncing says nothing of what
// they do. Offline says nothing at all.
func (p *Presence) Syncing(user id.UserID, name id.DeviceID, s State) (ended func()) {
	if p == nil || s != Online && s != Unavailable {
		return func() {}
	}
	var d *device
	p.change(user, ours, func(who *person, now time.Time) {
		before := who.devices[name]
		if s == Online && (before == nil || before.said != Online) || who.LastActive.IsZero() {
			who.LastActive = now
		}
		d = who.says(name, s, now)
		d.syncs++
	})
	return func() {
		p.change(user, known, func(_ *person, now time.Time) {
			d.syncs--
			d.seen = now
		})
	}
}

// Active says that a user has done something with a device: whoever was unavailable is online again. Whoever is offline
// stays so; nobody is told, but Of knows when it was.
func (p *Presence) Active(user id.UserID, name id.DeviceID) {
	p.change(user, quietly, func(who *person, now time.Time) {
		who.LastActive = now
		if who.State == Offline {
			return
		}
		if d := who.says(name, Online, now); d != nil {
			d.active = now
		}
	})
}

// LoggedOut says that devices are gone.
func (p *Presence) LoggedOut(user id.UserID, devices []id.DeviceID) {
	p.change(user, known, func(who *person, _ time.Time) {
		for _, name := range devices {
			delete(who.devices, name)
		}
	})
}

// Deactivated says that a user is gone for good.
func (p *Presence) Deactivated(user id.UserID) {
	p.change(user, known, func(who *person, _ time.Time) {
		clear(who.devices)
		who.Message, who.Displayname, who.AvatarURL = "", nil, nil
	})
}

// Renamed says that a local user has a new display name or avatar.
func (p *Presence) Renamed(user id.UserID, displayname, avatarURL string) {
	p.change(user, known, func(who *person, _ time.Time) {
		who.Displayname, who.AvatarURL = &displayname, &avatarURL
	})
}

// Hear takes what another server says of its user; the numbers of s count nothing. False: there are too many people.
func (p *Presence) Hear(s Status) bool {
	return p.change(s.User, theirs, func(who *person, now time.Time) {
		who.heard, who.LastActive = now, s.LastActive
		who.Message = s.Message
		who.settle(s.State, s.CurrentlyActive && s.State == Online)
	})
}

// says notes what a device says; nil for one that is offline, of which nothing is kept.
func (who *person) says(name id.DeviceID, s State, now time.Time) *device {
	if s == Offline {
		delete(who.devices, name)
		return nil
	}
	d := who.devices[name]
	if d == nil {
		d = &device{active: now}
		who.dropDevice()
		if who.devices == nil {
			who.devices = map[id.DeviceID]*device{}
		}
		who.devices[name] = d
	}
	if s == Online && d.said != Online {
		d.active = now
	}
	d.said, d.seen = s, now
	return d
}

// dropDevice makes room for a further device.
func (who *person) dropDevice() {
	if len(who.devices) < maxDevices {
		return
	}
	for name := range who.devices {
		delete(who.devices, name)
		return
	}
}

// adoption says which users change lets become known.
type adoption uint8

const (
	known   adoption = iota // none
	ours                    // local ones
	quietly                 // local ones, which is no news
	theirs                  // users of other servers, unless there are too many
)

// change lets fn change what is known of a user, who may become known; false when they do not.
func (p *Presence) change(user id.UserID, adopt adoption, fn func(*person, time.Time)) bool {
	if p == nil {
		return false
	}
	found, wake := p.changed(user, adopt, fn)
	if wake {
		p.wake()
	}
	return found
}

func (p *Presence) changed(user id.UserID, adopt adoption, fn func(*person, time.Time)) (found, wake bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.people[user]
	if who == nil && adopt != known {
		who = p.adoptLocked(user, adopt != theirs, now)
		if adopt == quietly {
			who.Number = p.now
		}
	}
	if who == nil {
		return false, false
	}
	before := who.Status
	fn(who, now)
	return true, p.settleLocked(who, before, now)
}

// adoptLocked makes a user known, as offline; nil when there are too many.
func (p *Presence) adoptLocked(user id.UserID, local bool, now time.Time) *person {
	if len(p.people) >= maxPeople {
		p.sweepLocked(now)
	}
	if len(p.people) >= maxPeople && !local {
		return nil
	}
	who := &person{Status: Status{User: user, State: Offline}, local: local, index: -1}
	p.people[user] = who
	return who
}

// sweepLocked forgets who has been offline for long.
func (p *Presence) sweepLocked(now time.Time) {
	if now.Sub(p.swept) < sweepEvery {
		return
	}
	p.swept = now
	for user, who := range p.people {
		if who.State == Offline && now.Sub(who.at) >= keepOffline && who.index < 0 {
			delete(p.people, user)
			who.Number = 0
		}
	}
}

// settleLocked finds out what a user's state is now, notes a change, and when to look again. wake: there is a change, or
// the time to look is the nearest.
func (p *Presence) settleLocked(who *person, before Status, now time.Time) (wake bool) {
	next := who.look(now)
	stated := who.State != before.State || who.Message != before.Message || !same(who.Displayname, before.Displayname) ||
		!same(who.AvatarURL, before.AvatarURL)
	moved := !who.local && !who.CurrentlyActive && who.LastActive.Sub(before.LastActive).Abs() >= activeFor
	if stated || moved || who.CurrentlyActive != before.CurrentlyActive || who.Number == 0 {
		p.noteLocked(who, stated || who.Number == 0, now)
		wake = true
	}
	return p.scheduleLocked(who, next) || wake
}

func same(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

// noteLocked gives a change its number.
func (p *Presence) noteLocked(who *person, stated bool, now time.Time) {
	p.now++
	who.Number, who.at, who.announced = p.now, now, now
	if stated {
		who.Stated = p.now
	}
	p.log = append(p.log, change{p.now, who})
	if len(p.log) > 2*len(p.people)+1024 {
		p.log = slices.DeleteFunc(p.log, func(c change) bool { return c.number != c.person.Number })
	}
}

// scheduleLocked has a user looked at again at a time, zero for never, or earlier. nearest: nobody is before them, and
// they were later or not there.
func (p *Presence) scheduleLocked(who *person, next time.Time) (nearest bool) {
	switch {
	case next.IsZero() || who.index >= 0 && !next.Before(who.due):
		return false
	case who.index >= 0:
		who.due = next
		heap.Fix(&p.due, who.index)
	default:
		who.due = next
		heap.Push(&p.due, who)
	}
	return who.index == 0
}

// look settles what a user's state is and returns when to look again; zero: only when something happens.
func (who *person) look(now time.Time) (next time.Time) {
	if !who.local {
		return who.lookAtHeard(now)
	}
	state := Offline
	for name, d := range who.devices {
		s, until := d.look(now)
		if s == Offline {
			delete(who.devices, name)
		}
		if s.rank() > state.rank() {
			state = s
		}
		next = earlier(next, until)
	}
	active := state == Online && now.Sub(who.LastActive) < activeFor
	if active {
		next = earlier(next, who.LastActive.Add(activeFor))
	}
	if state != Offline {
		next = earlier(next, who.announced.Add(tellAgain))
	}
	who.settle(state, active)
	return next
}

// lookAtHeard is look for a user of another server.
func (who *person) lookAtHeard(now time.Time) (next time.Time) {
	switch end := who.heard.Add(heardFor); {
	case who.State == Offline:
		return time.Time{}
	case now.Before(end):
		return end
	}
	who.settle(Offline, false)
	return time.Time{}
}

func (who *person) settle(s State, active bool) { who.State, who.CurrentlyActive = s, active }

// look is the state of a device, and until when.
func (d *device) look(now time.Time) (s State, until time.Time) {
	if d.syncs == 0 {
		until = d.seen.Add(offlineAfter)
		if !now.Before(until) {
			return Offline, time.Time{}
		}
	}
	if d.said != Online {
		return d.said, until
	}
	idle := d.active.Add(idleAfter)
	if !now.Before(idle) {
		return Unavailable, until
	}
	return Online, earlier(until, idle)
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Expire changes whatever is over by now. again are local users of whom other servers have to be told again. next is
// when something will be over; zero: nothing will.
func (p *Presence) Expire(now time.Time) (again []id.UserID, next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.due) > 0 && !now.Before(p.due[0].due) {
		who := heap.Pop(&p.due).(*person)
		if who.local && who.State != Offline && now.Sub(who.announced) >= tellAgain {
			again = append(again, who.User)
			who.announced = now
		}
		p.settleLocked(who, who.Status, now)
	}
	if len(p.due) > 0 {
		next = p.due[0].due
	}
	return again, next
}

// Of returns a user's presence; false when nothing is known of them.
func (p *Presence) Of(user id.UserID) (Status, bool) {
	if p == nil {
		return Status{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if who := p.people[user]; who != nil {
		return who.Status, true
	}
	return Status{}, false
}

// Now is the number of the latest change.
func (p *Presence) Now() int64 {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Since returns those who have changed after number since, in the order of their latest changes, at most limit, and the
// number up to which that is all.
func (p *Presence) Since(since int64, limit int) (list []Status, upTo int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if since >= p.now {
		return nil, p.now
	}
	first := sort.Search(len(p.log), func(i int) bool { return p.log[i].number > since })
	for _, c := range p.log[first:] {
		if len(list) == limit {
			return list, list[limit-1].Number
		}
		if c.number == c.person.Number {
			list = append(list, c.person.Status)
		}
	}
	return list, p.now
}

// dues are people by when they have to be looked at; a heap.
type dues []*person

func (d dues) Len() int           { return len(d) }
func (d dues) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d dues) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push is that of a heap.
func (d *dues) Push(x any) {
	who := x.(*person)
	who.index = len(*d)
	*d = append(*d, who)
}

// Pop is that of a heap.
func (d *dues) Pop() any {
	last := len(*d) - 1
	who := (*d)[last]
	(*d)[last] = nil
	*d, who.index = (*d)[:last], -1
	return who
}
