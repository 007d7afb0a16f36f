package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// Discovery is what clients and servers are told before they know anything else.
type Discovery struct {
	// BaseURL is the public URL of the client API, for .well-known/matrix/client; it may have a path. Empty: 404.
	BaseURL string

	// IdentityServer is the URL of the identity server that clients should use. Empty: none.
	IdentityServer string

	// WellKnown are further keys of .well-known/matrix/client, named like Java packages (io.example.thing).
	WellKnown map[string]any

	// Delegate is where other servers find this one: the host[:port] of .well-known/matrix/server. Empty: 404.
	Delegate string

	// Support is .well-known/matrix/support. The zero value: 404.
	Support Support

	// Versions are the versions of the specification that are served. Nil: those that this library serves.
	Versions []string

	// Unstable are unstable features in /versions, added to those that this library serves, or instead by their name.
	Unstable map[string]bool

	// RoomVersion is the version of new rooms. Empty: roomversion.Default.
	RoomVersion string

	// Capabilities are added to those that auth knows of, or replace them by their name.
	Capabilities map[string]any
}

// Support says whom to ask for help.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#getwell-knownmatrixsupport
type Support struct {
	Contacts []Contact `json:"contacts,omitempty"`
	Page     string    `json:"support_page,omitempty"` // a URL
}

// Contact is a way to reach somebody; it has a MatrixID or an Email, or both.
type Contact struct {
	Role     string `json:"role"` // m.role.admin, m.role.security or a namespaced one
	MatrixID string `json:"matrix_id,omitempty"`
	Email    string `json:"email_address,omitempty"`
}

func (d Discovery) validate() error {
	var errs []error
	for name, text := range map[string]string{"BaseURL": d.BaseURL, "IdentityServer": d.IdentityServer} {
		if u, err := url.Parse(text); text != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			errs = append(errs, fmt.Errorf("the %s of Discovery is not an http(s) URL: %q", name, text))
		}
	}
	if _, ok := roomversion.Get(d.roomVersion()); !ok {
		errs = append(errs, fmt.Errorf("Discovery.RoomVersion %q is not known", d.RoomVersion))
	}
	for i, c := range d.Support.Contacts {
		if c.Role == "" || c.MatrixID == "" && c.Email == "" {
			errs = append(errs, fmt.Errorf("Discovery.Support.Contacts[%d] needs a role and an address", i))
		}
	}
	return errors.Join(errs...)
}

func (d Discovery) roomVersion() string {
	if d.RoomVersion == "" {
		return roomversion.Default
	}
	return d.RoomVersion
}

// servedVersions are the versions of the specification whose endpoints are here or listed as absent with a reason, oldest
// first. Clients look for one that they know; r0.6.1 stands for the paths below /r0/.
func servedVersions() []string {
	return []string{
		"r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13",
		"v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
	}
}

// unstableFeatures are what is served beyond the specification, and the names under which clients that know no newer
// version of it look for parts of it.
func unstableFeatures() map[string]bool {
	return map[string]bool{
		// Whether rooms of a preset have to be encrypted. Clients take that for false without it, and ask for it.
		"io.element.e2ee_forced.private":         false,
		"io.element.e2ee_forced.public":          false,
		"io.element.e2ee_forced.trusted_private": false,

		"org.matrix.msc2285.stable": true, // private read receipts
		"org.matrix.msc3391":        true, // deletion of account data
		"org.matrix.msc3440.stable": true, // threads
		"org.matrix.msc3771":        true, // receipts of threads
		"org.matrix.msc3814":        true, // dehydrated devices
		"org.matrix.msc3827.stable": true, // the directory by types of rooms
		"org.matrix.msc3874":        true, // filters by rel_type
		"org.matrix.msc3912":        true, // redactions with what relates to an event
		"org.matrix.msc3981":        true, // /relations with recurse
		"org.matrix.msc4155":        true, // whose invites are taken
		"org.matrix.msc4293":        true, // bans with which all is redacted
		"org.matrix.msc4306":        true, // subscriptions to threads
		"org.matrix.msc4354":        true, // sticky events

		"uk.half-shot.msc2666.query_mutual_rooms":        true,
		"uk.half-shot.msc2666.query_mutual_rooms.stable": true,
		"uk.tcpip.msc4133":                               true, // profile fields
		"uk.tcpip.msc4133.stable":                        true,
	}
}

type versions struct {
	Versions []string        `json:"versions"`
	Unstable map[string]bool `json:"unstable_features"`
}

