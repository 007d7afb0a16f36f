package storage

import (
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Full text is the one thing for which the two dialects have no common SQL. The words are cut and folded before they come
// here, so that both find the same; a word has letters, digits and marks alone.

// mark begins the words of a document that say what it is. No word of a text has it: it is a private character, which
// the tokenizer of SQLite takes for a letter.
const mark = "\ue000"

// Marks of a document.
func roomMark(room int64) string { return mark + "r" + strconv.FormatInt(room, 10) }
func keyMark(key string) string  { return mark + "k" + key }

// Words are what an event is found by.
type Words struct {
	Pos   Pos
	Late  bool // the event did not arrive as it happened: it counts as older than all that did
	Room  int64
	Key   string // which of the keys that can be searched the text stands under: letters
	Words []string
}

// doc is the number under which the words of an event are kept.
func (w *Words) doc() int64 {
	if w.Late {
		return -w.Pos
	}
	return w.Pos
}

const (
	insertWordsSQLite   = `INSERT OR REPLACE INTO mx_search (rowid, words) VALUES ($1, $2)`
	insertWordsPostgres = `
	INSERT INTO mx_search (doc, words) VALUES ($1, CAST($2 AS TSVECTOR))
	ON CONFLICT (doc) DO UPDATE SET words = excluded.words`
)

// PutWords lets an event be found by these words and no others.
func (tx *Tx) PutWords(w *Words) error {
	marks := []string{roomMark(w.Room), keyMark(w.Key)}
	var err error
	if tx.dialect == SQLite {
		_, err = tx.exec(insertWordsSQLite, w.doc(), strings.Join(slices.Concat(marks, w.Words), " "))
	} else {
		_, err = tx.exec(insertWordsPostgres, w.doc(), vector(w.Words, marks))
	}
	return err
}

const (
	deleteWordsSQLite   = `DELETE FROM mx_search WHERE rowid IN ($1, $2)`
	deleteWordsPostgres = `DELETE FROM mx_search WHERE doc IN ($1, $2)`
)

// DropWords lets the event at a position be found no more.
func (tx *Tx) DropWords(pos Pos) error {
	query := deleteWordsSQLite
	if tx.dialect == PostgreSQL {
		query = deleteWordsPostgres
	}
	_, err := tx.exec(query, pos, -pos)
	return err
}

// maxPlace is the greatest place of a word that PostgreSQL knows.
const maxPlace = 16383

// vector is a document as PostgreSQL reads it: every word once, with its places.
func vector(words, marks []string) string {
	places := map[string][]int{}
	for i, w := range words {
		if i < maxPlace {
			places[w] = append(places[w], i+1)
		}
	}
	for _, m := range marks {
		places[m] = nil
	}
	var b strings.Builder
	for w, at := range places {
		b.WriteString(lexeme(w))
		for i, n := range at {
			b.WriteByte(":,"[min(i, 1)])
			b.WriteString(strconv.Itoa(n))
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// lexeme quotes a word for PostgreSQL.
func lexeme(word string) string {
	return "'" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(word) + "'"
}

// TextQuery says which events are looked for: those that have every one of the phrases, in one of the rooms, under one
// of the keys.
type TextQuery struct {
	Phrases [][]string // words that follow each other; none of them is empty
	Rooms   []int64    // in order
	Keys    []string   // nil: any
}

// marked are the marks of which a document has to have one each; those of the rooms only if they are asked for.
func (q *TextQuery) marked(byRoom bool) (groups [][]string) {
	if byRoom {
		var rooms []string
		for _, r := range q.Rooms {
			rooms = append(rooms, roomMark(r))
		}
		groups = append(groups, rooms)
	}
	if q.Keys != nil {
		var keys []string
		for _, k := range q.Keys {
			keys = append(keys, keyMark(k))
		}
		groups = append(groups, keys)
	}
	return groups
}

// match is the query in the language of FTS5: words are quoted, none is ever an operator.
func (q *TextQuery) match(byRoom bool) string {
	quote := func(word string) string { return `"` + strings.ReplaceAll(word, `"`, `""`) + `"` }
	return q.join(byRoom, quote, " + ", " OR ", " AND ")
}

// tsquery is the query in that of PostgreSQL.
func (q *TextQuery) tsquery(byRoom bool) string { return q.join(byRoom, lexeme, " <-> ", " | ", " & ") }

func (q *TextQuery) join(byRoom bool, quote func(string) string, then, or, and string) string {
	var all []string
	put := func(words []string, between string) {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = quote(w)
		}
		all = append(all, "("+strings.Join(quoted, between)+")")
	}
	for _, p := range q.Phrases {
		put(p, then)
	}
	for _, g := range q.marked(byRoom) {
		put(g, or)
	}
	return strings.Join(all, and)
}

// Found is an event that was found: Doc is its place among all that can be found, the newest have the greatest.
type Found struct {
	Doc  int64
	Room int64
}

// Pos is the position of the event.
func (f Found) Pos() Pos { return max(f.Doc, -f.Doc) }

const (
	searchSQLite = `
	SELECT s.rowid, e.room FROM mx_search s JOIN mx_events e ON e.pos = abs(s.rowid)
	WHERE s.mx_search MATCH $1 AND s.rowid < $2 ORDER BY s.rowid DESC LIMIT $3`
	searchPostgres = `
	SELECT s.doc, e.room FROM mx_search s JOIN mx_events e ON e.pos = abs(s.doc)
	WHERE s.words @@ CAST($1 AS TSQUERY) AND s.doc < $2 ORDER BY s.doc DESC LIMIT $3`
)

// How a search finds its rooms among all. Most words are rare, or said in the rooms of whoever looks for them as often as
// elsewhere: then it is quickest to go through everything. Otherwise the index is asked for the rooms as well, each of
// which is a list of its own to go through, so that there may not be many.
const (
	maxScanned = 1000      // of everything, before the index is asked for the rooms
	maxMarked  = 32        // rooms that it is asked for
	maxInVain  = 20 * 1000 // of everything, for one answer
)

// Search returns at most limit events that a query finds and that are older than before, the newest first; and up to
// where it has looked, 0 when nothing is left.
func (tx *Tx) Search(q *TextQuery, before int64, limit int) (found []Found, last int64, err error) {
	return tx.search(q, before, limit, maxScanned, maxInVain)
}

func (tx *Tx) search(q *TextQuery, before int64, limit, atOnce, inVain int) (found []Found, last int64, err error) {
	if len(q.Rooms) == 0 || len(q.Phrases) == 0 {
		return nil, 0, nil
	}
	byRoom := len(q.Rooms) == 1
	for looked := 0; ; {
		n := atOnce
		if byRoom {
			n = limit - len(found)
		}
		some, seen, err := tx.scan(q, byRoom, before, n, limit-len(found))
		if err != nil {
			return nil, 0, err
		}
		found = append(found, some...)
		if seen.n < n && len(found) < limit {
			return found, 0, nil
		}
		before = seen.last
		if looked += seen.n; len(found) == limit || looked >= inVain {
			return found, before, nil
		}
		byRoom = len(q.Rooms) <= maxMarked
	}
}

// scanned says how far a scan has come.
type scanned struct {
	n    int
	last int64
}

var errEnough = errors.New("enough")

// scan goes through at most n events that a query finds, until it has as many of its rooms as are wanted.
func (tx *Tx) scan(q *TextQuery, byRoom bool, before int64, n, wanted int) (found []Found, seen scanned, err error) {
	query, text := searchSQLite, q.match
	if tx.dialect == PostgreSQL {
		query, text = searchPostgres, q.tsquery
	}
	err = each(tx, func(row *sql.Rows) error {
		var f Found
		if err := row.Scan(&f.Doc, &f.Room); err != nil {
			return err
		}
		seen.n++
		seen.last = f.Doc
		if _, ok := slices.BinarySearch(q.Rooms, f.Room); ok {
			found = append(found, f)
		}
		if len(found) == wanted {
			return errEnough
		}
		return nil
	}, query, text(byRoom), before, n)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, seen, err
}

// metaIndexed is the position up to which events were looked at for what can be searched.
const metaIndexed = "indexed"

// Indexed returns the position up to which events were looked at for what can be searched, 0 at first.
func (tx *Tx) Indexed() (Pos, error) {
	value, err := tx.Meta(metaIndexed)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(value), 10, 64)
}

const upsertMeta = `
	INSERT INTO mx_meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`

// SetIndexed moves that position on.
func (tx *Tx) SetIndexed(pos Pos) error {
	_, err := tx.exec(upsertMeta, metaIndexed, strconv.AppendInt(nil, pos, 10))
	return err
}

const selectEventsBetween = `
	SELECT ` + eventColumns + ` FROM mx_events WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`

// EventsBetween returns at most limit stored events of all rooms with a position in (from, to], in their order,
// whatever their flags.
func (tx *Tx) EventsBetween(from, to Pos, limit int) ([]Event, error) {
	return collect(tx, scanEvent, selectEventsBetween, from, to, limit)
}

// Edit is an event that edits another one, or wants to.
type Edit struct {
	Pos    Pos
	Target id.EventID
	Sender id.UserID
	TS     int64 // origin_server_ts
}

const insertSearchEdit = `
	INSERT INTO mx_search_edits (pos, target, sender, ts) VALUES ($1, $2, $3, $4) ON CONFLICT (pos) DO NOTHING`

// PutEdit notes an edit.
func (tx *Tx) PutEdit(e *Edit) error {
	_, err := tx.exec(insertSearchEdit, e.Pos, e.Target, e.Sender, e.TS)
	return err
}

const deleteSearchEdit = `DELETE FROM mx_search_edits WHERE pos = $1`

// DropEdit forgets an edit.
func (tx *Tx) DropEdit(pos Pos) error {
	_, err := tx.exec(deleteSearchEdit, pos)
	return err
}

const selectSearchEditOf = `SELECT target FROM mx_search_edits WHERE pos = $1`

// EditedBy returns the event that the one at a position is known to edit, or ErrNotFound.
func (tx *Tx) EditedBy(pos Pos) (id.EventID, error) {
	return one(tx, value[id.EventID], selectSearchEditOf, pos)
}

const selectEditsOf = `
	SELECT t.target, e.pos, e.room, e.event_id, e.ord, e.before, e.after, e.now, e.flags, e.redacted_by, e.device_id, e.txn, e.json
	FROM (
		SELECT pos, target, row_number() OVER (PARTITION BY target, sender ORDER BY ts DESC, pos DESC) AS nth
		FROM mx_search_edits WHERE target IN (SELECT value FROM json_each($1))) AS t
	JOIN mx_events e ON e.pos = t.pos
	WHERE t.nth <= $2 ORDER BY e.pos`

// maxEditsOf is how many edits of one event by one sender are looked at.
const maxEditsOf = 8

// EditsOf returns the events that are known to edit some others, by those: of each sender the latest by their time, at most
// maxEditsOf.
func (tx *Tx) EditsOf(targets []id.EventID) (map[id.EventID][]Event, error) {
	edits := map[id.EventID][]Event{}
	err := each(tx, func(row *sql.Rows) error {
		var target id.EventID
		var e Event
		err := row.Scan(&target, &e.Pos, &e.Room, &e.ID, &e.Ord, &e.Before, &e.After, &e.Now, &e.Flags, &e.RedactedBy, &e.Device, &e.Txn, &e.JSON)
		edits[target] = append(edits[target], e)
		return err
	}, selectEditsOf, list(targets), maxEditsOf)
	return edits, err
}

const insertSearchAgain = `INSERT INTO mx_search_again (pos) VALUES ($1) ON CONFLICT (pos) DO NOTHING`

// searchAgain lets the words of an event be taken anew.
func (tx *Tx) searchAgain(pos Pos) error {
	_, err := tx.exec(insertSearchAgain, pos)
	return err
}

const selectSearchAgain = `SELECT pos FROM mx_search_again ORDER BY pos LIMIT $1`

// SearchAgain returns at most limit events whose words have to be taken anew.
func (tx *Tx) SearchAgain(limit int) ([]Pos, error) {
	return collect(tx, value[Pos], selectSearchAgain, limit)
}

const deleteSearchAgain = `DELETE FROM mx_search_again WHERE pos IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`

// SearchedAgain notes that it was done.
func (tx *Tx) SearchedAgain(positions []Pos) error {
	_, err := tx.exec(deleteSearchAgain, list(positions))
	return err
}
