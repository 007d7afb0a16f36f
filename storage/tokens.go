package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// AccessToken is a token that is sent with requests. Only its hash is stored.
type AccessToken struct {
	Hash      []byte
	User      id.UserID
	Device    id.DeviceID
	CreatedMS int64
	ExpiresMS int64  // 0: never
	Refresh   []byte // hash of the refresh token that came with it; nil for none
}

// RefreshToken gets a device its next tokens. Only its hash is stored.
type RefreshToken struct {
	Hash      []byte
	User      id.UserID
	Device    id.DeviceID
	CreatedMS int64

	// Previous is the hash of the token that this one was got for, until this one or the access token that
	// came with it is first used: so long the previous pair is good as well. Nil after that.
	Previous []byte
}

// Session is an access token with all that is asked about it at every request.
type Session struct {
	AccessToken
	Account  Account // without PasswordHash and Terms
	Previous []byte  // of its refresh token
}

const selectSession = `
	SELECT t.user_id, t.device_id, t.created_ms, t.expires_ms, t.refresh_hash,
		a.guest, a.admin, a.deactivated, a.locked, a.suspended, coalesce(r.previous, $2)
	FROM mx_access_tokens t
	JOIN mx_accounts a ON a.user_id = t.user_id
	LEFT JOIN mx_refresh_tokens r ON r.token_hash = t.refresh_hash
	WHERE t.token_hash = $1`

// Session returns whose access token has this hash, expired or not, or ErrNotFound.
func (tx *Tx) Session(hash []byte) (Session, error) {
	return one(tx, func(row *sql.Rows, s *Session) error {
		s.Hash = hash
		err := row.Scan(&s.User, &s.Device, &s.CreatedMS, &s.ExpiresMS, &s.Refresh,
			&s.Account.Guest, &s.Account.Admin, &s.Account.Deactivated, &s.Account.Locked, &s.Account.Suspended, &s.Previous)
		s.Account.User = s.User
		return err
	}, selectSession, hash, []byte{})
}

const insertAccessToken = `
	INSERT INTO mx_access_tokens (token_hash, user_id, device_id, created_ms, expires_ms, refresh_hash)
	VALUES ($1, $2, $3, $4, $5, $6)`

// InsertAccessToken adds an access token.
func (tx *Tx) InsertAccessToken(t AccessToken) error {
	_, err := tx.exec(insertAccessToken, t.Hash, t.User, t.Device, t.CreatedMS, t.ExpiresMS, notNil(t.Refresh))
	return err
}

const expireAccessTokens = `
	UPDATE mx_access_tokens SET expires_ms = $2 WHERE user_id = $1 AND (expires_ms = 0 OR expires_ms > $2)`

// ExpireAccessTokens ends the life of every access token of user at nowMS; they stay known as expired ones.
func (tx *Tx) ExpireAccessTokens(user id.UserID, nowMS int64) error {
	_, err := tx.exec(expireAccessTokens, user, nowMS)
	return err
}

const deleteRefreshTokensOf = `DELETE FROM mx_refresh_tokens WHERE user_id = $1`

// DeleteRefreshTokens removes the refresh tokens of every device of user.
func (tx *Tx) DeleteRefreshTokens(user id.UserID) error {
	_, err := tx.exec(deleteRefreshTokensOf, user)
	return err
}

const selectRefreshToken = `
	SELECT user_id, device_id, created_ms, previous FROM mx_refresh_tokens WHERE token_hash = $1`

// RefreshToken returns the refresh token with this hash, or ErrNotFound.
func (tx *Tx) RefreshToken(hash []byte) (RefreshToken, error) {
	return one(tx, func(row *sql.Rows, t *RefreshToken) error {
		t.Hash = hash
		return row.Scan(&t.User, &t.Device, &t.CreatedMS, &t.Previous)
	}, selectRefreshToken, hash)
}

const insertRefreshToken = `
	INSERT INTO mx_refresh_tokens (token_hash, user_id, device_id, created_ms, previous) VALUES ($1, $2, $3, $4, $5)`

// InsertRefreshToken adds a refresh token.
func (tx *Tx) InsertRefreshToken(t RefreshToken) error {
	_, err := tx.exec(insertRefreshToken, t.Hash, t.User, t.Device, t.CreatedMS, notNil(t.Previous))
	return err
}

const deletePairAccess = `
	DELETE FROM mx_access_tokens WHERE user_id = $1 AND device_id = $2 AND refresh_hash = $3`

const deletePairRefresh = `DELETE FROM mx_refresh_tokens WHERE token_hash = $1`

const updateConfirmed = `UPDATE mx_refresh_tokens SET previous = $2 WHERE token_hash = $1`

// ConfirmRefresh notes that the pair of t is in use: the pair before it is removed.
func (tx *Tx) ConfirmRefresh(t RefreshToken) error {
	if _, err := tx.exec(deletePairAccess, t.User, t.Device, t.Previous); err != nil {
		return err
	}
	if _, err := tx.exec(deletePairRefresh, t.Previous); err != nil {
		return err
	}
	_, err := tx.exec(updateConfirmed, t.Hash, []byte{})
	return err
}

const deleteNextAccess = `
	DELETE FROM mx_access_tokens WHERE user_id = $1 AND device_id = $2 AND refresh_hash IN (
		SELECT token_hash FROM mx_refresh_tokens WHERE user_id = $1 AND device_id = $2 AND previous = $3)`

const deleteNextRefresh = `
	DELETE FROM mx_refresh_tokens WHERE user_id = $1 AND device_id = $2 AND previous = $3`

// DeleteNextPair removes the pair that was got for t and not used yet, if there is one.
func (tx *Tx) DeleteNextPair(t RefreshToken) error {
	for _, query := range []string{deleteNextAccess, deleteNextRefresh} {
		if _, err := tx.exec(query, t.User, t.Device, t.Hash); err != nil {
			return err
		}
	}
	return nil
}
