package homeserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"time"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
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

func (a *Admin) house() (*house, error) {
	if h := a.s.running.Load(); h != nil {
		return h, nil
	}
	return nil, ErrNotRunning
}

func (a *Admin) auth() (*auth.Service, error) {
	h, err := a.house()
	if err != nil {
		return nil, err
	}
	return h.auth, nil
}

func (a *Admin) rooms() (*rooms.Service, error) {
	h, err := a.house()
	if err != nil {
		return nil, err
	}
	return h.rooms, nil
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

// SetAdmin makes a user an administrator of the server, or no more. Those in Config.Admins stay what they are.
func (a *Admin) SetAdmin(ctx context.Context, userID string, admin bool) error {
	return a.about(userID, func(s *auth.Service, user id.UserID) error { return s.SetAdmin(ctx, user, admin) })
}

// DeleteRegistrationToken ends a token, by which nobody can register any more.
func (a *Admin) DeleteRegistrationToken(ctx context.Context, token string) error {
	s, err := a.auth()
	if err != nil {
		return err
	}
	return s.DeleteRegistrationToken(ctx, token)
}

// Reports returns what users have reported after the report with an id, oldest first and at most limit of them; 100 if
// limit is not positive. The first page comes after 0, the next one after the ID of the last report.
func (a *Admin) Reports(ctx context.Context, after int64, limit int) ([]Report, error) {
	s, err := a.rooms()
	if err != nil {
		return nil, err
	}
	return s.Reports(ctx, after, limit)
}

// DeleteReport removes a report that was dealt with.
func (a *Admin) DeleteReport(ctx context.Context, report int64) error {
	s, err := a.rooms()
	if err != nil {
		return err
	}
	return s.DeleteReport(ctx, report)
}

// SendNotice tells a user something in their room of server notices, and returns the event's id. content is that of an
// m.room.message; without a msgtype it is an m.server_notice, which names Config.AdminContact. It needs
// Config.ServerNotices.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-notices
func (a *Admin) SendNotice(ctx context.Context, userID string, content map[string]any) (eventID string, err error) {
	s, err := a.rooms()
	if err != nil {
		return "", err
	}
	user, err := id.ParseUserID(userID)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return "", err
	}
	sent, err := s.SendNotice(ctx, rooms.Notice{User: user, Content: raw})
	return string(sent), err
}

// RemoveRoom takes every user of this server out of a room, which none of them can read any more, and takes it out of the
// directory; with block none of them comes in again. It returns whom the room did not let go. What is stored of it stays.
func (a *Admin) RemoveRoom(ctx context.Context, roomID string, block bool) (failed []string, err error) {
	s, err := a.rooms()
	if err != nil {
		return nil, err
	}
	room, err := id.ParseRoomID(roomID)
	if err != nil {
		return nil, err
	}
	done, err := s.RemoveRoom(ctx, rooms.Removal{Room: room, Block: block})
	if err != nil {
		return nil, err
	}
	for _, user := range done.Failed {
		failed = append(failed, string(user))
	}
	return failed, nil
}

// UnblockRoom lets users of this server come into a room again that RemoveRoom has blocked.
func (a *Admin) UnblockRoom(ctx context.Context, roomID string) error {
	s, err := a.rooms()
	if err != nil {
		return err
	}
	return s.UnblockRoom(ctx, id.RoomID(roomID))
}

// SigningKey returns the key by which others check what this server signs, and its id: what OldSigningKeys needs to know
// once it is replaced.
func (a *Admin) SigningKey() (keyID string, public ed25519.PublicKey, err error) {
	h, err := a.house()
	if err != nil {
		return "", nil, err
	}
	return h.key.ID, h.key.Public(), nil
}

// Unsent is another server that has not got everything that is for it.
type Unsent struct {
	Server  string
	RetryAt time.Time // when it is tried again; zero while something is being sent to it
}

// Unsent returns the other servers that have not got everything that is for them, by name. Without federation there are
// none.
func (a *Admin) Unsent() ([]Unsent, error) {
	h, err := a.house()
	if err != nil || h.peers.sender == nil {
		return nil, err
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
