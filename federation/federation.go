// Package federation is the wire between servers: what other homeservers ask of this one.
//
// Spec: https://spec.matrix.org/latest/server-server-api/
package federation

import (
	"crypto/ed25519"
	"time"

	"github.com/embedmatrix/homeserver/federation/keyring"
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

	// Ring finds the keys of other servers. Nil: there are no others, and nobody's request is accepted.
	Ring *keyring.Ring

	// Allowed says which servers may send requests. Nil: all.
	Allowed func(id.ServerName) bool

	// Alive, if not nil, is told who has just sent a request: a server that failed before can be tried again.
	Alive func(id.ServerName)
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
