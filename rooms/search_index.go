package rooms

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/storage"
)

// How the indexer works.
const (
	indexLinger  = time.Second     // from a commit until it looks, so that one look is for many
	indexAtOnce  = 100             // events of one transaction
	indexPeople  = 64              // memberships of one transaction
	indexAwaited = 2 * time.Second // how long a search waits until what was sent before it can be found
)

// indexer reads what was committed, some time behind, and keeps what searches look into: the words of messages, and who
// can be found. It has one goroutine, and does nothing while nothing is written.
type indexer struct {
	*Service
	waiter *notify.Waiter
	hurry  chan struct{} // capacity 1: somebody waits
	stop   context.CancelFunc
	ended  chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex    // guards asked
	asked chan struct{} // closed at the end of the next look that begins; nil while nobody waits
}

// startIndexer starts the indexer of a server; it runs until close. A position in storage says how far it is.
func startIndexer(s *Service) *indexer {
	ctx, stop := context.WithCancel(context.Background())
	ix := &indexer{Service: s, waiter: s.Hub.WaitAll(), hurry: make(chan struct{}, 1), stop: stop, ended: make(chan struct{})}
	go ix.run(ctx)
	return ix
}

// close ends the indexer and awaits its end.
func (ix *indexer) close() {
	ix.stop()
	<-ix.ended
	ix.waiter.Close()
}

func (ix *indexer) run(ctx context.Context) {
	defer close(ix.ended)
	for ctx.Err() == nil {
		ix.look(ctx)
		select {
		case <-ix.waiter.C:
			ix.linger(ctx)
		case <-ix.hurry:
		case <-ctx.Done():
		}
	}
}

func (ix *indexer) linger(ctx context.Context) {
	timer := time.NewTimer(indexLinger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ix.hurry:
	case <-ctx.Done():
	}
}

// look goes on until nothing is left, and answers those who asked before it began.
func (ix *indexer) look(ctx context.Context) {
	ix.mu.Lock()
	asked := ix.asked
	ix.asked = nil
	ix.mu.Unlock()
	if asked != nil {
		defer close(asked)
	}
	for _, step := range []func(context.Context) (more bool, err error){ix.lookAtNew, ix.lookAgain, ix.lookAtPeople, ix.lookAtRooms} {
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = step(ctx); err != nil {
				if !errors.Is(err, storage.ErrClosed) && !errors.Is(err, context.Canceled) {
					ix.Log.Error("index what can be searched", "error", err)
				}
				return
			}
		}
	}
}

// caughtUp waits, for a while, until what was committed before can be found.
func (s *Service) caughtUp(ctx context.Context) {
	if s.indexer != nil {
		s.indexer.catchUp(ctx)
	}
}

// catchUp waits until what was committed before can be found, for a while.
func (ix *indexer) catchUp(ctx context.Context) {
	ix.mu.Lock()
	if ix.asked == nil {
		ix.asked = make(chan struct{})
	}
	asked := ix.asked
	ix.mu.Unlock()
	select {
	case ix.hurry <- struct{}{}:
	default:
	}
	timer := time.NewTimer(indexAwaited)
	defer timer.Stop()
	select {
	case <-asked:
	case <-timer.C:
	case <-ix.ended:
	case <-ctx.Done():
	}
}

// findings are what is to be written of some events.
type findings struct {
	upTo    storage.Pos // 0 for events that were looked at before
	drop    []storage.Pos
	put     []storage.Words
	edits   []storage.Edit // new ones
	ended   []storage.Pos  // edits that were redacted
	members []roomUser
	changed map[int64]bool // rooms that others may find their members by, or no longer
	status  []storage.PeopleRoom
}

// roomUser is somebody in a room.
type roomUser struct {
	room int64
	user id.UserID
}

// lookAtNew takes in the next events.
func (ix *indexer) lookAtNew(ctx context.Context) (more bool, err error) {
	f := &findings{}
	to := ix.DB.Published()
	err = ix.DB.Read(ctx, func(tx *storage.Tx) error {
		from, err := tx.Indexed()
		if err != nil {
			return err
		}
		events, err := tx.EventsBetween(from, to, indexAtOnce)
		if err != nil || len(events) == 0 {
			return err
		}
		more = len(events) == indexAtOnce
		if f.upTo = to; more {
			f.upTo = events[len(events)-1].Pos
		}
		ix.findMembers(events, f)
		return findTexts(tx, events, f)
	})
	if err != nil || f.upTo == 0 {
		return false, err
	}
	if f.status, err = ix.statusOf(ctx, f.changed); err != nil {
		return false, err
	}
	return more, ix.do(ctx, func(tx *storage.Tx) error { return ix.write(tx, f) })
}

