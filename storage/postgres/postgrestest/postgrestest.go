// Package postgrestest gives tests databases of a PostgreSQL server.
package postgrestest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/postgres"
)

// Variable names the server that tests may use, as a URL: postgres://user:password@host:port/database.
const Variable = "HOMESERVER_TEST_POSTGRES"

// Available says whether there is a server.
func Available() bool { return os.Getenv(Variable) != "" }

// New returns an engine on a new schema, which is dropped when the test ends.
func New(tb testing.TB) storage.Engine {
	tb.Helper()
	e, err := postgres.Open(URL(tb))
	require.NoError(tb, err)
	return e
}

// URL makes a schema, which is dropped when the test ends, and returns the URL by which it is the current one.
func URL(tb testing.TB) string {
	tb.Helper()
	server := os.Getenv(Variable)
	require.NotEmpty(tb, server, "%s names no server", Variable)
	schema := "test_" + strings.ToLower(rand.Text())
	run(tb, server, `CREATE SCHEMA `+schema)
	tb.Cleanup(func() { run(tb, server, `DROP SCHEMA `+schema+` CASCADE`) })
	u, err := url.Parse(server)
	require.NoError(tb, err)
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

func run(tb testing.TB, server, query string) {
	tb.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, server)
	require.NoError(tb, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, query)
	require.NoError(tb, err)
}
