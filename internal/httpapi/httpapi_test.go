package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// sessions knows the tokens of the tests by name.
type sessions struct{ seen httpapi.Seen }

func (s *sessions) Session(_ context.Context, token string, seen httpapi.Seen) (*httpapi.Session, error) {
	s.seen = seen
	switch token {
	case "alice", "bob":
		return &httpapi.Session{User: id.UserID("@" + token + ":hs"), Device: "PHONE"}, nil
	case "admin":
		return &httpapi.Session{User: "@admin:hs", Admin: true}, nil
	case "guest":
		return &httpapi.Session{User: "@guest:hs", Guest: true}, nil
	case "locked":
		return &httpapi.Session{User: "@locked:hs", Locked: true}, nil
	case "bridge":
		return &httpapi.Session{User: "@bridge:hs", Unlimited: true}, nil
	case "broken":
		return nil, errors.New("the disk is on fire")
	}
	return nil, mxerr.UnknownToken
}

// echo is what the handlers of the tests answer: what they were given.
type echo struct {
	Route  string            `json:"route"`
	User   string            `json:"user,omitempty"`
	Values map[string]string `json:"values,omitempty"`
	Body   json.RawMessage   `json:"body,omitempty"`
}

func echoOf(c *httpapi.Call, names ...string) *echo {
	e := &echo{Route: c.Route(), User: string(c.User), Body: c.Body}
	for _, name := range names {
		if e.Values == nil {
			e.Values = map[string]string{}
		}
		e.Values[name] = c.PathValue(name)
	}
	return e
}

func plain(names ...string) func(context.Context, *httpapi.Call, *httpapi.None) (*echo, error) {
	return func(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*echo, error) {
		return echoOf(c, names...), nil
	}
}

func withBody(_ context.Context, c *httpapi.Call, _ *json.RawMessage) (*echo, error) {
	return echoOf(c), nil
}

type form struct {
	Name  string   `json:"name"`
	Count int64    `json:"count"`
	List  []string `json:"list"`
	Inner struct {
		Flag bool `json:"flag"`
	} `json:"inner"`
}

func withForm(_ context.Context, _ *httpapi.Call, in *form) (*form, error) { return in, nil }

func failing(err error) func(context.Context, *httpapi.Call, *httpapi.None) (*httpapi.Empty, error) {
	return func(context.Context, *httpapi.Call, *httpapi.None) (*httpapi.Empty, error) { return nil, err }
}

// challenge is an error that writes its own body, as interactive authentication does.
type challenge struct{}

func (challenge) Error() string { return "authenticate first" }
func (challenge) Response() (int, any) {
	return 401, map[string]any{"session": "s", "flows": []any{}}
}

type spliced struct{ n int }

func (s *spliced) AppendJSON(dst []byte) []byte {
	return append(append(append(dst, `{"fill":"`...), bytes.Repeat([]byte("<"), s.n)...), `"}`...)
}

type made struct {
	ID string `json:"id"`
}

func (*made) StatusCode() int { return http.StatusCreated }

const v3 = "/_matrix/client/v3"

