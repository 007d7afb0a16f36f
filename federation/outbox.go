package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Outbox has the EDUs that other servers must get: messages to devices, as they were stored, and changes of devices, which
// are made when they are sent, so that what has changed twice meanwhile is told once. It is the DurableEDUs of a Sender.
//
// It remembers for which servers there is anything, and asks storage for nobody else.
type Outbox struct {
	db      *storage.DB
	publish func(tx *storage.Tx, user id.UserID) (*e2ee.PublishedKeys, error)

	mu sync.Mutex // guards the following
	// owed has the servers that may not have got everything; sets are sets of servers by their numbers, with so many names.
	owed  map[id.ServerName]debt
	sets  map[int64][]id.ServerName
	names int
}

// debt is what a server may not have got.
type debt struct {
	newest storage.Pos // of what there is for it
	from   storage.Pos // what is stored at or before it was deleted
}

// NewOutbox returns an Outbox, which asks publish for the devices and keys of local users.
func NewOutbox(db *storage.DB, publish func(*storage.Tx, id.UserID) (*e2ee.PublishedKeys, error)) *Outbox {
	return &Outbox{db: db, publish: publish, owed: map[id.ServerName]debt{}, sets: map[int64][]id.ServerName{}}
}

// Owe says that EDUs for servers are stored, or may be, up to a position. It is called before that is published.
func (o *Outbox) Owe(servers []id.ServerName, upTo storage.Pos) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, server := range servers {
		d := o.owed[server]
		d.newest = max(d.newest, upTo)
		o.owed[server] = d
	}
}

// Waiting implements DurableEDUs.
func (o *Outbox) Waiting(ctx context.Context) (waiting []id.ServerName, err error) {
	var newest map[id.ServerName]storage.Pos
	var destinations []storage.Destination
	err = o.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if newest, err = o.newest(tx); err != nil {
			return err
		}
		destinations, err = tx.Destinations()
		return err
	})
	if err != nil {
		return nil, err
	}
	past := map[id.ServerName]storage.Pos{}
	for _, d := range destinations {
		past[d.Server] = d.EDUsPast
	}
	for server, pos := range newest {
		o.Owe([]id.ServerName{server}, pos)
		if pos > past[server] {
			waiting = append(waiting, server)
		} else {
			o.settle(server, past[server])
		}
	}
	return waiting, nil
}

// newest is the position of the newest EDU for each server.
func (o *Outbox) newest(tx *storage.Tx) (map[id.ServerName]storage.Pos, error) {
	newest, err := tx.OutgoingEDUServers()
	if err != nil {
		return nil, err
	}
	devices, err := tx.NewestOutgoingDevices()
	if err != nil {
		return nil, err
	}
	sets, err := tx.DeviceSets(slices.Collect(maps.Keys(devices)))
	if err != nil {
		return nil, err
	}
	for set, pos := range devices {
		for _, server := range sets[set] {
			newest[server] = max(newest[server], pos)
		}
	}
	return newest, nil
}

// After implements DurableEDUs.
func (o *Outbox) After(ctx context.Context, server id.ServerName, after, upTo storage.Pos, limit int) (list []DurableEDU, err error) {
	if o.settle(server, after) {
		return nil, nil
	}
	err = o.db.Read(ctx, func(tx *storage.Tx) error {
		list, err = o.read(tx, server, after, upTo, limit)
		return err
	})
	return list, err
}

// settle forgets what a server is past, and reports whether that is everything.
func (o *Outbox) settle(server id.ServerName, past storage.Pos) bool {
	d, ok := o.debtOf(server)
	if !ok {
		return true
	}
	if past > d.from {
		o.db.Queue(&storage.Act{
			Do:        func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteOutgoingEDUs(server, past) },
			Committed: func(storage.Pos) { o.settled(server, past) },
		})
	}
	return d.newest <= past
}

func (o *Outbox) debtOf(server id.ServerName) (debt, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d, ok := o.owed[server]
	return d, ok
}

