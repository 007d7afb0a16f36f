package keyring

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// MaxAnswer is how long the answer about one server's keys may be, in bytes: some hundred keys.
const MaxAnswer = 64 << 10

// maxAnswerKeys is how many keys an answer may name.
const maxAnswerKeys = 100

// serverAnswer is what a server says of its keys.
type serverAnswer struct {
	server     id.ServerName
	keys       map[string]known
	validUntil int64 // at most maxValidity after fetched
	fetched    int64
	json       []byte // canonical, with signatures
}

// Why an answer is not believed.
var (
	errTooLarge   = fmt.Errorf("the answer is longer than %d bytes", MaxAnswer)
	errNoServer   = errors.New("server_name is missing or no server name")
	errValidUntil = errors.New("valid_until_ts is missing or no time")
	errNotSigned  = errors.New("no key of verify_keys has signed the answer")
	errManyKeys   = fmt.Errorf("there are more than %d keys", maxAnswerKeys)
	errNoKey      = errors.New("a key is no ed25519 key")
)

// readAnswer reads an answer that came now and checks that the server it names has signed it. Whether it may
// speak for that server is for the caller to know.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#publishing-keys
func readAnswer(body []byte, now int64) (*serverAnswer, error) {
	if len(body) > MaxAnswer {
		return nil, errTooLarge
	}
	object, err := canonjson.Append(nil, body)
	if err != nil {
		return nil, err
	}
	a := &serverAnswer{fetched: now, json: object, keys: map[string]known{}}
	for _, read := range []func() error{a.readName, a.readValidity, a.readOldKeys, a.readKeys, a.checkSignature} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *serverAnswer) readName() error {
	name, ok := canonjson.String(canonjson.Get(a.json, "server_name"))
	if !ok {
		return errNoServer
	}
	server, err := id.ParseServerName(name)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoServer, err)
	}
	a.server = server
	return nil
}

func (a *serverAnswer) readValidity() error {
	until, ok := canonjson.Int(canonjson.Get(a.json, "valid_until_ts"))
	if !ok || until <= 0 {
		return errValidUntil
	}
	a.validUntil = min(until, a.fetched+maxValidity.Milliseconds())
	return nil
}

// readKeys reads verify_keys. It comes after readOldKeys: a key that is in both lists is in use.
func (a *serverAnswer) readKeys() error {
	return a.eachKey("verify_keys", func(_ []byte, public ed25519.PublicKey) (known, error) {
		return known{public: public, validUntil: a.validUntil}, nil
	})
}

// readOldKeys reads old_verify_keys. They do not sign any more, so they expired before now, whatever the server says.
func (a *serverAnswer) readOldKeys() error {
	return a.eachKey("old_verify_keys", func(value []byte, public ed25519.PublicKey) (known, error) {
		expired, ok := canonjson.Int(canonjson.Get(value, "expired_ts"))
		if !ok {
			return known{}, errors.New("an expired_ts is missing or no time")
		}
		return known{public: public, validUntil: a.validUntil, expired: max(1, min(expired, a.fetched-1))}, nil
	})
}

// eachKey reads the ed25519 keys of a list; others are not looked at.
func (a *serverAnswer) eachKey(list string, read func(value []byte, public ed25519.PublicKey) (known, error)) error {
	members := canonjson.Open(canonjson.Get(a.json, list))
	for {
		name, value, ok := members.Next()
		if !ok {
			return nil
		}
		keyID := string(name) // a valid one has nothing to unescape
		if !signing.ValidKeyID(keyID) || len(keyID) > id.MaxLength {
			continue
		}
		public, err := readPublic(value)
		if err != nil {
			return fmt.Errorf("%s: %w", keyID, err)
		}
		if a.keys[keyID], err = read(value, public); err != nil {
			return fmt.Errorf("%s: %w", keyID, err)
		}
		if len(a.keys) > maxAnswerKeys {
			return errManyKeys
		}
	}
}

func readPublic(value []byte) (ed25519.PublicKey, error) {
	text, ok := canonjson.String(canonjson.Get(value, "key"))
	if !ok {
		return nil, errNoKey
	}
	public, err := signing.Decode(text)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, errNoKey
	}
	return public, nil
}

// checkSignature looks for a signature by a key that is in use.
func (a *serverAnswer) checkSignature() error {
	for keyID, k := range a.keys {
		if k.expired == 0 && a.signedBy(a.server, keyID, k.public) {
			return nil
		}
	}
	return errNotSigned
}

// signedBy reports whether the answer has a good signature by a key of a server.
func (a *serverAnswer) signedBy(server id.ServerName, keyID string, public ed25519.PublicKey) bool {
	signature, err := signing.Signature(a.json, string(server), keyID)
	if err != nil {
		return false
	}
	return signing.Verify(public, signing.AppendSigned(nil, a.json), signature) == nil
}
