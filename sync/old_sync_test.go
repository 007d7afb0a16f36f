package syncing_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const clientV3 = "/_matrix/client/v3"

// oldPath is the path of the old initial sync of a room.
func oldPath(room string) string { return roomPath(room, "initialSync") }

// readableByAll lets everybody look into a room, or lets them no longer.
func readableByAll(u *homeservertest.User, room string, all bool) {
	visibility := map[bool]string{true: "world_readable", false: "joined"}[all]
	u.SetState(room, "m.room.history_visibility", "", object{"history_visibility": visibility}).WantOK()
}

// bodies are the texts of the messages in a list of events.
func bodies(events gjson.Result) []string {
	list := []string{}
	for _, e := range events.Array() {
		if e.Get("type").Str == "m.room.message" {
			list = append(list, e.Get("content.body").Str)
		}
	}
	return list
}

// typed are the events of a type in a list.
func typed(events gjson.Result, eventType string) (list []gjson.Result) {
	for _, e := range events.Array() {
		if e.Get("type").Str == eventType {
			list = append(list, e)
		}
	}
	return list
}

// oldRoom finds a room in an old initial sync.
func oldRoom(r *homeservertest.Response, room string) (found gjson.Result) {
	for _, info := range r.Get("rooms").Array() {
		if info.Get("room_id").Str == room {
			found = info
		}
	}
	return found
}

// TestInitialSync: the old initial sync tells of every room, its state, its last messages and what the user keeps there.
func TestInitialSync(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	private := bob.CreateRoom(private)
	bob.MustInvite(private, alice)
	bob.MustJoin(room)
	send(bob, room, "one", "two", "three")
	latest := bob.Send(room, "four")
	read(alice, room, "m.read", latest, object{})
	setData(alice, "org.example", object{"a": 1})
	alice.Do("PUT", dataPath(alice, room, "org.example.here"), object{"b": 2}).WantOK()
	alice.Do("PUT", clientV3+"/directory/list/room/"+url.PathEscape(room), object{"visibility": "public"}).WantOK()

	r := alice.Do("GET", clientV3+"/initialSync?limit=2", nil).WantOK()
	require.Equal(t, 1.0, r.Get(`account_data.#(type=="org.example").content.a`).Num)
	require.Equal(t, latest, r.Get("receipts.0.content|@keys|0").Str)
	require.Equal(t, room, r.Get("receipts.0.room_id").Str)
	me := r.Get(`presence.#(content.user_id=="` + alice.ID + `")`)
	require.Equal(t, "online", me.Get("content.presence").Str)
	require.True(t, me.Get("content.last_active_ago").Exists())

	here := oldRoom(r, room)
	require.Equal(t, "join", here.Get("membership").Str)
	require.Equal(t, "public", here.Get("visibility").Str)
	require.Equal(t, []string{"three", "four"}, bodies(here.Get("messages.chunk")))
	require.Equal(t, bob.ID, here.Get("messages.chunk.0.user_id").Str, "the sender, as clients of old read it")
	require.Equal(t, room, here.Get("messages.chunk.0.room_id").Str)
	require.Equal(t, "join", membersIn(here.Get("state"))[bob.ID])
	require.NotEmpty(t, typed(here.Get("state"), "m.room.power_levels"))
	require.Equal(t, 2.0, here.Get("account_data.0.content.b").Num)
	older := alice.Messages(room, url.Values{"dir": {"b"}, "from": {here.Get("messages.start").Str}, "limit": {"2"}})
	require.Equal(t, []string{"two", "one"}, bodies(older.Get("chunk")), "where the messages go on")

	there := oldRoom(r, private)
	require.Equal(t, "invite", there.Get("membership").Str)
	require.Equal(t, bob.ID, there.Get("invite.sender").Str)
	require.False(t, there.Get("state").Exists())

	bob.Send(room, "five")
	require.Equal(t, []string{"five"}, bodies(stream(alice, r.Get("end").Str).Get("chunk")), "its end is where /events goes on")
}

