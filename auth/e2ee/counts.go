package e2ee

import (
	"context"
	"slices"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// counts say what a device has left to give out. They are shared and never change.
type counts struct {
	oneTime map[string]int // one-time keys by algorithm
	unused  []string       // the algorithms whose fallback keys were not given out, sorted; never nil
}

// usual is the algorithm of which clients look for a count even if it is zero.
const usual = "signed_curve25519"

// maxCounts bounds the devices whose counts are remembered.
const maxCounts = 20_000

// countCache remembers counts.
type countCache struct {
	mu sync.Mutex // guards the following
	// known has the counts of devices; epoch counts what was forgotten.
	known map[deviceKey]*counts
	epoch uint64
}

type deviceKey struct {
	user   id.UserID
	device id.DeviceID
}

// Counts returns how many one-time keys of each algorithm a local device has left, signed_curve25519 always among them,
// and the algorithms whose fallback keys were not given out, sorted and never nil. It asks memory as a rule: it is for
// every answer of /sync. Whoever waits is woken when one of them changes. The caller may not change what is returned.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#e2e-extensions-to-sync
func (s *Service) Counts(ctx context.Context, user id.UserID, device id.DeviceID) (oneTime map[string]int, unused []string, err error) {
	key := deviceKey{user, device}
	known, epoch := s.counts.get(key)
	if known == nil {
		err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			known, err = readCounts(tx, user, device)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		s.counts.add(key, known, epoch)
	}
	return known.oneTime, known.unused, nil
}

func readCounts(tx *storage.Tx, user id.UserID, device id.DeviceID) (*counts, error) {
	c := &counts{oneTime: map[string]int{usual: 0}, unused: []string{}}
	counts, err := tx.KeyCounts(user, device)
	if err != nil {
		return nil, err
	}
	for _, k := range counts {
		c.oneTime[k.Algorithm] = k.N
	}
	fallback, err := tx.FallbackKeys(user, device)
	if err != nil {
		return nil, err
	}
	for _, k := range fallback {
		if !k.Used {
			c.unused = append(c.unused, k.Algorithm)
		}
	}
	slices.Sort(c.unused)
	return c, nil
}

func (c *countCache) get(key deviceKey) (*counts, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[key], c.epoch
}

// add remembers what was read in an epoch, unless something was forgotten since.
func (c *countCache) add(key deviceKey, n *counts, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		return
	}
	if c.known == nil {
		c.known = map[deviceKey]*counts{}
	}
	for other := range c.known { // any one: it can be read again
		if len(c.known) < maxCounts {
			break
		}
		delete(c.known, other)
	}
	c.known[key] = n
}

func (c *countCache) forget(key deviceKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	delete(c.known, key)
}

// recount says, inside the act that does it, that a device has more or fewer keys to give out.
func (s *Service) recount(tx *storage.Tx, user id.UserID, device id.DeviceID) {
	forget := func(storage.Pos) { s.counts.forget(deviceKey{user, device}) }
	tx.Then(forget, func(storage.Pos) { s.Hub.Wake(nil, user) })
	tx.Doubt(forget)
}
