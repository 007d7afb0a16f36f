package stateres_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest/naive"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/stateres"
)

func TestResolveIncompleteProblem(t *testing.T) {
	r := grow(t, seeded(1), "11")
	whole := r.problem([]naive.State{r.after[r.events[3].ID]})
	_, err := stateres.Resolve(whole)
	require.NoError(t, err)
	for _, spoil := range []func(*stateres.Problem){
		func(p *stateres.Problem) { p.Rules = nil },
		func(p *stateres.Problem) { p.Create = nil },
		func(p *stateres.Problem) { p.Unconflicted = nil },
		func(p *stateres.Problem) { p.Auth = nil },
	} {
		p := whole
		spoil(&p)
		_, err := stateres.Resolve(p)
		require.Error(t, err)
	}
}

// Servers choose event ids in versions 1 and 2, so events could name one another.
func TestResolveCircles(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		for seed := range uint64(rounds(300)) {
			c := seeded(seed)
			g := grow(t, c, version)
			next := map[int]id.EventID{}
			for i := range 12 {
				next[i] = id.EventID(fmt.Sprintf("$n%d:one", i))
			}
			for i := range 12 {
				d := g.randomDraft()
				d.name, d.sender, d.stateKey = fmt.Sprintf("n%d", i), "@alice:one", stateKeyOf(d)
				d.auth = []id.EventID{g.events[0].ID, g.events[1].ID, next[g.choose(12)], next[g.choose(12)]}
				g.add(t, d)
			}
			sets := []naive.State{g.anyState(2), g.anyState(2), g.anyState(1)}
			for _, s := range sets {
				s[eventauth.Key{Type: "m.room.create"}] = g.events[0].ID
			}
			requireSameWithoutGraph(t, g.room, sets, fmt.Sprintf("version %s, seed %d", version, seed))
		}
	}
}

func requireSameWithoutGraph(t *testing.T, r *room, sets []naive.State, why string) {
	unconflicted, conflicted := naive.Split(sets)
	events := func(set naive.Set) (events []*event.Event) {
		for eid := range set {
			e, _ := r.find(eid)
			events = append(events, e)
		}
		return events
	}
	result, err := stateres.Resolve(stateres.Problem{
		Rules: r.rules, Create: r.events[0], Unconflicted: state{r, unconflicted}, Auth: r.find,
		Conflicted: events(conflicted), Difference: events(naive.Difference(sets, r.find)),
	})
	require.NoError(t, err)
	for key, e := range result {
		unconflicted[key] = e.ID
	}
	require.Equal(t, r.names(naive.Resolve(r.rules, sets, r.find)), r.names(unconflicted), why)
}

// A power level fight of 5,000 turns, on both forks, is gone through in time that grows with its length.
func TestResolveLongFight(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		b := newBusy(t, version, 3)
		sets := []naive.State{maps.Clone(b.common), maps.Clone(b.common)}
		for i := range 5_000 {
			content := fmt.Sprintf(`{"users":{"@u0:one":100,"@u1:one":%d}}`, i%3)
			if b.rules.PrivilegedCreators {
				content = fmt.Sprintf(`{"users":{"@u1:one":%d}}`, i%3)
			}
			b.set(sets[i%2], int64(i), "@u0:one", "m.room.power_levels", "", content)
		}
		b.set(sets[0], 1, "@u0:one", "m.room.topic", "", `{}`)
		b.set(sets[1], 2, "@u0:one", "m.room.topic", "", `{}`)
		start := time.Now()
		result, err := stateres.Resolve(b.problem(sets))
		require.NoError(t, err)
		require.Contains(t, result, eventauth.Key{Type: "m.room.topic"})
		require.Equal(t, b.events[len(b.events)-3].ID, result[eventauth.Key{Type: "m.room.power_levels"}].ID, "the last turn")
		require.Less(t, time.Since(start), 5*time.Second, "it took too long for something linear")
	}
}

