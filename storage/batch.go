package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// ErrClosed is the answer to a write after Close.
var ErrClosed = errors.New("storage: closed")

// ErrStale says that a room was written by somebody else since it was read into memory.
var ErrStale = errors.New("storage: the room has changed")

// maxBatch bounds the acts of one transaction, so that one commit never keeps the next waiting for long.
const maxBatch = 256

// Act is one write, all or nothing: rows, a function, or both. It is queued once.
type Act struct {
	// Positions is how many positions of the stream the act takes; 0 is none.
	Positions int

	// Place, if not nil, is told the first of them when the act gets its place in the order, before it can
	// be committed. It runs under the queue's lock: it may compute and add rows, never wait.
	Place func(a *Act, first Pos)

	// Do, if not nil, runs inside the transaction after the rows. Its error undoes and refuses this act alone.
	Do func(tx *Tx, first Pos) error

	// Committed, if not nil, is called after the commit, in the order of positions, before whoever waits
	// is answered and before the positions are published. It may not wait.
	Committed func(first Pos)

	// Announced, if not nil, is called once the positions are published: the place for wake-ups. It may not wait.
	Announced func(first Pos)

	// Refused, if not nil, is called when the act was not written, likewise in order.
	Refused func(err error)

	first Pos
	rows  []row
	rooms []RoomWrite
	done  chan struct{}
	err   error // set before done is closed
}

// Insert is a statement that writes rows of one table; the rows of a batch share one execution.
type Insert struct {
	Table, Columns string // "mx_x", "a, b, c"
	Conflict       string // what follows the values, e.g. "ON CONFLICT (a) DO UPDATE SET b = excluded.b"; may be empty
	Key            int    // with Conflict: how many leading columns (at most 3, integers or strings) are the key

	width int
}

// width counts the columns.
func (in *Insert) columns() int {
	if in.width == 0 {
		return strings.Count(in.Columns, ",") + 1
	}
	return in.width
}

type row struct {
	into *Insert
	args []any
}

// RoomWrite moves a room on. Its Seq is compared with what is stored, so that stale memory never writes.
type RoomWrite struct {
	Room, FromSeq, ToSeq int64
	State                int64
	LastPos              Pos
	Extremities          []byte
}

// Add queues a row of the act.
func (a *Act) Add(into *Insert, args ...any) { a.rows = append(a.rows, row{into, args}) }

// Move queues the act's change of a room's head.
func (a *Act) Move(w RoomWrite) { a.rooms = append(a.rooms, w) }

// Wait returns when the act is durable, or was refused, or ctx ends; in the last case the act goes on.
func (a *Act) Wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done reports whether the act was written or refused.
func (a *Act) Done() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// Queue gives an act its place in the order and returns at once; Act.Wait awaits the commit.
func (db *DB) Queue(a *Act) { db.batch.queue(a) }

// Write runs fn inside the next shared transaction with a fresh position, and returns when that is
// committed. An error of fn undoes and refuses this write alone, and is returned.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx, pos Pos) error) error {
	a := &Act{Positions: 1, Do: fn}
	db.Queue(a)
	return a.Wait(ctx)
}

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
}

func newBatcher(engine Engine, pos Pos) *batcher {
	b := &batcher{engine: engine, wake: make(chan struct{}, 1), ended: make(chan struct{}), next: pos + 1}
	b.published.Store(pos)
	go b.run()
	return b
}

func (b *batcher) queue(a *Act) {
	a.done = make(chan struct{})
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		a.finish(ErrClosed)
		return
	}
	a.first = b.next
	b.next += Pos(a.Positions)
	if a.Place != nil {
		a.Place(a, a.first)
	}
	b.acts = append(b.acts, a)
	b.mu.Unlock()
	b.nudge()
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
	defer close(b.ended)
	for range b.wake {
		for acts := b.take(); len(acts) > 0; acts = b.take() {
			b.write(acts)
		}
		if b.isClosed() {
			return
		}
	}
}

func (b *batcher) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed && len(b.acts) == 0
}

func (b *batcher) take() []*Act {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.acts), maxBatch)
	acts := b.acts[:n:n]
	b.acts = b.acts[n:]
	return acts
}

// write commits the acts together; if that cannot be, each by itself, so that one bad act fails alone.
func (b *batcher) write(acts []*Act) {
	refused, err := b.transaction(acts)
	if err == nil {
		b.answer(acts, refused)
		return
	}
	if len(acts) == 1 {
		b.answer(acts, []error{err})
		return
	}
	for i := range acts {
		b.write(acts[i : i+1])
	}
}

// answer publishes the positions of the acts that were written and tells everybody who waits.
func (b *batcher) answer(acts []*Act, refused []error) {
	for i, a := range acts {
		switch {
		case refused[i] != nil && a.Refused != nil:
			a.Refused(refused[i])
		case refused[i] == nil && a.Committed != nil:
			a.Committed(a.first)
		}
		if refused[i] == nil && a.Positions > 0 {
			b.published.Store(a.first + Pos(a.Positions) - 1)
		}
	}
	for i, a := range acts {
		if refused[i] == nil && a.Announced != nil {
			a.Announced(a.first)
		}
		a.finish(refused[i])
	}
}

func (a *Act) finish(err error) {
	if a.done == nil {
		a.done = make(chan struct{})
	}
	a.err = err
	close(a.done)
}

