package syncing

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// DeviceKeys says what devices have left of keys to give out; an *e2ee.Service does.
type DeviceKeys interface {
	// Counts returns how many one-time keys of each algorithm a device has left, and the algorithms whose fallback keys
	// were not used. It asks memory as a rule. Nobody changes what it returned.
	Counts(ctx context.Context, user id.UserID, device id.DeviceID) (oneTime map[string]int, unused []string, err error)
}

// fewUsers is up to how many users their rooms are compared one by one with the client's.
const fewUsers = 16

// manyMoves is how many memberships of a room that changed at one position the hub may not know all of.
const manyMoves = 100

// devices finds whose devices a client has to ask for again since a position, and whose it needs no more.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#tracking-the-device-list-for-a-user
type devices struct {
	*look
	changed map[id.UserID]struct{} // told, whatever else
	may     map[id.UserID]struct{} // told if they share a room
	gone    map[id.UserID]struct{} // told to have left, unless they share a room
	entered map[id.RoomID]struct{} // rooms in which the user was not where the look begins
}

// news is what the hub knows of the time of a look, or that it does not.
type news struct {
	whole    bool                   // it does: the next two are all there is
	moved    []notify.Change        // memberships
	changers map[id.UserID]struct{} // whose devices may have changed
	hints    map[id.RoomID]hint     // among them the rooms in which something happened
}

// still says that nobody's memberships or devices have changed.
func (n *news) still() bool { return n.whole && len(n.moved) == 0 && len(n.changers) == 0 }

// findDevices finds whose devices have changed, for an incremental look.
func (l *look) findDevices(n news) (changed, left []id.UserID, err error) {
	if n.still() {
		return nil, nil, nil
	}
	d := &devices{look: l, changed: map[id.UserID]struct{}{}, may: map[id.UserID]struct{}{}, gone: map[id.UserID]struct{}{}}
	if err := d.ownMoves(n); err != nil {
		return nil, nil, err
	}
	if err := d.othersMoves(n); err != nil {
		return nil, nil, err
	}
	if err := d.changers(n); err != nil {
		return nil, nil, err
	}
	return d.settle()
}

// ownMoves looks at the rooms into or out of which the user came.
func (d *devices) ownMoves(n news) error {
	for roomID, h := range n.hints {
		m, ok := d.mine.Get(roomID)
		if h&newEvents == 0 || !ok || m.Since <= d.from {
			continue
		}
		if err := d.ownMove(m); err != nil {
			return fmt.Errorf("room %s: %w", roomID, err)
		}
	}
	return nil
}

func (d *devices) ownMove(m roomstate.Membership) error {
	room, err := d.Cache.Room(d.ctx, m.Room)
	if err != nil {
		return err
	}
	was, fresh, err := d.stood(room, d.User)
	if err != nil {
		return err
	}
	if was != "join" {
		if d.entered == nil {
			d.entered = map[id.RoomID]struct{}{}
		}
		d.entered[m.Room] = struct{}{}
	}
	switch {
	case m.Membership == "join" && fresh:
		d.enter(room)
	case m.Membership != "join" && was == "join":
		return d.leave(room)
	}
	return nil
}

// stood returns a user's membership of a room where the look begins, and whether the user, who is in now, was out of it
// then or meanwhile.
func (d *devices) stood(room *roomstate.Room, user id.UserID) (was string, fresh bool, err error) {
	start, err := room.StateAt(d.ctx, d.from)
	if err != nil {
		return "", false, err
	}
	if was, err = room.MembershipIn(d.ctx, start, user); err != nil || was != "join" {
		return was, true, err
	}
	e, err := room.StateEvent(d.ctx, room.View().State, memberType, string(user))
	for err == nil && e != nil && e.Arrived() > d.from {
		if e, err = room.StateEvent(d.ctx, e.Before, memberType, string(user)); err == nil && (e == nil || e.Membership() != "join") {
			return was, true, nil
		}
	}
	return was, false, err
}

// enter adds everybody in a room: "users … who now share an encrypted room with the client". Those who are invited get
// keys as well.
func (d *devices) enter(room *roomstate.Room) {
	room.Members(func(m roomstate.Member) bool {
		if m.Membership == "join" || m.Membership == "invite" {
			d.changed[m.User] = struct{}{}
		}
		return true
	})
}

// leave adds those whom the user has left behind in a room.
func (d *devices) leave(room *roomstate.Room) error {
	start, err := room.StateAt(d.ctx, d.from)
	if err != nil {
		return err
	}
	var moved []id.UserID // since, too
	room.Members(func(m roomstate.Member) bool {
		switch {
		case m.User == d.User:
		case m.Since > d.from:
			moved = append(moved, m.User)
		case m.Membership == "join":
			d.gone[m.User] = struct{}{}
		}
		return true
	})
	for _, user := range moved {
		was, err := room.MembershipIn(d.ctx, start, user)
		if err != nil {
			return err
		}
		if was == "join" {
			d.gone[user] = struct{}{}
		}
	}
	return nil
}

