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

// keptChanges is of how many changes of a user that all are told of the rows are kept: the latest, so that the last change
// of everything that matters stays.
const keptChanges = 2000

const insertDeviceChange = `
	INSERT INTO mx_device_changes (user_id, pos, device_id, audience) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id, pos, device_id, audience) DO NOTHING`

const deleteOldDeviceChanges = `
	DELETE FROM mx_device_changes WHERE user_id = $1 AND audience = '' AND pos <
		(SELECT pos FROM mx_device_changes WHERE user_id = $1 AND audience = '' ORDER BY pos DESC LIMIT 1 OFFSET $2)`

const deleteDeviceChangesBefore = `DELETE FROM mx_device_changes WHERE user_id = $1 AND audience = $2 AND pos < $3`

// PutDeviceChange adds a change, the same of more devices, and forgets old ones. It is told as of its position. Of the
// changes that one other user is told of the last one is kept: they are not counted among the others, or whoever signs a
// key often could have those forgotten.
func (tx *Tx) PutDeviceChange(c DeviceChange, more ...id.DeviceID) error {
	for _, device := range append([]id.DeviceID{c.Device}, more...) {
		if _, err := tx.exec(insertDeviceChange, c.User, c.Pos, device, c.Audience); err != nil {
			return err
		}
	}
	query, bound := deleteOldDeviceChanges, []any{c.User, keptChanges}
	if c.Audience != "" {
		query, bound = deleteDeviceChangesBefore, []any{c.User, c.Audience, c.Pos}
	}
	_, err := tx.exec(query, bound...)
	return err
}

func scanDeviceChange(row *sql.Rows, c *DeviceChange) error {
	return row.Scan(&c.User, &c.Pos, &c.Device, &c.Audience)
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
