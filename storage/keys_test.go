package storage_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

func TestDeviceKeys(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(user id.UserID, device id.DeviceID, keys, name string) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				return tx.PutDeviceKeys(storage.DeviceKeys{User: user, Device: device, Keys: []byte(keys), Name: name})
			})
		}
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			_, err := tx.InsertDevice(storage.Device{User: alice, ID: "A", Name: "phone \x00"})
			return err
		})
		put(alice, "A", "1", "")
		put(alice, "A", "2", "ignored")
		put(bob, "B", "3", "far away")
		put(bob, "C", "4", "")
		list, err := ask(t, db, func(tx *storage.Tx) ([]storage.DeviceKeys, error) { return tx.DeviceKeys(alice, bob, "@x:x") })
		require.NoError(t, err)
		require.ElementsMatch(t, []storage.DeviceKeys{
			{User: alice, Device: "A", Keys: []byte("2"), Name: "phone \x00"},
			{User: bob, Device: "B", Keys: []byte("3"), Name: "far away"}, {User: bob, Device: "C", Keys: []byte("4")},
		}, list)

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteDeviceKeys(bob, []id.DeviceID{"B", "x"}) })
		_, err = ask(t, db, func(tx *storage.Tx) (storage.DeviceKeys, error) { return tx.KeysOfDevice(bob, "B") })
		require.ErrorIs(t, err, storage.ErrNotFound)
		k, err := ask(t, db, func(tx *storage.Tx) (storage.DeviceKeys, error) { return tx.KeysOfDevice(bob, "C") })
		require.NoError(t, err)
		require.Equal(t, "4", string(k.Keys))
	})
}

func oneTime(algorithm, keyID string, ord int64) storage.OneTimeKey {
	return storage.OneTimeKey{Algorithm: algorithm, KeyID: keyID, Key: []byte("key " + keyID), Ord: ord}
}

func TestOneTimeKeys(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		all := []storage.OneTimeKey{oneTime("a", "z", 1), oneTime("a", "y", 2), oneTime("b", "z", 3), oneTime("a", "x", 4)}
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for _, k := range all {
				if err := tx.InsertOneTimeKey(alice, "A", k); err != nil {
					return err
				}
			}
			return tx.InsertOneTimeKey(alice, "B", all[0])
		})
		known, err := ask(t, db, func(tx *storage.Tx) ([]storage.OneTimeKey, error) {
			return tx.OneTimeKeys(alice, "A", []string{"z", "n"})
		})
		require.NoError(t, err)
		require.ElementsMatch(t, []storage.OneTimeKey{all[0], all[2]}, known)
		counts, err := ask(t, db, func(tx *storage.Tx) ([]storage.KeyCount, error) { return tx.KeyCounts(alice, "A") })
		require.NoError(t, err)
		require.ElementsMatch(t, []storage.KeyCount{{Algorithm: "a", N: 3}, {Algorithm: "b", N: 1}}, counts)
		require.Error(t, db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error {
			return tx.InsertOneTimeKey(alice, "A", oneTime("a", "z", 9))
		}), "an id twice")

		for _, want := range []storage.OneTimeKey{all[0], all[1], all[3]} {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				k, err := tx.TakeOneTimeKey(alice, "A", "a")
				require.Equal(t, want, k)
				return err
			})
		}
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			_, err := tx.TakeOneTimeKey(alice, "A", "a")
			require.ErrorIs(t, err, storage.ErrNotFound)
			return nil
		})

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for i := range int64(10) {
				if err := tx.PutSpentKey(alice, "A", oneTime("a", fmt.Sprint(i), i)); err != nil {
					return err
				}
			}
			return tx.KeepSpentKeys(alice, "A", 4)
		})
		spent, err := ask(t, db, func(tx *storage.Tx) ([]storage.OneTimeKey, error) {
			return tx.SpentKeys(alice, "A", []string{"4", "5", "6", "7", "8", "9"})
		})
		require.NoError(t, err)
		require.Len(t, spent, 4)
	})
}

// A key is given out once, however many ask at once.
func TestOneTimeKeysAreTakenOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		const keys, takers = 100, 8
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for i := range int64(keys) {
				if err := tx.InsertOneTimeKey(alice, "A", oneTime("a", fmt.Sprint(i), i)); err != nil {
					return err
				}
			}
			return nil
		})
		got := make(chan string, 2*keys)
		var tasks sync.WaitGroup
		for range takers {
			tasks.Go(func() {
				for range keys / takers {
					var k storage.OneTimeKey
					err := db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) (err error) {
						k, err = tx.TakeOneTimeKey(alice, "A", "a")
						return err
					})
					if err == nil {
						got <- k.KeyID
					}
				}
			})
		}
		tasks.Wait()
		close(got)
		seen := map[string]bool{}
		for name := range got {
			require.False(t, seen[name], name)
			seen[name] = true
		}
		require.Len(t, seen, keys/takers*takers)
	})
}

