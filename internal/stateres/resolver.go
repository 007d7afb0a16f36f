package stateres

import (
	"cmp"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
)

// resolver is one problem on its way.
type resolver struct {
	Problem
	nodes  map[id.EventID]*node
	spare  []node  // nodes are made in blocks,
	lists  []*node // and so are their lists
	levels map[*event.Event]readLevels
	mainline
}

// node is an event, and what was found out about it.
type node struct {
	e        *event.Event // nil when it is not known
	rejected bool
	full     bool // it is in the full conflicted set
	picked   bool // it is among the power events and their auth chains
	cited    bool // auth is set

	auth    []*node // its auth events, those that are known
	power   int64   // the power level of its sender
	waits   int     // how many of its auth events the reverse topological power ordering has not given yet
	next    []*node // who waits for it
	onLine  position
	towards position
}

type readLevels struct {
	levels *eventauth.PowerLevels
	err    error
}

func newResolver(p Problem) *resolver {
	size := len(p.Conflicted) + len(p.Difference) + len(p.Subgraph)
	return &resolver{
		Problem: p,
		nodes:   make(map[id.EventID]*node, size+16),
		levels:  map[*event.Event]readLevels{},
	}
}

// lookUp returns the node of an id. e is its event if the caller has it.
func (r *resolver) lookUp(eid id.EventID, e *event.Event) *node {
	if n, ok := r.nodes[eid]; ok {
		return n
	}
	n := r.newNode()
	n.e, n.rejected = r.Auth(eid)
	if n.e == nil {
		n.e = e
	}
	r.nodes[eid] = n
	return n
}

func (r *resolver) newNode() *node {
	if len(r.spare) == 0 {
		r.spare = make([]node, max(16, min(len(r.nodes), 512)))
	}
	n := &r.spare[0]
	r.spare = r.spare[1:]
	return n
}

// authEvents are the auth events of n that are known, rejected ones too.
func (r *resolver) authEvents(n *node) []*node {
	if n.cited {
		return n.auth
	}
	n.cited, n.auth = true, r.newList(len(n.e.AuthEvents))
	for _, eid := range n.e.AuthEvents {
		if a := r.lookUp(eid, nil); a.e != nil {
			n.auth = append(n.auth, a)
		}
	}
	return n.auth
}

// newList is an empty list with room for size nodes.
func (r *resolver) newList(size int) []*node {
	if len(r.lists) < size {
		r.lists = make([]*node, max(size, 4*min(len(r.nodes), 512)))
	}
	list := r.lists[:0:size]
	r.lists = r.lists[size:]
	return list
}

// powerLevels is the m.room.power_levels event in the auth events of n, nil when there is none.
func (r *resolver) powerLevels(n *node) *node {
	for _, a := range r.authEvents(n) {
		if a.e.Is("m.room.power_levels", "") {
			return a
		}
	}
	return nil
}

// readLevels reads each m.room.power_levels event once.
func (r *resolver) readLevels(create, power *event.Event) (*eventauth.PowerLevels, error) {
	if create != r.Create {
		return eventauth.Levels(r.Rules, create, power)
	}
	l, ok := r.levels[power]
	if !ok {
		l.levels, l.err = eventauth.Levels(r.Rules, create, power)
		r.levels[power] = l
	}
	return l.levels, l.err
}

// senderPower is the power level of the sender of n "when looking at their respective auth_events". Levels
// that cannot be read count as none.
func (r *resolver) senderPower(n *node) int64 {
	var power *event.Event
	if p := r.powerLevels(n); p != nil {
		power = p.e
	}
	levels, err := r.readLevels(r.Create, power)
	if err != nil {
		levels, _ = r.readLevels(r.Create, nil)
	}
	return levels.User(n.e.Sender)
}

// isPowerEvent: "A *power event* is a state event with type `m.room.power_levels` or `m.room.join_rules`, or
// a state event with type `m.room.member` where the `membership` is `leave` or `ban` and the `sender` does
// not match the `state_key`."
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#definitions
func isPowerEvent(e *event.Event) bool {
	switch e.Type {
	case "m.room.power_levels", "m.room.join_rules":
		return true
	case "m.room.member":
		removes := e.Membership() == "leave" || e.Membership() == "ban"
		return removes && string(e.Sender) != *e.StateKey
	}
	return false
}

// earlier is what both orderings end with: the time, then the id.
func earlier(a, b *node) int {
	if c := cmp.Compare(a.e.OriginServerTS, b.e.OriginServerTS); c != 0 {
		return c
	}
	return cmp.Compare(a.e.ID, b.e.ID)
}

func keyOf(e *event.Event) eventauth.Key { return eventauth.Key{Type: e.Type, StateKey: *e.StateKey} }