// do writes what takes no position: nobody is told of it.
func (ix *indexer) do(ctx context.Context, fn func(*storage.Tx) error) error {
	act := &storage.Act{Do: func(tx *storage.Tx, _ storage.Pos) error { return fn(tx) }}
	ix.DB.Queue(act)
	return act.Wait(context.WithoutCancel(ctx))
}

func (ix *indexer) write(tx *storage.Tx, f *findings) error {
	if err := f.writeTexts(tx); err != nil {
		return err
	}
	for _, st := range f.status {
		if err := putStatus(tx, st); err != nil {
			return err
		}
	}
	for _, m := range f.members {
		if err := ix.findAnew(tx, m); err != nil {
			return err
		}
	}
	return tx.SetIndexed(f.upTo)
}

func (f *findings) writeTexts(tx *storage.Tx) error {
	for _, pos := range f.drop {
		if err := tx.DropWords(pos); err != nil {
			return err
		}
	}
	for i := range f.put {
		if err := tx.PutWords(&f.put[i]); err != nil {
			return err
		}
	}
	for i := range f.edits {
		if err := tx.PutEdit(&f.edits[i]); err != nil {
			return err
		}
	}
	for _, pos := range f.ended {
		if err := tx.DropEdit(pos); err != nil {
			return err
		}
	}
	return nil
}

// lookAgain takes in events that were redacted, or found their place, since they were looked at. They are read where they
// are written, so that nothing changes between.
func (ix *indexer) lookAgain(ctx context.Context) (more bool, err error) {
	var due []storage.Pos
	read := func(tx *storage.Tx) (err error) {
		due, err = tx.SearchAgain(indexAtOnce)
		return err
	}
	if err := ix.DB.Read(ctx, read); err != nil || len(due) == 0 {
		return false, err
	}
	return len(due) == indexAtOnce, ix.do(ctx, func(tx *storage.Tx) error {
		if err := read(tx); err != nil {
			return err
		}
		f := &findings{}
		if err := findAgain(tx, due, f); err != nil {
			return err
		}
		if err := f.writeTexts(tx); err != nil {
			return err
		}
		return tx.SearchedAgain(due)
	})
}

// findAgain finds out what is to be found of these events and of those that they edit.
func findAgain(tx *storage.Tx, due []storage.Pos, f *findings) error {
	events, err := tx.EventsAt(due)
	if err != nil {
		return err
	}
	var targets []id.EventID
	for i := range events {
		f.drop = append(f.drop, events[i].Pos)
		if events[i].RedactedBy == 0 {
			continue
		}
		target, err := tx.EditedBy(events[i].Pos)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		targets = append(targets, target)
		f.ended = append(f.ended, events[i].Pos)
	}
	return findTextsOf(tx, events, targets, f)
}

// findTexts finds out by which words these events are found, and those that they edit.
func findTexts(tx *storage.Tx, events []storage.Event, f *findings) error {
	return findTextsOf(tx, events, nil, f)
}

// findTextsOf does so for other events too.
func findTextsOf(tx *storage.Tx, events []storage.Event, others []id.EventID, f *findings) error {
	found := map[id.EventID]*storage.Event{}
	fresh := map[id.EventID][]storage.Event{} // edits among the events, by what they edit
	for i := range events {
		e := &events[i]
		switch target := editOf(e); {
		case !searchable(e):
		case target != "":
			f.edits = append(f.edits, noteOf(e, target))
			fresh[target] = append(fresh[target], *e)
			others = append(others, target)
		default:
			found[e.ID] = e
		}
	}
	if err := findOthers(tx, others, found, f); err != nil || len(found) == 0 {
		return err
	}
	ids := make([]id.EventID, 0, len(found))
	for eventID := range found {
		ids = append(ids, eventID)
	}
	edits, err := tx.EditsOf(ids)
	if err != nil {
		return err
	}
	for eventID, e := range found {
		f.put = append(f.put, wordsOf(e, append(edits[eventID], fresh[eventID]...))...)
	}
	return nil
}

