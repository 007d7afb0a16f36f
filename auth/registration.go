package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// RegistrationMode says who may make an account.
type RegistrationMode int

// The modes of registration.
const (
	Closed    RegistrationMode = iota // nobody
	WithToken                         // whoever has a registration token
	Open                              // everybody
)

// Registration says how accounts come to be. The zero value lets nobody in; the host can still make users.
type Registration struct {
	Mode RegistrationMode

	// Guests may have accounts of little power without asking.
	Guests bool

	// SharedSecret opens /_synapse/admin/v1/register to whoever knows it, which makes users and administrators.
	// Empty: that endpoint does not exist.
	SharedSecret string

	// Terms are what people have to agree to when they register, by an id of your choice.
	Terms map[string]Policy

	// MaxUsers is how many accounts there may be that are not deactivated, guests too, before nobody more can register and
	// gets M_RESOURCE_LIMIT_EXCEEDED; it needs Config.AdminContact. Accounts that the host or an administrator makes count,
	// and are not refused. Zero: any number.
	MaxUsers int

	// MinPasswordLength is how many characters a password that a client sets must have. Zero: one.
	MinPasswordLength int
}

// Policy is a document to agree to.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#terms-of-service-at-registration
type Policy struct {
	Version string
	Texts   map[string]PolicyText // by language, such as "en"
}

// PolicyText is a Policy in one language.
type PolicyText struct {
	Name string `json:"name"`
	URL  string `json:"url"` // http or https
}

func (r Registration) validate() error {
	var errs []error
	for name, p := range r.Terms {
		if p.Version == "" || len(p.Texts) == 0 {
			errs = append(errs, fmt.Errorf("Registration.Terms[%q] needs a version and a text", name))
		}
		for lang, text := range p.Texts {
			u, err := url.Parse(text.URL)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || text.Name == "" || lang == "version" {
				errs = append(errs, fmt.Errorf("Registration.Terms[%q].Texts[%q] needs a name and an http(s) URL", name, lang))
			}
		}
	}
	return errors.Join(errs...)
}

// flows are the ways to register.
func (r Registration) flows() []flow {
	var f flow
	if r.Mode == WithToken {
		f = append(f, stageRegistrationToken)
	}
	if len(r.Terms) > 0 {
		f = append(f, stageTerms)
	}
	if len(f) == 0 {
		f = flow{stageDummy}
	}
	return []flow{f}
}

// termsParams is what a client shows for m.login.terms.
func (r Registration) termsParams() any {
	policies := map[string]map[string]any{}
	for name, p := range r.Terms {
		policies[name] = map[string]any{"version": p.Version}
		for lang, text := range p.Texts {
			policies[name][lang] = text
		}
	}
	return map[string]any{"policies": policies}
}

// accepted is what is stored of the terms: the versions that were shown.
func (r Registration) accepted() ([]byte, error) {
	if len(r.Terms) == 0 {
		return nil, nil
	}
	versions := map[string]string{}
	for name, p := range r.Terms {
		versions[name] = p.Version
	}
	return json.Marshal(versions)
}

// checkPassword refuses passwords that a client may not set.
func (r Registration) checkPassword(password string) error {
	if len(password) > longestPassword {
		return mxerr.InvalidParam.With("a password may have %d bytes", longestPassword)
	}
	if least := max(1, r.MinPasswordLength); utf8.RuneCountInString(password) < least {
		return mxerr.WeakPassword.With("a password must have at least %d characters", least)
	}
	return nil
}

// registerRequest is the body of a registration, without "auth".
type registerRequest struct {
	Username     *string     `json:"username"`
	Password     *string     `json:"password"`
	Device       id.DeviceID `json:"device_id"`
	DeviceName   string      `json:"initial_device_display_name"`
	InhibitLogin bool        `json:"inhibit_login"`
	RefreshToken bool        `json:"refresh_token"`
	GuestToken   string      `json:"guest_access_token"`
}

