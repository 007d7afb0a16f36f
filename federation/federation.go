// Package federation is the wire between servers: what other homeservers ask of this one (Service), what they are asked
// (Client) and what is sent to them (Sender).
//
// Spec: https://spec.matrix.org/latest/server-server-api/
package federation

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
)

// Config is what the Service needs to know.
type Config struct {
	ServerName id.ServerName
	Key        signing.Key // signs whatever this server says
	OldKeys    []OldKey    // keys that were used before and sign nothing any more
	Software   string      // the name in /version; "embedmatrix" if empty
	Version    string      // of the software
	Now        func() time.Time

	// Rooms are asked and told about rooms, and Receiver takes the events of transactions: Rooms if nil. DB remembers
	// how transactions were answered. They are needed for whatever only other servers may ask.
	Rooms    *rooms.Service
	Receiver Receiver
	DB       *storage.DB

	// Outbox knows what other servers are told of devices. It is needed for whatever only other servers may ask.
	Outbox *Outbox

	// EDUs takes the ephemeral data units of transactions by their type; those of other types are passed over. An error
	// is logged and concerns nobody else, unless storage has refused: then the transaction is to be sent again.
	EDUs map[string]func(ctx context.Context, origin id.ServerName, content json.RawMessage) error

	// OpenID knows whose tokens for third parties are. Nil: there are none.
	OpenID OpenID

	// Keys are the keys of local users. They are needed for whatever only other servers may ask.
	Keys UserKeys

	// Media gives files out. Nil: there are none.
	Media Media

	Log *slog.Logger // nil discards

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
type Service struct {
	cfg   Config
	inbox *inbox
}

// New returns the service. It does no I/O and starts nothing before a request comes; Close ends it.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Software == "" {
		cfg.Software = "embedmatrix"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Receiver == nil {
		cfg.Receiver = cfg.Rooms
	}
	return &Service{cfg: cfg, inbox: newInbox(cfg)}
}

// Close breaks off the transactions that are being handled, and returns when the last has ended. Their senders are
// told that this server failed, and send them again.
func (s *Service) Close() { s.inbox.close() }