func TestFallbackKeys(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(keyID string, used bool) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				return tx.PutFallbackKey(alice, "A", storage.FallbackKey{Algorithm: "a", KeyID: keyID, Key: []byte("k"), Used: used})
			})
		}
		put("1", false)
		put("1", true)
		list, err := ask(t, db, func(tx *storage.Tx) ([]storage.FallbackKey, error) { return tx.FallbackKeys(alice, "A") })
		require.NoError(t, err)
		require.Equal(t, []storage.FallbackKey{{Algorithm: "a", KeyID: "1", Key: []byte("k"), Used: true}}, list)
		put("2", false)
		list, err = ask(t, db, func(tx *storage.Tx) ([]storage.FallbackKey, error) { return tx.FallbackKeys(alice, "A") })
		require.NoError(t, err)
		require.Equal(t, []storage.FallbackKey{{Algorithm: "a", KeyID: "2", Key: []byte("k")}}, list)
	})
}

func TestCrossSigningKeys(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		signed := func(user id.UserID, name string, signer id.UserID, keyID, text string) storage.KeySignature {
			return storage.KeySignature{User: user, KeyName: name, Signer: signer, KeyID: keyID, Signature: text}
		}
		own, foreign := signed(alice, "A", alice, "ed25519:s", "1"), signed(alice, "M", bob, "ed25519:u", "2")
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			k := storage.CrossSigningKey{User: alice, Usage: "master", Public: "old", Key: []byte("{}")}
			require.NoError(t, tx.PutCrossSigningKey(k))
			k.Public = "M"
			require.NoError(t, tx.PutCrossSigningKey(k))
			for _, s := range []storage.KeySignature{own, foreign} {
				added, err := tx.PutKeySignature(s)
				require.NoError(t, err)
				require.True(t, added)
				added, err = tx.PutKeySignature(s)
				require.NoError(t, err)
				require.False(t, added)
			}
			return nil
		})
		keys, err := ask(t, db, func(tx *storage.Tx) ([]storage.CrossSigningKey, error) { return tx.CrossSigningKeys(alice, bob) })
		require.NoError(t, err)
		require.Equal(t, []storage.CrossSigningKey{{User: alice, Usage: "master", Public: "M", Key: []byte("{}")}}, keys)
		seen := func(viewer id.UserID) []storage.KeySignature {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.KeySignature, error) { return tx.KeySignatures(viewer, alice, bob) })
			require.NoError(t, err)
			return list
		}
		require.ElementsMatch(t, []storage.KeySignature{own}, seen(""))
		require.ElementsMatch(t, []storage.KeySignature{own}, seen(alice))
		require.ElementsMatch(t, []storage.KeySignature{own, foreign}, seen(bob))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			return tx.DeleteSignaturesBy(bob, []string{"ed25519:u", "x"})
		})
		require.ElementsMatch(t, []storage.KeySignature{own}, seen(bob))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteKeySignatures(alice, []string{"A"}) })
		require.Empty(t, seen(alice))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteCrossSigningKey(alice, "master") })
		keys, err = ask(t, db, func(tx *storage.Tx) ([]storage.CrossSigningKey, error) { return tx.CrossSigningKeys(alice) })
		require.NoError(t, err)
		require.Empty(t, keys)
	})
}

