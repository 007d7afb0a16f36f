package storage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// hold lets the batcher wait, so that what is queued until release becomes one batch.
func hold(t *testing.T, db *storage.DB) (release func()) {
	t.Helper()
	held, begun := make(chan struct{}), make(chan struct{})
	var once sync.Once
	db.Queue(&storage.Act{Do: func(*storage.Tx, storage.Pos) error {
		once.Do(func() { close(begun) })
		<-held
		return nil
	}})
	<-begun
	return func() { close(held) }
}

// diary notes what acts are told, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.lines
	d.lines = nil
	return lines
}

// act is an act that notes what it is told under a name, with a row of that name unless it is empty.
func (d *diary) act(name, row string) *storage.Act {
	a := &storage.Act{Positions: 1}
	a.Committed = func(storage.Pos) { d.note("%s committed", name) }
	a.Announced = func(storage.Pos) { d.note("%s announced", name) }
	a.Refused = func(error) { d.note("%s refused", name) }
	if row != "" {
		a.Add(storage.InsertTransaction, []byte(row), row, 0)
	}
	return a
}

const selectNames = `SELECT event_id FROM mx_transactions ORDER BY event_id`

func queueAll(db *storage.DB, acts ...*storage.Act) {
	for _, a := range acts {
		db.Queue(a)
	}
}

// results waits for acts and returns the text of each one's error, empty for none.
func results(acts ...*storage.Act) []string {
	var list []string
	for _, a := range acts {
		text := ""
		if err := a.Wait(context.Background()); err != nil {
			text, _, _ = strings.Cut(err.Error(), "\n")
		}
		list = append(list, text)
	}
	return list
}

func TestBadActFailsAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, faulty *storagetest.Faulty) {
		var d diary
		no := errors.New("no")
		acts := []*storage.Act{
			d.act("a", "a"),
			d.act("twice", "a"),
			d.act("no", "b"),
			d.act("panic", "c"),
			d.act("short", ""),
			d.act("function", ""),
			d.act("none", ""),
			d.act("e", "e"),
		}
		acts[2].Do = func(*storage.Tx, storage.Pos) error { return no }
		acts[3].Do = func(*storage.Tx, storage.Pos) error { panic("help") }
		acts[4].Add(storage.InsertTransaction, []byte("short"))
		acts[5].Do = func(tx *storage.Tx, _ storage.Pos) error {
			_, err := tx.Exec(`INSERT INTO mx_transactions (txn_hash, event_id, at_ms) VALUES ($1, 'f', 0)`, []byte("f"))
			return err
		}
		acts[6].Do = func(tx *storage.Tx, _ storage.Pos) error {
			_, err := tx.Exec(`INSERT INTO mx_nothing (a) VALUES (1)`)
			return err
		}
		release := hold(t, db)
		queueAll(db, acts...)
		release()
		got := results(acts...)
		for i, want := range []string{"", "insert into mx_transactions", "no", "storage: panic: help", "1 values for 3 columns", "", "mx_nothing", ""} {
			require.Contains(t, got[i], want, "act %d", i)
			require.Equal(t, want == "", got[i] == "", "act %d: %s", i, got[i])
		}
		require.ErrorIs(t, acts[2].Wait(context.Background()), no)
		require.Equal(t, []string{
			"a committed", "twice refused", "no refused", "panic refused", "short refused", "function committed", "none refused", "e committed",
			"a announced", "function announced", "e announced",
		}, d.take())
		require.Equal(t, []string{"a", "e", "f"}, stored(t, db, selectNames))
		require.Equal(t, storage.Pos(8), db.Published(), "the position of the last act")
		require.Equal(t, 3, faulty.Calls(storagetest.Begin), "transactions: the held one, all together, each apart")
	})
}

