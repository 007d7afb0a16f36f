package e2ee

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

// maxSigned is of how many keys one request brings signatures.
const maxSigned = 1000

// SignedKeys are keys of users by their names, device ids or public cross-signing keys, with new signatures.
type SignedKeys map[id.UserID]map[string]json.RawMessage

// SignatureFailures says what is wrong with each of SignedKeys that was not taken.
type SignatureFailures map[id.UserID]map[string]*mxerr.Error

// AppendJSON appends the answer of the endpoint to dst.
func (f SignatureFailures) AppendJSON(dst []byte) []byte {
	dst = appendMap(append(dst, `{"failures":`...), f, func(dst []byte, keys map[string]*mxerr.Error) []byte {
		return appendMap(dst, keys, appendError)
	})
	return append(dst, '}')
}

// uploadCrossSigningSignatures implements POST /_matrix/client/v3/keys/signatures/upload.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keyssignaturesupload
func (s *Service) uploadCrossSigningSignatures(ctx context.Context, c *httpapi.Call, in *SignedKeys) (*SignatureFailures, error) {
	failures, err := s.AddSignatures(ctx, c.User, *in)
	return &failures, err
}

// AddSignatures adds signatures by user of keys: of the own devices by the self-signing key, of the own master key by
// devices, of the master keys of others by the user-signing key. What is signed has to be the key that is known here, or
// that the server of its user tells. Each key is taken or fails by itself.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keyssignaturesupload
func (s *Service) AddSignatures(ctx context.Context, user id.UserID, keys SignedKeys) (SignatureFailures, error) {
	n := 0
	for _, of := range keys {
		n += len(of)
	}
	if n > maxSigned {
		return nil, mxerr.InvalidParam.With("a request may be about %d keys", maxSigned)
	}
	others, err := s.mastersOf(ctx, user, keys)
	if err != nil {
		return nil, err
	}
	var failures SignatureFailures
	err = s.DB.Write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		a := &adding{Service: s, tx: tx, at: at, user: user, others: others, failures: SignatureFailures{}}
		failures = a.failures
		return a.addAll(keys)
	})
	return failures, err
}

// mastersOf returns the master keys of users of other servers that are signed.
func (s *Service) mastersOf(ctx context.Context, user id.UserID, keys SignedKeys) (map[id.UserID][]byte, error) {
	q := Query{}
	for other := range keys {
		if _, err := id.ParseUserID(string(other)); err == nil && other.Server() != s.ServerName {
			q[other] = nil
		}
	}
	if len(q) == 0 {
		return nil, nil
	}
	known, err := s.Query(ctx, user, q, defaultTimeout)
	if err != nil {
		return nil, err
	}
	return known.Master, nil
}

// adding is an AddSignatures on its way into storage.
type adding struct {
	*Service
	tx       *storage.Tx
	at       storage.Pos
	user     id.UserID
	own      CrossSigning
	others   map[id.UserID][]byte // master keys of users of other servers
	failures SignatureFailures
}

