package federation

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// OpenID knows whose tokens for third parties are.
type OpenID interface {
	// OpenIDUser returns whose token it is; mxerr.UnknownToken when it is nobody's, or no longer.
	OpenIDUser(ctx context.Context, token string) (id.UserID, error)
}

type openIDUser struct {
	Sub id.UserID `json:"sub"`
}

// exchangeOpenIDToken implements GET /_matrix/federation/v1/openid/userinfo.
//
// Whoever holds a token may ask, server or not. "The caller MUST validate that the returned user ID is on the server they
// called."
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1openiduserinfo
func (s *Service) exchangeOpenIDToken(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*openIDUser, error) {
	token := c.Query("access_token")
	switch {
	case token == "":
		return nil, mxerr.MissingToken.With("access_token is missing")
	case s.cfg.OpenID == nil:
		return nil, mxerr.UnknownToken.With("this server gives no such tokens")
	}
	user, err := s.cfg.OpenID.OpenIDUser(ctx, token)
	if err != nil {
		return nil, err
	}
	return &openIDUser{user}, nil
}