// TestGoexit: a function that ends its goroutine, as FailNow of a test, fails its batch; the next is written.
func TestGoexit(t *testing.T) {
	db := open(t, sqlite.Memory())
	err := db.Write(context.Background(), func(*storage.Tx, storage.Pos) error { runtime.Goexit(); return nil })
	require.ErrorContains(t, err, "Goexit")
	var d diary
	a := d.act("a", "a")
	db.Queue(a)
	require.NoError(t, a.Wait(context.Background()))
	require.Equal(t, []string{"a"}, stored(t, db, selectNames))
}

func TestPanicsOfCallbacks(t *testing.T) {
	db := open(t, sqlite.Memory())
	var d diary
	require.PanicsWithValue(t, "help", func() {
		db.Queue(&storage.Act{Positions: 1, Place: func(*storage.Act, storage.Pos) { panic("help") }})
	})
	committed, announced, refused, after := d.act("committed", "a"), d.act("announced", "b"), d.act("refused", "c"), d.act("after", "d")
	committed.Committed = func(storage.Pos) { panic("help") }
	announced.Announced = func(storage.Pos) { panic("help") }
	refused.Do = func(*storage.Tx, storage.Pos) error { return errors.New("no") }
	refused.Refused = func(error) { panic("help") }
	release := hold(t, db)
	queueAll(db, committed, announced, refused, after)
	release()
	const help = "storage: panic: help"
	require.Equal(t, []string{help, help, help, ""}, results(committed, announced, refused, after))
	require.Equal(t, []string{"a", "b", "d"}, stored(t, db, selectNames))
	require.Equal(t, storage.Pos(4), db.Published(), "a panic of Place took no position")
}

// TestCommitFails: a batch whose commit fails is tried again, and is written once.
func TestCommitFails(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, faulty *storagetest.Faulty) {
		for failing := 1; failing <= 2; failing++ {
			var d diary
			var acts []*storage.Act
			for i := range 3 {
				acts = append(acts, d.act(fmt.Sprint(i), fmt.Sprint(failing, i)))
			}
			release := hold(t, db)
			queueAll(db, acts...)
			faulty.Fail(func(c storagetest.Call) error {
				if c.Op == storagetest.Commit && c.N > 1 && c.N <= 1+failing { // the first is the held act's
					return storagetest.ErrFault
				}
				return nil
			})
			release()
			require.Equal(t, []string{"", "", ""}, results(acts...), "%d commits fail", failing)
			require.Equal(t, []string{"0 committed", "1 committed", "2 committed"}, withoutAnnounced(d.take()))
			require.Len(t, stored(t, db, selectNames), 3*failing)
			require.Equal(t, storage.Pos(3*failing), db.Published())
		}
	})
}

func withoutAnnounced(lines []string) (list []string) {
	for _, l := range lines {
		if !strings.HasSuffix(l, "announced") {
			list = append(list, l)
		}
	}
	return list
}

// TestNoCommit: while every commit fails, every act is refused and nothing is published; then writes go on.
func TestNoCommit(t *testing.T) {
	for _, op := range []storagetest.Op{storagetest.Begin, storagetest.Exec, storagetest.Commit} {
		everywhere(t, func(t *testing.T, db *storage.DB, faulty *storagetest.Faulty) {
			var d diary
			a, b, c := d.act("a", "a"), d.act("b", "b"), d.act("c", "c")
			release := hold(t, db)
			queueAll(db, a, b)
			faulty.Fail(func(c storagetest.Call) error {
				if c.Op == op {
					return storagetest.ErrFault
				}
				return nil
			})
			release()
			for _, a := range []*storage.Act{a, b} {
				require.ErrorIs(t, a.Wait(context.Background()), storagetest.ErrFault)
			}
			require.Equal(t, []string{"a refused", "b refused"}, d.take())
			if op == storagetest.Begin {
				require.Equal(t, 1, faulty.Calls(op), "a database that is away is not asked again for each act")
			}
			require.Zero(t, db.Published())
			faulty.Fail(nil)
			require.Empty(t, stored(t, db, selectNames))
			db.Queue(c)
			require.NoError(t, c.Wait(context.Background()))
			require.Equal(t, []string{"c"}, stored(t, db, selectNames))
			require.Equal(t, storage.Pos(3), db.Published())
		})
	}
}