func testRoutes() []httpapi.Route {
	panics := func(context.Context, *httpapi.Call, *httpapi.None) (*httpapi.Empty, error) { panic("oh no") }
	return []httpapi.Route{
		httpapi.Handle(httpapi.Public, "GET /_matrix/client/versions", plain()),
		httpapi.Handle(httpapi.OptionalToken, "GET "+v3+"/optional", plain(), httpapi.EvenLocked()),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/authed", plain()),
		httpapi.Handle(httpapi.GuestOK, "GET "+v3+"/guests", plain()),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/logout", plain(), httpapi.EvenLocked()),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/rooms/{roomId}/state/{eventType}/{stateKey}", plain("roomId", "eventType", "stateKey")),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/rooms/{roomId}/state/{eventType}/{$}", plain("roomId", "eventType", "stateKey")),
		httpapi.Handle(httpapi.Authed, "PUT "+v3+"/rooms/{roomId}/state/{eventType}/{$}", withBody),
		httpapi.Handle(httpapi.Authed, "PUT "+v3+"/rooms/{roomId}/send/{eventType}/{txnId}", withBody),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/rooms/{roomId}/event/{eventId}", plain("roomId", "eventId")),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/join/{roomIdOrAlias}", withBody),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/profile/{userId}", plain("userId")),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/directory/room/{roomAlias}", plain("roomAlias")),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/devices/{deviceId}", plain("deviceId")),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/devices/mine", plain()),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/pick/{what}/one", plain("what")),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/pick/literal/two", plain()),
		httpapi.Handle(httpapi.Public, "POST "+v3+"/form", withForm),
		httpapi.Handle(httpapi.Public, "PUT "+v3+"/form", withForm),
		httpapi.Handle(httpapi.Public, "PUT "+v3+"/optional_form", withForm, httpapi.OptionalBody()),
		httpapi.Handle(httpapi.Public, "DELETE "+v3+"/form", withForm),
		httpapi.Handle(httpapi.Public, "POST "+v3+"/small", withBody, httpapi.MaxBody(16)),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/internal", failing(errors.New("secret: hunter2"))),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/wrapped", failing(fmt.Errorf("look up: %w", mxerr.Forbidden.With("not <you>")))),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/busy", failing(fmt.Errorf("send: %w", overloaded{}))),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/later", failing(&mxerr.Error{Code: "M_LIMIT_EXCEEDED", Status: 429, Message: "later", RetryAfter: 1500 * time.Millisecond})),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/extra", failing(mxerr.UserLocked.Set("soft_logout", true))),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/challenge", failing(fmt.Errorf("uia: %w", challenge{}))),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/closing", failing(context.Canceled)),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/elsewhere", failing(mxerr.Unknown.WithStatus(502).With("another server does not answer"))),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/fail/panic", panics),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/spliced", func(context.Context, *httpapi.Call, *httpapi.None) (*spliced, error) { return &spliced{3}, nil }),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/made", func(context.Context, *httpapi.Call, *httpapi.None) (*made, error) { return &made{"<&>"}, nil }),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/nothing", failing(nil)),
		httpapi.Handle(httpapi.Public, "POST "+v3+"/login", withForm, httpapi.RateLimited(), httpapi.Also("POST /_matrix/client/unstable/login")),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/limited", plain(), httpapi.RateLimited()),
		httpapi.HandleRaw(httpapi.Public, "GET "+v3+"/raw", func(w http.ResponseWriter, _ *httpapi.Call) error {
			http.Redirect(w, httptest.NewRequest("GET", "/", nil), "https://example.org/", http.StatusFound)
			return nil
		}),
		httpapi.HandleRaw(httpapi.Public, "GET "+v3+"/raw/error", func(http.ResponseWriter, *httpapi.Call) error { return mxerr.NotFound }),
	}
}

func newRouter(change ...func(*httpapi.Config)) http.Handler {
	cfg := httpapi.Config{Sessions: &sessions{}, AllowQueryToken: true}
	for _, c := range change {
		c(&cfg)
	}
	return httpapi.NewRouter(cfg, testRoutes())
}

// ask sends a request as it would come over the wire: the target is parsed as net/http does.
func ask(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://hs"+target, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func as(token string) []string { return []string{"Authorization", "Bearer " + token} }

func requireStandard(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, "GET, HEAD, POST, PUT, DELETE, OPTIONS", w.Header().Get("Access-Control-Allow-Methods"))
	require.Equal(t, "X-Requested-With, Content-Type, Authorization", w.Header().Get("Access-Control-Allow-Headers"))
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.Equal(t, fmt.Sprint(w.Body.Len()), w.Header().Get("Content-Length"))
	require.True(t, json.Valid(w.Body.Bytes()), "body is not JSON: %q", w.Body)
}

