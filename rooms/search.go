package rooms

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"slices"

	"github.com/embedmatrix/homeserver/internal/filter"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// The bounds of a search.
const (
	defaultFound   = 10
	maxFound       = 100 // results of a page
	defaultAround  = 5   // "By default, this is 5."
	maxAround      = 20  // events of a context before the result, and after it
	maxTerm        = 4096
	maxPhrases     = 32
	foundAtOnce    = 100
	maxFoundLooked = 500 // what the index has found and is looked at for one answer
	maxAncestors   = 20  // rooms from which one was upgraded
)

// searchRequest is the body of a search.
type searchRequest struct {
	SearchCategories *struct {
		RoomEvents *searchCriteria `json:"room_events"`
	} `json:"search_categories"`
}

type searchCriteria struct {
	SearchTerm   *string                 `json:"search_term"`
	Keys         []string                `json:"keys"`
	Filter       *filter.RoomEventFilter `json:"filter"`
	OrderBy      string                  `json:"order_by"`
	EventContext *contextWish            `json:"event_context"`
	IncludeState bool                    `json:"include_state"`
	Groupings    struct {
		GroupBy []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

type contextWish struct {
	BeforeLimit    *int64 `json:"before_limit"`
	AfterLimit     *int64 `json:"after_limit"`
	IncludeProfile bool   `json:"include_profile"`
}

// search implements POST /_matrix/client/v3/search.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3search
func (s *Service) search(ctx context.Context, c *httpapi.Call, in *searchRequest) (*rawJSON, error) {
	if in.SearchCategories == nil {
		return nil, mxerr.MissingParam.With("search_categories is missing")
	}
	if in.SearchCategories.RoomEvents == nil {
		return answer([]byte(`{"search_categories":{}}`)), nil
	}
	q, err := readSearch(in.SearchCategories.RoomEvents, c.Query("next_batch"))
	if err != nil {
		return nil, err
	}
	sr := &searcher{Service: s, searchQuery: q, user: c.User, device: c.Device, readers: map[int64]*reader{}}
	if err := sr.find(ctx); err != nil {
		return nil, err
	}
	body, err := sr.appendAnswer(ctx, []byte(`{"search_categories":{"room_events":`))
	return answer(append(body, "}}"...)), err
}

// searchQuery is a search that was checked.
type searchQuery struct {
	phrases       [][]string
	keys          []string // nil: all
	filter        *filter.RoomEventFilter
	limit         int
	recent        bool
	around        bool
	before, after int
	profiles      bool
	state         bool
	groups        []string
	from          searchToken
}

func readSearch(in *searchCriteria, next string) (*searchQuery, error) {
	q := &searchQuery{filter: in.Filter, recent: in.OrderBy == "recent", state: in.IncludeState}
	if in.OrderBy != "" && in.OrderBy != "rank" && !q.recent {
		return nil, mxerr.InvalidParam.With("order_by is rank or recent")
	}
	for _, read := range []func(*searchCriteria) error{q.readTerm, q.readKeys, q.readFilter, q.readContext, q.readGroups} {
		if err := read(in); err != nil {
			return nil, err
		}
	}
	return q, q.readToken(next)
}

func (q *searchQuery) readTerm(in *searchCriteria) error {
	if in.SearchTerm == nil {
		return mxerr.MissingParam.With("search_term is missing")
	}
	if len(*in.SearchTerm) > maxTerm {
		return mxerr.InvalidParam.With("search_term may have %d bytes", maxTerm)
	}
	q.phrases = phrases(*in.SearchTerm)
	if len(q.phrases) > maxPhrases {
		return mxerr.InvalidParam.With("search_term may have %d words", maxPhrases)
	}
	return nil
}

func (q *searchQuery) readKeys(in *searchCriteria) error {
	for _, key := range in.Keys {
		i := slices.IndexFunc(searchKeys[:], func(k searchKey) bool { return k.key == key })
		if i < 0 {
			return mxerr.InvalidParam.With("%q is no key that can be searched", key)
		}
		q.keys = append(q.keys, searchKeys[i].mark)
	}
	return nil
}

func (q *searchQuery) readFilter(in *searchCriteria) error {
	if q.filter == nil {
		q.filter = &filter.RoomEventFilter{}
	}
	q.limit = defaultFound
	if q.filter.Limit != nil {
		q.limit = min(*q.filter.Limit, maxFound)
	}
	return q.filter.Validate()
}

func (q *searchQuery) readContext(in *searchCriteria) error {
	w := in.EventContext
	if w == nil {
		return nil
	}
	q.around, q.profiles, q.before, q.after = true, w.IncludeProfile, defaultAround, defaultAround
	for wish, n := range map[*int64]*int{w.BeforeLimit: &q.before, w.AfterLimit: &q.after} {
		if wish == nil {
			continue
		}
		if *wish < 0 {
			return mxerr.InvalidParam.With("a limit of event_context is negative")
		}
		*n = int(min(*wish, maxAround))
	}
	return nil
}

func (q *searchQuery) readGroups(in *searchCriteria) error {
	for _, g := range in.Groupings.GroupBy {
		if g.Key != "room_id" && g.Key != "sender" {
			return mxerr.InvalidParam.With("results are grouped by room_id or sender")
		}
		if !slices.Contains(q.groups, g.Key) {
			q.groups = append(q.groups, g.Key)
		}
	}
	return nil
}

// searchToken is where a search goes on. Whoever changes it finds what they could have found anyway.
type searchToken struct {
	Doc    int64     `json:"d,omitempty"` // by recency: results are older than it
	Skip   int       `json:"s,omitempty"` // by rank: so many were told,
	Top    int64     `json:"t,omitempty"` // of those older than it
	Count  int       `json:"c,omitempty"` // what was told of how many there are
	Room   id.RoomID `json:"r,omitempty"` // only of a group
	Sender id.UserID `json:"u,omitempty"` // likewise
	First  bool      `json:"-"`
}

func (t searchToken) String() string {
	encoded, err := json.Marshal(t)
	if err != nil {
		return "" // of integers and strings, it never fails
	}
	return base64.RawURLEncoding.EncodeToString(encoded)
}

func (q *searchQuery) readToken(text string) error {
	if text == "" {
		q.from = searchToken{Doc: math.MaxInt64, Top: math.MaxInt64, First: true}
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return notSearchToken()
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q.from); err != nil || dec.More() || q.from.Skip < 0 || q.from.Count < 0 {
		return notSearchToken()
	}
	if q.recent != (q.from.Top == 0) {
		return mxerr.InvalidParam.With("next_batch belongs to a search in another order")
	}
	return nil
}

func notSearchToken() error { return mxerr.InvalidParam.With("next_batch is no token of a search") }

// find finds the results of the page.
func (sr *searcher) find(ctx context.Context) error {
	sr.caughtUp(ctx)
	sr.upTo = sr.DB.Published()
	if err := sr.findRooms(ctx); err != nil {
		return err
	}
	if err := sr.collect(ctx); err != nil {
		return err
	}
	sr.choose()
	return nil
}

// findRooms finds the rooms to search: those in which the user is or was, as the filter says. With a room that the
// filter names come those from which it was upgraded.
func (sr *searcher) findRooms(ctx context.Context) error {
	var list []storage.Member
	err := sr.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.MembershipsOf(sr.user)
		return err
	})
	if err != nil {
		return err
	}
	mine := map[id.RoomID]int64{}
	for _, m := range list {
		if m.Membership == "join" || (m.Membership == "leave" || m.Membership == "ban") && !m.Forgotten {
			mine[m.RoomID] = m.Room
		}
	}
	wanted, err := sr.wantedRooms(ctx, mine)
	if err != nil {
		return err
	}
	sr.rooms = map[int64]id.RoomID{}
	for roomID, num := range mine {
		if wanted(roomID) && !slices.Contains(sr.filter.NotRooms, string(roomID)) && (sr.from.Room == "" || sr.from.Room == roomID) {
			sr.rooms[num] = roomID
		}
	}
	return nil
}

