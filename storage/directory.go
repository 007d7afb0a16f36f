package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Listing is a published room and what the directory tells of it.
type Listing struct {
	Room      int64
	RoomID    id.RoomID
	Fresh     bool   // Federated and Summary are those of the room's current state
	Federated bool   // other servers may be told of the room
	Summary   []byte // JSON; empty: this server is not in the room
}

// UpsertListing notes what the directory tells of a room: room, state, federated, summary.
var UpsertListing = &Insert{
	Table: "mx_directory", Columns: "room, state, federated, summary", Key: 1,
	Conflict: "ON CONFLICT (room) DO UPDATE SET state = excluded.state, federated = excluded.federated, summary = excluded.summary",
}

const listingColumns = `p.room, r.room_id, d.state IS NOT NULL AND d.state = r.state, COALESCE(d.federated, FALSE), d.summary`

const selectListings = `
	SELECT ` + listingColumns + ` FROM mx_published_rooms p JOIN mx_rooms r ON r.room = p.room
	LEFT JOIN mx_directory d ON d.room = p.room`

// Listings calls fn for every published room, in no order.
func (tx *Tx) Listings(fn func(Listing) error) error {
	return each(tx, func(row *sql.Rows) error {
		var l Listing
		if err := scanListing(row, &l); err != nil {
			return err
		}
		return fn(l)
	}, selectListings)
}

const selectListingsOf = selectListings + ` WHERE p.room IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`

// ListingsOf returns those of some rooms that are published, in no order.
func (tx *Tx) ListingsOf(rooms []int64) ([]Listing, error) {
	return collect(tx, scanListing, selectListingsOf, list(rooms))
}

func scanListing(row *sql.Rows, l *Listing) error {
	return row.Scan(&l.Room, &l.RoomID, &l.Fresh, &l.Federated, &l.Summary)
}

const deleteListing = `DELETE FROM mx_directory WHERE room = $1`

// DeleteListing forgets what the directory tells of a room, so that it is read again.
func (tx *Tx) DeleteListing(room int64) error {
	_, err := tx.exec(deleteListing, room)
	return err
}
