package homeserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
	syncing "github.com/embedmatrix/homeserver/sync"
	"github.com/embedmatrix/homeserver/sync/push"
)

// house is a running server: every part, built in order.
type house struct {
	db       *storage.DB
	hub      *notify.Hub
	typing   *ephemeral.Typing
	presence *ephemeral.Presence // nil when it is off
	auth     *auth.Service
	e2ee     *e2ee.Service
	rooms    *rooms.Service
	sync     *syncing.Service
	media    *media.Service // nil without a store
	hangUp   func()         // ends the connections to web pages; nil without previews
	peers    peers
	key      signing.Key

	client, federation, all http.Handler
}

// build opens the database and makes the parts, each from those before it.
func build(ctx context.Context, cfg Config) (*house, error) {
	db, err := storage.Open(ctx, cfg.Storage)
	if err != nil {
		return nil, err
	}
	h := &house{db: db}
	if err := h.furnish(ctx, cfg); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return h, nil
}

func (h *house) furnish(ctx context.Context, cfg Config) error {
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.RoomVersion == "" {
		cfg.RoomVersion = cfg.Discovery.RoomVersion
	}
	server := id.ServerName(cfg.ServerName)
	key, err := h.identity(ctx, cfg)
	if err != nil {
		return err
	}
	h.key = key
	if err := h.peers.meet(cfg, h, server, key); err != nil {
		return err
	}
	h.hub = notify.New(h.db.Published())
	cache := roomstate.NewCache(h.db, h.hub, h.peers.cached(server))
	if h.typing, err = newTyping(cfg.Rand, cache, h.hub); err != nil {
		return err
	}
	if !cfg.NoPresence {
		h.presence = ephemeral.NewPresence(func() { h.sync.PresenceChanged() })
	}
	h.peers.follow(cfg, h, server, cache)
	h.e2ee = newE2EE(cfg, server, h)
	h.rooms = newRooms(cfg, server, key, h, cache)
	h.sync = newSync(cfg, server, h, cache)
	if h.auth, err = newAuth(cfg, server, h); err != nil {
		return err
	}
	if h.media, err = newMedia(cfg, server, h); err != nil {
		return err
	}
	h.peers.answer(cfg, h, server, key)
	h.route(cfg)
	return h.start(ctx)
}

// start sets the parts to work, or none of them.
func (h *house) start(ctx context.Context) error {
	if err := h.auth.Start(ctx); err != nil {
		return err
	}
	err := h.peers.begin(ctx)
	if err == nil {
		err = h.openMedia(ctx)
	}
	if err != nil {
		return errors.Join(err, h.peers.part(ctx), h.auth.Close(ctx))
	}
	h.sync.Start()
	h.rooms.Start()
	return nil
}

func newRooms(cfg Config, server id.ServerName, key signing.Key, h *house, cache *roomstate.Cache) *rooms.Service {
	c := rooms.Config{
		ServerName: server, Key: key, DB: h.db, Cache: cache, Hub: h.hub, Typing: h.typing, Presence: h.presence, Now: cfg.Now,
		Rand: cfg.Rand, Version: cfg.RoomVersion, PublishByAnyone: cfg.PublishByAnyone, Log: cfg.Logger,
		PrivateDirectory: cfg.PrivateDirectory, FindAllUsers: cfg.FindAllUsers, Delays: cfg.Delays, Calls: cfg.Calls, Networks: cfg.Networks,
	}
	h.peers.remote(&c)
	c.Notices, c.MayChange, c.OnReport = noticesOf(cfg, server), cfg.ProfileFields.MayChange, cfg.Hooks.OnReport
	service := rooms.New(c)
	h.typing.Ended = func(room id.RoomID, user id.UserID) { service.TypingEnded(context.Background(), room, user) }
	return service
}

// newE2EE makes the keys. They ask parts that are made later, when requests come.
func newE2EE(cfg Config, server id.ServerName, h *house) *e2ee.Service {
	c := e2ee.Config{
		ServerName: server, DB: h.db, Hub: h.hub, Now: cfg.Now,
		Confirm: func(ctx context.Context, call *httpapi.Call, body json.RawMessage) (json.RawMessage, error) {
			return h.auth.Confirm(ctx, call, body)
		},
		Changes: func(ctx context.Context, user id.UserID, from, to token.Stream) (changed, left []id.UserID, err error) {
			return h.sync.DeviceListChanges(ctx, user, from, to)
		},
	}
	h.peers.keys(&c)
	return e2ee.New(c)
}

