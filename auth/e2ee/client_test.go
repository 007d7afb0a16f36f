package e2ee_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/signing"
)

const v3 = "/_matrix/client/v3"

type M = map[string]any

// device is a client that has keys of its own.
type device struct {
	t testing.TB
	*homeservertest.User
	key signing.Key
}

func newDevice(t testing.TB, u *homeservertest.User) *device {
	t.Helper()
	return &device{t, u, signing.Key{ID: "ed25519:" + u.Device, Private: seeded(u.ID + u.Device)}}
}

// users registers people, each with a device.
func users(t testing.TB, hs *homeservertest.Server, names ...string) []*device {
	t.Helper()
	var list []*device
	for _, name := range names {
		list = append(list, newDevice(t, hs.User(name)))
	}
	return list
}

// seeded is the key that belongs to a text.
func seeded(text string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(text))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(key ed25519.PrivateKey) string { return signing.Encode(key.Public().(ed25519.PublicKey)) }

// sign returns an object with a signature by a key of a user.
func sign(t testing.TB, user string, key signing.Key, object M) M {
	t.Helper()
	raw, err := json.Marshal(object)
	require.NoError(t, err)
	signed, err := signing.SignJSON(user, key, raw)
	require.NoError(t, err)
	var out M
	require.NoError(t, json.Unmarshal(signed, &out))
	return out
}

// bare are the device's identity keys without a signature.
func (d *device) bare() M {
	return M{
		"user_id": d.ID, "device_id": d.Device,
		"algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys":       M{"curve25519:" + d.Device: "curve of " + d.Device, d.key.ID: public(d.key.Private)},
		"signatures": M{},
	}
}

// keys are the device's identity keys.
func (d *device) keys() M { return sign(d.t, d.ID, d.key, d.bare()) }

// oneTime are one-time keys with the ids from until before to.
func (d *device) oneTime(from, to int) M {
	keys := M{}
	for i := from; i < to; i++ {
		keys[fmt.Sprintf("signed_curve25519:%04d", i)] = sign(d.t, d.ID, d.key, M{"key": fmt.Sprintf("one time %d of %s", i, d.Device)})
	}
	return keys
}

// fallback is a fallback key.
func (d *device) fallback(id string) M {
	return M{"signed_curve25519:" + id: sign(d.t, d.ID, d.key, M{"key": "fallback " + id, "fallback": true})}
}

func (d *device) upload(body M) *homeservertest.Response {
	d.t.Helper()
	return d.Do("POST", v3+"/keys/upload", body)
}

// publish uploads the identity keys and n one-time keys.
func (d *device) publish(n int) {
	d.t.Helper()
	d.upload(M{"device_keys": d.keys(), "one_time_keys": d.oneTime(0, n)}).WantOK()
}

// query asks for all devices of users.
func (d *device) query(users ...string) *homeservertest.Response {
	d.t.Helper()
	asked := M{}
	for _, u := range users {
		asked[u] = []string{}
	}
	return d.Do("POST", v3+"/keys/query", M{"device_keys": asked, "timeout": 5000}).WantOK()
}

// claim asks for a key of a device, and returns its name and the key; empty for none.
func (d *device) claim(of *device) (string, string) {
	d.t.Helper()
	r := d.Do("POST", v3+"/keys/claim", M{"one_time_keys": M{of.ID: M{of.Device: "signed_curve25519"}}}).WantOK()
	keys := at(r, "one_time_keys", of.ID, of.Device).Map()
	require.LessOrEqual(d.t, len(keys), 1)
	for name, key := range keys {
		return name, key.Get("key").String()
	}
	return "", ""
}

// at returns a value of an answer by keys that need no escapes.
func at(r *homeservertest.Response, path ...string) gjson.Result {
	v := gjson.ParseBytes(r.Body)
	for _, key := range path {
		v = v.Map()[key]
	}
	return v
}

// changed are the users whose devices /sync tells to have changed since a token, and the next token.
func (d *device) changed(since string) ([]string, string) {
	d.t.Helper()
	s := d.Sync(since)
	return texts(s.Get("device_lists.changed")), s.NextBatch
}

func texts(list gjson.Result) []string {
	all := []string{}
	for _, item := range list.Array() {
		all = append(all, item.String())
	}
	return all
}

// proof is what proves to be the user.
func (d *device) proof() M {
	return M{"type": "m.login.password", "password": d.Password, "identifier": M{"type": "m.id.user", "user": d.ID}}
}

// shareRoom lets all be in a room.
func shareRoom(t testing.TB, devices ...*device) string {
	t.Helper()
	room := devices[0].CreateRoom(homeservertest.Public)
	for _, d := range devices[1:] {
		_, server, _ := strings.Cut(devices[0].ID, ":")
		d.Do("POST", v3+"/join/"+escape(room)+"?via="+server, M{}).WantOK()
	}
	return room
}

func escape(s string) string { return url.PathEscape(s) }