func TestRefusals(t *testing.T) {
	long := strings.Repeat("x", 300)
	tests := []struct {
		name, method, target, body, token string
		status                            int
		errcode                           string
	}{
		{"unknown path", "GET", "/_matrix/client/v3/nope", "", "", 404, "M_UNRECOGNIZED"},
		{"outside /_matrix", "GET", "/favicon.ico", "", "", 404, "M_UNRECOGNIZED"},
		{"root", "GET", "/", "", "", 404, "M_UNRECOGNIZED"},
		{"prefix of a path", "GET", v3 + "/rooms", "", "alice", 404, "M_UNRECOGNIZED"},
		{"too many segments", "PUT", v3 + "/rooms/!a:hs/state/m.x/key/txn", "{}", "alice", 404, "M_UNRECOGNIZED"},
		{"double slash", "GET", "//_matrix/client/versions", "", "", 404, "M_UNRECOGNIZED"},
		{"double slash inside", "GET", "/_matrix//client/versions", "", "", 404, "M_UNRECOGNIZED"},
		{"trailing slash", "GET", "/_matrix/client/versions/", "", "", 404, "M_UNRECOGNIZED"},
		{"dots are data", "GET", "/_matrix/client/v3/../versions", "", "", 404, "M_UNRECOGNIZED"},
		{"encoded slash is no separator", "GET", "/_matrix%2Fclient/versions", "", "", 404, "M_UNRECOGNIZED"},
		{"empty room id", "GET", v3 + "/rooms//event/$a", "", "alice", 404, "M_UNRECOGNIZED"},
		{"wrong method", "POST", "/_matrix/client/versions", "{}", "", 405, "M_UNRECOGNIZED"},
		{"POST on state", "POST", v3 + "/rooms/!a:hs/state/m.x/", "{}", "alice", 405, "M_UNRECOGNIZED"},
		{"odd method", "BREW", v3 + "/authed", "", "alice", 405, "M_UNRECOGNIZED"},
		{"empty transaction id", "PUT", v3 + "/rooms/!a:hs/send/m.x/", "{}", "alice", 404, "M_UNRECOGNIZED"},

		{"no token", "GET", v3 + "/authed", "", "", 401, "M_MISSING_TOKEN"},
		{"unknown token", "GET", v3 + "/authed", "", "mallory", 401, "M_UNKNOWN_TOKEN"},
		{"unknown token where it is optional", "GET", v3 + "/optional", "", "mallory", 401, "M_UNKNOWN_TOKEN"},
		{"token before body", "PUT", v3 + "/rooms/!a:hs/send/m.x/1", "not JSON", "", 401, "M_MISSING_TOKEN"},
		{"token before path", "GET", v3 + "/rooms/bad/event/bad", "", "", 401, "M_MISSING_TOKEN"},
		{"guest", "GET", v3 + "/authed", "", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"locked", "GET", v3 + "/guests", "", "locked", 401, "M_USER_LOCKED"},
		{"session store down", "GET", v3 + "/authed", "", "broken", 500, "M_UNKNOWN"},

		{"room id without sigil", "GET", v3 + "/rooms/a:hs/event/$a", "", "alice", 400, "M_INVALID_PARAM"},
		{"room id too long", "GET", v3 + "/rooms/!" + long + ":hs/event/$a", "", "alice", 400, "M_INVALID_PARAM"},
		{"room id with NUL", "GET", v3 + "/rooms/!a%00:hs/event/$a", "", "alice", 400, "M_INVALID_PARAM"},
		{"event id", "GET", v3 + "/rooms/!a:hs/event/a", "", "alice", 400, "M_INVALID_PARAM"},
		{"user id", "GET", v3 + "/profile/alice", "", "", 400, "M_INVALID_PARAM"},
		{"alias", "GET", v3 + "/directory/room/!a:hs", "", "", 400, "M_INVALID_PARAM"},
		{"neither room nor alias", "POST", v3 + "/join/@a:hs", "{}", "alice", 400, "M_INVALID_PARAM"},
		{"opaque value too long", "GET", v3 + "/devices/" + long, "", "", 400, "M_INVALID_PARAM"},
		{"opaque value with NUL", "GET", v3 + "/devices/a%00b", "", "", 400, "M_INVALID_PARAM"},
		{"state key with NUL", "GET", v3 + "/rooms/!a:hs/state/m.x/%00", "", "alice", 400, "M_INVALID_PARAM"},
		{"path not UTF-8", "GET", v3 + "/devices/%ff", "", "", 400, "M_INVALID_PARAM"},
		{"query not UTF-8", "GET", v3 + "/devices/a?x=%ff", "", "", 400, "M_INVALID_PARAM"},
		{"query key with NUL", "GET", v3 + "/devices/a?%00=1", "", "", 400, "M_INVALID_PARAM"},
		{"query with a bad escape", "GET", v3 + "/devices/a?x=%zz", "", "", 400, "M_INVALID_PARAM"},
		{"query with a semicolon", "GET", v3 + "/devices/a?x=1;y=2", "", "", 400, "M_INVALID_PARAM"},

		{"not JSON", "POST", v3 + "/form", "name=alice", "", 400, "M_NOT_JSON"},
		{"half JSON", "POST", v3 + "/form", `{"name":`, "", 400, "M_NOT_JSON"},
		{"two values", "POST", v3 + "/form", `{} {}`, "", 400, "M_NOT_JSON"},
		{"byte order mark", "POST", v3 + "/form", "\ufeff{}", "", 400, "M_NOT_JSON"},
		{"body not UTF-8", "POST", v3 + "/form", "{\"name\":\"\xff\"}", "", 400, "M_NOT_JSON"},
		{"NUL outside a string", "POST", v3 + "/form", "{}\x00", "", 400, "M_NOT_JSON"},
		{"only space", "POST", v3 + "/form", " \n", "", 400, "M_NOT_JSON"},
		{"empty PUT", "PUT", v3 + "/form", "", "", 400, "M_NOT_JSON"},
		{"empty raw PUT", "PUT", v3 + "/rooms/!a:hs/send/m.x/1", "", "alice", 400, "M_NOT_JSON"},
		{"array", "POST", v3 + "/form", "[]", "", 400, "M_BAD_JSON"},
		{"null", "POST", v3 + "/form", "null", "", 400, "M_BAD_JSON"},
		{"string", "POST", v3 + "/form", `"x"`, "", 400, "M_BAD_JSON"},
		{"number to a raw handler", "PUT", v3 + "/rooms/!a:hs/send/m.x/1", "1", "alice", 400, "M_BAD_JSON"},
		{"wrong type", "POST", v3 + "/form", `{"name":1}`, "", 400, "M_BAD_JSON"},
		{"wrong type inside", "POST", v3 + "/form", `{"inner":{"flag":"yes"}}`, "", 400, "M_BAD_JSON"},
		{"fraction for an integer", "POST", v3 + "/form", `{"count":1.5}`, "", 400, "M_BAD_JSON"},
		{"integer too large", "POST", v3 + "/form", `{"count":99999999999999999999}`, "", 400, "M_BAD_JSON"},
		{"key twice", "POST", v3 + "/form", `{"name":"a","name":"b"}`, "", 400, "M_BAD_JSON"},
		{"nested too deep", "PUT", v3 + "/rooms/!a:hs/send/m.x/1", `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}", "alice", 400, "M_BAD_JSON"},
		{"body too large", "POST", v3 + "/small", `{"name":"alice of the hill"}`, "", 413, "M_TOO_LARGE"},
		{"body over the default", "POST", v3 + "/form", `{"name":"` + strings.Repeat("a", httpapi.DefaultMaxBody) + `"}`, "", 413, "M_TOO_LARGE"},

		{"too much to do", "GET", v3 + "/fail/busy", "", "", 503, "M_UNKNOWN"},
		{"internal error", "GET", v3 + "/fail/internal", "", "", 500, "M_UNKNOWN"},
		{"wrapped error", "GET", v3 + "/fail/wrapped", "", "", 403, "M_FORBIDDEN"},
		{"retry later", "GET", v3 + "/fail/later", "", "", 429, "M_LIMIT_EXCEEDED"},
		{"server closing", "GET", v3 + "/fail/closing", "", "", 503, "M_UNKNOWN"},
		{"panic", "GET", v3 + "/fail/panic", "", "", 500, "M_UNKNOWN"},
		{"error of a raw handler", "GET", v3 + "/raw/error", "", "", 404, "M_NOT_FOUND"},
	}
	h := newRouter()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var header []string
			if tt.token != "" {
				header = as(tt.token)
			}
			w := ask(h, tt.method, tt.target, tt.body, header...)
			require.Equal(t, tt.status, w.Code, "%.300s", w.Body)
			requireStandard(t, w)
			var e struct{ Errcode, Error string }
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e))
			require.Equal(t, tt.errcode, e.Errcode, "%s", w.Body)
			require.NotEmpty(t, e.Error)
		})
	}
}

func TestAnswers(t *testing.T) {
	const form = `{"name":"a","count":0,"list":null,"inner":{"flag":false}}`
	long := strings.Repeat("k", 300)
	tests := []struct {
		name, method, target, body, token string
		status                            int
		answer                            string
	}{
		{"plain", "GET", "/_matrix/client/versions", "", "", 200, `{"route":"/_matrix/client/versions"}`},
		{"GET with a body", "GET", "/_matrix/client/versions", "junk", "", 200, `{"route":"/_matrix/client/versions"}`},
		{"public ignores tokens", "GET", "/_matrix/client/versions", "", "mallory", 200, `{"route":"/_matrix/client/versions"}`},
		{"optional token, none", "GET", v3 + "/optional", "", "", 200, `{"route":"/_matrix/client/v3/optional"}`},
		{"optional token, locked", "GET", v3 + "/optional", "", "locked", 200, `{"route":"/_matrix/client/v3/optional","user":"@locked:hs"}`},
		{"token in the query", "GET", v3 + "/authed?x=1&access_token=alice", "", "", 200, `{"route":"/_matrix/client/v3/authed","user":"@alice:hs"}`},
		{"header wins", "GET", v3 + "/authed?access_token=mallory", "", "alice", 200, `{"route":"/_matrix/client/v3/authed","user":"@alice:hs"}`},
		{"guest", "GET", v3 + "/guests", "", "guest", 200, `{"route":"/_matrix/client/v3/guests","user":"@guest:hs"}`},
		{"locked logout", "POST", v3 + "/logout", "", "locked", 200, `{"route":"/_matrix/client/v3/logout","user":"@locked:hs"}`},
		{"r0 alias", "GET", "/_matrix/client/r0/authed", "", "alice", 200, `{"route":"/_matrix/client/v3/authed","user":"@alice:hs"}`},
		{"encoded literal", "GET", "/%5Fmatrix/client/versions%3F", "", "", 404, ""},
		{"encoded literal, right", "GET", "/_matrix/%63lient/versions", "", "", 200, `{"route":"/_matrix/client/versions"}`},
		{"slash in a segment", "GET", v3 + "/rooms/!a%2Fb:hs/state/m.x/a%2F%2Fb", "", "alice", 200,
			`{"route":"/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}","user":"@alice:hs","values":{"eventType":"m.x","roomId":"!a/b:hs","stateKey":"a//b"}}`},
		{"decoded once", "GET", v3 + "/devices/a%252Fb", "", "", 200, `{"route":"/_matrix/client/v3/devices/{deviceId}","values":{"deviceId":"a%2Fb"}}`},
		{"plus is no space in a path", "GET", v3 + "/devices/a+b", "", "", 200, `{"route":"/_matrix/client/v3/devices/{deviceId}","values":{"deviceId":"a+b"}}`},
		{"dots as a state key", "GET", v3 + "/rooms/!a:hs/state/m.x/..", "", "alice", 200,
			`{"route":"/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}","user":"@alice:hs","values":{"eventType":"m.x","roomId":"!a:hs","stateKey":".."}}`},
		{"long state key", "GET", v3 + "/rooms/!a:hs/state/m.x/" + long, "", "alice", 200,
			`{"route":"/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}","user":"@alice:hs","values":{"eventType":"m.x","roomId":"!a:hs","stateKey":"` + long + `"}}`},
		{"empty state key with slash", "GET", v3 + "/rooms/!a:hs/state/m.x/", "", "alice", 200,
			`{"route":"/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{$}","user":"@alice:hs","values":{"eventType":"m.x","roomId":"!a:hs","stateKey":""}}`},
		{"empty state key without slash", "GET", v3 + "/rooms/!a:hs/state/m.x", "", "alice", 200,
			`{"route":"/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{$}","user":"@alice:hs","values":{"eventType":"m.x","roomId":"!a:hs","stateKey":""}}`},
		{"literal before wildcard", "GET", v3 + "/devices/mine", "", "", 200, `{"route":"/_matrix/client/v3/devices/mine"}`},
		{"back to the wildcard", "GET", v3 + "/pick/literal/one", "", "", 200, `{"route":"/_matrix/client/v3/pick/{what}/one","values":{"what":"literal"}}`},
		{"alias", "GET", v3 + "/directory/room/%23a:hs", "", "", 200, `{"route":"/_matrix/client/v3/directory/room/{roomAlias}","values":{"roomAlias":"#a:hs"}}`},
		{"room of version 12", "POST", v3 + "/join/!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM", "", "alice", 200,
			`{"route":"/_matrix/client/v3/join/{roomIdOrAlias}","user":"@alice:hs","body":{}}`},
		{"object as it came", "PUT", v3 + "/rooms/!a:hs/send/m.x/1", ` {"b":1e2, "a":"\u003c"} `, "alice", 200,
			`{"route":"/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}","user":"@alice:hs","body":{"b":1e2,"a":"\u003c"}}`},
		{"empty POST", "POST", v3 + "/form", "", "", 200, strings.Replace(form, `"a"`, `""`, 1)},
		{"empty DELETE", "DELETE", v3 + "/form", "", "", 200, strings.Replace(form, `"a"`, `""`, 1)},
		{"empty PUT where allowed", "PUT", v3 + "/optional_form", "", "", 200, strings.Replace(form, `"a"`, `""`, 1)},
		{"form", "POST", v3 + "/form", `{"name":"a","other":[1.5]}`, "", 200, form},
		{"null is absent", "POST", v3 + "/form", `{"name":"a","list":null,"count":null}`, "", 200, form},
		{"own bytes", "GET", v3 + "/spliced", "", "", 200, `{"fill":"<<<"}`},
		{"own status, HTML as it is", "GET", v3 + "/made", "", "", 201, `{"id":"<&>"}`},
		{"nil answer", "GET", v3 + "/nothing", "", "", 200, `{}`},
		{"extra keys", "GET", v3 + "/fail/extra", "", "", 401, `{"errcode":"M_USER_LOCKED","error":"this account is locked","soft_logout":true}`},
		{"own error body", "GET", v3 + "/fail/challenge", "", "", 401, `{"flows":[],"session":"s"}`},
		{"further pattern", "POST", "/_matrix/client/unstable/login", `{"name":"a"}`, "", 200, form},
	}
	h := newRouter()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var header []string
			if tt.token != "" {
				header = as(tt.token)
			}
			w := ask(h, tt.method, tt.target, tt.body, header...)
			require.Equal(t, tt.status, w.Code, "%.300s", w.Body)
			requireStandard(t, w)
			if tt.answer != "" {
				require.Equal(t, tt.answer, w.Body.String())
			}
		})
	}
}

func TestContentTypeDoesNotMatter(t *testing.T) {
	h := newRouter()
	for _, mediaType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ";;;"} {
		w := ask(h, "POST", v3+"/form", `{"name":"a"}`, "Content-Type", mediaType)
		require.Equal(t, 200, w.Code, "Content-Type %q: %s", mediaType, w.Body)
	}
}

func TestOptionsRunsNothing(t *testing.T) {
	h := newRouter()
	for _, target := range []string{v3 + "/fail/panic", v3 + "/authed", "/nowhere", "//a/../b"} {
		w := ask(h, "OPTIONS", target, "")
		require.Equal(t, 200, w.Code, "OPTIONS %s", target)
		requireStandard(t, w)
		require.Equal(t, "{}", w.Body.String())
	}
	r := httptest.NewRequest("OPTIONS", "/", nil)
	r.URL.Path, r.RequestURI = "*", "*"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, 200, w.Code, "OPTIONS *")
}

// SB-15, SB-16: redirects too are for browsers.
func TestRedirectsCarryCORS(t *testing.T) {
	w := ask(newRouter(), "GET", v3+"/raw", "")
	require.Equal(t, http.StatusFound, w.Code)
	require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, "X-Requested-With, Content-Type, Authorization", w.Header().Get("Access-Control-Allow-Headers"))
}

func TestWrongMethodNamesTheRightOnes(t *testing.T) {
	w := ask(newRouter(), "POST", v3+"/rooms/!a:hs/state/m.x", "{}", as("alice")...)
	require.Equal(t, 405, w.Code)
	require.Equal(t, "GET, PUT, OPTIONS", w.Header().Get("Allow"))
}

func TestHeadIsServedByGet(t *testing.T) {
	srv := httptest.NewServer(newRouter())
	defer srv.Close()
	resp, err := http.Head(srv.URL + "/_matrix/client/versions")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, int64(len(`{"route":"/_matrix/client/versions"}`)), resp.ContentLength)
}

func TestAuthorizationHeader(t *testing.T) {
	tests := []struct {
		name, header, query string
		status              int
		errcode             string
	}{
		{"plain", "Bearer alice", "", 200, ""},
		{"any case", "bEARER alice", "", 200, ""},
		{"more spaces", "Bearer   alice ", "", 200, ""},
		{"empty", "Bearer ", "", 401, "M_MISSING_TOKEN"},
		{"scheme only", "Bearer", "", 401, "M_MISSING_TOKEN"},
		{"another scheme", "Basic YTpi", "", 401, "M_MISSING_TOKEN"},
		{"another scheme and the query", "Basic YTpi", "?access_token=alice", 200, ""},
		{"empty query", "", "?access_token=", 401, "M_MISSING_TOKEN"},
		{"header wins", "Bearer mallory", "?access_token=alice", 401, "M_UNKNOWN_TOKEN"},
	}
	h := newRouter()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(h, "GET", v3+"/authed"+tt.query, "", "Authorization", tt.header)
			require.Equal(t, tt.status, w.Code, "%.300s", w.Body)
			require.Contains(t, w.Body.String(), tt.errcode)
		})
	}
	noQuery := newRouter(func(c *httpapi.Config) { c.AllowQueryToken = false })
	w := ask(noQuery, "GET", v3+"/authed?access_token=alice", "")
	require.Equal(t, 401, w.Code, "a query token where it is switched off")
}

func TestInternalErrorsStayInTheLog(t *testing.T) {
	for _, path := range []string{"/fail/internal", "/fail/panic"} {
		t.Run(path, func(t *testing.T) {
			var log bytes.Buffer
			h := newRouter(func(c *httpapi.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			w := ask(h, "GET", v3+path+"?access_token=alice", "")
			require.Equal(t, `{"errcode":"M_UNKNOWN","error":"internal error"}`, w.Body.String())
			require.Equal(t, 1, strings.Count(log.String(), "\n"), "one line: %s", &log)
			require.Contains(t, log.String(), `route="GET /_matrix/client/v3`+path)
			require.NotContains(t, log.String(), "alice")
		})
	}
}

