package storage

import "github.com/embedmatrix/homeserver/internal/id"

// UpsertStripped remembers what a server told of a room to a user who is invited to it or knocks: room, user_id, state.
var UpsertStripped = &Insert{
	Table: "mx_stripped", Columns: "room, user_id, state", Key: 2,
	Conflict: "ON CONFLICT (room, user_id) DO UPDATE SET state = excluded.state",
}

const selectStripped = `SELECT state FROM mx_stripped WHERE room = $1 AND user_id = $2`

// Stripped returns the stripped state that came with a user's invite or knock, a JSON list, or ErrNotFound.
func (tx *Tx) Stripped(room int64, user id.UserID) ([]byte, error) {
	return one(tx, value[[]byte], selectStripped, room, user)
}
