package sqlite

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
)

var update = flag.Bool("update", false, "write image.bin anew")

// TestImage: the image is what the migrations make.
func TestImage(t *testing.T) {
	migrated := memory(nil)
	db, err := storage.Open(context.Background(), migrated)
	require.NoError(t, err)
	defer db.Close()
	raw, err := migrated.serialized(context.Background())
	require.NoError(t, err)
	if *update {
		image = append(binary.BigEndian.AppendUint32(nil, storage.MigrationsSum()), packed(raw)...)
		require.NoError(t, os.WriteFile("image.bin", image, 0o644))
	}
	embedded := emptyImage()
	require.NotNil(t, embedded, "the migrations have changed: run `go generate ./storage/sqlite`")
	require.Equal(t, contents(t, memory(raw)), contents(t, memory(embedded)), "run `go generate ./storage/sqlite`")
}

// contents is the schema and every row of a database.
func contents(t *testing.T, e *engine) map[string][]string {
	defer e.Close()
	tx, err := e.Begin(context.Background(), true)
	require.NoError(t, err)
	defer tx.Rollback()
	all := map[string][]string{"schema": rowsOf(t, tx, "SELECT name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY name")}
	for _, table := range rowsOf(t, tx, "SELECT name FROM sqlite_schema WHERE type = 'table'") {
		columns := rowsOf(t, tx, "SELECT group_concat('quote(' || name || ')', ' || ') FROM pragma_table_info('"+table+"')")
		all[table] = rowsOf(t, tx, "SELECT "+columns[0]+" FROM "+table+" ORDER BY 1")
	}
	return all
}

func rowsOf(t *testing.T, tx storage.Conn, query string) []string {
	rows, err := tx.QueryContext(context.Background(), query)
	require.NoError(t, err, query)
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		require.NoError(t, rows.Scan(&s), query)
		list = append(list, s)
	}
	require.NoError(t, rows.Err(), query)
	return list
}

func TestPacked(t *testing.T) {
	page := func(fill func(p []byte)) []byte {
		p := make([]byte, pageSize)
		fill(p)
		return p
	}
	noise := rand.New(rand.NewPCG(1, 2))
	db := bytes.Join([][]byte{
		page(func([]byte) {}),
		page(func(p []byte) { p[0] = 1 }),
		page(func(p []byte) { p[pageSize-1] = 1 }),
		page(func(p []byte) { p[7], p[100], p[4000] = 1, 2, 3 }),
		page(func(p []byte) {
			for i := range p {
				p[i] = byte(noise.IntN(255) + 1)
			}
		}),
	}, nil)
	require.Equal(t, db, unpacked(packed(db)))
	require.Less(t, len(packed(db)), pageSize+4200)
}
