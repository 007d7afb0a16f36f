package homeserver

import (
	"context"
	"errors"
	"time"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// ErrNotRunning is the answer of calls before Start and after Close.
var ErrNotRunning = errors.New("homeserver: not running")

// ErrUserInUse is the answer of CreateUser for a name that is or was in use.
var ErrUserInUse error = mxerr.UserInUse

// NewUser is an account to be made.
type NewUser = auth.NewUser

// NewRegistrationToken is a registration token to be made.
type NewRegistrationToken = auth.RegistrationToken

// Admin does what administrators do. It asks for no rights: whoever holds the Server may.
type Admin struct{ s *Server }

// Admin returns the administrator's view of the server.
func (s *Server) Admin() *Admin { return &Admin{s} }

func (a *Admin) auth() (*auth.Service, error) {
	h := a.s.running.Load()
	if h == nil {
		return nil, ErrNotRunning
	}
	return h.auth, nil
}

// CreateUser makes an account, whatever Registration says, and returns its user id. A name that is or was in
// use is ErrUserInUse.
func (a *Admin) CreateUser(ctx context.Context, u NewUser) (userID string, err error) {
	s, err := a.auth()
	if err != nil {
		return "", err
	}
	user, err := s.CreateUser(ctx, u)
	return string(user), err
}

// SetPassword changes a password; logout also ends every session of the user.
func (a *Admin) SetPassword(ctx context.Context, userID, password string, logout bool) error {
	return a.about(userID, func(s *auth.Service, user id.UserID) error { return s.SetPassword(ctx, user, password, logout) })
}

// SetLocked locks an account, whose requests then get M_USER_LOCKED, or unlocks it.
func (a *Admin) SetLocked(ctx context.Context, userID string, locked bool) error {
	return a.about(userID, func(s *auth.Service, user id.UserID) error { return s.SetLocked(ctx, user, locked) })
}

// SetSuspended suspends an account, which may then read and leave but not send, or lifts that.
func (a *Admin) SetSuspended(ctx context.Context, userID string, suspended bool) error {
	return a.about(userID, func(s *auth.Service, user id.UserID) error { return s.SetSuspended(ctx, user, suspended) })
}

// Deactivate ends an account for good: its sessions end, it leaves every room, its name is never given out again.
func (a *Admin) Deactivate(ctx context.Context, userID string, erase bool) error {
	return a.about(userID, func(s *auth.Service, user id.UserID) error { return s.Deactivate(ctx, user, erase) })
}

// CreateRegistrationToken makes a token that lets people register, and returns it.
func (a *Admin) CreateRegistrationToken(ctx context.Context, t NewRegistrationToken) (string, error) {
	s, err := a.auth()
	if err != nil {
		return "", err
	}
	return s.CreateRegistrationToken(ctx, t)
}

// Unsent is another server that has not got everything that is for it.
type Unsent struct {
	Server  string
	RetryAt time.Time // when it is tried again; zero while something is being sent to it
}

// Unsent returns the other servers that have not got everything that is for them, by name. Without federation there are
// none.
func (a *Admin) Unsent() ([]Unsent, error) {
	h := a.s.running.Load()
	if h == nil {
		return nil, ErrNotRunning
	}
	if h.peers.sender == nil {
		return nil, nil
	}
	var list []Unsent
	for _, p := range h.peers.sender.Pending() {
		list = append(list, Unsent{string(p.Server), p.RetryAt})
	}
	return list, nil
}

func (a *Admin) about(userID string, fn func(*auth.Service, id.UserID) error) error {
	s, err := a.auth()
	if err != nil {
		return err
	}
	user, err := id.ParseUserID(userID)
	if err != nil {
		return err
	}
	return fn(s, user)
}