// That another server fails, or that this one ends, is no error of this server.
func TestChosenFailuresAreNoErrorsInTheLog(t *testing.T) {
	var log bytes.Buffer
	h := newRouter(func(c *httpapi.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	require.Equal(t, 502, ask(h, "GET", v3+"/fail/elsewhere", "").Code)
	require.Contains(t, log.String(), "level=INFO")
	log.Reset()
	require.Equal(t, 500, ask(h, "GET", v3+"/fail/internal", "").Code)
	require.Contains(t, log.String(), "level=ERROR")
}

func TestRetryAfterIsWholeSeconds(t *testing.T) {
	w := ask(newRouter(), "GET", v3+"/fail/later", "")
	require.Equal(t, "2", w.Header().Get("Retry-After"))
}

func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newRouter(func(c *httpapi.Config) {
			c.Limits = httpapi.Limits{User: httpapi.Rate{PerSecond: 2, Burst: 3}, Address: httpapi.Rate{PerSecond: 1, Burst: 2}}
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} // where httptest's requests come from
		})
		asked := func(token string) *httptest.ResponseRecorder {
			return ask(h, "GET", v3+"/limited", "", as(token)...)
		}
		login := func(from string) *httptest.ResponseRecorder {
			return ask(h, "POST", v3+"/login", "{}", "X-Forwarded-For", from)
		}

		for range 3 {
			require.Equal(t, 200, asked("alice").Code)
		}
		w := asked("alice")
		require.Equal(t, 429, w.Code)
		requireStandard(t, w)
		require.Equal(t, `{"errcode":"M_LIMIT_EXCEEDED","error":"too many requests","retry_after_ms":500}`, w.Body.String())
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Equal(t, 200, asked("bob").Code, "another user has a limit of his own")
		for range 10 {
			require.Equal(t, 200, asked("bridge").Code, "the bridge has no limit")
		}
		time.Sleep(500 * time.Millisecond)
		require.Equal(t, 200, asked("alice").Code, "after the time that was named")
		require.Equal(t, 429, asked("alice").Code)

		require.Equal(t, 200, login("203.0.113.1").Code)
		require.Equal(t, 200, login("203.0.113.1").Code)
		require.Equal(t, 429, login("203.0.113.1").Code)
		require.Equal(t, 200, login("203.0.113.2").Code, "another address")
		require.Equal(t, 200, login("2001:db8::1").Code)
		require.Equal(t, 200, login("2001:db8::2").Code)
		require.Equal(t, 429, login("2001:db8::3").Code, "a /64 is one address")
		require.Equal(t, 200, login("2001:db8:0:1::3").Code, "another /64")

		guess := func() int {
			return ask(h, "GET", v3+"/limited", "", "Authorization", "Bearer guess", "X-Forwarded-For", "203.0.113.9").Code
		}
		require.Equal(t, []int{401, 401, 429}, []int{guess(), guess(), guess()}, "bad tokens count against the address")
	})
}

