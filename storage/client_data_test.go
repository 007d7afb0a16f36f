package storage_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

const (
	alice = id.UserID("@alice:x")
	bob   = id.UserID("@bob:x")
)

// change runs fn in a transaction and returns its position.
func change(t *testing.T, db *storage.DB, fn func(*storage.Tx, storage.Pos) error) (at storage.Pos) {
	t.Helper()
	require.NoError(t, db.Write(context.Background(), func(tx *storage.Tx, pos storage.Pos) error {
		at = pos
		return fn(tx, pos)
	}))
	return at
}

// queue writes the rows of an act.
func queue(t *testing.T, db *storage.DB, add func(*storage.Act, storage.Pos)) (at storage.Pos) {
	t.Helper()
	a := &storage.Act{Positions: 1, Place: func(a *storage.Act, pos storage.Pos) {
		at = pos
		add(a, pos)
	}}
	db.Queue(a)
	require.NoError(t, a.Wait(context.Background()))
	return at
}

// ask runs a query.
func ask[T any](t *testing.T, db *storage.DB, query func(*storage.Tx) (T, error)) (answer T, err error) {
	t.Helper()
	err = db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		answer, err = query(tx)
		return err
	})
	return answer, err
}

func TestAccountData(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(user id.UserID, room id.RoomID, typ, content string) storage.Pos {
			return change(t, db, func(tx *storage.Tx, pos storage.Pos) error {
				return tx.PutAccountData(user, room, typ, []byte(content), pos)
			})
		}
		since := func(from, to storage.Pos) []storage.AccountData {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.AccountData, error) { return tx.AccountDataSince(alice, from, to) })
			require.NoError(t, err)
			return list
		}
		first := put(alice, "", "5", `{"a":1}`)
		put(bob, "", "5", `{"b":1}`)
		second := put(alice, "!r:x", "5", `{"c":1}`)
		third := queue(t, db, func(a *storage.Act, pos storage.Pos) {
			a.Add(storage.UpsertAccountData, string(alice), "", []byte("5"), []byte(`{"a":2}`), pos)
		})
		global := storage.AccountData{Type: "5", Content: []byte(`{"a":2}`), Pos: third}
		here := storage.AccountData{Room: "!r:x", Type: "5", Content: []byte(`{"c":1}`), Pos: second}
		require.Equal(t, []storage.AccountData{here, global}, since(0, third), "oldest first, the latest of each")
		require.Equal(t, []storage.AccountData{here}, since(first, second), "(from, to]")
		require.Empty(t, since(third, third))

		list, err := ask(t, db, func(tx *storage.Tx) ([]storage.AccountData, error) { return tx.RoomAccountData(alice, "!r:x", third) })
		require.NoError(t, err)
		require.Equal(t, []storage.AccountData{here}, list)
		content, err := ask(t, db, func(tx *storage.Tx) ([]byte, error) { return tx.AccountData(alice, "", "5") })
		require.NoError(t, err)
		require.JSONEq(t, `{"a":2}`, string(content))
		_, err = ask(t, db, func(tx *storage.Tx) ([]byte, error) { return tx.AccountData(alice, "", "6") })
		require.ErrorIs(t, err, storage.ErrNotFound)
	})
}

func TestFilters(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		add := func(user id.UserID, body string) (n int64) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) (err error) {
				n, err = tx.AddFilter(user, []byte(body))
				return err
			})
			return n
		}
		require.Equal(t, int64(1), add(alice, `{"a":1}`))
		require.Equal(t, int64(2), add(alice, `{"a":2}`))
		require.Equal(t, int64(1), add(bob, `{"a":2}`), "numbers are the user's own")
		body, err := ask(t, db, func(tx *storage.Tx) ([]byte, error) { return tx.Filter(alice, 2) })
		require.NoError(t, err)
		require.Equal(t, `{"a":2}`, string(body))
		n, err := ask(t, db, func(tx *storage.Tx) (int64, error) { return tx.FilterID(alice, []byte(`{"a":2}`)) })
		require.NoError(t, err)
		require.Equal(t, int64(2), n)
		_, err = ask(t, db, func(tx *storage.Tx) ([]byte, error) { return tx.Filter(bob, 2) })
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = ask(t, db, func(tx *storage.Tx) (int64, error) { return tx.FilterID(bob, []byte(`{"a":1}`)) })
		require.ErrorIs(t, err, storage.ErrNotFound)
	})
}

func TestReceiptsOfRooms(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(room int64, user id.UserID, event string, ord int64) storage.Pos {
			return queue(t, db, func(a *storage.Act, pos storage.Pos) {
				a.Add(storage.UpsertReceipt, room, string(user), "m.read", "", event, ord, int64(7), pos)
			})
		}
		since := func(from, to storage.Pos, rooms ...int64) (events []id.EventID) {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Receipt, error) { return tx.ReceiptsSince(rooms, from, to) })
			require.NoError(t, err)
			for _, r := range list {
				events = append(events, r.Event)
			}
			return events
		}
		first := put(1, alice, "$1", 1)
		put(2, alice, "$2", 1)
		put(3, alice, "$3", 1)
		put(1, bob, "$4", 2)
		last := put(1, alice, "$5", 3)
		require.Equal(t, []id.EventID{"$2", "$4", "$5"}, since(0, last, 1, 2), "oldest first")
		require.Equal(t, []id.EventID{"$2"}, since(first, first+1, 1, 2), "(from, to]")
		require.Empty(t, since(0, last))
		last = put(1, alice, "$1", 1)
		require.NotContains(t, since(0, last, 1), id.EventID("$1"), "a receipt does not move back")
	})
}

func TestRoomsWithNews(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		room := func(num int64, name, membership string) storage.Pos {
			return queue(t, db, func(a *storage.Act, pos storage.Pos) {
				a.Add(storage.InsertRoom, num, name, "11", int64(1), int64(0), pos, []byte("[]"))
				a.Add(storage.UpsertMember, num, string(alice), membership, pos, pos, false)
			})
		}
		news := func(from storage.Pos) []id.RoomID {
			list, err := ask(t, db, func(tx *storage.Tx) ([]id.RoomID, error) { return tx.RoomsWithNews(alice, from) })
			require.NoError(t, err)
			return list
		}
		quiet := room(1, "!quiet:x", "join")
		room(2, "!busy:x", "join")
		last := room(3, "!left:x", "leave")
		require.ElementsMatch(t, []id.RoomID{"!quiet:x", "!busy:x"}, news(0))
		require.Equal(t, []id.RoomID{"!busy:x"}, news(quiet))
		require.Empty(t, news(last))
		queue(t, db, func(a *storage.Act, pos storage.Pos) {
			a.Add(storage.UpsertReceipt, int64(1), string(bob), "m.read", "", "$1", int64(1), int64(7), pos)
		})
		require.Equal(t, []id.RoomID{"!quiet:x"}, news(last), "a receipt is news")
	})
}