func newSync(cfg Config, server id.ServerName, h *house, cache *roomstate.Cache) *syncing.Service {
	c := syncing.Config{
		DB: h.db, Cache: cache, Hub: h.hub, Typing: h.typing, Now: cfg.Now, Presence: h.presence, ServerName: server,
		Notices: noticesOf(cfg, server).User,
		Keys:    h.e2ee,
	}
	if h.peers.sender != nil {
		c.Peers, c.Outbox = h.peers.sender, post{h.peers.outbox, h.peers.sender}
	}
	return syncing.New(c)
}

func newAuth(cfg Config, server id.ServerName, h *house) (*auth.Service, error) {
	discovery := cfg.Discovery
	if discovery.BaseURL == "" {
		discovery.BaseURL = cfg.BaseURL
	}
	discovery.RoomVersion = cfg.RoomVersion // the capability names the version that /createRoom uses
	advertise(&discovery, cfg)
	admins := make([]id.UserID, len(cfg.Admins))
	for i, a := range cfg.Admins {
		admins[i] = id.UserID(a)
	}
	return auth.New(auth.Config{
		ServerName: server, DB: h.db, Authenticator: cfg.Authenticator, PasswordCost: cfg.PasswordCost,
		Registration: cfg.Registration, Tokens: cfg.Tokens, Discovery: discovery, Admins: admins,
		ProfileFields: cfg.ProfileFields, AdminContact: cfg.AdminContact, Exclusive: reserved(cfg, server),
		Rooms: h.rooms, Hooks: cfg.Hooks.auth(), Log: cfg.Logger, Now: cfg.Now, Rand: cfg.Rand,
		Dependants: []auth.Dependant{h.keysOf(), {Deactivated: forgetData}, {Deactivated: h.rooms.Deactivated}, {Deactivated: h.sync.Deactivated, Deleted: h.sync.DeletedDevices}},
		LoggedOut:  h.sync.LoggedOut,
	})
}

// reserved reports which user ids nobody can register.
func reserved(cfg Config, server id.ServerName) func(id.UserID) bool {
	notices := noticesOf(cfg, server).User
	return func(user id.UserID) bool { return user == notices }
}

// noticesOf are the server notices as the rooms know them.
func noticesOf(cfg Config, server id.ServerName) rooms.Notices {
	n := cfg.ServerNotices
	if n.Localpart == "" {
		return rooms.Notices{}
	}
	return rooms.Notices{
		User: id.UserID("@" + n.Localpart + ":" + string(server)), DisplayName: n.DisplayName, AvatarURL: n.AvatarURL,
		RoomName: n.RoomName, RoomAvatarURL: n.RoomAvatarURL, AdminContact: cfg.AdminContact,
	}
}

// advertise adds to what clients are told what hangs on the configuration. What the host says itself stands.
func advertise(d *auth.Discovery, cfg Config) {
	unstable, capabilities := map[string]bool{"org.matrix.msc4140": cfg.Delays.Allowed()}, map[string]any{}
	if cfg.Delays.Allowed() {
		longest, perUser := cfg.Delays.Bounds()
		capabilities["org.matrix.msc4140.delayed_events"] = map[string]any{
			"max_delay_ms": longest.Milliseconds(), "max_scheduled": perUser,
		}
	}
	wellKnown := map[string]any{}
	if foci := cfg.Calls.Transports(); len(foci) > 0 {
		unstable["org.matrix.msc4143"], wellKnown["org.matrix.msc4143.rtc_foci"] = true, foci
	}
	maps.Copy(unstable, d.Unstable)
	maps.Copy(capabilities, d.Capabilities)
	maps.Copy(wellKnown, d.WellKnown)
	d.Unstable, d.Capabilities, d.WellKnown = unstable, capabilities, wellKnown
}

// keysOf lets keys live and die with devices and accounts.
func (h *house) keysOf() auth.Dependant {
	return auth.Dependant{
		Reserved: h.e2ee.Reserved, Created: h.e2ee.Created, Renamed: h.e2ee.Renamed, Deleted: h.e2ee.Deleted,
		Deactivated: h.e2ee.Deactivated,
	}
}