// TestInitialSyncOfLeftRooms: those are told of if the client asks for it, as they were then.
func TestInitialSyncOfLeftRooms(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	name(alice, room, "then")
	send(alice, room, "before")
	bob.MustLeave(room)
	name(alice, room, "now")
	send(alice, room, "after")

	require.False(t, oldRoom(bob.Do("GET", clientV3+"/initialSync", nil).WantOK(), room).Exists())
	gone := oldRoom(bob.Do("GET", clientV3+"/initialSync?archived=true&limit=2", nil).WantOK(), room)
	alone := bob.Do("GET", roomPath(room, "initialSync?limit=2"), nil).WantOK()
	require.Empty(t, alone.Get("presence").Array())
	require.Empty(t, alone.Get("receipts").Array())
	for _, told := range []gjson.Result{gone, alone.Get("@this")} {
		require.Equal(t, "leave", told.Get("membership").Str)
		require.Equal(t, "then", state(told.Get("state"), "m.room.name", "").Get("content.name").Str)
		require.Equal(t, []string{"before"}, bodies(told.Get("messages.chunk")))
	}
}

// TestInitialSyncParameters: 0 asks for no messages, and what is no number is refused.
func TestInitialSyncParameters(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	for _, path := range []string{clientV3 + "/initialSync", oldPath(room)} {
		for _, query := range []string{"limit=hello", "limit=-1"} {
			alice.Do("GET", path+"?"+query, nil).WantError(400, "M_INVALID_PARAM")
		}
	}
	alice.Do("GET", clientV3+"/initialSync?archived=perhaps", nil).WantError(400, "M_INVALID_PARAM")
	require.Equal(t, "[]", oldRoom(alice.Do("GET", clientV3+"/initialSync?limit=0", nil), room).Get("messages.chunk").Raw)
	require.Equal(t, "[]", alice.Do("GET", roomPath(room, "initialSync?limit=0"), nil).Get("messages.chunk").Raw)
}

// TestRoomInitialSync: a member gets the room with those who are in it.
func TestRoomInitialSync(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	latest := alice.Send(room, "hello")
	read(bob, room, "m.read", latest, object{})
	bob.Do("PUT", dataPath(bob, room, "org.example"), object{"a": 1}).WantOK()

	r := bob.Do("GET", oldPath(room), nil).WantOK()
	require.Equal(t, room, r.Get("room_id").Str)
	require.Equal(t, "join", r.Get("membership").Str)
	require.Equal(t, []string{"hello"}, bodies(r.Get("messages.chunk")))
	require.Len(t, r.Get("presence").Array(), 2, "everybody in the room, whether heard of or not")
	require.True(t, r.Get("receipts.0.content").Get(escaped(latest)).Exists())
	require.Equal(t, 1.0, r.Get("account_data.0.content.a").Num)

	stranger := homeservertest.New(t).User("stranger")
	stranger.Do("GET", oldPath(room), nil).WantError(403, "M_FORBIDDEN")
}

// escaped is a key as gjson takes it.
func escaped(key string) string { return strings.NewReplacer(".", `\.`, "*", `\*`).Replace(key) }

// TestLookingIntoARoom is SY-43: of a world-readable room everybody, guests too, sees the state and what was sent while it
// was world-readable; of any other nothing.
func TestLookingIntoARoom(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(private)
	send(alice, room, "among us")
	for _, outsider := range []*homeservertest.User{hs.User("bob"), hs.Guest()} {
		readableByAll(alice, room, false)
		outsider.Do("GET", oldPath(room), nil).WantError(403, "M_FORBIDDEN")
		outsider.Do("GET", clientV3+"/events?timeout=0&room_id="+url.QueryEscape(room), nil).WantError(403, "M_FORBIDDEN")
		readableByAll(alice, room, true)
		send(alice, room, "to all")

		r := outsider.Do("GET", roomPath(room, "initialSync?limit=2"), nil).WantOK()
		require.Equal(t, []string{"to all"}, bodies(r.Get("messages.chunk")))
		require.Len(t, r.Get("messages.chunk").Array(), 2)
		require.False(t, r.Get("membership").Exists())
		require.Equal(t, "join", membersIn(r.Get("state"))[alice.ID])
		require.NotEmpty(t, r.Get("presence").Array())
	}
}

// outside asks for what is new in a room that the user is not in.
func outside(u *homeservertest.User, room, from string) *homeservertest.Response {
	return u.Do("GET", clientV3+"/events?timeout=0&room_id="+url.QueryEscape(room)+"&from="+url.QueryEscape(from), nil)
}

