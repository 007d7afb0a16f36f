package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// loginTypes lists what Authenticate takes, in the order of preference.
func (s *Service) loginTypes() []string {
	if l, ok := s.authn.(FlowLister); ok {
		return l.LoginTypes()
	}
	return []string{TypePassword}
}

type loginFlows struct {
	Flows []loginFlow `json:"flows"`
}

type loginFlow struct {
	Type     string `json:"type"`
	GetToken bool   `json:"get_login_token,omitempty"`
}

// getLoginFlows implements GET /_matrix/client/v3/login.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3login
func (s *Service) getLoginFlows(context.Context, *httpapi.Call, *httpapi.None) (*loginFlows, error) {
	out := &loginFlows{Flows: []loginFlow{}}
	for _, t := range s.loginTypes() {
		if t != TypeToken {
			out.Flows = append(out.Flows, loginFlow{Type: t})
		}
	}
	if gives := s.givesLoginTokens(); gives || slices.Contains(s.loginTypes(), TypeToken) {
		out.Flows = append(out.Flows, loginFlow{TypeToken, gives})
	}
	return out, nil
}

// identifier says who somebody claims to be.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#identifier-types
type identifier struct {
	Type    string `json:"type"`
	User    string `json:"user"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

// passwordLogin is what m.login.password brings, to a login and to an interactive authentication alike.
type passwordLogin struct {
	Identifier *identifier `json:"identifier"`
	Password   *string     `json:"password"`

	// The deprecated ways to say the same as Identifier.
	User    string `json:"user"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

type loginRequest struct {
	passwordLogin
	Type         string      `json:"type"`
	Token        string      `json:"token"`
	Device       id.DeviceID `json:"device_id"`
	DeviceName   string      `json:"initial_device_display_name"`
	RefreshToken bool        `json:"refresh_token"`
}

// login implements POST /_matrix/client/v3/login.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3login
func (s *Service) login(ctx context.Context, c *httpapi.Call, in *loginRequest) (*grantAnswer, error) {
	if in.Type == "" {
		return nil, mxerr.MissingParam.With("type is missing")
	}
	r := LoginRequest{Device: in.Device, DeviceName: in.DeviceName, CanRefresh: in.RefreshToken}
	if s.ownToken(in) {
		return answerOf(s.loginByToken(ctx, in.Token, r, seenAt(c)))
	}
	if !slices.Contains(s.loginTypes(), in.Type) {
		return nil, mxerr.BadRequest.With("the login type %s is not supported", clip(in.Type))
	}
	cred := Credential{Type: in.Type, Token: in.Token}
	if in.Type == TypePassword {
		var err error
		if cred, err = s.credential(in.passwordLogin); err != nil {
			return nil, err
		}
	}
	return answerOf(s.loginAs(ctx, cred, r, seenAt(c)))
}

func answerOf(g *Grant, err error) (*grantAnswer, error) {
	if err != nil {
		return nil, err
	}
	return g.answer(), nil
}

func seenAt(c *httpapi.Call) httpapi.Seen {
	return httpapi.Seen{IP: c.IP, UserAgent: c.Request.UserAgent()}
}

// credential reads who is claimed and with which password. A name that cannot exist here becomes one that nobody has.
func (s *Service) credential(in passwordLogin) (Credential, error) {
	who := identifier{Type: "m.id.user", User: in.User, Medium: in.Medium, Address: in.Address}
	switch {
	case in.Identifier != nil:
		who = *in.Identifier
	case in.Medium != "":
		who.Type = "m.id.thirdparty"
	}
	if in.Password == nil {
		return Credential{}, mxerr.MissingParam.With("password is missing")
	}
	cred := Credential{Type: TypePassword, Password: *in.Password}
	switch who.Type {
	case "m.id.user":
		if who.User == "" {
			return Credential{}, mxerr.MissingParam.With("the user is missing")
		}
		cred.Localpart = s.localpart(who.User)
	case "m.id.thirdparty":
		cred.Medium, cred.Address = who.Medium, strings.ToLower(who.Address)
	case "m.id.phone": // no Authenticator gets these: to tell whose number it is takes the numbering plan of the country
	default:
		return Credential{}, mxerr.BadRequest.With("the identifier type %s is not supported", clip(who.Type))
	}
	return cred, nil
}

// localpart returns the localpart of a user of this server who is named by it or by the whole id, in lower case, or ""
// for anybody else.
func (s *Service) localpart(user string) string {
	local := lowerASCII(user)
	if strings.HasPrefix(user, "@") {
		u, err := id.ParseUserID(user)
		if err != nil || u.Server() != s.cfg.ServerName {
			return ""
		}
		local = lowerASCII(u.Localpart())
	}
	if _, err := id.ParseUserID("@" + local + ":" + string(s.cfg.ServerName)); err != nil || strings.Contains(local, ":") {
		return ""
	}
	return local
}

// lowerASCII maps A–Z as registration does. Other letters have no place in new names, and stay as they are.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// person is who a credential proved.
type person struct {
	Identity
	user id.UserID
}

// authenticate asks the Authenticator. Whoever it refuses gets mxerr.Forbidden, the same for every reason.
func (s *Service) authenticate(ctx context.Context, cred Credential) (person, error) {
	who, err := s.authn.Authenticate(ctx, cred)
	var known *mxerr.Error
	switch {
	case errors.Is(err, ErrRefused):
		return person{}, mxerr.Forbidden.With("wrong user name or password")
	case errors.As(err, &known):
		return person{}, known
	case err != nil:
		return person{}, fmt.Errorf("authenticate: %w", err)
	}
	user, err := id.ParseUserID("@" + who.Localpart + ":" + string(s.cfg.ServerName))
	if err != nil || user.Localpart() != who.Localpart {
		return person{}, fmt.Errorf("authenticate: the Authenticator knows %q, who can have no user id", who.Localpart)
	}
	return person{Identity: who, user: user}, nil
}

// loginAs begins a session for whom cred proves.
func (s *Service) loginAs(ctx context.Context, cred Credential, r LoginRequest, seen httpapi.Seen) (*Grant, error) {
	who, err := s.authenticate(ctx, cred)
	if err != nil {
		return nil, err
	}
	if err := s.checkLogin(ctx, who.user); err != nil {
		return nil, err
	}
	r.User = who.user
	return s.begin(ctx, r, seen, func(tx *storage.Tx) error { return s.admit(tx, who) })
}

// checkLogin asks the host whether somebody who proved to be user may log in.
func (s *Service) checkLogin(ctx context.Context, user id.UserID) error {
	if s.cfg.Hooks.CheckLogin == nil {
		return nil
	}
	if err := s.cfg.Hooks.CheckLogin(ctx, string(user)); err != nil {
		return mxerr.Forbidden.With("%v", err)
	}
	return nil
}

// admit checks that a person who was proven outside the transaction may still have a session, and makes the account of
// one who comes for the first time.
func (s *Service) admit(tx *storage.Tx, who person) error {
	a, err := activeAccount(tx, who.user)
	if errors.Is(err, errNoAccount) && s.passwords == nil {
		return s.provision(tx, who)
	}
	if err != nil {
		return err
	}
	if s.passwords != nil && a.PasswordHash != who.proof {
		return mxerr.Forbidden.With("the password was changed meanwhile")
	}
	return nil
}

// provision makes the account of a user of the host.
func (s *Service) provision(tx *storage.Tx, who person) error {
	if _, err := id.NewUserID(who.Localpart, s.cfg.ServerName); err != nil {
		return fmt.Errorf("make an account for a user of the Authenticator: %w", err)
	}
	_, err := tx.InsertAccount(storage.Account{User: who.user, CreatedMS: s.nowMS()})
	return err
}

// begin stores a session if admit, in the same transaction, finds no fault.
func (s *Service) begin(ctx context.Context, r LoginRequest, seen httpapi.Seen, admit func(*storage.Tx) error) (*Grant, error) {
	o, err := s.newOpening(r, seen)
	if err != nil {
		return nil, err
	}
	err = s.write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		if err := admit(tx); err != nil {
			return err
		}
		return s.store(tx, at, o)
	}, func() { s.sessions.forget(o.User) })
	if err != nil {
		return nil, err
	}
	s.onLogin(ctx, o)
	return s.grant(o), nil
}

func (s *Service) onLogin(ctx context.Context, o *opening) {
	if s.cfg.Hooks.OnLogin != nil {
		s.cfg.Hooks.OnLogin(context.WithoutCancel(ctx), string(o.User), string(o.Device))
	}
}

// Login begins a session for a user without asking for proof: for the host, and for its own programs.
func (s *Service) Login(ctx context.Context, r LoginRequest) (*Grant, error) {
	return s.begin(ctx, r, httpapi.Seen{}, func(tx *storage.Tx) error {
		_, err := activeAccount(tx, r.User)
		return err
	})
}