// transaction writes acts in one transaction. It returns for each act the error of its Do, or an error
// for all of them, in which case nothing was written.
func (b *batcher) transaction(acts []*Act) (refused []error, err error) {
	ctx := context.Background()
	conn, err := b.engine.Begin(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("begin a write: %w", err)
	}
	tx := &Tx{conn: conn, ctx: ctx, dialect: b.engine.Dialect()}
	refused, err = tx.writeActs(acts)
	if err != nil {
		conn.Rollback() //nolint:errcheck // err says what went wrong
		return nil, err
	}
	if err := conn.Commit(); err != nil {
		conn.Rollback() //nolint:errcheck // likewise
		return nil, fmt.Errorf("commit: %w", err)
	}
	return refused, nil
}

const updatePosition = `UPDATE mx_position SET pos = $1 WHERE pos < $1`

func (tx *Tx) writeActs(acts []*Act) ([]error, error) {
	refused := make([]error, len(acts))
	var rows gathered
	for i, a := range acts {
		rows.add(a)
		if a.Do == nil {
			continue
		}
		if err := rows.flush(tx); err != nil {
			return nil, err
		}
		if err := tx.within(a, &refused[i]); err != nil {
			return nil, err
		}
	}
	if err := rows.flush(tx); err != nil {
		return nil, err
	}
	last := acts[len(acts)-1]
	_, err := tx.exec(updatePosition, last.first+Pos(last.Positions)-1)
	return refused, err
}

// within runs an act's function so that it can be undone alone.
func (tx *Tx) within(a *Act, refused *error) error {
	if len(a.rows)+len(a.rooms) > 0 {
		// Its rows are written already: the whole transaction has to go when the function refuses.
		if err := a.Do(tx, a.first); err != nil {
			return err
		}
		return nil
	}
	if _, err := tx.exec("SAVEPOINT act"); err != nil {
		return err
	}
	if *refused = a.Do(tx, a.first); *refused != nil {
		if _, err := tx.exec("ROLLBACK TO SAVEPOINT act"); err != nil {
			return err
		}
	}
	_, err := tx.exec("RELEASE SAVEPOINT act")
	return err
}

// gathered are the rows of several acts, by statement.
type gathered struct {
	order  []*Insert
	rows   map[*Insert][][]any
	keys   map[*Insert]map[[3]any]int // with a conflict clause: the row of each key
	rooms  map[int64]RoomWrite
	moving []int64
}

func (g *gathered) add(a *Act) {
	if g.rows == nil {
		g.rows = map[*Insert][][]any{}
		g.rooms = map[int64]RoomWrite{}
	}
	for _, r := range a.rows {
		g.addRow(r)
	}
	for _, w := range a.rooms {
		before, ok := g.rooms[w.Room]
		switch {
		case !ok:
			g.moving = append(g.moving, w.Room)
		case before.ToSeq == w.FromSeq:
			w.FromSeq = before.FromSeq
		default: // no row has this sequence number: the statement must fail, so that each act is tried alone
			w.FromSeq = -1
		}
		g.rooms[w.Room] = w
	}
}

// addRow adds a row; of two rows with one key in an upsert the later wins, as it would one after the other.
func (g *gathered) addRow(r row) {
	if _, ok := g.rows[r.into]; !ok {
		g.order = append(g.order, r.into)
	}
	if r.into.Key > 0 {
		if g.keys == nil {
			g.keys = map[*Insert]map[[3]any]int{}
		}
		keys := g.keys[r.into]
		if keys == nil {
			keys = map[[3]any]int{}
			g.keys[r.into] = keys
		}
		var key [3]any
		copy(key[:], r.args[:r.into.Key])
		if i, ok := keys[key]; ok {
			g.rows[r.into][i] = r.args
			return
		}
		keys[key] = len(g.rows[r.into])
	}
	g.rows[r.into] = append(g.rows[r.into], r.args)
}

func (g *gathered) flush(tx *Tx) error {
	for _, into := range g.order {
		if err := tx.insert(into, g.rows[into]); err != nil {
			return fmt.Errorf("insert into %s: %w", into.Table, err)
		}
	}
	for _, room := range g.moving {
		if err := tx.moveRoom(g.rooms[room]); err != nil {
			return fmt.Errorf("move room %d: %w", room, err)
		}
	}
	*g = gathered{}
	return nil
}

const updateRoom = `
	UPDATE mx_rooms SET seq = $3, state = $4, last_pos = $5, extremities = $6
	WHERE room = $1 AND seq = $2`

func (tx *Tx) moveRoom(w RoomWrite) error {
	n, err := tx.exec(updateRoom, w.Room, w.FromSeq, w.ToSeq, w.State, w.LastPos, w.Extremities)
	if err == nil && n != 1 {
		err = ErrStale
	}
	return err
}

// insert writes rows in statements of 64, 16, 4 and 1 rows: few texts, so that each stays prepared.
func (tx *Tx) insert(into *Insert, rows [][]any) error {
	for _, size := range [...]int{64, 16, 4, 1} {
		for len(rows) >= size {
			if err := tx.insertMany(into, rows[:size]); err != nil {
				return err
			}
			rows = rows[size:]
		}
	}
	return nil
}

func (tx *Tx) insertMany(into *Insert, rows [][]any) error {
	args := make([]any, 0, len(rows)*into.columns())
	for _, r := range rows {
		args = append(args, r...)
	}
	_, err := tx.exec(into.text(len(rows)), args...)
	return err
}

// text is the statement for n rows.
func (in *Insert) text(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES ", in.Table, in.Columns)
	width := in.columns()
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for j := range width {
			if j > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "$%d", i*width+j+1)
		}
		b.WriteByte(')')
	}
	b.WriteByte(' ')
	b.WriteString(in.Conflict)
	return b.String()
}
