package federation

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// DevicesConfig describes Devices. All but Log are required.
type DevicesConfig struct {
	ServerName id.ServerName
	DB         *storage.DB
	Cache      *roomstate.Cache
	Hub        *notify.Hub
	Outbox     *Outbox
	Wake       func([]id.ServerName) // the Sender's
	Client     DeviceLister

	// Changed says inside an act that devices of a user have changed, or without devices the cross-signing keys: see
	// e2ee.Service.Changed.
	Changed func(tx *storage.Tx, at storage.Pos, user id.UserID, devices ...id.DeviceID) error

	Log *slog.Logger // nil discards
}

// DeviceLister asks other servers for the devices of their users; a *Client does.
type DeviceLister interface {
	// UserDevices asks the server of a user. Nothing of the answer but its shape is checked.
	UserDevices(ctx context.Context, user id.UserID, force bool) (*UserDevices, error)
}

// Devices is what servers tell each other of devices: it tells the servers that share a room with a local user when that
// user's devices have changed, and keeps the devices of those users of other servers who share a room with a local one.
//
// It follows what is stored, up to a position that is stored as well, so that nobody who changes devices or rooms has to
// think of other servers. It has one goroutine for that, and one for each server whose lists are being asked for.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#device-management
type Devices struct {
	DevicesConfig
	ctx   context.Context // of all work; ends with Close
	stop  context.CancelFunc
	tasks sync.WaitGroup

	// The following belong to the goroutine that follows.
	at, stored storage.Pos                 // up to where it has followed, and where that is stored
	sets       map[[sha256.Size]byte]int64 // sets of servers that are stored, by the hashes of their names
	told       int                         // acts so far
	faults     map[move]int                // how often a room could not be read, or what somebody does there
	passed     bool                        // something was passed over since something was stored

	lists remoteLists

	kick chan struct{} // capacity 1: somebody waits for the follower
	mu   sync.Mutex    // guards the following
	// followed is d.at for others, and reached is closed when that has changed.
	followed storage.Pos
	reached  chan struct{}
}

// NewDevices returns Devices that do nothing before Start.
func NewDevices(cfg DevicesConfig) *Devices {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Devices{
		DevicesConfig: cfg, sets: map[[sha256.Size]byte]int64{}, faults: map[move]int{}, kick: make(chan struct{}, 1), reached: make(chan struct{}),
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.lists.init()
	return d
}

// Start looks at what a process before this one has not looked at, as far as it can be read, and begins to follow.
func (d *Devices) Start(ctx context.Context) error {
	var stale []id.UserID
	err := d.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if d.at, err = tx.DevicesFollowed(); err != nil {
			return err
		}
		stale, err = tx.StaleDeviceLists(maxWantedLists)
		return err
	})
	if err != nil {
		return fmt.Errorf("load what is told of devices: %w", err)
	}
	d.stored, d.followed = d.at, d.at
	named := d.Hub.WaitNamed()
	switch err := d.round(ctx); {
	case err == nil:
	case ctx.Err() != nil || temporary(err):
		named.Close()
		return fmt.Errorf("follow devices: %w", err)
	default: // it is tried again, and told then
		d.kick <- struct{}{}
	}
	d.tasks.Go(func() { d.follow(named) })
	d.want(stale...)
	return nil
}

// Close ends what is under way and awaits it.
func (d *Devices) Close() {
	d.lists.close()
	d.stop()
	d.tasks.Wait()
}

// followPause is how long the follower waits after a fault.
const followPause = 5 * time.Second

func (d *Devices) follow(named *notify.Waiter) {
	defer named.Close()
	for {
		select {
		case <-d.ctx.Done():
			d.keep(context.WithoutCancel(d.ctx), 1)
			return
		case <-named.C:
		case <-d.kick:
		}
		for err := d.round(d.ctx); err != nil && d.ctx.Err() == nil; err = d.round(d.ctx) {
			d.Log.Error("changes of devices cannot be told", "error", err)
			select {
			case <-d.ctx.Done():
			case <-time.After(followPause):
			}
		}
	}
}

// keepEvery is after how many positions it is stored how far the follower is, so that a start after a crash is quick.
const keepEvery = 1000

