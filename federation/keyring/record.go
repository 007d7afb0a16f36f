package keyring

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/signing"
)

const (
	// maxValidity bounds how long an answer counts: "Servers MUST use the lesser of this field and 7 days into
	// the future when determining if a key is valid."
	maxValidity = 7 * 24 * time.Hour

	maxKeys = 256 // of a server that are remembered, those of the newest answers first

	betweenFetches = 30 * time.Second // from one server that answers
	firstWait      = 30 * time.Second // after a failure; it doubles with each further one
	longestWait    = time.Hour
	heardWait      = time.Minute // for a server that seems to be back

	atOnce    = 8 // fetches for others from one server that answers, before there has to be time between them
	maxFormer = 4 // answers that are kept beside the newest
)

// record is what is known of a server. It never changes: a newer one takes its place. Times are milliseconds.
type record struct {
	keys map[string]known

	answer     []byte   // the newest, as the server signed it; nil if there is none
	validUntil int64    // of that answer, at most maxValidity after it came
	fetched    int64    // when it came
	stored     bool     // there are rows in storage
	former     [][]byte // older answers that name keys which none after them does, newest first; in memory only

	tried    int64 // when the server was last asked by this process; 0: never
	atOnce   int   // how often without a pause
	failures int   // how often it has not answered since it last did
	spoke    bool  // it did answer, if only with an error
	cause    error // of the last failure
}

// known is a key of another server.
type known struct {
	public     ed25519.PublicKey
	validUntil int64 // of the newest answer that named it
	expired    int64 // 0: it was in use then; otherwise the last moment at which it signed
}

// ownRecord is what this server knows of itself.
func ownRecord(own []OwnKey) *record {
	r := &record{keys: map[string]known{}, validUntil: math.MaxInt64, fetched: math.MaxInt64}
	for _, k := range own {
		key := known{public: k.Public, validUntil: math.MaxInt64}
		if !k.ExpiredAt.IsZero() {
			key.expired = k.ExpiredAt.UnixMilli()
		}
		r.keys[k.ID] = key
	}
	return r
}

func (k known) validAt(at int64) bool {
	if k.expired != 0 {
		return at <= k.expired
	}
	return at <= k.validUntil
}

// key is the answer to a request by what is known.
func (r *record) key(q Request) (ed25519.PublicKey, error) {
	k, ok := r.keys[q.KeyID]
	if ok && (q.EvenExpired || k.validAt(q.At.UnixMilli())) {
		return k.public, nil
	}
	switch {
	case r.cause != nil && (!ok || k.expired == 0):
		return nil, fmt.Errorf("%w: %v", ErrUnreachable, r.cause)
	case ok:
		return nil, ErrExpired
	}
	return nil, ErrUnknown
}

// need says how much asking the server would help.
type need int

const (
	nothing need = iota
	refresh      // what is known will not do for long
	answer       // it does not do now
)

// need is what a request needs.
func (r *record) need(q Request, now int64) need {
	k, ok := r.keys[q.KeyID]
	at := q.At.UnixMilli()
	switch {
	case !ok && signing.ValidKeyID(q.KeyID):
		return answer
	case !ok, q.EvenExpired, k.expired != 0:
		return nothing
	case !k.validAt(at):
		if at > now+maxValidity.Milliseconds() {
			return nothing // no answer is valid for as long
		}
		return answer
	case at > r.half():
		return refresh
	}
	return nothing
}

// half is the moment when half of the answer's time is over: "Intermediate notary servers should cache a response
// for half of its lifetime".
func (r *record) half() int64 {
	if r.validUntil < r.fetched {
		return r.validUntil
	}
	return r.fetched + (r.validUntil-r.fetched)/2
}

// mayAsk reports whether the server may be asked now.
func (r *record) mayAsk(now int64, heard bool) bool {
	if r.tried == 0 {
		return true
	}
	wait := betweenFetches
	if r.failures > 0 {
		wait = firstWait << min(r.failures-1, 10)
		wait = min(wait, longestWait)
	}
	if heard {
		wait = min(wait, heardWait)
	}
	return now >= r.tried+wait.Milliseconds() || now < r.tried
}

