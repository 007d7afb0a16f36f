//go:build unix

package main

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestEndsInOrder: when it is told to end, a waiting sync is answered with 200, and the status is 0 in under 5 s.
func TestEndsInOrder(t *testing.T) {
	p := started(t, t.TempDir(), freeAddr(t))
	c := newClient(p.url).as(logInAsOwner(t, p).Token)
	var first syncAnswer
	require.NoError(t, c.read(t.Context(), "/sync", &first))
	waited := make(chan error, 1)
	go func() {
		waited <- c.read(context.Background(), "/sync?timeout=30000&since="+first.NextBatch, &syncAnswer{})
	}()
	time.Sleep(200 * time.Millisecond) // so that it waits; if it does not yet, the test is only weaker

	began := time.Now()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		require.FailNow(t, "it runs on", "%s", p.output)
	}
	require.Equal(t, 0, p.cmd.ProcessState.ExitCode(), "after %v:\n%s", time.Since(began), p.output)
	require.NoError(t, <-waited, "the waiting sync")
	require.NotContains(t, p.output.String(), "level=ERROR")
}
