package stateres

// Has reports whether pos was added. That others name it is not enough.
func (g *Graph) Has(pos int64) bool {
	at, ok := g.index[pos]
	return ok && g.nodes[at].added
}

// Len is the number of nodes, those included that are only named by others.
func (g *Graph) Len() int { return len(g.nodes) }
