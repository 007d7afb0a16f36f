package federation

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
)

// QueryKeys asks a server for the keys of its users, as e2ee.Remote wants it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysquery
func (c *Client) QueryKeys(ctx context.Context, server id.ServerName, users map[id.UserID][]id.DeviceID, size int) (*e2ee.RemoteKeys, error) {
	answer := &e2ee.RemoteKeys{}
	return answer, c.postKeys(ctx, server, "query", size, map[string]any{"device_keys": users}, answer)
}

// ClaimKeys asks a server for a one-time key for each device, as e2ee.Remote wants it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysclaim
func (c *Client) ClaimKeys(ctx context.Context, server id.ServerName, claims e2ee.Claims, size int) (e2ee.ClaimedKeys, error) {
	var answer struct {
		Keys e2ee.ClaimedKeys `json:"one_time_keys"`
	}
	err := c.postKeys(ctx, server, "claim", size, map[string]any{"one_time_keys": claims}, &answer)
	return answer.Keys, err
}

func (c *Client) postKeys(ctx context.Context, server id.ServerName, what string, size int, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	return c.fetch(ctx, wire.Request{
		Destination: server, Method: http.MethodPost, Path: v1 + "user/keys/" + what, Body: body, MaxAnswer: int64(size),
	}, answer)
}
