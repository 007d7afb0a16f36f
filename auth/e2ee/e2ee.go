// Package e2ee keeps the public keys by which clients encrypt for each other: the identity keys of devices, their one-time
// and fallback keys, cross-signing keys, signatures of all of these, and backups of the keys of rooms. It can read
// nothing of what is encrypted; its promises are that nobody's keys are mixed up, and that a one-time key is given out once.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#end-to-end-encryption
package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// Config is what a Service is made of. The fields up to Confirm are required.
type Config struct {
	ServerName id.ServerName
	DB         *storage.DB
	Hub        *notify.Hub

	// Confirm has a caller prove who they are before body is acted on, and returns it without the proof: see
	// auth.Service.Confirm.
	Confirm func(ctx context.Context, c *httpapi.Call, body json.RawMessage) (json.RawMessage, error)

	// Changes tells whose devices a user has to look at again between two tokens of /sync, and whose no more. Nil: nobody's.
	Changes func(ctx context.Context, user id.UserID, from, to token.Stream) (changed, left []id.UserID, err error)

	Lists  Lists  // the devices of users of other servers; nil: there are none
	Remote Remote // asks other servers; nil: there are none

	Now func() time.Time // nil: time.Now

	// NoDeviceNames keeps the display names of devices from everybody but their owners.
	NoDeviceNames bool
}

// Lists keeps the devices of those users of other servers in storage who share a room with a local one.
type Lists interface {
	// Refresh returns when the devices of users, all of other servers, are as their servers tell them. Whoever has an
	// error in the answer is not: ErrNotShared says that nobody tells this server of changes, so nothing is kept.
	Refresh(ctx context.Context, users []id.UserID) map[id.UserID]error
}

// ErrNotShared says that no local user shares a room with a user.
var ErrNotShared = errors.New("e2ee: no room is shared with the user")

// Service is the package's part of the server. Its methods may be called at once. It has no goroutines of its own.
type Service struct {
	Config
	counts countCache
}

// New returns a Service. It does no I/O and starts nothing.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{Config: cfg}
}
