package homeserver_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// A host mounts the server beside its own pages.
func Example() {
	srv, err := homeserver.New(homeserver.Config{
		ServerName: "example.org",
		Storage:    sqlite.Memory(), // sqlite.Open("matrix.db") keeps it
		Media:      media.Memory(),
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := srv.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer srv.Close(ctx)

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "my own page") })
	srv.Mount(mux)
	web := &http.Server{Addr: "127.0.0.1:8008", Handler: mux}
	web.RegisterOnShutdown(srv.Drain)

	fmt.Println(srv.Health(ctx))
	// Output: <nil>
}

// The host makes accounts itself when registration is closed.
func ExampleServer_Admin() {
	srv, err := homeserver.New(homeserver.Config{
		ServerName: "example.org", Storage: sqlite.Memory(), PasswordCost: auth.Cheap(),
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := srv.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer srv.Close(ctx)

	user, err := srv.Admin().CreateUser(ctx, homeserver.NewUser{Localpart: "alice", Password: "correct horse"})
	fmt.Println(user, err)
	_, err = srv.Admin().CreateUser(ctx, homeserver.NewUser{Localpart: "alice", Password: "another"})
	fmt.Println(errors.Is(err, homeserver.ErrUserInUse))
	// Output:
	// @alice:example.org <nil>
	// true
}

// Code in the same process speaks the Matrix API without a socket.
func ExampleServer_HTTPClient() {
	srv, err := homeserver.New(homeserver.Config{ServerName: "example.org", Storage: sqlite.Memory()})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := srv.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer srv.Close(ctx)

	r, err := srv.HTTPClient().Get("http://matrix/_matrix/federation/v1/version")
	if err != nil {
		log.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct{ Server struct{ Version string } }
	err = json.NewDecoder(r.Body).Decode(&answer)
	fmt.Println(answer.Server.Version == homeserver.Version, err)
	// Output: true <nil>
}

// Validate names every fault at once.
func ExampleConfig_Validate() {
	err := homeserver.Config{ServerName: "not a name", Admins: []string{"alice"}}.Validate()
	fmt.Println(len(strings.Split(err.Error(), "\n")))
	// Output: 3
}

func TestValidate(t *testing.T) {
	good := homeserver.Config{ServerName: "a.test", Storage: sqlite.Memory()}
	require.NoError(t, good.Validate())
	for name, spoil := range map[string]func(*homeserver.Config){
		"server name":  func(c *homeserver.Config) { c.ServerName = "" },
		"storage":      func(c *homeserver.Config) { c.Storage = nil },
		"base URL":     func(c *homeserver.Config) { c.BaseURL = "example.org" },
		"signing key":  func(c *homeserver.Config) { c.SigningKey = ed25519.PrivateKey{1} },
		"room version": func(c *homeserver.Config) { c.RoomVersion = "99" },
		"admins":       func(c *homeserver.Config) { c.Admins = []string{"alice"} },
		"key servers":  func(c *homeserver.Config) { c.Federation.TrustedKeyServers = []string{"not a name"} },
		"allowed":      func(c *homeserver.Config) { c.Federation.Allow = []string{"not a name"} },
		"notices":      func(c *homeserver.Config) { c.ServerNotices.Localpart = "Not A Name" },
		"former keys":  func(c *homeserver.Config) { c.OldSigningKeys = []homeserver.OldSigningKey{{ID: "ed25519:a"}} },
		"networks":     func(c *homeserver.Config) { c.Federation.DenyNets = make([]netip.Prefix, 1) },
		"roots":        func(c *homeserver.Config) { c.Federation.ExtraRoots = make([]*x509.Certificate, 1) },
		"web roots":    func(c *homeserver.Config) { c.Previews.ExtraRoots = make([]*x509.Certificate, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			_, err := homeserver.New(c)
			require.Error(t, err)
		})
	}
}

// A server for itself publishes its keys and has no other endpoints for servers.
func TestWithoutFederation(t *testing.T) {
	srv, err := homeserver.New(homeserver.Config{ServerName: "a.test", Storage: sqlite.Memory()})
	require.NoError(t, err)
	require.NoError(t, srv.Start(t.Context()))
	defer srv.Close(context.Background())
	for path, status := range map[string]int{
		"GET /_matrix/key/v2/server":             200,
		"GET /_matrix/federation/v1/version":     200,
		"PUT /_matrix/federation/v1/send/1":      404,
		"GET /_matrix/federation/v1/event/$e":    404,
		"GET /_matrix/federation/v1/publicRooms": 404,
		"PUT /_matrix/federation/v1/3pid/onbind": 404,
	} {
		method, target, _ := strings.Cut(path, " ")
		w := httptest.NewRecorder()
		srv.FederationHandler().ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader("{}")))
		require.Equal(t, status, w.Code, "%s: %s", path, w.Body)
	}
	unsent, err := srv.Admin().Unsent()
	require.NoError(t, err)
	require.Empty(t, unsent)
}

// A key of the host signs, and the same one after a restart; without one the server keeps its own.
func TestSigningKey(t *testing.T) {
	path := t.TempDir() + "/db"
	keys := func(key ed25519.PrivateKey) string {
		engine, err := sqlite.Open(path)
		require.NoError(t, err)
		srv, err := homeserver.New(homeserver.Config{ServerName: "a.test", Storage: engine, SigningKey: key})
		require.NoError(t, err)
		require.NoError(t, srv.Start(context.Background()))
		defer srv.Close(context.Background())
		r, err := srv.HTTPClient().Get("http://a.test/_matrix/key/v2/server")
		require.NoError(t, err)
		defer r.Body.Close()
		var answer struct {
			Keys json.RawMessage `json:"verify_keys"`
		}
		require.NoError(t, json.NewDecoder(r.Body).Decode(&answer))
		return string(answer.Keys)
	}
	own := keys(nil)
	require.Equal(t, own, keys(nil))
	_, hosts, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	require.NotEqual(t, own, keys(hosts))
	require.Equal(t, own, keys(nil))
}
