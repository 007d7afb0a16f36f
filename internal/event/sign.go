package event

import (
	"crypto/ed25519"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// VerifySignature returns nil when the event has a signature by server's key keyID that pub
// verifies, and otherwise one of the errors of package signing.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#validating-hashes-and-signatures-on-received-events
func VerifySignature(e *Event, server id.ServerName, keyID string, pub ed25519.PublicKey) error {
	signature, err := signing.Signature(e.JSON, string(server), keyID)
	if err != nil {
		return err
	}
	var buf [scratchSize]byte
	return signing.Verify(pub, e.appendSigned(buf[:0]), signature)
}

// SignedBy returns the ids of the ed25519 keys with which server claims to have signed the event.
func (e *Event) SignedBy(server id.ServerName) []string {
	return signing.KeyIDs(e.JSON, string(server))
}

// Sign returns the event with one more signature, as a resident server adds it to an invite or a
// restricted join. The error is mxerr.TooLarge.
func (e *Event) Sign(server id.ServerName, key signing.Key) (*Event, error) {
	var buf [scratchSize]byte
	return e.AddSignature(server, key.ID, key.Sign(e.appendSigned(buf[:0])))
}

// AddSignature returns the event with a signature that another server made of it, in base64.
// The error is mxerr.TooLarge.
func (e *Event) AddSignature(server id.ServerName, keyID, signature string) (*Event, error) {
	signed, err := signing.AddSignature(e.JSON, string(server), keyID, signature)
	if err != nil {
		return nil, err
	}
	if err := checkSize(signed); err != nil {
		return nil, err
	}
	return ParseTrusted(e.Rules, signed, e.ID, e.Room)
}

// appendSigned appends the bytes that signatures of the event cover.
func (e *Event) appendSigned(dst []byte) []byte {
	return appendRedacted(dst, e.Rules, e.JSON, canonjson.Get(e.JSON, "type"), false)
}