// findOthers adds events that are in storage already, whose words are dropped first.
func findOthers(tx *storage.Tx, others []id.EventID, found map[id.EventID]*storage.Event, f *findings) error {
	if len(others) == 0 {
		return nil
	}
	list, err := tx.EventsByID(others)
	if err != nil {
		return err
	}
	for i := range list {
		if e := &list[i]; found[e.ID] == nil {
			f.drop = append(f.drop, e.Pos)
			if searchable(e) && editOf(e) == "" { // "The original event must not, itself, have a rel_type of m.replace"
				found[e.ID] = e
			}
		}
	}
	return nil
}

// searchable reports whether an event is one that clients can be told of and that has a text.
func searchable(e *storage.Event) bool {
	if e.Flags != storage.InTimeline || e.RedactedBy != 0 {
		return false
	}
	switch typeOf(e) {
	case "m.room.message", "m.room.name", "m.room.topic":
		return true
	}
	return false
}

func typeOf(e *storage.Event) string {
	t, _ := canonjson.String(canonjson.Get(e.JSON, "type"))
	return t
}

// editOf returns the event that a message edits, or wants to.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#event-replacements
func editOf(e *storage.Event) id.EventID {
	relation := canonjson.Get(e.JSON, "content", "m.relates_to")
	if kind, _ := canonjson.String(canonjson.Get(relation, "rel_type")); kind != "m.replace" {
		return ""
	}
	target, _ := canonjson.String(canonjson.Get(relation, "event_id"))
	return id.EventID(target)
}

// noteOf is what is kept of an edit.
func noteOf(e *storage.Event, target id.EventID) storage.Edit {
	sender, _ := canonjson.String(canonjson.Get(e.JSON, "sender"))
	ts, _ := canonjson.Int(canonjson.Get(e.JSON, "origin_server_ts"))
	return storage.Edit{Pos: e.Pos, Target: target, Sender: id.UserID(sender), TS: ts}
}

// wordsOf returns by which words an event is found: those of its newest edit, and its own if there is none.
func wordsOf(e *storage.Event, edits []storage.Event) []storage.Words {
	mark, text := currentText(e, edits)
	if text == "" {
		return nil
	}
	return []storage.Words{{
		Pos: e.Pos, Late: e.Ord != e.Pos<<storage.OrdShift, Room: e.Room, Key: mark, Words: texts(words(text)),
	}}
}

// currentText is the text of an event as its newest edit left it.
func currentText(e *storage.Event, edits []storage.Event) (mark, text string) {
	newest := newestEdit(e, edits)
	state := canonjson.Get(e.JSON, "state_key") != nil
	if newest == nil {
		return textIn(typeOf(e), state, canonjson.Get(e.JSON, "content"))
	}
	return textIn(typeOf(e), state, canonjson.Get(newest.JSON, "content", "m.new_content"))
}

// newestEdit returns the edit that counts: "the one with the most recent origin_server_ts, and in the event of a tie the
// one with the lexicographically largest event_id".
//
// Spec: https://spec.matrix.org/latest/client-server-api/#validity-of-replacement-events
func newestEdit(e *storage.Event, edits []storage.Event) (newest *storage.Event) {
	var at int64
	for i := range edits {
		edit := &edits[i]
		ts, _ := canonjson.Int(canonjson.Get(edit.JSON, "origin_server_ts"))
		later := newest == nil || ts > at || ts == at && edit.ID > newest.ID
		if later && replaces(edit, e) {
			newest, at = edit, ts
		}
	}
	return newest
}

// replaces reports whether an edit is one of that event.
func replaces(edit, e *storage.Event) bool {
	same := func(key string) bool {
		return string(canonjson.Get(edit.JSON, key)) == string(canonjson.Get(e.JSON, key))
	}
	return edit.Flags == storage.InTimeline && edit.RedactedBy == 0 && edit.Room == e.Room && same("sender") && same("type") &&
		canonjson.Get(edit.JSON, "state_key") == nil && canonjson.Get(e.JSON, "state_key") == nil &&
		canonjson.IsObject(canonjson.Get(edit.JSON, "content", "m.new_content")) && editOf(edit) == e.ID
}
