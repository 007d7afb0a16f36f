package roomstate

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// keepParents is how many of the latest events that others relate to a room keeps in mind: one of them that arrives later
// than what relates to it is noticed.
const keepParents = 64

// loadRelations notes what is stored of the newest relations of a room.
func (r *Room) loadRelations(list []storage.RelatedPlaces) {
	r.related.Store(math.MinInt64)
	for i := len(list) - 1; i >= 0; i-- {
		r.noteRelation(list[i].Parent, max(list[i].Ord, list[i].ParentOrd))
	}
}

// noteRelation notes that an event relates to a parent; place is that of the later one of both. It is called before anybody can
// read that.
func (r *Room) noteRelation(parent id.EventID, place int64) {
	r.raiseRelated(place)
	if i := slices.Index(r.head.parents, parent); i >= 0 {
		r.head.parents = slices.Delete(r.head.parents, i, i+1)
	} else if len(r.head.parents) >= keepParents {
		r.head.parents = slices.Delete(r.head.parents, 0, 1)
	}
	r.head.parents = append(r.head.parents, parent)
}

func (r *Room) raiseRelated(place int64) {
	for now := r.related.Load(); now < place && !r.related.CompareAndSwap(now, place); now = r.related.Load() {
	}
}

// relate adds to the act how an event that becomes part of the timeline relates to another one.
func (w *Writer) relate(act *storage.Act, p *proposal) {
	if p.Flags != storage.InTimeline {
		return
	}
	if len(w.head.parents) > 0 && slices.Contains(w.head.parents, p.ID) {
		w.noteRelation(p.ID, p.Ord)
	}
	row, ok := w.relationOf(p.Event)
	if !ok {
		return
	}
	w.noteRelation(row.Parent, p.Ord)
	act.Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.Relate(&row) })
}

// relationOf is how an event relates to another one, as it is stored; false when it does not.
func (r *Room) relationOf(e *Event) (storage.Relation, bool) {
	relType, parent := e.Relation()
	return storage.Relation{
		Room: r.Num, Ord: e.Ord, Pos: e.Pos, ID: e.ID, Parent: parent, Kind: relType, Type: e.Type, Sender: e.Sender, TS: e.OriginServerTS,
	}, relType != ""
}

// unrelate lets the relation of an event go that is redacted.
func (w *Writer) unrelate(act *storage.Act, target *Event) {
	if relType, _ := target.Relation(); relType == "" {
		return
	}
	act.Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.Unrelate(target.Pos, target.ID) })
}

// MayBeRelated reports whether events may relate to some that stand at a place in the history or behind it; false is certain.
func (r *Room) MayBeRelated(from int64) bool { return r.related.Load() >= from }

// relateAtOnce is how many events of old are gone through in one transaction.
const relateAtOnce = 200

// FindRelations makes known how the events of a room relate to each other that were stored before that was kept. It is done
// once for a room; from then on, and in rooms that are not so old, it costs nothing.
func (r *Room) FindRelations(ctx context.Context) error {
	if r.searched.Load() {
		return nil
	}
	var upTo storage.Pos
	var left []storage.Pos
	var done bool
	err := r.cache.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if upTo, done, err = tx.Related(r.Num); err == nil && !done {
			left, err = tx.PositionsAfter(r.Num, upTo)
		}
		return err
	})
	for len(left) > 0 && err == nil {
		some := left[:min(len(left), relateAtOnce)]
		left = left[len(some):]
		err = r.findSome(ctx, some, len(left) == 0)
	}
	if err == nil && !done {
		r.raiseRelated(math.MaxInt64) // which events are related was not noted: storage is asked of all
	}
	r.searched.Store(err == nil)
	return err
}

// findSome goes through some events; last says that they are the last ones. They are read in the transaction that writes: what
// is redacted meanwhile relates to nothing.
func (r *Room) findSome(ctx context.Context, positions []storage.Pos, last bool) error {
	act := &storage.Act{Do: func(tx *storage.Tx, _ storage.Pos) error {
		rows, err := tx.EventsAt(positions)
		if err != nil {
			return err
		}
		slices.SortFunc(rows, func(a, b storage.Event) int { return cmp.Compare(a.Pos, b.Pos) })
		for i := range rows {
			if err := r.relateStored(tx, &rows[i]); err != nil {
				return err
			}
		}
		return tx.PutRelated(r.Num, positions[len(positions)-1], last)
	}}
	r.cache.db.Queue(act)
	return act.Wait(ctx)
}

func (r *Room) relateStored(tx *storage.Tx, row *storage.Event) error {
	if row.Flags != storage.InTimeline {
		return nil
	}
	e, err := r.fromRow(row)
	if err != nil {
		return err
	}
	rel, ok := r.relationOf(e)
	if !ok {
		return nil
	}
	return tx.Relate(&rel)
}
