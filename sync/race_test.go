package syncing_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// TestNothingLostNothingTwice is SY-07: whoever follows their tokens while many send gets every event of their
// rooms once, in one order, and every change of state.
func TestNothingLostNothingTwice(t *testing.T) {
	const senders, each, rooms, readers = 4, 40, 3, 3
	hs := homeservertest.New(t)
	owner := hs.User("owner")
	var ids []string
	for range rooms {
		ids = append(ids, owner.CreateRoom(public))
	}
	began := map[*homeservertest.User]string{}
	var read []*homeservertest.User
	for i := range readers {
		u := hs.User(fmt.Sprint("reader", i))
		for _, room := range ids {
			u.MustJoin(room)
		}
		began[u] = u.Sync("").NextBatch
		read = append(read, u)
	}
	var sending, reading sync.WaitGroup
	for i := range senders {
		u := hs.User(fmt.Sprint("sender", i))
		for _, room := range ids {
			u.MustJoin(room)
		}
		sending.Go(func() {
			for n := range each {
				room := ids[rand.IntN(rooms)]
				if n%10 == 0 {
					name(owner, room, fmt.Sprint("name ", n))
				}
				u.Send(room, fmt.Sprint(i, " ", n))
			}
		})
	}
	got := make([]map[string]int, readers)
	order := make([][]string, readers)
	for i, u := range read {
		got[i] = map[string]int{}
		reading.Go(func() {
			since, deadline := began[u], time.Now().Add(20*time.Second)
			for len(got[i]) < senders*each && time.Now().Before(deadline) {
				s := u.SyncWith(url.Values{"since": {since}, "timeout": {"2000"}, "filter": {`{"room":{"timeline":{"limit":1000}}}`}})
				for _, room := range ids {
					for _, text := range texts(s.Joined(room)) {
						got[i][text]++
						if room == ids[0] {
							order[i] = append(order[i], text)
						}
					}
					require.False(t, s.Joined(room).Get("timeline.limited").Bool())
				}
				since = s.NextBatch
			}
		})
	}
	sending.Wait()
	reading.Wait()
	for i := range readers {
		require.Len(t, got[i], senders*each, "reader %d", i)
		for text, n := range got[i] {
			require.Equal(t, 1, n, "reader %d got %q", i, text)
		}
		require.Equal(t, order[0], order[i], "one order for all")
	}
}

// TestJoiningWhileOthersTalk: whoever joins and leaves a busy room is told of each in its section, and of nothing
// that was said while they were out.
func TestJoiningWhileOthersTalk(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(public)
	alice.SetState(room, "m.room.history_visibility", "", object{"history_visibility": "joined"}).WantOK()
	stop := make(chan struct{})
	var talking sync.WaitGroup
	talking.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				alice.Send(room, fmt.Sprint(n))
			}
		}
	})
	since := bob.Sync("").NextBatch
	for range 20 {
		bob.MustJoin(room)
		s := bob.Sync(since)
		require.True(t, s.Joined(room).Exists(), "after joining: %s", s.Body)
		members := membersIn(s.Joined(room).Get("state.events"))
		maps.Copy(members, membersIn(s.Joined(room).Get("timeline.events")))
		require.Equal(t, "join", members[bob.ID])
		bob.MustLeave(room)
		s = bob.Sync(s.NextBatch)
		events := s.Left(room).Get("timeline.events").Array()
		require.NotEmpty(t, events, "after leaving: %s", s.Body)
		require.Equal(t, bob.ID, events[len(events)-1].Get("state_key").Str, "nothing behind the leave")
		since = s.NextBatch
	}
	close(stop)
	talking.Wait()
}
