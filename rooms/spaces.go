package rooms

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// What a page of a space may cost.
const (
	defaultSpacePage = 50
	maxSpacePage     = 100    // rooms that are told of
	maxSpaceDepth    = 100    // spaces below each other; without max_depth as many
	maxSpaceLooked   = 1000   // rooms that are looked at, when a user may know few of them
	maxSpaceAsked    = 60     // questions to other servers
	maxSpaceRooms    = 20_000 // rooms that a walk remembers: those that it has met and those ahead
	spacePatience    = 20 * time.Second
)

// What is remembered of spaces.
const (
	spaceWalkLasts    = 10 * time.Minute // between two pages
	maxSpaceWalks     = 16 << 20         // bytes
	maxFamilies       = 4 << 20          // bytes
	hierarchiesLast   = 5 * time.Minute
	maxHierarchies    = 16 << 20 // bytes
	maxHierarchyAsked = 64       // questions to other servers at once
)

// spaces is what is remembered between requests about spaces. Nothing of it is needed: it is gone after a restart.
type spaces struct {
	walks       *shelf[string, *spaceWalk]          // by next_batch
	families    *shelf[int64, family]               // by the number of the space
	hierarchies *shelf[hierarchyQuestion, *answers] // what other servers have said
	asking      chan struct{}                       // the rights to ask them
}

func newSpaces() spaces {
	return spaces{
		walks:       newShelf[string, *spaceWalk](maxSpaceWalks, spaceWalkLasts),
		families:    newShelf[int64, family](maxFamilies, 0),
		hierarchies: newShelf[hierarchyQuestion, *answers](maxHierarchies, hierarchiesLast),
		asking:      make(chan struct{}, maxHierarchyAsked),
	}
}

type spacePage struct {
	Rooms     []*SpaceSummary `json:"rooms"`
	NextBatch string          `json:"next_batch,omitempty"`
}

// getSpaceHierarchy implements GET /_matrix/client/v1/rooms/{roomId}/hierarchy.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidhierarchy
func (s *Service) getSpaceHierarchy(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*spacePage, error) {
	limit, err := c.Int("limit", defaultSpacePage)
	if err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, mxerr.InvalidParam.With("limit has to be greater than zero")
	}
	walk, err := s.walkOf(c)
	if err != nil {
		return nil, err
	}
	return s.walkOn(ctx, walk, min(limit, maxSpacePage))
}

// walkOf returns the walk that a request goes on with, or begins.
func (s *Service) walkOf(c *httpapi.Call) (*spaceWalk, error) {
	depth, err := c.Int("max_depth", maxSpaceDepth)
	if err != nil {
		return nil, err
	}
	if depth < 0 {
		return nil, mxerr.InvalidParam.With("max_depth is negative")
	}
	suggested, err := c.Bool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	about := spaceQuestion{user: c.User, root: c.RoomID("roomId"), depth: min(depth, maxSpaceDepth), suggestedOnly: suggested}
	if !c.HasQuery("from") {
		return newSpaceWalk(about, via(c)), nil
	}
	begun, ok := s.walks.get(c.Query("from"), s.Now())
	if !ok || begun.user != about.user || begun.root != about.root {
		return nil, mxerr.InvalidParam.With("from is no token of this space, or an old one")
	}
	if begun.spaceQuestion != about {
		return nil, mxerr.InvalidParam.With("suggested_only and max_depth cannot change on paginated requests")
	}
	return begun.again(), nil
}

// spaceQuestion is what all pages of a walk have in common.
type spaceQuestion struct {
	user          id.UserID
	root          id.RoomID
	depth         int // how far below the root
	suggestedOnly bool
}

// spaceWalk goes through the rooms of a space, depth first, for one user. Each room comes once.
type spaceWalk struct {
	spaceQuestion
	ahead []spacePlace       // a stack: the next one is the last
	met   map[id.RoomID]bool // rooms that have been looked at
}

// spacePlace is a room that a space names and that is yet to be looked at.
type spacePlace struct {
	room  id.RoomID
	via   []id.ServerName
	depth int
	told  *Summary // what the server has said that told of the space; nil: nothing
	kept  bool     // that server has said that this one cannot get into the room
}

// newSpaceWalk begins at the root, which some servers may be asked for if this one is not in it.
func newSpaceWalk(about spaceQuestion, via []id.ServerName) *spaceWalk {
	return &spaceWalk{spaceQuestion: about, met: map[id.RoomID]bool{}, ahead: []spacePlace{{room: about.root, via: via}}}
}

// again is a copy that can go on while a page is asked for once more.
func (w *spaceWalk) again() *spaceWalk {
	return &spaceWalk{w.spaceQuestion, w.ahead, maps.Clone(w.met)}
}

// spaceTour is a page of a walk while it is made.
type spaceTour struct {
	*spaceWalk
	s      *Service
	until  time.Time
	looked int
	asked  int
	pushed bool
	heard  map[id.RoomID]*answers // what other servers have said for this page, nil for those of which none has
}

