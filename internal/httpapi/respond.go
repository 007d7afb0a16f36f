package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// The values of the headers that every answer has.
var (
	headerJSON     = []string{"application/json"}
	headerNoStore  = []string{"no-store"}
	headerOrigin   = []string{"*"}
	headerMethods  = []string{"GET, HEAD, POST, PUT, DELETE, OPTIONS"}
	headerHeaders  = []string{"X-Requested-With, Content-Type, Authorization"}
	headerOneDay   = []string{"86400"}
	emptyObject    = []byte("{}")
	lengthOfObject = []string{"2"}
)

// setCORS lets web clients of any origin read the answer.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#web-browser-clients
func setCORS(h http.Header) {
	h["Access-Control-Allow-Origin"] = headerOrigin
	h["Access-Control-Allow-Methods"] = headerMethods
	h["Access-Control-Allow-Headers"] = headerHeaders
}

// preflight answers OPTIONS, on any path, without any of the endpoint's logic.
func (rt *Router) preflight(w http.ResponseWriter) {
	w.Header()["Access-Control-Max-Age"] = headerOneDay
	writeJSON(w, http.StatusOK, emptyObject)
}

// unrecognized answers a path that no route has, or a method that none of the path's routes has.
func (rt *Router) unrecognized(w http.ResponseWriter, look *lookup) {
	if len(look.allow) == 0 {
		rt.writeError(w, mxerr.Unrecognized)
		return
	}
	w.Header().Set("Allow", strings.Join(look.allow, ", ")+", OPTIONS")
	rt.writeError(w, mxerr.BadMethod)
}

// answer writes what a handler returned.
func (rt *Router) answer(w http.ResponseWriter, out any, isNil bool) error {
	status := http.StatusOK
	if isNil {
		writeJSON(w, status, emptyObject)
		return nil
	}
	if s, ok := out.(interface{ StatusCode() int }); ok {
		status = s.StatusCode()
	}
	return rt.write(w, status, out)
}

// write sends a value as JSON, or the bytes it appends itself. Nothing is sent when it cannot be encoded.
func (rt *Router) write(w http.ResponseWriter, status int, value any) error {
	e := rt.encoders.Get().(*encoder)
	body, err := e.encode(value)
	if err != nil {
		return fmt.Errorf("encode %T: %w", value, err) // e is not reused: a json.Encoder stays broken
	}
	writeJSON(w, status, body)
	if e.reusable() {
		rt.encoders.Put(e)
	}
	return nil
}

