package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// LoginToken logs its owner in once more. Only its hash is stored.
type LoginToken struct {
	Hash      []byte
	User      id.UserID
	Device    id.DeviceID // that asked for it
	ExpiresMS int64
}

const insertLoginToken = `
	INSERT INTO mx_login_tokens (token_hash, user_id, device_id, expires_ms) VALUES ($1, $2, $3, $4)`

// InsertLoginToken adds a token.
func (tx *Tx) InsertLoginToken(t LoginToken) error {
	_, err := tx.exec(insertLoginToken, t.Hash, t.User, t.Device, t.ExpiresMS)
	return err
}

const selectLoginToken = `SELECT user_id, device_id, expires_ms FROM mx_login_tokens WHERE token_hash = $1`

// LoginToken returns the token with this hash, expired or not, or ErrNotFound.
func (tx *Tx) LoginToken(hash []byte) (LoginToken, error) {
	return one(tx, func(row *sql.Rows, t *LoginToken) error {
		t.Hash = hash
		return row.Scan(&t.User, &t.Device, &t.ExpiresMS)
	}, selectLoginToken, hash)
}

const deleteLoginToken = `DELETE FROM mx_login_tokens WHERE token_hash = $1`

// TakeLoginToken removes a token and reports whether it was there.
func (tx *Tx) TakeLoginToken(hash []byte) (bool, error) {
	n, err := tx.exec(deleteLoginToken, hash)
	return n == 1, err
}

const deleteLoginTokensBefore = `
	DELETE FROM mx_login_tokens WHERE token_hash IN
		(SELECT token_hash FROM mx_login_tokens WHERE expires_ms <= $1 ORDER BY expires_ms LIMIT $2)`

// DeleteLoginTokensBefore forgets tokens that ended at nowMS or before, the oldest first, at most limit.
func (tx *Tx) DeleteLoginTokensBefore(nowMS int64, limit int) error {
	_, err := tx.exec(deleteLoginTokensBefore, nowMS, limit)
	return err
}

const deleteLoginTokensOf = `
	DELETE FROM mx_login_tokens WHERE user_id = $1 AND device_id IN (SELECT value FROM json_each($2))`

// DeleteLoginTokensOf removes the tokens that devices of user have asked for.
func (tx *Tx) DeleteLoginTokensOf(user id.UserID, devices []id.DeviceID) error {
	_, err := tx.exec(deleteLoginTokensOf, user, list(devices))
	return err
}
