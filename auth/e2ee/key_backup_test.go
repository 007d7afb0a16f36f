package e2ee_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const algorithm = "m.megolm_backup.v1.curve25519-aes-sha2"

func (d *device) newBackup() string {
	d.t.Helper()
	body := M{"algorithm": algorithm, "auth_data": M{"public_key": "k"}}
	return d.Do("POST", v3+"/room_keys/version", body).WantOK().Get("version").String()
}

func (d *device) backup(method, what, version string, body any) *homeservertest.Response {
	d.t.Helper()
	return d.Do(method, v3+"/room_keys/keys"+what+"?version="+version, body)
}

func session(verified bool, first, forwarded int) M {
	return M{
		"is_verified": verified, "first_message_index": first, "forwarded_count": forwarded,
		"session_data": M{"ciphertext": fmt.Sprint(verified, first, forwarded)}, "org.example.more": 1.5,
	}
}

const room, otherRoom = "!room:hs.test", "!other/room:hs.test"

// KB-01, KB-02.
func TestBackupVersions(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	alice.Do("GET", v3+"/room_keys/version", nil).WantError(404, "M_NOT_FOUND")
	one, two := alice.newBackup(), alice.newBackup()
	require.NotEqual(t, one, two)
	r := alice.Do("GET", v3+"/room_keys/version", nil).WantOK()
	require.JSONEq(t, `{"algorithm":"`+algorithm+`","auth_data":{"public_key":"k"},"count":0,"etag":"0","version":"`+two+`"}`, string(r.Body))
	require.Equal(t, one, alice.Do("GET", v3+"/room_keys/version/"+one, nil).WantOK().Get("version").String())
	bob.Do("GET", v3+"/room_keys/version/"+one, nil).WantError(404, "M_NOT_FOUND")

	put := func(version string, body M) *homeservertest.Response {
		return alice.Do("PUT", v3+"/room_keys/version/"+version, body)
	}
	put(one, M{"algorithm": algorithm, "auth_data": "text", "version": one}).WantOK()
	put(one, M{"algorithm": algorithm, "auth_data": M{"public_key": "other"}}).WantOK()
	require.Equal(t, "other", alice.Do("GET", v3+"/room_keys/version/"+one, nil).Get("auth_data.public_key").String())
	put(one, M{"algorithm": "other", "auth_data": M{}}).WantError(400, "M_INVALID_PARAM")
	put(one, M{"algorithm": algorithm, "auth_data": M{}, "version": two}).WantError(400, "M_INVALID_PARAM")
	put(one, M{"algorithm": algorithm}).WantError(400, "M_MISSING_PARAM")
	put("99", M{"algorithm": algorithm, "auth_data": M{}}).WantError(404, "M_NOT_FOUND")
	put("x", M{"algorithm": algorithm, "auth_data": M{}}).WantError(404, "M_NOT_FOUND")
	alice.Do("POST", v3+"/room_keys/version", M{"auth_data": M{}}).WantError(400, "M_MISSING_PARAM")
	alice.Do("POST", v3+"/room_keys/version", M{"algorithm": 1, "auth_data": M{}}).WantError(400, "M_BAD_JSON")
	large := M{"x": strings.Repeat("x", 70<<10)}
	alice.Do("POST", v3+"/room_keys/version", M{"algorithm": "a", "auth_data": large}).WantError(413, "M_TOO_LARGE")

	del := func(version string) *homeservertest.Response {
		return alice.Do("DELETE", v3+"/room_keys/version/"+version, nil)
	}
	alice.backup("PUT", "/"+escape(room)+"/s", two, session(true, 1, 1)).WantOK()
	del(two).WantOK()
	del(two).WantOK()
	del("99").WantError(404, "M_NOT_FOUND")
	bob.Do("DELETE", v3+"/room_keys/version/"+one, nil).WantError(404, "M_NOT_FOUND")
	alice.Do("GET", v3+"/room_keys/version/"+two, nil).WantError(404, "M_NOT_FOUND")
	alice.backup("GET", "", two, nil).WantError(404, "M_NOT_FOUND")
	require.Equal(t, one, alice.Do("GET", v3+"/room_keys/version", nil).Get("version").String())
	three := alice.newBackup()
	require.NotEqual(t, two, three, "a number is never given out again")
	require.JSONEq(t, `{"rooms":{}}`, string(alice.backup("GET", "", three, nil).WantOK().Body))
}

