package e2ee

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

// maxCrossSigningBody bounds a body that is remembered while somebody proves who they are.
const maxCrossSigningBody = 64 << 10

// CrossSigning are cross-signing keys of a user by their usage.
type CrossSigning map[string]storage.CrossSigningKey

// usages are the uses of cross-signing keys, the one first that vouches for the others.
func usages() []string { return []string{usageMaster, usageSelfSigning, usageUserSigning} }

// errAnew says that what was decided about an upload holds no more.
var errAnew = errors.New("e2ee: the keys have changed meanwhile")

// uploadCrossSigningKeys implements POST /_matrix/client/v3/keys/device_signing/upload.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysdevice_signingupload
func (s *Service) uploadCrossSigningKeys(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*httpapi.Empty, error) {
	keys, proof, err := readCrossSigning(c.User, *body)
	if err != nil {
		return nil, err
	}
	// "User-Interactive Authentication MUST be performed for regular clients, except in these cases"
	if len(keys) > 0 || !proof {
		if err = s.SetCrossSigning(ctx, c.User, keys, false); !errors.Is(err, errAnew) {
			return nil, err
		}
	}
	confirmed, err := s.Confirm(ctx, c, *body) // a proof alone stands for the keys for which it was begun
	if err != nil {
		return nil, err
	}
	if keys, _, err = readCrossSigning(c.User, confirmed); err != nil {
		return nil, err
	}
	return nil, s.SetCrossSigning(ctx, c.User, keys, true)
}

// readCrossSigning returns the keys in a body, and whether there is something to prove who sends it.
func readCrossSigning(user id.UserID, body json.RawMessage) (keys CrossSigning, proof bool, err error) {
	var in map[string]json.RawMessage
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, false, mxerr.BadJSON
	}
	keys = CrossSigning{}
	for _, usage := range usages() {
		raw := in[usage+"_key"]
		if raw == nil || string(raw) == "null" {
			continue
		}
		if keys[usage], err = CheckCrossSigningKey(user, usage, raw); err != nil {
			return nil, false, err
		}
	}
	auth := in["auth"]
	return keys, auth != nil && string(auth) != "null", nil
}

// SetCrossSigning sets cross-signing keys of a local user, all or none. The self-signing and the user-signing key have to
// be signed by the master key, be it new or the one that is there; those that a new master key has not signed go.
// replace lets keys that are there be replaced; without it only the first keys are taken, and the same again.
//
// Errors are mxerr.MissingParam without a master key, mxerr.InvalidSignature, and mxerr.Forbidden for a key whose name is
// that of a device.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#cross-signing
func (s *Service) SetCrossSigning(ctx context.Context, user id.UserID, keys CrossSigning, replace bool) error {
	if len(keys) == 0 {
		return nil
	}
	return s.DB.Write(ctx, func(tx *storage.Tx, at storage.Pos) error {
		before, err := crossSigning(tx, user)
		if err != nil {
			return err
		}
		news := keys.without(before)
		if err := keys.check(tx, user, before); err != nil {
			return err
		}
		if _, there := before[usageMaster]; there && len(news) > 0 && !replace {
			return errAnew
		}
		return s.storeCrossSigning(tx, at, user, before, news)
	})
}

// crossSigning returns the keys of a user.
func crossSigning(tx *storage.Tx, user id.UserID) (CrossSigning, error) {
	list, err := tx.CrossSigningKeys(user)
	keys := CrossSigning{}
	for _, k := range list {
		keys[k.Usage] = k
	}
	return keys, err
}

// without returns the keys that are not the same in others.
func (keys CrossSigning) without(others CrossSigning) CrossSigning {
	news := CrossSigning{}
	for usage, k := range keys {
		if !bytes.Equal(k.Key, others[usage].Key) {
			news[usage] = k
		}
	}
	return news
}

// check refuses keys that cannot stand beside those that are there.
func (keys CrossSigning) check(tx *storage.Tx, user id.UserID, before CrossSigning) error {
	master, ok := keys[usageMaster]
	if !ok {
		master, ok = before[usageMaster]
	}
	if !ok {
		return mxerr.MissingParam.With("there is no master key")
	}
	for _, usage := range usages() {
		k, ok := keys[usage]
		if !ok {
			continue
		}
		if usage != usageMaster && !signedBy(k.Key, user, master.Public) {
			return mxerr.InvalidSignature.With("%s_key: not signed by the master key", usage)
		}
		_, err := tx.Device(user, id.DeviceID(k.Public))
		switch {
		case err == nil:
			return mxerr.Forbidden.With("%s_key: a device has the name of this key", usage)
		case !errors.Is(err, storage.ErrNotFound):
			return err
		}
	}
	return nil
}

// signedBy reports whether a key of a user has signed an object; the key's name is the key.
func signedBy(object []byte, user id.UserID, public string) bool {
	key, ok := publicKey(public)
	return ok && signing.VerifyJSON(string(user), signing.Algorithm+":"+public, key, object) == nil
}

// storeCrossSigning writes new keys in the place of those before.
func (s *Service) storeCrossSigning(tx *storage.Tx, at storage.Pos, user id.UserID, before, news CrossSigning) error {
	if len(news) == 0 {
		return nil
	}
	for usage, k := range news {
		if err := retire(tx, before[usage], k.Public); err != nil {
			return err
		}
		if err := tx.PutCrossSigningKey(k); err != nil {
			return err
		}
	}
	if err := dropOrphans(tx, user, before, news); err != nil {
		return err
	}
	_, own := news[usageUserSigning]
	if own && len(news) == 1 { // nobody else sees it
		return s.changedFor(tx, at, user, user)
	}
	return s.Changed(tx, at, user)
}

// retire forgets the signatures of a key and by it that another one follows.
func retire(tx *storage.Tx, old storage.CrossSigningKey, by string) error {
	if old.Public == "" || old.Public == by {
		return nil
	}
	if err := tx.DeleteKeySignatures(old.User, []string{old.Public}); err != nil {
		return err
	}
	return tx.DeleteSignaturesBy(old.User, []string{signing.Algorithm + ":" + old.Public})
}

// dropOrphans forgets the keys that a new master key has not signed.
func dropOrphans(tx *storage.Tx, user id.UserID, before, news CrossSigning) error {
	master, changed := news[usageMaster]
	if !changed {
		return nil
	}
	for usage, k := range before {
		_, replaced := news[usage]
		if usage == usageMaster || replaced || signedBy(k.Key, user, master.Public) {
			continue
		}
		if err := retire(tx, k, ""); err != nil {
			return err
		}
		if err := tx.DeleteCrossSigningKey(user, usage); err != nil {
			return err
		}
	}
	return nil
}
