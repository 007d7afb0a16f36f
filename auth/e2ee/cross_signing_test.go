package e2ee_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// identity are the cross-signing keys of a user.
type identity struct {
	t                       testing.TB
	user                    string
	master, self, userSigns ed25519.PrivateKey
}

func newIdentity(t testing.TB, d *device, name string) *identity {
	return &identity{t, d.ID, seeded(name + "master" + d.ID), seeded(name + "self" + d.ID), seeded(name + "user" + d.ID)}
}

func named(key ed25519.PrivateKey) signing.Key {
	return signing.Key{ID: "ed25519:" + public(key), Private: key}
}

// key is a cross-signing key without signatures.
func (i *identity) key(usage string, key ed25519.PrivateKey) M {
	return M{"user_id": i.user, "usage": []string{usage}, "keys": M{"ed25519:" + public(key): public(key)}}
}

func (i *identity) masterKey() M { return i.key("master", i.master) }
func (i *identity) selfKey() M {
	return sign(i.t, i.user, named(i.master), i.key("self_signing", i.self))
}
func (i *identity) userKey() M {
	return sign(i.t, i.user, named(i.master), i.key("user_signing", i.userSigns))
}

// all are the keys of an upload.
func (i *identity) all() M {
	return M{"master_key": i.masterKey(), "self_signing_key": i.selfKey(), "user_signing_key": i.userKey()}
}

func (d *device) crossSign(body M) *homeservertest.Response {
	d.t.Helper()
	return d.Do("POST", v3+"/keys/device_signing/upload", body)
}

// confirmed is an upload with proof of who does it.
func (d *device) confirmed(keys M) *homeservertest.Response {
	d.t.Helper()
	return d.crossSign(with(keys, M{"auth": d.proof()}))
}

func (d *device) signatures(keys M) *homeservertest.Response {
	d.t.Helper()
	return d.Do("POST", v3+"/keys/signatures/upload", keys).WantOK()
}

// EK-10, UI: the first keys and the same again need no proof, others do.
func TestUploadCrossSigning(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	one, two := newIdentity(t, alice, "one"), newIdentity(t, alice, "two")

	alice.crossSign(one.all()).WantOK()
	alice.crossSign(one.all()).WantOK()
	alice.crossSign(M{"master_key": one.masterKey()}).WantOK()
	alice.crossSign(M{}).WantOK()
	r := alice.query(alice.ID)
	require.Equal(t, public(one.master), at(r, "master_keys", alice.ID, "keys", "ed25519:"+public(one.master)).String())
	require.False(t, at(r, "master_keys", alice.ID, "signatures").Exists())
	require.True(t, at(r, "self_signing_keys", alice.ID).Exists())
	require.True(t, at(r, "user_signing_keys", alice.ID).Exists())
	r = bob.query(alice.ID)
	require.True(t, at(r, "self_signing_keys", alice.ID).Exists())
	require.False(t, at(r, "user_signing_keys", alice.ID).Exists(), "only its owner sees it")

	for name, body := range map[string]M{
		"all":          two.all(),
		"the master":   {"master_key": two.masterKey()},
		"user signing": {"user_signing_key": sign(t, alice.ID, named(one.master), two.key("user_signing", two.userSigns))},
	} {
		require.Equal(t, 401, alice.crossSign(body).Status, name)
	}
	alice.confirmed(two.all()).WantOK()
	require.True(t, at(bob.query(alice.ID), "master_keys", alice.ID, "keys", "ed25519:"+public(two.master)).Exists())
	alice.crossSign(two.all()).WantOK()

	alice.confirmed(M{"master_key": one.masterKey()}).WantOK()
	r = alice.query(alice.ID)
	require.False(t, at(r, "self_signing_keys", alice.ID).Exists(), "the new master key has not signed it")
	require.False(t, at(r, "user_signing_keys", alice.ID).Exists())
}

// A proof of who does it is good for the keys for which it was begun.
func TestCrossSigningProofIsForItsKeys(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	one, two := newIdentity(t, alice, "one"), newIdentity(t, alice, "two")
	alice.crossSign(one.all()).WantOK()
	session := alice.crossSign(two.all()).Get("session").String()
	auth := with(alice.proof(), M{"session": session})
	other := newIdentity(t, alice, "three").all()
	alice.crossSign(with(other, M{"auth": auth})).WantError(403, "M_FORBIDDEN")
	require.True(t, at(alice.query(alice.ID), "master_keys", alice.ID, "keys", "ed25519:"+public(one.master)).Exists())
	alice.crossSign(M{"auth": auth}).WantOK() // stands for what the session was begun with
	require.True(t, at(alice.query(alice.ID), "master_keys", alice.ID, "keys", "ed25519:"+public(two.master)).Exists())
}

