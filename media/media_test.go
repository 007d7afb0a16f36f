package media_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/media/mediatest"
)

func TestMemory(t *testing.T) {
	mediatest.Run(t, func(*testing.T) media.Store { return media.Memory() })
}

func TestDir(t *testing.T) {
	mediatest.Run(t, func(t *testing.T) media.Store { return media.Dir(filepath.Join(t.TempDir(), "not", "there", "yet")) })
}

func TestDirOutlivesItsStore(t *testing.T) {
	path := t.TempDir()
	require.NoError(t, media.Dir(path).Put(t.Context(), "key", strings.NewReader("bytes"), 5))
	r, total, err := media.Dir(path).Get(t.Context(), "key", 0, -1)
	require.NoError(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "bytes", string(got))
	require.Equal(t, int64(5), total)
}

func TestDirStaysInside(t *testing.T) {
	outside := t.TempDir()
	inside := filepath.Join(outside, "media")
	for _, key := range []string{"../x", "/x", "..", "a/../../../x"} {
		require.NoError(t, media.Dir(inside).Put(t.Context(), key, strings.NewReader("x"), 1))
	}
	require.Equal(t, []string{"media"}, names(t, outside), "what is beside the folder")
}

func TestDirLeavesNothingOfRefusedPuts(t *testing.T) {
	path := t.TempDir()
	require.Error(t, media.Dir(path).Put(t.Context(), "key", strings.NewReader("short"), 99))
	require.Empty(t, files(t, path))
}

func TestDirRemovesLeftovers(t *testing.T) {
	path := t.TempDir()
	temp := filepath.Join(path, "tmp")
	require.NoError(t, os.MkdirAll(temp, 0o700))
	write := func(name string, age time.Duration) {
		file := filepath.Join(temp, name)
		require.NoError(t, os.WriteFile(file, []byte("half"), 0o600))
		require.NoError(t, os.Chtimes(file, time.Now().Add(-age), time.Now().Add(-age)))
	}
	write("put-crashed", 25*time.Hour)
	write("put-running", time.Hour)
	require.NoError(t, media.Dir(path).Put(t.Context(), "key", strings.NewReader("x"), 1))
	require.Equal(t, []string{"put-running"}, names(t, temp))
}

func TestDirReportsBrokenFolders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	store := media.Dir(file)
	require.Error(t, store.Put(t.Context(), "key", strings.NewReader("x"), 1), "Put where a file is in the way")
	_, _, err := store.Get(t.Context(), "key", 0, -1)
	require.Error(t, err, "Get where a file is in the way")
}

func BenchmarkDirPut(b *testing.B) {
	store := media.Dir(b.TempDir())
	file := bytes.Repeat([]byte("x"), 64<<10)
	b.ReportAllocs()
	b.SetBytes(int64(len(file)))
	for i := 0; b.Loop(); i++ {
		if err := store.Put(b.Context(), fmt.Sprint(i%100), bytes.NewReader(file), int64(len(file))); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleStore() {
	ctx := context.Background()
	files := media.Memory()
	if err := files.Put(ctx, "key", strings.NewReader("hello, world"), 12); err != nil {
		panic(err)
	}
	part, total, err := files.Get(ctx, "key", 7, 5)
	if err != nil {
		panic(err)
	}
	defer part.Close()
	text, _ := io.ReadAll(part)
	fmt.Printf("%s of %d bytes\n", text, total)
	// Output: world of 12 bytes
}

func names(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(path)
	require.NoError(t, err)
	var all []string
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

func files(t *testing.T, path string) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			all = append(all, path)
		}
		return err
	}))
	return all
}
