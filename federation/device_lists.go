package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	maxWantedLists  = 10_000 // lists that are asked for in the background; more are when clients, who are told, ask for them
	maxListing      = 16     // servers asked at a time in the background
	maxListingNow   = 4      // lists that one server is asked for at a time because a client waits,
	maxListingAll   = 64     // and all servers together
	maxAskedNow     = 20     // lists of one server for which one client may wait; of more it asks for keys in one request
	listTimeout     = 30 * time.Second
	firstListPause  = time.Second
	longestListWait = time.Hour
	knownInChunk    = 500 // users whose lists are looked up in one query

	maxListedDevices = 1000    // devices of one user; of more nobody could make use
	maxDevicesAnswer = 4 << 20 // bytes
)

// UserDevices is what a server tells of a user's devices.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1userdevicesuserid
type UserDevices struct {
	User        id.UserID       `json:"user_id"`
	Stream      int64           `json:"stream_id"`
	Devices     []UserDevice    `json:"devices"`
	Master      json.RawMessage `json:"master_key,omitempty"`
	SelfSigning json.RawMessage `json:"self_signing_key,omitempty"`
}

// UserDevice is a device in UserDevices.
type UserDevice struct {
	ID   id.DeviceID     `json:"device_id"`
	Keys json.RawMessage `json:"keys"`
	Name string          `json:"device_display_name,omitempty"`
}

// UserDevices implements DeviceLister. With force, it asks a server even if that failed a moment ago.
func (c *Client) UserDevices(ctx context.Context, user id.UserID, force bool) (*UserDevices, error) {
	answer := &UserDevices{}
	request := wire.Request{
		Destination: user.Server(), Method: http.MethodGet, Path: escape("/_matrix/federation/v1/user/devices", string(user)),
		MaxAnswer: maxDevicesAnswer, Timeout: listTimeout, Force: force,
	}
	if err := c.fetch(ctx, request, answer); err != nil {
		return nil, err
	}
	switch {
	case answer.User != user:
		return nil, badAnswer(request, errors.New("it is about another user"))
	case len(answer.Devices) > maxListedDevices:
		return nil, badAnswer(request, fmt.Errorf("it has %d devices", len(answer.Devices)))
	}
	return answer, nil
}

// remoteLists is what is under way to get lists of devices of other servers.
type remoteLists struct {
	mu sync.Mutex // guards the following
	// flights are the lists that are being asked for, wanted those that shall be, by their servers; working counts the
	// servers that are asked in the background.
	flights map[id.UserID]*listFlight
	wanted  map[id.ServerName]*wantedLists
	count   int
	working int
	closed  bool
	now     map[id.ServerName]chan struct{} // places for lists for which clients wait

	all chan struct{} // places of all servers together
}

// listFlight is a list that is being asked for.
type listFlight struct {
	asked   storage.Pos // position from before it was asked for
	seen    int64       // the newest stream_id that has come by itself meanwhile
	spoiled bool        // no room was shared for a moment meanwhile
	done    chan struct{}
	err     error // belongs to who asks until done is closed
}

// wantedLists are the lists of one server that shall be asked for.
type wantedLists struct {
	users []id.UserID
	again map[id.UserID]struct{} // those that were wanted once more while they were being asked for
	told  map[id.UserID]struct{} // those of whom clients know that their list cannot be had
	pause time.Duration
	retry alarm
	state wantedState
}

type wantedState int

const (
	resting wantedState = iota // until retry
	queued                     // waiting for one of the places
	asking
)

func (l *remoteLists) init() {
	l.flights, l.wanted = map[id.UserID]*listFlight{}, map[id.ServerName]*wantedLists{}
	l.now, l.all = map[id.ServerName]chan struct{}{}, make(chan struct{}, maxListingAll)
}

func (l *remoteLists) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, w := range l.wanted {
		w.retry.unset()
	}
}

// shares reports whether a user of another server is in a room with a local one.
func (d *Devices) shares(ctx context.Context, user id.UserID, in func(*roomstate.Room, roomstate.Membership) bool) (bool, error) {
	rooms, err := d.Cache.RoomsOf(ctx, user)
	if err != nil {
		return false, err
	}
	for _, roomID := range rooms.Joined() {
		room, err := d.Cache.Room(ctx, roomID)
		if err != nil {
			return false, err
		}
		m, _ := rooms.Get(roomID)
		if room.HasServer(d.ServerName) && (in == nil || in(room, m)) {
			return true, nil
		}
	}
	return false, nil
}

