package storage

import (
	"database/sql"

	"github.com/embedmatrix/homeserver/internal/id"
)

// AccountData is something that a user's clients keep here.
type AccountData struct {
	Room    id.RoomID // empty: global
	Type    string
	Content []byte // JSON
	Pos     Pos    // of its latest change
}

// UpsertAccountData writes account data: user_id, room_id, type (as bytes), content, pos.
var UpsertAccountData = &Insert{
	Table: "mx_account_data", Columns: "user_id, room_id, type, content, pos", Key: 3,
	Conflict: "ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, pos = excluded.pos",
}

const upsertAccountData = `
	INSERT INTO mx_account_data (user_id, room_id, type, content, pos) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, pos = excluded.pos`

// PutAccountData sets account data of a user for a room, or global when room is empty. It is told to clients
// as of pos; who calls it records the change in the hub.
func (tx *Tx) PutAccountData(user id.UserID, room id.RoomID, typ string, content []byte, pos Pos) error {
	_, err := tx.exec(upsertAccountData, user, room, []byte(typ), content, pos)
	return err
}

const selectAccountData = `
	SELECT content FROM mx_account_data WHERE user_id = $1 AND room_id = $2 AND type = $3`

// AccountData returns the content of account data of a user for a room, or global when room is empty;
// ErrNotFound when it was never set.
func (tx *Tx) AccountData(user id.UserID, room id.RoomID, typ string) ([]byte, error) {
	return one(tx, value[[]byte], selectAccountData, user, room, []byte(typ))
}

const selectAccountDataSince = `
	SELECT room_id, type, content, pos FROM mx_account_data
	WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos`

// AccountDataSince returns a user's account data, global and of all rooms, whose latest change is in
// (from, to], oldest first.
func (tx *Tx) AccountDataSince(user id.UserID, from, to Pos) ([]AccountData, error) {
	return collect(tx, scanAccountData, selectAccountDataSince, user, from, to)
}

const selectRoomAccountData = `
	SELECT room_id, type, content, pos FROM mx_account_data
	WHERE user_id = $1 AND room_id = $2 AND pos <= $3 ORDER BY pos`

// RoomAccountData returns a user's account data for a room whose latest change is at or before to, oldest first.
func (tx *Tx) RoomAccountData(user id.UserID, room id.RoomID, to Pos) ([]AccountData, error) {
	return collect(tx, scanAccountData, selectRoomAccountData, user, room, to)
}

func scanAccountData(row *sql.Rows, d *AccountData) error {
	var typ []byte
	err := row.Scan(&d.Room, &typ, &d.Content, &d.Pos)
	d.Type = string(typ)
	return err
}

const deleteAccountDataOf = `DELETE FROM mx_account_data WHERE user_id = $1`

const deleteFiltersOf = `DELETE FROM mx_filters WHERE user_id = $1`

// DeleteAccountDataOf forgets all account data and filters of a user, who has been deactivated.
func (tx *Tx) DeleteAccountDataOf(user id.UserID) error {
	if _, err := tx.exec(deleteAccountDataOf, user); err != nil {
		return err
	}
	_, err := tx.exec(deleteFiltersOf, user)
	return err
}
