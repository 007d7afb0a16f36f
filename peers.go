package homeserver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
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

// peers are the parts that talk with other servers; without federation all of them are nil.
type peers struct {
	wire *wire.Client
	ring *keyring.Ring
}

// meet makes the parts that ask other servers, the ring with the key that the server signs with now.
func (h *house) meet(cfg Config, server id.ServerName, key signing.Key) error {
	if !cfg.Federation.Enabled {
		return nil
	}
	client, err := newWire(cfg, server, key)
	if err != nil {
		return err
	}
	h.peers.wire = client
	h.peers.ring = keyring.New(keyring.Config{
		Server: server, Own: []keyring.OwnKey{{ID: key.ID, Public: key.Public()}}, DB: h.db,
		Fetcher: keyring.Over(client), Notaries: serverNames(cfg.Federation.TrustedKeyServers), Now: cfg.Now,
	})
	return nil
}

func newWire(cfg Config, server id.ServerName, key signing.Key) (*wire.Client, error) {
	f := cfg.Federation
	roots, err := f.roots()
	if err != nil {
		return nil, err
	}
	return wire.NewClient(wire.Config{
		Origin: server, Key: key, Transport: f.Transport, Roots: roots, DNS: f.Resolver,
		Networks: wire.Networks{AllowPrivate: f.AllowPrivate, Allow: f.AllowNets, Deny: f.DenyNets},
		Now:      cfg.Now, Log: cfg.Logger,
	}), nil
}

// roots are the certificate authorities of the system and the extra ones; nil when there are no extra ones.
func (f Federation) roots() (*x509.CertPool, error) {
	if len(f.ExtraRoots) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the certificate authorities of the system: %w", err)
	}
	for _, root := range f.ExtraRoots {
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

// answering makes the part that answers other servers.
func (h *house) answering(cfg Config, server id.ServerName, key signing.Key) *federation.Service {
	fed := federation.Config{ServerName: server, Key: key, Version: Version, Now: cfg.Now}
	if cfg.Federation.Enabled {
		fed.Ring, fed.Alive = h.peers.ring, h.peers.wire.Alive
	}
	return federation.New(fed)
}

// part ends the requests to other servers, and returns when the last goroutine has ended.
func (p *peers) part(context.Context) error {
	if p.wire == nil {
		return nil
	}
	p.wire.Close()
	p.ring.Close()
	return nil
}
