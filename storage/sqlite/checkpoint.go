package sqlite

import "context"

// walPages is how long the write-ahead log may grow before it is copied into the file: 4 MB. Longer makes
// fewer writes of the same page, and a longer start after a crash.
const walPages = 1000

// checkpointer copies the write-ahead log into the file. The bulk of it is copied beside the writer; then the
// writer is held up for what it has added meanwhile, which is little, so that it may begin the log anew.
type checkpointer struct {
	engine *engine
	wake   chan struct{} // capacity 1
	stop   chan struct{}
	ended  chan struct{}
}

func startCheckpointer(e *engine) *checkpointer {
	c := &checkpointer{engine: e, wake: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	go c.run()
	return c
}

func (c *checkpointer) close() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	<-c.ended
}

// committed looks how long the log is after a commit. Errors are left to the next one.
func (c *checkpointer) committed(conn *connection) {
	if wal, done, err := conn.checkpoint("PRAGMA wal_checkpoint(NOOP)"); err != nil || wal-done < walPages {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *checkpointer) run() {
	defer close(c.ended)
	for {
		select {
		case <-c.stop:
			return
		case <-c.wake:
			c.checkpoint()
		}
	}
}

func (c *checkpointer) checkpoint() {
	for _, p := range []*pool{c.engine.read, c.engine.write} {
		conn, err := p.take(context.Background())
		if err != nil {
			return
		}
		conn.checkpoint("PRAGMA wal_checkpoint(PASSIVE)") //nolint:errcheck // tried again after the next commit
		p.put(conn)
	}
}

// checkpoint runs a checkpoint and returns how many pages the log has, and how many of them are copied.
func (c *connection) checkpoint(pragma string) (wal, done int, err error) {
	rows, err := c.QueryContext(context.Background(), pragma)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	var busy int
	for rows.Next() {
		if err := rows.Scan(&busy, &wal, &done); err != nil {
			return 0, 0, err
		}
	}
	return wal, done, rows.Err()
}
