package e2ee_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// EK-01.
func TestUpload(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := newDevice(t, hs.User("alice")), newDevice(t, hs.User("bob"))

	require.JSONEq(t, `{"one_time_key_counts":{"signed_curve25519":0}}`, string(alice.upload(M{}).WantOK().Body))
	body := M{"device_keys": alice.keys(), "one_time_keys": alice.oneTime(0, 3), "fallback_keys": alice.fallback("f")}
	body["one_time_keys"].(M)["other:id"] = "text"
	r := alice.upload(body).WantOK()
	require.JSONEq(t, `{"one_time_key_counts":{"signed_curve25519":3,"other":1}}`, string(r.Body))

	told := at(bob.query(alice.ID), "device_keys", alice.ID, alice.Device)
	require.JSONEq(t, `{}`, told.Get("unsigned").Raw)
	want := alice.keys()
	want["unsigned"] = M{}
	require.JSONEq(t, string(must(json.Marshal(want))), told.Raw)

	guest := newDevice(t, hs.Guest())
	guest.publish(1)
	_, key := bob.claim(guest)
	require.NotEmpty(t, key)
}

func must(raw []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return raw
}

// with is an object with other values of some keys; nil leaves one out.
func with(object M, changes M) M {
	object = maps.Clone(object)
	for k, v := range changes {
		if v == nil {
			delete(object, k)
			continue
		}
		object[k] = v
	}
	return object
}

// EK-01, EK-11, C-81, CVE-2025-61672: what is not as the specification says is refused whole, and nothing of it is stored.
func TestUploadRefuses(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	of := func(changes M) M { return M{"device_keys": with(alice.keys(), changes)} }
	oneTime := func(name string, key any) M { return M{"one_time_keys": M{name: key}} }
	signed := M{"key": "k", "signatures": M{alice.ID: M{"ed25519:x": "s"}}}
	tests := []struct {
		name, errcode string
		body          any
	}{
		{"no algorithms", "M_BAD_JSON", of(M{"algorithms": nil})},
		{"algorithms that are no list", "M_BAD_JSON", of(M{"algorithms": M{}})},
		{"an algorithm that is no string", "M_BAD_JSON", of(M{"algorithms": []any{1}})},
		{"no keys", "M_BAD_JSON", of(M{"keys": nil})},
		{"keys that are a list", "M_BAD_JSON", of(M{"keys": []any{}})},
		{"a key that is no string", "M_BAD_JSON", of(M{"keys": M{"ed25519:x": 1}})},
		{"a key without an algorithm", "M_BAD_JSON", of(M{"keys": M{"x": "y"}})},
		{"no signatures", "M_BAD_JSON", of(M{"signatures": nil})},
		{"signatures by nobody's key", "M_BAD_JSON", of(M{"signatures": M{alice.ID: "x"}})},
		{"a signature that is no string", "M_BAD_JSON", of(M{"signatures": M{alice.ID: M{"ed25519:x": 1}}})},
		{"another user", "M_INVALID_PARAM", of(M{"user_id": "@bob:hs.test"})},
		{"another device", "M_INVALID_PARAM", of(M{"device_id": "OTHER"})},
		{"no user", "M_INVALID_PARAM", of(M{"user_id": nil})},
		{"a user that is no string", "M_INVALID_PARAM", of(M{"user_id": 1})},
		{"a fraction", "M_BAD_JSON", of(M{"x": 1.5})},
		{"a number that is too large", "M_BAD_JSON", of(M{"x": uint64(1) << 60})},
		{"too much", "M_TOO_LARGE", of(M{"x": strings.Repeat("x", 20<<10)})},
		{"no object", "M_BAD_JSON", M{"device_keys": "x"}},
		{"a list of keys", "M_BAD_JSON", M{"one_time_keys": []any{}}},
		{"a name without an id", "M_BAD_JSON", oneTime("curve25519", "x")},
		{"a name without an algorithm", "M_BAD_JSON", oneTime(":x", "x")},
		{"a name with a NUL", "M_BAD_JSON", oneTime("a:\x00", "x")},
		{"a long name", "M_BAD_JSON", oneTime("a:"+strings.Repeat("x", 256), "x")},
		{"a key that is a number", "M_BAD_JSON", oneTime("a:b", 1)},
		{"a key without signatures", "M_BAD_JSON", oneTime("a:b", M{"key": "x"})},
		{"signatures of no key", "M_BAD_JSON", oneTime("a:b", M{"signatures": M{}})},
		{"a signed key that is text", "M_BAD_JSON", oneTime("signed_curve25519:b", "x")},
		{"a key with a fraction", "M_BAD_JSON", oneTime("a:b", with(signed, M{"x": 0.5}))},
		{"a large key", "M_TOO_LARGE", oneTime("a:b", strings.Repeat("x", 9<<10))},
		{"a null among the keys", "M_BAD_JSON", oneTime("a:b", json.RawMessage("null"))},
		{"fallback keys that are text", "M_BAD_JSON", M{"fallback_keys": "x"}},
		{"two fallback keys of an algorithm", "M_INVALID_PARAM", M{"fallback_keys": M{"a:1": "x", "a:2": "y"}}},
		{"a good key beside a bad one", "M_BAD_JSON", M{"one_time_keys": M{"a:b": "x", "c": "y"}, "device_keys": alice.keys()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := alice.upload(tt.body.(M))
			require.Equal(t, tt.errcode, r.Get("errcode").String(), "%s", r.Body)
			require.Less(t, r.Status, 500)
		})
	}
	require.JSONEq(t, `{}`, at(alice.query(alice.ID), "device_keys", alice.ID).Raw)
	require.JSONEq(t, `{"one_time_key_counts":{"signed_curve25519":0}}`, string(alice.upload(M{}).WantOK().Body))
}

