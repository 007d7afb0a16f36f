package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// maxChildren is how many children of a space another server is told of.
const maxChildren = 300

// Hierarchy is a room and, if it is a space, its children.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1hierarchyroomid
type Hierarchy struct {
	Room         *SpaceSummary `json:"room"`
	Children     []*Summary    `json:"children"`
	Inaccessible []id.RoomID   `json:"inaccessible_children"`
}

// SpaceSummary is a room with its children as its state names them.
type SpaceSummary struct {
	Summary
	ChildrenState []json.RawMessage `json:"children_state"` // stripped state with origin_server_ts
}

// HierarchyFor returns a room and its children, at most 300, as far as another server could join or peek into them:
// by invitation, by the rules for joining, or since it is in them. Children in which this server is not are left out.
// The error is mxerr.NotFound for a room that the other server cannot get into, as for one that is not here.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1hierarchyroomid
func (s *Service) HierarchyFor(ctx context.Context, origin id.ServerName, room id.RoomID, suggestedOnly bool) (*Hierarchy, error) {
	space, known, err := s.outlineFor(ctx, origin, room)
	if err != nil {
		return nil, err
	}
	if !known || space == nil {
		return nil, mxerr.NotFound.With("there is no such room, or your server cannot get into it")
	}
	children, err := s.childrenOf(ctx, space, suggestedOnly)
	if err != nil {
		return nil, err
	}
	h := &Hierarchy{
		Room:     &SpaceSummary{space.Summary, []json.RawMessage{}},
		Children: []*Summary{}, Inaccessible: []id.RoomID{},
	}
	for _, child := range children {
		h.Room.ChildrenState = append(h.Room.ChildrenState, strippedChild(child))
		if err := s.addChild(ctx, origin, id.RoomID(*child.StateKey), h); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (s *Service) addChild(ctx context.Context, origin id.ServerName, room id.RoomID, h *Hierarchy) error {
	child, known, err := s.outlineFor(ctx, origin, room)
	switch {
	case err != nil:
		return err
	case child != nil:
		h.Children = append(h.Children, &child.Summary)
	case known:
		h.Inaccessible = append(h.Inaccessible, room)
	}
	return nil
}

// outlineFor returns the outline of a room for another server, nil if that cannot get into it; known says that this
// server is in the room.
func (s *Service) outlineFor(ctx context.Context, origin id.ServerName, room id.RoomID) (o *outline, known bool, err error) {
	r, err := s.roomHere(ctx, room)
	if err != nil || r == nil {
		return nil, false, err
	}
	if o, err = s.outline(ctx, r); err != nil {
		return nil, true, err
	}
	may, err := s.mayGetInto(ctx, r, o, origin)
	if err != nil || !may {
		return nil, true, err
	}
	return o, true, nil
}

// mayGetInto reports whether users of a server could join or peek into a room.
func (s *Service) mayGetInto(ctx context.Context, r *roomstate.Room, o *outline, origin id.ServerName) (bool, error) {
	if err := s.checkACL(ctx, r, origin); err != nil {
		if errors.Is(err, mxerr.Forbidden) {
			err = nil
		}
		return false, err
	}
	if r.HasServer(origin) {
		return true, nil
	}
	if !o.federated {
		return false, nil
	}
	knock := r.Rules.Knock && o.JoinRule == "knock" || r.Rules.KnockRestricted && o.JoinRule == "knock_restricted"
	if o.WorldReadable || o.JoinRule == "public" || knock || invited(r, origin) {
		return true, nil
	}
	for _, allowed := range o.AllowedRoomIDs {
		in, err := s.Cache.Room(ctx, allowed)
		if err == nil && in.HasServer(origin) {
			return true, nil
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return false, err
		}
	}
	return false, nil
}

// invited reports whether a user of a server is invited to a room.
func invited(r *roomstate.Room, server id.ServerName) (found bool) {
	r.Members(func(m roomstate.Member) bool {
		found = m.Membership == "invite" && m.User.Server() == server
		return !found
	})
	return found
}

// childrenOf returns the m.space.child events of a space that name a room and where to find it, in the order of the
// specification.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#ordering-of-children-within-a-space
func (s *Service) childrenOf(ctx context.Context, space *outline, suggestedOnly bool) ([]*roomstate.Event, error) {
	if space.RoomType != "m.space" {
		return nil, nil
	}
	r, err := s.room(ctx, space.RoomID)
	if err != nil {
		return nil, err
	}
	var at []storage.Pos
	err = r.StateKeys(ctx, space.root, func(k roomstate.Key, pos storage.Pos) {
		if k.Type == "m.space.child" {
			at = append(at, pos)
		}
	})
	if err != nil {
		return nil, err
	}
	events, err := r.EventsAt(ctx, at)
	if err != nil {
		return nil, err
	}
	events = slices.DeleteFunc(events, func(e *roomstate.Event) bool {
		return !isChild(e) || suggestedOnly && field(e, "suggested").Type != gjson.True
	})
	slices.SortStableFunc(events, byOrder)
	return events[:min(len(events), maxChildren)], nil
}

// isChild sees that a child is a room and that there is a server to reach it through.
func isChild(e *roomstate.Event) bool {
	_, err := id.ParseRoomID(*e.StateKey)
	via := field(e, "via")
	return err == nil && via.IsArray() && len(via.Array()) > 0
}

// strippedChild is a child as spaces tell of it.
func strippedChild(e *roomstate.Event) json.RawMessage {
	b := event.AppendStripped(nil, e.Event)
	b = append(b[:len(b)-1], `,"origin_server_ts":`...)
	return append(strconv.AppendInt(b, e.OriginServerTS, 10), '}')
}

// maxOrder is how long the order of a child may be, in bytes.
const maxOrder = 50

// orderOf returns the order of a child, false if it has none that counts.
func orderOf(e *roomstate.Event) (string, bool) {
	order := field(e, "order")
	outside := func(r rune) bool { return r < ' ' || r > '~' }
	if order.Type != gjson.String || len(order.Str) > maxOrder || strings.IndexFunc(order.Str, outside) >= 0 {
		return "", false
	}
	return order.Str, true
}

// byOrder compares children: those with an order first, by that, and then by age and by id.
func byOrder(a, b *roomstate.Event) int {
	left, hasLeft := orderOf(a)
	right, hasRight := orderOf(b)
	if hasLeft != hasRight {
		if hasLeft {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(left, right), cmp.Compare(a.OriginServerTS, b.OriginServerTS), cmp.Compare(*a.StateKey, *b.StateKey))
}