// TestPeeking is SY-44 and C-54: who looks into a room is told what happens there, and nothing of other rooms; once
// the room is private again they learn that, and nothing of what is sent from then on.
func TestPeeking(t *testing.T) {
	alice, bob := two(t)
	room, other := alice.CreateRoom(private), alice.CreateRoom(public)
	readableByAll(alice, room, true)
	readableByAll(alice, other, true)
	from := bob.Do("GET", oldPath(room), nil).WantOK().Get("messages.end").Str
	require.Equal(t, "[]", outside(bob, room, from).WantOK().Get("chunk").Raw)

	send(alice, other, "elsewhere")
	sent := alice.Send(room, "moose")
	read(alice, room, "m.read", sent, object{})
	alice.Do("PUT", roomPath(room, "typing/")+url.PathEscape(alice.ID), object{"typing": true}).WantOK()
	alice.Do("PUT", clientV3+"/presence/"+url.PathEscape(alice.ID)+"/status", object{"presence": "online", "status_msg": "here"}).WantOK()
	news := outside(bob, room, from).WantOK()
	require.Equal(t, []string{"moose"}, bodies(news.Get("chunk")))
	require.Equal(t, sent, news.Get(`chunk.#(type=="m.receipt").content|@keys|0`).Str)
	require.Equal(t, room, news.Get(`chunk.#(type=="m.typing").room_id`).Str)
	require.Equal(t, alice.ID, news.Get(`chunk.#(type=="m.presence").content.user_id`).Str)
	from = news.Get("end").Str
	require.Equal(t, "[]", outside(bob, room, from).WantOK().Get("chunk").Raw, "told once")

	readableByAll(alice, room, false)
	send(alice, room, "secret")
	outside(bob, room, from).WantError(403, "M_FORBIDDEN")
	bob.Do("GET", oldPath(room), nil).WantError(403, "M_FORBIDDEN")
	readableByAll(alice, room, true)
	require.NotContains(t, bodies(outside(bob, room, from).WantOK().Get("chunk")), "secret", "sent while nobody outside could read it")
}

// TestPeekingWaits: who waits outside is woken by what happens inside, up to the change by which they may no longer look.
func TestPeekingWaits(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(private)
	readableByAll(alice, room, true)
	from := bob.Do("GET", oldPath(room), nil).WantOK().Get("messages.end").Str
	wait := func() chan *homeservertest.Response {
		got := make(chan *homeservertest.Response, 1)
		go func() {
			got <- bob.Do("GET", clientV3+"/events?timeout=60000&room_id="+url.QueryEscape(room)+"&from="+url.QueryEscape(from), nil)
		}()
		time.Sleep(10 * time.Millisecond)
		return got
	}
	news := wait()
	alice.Send(room, "news")
	told := <-news
	require.Equal(t, []string{"news"}, bodies(told.Get("chunk")))
	from = told.Get("end").Str

	last := wait()
	readableByAll(alice, room, false)
	told = <-last
	require.Equal(t, "joined", told.WantOK().Get("chunk.0.content.history_visibility").Str)
}

// TestEventsOfOneRoom: a member may narrow the stream to a room.
func TestEventsOfOneRoom(t *testing.T) {
	alice, _ := two(t)
	room, other := alice.CreateRoom(private), alice.CreateRoom(private)
	from := stream(alice, "").Get("end").Str
	send(alice, other, "elsewhere")
	send(alice, room, "here")
	require.Equal(t, []string{"here"}, bodies(outside(alice, room, from).WantOK().Get("chunk")))
}

// TestOneEvent: an event by its id alone, for those who may see it.
func TestOneEvent(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	before := alice.Send(room, "before")
	bob.MustJoin(room)
	bob.MustLeave(room)
	after := alice.Send(room, "after")
	path := func(event string) string { return clientV3 + "/events/" + url.PathEscape(event) }

	e := bob.Do("GET", path(before), nil).WantOK()
	require.Equal(t, "before", e.Get("content.body").Str)
	require.Equal(t, room, e.Get("room_id").Str)
	bob.Do("GET", path(after), nil).WantError(404, "M_NOT_FOUND")
	bob.Do("GET", path("$unknown"), nil).WantError(404, "M_NOT_FOUND")
	alice.Do("GET", path(after), nil).WantOK()
	bob.Forget(room).WantOK()
	bob.Do("GET", path(before), nil).WantError(404, "M_NOT_FOUND")
}
