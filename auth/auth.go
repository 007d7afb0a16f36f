// Package auth knows who is calling: accounts, passwords, logins, tokens, devices, interactive authentication,
// registration, and what a client asks a server before it logs in.
//
// Who a person is, says an Authenticator: the built-in Passwords or the host's own. An account of ours, with its
// devices and tokens, exists for every user who ever registered or logged in here.
package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Config describes a Service. Only ServerName and DB are required.
type Config struct {
	ServerName id.ServerName
	DB         *storage.DB

	Authenticator Authenticator // nil: Passwords in DB
	PasswordCost  Cost          // of the built-in Passwords

	Registration Registration
	Tokens       Lifetimes
	Discovery    Discovery

	// ProfileFields are what users may change of their profiles. The rooms keep to it; here it is told.
	ProfileFields ProfileFields

	// AdminContact is a URI at which the administrator is reached, which M_RESOURCE_LIMIT_EXCEEDED names.
	AdminContact string

	// Admins are administrators whatever their accounts say.
	Admins []id.UserID

	// Exclusive reports whether a user id is reserved, as namespaces of application services are. Nil: none is.
	Exclusive func(id.UserID) bool

	// Rooms is asked to take deactivated users out of theirs. Nil: nobody is in rooms.
	Rooms Rooms

	// Dependants are the parts of the server whose rows live and die with accounts and devices.
	Dependants []Dependant

	// LoggedOut is called when devices are gone, after the commit: what waits for one of them can end. It may not wait.
	LoggedOut func(user id.UserID, devices []id.DeviceID)

	Hooks Hooks

	Log  *slog.Logger     // nil discards
	Now  func() time.Time // nil: time.Now
	Rand io.Reader        // nil: crypto/rand; used by several goroutines at once
}

// Lifetimes says how long tokens are good for.
type Lifetimes struct {
	// Access is the life of access tokens that come with a refresh token. Zero means one hour.
	Access time.Duration

	// Session is the life of access tokens of clients that cannot refresh; after it they are logged out softly
	// and log in again as the same device. Zero means for ever.
	Session time.Duration
}

// Rooms is what auth asks of the rooms.
type Rooms interface {
	// LeaveAll makes user leave every room, and reject every invite and take back every knock. When it fails it
	// is called again later, also after a restart.
	LeaveAll(ctx context.Context, user id.UserID, reason string) error
}

// Dependant is a part of the server whose rows live and die with accounts and devices, such as the keys of a device.
// Its functions run inside the transaction that makes the change, and an error refuses the change. A nil field is skipped.
type Dependant struct {
	// Reserved reports whether no session may use a device id: a key of user has that name, or a device that is nobody's.
	Reserved func(tx *storage.Tx, user id.UserID, device id.DeviceID) (bool, error)

	// Created says that a user has a new device.
	Created func(tx *storage.Tx, at storage.Pos, user id.UserID, device id.DeviceID) error

	// Renamed says that a device got another display name.
	Renamed func(tx *storage.Tx, at storage.Pos, user id.UserID, device id.DeviceID) error

	// Deleted says that devices are gone.
	Deleted func(tx *storage.Tx, at storage.Pos, user id.UserID, devices []id.DeviceID) error

	// Deactivated says that a user is gone for good, after Deleted for all devices. erase: who asked to be forgotten.
	Deactivated func(tx *storage.Tx, at storage.Pos, user id.UserID, erase bool) error
}

// Hooks let the host watch and veto. A nil field is skipped. Users are whole ids, such as @alice:example.org.
type Hooks struct {
	// CheckRegister may refuse a user who registers by returning an error, which the client sees as M_FORBIDDEN.
	// It runs after interactive authentication, and not for users that the host or an administrator makes.
	CheckRegister func(ctx context.Context, user string) error

	// CheckLogin may refuse somebody who proved to be user. The client sees the error as M_FORBIDDEN.
	CheckLogin func(ctx context.Context, user string) error

	// The following are called after the commit, in no order between users.
	OnRegister   func(ctx context.Context, user string, guest bool)
	OnLogin      func(ctx context.Context, user, device string)
	OnLogout     func(ctx context.Context, user string, devices []string)
	OnDeactivate func(ctx context.Context, user string, erase bool)
}

