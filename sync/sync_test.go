package syncing_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const syncPath = "/_matrix/client/v3/sync"

// TestParameters: what is no value of a parameter is refused (SY-01), above all a token that this server has
// not given (SY-02).
func TestParameters(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	tests := []struct{ name, query, code string }{
		{"garbage", "since=garbage", "M_INVALID_PARAM"},
		{"empty token", "since=", "M_INVALID_PARAM"},
		{"far future", "since=s99999999_0_0", "M_INVALID_PARAM"},
		{"negative", "since=s-1_0_0", "M_INVALID_PARAM"},
		{"token of a history", "since=t1", "M_INVALID_PARAM"},
		{"long token", "since=s1_0_" + strings.Repeat("a", 100_000) + "%20", "M_INVALID_PARAM"},
		{"timeout is no number", "timeout=soon", "M_INVALID_PARAM"},
		{"full_state is no boolean", "full_state=1", "M_INVALID_PARAM"},
		{"use_state_after is no boolean", "use_state_after=yes", "M_INVALID_PARAM"},
		{"unknown presence", "set_presence=asleep", "M_INVALID_PARAM"},
		{"unknown filter", "filter=17", "M_INVALID_PARAM"},
		{"filter of nobody", "filter=abc", "M_INVALID_PARAM"},
		{"filter is not JSON", "filter=" + url.QueryEscape(`{"room":`), "M_BAD_JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			alice.Do("GET", syncPath+"?"+tt.query, nil).WantError(400, tt.code)
		})
	}
	for _, query := range []string{"set_presence=offline", "set_presence=online", "timeout=0", "timeout=-5", "full_state=true"} {
		alice.Do("GET", syncPath+"?"+query, nil).WantOK()
	}
}

// TestGuestsMaySync is SY-39.
func TestGuestsMaySync(t *testing.T) {
	homeservertest.New(t).Guest().Sync("")
}

// TestAnswerWithoutNews: next_batch is there, and what encrypting clients count on (SY-33); rooms without news
// are not listed (SY-08).
func TestAnswerWithoutNews(t *testing.T) {
	alice, _ := two(t)
	alice.CreateRoom(private)
	s := alice.Sync(alice.Sync("").NextBatch)
	require.NotEmpty(t, s.NextBatch)
	require.False(t, s.Get("rooms").Exists(), "nothing is new: %s", s.Body)
	require.Equal(t, `{"signed_curve25519":0}`, s.Get("device_one_time_keys_count").Raw)
	require.Equal(t, "[]", s.Get("device_unused_fallback_key_types").Raw)
}

// TestInitialSyncTellsEverything is SY-03.
func TestInitialSyncTellsEverything(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	in, gone, asked := alice.CreateRoom(private), alice.CreateRoom(private), bob.CreateRoom(private)
	alice.Send(in, "hello")
	alice.MustLeave(gone)
	bob.MustInvite(asked, alice)
	setData(alice, "org.example", object{"a": 1})
	s := alice.Sync("")
	require.Equal(t, []string{"hello"}, texts(s.Joined(in)))
	require.True(t, s.Invited(asked).Exists())
	require.False(t, s.Left(gone).Exists(), "a left room")
	require.Equal(t, "org.example", s.Get("account_data.events.0.type").Str)
	require.False(t, carol.Sync("").Get("rooms").Exists(), "somebody without rooms: %s", s.Body)
}

// TestSameTokenSameAnswer is SY-06.
func TestSameTokenSameAnswer(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	since := alice.Sync("").NextBatch
	bob.MustJoin(room)
	bob.Send(room, "hi")
	setData(alice, "org.example", object{})
	first := alice.Sync(since)
	bob.Send(room, "later")
	alice.Sync(first.NextBatch)
	again := alice.Sync(since)
	require.Equal(t, []string{"hi", "later"}, texts(again.Joined(room)))
	require.Equal(t, first.Get("account_data").Raw, again.Get("account_data").Raw)
	require.Equal(t, bob.ID, again.Joined(room).Get("summary.m\\.heroes.0").Str)
}

