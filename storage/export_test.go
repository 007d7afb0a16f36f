package storage

import "database/sql"

// Exec runs a statement of a test.
func (tx *Tx) Exec(query string, args ...any) (int64, error) { return tx.exec(query, args...) }

// Strings runs a query of a test for one column.
func (tx *Tx) Strings(query string, args ...any) ([]string, error) {
	return collect(tx, func(row *sql.Rows, s *string) error { return row.Scan(s) }, query, args...)
}

// SearchWithin is Search that goes through atOnce of everything before the index is asked for the rooms, and through inVain
// for one answer.
func (tx *Tx) SearchWithin(q *TextQuery, before int64, limit, atOnce, inVain int) ([]Found, int64, error) {
	return tx.search(q, before, limit, atOnce, inVain)
}
