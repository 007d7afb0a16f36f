package syncing_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// loseAnswer lets a database go away in the commit of the next act that writes what text names: it is stored, and nobody
// knows.
func loseAnswer(engine *storagetest.Faulty, text string) {
	written, away := false, false
	engine.Fail(func(c storagetest.Call) error {
		switch {
		case c.Op == storagetest.Exec && strings.Contains(c.Text, text):
			written = true
		case c.Op == storagetest.Committed && written:
			away = true
		}
		if away && (c.Op == storagetest.Committed || c.Op == storagetest.Begin) {
			return errors.New("away")
		}
		return nil
	})
}

// TestChangesInDoubt: what may be stored is told, though the database has not said so.
func TestChangesInDoubt(t *testing.T) {
	engine := storagetest.NewFaulty(sqlite.Memory(), nil)
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.Storage = engine })
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	bob.Do("POST", "/_matrix/client/v3/keys/upload", object{"one_time_keys": object{"plain:1": "key"}}).WantOK()
	since := alice.Sync("").NextBatch
	require.EqualValues(t, 1, bob.Sync("").Get("device_one_time_keys_count.plain").Int())

	loseAnswer(engine, "mx_device_changes")
	require.Equal(t, 500, bob.Do("PUT", "/_matrix/client/v3/devices/"+url.PathEscape(bob.Device), object{"display_name": "new"}).Status)
	engine.Fail(nil)
	alice.Send(room, "hi")
	changed, _ := lists(alice.Sync(since))
	require.Equal(t, sorted(bob), changed)

	loseAnswer(engine, "mx_spent_keys")
	claim := object{"one_time_keys": object{bob.ID: object{bob.Device: "plain"}}}
	require.Equal(t, 500, alice.Do("POST", "/_matrix/client/v3/keys/claim", claim).Status)
	engine.Fail(nil)
	require.False(t, bob.Sync("").Get("device_one_time_keys_count.plain").Exists())
}

// TestChangesOfStrangers: who shares no room with somebody whose devices have changed does not ask storage about it.
func TestChangesOfStrangers(t *testing.T) {
	engine := storagetest.NewFaulty(sqlite.Memory(), nil)
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.Storage = engine })
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	bob.MustJoin(alice.CreateRoom(homeservertest.Public))
	asked := func(fn func()) (n int) {
		engine.Fail(func(c storagetest.Call) error {
			if c.Op == storagetest.Query && strings.Contains(c.Text, "mx_device_changes") && strings.Contains(c.Text, "audience") {
				n++
			}
			return nil
		})
		fn()
		engine.Fail(nil)
		return n
	}
	since := alice.Sync("").NextBatch
	changeDevices(carol)
	require.Zero(t, asked(func() { since = alice.Sync(since).NextBatch }))
	changeDevices(bob)
	require.Equal(t, 1, asked(func() {
		changed, _ := lists(alice.Sync(since))
		require.Equal(t, sorted(bob), changed)
	}))
}