// Refresh returns when the devices of users, all of other servers, are in storage as their servers tell them, or ctx ends.
// Whoever has an error in the answer is not: e2ee.ErrNotShared says that nothing is kept of the user, because no room is
// shared, or because the server would have to be asked for too many.
func (d *Devices) Refresh(ctx context.Context, users []id.UserID) map[id.UserID]error {
	failed := map[id.UserID]error{}
	missing, err := d.missing(ctx, users, failed)
	if err != nil {
		for _, user := range users {
			failed[user] = err
		}
		return failed
	}
	var mu sync.Mutex // guards failed
	var asking sync.WaitGroup
	count := map[id.ServerName]int{}
	for _, user := range missing {
		server := user.Server()
		if count[server]++; count[server] > maxAskedNow {
			mu.Lock()
			failed[user] = e2ee.ErrNotShared
			mu.Unlock()
			d.want(user)
			continue
		}
		asking.Go(func() {
			if err := d.refresh(ctx, user); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[user] = err
			}
		})
	}
	asking.Wait()
	return failed
}

// missing returns those of users whose lists are not known as they are now, and notes those of whom nothing is kept.
func (d *Devices) missing(ctx context.Context, users []id.UserID, failed map[id.UserID]error) (missing []id.UserID, err error) {
	if err := d.caughtUp(ctx); err != nil {
		return nil, err
	}
	current := map[id.UserID]bool{}
	err = d.DB.Read(ctx, func(tx *storage.Tx) error {
		lists, err := tx.DeviceLists(users...)
		for _, l := range lists {
			current[l.User] = l.Current
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, user := range users {
		shared, err := d.shares(ctx, user, nil)
		switch {
		case err != nil:
			return nil, err
		case !shared:
			failed[user] = e2ee.ErrNotShared
		case !current[user]:
			missing = append(missing, user)
		}
	}
	return missing, nil
}

// refresh asks for the list of one user because somebody waits for it.
func (d *Devices) refresh(ctx context.Context, user id.UserID) error {
	place := d.lists.place(user.Server())
	if err := take(ctx, place); err != nil {
		return err
	}
	if err := take(ctx, d.lists.all); err != nil {
		<-place
		return err
	}
	return d.ask(ctx, user, false, func() {
		<-place
		<-d.lists.all
	})
}

// take takes a place.
func take(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// place returns the places for lists of a server for which clients wait.
func (l *remoteLists) place(server id.ServerName) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now[server] == nil {
		for other, place := range l.now { // those of servers that nobody asks now
			if len(l.now) < maxSets {
				break
			}
			if len(place) == 0 {
				delete(l.now, other)
			}
		}
		l.now[server] = make(chan struct{}, maxListingNow)
	}
	return l.now[server]
}

// ask asks for the list of a user and stores it, or awaits whoever does already. It is asked for even when ctx ends; landed
// is called when nobody asks for it any more on behalf of this call.
func (d *Devices) ask(ctx context.Context, user id.UserID, force bool, landed func()) error {
	f := d.flight(user, d.DB.Published(), force, landed)
	if f == nil {
		return errStopping
	}
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flight returns the flight of a list, which begins if there is none; nil when this server is stopping.
func (d *Devices) flight(user id.UserID, asked storage.Pos, force bool, landed func()) *listFlight {
	l := &d.lists
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		landed()
		return nil
	}
	if f := l.flights[user]; f != nil {
		landed()
		return f
	}
	f := &listFlight{asked: asked, done: make(chan struct{})}
	l.flights[user] = f
	d.tasks.Go(func() { // under the lock: Close closes the lists before it awaits the tasks
		defer landed()
		defer close(f.done)
		f.err = d.fly(user, f, force)
		l.land(user)
	})
	return f
}

func (l *remoteLists) land(user id.UserID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.flights, user)
}

// outdated reports whether a list with a stream_id is not the newest any more, though it was just told.
func (l *remoteLists) outdated(f *listFlight, stream int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f.spoiled || f.seen > stream
}

// errOutdated says that a list changed while it was asked for.
var errOutdated = errors.New("federation: the list of devices has changed meanwhile")

// fly asks for the list of a user and stores it.
func (d *Devices) fly(user id.UserID, f *listFlight, force bool) error {
	answer, err := d.Client.UserDevices(d.ctx, user, force)
	if err != nil {
		return err
	}
	list, keys := d.check(answer)
	list.Asked = f.asked
	err = d.DB.Write(d.ctx, func(tx *storage.Tx, at storage.Pos) error {
		list.Current = !d.lists.outdated(f, list.Stream)
		return d.replace(tx, at, list, keys)
	})
	if err == nil && !list.Current {
		d.want(user)
		return errOutdated
	}
	return err
}

// want lets the lists of users be asked for in the background; of those that are too many clients are told that they have
// to ask. It does not wait.
func (d *Devices) want(users ...id.UserID) {
	for _, user := range d.wantSome(users) {
		d.DB.Queue(&storage.Act{Positions: 1, Do: func(tx *storage.Tx, at storage.Pos) error { return d.Changed(tx, at, user) }})
	}
}

// wantSome is want, and returns which are too many.
func (d *Devices) wantSome(users []id.UserID) (rest []id.UserID) {
	l := &d.lists
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, user := range users {
		w := l.wanted[user.Server()]
		if l.count >= maxWantedLists && (w == nil || !slices.Contains(w.users, user)) {
			rest = append(rest, user)
			continue
		}
		if w == nil {
			w = &wantedLists{retry: alarm{ends: &d.tasks}, again: map[id.UserID]struct{}{}, told: map[id.UserID]struct{}{}}
			l.wanted[user.Server()] = w
		}
		if slices.Contains(w.users, user) {
			w.again[user] = struct{}{}
			continue
		}
		w.users = append(w.users, user)
		l.count++
		if w.state == resting && w.pause == 0 {
			w.state = queued
		}
	}
	d.dispatchLocked()
	return rest
}

// Alive says that a server has contacted us: what it was not asked for, because it did not answer, it is asked for now.
func (d *Devices) Alive(server id.ServerName) {
	l := &d.lists
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.wanted[server]
	if w == nil || w.state != resting || w.pause < aliveSpacing {
		return
	}
	w.pause = firstListPause
	d.restLocked(w)
}

// restLocked lets a server be asked again after its pause.
func (d *Devices) restLocked(w *wantedLists) {
	w.state = resting
	if d.lists.closed {
		return
	}
	w.retry.set(w.pause, func() {
		d.lists.mu.Lock()
		defer d.lists.mu.Unlock()
		if w.state == resting {
			w.state = queued
			d.dispatchLocked()
		}
	})
}

// dispatchLocked begins to ask servers, as many as may be.
func (d *Devices) dispatchLocked() {
	l := &d.lists
	for server, w := range l.wanted {
		if l.closed || l.working >= maxListing {
			return
		}
		if w.state != queued {
			continue
		}
		w.state = asking
		l.working++
		d.tasks.Go(func() { d.work(server, w) })
	}
}

// work asks one server for the lists that are wanted of it, one after the other, until one cannot be had.
func (d *Devices) work(server id.ServerName, w *wantedLists) {
	for tries := d.lists.waiting(w); tries > 0; tries-- {
		user, ok := d.lists.first(w)
		if !ok {
			break
		}
		err := d.catchUp(w, user)
		d.lists.tried(w, user, err == nil)
		if err != nil {
			d.Log.Debug("devices of a user are not known", "user", user, "error", err)
		}
		var refused *wire.Error
		if err != nil && !errors.As(err, &refused) && !errors.Is(err, errOutdated) {
			break // nobody is there
		}
	}
	d.lists.mu.Lock()
	defer d.lists.mu.Unlock()
	d.lists.working--
	if len(w.users) == 0 {
		delete(d.lists.wanted, server)
	} else {
		w.pause = wire.NextPause(w.pause, firstListPause, longestListWait)
		d.restLocked(w)
	}
	d.dispatchLocked()
}

func (l *remoteLists) waiting(w *wantedLists) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(w.users)
}

func (l *remoteLists) first(w *wantedLists) (id.UserID, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(w.users) == 0 || l.closed {
		return "", false
	}
	delete(w.again, w.users[0])
	return w.users[0], true
}

// tried puts a user behind the others whose list could not be had, and forgets one whose list is here.
func (l *remoteLists) tried(w *wantedLists, user id.UserID, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(w.users, user)
	w.users = slices.Delete(w.users, i, i+1)
	_, again := w.again[user]
	if done && !again {
		l.count--
		w.pause = 0
		delete(w.told, user)
		return
	}
	w.users = append(w.users, user)
}

// catchUp asks for the list of a user if it is needed and not known.
func (d *Devices) catchUp(w *wantedLists, user id.UserID) error {
	shared, err := d.shares(d.ctx, user, nil)
	if err != nil || !shared {
		return err
	}
	list, err := d.known(user)
	if err != nil || list.Current {
		return err
	}
	err = d.ask(d.ctx, user, true, func() {})
	if err == nil || errors.Is(err, errOutdated) || list.Asked == 0 || d.ctx.Err() != nil || !d.lists.tellOnce(w, user) {
		return err
	}
	return errors.Join(err, d.DB.Write(d.ctx, func(tx *storage.Tx, at storage.Pos) error { return d.Changed(tx, at, user) }))
}

// tellOnce reports whether clients are to be told that what they know of a user's devices is out of date, though nothing
// newer can be had: once.
func (l *remoteLists) tellOnce(w *wantedLists, user id.UserID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, told := w.told[user]
	w.told[user] = struct{}{}
	return !told
}

func (d *Devices) known(user id.UserID) (list storage.DeviceList, err error) {
	err = d.DB.Read(d.ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.DeviceList(user)
		return err
	})
	return list, err
}

