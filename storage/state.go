package storage

import "database/sql"

// InsertStateNode writes a node of a state tree: node, body.
var InsertStateNode = &Insert{Table: "mx_state_nodes", Columns: "node, body"}

// StateKey is a (type, state key) of a room and its number there.
type StateKey struct {
	Number         int64
	Type, StateKey string
}

// InsertStateKey numbers a state key: room, number, type, state_key (the last two as bytes).
var InsertStateKey = &Insert{Table: "mx_state_keys", Columns: "room, number, type, state_key"}

const selectStateKeys = `SELECT number, type, state_key FROM mx_state_keys WHERE room = $1 ORDER BY number`

// StateKeys returns the numbered state keys of a room, in order of number.
func (tx *Tx) StateKeys(room int64) ([]StateKey, error) {
	return collect(tx, func(row *sql.Rows, k *StateKey) error {
		var t, s []byte
		err := row.Scan(&k.Number, &t, &s)
		k.Type, k.StateKey = string(t), string(s)
		return err
	}, selectStateKeys, room)
}

const selectStateNodes = `
	SELECT node, body FROM mx_state_nodes WHERE node IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`

// StateNodes calls fn for each of these nodes, in no order.
func (tx *Tx) StateNodes(nodes []int64, fn func(node int64, body []byte) error) error {
	return each(tx, func(row *sql.Rows) error {
		var node int64
		var body []byte
		if err := row.Scan(&node, &body); err != nil {
			return err
		}
		return fn(node, body)
	}, selectStateNodes, list(nodes))
}
