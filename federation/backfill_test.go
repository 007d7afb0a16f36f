package federation_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// clock is a time that tests move on.
type clock struct{ ahead atomic.Int64 }

func (c *clock) set(cfg *homeserver.Config) {
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }
}

func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// read returns the bodies of all messages of a room's history that a user can see, oldest first.
func read(t *testing.T, u *homeservertest.User, room string, limit int) (list []string) {
	t.Helper()
	for _, e := range slices.Backward(history(t, u, room, limit)) {
		if body := e.Get("content.body").String(); body != "" {
			list = append(list, body)
		}
	}
	return list
}

// Somebody who joins late through another server sees what somebody sees who joins late here.
func TestHistoryVisibilityForWhoJoinsLate(t *testing.T) {
	for _, visibility := range []string{"world_readable", "shared", "invited", "joined"} {
		t.Run(visibility, func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			one, two := network.New("one.test"), network.New("two.test")
			alice, carol, bob := one.User("alice"), one.User("carol"), two.User("bob")
			room := alice.CreateRoom(homeservertest.Public)
			alice.Send(room, "by default")
			alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": visibility}).WantOK()
			for i := range 120 {
				alice.Send(room, fmt.Sprint("before ", i))
			}
			alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "shared"}).WantOK()
			alice.Send(room, "shared again")
			carol.MustJoin(room)
			join(t, bob, room, "one.test")
			last := alice.Send(room, "last")
			bob.Expect(room, homeservertest.ID(last))
			require.Equal(t, read(t, carol, room, 30), read(t, bob, room, 30))
		})
	}
}

// rogueRoom is a room of a rogue with a user of a server in it.
func rogueRoom(t *testing.T, opts ...func(*homeserver.Config)) (bob *homeservertest.User, rogue *homeservertest.Rogue, room *homeservertest.RogueRoom, enter func()) {
	t.Helper()
	network := homeservertest.NewNetwork(t)
	server := network.New("two.test", opts...)
	rogue, bob = network.Rogue("rogue.test"), server.User("bob")
	room = rogue.CreateRoom("11", rogue.UserID("mallory"))
	return bob, rogue, room, func() { t.Helper(); join(t, bob, room.ID, "rogue.test") }
}

func TestF65PagesOfRejectedEventsEndNothing(t *testing.T) {
	bob, rogue, room, enter := rogueRoom(t)
	mallory := rogue.UserID("mallory")
	var want []string
	say := func(from, n int) {
		for i := range n {
			room.Extend(rogue.Text(mallory, fmt.Sprint("good ", from+i)))
			want = append(want, fmt.Sprint("good ", from+i))
		}
	}
	say(0, 20)
	for i := range 260 {
		room.Extend(rogue.Text("@nobody:rogue.test", fmt.Sprint("rejected ", i)))
	}
	say(20, 20)
	enter()
	require.Equal(t, want, read(t, bob, room.ID, 10))
	require.Equal(t, want, read(t, bob, room.ID, 10), "and again, with everything here")
}

func TestAGapInTheMiddleIsFilled(t *testing.T) {
	bob, rogue, room, enter := rogueRoom(t)
	mallory := rogue.UserID("mallory")
	var want []string
	say := func(i int) homeservertest.PDU {
		want = append(want, fmt.Sprint(i))
		return room.Extend(rogue.Text(mallory, fmt.Sprint(i)))
	}
	for i := range 10 {
		say(i)
	}
	enter()
	rogue.Send(bobServer{}, []homeservertest.PDU{say(10)}).WantOK()
	for i := range 150 {
		say(11 + i)
	}
	rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/get_missing_events/") {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	last := say(161)
	rogue.Send(bobServer{}, []homeservertest.PDU{last}).WantOK()
	bob.Expect(room.ID, homeservertest.ID(last.ID))
	require.Equal(t, want, read(t, bob, room.ID, 20))
	require.Equal(t, want, read(t, bob, room.ID, 1000))
}

// bobServer is where to send what is for two.test.
type bobServer struct{}

func (bobServer) Name() string { return "two.test" }

func TestSeveralServersAreAskedInTurn(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two, three := network.New("one.test"), network.New("two.test"), network.New("three.test")
	alice, bob, carol := one.User("alice"), two.User("bob"), three.User("carol")
	room := alice.CreateRoom(homeservertest.Public)
	for i := range 30 {
		alice.Send(room, fmt.Sprint(i))
	}
	join(t, bob, room, "one.test")
	want := read(t, bob, room, 100)
	join(t, carol, room, "two.test")
	network.Partition("three.test", "one.test")
	require.Equal(t, want, read(t, carol, room, 100))
}

func TestHistoryGoesOnWhenOthersCanBeReachedAgain(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	c := &clock{}
	one, two := network.New("one.test"), network.New("two.test", c.set)
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	for i := range 30 {
		alice.Send(room, fmt.Sprint(i))
	}
	join(t, bob, room, "one.test")
	network.Partition("two.test")
	page := bob.Messages(room, url.Values{"dir": {"b"}, "limit": {"10"}}).WantOK()
	end := page.Get("end").String()
	require.NotEmpty(t, end)
	again := bob.Messages(room, url.Values{"dir": {"b"}, "limit": {"10"}, "from": {end}}).WantOK()
	require.Empty(t, again.Get("chunk").Array())
	require.Equal(t, end, again.Get("end").String(), "this is not the end")
	network.Heal()
	c.advance(2 * time.Hour)
	require.Equal(t, read(t, alice, room, 100), read(t, bob, room, 10))
}

