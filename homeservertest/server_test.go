package homeservertest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// discoverable fills every .well-known file, and switches on what a server can do.
func discoverable(cfg *homeserver.Config) {
	cfg.BaseURL = "https://hs.test"
	cfg.Admins = []string{"@alice:hs.test"}
	cfg.Discovery = homeserver.Discovery{
		Delegate: "hs.test:443",
		Support:  auth.Support{Page: "https://hs.test/help"},
	}
	cfg.Calls = homeserver.Calls{TURN: []string{"turn:turn.test"}, Secret: "secret", LiveKit: []string{"https://rtc.test/jwt"}}
	cfg.Networks = bridged{}
	cfg.MediaWithoutToken = true
	cfg.Previews = homeserver.Previews{Enabled: true, AllowPrivate: true}
}

// bridged is a bridge to a network of one channel and one user.
type bridged struct{}

func (bridged) Protocols(context.Context, string) ([]rooms.BridgedProtocol, error) {
	return []rooms.BridgedProtocol{{Name: "irc", Bridge: "irc", ThirdPartyProtocol: rooms.ThirdPartyProtocol{
		UserFields: []string{"nick"}, LocationFields: []string{"channel"}, Icon: "mxc://hs.test/irc",
		FieldTypes: map[string]rooms.ThirdPartyFieldType{"nick": {Regexp: ".+", Placeholder: "bob"}},
		Instances:  []rooms.ThirdPartyInstance{{Description: "IRC", NetworkID: "irc"}},
	}}}, nil
}

func (b bridged) Locations(ctx context.Context, _ string, _ map[string]string) ([]rooms.ThirdPartyLocation, error) {
	return b.LocationsOf(ctx, "#irc_go:hs.test")
}

func (bridged) LocationsOf(_ context.Context, alias string) ([]rooms.ThirdPartyLocation, error) {
	return []rooms.ThirdPartyLocation{{Alias: alias, Protocol: "irc", Fields: map[string]any{"channel": "go"}}}, nil
}

func (b bridged) Users(ctx context.Context, _ string, _ map[string]string) ([]rooms.ThirdPartyUser, error) {
	return b.UsersOf(ctx, "@irc_bob:hs.test")
}

func (bridged) UsersOf(_ context.Context, user string) ([]rooms.ThirdPartyUser, error) {
	return []rooms.ThirdPartyUser{{User: user, Protocol: "irc", Fields: map[string]any{"nick": "bob"}}}, nil
}

// Every routed operation answers as its schema in the specification says.
func TestEveryAnswerFitsTheSpecification(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	judge(t, network, network.New("hs.test", discoverable))
}

// A server that is closed leaves no goroutine behind, whatever went on.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	for range 5 {
		t.Run("server", func(t *testing.T) {
			hs := homeservertest.New(t, discoverable)
			alice := hs.User("alice")
			room := alice.CreateRoom(homeservertest.Private)
			alice.Do("PUT", "/_matrix/client/v3/rooms/"+room+"/typing/"+alice.ID, map[string]any{"typing": true, "timeout": 30000}).WantOK()
			alice.Send(room, "hi")
		})
	}
	require.Eventually(t, func() bool { return len(survivors()) == 0 }, 5*time.Second, 10*time.Millisecond, "%v", survivors())
}

