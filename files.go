package homeserver

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/storage"
)

// newMedia makes the content repository, nil when the host keeps no files.
func newMedia(cfg Config, server id.ServerName, h *house) (_ *media.Service, err error) {
	if cfg.Media == nil {
		return nil, nil
	}
	c := media.Config{
		ServerName: server, Store: cfg.Media, DB: h.db, Now: cfg.Now, Rand: cfg.Rand, Limits: cfg.MediaLimits,
		WithoutToken: cfg.MediaWithoutToken, Log: cfg.Logger,
	}
	if h.peers.client != nil {
		c.Remote = remoteMedia{h.peers.client}
	}
	if cfg.Previews.Enabled {
		if c.Previews, err = h.newPreviews(cfg); err != nil {
			return nil, err
		}
	}
	return media.New(c), nil
}

// Previews are what web pages say of themselves, for clients that show it beside a link. They are off by default: whoever
// may ask for one lets this server connect to where they want, within the public internet.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediapreview_url
type Previews struct {
	Enabled bool

	// AllowNets may be reached whatever else holds, and DenyNets may not; AllowPrivate allows this machine and private
	// networks as well.
	AllowNets, DenyNets []netip.Prefix
	AllowPrivate        bool

	// ExtraRoots are certificate authorities that are trusted beside those of the system.
	ExtraRoots []*x509.Certificate

	// Resolver looks names up. Nil: the system's.
	Resolver Resolver
}

// faults are what is wrong with the fields.
func (p Previews) faults() []error {
	if slices.Contains(p.ExtraRoots, nil) {
		return []error{errors.New("a certificate in Previews.ExtraRoots is nil")}
	}
	return nil
}

func (h *house) newPreviews(cfg Config) (*media.Previews, error) {
	p := cfg.Previews
	roots, err := rootsWith(p.ExtraRoots)
	if err != nil {
		return nil, err
	}
	client, hangUp := wire.Browser(wire.Config{
		Roots: roots, DNS: p.Resolver, Now: cfg.Now,
		Networks: wire.Networks{AllowPrivate: p.AllowPrivate, Allow: p.AllowNets, Deny: p.DenyNets},
	})
	h.hangUp = hangUp
	return &media.Previews{Client: client, May: wire.MayBrowse}, nil
}

func (h *house) openMedia(ctx context.Context) error {
	if h.media == nil {
		return nil
	}
	return h.media.Start(ctx)
}

func (h *house) closeMedia() {
	if h.hangUp != nil {
		h.hangUp()
	}
	if h.media != nil {
		h.media.Close()
	}
}

// mediaRoutes are those of the content repository, if there is one.
func (h *house) mediaRoutes() []httpapi.Route {
	if h.media == nil {
		return nil
	}
	return h.media.Routes()
}

// remoteMedia lets the content repository ask other servers.
type remoteMedia struct{ client *federation.Client }

func (r remoteMedia) Media(ctx context.Context, server id.ServerName, mediaID string, wait time.Duration, maxSize int64) (*media.RemoteFile, error) {
	f, err := r.client.Media(ctx, server, mediaID, wait, maxSize)
	if err != nil {
		return nil, err
	}
	return &media.RemoteFile{Type: f.Type, Name: f.Name, Size: f.Size, Body: f.Body}, nil
}

// ErrNoMedia is the answer of calls about files when Config.Media is nil, or when there is no such file.
var ErrNoMedia error = mxerr.NotFound.With("there is no such file")

// DeleteMedia deletes the file of an mxc: URI, of this server or one kept of another, with its thumbnails; the bytes only
// if no other URI has the same. ErrNoMedia: there is none.
func (a *Admin) DeleteMedia(ctx context.Context, uri string) error {
	return a.aboutMedia(uri, func(s *media.Service, server id.ServerName, mediaID string) error {
		return s.Delete(ctx, server, mediaID)
	})
}

// QuarantineMedia lets the file of an mxc: URI be given to nobody any more, or again. It stays stored. ErrNoMedia: there
// is none.
func (a *Admin) QuarantineMedia(ctx context.Context, uri string, on bool) error {
	return a.aboutMedia(uri, func(s *media.Service, server id.ServerName, mediaID string) error {
		return s.Quarantine(ctx, server, mediaID, on)
	})
}

func (a *Admin) aboutMedia(uri string, fn func(*media.Service, id.ServerName, string) error) error {
	h, err := a.house()
	if err != nil {
		return err
	}
	rest, is := strings.CutPrefix(uri, "mxc://")
	server, mediaID, ok := strings.Cut(rest, "/")
	if !is || !ok || h.media == nil {
		return ErrNoMedia
	}
	err = fn(h.media, id.ServerName(server), mediaID)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrNoMedia
	}
	return err
}
