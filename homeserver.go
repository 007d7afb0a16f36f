// Package homeserver is a Matrix homeserver that lives inside a Go program.
//
// A Server is made of a Config, serves the Matrix API as an http.Handler, and keeps everything in the
// Storage it was given. It takes nothing from its host: no listeners, signals, environment or global state,
// so that any number of Servers live in one process.
//
//	engine, err := sqlite.Open("matrix.db")
//	…
//	srv, err := homeserver.New(homeserver.Config{ServerName: "example.org", Storage: engine})
//	…
//	err = srv.Start(ctx)
//	…
//	srv.Mount(mux)
//
// What is answered with 200 is on disk: it survives kill -9 and power loss, once. Typing and presence are not kept.
package homeserver

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/inprocess"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
)

// Version is the version of this library, as /_matrix/federation/v1/version tells it.
const Version = "0.1.0"

// Storage is where the rows live: sqlite.Open, sqlite.Memory, postgres.Open, or an engine of the host.
type Storage = storage.Engine

// Authenticator knows who people are: the host's users.
type Authenticator = auth.Authenticator

// MediaStore keeps the bytes of files: media.Dir, media.Memory, or a store of the host.
type MediaStore = media.Store

// MediaLimits bound what is kept of files. The zero value is 100 MiB a file and 10 GiB for those of other servers.
type MediaLimits = media.Limits

// Registration says how accounts come to be; its zero value lets nobody in.
type Registration = auth.Registration

// The modes of Registration.
const (
	RegistrationClosed = auth.Closed
	RegistrationToken  = auth.WithToken
	RegistrationOpen   = auth.Open
)

// Discovery is what .well-known files tell.
type Discovery = auth.Discovery

// ProfileFields says which fields of their profile users may change.
type ProfileFields = auth.ProfileFields

// Report is what a user has told the administrators of.
type Report = storage.Report

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

	// OnReport is told of a report once it is stored; of the same thing by the same user only once. The reporter waits
	// for it. Admin.Reports has all of them.
	OnReport func(ctx context.Context, r Report)
}

func (h Hooks) auth() auth.Hooks {
	return auth.Hooks{
		CheckRegister: h.CheckRegister, CheckLogin: h.CheckLogin,
		OnRegister: h.OnRegister, OnLogin: h.OnLogin, OnLogout: h.OnLogout, OnDeactivate: h.OnDeactivate,
	}
}

// ServerNotices describe the rooms in which users get what Admin.SendNotice tells them: one for each user, who is invited
// to it. Without a Localpart there are none.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-notices
type ServerNotices struct {
	Localpart     string // of the user who sends them, whom nobody can register or be
	DisplayName   string // of that user in those rooms; empty: RoomName
	AvatarURL     string // of that user in those rooms, an mxc URI; may be empty
	RoomName      string // empty: "Server Notices"
	RoomAvatarURL string // an mxc URI; may be empty
}

// OldSigningKey is a key that this server has signed events with before and signs nothing with any more. What it has
// signed stays valid as long as others can learn of it.
type OldSigningKey struct {
	ID        string // "ed25519:" and the version that the signatures name
	Public    ed25519.PublicKey
	ExpiredAt time.Time // when it was last used
}

// Limits bound what callers may do. The zero value limits each user and address to a moderate rate.
type Limits = httpapi.Limits

// ThirdPartyNetworks are networks to which bridges lead.
type ThirdPartyNetworks = rooms.ThirdPartyNetworks

// Calls says by which servers of the host the clients in a call reach each other.
type Calls = rooms.Calls

// Delays bounds the events that users schedule to be sent later (MSC4140).
type Delays = rooms.Delays

