package e2ee

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

// What keys may be, in bytes. Whatever is stored is sent to other servers, in EDUs too.
const (
	maxKeys = 16 << 10 // of a device or a user
	maxKey  = 8 << 10  // one-time and fallback keys
	maxName = 255      // of a device, an algorithm, a key
)

// CheckDeviceKeys returns the identity keys of a device as they are stored: canonical JSON without unsigned and without
// signatures by other users. It is the one door for keys of devices, local or not. Whether the device has signed them is
// for the clients to find out.
//
// Errors are mxerr.BadJSON for what has another form than the specification's or is no canonical JSON, mxerr.TooLarge
// beyond 16 KiB, and mxerr.InvalidParam for keys of another user or device.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#device-keys
func CheckDeviceKeys(user id.UserID, device id.DeviceID, raw []byte) ([]byte, error) {
	keys, err := canonicalObject("device_keys", raw, maxKeys)
	if err != nil {
		return nil, err
	}
	if !isList(canonjson.Get(keys, "algorithms")) {
		return nil, mxerr.BadJSON.With("device_keys: algorithms is no list of strings")
	}
	if !isNamed(canonjson.Get(keys, "keys")) {
		return nil, mxerr.BadJSON.With("device_keys: keys are no strings by algorithm:name")
	}
	if !isSignatures(canonjson.Get(keys, "signatures")) {
		return nil, mxerr.BadJSON.With("device_keys: signatures are no strings by user and key")
	}
	if isText(keys, "user_id", string(user)) && isText(keys, "device_id", string(device)) {
		return onlySignedBy(user, keys), nil
	}
	return nil, mxerr.InvalidParam.With("device_keys: user_id and device_id are not those of the device")
}

// The uses of cross-signing keys.
const (
	usageMaster      = "master"
	usageSelfSigning = "self_signing"
	usageUserSigning = "user_signing"
)

// CheckCrossSigningKey is CheckDeviceKeys for a cross-signing key, which says that it is for one usage: master,
// self_signing or user_signing. Its signatures are not checked.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#cross-signing
func CheckCrossSigningKey(user id.UserID, usage string, raw []byte) (k storage.CrossSigningKey, err error) {
	name := usage + "_key"
	key, err := canonicalObject(name, raw, maxKeys)
	if err != nil {
		return k, err
	}
	if !isText(key, "user_id", string(user)) {
		return k, mxerr.InvalidParam.With("%s: user_id is not that of the user", name)
	}
	if !listHas(canonjson.Get(key, "usage"), usage) {
		return k, mxerr.InvalidParam.With("%s: usage is not %s", name, usage)
	}
	public, ok := onlyKey(canonjson.Get(key, "keys"))
	if !ok {
		return k, mxerr.InvalidParam.With("%s: keys is not one ed25519 key under its own name", name)
	}
	if s := canonjson.Get(key, "signatures"); s != nil && !isSignatures(s) {
		return k, mxerr.InvalidParam.With("%s: signatures are no strings by user and key", name)
	}
	return storage.CrossSigningKey{User: user, Usage: usage, Public: public, Key: onlySignedBy(user, key)}, nil
}

// onlySignedBy is a canonical object, whose signatures have the right form, without those of others than user.
func onlySignedBy(user id.UserID, object []byte) []byte {
	signatures := canonjson.Get(object, "signatures")
	own := canonjson.Get(signatures, string(user))
	kept := []byte{'{'}
	if own != nil {
		name := canonjson.AppendString(nil, string(user))
		kept = appendMember(kept, name[1:len(name)-1], own)
	}
	kept = append(kept, '}')
	if signatures == nil || bytes.Equal(signatures, kept) {
		return object
	}
	return replaced(object, "signatures", kept)
}

// onlyKey returns the key of an object that has one, in base64, which is its name as well.
//
// "The object must contain exactly one property, in the form "ed25519:<unpadded_base64_public_key>": …".
func onlyKey(keys []byte) (string, bool) {
	members := canonjson.Open(keys)
	name, value, ok := members.Next()
	if _, _, more := members.Next(); !ok || more {
		return "", false
	}
	public, ok := canonjson.String(value)
	if !ok || string(name) != signing.Algorithm+":"+public {
		return "", false
	}
	_, ok = publicKey(public)
	return public, ok
}

// publicKey is an ed25519 key from its base64.
func publicKey(text string) (ed25519.PublicKey, bool) {
	raw, err := signing.Decode(text)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, false
	}
	return raw, true
}

// signingKey is the ed25519 key in the keys of a device.
func signingKey(device id.DeviceID, keys []byte) (ed25519.PublicKey, bool) {
	text, ok := canonjson.String(canonjson.Get(keys, "keys", signing.Algorithm+":"+string(device)))
	if !ok {
		return nil, false
	}
	return publicKey(text)
}

// selfSigned reports whether a device has signed its keys.
func selfSigned(user id.UserID, device id.DeviceID, keys []byte) bool {
	key, ok := signingKey(device, keys)
	return ok && signing.VerifyJSON(string(user), signing.Algorithm+":"+string(device), key, keys) == nil
}

