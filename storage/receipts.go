package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Receipt says up to which event somebody has read.
type Receipt struct {
	Room   int64
	User   id.UserID
	Kind   string // m.read or m.read.private
	Thread string // "main" or the id of a thread's root; empty: unthreaded
	Event  id.EventID
	AtMS   int64
	Pos    Pos
}

// UpsertReceipt writes a receipt: room, user_id, kind, thread_id, event_id, ord, at_ms, pos. One that is
// behind the stored one of the same user, kind and thread, by the place of its event in the room's history,
// changes nothing.
var UpsertReceipt = &Insert{
	Table: "mx_receipts", Columns: "room, user_id, kind, thread_id, event_id, ord, at_ms, pos", Key: 3,
	Conflict: `ON CONFLICT (room, user_id, kind, thread_id) DO UPDATE
		SET event_id = excluded.event_id, ord = excluded.ord, at_ms = excluded.at_ms, pos = excluded.pos
		WHERE mx_receipts.ord < excluded.ord`,
}

const selectReceiptsSince = `
	SELECT room, user_id, kind, thread_id, event_id, at_ms, pos FROM mx_receipts
	WHERE room IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND pos > $2 AND pos <= $3 ORDER BY pos`

// ReceiptsSince returns the receipts in rooms that came in (from, to], oldest first.
func (tx *Tx) ReceiptsSince(rooms []int64, from, to Pos) ([]Receipt, error) {
	return collect(tx, func(row *sql.Rows, r *Receipt) error {
		return row.Scan(&r.Room, &r.User, &r.Kind, &r.Thread, &r.Event, &r.AtMS, &r.Pos)
	}, selectReceiptsSince, list(rooms), from, to)
}