func TestRateLimitsOff(t *testing.T) {
	h := newRouter(func(c *httpapi.Config) {
		c.Limits = httpapi.Limits{Off: true, User: httpapi.Rate{PerSecond: 1, Burst: 1}}
	})
	for range 5 {
		require.Equal(t, 200, ask(h, "GET", v3+"/limited", "", as("alice")...).Code)
	}
}

func TestClientAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	tests := []struct {
		name, remote, forwarded string
		trusted                 []netip.Prefix
		want                    string
	}{
		{"direct", "203.0.113.7:5000", "", nil, "203.0.113.7"},
		{"nobody is trusted", "10.0.0.1:5000", "203.0.113.7", nil, "10.0.0.1"},
		{"not a proxy", "198.51.100.1:5000", "203.0.113.7", proxies, "198.51.100.1"},
		{"a proxy", "10.0.0.1:5000", "203.0.113.7", proxies, "203.0.113.7"},
		{"what the client wrote is not believed", "10.0.0.1:5000", "1.1.1.1, 203.0.113.7", proxies, "203.0.113.7"},
		{"two proxies", "10.0.0.1:5000", "1.1.1.1, 203.0.113.7, 10.0.0.2", proxies, "203.0.113.7"},
		{"junk", "10.0.0.1:5000", "unknown", proxies, "10.0.0.1"},
		{"junk before a proxy", "10.0.0.1:5000", "junk, 10.0.0.2", proxies, "10.0.0.2"},
		{"with a port", "10.0.0.1:5000", "203.0.113.7:99", proxies, "203.0.113.7"},
		{"IPv6", "[::1]:5000", "2001:db8::1", proxies, "2001:db8::1"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:5000", "::ffff:203.0.113.7", proxies, "203.0.113.7"},
		{"socket without proxies", "@", "203.0.113.7", nil, "invalid IP"},
		{"socket behind a proxy", "@", "203.0.113.7", proxies, "203.0.113.7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &sessions{}
			h := newRouter(func(c *httpapi.Config) { c.Sessions, c.TrustedProxies = s, tt.trusted })
			r := httptest.NewRequest("GET", v3+"/authed", nil)
			r.RemoteAddr = tt.remote
			r.Header.Set("Authorization", "Bearer alice")
			r.Header.Set("User-Agent", "test")
			if tt.forwarded != "" {
				r.Header.Set("X-Forwarded-For", tt.forwarded)
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
			require.Equal(t, tt.want, s.seen.IP.String())
			require.Equal(t, "test", s.seen.UserAgent)
		})
	}
}

