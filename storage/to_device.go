package storage

import (
	"database/sql"
	"errors"

	"github.com/embedmatrix/homeserver/internal/id"
)

// DeviceName names a device.
type DeviceName struct {
	User id.UserID
	ID   id.DeviceID
}

// ToDevice is a message to a device.
type ToDevice struct {
	Pos     Pos
	Message []byte // JSON: {"content":…,"sender":…,"type":…}
}

const insertTaken = `INSERT INTO mx_to_device_taken (taken, at_ms) VALUES ($1, $2) ON CONFLICT (taken) DO NOTHING`

// TakeToDevice remembers that messages were taken, by a hash of what identifies them; false when they were before.
func (tx *Tx) TakeToDevice(hash []byte, atMS int64) (bool, error) {
	n, err := tx.exec(insertTaken, hash, atMS)
	return n == 1, err
}

const deleteTakenBefore = `
	DELETE FROM mx_to_device_taken WHERE taken IN
		(SELECT taken FROM mx_to_device_taken WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)`

// DeleteTakenBefore forgets the oldest of what TakeToDevice remembers from before a time, at most limit.
func (tx *Tx) DeleteTakenBefore(atMS int64, limit int) error {
	_, err := tx.exec(deleteTakenBefore, atMS, limit)
	return err
}

const selectDeviceNames = `
	SELECT user_id, device_id FROM mx_devices WHERE user_id IN (SELECT value FROM json_each($1))`

// DeviceNames returns the names of all devices of local users, in no order.
func (tx *Tx) DeviceNames(users []id.UserID) ([]DeviceName, error) {
	return collect(tx, func(row *sql.Rows, d *DeviceName) error {
		return row.Scan(&d.User, &d.ID)
	}, selectDeviceNames, list(users))
}

const insertToDevice = `INSERT INTO mx_to_device (user_id, device_id, pos, message) VALUES ($1, $2, $3, $4)`

// InsertToDevice stores a message to a device.
func (tx *Tx) InsertToDevice(d DeviceName, m ToDevice) error {
	_, err := tx.exec(insertToDevice, d.User, d.ID, m.Pos, m.Message)
	return err
}

const selectToDevice = `
	SELECT pos, message FROM mx_to_device
	WHERE user_id = $1 AND device_id = $2 AND pos > $3 AND pos <= $4 ORDER BY pos LIMIT $5`

// ToDevice returns the messages to a device that came in (after, upTo], oldest first, at most limit.
func (tx *Tx) ToDevice(d DeviceName, after, upTo Pos, limit int) ([]ToDevice, error) {
	return collect(tx, func(row *sql.Rows, m *ToDevice) error {
		return row.Scan(&m.Pos, &m.Message)
	}, selectToDevice, d.User, d.ID, after, upTo, limit)
}

const selectToDeviceRange = `
	SELECT coalesce(min(pos), 0), coalesce(max(pos), 0) FROM mx_to_device WHERE user_id = $1 AND device_id = $2`

// ToDeviceRange returns the positions of the first and the last message to a device, 0 when there is none.
func (tx *Tx) ToDeviceRange(d DeviceName) (first, last Pos, err error) {
	r, err := one(tx, func(row *sql.Rows, r *[2]Pos) error { return row.Scan(&r[0], &r[1]) }, selectToDeviceRange, d.User, d.ID)
	return r[0], r[1], err
}

const deleteToDevice = `DELETE FROM mx_to_device WHERE user_id = $1 AND device_id = $2 AND pos <= $3`

// DeleteToDevice forgets the messages to a device up to a position.
func (tx *Tx) DeleteToDevice(d DeviceName, upTo Pos) error {
	_, err := tx.exec(deleteToDevice, d.User, d.ID, upTo)
	return err
}

const deleteToDevices = `
	DELETE FROM mx_to_device WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`

// DeleteToDevices forgets all messages to devices of a user, which are gone.
func (tx *Tx) DeleteToDevices(user id.UserID, devices []id.DeviceID) error {
	_, err := tx.exec(deleteToDevices, user, list(devices))
	return err
}

