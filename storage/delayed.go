package storage

import (
	"database/sql"
	"errors"
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Delayed is an event that is to be sent later.
type Delayed struct {
	ID       string // a secret: who knows it may cancel, restart or send the event
	User     id.UserID
	Device   id.DeviceID
	Room     id.RoomID
	Type     string
	StateKey *string // nil for a message event
	Content  []byte  // JSON
	StickyMS int64   // for how long the event is sticky; 0: it is not
	DelayMS  int64
	DueMS    int64 // when it is sent
	Pos      Pos   // when it was scheduled
}

const delayedColumns = `delay_id, user_id, device_id, room_id, type, is_state, state_key, content, sticky_ms, delay_ms, due_ms, pos`

func scanDelayed(row *sql.Rows, d *Delayed) error {
	var eventType, stateKey []byte
	var isState bool
	err := row.Scan(&d.ID, &d.User, &d.Device, &d.Room, &eventType, &isState, &stateKey, &d.Content,
		&d.StickyMS, &d.DelayMS, &d.DueMS, &d.Pos)
	if d.Type = string(eventType); isState {
		key := string(stateKey)
		d.StateKey = &key
	}
	return err
}

const insertDelayed = `
	INSERT INTO mx_delayed (` + delayedColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`

// InsertDelayed schedules an event.
func (tx *Tx) InsertDelayed(d *Delayed) error {
	stateKey := []byte{}
	if d.StateKey != nil {
		stateKey = []byte(*d.StateKey)
	}
	_, err := tx.exec(insertDelayed, d.ID, d.User, d.Device, d.Room, []byte(d.Type), d.StateKey != nil, stateKey, d.Content,
		d.StickyMS, d.DelayMS, d.DueMS, d.Pos)
	return err
}

const insertTransaction = `INSERT INTO mx_transactions (txn_hash, event_id, at_ms) VALUES ($1, $2, $3)`

// RememberTransaction notes what a client's transaction id has made, beside InsertTransaction: it may be an event that is
// to be sent later, whose id is no event id.
func (tx *Tx) RememberTransaction(hash []byte, made string, atMS int64) error {
	_, err := tx.exec(insertTransaction, hash, made, atMS)
	return err
}

const selectDelayed = `SELECT ` + delayedColumns + ` FROM mx_delayed WHERE delay_id = $1`

// Delayed returns the scheduled event with an id, or ErrNotFound.
func (tx *Tx) Delayed(delayID string) (Delayed, error) {
	return one(tx, scanDelayed, selectDelayed, delayID)
}

const selectDelayedOf = `
	SELECT ` + delayedColumns + ` FROM mx_delayed WHERE user_id = $1 ORDER BY due_ms, delay_id LIMIT $2`

// DelayedOf returns the scheduled events of a user, the next one first, at most limit.
func (tx *Tx) DelayedOf(user id.UserID, limit int) ([]Delayed, error) {
	return collect(tx, scanDelayed, selectDelayedOf, user, limit)
}

const selectDelayedUntil = `
	SELECT ` + delayedColumns + ` FROM mx_delayed WHERE due_ms <= $1 ORDER BY due_ms, pos LIMIT $2`

// DelayedUntil returns the events that were to be sent at a time or before, the earliest first, at most limit.
func (tx *Tx) DelayedUntil(nowMS int64, limit int) ([]Delayed, error) {
	return collect(tx, scanDelayed, selectDelayedUntil, nowMS, limit)
}

const selectNextDue = `SELECT due_ms FROM mx_delayed ORDER BY due_ms LIMIT 1`

// NextDue returns when the next event is to be sent; 0 for never.
func (tx *Tx) NextDue() (dueMS int64, err error) {
	dueMS, err = one(tx, value[int64], selectNextDue)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return dueMS, err
}

const updateDue = `UPDATE mx_delayed SET due_ms = $2 + delay_ms WHERE delay_id = $1`

// RestartDelayed lets the delay of an event begin anew; false when no such is scheduled.
func (tx *Tx) RestartDelayed(delayID string, nowMS int64) (bool, error) {
	n, err := tx.exec(updateDue, delayID, nowMS)
	return n > 0, err
}

const updatePutOff = `UPDATE mx_delayed SET due_ms = $2 WHERE delay_id = $1 AND due_ms < $2`

// PutOffDelayed lets an event be sent no sooner than at a time.
func (tx *Tx) PutOffDelayed(delayID string, dueMS int64) error {
	_, err := tx.exec(updatePutOff, delayID, dueMS)
	return err
}

const deleteDelayed = `DELETE FROM mx_delayed WHERE delay_id = $1`

// DeleteDelayed takes an event out of the schedule; false when it is not in it any more.
func (tx *Tx) DeleteDelayed(delayID string) (bool, error) {
	n, err := tx.exec(deleteDelayed, delayID)
	return n > 0, err
}

const deleteDue = `DELETE FROM mx_delayed WHERE delay_id = $1 AND due_ms <= $2`

// DeleteDue is DeleteDelayed for an event whose time has come, and has not been put off.
func (tx *Tx) DeleteDue(delayID string, nowMS int64) (bool, error) {
	n, err := tx.exec(deleteDue, delayID, nowMS)
	return n > 0, err
}

const deleteDelayedOf = `DELETE FROM mx_delayed WHERE user_id = $1`

// DeleteDelayedOf takes all events of a user out of the schedule.
func (tx *Tx) DeleteDelayedOf(user id.UserID) error {
	_, err := tx.exec(deleteDelayedOf, user)
	return err
}

// InsertSticky notes a sticky event: room, arrived, pos, expires_ms.
var InsertSticky = &Insert{Table: "mx_sticky", Columns: "room, arrived, pos, expires_ms", Conflict: "ON CONFLICT (room, arrived, pos) DO NOTHING"}

// Sticky is an event that is sticky until ExpiresMS.
type Sticky struct {
	Room, Arrived, Pos Pos
	ExpiresMS          int64
}

const selectSticky = `
	SELECT room, arrived, pos, expires_ms FROM mx_sticky
	WHERE room = $1 AND arrived > $2 AND arrived <= $3 AND expires_ms > $4 ORDER BY arrived DESC, pos DESC LIMIT $5`

// Sticky returns the events of a room that arrived in (from, to] and are still sticky, oldest first, of more than limit the
// newest.
func (tx *Tx) Sticky(room int64, from, to Pos, nowMS int64, limit int) ([]Sticky, error) {
	list, err := collect(tx, func(row *sql.Rows, s *Sticky) error {
		return row.Scan(&s.Room, &s.Arrived, &s.Pos, &s.ExpiresMS)
	}, selectSticky, room, from, to, nowMS, limit)
	slices.Reverse(list)
	return list, err
}

const selectStickyRooms = `SELECT room, max(expires_ms) FROM mx_sticky WHERE expires_ms > $1 GROUP BY room`

// StickyRooms returns the rooms that have sticky events, with the end of the last of them.
func (tx *Tx) StickyRooms(nowMS int64) (map[int64]int64, error) {
	ends := map[int64]int64{}
	err := each(tx, func(row *sql.Rows) error {
		var room, end int64
		err := row.Scan(&room, &end)
		ends[room] = end
		return err
	}, selectStickyRooms, nowMS)
	return ends, err
}

const deleteSticky = `
	DELETE FROM mx_sticky WHERE expires_ms <= $1`

// DeleteStickyBefore forgets the events that are sticky no longer.
func (tx *Tx) DeleteStickyBefore(nowMS int64) error {
	_, err := tx.exec(deleteSticky, nowMS)
	return err
}
