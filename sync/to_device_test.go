package syncing_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// to are messages for sendToDevice: user, device, content, and so on.
func to(parts ...any) object {
	messages := map[string]map[string]any{}
	for i := 0; i < len(parts); i += 3 {
		u, device := parts[i].(*homeservertest.User), parts[i+1].(string)
		if messages[u.ID] == nil {
			messages[u.ID] = map[string]any{}
		}
		messages[u.ID][device] = parts[i+2]
	}
	return object{"messages": messages}
}

func text(s string) object { return object{"text": s} }

func sendTo(u *homeservertest.User, txn string, body any) *homeservertest.Response {
	return u.Do("PUT", "/_matrix/client/v3/sendToDevice/m.test/"+url.PathEscape(txn), body)
}

// told are the texts of the messages to the device in an answer.
func told(s *homeservertest.Sync) []string {
	list := []string{}
	for _, e := range s.Get("to_device.events").Array() {
		list = append(list, e.Get("content.text").Str)
	}
	return list
}

// TestToDevice: messages are told in order until a newer token acknowledges them, and never again after that.
func TestToDevice(t *testing.T) {
	alice, bob := two(t)
	since := bob.Sync("").NextBatch
	sendTo(alice, "1", to(bob, bob.Device, text("one"))).WantOK()
	sendTo(alice, "2", to(bob, bob.Device, text("two"))).WantOK()

	first := bob.Sync(since)
	require.Equal(t, []string{"one", "two"}, told(first))
	require.JSONEq(t, `{"content":{"text":"one"},"sender":"`+alice.ID+`","type":"m.test"}`, first.Get("to_device.events.0").Raw)
	require.Equal(t, []string{"one", "two"}, told(bob.Sync(since)), "nothing was acknowledged")
	require.Equal(t, []string{"one", "two"}, told(bob.Sync("")), "nothing was acknowledged")

	require.Empty(t, told(bob.Sync(first.NextBatch)))
	require.Empty(t, told(bob.Sync(since)), "an older token brings nothing back")
	require.Empty(t, told(bob.Sync("")))
	require.False(t, bob.Sync("").Get("to_device").Exists())

	sendTo(alice, "3", to(bob, bob.Device, text("three"))).WantOK()
	require.Equal(t, []string{"three"}, told(bob.Sync(since)))
}

// TestToDeviceTransactions: the same transaction of the same device is taken once, also after a restart.
func TestToDeviceTransactions(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	other := alice.Login()
	for range 2 {
		sendTo(alice, "a/b", to(bob, bob.Device, text("first"))).WantOK()
	}
	sendTo(other, "a/b", to(bob, bob.Device, text("of another device"))).WantOK()
	alice.Do("PUT", "/_matrix/client/v3/sendToDevice/m.other/a%2Fb", to(bob, bob.Device, text("of another type"))).WantOK()
	hs.Restart()
	sendTo(alice, "a/b", to(bob, bob.Device, text("first"))).WantOK()
	s := bob.Sync("")
	require.Equal(t, []string{"first", "of another device", "of another type"}, told(s))
	bob.Sync(s.NextBatch)
	hs.Restart()
	sendTo(alice, "a/b", to(bob, bob.Device, text("first"))).WantOK()
	require.Empty(t, told(bob.Sync("")), "neither the transaction nor the acknowledgement is forgotten")
}

// TestToDeviceAtOnce: of one transaction that is sent many times at once, one is taken.
func TestToDeviceAtOnce(t *testing.T) {
	alice, bob := two(t)
	var sending sync.WaitGroup
	for range 20 {
		sending.Go(func() { sendTo(alice, "t", to(bob, bob.Device, text("once"))) })
	}
	sending.Wait()
	require.Equal(t, []string{"once"}, told(bob.Sync("")))
}

// TestToDeviceWildcard: "*" stands for all devices of a user that are not named.
func TestToDeviceWildcard(t *testing.T) {
	alice, bob := two(t)
	second := bob.Login()
	sendTo(alice, "1", to(bob, "*", text("all"), alice, "*", text("self"))).WantOK()
	sendTo(alice, "2", to(bob, "*", text("rest"), bob, bob.Device, text("one"))).WantOK()
	require.Equal(t, []string{"all", "one"}, told(bob.Sync("")))
	require.Equal(t, []string{"all", "rest"}, told(second.Sync("")))
	require.Equal(t, []string{"self"}, told(alice.Sync("")))
}

