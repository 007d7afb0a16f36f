package stateres_test

import (
	"fmt"
	"testing"

	"github.com/embedmatrix/homeserver/homeservertest/naive"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/stateres"
)

// busy is a room that forked.
type busy struct {
	*room
	t      testing.TB
	common naive.State
}

func newBusy(t testing.TB, version string, members int) *busy {
	b := &busy{newRoom(t, version), t, naive.State{}}
	create := `{"creator":"@u0:one","room_version":"` + version + `"}`
	b.set(b.common, 0, "@u0:one", "m.room.create", "", create)
	b.set(b.common, 0, "@u0:one", "m.room.member", "@u0:one", `{"membership":"join"}`)
	power := `{"users":{"@u0:one":100},"state_default":0}`
	if b.rules.PrivilegedCreators {
		power = `{"users":{"@u1:one":50},"state_default":0}`
	}
	b.set(b.common, 0, "@u0:one", "m.room.power_levels", "", power)
	b.set(b.common, 0, "@u0:one", "m.room.join_rules", "", `{"join_rule":"public"}`)
	for i := 1; i < members; i++ {
		user := fmt.Sprintf("@u%d:one", i)
		b.set(b.common, int64(i), id.UserID(user), "m.room.member", user, `{"membership":"join"}`)
	}
	return b
}

// set adds an event on top of a state and puts it into the state.
func (b *busy) set(s naive.State, ts int64, sender id.UserID, eventType, stateKey, content string) {
	g := growing{room: b.room}
	d := draft{
		name: fmt.Sprint(len(b.events)), sender: sender, eventType: eventType, stateKey: &stateKey, content: content, ts: ts,
	}
	d.auth = g.authEvents(d, s)
	for _, eid := range b.common { // any
		d.prev = []id.EventID{eid}
	}
	if len(b.events) < 2 {
		d.prev = nil
		if len(b.events) == 1 {
			d.prev = []id.EventID{b.events[0].ID}
		}
	}
	s[eventauth.Key{Type: eventType, StateKey: stateKey}] = b.add(b.t, d).ID
}

// forks makes two states with conflicts events in conflict: of four, two are of a state that affects nothing, and
// two are a member's.
func (b *busy) forks(conflicts int) []naive.State {
	sets := []naive.State{{}, {}}
	for i := range conflicts {
		s, n := sets[i%2], i/4
		for key, eid := range b.common {
			if len(s) < len(b.common) {
				s[key] = eid
			}
		}
		user := fmt.Sprintf("@u%d:one", 1+n)
		if i%4 < 2 {
			b.set(s, int64(i), id.UserID(user), "org.example.state", fmt.Sprint(n), `{"value":1}`)
		} else {
			b.set(s, int64(i), id.UserID(user), "m.room.member", user, `{"membership":"join","displayname":"new"}`)
		}
	}
	return sets
}

// BenchmarkResolve: two branches of a room with so many events in conflict.
func BenchmarkResolve(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		for _, conflicts := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("v%s/%d", version, conflicts), func(b *testing.B) {
				r := newBusy(b, version, conflicts/4+10)
				p := r.problem(r.forks(conflicts))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := stateres.Resolve(p); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkResolvePower: the same where all conflicts are about power, the worst case of the first phase.
func BenchmarkResolvePower(b *testing.B) {
	for _, version := range []string{"1", "11", "12"} {
		for _, conflicts := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("v%s/%d", version, conflicts), func(b *testing.B) {
				r := newBusy(b, version, 10)
				sets := make([]naive.State, 2)
				for i := range sets {
					sets[i] = naive.State{}
					for key, eid := range r.common {
						sets[i][key] = eid
					}
				}
				for i := range conflicts {
					user := fmt.Sprintf("@v%d:one", i/2)
					r.set(sets[i%2], int64(i), "@u0:one", "m.room.member", user, `{"membership":"ban"}`)
				}
				p := r.problem(sets)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := stateres.Resolve(p); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkDifference: 20 conflicts between two branches of a room of 10,000 members, from the positions of the
// conflicted events to the resolved state.
func BenchmarkDifference(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		b.Run("v"+version, func(b *testing.B) {
			r := newBusy(b, version, 10_000)
			sets := r.forks(20)
			p, g := r.problem(sets), r.graph()
			b.ReportMetric(float64(g.Cost())/float64(g.Len()), "B/node")
			of, common, all := conflictedPositions(r.room, sets)
			b.ReportAllocs()
			for b.Loop() {
				p.Difference = r.known(g.Difference(of, func(pos int64) bool { return common[pos] }))
				p.Subgraph = r.known(g.Subgraph(all))
				if _, err := stateres.Resolve(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func conflictedPositions(r *room, sets []naive.State) (of [][]int64, common map[int64]bool, all []int64) {
	unconflicted, conflicted := naive.Split(sets)
	common = map[int64]bool{}
	for _, eid := range unconflicted {
		common[int64(r.at[eid])] = true
	}
	for eid := range conflicted {
		all = append(all, int64(r.at[eid]))
	}
	for _, s := range sets {
		var positions []int64
		for key, eid := range s {
			if unconflicted[key] == "" {
				positions = append(positions, int64(r.at[eid]))
			}
		}
		of = append(of, positions)
	}
	return of, common, all
}
