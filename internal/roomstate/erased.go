package roomstate

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// erased are the users who asked to be forgotten. There are few, and nobody ever ceases to be one, so they
// are read once and kept.
type erased struct {
	read  atomic.Bool // users has those that are stored
	users sync.Map    // of id.UserID
}

// loadErased reads who is stored as erased, once.
func (s *users) loadErased(ctx context.Context) error {
	if s.erased.read.Load() {
		return nil
	}
	var list []id.UserID
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.ErasedUsers()
		return err
	})
	if err != nil {
		return err
	}
	for _, user := range list {
		s.erased.users.Store(user, true)
	}
	s.erased.read.Store(true)
	return nil
}

func (s *users) isErased(user id.UserID) bool {
	_, ok := s.erased.users.Load(user)
	return ok
}

// Erase lets the events of a user be seen redacted by those who were not in the room when they were sent. It
// is called after the commit that made the user's account an erased one.
func (c *Cache) Erase(user id.UserID) { c.users.erased.users.Store(user, true) }
