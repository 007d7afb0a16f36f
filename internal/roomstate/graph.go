package roomstate

import (
	"context"
	"fmt"
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/stateres"
	"github.com/embedmatrix/homeserver/storage"
)

// authGraph is a room's auth graph in memory: its state events, with the numbers of their state keys. An auth event
// always has a smaller position than whoever names it, so that positions are an order of the graph.
type authGraph struct {
	stateres.Graph
	numbers map[storage.Pos]int64
}

// nodeCost is about what a node holds in memory beside the Graph.
const nodeCost = 24

// graph returns the room's auth graph, reading it when nobody needed it since the room was loaded.
func (w *Writer) graph() (*authGraph, error) {
	if w.head.graph != nil {
		return w.head.graph, nil
	}
	// What is on its way could not be read.
	if p := w.Unsettled(); p != nil {
		if err := p.Wait(w.ctx); err != nil {
			return nil, err
		}
	}
	g, err := w.Room.readGraph(w.ctx)
	if err != nil {
		return nil, fmt.Errorf("auth graph of %s: %w", w.ID, err)
	}
	w.base.Add(int64(g.cost()))
	w.head.graph = g
	return g, nil
}

// cost is about what the graph holds in memory.
func (g *authGraph) cost() int { return g.Cost() + nodeCost*len(g.numbers) }

func (r *Room) readGraph(ctx context.Context) (*authGraph, error) {
	g := &authGraph{numbers: map[storage.Pos]int64{}}
	var nodes []storage.AuthNode
	var old []storage.Event
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if old, err = tx.EventsBeforeGraph(r.Num); err != nil {
			return err
		}
		nodes, err = tx.AuthGraph(r.Num)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := g.addOld(r, old); err != nil {
		return nil, err
	}
	for i := range nodes {
		g.add(&nodes[i])
	}
	return g, nil
}

// addOld adds events that were stored before there were auth graphs.
func (g *authGraph) addOld(r *Room, old []storage.Event) error {
	positions := make(map[id.EventID]storage.Pos, len(old))
	for i := range old {
		e, err := r.fromRow(&old[i])
		if err != nil {
			return err
		}
		positions[e.ID] = e.Pos
		if e.StateKey == nil {
			continue
		}
		number, _ := r.number(Key{e.Type, *e.StateKey})
		node := storage.AuthNode{Pos: e.Pos, Number: number}
		for _, eventID := range e.AuthEvents {
			node.Auth = append(node.Auth, positions[eventID])
		}
		g.add(&node)
	}
	return nil
}

func (g *authGraph) add(n *storage.AuthNode) {
	g.numbers[n.Pos] = n.Number
	addNode(&g.Graph, n)
}

// addNode adds a node with those of its auth events that are here.
func addNode(g *stateres.Graph, n *storage.AuthNode) {
	g.Add(n.Pos, slices.DeleteFunc(slices.Clone(n.Auth), func(pos storage.Pos) bool { return pos == 0 }))
}

// addToGraph adds a state event's node to the act and, if it is in memory, to the graph.
func (w *Writer) addToGraph(act *storage.Act, p *proposal) {
	node := storage.AuthNode{Pos: p.Pos, Number: p.number}
	for _, a := range p.auth {
		pos := storage.Pos(0)
		if a != nil {
			pos = a.Pos
		}
		node.Auth = append(node.Auth, pos)
	}
	act.Add(storage.InsertAuth, node.Row(w.Num)...)
	if g := w.head.graph; g != nil {
		before := g.cost()
		g.add(&node)
		w.base.Add(int64(g.cost() - before))
	}
}
