package stateres

import (
	"cmp"
	"math"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
)

// position is a place on a mainline: 1 for the m.room.power_levels event that it begins with. Zero is a
// place not looked for yet.
type position int

// nowhere is the position of what no mainline leads to: ∞.
const nowhere position = math.MaxInt

// mainline is the list [P0, P1, …] of m.room.power_levels events, each the one in the auth events of the one
// before it. It is followed only as far as somebody asks.
type mainline struct {
	last   *node // the end of what was followed; nil when all was
	length position
}

// mainlineOrdering sorts events by their position on the mainline of power, the greatest first, then the
// earliest, then the one with the smallest id. power may be nil: then no event has a position.
//
// Spec: https://spec.matrix.org/latest/rooms/v2/#definitions
func (r *resolver) mainlineOrdering(events []*node, power *event.Event) {
	r.mainline = mainline{}
	if power != nil {
		r.extendTo(r.lookUp(power.ID, power))
	}
	for _, n := range events {
		n.towards = r.mainlinePosition(n)
	}
	slices.SortFunc(events, func(a, b *node) int {
		if a.towards != b.towards {
			return cmp.Compare(b.towards, a.towards)
		}
		return earlier(a, b)
	})
}

// extendTo puts n at the end of the mainline; nil, or what is on it already, ends it for good.
func (r *resolver) extendTo(n *node) {
	if n == nil || n.onLine != 0 {
		r.last = nil
		return
	}
	r.length++
	n.onLine, r.last = r.length, n
}

// isOnMainline follows the mainline until it finds n or ends.
func (r *resolver) isOnMainline(n *node) bool {
	for n.onLine == 0 && r.last != nil {
		r.extendTo(r.powerLevels(r.last))
	}
	return n.onLine != 0
}

// mainlinePosition: the position of the first of the m.room.power_levels events that n is based on, one
// through the other, which is on the mainline. n itself does not count.
func (r *resolver) mainlinePosition(n *node) position {
	var walked []*node
	found := nowhere
	for p := r.powerLevels(n); p != nil; p = r.powerLevels(p) {
		if r.isOnMainline(p) {
			found = p.onLine
			break
		}
		if p.towards != 0 {
			found = p.towards
			break
		}
		p.towards = nowhere // in a circle, the walk ends here
		walked = append(walked, p)
	}
	for _, p := range walked {
		p.towards = found
	}
	return found
}