// One-time keys that say to be signed by the device have to be.
func TestUploadChecksSignatures(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	alice.publish(0)
	forged := sign(t, alice.ID, alice.key, M{"key": "a"})
	forged["key"] = "b"
	for _, part := range []string{"one_time_keys", "fallback_keys"} {
		alice.upload(M{part: M{"signed_curve25519:x": forged}}).WantError(400, "M_INVALID_SIGNATURE")
	}
	alice.upload(M{"device_keys": alice.keys(), "one_time_keys": M{"signed_curve25519:x": forged}}).WantError(400, "M_INVALID_SIGNATURE")
	alice.upload(M{"one_time_keys": M{"signed_curve25519:x": M{"key": "k", "signatures": M{}}}}).WantOK()
}

// EK-02: an upload can be repeated; what is there cannot be replaced.
func TestUploadAgain(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	alice.publish(3)
	alice.publish(3)
	r := alice.upload(M{"one_time_keys": alice.oneTime(1, 5)}).WantOK()
	require.EqualValues(t, 5, r.Get("one_time_key_counts.signed_curve25519").Int())

	other := alice.oneTime(4, 6)
	other["signed_curve25519:0004"] = sign(t, alice.ID, alice.key, M{"key": "another"})
	r = alice.upload(M{"one_time_keys": other})
	r.WantError(400, "M_UNKNOWN")
	require.Contains(t, r.Get("error").String(), "One time key signed_curve25519:0004 already exists")
	r = alice.upload(M{}).WantOK()
	require.EqualValues(t, 5, r.Get("one_time_key_counts.signed_curve25519").Int(), "nothing of a refused upload is stored")
}

