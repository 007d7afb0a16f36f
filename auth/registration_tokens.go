package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// errTokenSpent is what somebody with a wrong registration token is told.
var errTokenSpent = mxerr.Unauthorized.With("the registration token is not valid")

// tokenStage checks a registration token. It is used up when the account is made.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#token-authenticated-registration
func (s *Service) tokenStage(ctx context.Context, a *attempt) error {
	var in struct {
		Token *string `json:"token"`
	}
	if err := json.Unmarshal(a.auth, &in); err != nil {
		return mxerr.BadJSON.With("auth.token: not a string")
	}
	if in.Token == nil {
		return mxerr.MissingParam.With("auth.token is missing")
	}
	valid, err := s.validRegistrationToken(ctx, *in.Token)
	if err != nil {
		return err
	}
	if !valid {
		return retry{errTokenSpent}
	}
	a.token = *in.Token
	return nil
}

type validity struct {
	Valid bool `json:"valid"`
}

// registrationTokenValidity implements GET /_matrix/client/v1/register/m.login.registration_token/validity.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity
func (s *Service) registrationTokenValidity(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*validity, error) {
	if s.cfg.Registration.Mode == Closed || !s.canRegister() {
		return nil, mxerr.Forbidden.With("registration is closed")
	}
	if !c.HasQuery("token") {
		return nil, mxerr.MissingParam.With("token is missing")
	}
	valid, err := s.validRegistrationToken(ctx, c.Query("token"))
	if err != nil {
		return nil, err
	}
	return &validity{valid}, nil
}

func (s *Service) validRegistrationToken(ctx context.Context, token string) (bool, error) {
	if !isOpaque(token) {
		return false, nil
	}
	var t storage.RegistrationToken
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		t, err = tx.RegistrationToken(token)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up a registration token: %w", err)
	}
	return (t.Uses == 0 || t.Completed < t.Uses) && (t.ExpiresMS == 0 || t.ExpiresMS > s.nowMS()), nil
}

// longestRegistrationToken: "with maximum length of 64 characters".
const longestRegistrationToken = 64

// isOpaque: 0-9, a-z, A-Z, - . _ ~
//
// Spec: https://spec.matrix.org/latest/appendices/#opaque-identifiers
func isOpaque(s string) bool {
	odd := func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-._~", r))
	}
	return s != "" && len(s) <= longestRegistrationToken && strings.IndexFunc(s, odd) < 0
}

// RegistrationToken is a token to make.
type RegistrationToken struct {
	Token   string    // empty: a random one
	Uses    int       // how many accounts it is good for; 0 is any number
	Expires time.Time // zero: never
}

// CreateRegistrationToken stores a token with which people can register and returns it. A token that exists
// is mxerr.InvalidParam.
func (s *Service) CreateRegistrationToken(ctx context.Context, t RegistrationToken) (string, error) {
	if t.Token == "" {
		random, err := s.randomName(16)
		if err != nil {
			return "", err
		}
		t.Token = random
	}
	if !isOpaque(t.Token) || t.Uses < 0 {
		return "", mxerr.InvalidParam.With("a registration token has 1 to 64 letters, digits and -._~, and no negative number of uses")
	}
	row := storage.RegistrationToken{Token: t.Token, Uses: int64(t.Uses)}
	if !t.Expires.IsZero() {
		row.ExpiresMS = t.Expires.UnixMilli()
	}
	err := s.db.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		fresh, err := tx.InsertRegistrationToken(row)
		if err == nil && !fresh {
			return mxerr.InvalidParam.With("this registration token exists already")
		}
		return err
	})
	return t.Token, err
}

// DeleteRegistrationToken ends a token; one that does not exist is mxerr.NotFound.
func (s *Service) DeleteRegistrationToken(ctx context.Context, token string) error {
	return s.db.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		there, err := tx.DeleteRegistrationToken(token)
		if err == nil && !there {
			return mxerr.NotFound.With("there is no such registration token")
		}
		return err
	})
}