// walkOn returns the next page of a walk. If what a page may cost is spent, it has fewer rooms than it could have.
func (s *Service) walkOn(ctx context.Context, walk *spaceWalk, limit int) (*spacePage, error) {
	first := len(walk.met) == 0
	t := &spaceTour{spaceWalk: walk, s: s, until: time.Now().Add(spacePatience), heard: map[id.RoomID]*answers{}}
	page := &spacePage{Rooms: []*SpaceSummary{}}
	for len(page.Rooms) < limit && len(t.ahead) > 0 && !t.spent() {
		room, err := t.step(ctx)
		if err != nil {
			return nil, err
		}
		if room != nil {
			page.Rooms = append(page.Rooms, room)
		} else if first && len(page.Rooms) == 0 {
			return nil, mxerr.Forbidden.With("there is no such room, or you may not see it")
		}
	}
	if err := t.trim(ctx); err != nil {
		return nil, err
	}
	var err error
	page.NextBatch, err = t.keep()
	return page, err
}

// trim drops from what is ahead the next rooms of which the user may not know, so that no page is announced that has
// nothing.
func (t *spaceTour) trim(ctx context.Context) error {
	for ; len(t.ahead) > 0 && !t.spent(); t.looked++ {
		p := t.ahead[len(t.ahead)-1]
		may, err := t.mayCome(ctx, p)
		if err != nil || may {
			return err
		}
		t.ahead = t.ahead[:len(t.ahead)-1]
	}
	return nil
}

// mayCome reports whether the user may be told of a room that is ahead, as far as that is known here.
func (t *spaceTour) mayCome(ctx context.Context, p spacePlace) (bool, error) {
	if t.met[p.room] {
		return false, nil
	}
	r, err := t.s.roomHere(ctx, p.room)
	switch {
	case err != nil:
		return false, err
	case r == nil:
		return !p.kept, nil
	}
	o, err := t.s.outline(ctx, r)
	if err != nil {
		return false, err
	}
	return t.s.mayKnow(ctx, t.user, &o.Summary)
}

// spent reports whether the page has cost enough.
func (t *spaceTour) spent() bool {
	return t.looked >= maxSpaceLooked || t.asked >= maxSpaceAsked || t.asked > 0 && !time.Now().Before(t.until)
}

// keep remembers where the next page begins and returns the token of that, "" if there is none.
func (t *spaceTour) keep() (string, error) {
	if len(t.ahead) == 0 {
		return "", nil
	}
	var random [16]byte
	if _, err := io.ReadFull(t.s.Rand, random[:]); err != nil {
		return "", fmt.Errorf("draw a token: %w", err)
	}
	weight := 200 + 24*len(t.met) // bytes, about
	if t.pushed {                 // otherwise it shares what is ahead with the page before
		weight += 100 * len(t.ahead)
	}
	token := base64.RawURLEncoding.EncodeToString(random[:])
	t.s.walks.put(token, t.spaceWalk, weight, t.s.Now())
	return token, nil
}

// step looks at the next room and returns what the user is told of it, nil for a room of which they may not know.
func (t *spaceTour) step(ctx context.Context) (*SpaceSummary, error) {
	p := t.ahead[len(t.ahead)-1]
	t.ahead = t.ahead[:len(t.ahead)-1]
	if t.met[p.room] {
		return nil, nil
	}
	t.looked++
	r, err := t.s.roomHere(ctx, p.room)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return t.elsewhere(ctx, p)
	}
	t.met[p.room] = true
	o, err := t.s.outline(ctx, r)
	if err != nil {
		return nil, err
	}
	if may, err := t.s.mayKnow(ctx, t.user, &o.Summary); err != nil || !may {
		return nil, err
	}
	children, err := t.s.childrenOf(ctx, r, o, t.suggestedOnly, maxFamily)
	if err != nil {
		return nil, err
	}
	t.push(children, p.depth, nil)
	return &SpaceSummary{o.Summary, toldOf(children)}, nil
}

// push puts the children of a room in front of what is ahead, as far as the walk goes down; h is what another server has
// said of them.
func (t *spaceTour) push(children []spaceChild, depth int, h *answers) {
	if depth >= t.depth || len(t.ahead)+len(t.met)+len(children) > maxSpaceRooms {
		return
	}
	t.ahead = slices.Clip(t.ahead) // what was dropped from it may be ahead of another page
	for _, c := range slices.Backward(children) {
		if t.met[c.room] {
			continue
		}
		p := spacePlace{room: c.room, via: c.via, depth: depth + 1}
		if h != nil {
			p.told, p.kept = h.children[c.room], h.kept[c.room]
		}
		t.ahead, t.pushed = append(t.ahead, p), true
	}
}

