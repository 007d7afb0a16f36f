package roomstate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/embedmatrix/homeserver/storage"
)

// Root is a state: the id of the topmost node of its tree, 0 for the empty state.
//
// A state maps the numbers of state keys to positions of events. Its tree is a radix tree of five bits a
// level; states share the nodes in which they agree, so that a change writes one node a level (two for
// 1,000 keys, three for 30,000) and the difference of two states costs in proportion to the difference.
type Root = int64

const (
	fanBits = 5
	fan     = 1 << fanBits
)

// node is an immutable node: height 0 holds positions of events, the others ids of nodes.
type node struct {
	height uint8
	bitmap uint32
	vals   []int64 // one for each bit of bitmap, in order
}

func (n *node) get(slot uint) (int64, bool) {
	if n.bitmap&(1<<slot) == 0 {
		return 0, false
	}
	return n.vals[bits.OnesCount32(n.bitmap&(1<<slot-1))], true
}

func (n *node) with(slot uint, val int64) *node {
	i := bits.OnesCount32(n.bitmap & (1<<slot - 1))
	m := &node{height: n.height, bitmap: n.bitmap | 1<<slot}
	if n.bitmap&(1<<slot) != 0 {
		m.vals = slices.Clone(n.vals)
		m.vals[i] = val
		return m
	}
	m.vals = make([]int64, 0, len(n.vals)+1)
	m.vals = append(append(append(m.vals, n.vals[:i]...), val), n.vals[i:]...)
	return m
}

// reach is the first number that a tree of this height cannot hold.
func (n *node) reach() int64 { return 1 << (fanBits * (uint(n.height) + 1)) }

func slotOf(number int64, height uint8) uint {
	return uint(number>>(fanBits*uint(height))) & (fan - 1)
}

func (n *node) cost() int { return 64 + 8*len(n.vals) }

