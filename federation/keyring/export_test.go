package keyring

import "crypto/ed25519"

// ReadAnswer returns the server that an answer is about and its keys in use.
func ReadAnswer(body []byte, now int64) (server string, keys map[string]ed25519.PublicKey, canonical []byte, err error) {
	a, err := readAnswer(body, now)
	if err != nil {
		return "", nil, nil, err
	}
	keys = map[string]ed25519.PublicKey{}
	for keyID, k := range a.keys {
		if k.expired == 0 {
			keys[keyID] = k.public
		}
	}
	return string(a.server), keys, a.json, nil
}
