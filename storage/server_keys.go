package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// ServerKey is a signing key of another server.
type ServerKey struct {
	Server       id.ServerName
	KeyID        string
	Public       []byte
	ValidUntilMS int64 // of the newest answer that named the key
	ExpiredMS    int64 // 0: the key was in use then; otherwise the last moment at which it signed
}

// ServerKeyAnswer is what a server has said of its keys, as it signed it.
type ServerKeyAnswer struct {
	Server       id.ServerName
	JSON         []byte
	ValidUntilMS int64
	FetchedMS    int64
}

// UpsertServerKey writes a key of a server: server_name, key_id, key, valid_until_ms, expired_ms.
var UpsertServerKey = &Insert{
	Table: "mx_server_keys", Columns: "server_name, key_id, key, valid_until_ms, expired_ms", Key: 2,
	Conflict: `ON CONFLICT (server_name, key_id) DO UPDATE
		SET key = excluded.key, valid_until_ms = excluded.valid_until_ms, expired_ms = excluded.expired_ms`,
}

// UpsertServerKeyAnswer writes a server's answer: server_name, answer, valid_until_ms, fetched_ms.
var UpsertServerKeyAnswer = &Insert{
	Table: "mx_server_key_answers", Columns: "server_name, answer, valid_until_ms, fetched_ms", Key: 1,
	Conflict: `ON CONFLICT (server_name) DO UPDATE
		SET answer = excluded.answer, valid_until_ms = excluded.valid_until_ms, fetched_ms = excluded.fetched_ms`,
}

const selectServerKeys = `
	SELECT server_name, key_id, key, valid_until_ms, expired_ms FROM mx_server_keys
	WHERE server_name IN (SELECT value FROM json_each($1)) ORDER BY server_name, key_id`

// ServerKeys returns every key known of servers, by server and key id.
func (tx *Tx) ServerKeys(servers []id.ServerName) ([]ServerKey, error) {
	return collect(tx, func(row *sql.Rows, k *ServerKey) error {
		return row.Scan(&k.Server, &k.KeyID, &k.Public, &k.ValidUntilMS, &k.ExpiredMS)
	}, selectServerKeys, list(servers))
}

const selectServerKeyAnswers = `
	SELECT server_name, answer, valid_until_ms, fetched_ms FROM mx_server_key_answers
	WHERE server_name IN (SELECT value FROM json_each($1)) ORDER BY server_name`

// ServerKeyAnswers returns the newest answers of servers, by server.
func (tx *Tx) ServerKeyAnswers(servers []id.ServerName) ([]ServerKeyAnswer, error) {
	return collect(tx, func(row *sql.Rows, a *ServerKeyAnswer) error {
		return row.Scan(&a.Server, &a.JSON, &a.ValidUntilMS, &a.FetchedMS)
	}, selectServerKeyAnswers, list(servers))
}

const deleteOldServerKeys = `
	DELETE FROM mx_server_keys WHERE server_name = $1 AND key_id NOT IN (
		SELECT key_id FROM mx_server_keys WHERE server_name = $1 ORDER BY valid_until_ms DESC, key_id LIMIT $2)`

// KeepServerKeys forgets all keys of a server but as many, those named last.
func (tx *Tx) KeepServerKeys(server id.ServerName, keep int) error {
	_, err := tx.exec(deleteOldServerKeys, server, keep)
	return err
}
