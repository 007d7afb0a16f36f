package wire

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

const (
	maxErrorBody    = 64 << 10 // bytes
	maxErrorCode    = 64
	maxErrorMessage = 512
)

// Error is what a peer answered with a status other than 2xx. It is theirs: never hand it on to a client as it is, for
// their M_UNKNOWN_TOKEN says nothing about our client's token.
type Error struct {
	Server     id.ServerName
	Status     int
	Code       string        // errcode, "" if the answer has none that is a code; at most 64 bytes
	Message    string        // error; at most 512 bytes
	RetryAfter time.Duration // how long the peer wants to be left alone; zero: it does not say
	Body       []byte        // canonical JSON of at most 64 KiB, nil if the answer is something else
}

// Error is the text for a log or a wrapping error.
func (e *Error) Error() string {
	return fmt.Sprintf("%s answered %d %s %q", e.Server, e.Status, e.Code, e.Message)
}

// Is reports whether target is the error of Matrix with the same code, so that errors.Is(err, mxerr.NotFound) works.
func (e *Error) Is(target error) bool {
	var of *mxerr.Error
	return errors.As(target, &of) && of.Code == e.Code
}

// overloaded reports whether the peer, or what stands in front of it, is not able to answer at present. A 5xx with an
// error code of its own, such as M_NOT_YET_UPLOADED, comes from a server in good health.
func (e *Error) overloaded() bool {
	return e.Status == http.StatusTooManyRequests || e.Status >= 500 && (e.Code == "" || e.Code == mxerr.Unknown.Code)
}

// readError makes the Error of an answer. Whatever it contains, there is one.
func readError(server id.ServerName, resp *http.Response, body io.Reader) *Error {
	e := &Error{Server: server, Status: resp.StatusCode, RetryAfter: min(seconds(resp.Header.Get("Retry-After")), maxBackoff)}
	data, err := io.ReadAll(io.LimitReader(body, maxErrorBody+1))
	if err != nil || len(data) > maxErrorBody {
		return e
	}
	object, err := canonjson.Append(nil, data)
	if err != nil || !canonjson.IsObject(object) {
		return e
	}
	e.Body = object
	if code, _ := canonjson.String(canonjson.Get(object, "errcode")); isCode(code) {
		e.Code = code
	}
	message, _ := canonjson.String(canonjson.Get(object, "error"))
	e.Message = clip(message)
	if ms, ok := canonjson.Int(canonjson.Get(object, "retry_after_ms")); ok && e.RetryAfter == 0 && ms > 0 {
		e.RetryAfter = time.Duration(min(ms, maxBackoff.Milliseconds())) * time.Millisecond
	}
	return e
}

// isCode: "Error codes should have their name made up of a namespace …, followed by a single _".
func isCode(s string) bool {
	return s != "" && len(s) <= maxErrorCode && strings.IndexFunc(s, notToken) < 0
}

// clip cuts a text between two characters.
func clip(s string) string {
	if len(s) <= maxErrorMessage {
		return s
	}
	end := maxErrorMessage
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// seconds reads a number of seconds as headers have it: what is too large is as much as can be, what is no number is 0.
func seconds(text string) time.Duration {
	n, err := strconv.ParseUint(text, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || n > uint64(wellKnownMax/time.Second):
		return wellKnownMax
	case err != nil:
		return 0
	}
	return time.Duration(n) * time.Second
}
