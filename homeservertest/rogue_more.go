package homeservertest

import (
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// Found makes a room of a version that has nothing but an m.room.create, of this sender and with this content, whatever
// that is. before, if not nil, changes the event before it is hashed and signed.
func (r *Rogue) Found(version, creator string, content any, before func(Fields)) *RogueRoom {
	r.network.t.Helper()
	rules, ok := roomversion.Get(version)
	require.True(r.network.t, ok, "room version %q", version)
	room := &RogueRoom{Version: version, rogue: r, rules: rules}
	if !rules.RoomIDIsCreateHash {
		room.ID = "!founded" + creator[strings.Index(creator, ":"):]
	}
	first := room.Extend(Draft{Type: "m.room.create", Sender: creator, StateKey: Key(""), Content: content, Before: before})
	if rules.RoomIDIsCreateHash {
		room.ID = "!" + first.ID[1:]
	}
	r.keep(room)
	return room
}

// Populate lets the creator of a room join it, and anybody else.
func (room *RogueRoom) Populate(creator string) {
	room.rogue.network.t.Helper()
	room.Extend(Draft{Type: "m.room.member", Sender: creator, StateKey: &creator, Content: Fields{"membership": "join"}})
	room.Extend(Draft{Type: "m.room.join_rules", Sender: creator, StateKey: Key(""), Content: Fields{"join_rule": "public"}})
}

// Events are all events of the room, in the order in which the rogue got or made them.
func (room *RogueRoom) Events() (all []PDU) {
	room.rogue.mu.Lock()
	defer room.rogue.mu.Unlock()
	for _, e := range room.events {
		all = append(all, e.PDU)
	}
	return all
}
