package syncing

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Peers is what other servers are told that need not arrive; a *federation.Sender is one.
type Peers interface {
	// SendEDU sends an EDU to servers. It may not wait. One with the same type and key that was not sent yet is replaced.
	SendEDU(servers []id.ServerName, eduType, key string, content json.RawMessage)
}

// How often presence is told. After a room was woken because somebody's presence has changed, it is not woken for that
// again for a while that grows with its members, so that the changes of many are told together: a room costs at most a
// thousand wake-ups a second, however many are in it and whatever they do. Likewise for the servers that are told of a
// user: at most a hundred EDUs a second.
const (
	perMember = time.Millisecond
	perServer = 10 * time.Millisecond
)

// What a server is told that comes into a room: of at most maxGreeted users, in EDUs of about greetingBytes.
const (
	maxGreeted    = 100
	greetingBytes = 32 << 10
)

// teller tells those concerned of changes of presence: it is one goroutine, which sleeps while there are none.
type teller struct {
	*Service
	told   int64       // the number of the latest change of which rooms were told
	moved  storage.Pos // changes of memberships are known up to here
	looked time.Time   // when what came too soon was last looked at

	rooms    pacer[id.RoomID]
	users    pacer[id.UserID] // local ones, of whom other servers are told
	arrivals pacer[arrival]
}

// arrival is a server with users who came into a room.
type arrival struct {
	room   id.RoomID
	server id.ServerName
}

// Start begins to tell of changes of devices, and of presence if that is on; Close ends it.
func (s *Service) Start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.tasks.Go(func() { s.tellDevices(ctx) })
	if s.Presence == nil {
		return
	}
	s.tasks.Go(func() { (&teller{Service: s, moved: s.DB.Published()}).run(ctx) })
}

// Close ends what Start began, and awaits it.
func (s *Service) Close() {
	if s.stop != nil {
		s.stop()
	}
	s.tasks.Wait()
}

// PresenceChanged lets changes of presence be told. It does not wait.
func (s *Service) PresenceChanged() {
	select {
	case s.changes <- struct{}{}:
	default:
	}
}

