package storage_test

import (
	"cmp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

func TestListings(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		for num, name := range []string{"!a:x", "!b:x", "!c:x", "!d:x"} {
			queue(t, db, func(a *storage.Act, pos storage.Pos) {
				a.Add(storage.InsertRoom, int64(num), name, "11", int64(1), int64(10+num), pos, []byte("[]"))
			})
		}
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for _, room := range []int64{0, 1, 2} {
				if err := tx.Publish(room); err != nil {
					return err
				}
			}
			return nil
		})
		note := func(room, state int64, federated bool, summary string) {
			queue(t, db, func(a *storage.Act, _ storage.Pos) {
				a.Add(storage.UpsertListing, room, state, federated, []byte(summary))
			})
		}
		all := func() (list []storage.Listing) {
			_, err := ask(t, db, func(tx *storage.Tx) (int, error) {
				list = nil
				return 0, tx.Listings(func(l storage.Listing) error { list = append(list, l); return nil })
			})
			require.NoError(t, err)
			return byRoom(list)
		}
		some := func(rooms ...int64) []storage.Listing {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Listing, error) { return tx.ListingsOf(rooms) })
			require.NoError(t, err)
			return byRoom(list)
		}
		note(0, 10, true, `{"x":0}`)
		note(1, 3, false, `{"x":1}`)
		note(3, 13, true, `{"x":3}`)
		want := []storage.Listing{
			{Room: 0, RoomID: "!a:x", Fresh: true, Federated: true, Summary: []byte(`{"x":0}`)},
			{Room: 1, RoomID: "!b:x", Summary: []byte(`{"x":1}`)},
			{Room: 2, RoomID: "!c:x"},
		}
		require.Equal(t, want, all())
		require.Equal(t, want[1:], some(3, 2, 1, 7), "room 3 is not published")
		require.Empty(t, some())
		note(1, 11, true, "")
		require.True(t, some(1)[0].Fresh)
		require.Empty(t, some(1)[0].Summary)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteListing(1) })
		require.Equal(t, []storage.Listing{{Room: 1, RoomID: "!b:x"}}, some(1))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.Unpublish(0) })
		require.Len(t, all(), 2)
	})
}

func TestDeleteAliasesOf(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		for num, name := range []string{"!a:x", "!b:x"} {
			queue(t, db, func(a *storage.Act, pos storage.Pos) {
				a.Add(storage.InsertRoom, int64(num), name, "11", int64(1), int64(10), pos, []byte("[]"))
			})
		}
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for alias, room := range map[id.RoomAlias]int64{"#one:x": 0, "#two:x": 0, "#three:x": 1} {
				if _, err := tx.PutAlias(alias, room, alice); err != nil {
					return err
				}
			}
			return tx.DeleteAliasesOf(0)
		})
		of := func(room int64) []id.RoomAlias {
			list, err := ask(t, db, func(tx *storage.Tx) ([]id.RoomAlias, error) { return tx.AliasesOf(room) })
			require.NoError(t, err)
			return list
		}
		require.Empty(t, of(0))
		require.Equal(t, []id.RoomAlias{"#three:x"}, of(1))
	})
}

func byRoom(list []storage.Listing) []storage.Listing {
	slices.SortFunc(list, func(a, b storage.Listing) int { return cmp.Compare(a.Room, b.Room) })
	return list
}

func TestActThen(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		var called []int
		a := &storage.Act{Positions: 1}
		for i := range 3 {
			a.Then(func(first storage.Pos) {
				require.NotZero(t, first)
				called = append(called, i)
			})
		}
		db.Queue(a)
		require.NoError(t, a.Wait(t.Context()))
		require.Equal(t, []int{0, 1, 2}, called)
	})
}