// poll starts a long poll; its answer comes on the channel.
func poll(ctx context.Context, u *homeservertest.User, since string, timeout string) <-chan *homeservertest.Response {
	c := make(chan *homeservertest.Response, 1)
	query := url.Values{"since": {since}, "timeout": {timeout}}
	go func() { c <- u.DoContext(ctx, "GET", syncPath+"?"+query.Encode(), nil) }()
	return c
}

// TestLongPollEnds: with nothing new a request ends when its time is over, empty but with a token (SY-04); a
// client cannot ask for hours (SY-05).
func TestLongPollEnds(t *testing.T) {
	for timeout, want := range map[string]time.Duration{"30000": 30 * time.Second, "99999999999": 2 * time.Minute, "0": 0} {
		synctest.Test(t, func(t *testing.T) {
			alice := homeservertest.New(t).User("alice")
			since, began := alice.Sync("").NextBatch, time.Now()
			r := (<-poll(t.Context(), alice, since, timeout)).WantOK()
			require.Equal(t, want, time.Since(began), "timeout=%s", timeout)
			require.False(t, r.Get("rooms").Exists())
			alice.Sync(r.Get("next_batch").Str)
		})
	}
}

// TestFullStateAndFirstSyncDoNotWait is the rest of SY-04.
func TestFullStateAndFirstSyncDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := homeservertest.New(t).User("alice")
		began := time.Now()
		s := ask(alice, "timeout", "30000")
		ask(alice, "since", s.NextBatch, "timeout", "30000", "full_state", "true")
		require.Zero(t, time.Since(began))
	})
}

// TestLongPollWakes is SY-41, of what there is so far.
func TestLongPollWakes(t *testing.T) {
	type story struct {
		alice, other *homeservertest.User // one account
		bob          *homeservertest.User
		room         string
		last         string // an event of alice in room
	}
	tests := []struct {
		name string
		do   func(story)
		got  string // a path of the answer that must exist
	}{
		{"message", func(s story) { s.bob.Send(s.room, "hi") }, "rooms.join.*.timeline.events.0"},
		{"own message of another device", func(s story) { s.other.Send(s.room, "hi") }, "rooms.join.*.timeline.events.0"},
		{"invite", func(s story) { s.bob.MustInvite(s.bob.CreateRoom(private), s.alice) }, "rooms.invite.*.invite_state"},
		{"kick", func(s story) {
			s.alice.SetState(s.room, "m.room.power_levels", "", object{"users": object{s.bob.ID: 100}})
			s.alice.SetState(s.room, "m.room.power_levels", "", object{"users": object{s.bob.ID: 100}, "users_default": 1})
		}, "rooms.join.*.timeline.events.0"},
		{"leave", func(s story) { s.other.MustLeave(s.room) }, "rooms.leave.*.timeline"},
		{"join", func(s story) { s.other.MustJoin(s.bob.CreateRoom(public)) }, "rooms.join.*.timeline"},
		{"account data", func(s story) { setData(s.other, "org.x", object{}) }, "account_data.events.0"},
		{"account data of a room", func(s story) {
			s.alice.Do("PUT", dataPath(s.alice, s.room, "org.x"), object{}).WantOK()
		}, "rooms.join.*.account_data.events.0"},
		{"tag", func(s story) { s.alice.Do("PUT", tagPath(s.alice, s.room, "u.x"), object{}).WantOK() }, "rooms.join.*.account_data.events.0"},
		{"receipt", func(s story) { read(s.bob, s.room, "m.read", s.last, object{}) }, "rooms.join.*.ephemeral.events.0"},
		{"typing", func(s story) { typing(s.bob, s.room, true) }, "rooms.join.*.ephemeral.events.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice, bob := two(t)
				other, room := alice.Login(), alice.CreateRoom(public)
				bob.MustJoin(room)
				last := alice.Send(room, "last")
				answer := poll(t.Context(), alice, alice.Sync("").NextBatch, "30000")
				synctest.Wait()
				began := time.Now()
				tt.do(story{alice, other, bob, room, last})
				r := (<-answer).WantOK()
				require.Less(t, time.Since(began), time.Second, "it woke by its timeout: %s", r.Body)
				require.True(t, r.Get(tt.got).Exists(), "%s in %s", tt.got, r.Body)
			})
		})
	}
}

