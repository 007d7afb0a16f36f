package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
)

// Remote is what rooms ask of other servers. Its methods may be called at once. What they return was received and
// nothing more: whatever is in it is checked here. They end with their context.
//
// Spec: https://spec.matrix.org/latest/server-server-api/
type Remote interface {
	RemoteMembership // see remote_membership.go; a test's Remote may embed a nil one
	RemoteDirectory  // see public_rooms.go; likewise

	// VerifyEvents checks the signatures that each event needs (check 2) and returns one result for each, in order.
	VerifyEvents(ctx context.Context, events []*event.Event) []error

	// MissingEvents asks for events between earliest and latest, both excluded.
	MissingEvents(ctx context.Context, server id.ServerName, room id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]json.RawMessage, error)

	// Event asks for one event.
	Event(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) (json.RawMessage, error)

	// EventAuth asks for the auth chain of an event.
	EventAuth(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) ([]json.RawMessage, error)

	// StateIDs asks for the state before an event, and its auth chain, as ids.
	StateIDs(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) (state, auth []id.EventID, err error)

	// State is StateIDs with the events themselves.
	State(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) (state, auth []json.RawMessage, err error)

	// Backfill asks for at most limit events that precede some events, those included.
	Backfill(ctx context.Context, server id.ServerName, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error)
}

// What one gap may cost, whatever the other server answers.
const (
	maxAsked  = 20 // requests
	gapTime   = 45 * time.Second
	maxAnswer = 200_000 // events or ids of one answer; those beyond it are left out
)

var errAsked = errors.New("rooms: another server was asked often enough")

// inquiry is what one server is asked about a room because of one gap. Its methods may be called at once.
type inquiry struct {
	Remote
	server id.ServerName
	room   id.RoomID
	asked  atomic.Int32
}

// ask counts a request; an error when there were too many.
func (q *inquiry) ask() error {
	if q.asked.Add(1) > maxAsked {
		return errAsked
	}
	return nil
}

// left is how many requests there may be yet.
func (q *inquiry) left() int { return max(0, maxAsked-int(q.asked.Load())) }

func (q *inquiry) missing(ctx context.Context, earliest, latest []id.EventID) ([]json.RawMessage, error) {
	if err := q.ask(); err != nil {
		return nil, err
	}
	// Depths are what others say, so that none of them can bound the answer.
	list, err := q.MissingEvents(ctx, q.server, q.room, earliest, latest, maxMissing, 0)
	return list[:min(len(list), maxMissing)], err
}

func (q *inquiry) event(ctx context.Context, eventID id.EventID) (json.RawMessage, error) {
	if err := q.ask(); err != nil {
		return nil, err
	}
	return q.Event(ctx, q.server, q.room, eventID)
}

func (q *inquiry) eventAuth(ctx context.Context, eventID id.EventID) ([]json.RawMessage, error) {
	if err := q.ask(); err != nil {
		return nil, err
	}
	list, err := q.EventAuth(ctx, q.server, q.room, eventID)
	return bounded(list), err
}

func (q *inquiry) stateIDs(ctx context.Context, eventID id.EventID) (state, auth []id.EventID, err error) {
	if err := q.ask(); err != nil {
		return nil, nil, err
	}
	state, auth, err = q.StateIDs(ctx, q.server, q.room, eventID)
	return bounded(state), bounded(auth), err
}

func (q *inquiry) state(ctx context.Context, eventID id.EventID) (state, auth []json.RawMessage, err error) {
	if err := q.ask(); err != nil {
		return nil, nil, err
	}
	state, auth, err = q.State(ctx, q.server, q.room, eventID)
	return bounded(state), bounded(auth), err
}

func bounded[T any](list []T) []T { return list[:min(len(list), maxAnswer)] }

// lanes let one at a time ask other servers about a room; who asks about another room does not wait. The zero value
// is ready. It holds as many rooms as somebody asks about now.
type lanes struct {
	mu    sync.Mutex // guards rooms
	rooms map[id.RoomID]*lane
}

type lane struct {
	turn  chan struct{} // capacity 1: the right to ask
	users int           // who has it or waits for it; guarded by lanes.mu
}

// enter waits for the right to ask about a room; leave gives it back.
func (l *lanes) enter(ctx context.Context, room id.RoomID) (leave func(), err error) {
	la := l.join(room)
	select {
	case la.turn <- struct{}{}:
		return func() { <-la.turn; l.part(room, la) }, nil
	case <-ctx.Done():
		l.part(room, la)
		return nil, fmt.Errorf("wait for others who ask about %s: %w", room, ctx.Err())
	}
}

func (l *lanes) join(room id.RoomID) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rooms == nil {
		l.rooms = map[id.RoomID]*lane{}
	}
	la := l.rooms[room]
	if la == nil {
		la = &lane{turn: make(chan struct{}, 1)}
		l.rooms[room] = la
	}
	la.users++
	return la
}

func (l *lanes) part(room id.RoomID, la *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if la.users--; la.users == 0 {
		delete(l.rooms, room)
	}
}
