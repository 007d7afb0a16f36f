package media

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// Dir returns a Store that keeps each file under the folder path, which is made with the first file.
//
// A file is named for the SHA-256 of its key, so no key can lead out of the folder or collide with another where upper
// and lower case are one. It is written to a temporary name, synced, renamed, and its folder synced. Temporary files
// that a crash left behind are removed by a later process once they are a day old. Nothing else may write there.
func Dir(path string) Store {
	return &dir{root: path}
}

type dir struct {
	root   string
	sweep  sync.Once // removes what crashed writers left
	shards sync.Map  // name of a shard → struct{}: those known to be on disk
}

// leftover is the age at which a temporary file cannot belong to a running Put any more.
const leftover = 24 * time.Hour

func (d *dir) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	d.sweep.Do(d.removeLeftovers)
	temp, err := d.writeTemp(ctx, r, size)
	if err != nil {
		return fmt.Errorf("media: put %q: %w", key, err)
	}
	if err := d.publish(temp, key); err != nil {
		os.Remove(temp) // the error that matters is the one returned
		return fmt.Errorf("media: put %q: %w", key, err)
	}
	return nil
}

func (d *dir) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	file, err := os.Open(d.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, ErrNotFound
	}
	if err != nil {
		return nil, 0, fmt.Errorf("media: get %q: %w", key, err)
	}
	section, total, err := sectionOf(file, offset, length)
	if err != nil {
		file.Close() // only read
		return nil, 0, fmt.Errorf("media: get %q: %w", key, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{section, file}, total, nil
}

func (d *dir) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path := d.path(key)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("media: delete %q: %w", key, err)
	}
	return syncDir(filepath.Dir(path))
}

// path is root/ab/cdef…, of the key's hash abcdef….
func (d *dir) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(d.root, name[:2], name[2:])
}

func (d *dir) tempDir() string { return filepath.Join(d.root, "tmp") }

// writeTemp stores the bytes, durably, under a name that no key has, and returns it.
func (d *dir) writeTemp(ctx context.Context, r io.Reader, size int64) (string, error) {
	if err := os.MkdirAll(d.tempDir(), 0o700); err != nil {
		return "", err
	}
	file, err := os.CreateTemp(d.tempDir(), "put-*")
	if err != nil {
		return "", err
	}
	err = errors.Join(fill(ctx, file, r, size), file.Close())
	if err != nil {
		os.Remove(file.Name()) // the error that matters is the one returned
		return "", err
	}
	return file.Name(), nil
}

func fill(ctx context.Context, file *os.File, r io.Reader, size int64) error {
	if err := exactly(ctx, file, r, size); err != nil {
		return err
	}
	return file.Sync()
}

// publish gives the temporary file its name for good.
func (d *dir) publish(temp, key string) error {
	path := d.path(key)
	if err := d.makeShard(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// makeShard makes sure that a folder for files is there and outlives a crash.
func (d *dir) makeShard(shard string) error {
	if _, ok := d.shards.Load(shard); ok {
		return nil
	}
	if err := os.MkdirAll(shard, 0o700); err != nil {
		return err
	}
	if err := errors.Join(syncDir(d.root), syncDir(filepath.Dir(d.root))); err != nil {
		return err
	}
	d.shards.Store(shard, struct{}{})
	return nil
}

// removeLeftovers is housekeeping: what it cannot remove stays, and is tried again by the next process.
func (d *dir) removeLeftovers() {
	entries, err := os.ReadDir(d.tempDir())
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && time.Since(info.ModTime()) > leftover {
			os.Remove(filepath.Join(d.tempDir(), entry.Name())) // see above
		}
	}
}

func sectionOf(file *os.File, offset, length int64) (io.Reader, int64, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	from, to, err := part(offset, length, info.Size())
	if err != nil {
		return nil, 0, err
	}
	return io.NewSectionReader(file, from, to-from), info.Size(), nil
}

// syncDir makes the names in a folder durable. Windows has no such call: it journals names by itself.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
