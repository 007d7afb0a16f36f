// Package keyring knows the signing keys of other servers: it fetches them, keeps them, and checks with them
// what those servers have signed.
//
// Keys live in storage and, the recently used ones, in memory. A server is asked by at most one request at a
// time, and not again for a while after it failed or turned out not to have a key. No server that does not
// answer keeps the keys of another from being found.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#retrieving-server-keys
package keyring

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Why there is no key.
var (
	ErrUnknown     = errors.New("keyring: the server has no such key")
	ErrExpired     = errors.New("keyring: the key was not valid at that time")
	ErrUnreachable = errors.New("keyring: the server's keys could not be fetched") // trying again later may help
)

// Fetcher asks other servers. Its methods may be called at once from any goroutine, end with their context,
// refuse answers longer than MaxAnswer (for each server, of a notary), and never reach networks that are denied.
type Fetcher interface {
	// ServerKeys returns the body of GET /_matrix/key/v2/server, asked of server.
	ServerKeys(ctx context.Context, server id.ServerName) ([]byte, error)

	// NotaryKeys returns the elements of server_keys in the answer to POST /_matrix/key/v2/query, asked of notary.
	NotaryKeys(ctx context.Context, notary id.ServerName, queries []Query) ([][]byte, error)
}

// Config is what a Ring needs to know.
type Config struct {
	Server  id.ServerName // our own, whose keys are Own and never fetched
	Own     []OwnKey
	DB      *storage.DB
	Fetcher Fetcher

	// Notaries are servers whose word on the keys of others is taken, asked in this order for what a server
	// itself did not answer. The keys of a notary come from itself only.
	Notaries []id.ServerName

	// NotariesFirst asks the notaries before the server itself.
	NotariesFirst bool

	Now func() time.Time // nil: time.Now
}

// OwnKey is a key of this server.
type OwnKey struct {
	ID        string
	Public    ed25519.PublicKey
	ExpiredAt time.Time // the last moment at which it signed; zero while it is in use
}

const (
	directTime = 5 * time.Second  // for a server to answer for itself
	notaryTime = 5 * time.Second  // for all notaries together
	patience   = 12 * time.Second // of whoever asks, without a deadline of the context's own
)

// Ring finds keys. Its methods may be called at once from any goroutine.
type Ring struct {
	cfg      Config
	own      *record
	notaries map[id.ServerName]bool
	slots    [causes]chan struct{} // one for each fetch
	ctx      context.Context
	stop     context.CancelFunc
	rounds   sync.WaitGroup

	mu      sync.Mutex // guards the following
	memory  memory
	flights map[id.ServerName]*flight
	flying  [causes]int // how many flights there are
	closed  bool
}

// New returns a ring. It does no I/O.
func New(cfg Config) *Ring {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Ring{
		cfg:      cfg,
		own:      ownRecord(cfg.Own),
		notaries: map[id.ServerName]bool{},
		memory:   newMemory(maxMemory),
		flights:  map[id.ServerName]*flight{},
	}
	for c := range r.slots {
		r.slots[c] = make(chan struct{}, fetches[c])
	}
	for _, n := range cfg.Notaries {
		r.notaries[n] = true
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// Close breaks off the fetches and returns when the last has ended. What is asked for afterwards comes from
// memory and storage.
func (r *Ring) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.rounds.Wait()
}

// Request asks for a key.
type Request struct {
	Server id.ServerName
	KeyID  string
	At     time.Time // the moment at which the key must be valid

	// EvenExpired takes keys that were not valid at that moment, as room versions 1 to 4 do.
	EvenExpired bool

	// Heard says that somebody who claims to be the server has just sent a request: a failure of a minute ago
	// does not keep us from asking it again.
	Heard bool
}

// Result is the answer to a Request.
type Result struct {
	Key ed25519.PublicKey // nil with an Err
	Err error             // wraps ErrUnknown, ErrExpired or ErrUnreachable, or comes from storage
}

// Key returns a key that was valid at a moment. The error is that of a Result.
func (r *Ring) Key(ctx context.Context, server id.ServerName, keyID string, at time.Time) (ed25519.PublicKey, error) {
	result := r.Keys(ctx, []Request{{Server: server, KeyID: keyID, At: at}})[0]
	return result.Key, result.Err
}

// Keys returns the result of each request, in their order. Servers are asked for what is neither in memory nor
// in storage, all at once, each no more than once; one that does not answer costs the others nothing but
// time: 12 seconds at most, unless ctx has a deadline of its own.
func (r *Ring) Keys(ctx context.Context, requests []Request) []Result {
	b := batch{ring: r, now: r.cfg.Now().UnixMilli(), records: map[id.ServerName]*record{}}
	results := make([]Result, len(requests))
	b.recall(ctx, requests)
	if flights := b.take(requests); len(flights) > 0 {
		b.await(ctx, flights)
	}
	for i, q := range requests {
		results[i] = b.result(q)
	}
	return results
}

// batch is one call of Keys.
type batch struct {
	ring    *Ring
	now     int64
	records map[id.ServerName]*record
	err     error // of storage: what records lack is not known
}

// recall finds what memory and storage know of the servers.
func (b *batch) recall(ctx context.Context, requests []Request) {
	var missing []id.ServerName
	b.ring.mu.Lock()
	for _, q := range requests {
		if _, again := b.records[q.Server]; again {
			continue
		}
		rec := b.ring.knownLocked(q.Server)
		b.records[q.Server] = rec
		if rec == nil {
			missing = append(missing, q.Server)
		}
	}
	b.ring.mu.Unlock()
	if len(missing) > 0 {
		b.err = b.ring.load(ctx, missing, b.records)
	}
}

// knownLocked is what memory knows of a server, nil for nothing.
func (r *Ring) knownLocked(server id.ServerName) *record {
	if server == r.cfg.Server {
		return r.own
	}
	return r.memory.get(server)
}

// take starts the fetches that the requests need, or joins them, and returns those to wait for.
func (b *batch) take(requests []Request) map[id.ServerName]*flight {
	var wanted map[id.ServerName]*want
	for _, q := range requests {
		rec := b.records[q.Server]
		if rec == nil || rec == b.ring.own {
			continue // storage failed; or ours
		}
		need := rec.need(q, b.now)
		if need == nothing {
			continue
		}
		if wanted == nil {
			wanted = map[id.ServerName]*want{}
		}
		w, ok := wanted[q.Server]
		if !ok {
			w = &want{server: q.Server, base: rec}
			wanted[q.Server] = w
		}
		w.add(q, need)
	}
	if wanted == nil {
		return nil
	}
	return b.ring.launch(wanted, b.now)
}

// await waits for the flights and takes over what they found.
func (b *batch) await(ctx context.Context, flights map[id.ServerName]*flight) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	for server, f := range flights {
		select {
		case <-f.done:
			b.records[server] = f.rec
		case <-ctx.Done():
			b.records[server] = b.records[server].unanswered(ctx.Err())
		}
	}
}

func (b *batch) result(q Request) Result {
	rec := b.records[q.Server]
	if rec == nil {
		return Result{Err: fmt.Errorf("key %s of %s: %w", q.KeyID, q.Server, b.err)}
	}
	key, err := rec.key(q)
	if err != nil {
		return Result{Err: fmt.Errorf("key %s of %s: %w", q.KeyID, q.Server, err)}
	}
	return Result{Key: key}
}