// round looks at everything that was published since the last round.
func (d *Devices) round(ctx context.Context) error {
	for to := d.DB.Published(); d.at < to; {
		s, err := d.since(ctx, to)
		if err != nil {
			return err
		}
		if err := d.revise(ctx, s); err != nil {
			return err
		}
		if err := d.tell(ctx, s); err != nil {
			return err
		}
		d.at = s.upTo
		d.reach(d.at)
	}
	return d.keep(ctx, keepEvery)
}

const (
	maxFaults  = 5    // tries, each behind followPause, after which what cannot be read is passed over
	keptFaults = 1000 // how many faults are remembered
)

// bear returns the error of reading what is behind a move, as long as it may be gone when that is tried again. Later it is
// told, and nil: one room that is damaged keeps nobody else back.
func (d *Devices) bear(ctx context.Context, m move, err error) error {
	switch {
	case err == nil:
		delete(d.faults, m)
		return nil
	case ctx.Err() != nil || temporary(err):
		return err
	case len(d.faults) >= keptFaults:
		clear(d.faults)
	}
	if d.faults[m]++; d.faults[m] <= maxFaults {
		return err
	}
	d.passed = true
	d.Log.Error("what servers are told of devices passes over what cannot be read", "room", m.room, "user", m.user, "error", err)
	return nil
}

// room returns a room, or nil for one that is passed over.
func (d *Devices) room(ctx context.Context, roomID id.RoomID) (*roomstate.Room, error) {
	room, err := d.Cache.Room(ctx, roomID)
	return room, d.bear(ctx, move{room: roomID}, err)
}

// reach lets those go on who wait for the follower.
func (d *Devices) reach(at storage.Pos) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.followed = at
	close(d.reached)
	d.reached = make(chan struct{})
}

// caughtUp waits until everything that is published has been looked at.
func (d *Devices) caughtUp(ctx context.Context) error {
	for upTo := d.DB.Published(); ; {
		d.mu.Lock()
		followed, reached := d.followed, d.reached
		d.mu.Unlock()
		if followed >= upTo {
			return nil
		}
		select {
		case d.kick <- struct{}{}:
		default:
		}
		select {
		case <-reached:
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ctx.Done():
			return errStopping
		}
	}
}

// keep stores how far the follower is if that is at least so many positions ahead of what is stored.
func (d *Devices) keep(ctx context.Context, ahead storage.Pos) error {
	if d.at-d.stored < ahead {
		return nil
	}
	act := &storage.Act{}
	act.Add(storage.UpsertDevicesFollowed, 1, d.at)
	d.DB.Queue(act)
	err := act.Wait(ctx)
	if err == nil {
		d.stored = d.at
	}
	return err
}

// stretch is what has happened in some positions.
type stretch struct {
	from, upTo storage.Pos
	moves      []move
	changers   []id.UserID // local users, sorted, each once
}

// move is a membership that may have changed.
type move struct {
	room id.RoomID
	user id.UserID
}

// stretchEvents is how many events are read from storage at once.
const stretchEvents = 1000

// since returns what has happened behind d.at: from memory or, in parts, from storage.
func (d *Devices) since(ctx context.Context, to storage.Pos) (*stretch, error) {
	changes, ok := d.Hub.Since(d.at, to)
	if !ok {
		return d.sinceStored(ctx, to)
	}
	s := &stretch{from: d.at, upTo: to}
	for _, c := range changes {
		switch c.Kind {
		case notify.Membership:
			s.moves = append(s.moves, move{c.Room, c.User})
		case notify.Timeline: // whoever sends may have joined: the hub names no more than some of many members
			s.moves = append(s.moves, move{c.Room, c.User})
		case notify.Device:
			s.change(c.User, d.ServerName)
		}
	}
	s.tidy()
	return s, nil
}

