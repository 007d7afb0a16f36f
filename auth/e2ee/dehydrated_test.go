package e2ee_test

import (
	"encoding/json"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

const dehydrated = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"

func dehydrate(u *homeservertest.User, device string) *homeservertest.Response {
	return u.Do("PUT", dehydrated, map[string]any{
		"device_id": device, "device_data": map[string]any{"algorithm": "a", "pickle": device}, "initial_device_display_name": "dry",
		"device_keys": map[string]any{
			"user_id": u.ID, "device_id": device, "algorithms": []string{"m.x"}, "dehydrated": true,
			"keys": map[string]any{"ed25519:" + device: "key of " + device}, "signatures": map[string]any{},
		},
		"one_time_keys": map[string]any{"curve25519:A": "b25l"},
	})
}

// TestDehydratedDevices is MSC3814: a device that nobody has a session of collects messages until another one takes it up.
func TestDehydratedDevices(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	alice.Do("GET", dehydrated, nil).WantError(404, "M_NOT_FOUND")
	alice.Do("DELETE", dehydrated, nil).WantError(404, "M_NOT_FOUND")
	require.Equal(t, "DRY", dehydrate(alice, "DRY").WantOK().Get("device_id").Str)
	require.JSONEq(t, `{"device_id":"DRY","device_data":{"algorithm":"a","pickle":"DRY"}}`, string(alice.Do("GET", dehydrated, nil).WantOK().Body))
	keys := bob.Do("POST", "/_matrix/client/v3/keys/query", map[string]any{"device_keys": map[string]any{alice.ID: []string{}}}).WantOK()
	require.Contains(t, keys.Get("device_keys").Raw, "key of DRY")

	for i := range 150 {
		bob.Do("PUT", "/_matrix/client/v3/sendToDevice/m.test/"+strconv.Itoa(i), map[string]any{
			"messages": map[string]any{alice.ID: map[string]any{"DRY": map[string]any{"n": i}}},
		}).WantOK()
	}
	events := func(device, next string) *homeservertest.Response {
		return alice.Do("POST", dehydrated+"/"+url.PathEscape(device)+"/events", json.RawMessage(`{"next_batch":"`+next+`"}`))
	}
	for range 2 { // nothing is deleted
		first := events("DRY", "").WantOK()
		second := events("DRY", first.Get("next_batch").Str).WantOK()
		require.Len(t, append(first.Get("events").Array(), second.Get("events").Array()...), 150)
		require.EqualValues(t, 149, second.Get("events.49.content.n").Int())
		last := events("DRY", second.Get("next_batch").Str).WantOK()
		require.Equal(t, "[]", last.Get("events").Raw)
		require.Equal(t, second.Get("next_batch").Str, last.Get("next_batch").Str)
	}
	events("DRY", "x").WantError(400, "M_INVALID_PARAM")
	events(alice.Device, "").WantError(404, "M_NOT_FOUND")

	dehydrate(alice, "WET").WantOK()
	events("DRY", "").WantError(404, "M_NOT_FOUND")
	require.Equal(t, "[]", events("WET", "").WantOK().Get("events").Raw)
	alice.Do("GET", "/_matrix/client/v3/devices/DRY", nil).WantError(404, "M_NOT_FOUND")
	dehydrate(alice, "WET").WantOK()
	dehydrate(alice, alice.Device).WantError(400, "M_INVALID_PARAM")
	require.Equal(t, "WET", alice.Do("GET", dehydrated, nil).WantOK().Get("device_id").Str)
	require.Equal(t, "WET", alice.Do("DELETE", dehydrated, nil).WantOK().Get("device_id").Str)
	alice.Do("GET", dehydrated, nil).WantError(404, "M_NOT_FOUND")
	alice.Do("PUT", dehydrated, map[string]any{}).WantError(400, "M_MISSING_PARAM")
}

// TestDehydratedDeviceIsNoSession: nobody logs in as it, so that no session goes when another one takes its place.
func TestDehydratedDeviceIsNoSession(t *testing.T) {
	alice := homeservertest.New(t, func(c *homeserver.Config) {
		c.Now = func() time.Time { return time.UnixMilli(1_234_567_890_123) }
	}).User("alice")
	login := func() *homeservertest.Response {
		return alice.Do("POST", "/_matrix/client/v3/login", map[string]any{
			"type": "m.login.password", "password": alice.Password, "device_id": "DRY",
			"identifier": map[string]any{"type": "m.id.user", "user": alice.ID},
		})
	}
	dehydrate(alice, "DRY").WantOK()
	require.Equal(t, int64(1_234_567_890_123), alice.Do("GET", "/_matrix/client/v3/devices/DRY", nil).WantOK().Get("last_seen_ts").Int())
	login().WantError(403, "M_FORBIDDEN")
	dehydrate(alice, "DRY").WantOK()
	dehydrate(alice, "WET").WantOK()
	login().WantOK()
	dehydrate(alice, "DAMP").WantOK()
	alice.Do("GET", "/_matrix/client/v3/devices/DRY", nil).WantOK()
}

// TestDehydratedDeviceDeleted: it can be deleted as any device, and goes with all of them.
func TestDehydratedDeviceDeleted(t *testing.T) {
	alice := homeservertest.New(t).User("alice")
	dehydrate(alice, "DRY").WantOK()
	alice.Do("DELETE", "/_matrix/client/v3/devices/DRY", map[string]any{"auth": map[string]any{
		"type": "m.login.password", "password": alice.Password, "identifier": map[string]any{"type": "m.id.user", "user": alice.ID},
	}}).WantOK()
	alice.Do("GET", dehydrated, nil).WantError(404, "M_NOT_FOUND")
}
