package storage

import (
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/embedmatrix/homeserver/internal/id"
)

const selectAllDeviceChangers = `
	SELECT DISTINCT user_id FROM mx_device_changes WHERE pos > $1 AND pos <= $2 AND audience IN ('', $3)`

// AllDeviceChangers returns everybody whose devices or keys changed in (from, to], for all or for viewer alone, each once
// and in no order.
func (tx *Tx) AllDeviceChangers(viewer id.UserID, from, to Pos) ([]id.UserID, error) {
	return collect(tx, value[id.UserID], selectAllDeviceChangers, from, to, viewer)
}

// OutgoingDevice says that servers are told of a change of a device of a local user.
type OutgoingDevice struct {
	Pos    Pos // the stream_id of the update
	User   id.UserID
	Device id.DeviceID // empty: the cross-signing keys
	Set    int64
}

// InsertOutgoingDevice adds a change that servers are told of: pos, user_id, device_id, set_id.
var InsertOutgoingDevice = &Insert{Table: "mx_outgoing_devices", Columns: "pos, user_id, device_id, set_id"}

// InsertDeviceSet adds a set of servers: set_id, servers (a JSON list).
var InsertDeviceSet = &Insert{Table: "mx_device_sets", Columns: "set_id, servers"}

func scanOutgoingDevice(row *sql.Rows, d *OutgoingDevice) error {
	return row.Scan(&d.Pos, &d.User, &d.Device, &d.Set)
}

const selectOutgoingDevices = `
	SELECT pos, user_id, device_id, set_id FROM mx_outgoing_devices WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`

// OutgoingDevices returns the changes that some servers are told of at a position in (after, upTo], in order, at most limit.
func (tx *Tx) OutgoingDevices(after, upTo Pos, limit int) ([]OutgoingDevice, error) {
	return collect(tx, scanOutgoingDevice, selectOutgoingDevices, after, upTo, limit)
}

const selectOutgoingDevicesBefore = `
	SELECT pos, user_id, device_id, set_id FROM mx_outgoing_devices
	WHERE user_id = $1 AND pos < $2 AND device_id <> '' ORDER BY pos DESC LIMIT $3`

// OutgoingDevicesBefore returns the last changes of a user's devices that some servers are told of before a position, the
// latest first, at most limit.
func (tx *Tx) OutgoingDevicesBefore(user id.UserID, before Pos, limit int) ([]OutgoingDevice, error) {
	return collect(tx, scanOutgoingDevice, selectOutgoingDevicesBefore, user, before, limit)
}

const selectNewestOutgoingDevices = `SELECT set_id, max(pos) FROM mx_outgoing_devices GROUP BY set_id`

// NewestOutgoingDevices returns the position of the newest change that each set of servers is told of.
func (tx *Tx) NewestOutgoingDevices() (map[int64]Pos, error) {
	newest := map[int64]Pos{}
	err := each(tx, func(row *sql.Rows) error {
		var set int64
		var pos Pos
		err := row.Scan(&set, &pos)
		newest[set] = pos
		return err
	}, selectNewestOutgoingDevices)
	return newest, err
}

const selectDeviceSets = `
	SELECT set_id, servers FROM mx_device_sets WHERE set_id IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`

// DeviceSets returns the servers of numbered sets, sorted.
func (tx *Tx) DeviceSets(numbers []int64) (map[int64][]id.ServerName, error) {
	return serverSets(tx, selectDeviceSets, numbers)
}

const selectOutgoingDevicesOf = `
	SELECT pos, user_id, device_id, set_id FROM mx_outgoing_devices WHERE user_id = $1 ORDER BY pos DESC`

// OutgoingDevicesOf returns the changes of a user's devices and keys that some servers are told of, the latest first.
func (tx *Tx) OutgoingDevicesOf(user id.UserID) ([]OutgoingDevice, error) {
	return collect(tx, scanOutgoingDevice, selectOutgoingDevicesOf, user)
}