func (d *Devices) sinceStored(ctx context.Context, to storage.Pos) (*stretch, error) {
	s := &stretch{from: d.at, upTo: to}
	err := d.DB.Read(ctx, func(tx *storage.Tx) error {
		events, err := tx.MemberEventsAfter(d.at, to, stretchEvents)
		if err != nil {
			return err
		}
		if len(events) == stretchEvents {
			s.upTo = events[len(events)-1].Pos
		}
		for _, e := range events {
			if e.User != "" {
				s.moves = append(s.moves, move{e.Room, e.User})
			}
		}
		changers, err := tx.AllDeviceChangers("", s.from, s.upTo)
		for _, user := range changers {
			s.change(user, d.ServerName)
		}
		return err
	})
	s.tidy()
	return s, err
}

func (s *stretch) change(user id.UserID, own id.ServerName) {
	if user.Server() == own {
		s.changers = append(s.changers, user)
	}
}

func (s *stretch) tidy() {
	slices.Sort(s.changers)
	s.changers = slices.Compact(s.changers)
	slices.SortFunc(s.moves, func(a, b move) int {
		if c := strings.Compare(string(a.room), string(b.room)); c != 0 {
			return c
		}
		return strings.Compare(string(a.user), string(b.user))
	})
	s.moves = slices.Compact(s.moves)
}

// news are devices of a user of which servers are told.
type deviceNews struct {
	user    id.UserID
	devices []id.DeviceID // "" for the cross-signing keys
	servers []id.ServerName
}

// tell stores of which devices servers are told because of what has happened, with how far that is.
//
// "Servers must send m.device_list_update EDUs to all the servers who share a room with a given local user, and must be
// sent whenever that user's device list changes (i.e. for new or deleted devices, when that user joins a room which
// contains servers which are not already receiving updates for that user's device list, …)."
func (d *Devices) tell(ctx context.Context, s *stretch) error {
	list, err := d.changes(ctx, s)
	if err != nil {
		return err
	}
	for _, m := range s.moves {
		if m.user.Server() != d.ServerName {
			continue
		}
		news, err := d.met(ctx, s, m)
		if err != nil {
			return err
		}
		list = append(list, news...)
	}
	if len(list) == 0 && !d.passed { // who passes something over has to be able to store how far it is
		return nil
	}
	return d.store(ctx, s, list)
}

