package stateres

import "slices"

// Difference returns the auth difference of states, newest first: "If Ci is the full auth chain of Si, then
// the auth difference is ∪ Ci − ∩ Ci", where the full auth chain of a state is "the union of the auth chains
// for each event" in it. An event is not in its own auth chain.
//
// An unconflicted event is never in the difference, although the text would have it there when it is in the
// chain of some states only: the servers in use count the events of a state as part of its full auth chain, and
// with one more event in between others the resolved state can be another.
//
// sets[i] are the conflicted events of state i, those in which it differs from the others; it may be empty.
// unconflicted reports whether the event at a position is in the part that all states have in common: what is
// in its chain is in the chains of all.
//
// The walk goes down from the conflicted events and stops where all chains have met. An event that an
// unconflicted one is based on is where they meet; to know it, the walk goes up from it to the next
// unconflicted event, newest first. Each event is gone through at most once down and once up.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#definitions
func (g *Graph) Difference(sets [][]int64, unconflicted func(pos int64) bool) []int64 {
	p := newPainting(g, sets, unconflicted)
	var difference []int64
	for p.partial > 0 {
		at := p.pop()
		c := p.takeColours(at)
		if !p.isFull(c) && p.isCommon(at) {
			p.fill(c)
		}
		if unconflicted(g.nodes[at].pos) {
			p.fill(c)
		}
		if !p.isFull(c) {
			difference = append(difference, g.nodes[at].pos)
		}
		p.paintAuth(at, c)
	}
	return difference
}

// painting marks events with the states in whose full auth chain they are, one colour for each state.
type painting struct {
	heap[int32]
	g            *Graph
	unconflicted func(pos int64) bool
	all          []uint64           // every colour
	colours      map[int32][]uint64 // of the events that wait in the heap or were popped
	partial      int                // how many in the heap have not every colour
	common       map[int32]bool     // what isCommon found
}

func newPainting(g *Graph, sets [][]int64, unconflicted func(pos int64) bool) *painting {
	p := &painting{
		g: g, unconflicted: unconflicted, all: make([]uint64, (len(sets)+63)/64),
		colours: map[int32][]uint64{}, common: map[int32]bool{},
	}
	p.less = func(a, b int32) bool { return g.nodes[a].pos > g.nodes[b].pos }
	for i := range sets {
		p.all[i/64] |= 1 << (i % 64)
	}
	colour := make([]uint64, len(p.all))
	for i, set := range sets {
		colour[i/64] = 1 << (i % 64)
		for _, at := range g.known(set) {
			p.paintAuth(at, colour)
		}
		colour[i/64] = 0
	}
	return p
}

// paintAuth adds colours to the auth events of an event.
func (p *painting) paintAuth(at int32, colours []uint64) {
	for _, e := range p.g.from(at) {
		c, ok := p.colours[e.to]
		if !ok {
			c = make([]uint64, len(p.all))
			p.colours[e.to] = c
			p.partial++
			p.push(e.to)
		}
		if p.isFull(c) {
			continue
		}
		for i, bits := range colours {
			c[i] |= bits
		}
		if p.isFull(c) {
			p.partial--
		}
	}
}

// takeColours are the colours of an event that has left the heap. It gets no more: all that is based on it is newer.
func (p *painting) takeColours(at int32) []uint64 {
	c := p.colours[at]
	if !p.isFull(c) {
		p.partial--
	}
	return c
}

func (p *painting) isFull(colours []uint64) bool { return slices.Equal(colours, p.all) }

func (p *painting) fill(colours []uint64) { copy(colours, p.all) }

// isCommon reports whether an unconflicted event has the event in its auth chain. It goes up through the
// events that are based on it, newest first, until it comes to an unconflicted one.
func (p *painting) isCommon(at int32) bool {
	if common, ok := p.common[at]; ok {
		return common
	}
	p.common[at] = false
	path := []step{{at, p.g.nodes[at].newest}} // each based on the one before it
	for len(path) > 0 {
		top := &path[len(path)-1]
		if top.edge == 0 {
			path = path[:len(path)-1]
			continue
		}
		e := p.g.edges[top.edge-1]
		up := e.from
		top.edge = e.older
		common, ok := p.common[up]
		if common || p.unconflicted(p.g.nodes[up].pos) {
			return p.setCommon(path)
		}
		if !ok {
			p.common[up] = false
			path = append(path, step{up, p.g.nodes[up].newest})
		}
	}
	return false
}

// step is an event on the way up, and 1 + the edge to take from it next; 0 when all were taken.
type step struct {
	at   int32
	edge uint32
}

func (p *painting) setCommon(path []step) bool {
	for _, s := range path {
		p.common[s.at] = true
	}
	return true
}