func TestQueryValues(t *testing.T) {
	type values struct {
		Text  string
		Int   int
		Bool  bool
		All   []string
		Has   bool
		Error string
	}
	routes := []httpapi.Route{httpapi.Handle(httpapi.Public, "GET /q", func(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*values, error) {
		n, err := c.Int("n", 7)
		if err != nil {
			return nil, err
		}
		b, err := c.Bool("b", true)
		return &values{Text: c.Query("t"), Int: n, Bool: b, All: c.QueryAll("via"), Has: c.HasQuery("t")}, err
	})}
	h := httpapi.NewRouter(httpapi.Config{}, routes)
	tests := []struct{ name, query, want string }{
		{"defaults", "", `{"Text":"","Int":7,"Bool":true,"All":null,"Has":false,"Error":""}`},
		{"values", "?t=a%20b+c&n=-3&b=false", `{"Text":"a b c","Int":-3,"Bool":false,"All":null,"Has":true,"Error":""}`},
		{"several", "?via=a&via=b&t=", `{"Text":"","Int":7,"Bool":true,"All":["a","b"],"Has":true,"Error":""}`},
		{"first wins", "?t=1&t=2", `{"Text":"1","Int":7,"Bool":true,"All":null,"Has":true,"Error":""}`},
		{"encoded key", "?%74=x", `{"Text":"x","Int":7,"Bool":true,"All":null,"Has":true,"Error":""}`},
		{"bad int", "?n=ten", `{"errcode":"M_INVALID_PARAM","error":"n must be an integer"}`},
		{"huge int", "?n=99999999999999999999", `{"errcode":"M_INVALID_PARAM","error":"n must be an integer"}`},
		{"empty int", "?n=", `{"errcode":"M_INVALID_PARAM","error":"n must be an integer"}`},
		{"bad bool", "?b=yes", `{"errcode":"M_INVALID_PARAM","error":"b must be true or false"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, ask(h, "GET", "/q"+tt.query, "").Body.String())
		})
	}
}

func TestLongPollOutlivesTheHostsTimeouts(t *testing.T) {
	poll := func(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
		c.ExtendDeadline(time.Second)
		select {
		case <-time.After(200 * time.Millisecond):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	srv := httptest.NewUnstartedServer(httpapi.NewRouter(httpapi.Config{}, []httpapi.Route{httpapi.Handle(httpapi.Public, "GET /poll", poll)}))
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	srv.Start()
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/poll")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "{}", string(body))
}

func TestHalfAnAnswerIsBrokenOff(t *testing.T) {
	half := func(w http.ResponseWriter, _ *httpapi.Call) error {
		_, _ = w.Write([]byte(`{"half":`))
		return errors.New("storage went away")
	}
	srv := httptest.NewServer(httpapi.NewRouter(httpapi.Config{}, []httpapi.Route{httpapi.HandleRaw(httpapi.Public, "GET /half", half)}))
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/half")
	if err == nil {
		defer resp.Body.Close()
		_, err = io.ReadAll(resp.Body)
	}
	require.Error(t, err, "the client must see that the answer is not whole")
}

func TestUnreadBodyOfUnknownLength(t *testing.T) {
	r := httptest.NewRequest("POST", v3+"/small", io.MultiReader(strings.NewReader(`{"name":"`), strings.NewReader(strings.Repeat("a", 100))))
	r.ContentLength = -1
	w := httptest.NewRecorder()
	newRouter().ServeHTTP(w, r)
	require.Equal(t, 413, w.Code, "%s", w.Body)
}

func TestMistakesInRoutesPanic(t *testing.T) {
	one := httpapi.Handle(httpapi.Public, "GET /a/{x}", plain())
	other := httpapi.Handle(httpapi.Public, "GET /a/{y}", plain())
	require.Panics(t, func() { httpapi.NewRouter(httpapi.Config{}, []httpapi.Route{one, other}) }, "two routes for one path")
	require.Panics(t, func() { httpapi.Handle(httpapi.Public, "/a", plain()) }, "no method")
	require.Panics(t, func() { httpapi.Handle(httpapi.Public, "GET a", plain()) }, "no slash")
}

func TestRouteSaysWhatItIs(t *testing.T) {
	r := httpapi.Handle(httpapi.Public, "POST "+v3+"/login", withForm, httpapi.Also("POST /_matrix/client/unstable/login"))
	require.Equal(t, "httpapi_test.withForm", r.Name)
	require.Equal(t, []string{
		"POST /_matrix/client/v3/login", "POST /_matrix/client/unstable/login", "POST /_matrix/client/r0/login",
	}, r.Patterns())
}

// overloaded is an error of a part that has too much to do.
type overloaded struct{}

func (overloaded) Error() string    { return "overloaded" }
func (overloaded) Overloaded() bool { return true }