// writeJSON sends a body. Whether the client got it cannot be known, so a failure is no error.
func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = headerJSON
	h["Cache-Control"] = headerNoStore
	if len(body) == 2 {
		h["Content-Length"] = lengthOfObject
	} else {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// appender is an answer that knows its own bytes.
type appender interface {
	AppendJSON(dst []byte) []byte
}

// encoder has room for an answer, be it encoded or appended by the answer itself.
type encoder struct {
	buffer   bytes.Buffer
	json     *json.Encoder // into buffer
	appended []byte
}

func newEncoder() *encoder {
	e := &encoder{}
	e.json = json.NewEncoder(&e.buffer)
	e.json.SetEscapeHTML(false)
	return e
}

// encode returns the JSON of value, which is valid until the next call.
func (e *encoder) encode(value any) ([]byte, error) {
	if a, ok := value.(appender); ok {
		e.appended = a.AppendJSON(e.appended[:0])
		return e.appended, nil
	}
	e.buffer.Reset()
	if err := e.json.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(e.buffer.Bytes(), []byte("\n")), nil
}

// reusable reports whether the encoder is small enough to be kept for the next answer.
func (e *encoder) reusable() bool { return e.buffer.Cap()+cap(e.appended) <= 512<<10 }

// fail answers an error: the one for the client if there is one in err, otherwise 500 and a line in the log.
func (rt *Router) fail(w *tracker, c *Call, err error) {
	if w.wrote {
		rt.logFailure(c, slog.LevelError, "answer broken off", err)
		panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
	}
	var own interface{ Response() (int, any) }
	if errors.As(err, &own) {
		status, body := own.Response()
		if rt.write(w, status, body) == nil {
			return
		}
	}
	var mx *mxerr.Error
	if errors.As(err, &mx) && mx.Status < http.StatusInternalServerError {
		rt.writeError(w, mx)
		return
	}
	rt.failInternally(w, c, err, mx)
}

// failInternally answers what is no fault of the client. mx is what may be told, nil for nothing.
func (rt *Router) failInternally(w http.ResponseWriter, c *Call, err error, mx *mxerr.Error) {
	level := slog.LevelError
	if mx != nil && mx.Status > http.StatusInternalServerError { // chosen: another server fails, or this one ends
		level = slog.LevelInfo
	}
	var overload interface{ Overloaded() bool }
	switch {
	case errors.As(err, &overload) && overload.Overloaded():
		mx = mxerr.Unknown.WithStatus(http.StatusServiceUnavailable).With("the server has too much to do; try again")
	case c.Request.Context().Err() != nil: // the client has gone: nobody reads this
		rt.writeError(w, mxerr.Unknown.WithStatus(http.StatusServiceUnavailable))
		return
	case mx == nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		mx = mxerr.Unknown.WithStatus(http.StatusServiceUnavailable).With("the server could not answer in time")
	case mx == nil:
		mx = mxerr.Unknown
	}
	rt.logFailure(c, level, "request failed", err)
	rt.writeError(w, mx)
}

// logFailure says which route failed for whom. The URL stays out of the log, for it may hold a token.
func (rt *Router) logFailure(c *Call, level slog.Level, message string, err error, more ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("route", c.route.Method+" "+c.route.Path),
		slog.String("user", string(c.User)),
		slog.Any("error", err),
	}, more...)
	rt.log.LogAttrs(c.Request.Context(), level, message, attrs...)
}

// catch turns a panic of a handler into a 500 and a line in the log with its stack.
func (rt *Router) catch(w *tracker, c *Call) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	rt.logFailure(c, slog.LevelError, "handler panicked", fmt.Errorf("panic: %v", p), slog.String("stack", string(debug.Stack())))
	if w.wrote {
		panic(http.ErrAbortHandler)
	}
	rt.writeError(w, mxerr.Unknown)
}

// writeError sends a standard error response.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#standard-error-response
func (rt *Router) writeError(w http.ResponseWriter, e *mxerr.Error) {
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	_ = rt.write(w, e.Status, errorBody{e}) // AppendJSON cannot fail
}

// errorBody is the JSON of an error: errcode and error first, then what the code defines.
type errorBody struct{ *mxerr.Error }

func (b errorBody) AppendJSON(dst []byte) []byte {
	dst = canonjson.AppendString(append(dst, `{"errcode":`...), b.Code)
	dst = canonjson.AppendString(append(dst, `,"error":`...), b.Message)
	if len(b.Extra) == 0 {
		return append(dst, '}')
	}
	extra, err := json.Marshal(b.Extra)
	if err != nil { // a mistake in the program, which costs the client only what is extra
		return append(dst, '}')
	}
	return append(append(dst, ','), extra[1:]...)
}

// tracker notes whether an answer was begun.
type tracker struct {
	http.ResponseWriter
	wrote bool
}

func (t *tracker) WriteHeader(status int) {
	t.wrote = t.wrote || status >= http.StatusOK
	t.ResponseWriter.WriteHeader(status)
}

func (t *tracker) Write(p []byte) (int, error) {
	t.wrote = true
	return t.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the writer's deadlines and Flush.
func (t *tracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Answer is a handler that answers every request with one error, as a server does that is not running.
func Answer(e *mxerr.Error) http.Handler {
	rt := &Router{}
	rt.encoders.New = func() any { return newEncoder() }
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		setCORS(w.Header())
		rt.writeError(w, e)
	})
}
