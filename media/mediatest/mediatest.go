// Package mediatest has the suite that an implementation of media.Store should pass.
//
//	func TestBucket(t *testing.T) {
//		mediatest.Run(t, func(t *testing.T) media.Store { return newBucket(t) })
//	}
package mediatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/media"
)

// Run checks the contract of media.Store against the empty store that open returns, a new one for each subtest.
func Run(t *testing.T, open func(t *testing.T) media.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, media.Store)
	}{
		{"what is put is got", putGet},
		{"ranges", ranges},
		{"a key that holds nothing", missing},
		{"put replaces", replace},
		{"a refused put changes nothing", refused},
		{"an open reader keeps its file", openReader},
		{"delete", remove},
		{"keys are no paths", keys},
		{"bad arguments", badArguments},
		{"an ended context", endedContext},
		{"many at once", concurrent},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func putGet(t *testing.T, s media.Store) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for _, file := range []string{"", "x", string(large)} {
		put(t, s, "known", file)
		requireFile(t, s, "known", file)

		require.NoError(t, s.Put(t.Context(), "unknown", strings.NewReader(file), -1), "Put of a size that is not known")
		requireFile(t, s, "unknown", file)

		slow := iotest.OneByteReader(strings.NewReader(file[:min(len(file), 100)]))
		require.NoError(t, s.Put(t.Context(), "slow", slow, int64(min(len(file), 100))), "Put of a slow reader")
		requireFile(t, s, "slow", file[:min(len(file), 100)])
	}
}

func ranges(t *testing.T, s media.Store) {
	put(t, s, "file", "0123456789")
	for _, tt := range []struct {
		offset, length int64
		want           string
	}{
		{0, -1, "0123456789"},
		{0, 10, "0123456789"},
		{0, 3, "012"},
		{4, 2, "45"},
		{4, -1, "456789"},
		{8, 100, "89"},
		{8, 1<<63 - 1, "89"},
		{3, 0, ""},
		{10, -1, ""},
		{10, 5, ""},
		{99, -1, ""},
		{1<<63 - 1, 1<<63 - 1, ""},
	} {
		got, total := get(t, s, "file", tt.offset, tt.length)
		require.Equal(t, tt.want, got, "Get(offset %d, length %d)", tt.offset, tt.length)
		require.Equal(t, int64(10), total, "total of Get(offset %d, length %d)", tt.offset, tt.length)
	}
}

func missing(t *testing.T, s media.Store) {
	_, _, err := s.Get(t.Context(), "nothing", 0, -1)
	require.ErrorIs(t, err, media.ErrNotFound, "Get of a key that holds nothing")
	require.NoError(t, s.Delete(t.Context(), "nothing"), "Delete of a key that holds nothing")
}

func replace(t *testing.T, s media.Store) {
	put(t, s, "file", "the first, which is longer")
	put(t, s, "file", "the second")
	requireFile(t, s, "file", "the second")
}

func refused(t *testing.T, s media.Store) {
	broken := errors.New("broken")
	puts := func(t *testing.T, key string) {
		err := s.Put(t.Context(), key, io.MultiReader(strings.NewReader("ha"), iotest.ErrReader(broken)), 4)
		require.ErrorIs(t, err, broken, "Put of a reader that breaks")
		err = s.Put(t.Context(), key, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), -1)
		require.ErrorIs(t, err, broken, "Put of a reader that breaks, of unknown size")
		err = s.Put(t.Context(), key, strings.NewReader("short"), 6)
		require.Error(t, err, "Put of fewer bytes than announced")
		err = s.Put(t.Context(), key, strings.NewReader("longer"), 5)
		require.Error(t, err, "Put of more bytes than announced")
	}
	puts(t, "new")
	_, _, err := s.Get(t.Context(), "new", 0, -1)
	require.ErrorIs(t, err, media.ErrNotFound, "Get after refused Puts")

	put(t, s, "old", "whole")
	puts(t, "old")
	requireFile(t, s, "old", "whole")
}

// openReader accepts an error instead of the old bytes, as the contract does, but no other bytes.
func openReader(t *testing.T, s media.Store) {
	old := strings.Repeat("old", 100_000)
	for name, change := range map[string]func() error{
		"put":    func() error { return s.Put(context.Background(), "file", strings.NewReader("new"), 3) },
		"delete": func() error { return s.Delete(context.Background(), "file") },
	} {
		put(t, s, "file", old)
		r, _, err := s.Get(t.Context(), "file", 0, -1)
		require.NoError(t, err)
		err = change()
		got, readErr := io.ReadAll(r)
		require.NoError(t, r.Close())
		if err == nil && readErr == nil {
			require.True(t, string(got) == old, "a reader from before the %s gave %d bytes, not the old %d", name, len(got), len(old))
		}
	}
}