// changes finds the devices that have changed.
func (d *Devices) changes(ctx context.Context, s *stretch) (list []deviceNews, err error) {
	for _, user := range s.changers {
		servers, err := d.around(ctx, user, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		if len(servers) == 0 {
			continue
		}
		news := deviceNews{user: user, servers: servers}
		err = d.DB.Read(ctx, func(tx *storage.Tx) error {
			changes, err := tx.DeviceChangesOf(user, s.from, s.upTo)
			for _, c := range changes {
				if c.Audience == "" && !slices.Contains(news.devices, c.Device) {
					news.devices = append(news.devices, c.Device)
				}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		list = append(list, news)
	}
	return list, nil
}

// around returns the other servers in rooms in which a user is since some position or longer; sorted, each once.
func (d *Devices) around(ctx context.Context, user id.UserID, since storage.Pos) ([]id.ServerName, error) {
	rooms, err := d.Cache.RoomsOf(ctx, user)
	if err != nil {
		return nil, err
	}
	in := map[id.ServerName]struct{}{}
	for _, roomID := range rooms.Joined() {
		if m, ok := rooms.Get(roomID); !ok || m.Since > since {
			continue
		}
		room, err := d.room(ctx, roomID)
		if err != nil {
			return nil, err
		}
		if room == nil {
			continue
		}
		for _, server := range room.Servers() {
			in[server] = struct{}{}
		}
	}
	delete(in, d.ServerName)
	return sortedNames(in), nil
}

func sortedNames(set map[id.ServerName]struct{}) []id.ServerName {
	names := make([]id.ServerName, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// met finds the servers that are told of all devices of a local user because that user has joined a room with them.
func (d *Devices) met(ctx context.Context, s *stretch, m move) ([]deviceNews, error) {
	room, err := d.room(ctx, m.room)
	if err != nil || room == nil {
		return nil, err
	}
	fresh, err := joinedSince(ctx, room, m.user, s.from)
	if err = d.bear(ctx, m, err); err != nil || !fresh {
		return nil, err
	}
	known, err := d.around(ctx, m.user, s.from)
	if err != nil {
		return nil, err
	}
	in := map[id.ServerName]struct{}{}
	for _, server := range room.Servers() {
		if _, told := slices.BinarySearch(known, server); !told && server != d.ServerName {
			in[server] = struct{}{}
		}
	}
	if len(in) == 0 {
		return nil, nil
	}
	news := deviceNews{user: m.user, servers: sortedNames(in)}
	err = d.DB.Read(ctx, func(tx *storage.Tx) error {
		names, err := tx.DeviceNames([]id.UserID{m.user})
		for _, name := range names {
			news.devices = append(news.devices, name.ID)
		}
		return err
	})
	return []deviceNews{news}, err
}

// joinedSince reports whether a user, who is in a room, came into it behind a position.
func joinedSince(ctx context.Context, room *roomstate.Room, user id.UserID, from storage.Pos) (bool, error) {
	m, ok := room.Member(user)
	if !ok || m.Membership != "join" || m.Since <= from {
		return false, nil
	}
	e, err := room.StateEvent(ctx, room.View().State, "m.room.member", string(user))
	for err == nil && e != nil && e.Arrived() > from {
		if e, err = room.StateEvent(ctx, e.Before, "m.room.member", string(user)); err == nil && (e == nil || e.Membership() != "join") {
			return true, nil
		}
	}
	return false, err
}

// keptUpdates is how many changes are kept for each user, the latest, once there are twice as many: a server that has missed
// more is told of the last ones, sees that it has missed some, and asks for the whole list.
const keptUpdates = 64

// sweepEvery is after how many acts sets of servers are forgotten that nothing names any more.
const sweepEvery = 1000

// store stores news, each at a position of its own.
func (d *Devices) store(ctx context.Context, s *stretch, list []deviceNews) error {
	old, again, err := d.trim(ctx, list)
	if err != nil {
		return err
	}
	list = append(list, again...)
	positions := 0
	for _, n := range list {
		positions += len(n.devices)
	}
	last := storage.Pos(0)
	act := &storage.Act{Positions: positions}
	act.Place = func(a *storage.Act, first storage.Pos) { last = d.place(a, first, list) }
	act.Add(storage.UpsertDevicesFollowed, 1, s.upTo)
	act.Do = func(tx *storage.Tx, _ storage.Pos) error { return d.prune(tx, old) }
	act.Committed = func(storage.Pos) {
		for _, n := range list {
			d.Outbox.Owe(n.servers, last)
		}
	}
	act.Announced = func(storage.Pos) {
		for _, n := range list {
			d.Wake(n.servers)
		}
	}
	d.told++
	d.DB.Queue(act)
	if err := act.Wait(ctx); err != nil {
		clear(d.sets)
		return err
	}
	d.stored, d.passed = s.upTo, false
	return nil
}

// place adds the rows of news, and returns the last position. It runs under the queue's lock, while store waits.
func (d *Devices) place(a *storage.Act, first storage.Pos, list []deviceNews) storage.Pos {
	pos := first
	for _, n := range list {
		for _, device := range n.devices {
			a.Add(storage.InsertOutgoingDevice, pos, string(n.user), string(device), d.setOf(a, pos, n.servers))
			pos++
		}
	}
	return pos - 1
}

// setOf is the number of a set of servers, which is stored if it is new.
func (d *Devices) setOf(a *storage.Act, pos storage.Pos, servers []id.ServerName) int64 {
	text, _ := json.Marshal(servers) // of strings, it never fails
	key := sha256.Sum256(text)
	if number, ok := d.sets[key]; ok {
		return number
	}
	if len(d.sets) >= maxSets {
		clear(d.sets)
	}
	a.Add(storage.InsertDeviceSet, pos, text)
	d.sets[key] = pos
	return pos
}

// trim finds from where on the changes of users are kept of whom there are many, and what servers are told in the place of
// those that they have not got.
func (d *Devices) trim(ctx context.Context, list []deviceNews) (old map[id.UserID]storage.Pos, again []deviceNews, err error) {
	news := map[id.UserID][]deviceNews{}
	for _, n := range list {
		news[n.user] = append(news[n.user], n)
	}
	var many []id.UserID
	err = d.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		many, err = tx.ManyOutgoingDevices(slices.Collect(maps.Keys(news)), 2*keptUpdates)
		return err
	})
	old = map[id.UserID]storage.Pos{}
	for _, user := range many {
		before, owed, err := d.trimUser(ctx, user, news[user])
		if err != nil {
			return nil, nil, err
		}
		old[user], again = before, append(again, owed...)
	}
	return old, again, err
}

func (d *Devices) trimUser(ctx context.Context, user id.UserID, news []deviceNews) (before storage.Pos, owed []deviceNews, err error) {
	around, err := d.around(ctx, user, math.MaxInt64)
	if err != nil {
		return 0, nil, err
	}
	keep := keptUpdates
	for _, n := range news {
		keep = max(keep, 2*len(n.devices))
	}
	err = d.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.OutgoingDevicesOf(user)
		if err != nil || len(rows) <= keep {
			return err
		}
		before = rows[keep-1].Pos
		owed, err = owedDevices(tx, around, rows[:keep], rows[keep:], news)
		return err
	})
	return before, owed, err
}

// owedDevices tells those servers around a user of a change again who have not got one that is forgotten, and who are told
// of nothing newer. It follows on nothing that they know: they see that they have missed some, and ask for the whole list.
// All changes are of the user, the latest first; those of devices and those of the cross-signing keys are told apart.
func owedDevices(tx *storage.Tx, around []id.ServerName, kept, gone []storage.OutgoingDevice, news []deviceNews) (owed []deviceNews, err error) {
	o := owing{around: around}
	if o.past, err = tx.EDUsPast(around); err != nil {
		return nil, err
	}
	numbers := map[int64]struct{}{}
	for _, row := range slices.Concat(kept, gone) {
		numbers[row.Set] = struct{}{}
	}
	if o.sets, err = tx.DeviceSets(slices.Collect(maps.Keys(numbers))); err != nil {
		return nil, err
	}
	for _, keys := range []bool{false, true} {
		is := func(device id.DeviceID) bool { return (device == "") == keys }
		if again := o.again(kept, gone, news, is); len(again.servers) > 0 {
			owed = append(owed, again)
		}
	}
	return owed, nil
}

// owing is what it takes to know what servers around a user have not got.
type owing struct {
	around []id.ServerName // sorted
	past   map[id.ServerName]storage.Pos
	sets   map[int64][]id.ServerName
}

// again is what owedDevices tells of one kind of changes.
func (o *owing) again(kept, gone []storage.OutgoingDevice, news []deviceNews, is func(id.DeviceID) bool) (again deviceNews) {
	informed := map[id.ServerName]struct{}{}
	for _, n := range news {
		if slices.ContainsFunc(n.devices, is) {
			addNames(informed, n.servers)
		}
	}
	for _, row := range kept {
		if is(row.Device) {
			addNames(informed, o.sets[row.Set])
		}
	}
	for _, row := range gone {
		if !is(row.Device) {
			continue
		}
		for _, server := range o.sets[row.Set] {
			if _, ok := informed[server]; !ok && o.lacks(server, row.Pos) {
				again.user, again.devices = row.User, []id.DeviceID{row.Device}
				again.servers = append(again.servers, server)
			}
		}
		addNames(informed, o.sets[row.Set])
	}
	slices.Sort(again.servers)
	return again
}

// lacks reports whether a server that is told of the user has not got what it was told at a position.
func (o *owing) lacks(server id.ServerName, at storage.Pos) bool {
	_, near := slices.BinarySearch(o.around, server)
	return near && o.past[server] < at
}

func addNames(set map[id.ServerName]struct{}, names []id.ServerName) {
	for _, name := range names {
		set[name] = struct{}{}
	}
}

// prune forgets changes of users from before positions, and now and then old sets of servers.
func (d *Devices) prune(tx *storage.Tx, old map[id.UserID]storage.Pos) error {
	for user, before := range old {
		if err := tx.DeleteOutgoingDevices(user, before); err != nil {
			return err
		}
	}
	if d.told%sweepEvery != 0 {
		return nil
	}
	clear(d.sets)
	return tx.DeleteDeviceSets()
}
