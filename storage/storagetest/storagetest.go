// Package storagetest checks that a storage.Engine keeps its contract, and makes engines fail on demand.
package storagetest

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
)

// patience is how long the suite waits for what may have to wait for another transaction.
const patience = 300 * time.Millisecond

// Run checks an engine. Each call of open returns an engine on a new, empty database, which the suite closes.
func Run(t *testing.T, open func(testing.TB) storage.Engine) {
	tests := []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Commit", testCommit},
		{"Rollback", testRollback},
		{"ReadOnly", testReadOnly},
		{"SnapshotIsStable", testSnapshotIsStable},
		{"NothingUncommittedIsSeen", testNothingUncommitted},
		{"NoHalfTransactions", testNoHalfTransactions},
		{"Savepoints", testSavepoints},
		{"RowsAffected", testRowsAffected},
		{"Values", testValues},
		{"LargeRows", testLargeRows},
		{"ManyStatements", testManyStatements},
		{"Parameters", testParameters},
		{"Upsert", testUpsert},
		{"Lists", testLists},
		{"Queries", testQueries},
		{"Context", testContext},
		{"Lock", testLock},
		{"Database", testDatabase},
		{"Close", testClose},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := open(t)
			s := &suite{t: t, Engine: e}
			t.Cleanup(s.close)
			s.migrate()
			tt.run(t, s)
		})
	}
}

// suite is an engine under test, with short verbs that fail the test.
type suite struct {
	t *testing.T
	storage.Engine
	closed bool
}

// borrowed is an engine that a DB may not close, nor lock.
type borrowed struct{ storage.Engine }

func (borrowed) Close() error { return nil }

// migrate makes the schema, with what it has besides tables, and a table of our own.
func (s *suite) migrate() {
	db, err := storage.Open(context.Background(), borrowed{s.Engine})
	require.NoError(s.t, err)
	require.NoError(s.t, db.Close())
	blob := "BLOB"
	if s.Dialect() == storage.PostgreSQL {
		blob = "BYTEA"
	}
	s.write(func(tx storage.Conn) {
		s.exec(tx, `CREATE TABLE mx_test (k BIGINT PRIMARY KEY, n BIGINT NOT NULL, s TEXT NOT NULL, b `+blob+` NOT NULL, f BOOLEAN NOT NULL)`)
	})
}

func (s *suite) close() {
	if !s.closed {
		require.NoError(s.t, s.Close())
	}
}

func (s *suite) begin(readOnly bool) storage.Conn {
	s.t.Helper()
	tx, err := s.Begin(context.Background(), readOnly)
	require.NoError(s.t, err)
	return tx
}

func (s *suite) exec(tx storage.Conn, query string, args ...any) int64 {
	s.t.Helper()
	res, err := tx.ExecContext(context.Background(), query, args...)
	require.NoError(s.t, err, query)
	n, err := res.RowsAffected()
	require.NoError(s.t, err, query)
	return n
}

// rows returns the rows of a query, each as its values with spaces between.
func (s *suite) rows(tx storage.Conn, query string, args ...any) []string {
	s.t.Helper()
	list, err := rows(tx, query, args...)
	require.NoError(s.t, err, query)
	return list
}

func rows(tx storage.Conn, query string, args ...any) ([]string, error) {
	rows, err := tx.QueryContext(context.Background(), query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var list []string
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(sql.NullString)
		}
		if err := rows.Scan(values...); err != nil {
			return nil, err
		}
		var line []string
		for _, v := range values {
			line = append(line, v.(*sql.NullString).String)
		}
		list = append(list, strings.Join(line, " "))
	}
	return list, rows.Err()
}

func (s *suite) write(fn func(tx storage.Conn)) {
	s.t.Helper()
	tx := s.begin(false)
	defer tx.Rollback()
	fn(tx)
	require.NoError(s.t, tx.Commit())
}

func (s *suite) read(fn func(tx storage.Conn)) {
	s.t.Helper()
	tx := s.begin(true)
	defer tx.Rollback()
	fn(tx)
}

const insertTest = `INSERT INTO mx_test (k, n, s, b, f) VALUES ($1, $2, $3, $4, $5)`

// put inserts a row with a key and a number.
func (s *suite) put(tx storage.Conn, k, n int64) {
	s.t.Helper()
	s.exec(tx, insertTest, k, n, fmt.Sprint("s", k), []byte(fmt.Sprint("b", k)), k%2 == 0)
}

// keys returns the keys of the table.
func (s *suite) keys(tx storage.Conn) string {
	s.t.Helper()
	return strings.Join(s.rows(tx, `SELECT k FROM mx_test ORDER BY k`), " ")
}

// wantKeys fails unless a new snapshot has these keys.
func (s *suite) wantKeys(want string) {
	s.t.Helper()
	s.read(func(tx storage.Conn) { require.Equal(s.t, want, s.keys(tx), "keys of the table") })
}
