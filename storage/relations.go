package storage

import (
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Relation is an event of a timeline that relates to another one of its room.
type Relation struct {
	Room   int64
	Ord    int64 // the event's place in the room's history
	Pos    Pos
	ID     id.EventID // only written: the others read Pos
	Parent id.EventID
	Kind   string // rel_type
	Type   string // of the event
	Sender id.UserID
	TS     int64 // origin_server_ts
}

const threadKind = "m.thread"

const insertRelation = `
	INSERT INTO mx_relations (room, ord, pos, parent, rel_type, type, sender, ts, within, beyond)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8,
		COALESCE((SELECT r.parent FROM mx_events e JOIN mx_relations r ON r.pos = e.pos
			WHERE e.event_id = $4 AND e.room = $1), ''),
		COALESCE((SELECT r.within FROM mx_events e JOIN mx_relations r ON r.pos = e.pos
			WHERE e.event_id = $4 AND e.room = $1), ''))
	ON CONFLICT (pos) DO NOTHING`

const updateWithin = `
	UPDATE mx_relations SET within = $3, beyond = COALESCE((SELECT p.within FROM mx_relations p WHERE p.pos = $4), '')
	WHERE room = $1 AND parent = $2`

const updateBeyond = `UPDATE mx_relations SET beyond = $3 WHERE room = $1 AND within = $2 AND within <> ''`

const upsertThread = `
	INSERT INTO mx_threads (room, root, newest, events) VALUES ($1, $2, $3, 1)
	ON CONFLICT (room, root) DO UPDATE SET events = mx_threads.events + 1,
		newest = CASE WHEN mx_threads.newest > excluded.newest THEN mx_threads.newest ELSE excluded.newest END`

const upsertThreadSender = `
	INSERT INTO mx_thread_senders (room, root, sender, events) VALUES ($1, $2, $3, 1)
	ON CONFLICT (room, root, sender) DO UPDATE SET events = mx_thread_senders.events + 1`

// Relate remembers a relation, once: one that is known already changes nothing. Events may come in any order, for those that
// relate to this one are told of its parent.
func (tx *Tx) Relate(r *Relation) error {
	n, err := tx.exec(insertRelation, r.Room, r.Ord, r.Pos, r.Parent, r.Kind, []byte(r.Type), r.Sender, r.TS)
	if err != nil || n == 0 {
		return err
	}
	if _, err := tx.exec(updateWithin, r.Room, r.ID, r.Parent, r.Pos); err != nil {
		return err
	}
	if _, err := tx.exec(updateBeyond, r.Room, r.ID, r.Parent); err != nil || r.Kind != threadKind {
		return err
	}
	if _, err := tx.exec(upsertThread, r.Room, r.Parent, r.Ord); err != nil {
		return err
	}
	_, err = tx.exec(upsertThreadSender, r.Room, r.Parent, r.Sender)
	return err
}

const relationColumns = `room, ord, pos, parent, rel_type, type, sender, ts`

func scanRelation(row *sql.Rows, r *Relation) error {
	var typ []byte
	err := row.Scan(&r.Room, &r.Ord, &r.Pos, &r.Parent, &r.Kind, &typ, &r.Sender, &r.TS)
	r.Type = string(typ)
	return err
}

const selectRelation = `SELECT ` + relationColumns + ` FROM mx_relations WHERE pos = $1`

const deleteRelation = `DELETE FROM mx_relations WHERE pos = $1`

const clearWithin = `UPDATE mx_relations SET within = '', beyond = '' WHERE room = $1 AND parent = $2`

const clearBeyond = `UPDATE mx_relations SET beyond = '' WHERE room = $1 AND within = $2 AND within <> ''`

// Unrelate forgets the relation of the event at a position, because it was redacted.
func (tx *Tx) Unrelate(pos Pos, event id.EventID) error {
	r, err := one(tx, scanRelation, selectRelation, pos)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := tx.exec(deleteRelation, pos); err != nil {
		return err
	}
	if _, err := tx.exec(clearWithin, r.Room, event); err != nil {
		return err
	}
	if _, err := tx.exec(clearBeyond, r.Room, event); err != nil || r.Kind != threadKind {
		return err
	}
	return tx.leaveThread(&r)
}

const updateThread = `
	UPDATE mx_threads SET events = events - 1, newest = COALESCE((
		SELECT ord FROM mx_relations WHERE room = $1 AND parent = $2 AND rel_type = $3 ORDER BY ord DESC LIMIT 1), 0)
	WHERE room = $1 AND root = $2`

const deleteThread = `DELETE FROM mx_threads WHERE room = $1 AND root = $2 AND events <= 0`

const updateThreadSender = `UPDATE mx_thread_senders SET events = events - 1 WHERE room = $1 AND root = $2 AND sender = $3`

const deleteThreadSender = `DELETE FROM mx_thread_senders WHERE room = $1 AND root = $2 AND sender = $3 AND events <= 0`

// leaveThread takes an event out of its thread.
func (tx *Tx) leaveThread(r *Relation) error {
	if _, err := tx.exec(updateThread, r.Room, r.Parent, threadKind); err != nil {
		return err
	}
	if _, err := tx.exec(deleteThread, r.Room, r.Parent); err != nil {
		return err
	}
	if _, err := tx.exec(updateThreadSender, r.Room, r.Parent, r.Sender); err != nil {
		return err
	}
	_, err := tx.exec(deleteThreadSender, r.Room, r.Parent, r.Sender)
	return err
}

// RelatedPlaces says where a relation is: the places of an event and of its parent.
type RelatedPlaces struct {
	Parent         id.EventID
	Ord, ParentOrd int64 // both that of the event if the parent is not in the timeline
}

const selectLatestRelations = `
	SELECT r.parent, r.ord, COALESCE(e.ord, r.ord) FROM mx_relations r
	LEFT JOIN mx_events e ON e.event_id = r.parent AND e.room = r.room AND e.flags = 1
	WHERE r.room = $1 ORDER BY r.pos DESC LIMIT $2`

// LatestRelations returns where the newest relations of a room are, at most limit.
func (tx *Tx) LatestRelations(room int64, limit int) ([]RelatedPlaces, error) {
	return collect(tx, func(row *sql.Rows, p *RelatedPlaces) error {
		return row.Scan(&p.Parent, &p.Ord, &p.ParentOrd)
	}, selectLatestRelations, room, limit)
}

const selectEdits = `
	SELECT ` + relationColumns + ` FROM (
		SELECT ` + relationColumns + `, row_number() OVER (PARTITION BY parent, sender, type ORDER BY ts DESC, ord DESC) AS nth
		FROM mx_relations
		WHERE +room = $1 AND parent IN (SELECT value FROM json_each($2)) AND rel_type = $3 AND +ord < $4) AS newest
	WHERE nth <= $5 ORDER BY ts DESC`

// The plus signs in what follows keep engines from walking through a room instead of looking up each event.

// Edits returns relations of the kind m.replace to some events with a place before one: of each sender and type the latest
// by their time, at most limit, the latest first.
func (tx *Tx) Edits(room int64, parents []id.EventID, before int64, limit int) ([]Relation, error) {
	return collect(tx, scanRelation, selectEdits, room, list(parents), "m.replace", before, limit)
}

const selectReferences = `
	SELECT ` + relationColumns + ` FROM (
		SELECT ` + relationColumns + `, row_number() OVER (PARTITION BY parent ORDER BY ord DESC) AS nth
		FROM mx_relations
		WHERE +room = $1 AND parent IN (SELECT value FROM json_each($2)) AND rel_type = $3 AND +ord < $4
			AND sender NOT IN (SELECT value FROM json_each($6))) AS newest
	WHERE nth <= $5 ORDER BY ord`

// References returns relations of the kind m.reference to some events with a place before one, the newest of each, at most
// limit, oldest first, without those of some senders.
func (tx *Tx) References(room int64, parents []id.EventID, before int64, limit int, without []id.UserID) ([]Relation, error) {
	return collect(tx, scanRelation, selectReferences, room, list(parents), "m.reference", before, limit, list(without))
}

// Thread is a thread of a room for one user.
type Thread struct {
	Root         id.EventID
	Newest       int64 // place of its newest event
	NewestPos    Pos
	NewestSender id.UserID
	Events       int64 // how many it has, without the root and what others were to be left out
	Participated bool  // the user has sent one of them
}

const newestOfThread = `r.parent = t.root AND r.rel_type = '` + threadKind + `' AND r.room = t.room AND r.ord = t.newest`

const threadColumns = `
	t.root, t.newest,
	COALESCE((SELECT r.pos FROM mx_relations r WHERE ` + newestOfThread + `), 0),
	COALESCE((SELECT r.sender FROM mx_relations r WHERE ` + newestOfThread + `), ''),
	CAST(t.events - COALESCE((SELECT SUM(s.events) FROM mx_thread_senders s
		WHERE s.room = t.room AND s.root = t.root AND s.sender IN (SELECT value FROM json_each($3))), 0) AS BIGINT),
	EXISTS (SELECT 1 FROM mx_thread_senders s WHERE s.room = t.room AND s.root = t.root AND s.sender = $2)`

func scanThread(row *sql.Rows, t *Thread) error {
	return row.Scan(&t.Root, &t.Newest, &t.NewestPos, &t.NewestSender, &t.Events, &t.Participated)
}

const selectThreadsOf = `
	SELECT ` + threadColumns + ` FROM mx_threads t
	WHERE t.room = $1 AND t.root IN (SELECT value FROM json_each($4))`

// ThreadsOf returns those of some events that are roots of threads, in no order; the events of some senders do not count.
func (tx *Tx) ThreadsOf(room int64, user id.UserID, roots []id.EventID, without []id.UserID) ([]Thread, error) {
	return collect(tx, scanThread, selectThreadsOf, room, user, list(without), list(roots))
}

const selectThreads = `
	SELECT ` + threadColumns + ` FROM mx_threads t WHERE t.room = $1 AND t.newest < $4 ORDER BY t.newest DESC LIMIT $5`

// Threads returns the threads of a room whose newest event has a place before one, that with the newest event first, at
// most limit; the events of some senders do not count.
func (tx *Tx) Threads(room int64, user id.UserID, before int64, limit int, without []id.UserID) ([]Thread, error) {
	return collect(tx, scanThread, selectThreads, room, user, list(without), before, limit)
}

const selectThreadEvents = `
	SELECT ` + relationColumns + ` FROM mx_relations
	WHERE room = $1 AND parent = $2 AND rel_type = $3 AND ord < $4 AND sender NOT IN (SELECT value FROM json_each($5))
	ORDER BY ord DESC LIMIT $6`

// ThreadEvents returns events of a thread with a place before one, newest first, at most limit, without those of some senders.
func (tx *Tx) ThreadEvents(room int64, root id.EventID, before int64, limit int, without []id.UserID) ([]Relation, error) {
	return collect(tx, scanRelation, selectThreadEvents, room, root, threadKind, before, list(without), limit)
}

// RelationQuery asks for the events that relate to one.
type RelationQuery struct {
	Room          int64
	Parent        id.EventID
	Kind          string // rel_type; empty is any
	Type          string // of the events; empty is any
	After, Before int64  // places, both excluded
	Forwards      bool   // the oldest first
	Limit         int

	// Recurse asks also for those that relate to one of these, and for a third step, as long as all on the way are of Kind
	// and Type.
	Recurse bool
}

// RelationSteps is how many steps Recurse goes.
const RelationSteps = 3

const (
	relationRange = `r.room = $1 AND r.ord > $3 AND r.ord < $4 AND ($5 OR r.type = $6)`

	relationsOf  = `SELECT ` + relationColumns + ` FROM mx_relations r WHERE r.parent = $2 AND ` + relationRange
	ofKind       = relationsOf + ` AND r.rel_type = $8`
	oldestFirst  = ` ORDER BY ord LIMIT $7`
	newestFirst  = ` ORDER BY ord DESC LIMIT $7`
	anyKind      = ` AND ($9 OR r.rel_type = $8)`
	parentPasses = ` AND ($5 AND $9 OR EXISTS (
		SELECT 1 FROM mx_events e JOIN mx_relations p ON p.pos = e.pos
		WHERE e.event_id = r.parent AND e.room = $1 AND ($5 OR p.type = $6) AND ($9 OR p.rel_type = $8)))`
	bothPass = ` AND ($5 AND $9 OR EXISTS (
		SELECT 1 FROM mx_events e JOIN mx_relations p ON p.pos = e.pos
		JOIN mx_events f ON f.event_id = p.parent AND f.room = e.room JOIN mx_relations q ON q.pos = f.pos
		WHERE e.event_id = r.parent AND e.room = $1 AND ($5 OR p.type = $6) AND ($9 OR p.rel_type = $8)
			AND ($5 OR q.type = $6) AND ($9 OR q.rel_type = $8)))`

	firstStep  = relationsOf + anyKind
	secondStep = `SELECT ` + relationColumns + ` FROM mx_relations r WHERE r.within = $2 AND r.within <> '' AND ` + relationRange + anyKind + parentPasses
	thirdStep  = `SELECT ` + relationColumns + ` FROM mx_relations r WHERE r.beyond = $2 AND r.beyond <> '' AND ` + relationRange + anyKind + bothPass
	together   = `) AS a UNION SELECT * FROM (`
)

const (
	selectRelations             = relationsOf + newestFirst
	selectRelationsForwards     = relationsOf + oldestFirst
	selectRelationsKind         = ofKind + newestFirst
	selectRelationsKindForwards = ofKind + oldestFirst

	selectRelationsDeep = `SELECT * FROM (` + firstStep + newestFirst + together + secondStep + newestFirst + together +
		thirdStep + newestFirst + `) AS a` + newestFirst
	selectRelationsDeepForwards = `SELECT * FROM (` + firstStep + oldestFirst + together + secondStep + oldestFirst + together +
		thirdStep + oldestFirst + `) AS a` + oldestFirst
)

// Relations returns the events that relate to one, each once.
func (tx *Tx) Relations(q *RelationQuery) ([]Relation, error) {
	args := []any{q.Room, q.Parent, q.After, q.Before, q.Type == "", []byte(q.Type), q.Limit}
	text := selectRelations
	switch {
	case q.Recurse:
		text = pick(q.Forwards, selectRelationsDeepForwards, selectRelationsDeep)
		args = append(args, q.Kind, q.Kind == "")
	case q.Kind != "":
		text = pick(q.Forwards, selectRelationsKindForwards, selectRelationsKind)
		args = append(args, q.Kind)
	case q.Forwards:
		text = selectRelationsForwards
	}
	return collect(tx, scanRelation, text, args...)
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

const selectRelatedBy = `
	SELECT value FROM json_each($2) AS p
	WHERE EXISTS (SELECT 1 FROM mx_relations r WHERE +r.room = $1 AND r.parent = p.value
		AND ($3 OR r.rel_type IN (SELECT value FROM json_each($4)))
		AND ($5 OR r.sender IN (SELECT value FROM json_each($6))))`

// RelatedBy returns those of some events to which an event of one of these kinds and of one of these senders relates; nil is
// any of them.
func (tx *Tx) RelatedBy(room int64, parents []id.EventID, kinds, senders []string) ([]id.EventID, error) {
	return collect(tx, value[id.EventID], selectRelatedBy, room, list(parents), kinds == nil, list(kinds), senders == nil, list(senders))
}

// RelationsFrom is the number up to which rooms may hold events from before there were relations.
func (tx *Tx) RelationsFrom() (int64, error) {
	text, err := tx.Meta("relations_from")
	if err != nil {
		return 0, err
	}
	from, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("storage: relations_from: %w", err)
	}
	return from, nil
}

const selectRelated = `SELECT up_to, done FROM mx_related WHERE room = $1`

// Related says how far an old room was gone through for relations: up to a position, or all of it.
func (tx *Tx) Related(room int64) (upTo Pos, done bool, err error) {
	err = each(tx, func(row *sql.Rows) error { return row.Scan(&upTo, &done) }, selectRelated, room)
	return upTo, done, err
}

const upsertRelated = `
	INSERT INTO mx_related (room, up_to, done) VALUES ($1, $2, $3)
	ON CONFLICT (room) DO UPDATE SET up_to = excluded.up_to, done = excluded.done`

// PutRelated notes how far an old room was gone through for relations.
func (tx *Tx) PutRelated(room int64, upTo Pos, done bool) error {
	_, err := tx.exec(upsertRelated, room, upTo, done)
	return err
}

// Subscription is what a user wants to hear of a thread.
type Subscription struct {
	Room       id.RoomID
	Root       id.EventID
	Subscribed bool
	Automatic  bool
	Until      int64 // no event of the thread up to this place subscribes automatically
	Pos        Pos   // of the change
}

func scanSubscription(row *sql.Rows, s *Subscription) error {
	return row.Scan(&s.Room, &s.Root, &s.Subscribed, &s.Automatic, &s.Until, &s.Pos)
}

const subscriptionColumns = `r.room_id, s.root, s.subscribed, s.automatic, s.until, s.pos`

const selectSubscription = `
	SELECT ` + subscriptionColumns + ` FROM mx_thread_subscriptions s JOIN mx_rooms r ON r.room = s.room
	WHERE s.user_id = $1 AND s.room = $2 AND s.root = $3`

// Subscription returns what a user said last of a thread, or ErrNotFound.
func (tx *Tx) Subscription(user id.UserID, room int64, root id.EventID) (Subscription, error) {
	return one(tx, scanSubscription, selectSubscription, user, room, root)
}

const selectSubscriptions = `
	SELECT ` + subscriptionColumns + ` FROM mx_thread_subscriptions s JOIN mx_rooms r ON r.room = s.room
	WHERE s.user_id = $1 AND s.pos > $2 AND s.pos <= $3 ORDER BY s.pos DESC LIMIT $4`

// Subscriptions returns what a user said last of threads at a position in (after, upTo], the latest first, at most limit.
func (tx *Tx) Subscriptions(user id.UserID, after, upTo Pos, limit int) ([]Subscription, error) {
	return collect(tx, scanSubscription, selectSubscriptions, user, after, upTo, limit)
}

const upsertSubscription = `
	INSERT INTO mx_thread_subscriptions (user_id, room, root, subscribed, automatic, until, pos) VALUES ($1, $2, $3, $4, $5, $6, $7)
	ON CONFLICT (user_id, room, root) DO UPDATE SET
		subscribed = excluded.subscribed, automatic = excluded.automatic, until = excluded.until, pos = excluded.pos`

// PutSubscription stores what a user says of a thread of a room.
func (tx *Tx) PutSubscription(user id.UserID, room int64, s *Subscription) error {
	_, err := tx.exec(upsertSubscription, user, room, s.Root, s.Subscribed, s.Automatic, s.Until, s.Pos)
	return err
}
