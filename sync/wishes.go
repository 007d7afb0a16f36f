package syncing

import (
	"context"
	"errors"
	"sync"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// ignoredUserList is the account data that says whom a user does not want to hear.
const ignoredUserList = "m.ignored_user_list"

// wishes are what a user does not want to be told. They are immutable.
type wishes struct {
	ignored roomstate.Ignored
	invites *eventauth.InviteRules
}

// ignores reports whether the user does not want to read what sender says.
func (w *wishes) ignores(sender id.UserID) bool { return w.ignored.Has(sender) }

// maxWishes is how many users' wishes are kept in memory.
const maxWishes = 10000

// wishCache holds the wishes of users.
type wishCache struct {
	mu sync.Mutex // guards the following
	// known are those at hand; changes counts what was changed, so that what was read before is not kept.
	known   map[id.UserID]*wishes
	changes int64
}

func newWishCache() *wishCache { return &wishCache{known: map[id.UserID]*wishes{}} }

// changed is told of every change of account data that goes through this package.
func (c *wishCache) changed(user id.UserID, room id.RoomID, typ string) {
	if room != "" || typ != ignoredUserList && typ != eventauth.InvitePermission && typ != eventauth.InviteFilter {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, user)
	c.changes++
}

func (c *wishCache) get(user id.UserID) (w *wishes, changes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[user], c.changes
}

// put keeps what was read, unless something has changed meanwhile.
func (c *wishCache) put(user id.UserID, w *wishes, changes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes {
		return
	}
	if len(c.known) >= maxWishes {
		for other := range c.known {
			delete(c.known, other)
			break
		}
	}
	c.known[user] = w
}

// wishesOf returns the wishes of a user. A change counts from its commit on.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mignored_user_list and #minvite_permission_config
func (s *Service) wishesOf(ctx context.Context, user id.UserID) (*wishes, error) {
	w, changes := s.wishes.get(user)
	if w != nil {
		return w, nil
	}
	ignored, err := s.Cache.IgnoredBy(ctx, user)
	if err != nil {
		return nil, err
	}
	var permission, filter []byte
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if permission, err = tx.AccountData(user, "", eventauth.InvitePermission); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		filter, err = tx.AccountData(user, "", eventauth.InviteFilter)
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	w = &wishes{ignored: ignored, invites: eventauth.ReadInviteRules(permission, filter)}
	s.wishes.put(user, w, changes)
	return w, nil
}
