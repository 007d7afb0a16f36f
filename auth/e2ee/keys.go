package e2ee

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

// What a device may have. Clients keep about fifty one-time keys here.
const (
	maxOneTimeKeys  = 1000
	maxFallbackKeys = 16 // algorithms

	// keptSpent is how many of the keys that were given out are remembered.
	keptSpent = 200
)

// Upload are keys that a device publishes. Each part may be nil.
type Upload struct {
	DeviceKeys json.RawMessage // an object
	OneTime    json.RawMessage // an object of keys by algorithm:id
	Fallback   json.RawMessage // likewise, one for each algorithm
}

type uploaded struct {
	Counts map[string]int `json:"one_time_key_counts"`
}

// uploadKeys implements POST /_matrix/client/v3/keys/upload.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysupload
func (s *Service) uploadKeys(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*uploaded, error) {
	if c.Device == "" {
		return nil, mxerr.InvalidParam.With("this session has no device")
	}
	compact, err := canonjson.AppendCompact(nil, *body)
	if err != nil {
		return nil, mxerr.BadJSON
	}
	counts, err := s.Upload(ctx, c.User, c.Device, Upload{
		DeviceKeys: part(compact, "device_keys"), OneTime: part(compact, "one_time_keys"), Fallback: part(compact, "fallback_keys"),
	})
	if err != nil {
		return nil, err
	}
	return &uploaded{counts}, nil
}

// part is a member of a body; null is none.
func part(body []byte, name string) []byte {
	value := canonjson.Get(body, name)
	if string(value) == "null" {
		return nil
	}
	return value
}

// upload is an Upload that was checked.
type upload struct {
	user       id.UserID
	device     id.DeviceID
	deviceKeys []byte // nil: none
	oneTime    []storage.OneTimeKey
	fallback   []storage.OneTimeKey
}

// Upload publishes keys of a local device, all or none, and returns how many one-time keys of each algorithm it has then.
// What is there already stays as it is, so that an upload can be repeated; one-time keys that were given out lately do
// not come back. Keys are given out in the order of uploads.
//
// A device that has signed its identity keys has them for good: others are mxerr.InvalidParam. A one-time key that
// differs from the one with its id is mxerr.BadRequest, a key whose signature by the device is wrong
// mxerr.InvalidSignature, more than a thousand keys mxerr.InvalidParam; for the form of keys see CheckDeviceKeys.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#uploading-keys
func (s *Service) Upload(ctx context.Context, user id.UserID, device id.DeviceID, in Upload) (map[string]int, error) {
	u, err := checkUpload(user, device, in)
	if err != nil {
		return nil, err
	}
	if u.deviceKeys == nil && u.oneTime == nil && u.fallback == nil {
		counts, _, err := s.Counts(ctx, user, device)
		return counts, err
	}
	if err := s.verify(ctx, u); err != nil {
		return nil, err
	}
	var after *counts
	err = s.DB.Write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		if err := s.store(tx, at, u); err != nil {
			return err
		}
		after, err = readCounts(tx, user, device)
		return err
	})
	if err != nil {
		return nil, err
	}
	return after.oneTime, nil
}

func checkUpload(user id.UserID, device id.DeviceID, in Upload) (*upload, error) {
	u := &upload{user: user, device: device}
	var err error
	if in.DeviceKeys != nil {
		if u.deviceKeys, err = CheckDeviceKeys(user, device, in.DeviceKeys); err != nil {
			return nil, err
		}
	}
	if u.oneTime, err = checkKeys("one_time_keys", in.OneTime); err != nil {
		return nil, err
	}
	if u.fallback, err = checkKeys("fallback_keys", in.Fallback); err != nil {
		return nil, err
	}
	return u, oneEach(u.fallback)
}