// revise forgets the lists of users with whom no room was shared for a while: nobody has told what changed in it.
func (d *Devices) revise(ctx context.Context, s *stretch) error {
	for _, m := range s.moves {
		room, err := d.room(ctx, m.room)
		if err != nil {
			return err
		}
		if room == nil {
			continue
		}
		users, since, err := d.doubtful(ctx, room, s, m)
		if err != nil {
			return err
		}
		for part := range slices.Chunk(users, knownInChunk) {
			if err := d.reviseUsers(ctx, room, s.from, since, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// doubtful returns the users of other servers who may not share a room any more, or did not until a position, because of
// a move.
func (d *Devices) doubtful(ctx context.Context, room *roomstate.Room, s *stretch, m move) (users []id.UserID, since storage.Pos, err error) {
	member, _ := room.Member(m.user)
	if member.Since <= s.from {
		return nil, 0, nil
	}
	fresh, err := joinedSince(ctx, room, m.user, s.from)
	err = d.bear(ctx, m, err)
	switch {
	case err != nil || member.Membership == "join" && !fresh:
		return nil, 0, err
	case m.user.Server() != d.ServerName:
		return []id.UserID{m.user}, member.Since, nil
	case d.wasIn(room, s.from):
		return nil, 0, nil
	}
	room.Members(func(other roomstate.Member) bool {
		if other.User.Server() != d.ServerName {
			users = append(users, other.User)
		}
		return true
	})
	return users, member.Since, nil
}

// wasIn reports whether a local user is in a room since a position or longer.
func (d *Devices) wasIn(room *roomstate.Room, since storage.Pos) (was bool) {
	if !room.HasServer(d.ServerName) {
		return false
	}
	room.Members(func(m roomstate.Member) bool {
		was = m.Membership == "join" && m.Since <= since && m.User.Server() == d.ServerName
		return !was
	})
	return was
}

// reviseUsers forgets those of lists that are known, and were asked for before a position, whose users share no other room
// since before all that.
func (d *Devices) reviseUsers(ctx context.Context, except *roomstate.Room, from, since storage.Pos, users []id.UserID) error {
	d.lists.spoil(users, since)
	var known []storage.DeviceList
	err := d.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		known, err = tx.DeviceLists(users...)
		return err
	})
	if err != nil {
		return err
	}
	for _, l := range known {
		other := func(room *roomstate.Room, m roomstate.Membership) bool {
			return room.ID != except.ID && m.Since <= from && d.wasIn(room, from)
		}
		shared, err := d.shares(ctx, l.User, other)
		if err = d.bear(ctx, move{user: l.User}, err); err != nil {
			return err
		}
		if shared {
			continue
		}
		if err := d.forget(ctx, l.User, since); err != nil {
			return err
		}
	}
	return nil
}

// spoil lets lists that are being asked for since before a position count as out of date.
func (l *remoteLists) spoil(users []id.UserID, since storage.Pos) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, user := range users {
		if f := l.flights[user]; f != nil && f.asked < since {
			f.spoiled = true
		}
	}
}

// forget forgets the list of a user unless it was asked for since a position.
func (d *Devices) forget(ctx context.Context, user id.UserID, since storage.Pos) error {
	act := &storage.Act{Do: func(tx *storage.Tx, _ storage.Pos) error {
		list, err := tx.DeviceList(user)
		if err != nil || list.Asked >= since {
			return err
		}
		if _, err := replaceCrosses(tx, user, nil); err != nil {
			return err
		}
		return tx.DeleteDeviceList(user)
	}}
	d.DB.Queue(act)
	return act.Wait(ctx)
}

// ReceiveDeviceList takes the content, in canonical JSON, of an m.device_list_update EDU that another server has sent. It is
// about users of that server who share a room; others are passed over. If it does not follow on what is known, the whole
// list is asked for in the background.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#device-management
func (d *Devices) ReceiveDeviceList(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var u deviceUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return mxerr.BadJSON.With("m.device_list_update is of another form: %v", err)
	}
	if !validDeviceID(u.Device) {
		return mxerr.BadJSON.With("device_id is missing or too long")
	}
	if err := d.concerns(ctx, origin, u.User); err != nil {
		return err
	}
	d.lists.note(u.User, u.Stream)
	follows := false
	err := d.DB.Write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		list, err := tx.DeviceList(u.User)
		if err != nil {
			return err
		}
		follows, err = d.apply(tx, at, list, &u)
		return err
	})
	if err == nil && !follows {
		d.want(u.User)
	}
	return err
}

