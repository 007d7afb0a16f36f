package media

import (
	"context"
	"sync"
)

// turns let a few of a group do something at a time, while the others wait.
type turns struct {
	mu sync.Mutex // guards the following
	by map[string]*turnGroup
}

// turnOf names a group and how many of it have their turn at a time.
type turnOf struct {
	group string
	most  int
}

type turnGroup struct {
	room chan struct{}
	n    int // who has a turn or waits for it
}

// take waits for a turn, and returns what to call behind it, or the error of ctx.
func (t *turns) take(ctx context.Context, of turnOf) (done func(), err error) {
	here := t.join(of)
	select {
	case here.room <- struct{}{}:
		return func() { <-here.room; t.leave(of, here) }, nil
	case <-ctx.Done():
		t.leave(of, here)
		return nil, ctx.Err()
	}
}

func (t *turns) join(of turnOf) *turnGroup {
	t.mu.Lock()
	defer t.mu.Unlock()
	here := t.by[of.group]
	if here == nil {
		here = &turnGroup{room: make(chan struct{}, of.most)}
		if t.by == nil {
			t.by = map[string]*turnGroup{}
		}
		t.by[of.group] = here
	}
	here.n++
	return here
}

func (t *turns) leave(of turnOf, here *turnGroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if here.n--; here.n == 0 {
		delete(t.by, of.group)
	}
}
