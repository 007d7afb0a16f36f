package httpapi

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// Call is one request whose caller is known and whose path values are valid.
type Call struct {
	User    id.UserID   // "" without a token, as are the next four
	Device  id.DeviceID // "" as well for sessions that have none
	Guest   bool
	Admin   bool
	Session *Session

	Origin id.ServerName // who sent and signed the request, on Server routes; "" on others

	Request *http.Request
	IP      netip.Addr // of the client, past trusted proxies; not valid when unknown
	Body    []byte     // the JSON object that came, if the handler takes one; belongs to the handler

	route    *Route
	names    []string
	values   [maxValues]string
	w        http.ResponseWriter
	limits   *limits // nil: none
	bodyRead bool
}

// Route returns the path of the call's route with its wildcards, the same for r0 and v3.
func (c *Call) Route() string { return c.route.Path }

// PathValue returns the decoded segment at the wildcard {name}, or "" when the pattern has none.
func (c *Call) PathValue(name string) string {
	for i, n := range c.names {
		if n == name {
			return c.values[i]
		}
	}
	return ""
}

// RoomID returns the wildcard {name}, which was checked if it is {roomId}.
func (c *Call) RoomID(name string) id.RoomID { return id.RoomID(c.PathValue(name)) }

// EventID returns the wildcard {name}, which was checked if it is {eventId}, but for routes with AnyEventID.
func (c *Call) EventID(name string) id.EventID { return id.EventID(c.PathValue(name)) }

// UserID returns the wildcard {name}, which was checked if it is {userId}.
func (c *Call) UserID(name string) id.UserID { return id.UserID(c.PathValue(name)) }

// Alias returns the wildcard {name}, which was checked if it is {roomAlias}.
func (c *Call) Alias(name string) id.RoomAlias { return id.RoomAlias(c.PathValue(name)) }

// ServerName returns the wildcard {name}, which was checked if it is {serverName}.
func (c *Call) ServerName(name string) id.ServerName { return id.ServerName(c.PathValue(name)) }

// DeviceID returns the wildcard {name}.
func (c *Call) DeviceID(name string) id.DeviceID { return id.DeviceID(c.PathValue(name)) }

// Query returns the first value of a query parameter, or "".
func (c *Call) Query(name string) string {
	value, _ := queryValue(c.Request.URL.RawQuery, name)
	return value
}

// HasQuery reports whether a query parameter was sent, be it empty.
func (c *Call) HasQuery(name string) bool {
	_, ok := queryValue(c.Request.URL.RawQuery, name)
	return ok
}

// QueryAll returns all values of a query parameter that may come more than once, such as via.
func (c *Call) QueryAll(name string) []string {
	return c.Request.URL.Query()[name]
}

// Int returns a query parameter that is an integer, or def when it was not sent.
func (c *Call) Int(name string, def int) (int, error) {
	n, err := c.integer(name, int64(def), strconv.IntSize)
	return int(n), err
}

// Int64 is Int for times and other large integers.
func (c *Call) Int64(name string, def int64) (int64, error) { return c.integer(name, def, 64) }

func (c *Call) integer(name string, def int64, bits int) (int64, error) {
	text, ok := queryValue(c.Request.URL.RawQuery, name)
	if !ok {
		return def, nil
	}
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil {
		return 0, mxerr.InvalidParam.With("%s must be an integer", name)
	}
	return n, nil
}

// Bool returns a query parameter that is true or false, or def when it was not sent.
func (c *Call) Bool(name string, def bool) (bool, error) {
	text, ok := queryValue(c.Request.URL.RawQuery, name)
	switch {
	case !ok:
		return def, nil
	case text == "true":
		return true, nil
	case text == "false":
		return false, nil
	}
	return false, mxerr.InvalidParam.With("%s must be true or false", name)
}

// ExtendDeadline lets the answer take d more, for long polls: whatever timeouts the host's http.Server
// has are replaced for this request. Writing the answer may take another 30 seconds.
func (c *Call) ExtendDeadline(d time.Duration) {
	const toWrite = 30 * time.Second
	control, deadline := http.NewResponseController(c.w), time.Now().Add(d+toWrite)
	// A writer without deadlines has none to extend. The deadline for reading counts too: net/http
	// reads on behind a request, and cancels it when that fails.
	_ = control.SetWriteDeadline(deadline)
	_ = control.SetReadDeadline(deadline)
}

// checkValues refuses path values and queries that no endpoint can mean, before a handler sees them.
func (c *Call) checkValues() error {
	for i, name := range c.names {
		if name == "eventId" && c.route.anyEventID {
			name = ""
		}
		if err := checkValue(name, c.values[i]); err != nil {
			return err
		}
	}
	return checkQuery(c.Request.URL.RawQuery)
}

// maxValue is how many bytes an identifier in a path may have.
const maxValue = 255

func checkValue(name, value string) error {
	if !utf8.ValidString(value) || strings.IndexByte(value, 0) >= 0 {
		return mxerr.InvalidParam.With("%s is not valid UTF-8 text", name)
	}
	var err error
	switch name {
	case "roomId":
		_, err = id.ParseRoomID(value)
	case "userId":
		_, err = id.ParseUserID(value)
	case "eventId":
		_, err = id.ParseEventID(value)
	case "roomAlias":
		_, err = id.ParseRoomAlias(value)
	case "serverName":
		_, err = id.ParseServerName(value)
	case "roomIdOrAlias":
		err = checkRoomIDOrAlias(value)
	case "eventType", "stateKey", "fileName", "keyName": // their limits have errors of their own
	default:
		if len(value) > maxValue {
			return mxerr.InvalidParam.With("%s is longer than %d bytes", name, maxValue)
		}
	}
	if err != nil {
		return mxerr.InvalidParam.With("%s: %v", name, err)
	}
	return nil
}

func checkRoomIDOrAlias(value string) error {
	if strings.HasPrefix(value, "#") {
		_, err := id.ParseRoomAlias(value)
		return err
	}
	_, err := id.ParseRoomID(value)
	return err
}

// checkQuery refuses a query with bad escapes, with a NUL or with what is not UTF-8.
func checkQuery(raw string) error {
	if plainQuery(raw) {
		return nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return mxerr.InvalidParam.With("the query is not well formed")
	}
	for name, all := range values {
		for _, value := range append(all, name) {
			if !utf8.ValidString(value) || strings.IndexByte(value, 0) >= 0 {
				return mxerr.InvalidParam.With("the query is not valid UTF-8 text")
			}
		}
	}
	return nil
}

// plainQuery reports whether the query is ASCII without escapes: nothing there to be wrong.
func plainQuery(raw string) bool {
	for i := range len(raw) {
		if b := raw[i]; b == '%' || b == ';' || b < ' ' || b >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// queryValue finds the first name=value of a raw query without making a map of all of them.
func queryValue(raw, name string) (string, bool) {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		key, value, _ := strings.Cut(pair, "=")
		if unescape(key) == name {
			return unescape(value), true
		}
	}
	return "", false
}

// unescape decodes a part of a query that checkQuery has passed.
func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	decoded, err := url.QueryUnescape(s)
	if err != nil {
		return s
	}
	return decoded
}
