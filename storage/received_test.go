package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// The first answer to a transaction stays until it is old.
func TestReceivedAnswers(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(hash, answer string, atMS int64) {
			queue(t, db, func(a *storage.Act, _ storage.Pos) {
				a.Add(storage.InsertReceived, []byte(hash), []byte(answer), atMS)
			})
		}
		answer := func(hash string) (string, error) {
			text, err := ask(t, db, func(tx *storage.Tx) ([]byte, error) { return tx.ReceivedAnswer([]byte(hash)) })
			return string(text), err
		}
		forget := func(atMS int64, limit int) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteReceivedBefore(atMS, limit) })
		}
		put("a", "first", 1)
		put("b", "second", 2)
		put("c", "third", 3)
		put("a", "again", 9)
		text, err := answer("a")
		require.NoError(t, err)
		require.Equal(t, "first", text)

		forget(3, 1)
		_, err = answer("a")
		require.ErrorIs(t, err, storage.ErrNotFound, "the oldest goes first")
		_, err = answer("b")
		require.NoError(t, err)
		forget(3, 10)
		_, err = answer("b")
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = answer("c")
		require.NoError(t, err)
	})
}
