package storage

import (
	"fmt"
	"strconv"
	"strings"
)

// Insert is a statement that writes rows of one table; the rows of a batch share its executions. It is
// made once, as a package variable, and never changed: what a batcher keeps of it is found by its address.
type Insert struct {
	Table, Columns string // "mx_x", "a, b, c"
	Conflict       string // what follows the values, e.g. "ON CONFLICT (a) DO UPDATE SET b = excluded.b"; may be empty
	Key            int    // with DO UPDATE: how many leading columns (at most 3: integers, strings, bytes) are the key, or begin it
}

// sizes are the numbers of rows that statements are made for: few, so that each stays prepared.
var sizes = [...]int{64, 32, 16, 8, 4, 2, 1}

// maxKept bounds the arguments that a pile keeps room for between batches.
const maxKept = 1 << 14

// gathered are the rows of several acts, by statement. It belongs to the batcher's goroutine, and keeps its memory.
type gathered struct {
	piles map[*Insert]*pile
	order []*pile // those with rows, in the order of their first
	moves []RoomWrite
	moved map[int64]int // a room's place in moves
}

// pile is the rows of one statement.
type pile struct {
	into  *Insert
	width int
	args  []any               // row after row
	cuts  []int               // where in args a new statement has to begin
	keys  map[[3]any]struct{} // of the rows since the last cut
	texts map[int]string      // the statement for a number of rows
}

func newPile(into *Insert) *pile {
	return &pile{into: into, width: strings.Count(into.Columns, ",") + 1, texts: map[int]string{}}
}

// add takes in the rows of an act. After an error the act is taken in by half: reset.
func (g *gathered) add(a *Act) error {
	for _, r := range a.rows {
		if err := g.pile(r.into).add(g, r.args); err != nil {
			return err
		}
	}
	for _, w := range a.rooms {
		if err := g.move(w); err != nil {
			return err
		}
	}
	return nil
}

func (g *gathered) pile(into *Insert) *pile {
	p, ok := g.piles[into]
	if !ok {
		if g.piles == nil {
			g.piles = map[*Insert]*pile{}
		}
		p = newPile(into)
		g.piles[into] = p
	}
	return p
}

func (p *pile) add(g *gathered, args []any) error {
	if len(args) != p.width {
		return fmt.Errorf("insert into %s: %d values for %d columns", p.into.Table, len(args), p.width)
	}
	if len(p.args) == 0 {
		g.order = append(g.order, p)
	}
	if p.into.Key > 0 {
		p.separate(args)
	}
	p.args = append(p.args, args...)
	return nil
}

// separate lets a row begin a new statement when its key was written since the last cut: one statement
// may not update a row twice.
func (p *pile) separate(args []any) {
	var key [3]any
	for i, v := range args[:p.into.Key] {
		if b, ok := v.([]byte); ok {
			v = string(b)
		}
		key[i] = v
	}
	if _, again := p.keys[key]; again {
		p.cuts = append(p.cuts, len(p.args))
		clear(p.keys)
	}
	if p.keys == nil {
		p.keys = map[[3]any]struct{}{}
	}
	p.keys[key] = struct{}{}
}

// move joins a room's moves to one. Those that do not follow each other cannot both be right.
func (g *gathered) move(w RoomWrite) error {
	i, again := g.moved[w.Room]
	if !again {
		if g.moved == nil {
			g.moved = map[int64]int{}
		}
		g.moved[w.Room] = len(g.moves)
		g.moves = append(g.moves, w)
		return nil
	}
	if g.moves[i].ToSeq != w.FromSeq {
		return fmt.Errorf("move room %d: %w", w.Room, ErrStale)
	}
	w.FromSeq = g.moves[i].FromSeq
	g.moves[i] = w
	return nil
}

// flush writes everything and forgets it.
func (g *gathered) flush(tx *Tx) error {
	defer g.reset()
	for _, p := range g.order {
		if err := p.flush(tx); err != nil {
			return fmt.Errorf("insert into %s: %w", p.into.Table, err)
		}
	}
	for i := range g.moves {
		if err := tx.moveRoom(&g.moves[i]); err != nil {
			return fmt.Errorf("move room %d: %w", g.moves[i].Room, err)
		}
	}
	return nil
}

// reset forgets the rows.
func (g *gathered) reset() {
	for i, p := range g.order {
		p.reset()
		g.order[i] = nil
	}
	g.order = g.order[:0]
	clear(g.moves)
	g.moves = g.moves[:0]
	clear(g.moved)
}

func (p *pile) reset() {
	clear(p.args)
	p.args, p.cuts = p.args[:0], p.cuts[:0]
	if cap(p.args) > maxKept {
		p.args = nil
	}
	clear(p.keys)
}

func (p *pile) flush(tx *Tx) error {
	from := 0
	for _, cut := range p.cuts {
		if err := p.insert(tx, p.args[from:cut]); err != nil {
			return err
		}
		from = cut
	}
	return p.insert(tx, p.args[from:])
}

func (p *pile) insert(tx *Tx, args []any) error {
	for _, rows := range sizes {
		for n := rows * p.width; len(args) >= n; args = args[n:] {
			if _, err := tx.exec(p.text(rows, tx.dialect), args[:n]...); err != nil {
				return err
			}
		}
	}
	return nil
}

// text is the statement for a number of rows.
func (p *pile) text(rows int, d Dialect) string {
	t, ok := p.texts[rows]
	if !ok {
		t = p.into.text(rows, p.width, d)
		p.texts[rows] = t
	}
	return t
}

func (in *Insert) text(rows, width int, d Dialect) string {
	b := []byte("INSERT INTO " + in.Table + " (" + in.Columns + ") VALUES ")
	for i := range rows * width {
		switch {
		case i == 0:
			b = append(b, '(')
		case i%width == 0:
			b = append(b, "), ("...)
		default:
			b = append(b, ", "...)
		}
		b = appendParameter(b, i+1, d)
	}
	return string(append(append(b, ") "...), in.Conflict...))
}

// appendParameter appends the nth parameter. SQLite's driver looks a named one up by its name, so "?" is faster there.
func appendParameter(b []byte, n int, d Dialect) []byte {
	if d == SQLite {
		return append(b, '?')
	}
	return strconv.AppendInt(append(b, '$'), int64(n), 10)
}

const updateRoom = `
	UPDATE mx_rooms SET seq = $3, state = $4, last_pos = $5, extremities = $6
	WHERE room = $1 AND seq = $2`

func (tx *Tx) moveRoom(w *RoomWrite) error {
	n, err := tx.exec(updateRoom, w.Room, w.FromSeq, w.ToSeq, w.State, w.LastPos, w.Extremities)
	if err == nil && n != 1 {
		err = ErrStale
	}
	return err
}
