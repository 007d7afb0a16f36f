package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/filter"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// What one request of a client may make this server ask others.
const (
	pastTime    = 15 * time.Second // for all of it
	askTime     = 10 * time.Second // for one answer
	pastRounds  = 10               // times that history is asked for
	pastEvents  = 100              // that are asked for at once
	pastServers = 6                // that are asked for the same
	pastPause   = time.Minute      // until the same is asked for again that nobody could tell
)

// history collects what backwards does; but where something is missing in the room's history, it asks other servers
// first. What they cannot tell is passed over only by who begins there, so that nobody misses what could not be had
// for a moment.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#backfilling-and-retrieving-missing-events
func (s *Service) history(ctx context.Context, rd *reader, before, downTo int64, limit int, f *filter.RoomEventFilter) (stretch, error) {
	asking, cancel := context.WithTimeout(ctx, pastTime)
	defer cancel()
	st := stretch{next: min(before, roomstate.OrdAfter(rd.upTo))}
	for round := 0; ; round++ {
		gap, found, err := s.gapBelow(ctx, rd.Room, st.next, downTo)
		if err != nil {
			return st, err
		}
		if !found {
			return rd.goOn(ctx, st, downTo, limit, f)
		}
		if st, err = rd.goOn(ctx, st, gap, limit, f); err != nil || !st.whole || !f.PassesRoom(rd.Room.ID) {
			return st, err
		}
		st.next, st.whole = gap, false
		if len(st.events) == limit || round == pastRounds {
			return st, nil
		}
		if s.fill(asking, rd.Room, gap) {
			continue
		}
		if len(st.events) > 0 || asking.Err() != nil {
			return st, ctx.Err()
		}
		return s.passOver(ctx, rd, st, gap, downTo, limit, f)
	}
}

// passOver reads on behind a gap that nobody can fill now. When nothing is behind it, that is not the end.
func (s *Service) passOver(ctx context.Context, rd *reader, st stretch, gap, downTo int64, limit int, f *filter.RoomEventFilter) (stretch, error) {
	next, found, err := s.gapBelow(ctx, rd.Room, gap-1, downTo)
	if err != nil {
		return st, err
	}
	if !found {
		next = downTo
	}
	st, err = rd.goOn(ctx, st, next, limit, f)
	switch {
	case err != nil || !st.whole:
	case found:
		st.next, st.whole = next, false
	case len(st.events) == 0:
		st.next, st.whole = gap, false
	}
	return st, err
}

// goOn adds to a stretch what comes before it, down to a place.
func (rd *reader) goOn(ctx context.Context, st stretch, downTo int64, limit int, f *filter.RoomEventFilter) (stretch, error) {
	more, err := rd.backwards(ctx, st.next, downTo, limit-len(st.events), f)
	more.events = append(st.events, more.events...)
	return more, err
}

// onwards is history in the other direction: it collects what forwards does, and asks for what is missing on the way.
// What is missing before everything that is here is not on the way.
func (s *Service) onwards(ctx context.Context, rd *reader, from, upTo int64, limit int, f *filter.RoomEventFilter) (stretch, error) {
	asking, cancel := context.WithTimeout(ctx, pastTime)
	defer cancel()
	st := stretch{next: from}
	if from == firstPlace {
		first, err := rd.Room.HistoryForwards(ctx, from, upTo, 1)
		if err != nil || len(first) == 0 {
			return stretch{next: from, whole: true}, err
		}
		st.next = first[0].Ord
	}
	for round := 0; ; round++ {
		gap, found, err := s.gapAbove(ctx, rd.Room, st.next, upTo)
		if err != nil {
			return st, err
		}
		if !found {
			return rd.comeOn(ctx, st, upTo, limit, f)
		}
		if st, err = rd.comeOn(ctx, st, gap, limit, f); err != nil || !st.whole || !f.PassesRoom(rd.Room.ID) {
			return st, err
		}
		st.whole = false
		switch {
		case len(st.events) == limit || round == pastRounds:
			return st, nil
		case s.fill(asking, rd.Room, gap):
		case len(st.events) > 0 || asking.Err() != nil:
			return st, ctx.Err()
		default:
			st.next = gap // nobody can tell what is missing
		}
	}
}

