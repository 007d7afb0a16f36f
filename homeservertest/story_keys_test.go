package homeservertest_test

import (
	"encoding/json"
	"net/url"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// signedBy is an object with a signature of a user's key.
func signedBy(p *person, key signing.Key, value object) object {
	p.t.Helper()
	raw, err := json.Marshal(value)
	require.NoError(p.t, err)
	signed, err := signing.SignJSON(p.user, key, raw)
	require.NoError(p.t, err)
	var out object
	require.NoError(p.t, json.Unmarshal(signed, &out))
	return out
}

// newKeyOf is a key that is named after itself, or after a device.
func newKeyOf(p *person, device string) (key signing.Key, public string) {
	p.t.Helper()
	key, err := signing.Generate(nil)
	require.NoError(p.t, err)
	public = signing.Encode(key.Public())
	if device == "" {
		device = public
	}
	key.ID = "ed25519:" + device
	return key, public
}

// deviceKeys are what a device publishes.
func deviceKeys(p *person, key signing.Key, public string) object {
	return signedBy(p, key, object{
		"user_id": p.user, "device_id": p.device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": object{key.ID: public, "curve25519:" + p.device: "curve"},
	})
}

// encrypt has two people publish keys and find each other's, sign some and keep a backup.
func encrypt(alice, bob *person) {
	since := bob.get(v3 + "/sync")["next_batch"].(string)
	key, public := newKeyOf(alice, alice.device)
	keys := deviceKeys(alice, key, public)
	alice.post(v3+"/keys/upload", object{
		"device_keys": keys, "one_time_keys": object{"signed_curve25519:1": signedBy(alice, key, object{"key": "one"})},
		"fallback_keys": object{"signed_curve25519:f": signedBy(alice, key, object{"key": "fallback", "fallback": true})},
	})
	now := bob.get(v3 + "/sync?since=" + url.QueryEscape(since))["next_batch"].(string)
	bob.get(v3 + "/keys/changes?from=" + url.QueryEscape(since) + "&to=" + url.QueryEscape(now))
	claim := object{"one_time_keys": object{alice.user: object{alice.device: "signed_curve25519"}}}
	require.NotEmpty(bob.t, bob.post(v3+"/keys/claim", claim)["one_time_keys"])
	crossSign(alice, keys)
	require.NotEmpty(bob.t, bob.post(v3+"/keys/query", object{"device_keys": object{alice.user: []string{}}})["self_signing_keys"])
	backUp(alice)
}

func crossSign(alice *person, device object) {
	master, public := newKeyOf(alice, "")
	self, ownPublic := newKeyOf(alice, "")
	alice.post(v3+"/keys/device_signing/upload", object{
		"master_key": object{"user_id": alice.user, "usage": []string{"master"}, "keys": object{master.ID: public}},
		"self_signing_key": signedBy(alice, master, object{
			"user_id": alice.user, "usage": []string{"self_signing"}, "keys": object{self.ID: ownPublic},
		}),
	})
	signed := alice.post(v3+"/keys/signatures/upload", object{alice.user: object{alice.device: signedBy(alice, self, device)}})
	require.Empty(alice.t, signed["failures"])
}

func backUp(alice *person) {
	const versions, keys = v3 + "/room_keys/version", v3 + "/room_keys/keys"
	about := object{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": object{"public_key": "k"}}
	version := alice.post(versions, about)["version"].(string)
	alice.get(versions)
	alice.get(versions + "/" + version)
	alice.put(versions+"/"+version, about)
	one := object{"first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": object{"ciphertext": "c"}}
	room, session, query := "/"+url.PathEscape("!there:hs.test"), "/s", "?version="+version
	alice.put(keys+query, object{"rooms": object{"!there:hs.test": object{"sessions": object{"s": one}}}})
	alice.put(keys+room+query, object{"sessions": object{"s": one}})
	alice.put(keys+room+session+query, one)
	for _, path := range []string{room + session, room, ""} {
		alice.get(keys + path + query)
		alice.ask(200, "DELETE", keys+path+query, nil)
	}
	alice.ask(200, "DELETE", versions+"/"+version, nil)
}

// askForUsersKeys has another server ask for carol's keys.
func askForUsersKeys(peer *homeservertest.Rogue, server *homeservertest.Server, carol *homeservertest.User) {
	const path = "/_matrix/federation/v1/user/keys/"
	carol.Do("POST", v3+"/keys/upload", object{"one_time_keys": object{"curve25519:1": "one"}}).WantOK()
	peer.Do(server, "POST", path+"query", object{"device_keys": object{carol.ID: []string{}}}).WantOK()
	peer.Do(server, "POST", path+"claim", object{"one_time_keys": object{carol.ID: object{carol.Device: "curve25519"}}}).WantOK()
}