// TestLostAnswer: when the answer to a commit is lost, the batch is not written a second time.
func TestLostAnswer(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, faulty *storagetest.Faulty) {
		require.NoError(t, write(db, `INSERT INTO mx_meta (name, value) VALUES ('n', $1)`, []byte{}))
		const more = `UPDATE mx_meta SET value = value || $1 WHERE name = 'n'`
		faulty.FailNth(storagetest.Committed, 1)
		require.NoError(t, write(db, more, []byte("a")))
		require.Equal(t, 2, faulty.Calls(storagetest.Begin), "transactions: the write, the question")
		require.Equal(t, []string{"a"}, stored(t, db, `SELECT value FROM mx_meta WHERE name = 'n'`))

		// While nobody can tell, the act is refused, though it is stored.
		away := func(op storagetest.Op) func(storagetest.Call) error {
			return func(c storagetest.Call) error {
				if c.Op == op || c.Op == storagetest.Begin && c.N == 2 {
					return storagetest.ErrFault
				}
				return nil
			}
		}
		faulty.Fail(away(storagetest.Committed))
		require.ErrorIs(t, write(db, more, []byte("b")), storagetest.ErrFault)
		require.Equal(t, 2, faulty.Calls(storagetest.Begin), "transactions")
		faulty.Fail(nil)
		require.NoError(t, write(db, more, []byte("c")))
		require.NoError(t, write(db, more, []byte("d")))
		require.Equal(t, []string{"abcd"}, stored(t, db, `SELECT value FROM mx_meta WHERE name = 'n'`))

		// The same, when it is not stored.
		faulty.Fail(away(storagetest.Commit))
		require.ErrorIs(t, write(db, more, []byte("e")), storagetest.ErrFault)
		faulty.Fail(nil)
		require.NoError(t, write(db, more, []byte("f")))
		require.Equal(t, []string{"abcdf"}, stored(t, db, `SELECT value FROM mx_meta WHERE name = 'n'`))
	})
}

// serialization is the error of a transaction that PostgreSQL asks to try again.
type serialization struct{}

func (serialization) Error() string    { return "could not serialize access" }
func (serialization) SQLState() string { return "40001" }

func TestBrokenTransactionIsTriedAgain(t *testing.T) {
	db := open(t, sqlite.Memory())
	times := 0
	err := db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error {
		if times++; times < 3 {
			return fmt.Errorf("update: %w", serialization{})
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 3, times)

	// In company, nobody is refused for it.
	var d diary
	acts := []*storage.Act{d.act("a", "a"), d.act("b", "b")}
	times = 0
	acts[1].Do = func(*storage.Tx, storage.Pos) error {
		if times++; times < 3 {
			return serialization{}
		}
		return nil
	}
	release := hold(t, db)
	queueAll(db, acts...)
	release()
	require.Equal(t, []string{"", ""}, results(acts...))

	err = db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error { times++; return serialization{} })
	require.ErrorIs(t, err, serialization{}, "not for ever")
}

// TestTaken: of two processes on one database, the one whose memory is old writes no more.
func TestTaken(t *testing.T) {
	for name, engine := range engines() {
		t.Run(name, func(t *testing.T) {
			e := engine(t)
			t.Cleanup(func() { require.NoError(t, e.Close()) })
			first, second := open(t, unclosed{e}), open(t, unclosed{e})
			var d diary
			a, b, c := d.act("a", "a"), d.act("b", "b"), d.act("c", "c")
			queueAll(second, a)
			require.Equal(t, []string{""}, results(a))
			release := hold(t, first)
			queueAll(first, b, c)
			release()
			for _, a := range []*storage.Act{b, c} {
				require.ErrorIs(t, a.Wait(context.Background()), storage.ErrTaken)
			}
			require.Equal(t, []string{"a"}, stored(t, first, selectNames))
		})
	}
}

