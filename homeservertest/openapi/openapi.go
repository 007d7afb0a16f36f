// Package openapi judges answers by the OpenAPI descriptions of the specification, which are not part of this
// repository: https://github.com/matrix-org/matrix-spec/tree/main/data/api
//
// The environment variable MATRIX_SPEC_OPENAPI names the folder that has bundled/client-server.json and
// bundled/server-server.json, each whole in one file. Without it nothing is judged.
package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Variable is the environment variable that names the folder of the descriptions.
const Variable = "MATRIX_SPEC_OPENAPI"

// MaxBody is how long a body may be that is judged, in bytes: what is longer has cost enough.
const MaxBody = 128 << 10

// Specification is what the client-server and the server-server API describe. It may be used by many at once.
type Specification struct {
	operations map[string][]*operation // by method and number of segments

	mu       sync.Mutex // guards the following
	compiler *jsonschema.Compiler
	met      map[string]struct{} // "METHOD /path" of the operations that were answered with 2xx
}

// operation is what is described of an operation.
type operation struct {
	method, path string
	segments     []string
	answers      map[int]*answer // those with 2xx
}

// answer is a good answer: files and pages have no schema. The schema is compiled when it is first needed.
type answer struct {
	where  string // "" without a schema
	schema *jsonschema.Schema
}

// shared are the descriptions that the environment names, read once in a process.
var shared = sync.OnceValues(func() (*Specification, error) {
	folder := os.Getenv(Variable)
	if folder == "" {
		return nil, nil
	}
	return Load(folder)
})

// Shared returns the descriptions that the environment names, or nil when it names none.
func Shared() (*Specification, error) { return shared() }

// Load reads the descriptions in the folder bundled of a folder.
func Load(folder string) (*Specification, error) {
	s := &Specification{operations: map[string][]*operation{}, compiler: jsonschema.NewCompiler(), met: map[string]struct{}{}}
	s.compiler.DefaultDraft(jsonschema.Draft2020)
	s.compiler.AssertFormat()
	for _, format := range formats() {
		s.compiler.RegisterFormat(format)
	}
	for _, api := range []string{"client-server.json", "server-server.json"} {
		if err := s.load(filepath.Join(folder, "bundled", api)); err != nil {
			return nil, fmt.Errorf("openapi: %s: %w", api, err)
		}
	}
	return s, nil
}

