// Package signing signs JSON objects with ed25519 keys and checks such signatures.
//
// Spec: https://spec.matrix.org/latest/appendices/#signing-json
package signing

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
)

// Algorithm is the only signing algorithm of Matrix; a key id is Algorithm + ":" + a version.
const Algorithm = "ed25519"

// Why an object does not carry a good signature.
var (
	ErrMissing   = errors.New("signing: there is no signature by this key")
	ErrMalformed = errors.New("signing: the signature cannot be read")
	ErrInvalid   = errors.New("signing: the signature does not match")
)

// Key is a signing key with its name.
type Key struct {
	ID      string // "ed25519:" and a version of [a-zA-Z0-9_]
	Private ed25519.PrivateKey
}

// Generate makes a new key, whose version is random as well. A nil rand is crypto/rand.
func Generate(rand io.Reader) (Key, error) {
	public, private, err := ed25519.GenerateKey(rand)
	if err != nil {
		return Key{}, fmt.Errorf("generate signing key: %w", err)
	}
	return NewKey(versionOf(public), private.Seed())
}

// NewKey is the key with the given version ("abc", not "ed25519:abc") and 32-byte seed.
func NewKey(version string, seed []byte) (Key, error) {
	if len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf("signing key %q: the seed has %d bytes, not %d", version, len(seed), ed25519.SeedSize)
	}
	keyID := Algorithm + ":" + version
	if !ValidKeyID(keyID) {
		return Key{}, fmt.Errorf("signing key %q: the version must be of the characters a-z, A-Z, 0-9 and _", version)
	}
	return Key{ID: keyID, Private: ed25519.NewKeyFromSeed(seed)}, nil
}

// Public is the half of the key that others verify with.
func (k Key) Public() ed25519.PublicKey { return k.Private.Public().(ed25519.PublicKey) }

// Sign signs bytes and returns the signature in base64.
func (k Key) Sign(message []byte) string {
	return Encode(ed25519.Sign(k.Private, message))
}

// ValidKeyID reports whether s is "ed25519:" and a version of [a-zA-Z0-9_].
func ValidKeyID(s string) bool {
	version, ok := strings.CutPrefix(s, Algorithm+":")
	return ok && version != "" && strings.IndexFunc(version, notVersion) < 0
}

func notVersion(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_')
}

// versionOf derives a version from the key, so that two keys do not share a name.
func versionOf(public ed25519.PublicKey) string {
	version := base64.RawURLEncoding.EncodeToString(public)
	return strings.ReplaceAll(version, "-", "_")[:8]
}

// SignJSON returns object, in canonical form, with a signature added under signatures.server.key.ID.
// The signature covers everything but signatures and unsigned, which are kept.
//
// Spec: https://spec.matrix.org/latest/appendices/#signing-details
func SignJSON(server string, key Key, object []byte) ([]byte, error) {
	canonical, err := canonical(object)
	if err != nil {
		return nil, fmt.Errorf("sign JSON: %w", err)
	}
	signature := key.Sign(AppendSigned(nil, canonical))
	return AddSignature(canonical, server, key.ID, signature)
}

// VerifyJSON returns nil when object has a signature by server's key keyID that pub verifies, and
// otherwise an error that is ErrMissing, ErrMalformed, ErrInvalid or one of canonjson.
//
// Spec: https://spec.matrix.org/latest/appendices/#checking-for-a-signature
func VerifyJSON(server, keyID string, pub ed25519.PublicKey, object []byte) error {
	canonical, err := canonical(object)
	if err != nil {
		return fmt.Errorf("verify JSON: %w", err)
	}
	signature, err := Signature(canonical, server, keyID)
	if err != nil {
		return err
	}
	return Verify(pub, AppendSigned(nil, canonical), signature)
}

// Verify checks a signature of bytes.
func Verify(pub ed25519.PublicKey, message, signature []byte) error {
	if len(pub) != ed25519.PublicKeySize || len(signature) != ed25519.SignatureSize {
		return ErrMalformed
	}
	if !ed25519.Verify(pub, message, signature) {
		return ErrInvalid
	}
	return nil
}

// Signature returns the signature by server's key keyID in a canonical object, decoded.
// Only keys of the algorithm ed25519 count.
func Signature(canonical []byte, server, keyID string) ([]byte, error) {
	value := canonjson.Get(canonical, "signatures", server, keyID)
	if value == nil || !strings.HasPrefix(keyID, Algorithm+":") {
		return nil, ErrMissing
	}
	var buf [128]byte
	text, ok := canonjson.AppendText(buf[:0], value)
	if !ok {
		return nil, ErrMalformed
	}
	signature, err := decode(text)
	if err != nil || len(signature) != ed25519.SignatureSize {
		return nil, ErrMalformed
	}
	return signature, nil
}

