package keyring

import (
	"context"
	"fmt"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// load reads what storage knows of servers into records and memory. On an error it leaves both as they are.
func (r *Ring) load(ctx context.Context, servers []id.ServerName, records map[id.ServerName]*record) error {
	loaded := map[id.ServerName]*record{}
	for _, s := range servers {
		loaded[s] = &record{keys: map[string]known{}}
	}
	if err := r.cfg.DB.Read(ctx, func(tx *storage.Tx) error { return readRecords(tx, servers, loaded) }); err != nil {
		return fmt.Errorf("read the keys of servers: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for server, rec := range loaded {
		if newer := r.memory.get(server); newer != nil { // a fetch has ended meanwhile
			rec = newer
		} else {
			r.memory.put(server, rec)
		}
		records[server] = rec
	}
	return nil
}

func readRecords(tx *storage.Tx, servers []id.ServerName, into map[id.ServerName]*record) error {
	keys, err := tx.ServerKeys(servers)
	if err != nil {
		return err
	}
	for _, k := range keys {
		rec := into[k.Server]
		rec.stored = true
		rec.keys[k.KeyID] = known{public: k.Public, validUntil: k.ValidUntilMS, expired: k.ExpiredMS}
	}
	answers, err := tx.ServerKeyAnswers(servers)
	if err != nil {
		return err
	}
	for _, a := range answers {
		rec := into[a.Server]
		rec.answer, rec.validUntil, rec.fetched = a.JSON, a.ValidUntilMS, a.FetchedMS
	}
	return nil
}

// store queues what a record knows more than the one before it. If it is not written, the keys are fetched once more
// after the next start.
func (r *Ring) store(server id.ServerName, before, rec *record) {
	a := &storage.Act{}
	for keyID, k := range rec.keys {
		if old, ok := before.keys[keyID]; !ok || !before.stored || !old.equal(k) {
			a.Add(storage.UpsertServerKey, string(server), keyID, []byte(k.public), k.validUntil, k.expired)
		}
	}
	a.Add(storage.UpsertServerKeyAnswer, string(server), rec.answer, rec.validUntil, rec.fetched)
	if len(rec.keys) == maxKeys {
		a.Do = func(tx *storage.Tx, _ storage.Pos) error { return tx.KeepServerKeys(server, maxKeys) }
	}
	r.cfg.DB.Queue(a)
}

func (k known) equal(other known) bool {
	return k.validUntil == other.validUntil && k.expired == other.expired && k.public.Equal(other.public)
}