// A thirty-second long poll takes no time in a bubble, and typing ends by itself there.
func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice, bob := hs.User("alice"), hs.User("bob")
		room := alice.CreateRoom(homeservertest.Public)
		bob.MustJoin(room)
		since := bob.Sync("").NextBatch
		began := time.Now()
		quiet := bob.SyncWith(map[string][]string{"since": {since}, "timeout": {"30000"}})
		require.Equal(t, 30*time.Second, time.Since(began))
		require.False(t, quiet.Get("rooms").Exists())

		alice.Do("PUT", "/_matrix/client/v3/rooms/"+room+"/typing/"+alice.ID, map[string]any{"typing": true, "timeout": 20000}).WantOK()
		typing := bob.Sync(quiet.NextBatch)
		require.Equal(t, alice.ID, typing.Joined(room).Get("ephemeral.events.0.content.user_ids.0").String())
		began = time.Now()
		stopped := bob.SyncWith(map[string][]string{"since": {typing.NextBatch}, "timeout": {"60000"}})
		require.Equal(t, 20*time.Second, time.Since(began))
		require.Equal(t, "[]", stopped.Joined(room).Get("ephemeral.events.0.content.user_ids").Raw)

		go func() {
			time.Sleep(5 * time.Second)
			alice.Send(room, "late")
		}()
		began = time.Now()
		bob.Expect(room, homeservertest.Text("late"))
		require.Equal(t, 5*time.Second, time.Since(began))
	})
}

// Drain answers open long polls at once with 200, and new ones too.
func TestDrain(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	since := alice.Sync("").NextBatch
	done := make(chan int)
	go func() {
		done <- alice.Do("GET", "/_matrix/client/v3/sync?timeout=60000&since="+since, nil).Status
	}()
	time.Sleep(50 * time.Millisecond)
	hs.Homeserver().Drain()
	select {
	case status := <-done:
		require.Equal(t, 200, status)
	case <-time.After(5 * time.Second):
		t.Fatal("the long poll did not end")
	}
	require.Equal(t, 200, alice.Do("GET", "/_matrix/client/v3/sync?timeout=60000&since="+since, nil).Status)
}

// A long poll ends when its device is logged out elsewhere, and another device of the user goes on waiting.
func TestLogoutEndsLongPoll(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	gone, stays := alice.Login(), alice.Login()
	ended, waiting := polling(gone), polling(stays)
	time.Sleep(50 * time.Millisecond)
	gone.Do("POST", "/_matrix/client/v3/logout", map[string]any{}).WantOK()
	require.Equal(t, 401, <-ended)
	select {
	case <-waiting:
		t.Fatal("the other device was logged out")
	case <-time.After(50 * time.Millisecond):
	}
	stays.Do("POST", "/_matrix/client/v3/logout", map[string]any{}).WantOK()
	require.Equal(t, 401, <-waiting)
}

// Close awaits the requests under way, and answers them.
func TestCloseAwaitsRequests(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	since := alice.Sync("").NextBatch
	done := make(chan int, 1)
	go func() {
		done <- alice.Do("GET", "/_matrix/client/v3/sync?timeout=60000&since="+since, nil).Status
	}()
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, hs.Homeserver().Close(context.Background()))
	require.Equal(t, 200, <-done)
}

// The doors: each handler serves its own paths, an unstarted or closed server answers 503 in JSON.
func TestDoors(t *testing.T) {
	engine := sqlite.Memory()
	srv, err := homeserver.New(homeserver.Config{ServerName: "hs.test", Storage: engine})
	require.NoError(t, err)
	get := func(h http.Handler, path string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"), path)
		require.Equal(t, "application/json", w.Header().Get("Content-Type"), path)
		return w.Code
	}
	const versions, key = "/_matrix/client/versions", "/_matrix/key/v2/server"
	require.Equal(t, 503, get(srv, versions))
	require.Error(t, srv.Health(context.Background()))
	require.NoError(t, srv.Start(context.Background()))
	require.Error(t, srv.Start(context.Background()), "a second start")
	require.NoError(t, srv.Health(context.Background()))

	mux := http.NewServeMux()
	srv.Mount(mux)
	for _, tt := range []struct {
		name    string
		handler http.Handler
		path    string
		status  int
	}{
		{"all", srv, versions, 200}, {"all", srv, key, 200}, {"all", srv, "/else", 404},
		{"client", srv.ClientHandler(), versions, 200}, {"client", srv.ClientHandler(), key, 404},
		{"federation", srv.FederationHandler(), key, 200}, {"federation", srv.FederationHandler(), versions, 404},
		{"mux", mux, versions, 200}, {"mux", mux, key, 200},
	} {
		require.Equal(t, tt.status, get(tt.handler, tt.path), "%s %s", tt.name, tt.path)
	}
	r, err := srv.HTTPClient().Get("http://anything" + versions)
	require.NoError(t, err)
	require.Equal(t, 200, r.StatusCode)
	require.NoError(t, r.Body.Close())

	require.NoError(t, srv.Close(context.Background()))
	require.NoError(t, srv.Close(context.Background()), "a second close")
	require.Equal(t, 503, get(srv, versions))
}

