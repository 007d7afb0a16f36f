package syncing_test

import (
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
