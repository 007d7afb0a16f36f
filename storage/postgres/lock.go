package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Lock checks the settings of the server, then keeps a second process, and a second use of the engine, off
// the schema by an advisory lock. The server drops it when the connection ends; a lock that is taken is asked
// for again for lockPatience, for the server may notice late that a process was killed. Should it be lost while
// this process lives, another one may take the lock; the batches of this one are refused from then on
// (storage.ErrTaken).
func (e *engine) Lock(ctx context.Context) (func() error, error) {
	if most := e.db.Stats().MaxOpenConnections; most > 0 && most < minConnections {
		return nil, fmt.Errorf("postgres: the pool allows %d connections, at least %d are needed", most, minConnections)
	}
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := check(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := take(ctx, conn); err != nil {
		discard(conn)
		return nil, err
	}
	return func() error { release(conn); return nil }, nil
}

// lockKey is the same for every engine on a schema of a database. Advisory locks belong to the database.
const lockKey = `hashtextextended('github.com/embedmatrix/homeserver mx_ ' || current_schema(), 0)`

const selectLock = `SELECT pg_try_advisory_lock(` + lockKey + `)`

// keepIdle lets the connection that holds the lock be idle for ever; PostgreSQL 13 has no such limit.
const keepIdle = `
	SELECT set_config('idle_session_timeout', '0', false)
	WHERE current_setting('idle_session_timeout', true) IS NOT NULL`

// How long, and how often, a lock is asked for that somebody holds.
const (
	lockPatience = 3 * time.Second
	lockPause    = 50 * time.Millisecond
)

func take(ctx context.Context, conn *sql.Conn) error {
	for deadline := time.Now().Add(lockPatience); ; {
		var got bool
		if err := conn.QueryRowContext(ctx, selectLock).Scan(&got); err != nil {
			return fmt.Errorf("postgres: lock: %w", err)
		}
		if got {
			break
		}
		if time.Now().After(deadline) {
			return errors.New("postgres: another process uses this database")
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return fmt.Errorf("postgres: lock: %w", ctx.Err())
		}
	}
	_, err := conn.ExecContext(ctx, keepIdle)
	return err
}

const selectUnlock = `SELECT pg_advisory_unlock(` + lockKey + `)`

// release gives the lock back, which a connection that was lost has done already. The connection ends, as
// its settings were changed.
func release(conn *sql.Conn) {
	conn.ExecContext(context.Background(), selectUnlock) //nolint:errcheck // see above
	discard(conn)
}

// discard ends a connection instead of giving it back to the pool.
func discard(conn *sql.Conn) {
	conn.Raw(func(any) error { return driver.ErrBadConn }) //nolint:errcheck // is the one that was given
}

// setting is a setting of the server that the engine depends on.
type setting struct {
	name string
	good func(value string) bool
	want string
}

var settings = []setting{
	{"server_encoding", is("UTF8"), "must be UTF8: create the database with ENCODING 'UTF8'"},
	{"client_encoding", is("UTF8"), "must be UTF8"},
	{"standard_conforming_strings", is("on"), "must be on"},
	{"synchronous_commit", isNot("off"), "must not be off: what was answered has to be on disk"},
	{"fsync", is("on"), "must be on: what was answered has to be on disk"},
	{"transaction_read_only", is("off"), "must be off: this server is a standby, or default_transaction_read_only is set"},
}

func is(want string) func(string) bool   { return func(v string) bool { return v == want } }
func isNot(bad string) func(string) bool { return func(v string) bool { return v != bad } }

// minVersion is the oldest server that is tested against, as server_version_num.
const minVersion = 130000

// check refuses a server whose settings break what is promised, in words for who runs it.
func check(ctx context.Context, conn *sql.Conn) error {
	var version int
	if err := conn.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return fmt.Errorf("postgres: read the settings: %w", err)
	}
	var faults []string
	if version < minVersion {
		faults = append(faults, fmt.Sprintf("the server is version %d, at least %d is needed", version/10000, minVersion/10000))
	}
	for _, s := range settings {
		var value string
		if err := conn.QueryRowContext(ctx, "SELECT current_setting($1)", s.name).Scan(&value); err != nil {
			return fmt.Errorf("postgres: read the setting %s: %w", s.name, err)
		}
		if !s.good(value) {
			faults = append(faults, fmt.Sprintf("%s is %q, it %s", s.name, value, s.want))
		}
	}
	var schema sql.NullString
	if err := conn.QueryRowContext(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return fmt.Errorf("postgres: read the search_path: %w", err)
	}
	if !schema.Valid {
		faults = append(faults, "no schema of the search_path exists")
	}
	if len(faults) > 0 {
		return errors.New("postgres: this server cannot be used: " + strings.Join(faults, "; "))
	}
	return nil
}