const selectManyOutgoingDevices = `
	SELECT user_id FROM mx_outgoing_devices WHERE user_id IN (SELECT value FROM json_each($1))
	GROUP BY user_id HAVING count(*) > $2`

// ManyOutgoingDevices returns those of users of whom servers are told of more than so many changes, in no order.
func (tx *Tx) ManyOutgoingDevices(users []id.UserID, more int) ([]id.UserID, error) {
	return collect(tx, value[id.UserID], selectManyOutgoingDevices, list(users), more)
}

const deleteOutgoingDevices = `DELETE FROM mx_outgoing_devices WHERE user_id = $1 AND pos < $2`

// DeleteOutgoingDevices forgets the changes of a user from before a position.
func (tx *Tx) DeleteOutgoingDevices(user id.UserID, before Pos) error {
	_, err := tx.exec(deleteOutgoingDevices, user, before)
	return err
}

const deleteDeviceSets = `DELETE FROM mx_device_sets WHERE set_id NOT IN (SELECT set_id FROM mx_outgoing_devices)`

// DeleteDeviceSets forgets the sets of servers that no change names any more.
func (tx *Tx) DeleteDeviceSets() error {
	_, err := tx.exec(deleteDeviceSets)
	return err
}

const selectFollowed = `SELECT pos FROM mx_devices_followed`

// DevicesFollowed returns the position up to which changes were looked at for other servers' sake.
func (tx *Tx) DevicesFollowed() (Pos, error) { return one(tx, value[Pos], selectFollowed) }

// UpsertDevicesFollowed sets what DevicesFollowed returns: one (1), pos.
var UpsertDevicesFollowed = &Insert{
	Table: "mx_devices_followed", Columns: "one, pos", Key: 1, Conflict: "ON CONFLICT (one) DO UPDATE SET pos = excluded.pos",
}

// MemberEvent is an event that may have changed somebody's membership.
type MemberEvent struct {
	Pos  Pos
	Room id.RoomID
	User id.UserID // empty: it has not
}

const selectMemberEventsAfter = `
	SELECT e.pos, r.room_id, e.json FROM mx_events e JOIN mx_rooms r ON r.room = e.room
	WHERE e.pos > $1 AND e.pos <= $2 ORDER BY e.pos LIMIT $3`

// MemberEventsAfter returns the events of all rooms at a position in (after, upTo], in order, at most limit, with whose
// member events they are.
func (tx *Tx) MemberEventsAfter(after, upTo Pos, limit int) ([]MemberEvent, error) {
	return collect(tx, func(row *sql.Rows, e *MemberEvent) error {
		var text []byte
		if err := row.Scan(&e.Pos, &e.Room, &text); err != nil {
			return err
		}
		var event struct {
			Type     string     `json:"type"`
			StateKey *id.UserID `json:"state_key"`
		}
		if err := json.Unmarshal(text, &event); err != nil {
			return fmt.Errorf("event at %d: %w", e.Pos, err)
		}
		if event.Type == "m.room.member" && event.StateKey != nil {
			e.User = *event.StateKey
		}
		return nil
	}, selectMemberEventsAfter, after, upTo, limit)
}

const selectStaleDeviceLists = `SELECT user_id FROM mx_device_lists WHERE NOT is_current LIMIT $1`

// StaleDeviceLists returns users of whose devices something was missed, at most limit, in no order.
func (tx *Tx) StaleDeviceLists(limit int) ([]id.UserID, error) {
	return collect(tx, value[id.UserID], selectStaleDeviceLists, limit)
}

const countOtherDeviceKeys = `SELECT count(*) FROM mx_device_keys WHERE user_id = $1 AND device_id <> $2`

// OtherDeviceKeys returns how many devices of a user but one have keys.
func (tx *Tx) OtherDeviceKeys(user id.UserID, but id.DeviceID) (int, error) {
	return one(tx, value[int], countOtherDeviceKeys, user, but)
}
