package stateres_test

import (
	"testing"
)

// FuzzResolve: whatever the events of a room are, resolution ends, and comes out as the naive one, in any order of
// states and events; the graph's answers are those of the definitions.
func FuzzResolve(f *testing.F) {
	f.Add(uint8(0), []byte("\x00"))
	for i := range versions {
		f.Add(uint8(i), []byte("\x14\x02\x06\x00\x04\x03\x02\x01\x05\x06\x07\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"))
		f.Add(uint8(i), []byte("a room full of members who fight about who may name it and who may not\x00\xff\x80\x7f"))
	}
	f.Fuzz(func(t *testing.T, version uint8, data []byte) {
		g := grow(t, fromBytes(data), versions[int(version)%len(versions)])
		sets := g.hostile(4 + g.choose(28))
		g.requireGraph(sets, "fuzz")
		g.requireProperties(sets, "fuzz")
	})
}