// comeOn adds to a stretch what comes behind it, up to a place.
func (rd *reader) comeOn(ctx context.Context, st stretch, upTo int64, limit int, f *filter.RoomEventFilter) (stretch, error) {
	more, err := rd.forwards(ctx, st.next, upTo, limit-len(st.events), f)
	more.events = append(st.events, more.events...)
	return more, err
}

// gapAbove returns the place of the oldest gap in a room's history behind a place and before upTo.
func (s *Service) gapAbove(ctx context.Context, r *roomstate.Room, from, upTo int64) (place int64, found bool, err error) {
	if s.Remote == nil {
		return 0, false, nil
	}
	var gap storage.Gap
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		gap, err = tx.NextGap(r.Num, from, upTo)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return 0, false, nil
	}
	return gap.Ord, err == nil, err
}

// gapBelow returns the place of the newest gap in a room's history at or before a place and not before downTo: what
// comes right before the event there is not known.
func (s *Service) gapBelow(ctx context.Context, r *roomstate.Room, from, downTo int64) (place int64, found bool, err error) {
	if s.Remote == nil {
		return 0, false, nil
	}
	var gaps []storage.Gap
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		gaps, err = tx.Gaps(r.Num, from, downTo-1, 1)
		return err
	})
	if err != nil || len(gaps) == 0 {
		return 0, false, err
	}
	return gaps[0].Ord, true, nil
}

// fill asks other servers for what comes before the event at a place, one request for a room at a time, and reports
// whether something of it is here now. It ends with ctx.
func (s *Service) fill(ctx context.Context, r *roomstate.Room, at int64) bool {
	if !r.HasServer(s.ServerName) || s.unfilled.lately(r.ID, at, s.Now()) {
		return false
	}
	leave, err := s.pasts.enter(ctx, r.ID)
	if err != nil {
		return false
	}
	defer leave()
	missing, err := s.missingAt(ctx, r, at)
	if err != nil || len(missing) == 0 {
		return err == nil // somebody was faster
	}
	servers, err := s.whoWasThere(ctx, r, at)
	if err != nil {
		return false
	}
	if s.askForPast(ctx, r, servers, missing, at) {
		return true
	}
	if !errors.Is(ctx.Err(), context.Canceled) { // then nobody was asked to the end
		s.unfilled.note(r.ID, at, s.Now())
	}
	return false
}

// missingAt returns the ids of the events that are missing right before the one at a place.
func (s *Service) missingAt(ctx context.Context, r *roomstate.Room, at int64) (ids []id.EventID, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		gaps, err := tx.Gaps(r.Num, at, at-1, pastEvents)
		for _, g := range gaps {
			ids = append(ids, g.Missing)
		}
		return err
	})
	return ids, err
}

// askForPast asks one server after the other, until something that is missing has come.
func (s *Service) askForPast(ctx context.Context, r *roomstate.Room, servers []id.ServerName, missing []id.EventID, at int64) bool {
	for _, server := range servers {
		if ctx.Err() != nil {
			return false
		}
		pdus, err := s.askBackfill(ctx, server, r.ID, missing)
		if err != nil {
			s.Log.DebugContext(ctx, "no history", slog.String("server", string(server)), slog.String("room", string(r.ID)), slog.Any("reason", err))
			continue
		}
		if pdus, err = ofGap(ctx, r, pdus, missing); err != nil {
			return false
		}
		s.ReceivePast(ctx, server, r.ID, pdus, at)
		left, err := s.missingAt(ctx, r, at)
		if err == nil && len(left) < len(missing) {
			return true
		}
	}
	return false
}

func (s *Service) askBackfill(ctx context.Context, server id.ServerName, room id.RoomID, from []id.EventID) ([]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	pdus, err := s.Remote.Backfill(ctx, server, room, from, pastEvents)
	return pdus[:min(len(pdus), pastEvents)], err
}

