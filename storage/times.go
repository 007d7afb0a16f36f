package storage

import "errors"

// InsertTime lets an event be found by its origin_server_ts: room, ts, pos.
var InsertTime = &Insert{Table: "mx_times", Columns: "room, ts, pos", Conflict: "ON CONFLICT (room, ts, pos) DO NOTHING"}

// UpsertTimed notes that the events of a room can be found by time up to a position: room, up_to.
var UpsertTimed = &Insert{
	Table: "mx_timed", Columns: "room, up_to", Key: 1,
	Conflict: "ON CONFLICT (room) DO UPDATE SET up_to = CASE WHEN mx_timed.up_to > excluded.up_to THEN mx_timed.up_to ELSE excluded.up_to END",
}

const selectTimed = `SELECT up_to FROM mx_timed WHERE room = $1`

// TimedUpTo returns the position up to which the events of a room can be found by time, 0 for none.
func (tx *Tx) TimedUpTo(room int64) (Pos, error) {
	upTo, err := one(tx, value[Pos], selectTimed, room)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return upTo, err
}

const selectPositionsAfter = `SELECT pos FROM mx_events WHERE room = $1 AND +pos > $2 ORDER BY +pos`

// PositionsAfter returns the positions of all events of a room behind one, in their order, whatever their flags. It
// looks at those of the room only: the plus signs keep engines from walking through the events of all rooms.
func (tx *Tx) PositionsAfter(room int64, after Pos) ([]Pos, error) {
	return collect(tx, value[Pos], selectPositionsAfter, room, after)
}

const timedColumns = `e.pos, e.room, e.event_id, e.ord, e.before, e.after, e.now, e.flags, e.redacted_by, e.device_id, e.txn, e.json`

const selectEventsFrom = `
	SELECT ` + timedColumns + ` FROM mx_times t JOIN mx_events e ON e.pos = t.pos
	WHERE t.room = $1 AND t.ts >= $2 AND e.flags = 1 ORDER BY t.ts, e.ord LIMIT $3 OFFSET $4`

// EventsFrom returns at most limit timeline events of a room at a time or later, the earliest first and of those of one
// time the first in the history, without the first few of them. It knows events up to TimedUpTo.
func (tx *Tx) EventsFrom(room, ts int64, limit, skip int) ([]Event, error) {
	return collect(tx, scanEvent, selectEventsFrom, room, ts, limit, skip)
}

const selectEventsUntil = `
	SELECT ` + timedColumns + ` FROM mx_times t JOIN mx_events e ON e.pos = t.pos
	WHERE t.room = $1 AND t.ts <= $2 AND e.flags = 1 ORDER BY t.ts DESC, e.ord DESC LIMIT $3 OFFSET $4`

// EventsUntil is EventsFrom for events at a time or earlier, the latest first.
func (tx *Tx) EventsUntil(room, ts int64, limit, skip int) ([]Event, error) {
	return collect(tx, scanEvent, selectEventsUntil, room, ts, limit, skip)
}