// TestStale: a room's head moves from what is stored, one step after the other, or not at all.
func TestStale(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, faulty *storagetest.Faulty) {
		room := makeRooms(t, db, 1)[0].num
		var d diary
		move := func(name string, from, to int64) *storage.Act {
			a := d.act(name, name)
			a.Move(storage.RoomWrite{Room: room, FromSeq: from, ToSeq: to, LastPos: to, Extremities: []byte(name)})
			return a
		}
		acts := []*storage.Act{move("a", 0, 1), move("b", 1, 2), move("again", 1, 2), move("ahead", 7, 8), move("c", 2, 3)}
		release := hold(t, db)
		queueAll(db, acts...)
		release()
		for i, ok := range []bool{true, true, false, false, true} {
			err := acts[i].Wait(context.Background())
			require.Equal(t, ok, err == nil, "act %d: %v", i, err)
			require.Equal(t, !ok, errors.Is(err, storage.ErrStale), "act %d: %v", i, err)
		}
		require.Equal(t, []string{"a", "b", "c"}, stored(t, db, selectNames), "the rows of stale acts are not written")
		require.Equal(t, []string{"c"}, stored(t, db, `SELECT extremities FROM mx_rooms`))

		// Those that follow each other share one statement.
		acts = []*storage.Act{move("d", 3, 4), move("e", 4, 5), move("f", 5, 6)}
		release = hold(t, db)
		queueAll(db, acts...)
		moves := 0
		faulty.Fail(func(c storagetest.Call) error {
			if c.Op == storagetest.Exec && strings.Contains(c.Text, "UPDATE mx_rooms") {
				moves++
			}
			return nil
		})
		release()
		require.Equal(t, []string{"", "", ""}, results(acts...))
		require.Equal(t, 1, moves, "statements")
		require.Equal(t, []string{"f"}, stored(t, db, `SELECT extremities FROM mx_rooms WHERE seq = 6`))
	})
}

// TestOneKeyInABatch: rows of one key have the effect that they would have one after the other.
func TestOneKeyInABatch(t *testing.T) {
	overwrite := &storage.Insert{
		Table: "mx_meta", Columns: "name, value", Key: 1,
		Conflict: "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
	}
	first := &storage.Insert{Table: "mx_meta", Columns: "name, value", Conflict: "ON CONFLICT DO NOTHING"}
	join := &storage.Insert{
		Table: "mx_transactions", Columns: "txn_hash, event_id, at_ms", Key: 1,
		Conflict: "ON CONFLICT (txn_hash) DO UPDATE SET event_id = mx_transactions.event_id || excluded.event_id",
	}
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		release := hold(t, db)
		var acts []*storage.Act
		for i := range 10 {
			a := &storage.Act{}
			a.Add(overwrite, "last", fmt.Append(nil, i))
			a.Add(overwrite, fmt.Sprint("other", i), []byte{})
			a.Add(first, "first", fmt.Append(nil, i))
			a.Add(join, []byte("all"), fmt.Sprint(i), 0)
			acts = append(acts, a)
		}
		queueAll(db, acts...)
		release()
		require.Equal(t, make([]string, 10), results(acts...))
		require.Equal(t, []string{"0"}, stored(t, db, `SELECT value FROM mx_meta WHERE name = 'first'`))
		require.Equal(t, []string{"9"}, stored(t, db, `SELECT value FROM mx_meta WHERE name = 'last'`))
		require.Equal(t, []string{"0123456789"}, stored(t, db, selectNames))
	})
}

