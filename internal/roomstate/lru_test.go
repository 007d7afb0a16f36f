package roomstate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What was read before a value was replaced does not come back: a redacted event would be whole again.
func TestReplacedValueIsNotOverwrittenByAnOldRead(t *testing.T) {
	c := newLRU[int, string](1)
	epoch := c.begin()
	c.replace(1, "redacted", 1)
	c.putRead(1, "whole", 1, epoch)
	got, ok := c.get(1)
	require.True(t, ok)
	require.Equal(t, "redacted", got)

	c.put(2, "another", 1) // pushes the first out
	c.putRead(1, "whole", 1, epoch)
	_, ok = c.get(1)
	require.False(t, ok, "an old read is not kept at all")
	c.putRead(1, "redacted", 1, c.begin())
	got, _ = c.get(1)
	require.Equal(t, "redacted", got)
}

// The bytes of the cache are those of its rooms, however often they come and go.
func TestBytesFollowTheRooms(t *testing.T) {
	c := NewCache(nil, nil, Config{Rooms: 1 << 20})
	for range 3 {
		e, mine := c.entry("!r:x")
		require.True(t, mine)
		c.entry("!other:x") // is being loaded: not to be evicted
		r := &Room{ID: "!r:x", cache: c}
		c.loaded(e, r, nil)
		require.Equal(t, r.size(), c.bytes)
		r.tail.Add(1000)
		c.entry("!r:x")
		require.Equal(t, r.size(), c.bytes, "it grew")
		c.forget(e)
		c.forget(e)
		require.Zero(t, c.bytes)
	}
}

// A room is either written or evicted: two values of one room would not learn of each other's events.
func TestEvictedRoomIsNotPinned(t *testing.T) {
	r := &Room{}
	require.True(t, r.pin())
	require.False(t, r.evict(), "it is pinned")
	r.unpin()
	require.True(t, r.evict())
	require.False(t, r.pin())
	require.False(t, r.pin())
	require.False(t, r.evict(), "once is enough")
}