// wantedRooms says which rooms the filter names.
func (sr *searcher) wantedRooms(ctx context.Context, mine map[id.RoomID]int64) (func(id.RoomID) bool, error) {
	if sr.filter.Rooms == nil {
		return func(id.RoomID) bool { return true }, nil
	}
	named := map[id.RoomID]bool{}
	for _, name := range sr.filter.Rooms {
		roomID := id.RoomID(name)
		for n := 0; n < maxAncestors && mine[roomID] != 0 && !named[roomID]; n++ {
			named[roomID] = true
			r, err := sr.Cache.Room(ctx, roomID)
			if err != nil {
				return nil, err
			}
			create, err := r.StateEvent(ctx, r.View().State, "m.room.create", "")
			if err != nil {
				return nil, err
			}
			roomID = id.RoomID(text(create, "predecessor.room_id"))
		}
	}
	return func(roomID id.RoomID) bool { return named[roomID] }, nil
}

// choose takes the page out of what was found.
func (sr *searcher) choose() {
	if sr.recent {
		sr.page = sr.found[:min(len(sr.found), sr.limit)]
		return
	}
	slices.SortStableFunc(sr.found, func(a, b *hit) int { return cmp.Compare(b.rank, a.rank) })
	from := min(sr.from.Skip, len(sr.found))
	sr.page = sr.found[from:min(len(sr.found), from+sr.limit)]
}

// readerOf returns a user as a reader of a room; nil for one who may not read it.
func (sr *searcher) readerOf(ctx context.Context, num int64) (*reader, error) {
	if rd, ok := sr.readers[num]; ok {
		return rd, nil
	}
	rd, err := sr.readerIn(ctx, sr.rooms[num], sr.user, sr.device)
	if errors.Is(err, mxerr.Forbidden) {
		rd, err = nil, nil
	}
	sr.readers[num] = rd
	return rd, err
}
