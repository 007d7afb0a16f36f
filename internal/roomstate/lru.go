package roomstate

import (
	"container/list"
	"sync"
)

// lru keeps the most recently used values up to a bound in bytes.
type lru[K comparable, V any] struct {
	mu sync.Mutex // guards the following
	// max and bytes are the bound and what is held now; cost is part of each item.
	max, bytes int
	items      map[K]*list.Element
	order      *list.List // of *lruItem[K, V], the most recent first
	// epoch counts replaced values: what was read from storage in an earlier one may be out of date.
	epoch int64
}

type lruItem[K comparable, V any] struct {
	key  K
	val  V
	cost int
}

func newLRU[K comparable, V any](maxBytes int) *lru[K, V] {
	return &lru[K, V]{max: maxBytes, items: map[K]*list.Element{}, order: list.New()}
}

func (c *lru[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.items[key]
	if !ok {
		var zero V
		return zero, false
	}
	c.order.MoveToFront(el)
	return el.Value.(*lruItem[K, V]).val, true
}

// begin returns the epoch in which a read from storage begins.
func (c *lru[K, V]) begin() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// put adds a value that nobody else can have read yet, or that never changes.
func (c *lru[K, V]) put(key K, val V, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(key, val, cost)
}

// putRead adds a value that was read from storage since epoch, unless one was replaced meanwhile.
func (c *lru[K, V]) putRead(key K, val V, cost int, epoch int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		c.putLocked(key, val, cost)
	}
}

// replace puts a value in the place of an earlier one, after the commit by which it changed.
func (c *lru[K, V]) replace(key K, val V, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.putLocked(key, val, cost)
}

// putLocked adds or replaces a value and drops the least recently used ones beyond the bound.
func (c *lru[K, V]) putLocked(key K, val V, cost int) {
	c.dropLocked(key)
	c.items[key] = c.order.PushFront(&lruItem[K, V]{key, val, cost})
	c.bytes += cost
	for c.bytes > c.max && c.order.Len() > 1 {
		c.dropLocked(c.order.Back().Value.(*lruItem[K, V]).key)
	}
}

func (c *lru[K, V]) dropLocked(key K) {
	el, ok := c.items[key]
	if !ok {
		return
	}
	c.bytes -= el.Value.(*lruItem[K, V]).cost
	c.order.Remove(el)
	delete(c.items, key)
}
