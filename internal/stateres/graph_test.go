package stateres_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest/naive"
	"github.com/embedmatrix/homeserver/internal/event"
)

// The graph's answers are those of the definitions.
func TestGraphRandom(t *testing.T) {
	for _, version := range []string{"2", "12"} {
		for seed := range uint64(rounds(600)) {
			g := grow(t, seeded(seed), version)
			g.requireGraph(g.hostile(5+g.choose(40)), fmt.Sprintf("version %s, seed %d", version, seed))
		}
	}
}

func (g *growing) requireGraph(sets []naive.State, why string) {
	g.t.Helper()
	_, conflicted := naive.Split(sets)
	p := g.problem(sets)
	require.Equal(g.t, sorted(naive.Difference(sets, g.find)), ids(p.Difference), "the auth difference, %s", why)
	require.Equal(g.t, sorted(naive.Subgraph(conflicted, g.find)), ids(p.Subgraph), "the conflicted state subgraph, %s", why)
}

func ids(events []*event.Event) []string {
	set := naive.Set{}
	for _, e := range events {
		set[e.ID] = true
	}
	return sorted(set)
}

func sorted(set naive.Set) []string {
	all := []string{}
	for eid := range set {
		all = append(all, string(eid))
	}
	slices.Sort(all)
	return all
}
