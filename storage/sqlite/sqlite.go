// Package sqlite is the storage engine for SQLite, by the driver modernc.org/sqlite: pure Go, no cgo.
//
// Importing it links that driver, which registers itself with database/sql under the name "sqlite"; a
// program that links another driver of that name panics at start, so import one of them only.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // registers the driver

	"github.com/embedmatrix/homeserver/storage"
)

// readers is how many snapshots may be open at once on a file; more wait for each other.
const readers = 8

// maxStatements bounds the prepared statements of a connection.
const maxStatements = 512

// Open returns an engine on the file at path, which is made when it is missing, in WAL mode with
// synchronous=FULL: a commit that returned survives a power cut. Beside the file SQLite keeps path-wal and
// path-shm, and the engine path-lock, by which a second process is refused. Nothing is read or written
// before the first use.
func Open(path string) (storage.Engine, error) {
	if path == "" {
		return nil, errors.New("sqlite: the path is empty")
	}
	dsn := fileURL(path, "busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-4000)",
		"wal_autocheckpoint(2000)", "temp_store(MEMORY)")
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxIdleConns(readers + 1)
	e := &engine{db: db, lockPath: path + "-lock", write: newPool(db, 1)}
	e.read = newPool(db, readers)
	return e, nil
}

// Memory returns an engine on a database in memory that is gone after Close. It has one connection:
// transactions wait for each other.
func Memory() storage.Engine {
	db, err := sql.Open("sqlite", ":memory:?_pragma=journal_mode(MEMORY)&_pragma=synchronous(OFF)&_pragma=temp_store(MEMORY)")
	if err != nil {
		panic(fmt.Sprintf("sqlite: open a database in memory: %v", err)) // the driver only parses its constant name
	}
	db.SetMaxOpenConns(1)
	pool := newPool(db, 1)
	return &engine{db: db, read: pool, write: pool}
}

func fileURL(path string, pragmas ...string) string {
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: url.Values{"_pragma": pragmas}.Encode()}).String()
}

type engine struct {
	db          *sql.DB
	lockPath    string // empty in memory
	read, write *pool
}

func (e *engine) Dialect() storage.Dialect { return storage.SQLite }

// Begin takes a connection and begins a transaction on it.
func (e *engine) Begin(ctx context.Context, readOnly bool) (storage.Conn, error) {
	pool, begin := e.write, "BEGIN IMMEDIATE"
	if readOnly {
		pool, begin = e.read, "BEGIN"
	}
	c, err := pool.take(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.ExecContext(context.Background(), begin); err != nil {
		pool.free <- c
		return nil, err
	}
	return &transaction{conn: c, pool: pool}, nil
}

// Close closes every connection that is not in use.
func (e *engine) Close() error {
	errs := []error{e.read.close()}
	if e.write != e.read {
		errs = append(errs, e.write.close())
	}
	return errors.Join(append(errs, e.db.Close())...)
}

// Lock keeps a second process off the file by an exclusive transaction on a small file beside it.
// The operating system drops it when the process dies.
func (e *engine) Lock(ctx context.Context) (func() error, error) {
	if e.lockPath == "" {
		return func() error { return nil }, nil
	}
	db, err := sql.Open("sqlite", fileURL(e.lockPath, "busy_timeout(0)", "locking_mode(EXCLUSIVE)"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err == nil {
		_, err = conn.ExecContext(ctx, "BEGIN EXCLUSIVE")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("another process uses this database (%s): %w", e.lockPath, err), db.Close())
	}
	return func() error { return errors.Join(conn.Close(), db.Close()) }, nil
}

// pool holds connections that are opened when they are first needed; a nil in free is one not yet opened.
type pool struct {
	db   *sql.DB
	free chan *connection
	size int
}

func newPool(db *sql.DB, size int) *pool {
	p := &pool{db: db, free: make(chan *connection, size), size: size}
	for range size {
		p.free <- nil
	}
	return p
}

func (p *pool) take(ctx context.Context) (*connection, error) {
	select {
	case c := <-p.free:
		return p.opened(ctx, c)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pool) opened(ctx context.Context, c *connection) (*connection, error) {
	if c != nil {
		return c, nil
	}
	conn, err := p.db.Conn(ctx)
	if err != nil {
		p.free <- nil
		return nil, err
	}
	return &connection{conn: conn, statements: map[string]*sql.Stmt{}}, nil
}

func (p *pool) close() error {
	var errs []error
	for range p.size {
		if c := <-p.free; c != nil {
			errs = append(errs, c.close())
		}
	}
	return errors.Join(errs...)
}

// connection is a connection with its prepared statements.
type connection struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt
}

func (c *connection) prepared(query string) (*sql.Stmt, error) {
	if s, ok := c.statements[query]; ok {
		return s, nil
	}
	if len(c.statements) >= maxStatements {
		c.forget()
	}
	s, err := c.conn.PrepareContext(context.Background(), query)
	if err == nil {
		c.statements[query] = s
	}
	return s, err
}

func (c *connection) forget() {
	for _, s := range c.statements {
		s.Close()
	}
	clear(c.statements)
}

func (c *connection) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	s, err := c.prepared(query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, args...)
}

func (c *connection) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := c.prepared(query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}

func (c *connection) close() error {
	c.forget()
	return c.conn.Close()
}

// transaction is an open transaction; it gives its connection back when it ends.
type transaction struct {
	conn *connection
	pool *pool
	done bool
}

func (t *transaction) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.conn.ExecContext(ctx, query, args...)
}

func (t *transaction) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.conn.QueryContext(ctx, query, args...)
}

// Commit ends the transaction. After an error it is still open, for Rollback.
func (t *transaction) Commit() error {
	if t.done {
		return sql.ErrTxDone
	}
	if _, err := t.conn.ExecContext(context.Background(), "COMMIT"); err != nil {
		return err
	}
	t.end()
	return nil
}

func (t *transaction) Rollback() error {
	if t.done {
		return sql.ErrTxDone
	}
	_, err := t.conn.ExecContext(context.Background(), "ROLLBACK")
	t.end()
	return err
}

func (t *transaction) end() {
	t.done = true
	t.pool.free <- t.conn
}
