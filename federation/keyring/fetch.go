package keyring

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// cause is why a server is asked for its keys. Each has fetches of its own, so that those whom nobody knows
// cannot use up what events need. All of them together are fewer than the connections that may be opened at once.
type cause int

const (
	forEvents  cause = iota // it has signed something that a known peer sent
	forRequest              // somebody says to be it, of whom nothing is known
	forOthers               // another server asks us as a notary
	causes
)

// fetches is how many servers are asked at once for a cause, and waiting how many flights there may be, with those
// that wait for their turn: for events only, so that nobody else's flight keeps an event waiting.
var (
	fetches = [causes]int{64, 48, 64}
	waiting = [causes]int{4096, 48, 64}
)

// maxQueried is how many servers one request to a notary names.
const maxQueried = 100

var (
	errBusy    = errors.New("too many servers are being asked")
	errClosed  = errors.New("the server is shutting down")
	errForeign = errors.New("the answer is about another server")
)

// want is what somebody wants to know of a server.
type want struct {
	server id.ServerName
	base   *record
	asked  []Request // what the answer should settle
	await  bool      // somebody waits for it
	heard  bool      // it seems to be there
	cause  cause
}

// add takes in a request. The number of keys that are asked for is bounded: who signs with more is no server.
func (w *want) add(q Request, need need) {
	const maxAsked = 32
	w.await = w.await || need == answer
	if w.heard = w.heard || q.Heard; w.heard && len(w.base.keys) == 0 {
		w.cause = forRequest
	}
	if need == answer && len(w.asked) < maxAsked {
		w.asked = append(w.asked, q)
	}
}

// flight is one fetch of a server's keys. Its fields belong to its round until done is closed; then they stay.
type flight struct {
	want
	rec    *record
	failed error // why the server itself did not answer
	done   chan struct{}
	landed bool
}

// settled reports whether nothing is left to ask for.
func (f *flight) settled() bool {
	for _, q := range f.asked {
		if _, err := f.rec.key(q); err != nil {
			return false
		}
	}
	return true
}

// launch starts to ask the servers that are wanted and may be asked now, and returns the flights to wait for, of
// which some were under way already.
func (r *Ring) launch(wanted map[id.ServerName]*want, now int64) map[id.ServerName]*flight {
	await := map[id.ServerName]*flight{}
	var round []*flight
	r.mu.Lock()
	defer r.mu.Unlock()
	for server, w := range wanted {
		f := r.flights[server]
		if f == nil {
			if f = r.claimLocked(w, now); !f.landed {
				round = append(round, f)
			}
		}
		if w.await {
			await[server] = f
		}
	}
	r.departLocked(round)
	return await
}

// departLocked starts flights. Those that no notary may settle are on their own.
func (r *Ring) departLocked(claimed []*flight) {
	var round []*flight
	for _, f := range claimed {
		if r.forNotaries(f) {
			round = append(round, f)
		} else {
			r.rounds.Go(func() { r.flyAlone(r.ctx, f) })
		}
	}
	if len(round) > 0 {
		r.rounds.Go(func() { r.fly(r.ctx, round) })
	}
}

// forNotaries reports whether notaries may be asked about a server. Not for others, since two notaries could ask
// each other in a circle; nor about notaries, for whose keys a round may have to wait; nor for a mere refresh.
func (r *Ring) forNotaries(f *flight) bool {
	return len(r.notaries) > 0 && f.cause != forOthers && !r.notaries[f.server] && len(f.asked) > 0
}

// claimLocked makes the one flight to a server. It has landed already when the server is not to be asked now.
func (r *Ring) claimLocked(w *want, now int64) *flight {
	base := r.memory.get(w.server)
	if base == nil {
		base = w.base
	}
	f := &flight{want: *w, rec: base, done: make(chan struct{})}
	f.base = base
	switch {
	case w.cause == forOthers && !base.mayAskForOthers(now), w.cause != forOthers && !base.mayAsk(now, w.heard):
		return f.ground(base.cause)
	case r.closed:
		return f.ground(errClosed)
	case r.flying[w.cause] >= waiting[w.cause]:
		return f.ground(errBusy)
	}
	r.flying[w.cause]++
	r.flights[w.server] = f
	return f
}

// ground ends a flight that cannot begin.
func (f *flight) ground(cause error) *flight {
	f.rec, f.landed = f.base.unanswered(cause), true
	close(f.done)
	return f
}

func (r *Ring) flyAlone(ctx context.Context, f *flight) {
	f.failed = r.askServer(ctx, f)
	r.land(f)
}

// fly asks one source after the other for what the ones before did not know.
func (r *Ring) fly(ctx context.Context, round []*flight) {
	if r.cfg.NotariesFirst {
		r.askNotaries(ctx, round)
		r.askServers(ctx, r.landSettled(round))
		return
	}
	r.askServers(ctx, round)
	r.askNotaries(ctx, round)
	for _, f := range round {
		if !f.landed {
			r.land(f)
		}
	}
}

