package rooms

import (
	"container/list"
	"sync"
	"time"
)

// shelf keeps values for a time, up to a bound: those that were not used for longest go first. It is safe for many at
// once; the values are shared.
type shelf[K comparable, V any] struct {
	lasts time.Duration // 0: as long as there is room
	most  int           // weight of all values together

	mu     sync.Mutex // guards the following
	items  map[K]*list.Element
	order  *list.List // of *shelved[K, V], the latest first
	weight int
}

type shelved[K comparable, V any] struct {
	key    K
	value  V
	weight int
	put    time.Time
}

func newShelf[K comparable, V any](most int, lasts time.Duration) *shelf[K, V] {
	return &shelf[K, V]{lasts: lasts, most: most, items: map[K]*list.Element{}, order: list.New()}
}

// get returns what was put under a key, unless its time is over.
func (s *shelf[K, V]) get(key K, now time.Time) (value V, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	el, ok := s.items[key]
	if !ok {
		return value, false
	}
	it := el.Value.(*shelved[K, V])
	if s.lasts > 0 && now.Sub(it.put) >= s.lasts {
		s.dropLocked(el)
		return value, false
	}
	s.order.MoveToFront(el)
	return it.value, true
}

// put keeps a value under a key in the place of what was there.
func (s *shelf[K, V]) put(key K, value V, weight int, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if el, ok := s.items[key]; ok {
		s.dropLocked(el)
	}
	s.items[key] = s.order.PushFront(&shelved[K, V]{key, value, weight, now})
	s.weight += weight
	for s.weight > s.most && s.order.Len() > 1 {
		s.dropLocked(s.order.Back())
	}
}

func (s *shelf[K, V]) dropLocked(el *list.Element) {
	it := s.order.Remove(el).(*shelved[K, V])
	delete(s.items, it.key)
	s.weight -= it.weight
}