// Config describes a Server. Only ServerName and Storage are required. New copies it.
type Config struct {
	// ServerName is the part after ':' of user ids. It can never change for the same Storage.
	ServerName string

	// BaseURL is the URL under which clients reach the server, for .well-known/matrix/client. It may carry a
	// path prefix. Empty: that file does not exist.
	BaseURL string

	// Storage belongs to the Server from Start on; Close closes it.
	Storage Storage

	// Media keeps files. Nil: there are none, and the media endpoints answer M_UNRECOGNIZED.
	Media MediaStore

	// MediaLimits bound files.
	MediaLimits MediaLimits

	// Previews tell clients what web pages say of themselves: not by default. They need Media.
	Previews Previews

	// MediaWithoutToken gives files out by the old endpoints as well, which ask for no access token. Otherwise these know
	// of no file, as the specification wants it of new servers.
	MediaWithoutToken bool

	// Authenticator knows the users. Nil: accounts with passwords in Storage.
	Authenticator Authenticator

	// PasswordCost is what one check of a built-in password costs; zero is about 25 ms.
	PasswordCost auth.Cost

	// SigningKey signs events. Nil: one is made once and kept in Storage.
	SigningKey ed25519.PrivateKey

	// OldSigningKeys are those that were used before SigningKey. See Admin.SigningKey for what to note before a change.
	OldSigningKeys []OldSigningKey

	// Registration says who may make accounts: nobody by default.
	Registration Registration

	// Tokens says how long access tokens live.
	Tokens auth.Lifetimes

	// Discovery fills the .well-known files; its client URL is BaseURL unless it names another.
	Discovery Discovery

	// Federation says whether the server talks with other servers: not by default. A server that does needs
	// FederationHandler, or Mount, where others look for ServerName: behind TLS at the host[:port] that
	// Discovery.Delegate names, else at port 8448. What its users write goes to the servers that share the room; it is
	// queued in Storage in the transaction that stores it, and tried again, after restarts too, until it is there.
	Federation Federation

	// NoPresence keeps nobody informed of who is online: whoever is asked about is offline.
	NoPresence bool

	// Admins are user ids of administrators.
	Admins []string

	// AdminContact is a URI, such as mailto:root@example.org, that users are told who meet a limit of the server, and in
	// server notices.
	AdminContact string

	// ServerNotices let administrators tell users something.
	ServerNotices ServerNotices

	// ProfileFields are what users may change of their profiles: all by default.
	ProfileFields ProfileFields

	// RoomVersion is the version of new rooms when nobody asks for another. Empty: the specification's default.
	RoomVersion string

	// PublishByAnyone lets every user put any room into the room directory.
	PublishByAnyone bool

	// PrivateDirectory shows the room directory to users and other servers only. Otherwise anybody may read it.
	PrivateDirectory bool

	// FindAllUsers lets the user directory find every user of this server. Otherwise somebody finds those with whom they
	// share a room, and the members of rooms that anybody may join or read.
	FindAllUsers bool

	// Networks are other networks to which the host bridges. Nil: there are none.
	Networks ThirdPartyNetworks

	// Calls says by which servers of yours the clients in a call reach each other. The zero value has none.
	Calls Calls

	// Delays bounds the events that users schedule to be sent later, such as those by which calls end: by default a hundred
	// of each user, within a day.
	Delays Delays

	// Limits bound requests.
	Limits Limits

	// NoQueryTokens refuses access tokens in the query string, where logs of proxies see them.
	NoQueryTokens bool

	// TrustedProxies are the addresses whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix

	// Hooks let the host watch and veto.
	Hooks Hooks

	// Logger receives structured logs. Nil discards them.
	Logger *slog.Logger

	// Now is the clock for stamps. Nil: time.Now.
	Now func() time.Time

	// Rand is the source of keys, tokens and ids; several goroutines read it. Nil: crypto/rand.
	Rand io.Reader
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var errs []error
	if _, err := id.ParseServerName(c.ServerName); err != nil {
		errs = append(errs, fmt.Errorf("ServerName: %w", err))
	}
	if c.Storage == nil {
		errs = append(errs, errors.New("the Storage is missing"))
	}
	if u, err := url.Parse(c.BaseURL); c.BaseURL != "" && (err != nil || u.Scheme == "" || u.Host == "") {
		errs = append(errs, errors.New("the BaseURL has to be absolute"))
	}
	if n := len(c.SigningKey); n != 0 && n != ed25519.PrivateKeySize {
		errs = append(errs, fmt.Errorf("SigningKey has %d bytes instead of %d", n, ed25519.PrivateKeySize))
	}
	if _, ok := roomversion.Get(c.RoomVersion); c.RoomVersion != "" && !ok {
		errs = append(errs, fmt.Errorf("RoomVersion %q is not known", c.RoomVersion))
	}
	for _, a := range c.Admins {
		if _, err := id.ParseUserID(a); err != nil {
			errs = append(errs, fmt.Errorf("in Admins: %w", err))
		}
	}
	if _, err := id.NewUserID(c.ServerNotices.Localpart, id.ServerName(c.ServerName)); c.ServerNotices.Localpart != "" && err != nil {
		errs = append(errs, fmt.Errorf("ServerNotices.Localpart: %w", err))
	}
	for i, old := range c.OldSigningKeys {
		if !strings.HasPrefix(old.ID, "ed25519:") || len(old.Public) != ed25519.PublicKeySize || old.ExpiredAt.IsZero() {
			errs = append(errs, fmt.Errorf("OldSigningKeys[%d] needs an id that begins with ed25519:, a key and the time of its end", i))
		}
	}
	errs = append(errs, c.Calls.Validate())
	errs = append(errs, c.Federation.faults()...)
	errs = append(errs, c.Previews.faults()...)
	return errors.Join(errs...)
}