// othersMoves looks at others who came into or out of rooms in which the user is.
func (d *devices) othersMoves(n news) error {
	if !n.whole {
		for room, h := range n.hints {
			if h&newEvents == 0 || !d.stays(room) {
				continue
			}
			if err := d.compare(room); err != nil {
				return err
			}
		}
		return nil
	}
	seen, count := map[notify.Change]struct{}{}, map[notify.Change]int{}
	for _, c := range n.moved {
		if c.User == d.User || !d.stays(c.Room) {
			continue
		}
		at := notify.Change{Pos: c.Pos, Room: c.Room}
		if count[at]++; count[at] == manyMoves {
			if err := d.compare(c.Room); err != nil {
				return err
			}
		}
		who := notify.Change{Room: c.Room, User: c.User}
		if _, again := seen[who]; again {
			continue
		}
		seen[who] = struct{}{}
		if err := d.moved(c.Room, c.User); err != nil {
			return err
		}
	}
	return nil
}

// stays reports whether the user is in a room, and was where the look begins.
func (d *devices) stays(room id.RoomID) bool {
	m, ok := d.mine.Get(room)
	_, entered := d.entered[room]
	return ok && m.Membership == "join" && !entered
}

// compare looks at everybody whose membership of a room is not what it was where the look begins.
func (d *devices) compare(roomID id.RoomID) error {
	room, err := d.Cache.Room(d.ctx, roomID)
	if err != nil {
		return err
	}
	start, err := room.StateAt(d.ctx, d.from)
	if err != nil {
		return err
	}
	list, err := room.Diff(d.ctx, start, room.View().State)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Type == memberType && c.StateKey != string(d.User) {
			if err := d.moved(roomID, id.UserID(c.StateKey)); err != nil {
				return err
			}
		}
	}
	return nil
}

// moved looks at another user's membership of a room in which the user is.
func (d *devices) moved(roomID id.RoomID, user id.UserID) error {
	room, err := d.Cache.Room(d.ctx, roomID)
	if err != nil {
		return err
	}
	m, _ := room.Member(user)
	was, fresh, err := d.stood(room, user)
	switch {
	case err != nil:
		return err
	case m.Membership == "join" && fresh, m.Membership == "invite" && was != "invite":
		d.changed[user] = struct{}{}
	case m.Membership != "join" && was == "join":
		d.gone[user] = struct{}{}
	}
	return nil
}

// changers adds those whose devices have changed. Storage is asked only if somebody may be among them whom the user sees.
func (d *devices) changers(n news) error {
	if n.whole {
		seen, err := d.sharing(n.changers)
		if err != nil {
			return err
		}
		if _, own := n.changers[d.User]; own {
			seen[d.User] = struct{}{}
		}
		if n.changers = seen; len(seen) == 0 {
			return nil
		}
	}
	return d.DB.Read(d.ctx, func(tx *storage.Tx) error {
		list, err := d.readChangers(tx, n)
		for _, user := range list {
			d.may[user] = struct{}{}
		}
		return err
	})
}

func (d *devices) readChangers(tx *storage.Tx, n news) ([]id.UserID, error) {
	if n.whole {
		return tx.DeviceChangers(d.User, slices.Collect(maps.Keys(n.changers)), d.from, d.to)
	}
	return tx.AllDeviceChangers(d.User, d.from, d.to)
}

// settle finds out who of them shares a room with the user.
func (d *devices) settle() (changed, left []id.UserID, err error) {
	asked := maps.Clone(d.may)
	maps.Copy(asked, d.gone)
	delete(asked, d.User)
	sharing, err := d.sharing(asked)
	if err != nil {
		return nil, nil, err
	}
	for user := range d.may {
		if _, shares := sharing[user]; shares || user == d.User {
			d.changed[user] = struct{}{}
		}
	}
	for user := range d.gone {
		if _, shares := sharing[user]; !shares {
			left = append(left, user)
			delete(d.changed, user)
		}
	}
	changed = slices.Collect(maps.Keys(d.changed))
	slices.Sort(changed)
	slices.Sort(left)
	return changed, left, nil
}

// sharing returns those of some users who are in a room with the user. Its cost follows the smaller of their number and
// that of the members of each room.
func (d *devices) sharing(users map[id.UserID]struct{}) (map[id.UserID]struct{}, error) {
	found := map[id.UserID]struct{}{}
	if len(users) <= fewUsers {
		for user := range users {
			sees, err := d.sees(user)
			if err != nil {
				return nil, err
			}
			if sees {
				found[user] = struct{}{}
			}
		}
		return found, nil
	}
	for _, roomID := range d.mine.Joined() {
		room, err := d.Cache.Room(d.ctx, roomID)
		if err != nil {
			return nil, err
		}
		joinedAmong(room, users, found)
	}
	return found, nil
}

