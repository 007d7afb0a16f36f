package federation

import (
	"context"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/rooms"
)

// makeLeave implements GET /_matrix/federation/v1/make_leave/{roomId}/{userId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1make_leaveroomiduserid
func (s *Service) makeLeave(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rooms.Template, error) {
	return s.cfg.Rooms.Template(ctx, wishOf(c, "leave"))
}

// sendLeaveV2 implements PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}.
//
// https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_leaveroomideventid
func (s *Service) sendLeaveV2(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*httpapi.Empty, error) {
	_, err := s.sendMember(ctx, c, "leave", *in)
	return &httpapi.Empty{}, err
}

// sendLeaveV1 implements PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}.
//
// The specification had it until v1.17. The answer is a list of the status and nothing.
//
// https://spec.matrix.org/v1.17/server-server-api/#put_matrixfederationv1send_leaveroomideventid
func (s *Service) sendLeaveV1(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*[2]any, error) {
	_, err := s.sendLeaveV2(ctx, c, in)
	return &[2]any{200, struct{}{}}, err
}
