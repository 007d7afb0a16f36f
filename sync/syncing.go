// Package syncing is what clients are told and what they keep here: /sync, filters, account data, tags and presence.
// Its folder is named after the specification's heading; the clause differs from the standard library's sync so
// that a file may import both.
//
// It only reads rooms. A look at what is new asks the hub where something changed since the client's token,
// touches only those rooms, takes their news from memory, and appends the answer as bytes: an incremental
// sync costs in proportion to what changed. Presence is kept elsewhere; here it is set, told, and spread to those whom it
// concerns, by one goroutine.
package syncing

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Config is what a Service is made of. The fields up to Typing are required.
type Config struct {
	DB     *storage.DB
	Cache  *roomstate.Cache
	Hub    *notify.Hub
	Typing *ephemeral.Typing
	Now    func() time.Time // nil: time.Now

	// Presence is who is there, with numbers beside the boot id of Typing. Nil: nobody is told of it.
	Presence   *ephemeral.Presence
	Peers      Peers         // other servers, which are told of it; nil: none is
	ServerName id.ServerName // this server's; needed for presence and for messages to devices

	// Notices is who sends the server's notices, whose invites everybody is told of; "" for nobody.
	Notices id.UserID

	Keys   DeviceKeys // what devices have left of keys; nil: nothing
	Outbox Outbox     // takes messages to devices of other servers; nil: they are passed over
}

// Service tells clients what is new. Its methods may be called at once. It has no goroutines before Start.
type Service struct {
	Config
	filters *filterCache
	wishes  *wishCache
	sent    *sentMembers
	inboxes *inboxes
	parcels atomic.Int64  // counts acts with messages to devices
	logouts atomic.Int64  // counts what LoggedOut was told
	large   chan struct{} // a place for each large answer that is being made

	pushes  meter         // what other servers say of presence
	early   early         // and says too soon
	changes chan struct{} // capacity 1: there are changes of presence
	stop    context.CancelFunc
	tasks   sync.WaitGroup
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
		inboxes: newInboxes(cfg.DB),
		large:   make(chan struct{}, maxLarge), changes: make(chan struct{}, 1),
	}
}
