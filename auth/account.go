package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// errNoAccount says that there is no such user here.
var errNoAccount = mxerr.NotFound.With("there is no such user here")

// account returns an account, whatever state it is in.
func account(tx *storage.Tx, user id.UserID) (storage.Account, error) {
	a, err := tx.Account(user)
	if errors.Is(err, storage.ErrNotFound) {
		return a, errNoAccount
	}
	return a, err
}

// activeAccount returns an account that may have sessions.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#account-locking
func activeAccount(tx *storage.Tx, user id.UserID) (storage.Account, error) {
	a, err := account(tx, user)
	switch {
	case err != nil:
		return a, err
	case a.Deactivated:
		return a, mxerr.UserDeactivated
	case a.Locked:
		return a, mxerr.UserLocked.Set("soft_logout", true)
	}
	return a, nil
}

// Account returns the account of a local user, mxerr.NotFound when there is none.
func (s *Service) Account(ctx context.Context, user id.UserID) (storage.Account, error) {
	var a storage.Account
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		a, err = account(tx, user)
		return err
	})
	return a, err
}

// SetLocked locks an account or unlocks it: a locked user keeps every session and can use none.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#account-locking
func (s *Service) SetLocked(ctx context.Context, user id.UserID, locked bool) error {
	return s.change(ctx, user, func(a *storage.Account) { a.Locked = locked })
}

// SetSuspended suspends an account or ends that: a suspended user can read and leave, and not write or join.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#account-suspension
func (s *Service) SetSuspended(ctx context.Context, user id.UserID, suspended bool) error {
	return s.change(ctx, user, func(a *storage.Account) { a.Suspended = suspended })
}

// SetAdmin makes a user an administrator, or no more. Those in Config.Admins stay what they are.
func (s *Service) SetAdmin(ctx context.Context, user id.UserID, admin bool) error {
	return s.change(ctx, user, func(a *storage.Account) { a.Admin = admin })
}

// change changes an account that is not deactivated.
func (s *Service) change(ctx context.Context, user id.UserID, fn func(*storage.Account)) error {
	return s.write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		a, err := account(tx, user)
		if err != nil {
			return err
		}
		if a.Deactivated {
			return errNoAccount
		}
		fn(&a)
		return tx.UpdateAccount(a)
	}, func() { s.sessions.forget(user) })
}

type whoamiAnswer struct {
	User   id.UserID   `json:"user_id"`
	Device id.DeviceID `json:"device_id,omitempty"`
	Guest  bool        `json:"is_guest"`
}

// whoami implements GET /_matrix/client/v3/account/whoami.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3accountwhoami
func (s *Service) whoami(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*whoamiAnswer, error) {
	return &whoamiAnswer{c.User, c.Device, c.Guest}, nil
}

// changePassword implements POST /_matrix/client/v3/account/password.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountpassword
func (s *Service) changePassword(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*httpapi.Empty, error) {
	a, err := s.interactAsUser(ctx, c, *body)
	if err != nil {
		return nil, err
	}
	defer a.release()
	var in struct {
		Password      *string `json:"new_password"`
		LogoutDevices *bool   `json:"logout_devices"`
	}
	if err := a.decode(&in); err != nil {
		return nil, err
	}
	if in.Password == nil {
		return nil, mxerr.MissingParam.With("new_password is missing")
	}
	if err := s.cfg.Registration.checkPassword(*in.Password); err != nil {
		return nil, err
	}
	if err := s.prove(ctx, a); err != nil {
		return nil, err
	}
	ends := func(d storage.Device) bool {
		return (in.LogoutDevices == nil || *in.LogoutDevices) && (c.User == "" || d.ID != c.Device)
	}
	return nil, s.setPassword(ctx, a.owner, *in.Password, ends)
}

// interactAsUser begins the interactive authentication of an endpoint about an account, which may come without a token.
func (s *Service) interactAsUser(ctx context.Context, c *httpapi.Call, body json.RawMessage) (*attempt, error) {
	if c.Guest {
		return nil, mxerr.GuestAccessForbidden
	}
	return s.interact(ctx, c, body, []flow{{TypePassword}})
}

// SetPassword gives user another password. With logout, all their sessions end.
func (s *Service) SetPassword(ctx context.Context, user id.UserID, password string, logout bool) error {
	return s.setPassword(ctx, user, password, func(storage.Device) bool { return logout })
}

func (s *Service) setPassword(ctx context.Context, user id.UserID, password string, ends func(storage.Device) bool) error {
	hash, err := s.newPassword(ctx, user, password)
	if err != nil {
		return err
	}
	var gone []id.DeviceID
	err = s.write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		if err := s.storePassword(tx, user, hash); err != nil {
			return err
		}
		gone, err = s.deleteDevices(tx, at, user, ends)
		return err
	}, func() { s.sessions.forget(user) })
	if err != nil {
		return err
	}
	s.onLogout(ctx, user, gone)
	return nil
}

func (s *Service) storePassword(tx *storage.Tx, user id.UserID, hash string) error {
	if s.passwords == nil {
		return nil // it is where the host keeps its users
	}
	a, err := account(tx, user)
	if err != nil {
		return err
	}
	if a.Deactivated {
		return errNoAccount
	}
	a.PasswordHash = hash
	return tx.UpdateAccount(a)
}

