package storage

// InsertReceived remembers the answer to a transaction of another server: txn_hash, answer, at_ms. The first answer
// stays.
var InsertReceived = &Insert{
	Table: "mx_received_txns", Columns: "txn_hash, answer, at_ms", Conflict: "ON CONFLICT (txn_hash) DO NOTHING",
}

const selectReceivedAnswer = `SELECT answer FROM mx_received_txns WHERE txn_hash = $1`

// ReceivedAnswer returns how a transaction of another server was answered, ErrNotFound when it was not.
func (tx *Tx) ReceivedAnswer(hash []byte) ([]byte, error) {
	return one(tx, value[[]byte], selectReceivedAnswer, hash)
}

const deleteReceivedBefore = `
	DELETE FROM mx_received_txns WHERE txn_hash IN
		(SELECT txn_hash FROM mx_received_txns WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)`

// DeleteReceivedBefore forgets the oldest answers from before a time, at most limit.
func (tx *Tx) DeleteReceivedBefore(atMS int64, limit int) error {
	_, err := tx.exec(deleteReceivedBefore, atMS, limit)
	return err
}
