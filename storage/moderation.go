package storage

import (
	"errors"

	"github.com/embedmatrix/homeserver/internal/id"
)

const selectNoticeRoom = `SELECT room_id FROM mx_notice_rooms WHERE user_id = $1`

// NoticeRoom returns the room in which a user gets the server's notices, or ErrNotFound.
func (tx *Tx) NoticeRoom(user id.UserID) (id.RoomID, error) {
	return one(tx, value[id.RoomID], selectNoticeRoom, user)
}

const upsertNoticeRoom = `
	INSERT INTO mx_notice_rooms (user_id, room_id) VALUES ($1, $2)
	ON CONFLICT (user_id) DO UPDATE SET room_id = excluded.room_id`

// PutNoticeRoom makes a room the one in which a user gets the server's notices.
func (tx *Tx) PutNoticeRoom(user id.UserID, room id.RoomID) error {
	_, err := tx.exec(upsertNoticeRoom, user, room)
	return err
}

const insertBlockedRoom = `
	INSERT INTO mx_blocked_rooms (room_id, blocked_by, at_ms) VALUES ($1, $2, $3) ON CONFLICT (room_id) DO NOTHING`

// BlockRoom keeps local users out of a room, which need not be known here. by is who has decided it, "" for the host.
func (tx *Tx) BlockRoom(room id.RoomID, by id.UserID, atMS int64) error {
	_, err := tx.exec(insertBlockedRoom, room, by, atMS)
	return err
}

const deleteBlockedRoom = `DELETE FROM mx_blocked_rooms WHERE room_id = $1`

// UnblockRoom ends that, and reports whether the room was blocked.
func (tx *Tx) UnblockRoom(room id.RoomID) (bool, error) {
	n, err := tx.exec(deleteBlockedRoom, room)
	return n == 1, err
}

const selectBlockedRoom = `SELECT room_id FROM mx_blocked_rooms WHERE room_id = $1`

// RoomBlocked reports whether local users are kept out of a room.
func (tx *Tx) RoomBlocked(room id.RoomID) (bool, error) {
	_, err := one(tx, value[id.RoomID], selectBlockedRoom, room)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

const selectGuestsAmong = `
	SELECT user_id FROM mx_accounts WHERE guest AND NOT deactivated AND user_id IN (SELECT value FROM json_each($1))`

// GuestsAmong returns those of some users who are guests, in no order.
func (tx *Tx) GuestsAmong(users []id.UserID) ([]id.UserID, error) {
	return collect(tx, value[id.UserID], selectGuestsAmong, list(users))
}

const countAccounts = `SELECT count(*) FROM (SELECT 1 FROM mx_accounts WHERE NOT deactivated LIMIT $1) AS active`

// CountAccounts counts the accounts that are not deactivated, up to limit.
func (tx *Tx) CountAccounts(limit int) (int, error) { return one(tx, value[int], countAccounts, limit) }
