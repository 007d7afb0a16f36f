package storage

import (
	"database/sql"
	"errors"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Alias is a name of a room that this server keeps.
type Alias struct {
	Alias   id.RoomAlias
	Room    int64
	RoomID  id.RoomID
	Creator id.UserID
}

const selectAlias = `
	SELECT a.alias, a.room, r.room_id, a.creator
	FROM mx_aliases a JOIN mx_rooms r ON r.room = a.room WHERE a.alias = $1`

// Alias returns what an alias stands for, or ErrNotFound.
func (tx *Tx) Alias(alias id.RoomAlias) (Alias, error) {
	return one(tx, func(row *sql.Rows, a *Alias) error {
		return row.Scan(&a.Alias, &a.Room, &a.RoomID, &a.Creator)
	}, selectAlias, alias)
}

const selectAliasesOf = `SELECT alias FROM mx_aliases WHERE room = $1`

// AliasesOf returns the aliases of a room, in no order.
func (tx *Tx) AliasesOf(room int64) ([]id.RoomAlias, error) {
	return collect(tx, value[id.RoomAlias], selectAliasesOf, room)
}

const insertAlias = `
	INSERT INTO mx_aliases (alias, room, creator) VALUES ($1, $2, $3) ON CONFLICT (alias) DO NOTHING`

// PutAlias gives a room an alias and reports whether it was free.
func (tx *Tx) PutAlias(alias id.RoomAlias, room int64, creator id.UserID) (bool, error) {
	n, err := tx.exec(insertAlias, alias, room, creator)
	return n == 1, err
}

const updateAliasesOf = `UPDATE mx_aliases SET room = $1 WHERE room = $2`

// MoveAliases gives all aliases of a room to another one.
func (tx *Tx) MoveAliases(from, to int64) error {
	_, err := tx.exec(updateAliasesOf, to, from)
	return err
}

const deleteAlias = `DELETE FROM mx_aliases WHERE alias = $1`

// DeleteAlias removes an alias and reports whether it was there.
func (tx *Tx) DeleteAlias(alias id.RoomAlias) (bool, error) {
	n, err := tx.exec(deleteAlias, alias)
	return n == 1, err
}

const deleteAliasesOf = `DELETE FROM mx_aliases WHERE room = $1`

// DeleteAliasesOf removes all aliases of a room.
func (tx *Tx) DeleteAliasesOf(room int64) error {
	_, err := tx.exec(deleteAliasesOf, room)
	return err
}

const insertPublished = `INSERT INTO mx_published_rooms (room) VALUES ($1) ON CONFLICT (room) DO NOTHING`

// Publish puts a room into the directory, where it may be already.
func (tx *Tx) Publish(room int64) error {
	_, err := tx.exec(insertPublished, room)
	return err
}

const deletePublished = `DELETE FROM mx_published_rooms WHERE room = $1`

// Unpublish takes a room out of the directory, where it need not be.
func (tx *Tx) Unpublish(room int64) error {
	_, err := tx.exec(deletePublished, room)
	return err
}

const selectPublished = `SELECT room FROM mx_published_rooms WHERE room = $1`

// IsPublished reports whether a room is in the directory.
func (tx *Tx) IsPublished(room int64) (bool, error) {
	_, err := one(tx, value[int64], selectPublished, room)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
