package homeserver

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
)

// Resolver looks names of other servers up, as a *net.Resolver does.
type Resolver = wire.DNS

// Federation says whether the server talks with other servers, and how it reaches them. The zero value is a server
// for itself: it publishes its keys, asks nobody for anything and answers other servers with M_UNRECOGNIZED.
//
// Spec: https://spec.matrix.org/latest/server-server-api/
type Federation struct {
	// Enabled lets the server take part. Without it the other fields mean nothing.
	Enabled bool

	// Transport takes the requests to other servers instead of the network: each has the name of its destination as
	// the host of its URL. Nil: the network, as the fields up to ExtraRoots say.
	Transport http.RoundTripper

	// Resolver looks names up. Nil: the system's.
	Resolver Resolver

	// AllowNets may be reached whatever else holds, and DenyNets may not. Other addresses may be if they belong to the
	// public internet, or with AllowPrivate to this machine or a private network.
	AllowNets, DenyNets []netip.Prefix
	AllowPrivate        bool

	// ExtraRoots are certificate authorities that are trusted beside those of the system.
	ExtraRoots []*x509.Certificate

	// Allow, if not nil, are the names of the only servers that are talked with: others are asked nothing, sent nothing,
	// and refused whatever they ask but this server's keys and version.
	Allow []string

	// TrustedKeyServers are server names whose word is taken on the keys of servers that do not answer.
	TrustedKeyServers []string
}

// faults are what is wrong with it.
func (f Federation) faults() (errs []error) {
	for _, name := range f.TrustedKeyServers {
		if _, err := id.ParseServerName(name); err != nil {
			errs = append(errs, fmt.Errorf("in Federation.TrustedKeyServers: %w", err))
		}
	}
	for _, name := range f.Allow {
		if _, err := id.ParseServerName(name); err != nil {
			errs = append(errs, fmt.Errorf("in Federation.Allow: %w", err))
		}
	}
	for _, nets := range [][]netip.Prefix{f.AllowNets, f.DenyNets} {
		for _, net := range nets {
			if !net.IsValid() {
				errs = append(errs, errors.New("a network in Federation.AllowNets or DenyNets is not valid"))
			}
		}
	}
	for _, root := range f.ExtraRoots {
		if root == nil {
			errs = append(errs, errors.New("a certificate in Federation.ExtraRoots is nil"))
		}
	}
	return errs
}

// peers are the parts that talk with other servers; without federation there is only the one that answers.
type peers struct {
	wire      *wire.Client
	client    *federation.Client // asks by wire, and checks by ring
	ring      *keyring.Ring
	outbox    *federation.Outbox
	sender    *federation.Sender
	devices   *federation.Devices
	answering *federation.Service
}

// meet makes the parts that ask other servers, with the key that the server signs with now.
func (p *peers) meet(cfg Config, h *house, server id.ServerName, key signing.Key) (err error) {
	if !cfg.Federation.Enabled {
		return nil
	}
	if p.wire, err = newWire(cfg, server, key); err != nil {
		return err
	}
	p.ring = keyring.New(keyring.Config{
		Server: server, Own: ownKeys(cfg, key), DB: h.db,
		Fetcher: keyring.Over(p.wire), Notaries: serverNames(cfg.Federation.TrustedKeyServers), Now: cfg.Now,
	})
	p.client = federation.NewClient(p.wire, p.ring)
	p.outbox = federation.NewOutbox(h.db, func(tx *storage.Tx, user id.UserID) (*e2ee.PublishedKeys, error) {
		return h.e2ee.Published(tx, user)
	})
	p.sender = federation.NewSender(federation.SenderConfig{
		DB: h.db, Client: p.wire, ServerName: server, Durable: p.outbox, Allowed: cfg.Federation.allowed(), Now: cfg.Now, Log: cfg.Logger,
	})
	return nil
}

// cached is what the rooms in memory need to know of other servers.
func (p *peers) cached(server id.ServerName) (c roomstate.Config) {
	if p.sender != nil {
		c.Server, c.Sender = server, p.sender
	}
	return c
}

// remote is what the rooms ask and tell other servers by.
func (p *peers) remote(c *rooms.Config) {
	if p.sender != nil {
		c.Remote, c.Peers = p.client, p.sender
	}
}

// follow makes the part that keeps servers informed of devices.
func (p *peers) follow(cfg Config, h *house, server id.ServerName, cache *roomstate.Cache) {
	if p.sender == nil {
		return
	}
	p.devices = federation.NewDevices(federation.DevicesConfig{
		ServerName: server, DB: h.db, Cache: cache, Hub: h.hub, Outbox: p.outbox, Wake: p.sender.Wake,
		Client: p.client, Log: cfg.Logger,
		Changed: func(tx *storage.Tx, at storage.Pos, user id.UserID, devices ...id.DeviceID) error {
			return h.e2ee.Changed(tx, at, user, devices...)
		},
	})
}

