package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

func TestDelayed(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		key, empty := "5", ""
		put := func(d storage.Delayed) storage.Delayed {
			change(t, db, func(tx *storage.Tx, pos storage.Pos) error {
				d.Device, d.Room, d.Type, d.Content, d.Pos = "D", "!r:x", "5", []byte(`{"a":1}`), pos
				return tx.InsertDelayed(&d)
			})
			return d
		}
		late := put(storage.Delayed{ID: "late", User: alice, DelayMS: 50, DueMS: 100, StateKey: &key, StickyMS: 7})
		soon := put(storage.Delayed{ID: "soon", User: alice, DelayMS: 50, DueMS: 10, StateKey: &empty})
		other := put(storage.Delayed{ID: "other", User: bob, DelayMS: 5, DueMS: 20})

		list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Delayed, error) { return tx.DelayedOf(alice, 10) })
		require.NoError(t, err)
		require.Equal(t, []storage.Delayed{soon, late}, list, "the next one first")
		list, err = ask(t, db, func(tx *storage.Tx) ([]storage.Delayed, error) { return tx.DelayedOf(alice, 1) })
		require.NoError(t, err)
		require.Len(t, list, 1)
		list, err = ask(t, db, func(tx *storage.Tx) ([]storage.Delayed, error) { return tx.DelayedUntil(20, 10) })
		require.NoError(t, err)
		require.Equal(t, []storage.Delayed{soon, other}, list, "those that are due")
		one, err := ask(t, db, func(tx *storage.Tx) (storage.Delayed, error) { return tx.Delayed("other") })
		require.NoError(t, err)
		require.Equal(t, other, one)
		_, err = ask(t, db, func(tx *storage.Tx) (storage.Delayed, error) { return tx.Delayed("none") })
		require.ErrorIs(t, err, storage.ErrNotFound)

		next := func() int64 {
			due, err := ask(t, db, (*storage.Tx).NextDue)
			require.NoError(t, err)
			return due
		}
		found := func(fn func(*storage.Tx) (bool, error)) (ok bool) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) (err error) {
				ok, err = fn(tx)
				return err
			})
			return ok
		}
		require.Equal(t, int64(10), next())
		require.True(t, found(func(tx *storage.Tx) (bool, error) { return tx.RestartDelayed("soon", 1000) }))
		require.False(t, found(func(tx *storage.Tx) (bool, error) { return tx.RestartDelayed("none", 1000) }))
		require.Equal(t, int64(20), next())
		require.False(t, found(func(tx *storage.Tx) (bool, error) { return tx.DeleteDue("soon", 1049) }), "it was put off")
		require.True(t, found(func(tx *storage.Tx) (bool, error) { return tx.DeleteDue("soon", 1050) }))
		require.False(t, found(func(tx *storage.Tx) (bool, error) { return tx.DeleteDelayed("soon") }))
		require.True(t, found(func(tx *storage.Tx) (bool, error) { return tx.DeleteDelayed("other") }))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.PutOffDelayed("late", 200) })
		require.Equal(t, int64(200), next())
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteDelayedOf(alice) })
		require.Equal(t, int64(0), next())

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.RememberTransaction([]byte{1, 2}, "late", 5) })
		made, err := ask(t, db, func(tx *storage.Tx) (id.EventID, error) { return tx.Transaction([]byte{1, 2}) })
		require.NoError(t, err)
		require.Equal(t, id.EventID("late"), made)
	})
}

func TestSticky(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		at := queue(t, db, func(a *storage.Act, pos storage.Pos) {
			a.Add(storage.InsertSticky, int64(1), pos, pos, int64(100))
			a.Add(storage.InsertSticky, int64(1), pos+1, pos+1, int64(200))
			a.Add(storage.InsertSticky, int64(1), pos+1, pos+1, int64(200))
			a.Add(storage.InsertSticky, int64(2), pos, pos+2, int64(50))
		})
		sticky := func(room int64, from, to storage.Pos, nowMS int64, limit int) (list []storage.Pos) {
			all, err := ask(t, db, func(tx *storage.Tx) ([]storage.Sticky, error) { return tx.Sticky(room, from, to, nowMS, limit) })
			require.NoError(t, err)
			for _, s := range all {
				list = append(list, s.Pos)
			}
			return list
		}
		require.Equal(t, []storage.Pos{at, at + 1}, sticky(1, 0, at+5, 0, 10))
		require.Equal(t, []storage.Pos{at + 1}, sticky(1, 0, at+5, 0, 1), "the newest")
		require.Equal(t, []storage.Pos{at + 1}, sticky(1, at, at+5, 0, 10), "(from, to]")
		require.Equal(t, []storage.Pos{at}, sticky(1, 0, at, 0, 10))
		require.Equal(t, []storage.Pos{at + 1}, sticky(1, 0, at+5, 100, 10), "sticky no longer")
		ends, err := ask(t, db, func(tx *storage.Tx) (map[int64]int64, error) { return tx.StickyRooms(50) })
		require.NoError(t, err)
		require.Equal(t, map[int64]int64{1: 200}, ends)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteStickyBefore(100) })
		require.Equal(t, []storage.Pos{at + 1}, sticky(1, 0, at+5, 0, 10))
		require.Empty(t, sticky(2, 0, at+5, 0, 10))
	})
}