// Service is the package's part of the server. Its methods may be called from any number of goroutines.
type Service struct {
	cfg       Config
	db        *storage.DB
	authn     Authenticator
	passwords *Passwords // authn, when it is the built-in one on our own db; else nil
	log       *slog.Logger
	random    io.Reader

	sessions   sessions
	sightings  sightings
	proofs     proofs
	nonces     nonces
	unfinished chan struct{} // capacity 1: there are deactivations to finish

	stop  context.CancelFunc // nil before Start
	tasks sync.WaitGroup
}

// New returns a Service. It does no I/O and starts nothing.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.ServerName == "" {
		return nil, errors.New("auth: Config needs ServerName and DB")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Tokens.Access == 0 {
		cfg.Tokens.Access = time.Hour
	}
	if err := errors.Join(cfg.Registration.validate(), cfg.Discovery.validate(), cfg.checkContact()); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	s := &Service{cfg: cfg, db: cfg.DB, authn: cfg.Authenticator, log: cfg.Log, random: cfg.Rand}
	if s.authn == nil {
		s.authn = newPasswords(cfg.DB, cfg.ServerName, cfg.PasswordCost, cfg.Rand, cfg.Now)
	}
	if p, ok := s.authn.(*Passwords); ok && p.db == cfg.DB {
		s.passwords = p
	}
	s.sightings.wake, s.unfinished = make(chan struct{}, 1), make(chan struct{}, 1)
	return s, nil
}

// checkContact: "An administrator contact … MUST be provided" to whoever meets a limit.
func (cfg Config) checkContact() error {
	if u, err := url.Parse(cfg.AdminContact); err != nil || cfg.AdminContact != "" && u.Scheme == "" {
		return fmt.Errorf("the AdminContact %q is no URI, such as mailto:root@example.org", cfg.AdminContact)
	}
	if cfg.Registration.MaxUsers > 0 && cfg.AdminContact == "" {
		return errors.New("Registration.MaxUsers needs an AdminContact for those who are turned away")
	}
	return nil
}

// Start begins the work in the background: it stores when devices were seen, and finishes deactivations that
// were broken off. It returns at once; the work goes on until Close.
func (s *Service) Start(context.Context) error {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.tasks.Go(func() { s.keepSightings(ctx) })
	s.tasks.Go(func() { s.finishDeactivations(ctx) })
	return nil
}

// Close ends the work in the background and stores what it had left. The DB must still be open.
func (s *Service) Close(ctx context.Context) error {
	if s.stop == nil {
		return nil
	}
	s.stop()
	s.tasks.Wait()
	return s.storeSightings(ctx)
}

// write runs fn inside the next transaction and then calls forget, which drops what is remembered of what fn changed,
// before whoever waits is answered; also when fn was refused, for the answer of a commit can be lost. It returns when
// the change is durable, even if the caller has gone: what follows a commit is not left out.
func (s *Service) write(ctx context.Context, fn func(*storage.Tx, storage.Pos) error, forget func()) error {
	act := &storage.Act{
		Positions: 1, Do: fn, Committed: func(storage.Pos) { forget() }, Refused: func(error) { forget() },
	}
	s.db.Queue(act)
	return act.Wait(context.WithoutCancel(ctx))
}

func (s *Service) nowMS() int64 { return s.cfg.Now().UnixMilli() }

// isAdmin reports whether user administers this server, given what the account says.
func (s *Service) isAdmin(user id.UserID, account bool) bool {
	return account || slices.Contains(s.cfg.Admins, user)
}
