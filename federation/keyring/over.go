package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
)

// Over returns the Fetcher that asks through a client. The Ring knows itself when to leave a server alone, so
// the client's own pauses do not count.
func Over(client *wire.Client) Fetcher { return overWire{client} }

type overWire struct{ client *wire.Client }

// ServerKeys asks a server for its keys.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixkeyv2server
func (o overWire) ServerKeys(ctx context.Context, server id.ServerName) ([]byte, error) {
	answer, err := o.client.Do(ctx, wire.Request{
		Destination: server, Method: http.MethodGet, Path: "/_matrix/key/v2/server",
		Unsigned: true, Force: true, Timeout: directTime, MaxAnswer: MaxAnswer, Loose: true,
	})
	return answer.Body, err
}

// NotaryKeys asks a notary for the keys of others.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixkeyv2query
func (o overWire) NotaryKeys(ctx context.Context, notary id.ServerName, queries []Query) ([][]byte, error) {
	body, err := json.Marshal(criteria(queries))
	if err != nil {
		return nil, err
	}
	answer, err := o.client.Do(ctx, wire.Request{
		Destination: notary, Method: http.MethodPost, Path: "/_matrix/key/v2/query", Body: body,
		Unsigned: true, Force: true, Timeout: notaryTime, MaxAnswer: int64(len(queries)) * MaxAnswer, Loose: true,
	})
	if err != nil {
		return nil, err
	}
	return elements(answer.Body)
}

type criterion struct {
	MinimumValidUntil int64 `json:"minimum_valid_until_ts"`
}

// criteria is the body of a request to a notary.
func criteria(queries []Query) map[string]map[id.ServerName]map[string]criterion {
	servers := map[id.ServerName]map[string]criterion{}
	for _, q := range queries {
		keys := map[string]criterion{}
		for _, keyID := range q.KeyIDs {
			keys[keyID] = criterion{q.MinimumValidUntil}
		}
		servers[q.Server] = keys
	}
	return map[string]map[id.ServerName]map[string]criterion{"server_keys": servers}
}

// elements are the answers in a notary's answer, of which none was looked at.
func elements(body []byte) ([][]byte, error) {
	object, err := canonjson.AppendCompact(nil, body)
	if err != nil {
		return nil, err
	}
	array := canonjson.Get(object, "server_keys")
	if !canonjson.IsArray(array) {
		return nil, errors.New("server_keys is missing or no array")
	}
	var list [][]byte
	for walk := canonjson.OpenArray(array); ; {
		element, ok := walk.Next()
		if !ok {
			return list, nil
		}
		list = append(list, element)
	}
}
