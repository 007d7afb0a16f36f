// Package federation is the wire between servers: what other homeservers ask of this one.
//
// Spec: https://spec.matrix.org/latest/server-server-api/
package federation

import (
	"crypto/ed25519"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// Config is what the Service needs to know.
type Config struct {
	ServerName id.ServerName
	Key        signing.Key // signs whatever this server says
	OldKeys    []OldKey    // keys that were used before and sign nothing any more
	Software   string      // the name in /version; "embedmatrix" if empty
	Version    string      // of the software
	Now        func() time.Time
}

// OldKey is a key this server has signed events with, which stay verifiable.
type OldKey struct {
	ID        string
	Public    ed25519.PublicKey
	ExpiredAt time.Time // the last moment at which it signed
}

// Service answers other servers.
type Service struct{ cfg Config }

// New returns the service. It starts nothing and does no I/O.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Software == "" {
		cfg.Software = "embedmatrix"
	}
	return &Service{cfg: cfg}
}
