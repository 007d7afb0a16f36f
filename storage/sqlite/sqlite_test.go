package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

func TestFile(t *testing.T) {
	storagetest.Run(t, func(tb testing.TB) storage.Engine {
		e, err := sqlite.Open(filepath.Join(tb.TempDir(), "a b?c#d%20é.db"))
		require.NoError(tb, err)
		return e
	})
}

func TestMemory(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storage.Engine { return sqlite.Memory() })
}

func TestSnapshot(t *testing.T) {
	storagetest.Run(t, func(tb testing.TB) storage.Engine {
		e, err := sqlite.Open(filepath.Join(tb.TempDir(), "test.db"))
		require.NoError(tb, err)
		db := open(tb, e)
		copied, err := db.Snapshot(context.Background())
		require.NoError(tb, err)
		return copied
	})
}

// open opens a database until the test ends.
func open(tb testing.TB, e storage.Engine) *storage.DB {
	tb.Helper()
	db, err := storage.Open(context.Background(), e)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	return db
}

func openFile(tb testing.TB, path string) *storage.DB {
	tb.Helper()
	e, err := sqlite.Open(path)
	require.NoError(tb, err)
	return open(tb, e)
}

// note writes an event that is named by a number.
func note(db *storage.DB, n int, size int) error {
	a := &storage.Act{Positions: 1}
	a.Place = func(a *storage.Act, pos storage.Pos) {
		e := storage.Event{Pos: pos, ID: id.EventID(fmt.Sprint("$", n)), Ord: pos, Flags: storage.InTimeline, JSON: make([]byte, size)}
		a.Add(storage.InsertEvent, e.Row()...)
	}
	db.Queue(a)
	return a.Wait(context.Background())
}

// noted says whether a note is stored, at a published position.
func noted(tb testing.TB, db *storage.DB, n int) bool {
	tb.Helper()
	e, err := eventOf(db, n)
	if err != nil {
		require.ErrorIs(tb, err, storage.ErrNotFound)
		return false
	}
	require.LessOrEqual(tb, e.Pos, db.Published())
	return true
}

func eventOf(db *storage.DB, n int) (e storage.Event, err error) {
	err = db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		e, err = tx.EventByID(id.EventID(fmt.Sprint("$", n)))
		return err
	})
	return e, err
}

func TestPaths(t *testing.T) {
	for _, path := range []string{"", ":memory:", filepath.Join(t.TempDir(), "no", "folder")} {
		_, err := sqlite.Open(path)
		require.Error(t, err, "path %q", path)
	}
	dir := t.TempDir()
	db := openFile(t, filepath.Join(dir, "real.db"))
	require.NoError(t, os.Symlink("real.db", filepath.Join(dir, "link.db")))
	for _, name := range []string{"real.db", "link.db"} {
		e, err := sqlite.Open(filepath.Join(dir, name))
		require.NoError(t, err)
		_, err = storage.Open(context.Background(), e)
		require.ErrorContains(t, err, "another process uses this database", name)
		require.NoError(t, e.Close())
	}
	require.NoError(t, note(db, 1, 10))
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Len(t, files, 5, "files beside the database: %s", files)
	for _, f := range files {
		info, err := os.Stat(f)
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, "%s may be read by others: %s", f, info.Mode())
	}
}

func TestMemoryIsUsedOnce(t *testing.T) {
	e := sqlite.Memory()
	open(t, e)
	_, err := storage.Open(context.Background(), e)
	require.ErrorContains(t, err, "in use")
}

func TestNotADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "letter.txt")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("Dear database, ", 100)), 0o600))
	e, err := sqlite.Open(path)
	require.NoError(t, err)
	_, err = storage.Open(context.Background(), e)
	require.ErrorContains(t, err, "not a database")
	require.NoError(t, e.Close())
}

// TestForeignWriter: somebody else's open transaction holds a write up; it goes on when that ends.
func TestForeignWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db := openFile(t, path)
	other, err := sql.Open("sqlite", path+"?_txlock=immediate")
	require.NoError(t, err)
	defer other.Close()
	tx, err := other.Begin()
	require.NoError(t, err)
	written := make(chan error, 1)
	go func() { written <- note(db, 1, 10) }()
	time.Sleep(20 * time.Millisecond)
	require.Empty(t, written, "a write beside a foreign one")
	require.NoError(t, tx.Rollback())
	require.NoError(t, <-written)
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	db := openFile(t, filepath.Join(dir, "test.db"))
	require.NoError(t, note(db, 1, 10))
	backup := filepath.Join(dir, "backup.db")
	require.NoError(t, db.Backup(context.Background(), backup))
	require.NoError(t, note(db, 2, 10))
	require.ErrorIs(t, db.Backup(context.Background(), backup), os.ErrExist)
	copied := openFile(t, backup)
	require.True(t, noted(t, copied, 1), "what was written before the backup")
	require.False(t, noted(t, copied, 2), "what was written after the backup")
	require.NoError(t, note(copied, 3, 10))
	require.False(t, noted(t, db, 3), "what was written into the backup")
}

func TestSnapshotHasALifeOfItsOwn(t *testing.T) {
	for name, e := range map[string]func() storage.Engine{
		"memory": sqlite.Memory,
		"file": func() storage.Engine {
			e, err := sqlite.Open(filepath.Join(t.TempDir(), "test.db"))
			require.NoError(t, err)
			return e
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, e())
			require.NoError(t, note(db, 1, 100_000))
			image, err := db.Snapshot(context.Background())
			require.NoError(t, err)
			require.NoError(t, note(db, 2, 10))
			fork := open(t, image)
			require.True(t, noted(t, fork, 1))
			require.False(t, noted(t, fork, 2))
			require.Equal(t, db.Published()-1, fork.Published())
			require.NoError(t, note(fork, 3, 10))
			require.False(t, noted(t, db, 3))
		})
	}
}

// TestBubble: a database lives inside a synctest bubble, where time stands still while it works.
func TestBubble(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	for name, e := range map[string]func() (storage.Engine, error){
		"memory": func() (storage.Engine, error) { return sqlite.Memory(), nil },
		"file":   func() (storage.Engine, error) { return sqlite.Open(path) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				engine, err := e()
				require.NoError(t, err)
				db := open(t, engine)
				for i := range 20 {
					go func() { require.NoError(t, note(db, i, 10)) }()
				}
				synctest.Wait()
				for i := range 20 {
					require.True(t, noted(t, db, i))
				}
				require.Equal(t, start, time.Now())

				// Whoever waits for a transaction lets the time go on.
				held := make(chan struct{})
				go db.Write(context.Background(), func(*storage.Tx, storage.Pos) error { <-held; return nil })
				go note(db, 100, 10)
				time.Sleep(time.Hour)
				close(held)
			})
		})
	}
}
