package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// MSC4293.
func TestClearings(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		act := &storage.Act{Positions: 3, Place: func(a *storage.Act, first storage.Pos) {
			for i, flags := range []int64{storage.InTimeline, storage.SoftFailed, storage.Outlier} {
				pos := first + storage.Pos(i)
				e := storage.Event{
					Pos: pos, Room: 1, ID: id.EventID([]string{"$a", "$b", "$c"}[i]), Ord: int64(i) - 1, Flags: flags, JSON: []byte(`{}`),
				}
				a.Add(storage.InsertEvent, e.Row()...)
			}
			a.Add(storage.InsertClearing, int64(9), int64(1), int64(-5), int64(4))
			a.Add(storage.InsertClearing, int64(7), int64(1), int64(-5), int64(1))
		}}
		db.Queue(act)
		require.NoError(t, act.Wait(t.Context()))
		clearings := func(limit int) []storage.Clearing {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Clearing, error) { return tx.Clearings(limit) })
			require.NoError(t, err)
			return list
		}
		events := func(after, before int64, limit int) (found string) {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Event, error) { return tx.EventsForwards(1, after, before, limit) })
			require.NoError(t, err)
			for i := range list {
				found += string(list[i].ID)
			}
			return found
		}
		require.Equal(t, []storage.Clearing{{7, 1, -5, 1}, {9, 1, -5, 4}}, clearings(10))
		require.Len(t, clearings(1), 1)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.ClearedUpTo(7, -1) })
		require.Equal(t, int64(-1), clearings(1)[0].Done)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.Cleared(7) })
		require.Equal(t, []storage.Clearing{{9, 1, -5, 4}}, clearings(10))
		require.Equal(t, "$a$b$c", events(-5, 2, 10))
		require.Equal(t, "$b", events(-1, 1, 10))
		require.Equal(t, "$a$b", events(-5, 2, 2))
	})
}
