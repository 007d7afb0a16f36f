package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Device is a session of a user, with what it was last seen doing.
type Device struct {
	User      id.UserID
	ID        id.DeviceID
	Name      string // empty: none
	CreatedMS int64
	SeenMS    int64
	SeenIP    string // empty: unknown
	SeenAgent string
}

func scanDevice(row *sql.Rows, d *Device) error {
	var name, agent []byte
	err := row.Scan(&d.User, &d.ID, &name, &d.CreatedMS, &d.SeenMS, &d.SeenIP, &agent)
	d.Name, d.SeenAgent = string(name), string(agent)
	return err
}

const selectDevices = `
	SELECT user_id, device_id, display_name, created_ms, seen_ms, seen_ip, seen_agent
	FROM mx_devices WHERE user_id = $1 ORDER BY created_ms`

// Devices returns the devices of user, oldest first.
func (tx *Tx) Devices(user id.UserID) ([]Device, error) {
	return collect(tx, scanDevice, selectDevices, user)
}

const selectDevice = `
	SELECT user_id, device_id, display_name, created_ms, seen_ms, seen_ip, seen_agent
	FROM mx_devices WHERE user_id = $1 AND device_id = $2`

// Device returns a device of user, or ErrNotFound.
func (tx *Tx) Device(user id.UserID, device id.DeviceID) (Device, error) {
	return one(tx, scanDevice, selectDevice, user, device)
}

const insertDevice = `
	INSERT INTO mx_devices (user_id, device_id, display_name, created_ms, seen_ms, seen_ip, seen_agent)
	VALUES ($1, $2, $3, $4, $5, $6, $7)
	ON CONFLICT (user_id, device_id) DO NOTHING`

// InsertDevice adds a device and reports whether it was new; one that was there stays as it was.
func (tx *Tx) InsertDevice(d Device) (bool, error) {
	n, err := tx.exec(insertDevice, d.User, d.ID, []byte(d.Name), d.CreatedMS, d.SeenMS, d.SeenIP, []byte(d.SeenAgent))
	return n == 1, err
}

const updateDeviceName = `UPDATE mx_devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2`

// RenameDevice sets a device's name and reports whether there is such a device.
func (tx *Tx) RenameDevice(user id.UserID, device id.DeviceID, name string) (bool, error) {
	n, err := tx.exec(updateDeviceName, user, device, []byte(name))
	return n == 1, err
}

const updateDeviceSeen = `
	UPDATE mx_devices SET seen_ms = $3, seen_ip = $4, seen_agent = $5
	WHERE user_id = $1 AND device_id = $2 AND seen_ms < $3`

// SeeDevice stores when and where a device was seen; an older sighting than the stored one changes nothing.
func (tx *Tx) SeeDevice(d Device) error {
	_, err := tx.exec(updateDeviceSeen, d.User, d.ID, d.SeenMS, d.SeenIP, []byte(d.SeenAgent))
	return err
}

const deleteDevices = `
	DELETE FROM mx_devices WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`

const deleteAccessTokens = `
	DELETE FROM mx_access_tokens WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`

const deleteRefreshTokens = `
	DELETE FROM mx_refresh_tokens WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`

// DeleteDevices removes devices of user with all their tokens. Devices that are not there are no error.
func (tx *Tx) DeleteDevices(user id.UserID, devices []id.DeviceID) error {
	if err := tx.DeleteTokens(user, devices); err != nil {
		return err
	}
	_, err := tx.exec(deleteDevices, user, list(devices))
	return err
}

// DeleteTokens removes all tokens of devices of user; the devices stay.
func (tx *Tx) DeleteTokens(user id.UserID, devices []id.DeviceID) error {
	for _, query := range []string{deleteAccessTokens, deleteRefreshTokens} {
		if _, err := tx.exec(query, user, list(devices)); err != nil {
			return err
		}
	}
	return nil
}
