package homeservertest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// Profiles of users of other servers are asked for there.
func TestProfilesOfOtherServers(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	alice, bob := one.User("alice"), two.User("bob")
	alice.Do("PUT", "/_matrix/client/v3/profile/"+alice.ID+"/displayname", map[string]any{"displayname": "Alice"}).WantOK()
	profile := func(rest string) *homeservertest.Response {
		return bob.Do("GET", "/_matrix/client/v3/profile/"+rest, nil)
	}
	require.JSONEq(t, `{"displayname":"Alice"}`, string(profile(alice.ID).WantOK().Body))
	require.JSONEq(t, `{"displayname":"Alice"}`, string(profile(alice.ID+"/displayname").WantOK().Body))
	profile(alice.ID+"/avatar_url").WantError(404, "M_NOT_FOUND")
	profile("@nobody:one.test").WantError(404, "M_NOT_FOUND")
	network.Partition("one.test")
	profile(alice.ID).WantError(502, "M_UNKNOWN")
}

// What another server says of a profile and is none does not reach clients.
func TestProfilesOfRogues(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	bob := network.New("one.test").User("bob")
	rogue := network.Rogue("rogue.test")
	const query = "/_matrix/federation/v1/query/profile"
	said := `{"displayname":{"html":"x"},"avatar_url":null,"Bad Key":1,"org.example.one":2,"org.example.two":null}`
	rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, query) {
			fmt.Fprint(w, said)
		}
		return strings.HasPrefix(r.URL.Path, query)
	})
	profile := func(rest string) *homeservertest.Response {
		return bob.Do("GET", "/_matrix/client/v3/profile/"+rogue.UserID("mallory")+rest, nil)
	}
	require.JSONEq(t, `{"org.example.one":2}`, string(profile("").WantOK().Body))
	require.JSONEq(t, `{"org.example.one":2}`, string(profile("/org.example.one").WantOK().Body))
	profile("/displayname").WantError(404, "M_NOT_FOUND")
	said = `["no object"]`
	profile("").WantError(502, "M_UNKNOWN")
}