// checkKeys returns the keys of an object of keys by algorithm:id, in their order.
func checkKeys(what string, raw []byte) ([]storage.OneTimeKey, error) {
	if raw == nil {
		return nil, nil
	}
	compact, err := canonjson.AppendCompact(nil, raw)
	if err != nil || !canonjson.IsObject(compact) {
		return nil, mxerr.BadJSON.With("%s is no object", what)
	}
	var keys []storage.OneTimeKey
	for members := canonjson.Open(compact); ; {
		name, value, ok := members.Next()
		if !ok {
			return keys, nil
		}
		text, _ := textOf(name)
		k, err := checkKey(text, value)
		if err != nil {
			return nil, err
		}
		if keys = append(keys, k); len(keys) > maxOneTimeKeys {
			return nil, mxerr.InvalidParam.With("a device may have %d one-time keys", maxOneTimeKeys)
		}
	}
}

// oneEach refuses two fallback keys of one algorithm.
//
// "There can only be at most one key per algorithm uploaded".
func oneEach(keys []storage.OneTimeKey) error {
	seen := map[string]bool{}
	for _, k := range keys {
		if seen[k.Algorithm] {
			return mxerr.InvalidParam.With("there are two fallback keys of the algorithm %s", clip(k.Algorithm))
		}
		seen[k.Algorithm] = true
	}
	if len(seen) > maxFallbackKeys {
		return mxerr.InvalidParam.With("a device may have fallback keys of %d algorithms", maxFallbackKeys)
	}
	return nil
}

// verify checks the signatures by the device, as far as its key is known, of keys that are given out.
func (s *Service) verify(ctx context.Context, u *upload) error {
	if len(u.oneTime)+len(u.fallback) == 0 {
		return nil
	}
	deviceKeys := u.deviceKeys
	if deviceKeys == nil {
		err := s.DB.Read(ctx, func(tx *storage.Tx) error {
			k, err := tx.KeysOfDevice(u.user, u.device)
			deviceKeys = k.Keys
			return err
		})
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	public, ok := signingKey(u.device, deviceKeys)
	if !ok {
		return nil
	}
	keyID := signing.Algorithm + ":" + string(u.device)
	for _, keys := range [][]storage.OneTimeKey{u.oneTime, u.fallback} {
		for _, k := range keys {
			err := signing.VerifyJSON(string(u.user), keyID, public, k.Key)
			if canonjson.IsObject(k.Key) && err != nil && !errors.Is(err, signing.ErrMissing) {
				return mxerr.InvalidSignature.With("%s:%s is not signed by this device", k.Algorithm, k.KeyID)
			}
		}
	}
	return nil
}

// store writes an upload.
func (s *Service) store(tx *storage.Tx, at storage.Pos, u *upload) error {
	if _, err := tx.Device(u.user, u.device); err != nil {
		if errors.Is(err, storage.ErrNotFound) {
			return mxerr.UnknownToken.With("this device was logged out")
		}
		return err
	}
	if u.deviceKeys != nil {
		if err := s.storeDeviceKeys(tx, at, u); err != nil {
			return err
		}
	}
	if len(u.oneTime)+len(u.fallback) > 0 {
		s.recount(tx, u.user, u.device)
	}
	if err := storeOneTimeKeys(tx, at, u); err != nil {
		return err
	}
	return storeFallbackKeys(tx, u)
}

func (s *Service) storeDeviceKeys(tx *storage.Tx, at storage.Pos, u *upload) error {
	old, err := tx.KeysOfDevice(u.user, u.device)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return err
	case bytes.Equal(old.Keys, u.deviceKeys):
		return nil
	case !same(old.Keys, u.deviceKeys, "keys") && selfSigned(u.user, u.device, old.Keys):
		return mxerr.InvalidParam.With("the identity keys of a device cannot change")
	case !bytes.Equal(signing.AppendSigned(nil, old.Keys), signing.AppendSigned(nil, u.deviceKeys)):
		if err := tx.DeleteKeySignatures(u.user, []string{string(u.device)}); err != nil {
			return err
		}
	}
	if err := tx.PutDeviceKeys(storage.DeviceKeys{User: u.user, Device: u.device, Keys: u.deviceKeys}); err != nil {
		return err
	}
	return s.Changed(tx, at, u.user, u.device)
}

