package syncing

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/filter"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// maxFilter is how many bytes a filter may have.
const maxFilter = 64 << 10

// Filter is what a client wants to be told. It is read once and never changed. The zero value wants everything.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3useruseridfilter
type Filter struct {
	EventFields []string           `json:"event_fields"`
	EventFormat string             `json:"event_format"` // client or federation
	Presence    filter.EventFilter `json:"presence"`
	AccountData filter.EventFilter `json:"account_data"`
	Room        RoomFilter         `json:"room"`

	fields fields // EventFields compiled; nil: everything
}

// RoomFilter is what a client wants to be told of rooms.
type RoomFilter struct {
	Rooms        []string               `json:"rooms"`
	NotRooms     []string               `json:"not_rooms"`
	IncludeLeave bool                   `json:"include_leave"`
	Timeline     filter.RoomEventFilter `json:"timeline"`
	State        filter.RoomEventFilter `json:"state"`
	Ephemeral    filter.RoomEventFilter `json:"ephemeral"`
	AccountData  filter.RoomEventFilter `json:"account_data"`
}

// ParseFilter reads a filter. The error is for the client.
func ParseFilter(body []byte) (*Filter, error) {
	if len(body) > maxFilter {
		return nil, mxerr.TooLarge.With("a filter may have %d bytes", maxFilter)
	}
	if err := canonjson.CheckLenient(body); err != nil {
		return nil, mxerr.BadJSON.With("the filter is not valid JSON: %v", err)
	}
	f := &Filter{}
	if err := filter.Decode(body, f); err != nil {
		return nil, err
	}
	if err := f.validate(); err != nil {
		return nil, err
	}
	f.fields = compileFields(f.EventFields)
	return f, nil
}

func (f *Filter) validate() error {
	switch f.EventFormat {
	case "", "client", "federation":
	default:
		return mxerr.InvalidParam.With("filter: event_format is client or federation")
	}
	rooms := filter.RoomEventFilter{Rooms: f.Room.Rooms, NotRooms: f.Room.NotRooms}
	checks := []interface{ Validate() error }{
		&f.Presence, &f.AccountData, &rooms, &f.Room.Timeline, &f.Room.State, &f.Room.Ephemeral, &f.Room.AccountData,
	}
	for _, c := range checks {
		if err := c.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// wants reports whether the client wants to be told of a room at all.
func (f *RoomFilter) wants(room id.RoomID) bool {
	rooms := filter.RoomEventFilter{Rooms: f.Rooms, NotRooms: f.NotRooms}
	return rooms.PassesRoom(room)
}

// The number of events in a timeline: what it is when the filter does not say, and the most that it can be.
const (
	defaultTimeline = 10
	maxTimeline     = 1000
)

// limit is how many events a timeline may have.
func (f *RoomFilter) limit() int {
	if f.Timeline.Limit == nil {
		return defaultTimeline
	}
	return min(*f.Timeline.Limit, maxTimeline)
}

// lazy reports whether member events are only wanted of those who say something.
func (f *RoomFilter) lazy() bool { return f.State.LazyLoadMembers }

// none reports whether a filter lets no event of a room pass.
func none(f *filter.RoomEventFilter, room id.RoomID) bool {
	empty := f.Types != nil && len(f.Types) == 0 || f.Senders != nil && len(f.Senders) == 0
	return empty || !f.PassesRoom(room)
}

// defineFilter implements POST /_matrix/client/v3/user/{userId}/filter.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3useruseridfilter
func (s *Service) defineFilter(ctx context.Context, c *httpapi.Call, body *json.RawMessage) (*filterID, error) {
	if err := ownOnly(c); err != nil {
		return nil, err
	}
	n, err := s.DefineFilter(ctx, c.User, *body)
	return &filterID{strconv.FormatInt(n, 10)}, err
}

type filterID struct {
	FilterID string `json:"filter_id"`
}

// getFilter implements GET /_matrix/client/v3/user/{userId}/filter/{filterId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3useruseridfilterfilterid
func (s *Service) getFilter(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*json.RawMessage, error) {
	if err := ownOnly(c); err != nil {
		return nil, err
	}
	body, err := s.storedFilter(ctx, c.User, c.PathValue("filterId"))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.With("there is no such filter")
	}
	return (*json.RawMessage)(&body), err
}

// DefineFilter stores a filter and returns its number. The same filter again has the same number.
func (s *Service) DefineFilter(ctx context.Context, user id.UserID, body []byte) (int64, error) {
	if _, err := ParseFilter(body); err != nil {
		return 0, err
	}
	canonical, err := canonjson.Append(nil, body)
	if err != nil {
		return 0, mxerr.BadJSON.With("%v", err)
	}
	var n int64
	find := func(tx *storage.Tx) (err error) {
		n, err = tx.FilterID(user, canonical)
		return err
	}
	if err := s.DB.Read(ctx, find); err == nil || !errors.Is(err, storage.ErrNotFound) {
		return n, err
	}
	err = s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		err := find(tx)
		if errors.Is(err, storage.ErrNotFound) {
			n, err = tx.AddFilter(user, canonical)
		}
		return err
	})
	return n, err
}

// storedFilter returns a filter that a user has stored, or storage.ErrNotFound.
func (s *Service) storedFilter(ctx context.Context, user id.UserID, filterID string) ([]byte, error) {
	n, err := strconv.ParseInt(filterID, 10, 64)
	if err != nil {
		return nil, storage.ErrNotFound
	}
	var body []byte
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		body, err = tx.Filter(user, n)
		return err
	})
	return body, err
}

// filterOf returns the filter that a request names: JSON if its first character says so, else the id of a
// stored one.
func (s *Service) filterOf(ctx context.Context, user id.UserID, text string) (*Filter, error) {
	if text == "" {
		return s.filters.everything, nil
	}
	key := text
	inline := strings.HasPrefix(text, "{")
	if !inline {
		key = text + " " + string(user)
	}
	if f := s.filters.get(key); f != nil {
		return f, nil
	}
	body := []byte(text)
	if !inline {
		var err error
		body, err = s.storedFilter(ctx, user, text)
		if errors.Is(err, storage.ErrNotFound) {
			return nil, mxerr.InvalidParam.With("there is no such filter")
		}
		if err != nil {
			return nil, err
		}
	}
	f, err := ParseFilter(body)
	if err == nil {
		s.filters.put(key, f, len(body))
	}
	return f, err
}

// The bounds of the cache of filters: how many, and how many bytes one may have to be kept.
const (
	maxFilters    = 4096
	maxKeptFilter = 4096
)

// filterCache holds filters that were read. Stored filters never change, so that a key always means the same.
type filterCache struct {
	everything *Filter // of requests without one

	mu    sync.Mutex         // guards the following
	known map[string]*Filter // by the text of the filter, or its id and user
}

func newFilterCache() *filterCache {
	return &filterCache{everything: &Filter{}, known: map[string]*Filter{}}
}

func (c *filterCache) get(key string) *Filter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[key]
}

func (c *filterCache) put(key string, f *Filter, bytes int) {
	if bytes > maxKeptFilter {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxFilters {
		for other := range c.known {
			delete(c.known, other)
			break
		}
	}
	c.known[strings.Clone(key)] = f
}