// joinedAmong adds those of some users to found who are in a room.
func joinedAmong(room *roomstate.Room, users, found map[id.UserID]struct{}) {
	in := roomstate.Joined{Room: room}
	if in.Len() < len(users) {
		in.Each(func(user id.UserID) bool {
			if _, asked := users[user]; asked {
				found[user] = struct{}{}
			}
			return true
		})
		return
	}
	for user := range users {
		if _, known := found[user]; !known && in.Has(user) {
			found[user] = struct{}{}
		}
	}
}

// DeviceListChanges returns whose devices a user has to look at again between two tokens, and whose no more, each sorted:
// what /sync told between them, and perhaps what it tells since.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3keyschanges
func (s *Service) DeviceListChanges(ctx context.Context, user id.UserID, from, to token.Stream) (changed, left []id.UserID, err error) {
	l := s.newLook(ctx, &Request{User: user, Since: &from})
	l.to = max(min(l.to, to.Pos), l.from)
	if l.mine, err = l.Cache.RoomsOf(ctx, user); err != nil {
		return nil, nil, err
	}
	n, err := l.hints()
	if err != nil {
		return nil, nil, err
	}
	if changed, left, err = l.findDevices(n); err != nil {
		return nil, nil, fmt.Errorf("changes of devices for %s: %w", user, err)
	}
	return changed, left, nil
}

// readCounts reads what the device has left of keys.
func (l *look) readCounts() (err error) {
	if l.Keys == nil || l.Device == "" || l.old {
		return nil
	}
	l.counts.oneTime, l.counts.unused, err = l.Keys.Counts(l.ctx, l.User, l.Device)
	return err
}

// keyCounts are what a device has left of keys to give out.
type keyCounts struct {
	oneTime map[string]int
	unused  []string
}

func (c keyCounts) equal(other keyCounts) bool {
	return maps.Equal(c.oneTime, other.oneTime) && slices.Equal(c.unused, other.unused)
}

// writeDevices writes whose devices have changed, and what the device has left of keys.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#e2e-extensions-to-sync
func (l *look) writeDevices() {
	if len(l.changed)+len(l.left) > 0 {
		l.out.said = true
		l.out.key("device_lists").raw("{")
		l.out.some("changed", l.changed).some("left", l.left).raw("}")
	}
	if l.counted != nil && !l.counted.equal(l.counts) {
		l.out.said = true // since the client began to wait
	}
	l.out.key("device_one_time_keys_count").raw("{")
	algorithms := make([]string, 0, 4) // on the stack: every answer has them
	for algorithm := range l.counts.oneTime {
		algorithms = append(algorithms, algorithm)
	}
	slices.Sort(algorithms)
	for _, algorithm := range algorithms {
		l.out.key(algorithm).number(l.counts.oneTime[algorithm])
	}
	l.out.raw("}").key("device_unused_fallback_key_types").raw("[")
	for _, algorithm := range l.counts.unused {
		l.out.item().text(algorithm)
	}
	l.out.raw("]")
}

// users writes a list of users.
func (p *page) users(list []id.UserID) *page {
	p.raw("[")
	for _, user := range list {
		p.item().text(string(user))
	}
	return p.raw("]")
}

// some writes a list of users unless it is empty.
func (p *page) some(name string, list []id.UserID) *page {
	if len(list) == 0 {
		return p
	}
	return p.key(name).users(list)
}

// tellDevices wakes those who share a room with users whose devices have changed, until ctx ends.
func (s *Service) tellDevices(ctx context.Context) {
	w := s.Hub.WaitNamed()
	defer w.Close()
	for at := s.DB.Published(); ; {
		select {
		case <-ctx.Done():
			return
		case <-w.C:
		}
		upTo := s.DB.Published()
		changes, _ := s.Hub.Since(at, upTo) // what the hub has forgotten is told at the next look
		at = upTo
		told := map[id.UserID]struct{}{}
		for _, c := range changes {
			if _, again := told[c.User]; c.Kind == notify.Device && !again {
				told[c.User] = struct{}{}
				s.wakeAround(ctx, c.User)
			}
		}
	}
}

// wakeAround wakes those who share a room with a user.
func (s *Service) wakeAround(ctx context.Context, user id.UserID) {
	rooms, err := s.Cache.RoomsOf(ctx, user)
	if err != nil {
		return // clients learn of it whenever they ask
	}
	for _, roomID := range rooms.Joined() {
		if room, err := s.Cache.Room(ctx, roomID); err == nil {
			s.Hub.Wake(roomstate.Joined{Room: room})
		}
	}
}
