package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// DeviceKeys are the identity keys of a device.
type DeviceKeys struct {
	User   id.UserID
	Device id.DeviceID
	Keys   []byte // canonical JSON without unsigned
	Name   string // the display name; empty: none
}

func scanDeviceKeys(row *sql.Rows, k *DeviceKeys) error {
	var name []byte
	err := row.Scan(&k.User, &k.Device, &k.Keys, &name)
	k.Name = string(name)
	return err
}

const selectDeviceKeys = `
	SELECT k.user_id, k.device_id, k.keys, coalesce(d.display_name, k.name) FROM mx_device_keys k
	LEFT JOIN mx_devices d ON d.user_id = k.user_id AND d.device_id = k.device_id
	WHERE k.user_id IN (SELECT value FROM json_each($1))`

// DeviceKeys returns the keys of all devices of users that have some, in no order.
func (tx *Tx) DeviceKeys(users ...id.UserID) ([]DeviceKeys, error) {
	return collect(tx, scanDeviceKeys, selectDeviceKeys, list(users))
}

const selectKeysOfDevice = `
	SELECT k.user_id, k.device_id, k.keys, coalesce(d.display_name, k.name) FROM mx_device_keys k
	LEFT JOIN mx_devices d ON d.user_id = k.user_id AND d.device_id = k.device_id
	WHERE k.user_id = $1 AND k.device_id = $2`

// KeysOfDevice returns the keys of a device, or ErrNotFound.
func (tx *Tx) KeysOfDevice(user id.UserID, device id.DeviceID) (DeviceKeys, error) {
	return one(tx, scanDeviceKeys, selectKeysOfDevice, user, device)
}

const upsertDeviceKeys = `
	INSERT INTO mx_device_keys (user_id, device_id, keys, name) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys, name = excluded.name`

// PutDeviceKeys sets the keys of a device. Its name is only kept for devices of other servers.
func (tx *Tx) PutDeviceKeys(k DeviceKeys) error {
	_, err := tx.exec(upsertDeviceKeys, k.User, k.Device, k.Keys, []byte(k.Name))
	return err
}

const (
	deleteDeviceKeys    = `DELETE FROM mx_device_keys WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`
	deleteOneTimeKeys   = `DELETE FROM mx_one_time_keys WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`
	deleteSpentKeys     = `DELETE FROM mx_spent_keys WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`
	deleteFallbackKeys  = `DELETE FROM mx_fallback_keys WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`
	deleteKeySignatures = `DELETE FROM mx_key_signatures WHERE user_id = $1 AND key_name IN (SELECT value FROM json_each($2))`
)

// DeleteDeviceKeys forgets all keys of devices of a user: identity, one-time and fallback keys, and signatures of them.
func (tx *Tx) DeleteDeviceKeys(user id.UserID, devices []id.DeviceID) error {
	for _, query := range []string{deleteDeviceKeys, deleteOneTimeKeys, deleteSpentKeys, deleteFallbackKeys, deleteKeySignatures} {
		if _, err := tx.exec(query, user, list(devices)); err != nil {
			return err
		}
	}
	return nil
}

// OneTimeKey is a one-time key or a fallback key of a device.
type OneTimeKey struct {
	Algorithm string
	KeyID     string // without the algorithm
	Key       []byte // canonical JSON
	Ord       int64  // the order in which they are given out; 0 for fallback keys
}

func scanOneTimeKey(row *sql.Rows, k *OneTimeKey) error {
	return row.Scan(&k.Algorithm, &k.KeyID, &k.Key, &k.Ord)
}

const selectOneTimeKeys = `
	SELECT algorithm, key_id, key, ord FROM mx_one_time_keys
	WHERE user_id = $1 AND device_id = $2 AND key_id IN (SELECT value FROM json_each($3))`

// OneTimeKeys returns those one-time keys of a device that have one of these ids, whatever their algorithms, in no order.
func (tx *Tx) OneTimeKeys(user id.UserID, device id.DeviceID, keyIDs []string) ([]OneTimeKey, error) {
	return collect(tx, scanOneTimeKey, selectOneTimeKeys, user, device, list(keyIDs))
}

const selectSpentKeys = `
	SELECT algorithm, key_id, key_hash, ord FROM mx_spent_keys
	WHERE user_id = $1 AND device_id = $2 AND key_id IN (SELECT value FROM json_each($3))`

// SpentKeys is OneTimeKeys for keys that were given out lately; Key is the SHA-256 of the key.
func (tx *Tx) SpentKeys(user id.UserID, device id.DeviceID, keyIDs []string) ([]OneTimeKey, error) {
	return collect(tx, scanOneTimeKey, selectSpentKeys, user, device, list(keyIDs))
}

const insertOneTimeKey = `
	INSERT INTO mx_one_time_keys (user_id, device_id, algorithm, ord, key_id, key) VALUES ($1, $2, $3, $4, $5, $6)`

// InsertOneTimeKey adds a key that is not there.
func (tx *Tx) InsertOneTimeKey(user id.UserID, device id.DeviceID, k OneTimeKey) error {
	_, err := tx.exec(insertOneTimeKey, user, device, k.Algorithm, k.Ord, k.KeyID, k.Key)
	return err
}

const takeOneTimeKey = `
	DELETE FROM mx_one_time_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND ord =
		(SELECT min(ord) FROM mx_one_time_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3)
	RETURNING algorithm, key_id, key, ord`

// TakeOneTimeKey deletes the next key of an algorithm and returns it, or ErrNotFound.
func (tx *Tx) TakeOneTimeKey(user id.UserID, device id.DeviceID, algorithm string) (OneTimeKey, error) {
	return one(tx, scanOneTimeKey, takeOneTimeKey, user, device, algorithm)
}

