// Package media keeps files: the bytes that users upload, under names that the server gives.
//
// What is known about a file (its type, its owner, its original name) is a row in storage. The bytes are in a [Store],
// so that they can live in a folder, in memory or in a bucket.
package media

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ErrNotFound is returned for a key under which a Store holds nothing.
var ErrNotFound = errors.New("media: not found")

// Store keeps bytes under a key.
//
// A key is 1 to 255 bytes of valid UTF-8 and has no meaning: "a/b", "../a" and "A" are three keys beside "a", and none
// of them is a path. All methods may be called at the same time from many goroutines, for the same key too.
//
// [Dir] and [Memory] are stores. Package mediatest has the suite that every implementation should pass.
type Store interface {
	// Put reads r to its end and keeps the bytes under key, in place of what was there.
	//
	// It is all or nothing: a Get at any moment sees the old file or the new one, whole. When Put returns nil the
	// bytes outlive a crash of the process and of the machine (unless the store lives in memory and says so).
	// After any error, one of r or of ctx among them, what was under key before is still there.
	//
	// size is the number of bytes in r; a reader that gives more or fewer is an error. -1 means unknown.
	Put(ctx context.Context, key string, r io.Reader, size int64) error

	// Get opens length bytes of the file from offset on, and tells how long the whole file is.
	//
	// A negative length means to the end. What lies past the end is left out: the reader is then shorter than
	// length, or empty. A negative offset is an error. A key that holds nothing is ErrNotFound.
	//
	// The caller closes the reader. It gives the file that was there when Get returned even if the key is put or
	// deleted meanwhile, or it gives an error; it never mixes two files. ctx holds until the reader is closed.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, int64, error)

	// Delete forgets the file, for good when it returns nil. A key that holds nothing is no error.
	Delete(ctx context.Context, key string) error
}

const maxKey = 255 // bytes, of the Store contract

// CheckKey returns an error for what is no key: for those who implement a Store.
func CheckKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("media: key of %d bytes, must be 1 to %d", len(key), maxKey)
	}
	return nil
}

// exactly copies r to w and returns an error unless it was size bytes; a size of -1 accepts any number.
func exactly(ctx context.Context, w io.Writer, r io.Reader, size int64) error {
	r = contextReader{ctx, r}
	if size >= 0 {
		r = io.LimitReader(r, size+1) // one more, to notice a longer one
	}
	n, err := io.Copy(w, r)
	if err != nil {
		return err
	}
	if size >= 0 && n != size {
		return fmt.Errorf("read %s %d bytes, announced were %d", moreOr(n > size), n, size)
	}
	return nil
}

func moreOr(longer bool) string {
	if longer {
		return "at least"
	}
	return "only"
}

// contextReader gives the error of ctx once that has ended. A Read under way is not interrupted.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// part returns the range [from, to) of a file of total bytes that offset and length ask for.
func part(offset, length, total int64) (from, to int64, err error) {
	if offset < 0 {
		return 0, 0, fmt.Errorf("media: negative offset %d", offset)
	}
	from = min(offset, total)
	if length < 0 || length > total-from {
		return from, total, nil
	}
	return from, from + length, nil
}
