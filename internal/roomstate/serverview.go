package roomstate

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// ServerViewer reads the events of one room for another server, which may have what one of its users could read: it
// is the Viewer of a server. It is used by one goroutine, for one request.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-history-visibility
type ServerViewer struct {
	Room   *Room
	Server id.ServerName

	state       Root  // the room's current state
	joinedUntil int64 // a place in the history: one of its users was in the room at some time up to it
	before      map[Root]eventauth.ServerViewing
	users       []int64 // the numbers of its users' memberships; found when they are asked for first
	found       bool    // users is set
	any         map[anyUser]bool
	err         error // of asking for a user, where none can be returned
}

// anyUser asks whether a user of the server has a membership in a state.
type anyUser struct {
	root       Root
	membership string
}

// ServerViewer returns a reader of the room as it is now.
func (r *Room) ServerViewer(ctx context.Context, server id.ServerName) (*ServerViewer, error) {
	v := &ServerViewer{
		Room: r, Server: server, state: r.View().State,
		before: map[Root]eventauth.ServerViewing{}, any: map[anyUser]bool{},
	}
	if err := r.cache.users.loadErased(ctx); err != nil {
		return nil, err
	}
	return v, v.findJoined(ctx)
}

// findJoined finds out until when one of the server's users was in the room.
func (v *ServerViewer) findJoined(ctx context.Context) error {
	if v.joinedUntil = math.MaxInt64; v.Room.HasServer(v.Server) {
		return nil
	}
	v.joinedUntil = math.MinInt64
	left, err := v.members(ctx)
	if err != nil {
		return err
	}
	for _, e := range left { // whoever left last, if they were in the room at all
		if e.Ord <= v.joinedUntil {
			return nil
		}
		until, err := v.Room.joinedUntil(ctx, v.state, id.UserID(*e.StateKey))
		if err != nil {
			return err
		}
		v.joinedUntil = max(v.joinedUntil, until)
	}
	return nil
}

// members are the current member events of the server's users, newest first.
func (v *ServerViewer) members(ctx context.Context) ([]*Event, error) {
	var positions []storage.Pos
	v.Room.Members(func(m Member) bool {
		if m.User.Server() == v.Server {
			positions = append(positions, m.Pos)
		}
		return true
	})
	list, err := v.Room.EventsAt(ctx, positions)
	slices.SortFunc(list, func(a, b *Event) int { return cmp.Compare(b.Ord, a.Ord) })
	return list, err
}

// In reports whether the server has users in the room now.
func (v *ServerViewer) In() bool { return v.joinedUntil == math.MaxInt64 }

// EverIn reports whether the server ever had users in the room.
func (v *ServerViewer) EverIn() bool { return v.joinedUntil != math.MinInt64 }

// See decides whether the server may have an event as it is, but for erased senders: see Append. Of an outlier nobody
// knows what was before it: those that are state are for the servers in the room, whose states refer to them.
func (v *ServerViewer) See(ctx context.Context, e *Event) (bool, error) {
	if e.Flagged(storage.Outlier) {
		return v.In() && e.StateKey != nil, nil
	}
	before, err := v.viewing(ctx, e.Before)
	if err != nil {
		return false, err
	}
	seen := eventauth.MayServerRead(e.Event, before, e.Ord < v.joinedUntil, v.Server)
	if v.err != nil || seen || !v.In() || e.StateKey == nil {
		return seen, v.err
	}
	// The current state is for everybody in the room, however old it is.
	pos, err := v.Room.StatePos(ctx, v.state, e.Type, *e.StateKey)
	return pos == e.Pos, err
}

// Append appends an event as servers exchange it: redacted unless it is seen whole, and of users who asked to be
// forgotten always.
func (v *ServerViewer) Append(dst []byte, e *Event, whole bool) ([]byte, error) {
	if whole && !v.Room.cache.users.isErased(e.Sender) {
		return append(dst, e.JSON...), nil
	}
	redacted, err := e.Redacted()
	if err != nil {
		return dst, err
	}
	return append(dst, redacted.JSON...), nil
}

// Prepare reads in a few queries what is needed to decide about these events. It is never necessary.
func (v *ServerViewer) Prepare(ctx context.Context, events []*Event) error {
	var roots []Root
	for _, e := range events {
		if _, known := v.before[e.Before]; !known && !slices.Contains(roots, e.Before) {
			roots = append(roots, e.Before)
		}
	}
	visibilities, err := v.Room.entries(ctx, roots, Key{"m.room.history_visibility", ""})
	if err != nil {
		return err
	}
	for i, root := range roots {
		v.note(ctx, root, visibilities[i])
	}
	return nil
}

// viewing is what counts for visibility of the state with a root.
func (v *ServerViewer) viewing(ctx context.Context, root Root) (eventauth.ServerViewing, error) {
	if b, ok := v.before[root]; ok {
		return b, nil
	}
	visibility, err := v.Room.StateEvent(ctx, root, "m.room.history_visibility", "")
	if err != nil {
		return eventauth.ServerViewing{}, err
	}
	return v.note(ctx, root, visibility), nil
}

func (v *ServerViewer) note(ctx context.Context, root Root, visibility *Event) eventauth.ServerViewing {
	b := eventauth.ServerViewing{
		Visibility: eventauth.VisibilityOf(inner(visibility)),
		AnyUser:    func(membership string) bool { return v.anyUser(ctx, anyUser{root, membership}) },
	}
	v.before[root] = b
	return b
}

// usersAtOnce is how many of a server's users are looked at together.
const usersAtOnce = 256

// anyUser looks through the memberships of the server's users in a state.
func (v *ServerViewer) anyUser(ctx context.Context, asked anyUser) bool {
	found, known := v.any[asked]
	if known || v.err != nil {
		return found
	}
	for users := range slices.Chunk(v.numbers(), usersAtOnce) {
		memberships, err := v.memberships(ctx, asked.root, users)
		v.err = errors.Join(v.err, err)
		if found = slices.Contains(memberships, asked.membership); found || err != nil {
			break
		}
	}
	v.any[asked] = found
	return found
}

func (v *ServerViewer) memberships(ctx context.Context, root Root, users []int64) ([]string, error) {
	asked := make([]lookup, len(users))
	for i, number := range users {
		asked[i] = lookup{root, number}
	}
	positions, err := v.Room.cache.trees.getMany(ctx, asked)
	if err != nil {
		return nil, err
	}
	events, err := v.Room.eventsAmong(ctx, positions)
	memberships := make([]string, len(events))
	for i, e := range events {
		memberships[i] = membershipOf(e)
	}
	return memberships, err
}

// numbers are those of the memberships that the server's users ever had.
func (v *ServerViewer) numbers() []int64 {
	if v.found {
		return v.users
	}
	v.found = true
	v.Room.mu.RLock()
	defer v.Room.mu.RUnlock()
	for n, k := range v.Room.keys {
		if k.Type == "m.room.member" && id.UserID(k.StateKey).Server() == v.Server {
			v.users = append(v.users, int64(n))
		}
	}
	return v.users
}