// concerns checks that a user whom another server speaks of is its own and shares a room.
func (d *Devices) concerns(ctx context.Context, origin id.ServerName, user id.UserID) error {
	parsed, err := id.ParseUserID(string(user))
	if err != nil || parsed.Server() != origin || origin == d.ServerName {
		return mxerr.Forbidden.With("the user is not one of the server that speaks of them")
	}
	shared, err := d.shares(ctx, user, nil)
	if err == nil && !shared {
		err = mxerr.Forbidden.With("no room is shared with %s", user)
	}
	return err
}

// note remembers that an update has come while the list is being asked for.
func (l *remoteLists) note(user id.UserID, stream int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.flights[user]; f != nil {
		f.seen = max(f.seen, stream)
	}
}

// apply stores an update, and reports whether it follows on what is known; if not, that is stored.
func (d *Devices) apply(tx *storage.Tx, at storage.Pos, list storage.DeviceList, u *deviceUpdate) (follows bool, err error) {
	if list.Current && u.Stream == list.Stream {
		return true, nil // it is known
	}
	follows = list.Current && len(u.Prev) > 0 && u.Stream > list.Stream &&
		!slices.ContainsFunc(u.Prev, func(prev int64) bool { return prev != list.Stream })
	if !follows {
		list.Current = false
		return false, tx.PutDeviceList(list)
	}
	if err := d.applyDevice(tx, u); err != nil {
		return true, err
	}
	list.Stream = u.Stream
	if err := tx.PutDeviceList(list); err != nil {
		return true, err
	}
	return true, d.Changed(tx, at, u.User, u.Device)
}

