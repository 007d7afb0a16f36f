package homeservertest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
)

// specification judges answers by the OpenAPI descriptions of the client-server and the server-server API.
type specification struct {
	operations []described

	mu  sync.Mutex          // guards the following
	met map[string]struct{} // "METHOD /path" of the operations that were answered with 2xx
}

// described is an operation with the schemas of its good answers.
type described struct {
	method, path string
	segments     []string
	answers      map[string]*jsonschema.Schema // by status; nil where anything goes, such as files
}

// specificationFolder is where the descriptions are. They are not part of this repository.
func specificationFolder() string {
	if folder := os.Getenv("MATRIX_SPEC_OPENAPI"); folder != "" {
		return folder
	}
	return filepath.Join("..", "..", "shared", "spec", "openapi")
}

// loadSpecification returns nil when the descriptions are not there, and says so: a plain `go test` does not
// need them, CI does.
func loadSpecification(t *testing.T) *specification {
	t.Helper()
	folder := filepath.Join(specificationFolder(), "bundled")
	if _, err := os.Stat(folder); err != nil {
		require.Empty(t, os.Getenv("CI"), "CI checks answers against the specification: %v", err)
		t.Logf("answers are not checked against the specification: set MATRIX_SPEC_OPENAPI to its OpenAPI folder (%v)", err)
		return nil
	}
	s := &specification{met: map[string]struct{}{}}
	for _, api := range []string{"client-server.json", "server-server.json"} {
		s.load(t, filepath.Join(folder, api))
	}
	return s
}

func (s *specification) load(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var api struct {
		Paths map[string]map[string]json.RawMessage
	}
	require.NoError(t, json.Unmarshal(data, &api))
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	require.NoError(t, err)
	maps.DeleteFunc(document.(map[string]any)["$defs"].(map[string]any), func(name string, _ any) bool {
		_, component, ok := strings.Cut(name, "__components_")
		return ok && !strings.HasPrefix(component, "schemas_") // parameters, headers and the like are no schemas
	})
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	for _, format := range formats() {
		compiler.RegisterFormat(format)
	}
	url := "spec:///" + filepath.Base(file)
	require.NoError(t, compiler.AddResource(url, document))
	for path, methods := range api.Paths {
		for method, description := range methods {
			if slices.Contains([]string{"get", "put", "post", "delete"}, method) {
				s.describe(t, compiler, url, method, path, description)
			}
		}
	}
}

// describe compiles the schemas of one operation's good answers.
func (s *specification) describe(t *testing.T, compiler *jsonschema.Compiler, url, method, path string, description []byte) {
	t.Helper()
	var operation struct {
		Responses map[string]struct {
			Content map[string]struct{ Schema json.RawMessage }
		}
	}
	require.NoError(t, json.Unmarshal(description, &operation), path)
	d := described{strings.ToUpper(method), path, strings.Split(path, "/"), map[string]*jsonschema.Schema{}}
	for status, response := range operation.Responses {
		if !strings.HasPrefix(status, "2") {
			continue
		}
		d.answers[status] = nil
		if response.Content["application/json"].Schema == nil {
			continue
		}
		schema, err := compiler.Compile(url + "#" + pointer("paths", path, method, "responses", status, "content", "application/json", "schema"))
		require.NoError(t, err, "%s %s", d.method, path)
		d.answers[status] = schema
	}
	s.operations = append(s.operations, d)
}

// pointer is a JSON pointer as the fragment of a URL.
func pointer(keys ...string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1", "%", "%25", "{", "%7B", "}", "%7D")
	var p strings.Builder
	for _, key := range keys {
		p.WriteString("/" + escape.Replace(key))
	}
	return p.String()
}

// formats are the string formats of the specification, checked by our own parsers.
func formats() []*jsonschema.Format {
	format := func(name string, check func(string) error) *jsonschema.Format {
		return &jsonschema.Format{Name: name, Validate: func(v any) error {
			if text, ok := v.(string); ok {
				return check(text)
			}
			return nil
		}}
	}
	return []*jsonschema.Format{
		format("mx-user-id", func(s string) error { _, err := id.ParseUserID(s); return err }),
		format("mx-room-id", func(s string) error { _, err := id.ParseRoomID(s); return err }),
		format("mx-event-id", func(s string) error { _, err := id.ParseEventID(s); return err }),
		format("mx-room-alias", func(s string) error { _, err := id.ParseRoomAlias(s); return err }),
		format("mx-server-name", func(s string) error { _, err := id.ParseServerName(s); return err }),
	}
}

