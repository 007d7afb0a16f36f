package roomstate

import (
	"cmp"
	"context"
	"math/bits"
	"slices"

	"github.com/embedmatrix/homeserver/storage"
)

// leaf is an entry of a state: the position of the event that a number has, 0 for none.
type leaf struct {
	number int64
	pos    storage.Pos
}

// change makes the state in which some entries of another are replaced or, with position 0, taken out. Its cost
// follows the number of entries.
func (t *Trees) change(ctx context.Context, act *storage.Act, root Root, entries []leaf) (Root, error) {
	for _, l := range entries {
		way, err := t.path(ctx, root, l.number)
		if err != nil {
			return 0, err
		}
		if l.pos == 0 {
			root = t.unset(act, root, way)
		} else {
			root = t.set(act, root, way, l.pos)
		}
	}
	return root, nil
}

// unset makes the state in which a number has no position. Nodes that become empty stay.
func (t *Trees) unset(act *storage.Act, root Root, p path) Root {
	last := len(p.nodes) - 1
	if last < 0 || p.number >= p.nodes[0].reach() || p.nodes[last].height > 0 {
		return root
	}
	if _, ok := p.nodes[last].get(slotOf(p.number, 0)); !ok {
		return root
	}
	val := t.keep(act, p.nodes[last].without(slotOf(p.number, 0)))
	for i := last - 1; i >= 0; i-- {
		val = t.keep(act, p.nodes[i].with(slotOf(p.number, p.nodes[i].height), val))
	}
	return val
}

// without is the node with nothing in a slot that has something.
func (n *node) without(slot uint) *node {
	i := bits.OnesCount32(n.bitmap & (1<<slot - 1))
	return &node{height: n.height, bitmap: n.bitmap &^ (1 << slot), vals: slices.Delete(slices.Clone(n.vals), i, i+1)}
}

// build makes a state of all its entries at once, each of a number of its own: every node is written once.
func (t *Trees) build(act *storage.Act, entries []leaf) Root {
	if len(entries) == 0 {
		return 0
	}
	level := slices.Clone(entries)
	slices.SortFunc(level, func(a, b leaf) int { return cmp.Compare(a.number, b.number) })
	for height := uint8(0); ; height++ {
		level = t.raise(act, level, height)
		if len(level) == 1 && level[0].number == 0 {
			return level[0].pos
		}
	}
}

// raise makes the nodes of a height that hold the entries below; their numbers are those of the nodes.
func (t *Trees) raise(act *storage.Act, below []leaf, height uint8) []leaf {
	var above []leaf
	for len(below) > 0 {
		number := below[0].number >> fanBits
		n := &node{height: height}
		for len(below) > 0 && below[0].number>>fanBits == number {
			n.bitmap |= 1 << uint(below[0].number&(fan-1))
			n.vals = append(n.vals, below[0].pos)
			below = below[1:]
		}
		above = append(above, leaf{number, t.keep(act, n)})
	}
	return above
}
