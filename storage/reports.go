package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Report is what a user has told the administrators of: an event, a room or a user.
type Report struct {
	ID       int64 // a position: later ones are larger
	Reporter id.UserID
	Room     id.RoomID  // "" for a report of a user
	Event    id.EventID // "" but for a report of an event
	User     id.UserID  // who is reported, or has sent the event; "" for a report of a room
	Reason   string     // may be empty
	AtMS     int64
}

const deleteSameReport = `
	DELETE FROM mx_reports WHERE reporter = $1 AND room_id = $2 AND event_id = $3 AND user_id = $4`

const insertReport = `
	INSERT INTO mx_reports (report, reporter, room_id, event_id, user_id, reason, at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)`

// PutReport stores a report. One of the same thing by the same reporter gives way to it; again reports whether there
// was one.
func (tx *Tx) PutReport(r Report) (again bool, err error) {
	n, err := tx.exec(deleteSameReport, r.Reporter, r.Room, r.Event, r.User)
	if err != nil {
		return false, err
	}
	_, err = tx.exec(insertReport, r.ID, r.Reporter, r.Room, r.Event, r.User, []byte(r.Reason), r.AtMS)
	return n > 0, err
}

const selectReportsAfter = `
	SELECT report, reporter, room_id, event_id, user_id, reason, at_ms
	FROM mx_reports WHERE report > $1 ORDER BY report LIMIT $2`

// ReportsAfter returns at most limit reports whose ids are larger than after, oldest first.
func (tx *Tx) ReportsAfter(after int64, limit int) ([]Report, error) {
	return collect(tx, func(row *sql.Rows, r *Report) error {
		var reason []byte
		err := row.Scan(&r.ID, &r.Reporter, &r.Room, &r.Event, &r.User, &reason, &r.AtMS)
		r.Reason = string(reason)
		return err
	}, selectReportsAfter, after, limit)
}

const deleteReport = `DELETE FROM mx_reports WHERE report = $1`

// DeleteReport removes a report and reports whether it was there.
func (tx *Tx) DeleteReport(report int64) (bool, error) {
	n, err := tx.exec(deleteReport, report)
	return n == 1, err
}
