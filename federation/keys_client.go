package federation

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
)

// maxKeysAnswer bounds what a server says of the keys of its users: of some thousand devices.
const maxKeysAnswer = 16 << 20

// QueryKeys asks a server for the keys of its users, as e2ee.Remote wants it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysquery
func (c *Client) QueryKeys(ctx context.Context, server id.ServerName, users map[id.UserID][]id.DeviceID) (*e2ee.RemoteKeys, error) {
	answer := &e2ee.RemoteKeys{}
	return answer, c.postKeys(ctx, server, "query", map[string]any{"device_keys": users}, answer)
}

// ClaimKeys asks a server for a one-time key for each device, as e2ee.Remote wants it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysclaim
func (c *Client) ClaimKeys(ctx context.Context, server id.ServerName, claims e2ee.Claims) (e2ee.ClaimedKeys, error) {
	var answer struct {
		Keys e2ee.ClaimedKeys `json:"one_time_keys"`
	}
	err := c.postKeys(ctx, server, "claim", map[string]any{"one_time_keys": claims}, &answer)
	return answer.Keys, err
}

func (c *Client) postKeys(ctx context.Context, server id.ServerName, what string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	return c.fetch(ctx, wire.Request{
		Destination: server, Method: http.MethodPost, Path: v1 + "user/keys/" + what, Body: body, MaxAnswer: maxKeysAnswer,
	}, answer)
}
