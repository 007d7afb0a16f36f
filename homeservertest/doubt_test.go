package homeservertest_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// TestMessageInDoubt: a message to another server that was stored without an answer arrives once it is sent again, though
// something that came later was sent before.
func TestMessageInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &federated{network: homeservertest.NewNetwork(t)}
		engine := storagetest.NewFaulty(sqlite.Memory(), nil)
		f.one, f.two = f.network.New("one.test", func(c *homeserver.Config) { c.Storage = engine }), f.network.New("two.test")
		f.alice, f.bob = f.one.User("alice"), f.two.User("bob")
		f.room = f.alice.CreateRoom(homeservertest.Public)
		join(f.bob, f.room, "one.test")
		time.Sleep(time.Minute)
		since := f.bob.Sync("").NextBatch

		written, away := false, false
		engine.Fail(func(c storagetest.Call) error {
			written = written || c.Op == storagetest.Exec && strings.Contains(c.Text, "mx_outgoing_edus")
			away = away || written && c.Op == storagetest.Committed
			if away && (c.Op == storagetest.Committed || c.Op == storagetest.Begin) {
				return errors.New("away")
			}
			return nil
		})
		send := func() int {
			return f.alice.Do("PUT", "/_matrix/client/v3/sendToDevice/m.test/1", object{
				"messages": object{f.bob.ID: object{f.bob.Device: object{"text": "in doubt"}}},
			}).Status
		}
		require.Equal(t, 500, send())
		engine.Fail(nil)
		f.alice.Send(f.room, "later")
		time.Sleep(time.Minute)
		require.Equal(t, 200, send())
		awaitSync(t, f.bob, since, 30*time.Second, hasMessage("in doubt"))
	})
}
