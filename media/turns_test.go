package media

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// TestTurns: a group that is full keeps no other from its turn, and nothing stays of those that are through.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ts turns
		slow, other := turnOf{"slow", 2}, turnOf{"other", 1}
		first, err := ts.take(t.Context(), slow)
		require.NoError(t, err)
		second, err := ts.take(t.Context(), slow)
		require.NoError(t, err)
		third := make(chan func())
		go func() {
			done, err := ts.take(t.Context(), slow)
			require.NoError(t, err)
			third <- done
		}()
		synctest.Wait()
		done, err := ts.take(t.Context(), other)
		require.NoError(t, err)
		done()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = ts.take(ctx, slow)
		require.ErrorIs(t, err, context.Canceled)
		select {
		case <-third:
			require.Fail(t, "three at a time")
		default:
		}
		first()
		(<-third)()
		second()
		require.Empty(t, ts.by)
	})
}
