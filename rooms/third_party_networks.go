package rooms

import (
	"context"
	"net/url"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// ThirdPartyNetworks are the networks to which bridges of this server lead. Its methods are called at once. Whoever has
// nothing to say returns nothing; an error is for the log, and the client sees that something went wrong.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#third-party-networks
type ThirdPartyNetworks interface {
	// Protocols returns what each bridge says of a protocol, or of all of its protocols when the name is empty, the bridges
	// always in the same order.
	Protocols(ctx context.Context, name string) ([]BridgedProtocol, error)

	// Locations returns the rooms that stand for a place of a protocol's network; fields are what clients know of it.
	Locations(ctx context.Context, protocol string, fields map[string]string) ([]ThirdPartyLocation, error)

	// LocationsOf returns the places for which a room stands, by its alias.
	LocationsOf(ctx context.Context, alias string) ([]ThirdPartyLocation, error)

	// Users returns the users who stand for somebody in a protocol's network; fields are what clients know of them.
	Users(ctx context.Context, protocol string, fields map[string]string) ([]ThirdPartyUser, error)

	// UsersOf returns those for whom a user stands.
	UsersOf(ctx context.Context, user string) ([]ThirdPartyUser, error)
}

// BridgedProtocol is what one bridge says of a protocol.
type BridgedProtocol struct {
	Name   string // such as "irc"
	Bridge string // identifies the bridge on this server
	ThirdPartyProtocol
}

// ThirdPartyProtocol is what clients have to know to ask about places and people of a protocol.
type ThirdPartyProtocol struct {
	UserFields     []string                       `json:"user_fields"`
	LocationFields []string                       `json:"location_fields"`
	Icon           string                         `json:"icon"` // an MXC URI
	FieldTypes     map[string]ThirdPartyFieldType `json:"field_types"`
	Instances      []ThirdPartyInstance           `json:"instances"`
}

// ThirdPartyFieldType says what a field looks like.
type ThirdPartyFieldType struct {
	Regexp      string `json:"regexp"`
	Placeholder string `json:"placeholder"`
}

// ThirdPartyInstance is one network of a protocol.
type ThirdPartyInstance struct {
	Description string         `json:"desc"`
	Icon        string         `json:"icon,omitempty"`
	Fields      map[string]any `json:"fields"`
	NetworkID   string         `json:"network_id"`
	ID          string         `json:"instance_id"` // set by this server
}

// ThirdPartyLocation is a place, with the alias of the room that stands for it.
type ThirdPartyLocation struct {
	Alias    string         `json:"alias"`
	Protocol string         `json:"protocol"`
	Fields   map[string]any `json:"fields"`
}

// ThirdPartyUser is somebody elsewhere, with the user who stands for them.
type ThirdPartyUser struct {
	User     string         `json:"userid"`
	Protocol string         `json:"protocol"`
	Fields   map[string]any `json:"fields"`
}

// getProtocols implements GET /_matrix/client/v3/thirdparty/protocols.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartyprotocols
func (s *Service) getProtocols(ctx context.Context, _ *httpapi.Call, _ *httpapi.None) (*map[string]*ThirdPartyProtocol, error) {
	all, err := s.protocols(ctx, "")
	return &all, err
}

// getProtocolMetadata implements GET /_matrix/client/v3/thirdparty/protocol/{protocol}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartyprotocolprotocol
func (s *Service) getProtocolMetadata(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*ThirdPartyProtocol, error) {
	all, err := s.protocols(ctx, c.PathValue("protocol"))
	if err != nil {
		return nil, err
	}
	p, ok := all[c.PathValue("protocol")]
	if !ok {
		return nil, mxerr.NotFound.With("no bridge here speaks this protocol")
	}
	return p, nil
}

// protocols returns the protocols with a name, or all of them, each with the networks of all bridges that speak it. For the
// rest the first bridge speaks.
func (s *Service) protocols(ctx context.Context, name string) (map[string]*ThirdPartyProtocol, error) {
	all := map[string]*ThirdPartyProtocol{}
	if s.Networks == nil {
		return all, nil
	}
	list, err := s.Networks.Protocols(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, b := range list {
		p := all[b.Name]
		if p == nil {
			p = b.blank()
			all[b.Name] = p
		}
		for _, network := range b.Instances {
			// "A unique identifier across all instances", which the homeserver sets.
			network.ID = b.Bridge + "|" + network.NetworkID
			network.Fields = notNil(network.Fields)
			p.Instances = append(p.Instances, network)
		}
	}
	return all, nil
}

// blank is the protocol without its networks.
func (b *BridgedProtocol) blank() *ThirdPartyProtocol {
	p := b.ThirdPartyProtocol
	p.Instances = []ThirdPartyInstance{}
	p.UserFields, p.LocationFields = append([]string{}, p.UserFields...), append([]string{}, p.LocationFields...)
	if p.FieldTypes == nil {
		p.FieldTypes = map[string]ThirdPartyFieldType{}
	}
	return &p
}

func notNil(fields map[string]any) map[string]any {
	if fields == nil {
		return map[string]any{}
	}
	return fields
}

// queryLocationByProtocol implements GET /_matrix/client/v3/thirdparty/location/{protocol}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartylocationprotocol
func (s *Service) queryLocationByProtocol(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*[]ThirdPartyLocation, error) {
	if s.Networks == nil {
		return nil, errNobodyThere
	}
	return found(s.Networks.Locations(ctx, c.PathValue("protocol"), fieldsOf(c)))
}

// queryLocationByAlias implements GET /_matrix/client/v3/thirdparty/location.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartylocation
func (s *Service) queryLocationByAlias(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*[]ThirdPartyLocation, error) {
	alias, err := named(c, "alias", func(text string) error { _, err := id.ParseRoomAlias(text); return err })
	if err != nil {
		return nil, err
	}
	if s.Networks == nil {
		return nil, errNobodyThere
	}
	return found(s.Networks.LocationsOf(ctx, alias))
}

// queryUserByProtocol implements GET /_matrix/client/v3/thirdparty/user/{protocol}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartyuserprotocol
func (s *Service) queryUserByProtocol(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*[]ThirdPartyUser, error) {
	if s.Networks == nil {
		return nil, errNobodyThere
	}
	return found(s.Networks.Users(ctx, c.PathValue("protocol"), fieldsOf(c)))
}

// queryUserByID implements GET /_matrix/client/v3/thirdparty/user.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartyuser
func (s *Service) queryUserByID(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*[]ThirdPartyUser, error) {
	user, err := named(c, "userid", func(text string) error { _, err := id.ParseUserID(text); return err })
	if err != nil {
		return nil, err
	}
	if s.Networks == nil {
		return nil, errNobodyThere
	}
	return found(s.Networks.UsersOf(ctx, user))
}

var errNobodyThere = mxerr.NotFound.With("no bridge here knows of it")

// named reads a parameter that is required.
func named(c *httpapi.Call, name string, parse func(string) error) (string, error) {
	text := c.Query(name)
	if text == "" {
		return "", mxerr.MissingParam.With("%s is missing", name)
	}
	if err := parse(text); err != nil {
		return "", mxerr.InvalidParam.With("%s: %v", name, err)
	}
	return text, nil
}

// fieldsOf are the parameters of a request but for the access token, the first value of each.
func fieldsOf(c *httpapi.Call) map[string]string {
	fields := map[string]string{}
	query, _ := url.ParseQuery(c.Request.URL.RawQuery) // which was checked
	for name, values := range query {
		if name != "access_token" {
			fields[name] = values[0]
		}
	}
	return fields
}

// found answers with what was found; nothing is M_NOT_FOUND.
func found[T any](list []T, err error) (*[]T, error) {
	if err == nil && len(list) == 0 {
		err = errNobodyThere
	}
	return &list, err
}