// C-81: the identity of a device cannot change. Keys that a device has not signed are nobody's identity.
func TestC81IdentityKeysStay(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := newDevice(t, hs.User("alice")), newDevice(t, hs.User("bob"))
	first, second := alice.bare(), alice.bare()
	first["keys"].(M)["curve25519:"+alice.Device] = "other"
	alice.upload(M{"device_keys": first}).WantOK()
	alice.upload(M{"device_keys": second}).WantOK()
	alice.upload(M{"device_keys": alice.keys()}).WantOK()

	thief := &device{t, alice.User, signing.Key{ID: alice.key.ID, Private: seeded("thief")}}
	thief.upload(M{"device_keys": thief.keys()}).WantError(400, "M_INVALID_PARAM")
	alice.upload(M{"device_keys": first}).WantError(400, "M_INVALID_PARAM")
	more := sign(t, alice.ID, alice.key, with(alice.bare(), M{"algorithms": []string{"m.new"}}))
	alice.upload(M{"device_keys": more}).WantOK()
	told := at(bob.query(alice.ID), "device_keys", alice.ID, alice.Device)
	require.Equal(t, public(alice.key.Private), told.Get("keys").Map()[alice.key.ID].String())
	require.Equal(t, "m.new", told.Get("algorithms.0").String())
}

// EK-03, DM-04: changes are told to those who share a room, and only changes.
func TestChangesAreTold(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob", "carol")
	alice, bob, carol := d[0], d[1], d[2]
	shareRoom(t, alice, bob)
	_, since := bob.changed("")
	_, own := alice.changed("")
	_, far := carol.changed("")
	told := func(want ...string) {
		t.Helper()
		var got []string
		got, since = bob.changed(since)
		require.Equal(t, append([]string{}, want...), got)
		got, own = alice.changed(own)
		require.Equal(t, append([]string{}, want...), got)
		got, far = carol.changed(far)
		require.Empty(t, got)
	}
	alice.publish(1)
	told(alice.ID)
	alice.publish(1)
	told()
	alice.upload(M{"one_time_keys": alice.oneTime(5, 6)}).WantOK()
	told()
	alice.Do("PUT", v3+"/devices/"+alice.Device, M{"display_name": "phone"}).WantOK()
	told(alice.ID)
	more := sign(t, alice.ID, alice.key, with(alice.bare(), M{"algorithms": []string{"m.new"}}))
	alice.upload(M{"device_keys": more}).WantOK()
	told(alice.ID)
	again := newDevice(t, alice.Login())
	told(alice.ID)
	again.Do("POST", v3+"/logout", nil).WantOK()
	told(alice.ID)
	from := since
	alice.Do("PUT", v3+"/devices/"+alice.Device, M{"display_name": "desk"}).WantOK()
	told(alice.ID)
	r := bob.Do("GET", v3+"/keys/changes?from="+from+"&to="+since, nil).WantOK()
	require.Equal(t, []string{alice.ID}, texts(r.Get("changed")))
	require.Empty(t, texts(r.Get("left")))
	r = bob.Do("GET", v3+"/keys/changes?from="+since+"&to="+since, nil).WantOK()
	require.JSONEq(t, `{"changed":[],"left":[]}`, string(r.Body))
}

// EK-08.
func TestKeysChangesRefuses(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	now := alice.Sync("").NextBatch
	alice.Do("GET", v3+"/keys/changes?from="+now, nil).WantError(400, "M_MISSING_PARAM")
	alice.Do("GET", v3+"/keys/changes?to="+now, nil).WantError(400, "M_MISSING_PARAM")
	alice.Do("GET", v3+"/keys/changes?from=x&to="+now, nil).WantError(400, "M_INVALID_PARAM")
}

// EK-04, DM-03.
func TestQuery(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	second := newDevice(t, alice.Login())
	alice.publish(0)
	second.publish(0)
	alice.Do("PUT", v3+"/devices/"+alice.Device, M{"display_name": `a "phone"`}).WantOK()

	r := bob.query(alice.ID, bob.ID)
	require.Len(t, at(r, "device_keys", alice.ID).Map(), 2)
	require.Equal(t, `a "phone"`, at(r, "device_keys", alice.ID, alice.Device).Get("unsigned.device_display_name").String())
	require.JSONEq(t, `{}`, at(r, "device_keys", bob.ID).Raw)
	require.JSONEq(t, `{}`, r.Get("failures").Raw)

	one := M{"device_keys": M{alice.ID: []string{second.Device, "unknown"}}}
	r = bob.Do("POST", v3+"/keys/query", one).WantOK()
	require.Equal(t, []string{second.Device}, slices.Collect(maps.Keys(at(r, "device_keys", alice.ID).Map())))
	require.True(t, at(bob.query("@x:elsewhere.test"), "failures", "elsewhere.test").IsObject())
	require.False(t, at(bob.query("@x:elsewhere.test"), "device_keys", "@x:elsewhere.test").Exists())
}

