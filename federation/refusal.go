package federation

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// refused wraps why a server did not do what it was asked, with the error that a client may be told: "The error should
// be passed through to clients so that they may give better feedback to users." nil stays nil, and what is no answer of
// the server is a 502.
func refused(server id.ServerName, err error) error {
	if err == nil {
		return nil
	}
	var own *mxerr.Error
	if errors.As(err, &own) {
		return err
	}
	var said *wire.Error
	if errors.As(err, &said) && passes(said) {
		return fmt.Errorf("%w (%w)", asTold(server, said), err)
	}
	return fmt.Errorf("%w (%w)", mxerr.Unknown.WithStatus(http.StatusBadGateway).With("%s could not be asked", server), err)
}

// passes reports whether an error of another server means something to a client of ours. What is said of tokens does
// not: they are others. "If M_MISSING_PARAM or M_INVALID_PARAM is returned […] the Client-Server API request SHOULD
// fail with a 5xx error rather than being passed through."
func passes(said *wire.Error) bool {
	switch said.Status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound:
	default:
		return false
	}
	switch said.Code {
	case "", "M_MISSING_PARAM", "M_INVALID_PARAM", "M_UNRECOGNIZED", "M_UNAUTHORIZED", "M_LIMIT_EXCEEDED", "M_GUEST_ACCESS_FORBIDDEN":
		return false
	}
	return !strings.Contains(said.Code, "TOKEN") && !strings.HasPrefix(said.Code, "M_USER_") && !strings.HasPrefix(said.Code, "M_CONSENT")
}

// asTold is an error of another server as our own, with what its code defines besides.
func asTold(server id.ServerName, said *wire.Error) *mxerr.Error {
	told := (&mxerr.Error{Code: said.Code, Status: said.Status}).With("%s: %s", server, said.Message)
	if version := gjson.GetBytes(said.Body, "room_version"); version.Type == gjson.String && errors.Is(said, mxerr.IncompatibleVersion) {
		return told.Set("room_version", version.String())
	}
	return told
}