// mayAskForOthers is mayAsk when a notary is asked for something newer: "to prompt the notary server to attempt to
// refresh the key if appropriate". Who asks chooses the server, which is why only a few times are at once.
func (r *record) mayAskForOthers(now int64) bool {
	return r.mayAsk(now, false) || r.spoke && r.atOnce < atOnce
}

// unanswered is the record for somebody who did not wait for the end of a fetch.
func (r *record) unanswered(cause error) *record {
	next := *r
	next.cause = cause
	return &next
}

// asked is the record after an attempt: failed is why the server itself did not answer, nil if it did or
// was not asked.
func (r *record) asked(now int64, failed error) *record {
	next := *r
	if next.atOnce++; now >= r.tried+betweenFetches.Milliseconds() || now < r.tried {
		next.atOnce = 1
	}
	var said *wire.Error
	next.spoke = failed == nil || errors.As(failed, &said)
	next.tried, next.cause = now, failed
	if failed != nil {
		next.failures++
	} else {
		next.failures = 0
	}
	return &next
}

// with is the record with an answer. What a server says itself is believed; a notary may have said it long ago, so
// its word neither shortens a time nor revives a key.
func (r *record) with(a *serverAnswer, fromNotary bool) *record {
	next := *r
	next.keys = maps.Clone(r.keys)
	if next.keys == nil {
		next.keys = map[string]known{}
	}
	for id, k := range a.keys {
		old, ok := r.keys[id]
		if fromNotary && ok && (old.validUntil > k.validUntil || old.expired != 0) {
			continue
		}
		next.keys[id] = k
	}
	next.forget()
	if !fromNotary || r.answer == nil || r.validUntil < a.validUntil {
		next.former = r.formerBeside(a)
		next.answer, next.validUntil, next.fetched = a.json, a.validUntil, a.fetched
	}
	return &next
}

// formerBeside are the answers to keep beside a newer one: a server may forget its keys, a notary may not.
func (r *record) formerBeside(newest *serverAnswer) [][]byte {
	told := map[string]bool{}
	for keyID := range newest.keys {
		told[keyID] = true
	}
	var kept [][]byte
	for _, former := range append([][]byte{r.answer}, r.former...) {
		if news := namesNew(former, told); news && len(kept) < maxFormer {
			kept = append(kept, former)
		}
	}
	return kept
}

// namesNew reports whether an answer has keys in use that are not told, which are then.
func namesNew(answer []byte, told map[string]bool) (news bool) {
	for members := canonjson.Open(canonjson.Get(answer, "verify_keys")); ; {
		name, _, ok := members.Next()
		if !ok {
			return news
		}
		if keyID := string(name); !told[keyID] {
			told[keyID], news = true, true
		}
	}
}

// naming returns the newest answer that names all of some keys, or else the newest; nil if there is none.
func (r *record) naming(keyIDs []string) []byte {
	for _, answer := range append([][]byte{r.answer}, r.former...) {
		if !slices.ContainsFunc(keyIDs, func(keyID string) bool { return !names(answer, keyID) }) {
			return answer
		}
	}
	return r.answer
}

func names(answer []byte, keyID string) bool {
	return canonjson.Get(canonjson.Get(answer, "verify_keys"), keyID) != nil || canonjson.Get(canonjson.Get(answer, "old_verify_keys"), keyID) != nil
}

// forget drops the keys that were not named for the longest time, beyond the bound.
func (r *record) forget() {
	if len(r.keys) <= maxKeys {
		return
	}
	ids := slices.SortedFunc(maps.Keys(r.keys), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.keys[b].validUntil, r.keys[a].validUntil), cmp.Compare(a, b))
	})
	for _, id := range ids[maxKeys:] {
		delete(r.keys, id)
	}
}

// cost is about how many bytes the record takes.
func (r *record) cost() int {
	bytes := 512 + len(r.answer) + 160*len(r.keys)
	for _, former := range r.former {
		bytes += len(former)
	}
	return bytes
}
