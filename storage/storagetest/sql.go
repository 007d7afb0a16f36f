package storagetest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
)

func testRowsAffected(t *testing.T, s *suite) {
	s.write(func(tx storage.Conn) {
		for k := range int64(5) {
			s.put(tx, k, k)
		}
		require.Equal(t, int64(3), s.exec(tx, `UPDATE mx_test SET n = 9 WHERE k > $1`, 1), "rows of an UPDATE")
		require.Equal(t, int64(0), s.exec(tx, `UPDATE mx_test SET n = 9 WHERE k > $1`, 10), "rows of an UPDATE of none")
		require.Equal(t, int64(2), s.exec(tx, `DELETE FROM mx_test WHERE n < $1`, 9), "rows of a DELETE")
		require.Equal(t, int64(0), s.exec(tx, insertTest+` ON CONFLICT DO NOTHING`, 3, 0, "", []byte{}, true), "rows of an INSERT of none")
	})
}

// testValues: what goes in comes out, of the same Go type.
func testValues(t *testing.T, s *suite) {
	tests := []struct {
		name string
		n    int64
		s    string
		b    []byte
		f    bool
	}{
		{"zero", 0, "", []byte{}, false},
		{"bounds", math.MaxInt64, "é\u00a0漢😀\t\n\"'`%_\\n\\", []byte{0, 1, 0xff, 0}, true},
		{"lower bound", math.MinInt64, `C:\new\table`, []byte("5"), false},
		{"a number's text stays text", 1<<53 + 1, "5", []byte("0x10"), true},
		{"JSON", 1, `{"a":null}`, []byte(`{"a":"` + "\u0000" + `"}`), true},
		{"not UTF-8", 1, "x", []byte("\xc3\x28\xff"), true},
	}
	for i, tt := range tests {
		s.write(func(tx storage.Conn) { s.exec(tx, insertTest, i, tt.n, tt.s, tt.b, tt.f) })
		s.read(func(tx storage.Conn) {
			rows, err := tx.QueryContext(context.Background(), `SELECT n, s, b, f FROM mx_test WHERE n = $1 AND s = $2 AND b = $3 AND f = $4`, tt.n, tt.s, tt.b, tt.f)
			require.NoError(t, err, tt.name)
			defer rows.Close()
			require.True(t, rows.Next(), "%s: found by its values", tt.name)
			got := tt
			require.NoError(t, rows.Scan(&got.n, &got.s, &got.b, &got.f), tt.name)
			require.Equal(t, string(tt.b), string(got.b), "%s: a blob read back; an empty one may be nil", tt.name)
			got.b = tt.b
			require.Equal(t, tt, got, "a row read back")
		})
	}
	type userID string
	s.read(func(tx storage.Conn) {
		require.Equal(t, []string{"3"}, s.rows(tx, `SELECT k FROM mx_test WHERE s = $1`, userID("5")), "a parameter of a named string type")
		rows, err := tx.QueryContext(context.Background(), `SELECT s FROM mx_test WHERE k = 3`)
		require.NoError(t, err)
		defer rows.Close()
		var u userID
		require.True(t, rows.Next())
		require.NoError(t, rows.Scan(&u))
		require.Equal(t, userID("5"), u, "a named string type read back")
	})
}

func testLargeRows(t *testing.T, s *suite) {
	text := strings.Repeat("é", 1<<20)
	blob := bytes.Repeat([]byte{0, 1, 2, 0xff}, 1<<21)
	s.write(func(tx storage.Conn) { s.exec(tx, insertTest, 1, 1, text, blob, true) })
	s.read(func(tx storage.Conn) {
		rows, err := tx.QueryContext(context.Background(), `SELECT s, b FROM mx_test`)
		require.NoError(t, err)
		defer rows.Close()
		var gotText string
		var gotBlob []byte
		require.True(t, rows.Next())
		require.NoError(t, rows.Scan(&gotText, &gotBlob))
		require.True(t, text == gotText, "a text of 2 MiB read back: %d bytes", len(gotText))
		require.True(t, bytes.Equal(blob, gotBlob), "a blob of 8 MiB read back: %d bytes", len(gotBlob))
	})
}

