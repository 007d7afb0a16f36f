package keyring

import (
	"context"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Query asks a notary for the keys of a server.
type Query struct {
	Server            id.ServerName
	KeyIDs            []string // those that are needed; none: all there are
	MinimumValidUntil int64    // milliseconds; 0: now
}

// notaryPatience bounds the time for an answer as a notary.
const notaryPatience = 8 * time.Second

// Answers returns what servers have said of their keys, each as the server signed it, for this server to
// sign as a notary. A server whose newest answer is not known, does not name a key that is needed, is over too soon or
// is half over is asked again, if it was not lately or often. Of its answers the newest with all the keys that are needed
// is returned, or else the newest. One of which nothing is known is left out, and so are we.
//
// It takes 8 seconds at most, and at most 64 servers are being asked at a time. Answers that came for this alone are not written to storage: whoever asks chooses the
// servers, and there are as many as one likes.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#querying-keys-through-another-server
func (r *Ring) Answers(ctx context.Context, queries []Query) [][]byte {
	ctx, cancel := context.WithTimeout(ctx, notaryPatience)
	defer cancel()
	now := r.cfg.Now().UnixMilli()
	b := batch{ring: r, now: now, records: map[id.ServerName]*record{}}
	b.recall(ctx, serversOf(queries))
	wanted := map[id.ServerName]*want{}
	for _, q := range queries {
		if rec := b.records[q.Server]; rec != nil && rec != r.own && !rec.answers(q, now) {
			wanted[q.Server] = &want{server: q.Server, base: rec, await: true, cause: forOthers}
		}
	}
	b.await(ctx, r.launch(wanted, now))
	return b.answers(queries)
}

func serversOf(queries []Query) []Request {
	requests := make([]Request, len(queries))
	for i, q := range queries {
		requests[i].Server = q.Server
	}
	return requests
}

// answers reports whether the newest answer will do for a query.
func (r *record) answers(q Query, now int64) bool {
	for _, keyID := range q.KeyIDs {
		if _, ok := r.keys[keyID]; !ok {
			return false
		}
	}
	longest := now + maxValidity.Milliseconds()/2
	return r.answer != nil && now < r.half() && r.validUntil >= min(max(q.MinimumValidUntil, now), longest)
}

// answers are those that are known, none twice.
func (b *batch) answers(queries []Query) [][]byte {
	var list [][]byte
	told := map[id.ServerName]bool{}
	for _, q := range queries {
		rec := b.records[q.Server]
		if rec != nil && rec.answer != nil && !told[q.Server] {
			told[q.Server] = true
			list = append(list, rec.naming(q.KeyIDs))
		}
	}
	return list
}