func TestGraph(t *testing.T) {
	var g stateres.Graph
	require.False(t, g.Has(1))
	require.Empty(t, g.Auth(1))
	require.Empty(t, chain(&g, 1))
	// 40 ← 30 ← 20 ← 10, and 20 ← 40; in any order, and by positions that are far apart.
	g.Add(40, []int64{30, 20})
	g.Add(20, []int64{10, 20, 99})
	require.True(t, g.Has(40))
	require.False(t, g.Has(30), "it is only named")
	require.Equal(t, []int64{30, 20, 10}, chain(&g, 40))
	g.Add(30, []int64{20})
	g.Add(10, nil)
	g.Add(1<<40, []int64{10, 40})
	g.Add(40, []int64{10})
	require.True(t, g.Has(30))
	require.Equal(t, []int64{30, 20}, g.Auth(40), "the first time counts")
	require.Equal(t, []int64{10}, g.Auth(20), "auth events are older")
	require.Equal(t, 5, g.Len())
	require.Equal(t, []int64{40, 30, 20, 10}, chain(&g, 1<<40))
	require.Equal(t, []int64{20, 10}, chain(&g, 30, 10, 7), "not the events themselves, and not what is unknown")
	require.Equal(t, []int64{30, 20, 10}, chain(&g, 30, 40))
	g.Chain([]int64{40}, func(int64) bool { return false })
	require.Positive(t, g.Cost())
}

func chain(g *stateres.Graph, from ...int64) []int64 {
	var all []int64
	g.Chain(from, func(pos int64) bool { all = append(all, pos); return true })
	return all
}

func TestSubgraph(t *testing.T) {
	var g stateres.Graph
	for pos, auth := range [][]int64{1: {0}, 2: {1}, 3: {1, 2}, 4: {0}, 5: {3, 4}, 6: {4}, 7: {6}} {
		g.Add(int64(pos), auth)
	}
	require.Equal(t, []int64{5, 3, 2, 1}, g.Subgraph([]int64{5, 1}))
	require.Equal(t, []int64{7, 6, 5, 3, 2, 1}, append([]int64{7, 6}, g.Subgraph([]int64{1, 7, 5})...), "7 leads to none")
	require.Equal(t, []int64{5, 4}, g.Subgraph([]int64{5, 4}))
	require.Empty(t, g.Subgraph([]int64{5}))
	require.Empty(t, g.Subgraph([]int64{2, 2, 4, 88}))
	require.Empty(t, g.Subgraph(nil))
}

// More states than a word has bits: state i has event 1000+i, which is based on i and on those all have.
func TestDifferenceOfManyStates(t *testing.T) {
	const states = 200
	var g stateres.Graph
	sets, everything := make([][]int64, states), []int64{}
	for i := range int64(states) {
		g.Add(i+1, []int64{0})
		everything = append(everything, i+1)
	}
	for i := range int64(states) {
		g.Add(1000+i, []int64{i + 1})
		g.Add(2000+i, everything)
		sets[i] = []int64{1000 + i}
	}
	nothing := func(int64) bool { return false }
	require.Len(t, g.Difference(sets, nothing), states, "each has one of its own; all have 0")
	require.Empty(t, g.Difference(sets, func(pos int64) bool { return pos == 2100 }), "an event that all have is based on each")
	for i := range sets {
		sets[i] = append(sets[i], 2000+int64(i))
	}
	require.Empty(t, g.Difference(sets, nothing))
	sets[77] = nil
	require.Len(t, g.Difference(sets, nothing), states+1, "one state has nothing")
	require.Empty(t, g.Difference(nil, nothing))
}

// Graphs that are made to be slow: a chain, and one in which every event has ten auth events.
func TestGraphHostile(t *testing.T) {
	const size = 100_000
	for _, width := range []int{1, 10} {
		var g stateres.Graph
		for pos := range int64(size) {
			var auth []int64
			for back := range int64(width) {
				if a := pos - 1 - back*back; a >= 0 {
					auth = append(auth, a)
				}
			}
			g.Add(pos, auth)
		}
		t.Logf("%d auth events: %d bytes for each node", width, g.Cost()/g.Len())
		start := time.Now()
		sets := [][]int64{{size - 1}, {size - 2}, nil}
		require.Len(t, g.Difference(sets, func(int64) bool { return false }), size-1)
		require.Empty(t, g.Difference(sets, func(pos int64) bool { return pos == size-1 }))
		require.Len(t, g.Subgraph([]int64{size - 1, 0}), size)
		require.Len(t, chain(&g, size-1), size-1)
		require.Less(t, time.Since(start), 10*time.Second, "it took too long for something linear")
	}
}

// What is common to all is not gone through: between the forks of a room of 10,000 members lies little.
func TestDifferenceFollowsTheConflict(t *testing.T) {
	b := newBusy(t, "11", 2_000)
	sets := b.forks(20)
	of, common, _ := conflictedPositions(b.room, sets)
	asked := 0
	b.graph().Difference(of, func(pos int64) bool { asked++; return common[pos] })
	require.Less(t, asked, 200)
}
