package rooms

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/filter"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// searcher is a search under way.
type searcher struct {
	*Service
	*searchQuery
	user   id.UserID
	device id.DeviceID
	upTo   storage.Pos

	rooms   map[int64]id.RoomID // that are searched
	readers map[int64]*reader   // nil for a room that the user may not read
	found   []*hit              // what the user may see
	last    int64               // what was looked at last; 0 when nothing is left behind it
	page    []*hit
}

// hit is an event that was found and that the user may see.
type hit struct {
	*roomstate.Event
	reader *reader
	doc    int64
	rank   float64
}

// collect looks at what the index finds, the newest first. By recency it ends with the page, but for the first one, where
// it goes on to count; by rank it goes on to choose among what it finds. Either is bounded.
func (sr *searcher) collect(ctx context.Context) error {
	query := &storage.TextQuery{Phrases: sr.phrases, Keys: sr.keys}
	for num := range sr.rooms {
		query.Rooms = append(query.Rooms, num)
	}
	slices.Sort(query.Rooms)
	sr.from.Top = min(sr.from.Top, sr.upTo+1)
	sr.last = sr.from.Top
	if sr.recent {
		sr.last = min(sr.from.Doc, sr.upTo+1)
	}
	for looked := 0; looked < maxFoundLooked; looked += foundAtOnce {
		if sr.recent && !sr.from.First && len(sr.found) >= sr.limit {
			return nil
		}
		some, err := sr.ask(ctx, query)
		if err != nil {
			return err
		}
		if err := sr.see(ctx, some); err != nil {
			return err
		}
		if len(some) < foundAtOnce {
			return nil
		}
	}
	return nil
}

// ask asks the index for what is older than what was looked at last. When it finds less than it could have, it has found
// all, or has looked at enough.
func (sr *searcher) ask(ctx context.Context, query *storage.TextQuery) (some []storage.Found, err error) {
	err = sr.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		some, sr.last, err = tx.Search(query, sr.last, foundAtOnce)
		return err
	})
	return some, err
}

// see adds those of the events that the user may see, that are as the filter says, and that say today what was found.
func (sr *searcher) see(ctx context.Context, some []storage.Found) error {
	events, err := sr.read(ctx, some)
	if err != nil {
		return err
	}
	var hits []*hit
	for _, f := range some {
		e := events[f.Pos()]
		if e == nil || e.RedactedBy != 0 || e.Flags != storage.InTimeline || e.Arrived() > sr.upTo {
			continue
		}
		rd := sr.readers[f.Room]
		ok, err := rd.takes(ctx, e, sr.filter)
		if err != nil {
			return err
		}
		if ok && (sr.from.Sender == "" || sr.from.Sender == e.Sender) {
			hits = append(hits, &hit{Event: e, reader: rd, doc: f.Doc})
		}
	}
	hits, err = sr.rate(ctx, hits)
	sr.found = append(sr.found, hits...)
	return err
}

// read reads the events of rooms that the user may read, a room at a time; without those to which nothing relates as the
// filter wants.
func (sr *searcher) read(ctx context.Context, some []storage.Found) (map[storage.Pos]*roomstate.Event, error) {
	positions := map[int64][]storage.Pos{}
	for _, f := range some {
		positions[f.Room] = append(positions[f.Room], f.Pos())
	}
	all := map[storage.Pos]*roomstate.Event{}
	for num, list := range positions {
		rd, err := sr.readerOf(ctx, num)
		if err != nil {
			return nil, err
		}
		if rd == nil {
			continue
		}
		events, err := rd.Room.EventsAt(ctx, list)
		if err != nil {
			return nil, err
		}
		if err := rd.Prepare(ctx, events); err != nil {
			return nil, err
		}
		related, err := rd.relatedBy(ctx, events, sr.filter)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if related == nil || related[e.ID] {
				all[e.Pos] = e
			}
		}
	}
	return all, nil
}

