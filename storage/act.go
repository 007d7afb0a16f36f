package storage

import (
	"context"
	"errors"
	"sync/atomic"
)

// ErrClosed is the answer to a read or write after Close.
var ErrClosed = errors.New("storage: closed")

// ErrBusy is the answer to a write when too many wait already; the caller may try again later.
var ErrBusy error = busy{}

type busy struct{}

func (busy) Error() string    { return "storage: too many writes are waiting" }
func (busy) Overloaded() bool { return true } // for whoever answers requests: 503, not 500

// ErrStale says that a room was written by somebody else since it was read into memory.
var ErrStale = errors.New("storage: the room has changed")

// ErrTaken says that another process has written to the database, which the lock should have prevented.
// Nothing can be written any more: what this process keeps in memory may be wrong.
var ErrTaken = errors.New("storage: another process has written to this database")

// Act is one write, all or nothing: rows, a function, or both. It is queued once. Its functions are
// called by the one goroutine that writes: while one of them runs nothing else is written, and none of
// them may wait for another write.
type Act struct {
	// Positions is how many positions of the stream the act takes; 0 is none.
	Positions int

	// Place, if not nil, is told the first of them when the act gets its place in the order, before it can
	// be committed. It runs inside Queue and under its lock: it may compute and add rows, never wait.
	Place func(a *Act, first Pos)

	// Do, if not nil, runs inside the transaction after the rows. Its error, or its panic, undoes and refuses
	// this act alone. It may run more than once, when a transaction has to be tried again; what it sets
	// outside counts only from its last run.
	Do func(tx *Tx, first Pos) error

	// Committed, if not nil, is called after the commit, in the order of positions, before whoever waits
	// is answered and before the positions are published. It may not wait.
	Committed func(first Pos)

	// Announced, if not nil, is called once the positions are published: the place for wake-ups. It may not wait.
	Announced func(first Pos)

	// Refused, if not nil, is called when the act was not written, likewise in order; by Queue itself when
	// the database is closed or has too much to do. It may not wait.
	Refused func(err error)

	first    Pos
	rows     []row
	rooms    []RoomWrite
	then     []then       // what Do has added in its last run
	progress atomic.Int32 // one of the following
	done     chan struct{}
	err      error // belongs to the batcher until done is closed
}

// How far an act is.
const (
	waiting   = iota // in the queue
	taken            // being written, or answered
	withdrawn        // not to be written: who queued it has given up
)

// row is a row of an act.
type row struct {
	into *Insert
	args []any
}

// then is what follows the commit of an act beside what the act says itself, or its doubt.
type then struct{ committed, announced, doubted func(first Pos) }

// Then lets committed and announced be called as Act.Committed and Act.Announced are, behind those of the act whose
// function runs now: for what is done inside an act of somebody else. Either may be nil.
func (tx *Tx) Then(committed, announced func(first Pos)) {
	if tx.act != nil {
		tx.act.then = append(tx.act.then, then{committed: committed, announced: announced})
	}
}

// Doubt lets fn be called in the place of what Then says when nobody knows whether the act whose function runs now was
// written: its answer is ErrAway. It may not wait.
func (tx *Tx) Doubt(fn func(first Pos)) {
	if tx.act != nil {
		tx.act.then = append(tx.act.then, then{doubted: fn})
	}
}

// RoomWrite moves a room on. Its Seq is compared with what is stored, so that stale memory never writes.
type RoomWrite struct {
	Room, FromSeq, ToSeq int64
	State                int64
	LastPos              Pos
	Extremities          []byte
}

// Add queues a row of the act. The arguments belong to the act from then on.
func (a *Act) Add(into *Insert, args ...any) { a.rows = append(a.rows, row{into, args}) }

// Also lets the act do something more inside its transaction, behind what it does already.
func (a *Act) Also(do func(tx *Tx, first Pos) error) {
	before := a.Do
	if before == nil {
		a.Do = do
		return
	}
	a.Do = func(tx *Tx, first Pos) error {
		if err := before(tx, first); err != nil {
			return err
		}
		return do(tx, first)
	}
}

// Then calls fn after the commit, behind what is called already: see Committed.
func (a *Act) Then(fn func(first Pos)) {
	before := a.Committed
	if before == nil {
		a.Committed = fn
		return
	}
	a.Committed = func(first Pos) {
		before(first)
		fn(first)
	}
}

// Move queues the act's change of a room's head.
func (a *Act) Move(w RoomWrite) { a.rooms = append(a.rooms, w) }

// Wait returns when the queued act is durable, or was refused, or ctx ends; in the last case the act goes on.
func (a *Act) Wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	default:
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done reports whether the queued act was written or refused.
func (a *Act) Done() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// withdraw takes an act back; false when it is being written already.
func (a *Act) withdraw() bool { return a.progress.CompareAndSwap(waiting, withdrawn) }

// take begins the writing of an act; false when it was withdrawn.
func (a *Act) take() bool { return a.progress.CompareAndSwap(waiting, taken) }

// finish answers whoever waits. The act may be kept for its answer, so its rows are let go.
func (a *Act) finish() {
	a.rows, a.rooms, a.then = nil, nil, nil
	close(a.done)
}

// Queue gives an act its place in the order and returns at once; Act.Wait awaits the commit.
func (db *DB) Queue(a *Act) { db.batch.queue(a) }

// Write runs fn inside the next shared transaction with a fresh position, and returns when that is
// committed. An error of fn undoes and refuses this write alone, and is returned. When ctx ends before
// the write has begun, it is taken back; an error of ctx means that nothing was written. See Act.Do for
// what fn may do.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx, pos Pos) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a := &Act{Positions: 1, Do: fn}
	db.Queue(a)
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
	}
	if a.withdraw() {
		return ctx.Err()
	}
	<-a.done
	return a.err
}
