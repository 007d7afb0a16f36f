package stateres

import "slices"

// Graph is the auth graph of a room in memory: who has whom among its auth events. A node is the position of
// an event; every auth event has a smaller position than the event that names it, so there are no circles.
//
// A node takes about 48 bytes, and 12 more for each of its auth events: see Cost. The zero Graph is empty and ready. Several
// goroutines may read it at a time while none adds to it.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#definitions (auth chain)
type Graph struct {
	index map[int64]int32 // of each position
	nodes []graphNode
	edges []edge // those of a node stand together
}

type graphNode struct {
	pos    int64
	auth   uint32 // its first edge
	count  uint32 // of its edges
	newest uint32 // 1 + the edge added last that leads to it; 0 when there is none
	added  bool   // false when it was only named by another
}

// edge leads from an event to one of its auth events.
type edge struct {
	from  int32
	to    int32
	older uint32 // 1 + the edge added before this one that leads to the same event
}

// Add puts an event and its auth events into the graph; an auth event may follow later. Of one position only
// the first call counts. What is not smaller than pos is left out of auth.
func (g *Graph) Add(pos int64, auth []int64) {
	if g.index == nil {
		g.index = map[int64]int32{}
	}
	from := g.node(pos)
	if g.nodes[from].added {
		return
	}
	first := len(g.edges)
	for _, a := range auth {
		if a >= pos {
			continue
		}
		to := g.node(a)
		g.edges = append(g.edges, edge{from, to, g.nodes[to].newest})
		g.nodes[to].newest = uint32(len(g.edges))
	}
	n := &g.nodes[from]
	n.added, n.auth, n.count = true, uint32(first), uint32(len(g.edges)-first)
}

// node is the index of a position, which is made if need be.
func (g *Graph) node(pos int64) int32 {
	at, ok := g.index[pos]
	if !ok {
		at = int32(len(g.nodes))
		g.index[pos] = at
		g.nodes = append(g.nodes, graphNode{pos: pos})
	}
	return at
}

// Auth returns the positions of the auth events of pos, in the order in which they were added.
func (g *Graph) Auth(pos int64) []int64 {
	at, ok := g.index[pos]
	if !ok {
		return nil
	}
	auth := make([]int64, 0, g.nodes[at].count)
	for _, e := range g.from(at) {
		auth = append(auth, g.nodes[e.to].pos)
	}
	return auth
}

// from are the edges that lead from an event to its auth events.
func (g *Graph) from(at int32) []edge {
	n := &g.nodes[at]
	return g.edges[n.auth : n.auth+n.count]
}

// Cost is about how many bytes the graph takes.
func (g *Graph) Cost() int {
	const perNode, perEdge, perIndex = 24, 12, 24
	return cap(g.nodes)*perNode + cap(g.edges)*perEdge + len(g.index)*perIndex
}

// Chain yields the auth chain of the events from: their auth events, the auth events of those, and so on,
// each once, the newest first. An event of from is yielded only if it is in the chain of another.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#definitions
func (g *Graph) Chain(from []int64, yield func(pos int64) bool) {
	w := g.walk(len(from))
	for _, at := range g.known(from) {
		w.followAuth(at)
	}
	for w.len() > 0 {
		at := w.pop()
		if !yield(g.nodes[at].pos) {
			return
		}
		w.followAuth(at)
	}
}

// known are the nodes of positions, without those that are not in the graph.
func (g *Graph) known(positions []int64) []int32 {
	nodes := make([]int32, 0, len(positions))
	for _, pos := range positions {
		if at, ok := g.index[pos]; ok {
			nodes = append(nodes, at)
		}
	}
	return nodes
}

// walk goes through the graph from newer to older events, through each once.
type walk struct {
	heap[int32]
	g    *Graph
	seen map[int32]struct{}
}

func (g *Graph) walk(size int) *walk {
	w := &walk{g: g, seen: make(map[int32]struct{}, size)}
	w.less = func(a, b int32) bool { return g.nodes[a].pos > g.nodes[b].pos }
	return w
}

func (w *walk) add(at int32) {
	if _, ok := w.seen[at]; !ok {
		w.seen[at] = struct{}{}
		w.push(at)
	}
}

func (w *walk) followAuth(at int32) {
	for _, e := range w.g.from(at) {
		w.add(e.to)
	}
}

// Subgraph returns the conflicted state subgraph: the events on the paths that lead from one of the
// conflicted events through auth events to another, the ends included, newest first. Nothing older than the
// oldest conflicted event is looked at.
//
// Spec: https://spec.matrix.org/latest/rooms/v12/#definitions
func (g *Graph) Subgraph(conflicted []int64) []int64 {
	ends := make(map[int32]bool, len(conflicted)) // whether a path from another end leads to it
	for _, at := range g.known(conflicted) {
		ends[at] = false
	}
	below := g.between(ends)
	leads := make(map[int32]bool, len(below)) // those from which a path leads to an end
	for _, at := range slices.Backward(below) {
		leads[at] = slices.ContainsFunc(g.from(at), func(e edge) bool {
			_, isEnd := ends[e.to]
			return isEnd || leads[e.to]
		})
	}
	var subgraph []int64
	for _, at := range below {
		if leads[at] || ends[at] {
			subgraph = append(subgraph, g.nodes[at].pos)
		}
	}
	return subgraph
}

// between returns the ends and what their chains contain, newest first, down to the oldest end. It marks the
// ends that are in the chain of another.
func (g *Graph) between(ends map[int32]bool) (below []int32) {
	w := g.walk(2 * len(ends))
	var oldest int64
	for at := range ends {
		if pos := g.nodes[at].pos; w.len() == 0 || pos < oldest {
			oldest = pos
		}
		w.add(at)
	}
	for w.len() > 0 {
		at := w.pop()
		below = append(below, at)
		for _, e := range g.from(at) {
			if _, isEnd := ends[e.to]; isEnd {
				ends[e.to] = true
			}
			if g.nodes[e.to].pos >= oldest {
				w.add(e.to)
			}
		}
	}
	return below
}
