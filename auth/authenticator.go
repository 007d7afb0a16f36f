package auth

import (
	"context"
	"errors"
)

// Authenticator says who a person is: the plug behind which a host keeps its own users.
//
// The contract:
//
//   - Localparts are what stands between '@' and ':' in a user id. They are compared byte by byte; those
//     of credentials have been mapped to lower case. One localpart means one person for ever: what belonged
//     to a deactivated user is never given to somebody else.
//   - Authenticate returns who the credential proves. Whoever is not proven gets ErrRefused, and cannot
//     learn from the error or from the time it took whether the user exists. It does not change anything.
//   - Lookup returns a user without proof, ErrNoUser when there is none. A user that Authenticate accepts
//     is one that Lookup finds.
//   - Any other error is a failure of the Authenticator itself: the client gets a 500, and the log gets the error.
//   - A user is found or accepted as soon as the call that made it returned, by every later call.
//   - Methods are called from any number of goroutines at once. They end soon after their context does.
//   - What they are given they do not keep or write into a log.
//
// A user that is found here needs no account on this server yet: the first login makes one.
//
// Further abilities are interfaces that are found by type assertion: Registrar, PasswordSetter, Deactivator,
// FlowLister. An ability that is absent makes its endpoint answer M_FORBIDDEN, and is not advertised.
//
// The suite that holds an implementation to this is authtest.Run.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credential) (Identity, error)
	Lookup(ctx context.Context, localpart string) (Identity, error)
}

// TypePassword is the login type of a user name, or third-party identifier, and a password.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#password-based
const TypePassword = "m.login.password"

// Credential is what somebody shows to prove who they are.
type Credential struct {
	Type      string // of login: TypePassword, or one that FlowLister lists
	Localpart string // whom it claims to be; empty when the claim is a third-party identifier or inside Token
	Medium    string // "email" or "msisdn" when the claim is a third-party identifier, else empty
	Address   string // of that medium
	Password  string
	Token     string // what types other than TypePassword bring
}

// Identity is a person.
type Identity struct {
	Localpart string

	// proof is what Passwords compared the password with: a session is only begun while it is still that.
	proof string
}

// ErrRefused is returned by Authenticate for credentials that prove nobody.
var ErrRefused = errors.New("auth: refused")

// ErrNoUser is returned by Lookup, PasswordSetter and Deactivator for users that do not exist.
var ErrNoUser = errors.New("auth: no such user")

// ErrTaken is returned by Registrar for localparts that are or were in use.
var ErrTaken = errors.New("auth: name taken")

// Registrar is an Authenticator that can add users. Of several calls for one localpart one succeeds, and
// the others get ErrTaken, be they at once or years apart.
type Registrar interface {
	Register(ctx context.Context, localpart, password string) error
}

// PasswordSetter is an Authenticator whose users have passwords that can be changed. After it returned, only the
// new password is accepted; an unknown user is ErrNoUser.
type PasswordSetter interface {
	SetPassword(ctx context.Context, localpart, password string) error
}

// Deactivator is an Authenticator that can shut users out for good. It may be called again for a user that is
// out already; an unknown user is ErrNoUser.
type Deactivator interface {
	Deactivate(ctx context.Context, localpart string) error
}

// FlowLister is an Authenticator that takes other types of login than TypePassword. LoginTypes returns all it
// takes, in the order of preference.
type FlowLister interface {
	LoginTypes() []string
}