// body is the node as it is stored: height, bitmap, values.
func (n *node) body() []byte {
	b := make([]byte, 0, 8+6*len(n.vals))
	b = append(b, n.height)
	b = binary.AppendUvarint(b, uint64(n.bitmap))
	for _, v := range n.vals {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

var errNode = errors.New("roomstate: a state node is damaged")

func parseNode(body []byte) (*node, error) {
	if len(body) < 2 {
		return nil, errNode
	}
	n := &node{height: body[0]}
	bitmap, k := binary.Uvarint(body[1:])
	if k <= 0 {
		return nil, errNode
	}
	n.bitmap = uint32(bitmap)
	n.vals = make([]int64, bits.OnesCount32(n.bitmap))
	at := 1 + k
	for i := range n.vals {
		v, k := binary.Uvarint(body[at:])
		if k <= 0 {
			return nil, errNode
		}
		n.vals[i] = int64(v)
		at += k
	}
	return n, nil
}

// Trees reads and makes states. Nodes are cached up to a bound in bytes.
type Trees struct {
	db    *storage.DB
	cache *lru[int64, *node]

	mu sync.RWMutex // guards the following
	// unwritten are the nodes of acts that are on their way to storage: nobody could read them back. acts has
	// their ids by act.
	unwritten map[int64]*node
	acts      map[*storage.Act][]int64
}

func newTrees(db *storage.DB, maxBytes int) *Trees {
	return &Trees{
		db: db, cache: newLRU[int64, *node](maxBytes), unwritten: map[int64]*node{}, acts: map[*storage.Act][]int64{},
	}
}

// inMemory returns a node that need not be read.
func (t *Trees) inMemory(nodeID int64) (*node, bool) {
	if n, ok := t.cache.get(nodeID); ok {
		return n, true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, ok := t.unwritten[nodeID]
	return n, ok
}

// settled is told that an act was written or refused.
func (t *Trees) settled(act *storage.Act) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, nodeID := range t.acts[act] {
		delete(t.unwritten, nodeID)
	}
	delete(t.acts, act)
}

func (t *Trees) node(ctx context.Context, nodeID int64) (*node, error) {
	if n, ok := t.inMemory(nodeID); ok {
		return n, nil
	}
	list, err := t.nodes(ctx, []int64{nodeID})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// nodes returns several nodes; those that are not cached are read by one query.
func (t *Trees) nodes(ctx context.Context, ids []int64) ([]*node, error) {
	list := make([]*node, len(ids))
	missing := map[int64]int{}
	var ask []int64
	for i, nodeID := range ids {
		n, ok := t.inMemory(nodeID)
		if !ok {
			missing[nodeID] = i
			ask = append(ask, nodeID)
		}
		list[i] = n
	}
	if len(ask) == 0 {
		return list, nil
	}
	err := t.db.Read(ctx, func(tx *storage.Tx) error {
		return tx.StateNodes(ask, func(nodeID int64, body []byte) error {
			n, err := parseNode(body)
			if err != nil {
				return err
			}
			t.cache.put(nodeID, n, n.cost())
			list[missing[nodeID]] = n
			delete(missing, nodeID)
			return nil
		})
	})
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%w: %d are missing", errNode, len(missing))
	}
	return list, err
}

// Get returns the position that a state holds for a number, 0 for none.
func (t *Trees) Get(ctx context.Context, root Root, number int64) (storage.Pos, error) {
	if root == 0 {
		return 0, nil
	}
	n, err := t.node(ctx, root)
	if err != nil || number >= n.reach() {
		return 0, err
	}
	for {
		val, ok := n.get(slotOf(number, n.height))
		if !ok || n.height == 0 {
			return val, nil
		}
		if n, err = t.node(ctx, val); err != nil {
			return 0, err
		}
	}
}

// Each calls fn for every number of a state, in order, with the position of its event.
func (t *Trees) Each(ctx context.Context, root Root, fn func(number int64, pos storage.Pos)) error {
	if root == 0 {
		return nil
	}
	n, err := t.node(ctx, root)
	if err != nil {
		return err
	}
	return t.each(ctx, n, 0, fn)
}

func (t *Trees) each(ctx context.Context, n *node, from int64, fn func(int64, storage.Pos)) error {
	var children []*node
	if n.height > 0 {
		list, err := t.nodes(ctx, n.vals)
		if err != nil {
			return err
		}
		children = list
	}
	i := 0
	for slot := range int64(fan) {
		if n.bitmap&(1<<slot) == 0 {
			continue
		}
		number := from + slot<<(fanBits*uint(n.height))
		if n.height == 0 {
			fn(number, n.vals[i])
		} else if err := t.each(ctx, children[i], number, fn); err != nil {
			return err
		}
		i++
	}
	return nil
}

// Diff calls fn for every number for which two states differ, with both positions (0: none).
func (t *Trees) Diff(ctx context.Context, a, b Root, fn func(number int64, before, after storage.Pos)) error {
	na, err := t.nodeOrEmpty(ctx, a)
	if err != nil {
		return err
	}
	nb, err := t.nodeOrEmpty(ctx, b)
	if err != nil {
		return err
	}
	return t.diff(ctx, a, b, na, nb, 0, fn)
}

func (t *Trees) nodeOrEmpty(ctx context.Context, root Root) (*node, error) {
	if root == 0 {
		return &node{}, nil
	}
	return t.node(ctx, root)
}

func (t *Trees) diff(ctx context.Context, a, b int64, na, nb *node, from int64, fn func(int64, storage.Pos, storage.Pos)) error {
	if a == b {
		return nil
	}
	height := max(na.height, nb.height)
	for slot := range uint(fan) {
		va, vb := childOf(a, na, height, slot), childOf(b, nb, height, slot)
		if va == vb {
			continue
		}
		number := from + int64(slot)<<(fanBits*uint(height))
		if height == 0 {
			fn(number, va, vb)
			continue
		}
		ca, err := t.childNode(ctx, va, a, na)
		if err != nil {
			return err
		}
		cb, err := t.childNode(ctx, vb, b, nb)
		if err != nil {
			return err
		}
		if err := t.diff(ctx, va, vb, ca, cb, number, fn); err != nil {
			return err
		}
	}
	return nil
}

// childOf is what a node holds in a slot, seen from a height that may be above its own: there it is itself
// the first child.
func childOf(self int64, n *node, height uint8, slot uint) int64 {
	if n.height == height {
		v, _ := n.get(slot)
		return v
	}
	if slot == 0 {
		return self
	}
	return 0
}

func (t *Trees) childNode(ctx context.Context, child, self int64, n *node) (*node, error) {
	if child == self {
		return n, nil
	}
	return t.nodeOrEmpty(ctx, child)
}

// path is the way from a root to a number, read beforehand so that a change of it needs no I/O.
type path struct {
	number int64
	nodes  []*node // from the root down; missing ones are nil
}

// path reads the nodes on the way to a number.
func (t *Trees) path(ctx context.Context, root Root, number int64) (path, error) {
	p := path{number: number}
	if root == 0 {
		return p, nil
	}
	n, err := t.node(ctx, root)
	for err == nil {
		p.nodes = append(p.nodes, n)
		if n.height == 0 || len(p.nodes) == 1 && number >= n.reach() {
			return p, nil
		}
		child, ok := n.get(slotOf(number, n.height))
		if !ok {
			return p, nil
		}
		n, err = t.node(ctx, child)
	}
	return p, err
}

// set makes the state in which a number has a position and adds the new nodes to an act.
func (t *Trees) set(act *storage.Act, root Root, p path, pos storage.Pos) Root {
	if len(p.nodes) == 0 {
		return t.grow(act, 0, nil, p.number, pos)
	}
	top := p.nodes[0]
	if p.number >= top.reach() {
		return t.grow(act, root, top, p.number, pos)
	}
	last := p.nodes[len(p.nodes)-1]
	val := pos
	if last.height > 0 { // the way ends above the leaves: make the rest
		val = t.column(act, last.height-1, p.number, pos)
	}
	for i := len(p.nodes) - 1; i >= 0; i-- {
		val = t.keep(act, p.nodes[i].with(slotOf(p.number, p.nodes[i].height), val))
	}
	return val
}

// grow puts levels above a tree until it can hold a number, and sets it.
func (t *Trees) grow(act *storage.Act, root Root, top *node, number int64, pos storage.Pos) Root {
	n, self := top, root
	if n == nil {
		n, self = &node{}, 0
	}
	for number >= n.reach() {
		above := &node{height: n.height + 1}
		if self != 0 {
			above = above.with(0, self)
		}
		if number < above.reach() {
			n = above
			break
		}
		if self != 0 {
			self = t.keep(act, above)
		}
		n = above
	}
	if n.height == 0 {
		return t.keep(act, n.with(slotOf(number, 0), pos))
	}
	return t.keep(act, n.with(slotOf(number, n.height), t.column(act, n.height-1, number, pos)))
}

// column makes nodes of one value each, from a height down to the leaf.
func (t *Trees) column(act *storage.Act, height uint8, number int64, pos storage.Pos) int64 {
	val := pos
	for h := uint8(0); ; h++ {
		val = t.keep(act, (&node{height: h}).with(slotOf(number, h), val))
		if h == height {
			return val
		}
	}
}

// keep gives a new node its id, caches it and adds its row to the act.
func (t *Trees) keep(act *storage.Act, n *node) int64 {
	nodeID := t.db.NextNode()
	t.cache.put(nodeID, n, n.cost())
	t.mu.Lock()
	t.unwritten[nodeID] = n
	t.acts[act] = append(t.acts[act], nodeID)
	t.mu.Unlock()
	act.Add(storage.InsertStateNode, nodeID, n.body())
	return nodeID
}