func TestDeviceChanges(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(user, audience id.UserID, devices ...id.DeviceID) storage.Pos {
			return change(t, db, func(tx *storage.Tx, pos storage.Pos) error {
				for _, d := range devices {
					if err := tx.PutDeviceChange(storage.DeviceChange{User: user, Pos: pos, Device: d, Audience: audience}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		first := put(alice, "", "A", "B")
		second := put(bob, alice, "")
		third := put(alice, "", "")
		of, err := ask(t, db, func(tx *storage.Tx) ([]storage.DeviceChange, error) { return tx.DeviceChangesOf(alice, first, third) })
		require.NoError(t, err)
		require.Equal(t, []storage.DeviceChange{{User: alice, Pos: third}}, of)
		changers := func(viewer id.UserID, from storage.Pos, users ...id.UserID) []id.UserID {
			list, err := ask(t, db, func(tx *storage.Tx) ([]id.UserID, error) { return tx.DeviceChangers(viewer, users, from, third) })
			require.NoError(t, err)
			slices.Sort(list)
			return list
		}
		require.Equal(t, []id.UserID{alice, bob}, changers(alice, 0, alice))
		require.Equal(t, []id.UserID{alice}, changers(bob, 0, alice, bob))
		require.Empty(t, changers(alice, second, bob))
	})
}

// TestDeviceChangesAreBounded: of the changes that one user alone is told of the last stays, and they push nothing out
// that all are told of.
func TestDeviceChangesAreBounded(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		var devices []id.DeviceID
		for i := range 100 {
			devices = append(devices, id.DeviceID(fmt.Sprint("D", i)))
		}
		put := func(audience id.UserID, positions ...storage.Pos) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				for _, pos := range positions {
					require.NoError(t, tx.PutDeviceChange(storage.DeviceChange{User: alice, Pos: pos, Audience: audience}, devices...))
				}
				return nil
			})
		}
		of := func(from, to storage.Pos) []storage.DeviceChange {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.DeviceChange, error) { return tx.DeviceChangesOf(alice, from, to) })
			require.NoError(t, err)
			return list
		}
		positions := func(from storage.Pos) (list []storage.Pos) {
			for pos := range storage.Pos(25) {
				list = append(list, from+pos)
			}
			return list
		}
		put("", 1)
		put(bob, positions(2)...)
		require.Len(t, of(0, 1), 101)
		require.Empty(t, of(1, 25))
		require.Len(t, of(25, 26), 101)
		put("", positions(101)...)
		require.Len(t, of(25, 26), 101)
		require.Empty(t, of(0, 1))
		require.Empty(t, of(100, 105))
		require.Len(t, of(105, 125), 20*101)
	})
}

func TestBackups(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		b := storage.Backup{User: alice, Version: 1, Algorithm: "a\x00", AuthData: []byte("{}"), Etag: 1, Count: 2}
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			second := b
			second.Version, second.Deleted = 2, true
			require.NoError(t, tx.PutBackup(second))
			require.NoError(t, tx.PutBackup(b))
			b.Etag, b.AuthData = 7, []byte(`"x"`)
			return tx.PutBackup(b)
		})
		current, err := ask(t, db, func(tx *storage.Tx) (storage.Backup, error) { return tx.CurrentBackup(alice) })
		require.NoError(t, err)
		require.Equal(t, b, current)
		_, err = ask(t, db, func(tx *storage.Tx) (storage.Backup, error) { return tx.CurrentBackup(bob) })
		require.ErrorIs(t, err, storage.ErrNotFound)
		n, err := ask(t, db, func(tx *storage.Tx) (storage.Backups, error) { return tx.Backups(alice) })
		require.NoError(t, err)
		require.Equal(t, storage.Backups{Last: 2, N: 1}, n)
		n, err = ask(t, db, func(tx *storage.Tx) (storage.Backups, error) { return tx.Backups(bob) })
		require.NoError(t, err)
		require.Equal(t, storage.Backups{}, n)
	})
}

func TestBackupKeys(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(room id.RoomID, session string, verified bool, first, forwarded int64) (better bool) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) (err error) {
				better, err = tx.PutBackupKey(alice, 1, storage.BackupKey{
					Room: room, Session: session, Verified: verified, First: first, Forwarded: forwarded,
					Data: fmt.Appendf(nil, "%v %d %d", verified, first, forwarded),
				})
				return err
			})
			return better
		}
		require.True(t, put("!r:x", "s", false, 5, 5))
		require.False(t, put("!r:x", "s", false, 5, 5))
		require.False(t, put("!r:x", "s", false, 6, 0))
		require.True(t, put("!r:x", "s", false, 5, 4))
		require.True(t, put("!r:x", "s", false, 4, 9))
		require.True(t, put("!r:x", "s", true, 9, 9))
		require.False(t, put("!r:x", "s", false, 0, 0))
		require.True(t, put("!q:x", "s", false, 1, 1))
		require.True(t, put("!r:x", "t", false, 1, 1))

		type reader = func(*storage.Tx, id.UserID, int64, id.RoomID, string, int) ([]storage.BackupKey, error)
		keys := func(read reader, room id.RoomID, session string, limit int) string {
			var text bytes.Buffer
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.BackupKey, error) { return read(tx, alice, 1, room, session, limit) })
			require.NoError(t, err)
			for _, k := range list {
				fmt.Fprintf(&text, "%s %s %s,", k.Room, k.Session, k.Data)
			}
			return text.String()
		}
		all, ofRoom := (*storage.Tx).BackupKeys, (*storage.Tx).BackupKeysOfRoom
		require.Equal(t, "!q:x s false 1 1,!r:x s true 9 9,!r:x t false 1 1,", keys(all, "", "", 9))
		require.Equal(t, "!q:x s false 1 1,!r:x s true 9 9,", keys(all, "", "", 2))
		require.Equal(t, "!r:x s true 9 9,!r:x t false 1 1,", keys(all, "!q:x", "s", 9))
		require.Equal(t, "!r:x t false 1 1,", keys(all, "!r:x", "s", 9))
		require.Equal(t, "!r:x s true 9 9,!r:x t false 1 1,", keys(ofRoom, "!r:x", "", 9))
		require.Equal(t, "!r:x t false 1 1,", keys(ofRoom, "!r:x", "s", 9))
		require.Equal(t, "!q:x s false 1 1,", keys(ofRoom, "!q:x", "", 1))
		key, err := ask(t, db, func(tx *storage.Tx) (storage.BackupKey, error) { return tx.BackupKey(alice, 1, "!r:x", "t") })
		require.NoError(t, err)
		require.Equal(t, "false 1 1", string(key.Data))
		_, err = ask(t, db, func(tx *storage.Tx) (storage.BackupKey, error) { return tx.BackupKey(alice, 1, "!q:x", "t") })
		require.ErrorIs(t, err, storage.ErrNotFound)
		here, err := ask(t, db, func(tx *storage.Tx) ([]string, error) { return tx.BackedUp(alice, 1, "!r:x", []string{"t", "u"}) })
		require.NoError(t, err)
		require.Equal(t, []string{"t"}, here)

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			n, err := tx.DeleteBackupKeys(alice, 1, "!r:x", "t")
			require.EqualValues(t, 1, n)
			return err
		})
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			n, err := tx.DeleteBackupKeys(alice, 1, "", "")
			require.EqualValues(t, 2, n)
			return err
		})
	})
}