// Storage belongs to one server name for ever.
func TestServerNameCannotChange(t *testing.T) {
	path := t.TempDir() + "/db"
	start := func(name string) error {
		engine, err := sqlite.Open(path)
		require.NoError(t, err)
		srv, err := homeserver.New(homeserver.Config{ServerName: name, Storage: engine})
		require.NoError(t, err)
		defer srv.Close(context.Background())
		return srv.Start(context.Background())
	}
	require.NoError(t, start("a.test"))
	require.ErrorContains(t, start("b.test"), "another name")
	require.NoError(t, start("a.test"))
}

// The example of one server's whole life that the ten-millisecond promise is about.
func oneLife(t testing.TB) {
	srv, err := homeserver.New(homeserver.Config{ServerName: "hs.test", Storage: sqlite.Memory()})
	require.NoError(t, err)
	require.NoError(t, srv.Start(context.Background()))
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, httptest.NewRequest("GET", "/_matrix/client/versions", nil))
	require.Equal(t, 200, w.Code)
	require.NoError(t, srv.Close(context.Background()))
}

// TestStartIsQuick: at most 100 ms, also under the race detector.
func TestStartIsQuick(t *testing.T) {
	best := time.Hour
	for range 5 {
		began := time.Now()
		oneLife(t)
		best = min(best, time.Since(began))
	}
	require.Less(t, best, 100*time.Millisecond)
}

func BenchmarkOneLife(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		oneLife(b)
	}
}

// With CI set the specification must be there: a check that is left out is no check.
func TestSpecificationIsThereInCI(t *testing.T) {
	if os.Getenv("CI") != "" {
		require.NotNil(t, loadSpecification(t))
	}
}

// CA-02: whichever field of the configuration names the version of new rooms, the capability and /createRoom agree.
func TestRoomVersionOfTheConfig(t *testing.T) {
	for name, configure := range map[string]func(*homeserver.Config){
		"12": func(*homeserver.Config) {},
		"10": func(c *homeserver.Config) { c.RoomVersion = "10" },
		"9":  func(c *homeserver.Config) { c.Discovery.RoomVersion = "9" },
		"11": func(c *homeserver.Config) { c.RoomVersion, c.Discovery.RoomVersion = "11", "9" },
	} {
		alice := homeservertest.New(t, configure).User("alice")
		said := alice.Do("GET", v3+"/capabilities", nil).WantOK().Get(`capabilities.m\.room_versions`)
		require.Equal(t, name, said.Get("default").String())
		require.Equal(t, "stable", said.Get("available."+name).String())
		room := alice.CreateRoom(homeservertest.Private)
		require.Equal(t, name, alice.State(room, "m.room.create", "").WantOK().Get("room_version").String())
	}
}

// AU-19, EM-02: what is switched off or not here yet says so in the specification's words, never with a 500.
func TestAbsentParts(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	for _, path := range []string{
		"/_matrix/client/v1/auth_metadata", "/_matrix/client/v1/media/preview_url", v3 + "/pushers", "/_matrix/media/v3/preview_url",
		"/.well-known/matrix/policy_server",
	} {
		alice.Do("GET", path, nil).WantError(404, "M_UNRECOGNIZED")
	}
	for _, name := range []string{"client", "server", "support"} {
		alice.Do("GET", "/.well-known/matrix/"+name, nil).WantError(404, "M_NOT_FOUND")
	}
}