// newPassword returns the hash to store for a new password, empty after an Authenticator of the host has stored it.
func (s *Service) newPassword(ctx context.Context, user id.UserID, password string) (string, error) {
	if s.passwords != nil {
		return s.passwords.hasher.hash(ctx, password)
	}
	setter, ok := s.authn.(PasswordSetter)
	if !ok {
		return "", mxerr.Forbidden.With("passwords cannot be changed here")
	}
	if err := setter.SetPassword(ctx, user.Localpart(), password); err != nil {
		return "", fmt.Errorf("set the password of %s: %w", user, err)
	}
	return "", nil
}

// canChangePassword reports whether newPassword can do its work.
func (s *Service) canChangePassword() bool {
	_, ok := s.authn.(PasswordSetter)
	return ok
}

type deactivated struct {
	Unbound string `json:"id_server_unbind_result"`
}

// deactivate implements POST /_matrix/client/v3/account/deactivate.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountdeactivate
func (s *Service) deactivate(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*deactivated, error) {
	a, err := s.interactAsUser(ctx, c, *body)
	if err != nil {
		return nil, err
	}
	defer a.release()
	var in struct {
		IDServer string `json:"id_server"`
		Erase    bool   `json:"erase"`
	}
	if err := a.decode(&in); err != nil {
		return nil, err
	}
	if err := s.prove(ctx, a); err != nil {
		return nil, err
	}
	if err := s.Deactivate(ctx, a.owner, in.Erase); err != nil {
		return nil, err
	}
	// "This must be success if the homeserver has no identifiers to unbind for the user."
	return &deactivated{"success"}, nil
}

const (
	// longestFarewell bounds how long a deactivation waits for the user to be out of all rooms.
	longestFarewell = 40 * time.Second

	// farewellEvery is how long a deactivation that was broken off waits for its next try.
	farewellEvery = time.Minute
)

// Deactivate shuts user out for good: sessions and password go, every room is left. The name is never given out again.
// erase says that the user wants to be forgotten. When it returns nil no session is left; rooms that could not
// be left yet are left in the background.
func (s *Service) Deactivate(ctx context.Context, user id.UserID, erase bool) error {
	var gone []id.DeviceID
	err := s.write(ctx, func(tx *storage.Tx, at storage.Pos) (err error) {
		gone, err = s.storeDeactivation(tx, at, user, erase)
		return err
	}, func() { s.sessions.forget(user) })
	if err != nil {
		return fmt.Errorf("deactivate %s: %w", user, err)
	}
	s.onLogout(ctx, user, gone)
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), longestFarewell)
	defer stop()
	if err := s.farewell(ctx, user); err != nil {
		s.log.Error("finish a deactivation; it is tried again", "user", user, "error", err)
		s.nudgeDeactivations()
	}
	if s.cfg.Hooks.OnDeactivate != nil {
		s.cfg.Hooks.OnDeactivate(ctx, string(user), erase)
	}
	return nil
}

func (s *Service) storeDeactivation(tx *storage.Tx, at storage.Pos, user id.UserID, erase bool) ([]id.DeviceID, error) {
	if s.passwords == nil { // a user of the host may never have been here, and must not come now
		if _, err := tx.InsertAccount(storage.Account{User: user, CreatedMS: s.nowMS()}); err != nil {
			return nil, err
		}
	}
	a, err := account(tx, user)
	if err != nil {
		return nil, err
	}
	a.Deactivated, a.Leaving, a.PasswordHash, a.Erased = true, true, "", a.Erased || erase
	if err := tx.UpdateAccount(a); err != nil {
		return nil, err
	}
	if err := tx.KeepOpenIDTokens(user, 0); err != nil {
		return nil, err
	}
	gone, err := s.deleteDevices(tx, at, user, func(storage.Device) bool { return true })
	if err != nil {
		return nil, err
	}
	for _, d := range s.cfg.Dependants {
		if d.Deactivated == nil {
			continue
		}
		if err := d.Deactivated(tx, at, user, erase); err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// farewell does what a deactivation asks of others, and notes when all of it is done.
func (s *Service) farewell(ctx context.Context, user id.UserID) error {
	if d, ok := s.authn.(Deactivator); ok && s.passwords == nil {
		if err := d.Deactivate(ctx, user.Localpart()); err != nil && !errors.Is(err, ErrNoUser) {
			return fmt.Errorf("deactivate at the Authenticator: %w", err)
		}
	}
	if s.cfg.Rooms != nil {
		if err := s.cfg.Rooms.LeaveAll(ctx, user, "account deactivated"); err != nil {
			return fmt.Errorf("leave all rooms: %w", err)
		}
	}
	return s.db.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		a, err := account(tx, user)
		if err != nil {
			return err
		}
		a.Leaving = false
		return tx.UpdateAccount(a)
	})
}

// finishDeactivations takes up those that were broken off, by a failure or by the end of the process.
func (s *Service) finishDeactivations(ctx context.Context) {
	s.nudgeDeactivations()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.unfinished:
		}
		err := s.finishThem(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		s.log.Error("finish deactivations; they are tried again", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(farewellEvery):
			s.nudgeDeactivations()
		}
	}
}

func (s *Service) nudgeDeactivations() {
	select {
	case s.unfinished <- struct{}{}:
	default:
	}
}

func (s *Service) finishThem(ctx context.Context) error {
	var leaving []storage.Account
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		leaving, err = tx.AccountsLeaving()
		return err
	})
	for _, a := range leaving {
		err = errors.Join(err, s.farewell(ctx, a.User))
	}
	return err
}