// register implements POST /_matrix/client/v3/register.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3register
func (s *Service) register(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*grantAnswer, error) {
	switch kind := c.Query("kind"); kind {
	case "guest":
		return s.registerGuest(ctx, c, *body)
	case "", "user":
		return s.registerUser(ctx, c, *body)
	default:
		return nil, mxerr.InvalidParam.With("kind must be user or guest")
	}
}

// registerGuest makes a guest. "All parameters in the request body with the exception of
// initial_device_display_name MUST BE ignored by the server."
func (s *Service) registerGuest(ctx context.Context, c *httpapi.Call, body json.RawMessage) (*grantAnswer, error) {
	if !s.cfg.Registration.Guests {
		return nil, mxerr.Forbidden.With("guests are not welcome here")
	}
	var in struct {
		DeviceName string `json:"initial_device_display_name"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, mxerr.BadJSON.With("initial_device_display_name: not a string")
	}
	if err := s.db.Read(ctx, s.checkCapacity); err != nil {
		return nil, err
	}
	g, err := s.enrol(ctx, enrolment{
		account: storage.Account{Guest: true}, prefix: "guest-",
		login: &LoginRequest{DeviceName: in.DeviceName}, seen: seenAt(c), limited: true,
	})
	if err != nil {
		return nil, err
	}
	return g.answer(), nil
}

func (s *Service) registerUser(ctx context.Context, c *httpapi.Call, body json.RawMessage) (*grantAnswer, error) {
	if s.cfg.Registration.Mode == Closed || !s.canRegister() {
		return nil, mxerr.Forbidden.With("registration is closed")
	}
	a, err := s.interact(ctx, c, body, s.cfg.Registration.flows())
	if err != nil {
		return nil, err
	}
	defer a.release()
	if a.registered != nil {
		return s.registeredBefore(ctx, c, *a.registered)
	}
	var in registerRequest
	if err := a.decode(&in); err != nil {
		return nil, err
	}
	e, err := s.checkRegistration(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := s.prove(ctx, a); err != nil {
		return nil, err
	}
	return s.finishRegistration(ctx, a, in, e)
}

// checkRegistration looks at what can be refused before any proof is asked for, the name above all.
//
// "Homeservers MUST perform the relevant checks and return these codes before performing User-Interactive Authentication".
func (s *Service) checkRegistration(ctx context.Context, in registerRequest) (e enrolment, err error) {
	if err := errors.Join(checkDeviceID(in.Device), checkDeviceName(in.DeviceName)); err != nil {
		return e, err
	}
	if in.Password != nil {
		if err := s.cfg.Registration.checkPassword(*in.Password); err != nil {
			return e, err
		}
	}
	if in.GuestToken != "" {
		e.account.User, err = s.guestToUpgrade(ctx, in)
		e.upgrade = true
		return e, err
	}
	if err := s.db.Read(ctx, s.checkCapacity); err != nil {
		return e, err
	}
	if in.Username != nil {
		e.account.User, err = s.freeName(ctx, *in.Username)
	}
	return e, err
}

// checkCapacity refuses further accounts when there are as many as there may be.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#other-error-codes (M_RESOURCE_LIMIT_EXCEEDED)
func (s *Service) checkCapacity(tx *storage.Tx) error {
	most := s.cfg.Registration.MaxUsers
	if most <= 0 {
		return nil
	}
	n, err := tx.CountAccounts(most)
	if err == nil && n >= most {
		err = mxerr.ResourceLimitExceeded.With("this server has all the users it can have").Set("admin_contact", s.cfg.AdminContact)
	}
	return err
}

// guestToUpgrade returns the guest who becomes a user.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#guest-access
func (s *Service) guestToUpgrade(ctx context.Context, in registerRequest) (id.UserID, error) {
	guest, err := s.Session(ctx, in.GuestToken, httpapi.Seen{})
	switch {
	case errors.Is(err, mxerr.UnknownToken):
		return "", mxerr.Forbidden.With("guest_access_token is not the token of a guest")
	case err != nil:
		return "", err
	case !guest.Guest || guest.Locked:
		return "", mxerr.Forbidden.With("guest_access_token is not the token of a guest")
	case in.Username == nil || lowerASCII(*in.Username) != guest.User.Localpart():
		return "", mxerr.Forbidden.With("username must be the name of the guest")
	}
	return guest.User, nil
}

// finishRegistration makes the account once all is proven, and remembers it for a client that asks again.
func (s *Service) finishRegistration(ctx context.Context, a *attempt, in registerRequest, e enrolment) (*grantAnswer, error) {
	if in.Password == nil {
		return nil, mxerr.MissingParam.With("password is missing")
	}
	e.password, e.token, e.seen, e.check = in.Password, a.token, seenAt(a.call), true
	e.limited = true
	if !in.InhibitLogin {
		e.login = &LoginRequest{Device: in.Device, DeviceName: in.DeviceName, CanRefresh: in.RefreshToken}
	}
	var err error
	if e.account.Terms, err = s.cfg.Registration.accepted(); err != nil {
		return nil, err
	}
	g, err := s.enrol(ctx, e)
	if errors.Is(err, errTokenSpent) {
		a.restartStages()
		return nil, s.challenge(a, retry{errTokenSpent})
	}
	if err != nil {
		return nil, err
	}
	a.forget()
	a.registered = &LoginRequest{User: g.User, Device: g.Device, CanRefresh: in.RefreshToken}
	return g.answer(), nil
}

// registeredBefore answers a client that repeats its registration, for the first answer may be lost: the same user
// and device, with new tokens.
func (s *Service) registeredBefore(ctx context.Context, c *httpapi.Call, r LoginRequest) (*grantAnswer, error) {
	if r.Device == "" { // it wanted no login
		return (&Grant{User: r.User}).answer(), nil
	}
	g, err := s.begin(ctx, r, seenAt(c), func(tx *storage.Tx) error {
		if _, err := activeAccount(tx, r.User); err != nil {
			return err
		}
		_, err := tx.Device(r.User, r.Device)
		if errors.Is(err, storage.ErrNotFound) {
			return mxerr.Forbidden.With("the session is used, and what it began has ended")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return g.answer(), nil
}

// freeName returns the id that a user name stands for, or why it cannot be had.
func (s *Service) freeName(ctx context.Context, name string) (id.UserID, error) {
	user, err := s.userID(name)
	if err != nil {
		return "", err
	}
	if s.cfg.Exclusive != nil && s.cfg.Exclusive(user) {
		return "", mxerr.Exclusive
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := tx.Account(user)
		return err
	})
	switch {
	case err == nil:
		return "", mxerr.UserInUse
	case !errors.Is(err, storage.ErrNotFound):
		return "", fmt.Errorf("look %s up: %w", user, err)
	}
	switch _, err = s.authn.Lookup(ctx, user.Localpart()); {
	case err == nil:
		return "", mxerr.UserInUse
	case !errors.Is(err, ErrNoUser):
		return "", fmt.Errorf("look %s up at the Authenticator: %w", user, err)
	}
	return user, nil
}

// userID maps a user name to an id as it would be registered: capitals become small, anything else must fit.
//
// Spec: https://spec.matrix.org/latest/appendices/#user-identifiers
func (s *Service) userID(name string) (id.UserID, error) {
	user, err := id.NewUserID(lowerASCII(name), s.cfg.ServerName)
	if err != nil {
		return "", mxerr.InvalidUsername.With("a user name has only letters a-z, digits and ._=-/+, and is not too long")
	}
	return user, nil
}

// canRegister reports whether the Authenticator takes new users.
func (s *Service) canRegister() bool {
	_, ok := s.authn.(Registrar)
	return ok
}

type available struct {
	Available bool `json:"available"`
}

// usernameAvailable implements GET /_matrix/client/v3/register/available.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3registeravailable
func (s *Service) usernameAvailable(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*available, error) {
	if s.cfg.Registration.Mode == Closed || !s.canRegister() {
		return nil, mxerr.Forbidden.With("registration is closed")
	}
	if !c.HasQuery("username") {
		return nil, mxerr.MissingParam.With("username is missing")
	}
	if _, err := s.freeName(ctx, c.Query("username")); err != nil {
		return nil, err
	}
	return &available{true}, nil
}
