package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/embedmatrix/homeserver/storage"
)

// Snapshot returns a new engine on a copy in memory of everything that is committed.
func (e *engine) Snapshot(ctx context.Context) (storage.Engine, error) {
	image, err := e.serialized(ctx)
	if err != nil {
		return nil, fmt.Errorf("sqlite: copy the database: %w", err)
	}
	return memory(image), nil
}

// serialized is the database as the bytes of a file.
func (e *engine) serialized(ctx context.Context) (image []byte, err error) {
	c, err := e.read.take(ctx)
	if err != nil {
		return nil, err
	}
	defer e.read.put(c)
	if err := c.begin(true); err != nil {
		return nil, err
	}
	defer c.exec("ROLLBACK") //nolint:errcheck // nothing was written
	// The first read makes the snapshot that the pages are taken from.
	if _, err := c.ExecContext(context.Background(), "SELECT 1 FROM sqlite_schema LIMIT 1"); err != nil {
		return nil, err
	}
	err = c.conn.Raw(func(driver any) error {
		image, err = driver.(interface{ Serialize() ([]byte, error) }).Serialize()
		return err
	})
	if err == nil {
		withoutWAL(image)
	}
	return image, err
}

// withoutWAL marks an image as one without a write-ahead log, which a database in memory cannot have.
func withoutWAL(image []byte) {
	const writeVersion, readVersion = 18, 19 // offsets in the header, "File format version numbers"
	if len(image) > readVersion {
		image[writeVersion], image[readVersion] = 1, 1
	}
}

// Backup writes everything that is committed into a new file at path, while reads and writes go on. It is
// complete and durable when Backup returns; after an error there is no file.
func (e *engine) Backup(ctx context.Context, path string) error {
	err := e.backup(ctx, path)
	if err != nil && !errors.Is(err, os.ErrExist) {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return fmt.Errorf("sqlite: back up to %s: %w", path, err)
	}
	return nil
}

func (e *engine) backup(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) // VACUUM INTO takes an empty file
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := e.read.take(ctx)
	if err != nil {
		return err
	}
	if err = c.setReadOnly(false); err == nil {
		_, err = c.ExecContext(context.WithoutCancel(ctx), "VACUUM INTO ?", path)
	}
	e.read.put(c)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
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