// C-89: whether there is such a user cannot be seen.
func TestC89QueryTellsNothingOfAccounts(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob", "gone")
	gone := d[2]
	gone.publish(3)
	gone.Do("POST", v3+"/account/deactivate", M{"auth": gone.proof()}).WantOK()
	r := d[0].query("@nobody:hs.test", d[1].ID, gone.ID)
	for _, user := range []string{"@nobody:hs.test", d[1].ID, gone.ID} {
		require.JSONEq(t, `{}`, at(r, "device_keys", user).Raw)
	}
	name, _ := d[0].claim(gone)
	require.Empty(t, name)
}

// EK-05.
func TestQueryRefuses(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	for name, tt := range map[string]struct {
		errcode string
		body    M
	}{
		"an object of devices":  {"M_BAD_JSON", M{"device_keys": M{alice.ID: M{"x": true}}}},
		"a device as number":    {"M_BAD_JSON", M{"device_keys": M{alice.ID: []any{1}}}},
		"a list of users":       {"M_BAD_JSON", M{"device_keys": []any{alice.ID}}},
		"nobody":                {"M_MISSING_PARAM", M{}},
		"what is no user":       {"M_INVALID_PARAM", M{"device_keys": M{"alice": []any{}}}},
		"a timeout that is one": {"M_BAD_JSON", M{"device_keys": M{}, "timeout": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			alice.Do("POST", v3+"/keys/query", tt.body).WantError(400, tt.errcode)
		})
	}
	alice.Do("POST", v3+"/keys/query", M{"device_keys": M{alice.ID: nil}, "timeout": -1}).WantOK()
}

// C-73: bounds of users, devices and keys.
func TestC73KeysAreBounded(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	many := M{}
	for i := range 5001 {
		many[fmt.Sprintf("@u%d:hs.test", i)] = []string{}
	}
	alice.Do("POST", v3+"/keys/query", M{"device_keys": many}).WantError(400, "M_INVALID_PARAM")
	for user := range many {
		many[user] = M{"D": "a"}
	}
	alice.Do("POST", v3+"/keys/claim", M{"one_time_keys": many}).WantError(400, "M_INVALID_PARAM")

	keys := func(from, to int) M {
		all := M{}
		for i := from; i < to; i++ {
			all[fmt.Sprintf("plain:%d", i)] = "k"
		}
		return M{"one_time_keys": all}
	}
	alice.upload(keys(0, 10_000)).WantError(400, "M_INVALID_PARAM")
	alice.upload(keys(0, 900)).WantOK()
	alice.upload(keys(900, 1001)).WantError(400, "M_INVALID_PARAM")
	require.EqualValues(t, 1000, alice.upload(keys(900, 1000)).WantOK().Get("one_time_key_counts.plain").Int())
	fallback := M{}
	for i := range 17 {
		fallback[fmt.Sprintf("a%d:x", i)] = "k"
	}
	alice.upload(M{"fallback_keys": fallback}).WantError(400, "M_INVALID_PARAM")
}

// C-88: a device takes its keys along.
func TestC88DeletedDevices(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	shareRoom(t, alice, bob)
	second := newDevice(t, alice.Login())
	second.publish(2)
	second.upload(M{"fallback_keys": second.fallback("f")}).WantOK()
	_, since := bob.changed("")
	alice.Do("DELETE", v3+"/devices/"+second.Device, M{"auth": alice.proof()}).WantOK()

	got, _ := bob.changed(since)
	require.Equal(t, []string{alice.ID}, got)
	require.JSONEq(t, `{}`, at(bob.query(alice.ID), "device_keys", alice.ID).Raw)
	name, _ := bob.claim(second)
	require.Empty(t, name)
}
