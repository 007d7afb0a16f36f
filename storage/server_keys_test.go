package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

func TestServerKeys(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(keys ...storage.ServerKey) {
			queue(t, db, func(a *storage.Act, _ storage.Pos) {
				for _, k := range keys {
					a.Add(storage.UpsertServerKey, string(k.Server), k.KeyID, k.Public, k.ValidUntilMS, k.ExpiredMS)
				}
			})
		}
		known := func(servers ...id.ServerName) []storage.ServerKey {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.ServerKey, error) { return tx.ServerKeys(servers) })
			require.NoError(t, err)
			return list
		}
		first := storage.ServerKey{Server: "a", KeyID: "ed25519:1", Public: []byte("one"), ValidUntilMS: 10}
		second := storage.ServerKey{Server: "a", KeyID: "ed25519:2", Public: []byte("two"), ValidUntilMS: 20}
		other := storage.ServerKey{Server: "b:8448", KeyID: "ed25519:1", Public: []byte{0, 1, 2}, ValidUntilMS: 5, ExpiredMS: 4}
		put(second, first, other)
		require.Equal(t, []storage.ServerKey{first, second, other}, known("a", "b:8448", "c"))
		require.Empty(t, known())

		first.ValidUntilMS, first.ExpiredMS = 30, 9
		put(first)
		require.Equal(t, []storage.ServerKey{first, second}, known("a"), "the last that was written")

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.KeepServerKeys("a", 1) })
		require.Equal(t, []storage.ServerKey{first, other}, known("a", "b:8448"))
	})
}

func TestServerKeyAnswers(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(answer string, validUntil int64) {
			queue(t, db, func(a *storage.Act, _ storage.Pos) {
				a.Add(storage.UpsertServerKeyAnswer, "a", []byte(answer), validUntil, int64(7))
			})
		}
		known := func(servers ...id.ServerName) []storage.ServerKeyAnswer {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.ServerKeyAnswer, error) { return tx.ServerKeyAnswers(servers) })
			require.NoError(t, err)
			return list
		}
		put(`{"n":1}`, 30)
		put(`{"n":2}`, 20)
		require.Equal(t, []storage.ServerKeyAnswer{{Server: "a", JSON: []byte(`{"n":2}`), ValidUntilMS: 20, FetchedMS: 7}}, known("a", "b"))
		require.Empty(t, known("b"))
	})
}
