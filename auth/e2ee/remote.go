package e2ee

import (
	"context"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Remote asks other servers. What it returns is what they said: its shape is right, it has at most so many bytes, and
// nothing in it was checked.
type Remote interface {
	// QueryKeys asks a server for the keys of its users; an empty list of devices stands for all.
	QueryKeys(ctx context.Context, server id.ServerName, users map[id.UserID][]id.DeviceID, size int) (*RemoteKeys, error)

	// ClaimKeys asks a server for a one-time key of an algorithm for each device.
	ClaimKeys(ctx context.Context, server id.ServerName, claims Claims, size int) (ClaimedKeys, error)
}

// RemoteKeys is the answer to a question for keys.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysquery
type RemoteKeys struct {
	Devices     map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	Master      map[id.UserID]json.RawMessage                 `json:"master_keys"`
	SelfSigning map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
}

// Claims are the devices for which one-time keys are asked, with the algorithm of each.
type Claims map[id.UserID]map[id.DeviceID]string

// ClaimedKeys are one-time keys by user, device and algorithm:id.
type ClaimedKeys map[id.UserID]map[id.DeviceID]map[string]json.RawMessage
