package storage_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

func TestToDevice(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		phone, desk := storage.DeviceName{User: alice, ID: "PHONE"}, storage.DeviceName{User: alice, ID: "DESK"}
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for _, d := range []storage.DeviceName{phone, desk} {
				_, err := tx.InsertDevice(storage.Device{User: d.User, ID: d.ID})
				require.NoError(t, err)
			}
			for pos := range storage.Pos(5) {
				require.NoError(t, tx.InsertToDevice(phone, storage.ToDevice{Pos: 10 + pos, Message: []byte{'m', byte(pos)}}))
			}
			return tx.InsertToDevice(desk, storage.ToDevice{Pos: 12, Message: []byte("{}")})
		})
		names, err := ask(t, db, func(tx *storage.Tx) ([]storage.DeviceName, error) { return tx.DeviceNames([]id.UserID{alice, bob}) })
		require.NoError(t, err)
		require.ElementsMatch(t, []storage.DeviceName{phone, desk}, names)

		told := func(d storage.DeviceName, after, upTo storage.Pos, limit int) []storage.Pos {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.ToDevice, error) { return tx.ToDevice(d, after, upTo, limit) })
			require.NoError(t, err)
			var at []storage.Pos
			for _, m := range list {
				require.NotEmpty(t, m.Message)
				at = append(at, m.Pos)
			}
			return at
		}
		between := func(d storage.DeviceName) [2]storage.Pos {
			r, err := ask(t, db, func(tx *storage.Tx) (r [2]storage.Pos, err error) {
				r[0], r[1], err = tx.ToDeviceRange(d)
				return r, err
			})
			require.NoError(t, err)
			return r
		}
		require.Equal(t, []storage.Pos{11, 12}, told(phone, 10, 14, 2))
		require.Equal(t, []storage.Pos{13}, told(phone, 12, 13, 9))
		require.Equal(t, [2]storage.Pos{10, 14}, between(phone))
		require.Zero(t, between(storage.DeviceName{User: bob, ID: "PHONE"}))

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteToDevice(phone, 12) })
		require.Equal(t, [2]storage.Pos{13, 14}, between(phone))
		require.Equal(t, [2]storage.Pos{12, 12}, between(desk))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			return tx.DeleteToDevices(alice, []id.DeviceID{"DESK", "NONE"})
		})
		require.Zero(t, between(desk))
		require.Equal(t, [2]storage.Pos{13, 14}, between(phone))
	})
}

func TestTakeToDevice(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		take := func(hash string, at int64) (fresh bool) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) (err error) {
				fresh, err = tx.TakeToDevice([]byte(hash), at)
				return err
			})
			return fresh
		}
		for i, hash := range []string{"a", "b", "c"} {
			require.True(t, take(hash, int64(i)))
		}
		require.False(t, take("a", 9))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteTakenBefore(2, 1) })
		require.False(t, take("b", 9), "the oldest goes first, and no more than were asked for")
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteTakenBefore(2, 9) })
		require.False(t, take("c", 9))
		require.True(t, take("a", 9))
		require.True(t, take("b", 9))
	})
}

func TestOutgoingEDUs(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for pos := range storage.Pos(4) {
				require.NoError(t, tx.InsertOutgoingEDU("one", storage.OutgoingEDU{Pos: 1 + pos, EDU: []byte("{}")}))
			}
			return tx.InsertOutgoingEDU("two", storage.OutgoingEDU{Pos: 2, EDU: []byte("[]")})
		})
		of := func(server id.ServerName, after, upTo storage.Pos, limit int) []storage.OutgoingEDU {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.OutgoingEDU, error) {
				return tx.OutgoingEDUs(server, after, upTo, limit)
			})
			require.NoError(t, err)
			return list
		}
		newest := func() map[id.ServerName]storage.Pos {
			m, err := ask(t, db, func(tx *storage.Tx) (map[id.ServerName]storage.Pos, error) { return tx.OutgoingEDUServers() })
			require.NoError(t, err)
			return m
		}
		require.Equal(t, []storage.OutgoingEDU{{Pos: 2, EDU: []byte("{}")}}, of("one", 1, 4, 1))
		require.Len(t, of("one", 1, 3, 9), 2)
		require.Equal(t, map[id.ServerName]storage.Pos{"one": 4, "two": 2}, newest())
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteOutgoingEDUs("one", 4) })
		require.Equal(t, map[id.ServerName]storage.Pos{"two": 2}, newest())
	})
}

func TestDehydratedDevices(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(device id.DeviceID) (old id.DeviceID) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) (err error) {
				old, err = tx.PutDehydratedDevice(storage.DehydratedDevice{
					DeviceName: storage.DeviceName{User: alice, ID: device}, Data: []byte(device),
				})
				return err
			})
			return old
		}
		require.Empty(t, put("A"))
		require.Equal(t, id.DeviceID("A"), put("B"))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			return tx.DeleteDehydratedDevices(alice, []id.DeviceID{"A"})
		})
		d, err := ask(t, db, func(tx *storage.Tx) (storage.DehydratedDevice, error) { return tx.DehydratedDevice(alice) })
		require.NoError(t, err)
		require.Equal(t, "B", string(d.Data))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			return tx.DeleteDehydratedDevices(alice, []id.DeviceID{"B"})
		})
		_, err = ask(t, db, func(tx *storage.Tx) (storage.DehydratedDevice, error) { return tx.DehydratedDevice(alice) })
		require.ErrorIs(t, err, storage.ErrNotFound)
	})
}

