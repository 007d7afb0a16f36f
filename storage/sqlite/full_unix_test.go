//go:build unix

package sqlite_test

import (
	"errors"
	"fmt"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
)

// TestFullDisk: a commit that finds the disk full is refused, reads go on, and writes do when there is room again.
func TestFullDisk(t *testing.T) {
	out, err := second(t, "full", filepath.Join(t.TempDir(), "test.db")).Output()
	require.NoError(t, err, "%s", out)
}

// fillDisk lets the files grow no more, which is how a process can make a full disk for itself alone.
func fillDisk(db *storage.DB) error {
	signal.Ignore(syscall.SIGXFSZ)
	if err := note(db, 1, 10); err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	small := limit
	small.Cur = 1 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		return err
	}
	full := 0
	for n := 2; full < 5; n++ {
		switch err := note(db, n, 50_000); {
		case err != nil:
			full++
		case n > 1000:
			return errors.New("the disk is never full")
		}
		if _, err := eventOf(db, 1); err != nil {
			return fmt.Errorf("a read while the disk is full: %w", err)
		}
		if _, err := eventOf(db, n); (err == nil) == (full > 0) {
			return fmt.Errorf("note %d is stored: %v, refused: %d", n, err == nil, full)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := note(db, 5000, 50_000); err != nil {
		return fmt.Errorf("a write when there is room again: %w", err)
	}
	if _, err := eventOf(db, 5000); err != nil {
		return err
	}
	return db.Close()
}
