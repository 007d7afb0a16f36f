package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// CrossSigningKey is one of the keys by which a user vouches for devices and other users.
type CrossSigningKey struct {
	User   id.UserID
	Usage  string // master, self_signing or user_signing
	Public string // the key in base64, which is also its name
	Key    []byte // canonical JSON without unsigned
}

const selectCrossSigningKeys = `
	SELECT user_id, usage, public, key FROM mx_cross_signing_keys WHERE user_id IN (SELECT value FROM json_each($1))`

// CrossSigningKeys returns the keys of users, in no order.
func (tx *Tx) CrossSigningKeys(users ...id.UserID) ([]CrossSigningKey, error) {
	return collect(tx, func(row *sql.Rows, k *CrossSigningKey) error {
		return row.Scan(&k.User, &k.Usage, &k.Public, &k.Key)
	}, selectCrossSigningKeys, list(users))
}

const upsertCrossSigningKey = `
	INSERT INTO mx_cross_signing_keys (user_id, usage, public, key) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id, usage) DO UPDATE SET public = excluded.public, key = excluded.key`

// PutCrossSigningKey sets a key.
func (tx *Tx) PutCrossSigningKey(k CrossSigningKey) error {
	_, err := tx.exec(upsertCrossSigningKey, k.User, k.Usage, k.Public, k.Key)
	return err
}

const deleteCrossSigningKey = `DELETE FROM mx_cross_signing_keys WHERE user_id = $1 AND usage = $2`

// DeleteCrossSigningKey forgets a key; one that is not there is no error.
func (tx *Tx) DeleteCrossSigningKey(user id.UserID, usage string) error {
	_, err := tx.exec(deleteCrossSigningKey, user, usage)
	return err
}

// KeySignature is a signature of a key that was uploaded apart from it.
type KeySignature struct {
	User      id.UserID // whose key it is about
	KeyName   string    // a device id, or the public cross-signing key
	Signer    id.UserID
	KeyID     string // of the signer: ed25519:NAME
	Signature string
}

const selectKeySignatures = `
	SELECT user_id, key_name, signer, signer_key_id, signature FROM mx_key_signatures
	WHERE user_id IN (SELECT value FROM json_each($1)) AND (signer = user_id OR signer = $2)`

// KeySignatures returns the signatures of the keys of users that viewer may see, by the users themselves and by viewer,
// in no order.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#key-and-signature-security
func (tx *Tx) KeySignatures(viewer id.UserID, users ...id.UserID) ([]KeySignature, error) {
	return collect(tx, func(row *sql.Rows, s *KeySignature) error {
		return row.Scan(&s.User, &s.KeyName, &s.Signer, &s.KeyID, &s.Signature)
	}, selectKeySignatures, list(users), viewer)
}

const upsertKeySignature = `
	INSERT INTO mx_key_signatures (user_id, key_name, signer, signer_key_id, signature) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (user_id, key_name, signer, signer_key_id) DO UPDATE SET signature = excluded.signature
	WHERE mx_key_signatures.signature <> excluded.signature`

// PutKeySignature adds a signature and reports whether that changed anything.
func (tx *Tx) PutKeySignature(s KeySignature) (bool, error) {
	n, err := tx.exec(upsertKeySignature, s.User, s.KeyName, s.Signer, s.KeyID, s.Signature)
	return n > 0, err
}

// DeleteKeySignatures forgets the signatures of keys of a user, named as KeySignature.KeyName.
func (tx *Tx) DeleteKeySignatures(user id.UserID, names []string) error {
	_, err := tx.exec(deleteKeySignatures, user, list(names))
	return err
}

const deleteSignaturesByKeys = `
	DELETE FROM mx_key_signatures WHERE signer = $1 AND signer_key_id IN (SELECT value FROM json_each($2))`

// DeleteSignaturesBy forgets what was signed by keys of a user, named as KeySignature.KeyID.
func (tx *Tx) DeleteSignaturesBy(signer id.UserID, keyIDs []string) error {
	_, err := tx.exec(deleteSignaturesByKeys, signer, list(keyIDs))
	return err
}

// What is deleted of a user who is gone. Signatures by the user say something of keys of others.
const (
	deleteAllDeviceKeys   = `DELETE FROM mx_device_keys WHERE user_id = $1`
	deleteAllOneTimeKeys  = `DELETE FROM mx_one_time_keys WHERE user_id = $1`
	deleteAllSpentKeys    = `DELETE FROM mx_spent_keys WHERE user_id = $1`
	deleteAllFallbackKeys = `DELETE FROM mx_fallback_keys WHERE user_id = $1`
	deleteAllCrossSigning = `DELETE FROM mx_cross_signing_keys WHERE user_id = $1`
	deleteSignaturesOf    = `DELETE FROM mx_key_signatures WHERE user_id = $1`
	deleteSignaturesBy    = `DELETE FROM mx_key_signatures WHERE signer = $1`
	deleteBackupKeysOf    = `DELETE FROM mx_backup_keys WHERE user_id = $1`
	deleteBackupsOf       = `DELETE FROM mx_backups WHERE user_id = $1`
)

// DeleteKeysOf forgets all keys, signatures and key backups of a user.
func (tx *Tx) DeleteKeysOf(user id.UserID) error {
	for _, query := range []string{
		deleteAllDeviceKeys, deleteAllOneTimeKeys, deleteAllSpentKeys, deleteAllFallbackKeys, deleteAllCrossSigning,
		deleteSignaturesOf, deleteSignaturesBy, deleteBackupKeysOf, deleteBackupsOf,
	} {
		if _, err := tx.exec(query, user); err != nil {
			return err
		}
	}
	return nil
}