// rate says how closely events match: by how often they have each phrase, and how much else they say. It returns those
// that have every one.
func (sr *searcher) rate(ctx context.Context, hits []*hit) (rated []*hit, err error) {
	ids := make([]id.EventID, len(hits))
	for i, h := range hits {
		ids[i] = h.ID
	}
	var edits map[id.EventID][]storage.Event
	err = sr.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		edits, err = tx.EditsOf(ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, h := range hits {
		text, err := h.text(ctx, edits[h.ID])
		if err != nil {
			return nil, err
		}
		if h.rank = likeness(texts(words(text)), sr.phrases); h.rank > 0 {
			rated = append(rated, h)
		}
	}
	return rated, nil
}

// text is what an event says to the user: as the newest of its edits left it that they may see; nothing if they see it redacted.
func (h *hit) text(ctx context.Context, edits []storage.Event) (string, error) {
	content, err := h.content(ctx, h.Event)
	if err != nil || content == nil {
		return "", err
	}
	e := &storage.Event{ID: h.ID, Room: h.reader.Room.Num, JSON: h.JSON}
	for newest := newestEdit(e, edits); newest != nil; newest = newestEdit(e, edits) {
		pos := newest.Pos
		edit, err := h.reader.Room.EventAt(ctx, pos)
		if err != nil {
			return "", err
		}
		edited, err := h.content(ctx, edit)
		if err != nil {
			return "", err
		}
		if edited != nil {
			content = canonjson.Get(edited, "m.new_content")
			break
		}
		edits = slices.DeleteFunc(edits, func(e storage.Event) bool { return e.Pos == pos })
	}
	_, text := textIn(h.Type, h.StateKey != nil, content)
	return text, nil
}

// content is that of an event of the room if the user sees all of it, else nil.
func (h *hit) content(ctx context.Context, e *roomstate.Event) ([]byte, error) {
	seen, ok, err := h.reader.See(ctx, e)
	if err != nil || !ok || seen.Event() != e.Event {
		return nil, err
	}
	return e.Content(), nil
}

// likeness adds up how often a text has each phrase, less for what else it says; 0 if it does not have every one.
func likeness(text []string, phrases [][]string) (sum float64) {
	for _, p := range phrases {
		n := 0
		for i := 0; i+len(p) <= len(text); i++ {
			if slices.Equal(text[i:i+len(p)], p) {
				n++
			}
		}
		if n == 0 {
			return 0
		}
		sum += math.Log1p(float64(n))
	}
	return sum / (1 + math.Log1p(float64(len(text))))
}

// count is about how many results there are.
func (sr *searcher) count() int {
	if sr.recent && !sr.from.First {
		return sr.from.Count
	}
	return len(sr.found)
}

// next returns where the search goes on; false at its end.
func (sr *searcher) next() (t searchToken, more bool) {
	t = searchToken{Count: sr.count(), Room: sr.from.Room, Sender: sr.from.Sender}
	full := len(sr.page) > 0 && len(sr.page) == sr.limit
	switch {
	case !sr.recent:
		t.Skip, t.Top = sr.from.Skip+len(sr.page), sr.from.Top
		return t, full
	case full:
		t.Doc = sr.page[len(sr.page)-1].doc
		return t, true
	}
	t.Doc = sr.last
	return t, sr.last != 0 && sr.limit > 0
}

// appendAnswer appends what was found.
func (sr *searcher) appendAnswer(ctx context.Context, dst []byte) ([]byte, error) {
	dst = strconv.AppendInt(append(dst, `{"count":`...), int64(sr.count()), 10)
	dst = sr.appendHighlights(append(dst, `,"highlights":`...))
	if len(sr.groups) > 0 {
		dst = sr.appendGroups(append(dst, `,"groups":`...))
	}
	if t, more := sr.next(); more {
		dst = canonjson.AppendString(append(dst, `,"next_batch":`...), t.String())
	}
	if err := sr.aggregate(ctx); err != nil {
		return nil, err
	}
	dst, err := appendList(append(dst, `,"results":`...), sr.page, func(dst []byte, h *hit) ([]byte, error) {
		return sr.appendHit(ctx, dst, h)
	})
	if err == nil && sr.state {
		dst, err = sr.appendStates(ctx, append(dst, `,"state":`...))
	}
	return append(dst, '}'), err
}

// aggregate reads what relates to the results, a room at a time.
func (sr *searcher) aggregate(ctx context.Context) error {
	events := map[*reader][]*roomstate.Event{}
	for _, h := range sr.page {
		events[h.reader] = append(events[h.reader], h.Event)
	}
	for rd, list := range events {
		if err := rd.aggregate(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// appendHighlights appends the words to be highlighted.
func (sr *searcher) appendHighlights(dst []byte) []byte {
	all := slices.Concat(sr.phrases...)
	slices.Sort(all)
	dst, _ = appendList(dst, slices.Compact(all), func(dst []byte, word string) ([]byte, error) {
		return canonjson.AppendString(dst, word), nil
	})
	return dst
}

// appendGroups appends which results belong together.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#groups
func (sr *searcher) appendGroups(dst []byte) []byte {
	dst = append(dst, '{')
	for i, by := range sr.groups {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = sr.appendGroupsBy(append(canonjson.AppendString(dst, by), ':'), by)
	}
	return append(dst, '}')
}

func (sr *searcher) appendGroupsBy(dst []byte, by string) []byte {
	members := map[string][]*hit{}
	var order []string
	for _, h := range sr.page {
		name := string(h.reader.Room.ID)
		if by == "sender" {
			name = string(h.Sender)
		}
		if members[name] == nil {
			order = append(order, name)
		}
		members[name] = append(members[name], h)
	}
	dst = append(dst, '{')
	for i, name := range order {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(canonjson.AppendString(dst, name), ':')
		dst = sr.appendGroup(dst, i+1, by, name, members[name])
	}
	return append(dst, '}')
}

// appendGroup appends a group. By rank there are no further pages of one: its results stand on those of the whole.
func (sr *searcher) appendGroup(dst []byte, order int, by, name string, hits []*hit) []byte {
	dst = append(dst, '{')
	if t, more := sr.next(); more && sr.recent {
		t.Doc = hits[len(hits)-1].doc
		if by == "sender" {
			t.Sender = id.UserID(name)
		} else {
			t.Room = id.RoomID(name)
		}
		dst = append(canonjson.AppendString(append(dst, `"next_batch":`...), t.String()), ',')
	}
	dst = strconv.AppendInt(append(dst, `"order":`...), int64(order), 10)
	dst, _ = appendList(append(dst, `,"results":`...), hits, func(dst []byte, h *hit) ([]byte, error) {
		return canonjson.AppendString(dst, string(h.ID)), nil
	})
	return append(dst, '}')
}

// appendHit appends a result.
func (sr *searcher) appendHit(ctx context.Context, dst []byte, h *hit) ([]byte, error) {
	dst = append(dst, '{')
	if sr.around {
		var err error
		if dst, err = sr.appendAround(ctx, append(dst, `"context":`...), h); err != nil {
			return nil, err
		}
		dst = append(dst, ',')
	}
	dst = strconv.AppendFloat(append(dst, `"rank":`...), h.rank, 'f', 6, 64)
	dst, _, err := h.reader.Append(ctx, append(dst, `,"result":`...), h.Event, true)
	return append(dst, '}'), err
}

// appendAround appends what happened just before and after a result. Other servers are not asked for what is missing.
func (sr *searcher) appendAround(ctx context.Context, dst []byte, h *hit) ([]byte, error) {
	rd, all := h.reader, &filter.RoomEventFilter{}
	before, err := rd.backwards(ctx, h.Ord, firstPlace, sr.before, all)
	if err != nil {
		return nil, err
	}
	after, err := rd.forwards(ctx, h.Ord+1, lastPlace, sr.after, all)
	if err != nil {
		return nil, err
	}
	dst = appendToken(append(dst, `{"end":`...), after.next)
	if dst, err = rd.appendEvents(ctx, append(dst, `,"events_after":`...), after.events); err != nil {
		return nil, err
	}
	if dst, err = rd.appendEvents(ctx, append(dst, `,"events_before":`...), before.events); err != nil {
		return nil, err
	}
	if sr.profiles {
		sur := &surroundings{h.Event, before, after}
		if dst, err = rd.appendProfiles(ctx, append(dst, `,"profile_info":`...), sur.all()); err != nil {
			return nil, err
		}
	}
	dst = appendToken(append(dst, `,"start":`...), before.next)
	return append(dst, '}'), nil
}

// appendProfiles appends as whom the senders of some events were known in the room at the last of them.
func (rd *reader) appendProfiles(ctx context.Context, dst []byte, events []*roomstate.Event) ([]byte, error) {
	last := events[len(events)-1]
	root := last.Now
	if last.Ord > rd.JoinedUntil() && !eventauth.MayReadState(rd.now) {
		root = rd.state
	}
	members, err := rd.membersOf(ctx, root, senders(events))
	if err != nil {
		return nil, err
	}
	dst = append(dst, '{')
	for i, e := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(canonjson.AppendString(dst, *e.StateKey), ':')
		dst = appendFields(dst, profileIn(e))
	}
	return append(dst, '}'), nil
}

// profileIn is the profile that a member event tells; what is of a wrong form is left out.
func profileIn(e *roomstate.Event) (fields []storage.ProfileField) {
	avatar, name := canonjson.Get(e.Content(), "avatar_url"), canonjson.Get(e.Content(), "displayname")
	if strings.HasPrefix(string(avatar), `"mxc://`) {
		fields = append(fields, storage.ProfileField{Name: "avatar_url", Value: avatar})
	}
	if canonjson.IsString(name) {
		fields = append(fields, storage.ProfileField{Name: "displayname", Value: name})
	}
	return fields
}

// appendStates appends the state of each room with results, as the user may read it.
func (sr *searcher) appendStates(ctx context.Context, dst []byte) ([]byte, error) {
	dst = append(dst, '{')
	told := map[id.RoomID]bool{}
	for _, h := range sr.page {
		rd := h.reader
		if told[rd.Room.ID] {
			continue
		}
		if len(told) > 0 {
			dst = append(dst, ',')
		}
		told[rd.Room.ID] = true
		events, err := rd.Room.State(ctx, rd.state)
		if err != nil {
			return nil, err
		}
		dst = append(canonjson.AppendString(dst, string(rd.Room.ID)), ':')
		if dst, err = rd.appendState(ctx, dst, events); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}
