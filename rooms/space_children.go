package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// What a space may cost, whatever its state says.
const (
	maxChildren = 300  // of which another server is told
	maxFamily   = 5000 // of which a user is told
	maxChildVia = 5    // servers that are asked for one child
	maxOrder    = 50   // bytes of an order that counts
)

// spaceChild is a room that a space names.
type spaceChild struct {
	room    id.RoomID
	via     []id.ServerName // at least one name in the event, though perhaps none that can be asked
	order   string
	ordered bool // it has an order that counts
	ts      int64
	told    json.RawMessage // stripped state with origin_server_ts
}

// childrenOf returns the children that a space of this server names, at most so many, in the order of the specification.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#ordering-of-children-within-a-space
func (s *Service) childrenOf(ctx context.Context, r *roomstate.Room, o *outline, suggestedOnly bool, most int) ([]spaceChild, error) {
	if o.RoomType != "m.space" {
		return nil, nil
	}
	at, err := s.childPositions(ctx, r, o.root)
	if err != nil {
		return nil, err
	}
	events, err := r.EventsAt(ctx, at)
	if err != nil {
		return nil, err
	}
	told := make([]json.RawMessage, len(events))
	for i, e := range events {
		told[i] = strippedChild(e)
	}
	return readChildren(told, suggestedOnly, most), nil
}

// family is where the m.space.child events of a state are.
type family struct {
	root roomstate.Root
	at   []storage.Pos
}

// childPositions returns the positions of the m.space.child events of a state. Between two states of a room it looks at
// what differs only: a space may have many members.
func (s *Service) childPositions(ctx context.Context, r *roomstate.Room, root roomstate.Root) ([]storage.Pos, error) {
	known, ok := s.families.get(r.Num, s.Now())
	if ok && known.root == root {
		return known.at, nil
	}
	next := family{root: root}
	var err error
	if ok {
		next.at, err = movedChildren(ctx, r, known, root)
	} else {
		err = r.StateKeys(ctx, root, func(k roomstate.Key, pos storage.Pos) {
			if k.Type == "m.space.child" {
				next.at = append(next.at, pos)
			}
		})
	}
	if err == nil {
		s.families.put(r.Num, next, 100+8*len(next.at), s.Now())
	}
	return next.at, err
}

// movedChildren are the positions of the children of another state of the room.
func movedChildren(ctx context.Context, r *roomstate.Room, known family, root roomstate.Root) ([]storage.Pos, error) {
	changes, err := r.Diff(ctx, known.root, root)
	if err != nil {
		return nil, err
	}
	gone := map[storage.Pos]bool{}
	var fresh []storage.Pos
	for _, c := range changes {
		if c.Type != "m.space.child" {
			continue
		}
		gone[c.Before] = true
		if c.After != 0 {
			fresh = append(fresh, c.After)
		}
	}
	if len(gone) == 0 {
		return known.at, nil
	}
	kept := slices.DeleteFunc(slices.Clone(known.at), func(pos storage.Pos) bool { return gone[pos] })
	return append(kept, fresh...), nil
}

// strippedChild is a child as spaces tell of it.
func strippedChild(e *roomstate.Event) json.RawMessage {
	b := event.AppendStripped(nil, e.Event)
	b = append(b[:len(b)-1], `,"origin_server_ts":`...)
	return append(strconv.AppendInt(b, e.OriginServerTS, 10), '}')
}

// readChildren reads m.space.child events in stripped form, and puts at most so many into the order of the
// specification. What is no child, and what names no server to reach it through, is left out.
func readChildren(told []json.RawMessage, suggestedOnly bool, most int) []spaceChild {
	list := make([]spaceChild, 0, len(told))
	for _, raw := range told {
		if child, suggested, ok := readChild(raw); ok && (suggested || !suggestedOnly) {
			list = append(list, child)
		}
	}
	slices.SortStableFunc(list, spaceChild.compare)
	return list[:min(len(list), most)]
}

// readChild reads an m.space.child event in stripped form.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mspacechild
func readChild(raw json.RawMessage) (c spaceChild, suggested, ok bool) {
	f := gjson.GetManyBytes(raw, "state_key", "content.via", "content.order", "origin_server_ts", "content.suggested")
	room, err := id.ParseRoomID(f[0].String())
	via := f[1].Array()
	if err != nil || f[0].Type != gjson.String || !f[1].IsArray() || len(via) == 0 {
		return c, false, false
	}
	c = spaceChild{room: room, ts: f[3].Int(), told: raw}
	for _, v := range via {
		server, err := id.ParseServerName(v.String())
		if err == nil && v.Type == gjson.String && len(c.via) < maxChildVia && !slices.Contains(c.via, server) {
			c.via = append(c.via, server)
		}
	}
	outside := func(r rune) bool { return r < ' ' || r > '~' }
	if o := f[2]; o.Type == gjson.String && len(o.Str) <= maxOrder && strings.IndexFunc(o.Str, outside) < 0 {
		c.order, c.ordered = o.Str, true
	}
	return c, f[4].Type == gjson.True, true
}

// compare says which of two children comes first: those with an order do, by that, and then the oldest, by age and id.
func (c spaceChild) compare(other spaceChild) int {
	if c.ordered != other.ordered {
		if c.ordered {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(c.order, other.order), cmp.Compare(c.ts, other.ts), cmp.Compare(c.room, other.room))
}

// toldOf are children as clients and servers are told of them.
func toldOf(children []spaceChild) []json.RawMessage {
	list := make([]json.RawMessage, len(children))
	for i := range children {
		list[i] = children[i].told
	}
	return list
}
