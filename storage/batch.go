package storage

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
)

// maxBatch bounds the acts of one transaction, so that one commit never keeps the next waiting for long.
const maxBatch = 256

// maxWaiting bounds the queue: what some seconds can write. Acts in the hands of the batcher are not counted.
const maxWaiting = 1 << 14

// maxTries bounds how often a transaction is tried that another one of the database has broken.
const maxTries = 5

// maxQueue bounds the queue's memory that is kept when it is empty.
const maxQueue = 4 * maxBatch

// batcher is the one writer of a database. Whatever queues up while a batch commits is the next batch.
type batcher struct {
	engine    Engine
	published atomic.Int64
	wake      chan struct{} // capacity 1: there is something to do
	ended     chan struct{} // closed when run has returned

	mu sync.Mutex // guards the following
	// next is the position that the next act begins with.
	next   Pos
	acts   []*Act
	closed bool

	// The following belong to run.
	count   int64 // the stored count of batches; compared and set by each
	unsure  bool  // the answer to the last commit was lost, and so was the question whether it landed
	rows    gathered
	writing []*Act // taken and not answered
}

// newBatcher starts the batcher of a database with these stored counters; it runs until close.
func newBatcher(engine Engine, pos Pos, count int64) *batcher {
	b := &batcher{engine: engine, wake: make(chan struct{}, 1), ended: make(chan struct{}), next: pos + 1, count: count}
	b.published.Store(pos)
	go b.run()
	return b
}

func (b *batcher) queue(a *Act) {
	a.done = make(chan struct{})
	if err := b.place(a); err != nil {
		a.err = err
		a.tell()
		a.finish()
		return
	}
	b.nudge()
}

// place puts an act into the queue. A panic of Place leaves it out.
func (b *batcher) place(a *Act) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return ErrClosed
	case len(b.acts) >= maxWaiting:
		return ErrBusy
	}
	a.first = b.next
	if a.Place != nil {
		a.Place(a, a.first)
	}
	b.next += Pos(a.Positions)
	b.acts = append(b.acts, a)
	return nil
}

func (b *batcher) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// close lets run commit what is queued, then awaits its end.
func (b *batcher) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.nudge()
	<-b.ended
}

func (b *batcher) run() {
	returned := false
	defer func() { b.leave(returned) }()
	var acts []*Act
	for range b.wake {
		closed := false
		for {
			// Whoever was just answered, or is about to queue, does so first and shares the next commit.
			runtime.Gosched()
			if acts, closed = b.take(acts); len(acts) == 0 {
				break
			}
			b.writeAll(acts)
		}
		if closed {
			returned = true
			return
		}
	}
}

// leave ends run. When that did not return, an act's function has ended its goroutine, as a failing test
// does by FailNow: the acts in hand are refused, and the next goroutine goes on.
func (b *batcher) leave(returned bool) {
	if returned {
		close(b.ended)
		return
	}
	for _, a := range b.writing {
		a.err = errors.New("storage: a function of the batch ended the goroutine (runtime.Goexit)")
	}
	b.answer(b.writing)
	go b.run()
	b.nudge()
}

// take swaps the queue for an empty one, for which it reuses old.
func (b *batcher) take(old []*Act) (acts []*Act, closed bool) {
	clear(old)
	if cap(old) > maxQueue {
		old = nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	acts, b.acts = b.acts, old[:0]
	return acts, b.closed
}

func (b *batcher) writeAll(acts []*Act) {
	b.writing = slices.DeleteFunc(acts, func(a *Act) bool { return !a.take() })
	for len(b.writing) > 0 {
		b.write(b.writing[:min(len(b.writing), maxBatch)])
	}
}

// write commits the acts together. When that cannot be, each is written behind a savepoint of its own, so
// that a bad one fails alone; and when that cannot be either, each in a transaction of its own.
func (b *batcher) write(acts []*Act) {
	err := b.try(acts, false)
	if err != nil && len(acts) > 1 && !hopeless(err) {
		err = b.try(acts, true)
	}
	if err != nil && len(acts) > 1 && !hopeless(err) {
		for i := range acts {
			b.write(acts[i : i+1])
		}
		return
	}
	if err != nil {
		for _, a := range acts {
			a.err = err
		}
	}
	b.answer(acts)
}

// ErrAway says that the database does not answer. What was to be written may be stored all the same: nobody knows.
var ErrAway = errors.New("storage: the database is away")

// hopeless says that an error would meet every act alike.
func hopeless(err error) bool { return errors.Is(err, ErrAway) || errors.Is(err, ErrTaken) }

// try runs a transaction, again when another one of the database has broken it.
func (b *batcher) try(acts []*Act, apart bool) error {
	for n := 1; ; n++ {
		err := b.transaction(acts, apart)
		if err == nil || n == maxTries || !broken(err) {
			return err
		}
	}
}

// broken says that a transaction failed because of another one: PostgreSQL's serialization_failure or deadlock_detected.
func broken(err error) bool {
	var e interface{ SQLState() string }
	return errors.As(err, &e) && (e.SQLState() == "40001" || e.SQLState() == "40P01")
}

// transaction writes acts in one transaction and leaves in each the error of its refusal. With an error of
// its own it has written nothing.
func (b *batcher) transaction(acts []*Act, apart bool) (err error) {
	defer recovered(&err)
	ctx := context.Background()
	conn, err := b.engine.Begin(ctx, false)
	if err != nil {
		return fmt.Errorf("%w: begin a write: %w", ErrAway, err)
	}
	defer conn.Rollback() //nolint:errcheck // does nothing after Commit; else err says what went wrong
	tx := &Tx{conn: conn, ctx: ctx, dialect: b.engine.Dialect()}
	if err := b.fill(tx, acts, apart); err != nil {
		return err
	}
	last := acts[len(acts)-1]
	if err := b.advance(tx, last.first+Pos(last.Positions)-1); err != nil {
		return err
	}
	if err := conn.Commit(); err != nil {
		conn.Rollback() //nolint:errcheck // likewise
		return b.landed(ctx, err)
	}
	b.count++
	return nil
}

// fill runs what the acts want inside a transaction.
func (b *batcher) fill(tx *Tx, acts []*Act, apart bool) error {
	b.rows.reset() // what a transaction that failed has left
	for _, a := range acts {
		a.err = nil
		var err error
		switch {
		case a.Do == nil && !apart:
			err = b.rows.add(a)
		case len(acts) == 1: // then the transaction is its savepoint
			err = b.perform(tx, a)
		default:
			err = b.alone(tx, a)
		}
		if err != nil {
			return err
		}
	}
	return b.rows.flush(tx)
}

// alone runs an act behind a savepoint, so that it can be undone alone.
func (b *batcher) alone(tx *Tx, a *Act) error {
	if err := b.rows.flush(tx); err != nil {
		return err
	}
	if _, err := tx.exec("SAVEPOINT act"); err != nil {
		return err
	}
	a.err = b.perform(tx, a)
	if broken(a.err) {
		return a.err
	}
	if a.err != nil {
		b.rows.reset()
		if _, err := tx.exec("ROLLBACK TO SAVEPOINT act"); err != nil {
			return errors.Join(a.err, err)
		}
	}
	_, err := tx.exec("RELEASE SAVEPOINT act")
	return err
}

// perform writes an act's rows, then runs its function.
func (b *batcher) perform(tx *Tx, a *Act) (err error) {
	defer recovered(&err)
	if err := b.rows.add(a); err != nil {
		return err
	}
	if err := b.rows.flush(tx); err != nil || a.Do == nil {
		return err
	}
	a.then, tx.act = nil, a
	return a.Do(tx, a.first)
}

// recovered makes a panic an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("storage: panic: %v\n%s", p, debug.Stack())
	}
}

