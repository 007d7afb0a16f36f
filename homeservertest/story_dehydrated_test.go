package homeservertest_test

import "github.com/stretchr/testify/require"

// dehydrate has somebody leave a device behind and read its messages (MSC3814).
func dehydrate(alice *person) {
	const path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	key, public := newKeyOf(alice, "DRY")
	alice.put(path, object{
		"device_id": "DRY", "device_data": object{"algorithm": "org.example"},
		"device_keys": signedBy(alice, key, object{
			"user_id": alice.user, "device_id": "DRY", "algorithms": []string{}, "keys": object{key.ID: public}, "dehydrated": true,
		}),
	})
	require.Equal(alice.t, "DRY", alice.get(path)["device_id"])
	alice.post(path+"/DRY/events", object{})
	alice.ask(200, "DELETE", path, nil)
}
