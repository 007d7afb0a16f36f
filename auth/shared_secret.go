package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the protocol's choice; HMAC-SHA1 is not broken
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	nonceLifetime = time.Minute
	maxNonces     = 1000 // the oldest make room for new ones
)

// nonces are the ones that were given out for registrations by shared secret, each good for one try.
type nonces struct {
	mu sync.Mutex // guards the following
	// expires has when each ends, order the same ones by age.
	expires map[string]time.Time
	order   []string
}

func (n *nonces) add(nonce string, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.expires == nil {
		n.expires = map[string]time.Time{}
	}
	n.expires[nonce] = now.Add(nonceLifetime)
	n.order = append(n.order, nonce)
	for len(n.order) > maxNonces || n.expires[n.order[0]].Before(now) {
		delete(n.expires, n.order[0])
		n.order = n.order[1:]
	}
}

// take reports whether a nonce is good, and makes it good for nothing.
func (n *nonces) take(nonce string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	end, ok := n.expires[nonce]
	if !ok {
		return false
	}
	n.expires[nonce] = time.Time{}
	return now.Before(end)
}

type nonceAnswer struct {
	Nonce string `json:"nonce"`
}

// registerNonce implements GET /_synapse/admin/v1/register.
//
// Not in the specification; https://spec.matrix.org/latest/client-server-api/#account-registration leaves other ways open.
func (s *Service) registerNonce(context.Context, *httpapi.Call, *httpapi.None) (*nonceAnswer, error) {
	nonce, err := s.newToken("")
	if err != nil {
		return nil, err
	}
	s.nonces.add(nonce, s.cfg.Now())
	return &nonceAnswer{nonce}, nil
}

type secretRegistration struct {
	Nonce    string `json:"nonce"`
	Username string `json:"username"`
	Password string `json:"password"`
	Admin    bool   `json:"admin"`
	UserType string `json:"user_type"`
	MAC      string `json:"mac"`
}

// registerBySecret implements POST /_synapse/admin/v1/register.
//
// The mac is the HMAC-SHA1, by the shared secret and in hex, of nonce NUL username NUL password NUL "admin" or
// "notadmin". Not in the specification; https://spec.matrix.org/latest/client-server-api/#account-registration
// leaves other ways open.
func (s *Service) registerBySecret(ctx context.Context, c *httpapi.Call, in *secretRegistration) (*grantAnswer, error) {
	if in.Nonce == "" || in.Username == "" || in.Password == "" || in.MAC == "" {
		return nil, mxerr.MissingParam.With("nonce, username, password and mac are needed")
	}
	if !s.nonces.take(in.Nonce, s.cfg.Now()) {
		return nil, mxerr.BadRequest.With("the nonce is unknown, used or expired")
	}
	if !s.validMAC(in) {
		return nil, mxerr.Forbidden.With("the mac is wrong")
	}
	user, err := s.freeName(ctx, in.Username)
	if err != nil {
		return nil, err
	}
	g, err := s.enrol(ctx, enrolment{
		account: storage.Account{User: user, Admin: in.Admin}, password: &in.Password,
		login: &LoginRequest{}, seen: seenAt(c),
	})
	if err != nil {
		return nil, err
	}
	return g.answer(), nil
}

func (s *Service) validMAC(in *secretRegistration) bool {
	role := "notadmin"
	if in.Admin {
		role = "admin"
	}
	parts := []string{in.Nonce, in.Username, in.Password, role}
	if in.UserType != "" {
		parts = append(parts, in.UserType)
	}
	mac := hmac.New(sha1.New, []byte(s.cfg.Registration.SharedSecret))
	mac.Write([]byte(strings.Join(parts, "\x00")))
	given, err := hex.DecodeString(in.MAC)
	return err == nil && hmac.Equal(mac.Sum(nil), given)
}
