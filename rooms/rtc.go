package rooms

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

// callMember is the type of the state events by which people are in a call.
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/3401
const callMember = "org.matrix.msc3401.call.member"

// Transport is a way by which the media of a call get to its participants.
type Transport struct {
	Type    string `json:"type"`
	LiveKit string `json:"livekit_service_url,omitempty"`
}

// Transports are the transports of MatrixRTC that there are, those first that clients are to prefer; not nil.
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4143 and
// https://github.com/matrix-org/matrix-spec-proposals/pull/4195
func (c Calls) Transports() []Transport {
	list := make([]Transport, len(c.LiveKit))
	for i, url := range c.LiveKit {
		list[i] = Transport{Type: "livekit", LiveKit: url}
	}
	return list
}

type transports struct {
	Transports []Transport `json:"rtc_transports"`
}

// getTransports implements GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4143
func (s *Service) getTransports(context.Context, *httpapi.Call, *httpapi.None) (*transports, error) {
	return &transports{s.Calls.Transports()}, nil
}