// KB-03, KB-06, KB-08.
func TestBackupKeys(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	v := alice.newBackup()
	r := alice.backup("PUT", "", v, M{"rooms": M{
		room:      M{"sessions": M{"a": session(true, 1, 1), "b/+": session(true, 2, 2)}},
		otherRoom: M{"sessions": M{"a": session(false, 3, 3)}},
	}}).WantOK()
	require.EqualValues(t, 3, r.Get("count").Int())
	etag := r.Get("etag").String()
	r = alice.backup("PUT", "/"+escape(room), v, M{"sessions": M{"a": session(true, 1, 1), "c": session(true, 1, 1)}}).WantOK()
	require.EqualValues(t, 4, r.Get("count").Int())
	require.NotEqual(t, etag, r.Get("etag").String())
	etag = r.Get("etag").String()
	r = alice.backup("PUT", "/"+escape(room)+"/a", v, session(false, 0, 0)).WantOK()
	require.Equal(t, etag, r.Get("etag").String(), "nothing has changed")

	all := alice.backup("GET", "", v, nil).WantOK()
	require.Len(t, all.Get("rooms").Map(), 2)
	require.Len(t, at(all, "rooms", room, "sessions").Map(), 3)
	require.JSONEq(t, `{"is_verified":true,"first_message_index":2,"forwarded_count":2,"session_data":{"ciphertext":"true 2 2"},"org.example.more":1.5}`,
		at(all, "rooms", room, "sessions", "b/+").Raw)
	require.Len(t, at(alice.backup("GET", "/"+escape(otherRoom), v, nil).WantOK(), "sessions").Map(), 1)
	require.EqualValues(t, 2, alice.backup("GET", "/"+escape(room)+"/"+escape("b/+"), v, nil).WantOK().Get("first_message_index").Int())
	alice.backup("GET", "/"+escape(room)+"/none", v, nil).WantError(404, "M_NOT_FOUND")
	require.JSONEq(t, `{"sessions":{}}`, string(alice.backup("GET", "/"+escape("!none:hs.test"), v, nil).WantOK().Body))

	r = alice.backup("DELETE", "/"+escape(room)+"/a", v, nil).WantOK()
	require.EqualValues(t, 3, r.Get("count").Int())
	require.NotEqual(t, etag, r.Get("etag").String())
	again := alice.backup("DELETE", "/"+escape(room)+"/a", v, nil).WantOK()
	require.Equal(t, r.Get("etag").String(), again.Get("etag").String())
	require.EqualValues(t, 1, alice.backup("DELETE", "/"+escape(room), v, nil).WantOK().Get("count").Int())
	require.EqualValues(t, 0, alice.backup("DELETE", "", v, nil).WantOK().Get("count").Int())
	require.JSONEq(t, `{"rooms":{}}`, string(alice.backup("GET", "", v, nil).WantOK().Body))
}

// An answer is written in pages, which nobody sees.
func TestBackupPages(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	v := alice.newBackup()
	for rooms, sessions := range map[int]int{1: 64, 3: 50, 150: 1} {
		alice.backup("DELETE", "", v, nil).WantOK()
		all := M{}
		for i := range rooms {
			of := M{}
			for j := range sessions {
				of[fmt.Sprint("s", j)] = session(true, i, j)
			}
			all[fmt.Sprintf("!r%d:hs.test", i)] = M{"sessions": of}
		}
		want := must(json.Marshal(M{"rooms": all}))
		alice.backup("PUT", "", v, M{"rooms": all}).WantOK()
		require.JSONEq(t, string(want), string(alice.backup("GET", "", v, nil).WantOK().Body))
		for room, of := range all {
			one := alice.backup("GET", "/"+escape(room), v, nil).WantOK()
			require.JSONEq(t, string(must(json.Marshal(of))), string(one.Body))
		}
	}
}

// KB-05, C-84: which of two keys is the better one.
func TestBackupReplacement(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	v := alice.newBackup()
	for i, tt := range []struct {
		old, new M
		replaced bool
	}{
		{session(false, 1, 1), session(true, 9, 9), true},
		{session(true, 9, 9), session(false, 1, 1), false},
		{session(true, 5, 1), session(true, 4, 9), true},
		{session(true, 4, 9), session(true, 5, 1), false},
		{session(false, 5, 5), session(false, 5, 4), true},
		{session(false, 5, 4), session(false, 5, 5), false},
		{session(true, 5, 5), session(true, 5, 5), false},
	} {
		path := fmt.Sprintf("/%s/%d", escape(room), i)
		alice.backup("PUT", path, v, tt.old).WantOK()
		alice.backup("PUT", path, v, tt.new).WantOK()
		want := tt.old
		if tt.replaced {
			want = tt.new
		}
		require.Equal(t, want["session_data"].(M)["ciphertext"], alice.backup("GET", path, v, nil).Get("session_data.ciphertext").String(), "case %d", i)
	}
}

