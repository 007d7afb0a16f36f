package syncing

import (
	"strconv"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// maxHeroes is how many members stand in a summary. "This should be the first 5 members of the room."
const maxHeroes = 5

// summary is what lets a client name a room.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync (RoomSummary)
type summary struct {
	heroes          []id.UserID
	named           bool // the room has a name or an alias, and needs no heroes
	joined, invited int
}

// summaryOf returns the summary of a room of which the client knows a state, or nil when it has not changed.
// It counts the members of now, which may be ahead of the look: then the next one tells of them again.
func (l *look) summaryOf(p *place, known roomstate.Root) (*summary, error) {
	if changed, err := l.summaryChanged(p, known); err != nil || !changed {
		return nil, err
	}
	named, err := l.named(p)
	if err != nil {
		return nil, err
	}
	s := &summary{named: named}
	s.joined, s.invited = p.Counts()
	if !named {
		s.heroes = p.Heroes(l.User, maxHeroes)
	}
	return s, nil
}

// summaryChanged reports whether memberships or the names of a room differ from those that the client knows.
func (l *look) summaryChanged(p *place, known roomstate.Root) (bool, error) {
	if l.whole(p) || known == p.end {
		return l.whole(p), nil
	}
	changes, err := p.Diff(l.ctx, known, p.end)
	if err != nil {
		return false, err
	}
	for _, c := range changes {
		switch {
		case c.Key == nameKey || c.Key == aliasKey:
			return true, nil
		case c.Type == memberType:
			if changed, err := l.membershipChanged(p, c); err != nil || changed {
				return changed, err
			}
		}
	}
	return false, nil
}

var (
	nameKey  = roomstate.Key{Type: "m.room.name"}
	aliasKey = roomstate.Key{Type: "m.room.canonical_alias"}
)

// membershipChanged reports whether a change of a member event is more than one of profile.
func (l *look) membershipChanged(p *place, c roomstate.Change) (bool, error) {
	if c.Before == 0 || c.After == 0 {
		return true, nil
	}
	events, err := p.EventsAt(l.ctx, []storage.Pos{c.Before, c.After})
	return err == nil && events[0].Membership() != events[1].Membership(), err
}

// named reports whether a room has a name or a canonical alias.
func (l *look) named(p *place) (bool, error) {
	name, err := p.StateEvent(l.ctx, p.end, nameKey.Type, "")
	if err != nil || hasText(name, "name") {
		return true, err
	}
	alias, err := p.StateEvent(l.ctx, p.end, aliasKey.Type, "")
	return hasText(alias, "alias"), err
}

func hasText(e *roomstate.Event, key string) bool {
	if e == nil {
		return false
	}
	text, _ := canonjson.String(canonjson.Get(e.Content(), key))
	return text != ""
}

// writeSummary writes a summary, if there is one.
func (l *look) writeSummary(s *summary) {
	if s == nil {
		return
	}
	l.out.key("summary").raw("{")
	if !s.named {
		l.out.key("m.heroes").raw("[")
		for _, h := range s.heroes {
			l.out.item().text(string(h))
		}
		l.out.raw("]")
	}
	l.out.key("m.invited_member_count").number(s.invited)
	l.out.key("m.joined_member_count").number(s.joined).raw("}")
}

func (p *page) number(n int) *page { p.b = strconv.AppendInt(p.b, int64(n), 10); return p }
