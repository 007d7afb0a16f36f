package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// listing is the directory in memory: the order of the published rooms, and by what they are found. Of each it holds a
// few hundred bytes, at most two KiB; what is told of a room stands in storage. It is read at the first request, and
// from then on the rooms whose state has changed are read again by the next one.
type listing struct {
	turn chan struct{} // capacity 1: the right to read rooms

	mu sync.Mutex // guards the following
	// loaded is set once rooms has all published rooms; reading before, while they are read.
	loaded, reading bool
	rooms           map[int64]*listed  // by number; those that are not shown too
	order           []*listed          // those that are shown, by rank; replaced, never changed
	federated       int                // how many of them other servers are told of
	stale           map[int64]struct{} // numbers of rooms to be read again, published or not
}

// listed is a room in the directory.
type listed struct {
	rank
	shown     bool // this server is in the room
	federated bool // other servers may be told of it
	kind      string
	sought    string // name, topic and alias in lower case
}

// rank is where a room stands in the directory: the one with the most joined members first, and of those with as many
// the one that this server has known for longest.
type rank struct {
	members int64
	num     int64
}

func (a rank) compare(b rank) int {
	return cmp.Or(cmp.Compare(b.members, a.members), cmp.Compare(a.num, b.num))
}

func newListing() *listing {
	return &listing{turn: make(chan struct{}, 1), rooms: map[int64]*listed{}, stale: map[int64]struct{}{}}
}

// changed notes that the state of a room is another one.
func (l *listing) changed(r *roomstate.Room) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, published := l.rooms[r.Num]; published || l.reading {
		l.stale[r.Num] = struct{}{}
	}
}

// mark notes that rooms were put into the directory or taken out.
func (l *listing) mark(rooms ...int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded && !l.reading {
		return
	}
	for _, num := range rooms {
		l.stale[num] = struct{}{}
	}
}

// take returns the rooms that have to be read again, and forgets that they have. Those that are new count as published from
// now on, so that a change is noted that comes while they are read.
func (l *listing) take() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Collect(maps.Keys(l.stale))
	for _, num := range list {
		if l.rooms[num] == nil {
			l.rooms[num] = &listed{rank: rank{num: num}}
		}
	}
	clear(l.stale)
	return list
}

// put gives rooms their places; those of which nothing was read are not in the directory any more.
func (l *listing) put(nums []int64, read map[int64]*listed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	order := slices.Clone(l.order) // the old one may be looked at
	for _, num := range nums {
		if old := l.rooms[num]; old != nil && old.shown {
			i, _ := find(order, old.rank)
			order = slices.Delete(order, i, i+1)
			l.federated -= count(old.federated)
		}
		delete(l.rooms, num)
		r := read[num]
		if r == nil {
			continue
		}
		l.rooms[num] = r
		if r.shown {
			i, _ := find(order, r.rank)
			order = slices.Insert(order, i, r)
			l.federated += count(r.federated)
		}
	}
	l.order = order
}

// find returns where in an order a room of a rank is or would be.
func find(order []*listed, at rank) (int, bool) {
	return slices.BinarySearchFunc(order, at, func(r *listed, at rank) int { return r.compare(at) })
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// refresh brings the directory up to date: with everything that was committed before it was called.
func (s *Service) refresh(ctx context.Context) error {
	l := s.listing
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.loadListing(ctx); err != nil {
		return err
	}
	stale := l.take()
	for len(stale) > 0 {
		batch := stale[:min(len(stale), maxReadAgain)]
		if err := s.readAgain(ctx, batch); err != nil {
			l.mark(stale...)
			return fmt.Errorf("read the directory: %w", err)
		}
		stale = stale[len(batch):]
	}
	return nil
}

// maxReadAgain is how many rooms are read and noted at once.
const maxReadAgain = 500

// loadListing reads what storage has noted. Rooms that have changed since then are stale.
func (s *Service) loadListing(ctx context.Context) error {
	l := s.listing
	if !l.begin() {
		return nil
	}
	all := map[int64]*listed{}
	var stale []int64
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		return tx.Listings(func(row storage.Listing) error {
			r, err := newListed(row)
			if !row.Fresh || err != nil {
				r = &listed{rank: rank{num: row.Room}}
				stale = append(stale, row.Room)
			}
			all[row.Room] = r
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("load the directory: %w", err)
	}
	l.load(all, stale)
	return nil
}

// begin reports whether the directory has to be loaded; from then on every room that changes meanwhile is stale.
func (l *listing) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reading = !l.loaded
	return l.reading
}

// load takes in all rooms.
func (l *listing) load(all map[int64]*listed, stale []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rooms, l.loaded, l.reading = all, true, false
	for _, r := range all {
		if r.shown {
			l.order = append(l.order, r)
			l.federated += count(r.federated)
		}
	}
	slices.SortFunc(l.order, func(a, b *listed) int { return a.compare(b.rank) })
	for _, num := range stale {
		l.stale[num] = struct{}{}
	}
}

// readAgain reads rooms and notes what the directory tells of them from now on.
func (s *Service) readAgain(ctx context.Context, nums []int64) error {
	var rows []storage.Listing
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.ListingsOf(nums)
		return err
	})
	if err != nil {
		return err
	}
	read := map[int64]*listed{}
	act := &storage.Act{}
	for _, row := range rows {
		if read[row.Room], err = s.readListed(ctx, row, act); err != nil {
			return err
		}
	}
	if len(rows) > 0 {
		s.DB.Queue(act)
		if err := act.Wait(ctx); err != nil {
			return err
		}
	}
	s.listing.put(nums, read)
	return nil
}

