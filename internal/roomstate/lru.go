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

// put adds or replaces a value and drops the least recently used ones beyond the bound.
func (c *lru[K, V]) put(key K, val V, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
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
