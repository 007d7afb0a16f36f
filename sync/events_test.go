package syncing_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// stream asks for the events since a token; "" asks where the stream is now.
func stream(u *homeservertest.User, from string) *homeservertest.Response {
	query := url.Values{}
	if from != "" {
		query.Set("from", from)
	}
	return u.Do("GET", "/_matrix/client/v3/events?"+query.Encode(), nil).WantOK()
}

// TestEventStream: the old stream tells each event once, with its room.
func TestEventStream(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(private)
	begin := stream(alice, "")
	require.Equal(t, "[]", begin.Get("chunk").Raw, "what was before it is not told")
	require.Equal(t, begin.Get("start").Str, begin.Get("end").Str)

	sent := alice.Send(room, "hello")
	setData(alice, "org.example", object{"a": 1})
	next := stream(alice, begin.Get("end").Str)
	require.Equal(t, begin.Get("end").Str, next.Get("start").Str)
	require.Equal(t, []string{"org.example", "m.room.message"}, strs(next.Get("chunk.#.type")))
	told := next.Get(`chunk.#(type=="m.room.message")`)
	require.Equal(t, room, told.Get("room_id").Str)
	require.Equal(t, sent, told.Get("event_id").Str)
	require.False(t, next.Get("chunk.0.room_id").Exists(), "account data that is of no room")

	before := stream(bob, "").Get("end").Str
	alice.MustInvite(room, bob)
	invite := stream(bob, before).Get("chunk")
	require.Len(t, invite.Array(), 1)
	require.Equal(t, "invite", invite.Get("0.content.membership").Str)
	require.Equal(t, room, invite.Get("0.room_id").Str)
	require.Empty(t, stream(alice, stream(alice, "").Get("end").Str).Get("chunk").Array())
}

// TestEventStreamLimit: an answer has so many events, the oldest, and none is left out between it and the next one; also
// of what came before a restart, and when somebody looks into a room from outside.
func TestEventStreamLimit(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoomWith(object{"preset": "public_chat", "initial_state": []object{
		{"type": "m.room.history_visibility", "state_key": "", "content": object{"history_visibility": "world_readable"}},
	}})
	other := bob.CreateRoom(private)
	begin := stream(alice, "").Get("end").Str
	var want []string
	for i := range 12 {
		bob.Send(other, "of no interest")
		want = append(want, alice.Send(room, fmt.Sprint(i)))
	}
	read := func(u *homeservertest.User, only string) (told []string) {
		for from := begin; len(told) < len(want); {
			next := u.Do("GET", "/_matrix/client/v3/events?limit=5&timeout=60000&from="+from+only, nil).WantOK()
			events := next.Get(`chunk.#(type=="m.room.message")#.event_id`)
			require.NotEmpty(t, events.Array(), "nothing was new after %v", told)
			require.LessOrEqual(t, len(events.Array()), 5)
			told, from = append(told, strs(events)...), next.Get("end").Str
		}
		return told
	}
	require.Equal(t, want, read(alice, ""))
	require.Equal(t, want, read(bob, "&room_id="+room))
	hs.Restart()
	require.Equal(t, want, read(alice, ""))
	require.Equal(t, want, read(bob, "&room_id="+room))
}

// TestEventStreamKeepsMessages: the old endpoints neither tell of messages to the device, nor acknowledge any that /sync
// has not told.
func TestEventStreamKeepsMessages(t *testing.T) {
	alice, bob := two(t)
	since := bob.Sync("").NextBatch
	first := bob.Do("GET", "/_matrix/client/v3/initialSync", nil).WantOK().Get("end").Str
	sendTo(alice, "1", to(bob, bob.Device, text("one"))).WantOK()
	for _, token := range []string{since, first, stream(bob, "").Get("end").Str} {
		next := stream(bob, token)
		require.Empty(t, next.Get("chunk").Array())
		end := stream(bob, next.Get("end").Str).Get("end").Str
		require.Equal(t, []string{"one"}, told(bob.Sync(end)), "nobody has told of it")
	}
	s := bob.Sync(since)
	stream(bob, s.NextBatch)
	require.Empty(t, told(bob.Sync(since)), "a token of /sync acknowledges here as well")
}

func strs(list gjson.Result) (texts []string) {
	for _, s := range list.Array() {
		texts = append(texts, s.Str)
	}
	return texts
}

// TestEventStreamWaits: a request returns when something comes.
func TestEventStreamWaits(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(private)
	alice.MustInvite(room, bob)
	bob.MustJoin(room)
	from := stream(bob, "").Get("end").Str
	got := make(chan *homeservertest.Response, 1)
	go func() { got <- bob.Do("GET", "/_matrix/client/r0/events?timeout=60000&from="+from, nil) }()
	time.Sleep(10 * time.Millisecond)
	alice.Send(room, "news")
	require.Equal(t, "news", (<-got).Get("chunk.0.content.body").Str)
}

// TestEventStreamParameters: what is no value of a parameter is refused.
func TestEventStreamParameters(t *testing.T) {
	alice, _ := two(t)
	const path = "/_matrix/client/v3/events?"
	for _, query := range []string{"from=garbage", "from=s99999999_0_0", "timeout=soon", "limit=few", "limit=-2", "room_id=room"} {
		alice.Do("GET", path+query, nil).WantError(400, "M_INVALID_PARAM")
	}
	alice.Do("GET", path+"room_id=!r:hs", nil).WantError(403, "M_FORBIDDEN")
}