// readListed reads a published room and lets an act note it.
func (s *Service) readListed(ctx context.Context, row storage.Listing, act *storage.Act) (*listed, error) {
	r, err := s.Cache.Room(ctx, row.RoomID)
	if err != nil {
		return nil, err
	}
	o, err := s.outline(ctx, r)
	if err != nil {
		return nil, err
	}
	row.Federated, row.Summary = o.federated, []byte{}
	if r.HasServer(s.ServerName) {
		if row.Summary, err = json.Marshal(&o.Summary); err != nil {
			return nil, err
		}
	}
	act.Add(storage.UpsertListing, row.Room, o.root, row.Federated, row.Summary)
	return newListed(row)
}

// newListed is a room as storage has noted it.
func newListed(row storage.Listing) (*listed, error) {
	r := &listed{rank: rank{num: row.Room}, federated: row.Federated}
	if len(row.Summary) == 0 {
		return r, nil
	}
	var told Summary
	if err := json.Unmarshal(row.Summary, &told); err != nil {
		return nil, fmt.Errorf("what is noted of room %d: %w", row.Room, err)
	}
	r.shown, r.members, r.kind = true, told.NumJoinedMembers, clip(told.RoomType, 255)
	r.sought = sought(&told)
	return r, nil
}

// maxSought is how much of a name or a topic is searched, in bytes.
const maxSought = 1 << 10

// sought is the text by which a room is found. Its parts are set off by what is in no text.
func sought(told *Summary) string {
	return strings.ToLower(clip(told.Name, maxSought/2) + "\xff" + clip(told.Topic, maxSought) + "\xff" + string(told.CanonicalAlias))
}

// clip cuts a text to at most n bytes.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// wanted says which rooms of the directory are asked for.
type wanted struct {
	federated bool // only those that other servers may be told of
	term      string
	kinds     map[string]bool // nil: of any type; "" is of none
}

// filter says it by what a client has asked for, of which there may be much.
func (w *wanted) filter(f *DirectoryFilter) {
	w.term = strings.ToLower(f.GenericSearchTerm)
	if f.RoomTypes == nil {
		return
	}
	w.kinds = make(map[string]bool, len(f.RoomTypes))
	for _, kind := range f.RoomTypes {
		if kind == nil {
			kind = new(string)
		}
		w.kinds[*kind] = true
	}
}

func (w *wanted) takes(r *listed) bool {
	if w.federated && !r.federated {
		return false
	}
	return (w.kinds == nil || w.kinds[r.kind]) && strings.Contains(r.sought, w.term)
}

// stand is some rooms of the directory by their numbers, in its order, and what lies around them.
type stand struct {
	nums   []int64
	before *rank // the rooms up to here come before them; nil: none that are wanted do
	behind *rank // the rooms after here come behind them; nil: as before
	total  int   // how many rooms the directory has for who asks
}

// look returns the order of the directory as it is now, and how many rooms it has for who asks. The order never changes.
func (l *listing) look(w *wanted) (order []*listed, total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.federated {
		return l.order, l.federated
	}
	return l.order, len(l.order)
}

// after returns at most limit rooms that stand behind a place, nil for the beginning.
func (l *listing) after(from *rank, limit int, w *wanted) stand {
	order, total := l.look(w)
	first := 0
	if from != nil {
		first = behind(order, *from)
	}
	end := first
	for taken := 0; end < len(order) && taken < limit; end++ {
		taken += count(w.takes(order[end]))
	}
	return cut(order, first, end, total, w)
}

// upTo returns at most limit rooms that stand before a place or at it, the last ones.
func (l *listing) upTo(at rank, limit int, w *wanted) stand {
	order, total := l.look(w)
	end := behind(order, at)
	first := end
	for taken := 0; first > 0 && taken < limit; first-- {
		taken += count(w.takes(order[first-1]))
	}
	p := cut(order, first, end, total, w)
	if end == 0 && p.behind != nil {
		p.behind = &at
	}
	return p
}

// behind is where in an order the rooms begin that stand behind a place.
func behind(order []*listed, at rank) int {
	i, found := find(order, at)
	return i + count(found)
}

// cut takes from an order what is wanted of a stretch of it.
func cut(order []*listed, first, end, total int, w *wanted) stand {
	p := stand{total: total}
	for _, r := range order[first:end] {
		if w.takes(r) {
			p.nums = append(p.nums, r.num)
		}
	}
	if slices.ContainsFunc(order[:first], w.takes) {
		p.before = &order[first-1].rank
	}
	if slices.ContainsFunc(order[end:], w.takes) {
		p.behind = &order[max(0, end-1)].rank
	}
	return p
}
