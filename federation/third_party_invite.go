package federation

import (
	"context"
	"encoding/json"
	"net/url"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
)

// exchangeThirdPartyInvite implements PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}.
//
// https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid
func (s *Service) exchangeThirdPartyInvite(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*httpapi.Empty, error) {
	return &httpapi.Empty{}, s.cfg.Rooms.Exchange(ctx, c.Origin, c.RoomID("roomId"), *in)
}

// binding says that a third-party identifier is a user's.
type binding struct {
	MXID    string         `json:"mxid"`
	Medium  string         `json:"medium"`
	Address string         `json:"address"`
	Invites *[]boundInvite `json:"invites"`
}

type boundInvite struct {
	RoomID string          `json:"room_id"`
	Sender string          `json:"sender"`
	Signed json.RawMessage `json:"signed"`
}

// maxBoundInvites is how many invites may wait for one identifier.
const maxBoundInvites = 50

// onBindThirdPartyIdentifier implements PUT /_matrix/federation/v1/3pid/onbind.
//
// Anybody may call it: what counts is the signature in each invite, which the server checks that has the room.
//
// https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv13pidonbind
func (s *Service) onBindThirdPartyIdentifier(ctx context.Context, _ *httpapi.Call, in *binding) (*httpapi.Empty, error) {
	user, err := id.ParseUserID(in.MXID)
	switch {
	case in.MXID == "" || in.Invites == nil:
		return nil, mxerr.MissingParam.With("mxid and invites are required")
	case err != nil || user.Server() != s.cfg.ServerName:
		return nil, mxerr.InvalidParam.With("mxid is no user of this server")
	case len(*in.Invites) > maxBoundInvites:
		return nil, mxerr.InvalidParam.With("there may be %d invites", maxBoundInvites)
	}
	bound := make([]rooms.Bound, len(*in.Invites))
	for i, invite := range *in.Invites {
		if bound[i], err = invite.parse(); err != nil {
			return nil, err
		}
	}
	return &httpapi.Empty{}, s.cfg.Rooms.Bind(ctx, user, bound)
}

func (b boundInvite) parse() (rooms.Bound, error) {
	room, roomErr := id.ParseRoomID(b.RoomID)
	sender, senderErr := id.ParseUserID(b.Sender)
	if roomErr != nil || senderErr != nil || !gjson.ParseBytes(b.Signed).IsObject() {
		return rooms.Bound{}, mxerr.InvalidParam.With("an invite needs room_id, sender and signed")
	}
	return rooms.Bound{Room: room, Sender: sender, Signed: b.Signed}, nil
}

// maxValidity is how many bytes an identity server may answer with about a key.
const maxValidity = 16 << 10

// KeyValid asks at a URL of an identity server whether a public key of it is valid, under the name under which the
// m.room.third_party_invite has it.
//
// Spec: https://spec.matrix.org/latest/identity-service-api/#get_matrixidentityv2pubkeyisvalid
func (c *Client) KeyValid(ctx context.Context, address, publicKey string) (bool, error) {
	target, err := url.Parse(address)
	if err != nil {
		return false, err
	}
	query := target.Query()
	query.Set("public_key", publicKey)
	target.RawQuery = query.Encode()
	answer, err := c.Wire.Web(ctx, target.String(), maxValidity)
	if err != nil {
		return false, err
	}
	return gjson.GetBytes(answer.Body, "valid").Type == gjson.True, nil
}