// find returns the operation of a request: the one with the most segments written out.
func (s *specification) find(method, escapedPath string) *described {
	segments := strings.Split(escapedPath, "/")
	var best *described
	literals := -1
	for i := range s.operations {
		d := &s.operations[i]
		if n := d.matches(method, segments); n > literals {
			best, literals = d, n
		}
	}
	return best
}

// matches returns how many segments are equal, or -1 when the operation is another one.
func (d *described) matches(method string, segments []string) int {
	if d.method != method || len(d.segments) != len(segments) {
		return -1
	}
	equal := 0
	for i, segment := range d.segments {
		switch {
		case segment == segments[i]:
			equal++
		case !strings.HasPrefix(segment, "{"):
			return -1
		}
	}
	return equal
}

// judge checks an answer and notes that its operation was met. What is no operation of the specification, and
// what is no good answer, is not judged.
func (s *specification) judge(method, escapedPath string, status int, mediaType string, body []byte) error {
	d := s.find(method, strings.Replace(escapedPath, "/_matrix/client/r0/", "/_matrix/client/v3/", 1))
	if d == nil || status/100 != 2 {
		return nil
	}
	schema, described := d.answers[fmt.Sprint(status)]
	if !described {
		return fmt.Errorf("%s %s: the specification has no answer %d", d.method, d.path, status)
	}
	if schema != nil {
		if err := fits(schema, mediaType, body); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", d.method, d.path, err, body)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.met[d.method+" "+d.path] = struct{}{}
	return nil
}

func fits(schema *jsonschema.Schema, mediaType string, body []byte) error {
	if base, _, err := mime.ParseMediaType(mediaType); err != nil || base != "application/json" {
		return fmt.Errorf("the media type is %q", mediaType)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// watched is a client's transport that has every answer judged. A nil specification judges nothing.
type watched struct {
	t    *testing.T
	spec *specification
	to   http.Handler
}

// RoundTrip asks the handler in process. An answer that does not fit fails the test.
func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	served := r.Clone(r.Context())
	served.RequestURI, served.RemoteAddr, served.Host = r.URL.RequestURI(), "203.0.113.1:5000", r.URL.Host
	if served.Body == nil {
		served.Body = http.NoBody
	}
	w.to.ServeHTTP(recorder, served)
	if w.spec != nil {
		err := w.spec.judge(r.Method, r.URL.EscapedPath(), recorder.Code, recorder.Header().Get("Content-Type"), recorder.Body.Bytes())
		if err != nil {
			w.t.Errorf("answer does not fit the specification: %v", err)
		}
	}
	response := recorder.Result()
	response.Request = r
	return response, nil
}

func TestSpecificationFindsOperations(t *testing.T) {
	spec := loadSpecification(t)
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
			found := ""
			if d := spec.find(method, path); d != nil {
				found = d.method + " " + d.path
			}
			require.Equal(t, tt.operation, found)
		})
	}
}

func TestSpecificationJudges(t *testing.T) {
	spec := loadSpecification(t)
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
		{"errors are not judged", sync, 403, "application/json", `{}`, ""},
		{"what is not in the specification is not judged", "GET /_synapse/admin/v1/register", 200, "application/json", `[]`, ""},
		{"other APIs", "GET /_matrix/key/v2/server", 200, "application/json", `{"server_name":"hs"}`, "verify_keys"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			method, path, _ := strings.Cut(tt.request, " ")
			err := spec.judge(method, path, tt.status, tt.mediaType, []byte(tt.body))
			if tt.fault == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.fault)
		})
	}
	require.Equal(t, map[string]struct{}{"GET /_matrix/client/versions": {}}, spec.met, "only good answers are met")
}

func TestWatchedPassesAnswersOn(t *testing.T) {
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI)
	})
	client := http.Client{Transport: &watched{t: t, to: server}}
	response, err := client.Get("http://hs/a%2Fb?c=d")
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, response.StatusCode)
	require.Equal(t, "GET /a%2Fb?c=d", string(body))
}
