package openapi_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest/openapi"
)

// load returns nil when the descriptions are not there, and says so: a plain `go test` does not need them, CI does.
func load(t testing.TB) *openapi.Specification {
	t.Helper()
	folder := os.Getenv(openapi.Variable)
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "spec", "openapi")
	}
	if _, err := os.Stat(folder); err != nil {
		require.Empty(t, os.Getenv("CI"), "CI checks answers against the specification: %v", err)
		t.Logf("answers are not checked against the specification: set %s to its OpenAPI folder (%v)", openapi.Variable, err)
		return nil
	}
	spec, err := openapi.Load(folder)
	require.NoError(t, err)
	return spec
}

func TestFind(t *testing.T) {
	spec := load(t)
	if spec == nil {
		return
	}
	tests := []struct{ request, operation string }{
		{"GET /_matrix/client/versions", "GET /_matrix/client/versions"},
		{"GET /_matrix/client/v3/rooms/!a%2Fb:hs/state/m.x/k", "GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}"},
		{"GET /_matrix/client/v3/rooms/!a:hs/state/m.x/", "GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}"},
		{"GET /_matrix/client/v3/pushrules/", "GET /_matrix/client/v3/pushrules/"},
		{"GET /_matrix/federation/v1/query/profile", "GET /_matrix/federation/v1/query/profile"},
		{"GET /_matrix/federation/v1/query/other", "GET /_matrix/federation/v1/query/{queryType}"},
		{"POST /_matrix/client/versions", ""},
	}
	for _, tt := range tests {
		t.Run(tt.request, func(t *testing.T) {
			method, path, _ := strings.Cut(tt.request, " ")
			require.Equal(t, tt.operation, spec.Find(method, path))
		})
	}
	require.True(t, spec.Describes("GET", "/_matrix/client/v3/profile/{userId}"))
	require.False(t, spec.Describes("GET", "/_matrix/client/v3/profile/@a:hs"))
}

func TestJudge(t *testing.T) {
	spec := load(t)
	if spec == nil {
		return
	}
	const sync = "GET /_matrix/client/v3/sync"
	tests := []struct {
		name, request string
		status        int
		mediaType     string
		body          string
		fault         string
	}{
		{"good", "GET /_matrix/client/versions", 200, "application/json", `{"versions":["v1.11"]}`, ""},
		{"media type with charset", "GET /_matrix/client/versions", 200, "application/json; charset=utf-8", `{"versions":["v1.11"]}`, ""},
		{"wrong type", "GET /_matrix/client/versions", 200, "application/json", `{"versions":"v1.11"}`, "got string, want array"},
		{"missing key", "GET /_matrix/client/versions", 200, "application/json", `{}`, "missing property 'versions'"},
		{"media type", "GET /_matrix/client/versions", 200, "text/plain", `{"versions":[]}`, "text/plain"},
		{"no JSON", "GET /_matrix/client/versions", 200, "application/json", `{`, "EOF"},
		{"status", "GET /_matrix/client/versions", 201, "application/json", `{"versions":[]}`, "no answer 201"},
		{"format", "GET /_matrix/client/v3/joined_rooms", 200, "application/json", `{"joined_rooms":["room"]}`, "mx-room-id"},
		{"deep down", sync, 200, "application/json", `{"next_batch":"s","rooms":{"join":{"!a:hs":{"timeline":{"events":[{"type":1}]}}}}}`, "timeline/events/0"},
		{"older path", "GET /_matrix/client/r0/sync", 200, "application/json", `{}`, "next_batch"},
		{"older path of files", "GET /_matrix/media/r0/config", 200, "application/json", `{"m.upload.size":"x"}`, "m.upload.size"},
		{"a part of a file", "GET /_matrix/client/v1/media/download/hs/x", 206, "image/png", "x", ""},
		{"no TURN servers", "GET /_matrix/client/v3/voip/turnServer", 200, "application/json", `{}`, ""},
		{"half a TURN server", "GET /_matrix/client/v3/voip/turnServer", 200, "application/json", `{"ttl":1}`, "missing properties"},
		{"what is long is not judged", sync, 200, "application/json", `{"x":"` + strings.Repeat("x", openapi.MaxBody) + `"}`, ""},
		{"nor is what was asked for in parts", sync + "?filter=%7B%22event_fields%22:[]%7D", 200, "application/json", `{}`, ""},
		{"nor what is to be sent later", "PUT /_matrix/client/v3/rooms/!a:hs/send/x/1?org.matrix.msc4140.delay=1", 200, "application/json", `{"delay_id":"x"}`, ""},
		{"errors are not judged", sync, 403, "application/json", `{}`, ""},
		{"what is beside the specification is not judged", "GET /_synapse/admin/v1/register", 200, "application/json", `[]`, ""},
		{"nor what is unstable", "GET /_matrix/client/unstable/org.example/x", 200, "application/json", `[]`, ""},
		{"there is nothing else", "GET /_matrix/client/v3/x", 200, "application/json", `{}`, "no operation of the specification"},
		{"unless it is no answer", "GET /_matrix/client/v3/x", 404, "application/json", `{}`, ""},
		{"other APIs", "GET /_matrix/key/v2/server", 200, "application/json", `{"server_name":"hs"}`, "verify_keys"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			method, path, _ := strings.Cut(tt.request, " ")
			u, err := url.Parse(path)
			require.NoError(t, err)
			err = spec.Judge(method, u, tt.status, http.Header{"Content-Type": {tt.mediaType}}, []byte(tt.body))
			if tt.fault == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.fault)
		})
	}
	require.True(t, spec.Met("GET", "/_matrix/client/versions"))
	require.False(t, spec.Met("GET", "/_matrix/client/v3/joined_rooms"), "only good answers are met")
}

// BenchmarkJudge: what a small answer costs every test that gets one.
func BenchmarkJudge(b *testing.B) {
	spec := load(b)
	if spec == nil {
		return
	}
	u := &url.URL{Path: "/_matrix/client/v3/rooms/!a:hs/send/m.room.message/1"}
	body := []byte(`{"event_id":"$` + strings.Repeat("x", 43) + `"}`)
	header := http.Header{"Content-Type": {"application/json"}}
	b.ReportAllocs()
	for b.Loop() {
		if err := spec.Judge("PUT", u, 200, header, body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad: what the descriptions cost a process once.
func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		load(b)
	}
}