// landSettled ends the flights that need nothing more, and returns the others.
func (r *Ring) landSettled(round []*flight) (rest []*flight) {
	for _, f := range round {
		if f.settled() {
			r.land(f)
		} else {
			rest = append(rest, f)
		}
	}
	return rest
}

// land makes what a flight found known.
func (r *Ring) land(f *flight) {
	found := f.rec != f.base
	rec := f.rec.asked(r.cfg.Now().UnixMilli(), f.failed)
	if keep := f.cause != forOthers || rec.stored; found && keep {
		rec.stored = true // nobody else has seen this record yet
		r.store(f.server, f.base, rec)
	}
	f.rec, f.landed = rec, true
	r.mu.Lock()
	r.memory.put(f.server, rec)
	delete(r.flights, f.server)
	r.flying[f.cause]--
	r.mu.Unlock()
	close(f.done)
}

// askServers asks every server for its own keys, all at once. A flight ends when nothing more is to be asked for it.
func (r *Ring) askServers(ctx context.Context, round []*flight) {
	var asking sync.WaitGroup
	for _, f := range round {
		asking.Go(func() {
			f.failed = r.askServer(ctx, f)
			if r.cfg.NotariesFirst || f.settled() {
				r.land(f)
			}
		})
	}
	asking.Wait()
}

func (r *Ring) askServer(ctx context.Context, f *flight) error {
	select {
	case r.slots[f.cause] <- struct{}{}:
		defer func() { <-r.slots[f.cause] }()
	case <-ctx.Done():
		return errClosed
	}
	ctx, cancel := context.WithTimeout(ctx, directTime)
	defer cancel()
	body, err := r.cfg.Fetcher.ServerKeys(ctx, f.server)
	if err != nil {
		return err
	}
	a, err := readAnswer(body, r.cfg.Now().UnixMilli())
	if err != nil {
		return err
	}
	if a.server != f.server {
		return errForeign
	}
	f.rec = f.rec.with(a, false)
	return nil
}

// askNotaries asks the notaries one after the other about the flights that are not settled.
func (r *Ring) askNotaries(ctx context.Context, round []*flight) {
	for _, notary := range r.cfg.Notaries {
		about := map[id.ServerName]*flight{}
		for _, f := range round {
			if !f.landed && !f.settled() {
				about[f.server] = f
			}
		}
		r.askNotary(ctx, notary, about, notaryTime/time.Duration(len(r.cfg.Notaries)))
	}
}

func (r *Ring) askNotary(ctx context.Context, notary id.ServerName, about map[id.ServerName]*flight, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var queries []Query
	for _, f := range about {
		queries = append(queries, f.query(r.cfg.Now()))
	}
	for len(queries) > 0 && ctx.Err() == nil {
		n := min(len(queries), maxQueried)
		answers, err := r.cfg.Fetcher.NotaryKeys(ctx, notary, queries[:n])
		if err != nil {
			return
		}
		for _, body := range answers[:min(len(answers), 2*n)] {
			r.hear(ctx, notary, body, about)
		}
		queries = queries[n:]
	}
}

// query is what a notary is asked: "servers MUST set the `minimum_valid_until_ts` property to prompt the notary server to
// attempt to refresh the key if appropriate."
func (f *flight) query(now time.Time) Query {
	q := Query{Server: f.server}
	for _, a := range f.asked {
		q.KeyIDs = append(q.KeyIDs, a.KeyID)
		if at := min(a.At.UnixMilli(), now.UnixMilli()); at > q.MinimumValidUntil {
			q.MinimumValidUntil = at
		}
	}
	return q
}

// hear takes an answer of a notary if the notary has signed it as well. One that is wrong costs only its own server.
func (r *Ring) hear(ctx context.Context, notary id.ServerName, body []byte, about map[id.ServerName]*flight) {
	a, err := readAnswer(body, r.cfg.Now().UnixMilli())
	if err != nil {
		return
	}
	f, ok := about[a.server]
	if !ok || !r.vouched(ctx, notary, a) {
		return
	}
	f.rec = f.rec.with(a, true)
}

// vouched reports whether a notary has signed an answer with a key that it uses now.
func (r *Ring) vouched(ctx context.Context, notary id.ServerName, a *serverAnswer) bool {
	ids := signing.KeyIDs(a.json, string(notary))
	for _, keyID := range ids[:min(len(ids), maxSignatures)] {
		public, err := r.Key(ctx, notary, keyID, r.cfg.Now())
		if err == nil && a.signedBy(notary, keyID, public) {
			return true
		}
	}
	return false
}
