package auth

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// moderated returns the account that an administrator asks about: one of this server, in use, and of nobody who is an
// administrator too. The route has seen to it that the caller is one, before anything was looked up.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1adminlockuserid
func (s *Service) moderated(ctx context.Context, c *httpapi.Call) (storage.Account, error) {
	user := c.UserID("userId")
	if user.Server() != s.cfg.ServerName {
		return storage.Account{}, mxerr.InvalidParam.With("%s is not a user of this server", user)
	}
	a, err := s.Account(ctx, user)
	switch {
	case err != nil:
		return a, err
	case a.Deactivated:
		return a, errNoAccount
	case user != c.User && s.isAdmin(user, a.Admin):
		return a, mxerr.Forbidden.With("%s is an administrator too", user)
	}
	return a, nil
}

// moderate lets an administrator change the account of somebody else.
func (s *Service) moderate(ctx context.Context, c *httpapi.Call, change func(context.Context, id.UserID) error) error {
	if c.UserID("userId") == c.User {
		return mxerr.Forbidden.With("this is your own account")
	}
	a, err := s.moderated(ctx, c)
	if err != nil {
		return err
	}
	return change(ctx, a.User)
}

type suspension struct {
	Suspended *bool `json:"suspended"`
}

type lock struct {
	Locked *bool `json:"locked"`
}

// getAdminSuspendUser implements GET /_matrix/client/v1/admin/suspend/{userId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1adminsuspenduserid
func (s *Service) getAdminSuspendUser(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*suspension, error) {
	a, err := s.moderated(ctx, c)
	return &suspension{&a.Suspended}, err
}

// setAdminSuspendUser implements PUT /_matrix/client/v1/admin/suspend/{userId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv1adminsuspenduserid
func (s *Service) setAdminSuspendUser(ctx context.Context, c *httpapi.Call, in *suspension) (*suspension, error) {
	if in.Suspended == nil {
		return nil, mxerr.MissingParam.With("suspended is missing")
	}
	return in, s.moderate(ctx, c, func(ctx context.Context, user id.UserID) error {
		return s.SetSuspended(ctx, user, *in.Suspended)
	})
}

// getAdminLockUser implements GET /_matrix/client/v1/admin/lock/{userId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1adminlockuserid
func (s *Service) getAdminLockUser(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*lock, error) {
	a, err := s.moderated(ctx, c)
	return &lock{&a.Locked}, err
}

// setAdminLockUser implements PUT /_matrix/client/v1/admin/lock/{userId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv1adminlockuserid
func (s *Service) setAdminLockUser(ctx context.Context, c *httpapi.Call, in *lock) (*lock, error) {
	if in.Locked == nil {
		return nil, mxerr.MissingParam.With("locked is missing")
	}
	return in, s.moderate(ctx, c, func(ctx context.Context, user id.UserID) error {
		return s.SetLocked(ctx, user, *in.Locked)
	})
}

// whoisAnswer is where a user was seen: by device, one session of each, with where that was last.
type whoisAnswer struct {
	User    id.UserID                   `json:"user_id"`
	Devices map[id.DeviceID]whoisDevice `json:"devices"`
}

type whoisDevice struct {
	Sessions []whoisSession `json:"sessions"`
}

type whoisSession struct {
	Connections []connection `json:"connections"`
}

type connection struct {
	IP        string `json:"ip"`
	LastSeen  int64  `json:"last_seen"`
	UserAgent string `json:"user_agent"`
}

// getWhoIs implements GET /_matrix/client/v3/admin/whois/{userId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3adminwhoisuserid
func (s *Service) getWhoIs(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*whoisAnswer, error) {
	user := c.UserID("userId")
	if user != c.User && !c.Admin {
		return nil, mxerr.Forbidden.With("only administrators of this server may ask about others")
	}
	if _, err := s.Account(ctx, user); err != nil {
		return nil, err
	}
	devices, err := s.Devices(ctx, user)
	if err != nil {
		return nil, err
	}
	out := &whoisAnswer{user, make(map[id.DeviceID]whoisDevice, len(devices))}
	for _, d := range devices {
		out.Devices[d.ID] = whoisDevice{[]whoisSession{{[]connection{{d.SeenIP, d.SeenMS, d.SeenAgent}}}}}
	}
	return out, nil
}
