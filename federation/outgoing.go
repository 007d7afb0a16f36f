package federation

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	keptRows   = 1 << 15 // newest rows of mx_outgoing in memory, at least; twice as many at most
	rowsAtOnce = 1000    // read in one query
	keptNames  = 200_000 // names in sets in memory, about 8 MB
	setsAtOnce = 100

	keptEvents     = 8 << 20 // bytes of events in memory
	eventsAreFresh = 5 * time.Second
)

// journal reads mx_outgoing for all destinations: what is committed and published, in order. Its newest rows and the
// sets they name are in memory, so that what is new is read once and not by each.
type journal struct {
	db   *storage.DB
	gate chan struct{} // capacity 1: held by who reads new rows

	mu       sync.Mutex // guards the following
	rows     []storage.Outgoing
	from, to storage.Pos // rows are all those in (from, to]
	sets     map[int64][]id.ServerName
	names    int         // in sets
	sweptAt  storage.Pos // everything up to here was swept
}

func newJournal(db *storage.DB) *journal {
	return &journal{db: db, gate: make(chan struct{}, 1), sets: map[int64][]id.ServerName{}}
}

// end is up to where rows were read.
func (j *journal) end() storage.Pos {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.to
}

func (j *journal) sweptTo() storage.Pos {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sweptAt
}

func (j *journal) swept(upTo storage.Pos) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sweptAt = upTo
}

// each calls fn for everything behind a position that is sent to a server, in order, until it returns false. It returns
// up to where it has looked.
func (j *journal) each(ctx context.Context, name id.ServerName, after storage.Pos, fn func(storage.Outgoing) bool) (storage.Pos, error) {
	isIn := map[int64]bool{}
	return j.scan(ctx, after, func(rows []storage.Outgoing) (int, error) {
		if err := j.ask(ctx, name, rows, isIn); err != nil {
			return 0, err
		}
		for i, o := range rows {
			if isIn[o.Set] && !fn(o) {
				return i + 1, nil
			}
		}
		return len(rows), nil
	})
}

// ask finds out which of the sets that rows name a server is in.
func (j *journal) ask(ctx context.Context, name id.ServerName, rows []storage.Outgoing, isIn map[int64]bool) error {
	var unknown []int64
	for _, o := range rows {
		if _, ok := isIn[o.Set]; !ok {
			isIn[o.Set] = false
			unknown = append(unknown, o.Set)
		}
	}
	for part := range slices.Chunk(unknown, setsAtOnce) {
		sets, err := j.serverSets(ctx, part)
		if err != nil {
			return err
		}
		for number, names := range sets {
			_, isIn[number] = slices.BinarySearch(names, name)
		}
	}
	return nil
}

// newest returns the newest position at which anything is sent to each set, of what was not swept, and up to where it
// has looked.
func (j *journal) newest(ctx context.Context) (map[int64]storage.Pos, storage.Pos, error) {
	newest := map[int64]storage.Pos{}
	upTo, err := j.scan(ctx, j.sweptTo(), func(rows []storage.Outgoing) (int, error) {
		for _, o := range rows {
			newest[o.Set] = o.At
		}
		return len(rows), nil
	})
	return newest, upTo, err
}

// scan calls fn with all rows behind a position, in order and in parts, until it takes fewer than it was given. It
// returns up to where they were taken.
func (j *journal) scan(ctx context.Context, after storage.Pos, fn func([]storage.Outgoing) (int, error)) (storage.Pos, error) {
	if err := j.advance(ctx); err != nil {
		return after, err
	}
	j.mu.Lock()
	rows, from, to := j.rows, j.from, j.to
	j.mu.Unlock()
	after, whole, err := j.scanStored(ctx, after, from, fn)
	if err != nil || !whole {
		return after, err
	}
	i, _ := slices.BinarySearchFunc(rows, after+1, func(o storage.Outgoing, at storage.Pos) int { return int(min(max(o.At-at, -1), 1)) })
	for part := range slices.Chunk(rows[i:], rowsAtOnce) {
		n, err := fn(part)
		if err != nil {
			return after, err
		}
		if n < len(part) {
			return part[n-1].At, nil
		}
		after = part[n-1].At
	}
	return max(after, to), nil
}

// scanStored is scan for what is not in memory; whole says that all was taken.
func (j *journal) scanStored(ctx context.Context, after, upTo storage.Pos, fn func([]storage.Outgoing) (int, error)) (_ storage.Pos, whole bool, err error) {
	for after < upTo {
		rows, err := j.read(ctx, after, upTo)
		if err != nil {
			return after, false, err
		}
		n, err := fn(rows)
		if err != nil {
			return after, false, err
		}
		if n < len(rows) {
			return rows[n-1].At, false, nil
		}
		if len(rows) < rowsAtOnce {
			return upTo, true, nil
		}
		after = rows[n-1].At
	}
	return after, true, nil
}

func (j *journal) read(ctx context.Context, after, upTo storage.Pos) (rows []storage.Outgoing, err error) {
	err = j.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err = tx.Outgoing(after, upTo, rowsAtOnce)
		return err
	})
	return rows, err
}

