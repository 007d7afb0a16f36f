package roomstate

import (
	"context"
	"errors"
	"sync"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Ignored is whom a user ignores. It is immutable; nil is nobody.
type Ignored map[id.UserID]struct{}

// Has reports whether the user ignores another.
func (i Ignored) Has(user id.UserID) bool {
	_, ok := i[user]
	return ok
}

// list returns them in no order.
func (i Ignored) list() []id.UserID {
	list := make([]id.UserID, 0, len(i))
	for user := range i {
		list = append(list, user)
	}
	return list
}

// ignoredUserList is the type of account data that says whom a user ignores.
const ignoredUserList = "m.ignored_user_list"

// ignores holds whom users ignore, of at most maxUsers.
type ignores struct {
	mu sync.Mutex // guards the following
	// known are those at hand; changes counts what was changed, so that what was read before is not kept.
	known   map[id.UserID]Ignored
	changes int64
}

// IgnoredBy returns whom a user ignores. A change counts from its commit on.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mignored_user_list
func (c *Cache) IgnoredBy(ctx context.Context, user id.UserID) (Ignored, error) {
	known, ok, changes := c.ignores.get(user)
	if ok {
		return known, nil
	}
	var content []byte
	err := c.db.Read(ctx, func(tx *storage.Tx) (err error) {
		content, err = tx.AccountData(user, "", ignoredUserList)
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	list := readIgnored(user, content)
	c.ignores.put(user, list, changes)
	return list, nil
}

// AccountDataChanged tells the cache, after the commit, that global account data of a user has changed.
func (c *Cache) AccountDataChanged(user id.UserID, typ string) {
	if typ != ignoredUserList {
		return
	}
	c.ignores.mu.Lock()
	defer c.ignores.mu.Unlock()
	delete(c.ignores.known, user)
	c.ignores.changes++
}

func (i *ignores) get(user id.UserID) (list Ignored, ok bool, changes int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	list, ok = i.known[user]
	return list, ok, i.changes
}

// put keeps what was read, unless something has changed meanwhile.
func (i *ignores) put(user id.UserID, list Ignored, changes int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.changes != changes {
		return
	}
	if i.known == nil {
		i.known = map[id.UserID]Ignored{}
	}
	if len(i.known) >= maxUsers {
		for other := range i.known {
			delete(i.known, other)
			break
		}
	}
	i.known[user] = list
}

// readIgnored reads the content of m.ignored_user_list, which is canonical JSON or nil. Nobody ignores themselves.
func readIgnored(user id.UserID, content []byte) Ignored {
	var list Ignored
	users := canonjson.Open(canonjson.Get(content, "ignored_users"))
	for {
		key, _, ok := users.Next()
		if !ok {
			return list
		}
		name, _ := canonjson.AppendText(nil, append(append([]byte{'"'}, key...), '"'))
		if other := id.UserID(name); other != user {
			if list == nil {
				list = Ignored{}
			}
			list[other] = struct{}{}
		}
	}
}
