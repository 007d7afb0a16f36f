package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Backup is a version of a user's key backup.
type Backup struct {
	User      id.UserID
	Version   int64
	Algorithm string
	AuthData  []byte // JSON
	Etag      int64  // counts the changes of its keys
	Count     int64  // how many keys it has
	Deleted   bool
}

func scanBackup(row *sql.Rows, b *Backup) error {
	var algorithm []byte
	err := row.Scan(&b.User, &b.Version, &algorithm, &b.AuthData, &b.Etag, &b.Count, &b.Deleted)
	b.Algorithm = string(algorithm)
	return err
}

const selectBackup = `
	SELECT user_id, version, algorithm, auth_data, etag, key_count, deleted FROM mx_backups
	WHERE user_id = $1 AND version = $2`

// Backup returns a version, deleted or not, or ErrNotFound.
func (tx *Tx) Backup(user id.UserID, version int64) (Backup, error) {
	return one(tx, scanBackup, selectBackup, user, version)
}

const selectCurrentBackup = `
	SELECT user_id, version, algorithm, auth_data, etag, key_count, deleted FROM mx_backups
	WHERE user_id = $1 AND deleted = FALSE ORDER BY version DESC LIMIT 1`

// CurrentBackup returns the newest version that was not deleted, or ErrNotFound.
func (tx *Tx) CurrentBackup(user id.UserID) (Backup, error) {
	return one(tx, scanBackup, selectCurrentBackup, user)
}

// Backups says how many versions of a user's key backup there are.
type Backups struct {
	Last int64 // the last version that was given out, 0 for none
	N    int   // those that were not deleted
}

const selectBackups = `
	SELECT coalesce(max(version), 0), count(CASE WHEN deleted THEN NULL ELSE 1 END) FROM mx_backups WHERE user_id = $1`

// Backups counts the versions of a user.
func (tx *Tx) Backups(user id.UserID) (Backups, error) {
	return one(tx, func(row *sql.Rows, b *Backups) error { return row.Scan(&b.Last, &b.N) }, selectBackups, user)
}

const upsertBackup = `
	INSERT INTO mx_backups (user_id, version, algorithm, auth_data, etag, key_count, deleted) VALUES ($1, $2, $3, $4, $5, $6, $7)
	ON CONFLICT (user_id, version) DO UPDATE SET auth_data = excluded.auth_data, etag = excluded.etag,
		key_count = excluded.key_count, deleted = excluded.deleted`

// PutBackup adds a version, or changes all of it but the algorithm.
func (tx *Tx) PutBackup(b Backup) error {
	_, err := tx.exec(upsertBackup, b.User, b.Version, []byte(b.Algorithm), b.AuthData, b.Etag, b.Count, b.Deleted)
	return err
}

// BackupKey is the key of a session of a room in a backup.
type BackupKey struct {
	Room      id.RoomID
	Session   string
	Verified  bool
	First     int64  // first_message_index
	Forwarded int64  // forwarded_count
	Data      []byte // JSON: the whole of it, as it was uploaded
}

const selectBackedUp = `
	SELECT session_id FROM mx_backup_keys
	WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id IN (SELECT value FROM json_each($4))`

// BackedUp returns which of some sessions of a room are in a backup.
func (tx *Tx) BackedUp(user id.UserID, version int64, room id.RoomID, sessions []string) ([]string, error) {
	return collect(tx, value[string], selectBackedUp, user, version, room, list(sessions))
}

const upsertBackupKey = `
	INSERT INTO mx_backup_keys (user_id, version, room_id, session_id, verified, first, forwarded, data)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
	ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE
	SET verified = excluded.verified, first = excluded.first, forwarded = excluded.forwarded, data = excluded.data
	WHERE excluded.verified AND NOT mx_backup_keys.verified
		OR excluded.verified = mx_backup_keys.verified AND (excluded.first < mx_backup_keys.first
			OR excluded.first = mx_backup_keys.first AND excluded.forwarded < mx_backup_keys.forwarded)`

// PutBackupKey adds a key to a backup, unless the one that is there is as good, and reports whether it did.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-side-key-backups
func (tx *Tx) PutBackupKey(user id.UserID, version int64, k BackupKey) (bool, error) {
	n, err := tx.exec(upsertBackupKey, user, version, k.Room, k.Session, k.Verified, k.First, k.Forwarded, k.Data)
	return n > 0, err
}

func scanBackupKey(row *sql.Rows, k *BackupKey) error { return row.Scan(&k.Room, &k.Session, &k.Data) }

const selectBackupKeys = `
	SELECT room_id, session_id, data FROM mx_backup_keys
	WHERE user_id = $1 AND version = $2 AND (room_id, session_id) > ($3, $4)
	ORDER BY room_id, session_id LIMIT $5`

// BackupKeys returns the keys of a backup behind one of a room and session, or from the first when these are empty, at
// most limit, by rooms and sessions. Only Room, Session and Data are set.
func (tx *Tx) BackupKeys(user id.UserID, version int64, room id.RoomID, session string, limit int) ([]BackupKey, error) {
	return collect(tx, scanBackupKey, selectBackupKeys, user, version, room, session, limit)
}

const selectBackupKeysOfRoom = `
	SELECT room_id, session_id, data FROM mx_backup_keys
	WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id > $4
	ORDER BY session_id LIMIT $5`

// BackupKeysOfRoom is BackupKeys for the keys of one room.
func (tx *Tx) BackupKeysOfRoom(user id.UserID, version int64, room id.RoomID, session string, limit int) ([]BackupKey, error) {
	return collect(tx, scanBackupKey, selectBackupKeysOfRoom, user, version, room, session, limit)
}

const selectBackupKey = `
	SELECT room_id, session_id, data FROM mx_backup_keys
	WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4`

// BackupKey returns the key of a session, of which only Room, Session and Data are set, or ErrNotFound.
func (tx *Tx) BackupKey(user id.UserID, version int64, room id.RoomID, session string) (BackupKey, error) {
	return one(tx, scanBackupKey, selectBackupKey, user, version, room, session)
}

const deleteBackupKeys = `
	DELETE FROM mx_backup_keys WHERE user_id = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)`

// DeleteBackupKeys deletes the keys of a backup, of one room or session if these are not empty, and returns how many.
func (tx *Tx) DeleteBackupKeys(user id.UserID, version int64, room id.RoomID, session string) (int64, error) {
	return tx.exec(deleteBackupKeys, user, version, room, session)
}
