// Package rooms is everything that changes or reads a room's history: creation, membership, sending, state,
// history, aliases, receipts and typing; and user profiles, whose visible effect is member events. It is the
// only writer of events: a local send and whatever comes from elsewhere pass the same append.
package rooms

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

// Config is what a Service is made of. All fields up to Rand but Presence are required.
type Config struct {
	ServerName id.ServerName
	Key        signing.Key // signs this server's events
	DB         *storage.DB
	Cache      *roomstate.Cache
	Hub        *notify.Hub
	Typing     *ephemeral.Typing
	Presence   *ephemeral.Presence // who is there, which is told what users do; nil: nobody is
	Now        func() time.Time
	Rand       io.Reader

	// Version is the room version of new rooms when nobody asks for another; empty means roomversion.Default.
	Version string

	// PublishByAnyone lets every local user put aliases and rooms in the directory without a right in the room.
	PublishByAnyone bool

	// PrivateDirectory shows the directory to none but this server's users, and to other servers.
	PrivateDirectory bool

	// FindAllUsers lets the user directory find every local user, and not only those whom somebody shares a room with or
	// whom public rooms show.
	FindAllUsers bool

	// Notices say how this server's administrators reach its users.
	Notices Notices

	// MayChange says which fields of their profile users may change. Nil: all.
	MayChange func(field string) bool

	// OnReport is told of each report of a user once it is stored. Nil: nobody is told.
	OnReport func(ctx context.Context, r storage.Report)

	// Remote asks other servers and checks what they have signed; nil: this server does not federate.
	Remote Remote

	// Peers are told what need not arrive: typing and receipts. Nil: nobody is.
	Peers Peers

	// Networks are those to which bridges of this server lead; nil: none do.
	Networks ThirdPartyNetworks

	// Calls says by which servers the clients in a call reach each other.
	Calls Calls

	// Delays bounds the events that users schedule to be sent later.
	Delays Delays

	Log *slog.Logger // nil discards
}

// Service is the rooms of a server. Its methods may be called at once; those that act for a user check what
// that user may do, as over HTTP.
type Service struct {
	Config
	lastCreated atomic.Int64 // the stamp of the latest m.room.create, in milliseconds
	typists     typists      // whom other servers think to be typing
	verdicts    verdicts     // whom the ACLs of rooms deny
	lanes       lanes        // who asks other servers about a room
	early       early        // redactions that came before their targets, and are on their way to storage
	noticed     lanes        // who is told something in their room of notices
	pasts       lanes        // who asks other servers for the history of a room
	unfilled    unfilled     // which gaps in histories nobody could fill
	indexer     *indexer     // keeps what searches look into; nil until Start
	listing     *listing     // the directory
	schedule    *schedule    // the events that are sent later
	clearer     *clearer     // redacts what users have sent who are put out with it
	spaces                   // what is remembered of spaces: see spaces.go
}

// New returns a Service. It starts nothing.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{Config: cfg, listing: newListing(), spaces: newSpaces()}
	s.schedule = newSchedule(s)
	s.clearer = newClearer(s)
	cfg.Cache.WatchArrivals(s.schedule.arrived)
	cfg.Cache.WatchClearings(s.clearer.look)
	cfg.Cache.Watch(s.listing.changed)
	return s
}

// Start starts what works beside requests.
func (s *Service) Start() {
	s.indexer = startIndexer(s)
	s.schedule.start()
	s.clearer.start()
}

// Close ends it and awaits that.
func (s *Service) Close() {
	s.clearer.close()
	s.schedule.close()
	if s.indexer != nil {
		s.indexer.close()
	}
}

// room returns a room for reading; mxerr.NotFound when this server does not know it.
func (s *Service) room(ctx context.Context, roomID id.RoomID) (*roomstate.Room, error) {
	r, err := s.Cache.Room(ctx, roomID)
	return r, unknownRoom(err)
}

func unknownRoom(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return mxerr.NotFound.With("this server does not know the room")
	}
	return err
}

// local reports whether a user has an account here.
func (s *Service) local(user id.UserID) bool { return user.Server() == s.ServerName }

// account returns the account of a local user; false when there is none.
func (s *Service) account(ctx context.Context, user id.UserID) (account storage.Account, ok bool, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		account, err = tx.Account(user)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return account, false, nil
	}
	return account, err == nil, err
}

// isGuest reports whether user is a guest of this server.
func (s *Service) isGuest(ctx context.Context, user id.UserID) (bool, error) {
	account, _, err := s.account(ctx, user)
	return account.Guest, err
}
