package stateres_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest/naive"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/stateres"
)

// chance makes decisions: choose returns one of 0 … n-1.
type chance struct{ choose func(n int) int }

func seeded(seed uint64) chance { return chance{rand.New(rand.NewPCG(seed, 1)).IntN} }

// fromBytes decides by data, and takes the first choice when it is used up.
func fromBytes(data []byte) chance {
	return chance{func(n int) int {
		if len(data) == 0 {
			return 0
		}
		c := int(data[0]) % n
		data = data[1:]
		return c
	}}
}

func pick[T any](c chance, of ...T) T { return of[c.choose(len(of))] }

var versions = []string{"1", "2", "5", "6", "8", "11", "12"}

var users = []id.UserID{"@alice:one", "@bob:two", "@carol:two", "@dan:three"}

// growing is a room that grows by random events.
type growing struct {
	chance
	*room
	t     testing.TB
	after map[id.EventID]naive.State // the state after each event
}

// grow begins a room: its creation, the creator's join, power levels and a join rule.
func grow(t testing.TB, c chance, version string) *growing {
	g := &growing{c, newRoom(t, version), t, map[id.EventID]naive.State{}}
	create := `{"room_version":"` + version + `"}`
	if g.rules.CreatorInContent {
		create = `{"creator":"@alice:one","room_version":"` + version + `"}`
	}
	g.next(draft{sender: users[0], eventType: "m.room.create", content: create}, nil)
	g.next(draft{sender: users[0], eventType: "m.room.member", stateKey: new(string(users[0])), content: `{"membership":"join"}`}, nil)
	g.next(draft{sender: users[0], eventType: "m.room.power_levels", content: g.powerLevels()}, nil)
	g.next(draft{sender: users[0], eventType: "m.room.join_rules", content: `{"join_rule":"public"}`}, nil)
	return g
}

func (g *growing) powerLevels() string {
	users := ""
	if !g.rules.PrivilegedCreators {
		users = `"@alice:one":100,`
	}
	level := func() int { return pick(g.chance, 50, 100, 0) }
	return fmt.Sprintf(`{"users":{%s"@bob:two":%d,"@carol:two":%d},"state_default":%d}`, users, level(), level(), pick(g.chance, 50, 0))
}

// randomDraft is something a user may try.
func (g *growing) randomDraft() draft {
	sender := pick(g.chance, users...)
	d := draft{sender: sender, ts: int64(g.choose(6))}
	switch g.choose(8) {
	case 0, 1:
		d.eventType, d.stateKey, d.content = "m.room.member", new(string(sender)), `{"membership":"join"}`
	case 2:
		d.eventType, d.stateKey = "m.room.member", new(string(pick(g.chance, users...)))
		d.content = `{"membership":"` + pick(g.chance, "ban", "leave", "invite", "knock", "join") + `"}`
	case 3, 4:
		d.eventType, d.content = "m.room.power_levels", g.powerLevels()
	case 5:
		d.eventType, d.content = "m.room.join_rules", `{"join_rule":"`+pick(g.chance, "public", "invite", "knock")+`"}`
	default:
		d.eventType, d.content = pick(g.chance, "m.room.topic", "m.room.name"), `{}`
	}
	return d
}

// next adds an event behind others as a server would that keeps the rules. It reports whether the rules allow it;
// if not, it is a rejected event.
func (g *growing) next(d draft, prev []id.EventID) bool {
	if prev == nil && len(g.events) > 0 {
		prev = []id.EventID{g.events[len(g.events)-1].ID}
	}
	var sets []naive.State
	for _, eid := range prev {
		sets = append(sets, g.after[eid])
		d.depth = max(d.depth, g.events[g.at[eid]].Depth+1)
	}
	before := naive.State{}
	if len(sets) > 0 {
		before = naive.Resolve(g.rules, sets, g.find)
	}
	d.prev, d.auth = prev, g.authEvents(d, before)
	e := g.make(d)
	allowed := eventauth.Check(e, state{g.room, before}) == nil
	if allowed {
		before[eventauth.Key{Type: e.Type, StateKey: *e.StateKey}] = e.ID
	}
	g.rejected[e.ID], g.after[e.ID] = !allowed, before
	return allowed
}

func (g *growing) authEvents(d draft, before naive.State) (auth []id.EventID) {
	needed := eventauth.Needed(event.Draft{Rules: g.rules, Sender: d.sender, Type: d.eventType, StateKey: stateKeyOf(d), Content: []byte(d.content)})
	for _, key := range needed {
		if eid, ok := before[key]; ok {
			auth = append(auth, eid)
		}
	}
	return auth
}

