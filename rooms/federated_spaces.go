package rooms

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

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
	space, r, err := s.outlineFor(ctx, origin, room)
	if err != nil {
		return nil, err
	}
	if space == nil {
		return nil, mxerr.NotFound.With("there is no such room, or your server cannot get into it")
	}
	children, err := s.childrenOf(ctx, r, space, suggestedOnly, maxChildren)
	if err != nil {
		return nil, err
	}
	h := &Hierarchy{
		Room: &SpaceSummary{space.Summary, toldOf(children)}, Children: []*Summary{}, Inaccessible: []id.RoomID{},
	}
	for i := range children {
		if err := s.addChild(ctx, origin, children[i].room, h); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (s *Service) addChild(ctx context.Context, origin id.ServerName, room id.RoomID, h *Hierarchy) error {
	child, r, err := s.outlineFor(ctx, origin, room)
	switch {
	case err != nil:
		return err
	case child != nil:
		h.Children = append(h.Children, &child.Summary)
	case r != nil:
		h.Inaccessible = append(h.Inaccessible, room)
	}
	return nil
}

// outlineFor returns the outline of a room for another server, nil if that cannot get into it; the room is nil if this
// server is not in it.
func (s *Service) outlineFor(ctx context.Context, origin id.ServerName, room id.RoomID) (*outline, *roomstate.Room, error) {
	r, err := s.roomHere(ctx, room)
	if err != nil || r == nil {
		return nil, nil, err
	}
	o, err := s.outline(ctx, r)
	if err != nil {
		return nil, r, err
	}
	may, err := s.mayGetInto(ctx, r, o, origin)
	if err != nil || !may {
		return nil, r, err
	}
	return o, r, nil
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
	if _, anybody := r.Counts(); anybody == 0 {
		return false
	}
	r.Members(func(m roomstate.Member) bool {
		found = m.Membership == "invite" && m.User.Server() == server
		return !found
	})
	return found
}
