// Package storage is everything a homeserver remembers: one schema, one set of queries, any SQL engine
// of the two dialects.
//
// The library owns schema, migrations and queries; an Engine only says how to begin a transaction. Reads
// run in snapshots (DB.Read); writes are acts that one batcher puts into shared transactions (DB.Write,
// DB.Queue), so that concurrent writers share one commit and one fsync.
package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
)

// Dialect is the SQL that an engine speaks.
type Dialect int

// The dialects that the queries of this package are written for.
const (
	SQLite Dialect = iota + 1
	PostgreSQL
)

// Conn is a transaction; *sql.Tx satisfies it. It is used by one goroutine at a time and ends with
// Commit or Rollback. Rollback after Commit does nothing but return an error.
type Conn interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	Commit() error
	Rollback() error
}

// Engine is a database: where the rows live. SQLite files, PostgreSQL and a host's own *sql.DB are engines.
// storagetest.Run checks an implementation.
//
// Begin(ctx, false) begins a transaction that may write; at most one of them is open at a time. A commit
// that returned is durable; when Commit gives an error the caller calls Rollback. Begin(ctx, true) begins
// a snapshot, in which every query sees the same state: the one at its first query, with every commit that
// returned before Begin. It refuses to write. Any number may be open beside each other and beside the
// writer, or they wait for each other. ctx bounds the wait for a connection, not the transaction.
// An engine caches prepared statements by their text. Close waits for open transactions and ends all
// connections; it is called once, and Begin fails afterwards.
type Engine interface {
	Begin(ctx context.Context, readOnly bool) (Conn, error)
	Dialect() Dialect
	Close() error
}

// Locker is an Engine that can keep a second process off the same data. Open calls Lock once; an error
// refuses to start. The lock ends with release or with the process, however it dies.
type Locker interface {
	Lock(ctx context.Context) (release func() error, err error)
}

// Snapshotter is an Engine that can be copied while it is in use. The copy holds every commit that
// returned before the call, and has a life of its own.
type Snapshotter interface {
	Snapshot(ctx context.Context) (Engine, error)
}

// Backuper is an Engine that can write a copy of itself into a new file while it is in use.
type Backuper interface {
	Backup(ctx context.Context, path string) error
}

// ErrNotFound is the answer of a query for one row when there is none.
var ErrNotFound = errors.New("storage: not found")

// Pos is a place in the one order of everything stored that a client can be told: the order of arrival.
// Zero is before everything.
type Pos = int64

// DB is an open database. Its methods may be called at once from any goroutine.
type DB struct {
	engine  Engine
	release func() error
	batch   *batcher

	closed   atomic.Bool
	nextNode atomic.Int64 // the last state node's id that was given out
	nextRoom atomic.Int64 // the last room's number that was given out
}

// Open locks the data against a second process, brings the schema up to date and starts the batcher.
// The engine belongs to the DB from then on, and to the caller again when Open fails.
func Open(ctx context.Context, engine Engine) (*DB, error) {
	release := func() error { return nil }
	if l, ok := engine.(Locker); ok {
		r, err := l.Lock(ctx)
		if err != nil {
			return nil, fmt.Errorf("lock the database: %w", err)
		}
		release = r
	}
	db := &DB{engine: engine, release: release}
	if err := db.start(ctx); err != nil {
		return nil, errors.Join(err, release())
	}
	return db, nil
}

func (db *DB) start(ctx context.Context) error {
	if err := migrate(ctx, db.engine); err != nil {
		return err
	}
	c, err := db.readCounters(ctx)
	if err != nil {
		return fmt.Errorf("read the counters: %w", err)
	}
	db.nextNode.Store(c.node)
	db.nextRoom.Store(c.room)
	db.batch = newBatcher(db.engine, c.pos, c.batch)
	return nil
}

const updateNothing = `UPDATE mx_position SET pos = pos`

// readCounters reads the counters behind every commit of a process before this one. That may have been killed
// while its last commit was on its way, and the database completes it: the row's lock awaits the end of that.
func (db *DB) readCounters(ctx context.Context) (c counters, err error) {
	conn, err := db.engine.Begin(ctx, false)
	if err != nil {
		return c, err
	}
	defer conn.Rollback() //nolint:errcheck // does nothing after Commit
	tx := &Tx{conn: conn, ctx: context.WithoutCancel(ctx), dialect: db.engine.Dialect()}
	if _, err := tx.exec(updateNothing); err != nil {
		return c, err
	}
	if c, err = tx.counters(); err != nil {
		return c, err
	}
	return c, conn.Commit()
}

