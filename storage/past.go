package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// PendingRedaction is a redaction that came before its target.
type PendingRedaction struct {
	Target id.EventID
	Pos    Pos // of the redaction
}

const selectPendingRedactionsOf = `
	SELECT target, pos FROM mx_pending_redactions p
	WHERE target IN (SELECT value FROM json_each($1)) AND (SELECT room FROM mx_events e WHERE e.pos = p.pos) = $2
	ORDER BY pos`

// PendingRedactionsOf returns the redactions of a room that came before these targets, oldest first.
func (tx *Tx) PendingRedactionsOf(room int64, targets []id.EventID) ([]PendingRedaction, error) {
	return collect(tx, func(row *sql.Rows, p *PendingRedaction) error {
		return row.Scan(&p.Target, &p.Pos)
	}, selectPendingRedactionsOf, list(targets), room)
}

const selectStrangers = `
	SELECT event_id FROM mx_events WHERE event_id IN (SELECT value FROM json_each($1)) AND room <> $2`

// Strangers returns those of these events that are of other rooms than this one, in no order.
func (tx *Tx) Strangers(room int64, events []id.EventID) ([]id.EventID, error) {
	return collect(tx, value[id.EventID], selectStrangers, list(events), room)
}

const selectOldestPlace = `SELECT ord FROM mx_events WHERE room = $1 AND ord > $2 AND ord <= $3 ORDER BY ord LIMIT 1`

// OldestPlace returns the smallest place in (after, upTo] that an event of a room has, whatever this server thinks of
// that event, or ErrNotFound.
func (tx *Tx) OldestPlace(room, after, upTo int64) (int64, error) {
	return one(tx, value[int64], selectOldestPlace, room, after, upTo)
}
