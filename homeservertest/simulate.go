package homeservertest

import (
	"encoding/binary"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
)

// Simulate runs fn in a testing/synctest bubble with a network: hours of back-offs, partitions and slow peers take as
// long as the work in them takes. The servers of the network draw their keys, tokens and ids from seed; whatever fn
// draws from the same seed happens again at the same virtual times when it is given again, though goroutines that are
// ready at one time still run in any order.
//
// It returns when every server is closed and every goroutine that fn or a server has started has ended; one that never
// does fails the test, as "deadlock: main bubble goroutine has exited".
//
// A mutex that is held while something waits stops virtual time; so in what is tested, what waits holds channels.
func Simulate(t *testing.T, seed uint64, fn func(*testing.T, *Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(t)
		n.random = func(name string) io.Reader { return newChance(seed, name) }
		fn(t, n)
	})
}

// chance is a random source of one server.
type chance struct {
	mu     sync.Mutex // guards source
	source *rand.ChaCha8
}

func newChance(seed uint64, name string) *chance {
	var key [32]byte
	h := fnv.New64a()
	io.WriteString(h, name) //nolint:errcheck // it never fails
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], h.Sum64())
	return &chance{source: rand.NewChaCha8(key)}
}

// Read fills b.
func (c *chance) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.source.Read(b)
}