// TestLongQueue: more acts than fit a transaction, in order, of every size of statement.
func TestLongQueue(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, faulty *storagetest.Faulty) {
		var d diary
		release := hold(t, db)
		var acts []*storage.Act
		var want []string
		for i := range 1000 {
			name := fmt.Sprintf("%04d", i)
			acts, want = append(acts, d.act(name, name)), append(want, name)
		}
		queueAll(db, acts...)
		faulty.Fail(nil)
		release()
		require.Equal(t, make([]string, 1000), results(acts...))
		require.Equal(t, want, stored(t, db, selectNames))
		require.Less(t, faulty.Calls(storagetest.Commit), 10, "commits")
		var told []string
		for _, l := range d.take() {
			if name, ok := strings.CutSuffix(l, " committed"); ok {
				told = append(told, name)
			}
		}
		require.Equal(t, want, told, "the order of Committed")
	})
}

// TestPublished: whatever fails, at every moment each position up to the published one is stored, or was refused.
func TestPublished(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, faulty *storagetest.Faulty) {
		var mu sync.Mutex
		chance := rand.New(rand.NewPCG(1, 2))
		oneIn := func(n int) bool {
			mu.Lock()
			defer mu.Unlock()
			return chance.IntN(n) == 0
		}
		faulty.Fail(func(c storagetest.Call) error {
			if c.Op == storagetest.Commit && oneIn(5) || c.Op == storagetest.Committed && oneIn(10) {
				return storagetest.ErrFault
			}
			return nil
		})
		var refused sync.Map
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				for i := range 50 {
					a := &storage.Act{Positions: 1 + i%2}
					var from storage.Pos
					a.Place = func(a *storage.Act, pos storage.Pos) {
						from = pos
						for p := pos; p < pos+storage.Pos(a.Positions); p++ {
							a.Add(storage.InsertTransaction, fmt.Append(nil, p), fmt.Sprint(w), p)
						}
					}
					if i%5 == 0 {
						a.Do = func(*storage.Tx, storage.Pos) error {
							if i%10 == 0 {
								return errors.New("no")
							}
							return nil
						}
					}
					a.Refused = func(error) {
						for p := from; p < from+storage.Pos(a.Positions); p++ {
							refused.Store(p, true)
						}
					}
					db.Queue(a)
					a.Wait(context.Background()) //nolint:errcheck // refused acts are told by Refused
				}
			})
		}
		var done atomic.Bool
		go func() { writers.Wait(); done.Store(true) }()
		for last := false; !last; {
			last = done.Load()
			published := db.Published()
			missing := storage.Pos(0)
			have := map[string]bool{}
			for _, p := range stored(t, db, `SELECT at_ms FROM mx_transactions WHERE at_ms <= $1`, published) {
				have[p] = true
			}
			for p := storage.Pos(1); p <= published; p++ {
				if _, no := refused.Load(p); !no && !have[fmt.Sprint(p)] {
					missing = p
				}
			}
			require.Zero(t, missing, "a position that is neither stored nor refused, though %d is published", published)
		}
	})
}

