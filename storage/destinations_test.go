package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

func TestOutgoing(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		first := queue(t, db, func(a *storage.Act, pos storage.Pos) {
			a.Add(storage.InsertServerSet, pos, []byte(`["a","b:1"]`))
			a.Add(storage.InsertServerSet, pos+100, []byte(`["c"]`))
			for i := range int64(5) {
				a.Add(storage.InsertOutgoing, pos+i, int64(7), pos+10*i, pos)
			}
		})
		sent := func(after, upTo storage.Pos, limit int) (at []storage.Pos) {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Outgoing, error) { return tx.Outgoing(after, upTo, limit) })
			require.NoError(t, err)
			for _, o := range list {
				require.Equal(t, storage.Outgoing{At: o.At, Room: 7, Pos: first + 10*(o.At-first), Set: first}, o)
				at = append(at, o.At-first)
			}
			return at
		}
		require.Equal(t, []storage.Pos{0, 1, 2, 3, 4}, sent(0, first+9, 9))
		require.Equal(t, []storage.Pos{2, 3}, sent(first+1, first+3, 9))
		require.Equal(t, []storage.Pos{1, 2}, sent(first, first+9, 2))

		sets, err := ask(t, db, func(tx *storage.Tx) (map[int64][]id.ServerName, error) {
			return tx.ServerSets([]int64{first, first + 100, first + 999})
		})
		require.NoError(t, err)
		require.Equal(t, map[int64][]id.ServerName{first: {"a", "b:1"}, first + 100: {"c"}}, sets)

		prune := func(upTo storage.Pos, limit int) (n int64) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) (err error) {
				n, err = tx.DeleteOutgoing(upTo, limit)
				return err
			})
			return n
		}
		require.EqualValues(t, 2, prune(first+2, 2))
		require.EqualValues(t, 1, prune(first+2, 2))
		require.EqualValues(t, 0, prune(first+2, 2))
		require.Equal(t, []storage.Pos{3, 4}, sent(0, first+9, 9))
		require.EqualValues(t, 2, prune(first+9, 9))
	})
}

func TestDestinations(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(list ...storage.Destination) {
			queue(t, db, func(a *storage.Act, _ storage.Pos) {
				for _, d := range list {
					a.Add(storage.UpsertDestination, d.Row()...)
				}
			})
		}
		stored := func() []storage.Destination {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Destination, error) { return tx.Destinations() })
			require.NoError(t, err)
			return list
		}
		a := storage.Destination{Server: "a", Past: 3, EDUsPast: 2, TxnID: "5", Txn: []byte(`{"ts":1}`)}
		b := storage.Destination{Server: "b:8448", FailingSinceMS: 1 << 40, RetryAtMS: 2 << 40, RetryIntervalMS: 1000}
		put(a, b)
		require.ElementsMatch(t, []storage.Destination{a, b}, stored())
		a.Past, a.TxnID, a.Txn = 4, "", nil
		later := a
		later.Past = 9
		put(a, later)
		require.ElementsMatch(t, []storage.Destination{later, b}, stored(), "the last that was written")
	})
}

func TestCatchUp(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(server string, room, at int64) {
			queue(t, db, func(a *storage.Act, _ storage.Pos) { a.Add(storage.UpsertCatchUp, server, room, at, at*10) })
		}
		rooms := func(server id.ServerName, limit int) (rooms []int64) {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.CatchUp, error) { return tx.CatchUp(server, limit) })
			require.NoError(t, err)
			for _, c := range list {
				require.Equal(t, c.At*10, c.Pos)
				rooms = append(rooms, c.Room)
			}
			return rooms
		}
		put("a", 1, 5)
		put("a", 2, 3)
		put("a", 3, 4)
		put("b", 1, 4)
		require.Equal(t, []int64{2, 3, 1}, rooms("a", 9))
		require.Equal(t, []int64{2, 3}, rooms("a", 2))
		put("a", 2, 9)
		require.Equal(t, []int64{3, 1, 2}, rooms("a", 9))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteCatchUp("a", 5) })
		require.Equal(t, []int64{2}, rooms("a", 9))
		servers, err := ask(t, db, func(tx *storage.Tx) ([]id.ServerName, error) { return tx.CatchingUp() })
		require.NoError(t, err)
		require.ElementsMatch(t, []id.ServerName{"a", "b"}, servers)
	})
}
