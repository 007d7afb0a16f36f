package federation

import (
	"context"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

type resolvedAlias struct {
	RoomID  id.RoomID       `json:"room_id"`
	Servers []id.ServerName `json:"servers"`
}

// queryRoomDirectory implements GET /_matrix/federation/v1/query/directory.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1querydirectory
func (s *Service) queryRoomDirectory(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*resolvedAlias, error) {
	if !c.HasQuery("room_alias") {
		return nil, mxerr.MissingParam.With("room_alias is missing")
	}
	alias, err := id.ParseRoomAlias(c.Query("room_alias"))
	if err != nil {
		return nil, mxerr.InvalidParam.With("room_alias: %v", err)
	}
	room, servers, err := s.cfg.Rooms.AliasFor(ctx, alias)
	if err != nil {
		return nil, err
	}
	return &resolvedAlias{room, servers}, nil
}

// queryProfile implements GET /_matrix/federation/v1/query/profile.
//
// Fields that are not set are left out.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1queryprofile
func (s *Service) queryProfile(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*json.RawMessage, error) {
	if !c.HasQuery("user_id") {
		return nil, mxerr.MissingParam.With("user_id is missing")
	}
	user, err := id.ParseUserID(c.Query("user_id"))
	if err != nil {
		return nil, mxerr.InvalidParam.With("user_id: %v", err)
	}
	if user.Server() != s.cfg.ServerName {
		return nil, mxerr.NotFound.With("%s is not a user of this server", user)
	}
	profile, err := s.cfg.Rooms.ProfileFor(ctx, user, c.Query("field"))
	return &profile, err
}

// queryInfo implements GET /_matrix/federation/v1/query/{queryType}.
//
// The types of the specification have routes of their own; there are no others here.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1queryquerytype
func (s *Service) queryInfo(context.Context, *httpapi.Call, *httpapi.None) (*httpapi.Empty, error) {
	return nil, mxerr.Unrecognized.With("this server knows no such query")
}