// OutgoingEDU is an EDU that another server has to get.
type OutgoingEDU struct {
	Pos Pos
	EDU []byte // canonical JSON
}

const insertOutgoingEDU = `INSERT INTO mx_outgoing_edus (server_name, pos, edu) VALUES ($1, $2, $3)`

// InsertOutgoingEDU stores an EDU for a server, which may have one at each position.
func (tx *Tx) InsertOutgoingEDU(server id.ServerName, e OutgoingEDU) error {
	_, err := tx.exec(insertOutgoingEDU, server, e.Pos, e.EDU)
	return err
}

const selectOutgoingEDUs = `
	SELECT pos, edu FROM mx_outgoing_edus WHERE server_name = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`

// OutgoingEDUs returns the EDUs for a server at positions in (after, upTo], oldest first, at most limit.
func (tx *Tx) OutgoingEDUs(server id.ServerName, after, upTo Pos, limit int) ([]OutgoingEDU, error) {
	return collect(tx, func(row *sql.Rows, e *OutgoingEDU) error {
		return row.Scan(&e.Pos, &e.EDU)
	}, selectOutgoingEDUs, server, after, upTo, limit)
}

const selectOutgoingEDUServers = `SELECT server_name, max(pos) FROM mx_outgoing_edus GROUP BY server_name`

// OutgoingEDUServers returns the servers for which there are EDUs, with the position of the newest.
func (tx *Tx) OutgoingEDUServers() (map[id.ServerName]Pos, error) {
	newest := map[id.ServerName]Pos{}
	err := each(tx, func(row *sql.Rows) error {
		var name id.ServerName
		var pos Pos
		err := row.Scan(&name, &pos)
		newest[name] = pos
		return err
	}, selectOutgoingEDUServers)
	return newest, err
}

const deleteOutgoingEDUs = `DELETE FROM mx_outgoing_edus WHERE server_name = $1 AND pos <= $2`

// DeleteOutgoingEDUs forgets the EDUs for a server up to a position.
func (tx *Tx) DeleteOutgoingEDUs(server id.ServerName, upTo Pos) error {
	_, err := tx.exec(deleteOutgoingEDUs, server, upTo)
	return err
}

// DehydratedDevice is what is kept of a device that is nobody's session, beside the device itself.
type DehydratedDevice struct {
	DeviceName
	Data []byte // JSON
}

const selectDehydratedDevice = `SELECT device_id, data FROM mx_dehydrated_devices WHERE user_id = $1`

// DehydratedDevice returns the dehydrated device of a user, or ErrNotFound.
func (tx *Tx) DehydratedDevice(user id.UserID) (DehydratedDevice, error) {
	return one(tx, func(row *sql.Rows, d *DehydratedDevice) error {
		d.User = user
		return row.Scan(&d.ID, &d.Data)
	}, selectDehydratedDevice, user)
}

const upsertDehydratedDevice = `
	INSERT INTO mx_dehydrated_devices (user_id, device_id, data) VALUES ($1, $2, $3)
	ON CONFLICT (user_id) DO UPDATE SET device_id = excluded.device_id, data = excluded.data`

// PutDehydratedDevice stores the dehydrated device of a user in the place of another one, which it returns; "" for none.
func (tx *Tx) PutDehydratedDevice(d DehydratedDevice) (old id.DeviceID, err error) {
	before, err := tx.DehydratedDevice(d.User)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", err
	}
	_, err = tx.exec(upsertDehydratedDevice, d.User, d.ID, d.Data)
	return before.ID, err
}

const deleteDehydratedDevices = `
	DELETE FROM mx_dehydrated_devices WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`

// DeleteDehydratedDevices forgets that any of these devices, which are gone, was the dehydrated one of a user.
func (tx *Tx) DeleteDehydratedDevices(user id.UserID, devices []id.DeviceID) error {
	_, err := tx.exec(deleteDehydratedDevices, user, list(devices))
	return err
}