const upsertSpentKey = `
	INSERT INTO mx_spent_keys (user_id, device_id, algorithm, key_id, key_hash, ord) VALUES ($1, $2, $3, $4, $5, $6)
	ON CONFLICT (user_id, device_id, algorithm, key_id) DO UPDATE SET key_hash = excluded.key_hash, ord = excluded.ord`

// PutSpentKey notes that a key was given out; its Key is the SHA-256 of the key.
func (tx *Tx) PutSpentKey(user id.UserID, device id.DeviceID, k OneTimeKey) error {
	_, err := tx.exec(upsertSpentKey, user, device, k.Algorithm, k.KeyID, k.Key, k.Ord)
	return err
}

const countSpentKeys = `SELECT count(*) FROM mx_spent_keys WHERE user_id = $1 AND device_id = $2`

const deleteOldSpentKeys = `
	DELETE FROM mx_spent_keys WHERE user_id = $1 AND device_id = $2 AND ord <=
		(SELECT ord FROM mx_spent_keys WHERE user_id = $1 AND device_id = $2 ORDER BY ord DESC LIMIT 1 OFFSET $3)`

// KeepSpentKeys forgets those that were given out of a device but the ones that were uploaded last.
func (tx *Tx) KeepSpentKeys(user id.UserID, device id.DeviceID, keep int) error {
	n, err := one(tx, value[int], countSpentKeys, user, device)
	if err != nil || n <= keep {
		return err
	}
	_, err = tx.exec(deleteOldSpentKeys, user, device, keep)
	return err
}

// KeyCount says how many one-time keys of an algorithm a device has.
type KeyCount struct {
	Algorithm string
	N         int
}

const selectKeyCounts = `
	SELECT algorithm, count(*) FROM mx_one_time_keys WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm`

// KeyCounts counts the one-time keys of a device, in no order.
func (tx *Tx) KeyCounts(user id.UserID, device id.DeviceID) ([]KeyCount, error) {
	return collect(tx, func(row *sql.Rows, c *KeyCount) error {
		return row.Scan(&c.Algorithm, &c.N)
	}, selectKeyCounts, user, device)
}

// FallbackKey is given out when there is no one-time key of its algorithm.
type FallbackKey struct {
	Algorithm string
	KeyID     string // without the algorithm
	Key       []byte // canonical JSON
	Used      bool   // it was given out
}

const selectFallbackKeys = `
	SELECT algorithm, key_id, key, used FROM mx_fallback_keys WHERE user_id = $1 AND device_id = $2`

// FallbackKeys returns the fallback keys of a device, one for each algorithm, in no order.
func (tx *Tx) FallbackKeys(user id.UserID, device id.DeviceID) ([]FallbackKey, error) {
	return collect(tx, func(row *sql.Rows, k *FallbackKey) error {
		return row.Scan(&k.Algorithm, &k.KeyID, &k.Key, &k.Used)
	}, selectFallbackKeys, user, device)
}

const upsertFallbackKey = `
	INSERT INTO mx_fallback_keys (user_id, device_id, algorithm, key_id, key, used) VALUES ($1, $2, $3, $4, $5, $6)
	ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, key = excluded.key, used = excluded.used`

// PutFallbackKey sets the fallback key of an algorithm.
func (tx *Tx) PutFallbackKey(user id.UserID, device id.DeviceID, k FallbackKey) error {
	_, err := tx.exec(upsertFallbackKey, user, device, k.Algorithm, k.KeyID, k.Key, k.Used)
	return err
}

// DeviceList says how much is known of the devices of a user of another server.
type DeviceList struct {
	User    id.UserID
	Stream  int64 // stream_id of the newest change that is known
	Asked   Pos   // from before the list was asked for
	Current bool  // nothing was missed since
}

const selectDeviceLists = `
	SELECT user_id, stream_id, asked, is_current FROM mx_device_lists WHERE user_id IN (SELECT value FROM json_each($1))`

// DeviceLists returns what is known of the lists of users, those that are known, in no order.
func (tx *Tx) DeviceLists(users ...id.UserID) ([]DeviceList, error) {
	return collect(tx, func(row *sql.Rows, l *DeviceList) error {
		return row.Scan(&l.User, &l.Stream, &l.Asked, &l.Current)
	}, selectDeviceLists, list(users))
}

// DeviceList returns what is known of a user's list; the zero DeviceList for nothing.
func (tx *Tx) DeviceList(user id.UserID) (DeviceList, error) {
	lists, err := tx.DeviceLists(user)
	if err != nil || len(lists) == 0 {
		return DeviceList{User: user}, err
	}
	return lists[0], nil
}

const upsertDeviceList = `
	INSERT INTO mx_device_lists (user_id, stream_id, asked, is_current) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id) DO UPDATE SET stream_id = excluded.stream_id, asked = excluded.asked, is_current = excluded.is_current`

// PutDeviceList sets what is known of a user's list.
func (tx *Tx) PutDeviceList(l DeviceList) error {
	_, err := tx.exec(upsertDeviceList, l.User, l.Stream, l.Asked, l.Current)
	return err
}

const (
	deleteDeviceList   = `DELETE FROM mx_device_lists WHERE user_id = $1`
	deleteDevicesKnown = `DELETE FROM mx_device_keys WHERE user_id = $1`
)

// DeleteDeviceList forgets the devices of a user of another server.
func (tx *Tx) DeleteDeviceList(user id.UserID) error {
	for _, query := range []string{deleteDeviceList, deleteDevicesKnown} {
		if _, err := tx.exec(query, user); err != nil {
			return err
		}
	}
	return nil
}
