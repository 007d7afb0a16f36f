package storage

import (
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Outgoing is an event that is sent to a set of servers.
type Outgoing struct {
	At   Pos // when it is sent
	Room int64
	Pos  Pos // of the event
	Set  int64
}

// Destination is how far another server is with what is sent to it.
type Destination struct {
	Server   id.ServerName
	Past     Pos    // everything up to here was delivered, is in Txn, or was superseded
	EDUsPast Pos    // likewise for EDUs that must arrive
	TxnID    string // of the transaction that may have been sent and was not answered; "" if there is none
	Txn      []byte // JSON: what is in it

	FailingSinceMS  int64 // 0: the last attempt was answered
	RetryAtMS       int64
	RetryIntervalMS int64
}

// CatchUp is the newest event of a room that a server gets once it is back.
type CatchUp struct {
	Room int64
	At   Pos // of the Outgoing
	Pos  Pos // of the event
}

const selectOutgoing = `
	SELECT at, room, pos, set_id FROM mx_outgoing WHERE at > $1 AND at <= $2 ORDER BY at LIMIT $3`

// Outgoing returns what is sent at a position in (after, upTo], in that order, at most limit.
func (tx *Tx) Outgoing(after, upTo Pos, limit int) ([]Outgoing, error) {
	return collect(tx, func(row *sql.Rows, o *Outgoing) error {
		return row.Scan(&o.At, &o.Room, &o.Pos, &o.Set)
	}, selectOutgoing, after, upTo, limit)
}

const selectServerSets = `
	SELECT set_id, servers FROM mx_server_sets WHERE set_id IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`

// ServerSets returns the servers of numbered sets, sorted; unknown sets are left out.
func (tx *Tx) ServerSets(numbers []int64) (map[int64][]id.ServerName, error) {
	return serverSets(tx, selectServerSets, numbers)
}

// serverSets returns the sets that a query finds by their numbers.
func serverSets(tx *Tx, query string, numbers []int64) (map[int64][]id.ServerName, error) {
	sets := make(map[int64][]id.ServerName, len(numbers))
	err := each(tx, func(row *sql.Rows) error {
		var number int64
		var text []byte
		if err := row.Scan(&number, &text); err != nil {
			return err
		}
		var names []id.ServerName
		if err := json.Unmarshal(text, &names); err != nil {
			return fmt.Errorf("set of servers %d: %w", number, err)
		}
		sets[number] = names
		return nil
	}, query, list(numbers))
	return sets, err
}

const deleteOutgoing = `
	DELETE FROM mx_outgoing WHERE at IN (SELECT at FROM mx_outgoing WHERE at <= $1 ORDER BY at LIMIT $2)`

// DeleteOutgoing forgets at most limit of what was sent up to a position, and returns how much that was.
func (tx *Tx) DeleteOutgoing(upTo Pos, limit int) (int64, error) {
	return tx.exec(deleteOutgoing, upTo, limit)
}

const deleteServerSets = `
	DELETE FROM mx_server_sets WHERE set_id < $1 AND set_id NOT IN (SELECT set_id FROM mx_outgoing)`

// DeleteServerSets forgets the sets from before a position that nothing is sent to any more.
func (tx *Tx) DeleteServerSets(before Pos) error {
	_, err := tx.exec(deleteServerSets, before)
	return err
}

const destinationColumns = `server_name, past, edus_past, txn_id, txn, failing_since_ms, retry_at_ms, retry_interval_ms`

// UpsertDestination writes a destination; see Destination.Row.
var UpsertDestination = &Insert{
	Table: "mx_destinations", Columns: destinationColumns, Key: 1,
	Conflict: `ON CONFLICT (server_name) DO UPDATE SET past = excluded.past, edus_past = excluded.edus_past,
		txn_id = excluded.txn_id, txn = excluded.txn, failing_since_ms = excluded.failing_since_ms,
		retry_at_ms = excluded.retry_at_ms, retry_interval_ms = excluded.retry_interval_ms`,
}

// Row is the destination as arguments of UpsertDestination.
func (d *Destination) Row() []any {
	return []any{string(d.Server), d.Past, d.EDUsPast, d.TxnID, d.Txn, d.FailingSinceMS, d.RetryAtMS, d.RetryIntervalMS}
}

const selectDestinations = `SELECT ` + destinationColumns + ` FROM mx_destinations`

// Destinations returns every destination, in no order.
func (tx *Tx) Destinations() ([]Destination, error) {
	return collect(tx, func(row *sql.Rows, d *Destination) error {
		return row.Scan(&d.Server, &d.Past, &d.EDUsPast, &d.TxnID, &d.Txn, &d.FailingSinceMS, &d.RetryAtMS, &d.RetryIntervalMS)
	}, selectDestinations)
}

const selectEDUsPast = `SELECT server_name, edus_past FROM mx_destinations WHERE server_name IN (SELECT value FROM json_each($1))`

// EDUsPast returns Destination.EDUsPast of servers, those that are known.
func (tx *Tx) EDUsPast(servers []id.ServerName) (map[id.ServerName]Pos, error) {
	past := make(map[id.ServerName]Pos, len(servers))
	err := each(tx, func(row *sql.Rows) error {
		var server id.ServerName
		var pos Pos
		err := row.Scan(&server, &pos)
		past[server] = pos
		return err
	}, selectEDUsPast, list(servers))
	return past, err
}

// UpsertCatchUp writes a server's newest event of a room: server_name, room, at, pos.
var UpsertCatchUp = &Insert{
	Table: "mx_catch_up", Columns: "server_name, room, at, pos", Key: 2,
	Conflict: "ON CONFLICT (server_name, room) DO UPDATE SET at = excluded.at, pos = excluded.pos",
}

const selectCatchUp = `SELECT room, at, pos FROM mx_catch_up WHERE server_name = $1 ORDER BY at LIMIT $2`

// CatchUp returns what a server gets first once it is back, oldest first, at most limit.
func (tx *Tx) CatchUp(server id.ServerName, limit int) ([]CatchUp, error) {
	return collect(tx, func(row *sql.Rows, c *CatchUp) error {
		return row.Scan(&c.Room, &c.At, &c.Pos)
	}, selectCatchUp, server, limit)
}

const selectCatchingUp = `SELECT DISTINCT server_name FROM mx_catch_up`

// CatchingUp returns the servers for which there is something in CatchUp, in no order.
func (tx *Tx) CatchingUp() ([]id.ServerName, error) {
	return collect(tx, value[id.ServerName], selectCatchingUp)
}

const deleteCatchUp = `DELETE FROM mx_catch_up WHERE server_name = $1 AND at <= $2`

// DeleteCatchUp forgets what a server has got of CatchUp: everything up to a place in its order.
func (tx *Tx) DeleteCatchUp(server id.ServerName, upTo Pos) error {
	_, err := tx.exec(deleteCatchUp, server, upTo)
	return err
}