func stateKeyOf(d draft) *string {
	if d.stateKey == nil {
		return new(string)
	}
	return d.stateKey
}

// make adds an event that is like no other.
func (g *growing) make(d draft) *event.Event {
	n := len(g.events)
	d.name, d.stateKey = fmt.Sprintf("%x%d", g.choose(16), n), stateKeyOf(d)
	return g.add(g.t, d)
}

// honest grows a room whose servers keep the rules and never wait for one another. Of each merge the result must
// be that of the naive algorithm.
func (g *growing) honest(size int, why string) {
	for range size {
		prev := []id.EventID{}
		for range 1 + g.choose(3) {
			eid := g.events[max(0, len(g.events)-1-g.choose(8))].ID
			if !slices.Contains(prev, eid) {
				prev = append(prev, eid)
			}
		}
		var sets []naive.State
		for _, eid := range prev {
			sets = append(sets, g.after[eid])
		}
		g.requireSame(g.t, sets, why)
		g.next(g.randomDraft(), prev)
	}
}

// hostile fills a room with events that no rule was asked about: any event may be among the auth events, some are
// missing and some rejected. It returns states made of any of the events.
func (g *growing) hostile(size int) []naive.State {
	for range size {
		d := g.randomDraft()
		for range g.choose(6) {
			if eid := g.events[g.choose(len(g.events))].ID; !slices.Contains(d.auth, eid) {
				d.auth = append(d.auth, eid)
			}
		}
		if g.choose(2) == 0 { // so that more of them are allowed
			d.auth = g.authEvents(d, g.anyState(1))
		}
		d.depth = int64(g.choose(4))
		if g.choose(30) == 0 {
			d.content = `{"users":"none","membership":1,"join_rule":[]}`
		}
		e := g.make(d)
		g.rejected[e.ID], g.missing[e.ID] = g.choose(12) == 0, g.choose(16) == 0
	}
	common := g.anyState(3)
	sets := make([]naive.State, 1+g.choose(4))
	for i := range sets {
		sets[i] = maps.Clone(common)
		maps.Copy(sets[i], g.anyState(1+g.choose(3)))
		sets[i][eventauth.Key{Type: "m.room.create"}] = g.events[0].ID
	}
	return sets
}

// anyState is a state of events that have nothing to do with one another.
func (g *growing) anyState(parts int) naive.State {
	s := naive.State{}
	for _, e := range g.events {
		if g.choose(parts+1) == 0 && !g.missing[e.ID] {
			s[eventauth.Key{Type: e.Type, StateKey: *e.StateKey}] = e.ID
		}
	}
	return s
}

// SR-02, SR-09: in rooms whose servers keep the rules, every merge comes out as the specification says.
func TestResolveRandomRooms(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(rounds(40)) {
				grow(t, seeded(seed), version).honest(25, fmt.Sprintf("version %s, seed %d", version, seed))
			}
		})
	}
}

// The same where nothing about the events is as it should be; and in whatever order the states and events come.
func TestResolveHostileRooms(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(rounds(600)) {
				g := grow(t, seeded(seed), version)
				g.requireProperties(g.hostile(5+g.choose(30)), fmt.Sprintf("version %s, seed %d", version, seed))
			}
		})
	}
}

// rounds is how often random tests run; less when time is short.
func rounds(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// requireProperties: what holds of all states, however they came about.
func (g *growing) requireProperties(sets []naive.State, why string) {
	g.t.Helper()
	g.requireSame(g.t, sets, why)
	want := g.names(g.resolve(g.t, sets))
	slices.Reverse(sets)
	require.Equal(g.t, want, g.names(g.resolve(g.t, sets)), "states in another order, %s", why)
	require.Equal(g.t, want, g.names(g.resolve(g.t, append(sets, sets...))), "each state twice, %s", why)
	require.Equal(g.t, want, g.shuffled(sets), "events in another order, %s", why)
	require.Equal(g.t, g.names(sets[0]), g.names(g.resolve(g.t, sets[:1])), "one state, %s", why)
}

// shuffled resolves with the events in another order, some of them several times.
func (g *growing) shuffled(sets []naive.State) []string {
	p := g.problem(sets)
	for _, list := range []*[]*event.Event{&p.Conflicted, &p.Difference, &p.Subgraph} {
		slices.Reverse(*list)
		*list = append(*list, (*list)[:len(*list)/2]...)
	}
	result, err := stateres.Resolve(p)
	require.NoError(g.t, err)
	whole, _ := naive.Split(sets)
	for key, e := range result {
		whole[key] = e.ID
	}
	return g.names(whole)
}
