package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Room is what is stored of a room itself.
type Room struct {
	Num         int64 // our number for it
	ID          id.RoomID
	Version     string
	Seq         int64 // counts its writes
	State       int64 // the current state, 0 when empty
	LastPos     Pos   // of the newest event in its timeline
	Extremities []byte
}

// InsertRoom writes a new room: room, room_id, version, seq, state, last_pos, extremities.
var InsertRoom = &Insert{Table: "mx_rooms", Columns: "room, room_id, version, seq, state, last_pos, extremities"}

const selectRoom = `
	SELECT room, room_id, version, seq, state, last_pos, extremities FROM mx_rooms WHERE room_id = $1`

// Room returns the room with an id, or ErrNotFound.
func (tx *Tx) Room(room id.RoomID) (Room, error) {
	return one(tx, scanRoom, selectRoom, room)
}

const selectRoomByNumber = `
	SELECT room, room_id, version, seq, state, last_pos, extremities FROM mx_rooms WHERE room = $1`

// RoomByNumber returns the room with a number, or ErrNotFound.
func (tx *Tx) RoomByNumber(room int64) (Room, error) {
	return one(tx, scanRoom, selectRoomByNumber, room)
}

func scanRoom(row *sql.Rows, r *Room) error {
	return row.Scan(&r.Num, &r.ID, &r.Version, &r.Seq, &r.State, &r.LastPos, &r.Extremities)
}

// Member is somebody's current membership of a room.
type Member struct {
	Room       int64
	RoomID     id.RoomID // set by MembershipsOf
	User       id.UserID
	Membership string
	Pos        Pos // of the member event
	Since      Pos // when that became the current one; Pos unless state resolution brought it back
	Forgotten  bool
}

// UpsertMember writes a current membership: room, user_id, membership, pos, since, forgotten.
var UpsertMember = &Insert{
	Table: "mx_memberships", Columns: "room, user_id, membership, pos, since, forgotten", Key: 2,
	Conflict: "ON CONFLICT (room, user_id) DO UPDATE SET membership = excluded.membership, pos = excluded.pos, since = excluded.since, forgotten = excluded.forgotten",
}

const selectMembers = `
	SELECT room, user_id, membership, pos, since, forgotten FROM mx_memberships WHERE room = $1 ORDER BY pos`

// Members returns the current memberships of a room, in the order of their events.
func (tx *Tx) Members(room int64) ([]Member, error) {
	return collect(tx, scanMember, selectMembers, room)
}

const selectMembershipsOf = `
	SELECT m.room, r.room_id, m.user_id, m.membership, m.pos, m.since, m.forgotten
	FROM mx_memberships m JOIN mx_rooms r ON r.room = m.room
	WHERE m.user_id = $1 ORDER BY m.pos`

// MembershipsOf returns a user's current memberships, in the order of their events.
func (tx *Tx) MembershipsOf(user id.UserID) ([]Member, error) {
	return collect(tx, func(row *sql.Rows, m *Member) error {
		return row.Scan(&m.Room, &m.RoomID, &m.User, &m.Membership, &m.Pos, &m.Since, &m.Forgotten)
	}, selectMembershipsOf, user)
}

const deleteMember = `DELETE FROM mx_memberships WHERE room = $1 AND user_id = $2`

// DeleteMember forgets a membership of which the room's current state says nothing any more.
func (tx *Tx) DeleteMember(room int64, user id.UserID) error {
	_, err := tx.exec(deleteMember, room, user)
	return err
}

func scanMember(row *sql.Rows, m *Member) error {
	return row.Scan(&m.Room, &m.User, &m.Membership, &m.Pos, &m.Since, &m.Forgotten)
}

const selectRoomsWithNews = `
	SELECT r.room_id FROM mx_memberships m JOIN mx_rooms r ON r.room = m.room
	WHERE m.user_id = $1 AND m.membership = 'join' AND (r.last_pos > $2 OR EXISTS (
		SELECT 1 FROM mx_receipts p WHERE p.room = m.room AND p.pos > $2))`

// RoomsWithNews returns the rooms in which user is joined and where an event or a receipt came after from.
func (tx *Tx) RoomsWithNews(user id.UserID, from Pos) ([]id.RoomID, error) {
	return collect(tx, value[id.RoomID], selectRoomsWithNews, user, from)
}

const updateForgotten = `
	UPDATE mx_memberships SET forgotten = TRUE WHERE room = $1 AND user_id = $2 AND membership IN ('leave', 'ban')`

// Forget marks a room that a user has left as forgotten; false when the user has not left it.
func (tx *Tx) Forget(room int64, user id.UserID) (bool, error) {
	n, err := tx.exec(updateForgotten, room, user)
	return n == 1, err
}

const selectRoomIDs = `
	SELECT room, room_id FROM mx_rooms WHERE room IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`

// RoomIDs returns the ids of numbered rooms.
func (tx *Tx) RoomIDs(rooms []int64) (map[int64]id.RoomID, error) {
	ids := make(map[int64]id.RoomID, len(rooms))
	err := each(tx, func(row *sql.Rows) error {
		var num int64
		var room id.RoomID
		err := row.Scan(&num, &room)
		ids[num] = room
		return err
	}, selectRoomIDs, list(rooms))
	return ids, err
}
