package storagetest

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/embedmatrix/homeserver/storage"
)

// ErrFault is the error of what a Faulty engine lets fail, where the test gives no other.
var ErrFault = errors.New("storagetest: a fault was injected")

// Op is what an engine was asked to do.
type Op int

// What an engine may be asked.
const (
	Begin      Op = iota + 1 // of a write
	BeginRead                // of a snapshot
	Exec                     // in either
	Query                    // in either
	Commit                   // before it: the transaction will not be stored
	Committed                // after it: the transaction is stored, though its caller gets the error
	Rollback                 // never fails, but is counted
	operations = iota + 1
)

// Call is one of the calls of an engine.
type Call struct {
	Op   Op
	N    int    // counts the calls of this Op from 1
	Text string // of Exec and Query
}

// Faulty is an engine that fails when it is told to. It can be locked if the engine inside can.
type Faulty struct {
	storage.Engine

	mu    sync.Mutex // guards the following
	fault func(Call) error
	calls [operations]int
}

// NewFaulty wraps an engine. fault is asked at each call, one at a time; its error is that call's. It may be nil.
func NewFaulty(e storage.Engine, fault func(Call) error) *Faulty {
	return &Faulty{Engine: e, fault: fault}
}

// Fail replaces the function that decides, and begins to count anew.
func (f *Faulty) Fail(fault func(Call) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
	f.calls = [operations]int{}
}

// FailNth lets one call fail: the nth of an operation from now on.
func (f *Faulty) FailNth(op Op, n int) {
	f.Fail(func(c Call) error {
		if c.Op == op && c.N == n {
			return ErrFault
		}
		return nil
	})
}

// Calls says how often an operation was asked for since the last Fail.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *Faulty) ask(op Op, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	if f.fault == nil {
		return nil
	}
	return f.fault(Call{op, f.calls[op], text})
}

// Begin begins a transaction that may fail.
func (f *Faulty) Begin(ctx context.Context, readOnly bool) (storage.Conn, error) {
	op := Begin
	if readOnly {
		op = BeginRead
	}
	if err := f.ask(op, ""); err != nil {
		return nil, err
	}
	conn, err := f.Engine.Begin(ctx, readOnly)
	if err != nil {
		return nil, err
	}
	return &faultyConn{conn, f, readOnly}, nil
}

// Lock locks the engine inside, if it can be locked.
func (f *Faulty) Lock(ctx context.Context) (release func() error, err error) {
	if l, ok := f.Engine.(storage.Locker); ok {
		return l.Lock(ctx)
	}
	return func() error { return nil }, nil
}

type faultyConn struct {
	storage.Conn
	faulty   *Faulty
	readOnly bool
}

func (c *faultyConn) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := c.faulty.ask(Exec, query); err != nil {
		return nil, err
	}
	return c.Conn.ExecContext(ctx, query, args...)
}

func (c *faultyConn) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := c.faulty.ask(Query, query); err != nil {
		return nil, err
	}
	return c.Conn.QueryContext(ctx, query, args...)
}

func (c *faultyConn) Commit() error {
	if err := c.faulty.ask(Commit, ""); err != nil {
		return err
	}
	if err := c.Conn.Commit(); err != nil {
		return err
	}
	return c.faulty.ask(Committed, "")
}

func (c *faultyConn) Rollback() error {
	err := c.Conn.Rollback()
	if err == nil && !c.readOnly {
		c.faulty.ask(Rollback, "") //nolint:errcheck // only counted
	}
	return err
}
