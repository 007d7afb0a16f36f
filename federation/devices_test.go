package federation_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// follower is Devices of a server without rooms.
func follower(t *testing.T, changed func(id.UserID)) *federation.Devices {
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	hub := notify.New(db.Published())
	d := federation.NewDevices(federation.DevicesConfig{
		ServerName: "hs.test", DB: db, Cache: roomstate.NewCache(db, hub, roomstate.Config{}), Hub: hub,
		Outbox: federation.NewOutbox(db, nil), Wake: func([]id.ServerName) {},
		Changed: func(_ *storage.Tx, _ storage.Pos, user id.UserID, _ ...id.DeviceID) error {
			changed(user)
			return nil
		},
	})
	require.NoError(t, d.Start(context.Background()))
	t.Cleanup(func() {
		d.Close()
		require.NoError(t, db.Close())
	})
	return d
}

// A room that cannot be read keeps the follower for a moment, and not for good.
func TestFollowerPassesOverWhatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := follower(t, func(id.UserID) {})
		for _, user := range []id.UserID{"@alice:hs.test", "@far:away.test"} {
			require.NoError(t, d.DB.Write(t.Context(), func(tx *storage.Tx, at storage.Pos) error {
				tx.Then(func(at storage.Pos) {
					d.Hub.Record(notify.Change{Pos: at, Kind: notify.Membership, Room: "!damaged:hs.test", User: user})
				}, nil)
				return nil
			}))
		}
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()
		failed := d.Refresh(ctx, []id.UserID{"@far:away.test"})
		require.ErrorIs(t, failed["@far:away.test"], e2ee.ErrNotShared)
	})
}

// Of lists that are too many to be asked for in the background clients are told.
func TestClientsAreToldOfListsThatAreTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Value
		d := follower(t, func(user id.UserID) { told.Store(user) })
		users := make([]id.UserID, federation.MaxWantedLists)
		for i := range users {
			users[i] = id.UserID(fmt.Sprintf("@u%d:s%d.test", i, i%1000))
		}
		d.Want(users...)
		d.Want(users[0])
		d.Want("@one:more.test")
		synctest.Wait()
		require.Equal(t, id.UserID("@one:more.test"), told.Load())
	})
}
