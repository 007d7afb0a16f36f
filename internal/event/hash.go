package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// idLength is the length of an id made of a hash: a sigil and 43 characters of base64.
const idLength = 1 + 43

// scratchSize is for working copies on the stack: larger than most events.
const scratchSize = 2048

// CheckContentHash reports whether hashes.sha256 is the hash of the event's content and other
// fields. When it is not, the event is to be used in its redacted form only.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#calculating-the-content-hash-for-an-event
func CheckContentHash(e *Event) bool {
	text, ok := canonjson.String(canonjson.Get(e.JSON, "hashes", "sha256"))
	if !ok {
		return false
	}
	claimed, err := signing.Decode(text)
	if err != nil {
		return false
	}
	hash := contentHash(e.JSON)
	return bytes.Equal(claimed, hash[:])
}

// contentHash hashes canonical JSON without unsigned, signatures and hashes.
func contentHash(canonical []byte) [sha256.Size]byte {
	var buf [scratchSize]byte
	out := append(buf[:0], '{')
	for members := canonjson.Open(canonical); ; {
		key, value, ok := members.Next()
		if !ok {
			return sha256.Sum256(append(out, '}'))
		}
		switch string(key) {
		case "unsigned", "signatures", "hashes":
		default:
			out = appendMember(out, key, value)
		}
	}
}

// ReferenceHash is the hash that names an event: in ids from version 3 on, in the references of
// versions 1 and 2. raw may be any JSON of the event. The error is mxerr.BadJSON.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#calculating-the-reference-hash-for-an-event
func ReferenceHash(rules *roomversion.Rules, raw []byte) ([]byte, error) {
	canonical, eventType, err := redactable(rules, raw)
	if err != nil {
		return nil, err
	}
	hash := referenceHash(rules, canonical, eventType)
	return hash[:], nil
}

// referenceHash hashes the redacted event without signatures and unsigned: what is signed, too.
func referenceHash(rules *roomversion.Rules, canonical, eventType []byte) [sha256.Size]byte {
	var buf [scratchSize]byte
	return sha256.Sum256(appendRedacted(buf[:0], rules, canonical, eventType, false))
}

// appendID appends a hash as it stands in ids of the version.
func appendID(dst []byte, rules *roomversion.Rules, hash [sha256.Size]byte) []byte {
	if rules.EventIDs == roomversion.EventIDBase64 {
		return base64.RawStdEncoding.AppendEncode(dst, hash[:])
	}
	return base64.RawURLEncoding.AppendEncode(dst, hash[:])
}

// appendMember appends a key, as it is written between quotes, and a value to an object that is
// begun and not closed.
func appendMember(dst, key, value []byte) []byte {
	return append(appendKey(dst, key), value...)
}

func appendKey(dst, key []byte) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, key...)
	return append(dst, '"', ':')
}