// ofGap leaves out of an answer what only comes before an event that is here already: it belongs to another gap, or it
// would stand on the wrong side of that event. What cannot be read stays, to be refused with its reason.
func ofGap(ctx context.Context, r *roomstate.Room, pdus []json.RawMessage, missing []id.EventID) ([]json.RawMessage, error) {
	prev := map[id.EventID][]id.EventID{}
	ids := make([]id.EventID, len(pdus))
	for i, raw := range pdus {
		if ev, err := event.ParseBackfilled(r.Rules, raw); err == nil {
			ids[i], prev[ev.ID] = ev.ID, ev.PrevEvents
		}
	}
	stored, err := r.StoredByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	here := map[id.EventID]bool{}
	var before []id.EventID
	for _, e := range stored {
		if !e.Flagged(storage.Outlier) {
			here[e.ID] = true
			before = append(before, e.PrevEvents...)
		}
	}
	inside, beyond := reached(missing, prev, here), reached(before, prev, nil)
	var list []json.RawMessage
	for i, raw := range pdus {
		if ids[i] == "" || !here[ids[i]] && (inside[ids[i]] || !beyond[ids[i]]) {
			list = append(list, raw)
		}
	}
	return list, nil
}

// reached are the events to which prev leads from some, these included, without those of stop and what only they lead to.
func reached(from []id.EventID, prev map[id.EventID][]id.EventID, stop map[id.EventID]bool) map[id.EventID]bool {
	found := map[id.EventID]bool{}
	for ahead := slices.Clone(from); len(ahead) > 0; {
		eventID := ahead[len(ahead)-1]
		ahead = ahead[:len(ahead)-1]
		if !found[eventID] && !stop[eventID] {
			found[eventID] = true
			ahead = append(ahead, prev[eventID]...)
		}
	}
	return found
}

// whoWasThere returns other servers that are in the room and likely to know what came before the event at a place: its
// sender's, then those that had users in the room longest by then, then any.
func (s *Service) whoWasThere(ctx context.Context, r *roomstate.Room, at int64) ([]id.ServerName, error) {
	var list []id.ServerName
	add := func(server id.ServerName) {
		if server != s.ServerName && r.HasServer(server) && !slices.Contains(list, server) {
			list = append(list, server)
		}
	}
	events, err := r.Past(ctx, at+1, 1)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		add(e.Sender.Server())
		err := r.StateKeys(ctx, e.Before, func(k roomstate.Key, _ storage.Pos) {
			if k.Type == "m.room.member" && len(list) < pastServers {
				add(id.UserID(k.StateKey).Server())
			}
		})
		if err != nil {
			return nil, err
		}
	}
	rest := r.Servers()
	slices.Sort(rest)
	for _, server := range rest {
		add(server)
	}
	return s.allowedOf(ctx, r, list)
}

// allowedOf leaves out those servers that the room keeps out, and what is too many.
func (s *Service) allowedOf(ctx context.Context, r *roomstate.Room, servers []id.ServerName) ([]id.ServerName, error) {
	acl, err := r.StateEvent(ctx, r.View().State, "m.room.server_acl", "")
	if err != nil {
		return nil, err
	}
	rules := eventauth.ReadACL(eventOf(acl))
	servers = slices.DeleteFunc(servers, func(server id.ServerName) bool { return !rules.Allows(server) })
	return servers[:min(len(servers), pastServers)], nil
}

// unfilled remembers for a while which gaps nobody could fill. The zero value is ready.
type unfilled struct {
	mu sync.Mutex // guards tried
	// tried is until when each is left alone.
	tried map[gapPlace]time.Time
}

type gapPlace struct {
	room id.RoomID
	at   int64
}

// maxUnfilled is how many gaps are remembered; with more, all are tried again.
const maxUnfilled = 10_000

func (u *unfilled) lately(room id.RoomID, at int64, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.tried[gapPlace{room, at}])
}

func (u *unfilled) note(room id.RoomID, at int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tried == nil || len(u.tried) >= maxUnfilled {
		u.tried = map[gapPlace]time.Time{}
	}
	u.tried[gapPlace{room, at}] = now.Add(pastPause)
}
