package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// stickyParameter is for how many milliseconds an event is to be sticky.
const stickyParameter = "org.matrix.msc4354.sticky_duration_ms"

// stickiness reads for how long the event of a request is to be sticky; 0 is not at all. What is longer than an event may
// be sticky counts as that.
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
func stickiness(c *httpapi.Call) (time.Duration, error) {
	ms, err := c.Int64(stickyParameter, 0)
	if err == nil && ms < 0 {
		err = mxerr.InvalidParam.With("%s is negative", stickyParameter)
	}
	return time.Duration(min(ms, event.MaxSticky.Milliseconds())) * time.Millisecond, err
}

// arrival is a server that has come into a room with sticky events.
type arrival struct {
	room   *roomstate.Room
	server id.ServerName
	at     time.Time // when it is sent them
	again  bool      // it was sent them before
}

// A server that has just joined may not know the room yet, and then it drops what it is sent. So it is sent what is sticky
// twice: soon, and when the largest room ought to be known. What it has it does not take again.
const (
	greetSoon   = 500 * time.Millisecond
	greetAgain  = 20 * time.Second
	maxArrivals = 10_000 // servers that wait at a time
)

// arrived has a server that comes into a room be sent what is sticky there. It does not wait.
func (sc *schedule) arrived(room *roomstate.Room, server id.ServerName) {
	if sc.Peers == nil {
		return
	}
	sc.expect(arrival{room: room, server: server, at: time.Now().Add(greetSoon)})
	sc.look()
}

func (sc *schedule) expect(a arrival) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if len(sc.arrivals) < maxArrivals {
		sc.arrivals = append(sc.arrivals, a)
	}
}

// greetings returns who is to be sent something now, and when somebody is next; zero for nobody.
func (sc *schedule) greetings(now time.Time) (due []arrival, next time.Time) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.arrivals = slices.DeleteFunc(sc.arrivals, func(a arrival) bool {
		if !a.at.After(now) {
			due = append(due, a)
			return true
		}
		if next.IsZero() || a.at.Before(next) {
			next = a.at
		}
		return false
	})
	return due, next
}

// greet sends those that have arrived what is sticky: "When a new server joins the room, servers MUST attempt delivery of
// all of their own sticky events to it." It returns how long there is nobody.
func (sc *schedule) greet(ctx context.Context) time.Duration {
	now := time.Now()
	due, _ := sc.greetings(now)
	for _, a := range due {
		if err := sc.sendSticky(ctx, a); err != nil {
			sc.complain(ctx, "send what is sticky", err)
		}
		if !a.again {
			sc.expect(arrival{a.room, a.server, now.Add(greetAgain), true})
		}
	}
	_, next := sc.greetings(now)
	if next.IsZero() {
		return idleSchedule
	}
	return max(time.Until(next), time.Millisecond)
}

// sendSticky queues the sticky events of this server's users in a room for another server.
func (s *Service) sendSticky(ctx context.Context, a arrival) error {
	events, err := a.room.Sticky(ctx, 0, s.DB.Published(), s.Now())
	if err != nil {
		return err
	}
	var own []storage.Pos
	for _, e := range events {
		if s.local(e.Sender) && e.Flags == storage.InTimeline {
			own = append(own, e.Pos)
		}
	}
	if len(own) == 0 {
		return nil
	}
	set, err := json.Marshal([]id.ServerName{a.server})
	if err != nil {
		return err
	}
	act := &storage.Act{Positions: len(own)}
	act.Place = func(act *storage.Act, first storage.Pos) {
		act.Add(storage.InsertServerSet, first, set)
		for i, pos := range own {
			act.Add(storage.InsertOutgoing, first+storage.Pos(i), a.room.Num, pos, first)
		}
	}
	act.Announced = func(storage.Pos) { s.Cache.WakeSender(a.server) }
	s.DB.Queue(act)
	return act.Wait(ctx)
}

// sweep forgets now and then what is sticky no longer.
func (sc *schedule) sweep(ctx context.Context) {
	now := sc.Now()
	if now.Sub(sc.swept) < idleSchedule {
		return
	}
	sc.swept = now
	if !sc.Cache.ForgetSticky(now) {
		return
	}
	act := &storage.Act{Do: func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteStickyBefore(now.UnixMilli()) }}
	sc.DB.Queue(act)
	if err := act.Wait(ctx); err != nil {
		sc.complain(ctx, "forget what is sticky no longer", err)
	}
}
