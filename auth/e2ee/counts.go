package e2ee

import (
	"context"
	"slices"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Counts say what a device has left to give out. They are shared: nobody may change them.
type Counts struct {
	OneTime map[string]int // one-time keys by algorithm; signed_curve25519 is always there
	Unused  []string       // the algorithms whose fallback keys were not given out, sorted; never nil
}

// usual is the algorithm of which clients look for a count even if it is zero.
const usual = "signed_curve25519"

// maxCounts bounds the devices whose counts are remembered.
const maxCounts = 20_000

// countCache remembers counts.
type countCache struct {
	mu sync.Mutex // guards the following
	// known has the counts of devices; epoch counts what was forgotten.
	known map[deviceKey]*Counts
	epoch uint64
}

type deviceKey struct {
	user   id.UserID
	device id.DeviceID
}

// Counts returns the counts of a local device, from memory as a rule: for every answer of /sync. Whoever waits is woken
// when one of them changes.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#e2e-extensions-to-sync
func (s *Service) Counts(ctx context.Context, user id.UserID, device id.DeviceID) (*Counts, error) {
	key := deviceKey{user, device}
	known, epoch := s.counts.get(key)
	if known != nil {
		return known, nil
	}
	var c *Counts
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		c, err = readCounts(tx, user, device)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.counts.add(key, c, epoch)
	return c, nil
}

func readCounts(tx *storage.Tx, user id.UserID, device id.DeviceID) (*Counts, error) {
	c := &Counts{OneTime: map[string]int{usual: 0}, Unused: []string{}}
	counts, err := tx.KeyCounts(user, device)
	if err != nil {
		return nil, err
	}
	for _, k := range counts {
		c.OneTime[k.Algorithm] = k.N
	}
	fallback, err := tx.FallbackKeys(user, device)
	if err != nil {
		return nil, err
	}
	for _, k := range fallback {
		if !k.Used {
			c.Unused = append(c.Unused, k.Algorithm)
		}
	}
	slices.Sort(c.Unused)
	return c, nil
}

func (c *countCache) get(key deviceKey) (*Counts, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[key], c.epoch
}

// add remembers what was read in an epoch, unless something was forgotten since.
func (c *countCache) add(key deviceKey, counts *Counts, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		return
	}
	if c.known == nil {
		c.known = map[deviceKey]*Counts{}
	}
	for other := range c.known { // any one: it can be read again
		if len(c.known) < maxCounts {
			break
		}
		delete(c.known, other)
	}
	c.known[key] = counts
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
	tx.Then(forget, func(storage.Pos) { s.Hub.Wake(one(user)) })
}
