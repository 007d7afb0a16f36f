// Package syncing is what clients are told and what they keep here: /sync, filters, account data and tags.
// Its folder is named after the specification's heading; the clause differs from the standard library's sync so
// that a file may import both.
//
// It only reads rooms. A look at what is new asks the hub where something changed since the client's token,
// touches only those rooms, takes their news from memory, and appends the answer as bytes: an incremental
// sync costs in proportion to what changed.
package syncing

import (
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Config is what a Service is made of. All fields but Now are required.
type Config struct {
	DB     *storage.DB
	Cache  *roomstate.Cache
	Hub    *notify.Hub
	Typing *ephemeral.Typing
	Now    func() time.Time // nil: time.Now
}

// Service tells clients what is new. Its methods may be called at once. It has no goroutines.
type Service struct {
	Config
	filters *filterCache
	wishes  *wishCache
	sent    *sentMembers
	logouts atomic.Int64  // counts what LoggedOut was told
	large   chan struct{} // a place for each large answer that is being made
}

// maxLarge bounds the large answers that are made at once, each of which may have many megabytes. More would not be
// ready sooner.
const maxLarge = 4

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{
		Config: cfg, filters: newFilterCache(), wishes: newWishCache(), sent: newSentMembers(),
		large: make(chan struct{}, maxLarge),
	}
}
