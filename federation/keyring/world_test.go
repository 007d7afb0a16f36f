package keyring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

const own = id.ServerName("own")

// world is every other server there is, and the clock.
type world struct {
	t  testing.TB
	db *storage.DB

	mu       sync.Mutex // guards the following
	now      time.Time
	servers  map[id.ServerName]func(context.Context) ([]byte, error)
	notaries map[id.ServerName]func([]keyring.Query) ([][]byte, error)
	asked    map[id.ServerName]int
	queries  [][]keyring.Query
}

func newWorld(t testing.TB) *world {
	t.Helper()
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return &world{
		t: t, db: db, now: time.UnixMilli(1_700_000_000_000), asked: map[id.ServerName]int{},
		servers:  map[id.ServerName]func(context.Context) ([]byte, error){},
		notaries: map[id.ServerName]func([]keyring.Query) ([][]byte, error){},
	}
}

// ring returns a ring in this world.
func (w *world) ring(change ...func(*keyring.Config)) *keyring.Ring {
	cfg := keyring.Config{Server: own, DB: w.db, Fetcher: w, Now: w.clock}
	for _, c := range change {
		c(&cfg)
	}
	r := keyring.New(cfg)
	w.t.Cleanup(r.Close)
	return r
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// says makes a server answer with these bytes from now on.
func (w *world) says(server id.ServerName, body []byte) {
	w.does(server, func(context.Context) ([]byte, error) { return body, nil })
}

func (w *world) does(server id.ServerName, do func(context.Context) ([]byte, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers[server] = do
}

// stored waits until storage has what rings have queued.
func (w *world) stored() {
	require.NoError(w.t, w.db.Write(context.Background(), func(*storage.Tx, storage.Pos) error { return nil }))
}

// times is how often a server was asked for its keys.
func (w *world) times(server id.ServerName) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[server]
}

func (w *world) ServerKeys(ctx context.Context, server id.ServerName) ([]byte, error) {
	w.mu.Lock()
	w.asked[server]++
	do := w.servers[server]
	w.mu.Unlock()
	if do == nil {
		return nil, errors.New("connection refused")
	}
	return do(ctx)
}

func (w *world) NotaryKeys(_ context.Context, notary id.ServerName, queries []keyring.Query) ([][]byte, error) {
	w.mu.Lock()
	w.queries = append(w.queries, queries)
	do := w.notaries[notary]
	w.mu.Unlock()
	if do == nil {
		return nil, errors.New("connection refused")
	}
	return do(queries)
}

// silent never answers.
func silent(ctx context.Context) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// key makes the key whose seed is 32 times b.
func key(t testing.TB, version string, b byte) signing.Key {
	t.Helper()
	k, err := signing.NewKey(version, bytes.Repeat([]byte{b}, 32))
	require.NoError(t, err)
	return k
}

// object is JSON to be changed before it is signed.
type object map[string]any

// keysOf is an answer about keys, not signed.
func keysOf(server id.ServerName, until time.Time, keys ...signing.Key) object {
	list := object{}
	for _, k := range keys {
		list[k.ID] = object{"key": signing.Encode(k.Public())}
	}
	return object{"server_name": server, "valid_until_ts": until.UnixMilli(), "verify_keys": list}
}

// old adds a key that expired.
func (o object) old(k signing.Key, expired time.Time) object {
	return o.with("old_verify_keys", object{k.ID: object{"key": signing.Encode(k.Public()), "expired_ts": expired.UnixMilli()}})
}

// with is the object with another value at a key.
func (o object) with(key string, value any) object {
	next := maps.Clone(o)
	next[key] = value
	return next
}

func (o object) signed(t testing.TB, server id.ServerName, keys ...signing.Key) []byte {
	t.Helper()
	raw, err := json.Marshal(o)
	require.NoError(t, err)
	for _, k := range keys {
		raw, err = signing.SignJSON(string(server), k, raw)
		require.NoError(t, err)
	}
	return raw
}
