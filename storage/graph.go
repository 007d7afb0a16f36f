package storage

import (
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/embedmatrix/homeserver/internal/id"
)

// AuthNode is a state event in a room's auth graph.
type AuthNode struct {
	Pos    Pos
	Number int64 // of its state key
	Auth   []Pos // its auth events, in the order in which it names them; 0 for one that is not here
}

// InsertAuth writes a node of an auth graph; see AuthNode.Row.
var InsertAuth = &Insert{Table: "mx_auth", Columns: "room, pos, number, auth", Conflict: "ON CONFLICT (room, pos) DO NOTHING"}

// Row is the node as arguments of InsertAuth.
func (n *AuthNode) Row(room int64) []any {
	auth := make([]byte, 0, 3*len(n.Auth))
	for _, a := range n.Auth {
		if a == 0 {
			a = n.Pos
		}
		auth = binary.AppendUvarint(auth, uint64(n.Pos-a))
	}
	return []any{room, n.Pos, n.Number, auth}
}

var errAuth = errors.New("storage: a node of an auth graph is damaged")

func scanAuth(row *sql.Rows, n *AuthNode) error {
	var auth []byte
	if err := row.Scan(&n.Pos, &n.Number, &auth); err != nil {
		return err
	}
	for len(auth) > 0 {
		back, k := binary.Uvarint(auth)
		if k <= 0 {
			return errAuth
		}
		auth = auth[k:]
		a := n.Pos - Pos(back)
		if back == 0 {
			a = 0
		}
		n.Auth = append(n.Auth, a)
	}
	return nil
}

const selectAuth = `SELECT pos, number, auth FROM mx_auth WHERE room = $1 ORDER BY pos`

// AuthGraph returns the nodes of a room's auth graph, in the order of their positions.
func (tx *Tx) AuthGraph(room int64) ([]AuthNode, error) {
	return collect(tx, scanAuth, selectAuth, room)
}

const selectAuthAfter = `SELECT pos, number, auth FROM mx_auth WHERE room = $1 AND pos > $2 ORDER BY pos`

// AuthGraphAfter returns the nodes of a room's auth graph behind a position, in their order.
func (tx *Tx) AuthGraphAfter(room int64, after Pos) ([]AuthNode, error) {
	return collect(tx, scanAuth, selectAuthAfter, room, after)
}

const selectOldEvents = `SELECT ` + eventColumns + ` FROM mx_events WHERE room = $1 AND pos <= $2 ORDER BY pos`

// EventsBeforeGraph returns those events of a room that were stored before there were auth graphs.
func (tx *Tx) EventsBeforeGraph(room int64) ([]Event, error) {
	text, err := tx.Meta("graph_from")
	if err != nil {
		return nil, err
	}
	from, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("storage: graph_from: %w", err)
	}
	if from == 0 {
		return nil, nil
	}
	return collect(tx, scanEvent, selectOldEvents, room, from)
}

// InsertGap remembers a backward extremity: room, missing, ord of the event that names it.
var InsertGap = &Insert{Table: "mx_gaps", Columns: "room, missing, ord", Conflict: "ON CONFLICT (room, missing, ord) DO NOTHING"}

// Gap is a backward extremity: an event that is not here, and the place of one that follows it.
type Gap struct {
	Missing id.EventID
	Ord     int64
}

const selectGaps = `
	SELECT missing, ord FROM mx_gaps WHERE room = $1 AND ord <= $2 AND ord > $3 ORDER BY ord DESC, missing LIMIT $4`

// Gaps returns the backward extremities of a room at a place in (after, upTo], newest first, at most limit.
func (tx *Tx) Gaps(room, upTo, after int64, limit int) ([]Gap, error) {
	return collect(tx, func(row *sql.Rows, g *Gap) error { return row.Scan(&g.Missing, &g.Ord) }, selectGaps, room, upTo, after, limit)
}

const selectNextGap = `SELECT missing, ord FROM mx_gaps WHERE room = $1 AND ord > $2 AND ord < $3 ORDER BY ord, missing LIMIT 1`

// NextGap returns the oldest of the backward extremities of a room at a place in (after, before), or ErrNotFound.
func (tx *Tx) NextGap(room, after, before int64) (Gap, error) {
	return one(tx, func(row *sql.Rows, g *Gap) error { return row.Scan(&g.Missing, &g.Ord) }, selectNextGap, room, after, before)
}

const selectBreak = `
	WITH live AS (
		SELECT ord FROM mx_events WHERE room = $1 AND ord <= $2 AND ord % 65536 = 0 AND flags = 1 ORDER BY ord DESC LIMIT 1
	), told AS (SELECT COALESCE((SELECT ord FROM live), $2) AS ord)
	SELECT ord FROM (
		SELECT ord FROM mx_gaps WHERE room = $1 AND ord > (SELECT ord FROM told) AND ord <= $3
		UNION ALL
		SELECT ord FROM mx_events WHERE room = $1 AND ord > (SELECT ord FROM told) AND ord <= $3 AND ord % 65536 <> 0 AND flags = 1
	) AS breaks ORDER BY ord DESC LIMIT 1`

// Break returns the newest place of a room where its history did not arrive live: that of an event that follows a gap,
// or of one that has filled a gap since. It looks up to a place, and back to the newest event at or before another one
// that did arrive live: a gap behind that, at an event of which nobody is told, is still to be told of. ErrNotFound means
// that everything arrived as it happened.
func (tx *Tx) Break(room, after, upTo int64) (int64, error) {
	return one(tx, value[int64], selectBreak, room, after, upTo)
}

const selectMissing = `
	SELECT DISTINCT g.missing FROM mx_gaps g JOIN mx_events e ON e.room = g.room AND e.ord = g.ord
	WHERE g.room = $1 AND (e.flags & 12) = 0`

// MissingEvents returns those backward extremities of a room that an event follows which is neither Rejected nor
// SoftFailed, in no order.
func (tx *Tx) MissingEvents(room int64) ([]id.EventID, error) {
	return collect(tx, value[id.EventID], selectMissing, room)
}

const deleteGap = `DELETE FROM mx_gaps WHERE room = $1 AND missing = $2`

// CloseGap forgets a backward extremity that has arrived.
func (tx *Tx) CloseGap(room int64, arrived id.EventID) error {
	_, err := tx.exec(deleteGap, room, arrived)
	return err
}

// InsertPendingRedaction remembers a redaction whose target is not here: target, pos of the redaction.
var InsertPendingRedaction = &Insert{
	Table: "mx_pending_redactions", Columns: "target, pos", Conflict: "ON CONFLICT (target, pos) DO NOTHING",
}

const deletePendingRedactions = `DELETE FROM mx_pending_redactions WHERE target = $1`

// DeletePendingRedactions forgets the redactions that came before their target: it is here.
func (tx *Tx) DeletePendingRedactions(target id.EventID) error {
	_, err := tx.exec(deletePendingRedactions, target)
	return err
}

// InsertServerSet writes a set of servers that events name: set_id, servers (a JSON list).
var InsertServerSet = &Insert{Table: "mx_server_sets", Columns: "set_id, servers"}

// InsertOutgoing lets an event be sent to a set of servers: at (a position of the stream), room, pos of the event, set_id.
var InsertOutgoing = &Insert{Table: "mx_outgoing", Columns: "at, room, pos, set_id"}
