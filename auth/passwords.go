package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Passwords is the built-in Authenticator: accounts in Storage with argon2id hashes. It has every ability but
// FlowLister. A hash of another cost, or of bcrypt, becomes one of the present cost when its owner next logs in.
type Passwords struct {
	db     *storage.DB
	server id.ServerName
	hasher *hasher
	now    func() time.Time
}

// NewPasswords returns the accounts of server in db.
func NewPasswords(db *storage.DB, server id.ServerName, cost Cost) *Passwords {
	return newPasswords(db, server, cost, rand.Reader, time.Now)
}

func newPasswords(db *storage.DB, server id.ServerName, cost Cost, rand io.Reader, now func() time.Time) *Passwords {
	return &Passwords{db: db, server: server, hasher: newHasher(cost, rand), now: now}
}

// account returns an account that may be used.
func (p *Passwords) account(ctx context.Context, localpart string) (storage.Account, error) {
	user, err := id.ParseUserID("@" + localpart + ":" + string(p.server))
	if err != nil || localpart == "" {
		return storage.Account{}, ErrNoUser
	}
	var a storage.Account
	err = p.db.Read(ctx, func(tx *storage.Tx) (err error) {
		a, err = tx.Account(user)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) || err == nil && a.Deactivated {
		return storage.Account{}, ErrNoUser
	}
	return a, err
}

// Authenticate implements Authenticator.
func (p *Passwords) Authenticate(ctx context.Context, c Credential) (Identity, error) {
	a, err := p.account(ctx, c.Localpart)
	if err != nil && !errors.Is(err, ErrNoUser) {
		return Identity{}, fmt.Errorf("look up %q: %w", c.Localpart, err)
	}
	stored, exists := a.PasswordHash, a.PasswordHash != "" && c.Type == TypePassword
	if !exists {
		stored = p.hasher.nobody()
	}
	ok, err := p.hasher.matches(ctx, stored, c.Password)
	if err != nil {
		return Identity{}, err
	}
	if !ok || !exists {
		return Identity{}, ErrRefused
	}
	proof, err := p.renew(ctx, a, c.Password)
	if err != nil {
		return Identity{}, err
	}
	return Identity{Localpart: c.Localpart, proof: proof}, nil
}

// renew replaces a hash that was not made as it would be now. It returns the one that holds.
func (p *Passwords) renew(ctx context.Context, a storage.Account, password string) (string, error) {
	if p.hasher.current(a.PasswordHash) {
		return a.PasswordHash, nil
	}
	hash, err := p.hasher.hash(ctx, password)
	if err != nil {
		return "", err
	}
	err = p.update(ctx, a.User, func(now *storage.Account) error {
		if now.PasswordHash != a.PasswordHash {
			return ErrRefused // it was changed meanwhile
		}
		now.PasswordHash = hash
		return nil
	})
	return hash, err
}

// Lookup implements Authenticator.
func (p *Passwords) Lookup(ctx context.Context, localpart string) (Identity, error) {
	if _, err := p.account(ctx, localpart); err != nil {
		return Identity{}, err
	}
	return Identity{Localpart: localpart}, nil
}

// Register implements Registrar.
func (p *Passwords) Register(ctx context.Context, localpart, password string) error {
	user, err := id.NewUserID(localpart, p.server)
	if err != nil {
		return err
	}
	hash, err := p.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	return p.db.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		free, err := tx.InsertAccount(storage.Account{User: user, PasswordHash: hash, CreatedMS: p.now().UnixMilli()})
		if err == nil && !free {
			err = ErrTaken
		}
		return err
	})
}

// SetPassword implements PasswordSetter.
func (p *Passwords) SetPassword(ctx context.Context, localpart, password string) error {
	a, err := p.account(ctx, localpart)
	if err != nil {
		return err
	}
	hash, err := p.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	return p.update(ctx, a.User, func(a *storage.Account) error {
		if a.Deactivated {
			return ErrNoUser
		}
		a.PasswordHash = hash
		return nil
	})
}

// Deactivate implements Deactivator.
func (p *Passwords) Deactivate(ctx context.Context, localpart string) error {
	user, err := id.ParseUserID("@" + localpart + ":" + string(p.server))
	if err != nil {
		return ErrNoUser
	}
	return p.update(ctx, user, func(a *storage.Account) error {
		a.Deactivated, a.PasswordHash = true, ""
		return nil
	})
}

func (p *Passwords) update(ctx context.Context, user id.UserID, change func(*storage.Account) error) error {
	return p.db.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		a, err := tx.Account(user)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return ErrNoUser
		case err != nil:
			return err
		}
		if err := change(&a); err != nil {
			return err
		}
		return tx.UpdateAccount(a)
	})
}