func (o *Outbox) settled(server id.ServerName, past storage.Pos) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.owed[server]
	if d.from = max(d.from, past); d.newest <= past {
		delete(o.owed, server)
		return
	}
	o.owed[server] = d
}

// read reads the EDUs for a server, both kinds by their positions.
func (o *Outbox) read(tx *storage.Tx, server id.ServerName, after, upTo storage.Pos, limit int) ([]DurableEDU, error) {
	list, err := o.devices(tx, server, after, upTo, limit)
	if err != nil {
		return nil, err
	}
	messages, err := tx.OutgoingEDUs(server, after, upTo, limit)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		list = append(list, DurableEDU{At: m.Pos, Text: m.EDU})
	}
	slices.SortFunc(list, func(a, b DurableEDU) int { return int(min(max(a.At-b.At, -1), 1)) })
	return list[:min(len(list), limit)], nil
}

// devices makes the EDUs about changes of devices that a server is told of.
func (o *Outbox) devices(tx *storage.Tx, server id.ServerName, after, upTo storage.Pos, limit int) (list []DurableEDU, err error) {
	rows, err := o.changes(tx, server, after, upTo)
	if err != nil {
		return nil, err
	}
	w := deviceWriter{o: o, tx: tx, server: server, after: after, known: map[id.UserID]*e2ee.PublishedKeys{}, last: map[id.UserID]storage.Pos{}}
	for _, row := range rows {
		if len(list) == limit {
			break
		}
		text, err := w.write(row)
		if err != nil {
			return nil, fmt.Errorf("tell of device %s of %s: %w", row.Device, row.User, err)
		}
		if text != nil {
			list = append(list, DurableEDU{At: row.Pos, Text: text})
		}
	}
	return list, nil
}

// rowsOfDevices is how many changes are read in one query.
const rowsOfDevices = 1000

// changes are the changes of devices that a server is told of, the last of each device, in order.
func (o *Outbox) changes(tx *storage.Tx, server id.ServerName, after, upTo storage.Pos) ([]storage.OutgoingDevice, error) {
	last := map[storage.DeviceName]storage.OutgoingDevice{}
	for {
		rows, err := tx.OutgoingDevices(after, upTo, rowsOfDevices)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			isFor, err := o.isFor(tx, row.Set, server)
			if err != nil {
				return nil, err
			}
			if isFor {
				last[storage.DeviceName{User: row.User, ID: row.Device}] = row
			}
		}
		if len(rows) < rowsOfDevices {
			break
		}
		after = rows[len(rows)-1].Pos
	}
	return slices.SortedFunc(maps.Values(last), func(a, b storage.OutgoingDevice) int { return int(min(max(a.Pos-b.Pos, -1), 1)) }), nil
}

// isFor reports whether a server is in a set.
func (o *Outbox) isFor(tx *storage.Tx, set int64, server id.ServerName) (bool, error) {
	names, ok := o.set(set)
	if !ok {
		read, err := tx.DeviceSets([]int64{set})
		if err != nil {
			return false, err
		}
		names = read[set]
		o.keepSet(set, names)
	}
	_, found := slices.BinarySearch(names, server)
	return found, nil
}

func (o *Outbox) set(number int64) ([]id.ServerName, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	names, ok := o.sets[number]
	return names, ok
}

const (
	maxSets     = 1000    // sets of servers that are remembered,
	maxSetNames = 100_000 // and names in them, about
)

func (o *Outbox) keepSet(number int64, names []id.ServerName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.sets) >= maxSets || o.names >= maxSetNames {
		clear(o.sets)
		o.names = 0
	}
	o.names += len(names) - len(o.sets[number])
	o.sets[number] = names
}

// deviceWriter makes the EDUs about devices for one server.
type deviceWriter struct {
	o      *Outbox
	tx     *storage.Tx
	server id.ServerName
	after  storage.Pos
	known  map[id.UserID]*e2ee.PublishedKeys
	last   map[id.UserID]storage.Pos // the stream_id of the update before, 0 for none
}