// KeyIDs returns the ids of the ed25519 keys with which server has signed a canonical object.
func KeyIDs(canonical []byte, server string) []string {
	var ids []string
	of := canonjson.Open(canonjson.Get(canonical, "signatures", server))
	for {
		key, _, ok := of.Next()
		if !ok {
			return ids
		}
		if bytes.HasPrefix(key, []byte(Algorithm+":")) && bytes.IndexByte(key, '\\') < 0 {
			ids = append(ids, string(key))
		}
	}
}

// AppendSigned appends the bytes that a signature covers: a canonical object without signatures and unsigned.
func AppendSigned(dst, canonical []byte) []byte {
	members := canonjson.Open(canonical)
	first := len(dst) + 1
	dst = append(dst, '{')
	for {
		key, value, ok := members.Next()
		if !ok {
			return append(dst, '}')
		}
		if string(key) != "signatures" && string(key) != "unsigned" {
			dst = appendMember(dst, first, key, value)
		}
	}
}

// AddSignature returns a canonical object with one more signature; one that is there already under
// the same name is replaced. The result is canonical.
func AddSignature(canonical []byte, server, keyID, signature string) ([]byte, error) {
	if !canonjson.IsObject(canonical) {
		return nil, fmt.Errorf("add signature: %w: not an object", canonjson.ErrSyntax)
	}
	out := make([]byte, 0, len(canonical)+len(server)+len(keyID)+len(signature)+40)
	return setPath(out, canonical, []string{"signatures", server, keyID}, signature), nil
}

// setPath appends object with a string set at path; what stands in the way and is no object is replaced.
func setPath(dst, object []byte, path []string, text string) []byte {
	quoted := canonjson.AppendString(nil, path[0])
	name := quoted[1 : len(quoted)-1]
	put := func(dst, old []byte, first int) []byte {
		dst = appendKey(dst, first, name)
		if len(path) == 1 {
			return canonjson.AppendString(dst, text)
		}
		return setPath(dst, old, path[1:], text)
	}
	members, done := canonjson.Open(object), false
	first := len(dst) + 1
	dst = append(dst, '{')
	for {
		key, value, ok := members.Next()
		if !ok {
			break
		}
		order := canonjson.Compare(key, name)
		switch {
		case order == 0:
			dst, done = put(dst, value, first), true
			continue
		case order > 0 && !done:
			dst, done = put(dst, nil, first), true
		}
		dst = appendMember(dst, first, key, value)
	}
	if !done {
		dst = put(dst, nil, first)
	}
	return append(dst, '}')
}

func appendMember(dst []byte, first int, key, value []byte) []byte {
	return append(appendKey(dst, first, key), value...)
}

// appendKey appends a key, with a comma unless it is the first, which would stand at first.
func appendKey(dst []byte, first int, key []byte) []byte {
	if len(dst) > first {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, key...)
	return append(dst, '"', ':')
}

func canonical(object []byte) ([]byte, error) {
	out, err := canonjson.Append(nil, object)
	if err != nil {
		return nil, err
	}
	if !canonjson.IsObject(out) {
		return nil, fmt.Errorf("%w: not an object", canonjson.ErrSyntax)
	}
	return out, nil
}

// Encode writes unpadded standard base64.
//
// Spec: https://spec.matrix.org/latest/appendices/#unpadded-base64
func Encode(data []byte) string { return base64.RawStdEncoding.EncodeToString(data) }

// Decode reads standard base64 with or without padding. Line breaks are an error, unlike in encoding/base64.
func Decode(s string) ([]byte, error) { return decode([]byte(s)) }

func decode(text []byte) ([]byte, error) {
	if bytes.ContainsAny(text, "\r\n") {
		return nil, errors.New("signing: line break in base64")
	}
	if len(text)%4 == 0 { // padding only ever fills the last group of four
		text = bytes.TrimSuffix(text, []byte("="))
		text = bytes.TrimSuffix(text, []byte("="))
	}
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
	n, err := base64.RawStdEncoding.Decode(out, text)
	if err != nil {
		return nil, fmt.Errorf("signing: base64: %w", err)
	}
	return out[:n], nil
}
