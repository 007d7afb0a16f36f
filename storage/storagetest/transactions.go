package storagetest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
)

func testCommit(t *testing.T, s *suite) {
	tx := s.begin(false)
	s.put(tx, 1, 1)
	require.Equal(t, "1", s.keys(tx), "a transaction sees what it wrote")
	require.NoError(t, tx.Commit())
	require.Error(t, tx.Commit(), "a second Commit")
	require.Error(t, tx.Rollback(), "Rollback after Commit")
	s.wantKeys("1")
}

func testRollback(t *testing.T, s *suite) {
	tx := s.begin(false)
	s.put(tx, 1, 1)
	require.NoError(t, tx.Rollback())
	require.Error(t, tx.Commit(), "Commit after Rollback")
	s.wantKeys("")

	// A statement that failed leaves a transaction that can be rolled back, and an engine that goes on.
	tx = s.begin(false)
	s.put(tx, 1, 1)
	_, err := tx.ExecContext(context.Background(), insertTest, 1, 1, "", []byte{}, false)
	require.Error(t, err, "a key used twice")
	require.NoError(t, tx.Rollback())
	s.write(func(tx storage.Conn) { s.put(tx, 2, 2) })
	s.wantKeys("2")
}

func testReadOnly(t *testing.T, s *suite) {
	tx := s.begin(true)
	_, err := tx.ExecContext(context.Background(), insertTest, 1, 1, "", []byte{}, false)
	require.Error(t, err, "a write in a snapshot")
	require.NoError(t, tx.Rollback())
	s.write(func(tx storage.Conn) { s.put(tx, 2, 2) })
	s.wantKeys("2")
}

func testSnapshotIsStable(t *testing.T, s *suite) {
	s.write(func(tx storage.Conn) { s.put(tx, 1, 1) })
	reader := s.begin(true)
	require.Equal(t, "1", s.keys(reader))
	written := make(chan error, 1)
	go func() { // waits for the reader where there is one connection
		written <- put(s.Engine, 2)
	}()
	select {
	case err := <-written:
		require.NoError(t, err)
		written <- nil
	case <-time.After(patience):
	}
	require.Equal(t, "1", s.keys(reader), "the snapshot, after somebody else's commit")
	require.NoError(t, reader.Rollback())
	require.NoError(t, <-written)
	s.wantKeys("1 2")
}

func put(e storage.Engine, k int64) error {
	tx, err := e.Begin(context.Background(), false)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(context.Background(), insertTest, k, k, "", []byte{}, false); err != nil {
		return err
	}
	return tx.Commit()
}

