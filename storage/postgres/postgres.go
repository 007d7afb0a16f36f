// Package postgres is the storage engine for PostgreSQL 13 or newer, by the driver github.com/jackc/pgx/v5.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/embedmatrix/homeserver/storage"
)

// connections is how many connections Open uses at most: the lock's, the writer's, and the rest for snapshots.
const connections = 16

// minConnections is the least that a host's pool must allow: the lock's, the writer's and a reader's.
const minConnections = 3

// Open returns an engine on the database at a URL or key-value string of libpq. Tables are made in the
// first schema of the search_path; every name begins with mx_, but for a function json_each(text).
// Nothing is read or written before the first use.
//
// The server must be reached directly or by a pooler in session mode: a lock and prepared statements
// belong to a connection.
func Open(url string) (storage.Engine, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err) // pgx leaves out the password
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return &engine{db: db, owned: true}, nil
}

// New returns an engine on a host's pool of connections to PostgreSQL, of any driver whose parameters are
// $1, $2 and so on. It should cache prepared statements by their text, as pgx does, and must allow at
// least three connections. The pool stays the host's: Close of the engine leaves it open.
func New(db *sql.DB) storage.Engine { return &engine{db: db} }

type engine struct {
	db    *sql.DB
	owned bool

	open   sync.RWMutex // held for reading by each open transaction; guards the following
	closed bool
}

func (e *engine) Dialect() storage.Dialect { return storage.PostgreSQL }

// Begin takes a connection and begins a transaction on it.
func (e *engine) Begin(ctx context.Context, readOnly bool) (storage.Conn, error) {
	e.open.RLock()
	t, err := e.begin(ctx, readOnly)
	if err != nil {
		e.open.RUnlock()
		return nil, err
	}
	return t, nil
}

func (e *engine) begin(ctx context.Context, readOnly bool) (*transaction, error) {
	if e.closed {
		return nil, storage.ErrClosed
	}
	options := sql.TxOptions{Isolation: sql.LevelReadCommitted}
	if readOnly {
		options = sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	// When the server was started anew, every connection of the pool may be found dead, each by its BEGIN.
	for tries := connections; ; tries-- {
		t, err := e.tryBegin(ctx, &options)
		if err == nil || tries == 0 || !errors.Is(err, errStale) {
			return t, err
		}
	}
}

// errStale says that a connection of the pool was of no use.
var errStale = errors.New("begin on a kept connection")

func (e *engine) tryBegin(ctx context.Context, options *sql.TxOptions) (*transaction, error) {
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	// A transaction ends with the context that began it, so this one must not end.
	tx, err := conn.BeginTx(context.WithoutCancel(ctx), options)
	if err != nil {
		discard(conn)
		return nil, fmt.Errorf("postgres: %w: %w", errStale, err)
	}
	return &transaction{Tx: tx, conn: conn, engine: e}, nil
}

// Close waits for the open transactions and closes the pool that Open made.
func (e *engine) Close() error {
	e.open.Lock()
	defer e.open.Unlock()
	e.closed = true
	if !e.owned {
		return nil
	}
	return e.db.Close()
}

// transaction is an open transaction; its connection goes back to the pool when it ends.
type transaction struct {
	*sql.Tx
	conn   *sql.Conn
	engine *engine
	done   bool
}

// Commit ends the transaction, also when it gives an error.
func (t *transaction) Commit() error {
	defer t.end()
	return t.Tx.Commit()
}

// Rollback ends the transaction without a trace.
func (t *transaction) Rollback() error {
	defer t.end()
	return t.Tx.Rollback()
}

func (t *transaction) end() {
	if t.done {
		return
	}
	t.done = true
	t.conn.Close() //nolint:errcheck // only gives it back
	t.engine.open.RUnlock()
}
