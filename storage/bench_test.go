package storage_test

import (
	"context"
	"testing"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

func BenchmarkOpenMemory(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		db, err := storage.Open(context.Background(), sqlite.Memory())
		if err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