func (t *teller) run(ctx context.Context) {
	var moves <-chan struct{}
	if t.Peers != nil {
		w := t.Hub.WaitNamed()
		defer w.Close()
		moves = w.C
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.changes:
		case <-moves:
		case <-timer.C:
		}
		if next := t.round(ctx, time.Now()); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// round tells what there is to be told, and returns when there will be more; zero: not before there is a change.
func (t *teller) round(ctx context.Context, now time.Time) (next time.Time) {
	again, next := t.Presence.Expire(now)
	if t.Peers != nil {
		for _, user := range again {
			t.users.want(user, now)
		}
		t.meetServers(ctx, now)
	}
	held := t.admitEarly(ctx, now)
	t.spread(ctx, now)
	for _, room := range t.rooms.take(now) {
		t.rooms.rest(room, now.Add(t.wakeRoom(ctx, room)))
	}
	for _, user := range t.users.take(now) {
		t.users.rest(user, now.Add(t.tellServers(ctx, user, now)))
	}
	for _, a := range t.arrivals.take(now) {
		t.arrivals.rest(a, now.Add(t.greet(ctx, a, now)))
	}
	for _, at := range []time.Time{held, t.rooms.next(), t.users.next(), t.arrivals.next()} {
		if next.IsZero() || !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// admitEarly takes updates that came too soon once their users are in a room that is known, and forgets those that are
// held for too long. It returns when to look again; zero when nothing is held.
func (t *teller) admitEarly(ctx context.Context, now time.Time) (next time.Time) {
	if again := t.looked.Add(lookEvery); now.Before(again) {
		return again
	}
	held := t.early.take()
	for user, u := range held {
		rooms, err := t.Cache.RoomsOf(ctx, user)
		known := err == nil && len(rooms.Joined()) > 0
		if _, newer := t.Presence.Of(user); known && !newer {
			t.Presence.Hear(u.Status)
		}
		if known || now.Sub(u.at) >= holdFor {
			delete(held, user)
		}
	}
	if len(held) == 0 {
		return time.Time{}
	}
	t.looked = now
	t.early.giveBack(held)
	return now.Add(lookEvery)
}

// spread finds who has to be told of those who have changed.
func (t *teller) spread(ctx context.Context, now time.Time) {
	for {
		list, upTo := t.Presence.Since(t.told, maxPeople)
		for i := range list {
			t.concerns(ctx, list[i].User, now)
		}
		if t.told = upTo; len(list) < maxPeople {
			return
		}
	}
}

// concerns lets the rooms of a user who has changed be woken, and the servers in them be told.
func (t *teller) concerns(ctx context.Context, user id.UserID, now time.Time) {
	t.Hub.Wake(one(user))
	rooms, err := t.Cache.RoomsOf(ctx, user)
	if err != nil {
		return // clients learn of it whenever they ask
	}
	for _, room := range rooms.Joined() {
		t.rooms.want(room, now)
	}
	if t.Peers != nil && user.Server() == t.ServerName {
		t.users.want(user, now)
	}
}

// one is a set of one user, for wake-ups.
type one id.UserID

// Len is 1.
func (o one) Len() int { return 1 }

// Has reports whether it is user.
func (o one) Has(user id.UserID) bool { return user == id.UserID(o) }

// Each calls fn once.
func (o one) Each(fn func(id.UserID) bool) { fn(id.UserID(o)) }

// wakeRoom wakes those who wait in a room, and returns for how long it is left alone then.
func (t *teller) wakeRoom(ctx context.Context, roomID id.RoomID) time.Duration {
	room, err := t.Cache.Room(ctx, roomID)
	if err != nil {
		return 0
	}
	t.Hub.Wake(roomstate.Joined{Room: room})
	n, _ := room.Counts()
	return time.Duration(n) * perMember
}

// tellServers tells the servers that share a room with a local user, and returns for how long they are left alone then.
//
// "Servers should only send presence updates for users that the receiving server would be interested in. Such as the
// receiving server sharing a room with a given user."
func (t *teller) tellServers(ctx context.Context, user id.UserID, now time.Time) time.Duration {
	st, ok := t.Presence.Of(user)
	if !ok {
		return 0
	}
	rooms, err := t.Cache.RoomsOf(ctx, user)
	if err != nil {
		return 0
	}
	var servers []id.ServerName
	for _, roomID := range rooms.Joined() {
		if room, err := t.Cache.Room(ctx, roomID); err == nil {
			servers = append(servers, room.Servers()...)
		}
	}
	slices.Sort(servers)
	servers = slices.DeleteFunc(slices.Compact(servers), func(s id.ServerName) bool { return s == t.ServerName })
	if len(servers) > 0 {
		t.Peers.SendEDU(servers, presenceType, string(user), pushes(pushOf(&st, now)))
	}
	return time.Duration(len(servers))*perServer + time.Duration(len(rooms.Joined()))*perMember
}

// pushOf is one update of an m.presence EDU.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#presence
func pushOf(st *ephemeral.Status, now time.Time) json.RawMessage {
	p := presenceOf(st, now)
	p.User = st.User
	encoded, _ := json.Marshal(p) // of strings and numbers, it never fails
	return encoded
}

func pushes(list ...json.RawMessage) json.RawMessage {
	encoded, _ := json.Marshal(map[string][]json.RawMessage{"push": list})
	return encoded
}

// meetServers finds out who came into rooms: the servers there are told of a local user, and the server of another one
// is told who is there.
func (t *teller) meetServers(ctx context.Context, now time.Time) {
	upTo := t.DB.Published()
	changes, _ := t.Hub.Since(t.moved, upTo) // what the hub has forgotten is told again before long
	t.moved = upTo
	for _, c := range changes {
		if c.Kind != notify.Membership && c.Kind != notify.Timeline {
			continue
		}
		if c.Kind == notify.Timeline && c.User.Server() != t.ServerName {
			continue
		}
		t.arrived(ctx, c, now)
	}
}

// arrived looks at one change of a room.
func (t *teller) arrived(ctx context.Context, c notify.Change, now time.Time) {
	room, err := t.Cache.Room(ctx, c.Room)
	if err != nil {
		return
	}
	m, ok := room.Member(c.User)
	switch {
	case !ok || m.Membership != "join" || m.Since < c.Pos:
		return
	case c.User.Server() != t.ServerName:
		t.arrivals.want(arrival{c.Room, c.User.Server()}, now)
	default:
		t.users.want(c.User, now)
	}
}

// greet tells a server that came into a room of the local users there who are not offline, and returns for how long it
// is not told that again.
func (t *teller) greet(ctx context.Context, a arrival, now time.Time) time.Duration {
	room, err := t.Cache.Room(ctx, a.room)
	if err != nil || !room.HasServer(a.server) {
		return 0
	}
	var list []json.RawMessage
	greeted, size := 0, 0
	send := func() {
		if len(list) > 0 {
			t.Peers.SendEDU([]id.ServerName{a.server}, presenceType, "", pushes(list...))
		}
		list, size = nil, 0
	}
	room.Members(func(m roomstate.Member) bool {
		if m.Membership != "join" || m.User.Server() != t.ServerName {
			return true
		}
		if st, ok := t.Presence.Of(m.User); ok && st.State != ephemeral.Offline {
			push := pushOf(&st, now)
			list, size = append(list, push), size+len(push)
			greeted++
		}
		if size >= greetingBytes {
			send()
		}
		return greeted < maxGreeted
	})
	send()
	n, _ := room.Counts()
	return perServer + time.Duration(n)*perMember
}

// pacer says when something may be done for a key: at once if it was not done lately, or else when the time for which
// the key rests is over. It is used by one goroutine.
type pacer[K comparable] struct {
	due   map[K]time.Time // what is to be done, and when
	rests map[K]time.Time // until when keys rest
	swept time.Time
}

// want asks for something to be done.
func (p *pacer[K]) want(key K, now time.Time) {
	if _, ok := p.due[key]; ok {
		return
	}
	if p.due == nil {
		p.due = map[K]time.Time{}
	}
	at := now
	if until := p.rests[key]; until.After(now) {
		at = until
	}
	p.due[key] = at
}

// take returns the keys for which it is time.
func (p *pacer[K]) take(now time.Time) (keys []K) {
	for key, at := range p.due {
		if !at.After(now) {
			keys = append(keys, key)
			delete(p.due, key)
		}
	}
	return keys
}

// sweepRests is how often rests that are over are forgotten.
const sweepRests = 10 * time.Second

// rest lets a key rest.
func (p *pacer[K]) rest(key K, until time.Time) {
	if p.rests == nil {
		p.rests = map[K]time.Time{}
	}
	p.rests[key] = until
	now := time.Now()
	if now.Sub(p.swept) < sweepRests {
		return
	}
	p.swept = now
	for key, until := range p.rests {
		if !until.After(now) {
			delete(p.rests, key)
		}
	}
}

// next is when there is something to be done; zero for never.
func (p *pacer[K]) next() (at time.Time) {
	for _, due := range p.due {
		if at.IsZero() || due.Before(at) {
			at = due
		}
	}
	return at
}
