// Package httpapi is the door of the server: it turns rows of a route table into an http.Handler.
//
// A row joins a pattern with a plain function. Whatever every endpoint has in common happens here and
// nowhere else: routing on the escaped path, CORS, access tokens, locked accounts and guests, rate
// limits, the checks of path values and bodies, JSON both ways, errors and panics. A handler gets a
// Call whose values are valid, and returns an answer or an error.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#api-standards
package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"runtime"
	"strings"
)

// Access says who may call an endpoint.
type Access int

const (
	Public        Access = iota // anybody; a token is not looked at
	OptionalToken               // anybody; a token that is sent must be valid
	Authed                      // users, but no guests: they get 403 M_GUEST_ACCESS_FORBIDDEN
	GuestOK                     // users and guests
	Server                      // other servers, each request signed by its sender
)

// DefaultMaxBody is how long a request body may be when its route says nothing else: 1 MiB, sixteen
// times the largest event, room enough for a room with much initial state or a batch of keys.
const DefaultMaxBody = 1 << 20

// None is the In of a handler that takes no body. A body that is sent is not read.
type None struct{}

// Empty is the Out of a handler whose answer is {}.
type Empty struct{}

// Route is one row of a route table.
type Route struct {
	Access Access
	Method string
	Path   string // with wildcards: /_matrix/client/v3/rooms/{roomId}/leave
	Name   string // of the handler, for logs: rooms.(*Service).leave

	also         []pattern // further patterns of the same handler
	rateLimited  bool
	budget       Budget // what is counted when rateLimited
	evenLocked   bool
	adminOnly    bool
	optional     bool   // an empty body stands for {}
	optionalWith string // a query parameter with which it does
	anyEventID   bool   // {eventId} is the handler's to check
	maxBody      int64
	serve        func(rt *Router, w http.ResponseWriter, c *Call) error
}

// Patterns returns every "METHOD /path" the route is served under, the one of its row first.
func (r *Route) Patterns() []string {
	var all []string
	for _, p := range r.patterns() {
		all = append(all, p.method+" "+p.path)
	}
	return all
}

// Option changes a Route.
type Option func(*Route)

// RateLimited puts the endpoint under the limit of its caller: the user, or the address without a token. A budget says
// what is counted; General without one.
func RateLimited(budget ...Budget) Option {
	return func(r *Route) {
		r.rateLimited = true
		for _, b := range budget {
			r.budget = b
		}
	}
}

// MaxBody sets how many bytes the body may have; DefaultMaxBody otherwise.
func MaxBody(n int64) Option { return func(r *Route) { r.maxBody = n } }

// OptionalBody lets a PUT come without a body, which then counts as {}. POST and DELETE always may.
func OptionalBody() Option { return func(r *Route) { r.optional = true } }

// OptionalBodyWith lets a PUT with a query parameter come without a body: one that is sent again, and whose answer does not
// hang on it.
func OptionalBodyWith(parameter string) Option { return func(r *Route) { r.optionalWith = parameter } }

// AnyEventID lets the handler check {eventId}: where it has to fit an event in the body, of which there may be worse to
// say. It is text of at most 255 bytes.
func AnyEventID() Option { return func(r *Route) { r.anyEventID = true } }

// AdminOnly serves administrators of the server alone: others get M_FORBIDDEN, before anything else of the request is
// looked at.
func AdminOnly() Option { return func(r *Route) { r.adminOnly = true } }

// EvenLocked serves users whose account is locked, as logout must.
func EvenLocked() Option { return func(r *Route) { r.evenLocked = true } }

// Also serves the handler under a further pattern, such as an older or unstable path.
func Also(pattern string) Option {
	return func(r *Route) { r.also = append(r.also, mustParsePattern(pattern)) }
}

// Handle makes a row of a function from a request to an answer.
//
// The pattern is "METHOD /path"; a segment {name} matches one segment that is not empty, which the handler
// gets decoded, and a last segment {$} makes a trailing slash optional. A path below /_matrix/client/v3/
// is served below /_matrix/client/r0/ as well. In decides what is read: None nothing, json.RawMessage
// a JSON object as it came, any other type an object that is decoded into it. What Out is, is written as JSON;
// an AppendJSON(dst []byte) []byte on *Out writes the body itself, a StatusCode() int replaces the 200.
func Handle[In, Out any](a Access, pattern string, fn func(context.Context, *Call, *In) (*Out, error), opts ...Option) Route {
	decode := decoderFor[In]()
	return newRoute(a, pattern, fn, opts, func(rt *Router, w http.ResponseWriter, c *Call) error {
		in := new(In)
		if decode != nil {
			if err := c.readObject(); err != nil {
				return err
			}
			if err := decode(c.Body, in); err != nil {
				return err
			}
		}
		out, err := fn(c.Request.Context(), c, in)
		if err != nil {
			return err
		}
		return rt.answer(w, out, out == nil)
	})
}

// HandleRaw makes a row of a function that writes the answer itself: streams, redirects, pages.
// An error it returns before it has written anything is answered as usual.
func HandleRaw(a Access, pattern string, fn func(http.ResponseWriter, *Call) error, opts ...Option) Route {
	return newRoute(a, pattern, fn, opts, func(_ *Router, w http.ResponseWriter, c *Call) error {
		return fn(w, c)
	})
}

func newRoute(a Access, text string, fn any, opts []Option, serve func(*Router, http.ResponseWriter, *Call) error) Route {
	p := mustParsePattern(text)
	r := Route{Access: a, Method: p.method, Path: p.path, Name: nameOf(fn), maxBody: DefaultMaxBody, serve: serve}
	r.optional = p.method == http.MethodPost || p.method == http.MethodDelete
	for _, opt := range opts {
		opt(&r)
	}
	return r
}

// nameOf is the name of a function without the path of its package: "rooms.(*Service).sendEvent".
func nameOf(fn any) string {
	f := runtime.FuncForPC(reflect.ValueOf(fn).Pointer())
	if f == nil {
		return ""
	}
	name := f.Name()
	name = name[strings.LastIndexByte(name, '/')+1:]
	return strings.TrimSuffix(name, "-fm")
}

// decoderFor returns what makes an In of a body, or nil when no body is read.
func decoderFor[In any]() func(body []byte, in *In) error {
	switch any((*In)(nil)).(type) {
	case *None:
		return nil
	case *json.RawMessage:
		return func(body []byte, in *In) error {
			*any(in).(*json.RawMessage) = body
			return nil
		}
	}
	return func(body []byte, in *In) error { return decode(body, in) }
}

// pattern is a parsed "METHOD /path".
type pattern struct{ method, path string }

// mustParsePattern panics on a pattern that cannot be served: patterns are program text, not input.
func mustParsePattern(text string) pattern {
	method, path, ok := strings.Cut(text, " ")
	if !ok || method == "" || !strings.HasPrefix(path, "/") {
		panic(fmt.Sprintf("httpapi: pattern %q is not \"METHOD /path\"", text))
	}
	return pattern{method, path}
}

const (
	stablePrefix = "/_matrix/client/v3/"
	olderPrefix  = "/_matrix/client/r0/"
)

// patterns lists what the route is served under, with the aliases of the r0 era.
func (r *Route) patterns() []pattern {
	own := append([]pattern{{r.Method, r.Path}}, r.also...)
	all := own
	for _, p := range own {
		if rest, ok := strings.CutPrefix(p.path, stablePrefix); ok {
			all = append(all, pattern{p.method, olderPrefix + rest})
		}
	}
	return all
}