// testManyStatements runs more texts than an engine keeps prepared, some again.
func testManyStatements(t *testing.T, s *suite) {
	s.write(func(tx storage.Conn) { s.put(tx, 1, 1) })
	s.read(func(tx storage.Conn) {
		for i := range 1200 {
			n := i % 1000
			query := fmt.Sprintf(`SELECT n + %d FROM mx_test WHERE k = $1`, n)
			require.Equal(t, []string{fmt.Sprint(n + 1)}, s.rows(tx, query, 1), query)
		}
	})
}

// testParameters: $n is the nth argument wherever it stands, and may stand twice.
func testParameters(t *testing.T, s *suite) {
	s.write(func(tx storage.Conn) {
		s.exec(tx, `INSERT INTO mx_test (f, b, s, n, k) VALUES ($5, $4, $3, $2, $1)`, 1, 2, "three", []byte("four"), true)
		require.Equal(t, []string{"three"}, s.rows(tx, `SELECT s FROM mx_test WHERE n = $2 AND k = $1 AND n > $1`, 1, 2))
		require.Equal(t, int64(1), s.exec(tx, `UPDATE mx_test SET n = $3, s = $2 WHERE k = $1 AND s <> $2`, 1, "tres", 33))
		require.Equal(t, []string{"1 33 tres four"}, s.rows(tx, `SELECT k, n, s, b FROM mx_test`))
		many := make([]any, 0, 64*11)
		var values []string
		for i := range cap(many) / 11 {
			var row []string
			for j := range 11 {
				many = append(many, i*11+j)
				row = append(row, fmt.Sprintf("CAST($%d AS BIGINT)", len(many)))
			}
			values = append(values, "("+strings.Join(row, ", ")+")")
		}
		got := s.rows(tx, `WITH v (a, b, c, d, e, f, g, h, i, j, k) AS (VALUES `+strings.Join(values, ", ")+`) SELECT count(*), sum(a), sum(k) FROM v`, many...)
		require.Equal(t, []string{"64 22176 22816"}, got, "704 parameters")
	})
}

func testUpsert(t *testing.T, s *suite) {
	const upsert = `
		INSERT INTO mx_test (k, n, s, b, f) VALUES ($1, $2, $3, $4, TRUE)
		ON CONFLICT (k) DO UPDATE SET n = excluded.n, s = mx_test.s || excluded.s
		WHERE mx_test.n IS DISTINCT FROM excluded.n
		RETURNING k, n, s`
	s.write(func(tx storage.Conn) {
		require.Equal(t, []string{"1 1 a"}, s.rows(tx, upsert, 1, 1, "a", []byte{}), "a new row")
		require.Equal(t, []string{"1 2 ab"}, s.rows(tx, upsert, 1, 2, "b", []byte{}), "a changed row")
		require.Empty(t, s.rows(tx, upsert, 1, 2, "c", []byte{}), "an unchanged row")
		s.put(tx, 2, 2)
		require.Equal(t, []string{"2"}, s.rows(tx, `DELETE FROM mx_test WHERE k > $1 RETURNING k`, 1))
		require.Equal(t, []string{"1"}, s.rows(tx, `UPDATE mx_test SET n = n + 1 WHERE k = $1 RETURNING k`, 1))
		s.exec(tx, `INSERT INTO mx_test (k, n, s, b, f) SELECT k + 10, n, s, b, f FROM mx_test WHERE k = $1`, 1)
	})
	s.wantKeys("1 11")
}

