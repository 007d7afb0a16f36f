package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// readObject reads the request's JSON object into c.Body. Its media type does not matter.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#api-standards
func (c *Call) readObject() error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	if len(body) == 0 && (c.route.optional || c.route.optionalWith != "" && c.HasQuery(c.route.optionalWith)) {
		c.Body = []byte("{}")
	}
	return checkObject(c.Body)
}

// readBody reads the body, once, into c.Body and returns it.
func (c *Call) readBody() ([]byte, error) {
	if c.bodyRead {
		return c.Body, nil
	}
	body, err := readAll(c.w, c.Request, c.route.maxBody)
	if err != nil {
		return nil, err
	}
	c.Body, c.bodyRead = body, true
	return body, nil
}

// readAll reads at most limit bytes. What the request claims to be its length is believed up to 64 KiB: more
// room is given to those who have sent as much.
func readAll(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	const believed = 64 << 10
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > 0 && r.ContentLength <= believed {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, unreadable(err)
	}
	var body bytes.Buffer
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return nil, tooLarge(limit)
	}
	return body.Bytes(), unreadable(err)
}

// unreadable is what is said to a client that may have gone: the body is not whole.
func unreadable(err error) error {
	if err == nil {
		return nil
	}
	return mxerr.NotJSON.With("the body ended early")
}

func tooLarge(limit int64) error {
	return mxerr.TooLarge.With("the body may have %d bytes", limit)
}

// checkObject refuses what is not one JSON object: valid UTF-8, no key twice, not nested too deep.
func checkObject(body []byte) error {
	if err := canonjson.CheckLenient(body); err != nil {
		if errors.Is(err, canonjson.ErrSyntax) {
			return mxerr.NotJSON
		}
		return mxerr.BadJSON.With("%v", err)
	}
	if first := bytes.TrimLeft(body, " \t\r\n"); len(first) == 0 || first[0] != '{' {
		return mxerr.BadJSON.With("the body must be a JSON object")
	}
	return nil
}

// decode fills in from a checked object. The client learns which key is wrong, not what our types are called.
func decode(body []byte, in any) error {
	err := json.Unmarshal(body, in)
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	var own *mxerr.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &wrong) && wrong.Field != "":
		return mxerr.BadJSON.With("%s: %s is not what is expected here", wrong.Field, wrong.Value)
	}
	return mxerr.BadJSON
}
