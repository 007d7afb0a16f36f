package rooms

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// How the schedule works.
const (
	dueAtOnce    = 100              // entries that are read at once
	retryDelayed = 30 * time.Second // until what could not be sent, or read, is tried again
	idleSchedule = time.Hour        // how long it sleeps at most; then it forgets what is sticky no longer
)

// schedule sends events when their time has come, and sticky ones to servers that come later. It has one goroutine and
// one timer, whatever is scheduled.
type schedule struct {
	*Service
	changed chan struct{} // capacity 1: something may be due sooner, or a server has arrived
	swept   time.Time     // when it forgot last what is sticky no longer

	mu       sync.Mutex // guards arrivals
	arrivals []arrival
	stop     context.CancelFunc
	ended    chan struct{} // closed when the goroutine has ended
}

func newSchedule(s *Service) *schedule { return &schedule{Service: s, changed: make(chan struct{}, 1)} }

// start begins with what became due while the server was away. It runs until close.
func (sc *schedule) start() {
	ctx, stop := context.WithCancel(context.Background())
	sc.stop, sc.ended = stop, make(chan struct{})
	if err := sc.Cache.LoadSticky(ctx); err != nil { // now: the first to ask has to find them
		sc.complain(ctx, "read which events are sticky", err)
	}
	go sc.run(ctx)
}

// close ends the schedule and awaits its end. What was not sent is still in storage.
func (sc *schedule) close() {
	if sc.stop == nil {
		return
	}
	sc.stop()
	<-sc.ended
}

// look has the schedule look for what is due next.
func (sc *schedule) look() {
	select {
	case sc.changed <- struct{}{}:
	default:
	}
}

func (sc *schedule) run(ctx context.Context) {
	defer close(sc.ended)
	for ctx.Err() == nil {
		sc.sweep(ctx)
		timer := time.NewTimer(min(sc.greet(ctx), sc.work(ctx)))
		select {
		case <-timer.C:
		case <-sc.changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// work sends everything that is due and returns how long there is nothing to do.
func (sc *schedule) work(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		due, pause, err := sc.next(ctx)
		if err != nil {
			sc.complain(ctx, "read the schedule", err)
			return retryDelayed
		}
		if len(due) == 0 {
			return pause
		}
		eachBeside(byRoom(due), func(list []storage.Delayed) { sc.send(ctx, list) })
	}
	return retryDelayed
}

// next returns what is due, or how long nothing is.
func (sc *schedule) next(ctx context.Context) (due []storage.Delayed, pause time.Duration, err error) {
	now, nextMS := sc.Now().UnixMilli(), int64(0)
	err = sc.DB.Read(ctx, func(tx *storage.Tx) error {
		if due, err = tx.DelayedUntil(now, dueAtOnce); err != nil || len(due) > 0 {
			return err
		}
		nextMS, err = tx.NextDue()
		return err
	})
	if pause = idleSchedule; nextMS != 0 {
		pause = min(pause, max(time.Duration(nextMS-now)*time.Millisecond, time.Millisecond))
	}
	return due, pause, err
}

// byRoom gathers the entries of each room, in their order.
func byRoom(due []storage.Delayed) [][]storage.Delayed {
	place := map[id.RoomID]int{}
	var lists [][]storage.Delayed
	for _, d := range due {
		i, known := place[d.Room]
		if !known {
			i, lists = len(lists), append(lists, nil)
			place[d.Room] = i
		}
		lists[i] = append(lists[i], d)
	}
	return lists
}

// send sends the entries of a room one after the other. One that cannot be sent now is put off, so that it keeps nobody
// waiting.
func (sc *schedule) send(ctx context.Context, list []storage.Delayed) {
	for i := range list {
		row := &list[i]
		err := sc.sendScheduled(ctx, row, false)
		switch {
		case err == nil || errors.Is(err, errNotScheduled):
		case ctx.Err() != nil:
			return
		case isFinal(err):
			sc.Log.InfoContext(ctx, "a delayed event was dropped", "room", row.Room, "sender", row.User, "type", row.Type, "error", err)
		default:
			sc.complain(ctx, "send a delayed event", err)
			sc.putOff(ctx, row)
		}
	}
}

func (sc *schedule) putOff(ctx context.Context, row *storage.Delayed) {
	err := sc.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		return tx.PutOffDelayed(row.ID, sc.Now().Add(retryDelayed).UnixMilli())
	})
	if err != nil {
		sc.complain(ctx, "put a delayed event off", err)
		sleep(ctx, retryDelayed)
	}
}

func (sc *schedule) complain(ctx context.Context, what string, err error) {
	if !errors.Is(err, storage.ErrClosed) && ctx.Err() == nil {
		sc.Log.ErrorContext(ctx, what, "error", err)
	}
}

// sleep waits for a time, or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
