package storage_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// act runs what is to be done in one write.
func act(t *testing.T, db *storage.DB, do func(tx *storage.Tx) error) {
	t.Helper()
	require.NoError(t, db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error { return do(tx) }))
}

// kept keeps bytes under a key and returns the key under which they are.
func kept(t *testing.T, db *storage.DB, key, bytes string) (file string) {
	t.Helper()
	act(t, db, func(tx *storage.Tx) (err error) {
		if err = tx.BeginFile(key); err != nil {
			return err
		}
		file, err = tx.FinishFile(storage.File{Key: key, SHA256: []byte(bytes), Size: int64(len(bytes))})
		return err
	})
	return file
}

// TestFiles: bytes are shared while they are whole, and never once they are to be deleted.
func TestFiles(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		require.Equal(t, "a", kept(t, db, "a", "same"))
		require.Equal(t, "a", kept(t, db, "b", "same"))
		require.Equal(t, "c", kept(t, db, "c", "small"))
		act(t, db, func(tx *storage.Tx) error {
			unfinished, err := tx.UnfinishedFiles()
			require.Equal(t, []string{"b"}, unfinished)
			return errors.Join(err,
				tx.InsertMedia(storage.Media{Server: "hs.test", ID: "1", Owner: "@a:hs.test", File: "a", Size: 4, Type: "t\x00", Name: "n", UsedMS: 5}),
				tx.InsertMedia(storage.Media{Server: "far.test", ID: "1", File: "a", Size: 4, UsedMS: 3}),
				tx.PutThumbnail(storage.Thumbnail{Of: "a", Width: 1, Height: 2, Crop: true, File: "c", Type: "image/png"}))
		})
		act(t, db, func(tx *storage.Tx) error {
			m, err := tx.Media("hs.test", "1")
			require.NoError(t, err)
			require.Equal(t, storage.Media{Server: "hs.test", ID: "1", Owner: "@a:hs.test", File: "a", Size: 4, Type: "t\x00", Name: "n", UsedMS: 5, SHA256: []byte("same")}, m)
			small, err := tx.Thumbnail("a", 1, 2, true, false)
			require.NoError(t, err)
			require.Equal(t, storage.Thumbnail{Of: "a", Width: 1, Height: 2, Crop: true, File: "c", Size: 5, Type: "image/png"}, small)
			for local, server := range map[bool]string{true: "hs.test", false: "far.test"} {
				old, err := tx.OldMedia(local, 10, 10)
				require.NoError(t, err)
				require.Len(t, old, 1)
				require.EqualValues(t, server, old[0].Server)
			}
			cached, err := tx.CachedMediaSize()
			require.EqualValues(t, 4, cached)
			return err
		})
		require.Error(t, db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error {
			return tx.InsertMedia(storage.Media{Server: "far.test", ID: "1"})
		}))
		release := func(server string) (dead []string) {
			act(t, db, func(tx *storage.Tx) (err error) {
				require.NoError(t, tx.DeleteMedia("hs.test", "1"))
				if server == "far.test" {
					require.NoError(t, tx.DeleteMedia("far.test", "1"))
				}
				dead, err = tx.ReleaseFile("a")
				return err
			})
			return dead
		}
		require.Empty(t, release("hs.test"), "another has the same bytes")
		require.ElementsMatch(t, []string{"a", "c"}, release("far.test"))
		require.Equal(t, "d", kept(t, db, "d", "same"), "those of a are about to go")
		act(t, db, func(tx *storage.Tx) error {
			require.ErrorIs(t, tx.PutThumbnail(storage.Thumbnail{Of: "a", Width: 1, Height: 1}), storage.ErrNotFound)
			dying, err := tx.DyingFiles()
			require.ElementsMatch(t, []string{"a", "b", "c"}, dying)
			require.NoError(t, errors.Join(tx.ForgetFile("a"), tx.ForgetFile("d")))
			left, err2 := tx.DyingFiles()
			require.ElementsMatch(t, []string{"b", "c"}, left)
			return errors.Join(err, err2)
		})
		require.Equal(t, "d", kept(t, db, "e", "same"), "what is whole is not forgotten")
	})
}

// TestMediaToBeUploaded: an mxc: URI without a file counts until its time is over, and is forgotten then.
func TestMediaToBeUploaded(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		kept(t, db, "a", "bytes")
		act(t, db, func(tx *storage.Tx) error {
			return errors.Join(
				tx.InsertMedia(storage.Media{Server: "hs.test", ID: "1", Owner: "@a:hs.test", ExpiresMS: 10}),
				tx.InsertMedia(storage.Media{Server: "hs.test", ID: "2", Owner: "@a:hs.test", ExpiresMS: 10}),
				tx.FillMedia(storage.Media{Server: "hs.test", ID: "1", File: "a", Size: 5, Type: "t"}))
		})
		act(t, db, func(tx *storage.Tx) error {
			pending, err := tx.PendingMedia("@a:hs.test", 9)
			require.Equal(t, 1, pending)
			late, err2 := tx.PendingMedia("@a:hs.test", 10)
			require.Zero(t, late)
			bytes, err3 := tx.UploadedBy("@a:hs.test")
			require.EqualValues(t, 5, bytes)
			require.NoError(t, errors.Join(err, err2, err3, tx.ForgetExpiredMedia(10)))
			_, err = tx.Media("hs.test", "2")
			require.ErrorIs(t, err, storage.ErrNotFound)
			require.NoError(t, tx.UseMedia("hs.test", "1", 7))
			known, err := tx.QuarantineMedia("hs.test", "1", true)
			require.True(t, known)
			m, err2 := tx.Media("hs.test", "1")
			require.True(t, m.Quarantined)
			require.EqualValues(t, 7, m.UsedMS)
			require.NoError(t, errors.Join(err, err2))
			old, err := tx.OldMedia(true, 100, 10)
			require.Empty(t, old, "what is quarantined stays")
			return err
		})
	})
}

// TestPreviewsKept: the newest of a page, until it is old.
func TestPreviewsKept(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		act(t, db, func(tx *storage.Tx) error {
			return errors.Join(
				tx.PutPreview([]byte("a"), storage.Preview{Answer: []byte("{}"), MadeMS: 1}, 0),
				tx.PutPreview([]byte("b"), storage.Preview{Answer: []byte{}, MadeMS: 2}, 0),
				tx.PutPreview([]byte("b"), storage.Preview{Answer: []byte("{}"), MadeMS: 3}, 2))
		})
		act(t, db, func(tx *storage.Tx) error {
			_, err := tx.Preview([]byte("a"))
			require.ErrorIs(t, err, storage.ErrNotFound)
			p, err := tx.Preview([]byte("b"))
			require.Equal(t, storage.Preview{Answer: []byte("{}"), MadeMS: 3}, p)
			return err
		})
	})
}
