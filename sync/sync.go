package syncing

import (
	"context"
	"errors"
	"time"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
)

// maxTimeout bounds how long a request waits for news.
const maxTimeout = 2 * time.Minute

// Request is what a device asks of Sync.
type Request struct {
	User   id.UserID
	Device id.DeviceID
	Filter *Filter // never nil

	// Since is where the device's last answer ended; nil asks for everything.
	Since *token.Stream

	// Timeout is how long to wait when nothing is new; at most maxTimeout.
	Timeout time.Duration

	// FullState asks for the whole state of every joined room, at once.
	FullState bool

	// StateAfter asks for the state at the end of timelines instead of their start.
	StateAfter bool

	// SetPresence is what the user is while the device syncs. Offline, or empty, leaves that unchanged.
	SetPresence ephemeral.State

	counted *keyCounts // what the device had left of keys when it began to wait; nil before

	// old asks for an answer of the old endpoints: the oldest events that the filter's limit lets in, so that the next one
	// goes on behind them, and nothing of what is for the device alone, which it does not acknowledge either.
	old bool
}

// Answer is the JSON of an answer.
type Answer struct {
	body    []byte
	next    token.Stream
	news    bool                      // there is something in it
	more    bool                      // and behind it already
	members map[memberKey]storage.Pos // the member events in it, for lazily loading devices
	counts  keyCounts
}

// Next is the token with which the device goes on.
func (a *Answer) Next() string { return a.next.String() }

// AppendJSON appends the answer to dst.
func (a *Answer) AppendJSON(dst []byte) []byte { return append(dst, a.body...) }

// sync implements GET /_matrix/client/v3/sync.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync
func (s *Service) sync(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*Answer, error) {
	q, err := s.request(ctx, c)
	if err != nil {
		return nil, err
	}
	if q.Timeout > 0 {
		c.ExtendDeadline(q.Timeout)
	}
	return s.Sync(ctx, q)
}

// request reads the parameters.
func (s *Service) request(ctx context.Context, c *httpapi.Call) (Request, error) {
	q := Request{User: c.User, Device: c.Device}
	var err error
	if q.Timeout, err = timeout(c); err != nil {
		return q, err
	}
	if q.FullState, err = c.Bool("full_state", false); err != nil {
		return q, err
	}
	if q.StateAfter, err = c.Bool("use_state_after", false); err != nil {
		return q, err
	}
	if q.SetPresence = ephemeral.State(c.Query("set_presence")); q.SetPresence == "" {
		q.SetPresence = ephemeral.Online
	}
	if !q.SetPresence.Valid() {
		return q, mxerr.InvalidParam.With("set_presence is online, offline or unavailable")
	}
	if q.Since, err = s.stream(c, "since"); err != nil {
		return q, err
	}
	q.Filter, err = s.filterOf(ctx, c.User, c.Query("filter"))
	return q, err
}

// timeout reads for how long a client waits for news.
func timeout(c *httpapi.Call) (time.Duration, error) {
	ms, err := c.Int("timeout", 0)
	return time.Duration(min(max(ms, 0), int(maxTimeout.Milliseconds()))) * time.Millisecond, err
}

// stream reads a token, nil when there is none; one that this server has not given is an error, never a new beginning.
func (s *Service) stream(c *httpapi.Call, name string) (*token.Stream, error) {
	if !c.HasQuery(name) {
		return nil, nil
	}
	t, err := token.ParseStream(c.Query(name))
	if err != nil || t.Pos > s.DB.Published() {
		return nil, mxerr.InvalidParam.With("%s is not a token of this server", name)
	}
	return &t, nil
}

// Sync tells a device what is new. Without news it waits for some until the request's timeout, the server's
// end or that of ctx; the first two answer that nothing is new.
func (s *Service) Sync(ctx context.Context, q Request) (*Answer, error) {
	defer s.Presence.Syncing(q.User, q.Device, q.SetPresence)()
	acknowledged, err := s.acknowledge(ctx, &q)
	if err != nil {
		return nil, err
	}
	a, err := s.answer(ctx, q)
	if acknowledged != nil && err == nil {
		err = acknowledged.Wait(ctx) // else a crash would bring back what was acknowledged
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// answer is Sync but for the acknowledgement.
func (s *Service) answer(ctx context.Context, q Request) (*Answer, error) {
	if !q.Filter.Room.lazy() {
		return s.await(ctx, &q)
	}
	device, since := deviceKey{q.User, q.Device}, ""
	if q.Since != nil {
		since = q.Since.String()
	}
	s.sent.begin(device, since)
	a, err := s.await(ctx, &q)
	if err == nil {
		s.sent.offer(device, since, a.next.String(), a.members)
	}
	return a, err
}

// await looks until there is news or nothing to wait for.
func (s *Service) await(ctx context.Context, q *Request) (*Answer, error) {
	if q.Since == nil || q.FullState {
		return s.tellLarge(ctx, q)
	}
	if q.Timeout <= 0 {
		return s.tell(ctx, q)
	}
	return s.awaitNews(ctx, q, s.Hub.Wait(q.User), s.tell)
}

// awaitNews is await for whoever has registered for wake-ups before: what comes after a look wakes.
func (s *Service) awaitNews(ctx context.Context, q *Request, wait *notify.Waiter,
	tell func(context.Context, *Request) (*Answer, error),
) (*Answer, error) {
	defer wait.Close()
	mail, leave := s.inboxes.wait(deviceKey{q.User, q.Device})
	defer leave()
	timer := time.NewTimer(min(q.Timeout, maxTimeout))
	defer timer.Stop()
	logouts := s.logouts.Load()
	for last := false; ; {
		if err := s.stillHere(ctx, q, &logouts); err != nil {
			return nil, err
		}
		a, err := tell(ctx, q)
		if err != nil || a.news || last {
			return a, err
		}
		q.Since, q.counted = &a.next, &a.counts // so far there was nothing
		if a.more {
			continue
		}
		select {
		case <-wait.C:
			last = s.Hub.Drained()
		case <-mail:
		case <-timer.C:
			return a, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// LoggedOut ends the waiting of devices of a user that are gone. It is called after the commit, and does not wait.
func (s *Service) LoggedOut(user id.UserID, devices []id.DeviceID) {
	s.Presence.LoggedOut(user, devices)
	s.inboxes.forget(devicesOf(user, devices))
	s.logouts.Add(1)
	s.Hub.Wake(nil, user)
}

// stillHere is mxerr.UnknownToken for a device that was logged out while it waited. seen is how many logouts, of
// anybody, were known when it was last there.
func (s *Service) stillHere(ctx context.Context, q *Request, seen *int64) error {
	now := s.logouts.Load()
	if now == *seen || q.Device == "" {
		return nil
	}
	*seen = now
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		_, err := tx.Device(q.User, q.Device)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return mxerr.UnknownToken.With("this device was logged out")
	}
	return err
}

// tellLarge is tell for an answer about every room.
func (s *Service) tellLarge(ctx context.Context, q *Request) (*Answer, error) {
	return s.oneOfFewLarge(ctx, func() (*Answer, error) { return s.tell(ctx, q) })
}

// oneOfFewLarge makes a large answer once there is a place for it.
func (s *Service) oneOfFewLarge(ctx context.Context, make func() (*Answer, error)) (*Answer, error) {
	select {
	case s.large <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.large }()
	return make()
}
