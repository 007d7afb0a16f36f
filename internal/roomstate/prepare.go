package roomstate

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/storage"
)

// lookup asks for an entry of a state.
type lookup struct {
	root   Root
	number int64
}

// getMany is Get for many at once, in their order: nodes that are not in memory are read by one query a level.
func (t *Trees) getMany(ctx context.Context, asked []lookup) ([]storage.Pos, error) {
	answers := make([]storage.Pos, len(asked))
	at := make([]int64, len(asked)) // the node at which each is, 0 once it is answered
	for i, l := range asked {
		at[i] = l.root
	}
	for {
		nodes, err := t.distinct(ctx, at)
		if err != nil || len(nodes) == 0 {
			return answers, err
		}
		for i, l := range asked {
			n := nodes[at[i]]
			if n == nil {
				continue
			}
			val, ok := int64(0), false
			if l.number < n.reach() {
				val, ok = n.get(slotOf(l.number, n.height))
			}
			at[i] = val
			if !ok || n.height == 0 {
				answers[i], at[i] = val, 0
			}
		}
	}
}

// distinct returns nodes by their ids; 0 is none.
func (t *Trees) distinct(ctx context.Context, ids []int64) (map[int64]*node, error) {
	known := map[int64]*node{}
	var list []int64
	for _, nodeID := range ids {
		if _, again := known[nodeID]; !again && nodeID != 0 {
			known[nodeID] = nil
			list = append(list, nodeID)
		}
	}
	nodes, err := t.nodes(ctx, list)
	if err != nil {
		return nil, err
	}
	for i, nodeID := range list {
		known[nodeID] = nodes[i]
	}
	return known, nil
}

// few is how many events are not worth preparing.
const few = 4

// Prepare reads in a few queries what is needed to decide about these events and to append them. It is never
// necessary: what it did not read is read one by one.
func (v *Viewer) Prepare(ctx context.Context, events []*Event) error {
	if len(events) <= few {
		return nil
	}
	others, err := v.referred(ctx, events)
	if err != nil {
		return err
	}
	return v.prepareViewings(ctx, append(others, events...))
}

// referred returns the events that are told of beside these: the states they replaced and their redactions.
func (v *Viewer) referred(ctx context.Context, events []*Event) ([]*Event, error) {
	var asked []lookup
	var positions []storage.Pos
	for _, e := range events {
		if e.RedactedBy != 0 {
			positions = append(positions, e.RedactedBy)
		}
		if e.StateKey == nil {
			continue
		}
		if n, ok := v.Room.number(Key{e.Type, *e.StateKey}); ok {
			asked = append(asked, lookup{e.Before, n})
		}
	}
	replaced, err := v.Room.cache.trees.getMany(ctx, asked)
	if err != nil {
		return nil, err
	}
	return v.Room.eventsAmong(ctx, append(positions, replaced...))
}

// prepareViewings finds out what counts for the visibility of events.
func (v *Viewer) prepareViewings(ctx context.Context, events []*Event) error {
	var roots []Root
	asked := map[Root]bool{}
	for _, e := range events {
		if _, known := v.before[e.Before]; !known && !asked[e.Before] {
			asked[e.Before] = true
			roots = append(roots, e.Before)
		}
	}
	visibilities, err := v.Room.entries(ctx, roots, Key{"m.room.history_visibility", ""})
	if err != nil {
		return err
	}
	members, err := v.Room.entries(ctx, roots, Key{"m.room.member", string(v.User)})
	if err != nil {
		return err
	}
	for i, root := range roots {
		v.before[root] = eventauth.Viewing{
			Visibility: eventauth.VisibilityOf(inner(visibilities[i])), Membership: membershipOf(members[i]),
		}
	}
	return nil
}

// entries returns the entry of several states under one key, nil where a state has none.
func (r *Room) entries(ctx context.Context, roots []Root, k Key) ([]*Event, error) {
	list := make([]*Event, len(roots))
	n, ok := r.number(k)
	if !ok {
		return list, nil
	}
	asked := make([]lookup, len(roots))
	for i, root := range roots {
		asked[i] = lookup{root, n}
	}
	positions, err := r.cache.trees.getMany(ctx, asked)
	if err != nil {
		return nil, err
	}
	events, err := r.eventsAmong(ctx, positions)
	if err != nil {
		return nil, err
	}
	byPosition := map[storage.Pos]*Event{}
	for _, e := range events {
		byPosition[e.Pos] = e
	}
	for i, pos := range positions {
		list[i] = byPosition[pos]
	}
	return list, nil
}

// eventsAmong returns the events at positions, each once; 0 is none.
func (r *Room) eventsAmong(ctx context.Context, positions []storage.Pos) ([]*Event, error) {
	var list []storage.Pos
	seen := map[storage.Pos]bool{0: true}
	for _, pos := range positions {
		if !seen[pos] {
			seen[pos] = true
			list = append(list, pos)
		}
	}
	return r.EventsAt(ctx, list)
}