// TestToDeviceUnknown: what is for nobody is passed over, and what is no message is refused.
func TestToDeviceUnknown(t *testing.T) {
	alice, bob := two(t)
	messages := to(bob, "NOSUCH", text("x"), bob, bob.Device, text("y"))
	messages["messages"].(map[string]map[string]any)["@nobody:"+strings.SplitN(bob.ID, ":", 2)[1]] = map[string]any{"*": text("z")}
	messages["messages"].(map[string]map[string]any)["@far:away.example"] = map[string]any{"*": text("z")}
	sendTo(alice, "1", messages).WantOK()
	require.Equal(t, []string{"y"}, told(bob.Sync("")))

	sendTo(alice, "2", object{}).WantError(400, "M_MISSING_PARAM")
	sendTo(alice, "3", object{"messages": 5}).WantError(400, "M_BAD_JSON")
	sendTo(alice, "4", object{"messages": object{bob.ID: object{bob.Device: "text"}}}).WantError(400, "M_BAD_JSON")
	sendTo(alice, "5", object{"messages": object{"bob": object{bob.Device: object{}}}}).WantError(400, "M_INVALID_PARAM")
	sendTo(alice, "6", to(bob, bob.Device, text(strings.Repeat("x", 66_000)))).WantError(413, "M_TOO_LARGE")
	alice.Do("PUT", "/_matrix/client/v3/sendToDevice/"+strings.Repeat("t", 300)+"/7", to(bob, bob.Device, text(""))).WantError(400, "M_INVALID_PARAM")
	require.Equal(t, []string{"y"}, told(bob.Sync("")), "what is refused in part is refused")
}

// TestToDeviceBatches: an answer has a hundred messages, and the next one goes on at once.
func TestToDeviceBatches(t *testing.T) {
	alice, bob := two(t)
	since := bob.Sync("").NextBatch
	var want, got []string
	for i := range 250 {
		want = append(want, fmt.Sprint(i))
		sendTo(alice, want[i], to(bob, bob.Device, text(want[i]))).WantOK()
	}
	for _, n := range []int{100, 100, 50} {
		s := bob.SyncWith(url.Values{"since": {since}, "timeout": {"10000"}})
		require.Len(t, told(s), n)
		require.Equal(t, told(s), told(bob.Sync(since)), "until it is acknowledged")
		got, since = append(got, told(s)...), s.NextBatch
	}
	require.Equal(t, want, got)
	require.Empty(t, told(bob.Sync(since)))
	require.NotContains(t, strings.Split(since, "_")[0], ".", "everything was told")
}

// TestToDeviceLarge: an answer has no more than about a megabyte of messages.
func TestToDeviceLarge(t *testing.T) {
	alice, bob := two(t)
	for i := range 30 {
		sendTo(alice, fmt.Sprint(i), to(bob, bob.Device, text(strings.Repeat("x", 60_000)))).WantOK()
	}
	first := bob.Sync("")
	require.Less(t, len(told(first)), 20)
	require.Len(t, append(told(first), told(bob.Sync(first.NextBatch))...), 30)
}

// TestToDeviceWakes: a message ends the waiting of its device, and of no other.
func TestToDeviceWakes(t *testing.T) {
	alice, bob := two(t)
	second := bob.Login()
	since, sinceSecond := bob.Sync("").NextBatch, second.Sync("").NextBatch
	since = bob.Sync(since).NextBatch // the second device is news
	sinceSecond = second.Sync(sinceSecond).NextBatch
	woken := make(chan *homeservertest.Sync, 2)
	var waiting sync.WaitGroup
	waiting.Go(func() { woken <- bob.SyncWith(url.Values{"since": {since}, "timeout": {"20000"}}) })
	ctx, stop := context.WithCancel(context.Background())
	waiting.Go(func() {
		second.DoContext(ctx, "GET", "/_matrix/client/v3/sync?timeout=20000&since="+url.QueryEscape(sinceSecond), nil)
		require.Error(t, ctx.Err(), "the other device goes on waiting")
	})
	time.Sleep(50 * time.Millisecond)
	sendTo(alice, "1", to(bob, bob.Device, text("hey"))).WantOK()
	require.Equal(t, []string{"hey"}, told(<-woken))
	time.Sleep(50 * time.Millisecond)
	stop()
	waiting.Wait()
}

// TestToDeviceDeleted: what was for a device dies with it, and does not come back with its name.
func TestToDeviceDeleted(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	gone := bob.Login()
	sendTo(alice, "1", to(bob, "*", text("x"))).WantOK()
	gone.Do("POST", "/_matrix/client/v3/logout", object{}).WantOK()
	sendTo(alice, "2", to(bob, gone.Device, text("y"))).WantOK()
	back := bob.Do("POST", "/_matrix/client/v3/login", object{
		"type": "m.login.password", "password": bob.Password, "device_id": gone.Device,
		"identifier": object{"type": "m.id.user", "user": bob.ID},
	}).WantOK()
	gone.Token = back.Get("access_token").Str
	require.Empty(t, told(gone.Sync("")))
	require.Equal(t, []string{"x"}, told(bob.Sync("")))
}

// TestToDeviceGuests: guests send and get messages.
func TestToDeviceGuests(t *testing.T) {
	hs := homeservertest.New(t)
	guest, bob := hs.Guest(), hs.User("bob")
	sendTo(guest, "1", to(bob, "*", text("from"))).WantOK()
	sendTo(bob, "1", to(guest, guest.Device, text("to"))).WantOK()
	require.Equal(t, []string{"from"}, told(bob.Sync("")))
	require.Equal(t, []string{"to"}, told(guest.Sync("")))
}
