package eventauth

import (
	"bytes"
	"crypto/ed25519"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// maxVerifications bounds the signatures tried for one third-party invite. An honest invite needs
// one or two; 64 KiB of made-up keys and signatures would allow half a million, half a minute of
// work for one event.
const maxVerifications = 256

// thirdPartyRules are the rules for an invite that follows an m.room.third_party_invite.
func (c *check) thirdPartyRules(m memberContent, target string) error {
	// v11 4.4.1.1: If *target user* is banned, reject.
	if c.membership(target) == "ban" {
		return c.reject(thirdPartyBanned, "the user is banned")
	}
	// v11 4.4.1.2: If `content.third_party_invite` does not have a `signed` property, reject.
	signed := canonjson.Get(m.thirdParty, "signed")
	if signed == nil {
		return c.reject(thirdPartySigned, "the third-party invite is not signed")
	}
	// v11 4.4.1.3: If `signed` does not have `mxid` and `token` properties, reject.
	mxid, token := canonjson.Get(signed, "mxid"), canonjson.Get(signed, "token")
	if mxid == nil || token == nil {
		return c.reject(thirdPartyFields, "the third-party invite has no mxid or no token")
	}
	// v11 4.4.1.4: If `mxid` does not match `state_key`, reject.
	if user, ok := canonjson.String(mxid); !ok || user != target {
		return c.reject(thirdPartyMXID, "the third-party invite is for another user")
	}
	return c.thirdPartyTokenRules(signed, token)
}

func (c *check) thirdPartyTokenRules(signed, token []byte) error {
	// v11 4.4.1.5: If there is no `m.room.third_party_invite` event in the current room state with
	// `state_key` matching `token`, reject.
	var invite *event.Event
	if t, ok := canonjson.String(token); ok {
		invite = c.state.Event("m.room.third_party_invite", t)
	}
	if invite == nil {
		return c.reject(thirdPartyToken, "the third-party invite does not exist")
	}
	// v11 4.4.1.6: If `sender` does not match `sender` of the `m.room.third_party_invite`, reject.
	if c.e.Sender != invite.Sender {
		return c.reject(thirdPartySender, "the third-party invite is by another user")
	}
	// v11 4.4.1.7: If any signature in `signed` matches any public key in the
	// `m.room.third_party_invite` event, allow.
	ok := signedByAny(signed, inviteKeys(invite.Content()))
	return c.allowIf(ok, thirdPartyOtherwise, "the third-party invite is not signed by its keys")
}

// signedByAny tries every signature of the signed object with every key of the invite.
func signedByAny(signed []byte, keys []ed25519.PublicKey) bool {
	message := signing.AppendSigned(nil, signed)
	tries := 0
	for servers := canonjson.Open(canonjson.Get(signed, "signatures")); ; {
		_, block, ok := servers.Next()
		if !ok {
			return false
		}
		for _, signature := range ed25519Signatures(block) {
			for _, key := range keys {
				if tries++; tries > maxVerifications {
					return false
				}
				if signing.Verify(key, message, signature) == nil {
					return true
				}
			}
		}
	}
}

// ed25519Signatures reads what one server signed with.
func ed25519Signatures(block []byte) (signatures [][]byte) {
	for all := canonjson.Open(block); ; {
		keyID, v, ok := all.Next()
		if !ok {
			return signatures
		}
		s, _ := canonjson.String(v)
		signature, err := signing.Decode(s)
		if err == nil && bytes.HasPrefix(keyID, []byte(signing.Algorithm+":")) {
			signatures = append(signatures, signature)
		}
	}
}

// inviteKeys reads the keys of an m.room.third_party_invite:
//
//  1. A single public key in the `public_key` property.
//  2. A list of public keys in the `public_keys` property.
func inviteKeys(content []byte) (keys []ed25519.PublicKey) {
	for _, entry := range keyEntries(content) {
		keys = appendKey(keys, canonjson.Get(entry, "public_key"))
	}
	return keys
}

// appendKey passes over what is no key: "The key is encoded using Unpadded Base64, using the standard
// or URL-safe alphabets."
func appendKey(keys []ed25519.PublicKey, v []byte) []ed25519.PublicKey {
	s, _ := canonjson.String(v)
	s = strings.NewReplacer("-", "+", "_", "/").Replace(s)
	key, err := signing.Decode(s)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return keys
	}
	return append(keys, key)
}

// InviteKey is a key of an m.room.third_party_invite.
type InviteKey struct {
	Text        string // as it stands there
	ValidityURL string // tells with ?public_key= whether the key was revoked; "" when nothing does
}

// maxInviteKeys is how many keys InviteKeys looks at.
const maxInviteKeys = 16

// InviteKeys returns those of the first keys of an m.room.third_party_invite with which the third-party invite of e, a
// membership event that Check allows, is signed.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroomthird_party_invite
func InviteKeys(e, invite *event.Event) (signers []InviteKey) {
	signed := canonjson.Get(e.Content(), "third_party_invite", "signed")
	entries := keyEntries(invite.Content())
	for _, entry := range entries[:min(len(entries), maxInviteKeys)] {
		key := appendKey(nil, canonjson.Get(entry, "public_key"))
		if len(key) == 1 && signedByAny(signed, key) {
			text, _ := canonjson.String(canonjson.Get(entry, "public_key"))
			address, _ := canonjson.String(canonjson.Get(entry, "key_validity_url"))
			signers = append(signers, InviteKey{text, address})
		}
	}
	return signers
}

// keyEntries are the objects that have a key: the content itself, and those of public_keys.
func keyEntries(content []byte) [][]byte {
	entries := [][]byte{content}
	for more := canonjson.OpenArray(canonjson.Get(content, "public_keys")); ; {
		v, ok := more.Next()
		if !ok {
			return entries
		}
		entries = append(entries, v)
	}
}
