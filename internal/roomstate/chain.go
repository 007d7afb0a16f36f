package roomstate

import (
	"context"
	"fmt"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/stateres"
	"github.com/embedmatrix/homeserver/storage"
)

// chains is a room's auth graph for its readers. It is apart from that of the writer, so that no reader has to wait
// for the room's lock and no writer for a reader; it is read when somebody asks first, and brought up to date by
// whoever asks later.
type chains struct {
	mu sync.RWMutex // guards the following; no I/O under it
	// graph has what is stored up to and with the position upTo; 0 is nothing.
	graph stateres.Graph
	upTo  storage.Pos
}

// AuthChain returns the positions in the full auth chain of some stored state events of the room, newest first:
// themselves not included unless another's chain has them. It does not wait for the room's lock.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#definitions
func (r *Room) AuthChain(ctx context.Context, of []storage.Pos) ([]storage.Pos, error) {
	if err := r.chains.update(ctx, r); err != nil {
		return nil, fmt.Errorf("auth graph of %s: %w", r.ID, err)
	}
	r.chains.mu.RLock()
	defer r.chains.mu.RUnlock()
	var chain []storage.Pos
	r.chains.graph.Chain(of, func(pos storage.Pos) bool {
		chain = append(chain, pos)
		return true
	})
	return chain, nil
}

// update adds what was stored since. Several may do so at a time.
func (c *chains) update(ctx context.Context, r *Room) error {
	c.mu.RLock()
	upTo := c.upTo
	c.mu.RUnlock()
	if upTo == 0 {
		return c.read(ctx, r)
	}
	var nodes []storage.AuthNode
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) (err error) {
		nodes, err = tx.AuthGraphAfter(r.Num, upTo)
		return err
	})
	if err != nil || len(nodes) == 0 {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.graph.Cost()
	for i := range nodes {
		c.addLocked(&nodes[i])
	}
	r.base.Add(int64(c.graph.Cost() - before))
	return nil
}

// read reads the graph as a whole.
func (c *chains) read(ctx context.Context, r *Room) error {
	g, err := r.readGraph(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.upTo != 0 { // another was faster
		return nil
	}
	c.graph = g.Graph
	for pos := range g.numbers {
		c.upTo = max(c.upTo, pos)
	}
	r.base.Add(int64(c.graph.Cost()))
	return nil
}

// addLocked adds a node. Rows are committed in the order of their positions, so nothing before it comes later.
func (c *chains) addLocked(n *storage.AuthNode) {
	addNode(&c.graph, n)
	c.upTo = max(c.upTo, n.Pos)
}

// EventIDs returns the ids of the room's stored events at positions, in that order, without reading the events that are
// not in memory. A position without one is an error.
func (r *Room) EventIDs(ctx context.Context, positions []storage.Pos) ([]id.EventID, error) {
	ids := make([]id.EventID, len(positions))
	var ask []storage.Pos
	for i, pos := range positions {
		if e := r.inMemory(pos); e != nil {
			ids[i] = e.ID
		} else {
			ask = append(ask, pos)
		}
	}
	if len(ask) == 0 {
		return ids, nil
	}
	var known map[storage.Pos]id.EventID
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) (err error) {
		known, err = tx.EventIDsAt(ask)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read ids of events of %s: %w", r.ID, err)
	}
	for i, pos := range positions {
		if ids[i] != "" {
			continue
		}
		eventID, ok := known[pos]
		if !ok {
			return nil, fmt.Errorf("read ids of events of %s: there is none at %d", r.ID, pos)
		}
		ids[i] = eventID
	}
	return ids, nil
}

// StatePositions returns the positions of all entries of a state, in the order in which their keys first came up.
func (r *Room) StatePositions(ctx context.Context, root Root) ([]storage.Pos, error) {
	var positions []storage.Pos
	err := r.cache.trees.Each(ctx, root, func(_ int64, pos storage.Pos) { positions = append(positions, pos) })
	return positions, err
}

// Past returns at most limit events of the room with a place before ord, newest first, whatever this server thinks of
// them: rejected ones and outliers are among them.
func (r *Room) Past(ctx context.Context, ord int64, limit int) ([]*Event, error) {
	return r.history(ctx, func(tx *storage.Tx) ([]storage.Event, error) {
		return tx.EventsBackwards(r.Num, ord, limit)
	})
}

// EventsNear returns at most limit timeline events whose origin_server_ts is ts or later, the earliest first, or with
// backwards ts or earlier, the latest first, without the first few. It knows what storage has noted the times of.
func (r *Room) EventsNear(ctx context.Context, ts int64, backwards bool, limit, skip int) ([]*Event, error) {
	return r.history(ctx, func(tx *storage.Tx) ([]storage.Event, error) {
		if backwards {
			return tx.EventsUntil(r.Num, ts, limit, skip)
		}
		return tx.EventsFrom(r.Num, ts, limit, skip)
	})
}
