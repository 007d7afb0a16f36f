package federation

import (
	"context"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
)

// makeKnock implements GET /_matrix/federation/v1/make_knock/{roomId}/{userId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1make_knockroomiduserid
func (s *Service) makeKnock(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rooms.Template, error) {
	wish := wishOf(c, "knock")
	if wish.Versions = c.QueryAll("ver"); wish.Versions == nil {
		return nil, mxerr.MissingParam.With("ver is missing")
	}
	return s.cfg.Rooms.Template(ctx, wish)
}

type knockState struct {
	KnockRoomState []json.RawMessage `json:"knock_room_state"`
}

// sendKnock implements PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}.
//
// https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1send_knockroomideventid
func (s *Service) sendKnock(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*knockState, error) {
	entered, err := s.sendMember(ctx, c, "knock", *in)
	if err != nil {
		return nil, err
	}
	return &knockState{entered.Stripped}, nil
}