func remove(t *testing.T, s media.Store) {
	put(t, s, "gone", "x")
	put(t, s, "stays", "y")
	require.NoError(t, s.Delete(t.Context(), "gone"))
	_, _, err := s.Get(t.Context(), "gone", 0, -1)
	require.ErrorIs(t, err, media.ErrNotFound, "Get of a deleted key")
	requireFile(t, s, "stays", "y")

	put(t, s, "gone", "back")
	requireFile(t, s, "gone", "back")
}

func keys(t *testing.T, s media.Store) {
	all := []string{
		"a", "A", "a/b", "a/", "/a", "a//b", "./a", "../a", "../../../../a", ".", "..", "a\\b", "..\\a", "c:\\a", "c:a",
		"tmp", "CON", "nul.txt", "a ", "a.", " ", "%2e%2e%2fa", "*?<>|\"", "\n", "\x7f", "ß", "é", "e\u0301", "😀",
		strings.Repeat("k", 255), strings.Repeat("/", 255), strings.Repeat("../", 85),
	}
	for i, key := range all {
		put(t, s, key, fmt.Sprintf("file %d", i))
	}
	for i, key := range all {
		requireFile(t, s, key, fmt.Sprintf("file %d", i))
	}
	for i, key := range all {
		require.NoError(t, s.Delete(t.Context(), key), "Delete(%q)", key)
		_, _, err := s.Get(t.Context(), key, 0, -1)
		require.ErrorIs(t, err, media.ErrNotFound, "Get(%q) after Delete", key)
		if i+1 < len(all) {
			requireFile(t, s, all[i+1], fmt.Sprintf("file %d", i+1))
		}
	}
}

func badArguments(t *testing.T, s media.Store) {
	require.Error(t, s.Put(t.Context(), "", strings.NewReader("x"), 1), "Put under an empty key")
	require.Error(t, s.Put(t.Context(), strings.Repeat("k", 256), strings.NewReader("x"), 1), "Put under a key of 256 bytes")
	put(t, s, "file", "x")
	_, _, err := s.Get(t.Context(), "file", -1, 1)
	require.Error(t, err, "Get from a negative offset")
}

func endedContext(t *testing.T, s media.Store) {
	put(t, s, "file", "whole")
	ended, end := context.WithCancel(t.Context())
	end()
	err := s.Put(ended, "file", strings.NewReader("x"), 1)
	require.ErrorIs(t, err, context.Canceled, "Put with an ended context")
	_, _, err = s.Get(ended, "file", 0, -1)
	require.ErrorIs(t, err, context.Canceled, "Get with an ended context")
	err = s.Delete(ended, "file")
	require.ErrorIs(t, err, context.Canceled, "Delete with an ended context")
	requireFile(t, s, "file", "whole")
}

// concurrent has writers replace, delete and read one key at once: whatever is read is one of the files, whole.
func concurrent(t *testing.T, s media.Store) {
	const writers, rounds, length = 8, 20, 10_000
	whole := func(got []byte) bool {
		return len(got) == length && bytes.Count(got, got[:1]) == length
	}
	var wg sync.WaitGroup
	for writer := range writers {
		file := bytes.Repeat([]byte{byte('a' + writer)}, length)
		wg.Go(func() {
			for round := range rounds {
				if err := s.Put(t.Context(), "shared", bytes.NewReader(file), length); err != nil {
					t.Errorf("Put: %v", err)
				}
				got, err := read(t.Context(), s, "shared")
				if err == nil && !whole(got) {
					t.Errorf("Get gave a mix of files (%d bytes)", len(got))
				}
				if err != nil && !errors.Is(err, media.ErrNotFound) {
					t.Errorf("Get: %v", err)
				}
				if round%5 == writer%5 {
					if err := s.Delete(t.Context(), "shared"); err != nil {
						t.Errorf("Delete: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func put(t *testing.T, s media.Store, key, file string) {
	t.Helper()
	require.NoError(t, s.Put(t.Context(), key, strings.NewReader(file), int64(len(file))), "Put(%q)", key)
}

func get(t *testing.T, s media.Store, key string, offset, length int64) (string, int64) {
	t.Helper()
	r, total, err := s.Get(t.Context(), key, offset, length)
	require.NoError(t, err, "Get(%q, %d, %d)", key, offset, length)
	got, err := io.ReadAll(r)
	require.NoError(t, err, "read of %q", key)
	require.NoError(t, r.Close())
	return string(got), total
}

func requireFile(t *testing.T, s media.Store, key, want string) {
	t.Helper()
	got, total := get(t, s, key, 0, -1)
	require.True(t, got == want, "Get(%q) gave %d bytes, not the %d that were put", key, len(got), len(want))
	require.Equal(t, int64(len(want)), total, "total of Get(%q)", key)
}

func read(ctx context.Context, s media.Store, key string) ([]byte, error) {
	r, _, err := s.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(r)
	return got, errors.Join(err, r.Close())
}