// TestLongPollSleepsOn: what is no news for the client does not end its wait, and is not told afterwards.
func TestLongPollSleepsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob := two(t)
		room := alice.CreateRoom(public)
		bob.MustJoin(room)
		query := url.Values{
			"since": {alice.Sync("").NextBatch}, "timeout": {"30000"},
			"filter": {`{"room":{"timeline":{"types":["m.room.message"]},"state":{"types":[]}}}`},
		}
		answer := make(chan *homeservertest.Response, 1)
		go func() { answer <- alice.Do("GET", syncPath+"?"+query.Encode(), nil) }()
		synctest.Wait()
		began := time.Now()
		bob.SendEvent(room, "org.other", object{}).WantOK()
		time.Sleep(10 * time.Second)
		bob.Send(room, "hi")
		r := (<-answer).WantOK()
		require.Equal(t, 10*time.Second, time.Since(began))
		s := &homeservertest.Sync{Response: r}
		require.Equal(t, []string{"hi"}, texts(s.Joined(room)))
	})
}

// TestLongPollEndsWithItsClient is the other half of SY-05.
func TestLongPollEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := homeservertest.New(t).User("alice")
		ctx, gone := context.WithCancel(t.Context())
		answer := poll(ctx, alice, alice.Sync("").NextBatch, "30000")
		synctest.Wait()
		began := time.Now()
		gone()
		<-answer
		require.Zero(t, time.Since(began))
	})
}

func TestDrainAnswersLongPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t)
		alice := hs.User("alice")
		since := alice.Sync("").NextBatch
		answer := poll(t.Context(), alice, since, "30000")
		synctest.Wait()
		began := time.Now()
		hs.Homeserver().Drain()
		(<-answer).WantOK()
		(<-poll(t.Context(), alice, since, "30000")).WantOK()
		require.Zero(t, time.Since(began))
	})
}

// TestLongPollOutlivesWriteTimeout: a host's http.Server with short timeouts does not cut a long poll off.
func TestLongPollOutlivesWriteTimeout(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	since := alice.Sync("").NextBatch
	server := httptest.NewUnstartedServer(hs)
	server.Config.WriteTimeout, server.Config.ReadTimeout = 100*time.Millisecond, 100*time.Millisecond
	server.Start()
	defer server.Close()
	request, err := http.NewRequest("GET", server.URL+syncPath+"?timeout=400&since="+since, nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+alice.Token)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, 200, response.StatusCode)
}

// TestSyncAfterRestart: a token of the time before goes on where it ended, though the hub has forgotten.
func TestSyncAfterRestart(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	busy, read1, data, quiet, gone := alice.CreateRoom(public), alice.CreateRoom(public), alice.CreateRoom(public), alice.CreateRoom(public), alice.CreateRoom(public)
	for _, room := range []string{busy, read1, quiet} {
		bob.MustJoin(room)
	}
	last := alice.Send(read1, "read me")
	since := alice.Sync("").NextBatch
	bob.Send(busy, "news")
	read(bob, read1, "m.read", last, object{})
	alice.Do("PUT", dataPath(alice, data, "org.x"), object{}).WantOK()
	setData(alice, "org.global", object{})
	alice.MustLeave(gone)
	invited := carol.CreateRoom(private)
	carol.MustInvite(invited, alice)
	hs.Restart()
	s := alice.Sync(since)
	require.Equal(t, []string{"news"}, texts(s.Joined(busy)))
	require.Equal(t, "m.receipt", s.Joined(read1).Get("ephemeral.events.0.type").Str)
	require.Equal(t, "org.x", s.Joined(data).Get("account_data.events.0.type").Str)
	require.Equal(t, "org.global", s.Get("account_data.events.0.type").Str)
	require.True(t, s.Left(gone).Exists())
	require.True(t, s.Invited(invited).Exists())
	require.False(t, s.Joined(quiet).Exists(), "a room without news")
	require.False(t, alice.Sync(s.NextBatch).Get("rooms").Exists())
}
