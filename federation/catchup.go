package federation

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	shortOutage = time.Minute // after which a server still gets everything

	setsOutlast    = 1 << 21 // positions after which a set that nothing names is forgotten; roomstate writes one again that is half as old
	pruneAtOnce    = 5000    // rows deleted in one act
	maxMissedRooms = 10_000  // superseded at once
)

// supersede lets a destination that was away for long have the newest event of each room instead of all of them: it
// asks for those in between itself, if anybody there wants to see them. So little is kept for servers that are gone.
func (s *Sender) supersede(ctx context.Context, d *destination) error {
	away := s.away(d)
	if away < shortOutage {
		return nil
	}
	if d.txn != nil && !d.txn.durable() && s.cfg.Now().Sub(time.UnixMilli(d.txn.TS)) > ephemeralPatient {
		d.txn = nil
	}
	newest, count, past, err := s.missed(ctx, d)
	switch {
	case err != nil:
		return err
	case count == 0: // all of it is for others: it is not to be kept for this one
		d.unsaved = d.unsaved || past > d.row.Past
		d.row.Past = past
		return nil
	case !d.catchUp && away < s.cfg.CatchUpAfter && count <= s.cfg.CatchUpRows:
		return nil
	}
	row := d.row
	row.Past = past
	if err := s.replace(ctx, row, newest); err != nil {
		return err
	}
	d.row, d.catchUp, d.unsaved = row, true, false
	return nil
}

// missed returns what is to be sent to a destination: the newest of each room, the count of all, and up to where it has
// looked, which is less than everything when there are very many rooms.
func (s *Sender) missed(ctx context.Context, d *destination) (map[int64]storage.Outgoing, int, storage.Pos, error) {
	newest, count := map[int64]storage.Outgoing{}, 0
	past, err := s.journal.each(ctx, d.name, d.row.Past, func(o storage.Outgoing) bool {
		newest[o.Room] = o
		count++
		return len(newest) < maxMissedRooms
	})
	return newest, count, past, err
}

// replace stores what a destination has to catch up with, and that it is past what that stands for.
func (s *Sender) replace(ctx context.Context, row storage.Destination, newest map[int64]storage.Outgoing) error {
	act := &storage.Act{}
	for _, o := range newest {
		act.Add(storage.UpsertCatchUp, string(row.Server), o.Room, o.At, o.Pos)
	}
	act.Add(storage.UpsertDestination, row.Row()...)
	s.cfg.DB.Queue(act)
	return act.Wait(ctx)
}

// addCatchUp adds what a destination has to catch up with, oldest first. When that is nothing any more, it goes on with
// what is new.
func (s *Sender) addCatchUp(ctx context.Context, d *destination, t *sending, left int) (int, error) {
	var list []storage.CatchUp
	err := s.cfg.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.CatchUp(d.name, maxSentPDUs)
		return err
	})
	if err != nil || len(list) == 0 {
		d.catchUp = err != nil
		return left, err
	}
	positions := make([]storage.Pos, len(list))
	for i, c := range list {
		positions[i] = c.Pos
	}
	n, left, err := s.addPDUs(ctx, t, positions, left)
	if err != nil {
		return left, err
	}
	if len(t.PDUs) == 0 { // none of these events is here any more
		if err := s.caughtUp(ctx, d.row, list[n-1].At); err != nil {
			return left, err
		}
		return s.addCatchUp(ctx, d, t, left)
	}
	t.CaughtUp = list[n-1].At
	return left, nil
}

// caughtUp stores that a transaction of mx_catch_up was answered.
func (s *Sender) caughtUp(ctx context.Context, row storage.Destination, upTo storage.Pos) error {
	act := &storage.Act{Do: func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteCatchUp(row.Server, upTo) }}
	act.Add(storage.UpsertDestination, row.Row()...)
	s.cfg.DB.Queue(act)
	return act.Wait(ctx)
}

// sweepLaterLocked sees to it that there will be a sweep, and another one if one is under way: that may have looked
// already.
func (s *Sender) sweepLaterLocked() {
	s.sweepAgain = true
	if s.running && !s.sweeping {
		s.sweeping = true
		s.sweeper.set(s.cfg.SweepEvery, s.tidy)
	}
}

// tidy sweeps, forgets what everybody has got, and comes again as long as anything is left.
func (s *Sender) tidy() {
	s.mu.Lock()
	s.sweepAgain = false
	s.mu.Unlock()
	err := s.sweep(s.ctx)
	left := true
	if err == nil {
		left, err = s.prune(s.ctx)
	}
	if err != nil && s.ctx.Err() == nil {
		s.cfg.Log.Error("the queue cannot be tidied up", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweeping = false
	if left || err != nil || s.sweepAgain {
		s.sweepLaterLocked()
	}
	s.dispatchLocked()
}

// sweep wakes whoever has not got everything that was committed since the last sweep: at the start what a process
// before this one has left, later what nobody was told of, as when the answer to a commit was lost.
func (s *Sender) sweep(ctx context.Context) error {
	newest, upTo, err := s.journal.newest(ctx)
	if err != nil {
		return err
	}
	numbers := slices.Collect(maps.Keys(newest))
	for part := range slices.Chunk(numbers, setsAtOnce) {
		sets, err := s.journal.serverSets(ctx, part)
		if err != nil {
			return err
		}
		for number, names := range sets {
			s.wakeBehind(names, newest[number])
		}
	}
	s.journal.swept(upTo)
	return nil
}

// wakeBehind wakes those of a set of servers that were not sent what is at a position, and nothing before it either.
func (s *Sender) wakeBehind(names []id.ServerName, at storage.Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if !s.sendsTo(name) {
			continue
		}
		if d := s.destinationLocked(name); d.past < at {
			s.wakeLocked(d)
		}
	}
}

// prune deletes what all servers are past, and reports whether anything is left.
func (s *Sender) prune(ctx context.Context) (left bool, err error) {
	upTo := s.slowest()
	for n := int64(pruneAtOnce); n == pruneAtOnce && err == nil; {
		err = s.write(ctx, func(tx *storage.Tx) (err error) {
			n, err = tx.DeleteOutgoing(upTo, pruneAtOnce)
			return err
		})
	}
	published := s.cfg.DB.Published()
	if err == nil && published > setsOutlast {
		err = s.write(ctx, func(tx *storage.Tx) error { return tx.DeleteServerSets(published - setsOutlast) })
	}
	return upTo < s.journal.end(), err
}

func (s *Sender) write(ctx context.Context, fn func(*storage.Tx) error) error {
	act := &storage.Act{Do: func(tx *storage.Tx, _ storage.Pos) error { return fn(tx) }}
	s.cfg.DB.Queue(act)
	return act.Wait(ctx)
}

// slowest is the position that every destination is past which has to get anything.
func (s *Sender) slowest() storage.Pos {
	s.mu.Lock()
	defer s.mu.Unlock()
	upTo := s.journal.sweptTo()
	for _, d := range s.destinations {
		if d.phase != idle {
			upTo = min(upTo, d.past)
		}
	}
	return upTo
}
