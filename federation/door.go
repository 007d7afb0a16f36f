package federation

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"strings"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// Peer returns which server has sent and signed a request to this one. It makes the Service the httpapi.Peers of the
// routes whose access is httpapi.Server. The body is read once it is clear who claims to have sent it and that there
// is a key to check that with.
//
// Errors are mxerr.Unauthorized for everything that is wrong with the header, the key or the signature, but
// mxerr.InvalidParam for an origin that is no server name, mxerr.Forbidden for servers that are not Allowed,
// mxerr.NotJSON and mxerr.BadJSON for bodies that cannot have been signed, and what body and storage return.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#request-authentication
func (s *Service) Peer(ctx context.Context, r *http.Request, body func() ([]byte, error)) (id.ServerName, error) {
	c, err := s.credentials(r.Header["Authorization"])
	if err != nil {
		return "", err
	}
	key, err := s.keyOf(ctx, c)
	if err != nil {
		return "", err
	}
	content, err := body()
	if err != nil {
		return "", err
	}
	if err := wire.Verify(c, s.cfg.ServerName, r.Method, target(r), content, key); err != nil {
		return "", notSigned(err)
	}
	if s.cfg.Alive != nil {
		s.cfg.Alive(c.Origin)
	}
	return c.Origin, nil
}

// credentials are those of the one Authorization header: with two, nobody could say which of them counts.
func (s *Service) credentials(headers []string) (c wire.Credentials, err error) {
	switch len(headers) {
	case 0:
		return c, mxerr.Unauthorized.With("an Authorization header with the scheme X-Matrix is required")
	case 1:
		c, err = wire.ParseAuthorization(headers[0])
	default:
		return c, mxerr.Unauthorized.With("there is more than one Authorization header")
	}
	switch {
	case err != nil:
		return c, err
	// "If this property is included, but the value does not match the receiving server's name, the receiving
	// server must deny the request with an HTTP status code 401 Unauthorized."
	case c.Destination != "" && c.Destination != s.cfg.ServerName:
		return c, mxerr.Unauthorized.With("the request was signed for another server")
	case c.Origin == s.cfg.ServerName:
		return c, mxerr.Unauthorized.With("the request says that it comes from this server itself")
	case s.cfg.Allowed != nil && !s.cfg.Allowed(c.Origin):
		return c, mxerr.Forbidden.With("%s may not talk to this server", c.Origin)
	}
	return c, nil
}

// keyOf finds the key that must have signed, which has to be in use now: old keys sign events only.
func (s *Service) keyOf(ctx context.Context, c wire.Credentials) (ed25519.PublicKey, error) {
	if s.cfg.Ring == nil {
		return nil, mxerr.Unauthorized.With("this server knows no keys of others")
	}
	request := keyring.Request{Server: c.Origin, KeyID: c.KeyID, At: s.cfg.Now(), Heard: true}
	result := s.cfg.Ring.Keys(ctx, []keyring.Request{request})[0]
	switch err := result.Err; {
	case errors.Is(err, keyring.ErrUnreachable):
		return nil, mxerr.Unauthorized.With("the keys of %s could not be fetched", c.Origin)
	case errors.Is(err, keyring.ErrUnknown), errors.Is(err, keyring.ErrExpired):
		return nil, mxerr.Unauthorized.With("%s does not sign with the key %s now", c.Origin, c.KeyID)
	case err != nil:
		return nil, err
	}
	return result.Key, nil
}

// target is the request target as it was sent: "the full path starting with `/_matrix/...`, including the `?` and any
// query parameters". Requests that never were on a wire have only their URL.
func target(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// notSigned is what the sender is told.
func notSigned(err error) error {
	var own *mxerr.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, canonjson.ErrSyntax):
		return mxerr.NotJSON
	}
	return mxerr.BadJSON.With("%v", err)
}
