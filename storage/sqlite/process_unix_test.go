//go:build unix

package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// TestMain runs the tests, or as a second process the one function it is asked for.
func TestMain(m *testing.M) {
	if task := os.Getenv("SECOND_PROCESS"); task != "" {
		os.Exit(secondProcess(task, os.Getenv("DATABASE")))
	}
	os.Exit(m.Run())
}

// TestKill: what was acknowledged before a kill is there afterwards, and the file opens at once.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	acknowledged := 0
	for range 3 {
		acknowledged = writeUntilKilled(t, path, acknowledged)
		start := time.Now()
		e, err := sqlite.Open(path)
		require.NoError(t, err)
		db, err := storage.Open(context.Background(), e)
		require.NoError(t, err)
		require.Less(t, time.Since(start), 2*time.Second, "open after a kill")
		for i := range acknowledged {
			require.True(t, noted(t, db, i), "note %d of %d acknowledged", i, acknowledged)
		}
		require.NoError(t, db.Close())
	}
}

// writeUntilKilled runs a process that writes notes from a number on, kills it and returns the number after the
// last note it has acknowledged. It may have written one more.
func writeUntilKilled(t *testing.T, path string, from int) int {
	t.Helper()
	cmd := second(t, "write", path)
	cmd.Env = append(cmd.Env, fmt.Sprint("FROM=", from))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for range 200 {
		require.True(t, lines.Scan(), "the writing process has ended: %v", lines.Err())
		_, err := fmt.Sscan(lines.Text(), &from)
		require.NoError(t, err)
	}
	require.NoError(t, cmd.Process.Kill())
	for lines.Scan() {
		_, err := fmt.Sscan(lines.Text(), &from)
		require.NoError(t, err)
	}
	require.Error(t, cmd.Wait())
	return from + 1
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db := openFile(t, path)
	out, err := second(t, "open", path).CombinedOutput()
	require.Error(t, err, "a second process beside this one")
	require.Contains(t, string(out), "another process uses this database")
	require.NoError(t, db.Close())
	out, err = second(t, "open", path).CombinedOutput()
	require.NoError(t, err, "a process after this one: %s", out)
}

func second(t *testing.T, task, path string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SECOND_PROCESS="+task, "DATABASE="+path)
	cmd.Stderr = os.Stderr
	if task == "open" {
		cmd.Stderr = nil
	}
	return cmd
}

func secondProcess(task, path string) int {
	e, err := sqlite.Open(path)
	if err == nil {
		var db *storage.DB
		if db, err = storage.Open(context.Background(), e); err == nil {
			err = tasks[task](db)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var tasks = map[string]func(*storage.DB) error{
	"open":  (*storage.DB).Close,
	"write": writeForEver,
	"full":  fillDisk,
}

// writeForEver writes notes and prints the number of each when it is acknowledged.
func writeForEver(db *storage.DB) error {
	var n int
	if _, err := fmt.Sscan(os.Getenv("FROM"), &n); err != nil {
		return err
	}
	for ; ; n++ {
		if _, err := eventOf(db, n); err == nil {
			continue // written before the kill, though not acknowledged
		}
		if err := note(db, n, 1000); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

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