// EK-10, EK-11.
func TestCrossSigningRefuses(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	one := newIdentity(t, alice, "one")
	other := newIdentity(t, alice, "other")
	master := func(changes M) M { return M{"master_key": with(one.masterKey(), changes)} }
	name := public(one.master)
	for what, tt := range map[string]struct {
		errcode string
		body    M
	}{
		"no master key":               {"M_MISSING_PARAM", M{"self_signing_key": one.selfKey()}},
		"not signed":                  {"M_INVALID_SIGNATURE", with(one.all(), M{"self_signing_key": one.key("self_signing", one.self)})},
		"signed by another master":    {"M_INVALID_SIGNATURE", with(one.all(), M{"user_signing_key": other.userKey()})},
		"another user":                {"M_INVALID_PARAM", master(M{"user_id": "@bob:hs.test"})},
		"another usage":               {"M_INVALID_PARAM", master(M{"usage": []string{"self_signing"}})},
		"no usage":                    {"M_INVALID_PARAM", master(M{"usage": nil})},
		"no key":                      {"M_INVALID_PARAM", master(M{"keys": M{}})},
		"two keys":                    {"M_INVALID_PARAM", master(M{"keys": M{"ed25519:" + name: name, "ed25519:x": "x"}})},
		"a key by another name":       {"M_INVALID_PARAM", master(M{"keys": M{"ed25519:x": name}})},
		"a key that is none":          {"M_INVALID_PARAM", master(M{"keys": M{"ed25519:x": "x"}})},
		"signatures of another shape": {"M_INVALID_PARAM", master(M{"signatures": []string{}})},
		"a fraction":                  {"M_BAD_JSON", master(M{"x": 0.5})},
		"no object":                   {"M_BAD_JSON", M{"master_key": "x"}},
	} {
		t.Run(what, func(t *testing.T) { alice.crossSign(tt.body).WantError(400, tt.errcode) })
	}
	require.False(t, at(alice.query(alice.ID), "master_keys", alice.ID).Exists())
}

// DM-05, both ways round: a device and a key of one user never have the same name.
func TestCrossSigningNames(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	one, two := newIdentity(t, alice, "one"), newIdentity(t, alice, "two")
	login := func(device string) *homeservertest.Response {
		return alice.Do("POST", v3+"/login", M{
			"type": "m.login.password", "password": alice.Password, "device_id": device,
			"identifier": M{"type": "m.id.user", "user": alice.ID},
		})
	}
	login(public(two.self)).WantOK()
	alice.crossSign(two.all()).WantError(403, "M_FORBIDDEN")
	alice.crossSign(one.all()).WantOK()
	login(public(one.self)).WantError(403, "M_FORBIDDEN")
}

// EK-09: who is told of what.
func TestCrossSigningIsTold(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	shareRoom(t, alice, bob)
	_, since := bob.changed("")
	_, own := alice.changed("")
	one, bobs := newIdentity(t, alice, "one"), newIdentity(t, bob, "one")
	told := func(wantAlice, wantBob []string) {
		t.Helper()
		var got []string
		got, own = alice.changed(own)
		require.ElementsMatch(t, wantAlice, got, "alice")
		got, since = bob.changed(since)
		require.ElementsMatch(t, wantBob, got, "bob")
	}
	both, none := []string{alice.ID}, []string{}

	alice.crossSign(M{"master_key": one.masterKey(), "self_signing_key": one.selfKey()}).WantOK()
	told(both, both)
	alice.crossSign(M{"master_key": one.masterKey()}).WantOK()
	told(none, none)
	alice.confirmed(M{"user_signing_key": one.userKey()}).WantOK()
	told(both, none)

	alice.publish(0)
	bob.crossSign(bobs.all()).WantOK()
	told([]string{alice.ID, bob.ID}, []string{alice.ID, bob.ID})
	signed := sign(t, alice.ID, named(one.self), with(alice.keys(), M{"signatures": M{}}))
	alice.signatures(M{alice.ID: M{alice.Device: signed}})
	told(both, both)
	alice.signatures(M{alice.ID: M{alice.Device: signed}})
	told(none, none)
	ofBob := sign(t, alice.ID, named(one.userSigns), bobs.masterKey())
	alice.signatures(M{bob.ID: M{public(bobs.master): ofBob}})
	told([]string{bob.ID}, none)
	byDevice := sign(t, alice.ID, alice.key, one.masterKey())
	alice.signatures(M{alice.ID: M{public(one.master): byDevice}})
	told(both, both)
}