// applyDevice stores what an update says of a device. One without keys, or with keys that cannot be taken, has none, nor has
// one that is too many.
func (d *Devices) applyDevice(tx *storage.Tx, u *deviceUpdate) error {
	others, err := tx.OtherDeviceKeys(u.User, u.Device)
	if err != nil {
		return err
	}
	keys, err := e2ee.CheckRemoteDeviceKeys(u.User, u.Device, u.Keys)
	if u.Deleted || err != nil || others >= maxListedDevices {
		return tx.DeleteDeviceKeys(u.User, []id.DeviceID{u.Device})
	}
	return tx.PutDeviceKeys(storage.DeviceKeys{User: u.User, Device: u.Device, Keys: keys, Name: clipName(u.Name)})
}

// ReceiveSigningKeys is ReceiveDeviceList for an m.signing_key_update EDU.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#end-to-end-encryption
func (d *Devices) ReceiveSigningKeys(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var u struct {
		User        id.UserID       `json:"user_id"`
		Master      json.RawMessage `json:"master_key"`
		SelfSigning json.RawMessage `json:"self_signing_key"`
	}
	if err := json.Unmarshal(content, &u); err != nil {
		return mxerr.BadJSON.With("m.signing_key_update is of another form: %v", err)
	}
	if err := d.concerns(ctx, origin, u.User); err != nil {
		return err
	}
	d.lists.spoil([]id.UserID{u.User}, maxPosition) // an answer that is under way may not have these keys
	told := d.checkCrosses(u.User, u.Master, u.SelfSigning)
	current := false
	err := d.DB.Write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		list, err := tx.DeviceList(u.User)
		if current = list.Current; err != nil {
			return err
		}
		if !current {
			return tx.PutDeviceList(list)
		}
		known, err := tx.CrossSigningKeys(u.User)
		if err != nil {
			return err
		}
		if changed, err := putCrosses(tx, known, told); err != nil || !changed {
			return err
		}
		return d.Changed(tx, at, u.User)
	})
	if err == nil && !current {
		d.want(u.User)
	}
	return err
}