// getVersions implements GET /_matrix/client/versions.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientversions
func (s *Service) getVersions(context.Context, *httpapi.Call, *httpapi.None) (*versions, error) {
	d := s.cfg.Discovery
	out := &versions{Versions: d.Versions, Unstable: unstableFeatures()}
	if out.Versions == nil {
		out.Versions = servedVersions()
	}
	maps.Copy(out.Unstable, d.Unstable)
	return out, nil
}

// errNotSet is the answer for a well-known file that the host has not set.
var errNotSet = mxerr.NotFound.With("this server has not set it")

// wellKnownClient implements GET /.well-known/matrix/client.
//
// https://spec.matrix.org/latest/client-server-api/#getwell-knownmatrixclient
func (s *Service) wellKnownClient(context.Context, *httpapi.Call, *httpapi.None) (*json.RawMessage, error) {
	d := s.cfg.Discovery
	if d.BaseURL == "" {
		return nil, errNotSet
	}
	type server struct {
		URL string `json:"base_url"`
	}
	out := map[string]any{}
	maps.Copy(out, d.WellKnown)
	out["m.homeserver"] = server{d.BaseURL}
	if d.IdentityServer != "" {
		out["m.identity_server"] = server{d.IdentityServer}
	}
	raw, err := json.Marshal(out)
	return (*json.RawMessage)(&raw), err
}

type wellKnownServer struct {
	Server string `json:"m.server"`
}

// wellKnownServer implements GET /.well-known/matrix/server.
//
// https://spec.matrix.org/latest/server-server-api/#getwell-knownmatrixserver
func (s *Service) wellKnownServer(context.Context, *httpapi.Call, *httpapi.None) (*wellKnownServer, error) {
	if s.cfg.Discovery.Delegate == "" {
		return nil, errNotSet
	}
	return &wellKnownServer{s.cfg.Discovery.Delegate}, nil
}

// wellKnownSupport implements GET /.well-known/matrix/support.
//
// https://spec.matrix.org/latest/client-server-api/#getwell-knownmatrixsupport
func (s *Service) wellKnownSupport(context.Context, *httpapi.Call, *httpapi.None) (*Support, error) {
	if d := s.cfg.Discovery.Support; len(d.Contacts) > 0 || d.Page != "" {
		return &d, nil
	}
	return nil, errNotSet
}

type capabilities struct {
	Capabilities map[string]any `json:"capabilities"`
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

type roomVersions struct {
	Default   string            `json:"default"`
	Available map[string]string `json:"available"`
}

// moderation says which accounts of others the user may moderate.
type moderation struct {
	Suspend bool `json:"suspend"`
	Lock    bool `json:"lock"`
}

// getCapabilities implements GET /_matrix/client/v3/capabilities.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3capabilities
func (s *Service) getCapabilities(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*capabilities, error) {
	rooms := roomVersions{Default: s.cfg.Discovery.roomVersion(), Available: map[string]string{}}
	for _, v := range roomversion.All() {
		rooms.Available[v] = "stable"
	}
	fields := s.cfg.ProfileFields
	out := &capabilities{map[string]any{
		"m.change_password": enabled{s.canChangePassword()},
		"m.room_versions":   rooms,
		"m.profile_fields":  fields.capability(),
		// "servers that directly or indirectly include the displayname profile field … MUST also set this capability"
		"m.set_displayname":          enabled{fields.MayChange("displayname")},
		"m.set_avatar_url":           enabled{fields.MayChange("avatar_url")},
		"m.3pid_changes":             enabled{false},
		"m.get_login_token":          enabled{s.givesLoginTokens()},
		"m.forget_forced_upon_leave": enabled{false},
	}}
	if c.Admin { // "This property should be omitted altogether if suspend and lock would be false."
		out.Capabilities["m.account_moderation"] = moderation{Suspend: true, Lock: true}
	}
	maps.Copy(out.Capabilities, s.cfg.Discovery.Capabilities)
	return out, nil
}

// ProfileFields says which fields of their profile users may change. The zero value: all.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mprofile_fields-capability
type ProfileFields struct {
	Fixed      bool     // none, whatever the following say
	Allowed    []string // only these; nil: all that are not Disallowed
	Disallowed []string // means nothing beside Allowed
}

// MayChange reports whether users may set and remove a field.
func (f ProfileFields) MayChange(field string) bool {
	if f.Allowed != nil {
		return !f.Fixed && slices.Contains(f.Allowed, field)
	}
	return !f.Fixed && !slices.Contains(f.Disallowed, field)
}

type profileFields struct {
	Enabled    bool     `json:"enabled"`
	Allowed    []string `json:"allowed,omitzero"`
	Disallowed []string `json:"disallowed,omitzero"`
}

func (f ProfileFields) capability() profileFields {
	if f.Fixed {
		return profileFields{}
	}
	return profileFields{true, f.Allowed, f.Disallowed}
}
