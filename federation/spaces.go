package federation

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/rooms"
)

// getSpaceHierarchy implements GET /_matrix/federation/v1/hierarchy/{roomId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1hierarchyroomid
func (s *Service) getSpaceHierarchy(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rooms.Hierarchy, error) {
	suggestedOnly, err := c.Bool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	return s.cfg.Rooms.HierarchyFor(ctx, c.Origin, c.RoomID("roomId"), suggestedOnly)
}