// EK-13: signatures are seen by their makers and, of the own keys, by all.
func TestSignaturesAreSeen(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob", "carol")
	alice, bob, carol := d[0], d[1], d[2]
	alices, bobs := newIdentity(t, alice, "one"), newIdentity(t, bob, "one")
	alice.publish(0)
	alice.crossSign(alices.all()).WantOK()
	bob.crossSign(bobs.all()).WantOK()

	signed := sign(t, alice.ID, named(alices.self), with(alice.keys(), M{"signatures": M{}}))
	ofBob := sign(t, alice.ID, named(alices.userSigns), bobs.masterKey())
	byDevice := sign(t, alice.ID, alice.key, alices.masterKey())
	r := alice.signatures(M{
		alice.ID: M{alice.Device: signed, public(alices.master): byDevice}, bob.ID: M{public(bobs.master): ofBob},
	})
	require.JSONEq(t, `{"failures":{}}`, string(r.Body))
	for _, viewer := range d {
		r := viewer.query(alice.ID, bob.ID)
		device := at(r, "device_keys", alice.ID, alice.Device, "signatures", alice.ID).Map()
		require.Len(t, device, 2, "the device's own and that of the self-signing key")
		require.NotEmpty(t, device["ed25519:"+public(alices.self)].String())
		require.NotEmpty(t, at(r, "master_keys", alice.ID, "signatures", alice.ID, alice.key.ID).String())
		byAlice := at(r, "master_keys", bob.ID, "signatures", alice.ID, "ed25519:"+public(alices.userSigns))
		require.Equal(t, viewer == alice, byAlice.Exists(), "only its maker sees it")
	}
	_ = carol

	// Keys that are replaced take along what they have signed; so does a device.
	alice.confirmed(newIdentity(t, alice, "two").all()).WantOK()
	r = alice.query(alice.ID, bob.ID)
	require.Len(t, at(r, "device_keys", alice.ID, alice.Device, "signatures", alice.ID).Map(), 1)
	require.False(t, at(r, "master_keys", bob.ID, "signatures").Exists())
	require.False(t, at(r, "master_keys", alice.ID, "signatures").Exists())
}

// However many devices a user has, the master key with their signatures can be told to other servers: what could not
// would keep back whatever else they have to get.
func TestSignaturesAreBounded(t *testing.T) {
	ctx, alice := context.Background(), id.UserID("@alice:hs.test")
	s := newService(t)
	i := &identity{t: t, user: string(alice), master: seeded("m"), self: seeded("s"), userSigns: seeded("u")}
	require.NoError(t, s.SetCrossSigning(ctx, alice, readKeys(t, i), false))
	refused := 0
	for n := range 60 {
		d := person(t, s, string(alice), fmt.Sprint(strings.Repeat("long", 60), n))
		d.puts(t, s, M{})
		signed := must(json.Marshal(sign(t, string(alice), d.key, i.masterKey())))
		failures, err := s.AddSignatures(ctx, alice, e2ee.SignedKeys{alice: {public(i.master): signed}})
		require.NoError(t, err)
		if why := failures[alice][public(i.master)]; why != nil {
			require.Equal(t, "M_TOO_LARGE", why.Code)
			refused++
		}
	}
	require.NotZero(t, refused)
	keys, err := s.Query(ctx, alice, e2ee.Query{alice: nil}, 0)
	require.NoError(t, err)
	require.LessOrEqual(t, len(keys.Master[alice]), 16<<10)
	require.Greater(t, len(keys.Master[alice]), 15<<10)
}

// A key of which one signature is bad gets none of the others either.
func TestSignaturesOfAKeyAreTakenTogether(t *testing.T) {
	hs := homeservertest.New(t)
	one := users(t, hs, "alice")[0]
	two := newDevice(t, one.Login())
	one.publish(0)
	two.publish(0)
	i := newIdentity(t, one, "one")
	one.crossSign(i.all()).WantOK()
	both := sign(t, one.ID, one.key, i.masterKey())
	both["signatures"].(M)[one.ID].(M)[two.key.ID] = both["signatures"].(M)[one.ID].(M)[one.key.ID]
	r := one.signatures(M{one.ID: M{public(i.master): both}})
	require.Equal(t, "M_INVALID_SIGNATURE", at(r, "failures", one.ID, public(i.master), "errcode").String())
	require.False(t, at(one.query(one.ID), "master_keys", one.ID, "signatures").Exists())
}

