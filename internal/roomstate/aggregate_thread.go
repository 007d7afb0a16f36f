package roomstate

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// maxInThread is how many events of a thread are looked at for a user who may not see all of them.
const maxInThread = 200

// threadOf returns what is told of the thread of which an event is the root, nil when it is of none: there has to be an event in
// it that the user may see.
func (a *aggregation) threadOf(e *Event) (*Thread, error) {
	t, ok := a.threads[e.ID]
	if relType, _ := e.Relation(); !ok || t.Events <= 0 || relType != "" { // "It is therefore also not possible to nest threads."
		return nil, nil
	}
	told := &Thread{Count: t.Events, Participated: t.Participated || e.Sender == a.User}
	if !a.ignored.Has(t.NewestSender) && t.Newest < OrdAfter(a.upTo) {
		latest, err := a.visible(t.NewestPos)
		if err != nil {
			return nil, err
		}
		if all, err := a.seesAllSince(e); err != nil || all && latest != nil {
			told.Latest = latest
			return told, err
		}
	}
	return a.lookIntoThread(e, told)
}

// seesAllSince reports whether it is certain, without a look at each, that the user may see what is in the history behind an
// event: they are in the room, and its history was shared all the time; or it was open to all.
func (a *aggregation) seesAllSince(e *Event) (bool, error) {
	now, err := a.Room.StateAt(a.ctx, a.upTo)
	if err != nil {
		return false, err
	}
	at, err := a.Room.StatePos(a.ctx, now, "m.room.history_visibility", "")
	if err != nil {
		return false, err
	}
	if since, err := a.Room.StatePos(a.ctx, e.Before, "m.room.history_visibility", ""); err != nil || since != at {
		return false, err
	}
	viewing, err := a.Viewing(a.ctx, now)
	if err != nil {
		return false, err
	}
	return viewing.Visibility == eventauth.WorldReadable || viewing.Visibility == eventauth.Shared && viewing.Membership == "join", nil
}

// lookIntoThread finds the newest event of a thread that the user may see, and counts those: the older ones, beyond
// maxInThread, count if the oldest that was looked at could be seen.
func (a *aggregation) lookIntoThread(root *Event, told *Thread) (*Thread, error) {
	rows, err := a.Room.threadEvents(a.ctx, root.ID, OrdAfter(a.upTo), maxInThread, a.without)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	positions := make([]storage.Pos, len(rows))
	for i := range rows {
		positions[i] = rows[i].Pos
	}
	events, err := a.Room.EventsAt(a.ctx, positions)
	if err != nil {
		return nil, err
	}
	if err := a.Prepare(a.ctx, events); err != nil {
		return nil, err
	}
	list, err := a.SeeAll(a.ctx, events)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	told.Latest = list[0]
	if len(events) < maxInThread || list[len(list)-1] != events[len(events)-1] {
		told.Count = int64(len(list))
	} else {
		told.Count -= int64(len(events) - len(list))
	}
	return told, nil
}

// ThreadOf returns what Aggregate has found to be told of the thread of which an event is the root, nil when it is of none.
func (v *Viewer) ThreadOf(e *Event) *Thread {
	if b := v.bundles[e.Pos]; b != nil {
		return b.thread
	}
	return nil
}

// Threads returns the threads of the room whose newest event has a place before one, that with the newest event first, at most
// limit; events of those whom the user ignores do not count.
func (r *Room) Threads(ctx context.Context, user id.UserID, before int64, limit int, ignored Ignored) (rows []storage.Thread, err error) {
	err = r.cache.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err = tx.Threads(r.Num, user, before, limit, ignored.list())
		return err
	})
	return rows, err
}

// Relations returns which events of the room relate to one.
func (r *Room) Relations(ctx context.Context, q *storage.RelationQuery) (rows []storage.Relation, err error) {
	err = r.cache.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err = tx.Relations(q)
		return err
	})
	return rows, err
}

// RelatedBy returns those of some events to which an event of one of these kinds and of one of these senders relates; nil is
// any of them.
func (r *Room) RelatedBy(ctx context.Context, events []id.EventID, kinds, senders []string) (list []id.EventID, err error) {
	err = r.cache.db.Read(ctx, func(tx *storage.Tx) error {
		list, err = tx.RelatedBy(r.Num, events, kinds, senders)
		return err
	})
	return list, err
}

func (r *Room) threadEvents(ctx context.Context, root id.EventID, before int64, limit int, without []id.UserID) (rows []storage.Relation, err error) {
	err = r.cache.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err = tx.ThreadEvents(r.Num, root, before, limit, without)
		return err
	})
	return rows, err
}