func (a *adding) addAll(keys SignedKeys) (err error) {
	if a.own, err = crossSigning(a.tx, a.user); err != nil {
		return err
	}
	for user, of := range keys {
		for name, raw := range of {
			err := a.add(user, name, raw)
			var why *mxerr.Error
			if errors.As(err, &why) {
				a.fail(user, name, why)
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *adding) fail(user id.UserID, name string, why *mxerr.Error) {
	if a.failures[user] == nil {
		a.failures[user] = map[string]*mxerr.Error{}
	}
	a.failures[user][name] = why
}

// add adds the signatures of one key.
func (a *adding) add(user id.UserID, name string, raw json.RawMessage) error {
	object, err := canonicalObject("the key", raw, maxKeys)
	if err != nil {
		return err
	}
	if !isSignatures(canonjson.Get(object, "signatures")) {
		return mxerr.InvalidSignature.With("there are no signatures")
	}
	switch {
	case user != a.user:
		return a.addToOther(user, name, object)
	case name == a.own[usageMaster].Public && name != "":
		return a.addToMaster(object)
	}
	return a.addToDevice(id.DeviceID(name), object)
}

// errUnknownKey is the answer about a key that is not known here.
var errUnknownKey = mxerr.NotFound.With("there is no such key")

// addToDevice adds the signature of an own device.
func (a *adding) addToDevice(device id.DeviceID, object []byte) error {
	known, err := a.tx.KeysOfDevice(a.user, device)
	if errors.Is(err, storage.ErrNotFound) {
		return errUnknownKey
	}
	if err != nil {
		return err
	}
	added, err := a.put(string(device), a.user, known.Keys, object, a.own[usageSelfSigning].Public)
	if err != nil || !added {
		return err
	}
	return a.Changed(a.tx, a.at, a.user, device)
}

// addToOther adds the signature of the master key of another user. Nobody else sees it.
func (a *adding) addToOther(user id.UserID, name string, object []byte) error {
	known, err := a.masterOf(user)
	if err != nil {
		return err
	}
	if k, err := CheckCrossSigningKey(user, usageMaster, known); err != nil || k.Public != name {
		return errUnknownKey
	}
	added, err := a.put(name, user, known, object, a.own[usageUserSigning].Public)
	if err != nil || !added {
		return err
	}
	return a.changedFor(a.tx, a.at, a.user, user)
}

// masterOf returns the master key of another user, nil if none is known.
func (a *adding) masterOf(user id.UserID) ([]byte, error) {
	if user.Server() != a.ServerName {
		return a.others[user], nil
	}
	keys, err := crossSigning(a.tx, user)
	return keys[usageMaster].Key, err
}

// put stores the signature by a cross-signing key of the user, and reports whether it is a new one.
func (a *adding) put(name string, of id.UserID, known, object []byte, public string) (bool, error) {
	if !sameKey(known, object) {
		return false, mxerr.InvalidSignature.With("what is signed is not the key that is known here")
	}
	if !signedBy(object, a.user, public) {
		return false, mxerr.InvalidSignature.With("there is no good signature by the key that may sign this")
	}
	keyID := signing.Algorithm + ":" + public
	return a.putSignature(name, of, known, object, keyID)
}

// putSignature stores a signature that was checked, unless the key has it already.
func (a *adding) putSignature(name string, of id.UserID, known, object []byte, keyID string) (bool, error) {
	signature := canonjson.Get(object, "signatures", string(a.user), keyID)
	if bytes.Equal(signature, canonjson.Get(known, "signatures", string(a.user), keyID)) {
		return false, nil
	}
	text, _ := canonjson.String(signature)
	return a.tx.PutKeySignature(storage.KeySignature{User: of, KeyName: name, Signer: a.user, KeyID: keyID, Signature: text})
}

// addToMaster adds the signatures of the own master key by own devices, all or none.
func (a *adding) addToMaster(object []byte) error {
	master := a.own[usageMaster]
	if !sameKey(master.Key, object) {
		return mxerr.InvalidSignature.With("what is signed is not the master key")
	}
	signers, err := a.deviceSigners(object)
	if err != nil {
		return err
	}
	if err := a.fits(master, object, signers); err != nil {
		return err
	}
	added := false
	for _, keyID := range signers {
		fresh, err := a.putSignature(master.Public, a.user, master.Key, object, keyID)
		if err != nil {
			return err
		}
		added = added || fresh
	}
	if !added {
		return nil
	}
	return a.Changed(a.tx, a.at, a.user)
}

// deviceSigners returns the names of the keys of own devices, at least one, by which an object is signed.
func (a *adding) deviceSigners(object []byte) (signers []string, err error) {
	devices, err := a.tx.DeviceKeys(a.user)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		keyID := signing.Algorithm + ":" + string(d.Device)
		public, ok := signingKey(d.Device, d.Keys)
		if canonjson.Get(object, "signatures", string(a.user), keyID) == nil || !ok {
			continue
		}
		if signing.VerifyJSON(string(a.user), keyID, public, object) != nil {
			return nil, mxerr.InvalidSignature.With("the signature by the device %s is not good", clip(string(d.Device)))
		}
		signers = append(signers, keyID)
	}
	if signers == nil {
		return nil, mxerr.InvalidSignature.With("no device of the user has signed this")
	}
	return signers, nil
}

// fits refuses signatures with which a key would be too large to be told to other servers.
func (a *adding) fits(k storage.CrossSigningKey, object []byte, signers []string) error {
	signed, err := signatures(a.tx, "", []id.UserID{a.user})
	if err != nil {
		return err
	}
	whole := signed.of(a.user, k.Public, k.Key)
	for _, keyID := range signers {
		text, _ := canonjson.String(canonjson.Get(object, "signatures", string(a.user), keyID))
		if whole, err = signing.AddSignature(whole, string(a.user), keyID, text); err != nil {
			return err
		}
	}
	if len(whole) > maxKeys {
		return mxerr.TooLarge.With("a key may have %d bytes with its signatures", maxKeys)
	}
	return nil
}

// sameKey reports whether two objects differ in nothing but signatures.
func sameKey(known, object []byte) bool {
	return bytes.Equal(signing.AppendSigned(nil, known), signing.AppendSigned(nil, object))
}
