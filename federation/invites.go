package federation

import (
	"context"
	"encoding/json"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
)

// maxInvite is how many bytes an invite may have: some events of at most 64 KiB, by which the room is recognised.
const maxInvite = 2 << 20

// inviteBody is an invite with the version of its room and what the inviting server tells of it.
type inviteBody struct {
	RoomVersion     string          `json:"room_version"`
	Event           json.RawMessage `json:"event"`
	InviteRoomState json.RawMessage `json:"invite_room_state"`
}

type signedInvite struct {
	Event json.RawMessage `json:"event"`
}

// sendInviteV2 implements PUT /_matrix/federation/v2/invite/{roomId}/{eventId}.
//
// https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2inviteroomideventid
func (s *Service) sendInviteV2(ctx context.Context, c *httpapi.Call, in *inviteBody) (*signedInvite, error) {
	switch {
	case in.RoomVersion == "":
		return nil, mxerr.MissingParam.With("room_version is missing")
	case missing(in.Event):
		return nil, mxerr.MissingParam.With("event is missing")
	}
	state, err := stateList(in.InviteRoomState)
	if err != nil {
		return nil, err
	}
	return s.invite(ctx, c, in.RoomVersion, in.Event, state)
}

// sendInviteV1 implements PUT /_matrix/federation/v1/invite/{roomId}/{eventId}.
//
// The body is the event itself, with what is told of the room in its unsigned part.
//
// https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1inviteroomideventid
func (s *Service) sendInviteV1(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*[2]any, error) {
	state, err := stateList([]byte(gjson.GetBytes(*in, "unsigned.invite_room_state").Raw))
	if err != nil {
		return nil, err
	}
	signed, err := s.invite(ctx, c, oldVersion(state), *in, state)
	return &[2]any{200, signed}, err
}

// oldVersion is the version of a room to which an invite in the first form leads. "Servers which receive a v1 invite
// request must assume that the room version is either "1" or "2"": which of them, its m.room.create tells, if anything.
func oldVersion(state []json.RawMessage) string {
	for _, raw := range state {
		known := gjson.GetManyBytes(raw, "type", "content.room_version")
		if known[0].String() == "m.room.create" && known[1].String() == "2" {
			return "2"
		}
	}
	return "1"
}

func (s *Service) invite(ctx context.Context, c *httpapi.Call, version string, raw json.RawMessage, state []json.RawMessage) (*signedInvite, error) {
	ev, err := s.cfg.Rooms.Invited(ctx, rooms.Invitation{
		Origin: c.Origin, Room: c.RoomID("roomId"), EventID: c.EventID("eventId"), Version: version, Event: raw, State: state,
	})
	if err != nil {
		return nil, err
	}
	return &signedInvite{ev.JSON}, nil
}

// stateList reads the list of events by which a room is recognised. There may be none.
func stateList(raw json.RawMessage) ([]json.RawMessage, error) {
	if missing(raw) {
		return nil, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, mxerr.InvalidParam.With("invite_room_state is no list")
	}
	return list, nil
}

// missing reports whether a key was left out, or null.
func missing(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }
