package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// Grant is a session that was begun or renewed.
type Grant struct {
	User         id.UserID
	Device       id.DeviceID
	AccessToken  string
	RefreshToken string        // empty when the client cannot refresh
	ExpiresIn    time.Duration // of AccessToken; zero: never
}

// LoginRequest asks for a session.
type LoginRequest struct {
	User       id.UserID
	Device     id.DeviceID // empty: a new one
	DeviceName string      // of a new device; may be empty
	CanRefresh bool        // the client knows what to do with a refresh token
}

// opening is a session on its way into storage.
type opening struct {
	LoginRequest
	seen    httpapi.Seen
	mustBe  bool // the device must exist already
	access  string
	refresh string
}

// newOpening makes the secrets of a session.
func (s *Service) newOpening(r LoginRequest, seen httpapi.Seen) (*opening, error) {
	if err := errors.Join(checkDeviceID(r.Device), checkDeviceName(r.DeviceName)); err != nil {
		return nil, err
	}
	o := &opening{LoginRequest: r, seen: seen}
	if o.Device == "" {
		device, err := s.randomName(10)
		if err != nil {
			return nil, err
		}
		o.Device = id.DeviceID(device)
	}
	return o, s.renew(o)
}

// renew gives an opening new tokens.
func (s *Service) renew(o *opening) (err error) {
	if o.access, err = s.newToken("mxa_"); err != nil || !o.CanRefresh {
		return err
	}
	o.refresh, err = s.newToken("mxr_")
	return err
}

// store begins the session. A device that exists is taken over: its earlier tokens end, the rest of it stays.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#relationship-between-access-tokens-and-devices
func (s *Service) store(tx *storage.Tx, at storage.Pos, o *opening) error {
	if err := s.checkReserved(tx, o.User, o.Device); err != nil {
		return err
	}
	device := sighting(o.User, o.Device, s.nowMS(), o.seen)
	device.Name, device.CreatedMS = o.DeviceName, device.SeenMS
	if o.mustBe {
		if _, err := tx.Device(o.User, o.Device); err != nil {
			return err
		}
	} else if err := s.storeDevice(tx, at, device); err != nil {
		return err
	}
	if err := tx.DeleteTokens(o.User, []id.DeviceID{o.Device}); err != nil {
		return err
	}
	return s.storeTokens(tx, o, nil)
}

// storeDevice adds a device; one that is there stays as it is.
func (s *Service) storeDevice(tx *storage.Tx, at storage.Pos, device storage.Device) error {
	added, err := tx.InsertDevice(device)
	if err != nil || !added {
		return err
	}
	for _, d := range s.cfg.Dependants {
		if d.Created == nil {
			continue
		}
		if err := d.Created(tx, at, device.User, device.ID); err != nil {
			return err
		}
	}
	return nil
}

// checkReserved refuses a device id that no session may use, as the name of a key.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#key-and-signature-security
func (s *Service) checkReserved(tx *storage.Tx, user id.UserID, device id.DeviceID) error {
	for _, d := range s.cfg.Dependants {
		if d.Reserved == nil {
			continue
		}
		reserved, err := d.Reserved(tx, user, device)
		if err != nil {
			return err
		}
		if reserved {
			return mxerr.Forbidden.With("this device id is the name of a key, or of a device that is dehydrated")
		}
	}
	return nil
}

// storeTokens adds the tokens of a session; previous is the hash of the refresh token they were got for.
func (s *Service) storeTokens(tx *storage.Tx, o *opening, previous []byte) error {
	now := s.nowMS()
	access := hashToken(o.access)
	t := storage.AccessToken{Hash: access[:], User: o.User, Device: o.Device, CreatedMS: now}
	if life := s.lifetime(o.CanRefresh); life > 0 {
		t.ExpiresMS = now + life.Milliseconds()
	}
	if o.refresh != "" {
		refresh := hashToken(o.refresh)
		t.Refresh = refresh[:]
		r := storage.RefreshToken{Hash: t.Refresh, User: o.User, Device: o.Device, CreatedMS: now, Previous: previous}
		if err := tx.InsertRefreshToken(r); err != nil {
			return err
		}
	}
	return tx.InsertAccessToken(t)
}

func (s *Service) lifetime(canRefresh bool) time.Duration {
	if canRefresh {
		return s.cfg.Tokens.Access
	}
	return s.cfg.Tokens.Session
}

// grant is what the owner of a stored session is told; without tokens it is only the user.
func (s *Service) grant(o *opening) *Grant {
	if o.access == "" {
		return &Grant{User: o.User}
	}
	return &Grant{
		User: o.User, Device: o.Device, AccessToken: o.access, RefreshToken: o.refresh, ExpiresIn: s.lifetime(o.CanRefresh),
	}
}

// grantAnswer is a Grant in JSON.
type grantAnswer struct {
	User         id.UserID     `json:"user_id,omitempty"`
	AccessToken  string        `json:"access_token,omitempty"`
	Device       id.DeviceID   `json:"device_id,omitempty"`
	RefreshToken string        `json:"refresh_token,omitempty"`
	ExpiresInMS  int64         `json:"expires_in_ms,omitempty"`
	HomeServer   id.ServerName `json:"home_server,omitempty"`
}

func (g *Grant) answer() *grantAnswer {
	return &grantAnswer{
		User: g.User, AccessToken: g.AccessToken, Device: g.Device, RefreshToken: g.RefreshToken,
		ExpiresInMS: g.ExpiresIn.Milliseconds(), HomeServer: g.User.Server(),
	}
}

type refreshRequest struct {
	RefreshToken string `json:"refresh_token"`
}

// refresh implements POST /_matrix/client/v3/refresh.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3refresh
func (s *Service) refresh(ctx context.Context, _ *httpapi.Call, in *refreshRequest) (*grantAnswer, error) {
	if in.RefreshToken == "" {
		return nil, mxerr.MissingParam.With("refresh_token is missing")
	}
	g, err := s.Refresh(ctx, in.RefreshToken)
	if err != nil {
		return nil, err
	}
	return &grantAnswer{AccessToken: g.AccessToken, RefreshToken: g.RefreshToken, ExpiresInMS: g.ExpiresIn.Milliseconds()}, nil
}

// Refresh returns the next pair of tokens of a session. The pair before it stays good until one of the new pair is
// used, so that a client that never got the answer can ask again; whoever asks again makes the pair that was not
// used invalid.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#refreshing-access-tokens
func (s *Service) Refresh(ctx context.Context, token string) (*Grant, error) {
	o := &opening{LoginRequest: LoginRequest{CanRefresh: true}}
	if err := s.renew(o); err != nil {
		return nil, err
	}
	hash := hashToken(token[:min(len(token), longestToken)])
	err := s.write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		old, err := tx.RefreshToken(hash[:])
		if errors.Is(err, storage.ErrNotFound) {
			return mxerr.UnknownToken.With("the refresh token is unknown or was used").Set("soft_logout", true)
		}
		if err != nil {
			return err
		}
		o.User, o.Device = old.User, old.Device
		if _, err := activeAccount(tx, old.User); err != nil {
			return err
		}
		return s.storeNextPair(tx, old, o)
	}, func() { s.sessions.forget(o.User) })
	if err != nil {
		return nil, err
	}
	return s.grant(o), nil
}

// storeNextPair adds the pair that follows old.
func (s *Service) storeNextPair(tx *storage.Tx, old storage.RefreshToken, next *opening) error {
	if len(old.Previous) > 0 {
		if err := tx.ConfirmRefresh(old); err != nil {
			return err
		}
	}
	if err := tx.DeleteNextPair(old); err != nil {
		return err
	}
	return s.storeTokens(tx, next, old.Hash)
}

// confirmPair notes that an access token that came by refreshing is used: the pair before it ends.
func (s *Service) confirmPair(ctx context.Context, refreshHash []byte) error {
	var user id.UserID
	return s.write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		t, err := tx.RefreshToken(refreshHash)
		if errors.Is(err, storage.ErrNotFound) {
			return mxerr.UnknownToken // its pair was replaced meanwhile
		}
		if err != nil {
			return err
		}
		user = t.User
		if len(t.Previous) == 0 {
			return nil
		}
		return tx.ConfirmRefresh(t)
	}, func() { s.sessions.forget(user) })
}

// logout implements POST /_matrix/client/v3/logout.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3logout
func (s *Service) logout(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	return nil, s.Logout(ctx, c.User, c.Device)
}

// logoutAll implements POST /_matrix/client/v3/logout/all.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3logoutall
func (s *Service) logoutAll(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	return nil, s.LogoutAll(ctx, c.User)
}

// Logout ends devices of user with everything that belongs to them. Devices that are not there are no error.
func (s *Service) Logout(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	return s.endDevices(ctx, user, func(d storage.Device) bool {
		for _, device := range devices {
			if d.ID == device {
				return true
			}
		}
		return false
	})
}

// LogoutAll ends every device of user.
func (s *Service) LogoutAll(ctx context.Context, user id.UserID) error {
	return s.endDevices(ctx, user, func(storage.Device) bool { return true })
}

func (s *Service) endDevices(ctx context.Context, user id.UserID, which func(storage.Device) bool) error {
	var gone []id.DeviceID
	err := s.write(ctx, func(tx *storage.Tx, at storage.Pos) (err error) {
		gone, err = s.deleteDevices(tx, at, user, which)
		return err
	}, func() { s.sessions.forget(user) })
	if err != nil {
		return fmt.Errorf("log %s out: %w", user, err)
	}
	s.onLogout(ctx, user, gone)
	return nil
}

// deleteDevices removes the devices of user that which picks, with all that hangs on them, and returns them.
func (s *Service) deleteDevices(tx *storage.Tx, at storage.Pos, user id.UserID, which func(storage.Device) bool) ([]id.DeviceID, error) {
	all, err := tx.Devices(user)
	if err != nil {
		return nil, err
	}
	var gone []id.DeviceID
	for _, d := range all {
		if which(d) {
			gone = append(gone, d.ID)
		}
	}
	if len(gone) == 0 {
		return nil, nil
	}
	for _, d := range s.cfg.Dependants {
		if d.Deleted == nil {
			continue
		}
		if err := d.Deleted(tx, at, user, gone); err != nil {
			return nil, err
		}
	}
	if err := tx.DeleteLoginTokensOf(user, gone); err != nil {
		return nil, err
	}
	return gone, tx.DeleteDevices(user, gone)
}

func (s *Service) onLogout(ctx context.Context, user id.UserID, devices []id.DeviceID) {
	if len(devices) == 0 {
		return
	}
	if s.cfg.LoggedOut != nil {
		s.cfg.LoggedOut(user, devices)
	}
	if s.cfg.Hooks.OnLogout == nil {
		return
	}
	names := make([]string, len(devices))
	for i, d := range devices {
		names[i] = string(d)
	}
	s.cfg.Hooks.OnLogout(context.WithoutCancel(ctx), string(user), names)
}

// SoftLogout ends the tokens of user but none of the devices: clients ask for the password and go on with their keys.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#soft-logout
func (s *Service) SoftLogout(ctx context.Context, user id.UserID) error {
	return s.write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		if err := tx.ExpireAccessTokens(user, s.nowMS()); err != nil {
			return err
		}
		return tx.DeleteRefreshTokens(user)
	}, func() { s.sessions.forget(user) })
}

const (
	tokenBytes = 32 // of randomness in a token
	maxID      = 255
)

// newToken returns an unguessable token. Its prefix lets scanners for leaked secrets know it.
func (s *Service) newToken(prefix string) (string, error) {
	var b [tokenBytes]byte
	if _, err := io.ReadFull(s.random, b[:]); err != nil {
		return "", fmt.Errorf("random token: %w", err)
	}
	return prefix + base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// randomName returns n random letters and digits, at most 32.
func (s *Service) randomName(n int) (string, error) {
	var b [sha256.Size]byte
	if _, err := io.ReadFull(s.random, b[:]); err != nil {
		return "", fmt.Errorf("random name: %w", err)
	}
	return base32.StdEncoding.EncodeToString(b[:])[:n], nil
}

func checkDeviceID(device id.DeviceID) error {
	text := string(device)
	if len(text) > maxID || strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
		return mxerr.InvalidParam.With("device_id must be text of at most %d bytes without NUL", maxID)
	}
	return nil
}

func checkDeviceName(name string) error {
	if len(name) > maxID {
		return mxerr.InvalidParam.With("a device's display name may have %d bytes", maxID)
	}
	return nil
}
