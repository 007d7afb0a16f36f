package storage

import "github.com/embedmatrix/homeserver/internal/id"

const selectFilter = `SELECT body FROM mx_filters WHERE user_id = $1 AND filter_id = $2`

// Filter returns a filter that a user has stored, or ErrNotFound.
func (tx *Tx) Filter(user id.UserID, filter int64) ([]byte, error) {
	return one(tx, value[[]byte], selectFilter, user, filter)
}

const selectFilterID = `SELECT filter_id FROM mx_filters WHERE user_id = $1 AND body = $2`

// FilterID returns the number under which a user has stored this very filter, or ErrNotFound.
func (tx *Tx) FilterID(user id.UserID, body []byte) (int64, error) {
	return one(tx, value[int64], selectFilterID, user, body)
}

const selectLastFilter = `SELECT coalesce(max(filter_id), 0) FROM mx_filters WHERE user_id = $1`

const insertFilter = `INSERT INTO mx_filters (user_id, filter_id, body) VALUES ($1, $2, $3)`

// AddFilter stores a user's filter under the user's next number, which it returns.
func (tx *Tx) AddFilter(user id.UserID, body []byte) (int64, error) {
	last, err := one(tx, value[int64], selectLastFilter, user)
	if err != nil {
		return 0, err
	}
	_, err = tx.exec(insertFilter, user, last+1, body)
	return last + 1, err
}