// keys is what the keys ask other servers by.
func (p *peers) keys(c *e2ee.Config) {
	if p.sender != nil {
		c.Remote, c.Lists = p.client, p.devices
	}
}

// post is what takes messages to devices of other servers.
type post struct {
	*federation.Outbox
	*federation.Sender
}

// answer makes the part that answers other servers.
func (p *peers) answer(cfg Config, h *house, server id.ServerName, key signing.Key) {
	fed := federation.Config{ServerName: server, Key: key, Version: Version, OpenID: h.auth, Now: cfg.Now, Log: cfg.Logger}
	for _, old := range cfg.OldSigningKeys {
		fed.OldKeys = append(fed.OldKeys, federation.OldKey(old))
	}
	if cfg.Federation.Enabled {
		fed.Allowed = cfg.Federation.allowed()
		fed.Ring, fed.Alive, fed.DB, fed.Rooms, fed.Keys = p.ring, p.alive, h.db, h.rooms, h.e2ee
		fed.Outbox = p.outbox
		if h.media != nil {
			fed.Media = h.media
		}
		fed.EDUs = map[string]func(context.Context, id.ServerName, json.RawMessage) error{
			"m.typing": h.rooms.ReceiveTyping, "m.receipt": h.rooms.ReceiveReceipts,
			"m.direct_to_device":            h.sync.ReceiveToDevice,
			"m.device_list_update":          p.devices.ReceiveDeviceList,
			"m.signing_key_update":          p.devices.ReceiveSigningKeys,
			"org.matrix.signing_key_update": p.devices.ReceiveSigningKeys,
		}
		if h.presence != nil {
			fed.EDUs["m.presence"] = h.sync.ReceivePresence
		}
	}
	p.answering = federation.New(fed)
}

// alive lets a server that has sent a request be tried again.
func (p *peers) alive(server id.ServerName) {
	p.wire.Alive(server)
	p.sender.Alive(server)
	p.devices.Alive(server)
}

// begin begins to send to other servers.
func (p *peers) begin(ctx context.Context) error {
	if p.sender == nil {
		return nil
	}
	if err := p.sender.Start(ctx); err != nil {
		return err
	}
	return p.devices.Start(ctx)
}

// part breaks off what is under way between this server and others, so that no request waits for them any more. What
// was not delivered goes out after the next start, and what was not received is sent again.
func (p *peers) part(ctx context.Context) (err error) {
	p.answering.Close()
	if p.sender != nil {
		p.devices.Close()
		err = p.sender.Close(ctx)
		p.wire.Close()
		p.ring.Close()
	}
	return err
}

func newWire(cfg Config, server id.ServerName, key signing.Key) (*wire.Client, error) {
	f := cfg.Federation
	roots, err := rootsWith(f.ExtraRoots)
	if err != nil {
		return nil, err
	}
	return wire.NewClient(wire.Config{
		Origin: server, Key: key, Transport: f.Transport, Roots: roots, DNS: f.Resolver,
		Allowed:  f.allowed(),
		Networks: wire.Networks{AllowPrivate: f.AllowPrivate, Allow: f.AllowNets, Deny: f.DenyNets},
		Now:      cfg.Now, Log: cfg.Logger,
	}), nil
}

// allowed says which servers are talked with; nil: all.
func (f Federation) allowed() func(id.ServerName) bool {
	if f.Allow == nil {
		return nil
	}
	names := make(map[id.ServerName]bool, len(f.Allow))
	for _, name := range f.Allow {
		names[id.ServerName(name)] = true
	}
	return func(server id.ServerName) bool { return names[server] }
}

// ownKeys are the keys of this server, those that are used no more too.
func ownKeys(cfg Config, key signing.Key) []keyring.OwnKey {
	own := []keyring.OwnKey{{ID: key.ID, Public: key.Public()}}
	for _, old := range cfg.OldSigningKeys {
		own = append(own, keyring.OwnKey(old))
	}
	return own
}

// rootsWith are the certificate authorities of the system and extra ones; nil when there are no extra ones.
func rootsWith(extra []*x509.Certificate) (*x509.CertPool, error) {
	if len(extra) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the certificate authorities of the system: %w", err)
	}
	for _, root := range extra {
		pool.AddCert(root)
	}
	return pool, nil
}

func serverNames(names []string) []id.ServerName {
	list := make([]id.ServerName, len(names))
	for i, name := range names {
		list[i] = id.ServerName(name)
	}
	return list
}
