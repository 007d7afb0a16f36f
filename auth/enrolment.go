package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// enrolment is an account on its way into storage.
type enrolment struct {
	account  storage.Account // User empty: any free name that begins with prefix
	prefix   string
	password *string // nil: none
	token    string  // registration token to use up; empty: none
	upgrade  bool    // the account is a guest's, who becomes a user
	check    bool    // ask Hooks.CheckRegister
	limited  bool    // Registration.MaxUsers holds

	login *LoginRequest // nil: no session
	seen  httpapi.Seen
}

// enrol makes an account and its first session.
func (s *Service) enrol(ctx context.Context, e enrolment) (*Grant, error) {
	const tries = 5 // of random names, of which hardly one is ever taken
	if e.account.User != "" {
		return s.enrolAs(ctx, e)
	}
	for try := 1; ; try++ {
		local, err := s.randomName(12)
		if err != nil {
			return nil, err
		}
		if e.account.User, err = s.userID(e.prefix + local); err != nil {
			return nil, err
		}
		g, err := s.enrolAs(ctx, e)
		if !errors.Is(err, mxerr.UserInUse) || try == tries {
			return g, err
		}
	}
}

func (s *Service) enrolAs(ctx context.Context, e enrolment) (*Grant, error) {
	user := e.account.User
	if check := s.cfg.Hooks.CheckRegister; check != nil && e.check {
		if err := check(ctx, string(user)); err != nil {
			return nil, mxerr.Forbidden.With("%v", err)
		}
	}
	o := &opening{LoginRequest: LoginRequest{User: user}}
	if e.login != nil {
		login := *e.login
		login.User = user
		var err error
		if o, err = s.newOpening(login, e.seen); err != nil {
			return nil, err
		}
	}
	if err := s.firstPassword(ctx, &e); err != nil {
		return nil, err
	}
	var gone []id.DeviceID
	err := s.write(ctx, func(tx *storage.Tx, at storage.Pos) (err error) {
		gone, err = s.storeEnrolment(tx, at, e, o)
		return err
	}, func() { s.sessions.forget(user) })
	if err != nil {
		return nil, err
	}
	s.onEnrolled(ctx, e, o, gone)
	return s.grant(o), nil
}

func (s *Service) onEnrolled(ctx context.Context, e enrolment, o *opening, gone []id.DeviceID) {
	s.onLogout(ctx, o.User, gone)
	if s.cfg.Hooks.OnRegister != nil {
		s.cfg.Hooks.OnRegister(context.WithoutCancel(ctx), string(o.User), e.account.Guest)
	}
	if e.login != nil {
		s.onLogin(ctx, o)
	}
}

// firstPassword prepares the password of a new account, or makes the user at the host's Authenticator.
func (s *Service) firstPassword(ctx context.Context, e *enrolment) (err error) {
	if e.password == nil {
		return nil
	}
	if s.passwords != nil {
		e.account.PasswordHash, err = s.passwords.hasher.hash(ctx, *e.password)
		return err
	}
	r, ok := s.authn.(Registrar)
	if !ok {
		return mxerr.Forbidden.With("users are not made here")
	}
	if err := s.useTokenBefore(ctx, e); err != nil {
		return err
	}
	err = r.Register(ctx, e.account.User.Localpart(), *e.password)
	if errors.Is(err, ErrTaken) {
		return mxerr.UserInUse
	}
	return err
}

// useTokenBefore uses a registration token up before the host makes the user, which no transaction of ours can undo:
// whoever comes too late for the last use must not become a user who can log in.
func (s *Service) useTokenBefore(ctx context.Context, e *enrolment) error {
	if e.token == "" {
		return nil
	}
	token := e.token
	e.token = ""
	return s.db.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error { return s.useToken(tx, token) })
}

func (s *Service) useToken(tx *storage.Tx, token string) error {
	left, err := tx.UseRegistrationToken(token, s.nowMS())
	if err == nil && !left {
		return errTokenSpent
	}
	return err
}

// storeEnrolment writes the account, the use of its registration token and its session, all or nothing.
func (s *Service) storeEnrolment(tx *storage.Tx, at storage.Pos, e enrolment, o *opening) (gone []id.DeviceID, err error) {
	if e.upgrade {
		gone, err = s.upgradeGuest(tx, at, e, o)
	} else {
		err = s.storeAccount(tx, e)
	}
	if err != nil {
		return nil, err
	}
	if e.token != "" {
		if err := s.useToken(tx, e.token); err != nil {
			return nil, err
		}
	}
	if e.login == nil {
		return gone, nil
	}
	return gone, s.store(tx, at, o)
}

func (s *Service) storeAccount(tx *storage.Tx, e enrolment) error {
	if e.limited {
		if err := s.checkCapacity(tx); err != nil {
			return err
		}
	}
	e.account.CreatedMS = s.nowMS()
	free, err := tx.InsertAccount(e.account)
	if err == nil && !free {
		return mxerr.UserInUse
	}
	return err
}

// upgradeGuest makes a user of a guest. The guest's tokens were given to somebody who proved nothing: they end, and
// with them every device but the one that the new user goes on with.
func (s *Service) upgradeGuest(tx *storage.Tx, at storage.Pos, e enrolment, o *opening) ([]id.DeviceID, error) {
	a, err := activeAccount(tx, e.account.User)
	if err != nil {
		return nil, err
	}
	if !a.Guest {
		return nil, mxerr.UserInUse
	}
	a.Guest, a.PasswordHash, a.Terms = false, e.account.PasswordHash, e.account.Terms
	if err := tx.UpdateAccount(a); err != nil {
		return nil, err
	}
	return s.deleteDevices(tx, at, a.User, func(d storage.Device) bool { return d.ID != o.Device })
}

// NewUser is an account for the host to make.
type NewUser struct {
	Localpart string // capitals become small
	Password  string // empty: nobody can log in by password
	Admin     bool
}

// CreateUser makes an account, whatever Registration says. A name that is or was in use is mxerr.UserInUse.
func (s *Service) CreateUser(ctx context.Context, u NewUser) (id.UserID, error) {
	user, err := s.userID(u.Localpart)
	if err != nil {
		return "", err
	}
	e := enrolment{account: storage.Account{User: user, Admin: u.Admin}}
	if u.Password != "" {
		e.password = &u.Password
	}
	if _, err := s.enrol(ctx, e); err != nil {
		return "", fmt.Errorf("create %s: %w", user, err)
	}
	return user, nil
}
