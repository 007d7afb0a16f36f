package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// MO-03.
func TestReports(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(r storage.Report) (again bool) {
			change(t, db, func(tx *storage.Tx, pos storage.Pos) (err error) {
				r.ID = pos
				again, err = tx.PutReport(r)
				return err
			})
			return again
		}
		after := func(id int64, limit int) []storage.Report {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Report, error) { return tx.ReportsAfter(id, limit) })
			require.NoError(t, err)
			return list
		}
		event := storage.Report{Reporter: alice, Room: "!r:x", Event: "$e", User: bob, Reason: "rude", AtMS: 1}
		room := storage.Report{Reporter: alice, Room: "!r:x", Reason: "5", AtMS: 2}
		user := storage.Report{Reporter: alice, User: bob, Reason: "a\x00b", AtMS: 3}
		require.False(t, put(event))
		require.False(t, put(room))
		require.False(t, put(user))
		all := after(0, 10)
		require.Len(t, all, 3)
		require.Less(t, all[0].ID, all[1].ID)
		event.ID, room.ID, user.ID = all[0].ID, all[1].ID, all[2].ID
		require.Equal(t, []storage.Report{event, room, user}, all)
		require.Equal(t, []storage.Report{room}, after(event.ID, 1))

		event.Reason, event.AtMS = "very rude", 4
		require.True(t, put(event), "the same event by the same user")
		all = after(0, 10)
		require.Len(t, all, 3)
		require.Equal(t, "very rude", all[2].Reason, "the newest comes last")
		event.Reporter = bob
		require.False(t, put(event), "by another user")

		remove := func(report int64) (there bool) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) (err error) {
				there, err = tx.DeleteReport(report)
				return err
			})
			return there
		}
		require.True(t, remove(room.ID))
		require.False(t, remove(room.ID))
		require.Len(t, after(0, 10), 3)
	})
}

// LO-08.
func TestLoginTokens(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		insert := func(hash string, user id.UserID, device id.DeviceID, ends int64) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				return tx.InsertLoginToken(storage.LoginToken{Hash: []byte(hash), User: user, Device: device, ExpiresMS: ends})
			})
		}
		find := func(hash string) (storage.LoginToken, error) {
			return ask(t, db, func(tx *storage.Tx) (storage.LoginToken, error) { return tx.LoginToken([]byte(hash)) })
		}
		take := func(hash string) (there bool) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) (err error) {
				there, err = tx.TakeLoginToken([]byte(hash))
				return err
			})
			return there
		}
		insert("1", alice, "A", 10)
		insert("2", alice, "B", 20)
		insert("3", bob, "A", 30)
		found, err := find("1")
		require.NoError(t, err)
		require.Equal(t, storage.LoginToken{Hash: []byte("1"), User: alice, Device: "A", ExpiresMS: 10}, found)
		require.True(t, take("1"))
		require.False(t, take("1"), "each once")
		_, err = find("1")
		require.ErrorIs(t, err, storage.ErrNotFound)

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			return tx.DeleteLoginTokensOf(alice, []id.DeviceID{"A", "B"})
		})
		require.False(t, take("2"))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteLoginTokensBefore(29, 10) })
		_, err = find("3")
		require.NoError(t, err, "another user's device of the same name, and not yet expired")
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteLoginTokensBefore(30, 10) })
		require.False(t, take("3"))
	})
}

// MO-07, LK-07.
func TestNoticeRoomsAndBlockedRooms(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		noticed := func() (id.RoomID, error) {
			return ask(t, db, func(tx *storage.Tx) (id.RoomID, error) { return tx.NoticeRoom(alice) })
		}
		_, err := noticed()
		require.ErrorIs(t, err, storage.ErrNotFound)
		for _, room := range []id.RoomID{"!a:x", "!b:x"} {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.PutNoticeRoom(alice, room) })
			found, err := noticed()
			require.NoError(t, err)
			require.Equal(t, room, found)
		}

		blocked := func(room id.RoomID) bool {
			is, err := ask(t, db, func(tx *storage.Tx) (bool, error) { return tx.RoomBlocked(room) })
			require.NoError(t, err)
			return is
		}
		require.False(t, blocked("!a:x"))
		for range 2 {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.BlockRoom("!a:x", alice, 1) })
		}
		require.True(t, blocked("!a:x"))
		require.False(t, blocked("!b:x"))
		for _, was := range []bool{true, false} {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				is, err := tx.UnblockRoom("!a:x")
				require.Equal(t, was, is)
				return err
			})
		}
		require.False(t, blocked("!a:x"))
	})
}

func TestGuestsAmong(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		for user, guest := range map[id.UserID]bool{"@a:x": false, "@b:x": true, "@c:x": true} {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				_, err := tx.InsertAccount(storage.Account{User: user, Guest: guest})
				return err
			})
		}
		guests, err := ask(t, db, func(tx *storage.Tx) ([]id.UserID, error) { return tx.GuestsAmong([]id.UserID{"@a:x", "@b:x", "@d:x"}) })
		require.NoError(t, err)
		require.Equal(t, []id.UserID{"@b:x"}, guests)
	})
}

// SB-10.
func TestCountAccounts(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		for user, gone := range map[id.UserID]bool{"@a:x": false, "@b:x": false, "@c:x": true, "@d:x": false} {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				_, err := tx.InsertAccount(storage.Account{User: user, Deactivated: gone})
				return err
			})
		}
		for limit, want := range map[int]int{2: 2, 10: 3} {
			n, err := ask(t, db, func(tx *storage.Tx) (int, error) { return tx.CountAccounts(limit) })
			require.NoError(t, err)
			require.Equal(t, want, n)
		}
	})
}
