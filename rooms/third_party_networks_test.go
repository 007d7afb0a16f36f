package rooms_test

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	homeserver "github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/rooms"
)

// irc is two bridges to IRC.
type irc struct{}

func (irc) Protocols(_ context.Context, name string) ([]rooms.BridgedProtocol, error) {
	if name != "" && name != "irc" {
		return nil, nil
	}
	network := func(name string) []rooms.ThirdPartyInstance {
		return []rooms.ThirdPartyInstance{{Description: name, NetworkID: name, Fields: map[string]any{"network": name}}}
	}
	return []rooms.BridgedProtocol{
		{Name: "irc", Bridge: "one", ThirdPartyProtocol: rooms.ThirdPartyProtocol{
			UserFields: []string{"nick"}, Icon: "mxc://hs.test/irc", Instances: network("libera"),
			FieldTypes: map[string]rooms.ThirdPartyFieldType{"nick": {Regexp: ".+", Placeholder: "bob"}},
		}},
		{Name: "irc", Bridge: "two", ThirdPartyProtocol: rooms.ThirdPartyProtocol{Icon: "mxc://hs.test/other", Instances: network("oftc")}},
	}, nil
}

func (irc) Locations(_ context.Context, protocol string, fields map[string]string) ([]rooms.ThirdPartyLocation, error) {
	if protocol == "broken" {
		return nil, errors.New("broken")
	}
	if protocol != "irc" || len(fields) != 1 || fields["channel"] != "#go" {
		return nil, nil
	}
	return []rooms.ThirdPartyLocation{{Alias: "#irc_go:hs.test", Protocol: "irc", Fields: map[string]any{"channel": "#go"}}}, nil
}

func (n irc) LocationsOf(ctx context.Context, alias string) ([]rooms.ThirdPartyLocation, error) {
	if alias != "#irc_go:hs.test" {
		return nil, nil
	}
	return n.Locations(ctx, "irc", map[string]string{"channel": "#go"})
}

func (irc) Users(_ context.Context, protocol string, fields map[string]string) ([]rooms.ThirdPartyUser, error) {
	if protocol != "irc" || fields["nick"] != "bob" {
		return nil, nil
	}
	return []rooms.ThirdPartyUser{{User: "@irc_bob:hs.test", Protocol: "irc", Fields: map[string]any{"nick": "bob"}}}, nil
}

func (n irc) UsersOf(ctx context.Context, user string) ([]rooms.ThirdPartyUser, error) {
	if user != "@irc_bob:hs.test" {
		return nil, nil
	}
	return n.Users(ctx, "irc", map[string]string{"nick": "bob"})
}

const thirdParty = v3 + "/thirdparty/"

// XX-02: what bridges say of a protocol is told as one, each network with an id of its own.
func TestThirdPartyNetworks(t *testing.T) {
	alice := homeservertest.New(t, func(c *homeserver.Config) { c.Networks = irc{} }).User("alice")
	get := func(path string) *homeservertest.Response { return alice.Do("GET", thirdParty+path, nil) }
	one := get("protocol/irc").WantOK()
	require.Equal(t, "mxc://hs.test/irc", one.Get("icon").Str)
	require.Equal(t, `["nick"]`, one.Get("user_fields").Raw)
	require.Equal(t, `[]`, one.Get("location_fields").Raw)
	require.Equal(t, `["one|libera","two|oftc"]`, one.Get("instances.#.instance_id").Raw)
	require.JSONEq(t, string(one.Body), get("protocols").WantOK().Get("irc").Raw)
	get("protocol/xmpp").WantError(404, "M_NOT_FOUND")

	location := get("location/irc?channel=%23go&access_token=x").WantOK()
	require.Equal(t, "#irc_go:hs.test", location.Get("0.alias").Str)
	require.JSONEq(t, string(location.Body), string(get("location?alias="+url.QueryEscape("#irc_go:hs.test")).WantOK().Body))
	user := get("user/irc?nick=bob").WantOK()
	require.Equal(t, "@irc_bob:hs.test", user.Get("0.userid").Str)
	require.JSONEq(t, string(user.Body), string(get("user?userid="+url.QueryEscape("@irc_bob:hs.test")).WantOK().Body))
	for _, path := range []string{"location/irc?channel=%23rust", "location/xmpp", "user/irc", "location?alias=%23a:b", "user?userid=@a:b"} {
		get(path).WantError(404, "M_NOT_FOUND")
	}
	get("location/broken").WantError(500, "M_UNKNOWN")
}

// XX-02: a server without bridges knows of nothing.
func TestNoThirdPartyNetworks(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	get := func(path string) *homeservertest.Response { return alice.Do("GET", thirdParty+path, nil) }
	require.Equal(t, "{}", string(get("protocols").WantOK().Body))
	for _, path := range []string{"protocol/irc", "location/irc", "user/irc", "location?alias=%23a:b", "user?userid=@a:b"} {
		get(path).WantError(404, "M_NOT_FOUND")
	}
	for _, path := range []string{"location", "user"} {
		get(path).WantError(400, "M_MISSING_PARAM")
	}
	get("location?alias=a").WantError(400, "M_INVALID_PARAM")
	get("user?userid=a").WantError(400, "M_INVALID_PARAM")
	anybody(alice).Do("GET", thirdParty+"protocols", nil).WantError(401, "M_MISSING_TOKEN")
}
