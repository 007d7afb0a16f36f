package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// OpenIDToken lets a third party ask who its owner is. Only its hash is stored.
type OpenIDToken struct {
	Hash      []byte
	User      id.UserID
	ExpiresMS int64
}

const insertOpenIDToken = `INSERT INTO mx_openid_tokens (token_hash, user_id, expires_ms) VALUES ($1, $2, $3)`

// InsertOpenIDToken adds a token.
func (tx *Tx) InsertOpenIDToken(t OpenIDToken) error {
	_, err := tx.exec(insertOpenIDToken, t.Hash, t.User, t.ExpiresMS)
	return err
}

const selectOpenIDToken = `SELECT user_id, expires_ms FROM mx_openid_tokens WHERE token_hash = $1`

// OpenIDToken returns the token with this hash, expired or not, or ErrNotFound.
func (tx *Tx) OpenIDToken(hash []byte) (OpenIDToken, error) {
	return one(tx, func(row *sql.Rows, t *OpenIDToken) error {
		t.Hash = hash
		return row.Scan(&t.User, &t.ExpiresMS)
	}, selectOpenIDToken, hash)
}

const deleteOpenIDTokensBefore = `
	DELETE FROM mx_openid_tokens WHERE token_hash IN
		(SELECT token_hash FROM mx_openid_tokens WHERE expires_ms <= $1 ORDER BY expires_ms LIMIT $2)`

// DeleteOpenIDTokensBefore forgets tokens that ended at nowMS or before, the oldest first, at most limit.
func (tx *Tx) DeleteOpenIDTokensBefore(nowMS int64, limit int) error {
	_, err := tx.exec(deleteOpenIDTokensBefore, nowMS, limit)
	return err
}

const deleteOldOpenIDTokens = `
	DELETE FROM mx_openid_tokens WHERE token_hash IN
		(SELECT token_hash FROM mx_openid_tokens WHERE user_id = $1 ORDER BY expires_ms DESC, token_hash LIMIT 1000 OFFSET $2)`

// KeepOpenIDTokens forgets all tokens of a user but those that end last.
func (tx *Tx) KeepOpenIDTokens(user id.UserID, keep int) error {
	_, err := tx.exec(deleteOldOpenIDTokens, user, keep)
	return err
}

const countOpenIDTokens = `SELECT count(*) FROM mx_openid_tokens`

// CountOpenIDTokens counts the tokens that are stored, expired or not.
func (tx *Tx) CountOpenIDTokens() (int, error) { return one(tx, value[int], countOpenIDTokens) }
