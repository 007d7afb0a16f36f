package auth

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// TypeToken is the login type of a token that an earlier session has asked for, or that an Authenticator gives out.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#token-based
const TypeToken = "m.login.token"

const (
	loginTokenLife   = 2 * time.Minute // as the specification recommends
	loginTokenPrefix = "mxl_"          // of those of this server, whatever an Authenticator's look like
	pruneLoginTokens = 100             // expired tokens, of anybody, that go with each new one
)

// givesLoginTokens reports whether users can prove who they are before they log a further client in.
func (s *Service) givesLoginTokens() bool { return slices.Contains(s.loginTypes(), TypePassword) }

type loginTokenAnswer struct {
	Token       string `json:"login_token"`
	ExpiresInMS int64  `json:"expires_in_ms"`
}

// generateLoginToken implements POST /_matrix/client/v1/login/get_token.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv1loginget_token
func (s *Service) generateLoginToken(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*loginTokenAnswer, error) {
	if !s.givesLoginTokens() {
		return nil, mxerr.BadRequest.With("you cannot prove who you are by password here, which this takes")
	}
	// "servers MUST always re-prompt the user for verification": a proof is good for one request.
	if _, err := s.Confirm(ctx, c, *body); err != nil {
		return nil, err
	}
	token, err := s.newLoginToken(ctx, c.User, c.Device)
	if err != nil {
		return nil, err
	}
	return &loginTokenAnswer{token, loginTokenLife.Milliseconds()}, nil
}

// newLoginToken returns a token that is good for one login as user within two minutes. It ends with the device, "" for
// none, that has asked for it.
func (s *Service) newLoginToken(ctx context.Context, user id.UserID, device id.DeviceID) (string, error) {
	token, err := s.newToken(loginTokenPrefix)
	if err != nil {
		return "", err
	}
	hash, now := hashToken(token), s.nowMS()
	err = s.write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		if err := tx.DeleteLoginTokensBefore(now, pruneLoginTokens); err != nil {
			return err
		}
		if _, err := tx.Device(user, device); device != "" && err != nil {
			return err // it was logged out meanwhile
		}
		return tx.InsertLoginToken(storage.LoginToken{
			Hash: hash[:], User: user, Device: device, ExpiresMS: now + loginTokenLife.Milliseconds(),
		})
	}, func() {})
	if errors.Is(err, storage.ErrNotFound) {
		err = mxerr.UnknownToken
	}
	return token, err
}

func errLoginToken() error {
	return mxerr.Forbidden.With("the login token is unknown, used or expired")
}

// loginByToken begins a session for the user of a token of this server.
func (s *Service) loginByToken(ctx context.Context, token string, r LoginRequest, seen httpapi.Seen) (*Grant, error) {
	hash := hashToken(token[:min(len(token), longestToken)])
	var err error
	if r.User, err = s.loginTokenOf(ctx, hash); err != nil {
		return nil, err
	}
	if err := s.checkLogin(ctx, r.User); err != nil {
		return nil, err
	}
	return s.begin(ctx, r, seen, func(tx *storage.Tx) error {
		there, err := tx.TakeLoginToken(hash[:])
		if err == nil && !there {
			err = errLoginToken()
		}
		if err != nil {
			return err
		}
		_, err = activeAccount(tx, r.User)
		return err
	})
}

// loginTokenOf returns whose token it is.
func (s *Service) loginTokenOf(ctx context.Context, hash tokenHash) (user id.UserID, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		t, err := tx.LoginToken(hash[:])
		if errors.Is(err, storage.ErrNotFound) || err == nil && t.ExpiresMS <= s.nowMS() {
			return errLoginToken()
		}
		user = t.User
		return err
	})
	return user, err
}

// ownToken reports whether a login brings a token of this server.
func (s *Service) ownToken(in *loginRequest) bool {
	if in.Type != TypeToken || !s.givesLoginTokens() {
		return false
	}
	return strings.HasPrefix(in.Token, loginTokenPrefix) || !slices.Contains(s.loginTypes(), TypeToken)
}