// KB-04, KB-07, C-84.
func TestC84BackupRefuses(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	old, v := alice.newBackup(), alice.newBackup()
	path := "/" + escape(room) + "/s"
	r := alice.backup("PUT", path, old, session(true, 1, 1))
	r.WantError(403, "M_WRONG_ROOM_KEYS_VERSION")
	require.Equal(t, v, r.Get("current_version").String())
	alice.backup("PUT", path, "99", session(true, 1, 1)).WantError(404, "M_NOT_FOUND")
	bob.backup("PUT", path, v, session(true, 1, 1)).WantError(404, "M_NOT_FOUND")
	bob.backup("GET", "", v, nil).WantError(404, "M_NOT_FOUND")
	for _, method := range []string{"GET", "DELETE"} {
		alice.Do(method, v3+"/room_keys/keys", nil).WantError(400, "M_MISSING_PARAM")
		alice.backup(method, "", "bogus", nil).WantError(404, "M_NOT_FOUND")
	}
	alice.Do("PUT", v3+"/room_keys/keys", M{"rooms": M{}}).WantError(400, "M_MISSING_PARAM")
	alice.backup("PUT", "", v, M{}).WantError(400, "M_MISSING_PARAM")
	alice.backup("PUT", "", v, M{"rooms": M{room: M{}}}).WantError(400, "M_MISSING_PARAM")
	alice.backup("PUT", "", v, M{"rooms": M{"room": M{"sessions": M{}}}}).WantError(400, "M_INVALID_PARAM")
	for what, bad := range map[string]M{
		"no session_data":   with(session(true, 1, 1), M{"session_data": nil}),
		"no is_verified":    with(session(true, 1, 1), M{"is_verified": nil}),
		"text for a number": with(session(true, 1, 1), M{"forwarded_count": "1"}),
		"a fraction":        with(session(true, 1, 1), M{"first_message_index": 1.5}),
	} {
		t.Run(what, func(t *testing.T) { alice.backup("PUT", path, v, bad).WantError(400, "M_BAD_JSON") })
	}
	alice.backup("PUT", path, v, session(true, -1, 1)).WantError(400, "M_INVALID_PARAM")
	alice.backup("PUT", path, v, with(session(true, 1, 1), M{"session_data": strings.Repeat("x", 17<<10)})).WantError(413, "M_TOO_LARGE")
	alice.backup("PUT", "/"+escape(room)+"/"+escape("a\x00"), v, session(true, 1, 1)).WantError(400, "M_INVALID_PARAM")
	alice.backup("PUT", "/"+escape(room), v, M{"sessions": M{"a\x00": session(true, 1, 1)}}).WantError(400, "M_INVALID_PARAM")
	require.EqualValues(t, 0, alice.Do("GET", v3+"/room_keys/version", nil).Get("count").Int())
}

// C-84: many keys at once, uploads beside the deletion of the backup.
func TestC84LargeBackups(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	v := alice.newBackup()
	sessions := M{}
	for i := range 10_000 {
		sessions[fmt.Sprint("session", i)] = session(true, i, 0)
	}
	require.EqualValues(t, 10_000, alice.backup("PUT", "/"+escape(room), v, M{"sessions": sessions}).WantOK().Get("count").Int())
	require.Len(t, at(alice.backup("GET", "", v, nil).WantOK(), "rooms", room, "sessions").Map(), 10_000)

	var tasks sync.WaitGroup
	for i := range 8 {
		tasks.Go(func() {
			r := alice.backup("PUT", fmt.Sprintf("/%s/x%d", escape(room), i), v, session(true, 1, 1))
			if r.Status != 200 {
				r.WantError(404, "M_NOT_FOUND")
			}
		})
	}
	tasks.Go(func() { alice.Do("DELETE", v3+"/room_keys/version/"+v, nil).WantOK() })
	tasks.Wait()
	alice.backup("GET", "", v, nil).WantError(404, "M_NOT_FOUND")
	v = alice.newBackup()
	require.JSONEq(t, `{"rooms":{}}`, string(alice.backup("GET", "", v, nil).WantOK().Body))
}

// A user may have a hundred versions.
func TestBackupVersionsAreBounded(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	for range 100 {
		alice.newBackup()
	}
	body := M{"algorithm": algorithm, "auth_data": M{}}
	alice.Do("POST", v3+"/room_keys/version", body).WantError(403, "M_USER_LIMIT_EXCEEDED")
	alice.Do("DELETE", v3+"/room_keys/version/5", nil).WantOK()
	require.Equal(t, "101", alice.newBackup())
}