func testNothingUncommitted(t *testing.T, s *suite) {
	tx := s.begin(false)
	s.put(tx, 1, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reader, err := s.Begin(ctx, true)
	if err == nil {
		require.Equal(t, "", s.keys(reader), "a snapshot beside an open transaction")
		require.NoError(t, reader.Rollback())
	} else {
		require.ErrorIs(t, err, context.DeadlineExceeded, "where there is one connection, Begin waits as long as its context")
	}
	require.NoError(t, tx.Commit())
	s.wantKeys("1")
}

// testNoHalfTransactions moves a number between two rows; every snapshot has the same sum, and no snapshot
// is older than one that the same reader had before.
func testNoHalfTransactions(t *testing.T, s *suite) {
	const readers, moves = 4, 50
	s.write(func(tx storage.Conn) { s.put(tx, 1, 0); s.put(tx, 2, 100) })
	var done atomic.Bool
	var all sync.WaitGroup
	errs := make(chan error, readers+1)
	for range readers {
		all.Go(func() {
			for last := int64(0); !done.Load(); {
				n, sum, err := moved(s.Engine)
				if err != nil || sum != 100 || n < last {
					errs <- halfError{n, sum, last, err}
					return
				}
				last = n
			}
		})
	}
	for range moves {
		s.write(func(tx storage.Conn) {
			s.exec(tx, `UPDATE mx_test SET n = n + 1 WHERE k = 1`)
			s.exec(tx, `UPDATE mx_test SET n = n - 1 WHERE k = 2`)
		})
		n, _, err := moved(s.Engine)
		require.NoError(t, err)
		require.NotZero(t, n, "a snapshot sees every commit that returned before")
	}
	done.Store(true)
	all.Wait()
	select {
	case err := <-errs:
		require.NoError(t, err)
	default:
	}
}

type halfError struct {
	n, sum, last int64
	err          error
}

func (e halfError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return "a snapshot with half a transaction, or older than the one before"
}

// moved reads both rows with a query each.
func moved(e storage.Engine) (n, sum int64, err error) {
	tx, err := e.Begin(context.Background(), true)
	if err != nil {
		return 0, 0, err
	}
	defer tx.Rollback()
	var values [2]int64
	for i := range values {
		rows, err := tx.QueryContext(context.Background(), `SELECT n FROM mx_test WHERE k = $1`, i+1)
		if err != nil {
			return 0, 0, err
		}
		for rows.Next() {
			err = rows.Scan(&values[i])
		}
		rows.Close()
		if err != nil {
			return 0, 0, err
		}
	}
	return values[0], values[0] + values[1], nil
}

func testSavepoints(t *testing.T, s *suite) {
	tx := s.begin(false)
	defer tx.Rollback()
	s.put(tx, 1, 1)
	s.exec(tx, `SAVEPOINT act`)
	s.put(tx, 2, 2)
	_, err := tx.ExecContext(context.Background(), insertTest, 1, 1, "", []byte{}, false)
	require.Error(t, err, "a key used twice")
	s.exec(tx, `ROLLBACK TO SAVEPOINT act`)
	s.exec(tx, `RELEASE SAVEPOINT act`)
	s.exec(tx, `SAVEPOINT act`)
	s.put(tx, 3, 3)
	s.exec(tx, `RELEASE SAVEPOINT act`)
	require.NoError(t, tx.Commit())
	s.wantKeys("1 3")
}

func testContext(t *testing.T, s *suite) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Begin(ended, true)
	require.ErrorIs(t, err, context.Canceled, "Begin of a snapshot with a context that has ended")
	_, err = s.Begin(ended, false)
	require.ErrorIs(t, err, context.Canceled, "Begin of a write with a context that has ended")

	ctx, cancel := context.WithCancel(context.Background())
	tx, err := s.Begin(ctx, false)
	require.NoError(t, err)
	s.put(tx, 1, 1)
	cancel()
	s.put(tx, 2, 2)
	require.NoError(t, tx.Commit(), "the context bounds the wait for a connection, not the transaction")
	s.wantKeys("1 2")
}

func testLock(t *testing.T, s *suite) {
	l, ok := s.Engine.(storage.Locker)
	if !ok {
		return // keeping others off is somebody else's task
	}
	release, err := l.Lock(context.Background())
	require.NoError(t, err)
	_, err = l.Lock(context.Background())
	require.Error(t, err, "a second lock on the same data")
	s.write(func(tx storage.Conn) { s.put(tx, 1, 1) })
	require.NoError(t, release())
	release, err = l.Lock(context.Background())
	require.NoError(t, err, "a lock after the first was released")
	require.NoError(t, release())
}

func testDatabase(t *testing.T, s *suite) {
	db, err := storage.Open(context.Background(), s.Engine)
	require.NoError(t, err)
	s.closed = true
	var first, second storage.Pos
	write := func(pos *storage.Pos) {
		t.Helper()
		require.NoError(t, db.Write(context.Background(), func(_ *storage.Tx, p storage.Pos) error { *pos = p; return nil }))
		require.Equal(t, *pos, db.Published(), "the published position after a write")
	}
	write(&first)
	write(&second)
	require.Greater(t, second, first, "positions grow")
	require.NoError(t, db.Close())
	require.ErrorIs(t, db.Write(context.Background(), nil), storage.ErrClosed)
	require.ErrorIs(t, db.Read(context.Background(), nil), storage.ErrClosed)
}

func testClose(t *testing.T, s *suite) {
	s.write(func(tx storage.Conn) { s.put(tx, 1, 1) })
	reader := s.begin(true)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	s.closed = true
	time.Sleep(patience / 10)
	require.Equal(t, "1", s.keys(reader), "a snapshot that was open at Close")
	require.NoError(t, reader.Rollback())
	require.NoError(t, <-closed)
	for _, readOnly := range []bool{true, false} {
		_, err := s.Begin(context.Background(), readOnly)
		require.Error(t, err, "Begin after Close, read only: %t", readOnly)
	}
}
