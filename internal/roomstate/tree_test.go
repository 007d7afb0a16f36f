package roomstate

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

func openTrees(t testing.TB, cacheBytes int) *Trees {
	t.Helper()
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return newTrees(db, cacheBytes)
}

// put makes the state after one change and stores its nodes.
func (t *Trees) put(tb testing.TB, root Root, number int64, pos storage.Pos) Root {
	tb.Helper()
	ctx := context.Background()
	way, err := t.path(ctx, root, number)
	require.NoError(tb, err)
	act := &storage.Act{}
	root = t.set(act, root, way, pos)
	t.db.Queue(act)
	require.NoError(tb, act.Wait(ctx))
	return root
}

func (t *Trees) all(tb testing.TB, root Root) map[int64]storage.Pos {
	tb.Helper()
	got := map[int64]storage.Pos{}
	require.NoError(tb, t.Each(context.Background(), root, func(n int64, p storage.Pos) { got[n] = p }))
	return got
}

// A tree holds what was put into it, and every state that came before stays as it was.
func TestTreeIsAMapWithAPast(t *testing.T) {
	trees := openTrees(t, 1) // one node in memory: nearly everything is read back
	random := rand.New(rand.NewPCG(1, 2))
	want := map[int64]storage.Pos{}
	roots, pasts := []Root{0}, []map[int64]storage.Pos{{}}
	root := Root(0)
	for i := range int64(300) {
		number := random.Int64N(40)
		if i%10 == 0 {
			number = random.Int64N(50_000)
		}
		root = trees.put(t, root, number, i+1)
		want[number] = i + 1
		past := map[int64]storage.Pos{}
		for k, v := range want {
			past[k] = v
		}
		roots, pasts = append(roots, root), append(pasts, past)
	}
	for i, r := range roots {
		require.Equal(t, pasts[i], trees.all(t, r), "state %d", i)
	}
	for number := range int64(60) {
		got, err := trees.Get(context.Background(), root, number)
		require.NoError(t, err)
		require.Equal(t, want[number], got, "number %d", number)
	}
}

// The difference of two states is what a comparison of all their entries finds, in both directions.
func TestDiffIsTheDifference(t *testing.T) {
	trees := openTrees(t, 1<<20)
	random := rand.New(rand.NewPCG(3, 4))
	roots := []Root{0}
	root := Root(0)
	for i := range int64(120) {
		root = trees.put(t, root, random.Int64N(1+i*i/4), i+1)
		roots = append(roots, root)
	}
	for range 200 {
		a, b := roots[random.IntN(len(roots))], roots[random.IntN(len(roots))]
		before, after := trees.all(t, a), trees.all(t, b)
		want := map[int64][2]storage.Pos{}
		for n, p := range before {
			if after[n] != p {
				want[n] = [2]storage.Pos{p, after[n]}
			}
		}
		for n, p := range after {
			if before[n] != p {
				want[n] = [2]storage.Pos{before[n], p}
			}
		}
		got := map[int64][2]storage.Pos{}
		err := trees.Diff(context.Background(), a, b, func(n int64, x, y storage.Pos) { got[n] = [2]storage.Pos{x, y} })
		require.NoError(t, err)
		require.Equal(t, want, got, "from %d to %d", a, b)
	}
}

// A change of a state writes a node a level, however many entries the state has.
func TestAChangeWritesFewNodes(t *testing.T) {
	trees := openTrees(t, 16<<20)
	root := Root(0)
	for i := range int64(3000) {
		root = trees.put(t, root, i, i+1)
	}
	before := trees.db.NextNode()
	trees.put(t, root, 1234, 9999)
	require.LessOrEqual(t, trees.db.NextNode()-before, int64(3+1), "nodes for one change of 3,000 entries")
}

// A damaged node is an error, not a panic.
func FuzzParseNode(f *testing.F) {
	f.Add((&node{height: 2, bitmap: 5, vals: []int64{7, 900}}).body())
	f.Add([]byte{0, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := parseNode(body)
		if err != nil {
			return
		}
		again, err := parseNode(n.body())
		require.NoError(t, err)
		require.Equal(t, n.vals, again.vals)
		require.Equal(t, n.bitmap, again.bitmap)
	})
}