// checkKey returns a one-time or fallback key as it is stored, with its algorithm and id.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#key-algorithms
func checkKey(name string, raw []byte) (k storage.OneTimeKey, err error) {
	var ok bool
	k.Algorithm, k.KeyID, ok = strings.Cut(name, ":")
	if !ok || !validName(k.Algorithm) || !validName(k.KeyID) {
		return k, mxerr.BadJSON.With("%q is not algorithm:key_id", clip(name))
	}
	if k.Key, err = canonjson.AppendStrict(nil, raw); err != nil {
		return k, mxerr.BadJSON.With("%s: %v", name, err)
	}
	switch {
	case len(k.Key) > maxKey:
		return k, mxerr.TooLarge.With("%s: a key may have %d bytes", name, maxKey)
	case canonjson.IsString(k.Key) && !strings.HasPrefix(k.Algorithm, "signed_"):
		return k, nil
	case !canonjson.IsString(canonjson.Get(k.Key, "key")) || !isSignatures(canonjson.Get(k.Key, "signatures")):
		return k, mxerr.BadJSON.With("%s: not an object with key and signatures", name)
	}
	return k, nil
}

// canonicalObject is an object in canonical form without unsigned.
func canonicalObject(what string, raw []byte, limit int) ([]byte, error) {
	object, err := canonjson.AppendStrict(nil, raw)
	switch {
	case err != nil:
		return nil, mxerr.BadJSON.With("%s: %v", what, err)
	case !canonjson.IsObject(object):
		return nil, mxerr.BadJSON.With("%s is no object", what)
	case len(object) > limit:
		return nil, mxerr.TooLarge.With("%s may have %d bytes", what, limit)
	}
	return without(object, "unsigned"), nil
}

// without is a canonical object without one of its members.
func without(object []byte, name string) []byte {
	if canonjson.Get(object, name) == nil {
		return object
	}
	return replaced(object, name, nil)
}

// replaced is a canonical object with another value of one of its members, or with nil without it.
func replaced(object []byte, name string, by []byte) []byte {
	out := make([]byte, 1, len(object))
	out[0] = '{'
	for members := canonjson.Open(object); ; {
		key, value, ok := members.Next()
		if !ok {
			return append(out, '}')
		}
		switch {
		case string(key) != name:
			out = appendMember(out, key, value)
		case by != nil:
			out = appendMember(out, key, by)
		}
	}
}

// appendMember appends a member to an object that is not closed yet.
func appendMember(dst, key, value []byte) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(append(append(dst, '"'), key...), '"', ':')
	return append(dst, value...)
}

// same reports whether two canonical objects have the same value under a name.
func same(a, b []byte, name string) bool {
	return bytes.Equal(canonjson.Get(a, name), canonjson.Get(b, name))
}

// isText reports whether an object has a string under a name.
func isText(object []byte, name, want string) bool {
	text, ok := canonjson.String(canonjson.Get(object, name))
	return ok && text == want
}

// isList reports whether a value is a list of strings.
func isList(value []byte) bool {
	if !canonjson.IsArray(value) {
		return false
	}
	for list := canonjson.OpenArray(value); ; {
		item, ok := list.Next()
		if !ok {
			return true
		}
		if !canonjson.IsString(item) {
			return false
		}
	}
}

func listHas(value []byte, want string) bool {
	for list := canonjson.OpenArray(value); ; {
		item, ok := list.Next()
		if !ok {
			return false
		}
		if text, _ := canonjson.String(item); text == want {
			return true
		}
	}
}

// isNamed reports whether a value is an object of strings by algorithm:name.
func isNamed(value []byte) bool {
	return every(value, func(key, value []byte) bool {
		return bytes.IndexByte(key, ':') > 0 && canonjson.IsString(value)
	})
}

// isSignatures reports whether a value is an object of strings by user and key.
func isSignatures(value []byte) bool {
	return every(value, func(_, value []byte) bool {
		return every(value, func(_, value []byte) bool { return canonjson.IsString(value) })
	})
}

// every reports whether a value is an object whose members all pass.
func every(value []byte, pass func(key, value []byte) bool) bool {
	if !canonjson.IsObject(value) {
		return false
	}
	for members := canonjson.Open(value); ; {
		key, value, ok := members.Next()
		if !ok {
			return true
		}
		if !pass(key, value) {
			return false
		}
	}
}

// validName reports whether a name from outside can be that of a device, an algorithm or a key.
func validName(name string) bool {
	return name != "" && len(name) <= maxName && strings.IndexByte(name, 0) < 0 && utf8.ValidString(name)
}

// textOf is a key of an object as it is written between its quotes, decoded.
func textOf(key []byte) (string, bool) {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key), true
	}
	var text string
	err := json.Unmarshal(append(append([]byte{'"'}, key...), '"'), &text)
	return text, err == nil
}

// clip bounds what is repeated to a client.
func clip(s string) string { return s[:min(len(s), 64)] }
