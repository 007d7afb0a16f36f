package syncing

import (
	"slices"

	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// writeSticky writes the sticky events of a room that arrived since the client's token, or all of a room that is new to
// it, and are not in the timeline: they are told even if that is cut short.
//
// "History visibility checks MUST NOT be applied to sticky events. Any joined user is authorised to see sticky events for
// the duration they remain sticky."
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
func (l *look) writeSticky(p *place, v *roomstate.Viewer, t *timeline) (said bool, err error) {
	if p.section != joined || !p.HasSticky(l.now) {
		return false, nil
	}
	after := l.from
	if p.fresh {
		after = 0
	}
	events, err := p.Sticky(l.ctx, after, p.upTo, l.now)
	events = slices.DeleteFunc(events, func(e *roomstate.Event) bool {
		return e.Flagged(storage.Rejected|storage.SoftFailed) || e.StateKey == nil && l.wishes.ignores(e.Sender) || t.has(e.Pos)
	})
	if err != nil || len(events) == 0 {
		return false, err
	}
	if err := v.Prepare(l.ctx, events); err != nil {
		return false, err
	}
	l.out.key("msc4354_sticky").raw(`{"events":[`)
	for _, e := range events {
		seen, err := v.SeeState(l.ctx, e)
		if err != nil {
			return false, err
		}
		if err := l.writeEvent(v, e, seen); err != nil {
			return false, err
		}
	}
	l.out.raw("]}")
	return true, nil
}