// advance reads the rows that were published since.
func (j *journal) advance(ctx context.Context) error {
	upTo := j.db.Published()
	if j.end() >= upTo {
		return nil
	}
	select {
	case j.gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-j.gate }()
	for to := j.end(); to < upTo; to = j.end() {
		rows, err := j.read(ctx, to, upTo)
		if err != nil {
			return err
		}
		to = upTo
		if len(rows) == rowsAtOnce {
			to = rows[len(rows)-1].At
		}
		j.keep(rows, to)
	}
	return nil
}

// keep puts new rows behind those in memory, whose oldest are dropped. Rows that somebody is reading do not change.
func (j *journal) keep(rows []storage.Outgoing, to storage.Pos) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rows, j.to = append(j.rows, rows...), to
	if len(j.rows) > 2*keptRows {
		j.rows = slices.Clone(j.rows[len(j.rows)-keptRows:])
		j.from = j.rows[0].At - 1
	}
}

// serverSets returns sets of servers by their numbers. One that is not stored is left out.
func (j *journal) serverSets(ctx context.Context, numbers []int64) (map[int64][]id.ServerName, error) {
	found, missing := j.known(numbers)
	if len(missing) == 0 {
		return found, nil
	}
	err := j.db.Read(ctx, func(tx *storage.Tx) error {
		read, err := tx.ServerSets(missing)
		for number, names := range read {
			found[number] = names
			j.remember(number, names)
		}
		return err
	})
	return found, err
}

func (j *journal) known(numbers []int64) (found map[int64][]id.ServerName, missing []int64) {
	found = make(map[int64][]id.ServerName, len(numbers))
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, number := range numbers {
		if names, ok := j.sets[number]; ok {
			found[number] = names
		} else {
			missing = append(missing, number)
		}
	}
	return found, missing
}

// remember keeps a set in memory, in the place of some others.
func (j *journal) remember(number int64, names []id.ServerName) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.sets[number]; ok {
		return
	}
	j.sets[number] = names
	j.names += len(names) + 1
	for other, names := range j.sets {
		if j.names <= keptNames {
			return
		}
		if other != number {
			delete(j.sets, other)
			j.names -= len(names) + 1
		}
	}
}

// eventCache has the events that are being sent, as they are sent, so that one is read once for many servers. What was
// read is used for a few seconds only, since it may be redacted.
type eventCache struct {
	db   *storage.DB
	now  func() time.Time
	gate chan struct{} // capacity 1: held by who reads

	mu    sync.Mutex // guards the following
	texts map[storage.Pos]cachedEvent
	order []storage.Pos // as they were read
	bytes int
}

type cachedEvent struct {
	text []byte
	at   time.Time
}

func newEventCache(db *storage.DB, now func() time.Time) *eventCache {
	return &eventCache{db: db, now: now, gate: make(chan struct{}, 1), texts: map[storage.Pos]cachedEvent{}}
}

// get returns the events at positions, in that order, as canonical JSON in the form of federation; nil stands for one
// that is not here any more.
func (c *eventCache) get(ctx context.Context, positions []storage.Pos) ([][]byte, error) {
	texts, missing := c.fresh(positions)
	if len(missing) == 0 {
		return texts, nil
	}
	select {
	case c.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-c.gate }()
	if texts, missing = c.fresh(positions); len(missing) == 0 {
		return texts, nil // somebody else has read them meanwhile
	}
	read, err := c.read(ctx, missing)
	if err != nil {
		return nil, err
	}
	for i, pos := range positions {
		if texts[i] == nil {
			texts[i] = read[pos]
		}
	}
	return texts, nil
}

// fresh returns what is in memory, and the positions of the rest.
func (c *eventCache) fresh(positions []storage.Pos) (texts [][]byte, missing []storage.Pos) {
	texts = make([][]byte, len(positions))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked()
	for i, pos := range positions {
		if texts[i] = c.texts[pos].text; texts[i] == nil {
			missing = append(missing, pos)
		}
	}
	return texts, missing
}

// dropLocked forgets what is too old, and the oldest beyond the bound.
func (c *eventCache) dropLocked() {
	n := 0
	for _, pos := range c.order {
		e := c.texts[pos]
		if c.bytes <= keptEvents && c.now().Sub(e.at) < eventsAreFresh {
			break
		}
		c.bytes -= len(e.text)
		delete(c.texts, pos)
		n++
	}
	c.order = slices.Delete(c.order, 0, n)
}

func (c *eventCache) read(ctx context.Context, positions []storage.Pos) (map[storage.Pos][]byte, error) {
	var events []storage.Event
	err := c.db.Read(ctx, func(tx *storage.Tx) (err error) {
		events, err = tx.EventsAt(positions)
		return err
	})
	read := make(map[storage.Pos][]byte, len(events))
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range events {
		e := &events[i]
		read[e.Pos] = e.JSON
		c.texts[e.Pos] = cachedEvent{e.JSON, c.now()}
		c.order = append(c.order, e.Pos)
		c.bytes += len(e.JSON)
	}
	return read, err
}
