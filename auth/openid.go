package auth

import (
	"context"
	"errors"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	openIDLife   = time.Hour
	maxOpenID    = 100 // tokens of one user; beyond it the oldest end
	pruneOpenIDs = 100 // expired tokens, of anybody, that go with each new one
)

// openIDToken is the OpenIdCredentials of the specification.
type openIDToken struct {
	AccessToken string        `json:"access_token"`
	TokenType   string        `json:"token_type"`
	ServerName  id.ServerName `json:"matrix_server_name"`
	ExpiresIn   int64         `json:"expires_in"` // seconds
}

// requestOpenIDToken implements POST /_matrix/client/v3/user/{userId}/openid/request_token.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3useruseridopenidrequest_token
func (s *Service) requestOpenIDToken(ctx context.Context, c *httpapi.Call, _ *struct{}) (*openIDToken, error) {
	if c.UserID("userId") != c.User {
		return nil, mxerr.Forbidden.With("you can only ask for tokens of your own")
	}
	token, err := s.NewOpenIDToken(ctx, c.User)
	if err != nil {
		return nil, err
	}
	return &openIDToken{token, "Bearer", s.cfg.ServerName, int64(openIDLife / time.Second)}, nil
}

// NewOpenIDToken returns a token by which a third party can ask for an hour who user is, and nothing else. A user has at
// most a hundred; a further one ends the oldest.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#openid
func (s *Service) NewOpenIDToken(ctx context.Context, user id.UserID) (string, error) {
	token, err := s.newToken("mxo_")
	if err != nil {
		return "", err
	}
	hash, now := hashToken(token), s.nowMS()
	err = s.write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		if err := tx.DeleteOpenIDTokensBefore(now, pruneOpenIDs); err != nil {
			return err
		}
		if err := tx.KeepOpenIDTokens(user, maxOpenID-1); err != nil {
			return err
		}
		return tx.InsertOpenIDToken(storage.OpenIDToken{Hash: hash[:], User: user, ExpiresMS: now + openIDLife.Milliseconds()})
	}, func() {})
	return token, err
}

// OpenIDUser returns whose OpenID token it is: mxerr.UnknownToken for one that is unknown, expired, or of an account that
// is locked or gone.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#openid
func (s *Service) OpenIDUser(ctx context.Context, token string) (user id.UserID, err error) {
	if len(token) > longestToken {
		return "", errOpenID()
	}
	hash := hashToken(token)
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		t, err := tx.OpenIDToken(hash[:])
		if errors.Is(err, storage.ErrNotFound) || err == nil && t.ExpiresMS <= s.nowMS() {
			return errOpenID()
		}
		if err != nil {
			return err
		}
		account, err := account(tx, t.User)
		if err == nil && (account.Deactivated || account.Locked) {
			err = errOpenID()
		}
		user = t.User
		return err
	})
	if err != nil {
		return "", err
	}
	return user, nil
}

func errOpenID() error { return mxerr.UnknownToken.With("the access token is unknown or has expired") }
