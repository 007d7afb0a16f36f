package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// ProfileField is a field of a user's profile; its value is JSON.
type ProfileField struct {
	Name  string
	Value []byte
}

func scanProfileField(row *sql.Rows, f *ProfileField) error { return row.Scan(&f.Name, &f.Value) }

const selectProfile = `SELECT name, value FROM mx_profiles WHERE user_id = $1`

// Profile returns the fields of a user's profile, in no order.
func (tx *Tx) Profile(user id.UserID) ([]ProfileField, error) {
	return collect(tx, scanProfileField, selectProfile, user)
}

const selectProfileField = `SELECT name, value FROM mx_profiles WHERE user_id = $1 AND name = $2`

// ProfileField returns a field of a user's profile, or ErrNotFound.
func (tx *Tx) ProfileField(user id.UserID, name string) (ProfileField, error) {
	return one(tx, scanProfileField, selectProfileField, user, name)
}

const upsertProfileField = `
	INSERT INTO mx_profiles (user_id, name, value) VALUES ($1, $2, $3)
	ON CONFLICT (user_id, name) DO UPDATE SET value = excluded.value`

// PutProfileField sets a field of a user's profile.
func (tx *Tx) PutProfileField(user id.UserID, f ProfileField) error {
	if _, err := tx.exec(upsertProfileField, user, f.Name, f.Value); err != nil {
		return err
	}
	return tx.personChanged(user)
}

const deleteProfileField = `DELETE FROM mx_profiles WHERE user_id = $1 AND name = $2`

// DeleteProfileField removes a field of a user's profile and reports whether it was there.
func (tx *Tx) DeleteProfileField(user id.UserID, name string) (bool, error) {
	n, err := tx.exec(deleteProfileField, user, name)
	if err != nil || n != 1 {
		return false, err
	}
	return true, tx.personChanged(user)
}

const deleteProfile = `DELETE FROM mx_profiles WHERE user_id = $1`

// DeleteProfile removes everything of a user's profile.
func (tx *Tx) DeleteProfile(user id.UserID) error {
	if _, err := tx.exec(deleteProfile, user); err != nil {
		return err
	}
	return tx.personChanged(user)
}
