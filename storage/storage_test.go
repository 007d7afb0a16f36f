package storage_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/postgres/postgrestest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// engines make a new database of each kind that there is.
func engines() map[string]func(testing.TB) storage.Engine {
	m := map[string]func(testing.TB) storage.Engine{
		"sqlite": func(tb testing.TB) storage.Engine { return file(tb, filepath.Join(tb.TempDir(), "test.db")) },
		"memory": func(testing.TB) storage.Engine { return sqlite.Memory() },
	}
	if postgrestest.Available() {
		m["postgres"] = postgrestest.New
	}
	return m
}

func file(tb testing.TB, path string) storage.Engine {
	tb.Helper()
	e, err := sqlite.Open(path)
	require.NoError(tb, err)
	return e
}

// everywhere runs a test on each kind of engine, made faulty on demand.
func everywhere(t *testing.T, test func(*testing.T, *storage.DB, *storagetest.Faulty)) {
	for name, engine := range engines() {
		t.Run(name, func(t *testing.T) {
			faulty := storagetest.NewFaulty(engine(t), nil)
			db := open(t, faulty)
			faulty.Fail(nil)
			test(t, db, faulty)
		})
	}
}

// open opens a database until the test ends.
func open(tb testing.TB, e storage.Engine) *storage.DB {
	tb.Helper()
	db, err := storage.Open(context.Background(), e)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	return db
}

// stored returns the values of a query of one column.
func stored(tb testing.TB, db *storage.DB, query string, args ...any) (list []string) {
	tb.Helper()
	err := db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		list, err = tx.Strings(query, args...)
		return err
	})
	require.NoError(tb, err, query)
	return list
}

func write(db *storage.DB, query string, args ...any) error {
	return db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error {
		_, err := tx.Exec(query, args...)
		return err
	})
}

func TestOpenNewer(t *testing.T) {
	for name, engine := range engines() {
		t.Run(name, func(t *testing.T) {
			e := unclosed{engine(t)}
			db := open(t, e)
			require.NoError(t, write(db, `INSERT INTO mx_schema (version) VALUES (9999)`))
			require.NoError(t, db.Close())
			_, err := storage.Open(context.Background(), e)
			require.ErrorIs(t, err, storage.ErrNewer)
			require.ErrorContains(t, err, "newer release")
			tx, err := e.Begin(context.Background(), true)
			require.NoError(t, err, "the engine is still its owner's")
			require.NoError(t, tx.Rollback())
			require.NoError(t, e.Engine.Close())
		})
	}
}

// unclosed is an engine that outlives its DB.
type unclosed struct{ storage.Engine }

func (unclosed) Close() error { return nil }

// TestOpenFails: wherever Open fails, nothing is left half done, and it can be tried again.
func TestOpenFails(t *testing.T) {
	for n := 1; ; n += 7 {
		faulty := storagetest.NewFaulty(file(t, filepath.Join(t.TempDir(), "test.db")), nil)
		faulty.FailNth(storagetest.Exec, n)
		db, err := storage.Open(context.Background(), faulty)
		if err == nil {
			require.Greater(t, n, 20, "statements of the migrations")
			require.NoError(t, db.Close())
			return
		}
		require.ErrorIs(t, err, storagetest.ErrFault)
		db, err = storage.Open(context.Background(), faulty)
		require.NoError(t, err, "Open again after statement %d failed", n)
		require.NoError(t, db.Close())
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db := open(t, file(t, path))
	require.NoError(t, write(db, `INSERT INTO mx_meta (name, value) VALUES ('a', $1)`, []byte("b")))
	pos := db.Published()
	require.NoError(t, db.Close())
	require.NoError(t, db.Close(), "a second Close")
	db = open(t, file(t, path))
	require.Equal(t, pos, db.Published())
	require.Equal(t, []string{"b"}, stored(t, db, `SELECT value FROM mx_meta WHERE name = 'a'`))
}

func TestReadEndsItsSnapshot(t *testing.T) {
	db := open(t, sqlite.Memory()) // its one connection would be missed
	failed := errors.New("no")
	require.ErrorIs(t, db.Read(context.Background(), func(*storage.Tx) error { return failed }), failed)
	require.Panics(t, func() { db.Read(context.Background(), func(*storage.Tx) error { panic("no") }) })
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, db.Read(ended, nil), context.Canceled)
	require.NoError(t, write(db, `UPDATE mx_position SET one = one`))
}

func TestUnsupported(t *testing.T) {
	db := open(t, unclosed{sqlite.Memory()})
	_, err := db.Snapshot(context.Background())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, db.Backup(context.Background(), "x"), errors.ErrUnsupported)
}

// TestFaulty: an engine that wraps another keeps the contract.
func TestFaulty(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storage.Engine { return storagetest.NewFaulty(sqlite.Memory(), nil) })
}
