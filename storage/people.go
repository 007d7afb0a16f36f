package storage

import (
	"database/sql"
	"errors"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Who may find somebody, where it is not the members of a room by its number.
const (
	ByEverybody = 0
	ByLocalName = -1 // everybody, where all local users can be found
)

// Person is somebody as others find them.
type Person struct {
	Scope  int64 // the number of a room, ByEverybody or ByLocalName
	User   id.UserID
	Room   int64  // the room that shows them, 0 with ByLocalName
	Name   string // the display name, empty for none
	Avatar string // likewise
}

func scanPerson(row *sql.Rows, p *Person) error {
	var name, avatar []byte
	err := row.Scan(&p.Scope, &p.User, &p.Room, &name, &avatar)
	p.Name, p.Avatar = string(name), string(avatar)
	return err
}

const selectPerson = `SELECT scope, user_id, room, name, avatar FROM mx_people WHERE scope = $1 AND user_id = $2`

// Person returns somebody as they are found by a scope, or ErrNotFound.
func (tx *Tx) Person(scope int64, user id.UserID) (Person, error) {
	return one(tx, scanPerson, selectPerson, scope, user)
}

const upsertPerson = `
	INSERT INTO mx_people (scope, user_id, room, name, avatar) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (scope, user_id) DO UPDATE SET room = excluded.room, name = excluded.name, avatar = excluded.avatar`

// PutPerson lets somebody be found, or changes as whom; their words are put apart.
func (tx *Tx) PutPerson(p Person) error {
	_, err := tx.exec(upsertPerson, p.Scope, p.User, p.Room, []byte(p.Name), []byte(p.Avatar))
	return err
}

const deletePerson = `DELETE FROM mx_people WHERE scope = $1 AND user_id = $2`

// DropPerson lets somebody be found no more; their words are dropped apart.
func (tx *Tx) DropPerson(scope int64, user id.UserID) error {
	_, err := tx.exec(deletePerson, scope, user)
	return err
}

const (
	insertPersonWord = `
	INSERT INTO mx_people_words (scope, word, user_id) VALUES ($1, $2, $3) ON CONFLICT (scope, word, user_id) DO NOTHING`
	deletePersonWord = `DELETE FROM mx_people_words WHERE scope = $1 AND word = $2 AND user_id = $3`
)

// PutPersonWord lets somebody be found by a word.
func (tx *Tx) PutPersonWord(scope int64, word string, user id.UserID) error {
	_, err := tx.exec(insertPersonWord, scope, []byte(word), user)
	return err
}

// DropPersonWord lets somebody be found by a word no more.
func (tx *Tx) DropPersonWord(scope int64, word string, user id.UserID) error {
	_, err := tx.exec(deletePersonWord, scope, []byte(word), user)
	return err
}

const selectPeople = `
	SELECT p.scope, p.user_id, p.room, p.name, p.avatar
	FROM mx_people_words w JOIN mx_people p ON p.scope = w.scope AND p.user_id = w.user_id
	WHERE w.scope IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND w.word >= $2 AND w.word < $3
		AND (p.room = 0 OR EXISTS (
			SELECT 1 FROM mx_memberships m WHERE m.room = p.room AND m.user_id = p.user_id AND m.membership = 'join'))
	LIMIT $4`

// People returns at most limit people whom some scopes find by a word that begins with prefix, in no order and perhaps
// several times. They are in the room that shows them.
func (tx *Tx) People(scopes []int64, prefix string, limit int) ([]Person, error) {
	return collect(tx, scanPerson, selectPeople, list(scopes), []byte(prefix), append([]byte(prefix), 0xff), limit)
}

const selectPeopleScopesOf = `SELECT scope, user_id, room, name, avatar FROM mx_people WHERE user_id = $1`

// PersonEverywhere returns somebody as they are found by all scopes, in no order.
func (tx *Tx) PersonEverywhere(user id.UserID) ([]Person, error) {
	return collect(tx, scanPerson, selectPeopleScopesOf, user)
}

// PeopleRoom is a room whose members can be found.
type PeopleRoom struct {
	Room    int64
	Present bool // this server is in it
	Open    bool // everybody finds its members
	Done    bool // all its members are found as this says
}

func scanPeopleRoom(row *sql.Rows, r *PeopleRoom) error {
	return row.Scan(&r.Room, &r.Present, &r.Open, &r.Done)
}

const selectPeopleRoom = `SELECT room, present, open, done FROM mx_people_rooms WHERE room = $1`

// PeopleRoom returns whether the members of a room are found; the zero value, but for its number, if nobody said so.
func (tx *Tx) PeopleRoom(room int64) (PeopleRoom, error) {
	r, err := one(tx, scanPeopleRoom, selectPeopleRoom, room)
	if errors.Is(err, ErrNotFound) {
		return PeopleRoom{Room: room}, nil
	}
	return r, err
}

const selectPeopleRoomDue = `SELECT room, present, open, done FROM mx_people_rooms WHERE NOT done LIMIT 1`

// PeopleRoomDue returns a room whose members are still to be gone through, or ErrNotFound.
func (tx *Tx) PeopleRoomDue() (PeopleRoom, error) {
	return one(tx, scanPeopleRoom, selectPeopleRoomDue)
}

const selectOpenRoomOf = `
	SELECT m.room FROM mx_memberships m JOIN mx_people_rooms r ON r.room = m.room
	WHERE m.user_id = $1 AND m.membership = 'join' AND r.present AND r.open LIMIT 1`

// OpenRoomOf returns a room in which everybody finds a user, or ErrNotFound.
func (tx *Tx) OpenRoomOf(user id.UserID) (int64, error) {
	return one(tx, value[int64], selectOpenRoomOf, user)
}

const upsertPeopleRoom = `
	INSERT INTO mx_people_rooms (room, present, open, done) VALUES ($1, $2, $3, $4)
	ON CONFLICT (room) DO UPDATE SET present = excluded.present, open = excluded.open, done = excluded.done`

// PutPeopleRoom says whether the members of a room are found.
func (tx *Tx) PutPeopleRoom(r PeopleRoom) error {
	_, err := tx.exec(upsertPeopleRoom, r.Room, r.Present, r.Open, r.Done)
	return err
}

const selectMember = `
	SELECT room, user_id, membership, pos, since, forgotten FROM mx_memberships WHERE room = $1 AND user_id = $2`

// Member returns somebody's current membership of a room, or ErrNotFound.
func (tx *Tx) Member(room int64, user id.UserID) (Member, error) {
	return one(tx, scanMember, selectMember, room, user)
}

// PersonChange is a local user whose profile or account has changed.
type PersonChange struct {
	User  id.UserID
	Times int64
}

const upsertPeopleAgain = `
	INSERT INTO mx_people_again (user_id, times) VALUES ($1, 1)
	ON CONFLICT (user_id) DO UPDATE SET times = mx_people_again.times + 1`

// personChanged lets it be found out anew as whom a local user is found.
func (tx *Tx) personChanged(user id.UserID) error {
	_, err := tx.exec(upsertPeopleAgain, user)
	return err
}

const selectPeopleAgain = `SELECT user_id, times FROM mx_people_again LIMIT $1`

// PeopleChanged returns at most limit users of whom it has to be found out anew as whom they are found.
func (tx *Tx) PeopleChanged(limit int) ([]PersonChange, error) {
	return collect(tx, func(row *sql.Rows, c *PersonChange) error { return row.Scan(&c.User, &c.Times) }, selectPeopleAgain, limit)
}

const deletePeopleAgain = `DELETE FROM mx_people_again WHERE user_id = $1 AND times = $2`

// PersonFoundOut notes that it was done, unless they have changed once more.
func (tx *Tx) PersonFoundOut(c PersonChange) error {
	_, err := tx.exec(deletePeopleAgain, c.User, c.Times)
	return err
}
