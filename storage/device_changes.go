package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// DeviceChange says that something about the devices or the keys of a user changed.
type DeviceChange struct {
	User     id.UserID
	Pos      Pos
	Device   id.DeviceID // empty: the cross-signing keys
	Audience id.UserID   // the only one who is told; empty: all who share a room with User, and User
}

// keptChanges is how many rows of changes are kept of a user: the latest. It is more than one act ever writes, so that
// the last change of everything that matters stays.
const keptChanges = 2000

const insertDeviceChange = `
	INSERT INTO mx_device_changes (user_id, pos, device_id, audience) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id, pos, device_id, audience) DO NOTHING`

const deleteOldDeviceChanges = `
	DELETE FROM mx_device_changes WHERE user_id = $1 AND pos <
		(SELECT pos FROM mx_device_changes WHERE user_id = $1 ORDER BY pos DESC LIMIT 1 OFFSET $2)`

// PutDeviceChange adds a change. It is told as of its position.
func (tx *Tx) PutDeviceChange(c DeviceChange) error {
	if _, err := tx.exec(insertDeviceChange, c.User, c.Pos, c.Device, c.Audience); err != nil {
		return err
	}
	_, err := tx.exec(deleteOldDeviceChanges, c.User, keptChanges)
	return err
}

func scanDeviceChange(row *sql.Rows, c *DeviceChange) error {
	return row.Scan(&c.User, &c.Pos, &c.Device, &c.Audience)
}

const selectDeviceChanges = `
	SELECT user_id, pos, device_id, audience FROM mx_device_changes
	WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`

// DeviceChanges returns the changes of all users in (from, to], oldest first, at most limit.
func (tx *Tx) DeviceChanges(from, to Pos, limit int) ([]DeviceChange, error) {
	return collect(tx, scanDeviceChange, selectDeviceChanges, from, to, limit)
}

const selectDeviceChangesOf = `
	SELECT user_id, pos, device_id, audience FROM mx_device_changes
	WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos`

// DeviceChangesOf returns the changes of a user in (from, to], oldest first.
func (tx *Tx) DeviceChangesOf(user id.UserID, from, to Pos) ([]DeviceChange, error) {
	return collect(tx, scanDeviceChange, selectDeviceChangesOf, user, from, to)
}

const selectDeviceChangers = `
	SELECT user_id FROM mx_device_changes
	WHERE user_id IN (SELECT value FROM json_each($1)) AND pos > $2 AND pos <= $3 AND audience = ''
	UNION
	SELECT user_id FROM mx_device_changes WHERE audience = $4 AND audience <> '' AND pos > $2 AND pos <= $3`

// DeviceChangers returns whose devices or keys changed in (from, to]: those of users, and whoever changed for viewer
// alone, each once and in no order.
func (tx *Tx) DeviceChangers(viewer id.UserID, users []id.UserID, from, to Pos) ([]id.UserID, error) {
	return collect(tx, value[id.UserID], selectDeviceChangers, list(users), from, to, viewer)
}
