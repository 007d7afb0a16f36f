package storage

import (
	"database/sql"
	"errors"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Flags of a stored event.
const (
	InTimeline int64 = 1 << iota // part of the history that clients are told
	Outlier                      // known, but without the state before it; in the timeline while this server is not in the room
	Rejected                     // refused by the authorisation rules
	SoftFailed                   // refused by the current state only
)

// OrdShift makes a place in a room's history from a position: events that arrive live have pos << OrdShift,
// so that what fills a gap later finds room between them; backfilled events count down from zero.
const OrdShift = 16

// Event is a stored event.
type Event struct {
	Pos        Pos
	Room       int64
	ID         id.EventID
	Ord        int64 // place in the room's history
	Before     int64 // the state before it
	After      int64 // the state after it, on its own branch
	Now        int64 // the room's current state once it had arrived
	Flags      int64
	RedactedBy Pos // 0 for none
	Device     id.DeviceID
	Txn        []byte // the transaction id by which Device sent it
	JSON       []byte
}

const eventColumns = `pos, room, event_id, ord, before, after, now, flags, redacted_by, device_id, txn, json`

// InsertEvent writes an event; see Event.Row.
var InsertEvent = &Insert{Table: "mx_events", Columns: eventColumns}

// Row is the event as arguments of InsertEvent.
func (e *Event) Row() []any {
	return []any{e.Pos, e.Room, string(e.ID), e.Ord, e.Before, e.After, e.Now, e.Flags, e.RedactedBy, string(e.Device), e.Txn, e.JSON}
}

func scanEvent(row *sql.Rows, e *Event) error {
	return row.Scan(&e.Pos, &e.Room, &e.ID, &e.Ord, &e.Before, &e.After, &e.Now, &e.Flags, &e.RedactedBy, &e.Device, &e.Txn, &e.JSON)
}

const selectEventsAt = `
	SELECT ` + eventColumns + ` FROM mx_events WHERE pos IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`

// EventsAt returns the events with these positions, in no order; unknown ones are left out.
func (tx *Tx) EventsAt(positions []Pos) ([]Event, error) {
	return collect(tx, scanEvent, selectEventsAt, list(positions))
}

const selectEventByID = `
	SELECT ` + eventColumns + ` FROM mx_events WHERE event_id = $1`

// EventByID returns the event with an id, or ErrNotFound.
func (tx *Tx) EventByID(event id.EventID) (Event, error) {
	return one(tx, scanEvent, selectEventByID, event)
}

const selectEventsByID = `
	SELECT ` + eventColumns + ` FROM mx_events WHERE event_id IN (SELECT value FROM json_each($1))`

// EventsByID returns the events with these ids, in no order; unknown ones are left out.
func (tx *Tx) EventsByID(events []id.EventID) ([]Event, error) {
	return collect(tx, scanEvent, selectEventsByID, list(events))
}

const selectEventIDsAt = `
	SELECT pos, event_id FROM mx_events WHERE pos IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`

// EventIDsAt returns the ids of the events with these positions; unknown ones are left out.
func (tx *Tx) EventIDsAt(positions []Pos) (map[Pos]id.EventID, error) {
	ids := make(map[Pos]id.EventID, len(positions))
	err := each(tx, func(row *sql.Rows) error {
		var pos Pos
		var eventID id.EventID
		err := row.Scan(&pos, &eventID)
		ids[pos] = eventID
		return err
	}, selectEventIDsAt, list(positions))
	return ids, err
}

const selectEventsBackwards = `
	SELECT ` + eventColumns + ` FROM mx_events WHERE room = $1 AND ord < $2 ORDER BY ord DESC LIMIT $3`

// EventsBackwards returns at most limit events of a room with a place before ord, newest first, whatever their flags.
func (tx *Tx) EventsBackwards(room, ord int64, limit int) ([]Event, error) {
	return collect(tx, scanEvent, selectEventsBackwards, room, ord, limit)
}

const updatePlaced = `
	UPDATE mx_events SET ord = $2, before = $3, after = $4, now = $5, flags = $6 WHERE pos = $1`

// PlaceEvent gives an event that was an outlier, or hidden, its place and its states.
func (tx *Tx) PlaceEvent(e *Event) error {
	if _, err := tx.exec(updatePlaced, e.Pos, e.Ord, e.Before, e.After, e.Now, e.Flags); err != nil {
		return err
	}
	return tx.searchAgain(e.Pos)
}

const updateOutside = `UPDATE mx_events SET flags = 2 WHERE room = $1 AND flags = 3`

// UnplaceOutside takes the outliers of a room out of its timeline: they wait for the place that its history gives them.
func (tx *Tx) UnplaceOutside(room int64) error {
	_, err := tx.exec(updateOutside, room)
	return err
}

const selectHistoryBackwards = `
	SELECT ` + eventColumns + ` FROM mx_events
	WHERE room = $1 AND ord < $2 AND ord > $3 AND flags IN (1, 3) ORDER BY ord DESC LIMIT $4`

// HistoryBackwards returns at most limit timeline events of a room with a place in (after, before), newest first.
func (tx *Tx) HistoryBackwards(room, before, after int64, limit int) ([]Event, error) {
	return collect(tx, scanEvent, selectHistoryBackwards, room, before, after, limit)
}

const selectHistoryForwards = `
	SELECT ` + eventColumns + ` FROM mx_events
	WHERE room = $1 AND ord > $2 AND ord < $3 AND flags IN (1, 3) ORDER BY ord LIMIT $4`

// HistoryForwards returns at most limit timeline events of a room with a place in (after, before), oldest first.
func (tx *Tx) HistoryForwards(room, after, before int64, limit int) ([]Event, error) {
	return collect(tx, scanEvent, selectHistoryForwards, room, after, before, limit)
}

const selectArrivalAfter = `
	SELECT e.ord FROM mx_rooms r JOIN mx_events e ON e.room = r.room
	WHERE r.room_id IN (SELECT value FROM json_each($1)) AND e.ord >= $2 AND e.ord <= $3 AND e.ord % 65536 = 0
	ORDER BY e.ord LIMIT 1 OFFSET $4`

// ArrivalAfter returns at which position in (from, to] an event came live into any of these rooms behind so many others; 0
// when there are no more than those.
func (tx *Tx) ArrivalAfter(rooms []id.RoomID, from, to Pos, others int) (Pos, error) {
	ord, err := one(tx, value[int64], selectArrivalAfter, list(rooms), (from+1)<<OrdShift, to<<OrdShift, others)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return ord >> OrdShift, err
}

// InsertTransaction remembers a client's transaction id: txn_hash, event_id, at_ms.
var InsertTransaction = &Insert{Table: "mx_transactions", Columns: "txn_hash, event_id, at_ms"}

const selectTransaction = `SELECT event_id FROM mx_transactions WHERE txn_hash = $1`

// Transaction returns the event that a transaction id made, or ErrNotFound.
func (tx *Tx) Transaction(hash []byte) (id.EventID, error) {
	return one(tx, value[id.EventID], selectTransaction, hash)
}

const updateRedacted = `
	UPDATE mx_events SET json = $2, redacted_by = $3 WHERE pos = $1`

// RedactEvent replaces the event at a position by its redacted form, because of the redaction at by.
func (tx *Tx) RedactEvent(pos Pos, json []byte, by Pos) error {
	if _, err := tx.exec(updateRedacted, pos, json, by); err != nil {
		return err
	}
	return tx.searchAgain(pos)
}

// InsertAnnotation remembers an annotation: room, said (a hash), event_id.
var InsertAnnotation = &Insert{
	Table: "mx_annotations", Columns: "room, said, event_id", Conflict: "ON CONFLICT (room, said) DO NOTHING",
}

const selectAnnotated = `SELECT 1 FROM mx_annotations WHERE room = $1 AND said = $2`

// Annotated reports whether an annotation was made already.
func (tx *Tx) Annotated(room int64, said []byte) (bool, error) {
	list, err := collect(tx, value[int64], selectAnnotated, room, said)
	return len(list) > 0, err
}

const deleteAnnotation = `DELETE FROM mx_annotations WHERE event_id = $1`

// DeleteAnnotation forgets an annotation, because it was redacted.
func (tx *Tx) DeleteAnnotation(event id.EventID) error {
	_, err := tx.exec(deleteAnnotation, event)
	return err
}