func testLists(t *testing.T, s *suite) {
	s.write(func(tx storage.Conn) {
		for k := range int64(5) {
			s.put(tx, k, k)
		}
	})
	s.read(func(tx storage.Conn) {
		const byText = `SELECT k FROM mx_test WHERE s IN (SELECT value FROM json_each($1)) ORDER BY k`
		require.Equal(t, []string{"1", "3"}, s.rows(tx, byText, `["s1","s3","nobody","it's \"é\""]`), "a list of texts")
		require.Empty(t, s.rows(tx, byText, `[]`), "an empty list")
		const byNumber = `SELECT k FROM mx_test WHERE n IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND k < $2 ORDER BY k`
		require.Equal(t, []string{"2"}, s.rows(tx, byNumber, `[4,2,9007199254740993]`, 4), "a list of integers")
		const join = `SELECT t.k FROM json_each($1) AS l JOIN mx_test AS t ON t.s = l.value ORDER BY t.k DESC`
		require.Equal(t, []string{"4", "0"}, s.rows(tx, join, `["s0","s4"]`), "a list joined")
		require.Empty(t, s.rows(tx, `SELECT k FROM mx_test WHERE s IN (SELECT value FROM json_each($1)) AND s IN (SELECT value FROM json_each($2))`, `["s1"]`, `["s2"]`), "two lists")
	})
}

// testQueries runs what else the queries of package storage rely on.
func testQueries(t *testing.T, s *suite) {
	s.write(func(tx storage.Conn) {
		for k := range int64(6) {
			s.put(tx, k, k/2)
		}
		s.exec(tx, `CREATE TABLE mx_test_edges (child BIGINT NOT NULL, parent BIGINT NOT NULL)`)
		s.exec(tx, `INSERT INTO mx_test_edges (child, parent) VALUES (5, 4), (5, 3), (4, 2), (3, 2), (2, 1)`)
		s.exec(tx, `CREATE UNIQUE INDEX mx_test_partial ON mx_test (s) WHERE f`)
	})
	tests := []struct {
		name, query string
		args        []any
		want        []string
	}{
		{"recursive CTE", `
			WITH RECURSIVE chain (k) AS (SELECT CAST($1 AS BIGINT) UNION SELECT parent FROM mx_test_edges JOIN chain ON child = k)
			SELECT k FROM chain ORDER BY k`, []any{5}, []string{"1", "2", "3", "4", "5"}},
		{"row values", `SELECT k FROM mx_test WHERE (n, k) < ($1, $2) ORDER BY n DESC, k DESC LIMIT $3`, []any{2, 5, 3}, []string{"4", "3", "2"}},
		{"window", `SELECT k FROM (SELECT k, row_number() OVER (PARTITION BY n ORDER BY k DESC) AS place FROM mx_test) AS w WHERE place = 1 ORDER BY k`, nil, []string{"1", "3", "5"}},
		{"filtered count", `SELECT n, count(*) FILTER (WHERE f) FROM mx_test GROUP BY n ORDER BY n`, nil, []string{"0 1", "1 1", "2 1"}},
		{"coalesce of nothing", `SELECT coalesce(max(k), 0) FROM mx_test WHERE k > $1`, []any{100}, []string{"0"}},
		{"exists", `SELECT k FROM mx_test AS t WHERE EXISTS (SELECT 1 FROM mx_test_edges WHERE parent = t.k) AND NOT EXISTS (SELECT 1 FROM mx_test_edges WHERE child = t.k)`, nil, []string{"1"}},
		{"boolean", `SELECT count(*) FROM mx_test WHERE f = TRUE AND NOT (f = FALSE)`, nil, []string{"3"}},
		{"left join", `SELECT t.k FROM mx_test AS t LEFT JOIN mx_test_edges AS e ON e.child = t.k WHERE e.child IS NULL ORDER BY t.k`, nil, []string{"0", "1"}},
		{"union", `SELECT k FROM mx_test WHERE k = 0 UNION ALL SELECT k FROM mx_test WHERE k = 5 ORDER BY k`, nil, []string{"0", "5"}},
		{"case", `SELECT CASE WHEN n > $1 THEN 'more' ELSE 'less' END FROM mx_test WHERE k = 5`, []any{1}, []string{"more"}},
		{"limit of a parameter", `SELECT k FROM mx_test ORDER BY k LIMIT $1 OFFSET $2`, []any{2, 1}, []string{"1", "2"}},
		{"bits", `SELECT k FROM mx_test WHERE (k & 4) <> 0 ORDER BY k`, nil, []string{"4", "5"}},
	}
	s.read(func(tx storage.Conn) {
		for _, tt := range tests {
			require.Equal(t, tt.want, s.rows(tx, tt.query, tt.args...), tt.name)
		}
	})
}