// TestCrowd: of many writers at once, exactly those are stored that were told so.
func TestCrowd(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		var told sync.Map
		var all sync.WaitGroup
		for w := range 16 {
			all.Go(func() {
				var d diary
				for i := range 20 {
					name := fmt.Sprintf("%02d-%02d", w, i)
					a := d.act(name, name)
					switch i % 5 {
					case 1:
						a.Do = func(tx *storage.Tx, _ storage.Pos) error { return nil }
					case 2:
						a.Do = func(tx *storage.Tx, _ storage.Pos) error { return errors.New("no") }
					case 3:
						a.Add(storage.InsertTransaction, []byte(name), name, 0) // twice
					}
					db.Queue(a)
					if a.Wait(context.Background()) == nil {
						told.Store(name, true)
					}
				}
			})
		}
		all.Wait()
		names := stored(t, db, selectNames)
		require.Len(t, names, 16*12)
		for _, n := range names {
			_, ok := told.Load(n)
			require.True(t, ok, "%s is stored, its writer was told otherwise", n)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	db := open(t, sqlite.Memory())
	release := hold(t, db)
	const most = 1 << 14
	acts := make([]*storage.Act, most)
	for i := range acts {
		acts[i] = &storage.Act{}
	}
	queueAll(db, acts...)
	var d diary
	late := d.act("late", "late")
	db.Queue(late)
	require.ErrorIs(t, late.Wait(context.Background()), storage.ErrBusy)
	require.Equal(t, []string{"late refused"}, d.take())
	release()
	require.Equal(t, make([]string, most), results(acts...))
	require.NoError(t, write(db, `UPDATE mx_position SET one = one`))
}

func TestCloseCommitsTheQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db := open(t, file(t, path))
	var d diary
	var acts []*storage.Act
	release := hold(t, db)
	for i := range 300 {
		acts = append(acts, d.act("", fmt.Sprint(i)))
	}
	queueAll(db, acts...)
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	time.AfterFunc(10*time.Millisecond, release)
	require.NoError(t, <-closed)
	require.Equal(t, make([]string, 300), results(acts...))

	d.take()
	late := d.act("late", "late")
	db.Queue(late)
	require.ErrorIs(t, late.Wait(context.Background()), storage.ErrClosed)
	require.Equal(t, []string{"late refused"}, d.take())
	require.ErrorIs(t, write(db, ""), storage.ErrClosed)
	require.Len(t, stored(t, open(t, file(t, path)), selectNames), 300)
}

func TestWriteAndItsContext(t *testing.T) {
	db := open(t, sqlite.Memory())
	never := func(*storage.Tx, storage.Pos) error { panic("not to be run") }
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, db.Write(ended, never), context.Canceled)

	release := hold(t, db)
	soon, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, db.Write(soon, never), context.DeadlineExceeded, "a write that had not begun")
	queued := &storage.Act{}
	db.Queue(queued)
	require.ErrorIs(t, queued.Wait(soon), context.DeadlineExceeded, "Wait for an act that goes on")
	release()
	require.NoError(t, queued.Wait(context.Background()))
	require.NoError(t, queued.Wait(ended), "Wait for an act that is done")

	// A write that has begun is awaited.
	ctx, cancel := context.WithCancel(context.Background())
	require.NoError(t, db.Write(ctx, func(*storage.Tx, storage.Pos) error { cancel(); return nil }))
}

// TestActsAreForgotten: what was written is not kept in memory.
func TestActsAreForgotten(t *testing.T) {
	db := open(t, sqlite.Memory())
	acts := make([]weak.Pointer[storage.Act], 500)
	release := hold(t, db)
	for i := range acts {
		a := &storage.Act{}
		a.Add(storage.InsertTransaction, fmt.Append(nil, i), "", 0)
		acts[i] = weak.Make(a)
		db.Queue(a)
	}
	release()
	require.NoError(t, write(db, `UPDATE mx_position SET one = one`))
	require.NoError(t, write(db, `UPDATE mx_position SET one = one`))
	kept := func() (n int) {
		runtime.GC()
		for _, a := range acts {
			if a.Value() != nil {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return kept() == 0 }, 5*time.Second, 10*time.Millisecond, "acts kept: %d", kept())
}

// TestBubbleOfWriters: writers, readers and whoever waits for them let a synctest bubble's time go on.
func TestBubbleOfWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := open(t, sqlite.Memory())
		var d diary
		start := time.Now()
		go func() {
			for i := range 100 {
				time.Sleep(time.Second)
				a := d.act("", fmt.Sprint(i))
				db.Queue(a)
				require.NoError(t, a.Wait(t.Context()))
			}
		}()
		time.Sleep(101 * time.Second)
		require.Len(t, stored(t, db, selectNames), 100)
		require.Equal(t, 101*time.Second, time.Since(start))
	})
}
