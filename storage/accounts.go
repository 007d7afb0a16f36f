package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Account is a local user.
type Account struct {
	User         id.UserID
	PasswordHash string // empty: no password of ours
	CreatedMS    int64
	Guest        bool
	Admin        bool
	Deactivated  bool // for good; the name is never given out again
	Erased       bool // asked to be forgotten when deactivated
	Locked       bool
	Suspended    bool
	Leaving      bool   // deactivated, and not yet out of every room
	Terms        []byte // JSON: the policies accepted at registration, id to version; nil for none
}

func scanAccount(row *sql.Rows, a *Account) error {
	return row.Scan(&a.User, &a.PasswordHash, &a.CreatedMS, &a.Guest, &a.Admin, &a.Deactivated, &a.Erased,
		&a.Locked, &a.Suspended, &a.Leaving, &a.Terms)
}

const selectAccount = `
	SELECT user_id, password_hash, created_ms, guest, admin, deactivated, erased, locked, suspended, leaving, terms
	FROM mx_accounts WHERE user_id = $1`

// Account returns the account of user, or ErrNotFound.
func (tx *Tx) Account(user id.UserID) (Account, error) {
	return one(tx, scanAccount, selectAccount, user)
}

const selectAccountsLeaving = `
	SELECT user_id, password_hash, created_ms, guest, admin, deactivated, erased, locked, suspended, leaving, terms
	FROM mx_accounts WHERE leaving`

// AccountsLeaving returns the deactivated accounts that are not yet out of every room, in no order.
func (tx *Tx) AccountsLeaving() ([]Account, error) {
	return collect(tx, scanAccount, selectAccountsLeaving)
}

const selectErasedUsers = `SELECT user_id FROM mx_accounts WHERE erased`

// ErasedUsers returns the users who asked to be forgotten, in no order.
func (tx *Tx) ErasedUsers() ([]id.UserID, error) {
	return collect(tx, value[id.UserID], selectErasedUsers)
}

const insertAccount = `
	INSERT INTO mx_accounts (user_id, password_hash, created_ms, guest, admin, deactivated, erased, locked, suspended, leaving, terms)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
	ON CONFLICT (user_id) DO NOTHING`

// InsertAccount adds an account and reports whether its name was free.
func (tx *Tx) InsertAccount(a Account) (bool, error) {
	n, err := tx.exec(insertAccount, a.User, a.PasswordHash, a.CreatedMS, a.Guest, a.Admin, a.Deactivated, a.Erased,
		a.Locked, a.Suspended, a.Leaving, notNil(a.Terms))
	if err != nil || n != 1 {
		return false, err
	}
	return true, tx.personChanged(a.User)
}

const updateAccount = `
	UPDATE mx_accounts SET password_hash = $2, guest = $3, admin = $4, deactivated = $5, erased = $6, locked = $7,
		suspended = $8, leaving = $9, terms = $10
	WHERE user_id = $1`

// UpdateAccount stores an account that was read in the same transaction; all but its user and CreatedMS may differ.
func (tx *Tx) UpdateAccount(a Account) error {
	_, err := tx.exec(updateAccount, a.User, a.PasswordHash, a.Guest, a.Admin, a.Deactivated, a.Erased, a.Locked,
		a.Suspended, a.Leaving, notNil(a.Terms))
	if err != nil {
		return err
	}
	return tx.personChanged(a.User)
}

// notNil makes an absent blob an empty one, for columns that are NOT NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// RegistrationToken lets people register.
type RegistrationToken struct {
	Token     string
	Uses      int64 // how many accounts it is good for; 0 is any number
	Completed int64 // how many were made with it
	ExpiresMS int64 // 0: never
}

const selectRegistrationToken = `
	SELECT token, uses_allowed, completed, expires_ms FROM mx_registration_tokens WHERE token = $1`

// RegistrationToken returns a token, used up and expired ones too, or ErrNotFound.
func (tx *Tx) RegistrationToken(token string) (RegistrationToken, error) {
	return one(tx, func(row *sql.Rows, t *RegistrationToken) error {
		return row.Scan(&t.Token, &t.Uses, &t.Completed, &t.ExpiresMS)
	}, selectRegistrationToken, token)
}

const insertRegistrationToken = `
	INSERT INTO mx_registration_tokens (token, uses_allowed, completed, expires_ms) VALUES ($1, $2, $3, $4)
	ON CONFLICT (token) DO NOTHING`

// InsertRegistrationToken adds a token and reports whether it was new.
func (tx *Tx) InsertRegistrationToken(t RegistrationToken) (bool, error) {
	n, err := tx.exec(insertRegistrationToken, t.Token, t.Uses, t.Completed, t.ExpiresMS)
	return n == 1, err
}

const useRegistrationToken = `
	UPDATE mx_registration_tokens SET completed = completed + 1
	WHERE token = $1 AND (uses_allowed = 0 OR completed < uses_allowed) AND (expires_ms = 0 OR expires_ms > $2)`

// UseRegistrationToken takes one use of a token and reports whether there was one left at nowMS.
func (tx *Tx) UseRegistrationToken(token string, nowMS int64) (bool, error) {
	n, err := tx.exec(useRegistrationToken, token, nowMS)
	return n == 1, err
}

const deleteRegistrationToken = `DELETE FROM mx_registration_tokens WHERE token = $1`

// DeleteRegistrationToken removes a token and reports whether it was there.
func (tx *Tx) DeleteRegistrationToken(token string) (bool, error) {
	n, err := tx.exec(deleteRegistrationToken, token)
	return n == 1, err
}
