package auth_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// DM-01.
func TestDevices(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	s.clock.advance(1000)
	alice.again(M{"device_id": "a b/c", "initial_device_display_name": "phone \x00"})

	devices := s.get("/devices", alice.token).ok()["devices"].([]any)
	require.Len(t, devices, 2)
	require.Equal(t, alice.device, devices[0].(M)["device_id"])
	require.NotContains(t, devices[0], "display_name")
	require.Equal(t, "a b/c", devices[1].(M)["device_id"])

	require.Equal(t, "phone \x00", s.get("/devices/a%20b%2Fc", alice.token).ok()["display_name"])
	put := func(device string, body any) *answer {
		return s.call("PUT", client+"/devices/"+device, alice.token, body)
	}
	require.Equal(t, M{}, put("a%20b%2Fc", M{"display_name": "laptop"}).ok())
	require.Equal(t, "laptop", s.get("/devices/a%20b%2Fc", alice.token).ok()["display_name"])
	put("a%20b%2Fc", M{}).ok()
	require.Equal(t, "laptop", s.get("/devices/a%20b%2Fc", alice.token).ok()["display_name"])
	put("a%20b%2Fc", M{"display_name": ""}).ok()
	require.NotContains(t, s.get("/devices/a%20b%2Fc", alice.token).ok(), "display_name")

	put("unknown", M{"display_name": "x"}).fails(404, "M_NOT_FOUND")
	put("unknown", M{}).fails(404, "M_NOT_FOUND")
	put(bob.device, M{"display_name": "mine"}).fails(404, "M_NOT_FOUND")
	put(alice.device, M{"display_name": strings.Repeat("x", 256)}).fails(400, "M_INVALID_PARAM")
	put(alice.device, M{"display_name": 1}).fails(400, "M_BAD_JSON")
	put(alice.device, nil).fails(400, "M_NOT_JSON")
	s.get("/devices/unknown", alice.token).fails(404, "M_NOT_FOUND")
	s.get("/devices/"+bob.device, alice.token).fails(404, "M_NOT_FOUND")
	s.get("/devices/%ff", alice.token).fails(400, "M_INVALID_PARAM")
}

// DM-02.
func TestDeleteDevices(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	d1, d2 := alice.again(M{"device_id": "D1"}), alice.again(M{"device_id": "D2", "refresh_token": true})
	kept := alice.again(M{"device_id": "D3"})
	body := M{"devices": []string{"D1", "D2", "unknown", bob.device}}
	session := s.post("/delete_devices", alice.token, body).asks("")
	body["auth"] = alice.proof(session)
	require.Equal(t, M{}, s.post("/delete_devices", alice.token, body).ok())
	for _, u := range []*user{d1, d2} {
		s.whoami(u.token).fails(401, "M_UNKNOWN_TOKEN")
		s.get("/devices/"+u.device, alice.token).fails(404, "M_NOT_FOUND")
	}
	s.post("/refresh", "", M{"refresh_token": d2.next}).fails(401, "M_UNKNOWN_TOKEN")
	s.whoami(kept.token).ok()
	s.whoami(bob.token).ok()

	s.deleteDevice(alice.token, "D1", M{"auth": alice.proof("")}).ok() // it is gone already
	s.post("/delete_devices", alice.token, M{}).fails(400, "M_MISSING_PARAM")
	s.post("/delete_devices", alice.token, M{"devices": "D1"}).fails(400, "M_BAD_JSON")
	s.post("/delete_devices", alice.token, M{"devices": []int{1}}).fails(400, "M_BAD_JSON")
	s.deleteDevice(alice.token, alice.device, M{"auth": alice.proof("")}).ok() // one's own
	s.whoami(alice.token).fails(401, "M_UNKNOWN_TOKEN")
}

// What hangs on devices and accounts changes in their transaction, or neither does.
func TestDependants(t *testing.T) {
	var log []string
	var refuse error
	note := func(format string, args ...any) error {
		log = append(log, fmt.Sprintf(format, args...))
		return refuse
	}
	s := newServer(t, func(c *auth.Config) {
		c.Dependants = []auth.Dependant{{}, {
			Renamed: func(tx *storage.Tx, at storage.Pos, u id.UserID, d id.DeviceID) error {
				row, err := tx.Device(u, d)
				require.NoError(t, err)
				require.Positive(t, at)
				return note("renamed %s", row.Name)
			},
			Deleted: func(tx *storage.Tx, at storage.Pos, u id.UserID, gone []id.DeviceID) error {
				require.Positive(t, at)
				return note("deleted %s %v", u, gone)
			},
			Deactivated: func(_ *storage.Tx, _ storage.Pos, u id.UserID, erase bool) error { return note("gone %s %t", u, erase) },
		}}
		c.LoggedOut = func(u id.UserID, gone []id.DeviceID) { log = append(log, fmt.Sprintf("ended %s %v", u, gone)) }
		c.Hooks.OnLogout = func(_ context.Context, u string, gone []string) {
			log = append(log, fmt.Sprintf("out %s %v", u, gone))
		}
		c.Hooks.OnDeactivate = func(_ context.Context, u string, erase bool) {
			log = append(log, fmt.Sprintf("off %s %t", u, erase))
		}
	})
	expect := func(want ...string) {
		t.Helper()
		require.Equal(t, want, log)
		log = nil
	}
	alice := s.user("alice")
	phone := alice.again(M{"device_id": "PHONE"})
	expect()
	s.call("PUT", client+"/devices/PHONE", alice.token, M{"display_name": "new"}).ok()
	expect("renamed new")
	s.post("/logout", phone.token, nil).ok()
	expect("deleted @alice:example.org [PHONE]", "ended @alice:example.org [PHONE]", "out @alice:example.org [PHONE]")

	alice.again(M{"device_id": "PHONE"})
	refuse = fmt.Errorf("the keys are in the way")
	s.call("PUT", client+"/devices/PHONE", alice.token, M{"display_name": "newer"}).fails(500, "M_UNKNOWN")
	s.deleteDevice(alice.token, "PHONE", M{"auth": alice.proof("")}).fails(500, "M_UNKNOWN")
	s.post("/account/deactivate", alice.token, M{"auth": alice.proof("")}).fails(500, "M_UNKNOWN")
	require.NotContains(t, s.get("/devices/PHONE", alice.token).ok(), "display_name")
	alice.login(M{"device_id": "PHONE"}).ok()

	refuse, log = nil, nil
	s.post("/account/password", alice.token, M{"auth": alice.proof(""), "new_password": "pw-alice"}).ok()
	expect("deleted @alice:example.org [PHONE]", "ended @alice:example.org [PHONE]", "out @alice:example.org [PHONE]")
	s.post("/account/deactivate", alice.token, M{"auth": alice.proof(""), "erase": true}).ok()
	expect("deleted @alice:example.org ["+alice.device+"]", "gone @alice:example.org true",
		"ended @alice:example.org ["+alice.device+"]", "out @alice:example.org ["+alice.device+"]", "off @alice:example.org true")
}
