package homeserver

import (
	"context"
	"fmt"
	"sync"
)

// tally counts what is under way and lets somebody wait for none.
type tally struct {
	mu sync.Mutex // guards the following
	// n is how many there are; none is closed when it falls to zero while somebody waits.
	n    int
	none chan struct{}
}

func (t *tally) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
}

func (t *tally) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 && t.none != nil {
		close(t.none)
		t.none = nil
	}
}

// wait returns when there is none, or ctx ends.
func (t *tally) wait(ctx context.Context) error {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.none == nil {
		t.none = make(chan struct{})
	}
	none := t.none
	t.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("requests are still under way: %w", ctx.Err())
	}
}