// ordShift leaves room for the keys of one act behind its position, in the order in which keys are given out.
const ordShift = 10

// storeOneTimeKeys adds those that are not there and were not given out lately.
func storeOneTimeKeys(tx *storage.Tx, at storage.Pos, u *upload) error {
	if len(u.oneTime) == 0 {
		return nil
	}
	known, err := knownKeys(tx, u)
	if err != nil {
		return err
	}
	for i, k := range u.oneTime {
		new, err := known.isNew(k)
		if err != nil {
			return err
		}
		if !new {
			continue
		}
		k.Ord = at<<ordShift + int64(i)
		if err := tx.InsertOneTimeKey(u.user, u.device, k); err != nil {
			return err
		}
	}
	return tooMany(tx, u)
}

func tooMany(tx *storage.Tx, u *upload) error {
	counts, err := tx.KeyCounts(u.user, u.device)
	if err != nil {
		return err
	}
	n := 0
	for _, c := range counts {
		n += c.N
	}
	if n > maxOneTimeKeys {
		return mxerr.InvalidParam.With("a device may have %d one-time keys", maxOneTimeKeys)
	}
	return tx.KeepSpentKeys(u.user, u.device, keptSpent)
}

// known are keys with the ids of some new ones.
type known struct {
	here  map[[2]string][]byte // by algorithm and id
	spent map[[2]string][]byte // their SHA-256, likewise
}

func knownKeys(tx *storage.Tx, u *upload) (*known, error) {
	ids := make([]string, len(u.oneTime))
	for i, k := range u.oneTime {
		ids[i] = k.KeyID
	}
	k := &known{here: map[[2]string][]byte{}, spent: map[[2]string][]byte{}}
	here, err := tx.OneTimeKeys(u.user, u.device, ids)
	if err != nil {
		return nil, err
	}
	for _, h := range here {
		k.here[[2]string{h.Algorithm, h.KeyID}] = h.Key
	}
	spent, err := tx.SpentKeys(u.user, u.device, ids)
	for _, s := range spent {
		k.spent[[2]string{s.Algorithm, s.KeyID}] = s.Key
	}
	return k, err
}

// isNew reports whether a key is to be added. The words of the error are those that clients look for.
func (k *known) isNew(key storage.OneTimeKey) (bool, error) {
	name := [2]string{key.Algorithm, key.KeyID}
	if old, ok := k.here[name]; ok {
		if bytes.Equal(old, key.Key) {
			return false, nil
		}
		return false, mxerr.BadRequest.With("One time key %s:%s already exists. Old key: %s; new key: %s",
			key.Algorithm, key.KeyID, old, key.Key)
	}
	sum := sha256.Sum256(key.Key)
	return !bytes.Equal(k.spent[name], sum[:]), nil
}

// storeFallbackKeys sets fallback keys. One that is there already may have been used.
func storeFallbackKeys(tx *storage.Tx, u *upload) error {
	if len(u.fallback) == 0 {
		return nil
	}
	old, err := tx.FallbackKeys(u.user, u.device)
	if err != nil {
		return err
	}
	here := map[string]storage.FallbackKey{}
	for _, k := range old {
		here[k.Algorithm] = k
	}
	for _, k := range u.fallback {
		if o, ok := here[k.Algorithm]; ok && o.KeyID == k.KeyID && bytes.Equal(o.Key, k.Key) {
			continue
		}
		here[k.Algorithm] = storage.FallbackKey{Algorithm: k.Algorithm, KeyID: k.KeyID, Key: k.Key}
		if err := tx.PutFallbackKey(u.user, u.device, here[k.Algorithm]); err != nil {
			return err
		}
	}
	if len(here) > maxFallbackKeys {
		return mxerr.InvalidParam.With("a device may have fallback keys of %d algorithms", maxFallbackKeys)
	}
	return nil
}
