package roomstate

import (
	"context"
	"slices"
	"strconv"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// bundle is what is told beside an event of those that relate to it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#aggregations-of-child-events
type bundle struct {
	edit       *Event // the latest valid one, nil for none
	references []id.EventID
	thread     *Thread
}

// Thread is what is told of a thread beside its root.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-side-aggregation-of-mthread-relationships
type Thread struct {
	Latest       *Event // the newest event that the user may see
	Count        int64
	Participated bool
}

// How many relations are looked at.
const (
	maxEdits         = 8    // of one event and sender, until one is valid and may be seen
	maxReferences    = 100  // of one event: the newest
	maxAllReferences = 5000 // of all that is read at once, shared evenly
)

// Aggregate reads what is aggregated of the events that relate to some, so that Append and AppendSeen tell of it beside them
// from then on. Nothing is aggregated of state events. What it has read once it does not read again. It needs no storage when
// memory knows that nothing relates to any of them.
//
// Those whom the user ignores do not count, nor does what the user may not see.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#aggregations-of-child-events
func (v *Viewer) Aggregate(ctx context.Context, events []*Event) error {
	events = v.unaggregated(events)
	if len(events) == 0 {
		return nil
	}
	ignored, err := v.Room.cache.IgnoredBy(ctx, v.User)
	if err != nil {
		return err
	}
	a := aggregation{Viewer: v, ctx: ctx, ignored: ignored, without: ignored.list()}
	if err := a.read(events, true); err != nil {
		return err
	}
	latest, err := a.bundle(events)
	latest = v.unaggregated(latest)
	if err != nil || len(latest) == 0 {
		return err
	}
	// "child events of the latest_event should themselves be aggregated": they are in a thread, and have none of their own.
	if err := a.read(latest, false); err != nil {
		return err
	}
	_, err = a.bundle(latest)
	return err
}

// unaggregated returns those events of which something may be aggregated that was not read yet.
func (v *Viewer) unaggregated(events []*Event) []*Event {
	var list []*Event
	for _, e := range events {
		if e.StateKey != nil || !v.Room.MayBeRelated(e.Ord) {
			continue
		}
		if _, known := v.bundles[e.Pos]; !known {
			list = append(list, e)
		}
	}
	return list
}

// aggregation is one reading of what is aggregated.
type aggregation struct {
	*Viewer
	ctx     context.Context
	ignored Ignored
	without []id.UserID

	edits, references map[id.EventID][]storage.Relation
	threads           map[id.EventID]storage.Thread
	children          map[storage.Pos]*Event // the events that these name, as far as they were read
}

// read reads what relates to some events.
func (a *aggregation) read(events []*Event, threads bool) error {
	ids := make([]id.EventID, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	each := max(1, min(maxReferences, maxAllReferences/len(ids)))
	var edits, references []storage.Relation
	var roots []storage.Thread
	err := a.Room.cache.db.Read(a.ctx, func(tx *storage.Tx) (err error) {
		if edits, err = tx.Edits(a.Room.Num, ids, OrdAfter(a.upTo), maxEdits); err != nil {
			return err
		}
		if references, err = tx.References(a.Room.Num, ids, OrdAfter(a.upTo), each, a.without); err != nil || !threads {
			return err
		}
		roots, err = tx.ThreadsOf(a.Room.Num, a.User, ids, a.without)
		return err
	})
	if err != nil {
		return err
	}
	a.edits, a.references, a.threads = byParent(edits), byParent(references), map[id.EventID]storage.Thread{}
	for _, t := range roots {
		a.threads[t.Root] = t
	}
	return a.readChildren(events, references)
}

func byParent(list []storage.Relation) map[id.EventID][]storage.Relation {
	m := map[id.EventID][]storage.Relation{}
	for _, r := range list {
		m[r.Parent] = append(m[r.Parent], r)
	}
	return m
}

// readChildren reads the events that are looked at in any case, all at once.
func (a *aggregation) readChildren(events []*Event, references []storage.Relation) error {
	var positions []storage.Pos
	for _, e := range events {
		a.edits[e.ID] = slices.DeleteFunc(a.edits[e.ID], func(r storage.Relation) bool { return !mayEdit(e, &r) })
		if edits := a.edits[e.ID]; len(edits) > 0 {
			positions = append(positions, edits[0].Pos)
		}
		if t, ok := a.threads[e.ID]; ok {
			positions = append(positions, t.NewestPos)
		}
	}
	for _, r := range references {
		positions = append(positions, r.Pos)
	}
	list, err := a.Room.eventsAmong(a.ctx, positions)
	if err != nil {
		return err
	}
	a.children = make(map[storage.Pos]*Event, len(list))
	for _, e := range list {
		a.children[e.Pos] = e
	}
	return a.Prepare(a.ctx, list)
}

// mayEdit reports whether a relation of the kind m.replace may be valid by what is known without reading it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#validity-of-replacement-events
func mayEdit(e *Event, r *storage.Relation) bool {
	relType, _ := e.Relation()
	// "The original event and replacement event must have the same sender"
	return r.Sender == e.Sender &&
		// "The replacement and original events must have the same type"
		r.Type == e.Type &&
		// "The original event must not, itself, have a rel_type of m.replace"
		relType != "m.replace" &&
		// "If the original event is redacted, any m.replace relationship should not be bundled with it"
		e.RedactedBy == 0
}

// edits reports whether an event, of which mayEdit holds, is a valid edit.
func edits(e *Event) bool {
	// "The replacement and original events must not have a state_key property"
	return e.StateKey == nil &&
		// "The replacement event (once decrypted, if appropriate) must have an m.new_content property."
		(e.Type == "m.room.encrypted" || canonjson.IsObject(canonjson.Get(e.Content(), "m.new_content")))
}

// child returns an event that was read, or reads it.
func (a *aggregation) child(pos storage.Pos) (*Event, error) {
	if e := a.children[pos]; e != nil {
		return e, nil
	}
	return a.Room.EventAt(a.ctx, pos)
}

// visible returns the event at a position, nil if the user may not see it.
func (a *aggregation) visible(pos storage.Pos) (*Event, error) {
	e, err := a.child(pos)
	if err != nil {
		return nil, err
	}
	if _, ok, err := a.See(a.ctx, e); err != nil || !ok {
		return nil, err
	}
	return e, nil
}

// bundle makes what is told beside each event of what was read. It returns the latest events of the threads among them.
func (a *aggregation) bundle(events []*Event) (latest []*Event, err error) {
	if a.bundles == nil {
		a.bundles = make(map[storage.Pos]*bundle, len(events))
	}
	for _, e := range events {
		var b bundle
		if b.edit, err = a.editOf(e); err != nil {
			return nil, err
		}
		if b.references, err = a.referencesOf(e); err != nil {
			return nil, err
		}
		if b.thread, err = a.threadOf(e); err != nil {
			return nil, err
		}
		a.bundles[e.Pos] = nil
		if b.edit != nil || len(b.references) > 0 || b.thread != nil {
			a.bundles[e.Pos] = &b
		}
		if b.thread != nil {
			latest = append(latest, b.thread.Latest)
		}
	}
	return latest, nil
}

// editOf returns the latest valid edit of an event, nil if there is none.
//
// "The most recent event is determined by comparing origin_server_ts; if two or more replacement events have identical
// origin_server_ts, the event with the lexicographically largest event_id is treated as more recent."
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-side-aggregation-of-mreplace-relationships
func (a *aggregation) editOf(e *Event) (latest *Event, err error) {
	for _, r := range a.edits[e.ID] {
		if latest != nil && r.TS < latest.OriginServerTS {
			break
		}
		edit, err := a.visible(r.Pos)
		if err != nil {
			return nil, err
		}
		if edit != nil && edits(edit) && (latest == nil || edit.ID > latest.ID) {
			latest = edit
		}
	}
	return latest, nil
}

// referencesOf returns the ids of the events that refer to one.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-side-aggregation-of-mreference-relationships
func (a *aggregation) referencesOf(e *Event) (ids []id.EventID, err error) {
	for _, r := range a.references[e.ID] {
		child, err := a.visible(r.Pos)
		if err != nil {
			return nil, err
		}
		if child != nil {
			ids = append(ids, child.ID)
		}
	}
	return ids, nil
}

// appendBundle appends m.relations of an event in the form in which the event itself is told. Without whole the event is shown
// redacted, and so has no edit.
func (v *Viewer) appendBundle(ctx context.Context, dst []byte, b *bundle, whole bool, f form) (_ []byte, err error) {
	start := len(dst)
	if len(b.references) > 0 {
		dst = append(dst, `,"m.reference":{"chunk":[`...)
		for i, eventID := range b.references {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(canonjson.AppendString(append(dst, `{"event_id":`...), string(eventID)), '}')
		}
		dst = append(dst, "]}"...)
	}
	if b.edit != nil && whole {
		if dst, err = v.appendInside(ctx, append(dst, `,"m.replace":`...), b.edit, f); err != nil {
			return nil, err
		}
	}
	if b.thread != nil {
		if dst, err = v.appendThread(ctx, append(dst, `,"m.thread":`...), b.thread, f); err != nil {
			return nil, err
		}
	}
	if len(dst) == start {
		return nil, nil
	}
	dst[start] = '{'
	return append(dst, '}'), nil
}

func (v *Viewer) appendThread(ctx context.Context, dst []byte, t *Thread, f form) (_ []byte, err error) {
	dst = strconv.AppendInt(append(dst, `{"count":`...), t.Count, 10)
	dst = strconv.AppendBool(append(dst, `,"current_user_participated":`...), t.Participated)
	if dst, err = v.appendInside(ctx, append(dst, `,"latest_event":`...), t.Latest, f); err != nil {
		return nil, err
	}
	return append(dst, '}'), nil
}

// appendInside appends an event that is told beside another one. The user may see it: what may not be seen is not aggregated.
func (v *Viewer) appendInside(ctx context.Context, dst []byte, e *Event, f form) ([]byte, error) {
	seen, ok, err := v.See(ctx, e)
	if err != nil || !ok {
		return append(dst, "null"...), err
	}
	return v.append(ctx, dst, e, seen, f)
}
