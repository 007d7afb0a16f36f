package rooms_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	homeserver "github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

const turn = v3 + "/voip/turnServer"

// XX-03: credentials that end, and that the TURN server can check.
func TestTurnCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t, func(c *homeserver.Config) {
			c.Calls = homeserver.Calls{TURN: []string{"turn:a", "turns:b"}, Secret: "s3cret", TTL: time.Hour}
		})
		alice := hs.User("alice")
		r := alice.Do("GET", turn, nil).WantOK()
		require.Equal(t, fmt.Sprintf("%d:%s", time.Now().Add(time.Hour).Unix(), alice.ID), r.Get("username").Str)
		mac := hmac.New(sha1.New, []byte("s3cret"))
		mac.Write([]byte(r.Get("username").Str))
		require.Equal(t, base64.StdEncoding.EncodeToString(mac.Sum(nil)), r.Get("password").Str)
		require.Equal(t, int64(3600), r.Get("ttl").Int())
		require.Equal(t, `["turn:a","turns:b"]`, r.Get("uris").Raw)
		hs.Guest().Do("GET", turn, nil).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
		anybody(alice).Do("GET", turn, nil).WantError(401, "M_MISSING_TOKEN")
	})
}

// XX-03: the same credentials for everybody, guests too if the host says so.
func TestStaticTurnCredentials(t *testing.T) {
	hs := homeservertest.New(t, func(c *homeserver.Config) {
		c.Calls = homeserver.Calls{TURN: []string{"turn:a"}, Username: "u", Password: "p", Guests: true}
	})
	for _, u := range []*homeservertest.User{hs.User("alice"), hs.Guest()} {
		require.JSONEq(t, `{"username":"u","password":"p","ttl":86400,"uris":["turn:a"]}`, string(u.Do("GET", turn, nil).WantOK().Body))
	}
}

// XX-03: without a TURN server the answer is empty.
func TestNoTurnServer(t *testing.T) {
	require.Equal(t, "{}", string(homeservertest.New(t).User("alice").Do("GET", turn, nil).WantOK().Body))
}

// MSC4143: clients find the services of calls of many, and everybody in a new room may take part in one.
func TestTransports(t *testing.T) {
	const transports = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
	const found = `[{"type":"livekit","livekit_service_url":"https://rtc.test/jwt"}]`
	alice := homeservertest.New(t, func(c *homeserver.Config) {
		c.BaseURL = "https://hs.test"
		c.Calls = homeserver.Calls{LiveKit: []string{"https://rtc.test/jwt"}}
	}).User("alice")
	require.JSONEq(t, `{"rtc_transports":`+found+`}`, string(alice.Do("GET", transports, nil).WantOK().Body))
	anybody(alice).Do("GET", transports, nil).WantError(401, "M_MISSING_TOKEN")
	require.JSONEq(t, found, alice.Do("GET", "/.well-known/matrix/client", nil).Get(`org\.matrix\.msc4143\.rtc_foci`).Raw)
	require.True(t, alice.Do("GET", "/_matrix/client/versions", nil).Get(`unstable_features.org\.matrix\.msc4143`).Bool())
	levels := alice.State(alice.CreateRoom(homeservertest.Private), "m.room.power_levels", "").WantOK()
	require.Equal(t, "0", levels.Get(`events.org\.matrix\.msc3401\.call\.member`).Raw)

	bob := homeservertest.New(t).User("bob")
	require.JSONEq(t, `{"rtc_transports":[]}`, string(bob.Do("GET", transports, nil).WantOK().Body))
	require.False(t, bob.Do("GET", "/_matrix/client/versions", nil).Get(`unstable_features.org\.matrix\.msc4143`).Bool())
}

// What cannot work is refused before the server starts.
func TestCallsThatCannotWork(t *testing.T) {
	for _, c := range []homeserver.Calls{
		{TURN: []string{"stun:a"}, Secret: "s"}, {TURN: []string{"turn:a"}}, {TURN: []string{"turn:a"}, Username: "u"},
		{TTL: -1}, {LiveKit: []string{"rtc.test"}},
	} {
		require.Error(t, c.Validate(), "%+v", c)
	}
	require.NoError(t, homeserver.Calls{}.Validate())
}