func (s *Specification) load(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var api struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(data, &api); err != nil {
		return err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	onlySchemas(document)
	url := "spec:///" + filepath.Base(file)
	if err := s.compiler.AddResource(url, document); err != nil {
		return err
	}
	for path, methods := range api.Paths {
		for method, description := range methods {
			if err := s.describe(url, method, path, description); err != nil {
				return fmt.Errorf("%s %s: %w", method, path, err)
			}
		}
	}
	return nil
}

// onlySchemas takes the definitions out of a document that are no schemas: parameters, headers and the like.
func onlySchemas(document any) {
	whole, _ := document.(map[string]any)
	defs, _ := whole["$defs"].(map[string]any)
	maps.DeleteFunc(defs, func(name string, _ any) bool {
		_, component, ok := strings.Cut(name, "__components_")
		return ok && !strings.HasPrefix(component, "schemas_")
	})
}

// describe notes an operation and where the schemas of its good answers stand.
func (s *Specification) describe(url, method, path string, description []byte) error {
	if !slices.Contains([]string{"get", "put", "post", "delete"}, method) {
		return nil
	}
	var described struct {
		Responses map[string]struct {
			Content map[string]struct{ Schema json.RawMessage }
		}
	}
	if err := json.Unmarshal(description, &described); err != nil {
		return err
	}
	o := &operation{strings.ToUpper(method), path, strings.Split(path, "/"), map[int]*answer{}}
	for text, response := range described.Responses {
		status, err := strconv.Atoi(text)
		if err != nil || status/100 != 2 {
			continue
		}
		o.answers[status] = &answer{}
		if response.Content["application/json"].Schema != nil {
			o.answers[status].where = url + "#" + pointer("paths", path, method, "responses", text, "content", "application/json", "schema")
		}
	}
	key := group(o.method, o.segments)
	s.operations[key] = append(s.operations[key], o)
	return nil
}

func group(method string, segments []string) string { return method + strconv.Itoa(len(segments)) }

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

// Find returns "METHOD /path" of the operation of a request: the one with the most segments written out; "" when
// there is none.
func (s *Specification) Find(method, escapedPath string) string {
	if o := s.find(method, escapedPath); o != nil {
		return o.method + " " + o.path
	}
	return ""
}

func (s *Specification) find(method, escapedPath string) *operation {
	segments := strings.Split(escapedPath, "/")
	var best *operation
	literals := -1
	for _, o := range s.operations[group(method, segments)] {
		if n := o.matches(segments); n > literals {
			best, literals = o, n
		}
	}
	return best
}

// matches returns how many segments are equal, or -1 when the operation is another one.
func (o *operation) matches(segments []string) int {
	equal := 0
	for i, segment := range o.segments {
		switch {
		case segment == segments[i]:
			equal++
		case !strings.HasPrefix(segment, "{"):
			return -1
		}
	}
	return equal
}

// Describes reports whether there is an operation "METHOD /path".
func (s *Specification) Describes(method, path string) bool {
	return slices.ContainsFunc(s.operations[group(method, strings.Split(path, "/"))], func(o *operation) bool { return o.path == path })
}

// Met reports whether a good answer of the operation "METHOD /path" was judged.
func (s *Specification) Met(method, path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.met[method+" "+path]
	return ok
}

// Judge checks an answer and notes that its operation was met. What is no good answer is not judged, nor is the body of
// one that is longer than MaxBody, nor what was asked for in another form than the specification's. It is an error as
// well when a good answer is that of no operation, unless it is beside the specification.
func (s *Specification) Judge(method string, u *url.URL, status int, header http.Header, body []byte) error {
	if status/100 != 2 || method == http.MethodOptions || method == http.MethodHead || formed(u.RawQuery) {
		return nil
	}
	o := s.find(method, today(u.EscapedPath()))
	if o == nil {
		return beside(method, u.EscapedPath())
	}
	if err := s.judge(o, status, header.Get("Content-Type"), body); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", o.method, o.path, err, body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.met[o.method+" "+o.path] = struct{}{}
	return nil
}

func (s *Specification) judge(o *operation, status int, mediaType string, body []byte) error {
	a, ok := o.answers[status]
	if status == http.StatusPartialContent { // a part of a file
		a, ok = o.answers[http.StatusOK]
	}
	if !ok {
		return fmt.Errorf("the specification has no answer %d", status)
	}
	if a.where == "" || len(body) > MaxBody || unjudged(o, body) {
		return nil
	}
	if base, _, err := mime.ParseMediaType(mediaType); err != nil || base != "application/json" {
		return fmt.Errorf("the media type is %q", mediaType)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	schema, err := s.schema(a)
	if err != nil {
		return err
	}
	return schema.Validate(relic(o, value))
}

// relic gives the event of an answered invite the origin that its schema demands still: events have none any more.
func relic(o *operation, value any) any {
	if !strings.Contains(o.path, "/invite/") {
		return value
	}
	whole := value
	if pair, ok := value.([]any); ok && len(pair) == 2 { // of the first version of the endpoint
		whole = pair[1]
	}
	answer, _ := whole.(map[string]any)
	if event, ok := answer["event"].(map[string]any); ok && event["origin"] == nil {
		event["origin"] = event["room_id"]
	}
	return value
}

// today is the path of now for one of old.
func today(path string) string {
	for _, api := range []string{"client", "media"} {
		path = strings.Replace(path, "/_matrix/"+api+"/r0/", "/_matrix/"+api+"/v3/", 1)
	}
	return path
}

// formed reports whether a query asks for an answer of another form: for some fields of events, or by parameters that are
// in no specification.
func formed(query string) bool {
	return strings.Contains(query, "event_fields") || strings.Contains(query, "org.matrix.msc")
}

// unjudged are answers that are good and fit no schema.
func unjudged(o *operation, body []byte) bool {
	switch o.path {
	case "/_matrix/client/v3/voip/turnServer": // there is none: the specification does not say how to say so
		return string(body) == "{}"
	case "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}": // repeated: it is to be sent later (MSC4140)
		return bytes.HasPrefix(body, []byte(`{"delay_id":`))
	case "/_matrix/client/v3/events": // typing, receipts and presence are there too, and have no event_id
		return true
	case "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}": // an event is a content too: oneOf fits both
		return o.method == http.MethodGet
	}
	return false
}

func (s *Specification) schema(a *answer) (*jsonschema.Schema, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.schema != nil {
		return a.schema, nil
	}
	var err error
	a.schema, err = s.compiler.Compile(a.where)
	return a.schema, err
}

// errUnknown says that what was answered is no operation of the specification.
var errUnknown = errors.New("openapi: no operation of the specification")

// beside allows what a server answers beside the newest specification: what administrators do, what is not stable yet,
// pages, and what the specification had once.
func beside(method, escapedPath string) error {
	parts := []string{
		"/_synapse/", "/unstable/", "/_matrix/static/", "/fallback/web", "/_matrix/key/v2/", "/_matrix/client/v3/pushrules",
		"/_matrix/federation/v1/send_join/", "/_matrix/federation/v1/send_leave/", "/state/", // the last without a state key
	}
	if method == http.MethodPost {
		parts = append(parts, "/send/", "/redact/") // without a transaction id
	}
	if slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(escapedPath, part) }) {
		return nil
	}
	return fmt.Errorf("%w: %s %s", errUnknown, method, escapedPath)
}
