package keyring

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// ErrSignature says that a signature is missing or wrong. The error wraps the one of package signing too.
var ErrSignature = errors.New("keyring: not signed")

// policyKeyID names a key that signs for rooms, not for a server: "the policy server key is not expected to be published and
// therefore should be skipped".
const policyKeyID = "ed25519:policy_server"

// maxSignatures is how many signatures of one server under one object are looked at.
const maxSignatures = 20

// VerifyEvent returns nil when every server that must have signed the event has done so.
//
// "If a signature is from an unknown or expired key, it is skipped"; of the others there must be one, and none
// may be wrong. The error wraps ErrSignature when the event is to be dropped, ErrUnknown or ErrExpired
// when only such keys have signed it, ErrUnreachable when that is not known because a server does not answer.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#validating-hashes-and-signatures-on-received-events
func (r *Ring) VerifyEvent(ctx context.Context, e *event.Event) error {
	return r.VerifyEvents(ctx, []*event.Event{e})[0]
}

// VerifyEvents is VerifyEvent for many events, whose keys are fetched together. The errors stand in the events' order.
func (r *Ring) VerifyEvents(ctx context.Context, events []*event.Event) []error {
	requests := make([]Request, 0, len(events))
	checks := make([]check, 0, len(events))
	for i, e := range events {
		for _, server := range eventauth.Signers(e) {
			c := check{event: i, server: server, first: len(requests)}
			requests = appendRequests(requests, e, server)
			c.end = len(requests)
			checks = append(checks, c)
		}
	}
	results := r.Keys(ctx, requests)
	errs := make([]error, len(events))
	split(checks, func(part []check) {
		for _, c := range part {
			if errs[c.event] == nil {
				errs[c.event] = c.verify(events[c.event], requests[c.first:c.end], results[c.first:c.end])
			}
		}
	})
	return errs
}

// fewChecks are done one after the other: another goroutine costs more than it saves.
const fewChecks = 16

// split lets fn do parts of checks at once, one for each core; those of one event, which follow each other, are in one.
func split(checks []check, fn func([]check)) {
	size := max(fewChecks, (len(checks)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for len(checks) > size {
		end := size
		for end < len(checks) && checks[end].event == checks[end-1].event {
			end++
		}
		part := checks[:end]
		checks = checks[end:]
		wg.Go(func() { fn(part) })
	}
	fn(checks)
	wg.Wait()
}

// check is one server's duty to have signed one event; its keys are a range of the requests.
type check struct {
	event      int
	server     id.ServerName
	first, end int
}

func appendRequests(requests []Request, e *event.Event, server id.ServerName) []Request {
	ids := e.SignedBy(server)
	at := time.UnixMilli(e.OriginServerTS)
	for _, keyID := range ids[:min(len(ids), maxSignatures)] {
		if keyID == policyKeyID {
			continue
		}
		requests = append(requests, Request{Server: server, KeyID: keyID, At: at, EvenExpired: !e.Rules.EnforceKeyValidity})
	}
	return requests
}

func (c check) verify(e *event.Event, requests []Request, results []Result) (err error) {
	defer func() {
		if p := recover(); p != nil { // it must not end the process
			err = fmt.Errorf("%w: event %s by %s cannot be checked: %v", ErrSignature, e.ID, c.server, p)
		}
	}()
	err = verify(requests, results, func(keyID string, public ed25519.PublicKey) error {
		return event.VerifySignature(e, c.server, keyID, public)
	})
	if err != nil {
		return fmt.Errorf("event %s by %s: %w", e.ID, c.server, err)
	}
	return nil
}

// verify applies the rule for the signatures of one server: those by keys that are not known do not count.
func verify(requests []Request, results []Result, signed func(keyID string, public ed25519.PublicKey) error) error {
	good, unknown := false, error(nil)
	for i, res := range results {
		if res.Err != nil {
			unknown = worse(unknown, res.Err)
			continue
		}
		if err := signed(requests[i].KeyID, res.Key); err != nil {
			return fmt.Errorf("%w: key %s: %w", ErrSignature, requests[i].KeyID, err)
		}
		good = true
	}
	switch {
	case good:
		return nil
	case unknown != nil:
		return unknown
	}
	return fmt.Errorf("%w: %w", ErrSignature, signing.ErrMissing)
}

// worse is the error that leaves more open: one that another attempt may not have.
func worse(a, b error) error {
	if a == nil || errors.Is(a, ErrUnknown) || errors.Is(a, ErrExpired) {
		return b
	}
	return a
}

// VerifyJSON returns nil when server has signed object with a key that it uses now. The errors are those
// of VerifyEvent, or one of canonjson.
//
// Spec: https://spec.matrix.org/latest/appendices/#checking-for-a-signature
func (r *Ring) VerifyJSON(ctx context.Context, server id.ServerName, object []byte) error {
	canonical, err := canonjson.Append(nil, object)
	if err != nil {
		return fmt.Errorf("verify JSON: %w", err)
	}
	var requests []Request
	ids := signing.KeyIDs(canonical, string(server))
	for _, keyID := range ids[:min(len(ids), maxSignatures)] {
		requests = append(requests, Request{Server: server, KeyID: keyID, At: r.cfg.Now()})
	}
	message := signing.AppendSigned(nil, canonical)
	err = verify(requests, r.Keys(ctx, requests), func(keyID string, public ed25519.PublicKey) error {
		signature, err := signing.Signature(canonical, string(server), keyID)
		if err != nil {
			return err
		}
		return signing.Verify(public, message, signature)
	})
	if err != nil {
		return fmt.Errorf("object by %s: %w", server, err)
	}
	return nil
}
