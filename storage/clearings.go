package storage

import "database/sql"

// Clearing is a member event with which all that its target has sent before is redacted, while that is under way.
type Clearing struct {
	By   Pos // the member event
	Room int64
	Done int64 // the place in the room's history up to which it is done
	UpTo int64 // the member event's place
}

// InsertClearing begins one: by_pos, room, done, up_to.
var InsertClearing = &Insert{Table: "mx_clearings", Columns: "by_pos, room, done, up_to"}

const selectClearing = `SELECT by_pos, room, done, up_to FROM mx_clearings ORDER BY by_pos LIMIT $1`

// Clearings returns at most limit of what is under way, the oldest first.
func (tx *Tx) Clearings(limit int) ([]Clearing, error) {
	return collect(tx, func(row *sql.Rows, c *Clearing) error { return row.Scan(&c.By, &c.Room, &c.Done, &c.UpTo) }, selectClearing, limit)
}

const updateClearing = `UPDATE mx_clearings SET done = $2 WHERE by_pos = $1`

// ClearedUpTo notes how far one is done.
func (tx *Tx) ClearedUpTo(by Pos, done int64) error {
	_, err := tx.exec(updateClearing, by, done)
	return err
}

const deleteClearing = `DELETE FROM mx_clearings WHERE by_pos = $1`

// Cleared ends one.
func (tx *Tx) Cleared(by Pos) error {
	_, err := tx.exec(deleteClearing, by)
	return err
}

const selectEventsForwards = `
	SELECT ` + eventColumns + ` FROM mx_events WHERE room = $1 AND ord > $2 AND ord < $3 ORDER BY ord LIMIT $4`

// EventsForwards returns at most limit events of a room with a place in (after, before), oldest first, whatever their
// flags.
func (tx *Tx) EventsForwards(room, after, before int64, limit int) ([]Event, error) {
	return collect(tx, scanEvent, selectEventsForwards, room, after, before, limit)
}
