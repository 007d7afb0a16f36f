package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

const (
	policyKeyID     = "ed25519:policy_server"
	maxPolicyAnswer = 64 << 10 // bytes
)

// PolicySign asks a policy server to sign an event, and returns its signature in base64, unchecked. If the policy server
// refuses, the error is an *mxerr.Error with its words: "that error SHOULD be provided to the client verbatim". An error
// that would tell a client of ours something else, and no answer at all, is a 502.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixpolicyv1sign
func (c *Client) PolicySign(ctx context.Context, server id.ServerName, ev *event.Event) (string, error) {
	answer, err := c.Wire.Do(ctx, wire.Request{
		Destination: server, Method: http.MethodPost, Path: "/_matrix/policy/v1/sign", Body: ev.JSON, MaxAnswer: maxPolicyAnswer,
		Force: true, // without it nobody can say anything in the room
	})
	var said *wire.Error
	if errors.As(err, &said) && (passes(said) || said.Status == http.StatusTooManyRequests) {
		return "", verbatim(said)
	}
	if err != nil {
		return "", refused(server, err)
	}
	var signatures map[string]map[string]string
	if err := json.Unmarshal(answer.Body, &signatures); err != nil {
		return "", malformed(server, "gives an answer of another form")
	}
	return signatures[string(server)][policyKeyID], nil
}

// verbatim is an error of a policy server as a client is told it.
func verbatim(said *wire.Error) *mxerr.Error {
	e := (&mxerr.Error{Code: said.Code, Status: said.Status}).With("%s", said.Message)
	if said.Status == http.StatusTooManyRequests {
		e.Code, e.RetryAfter = mxerr.LimitExceeded.Code, said.RetryAfter
	}
	return e
}
