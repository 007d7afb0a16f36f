package auth_test

import (
	"context"
	"fmt"

	"github.com/embedmatrix/homeserver/auth"
)

// members are the users that a program already has.
type members map[string]string

func (m members) Authenticate(_ context.Context, c auth.Credential) (auth.Identity, error) {
	password, ok := m[c.Localpart]
	if !ok || c.Type != auth.TypePassword || password != c.Password {
		return auth.Identity{}, auth.ErrRefused
	}
	return auth.Identity{Localpart: c.Localpart}, nil
}

func (m members) Lookup(_ context.Context, localpart string) (auth.Identity, error) {
	if _, ok := m[localpart]; !ok {
		return auth.Identity{}, auth.ErrNoUser
	}
	return auth.Identity{Localpart: localpart}, nil
}

// The users of a program log in to its homeserver with the passwords that they have.
func ExampleAuthenticator() {
	var users auth.Authenticator = members{"alice": "correct horse"}
	credential := auth.Credential{Type: auth.TypePassword, Localpart: "alice", Password: "correct horse"}
	who, err := users.Authenticate(context.Background(), credential)
	fmt.Println(who.Localpart, err)
	credential.Password = "wrong"
	_, err = users.Authenticate(context.Background(), credential)
	fmt.Println(err)
	// Output:
	// alice <nil>
	// auth: refused
}
