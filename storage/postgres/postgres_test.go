package postgres_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/postgres"
	"github.com/embedmatrix/homeserver/storage/postgres/postgrestest"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// TestMain runs the tests where a server is named, and as a second process the one function it is asked for.
func TestMain(m *testing.M) {
	if url := os.Getenv("SECOND_PROCESS"); url != "" {
		os.Exit(secondProcess(url))
	}
	if !postgrestest.Available() {
		println("no tests of PostgreSQL:", postgrestest.Variable, "names no server")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestEngine(t *testing.T) { storagetest.Run(t, postgrestest.New) }

func TestEngineOnHostsPool(t *testing.T) {
	storagetest.Run(t, func(tb testing.TB) storage.Engine {
		db, err := sql.Open("pgx", postgrestest.URL(tb))
		require.NoError(tb, err)
		db.SetMaxOpenConns(6)
		tb.Cleanup(func() { require.NoError(tb, db.Close()) })
		return postgres.New(db)
	})
}

func TestSecondProcessIsRefused(t *testing.T) {
	url := postgrestest.URL(t)
	db := open(t, url)
	out, err := second(t, url)
	require.Error(t, err, "a second process beside this one")
	require.Contains(t, out, "another process uses this database")
	require.NoError(t, db.Close())
	out, err = second(t, url)
	require.NoError(t, err, "a process after this one: %s", out)
}

// TestLockIsAwaited: a server that notices late that a process was killed does not keep the next one out.
func TestLockIsAwaited(t *testing.T) {
	url := postgrestest.URL(t)
	engine, err := postgres.Open(url)
	require.NoError(t, err)
	defer engine.Close()
	release, err := engine.(storage.Locker).Lock(context.Background())
	require.NoError(t, err)
	time.AfterFunc(300*time.Millisecond, func() { release() }) //nolint:errcheck // seen below
	out, err := second(t, url)
	require.NoError(t, err, "a process after this one: %s", out)
}

// TestLastCommitIsAwaited: what the database still completes of a killed process is known to the next one.
func TestLastCommitIsAwaited(t *testing.T) {
	url := postgrestest.URL(t)
	require.NoError(t, open(t, url).Close())
	pool, err := sql.Open("pgx", url)
	require.NoError(t, err)
	defer pool.Close()
	last, err := pool.Begin()
	require.NoError(t, err)
	_, err = last.Exec("UPDATE mx_position SET pos = pos + 5, batch = batch + 1")
	require.NoError(t, err)
	time.AfterFunc(300*time.Millisecond, func() { last.Commit() }) //nolint:errcheck // seen below

	db := open(t, url)
	require.NoError(t, db.Write(context.Background(), func(*storage.Tx, storage.Pos) error { return nil }))
	require.NoError(t, db.Close())
}

func second(t *testing.T, url string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SECOND_PROCESS="+url)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func secondProcess(url string) int {
	e, err := postgres.Open(url)
	if err == nil {
		var db *storage.DB
		if db, err = storage.Open(context.Background(), e); err == nil {
			err = db.Close()
		}
	}
	if err != nil {
		println(err.Error())
		return 1
	}
	return 0
}

func open(t *testing.T, url string) *storage.DB {
	t.Helper()
	e, err := postgres.Open(url)
	require.NoError(t, err)
	db, err := storage.Open(context.Background(), e)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// TestLostLock: a process whose lock was lost is refused once another one has written.
func TestLostLock(t *testing.T) {
	ctx := context.Background()
	url := postgrestest.URL(t)
	nothing := func(*storage.Tx, storage.Pos) error { return nil }
	old := open(t, url)
	require.NoError(t, old.Write(ctx, nothing))
	server, err := sql.Open("pgx", url)
	require.NoError(t, err)
	defer server.Close()
	_, err = server.Exec(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND ((classid::bigint << 32) | objid::bigint) = hashtextextended('github.com/embedmatrix/homeserver mx_ ' || current_schema(), 0)`)
	require.NoError(t, err)
	var other *storage.DB
	require.Eventually(t, func() bool {
		e, err := postgres.Open(url)
		require.NoError(t, err)
		other, err = storage.Open(ctx, e)
		return err == nil
	}, patience, patience/100, "the lock is free once its connection has ended")
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	require.NoError(t, old.Write(ctx, nothing), "before another process has written")
	require.ErrorIs(t, other.Write(ctx, nothing), storage.ErrTaken, "the later process has read the counters before that")
}

// patience is how long a test waits for the server.
const patience = 5 * time.Second

// TestServerRestarts: when all connections were lost, nobody notices who was not in a transaction.
func TestServerRestarts(t *testing.T) {
	ctx := context.Background()
	url := postgrestest.URL(t)
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	config.RuntimeParams["application_name"] = "restarts_" + rand.Text()
	pool := stdlib.OpenDB(*config, stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return false }))
	defer pool.Close()
	pool.SetMaxIdleConns(10)
	db, err := storage.Open(ctx, postgres.New(pool))
	require.NoError(t, err)
	nothing := func(*storage.Tx, storage.Pos) error { return nil }
	readThem(t, db, 5) // so that there are several connections
	require.NoError(t, db.Write(ctx, nothing))
	require.Greater(t, pool.Stats().Idle, 4, "connections that will be lost")
	server, err := sql.Open("pgx", url)
	require.NoError(t, err)
	defer server.Close()
	_, err = server.Exec(`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1`, config.RuntimeParams["application_name"])
	require.NoError(t, err)
	require.NoError(t, db.Write(ctx, nothing))
	require.NoError(t, db.Read(ctx, func(*storage.Tx) error { return nil }))
	require.NoError(t, db.Close())
}

// readThem opens n snapshots at a time.
func readThem(t *testing.T, db *storage.DB, n int) {
	t.Helper()
	var begun, ended sync.WaitGroup
	begun.Add(n)
	for range n {
		ended.Go(func() {
			err := db.Read(context.Background(), func(*storage.Tx) error {
				begun.Done()
				begun.Wait()
				return nil
			})
			assert.NoError(t, err)
		})
	}
	ended.Wait()
}

func TestSettings(t *testing.T) {
	tests := []struct{ name, setting, want string }{
		{"answers before the disk", "synchronous_commit=off", "synchronous_commit"},
		{"another encoding", "client_encoding=LATIN1", "client_encoding"},
		{"backslashes", "standard_conforming_strings=off", "standard_conforming_strings"},
		{"read only", "default_transaction_read_only=on", "transaction_read_only"},
		{"no schema", "search_path=nowhere", "search_path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := url.Parse(postgrestest.URL(t))
			require.NoError(t, err)
			q := u.Query()
			name, value, _ := strings.Cut(tt.setting, "=")
			q.Set(name, value)
			u.RawQuery = q.Encode()
			e, err := postgres.Open(u.String())
			require.NoError(t, err)
			_, err = storage.Open(context.Background(), e)
			require.ErrorContains(t, err, tt.want)
			require.NoError(t, e.Close())
		})
	}
}

func TestSmallPool(t *testing.T) {
	db, err := sql.Open("pgx", postgrestest.URL(t))
	require.NoError(t, err)
	defer db.Close()
	db.SetMaxOpenConns(2)
	_, err = storage.Open(context.Background(), postgres.New(db))
	require.ErrorContains(t, err, "at least 3")
}

func TestWrongURL(t *testing.T) {
	_, err := postgres.Open("postgres://user:secret@host:notaport/db")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}
