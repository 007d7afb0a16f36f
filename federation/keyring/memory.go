package keyring

import "github.com/embedmatrix/homeserver/internal/id"

// maxMemory bounds what both generations hold, in bytes.
const maxMemory = 32 << 20

// memory holds the records that were used recently. When the young generation is full it becomes the old one, and
// what was old and not asked for since is forgotten.
type memory struct {
	young, old map[id.ServerName]*record
	bytes, max int // of the young
}

func newMemory(max int) memory {
	return memory{young: map[id.ServerName]*record{}, max: max / 2}
}

// get returns a server's record, or nil.
func (m *memory) get(server id.ServerName) *record {
	if r, ok := m.young[server]; ok {
		return r
	}
	r, ok := m.old[server]
	if ok {
		m.put(server, r)
	}
	return r
}

func (m *memory) put(server id.ServerName, r *record) {
	if before, ok := m.young[server]; ok {
		m.bytes -= before.cost()
	}
	if m.bytes+r.cost() > m.max {
		m.old, m.young, m.bytes = m.young, map[id.ServerName]*record{}, 0
	}
	m.young[server] = r
	m.bytes += r.cost()
}
