package storage_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// engines make a new database of each kind.
var engines = map[string]func(testing.TB) storage.Engine{
	"sqlite": func(tb testing.TB) storage.Engine {
		e, err := sqlite.Open(filepath.Join(tb.TempDir(), "test.db"))
		require.NoError(tb, err)
		return e
	},
	"memory": func(testing.TB) storage.Engine { return sqlite.Memory() },
}

// open opens a database until the test ends.
func open(tb testing.TB, e storage.Engine) *storage.DB {
	tb.Helper()
	db, err := storage.Open(context.Background(), e)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	return db
}