// forgetData deletes what a deactivated user's clients kept here.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountdeactivate
func forgetData(tx *storage.Tx, _ storage.Pos, user id.UserID, _ bool) error {
	return tx.DeleteAccountDataOf(user)
}

// newTyping makes the typing notices, which wake the members of a room.
func newTyping(random io.Reader, cache *roomstate.Cache, hub *notify.Hub) (*ephemeral.Typing, error) {
	var boot [8]byte
	if _, err := io.ReadFull(random, boot[:]); err != nil {
		return nil, fmt.Errorf("draw a boot id: %w", err)
	}
	return ephemeral.NewTyping(hex.EncodeToString(boot[:]), func(room id.RoomID) {
		if r, err := cache.Room(context.Background(), room); err == nil {
			hub.Wake(roomstate.Joined{Room: r})
		}
	}), nil
}

// route joins the tables of all parts into the handlers.
func (h *house) route(cfg Config) {
	clients := slices.Concat(h.auth.Routes(), h.e2ee.Routes(), h.rooms.Routes(), h.sync.Routes(), h.mediaRoutes(), push.New().Routes())
	servers := h.peers.answering.Routes()
	shared := httpapi.Config{
		Sessions: h.auth, Peers: h.peers.answering, Log: cfg.Logger, Limits: cfg.Limits, TrustedProxies: cfg.TrustedProxies,
		AllowQueryToken: !cfg.NoQueryTokens,
	}
	h.client = httpapi.NewRouter(shared, clients)
	h.federation = httpapi.NewRouter(shared, servers)
	h.all = httpapi.NewRouter(shared, slices.Concat(clients, servers))
}

// close ends the parts in the opposite order.
func (h *house) close(ctx context.Context) error {
	h.typing.Close()
	h.rooms.Close()
	h.sync.Close()
	h.closeMedia()
	return errors.Join(h.auth.Close(ctx), h.db.Close())
}

// What mx_meta holds of the server itself.
const (
	metaServerName = "server_name"
	metaSigningKey = "signing_key" // "ed25519:version seed-in-hex"
)

var errRenamed = errors.New("the storage belongs to a server of another name, which can never change")

// identity returns the signing key, made at the first start, and refuses storage of another server.
func (h *house) identity(ctx context.Context, cfg Config) (signing.Key, error) {
	fresh, err := newKey(cfg)
	if err != nil {
		return signing.Key{}, err
	}
	var name, key []byte
	err = h.db.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		if err := tx.PutMeta(metaServerName, []byte(cfg.ServerName)); err != nil {
			return err
		}
		if err := tx.PutMeta(metaSigningKey, formatKey(fresh)); err != nil {
			return err
		}
		if name, err = tx.Meta(metaServerName); err != nil {
			return err
		}
		key, err = tx.Meta(metaSigningKey)
		return err
	})
	if err == nil && string(name) != cfg.ServerName {
		err = fmt.Errorf("%w: %s, not %s", errRenamed, name, cfg.ServerName)
	}
	if err != nil || cfg.SigningKey != nil {
		return fresh, err
	}
	return parseKey(key)
}

// newKey is the host's key, or a new one.
func newKey(cfg Config) (signing.Key, error) {
	if cfg.SigningKey == nil {
		return signing.Generate(cfg.Rand)
	}
	public := cfg.SigningKey.Public().(ed25519.PublicKey)
	return signing.Key{ID: "ed25519:" + hex.EncodeToString(public[:4]), Private: cfg.SigningKey}, nil
}

func formatKey(k signing.Key) []byte {
	return []byte(k.ID + " " + hex.EncodeToString(k.Private.Seed()))
}

func parseKey(text []byte) (signing.Key, error) {
	keyID, seed, _ := strings.Cut(string(text), " ")
	raw, err := hex.DecodeString(seed)
	if err != nil || len(raw) != ed25519.SeedSize {
		return signing.Key{}, errors.New("the stored signing key is damaged")
	}
	return signing.Key{ID: keyID, Private: ed25519.NewKeyFromSeed(raw)}, nil
}