// Server is a homeserver. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	running atomic.Pointer[house] // nil before Start and after Close
	drained atomic.Bool
	serving tally // the requests under way

	client, federation, all http.Handler

	mu sync.Mutex // guards the following
	// started and closed are set once.
	started, closed bool
}

// New checks the configuration. It does no I/O and starts nothing.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("homeserver: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg}
	s.client = s.door(func(h *house) http.Handler { return h.client })
	s.federation = s.door(func(h *house) http.Handler { return h.federation })
	s.all = s.door(func(h *house) http.Handler { return h.all })
	return s, nil
}

// door serves what the running house offers, and 503 while there is none.
func (s *Server) door(pick func(*house) http.Handler) http.Handler {
	closed := httpapi.Answer(mxerr.Unknown.WithStatus(http.StatusServiceUnavailable).With("the server is not running"))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.serving.begin()
		defer s.serving.end()
		if h := s.running.Load(); h != nil {
			pick(h).ServeHTTP(w, r)
			return
		}
		closed.ServeHTTP(w, r)
	})
}

// Start opens Storage and returns when the server is ready. It is called once. ctx bounds the start alone.
// When it fails, Storage belongs to the caller again.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closed {
		return errors.New("homeserver: Start is called once")
	}
	h, err := build(ctx, s.cfg)
	if err != nil {
		return fmt.Errorf("homeserver: %w", err)
	}
	s.started = true
	s.running.Store(h)
	if s.drained.Load() { // Drain has not found the house
		h.hub.Drain()
	}
	return nil
}

// Close ends open long polls and what is under way between this server and others, awaits the requests under way and
// every goroutine of the server, and closes Storage. Requests that come after it get 503; the host shuts its http.Server
// down first. When ctx ends before the requests do, they are left behind: they fail, and the error says so. It may be
// called at any time and more than once.
func (s *Server) Close(ctx context.Context) error {
	s.Drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	h := s.running.Swap(nil)
	if h == nil {
		return nil
	}
	return errors.Join(h.peers.part(ctx), s.serving.wait(ctx), h.close(ctx))
}

// Drain answers open long polls now and lets no new one wait: for http.Server.RegisterOnShutdown.
func (s *Server) Drain() {
	s.drained.Store(true)
	if h := s.running.Load(); h != nil {
		h.hub.Drain()
	}
}

// Health reports whether the server runs and its Storage answers.
func (s *Server) Health(ctx context.Context) error {
	h := s.running.Load()
	if h == nil {
		return errors.New("homeserver: not running")
	}
	return h.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := tx.Meta(metaServerName)
		return err
	})
}

// ServeHTTP serves every path of the Matrix APIs and answers all others with M_UNRECOGNIZED.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.all.ServeHTTP(w, r) }

// ClientHandler serves what clients ask: the client-server API and the .well-known files.
func (s *Server) ClientHandler() http.Handler { return s.client }

// FederationHandler serves what other servers ask: the server-server API and this server's keys.
func (s *Server) FederationHandler() http.Handler { return s.federation }

// Mount puts the server's paths on a mux of the host: /_matrix/, /_synapse/ and /.well-known/matrix/.
func (s *Server) Mount(mux *http.ServeMux) {
	for _, path := range []string{"/_matrix/", "/_synapse/", "/.well-known/matrix/"} {
		mux.Handle(path, s)
	}
}

// HTTPClient returns a client whose requests go straight to the server, whatever their host, with no socket.
func (s *Server) HTTPClient() *http.Client {
	return &http.Client{Transport: inprocess.Transport{Handler: s}}
}