// A server that tells something else than was asked for, for ever, is not asked for ever.
func TestAHostileHistoryHasAnEnd(t *testing.T) {
	bob, rogue, room, enter := rogueRoom(t)
	mallory := rogue.UserID("mallory")
	for i := range 10 {
		room.Extend(rogue.Text(mallory, fmt.Sprint(i)))
	}
	enter()
	rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/backfill/") {
			return false
		}
		w.Write([]byte(`{"origin":"rogue.test","origin_server_ts":1,"pdus":[1,{},"x",null,[],{"type":"m.room.message"}]}`))
		return true
	})
	page := bob.Messages(room.ID, url.Values{"dir": {"b"}, "limit": {"10"}}).WantOK()
	require.Len(t, page.Get("chunk").Array(), 1)
	for range 5 {
		page = bob.Messages(room.ID, url.Values{"dir": {"b"}, "limit": {"10"}, "from": {page.Get("end").String()}}).WantOK()
	}
	require.Empty(t, page.Get("chunk").Array())
	require.LessOrEqual(t, len(rogue.Asked("/_matrix/federation/v1/backfill/")), 2)
}

func near(t *testing.T, u *homeservertest.User, room string, ts int64, dir string) *homeservertest.Response {
	t.Helper()
	return u.Do("GET", fmt.Sprintf("/_matrix/client/v1/rooms/%s/timestamp_to_event?ts=%d&dir=%s", url.PathEscape(room), ts, dir), nil)
}

func TestClientsJumpToADate(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	time.Sleep(5 * time.Millisecond)
	before := time.Now().UnixMilli()
	time.Sleep(5 * time.Millisecond)
	first := alice.Send(room, "first")
	time.Sleep(5 * time.Millisecond)
	second := alice.Send(room, "second")
	time.Sleep(5 * time.Millisecond)
	after := time.Now().UnixMilli()
	time.Sleep(5 * time.Millisecond)
	join(t, bob, room, "one.test")
	require.Equal(t, first, near(t, bob, room, before, "f").WantOK().Get("event_id").String())
	require.Equal(t, second, near(t, bob, room, after, "b").WantOK().Get("event_id").String())
	near(t, bob, room, 1000, "b").WantError(404, "M_NOT_FOUND")
	near(t, bob, room, after+1_000_000, "f").WantError(404, "M_NOT_FOUND")
	near(t, two.User("eve"), room, after, "b").WantError(403, "M_FORBIDDEN")
	near(t, bob, room, after, "x").WantError(400, "M_INVALID_PARAM")
	around := bob.Do("GET", v3+"/rooms/"+url.PathEscape(room)+"/context/"+url.PathEscape(second)+"?limit=0", nil).WantOK()
	page := bob.Messages(room, url.Values{"dir": {"b"}, "limit": {"100"}, "from": {around.Get("end").String()}}).WantOK()
	require.Equal(t, []string{"second", "first"}, bodies(page.Get("chunk"))[:2])
}

// An event far in the past comes alone, with gaps around it that are filled when somebody reads there.
func TestClientsJumpFarBack(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	c := &clock{}
	one, two := network.New("one.test", c.set), network.New("two.test", c.set)
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	var at []int64
	for i := range 700 {
		c.advance(time.Minute)
		at = append(at, time.Now().Add(time.Duration(c.ahead.Load())).UnixMilli())
		alice.Send(room, fmt.Sprint(i))
	}
	c.advance(time.Minute)
	join(t, bob, room, "one.test")
	jump := func(i int) string {
		found := near(t, bob, room, at[i]-30_000, "f").WantOK().Get("event_id").String()
		around := bob.Do("GET", v3+"/rooms/"+url.PathEscape(room)+"/context/"+url.PathEscape(found)+"?limit=6", nil).WantOK()
		require.Equal(t, fmt.Sprint(i), around.Get("event.content.body").String())
		require.Equal(t, []string{fmt.Sprint(i - 1), fmt.Sprint(i - 2), fmt.Sprint(i - 3)}, bodies(around.Get("events_before")))
		return around.Get("start").String()
	}
	jump(50)
	start := jump(200)
	page := bob.Messages(room, url.Values{"dir": {"b"}, "limit": {"100"}, "from": {start}}).WantOK()
	require.Equal(t, "196", page.Get("chunk.0.content.body").String())
	require.Equal(t, "97", page.Get("chunk.99.content.body").String())
	require.Equal(t, read(t, alice, room, 1000), read(t, bob, room, 90))
}

// Reading forwards fills what is missing on the way too.
func TestReadingForwardsFillsGaps(t *testing.T) {
	bob, rogue, room, enter := rogueRoom(t)
	mallory := rogue.UserID("mallory")
	enter()
	first := bob.Send(room.ID, "0")
	var want []string
	for i := range 250 {
		want = append(want, fmt.Sprint(i))
	}
	require.Eventually(t, func() bool { _, ok := room.Event(first); return ok }, 5*time.Second, time.Millisecond)
	for i := range 248 {
		room.Extend(rogue.Text(mallory, fmt.Sprint(i+1)))
	}
	rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		missing := strings.Contains(r.URL.Path, "/get_missing_events/")
		if missing {
			w.WriteHeader(http.StatusNotFound)
		}
		return missing
	})
	last := room.Extend(rogue.Text(mallory, "249"))
	rogue.Send(bobServer{}, []homeservertest.PDU{last}).WantOK()
	bob.Expect(room.ID, homeservertest.ID(last.ID))
	var got []string
	from := ""
	for range 100 {
		query := url.Values{"dir": {"f"}, "limit": {"40"}}
		if from != "" {
			query.Set("from", from)
		}
		page := bob.Messages(room.ID, query).WantOK()
		for _, body := range bodies(page.Get("chunk")) {
			if body != "" {
				got = append(got, body)
			}
		}
		if from = page.Get("end").String(); from == "" || len(got) == len(want) {
			break
		}
	}
	require.Equal(t, want, got)
}
