package rooms

import (
	"context"
	"errors"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// threadRoot returns the caller as a reader of a room, and the event of it that is the root of a thread, or could be.
func (s *Service) threadRoot(ctx context.Context, c *httpapi.Call) (*reader, *roomstate.Event, error) {
	rd, err := s.reader(ctx, c)
	if errors.Is(err, mxerr.Forbidden) {
		return nil, nil, unknownEvent()
	}
	if err != nil {
		return nil, nil, err
	}
	root, err := rd.event(ctx, c.EventID("eventId"))
	return rd, root, err
}

type threadSubscription struct {
	Automatic bool `json:"automatic"`
}

// getThreadSubscription implements GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4306
func (s *Service) getThreadSubscription(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*threadSubscription, error) {
	rd, root, err := s.threadRoot(ctx, c)
	if err != nil {
		return nil, err
	}
	var now storage.Subscription
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		now, err = tx.Subscription(c.User, rd.Room.Num, root.ID)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) || err == nil && !now.Subscribed {
		return nil, mxerr.NotFound.With("you have not subscribed to this thread")
	}
	return &threadSubscription{now.Automatic}, err
}

type subscribeBody struct {
	Automatic *string `json:"automatic"` // the event because of which the client subscribes by itself
}

// subscribeToThread implements PUT /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4306
func (s *Service) subscribeToThread(ctx context.Context, c *httpapi.Call, in *subscribeBody) (*httpapi.Empty, error) {
	rd, root, err := s.threadRoot(ctx, c)
	if err != nil {
		return nil, err
	}
	var cause *roomstate.Event
	if in.Automatic != nil {
		if cause, err = rd.causeIn(ctx, root, *in.Automatic); err != nil {
			return nil, err
		}
	}
	return &httpapi.Empty{}, s.changeSubscription(ctx, rd, root, func(now *storage.Subscription, _ storage.Pos) (bool, error) {
		return subscribe(now, cause)
	})
}

// causeIn returns an event of a thread because of which a client subscribes to it.
func (rd *reader) causeIn(ctx context.Context, root *roomstate.Event, text string) (*roomstate.Event, error) {
	eventID, err := id.ParseEventID(text)
	if err != nil {
		return nil, mxerr.InvalidParam.With("automatic is no event id")
	}
	cause, err := rd.event(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if relType, parent := cause.Relation(); relType != "m.thread" || parent != root.ID {
		return nil, &mxerr.Error{Code: "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", Status: 400, Message: "the event is not in this thread"}
	}
	return cause, nil
}

// subscribe subscribes by hand, without a cause, or because of an event: then what the user chose by hand stays, and whoever
// has unsubscribed does not subscribe because of an older one. changed is false when all stays as it was.
func subscribe(now *storage.Subscription, cause *roomstate.Event) (changed bool, err error) {
	switch {
	case cause == nil:
		changed = !now.Subscribed || now.Automatic
		now.Subscribed, now.Automatic = true, false
		return changed, nil
	case now.Subscribed:
		return false, nil
	case cause.Ord <= now.Until:
		return false, &mxerr.Error{
			Code: "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", Status: 409, Message: "you have unsubscribed since that event",
		}
	}
	now.Subscribed, now.Automatic = true, true
	return true, nil
}

// unsubscribeFromThread implements DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4306
func (s *Service) unsubscribeFromThread(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	rd, root, err := s.threadRoot(ctx, c)
	if err != nil {
		return nil, err
	}
	return &httpapi.Empty{}, s.changeSubscription(ctx, rd, root, func(now *storage.Subscription, pos storage.Pos) (bool, error) {
		changed := now.Subscribed
		now.Subscribed, now.Automatic, now.Until = false, false, roomstate.OrdAfter(pos)-1
		return changed, nil
	})
}

// changeSubscription changes what a user wants to hear of a thread, at a position. change reports whether there is a change.
func (s *Service) changeSubscription(ctx context.Context, rd *reader, root *roomstate.Event,
	change func(now *storage.Subscription, pos storage.Pos) (bool, error),
) error {
	return s.DB.Write(ctx, func(tx *storage.Tx, pos storage.Pos) error {
		now, err := tx.Subscription(rd.User, rd.Room.Num, root.ID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if errors.Is(err, storage.ErrNotFound) {
			now = storage.Subscription{Root: root.ID, Until: firstPlace}
		}
		changed, err := change(&now, pos)
		if err != nil || !changed {
			return err
		}
		now.Pos = pos
		return tx.PutSubscription(rd.User, rd.Room.Num, &now)
	})
}

// How many subscriptions an answer has.
const (
	defaultSubscriptions = 100
	maxSubscriptions     = 512
)

// subscriptionList has threads by room and root.
type subscriptionList struct {
	Subscribed   map[id.RoomID]map[id.EventID]subscribedThread   `json:"subscribed,omitempty"`
	Unsubscribed map[id.RoomID]map[id.EventID]unsubscribedThread `json:"unsubscribed,omitempty"`
	End          string                                          `json:"end,omitempty"`
}

type subscribedThread struct {
	Automatic bool        `json:"automatic"`
	Bump      storage.Pos `json:"bump_stamp"`
}

type unsubscribedThread struct {
	Bump storage.Pos `json:"bump_stamp"`
}

// listThreadSubscriptions implements GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions.
//
// https://github.com/matrix-org/matrix-spec-proposals/pull/4308
func (s *Service) listThreadSubscriptions(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*subscriptionList, error) {
	after, upTo, limit, err := s.subscriptionPage(c)
	if err != nil {
		return nil, err
	}
	var list []storage.Subscription
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.Subscriptions(c.User, after, upTo, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &subscriptionList{}
	for i := range list {
		out.add(&list[i])
	}
	if len(list) == limit {
		out.End = token.Stream{Pos: list[limit-1].Pos - 1, Boot: s.Typing.Boot}.String()
	}
	return out, nil
}

// subscriptionPage reads between which positions, the first excluded, subscriptions are asked for, and how many.
func (s *Service) subscriptionPage(c *httpapi.Call) (after, upTo storage.Pos, limit int, err error) {
	if c.Query("dir") != "b" {
		return 0, 0, 0, mxerr.InvalidParam.With("dir is b")
	}
	if limit, err = c.Int("limit", defaultSubscriptions); err != nil || limit < 1 {
		return 0, 0, 0, mxerr.InvalidParam.With("limit has to be greater than zero")
	}
	upTo = s.DB.Published()
	for name, pos := range map[string]*storage.Pos{"from": &upTo, "to": &after} {
		text := c.Query(name)
		if text == "" {
			continue
		}
		st, err := token.ParseStream(text)
		if err != nil {
			return 0, 0, 0, mxerr.InvalidParam.With("%q is no token of this server", text)
		}
		*pos = st.Pos
	}
	return after, upTo, min(limit, maxSubscriptions), nil
}

func (l *subscriptionList) add(s *storage.Subscription) {
	if s.Subscribed {
		put(&l.Subscribed, s, subscribedThread{s.Automatic, s.Pos})
	} else {
		put(&l.Unsubscribed, s, unsubscribedThread{s.Pos})
	}
}

func put[T any](list *map[id.RoomID]map[id.EventID]T, s *storage.Subscription, t T) {
	if *list == nil {
		*list = map[id.RoomID]map[id.EventID]T{}
	}
	if (*list)[s.Room] == nil {
		(*list)[s.Room] = map[id.EventID]T{}
	}
	(*list)[s.Room][s.Root] = t
}