// counters are the last numbers that were given out.
type counters struct{ pos, batch, node, room int64 }

const selectCounters = `
	SELECT pos, batch,
		(SELECT coalesce(max(node), 0) FROM mx_state_nodes),
		(SELECT coalesce(max(room), 0) FROM mx_rooms)
	FROM mx_position`

func (tx *Tx) counters() (counters, error) {
	return one(tx, func(row *sql.Rows, c *counters) error {
		return row.Scan(&c.pos, &c.batch, &c.node, &c.room)
	}, selectCounters)
}

// Close commits what is queued, ends the batcher, waits for the reads that have begun and closes the
// engine. What is written or read afterwards gives ErrClosed. A second Close does nothing.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return nil
	}
	db.batch.close()
	return errors.Join(db.engine.Close(), db.release())
}

// Snapshot copies the database into a new engine; see Snapshotter.
func (db *DB) Snapshot(ctx context.Context) (Engine, error) {
	s, ok := db.engine.(Snapshotter)
	if !ok {
		return nil, fmt.Errorf("storage: copy the database: %w", errors.ErrUnsupported)
	}
	return s.Snapshot(ctx)
}

// Backup writes the database into a new file; see Backuper.
func (db *DB) Backup(ctx context.Context, path string) error {
	b, ok := db.engine.(Backuper)
	if !ok {
		return fmt.Errorf("storage: back up to %s: %w", path, errors.ErrUnsupported)
	}
	return b.Backup(ctx, path)
}

// Dialect is the engine's.
func (db *DB) Dialect() Dialect { return db.engine.Dialect() }

// Published is the newest position that readers may be told: everything at or before it is committed.
func (db *DB) Published() Pos { return db.batch.published.Load() }

// NextNode gives out an id for a new state node; ids that are never written are lost, which harms nothing.
func (db *DB) NextNode() int64 { return db.nextNode.Add(1) }

// NextRoom gives out a number for a new room.
func (db *DB) NextRoom() int64 { return db.nextRoom.Add(1) }

// Read runs fn in a snapshot. It may see rows after Published, which fn leaves out by their position.
// Inside fn nothing may wait for a write or begin another Read: an engine may have one connection.
func (db *DB) Read(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if db.closed.Load() {
		return ErrClosed
	}
	conn, err := db.engine.Begin(ctx, true)
	if err != nil {
		return fmt.Errorf("begin a read: %w", err)
	}
	defer conn.Rollback() //nolint:errcheck // a snapshot has nothing to lose
	// A context that can be cancelled would cost the driver a goroutine a query.
	return fn(&Tx{conn: conn, ctx: context.WithoutCancel(ctx), dialect: db.engine.Dialect()})
}

// Tx is a transaction; its methods are the queries, one per question. It lives as long as the function
// that was given it and is not safe for use by several goroutines.
type Tx struct {
	conn    Conn
	ctx     context.Context
	dialect Dialect
	act     *Act // whose function runs now; nil in a read
}

// exec runs a statement and returns how many rows it touched.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	res, err := tx.conn.ExecContext(tx.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// collect runs a query and scans every row into a T.
func collect[T any](tx *Tx, scan func(*sql.Rows, *T) error, query string, args ...any) ([]T, error) {
	var list []T
	err := each(tx, func(rows *sql.Rows) error {
		var t T
		if err := scan(rows, &t); err != nil {
			return err
		}
		list = append(list, t)
		return nil
	}, query, args...)
	return list, err
}

// each runs a query and calls fn for every row.
func each(tx *Tx, fn func(*sql.Rows) error, query string, args ...any) error {
	rows, err := tx.conn.QueryContext(tx.ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// one runs a query for at most one row; none is ErrNotFound.
func one[T any](tx *Tx, scan func(*sql.Rows, *T) error, query string, args ...any) (T, error) {
	list, err := collect(tx, scan, query, args...)
	if err != nil || len(list) == 0 {
		var zero T
		return zero, errors.Join(err, notFound(err))
	}
	return list[0], nil
}

func notFound(err error) error {
	if err == nil {
		return ErrNotFound
	}
	return nil
}

// value scans a row of one column.
func value[T any](row *sql.Rows, t *T) error { return row.Scan(t) }

// list is a list parameter: `IN (SELECT value FROM json_each($1))`, with CAST(value AS BIGINT) for integers.
func list[T any](items []T) string {
	if len(items) == 0 {
		return "[]"
	}
	b, err := json.Marshal(items)
	if err != nil {
		panic(fmt.Sprintf("storage: a list of %T: %v", items, err)) // only integers and strings are ever listed
	}
	return string(b)
}
