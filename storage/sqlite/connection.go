package sqlite

import (
	"context"
	"database/sql"
)

// maxStatements bounds the prepared statements of a connection.
const maxStatements = 512

// connection is a connection with its prepared statements.
type connection struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt
	readOnly   bool // as the connection is set
	only       bool // of a database in memory, which would be gone with it
	doubt      bool // it may still be in a transaction
}

func newConnection(conn *sql.Conn) *connection {
	return &connection{conn: conn, statements: map[string]*sql.Stmt{}}
}

// begin begins a transaction. One that only reads is kept from writing.
func (c *connection) begin(readOnly bool) error {
	if err := c.setReadOnly(readOnly); err != nil {
		return err
	}
	if readOnly {
		return c.exec("BEGIN")
	}
	return c.exec("BEGIN IMMEDIATE")
}

func (c *connection) setReadOnly(readOnly bool) error {
	if c.readOnly == readOnly {
		return nil
	}
	pragma := "PRAGMA query_only = OFF"
	if readOnly {
		pragma = "PRAGMA query_only = ON"
	}
	err := c.exec(pragma)
	c.readOnly = readOnly && err == nil
	return err
}

func (c *connection) exec(query string) error {
	_, err := c.ExecContext(context.Background(), query)
	return err
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

// forget closes the prepared statements; rows that are being read keep theirs until they are closed.
func (c *connection) forget() {
	for _, s := range c.statements {
		s.Close() //nolint:errcheck // nothing was written through it since its last execution
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
	*connection
	pool *pool
	done bool
}

// Commit ends the transaction. After an error it is still open, for Rollback.
func (t *transaction) Commit() error {
	if t.done {
		return sql.ErrTxDone
	}
	if err := t.exec("COMMIT"); err != nil {
		return err
	}
	t.end()
	return nil
}

// Rollback ends the transaction without a trace. SQLite may have done so itself after some errors.
func (t *transaction) Rollback() error {
	if t.done {
		return sql.ErrTxDone
	}
	err := t.exec("ROLLBACK")
	t.doubt = err != nil
	t.end()
	return err
}

func (t *transaction) end() {
	t.done = true
	t.pool.put(t.connection)
}