// tells stores of which devices servers are told.
func tells(t *testing.T, db *storage.DB, sets map[int64]string, rows ...storage.OutgoingDevice) {
	t.Helper()
	act := &storage.Act{}
	for number, servers := range sets {
		act.Add(storage.InsertDeviceSet, number, []byte(servers))
	}
	for _, r := range rows {
		act.Add(storage.InsertOutgoingDevice, r.Pos, string(r.User), string(r.Device), r.Set)
	}
	act.Add(storage.UpsertDevicesFollowed, 1, rows[len(rows)-1].Pos)
	db.Queue(act)
	require.NoError(t, act.Wait(t.Context()))
}

func TestOutgoingDevices(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		rows := []storage.OutgoingDevice{
			{Pos: 101, User: alice, Device: "A", Set: 1}, {Pos: 102, User: alice, Device: "", Set: 1},
			{Pos: 103, User: bob, Device: "A", Set: 2}, {Pos: 104, User: alice, Device: "B", Set: 2},
		}
		tells(t, db, map[int64]string{1: `["one","two"]`, 2: `["two"]`, 3: `[]`}, rows...)
		all := func(after, upTo storage.Pos, limit int) []storage.OutgoingDevice {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.OutgoingDevice, error) { return tx.OutgoingDevices(after, upTo, limit) })
			require.NoError(t, err)
			return list
		}
		require.Equal(t, rows[1:3], all(101, 104, 2))
		before, err := ask(t, db, func(tx *storage.Tx) ([]storage.OutgoingDevice, error) { return tx.OutgoingDevicesBefore(alice, 104, 9) })
		require.NoError(t, err)
		require.Equal(t, rows[:1], before)
		of, err := ask(t, db, func(tx *storage.Tx) ([]storage.OutgoingDevice, error) { return tx.OutgoingDevicesOf(alice) })
		require.NoError(t, err)
		require.Equal(t, []storage.OutgoingDevice{rows[3], rows[1], rows[0]}, of)
		many, err := ask(t, db, func(tx *storage.Tx) ([]id.UserID, error) { return tx.ManyOutgoingDevices([]id.UserID{alice, bob}, 1) })
		require.NoError(t, err)
		require.Equal(t, []id.UserID{alice}, many)
		newest, err := ask(t, db, func(tx *storage.Tx) (map[int64]storage.Pos, error) { return tx.NewestOutgoingDevices() })
		require.NoError(t, err)
		require.Equal(t, map[int64]storage.Pos{1: 102, 2: 104}, newest)
		followed, err := ask(t, db, func(tx *storage.Tx) (storage.Pos, error) { return tx.DevicesFollowed() })
		require.NoError(t, err)
		require.Equal(t, storage.Pos(104), followed)

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			require.NoError(t, tx.DeleteOutgoingDevices(alice, 102))
			return tx.DeleteDeviceSets()
		})
		require.Equal(t, rows[1:], all(0, 104, 9))
		sets, err := ask(t, db, func(tx *storage.Tx) (map[int64][]id.ServerName, error) { return tx.DeviceSets([]int64{1, 2, 3}) })
		require.NoError(t, err)
		require.Equal(t, map[int64][]id.ServerName{1: {"one", "two"}, 2: {"two"}}, sets)
	})
}

func TestDeviceListsOfOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		last := change(t, db, func(tx *storage.Tx, pos storage.Pos) error {
			require.NoError(t, tx.PutDeviceList(storage.DeviceList{User: alice, Stream: 1, Current: true}))
			require.NoError(t, tx.PutDeviceList(storage.DeviceList{User: bob}))
			require.NoError(t, tx.PutDeviceKeys(storage.DeviceKeys{User: bob, Device: "A", Keys: []byte("{}")}))
			require.NoError(t, tx.PutDeviceKeys(storage.DeviceKeys{User: bob, Device: "B", Keys: []byte("{}")}))
			require.NoError(t, tx.PutDeviceChange(storage.DeviceChange{User: alice, Pos: pos}))
			return tx.PutDeviceChange(storage.DeviceChange{User: bob, Pos: pos, Audience: alice})
		})
		stale, err := ask(t, db, func(tx *storage.Tx) ([]id.UserID, error) { return tx.StaleDeviceLists(9) })
		require.NoError(t, err)
		require.Equal(t, []id.UserID{bob}, stale)
		n, err := ask(t, db, func(tx *storage.Tx) (int, error) { return tx.OtherDeviceKeys(bob, "A") })
		require.NoError(t, err)
		require.Equal(t, 1, n)
		for viewer, want := range map[id.UserID][]id.UserID{alice: {alice, bob}, bob: {alice}, "": {alice}} {
			got, err := ask(t, db, func(tx *storage.Tx) ([]id.UserID, error) { return tx.AllDeviceChangers(viewer, last-1, last) })
			require.NoError(t, err)
			slices.Sort(got)
			require.Equal(t, want, got, viewer)
		}
	})
}