// TestDeleteKeysOf: nothing of a user is left, and nothing of others goes but signatures by the user.
func TestDeleteKeysOf(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for _, user := range []id.UserID{alice, bob} {
				require.NoError(t, tx.PutDeviceKeys(storage.DeviceKeys{User: user, Device: "D", Keys: []byte("{}")}))
				require.NoError(t, tx.InsertOneTimeKey(user, "D", oneTime("a", "1", 1)))
				require.NoError(t, tx.PutSpentKey(user, "D", oneTime("a", "0", 0)))
				require.NoError(t, tx.PutFallbackKey(user, "D", storage.FallbackKey{Algorithm: "a", Key: []byte("k")}))
				require.NoError(t, tx.PutCrossSigningKey(storage.CrossSigningKey{User: user, Usage: "master", Key: []byte("{}")}))
				require.NoError(t, tx.PutBackup(storage.Backup{User: user, Version: 1, AuthData: []byte("{}")}))
				_, err := tx.PutBackupKey(user, 1, storage.BackupKey{Room: "!r:x", Session: "s", Data: []byte("{}")})
				require.NoError(t, err)
			}
			for _, s := range []storage.KeySignature{{User: alice, Signer: bob}, {User: bob, Signer: alice}, {User: bob, Signer: bob}} {
				_, err := tx.PutKeySignature(s)
				require.NoError(t, err)
			}
			return tx.DeleteKeysOf(alice)
		})
		for _, table := range []string{
			"mx_device_keys", "mx_one_time_keys", "mx_spent_keys", "mx_fallback_keys", "mx_cross_signing_keys",
			"mx_key_signatures", "mx_backups", "mx_backup_keys",
		} {
			require.Equal(t, []string{string(bob)}, stored(t, db, "SELECT user_id FROM "+table), table)
		}
	})
}

// What Tx.Then adds is called once, after the commit, and not at all when the act is refused. What Tx.Doubt adds is called
// when nobody knows.
func TestThen(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, faulty *storagetest.Faulty) {
		var log []string
		do := func(fail error) error {
			return db.Write(context.Background(), func(tx *storage.Tx, pos storage.Pos) error {
				tx.Then(func(at storage.Pos) {
					require.Equal(t, pos, at)
					require.Less(t, db.Published(), at)
					log = append(log, "committed")
				}, func(at storage.Pos) {
					require.GreaterOrEqual(t, db.Published(), at)
					log = append(log, "announced")
				})
				tx.Then(nil, nil)
				tx.Doubt(func(at storage.Pos) {
					require.Equal(t, pos, at)
					log = append(log, "doubted")
				})
				return fail
			})
		}
		require.NoError(t, do(nil))
		require.Equal(t, []string{"committed", "announced"}, log)
		require.ErrorIs(t, do(storage.ErrNotFound), storage.ErrNotFound)
		require.Len(t, log, 2)
		faulty.Fail(func(c storagetest.Call) error {
			if c.Op == storagetest.Committed || c.Op == storagetest.Begin && c.N == 2 {
				return storagetest.ErrFault
			}
			return nil
		})
		require.ErrorIs(t, do(nil), storage.ErrAway)
		faulty.Fail(nil)
		require.Equal(t, []string{"committed", "announced", "doubted"}, log)
	})
}