// write makes the EDU about a change; nil when there is nothing to tell any more.
func (w *deviceWriter) write(row storage.OutgoingDevice) (json.RawMessage, error) {
	public, err := w.public(row.User)
	if err != nil {
		return nil, err
	}
	if row.Device == "" {
		return signingUpdate(row.User, public)
	}
	prev, err := w.before(row.User)
	if err != nil {
		return nil, err
	}
	w.last[row.User] = row.Pos
	u := deviceUpdate{User: row.User, Device: row.Device, Stream: row.Pos, Prev: []int64{}}
	if prev != 0 {
		u.Prev = append(u.Prev, prev)
	}
	i := slices.IndexFunc(public.Devices, func(d e2ee.PublishedDevice) bool { return d.ID == row.Device })
	if u.Deleted = i < 0; i >= 0 {
		u.Name, u.Keys = public.Devices[i].Name, public.Devices[i].Keys
	}
	return u.encode()
}

func (w *deviceWriter) public(user id.UserID) (*e2ee.PublishedKeys, error) {
	if p := w.known[user]; p != nil {
		return p, nil
	}
	p, err := w.o.publish(w.tx, user)
	w.known[user] = p
	return p, err
}

// updatesBack is how many changes of a user are looked through for the last one that a server was told of.
const updatesBack = 20

// before is the stream_id of the last update about a user that the server was told of; 0 when nobody knows.
func (w *deviceWriter) before(user id.UserID) (storage.Pos, error) {
	if last, ok := w.last[user]; ok {
		return last, nil
	}
	return w.o.streamFor(w.tx, user, w.server, w.after+1)
}

// streamFor is the stream_id of the last update about a user that a server was told of before a position, 0 for none.
func (o *Outbox) streamFor(tx *storage.Tx, user id.UserID, server id.ServerName, before storage.Pos) (storage.Pos, error) {
	rows, err := tx.OutgoingDevicesBefore(user, before, updatesBack)
	if err != nil {
		return 0, err
	}
	for _, row := range rows {
		isFor, err := o.isFor(tx, row.Set, server)
		if err != nil || isFor {
			return row.Pos, err
		}
	}
	return 0, nil
}

// deviceUpdate is the content of an m.device_list_update.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#device-management
type deviceUpdate struct {
	User    id.UserID       `json:"user_id"`
	Device  id.DeviceID     `json:"device_id"`
	Name    string          `json:"device_display_name,omitempty"`
	Stream  int64           `json:"stream_id"`
	Prev    []int64         `json:"prev_id"`
	Deleted bool            `json:"deleted,omitempty"`
	Keys    json.RawMessage `json:"keys,omitempty"`
}

// encode makes it an EDU. If it could not be sent with the keys, it is sent without, and so that whoever gets it asks for
// the whole list.
func (u deviceUpdate) encode() (json.RawMessage, error) {
	content, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	text, err := EncodeEDU("m.device_list_update", content)
	if err == nil || u.Keys == nil && len(u.Prev) == 0 {
		return text, err
	}
	u.Keys, u.Prev = nil, []int64{}
	return u.encode()
}

// signingUpdate makes the EDU about the cross-signing keys of a user; nil when there are none.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#end-to-end-encryption
func signingUpdate(user id.UserID, public *e2ee.PublishedKeys) (json.RawMessage, error) {
	if public.Master == nil && public.SelfSigning == nil {
		return nil, nil
	}
	content, err := json.Marshal(struct {
		User        id.UserID       `json:"user_id"`
		Master      json.RawMessage `json:"master_key,omitempty"`
		SelfSigning json.RawMessage `json:"self_signing_key,omitempty"`
	}{user, public.Master, public.SelfSigning})
	if err != nil {
		return nil, err
	}
	return EncodeEDU("m.signing_key_update", content)
}