// C-79, EK-12: each signature fails by itself, and nothing of it is stored.
func TestC79SignaturesRefused(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob", "carol")
	alice, bob, carol := d[0], d[1], d[2]
	alices, bobs := newIdentity(t, alice, "one"), newIdentity(t, bob, "one")
	for _, x := range d {
		x.publish(0)
	}
	alice.crossSign(alices.all()).WantOK()
	bob.crossSign(bobs.all()).WantOK()
	unsigned := with(alice.keys(), M{"signatures": M{}})
	tests := []struct {
		name, user, key, errcode string
		object                   any
	}{
		{"forged", alice.ID, alice.Device, "M_INVALID_SIGNATURE", with(unsigned, M{"signatures": M{alice.ID: M{"ed25519:" + public(alices.self): "c2lnbmF0dXJl"}}})},
		{"by the wrong key", alice.ID, alice.Device, "M_INVALID_SIGNATURE", sign(t, alice.ID, named(alices.userSigns), unsigned)},
		{"by somebody else", alice.ID, alice.Device, "M_INVALID_SIGNATURE", sign(t, bob.ID, named(bobs.self), unsigned)},
		{"another object", alice.ID, alice.Device, "M_INVALID_SIGNATURE", sign(t, alice.ID, named(alices.self), with(unsigned, M{"algorithms": []string{}}))},
		{"no signatures", alice.ID, alice.Device, "M_INVALID_SIGNATURE", with(unsigned, M{"signatures": nil})},
		{"no object", alice.ID, alice.Device, "M_BAD_JSON", "x"},
		{"unknown device", alice.ID, "UNKNOWN", "M_NOT_FOUND", sign(t, alice.ID, named(alices.self), unsigned)},
		{"the master by no device", alice.ID, public(alices.master), "M_INVALID_SIGNATURE", sign(t, alice.ID, named(alices.self), alices.masterKey())},
		{"the master by a device, badly", alice.ID, public(alices.master), "M_INVALID_SIGNATURE", with(alices.masterKey(), M{"signatures": M{alice.ID: M{alice.key.ID: "c2lnbmF0dXJl"}}})},
		{"a device of somebody else", bob.ID, bob.Device, "M_NOT_FOUND", sign(t, alice.ID, named(alices.userSigns), with(bob.keys(), M{"signatures": M{}}))},
		{"the self-signing key of somebody else", bob.ID, public(bobs.self), "M_NOT_FOUND", sign(t, alice.ID, named(alices.userSigns), bobs.key("self_signing", bobs.self))},
		{"somebody else's master by the self-signing key", bob.ID, public(bobs.master), "M_INVALID_SIGNATURE", sign(t, alice.ID, named(alices.self), bobs.masterKey())},
		{"a master that nobody has", carol.ID, "AAAA", "M_NOT_FOUND", sign(t, alice.ID, named(alices.userSigns), M{"user_id": carol.ID})},
		{"nobody", "@nobody:hs.test", "AAAA", "M_NOT_FOUND", sign(t, alice.ID, named(alices.userSigns), M{})},
		{"what is no user", "nobody", "AAAA", "M_NOT_FOUND", sign(t, alice.ID, named(alices.userSigns), M{})},
	}
	good := M{alice.Device: sign(t, alice.ID, named(alices.self), unsigned)}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := M{tt.user: M{tt.key: tt.object}}
			if tt.user != alice.ID {
				body[alice.ID] = good
			}
			r := alice.signatures(body)
			require.Equal(t, tt.errcode, at(r, "failures", tt.user, tt.key, "errcode").String(), "%s", r.Body)
			require.Len(t, r.Get("failures").Map(), 1)
		})
	}
	r := carol.query(alice.ID, bob.ID)
	require.Len(t, at(r, "device_keys", alice.ID, alice.Device, "signatures", alice.ID).Map(), 2, "the good one was taken")
	require.False(t, at(alice.query(bob.ID), "master_keys", bob.ID, "signatures").Exists())
	alice.Do("POST", v3+"/keys/signatures/upload", M{alice.ID: "x"}).WantError(400, "M_BAD_JSON")
}

// C-88: what a device has signed goes with it.
func TestSignaturesOfADeviceGo(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	second := newDevice(t, alice.Login())
	one := newIdentity(t, alice, "one")
	second.publish(0)
	alice.crossSign(one.all()).WantOK()
	second.signatures(M{alice.ID: M{public(one.master): sign(t, alice.ID, second.key, one.masterKey())}})
	require.True(t, at(alice.query(alice.ID), "master_keys", alice.ID, "signatures").Exists())
	second.Do("POST", v3+"/logout", nil).WantOK()
	require.False(t, at(alice.query(alice.ID), "master_keys", alice.ID, "signatures").Exists())
}

// The unstable paths are those of older clients.
func TestUnstablePaths(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	alice.Do("POST", "/_matrix/client/unstable/keys/device_signing/upload", newIdentity(t, alice, "one").all()).WantOK()
	alice.Do("POST", "/_matrix/client/unstable/keys/signatures/upload", M{}).WantOK()
}