// elsewhere looks at a room in which this server is not.
func (t *spaceTour) elsewhere(ctx context.Context, p spacePlace) (*SpaceSummary, error) {
	if p.kept { // another space may name a server that says otherwise
		return nil, nil
	}
	t.met[p.room] = true
	told, children := p.told, []spaceChild{}
	var said *answers
	if p.asks() {
		if said = t.ask(ctx, p); said != nil {
			told, children = &said.room, said.family
		}
	}
	if told == nil {
		var err error
		if told, err = t.s.toldWithInvite(ctx, t.user, p.room); err != nil || told == nil {
			return nil, err
		}
	}
	if may, err := t.s.mayKnow(ctx, t.user, told); err != nil || !may {
		return nil, err
	}
	t.push(children, p.depth, said)
	return &SpaceSummary{*told, toldOf(children)}, nil
}

// asks reports whether a room that is not here has to be asked for: unless another server has told of it, and it is no
// space that has children of its own.
func (p *spacePlace) asks() bool { return p.told == nil || p.told.RoomType == "m.space" }

// maxAskedAhead is how many rooms are asked for at once.
const maxAskedAhead = 8

// ask returns what other servers say of a room, nil if none says anything. It asks for some of the rooms to come at the
// same time.
func (t *spaceTour) ask(ctx context.Context, p spacePlace) *answers {
	if said, known := t.heard[p.room]; known {
		return said
	}
	ctx, cancel := context.WithDeadline(ctx, t.until)
	defer cancel()
	t.askAll(ctx, append([]spacePlace{p}, t.nextElsewhere(ctx)...))
	return t.heard[p.room]
}

// nextElsewhere are some rooms beside the one that is looked at which have to be asked for, too.
func (t *spaceTour) nextElsewhere(ctx context.Context) (list []spacePlace) {
	for i := len(t.ahead) - 1; i >= max(0, len(t.ahead)-maxSpacePage) && len(list) < maxAskedAhead-1; i-- {
		p := t.ahead[i]
		if _, known := t.heard[p.room]; known || t.met[p.room] || p.kept || !p.asks() {
			continue
		}
		if r, err := t.s.roomHere(ctx, p.room); err == nil && r == nil {
			list = append(list, p)
		}
	}
	return list
}

// askAll asks for rooms, side by side.
func (t *spaceTour) askAll(ctx context.Context, places []spacePlace) {
	var mu sync.Mutex // guards t.heard
	eachBeside(places, func(p spacePlace) {
		said := t.s.hierarchyOf(ctx, p.room, t.s.candidates(ctx, &Change{Room: p.room, Target: t.user, Via: p.via}), t.suggestedOnly)
		mu.Lock()
		defer mu.Unlock()
		t.heard[p.room] = said
	})
	t.asked += len(places)
}

// answers is what another server has said of a room and its children.
type answers struct {
	room     Summary
	family   []spaceChild
	children map[id.RoomID]*Summary // those of them that it knows
	kept     map[id.RoomID]bool     // those that it knows and this server cannot get into
	weight   int                    // bytes, about
}

// readHierarchy takes out of an answer what is of no use: children that the room does not name, and what is malformed.
func readHierarchy(h *Hierarchy, suggestedOnly bool) *answers {
	a := &answers{room: h.Room.Summary, children: map[id.RoomID]*Summary{}, kept: map[id.RoomID]bool{}, weight: 1000}
	a.room.tidy()
	if a.room.RoomType == "m.space" {
		a.family = readChildren(strippedChildren(h.Room.ChildrenState), suggestedOnly, maxFamily)
	}
	named := map[id.RoomID]bool{}
	for _, c := range a.family {
		named[c.room] = true
		a.weight += 300 + len(c.told)
	}
	for _, child := range h.Children {
		if named[child.RoomID] && a.children[child.RoomID] == nil {
			child.tidy()
			a.children[child.RoomID] = child
			a.weight += 500 + len(child.Name) + len(child.Topic)
		}
	}
	for _, room := range h.Inaccessible {
		if named[room] && a.children[room] == nil {
			a.kept[room] = true
		}
	}
	return a
}

// strippedChildren are those of some events that are m.space.child in stripped form, without what else is in them.
func strippedChildren(told []json.RawMessage) (list []json.RawMessage) {
	for _, raw := range told[:min(len(told), maxFamily)] {
		var e struct {
			Type     string          `json:"type"`
			StateKey string          `json:"state_key"`
			Sender   id.UserID       `json:"sender"`
			Content  json.RawMessage `json:"content"`
			TS       *int64          `json:"origin_server_ts"`
		}
		if json.Unmarshal(raw, &e) != nil || e.Type != "m.space.child" || e.TS == nil {
			continue
		}
		if _, err := id.ParseUserID(string(e.Sender)); err != nil {
			continue
		}
		if tidied, err := json.Marshal(e); err == nil {
			list = append(list, tidied)
		}
	}
	return list
}