const updatePosition = `UPDATE mx_position SET pos = $1, batch = $2 WHERE batch = $3`

// advance stores the counters after a batch. Another writer would have changed the count of batches.
func (b *batcher) advance(tx *Tx, pos Pos) error {
	if b.unsure {
		count, err := tx.batches()
		if err != nil {
			return err
		}
		if count == b.count+1 {
			b.count = count
		}
		b.unsure = false
	}
	n, err := tx.exec(updatePosition, pos, b.count+1, b.count)
	if err == nil && n != 1 {
		err = ErrTaken
	}
	return err
}

const (
	lockPosition  = `UPDATE mx_position SET batch = batch`
	selectBatches = `SELECT batch FROM mx_position`
)

// batches is the stored count of batches. It waits for a transaction that was left alone in its commit,
// which has the row until it is stored or undone.
func (tx *Tx) batches() (int64, error) {
	if _, err := tx.exec(lockPosition); err != nil {
		return 0, err
	}
	return one(tx, value[int64], selectBatches)
}

// landed asks whether a commit that gave an error is stored after all: its answer may have been lost on the
// way. While nobody knows, nothing may be tried again.
func (b *batcher) landed(ctx context.Context, failed error) error {
	count, err := b.storedCount(ctx)
	switch {
	case err != nil:
		b.unsure = true
		return fmt.Errorf("%w: commit: %w", ErrAway, failed)
	case count == b.count+1:
		b.count = count
		return nil
	default:
		return fmt.Errorf("commit: %w", failed)
	}
}

func (b *batcher) storedCount(ctx context.Context) (int64, error) {
	conn, err := b.engine.Begin(ctx, false)
	if err != nil {
		return 0, err
	}
	defer conn.Rollback() //nolint:errcheck // nothing was changed
	tx := &Tx{conn: conn, ctx: ctx, dialect: b.engine.Dialect()}
	return tx.batches()
}

// answer tells the acts what became of them: first those who keep rooms in memory, then everybody else.
// The acts are the first of b.writing.
func (b *batcher) answer(acts []*Act) {
	for _, a := range acts {
		written := a.err == nil
		a.tell()
		if written && a.Positions > 0 {
			b.published.Store(a.first + Pos(a.Positions) - 1)
		}
	}
	for _, a := range acts {
		a.announce()
		b.writing = b.writing[1:]
		a.finish()
	}
}

// tell calls Committed or Refused. A panic there becomes the act's answer, though it may be written: what
// is kept in memory is in doubt.
func (a *Act) tell() {
	defer recovered(&a.err)
	switch {
	case a.err != nil && a.Refused != nil:
		a.Refused(a.err)
	case a.err == nil && a.Committed != nil:
		a.Committed(a.first)
	}
	for _, t := range a.then {
		switch {
		case a.err == nil && t.committed != nil:
			t.committed(a.first)
		case t.doubted != nil && errors.Is(a.err, ErrAway):
			t.doubted(a.first)
		}
	}
}

func (a *Act) announce() {
	defer recovered(&a.err)
	if a.err == nil && a.Announced != nil {
		a.Announced(a.first)
	}
	for _, t := range a.then {
		if a.err == nil && t.announced != nil {
			t.announced(a.first)
		}
	}
}
