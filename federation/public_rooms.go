package federation

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/rooms"
)

// getPublicRooms implements GET /_matrix/federation/v1/publicRooms.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1publicrooms
func (s *Service) getPublicRooms(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rooms.DirectoryPage, error) {
	limit, err := c.Int("limit", 0)
	if err != nil {
		return nil, err
	}
	all, err := c.Bool("include_all_networks", false)
	if err != nil {
		return nil, err
	}
	return s.cfg.Rooms.DirectoryFor(ctx, rooms.DirectoryQuery{
		Limit: limit, Since: c.Query("since"), IncludeAllNetworks: all, ThirdPartyInstanceID: c.Query("third_party_instance_id"),
	})
}

// queryPublicRooms implements POST /_matrix/federation/v1/publicRooms.
//
// https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1publicrooms
func (s *Service) queryPublicRooms(ctx context.Context, _ *httpapi.Call, in *rooms.DirectoryQuery) (*rooms.DirectoryPage, error) {
	return s.cfg.Rooms.DirectoryFor(ctx, *in)
}
