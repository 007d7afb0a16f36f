package rooms_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// threads asks for the threads of a room.
func threads(u *homeservertest.User, room string, query url.Values) *homeservertest.Response {
	return u.Do("GET", v1+"/rooms/"+url.PathEscape(room)+"/threads?"+query.Encode(), nil)
}

// PA-20: the thread with the newest event first, in pages.
func TestThreads(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	require.Equal(t, `{"chunk":[]}`, string(threads(alice, room, nil).WantOK().Body))
	var roots []string
	for i := range 5 {
		roots = append(roots, alice.Send(room, fmt.Sprint("root ", i)))
	}
	alice.Send(room, "no thread")
	for _, root := range roots {
		relate(alice, room, relatesTo("m.thread", root, "reply"))
	}
	require.Equal(t, reversed(roots), ids(threads(alice, room, nil).WantOK().Get("chunk")))
	latest := relate(alice, room, relatesTo("m.thread", roots[0], "again"))
	want := append([]string{roots[0]}, reversed(roots[1:])...)
	list := threads(alice, room, nil).WantOK().Get("chunk")
	require.Equal(t, want, ids(list))
	thread := list.Get(`0.unsigned.m\.relations.m\.thread`)
	require.Equal(t, latest, thread.Get("latest_event.event_id").String())
	require.Equal(t, room, thread.Get("latest_event.room_id").String())
	require.EqualValues(t, 2, thread.Get("count").Int())
	require.True(t, thread.Get("current_user_participated").Bool())

	query := url.Values{"limit": {"2"}}
	var got []string
	for n := 1; ; n++ {
		r := threads(alice, room, query).WantOK()
		got = append(got, ids(r.Get("chunk"))...)
		if !r.Get("next_batch").Exists() {
			require.Equal(t, 3, n)
			break
		}
		query.Set("from", r.Get("next_batch").String())
	}
	require.Equal(t, want, got)
}

// PA-20: whoever began a thread or has written in it takes part in it.
func TestThreadsOneTakesPartIn(t *testing.T) {
	alice, bob, room := newPair(t)
	root := alice.Send(room, "root")
	bobs := bob.Send(room, "root of bob")
	relate(alice, room, relatesTo("m.thread", root, "x"))
	relate(alice, room, relatesTo("m.thread", bobs, "x"))

	own := url.Values{"include": {"participated"}}
	require.Equal(t, []string{bobs}, ids(threads(bob, room, own).WantOK().Get("chunk")))
	require.Len(t, threads(bob, room, url.Values{"include": {"all"}}).WantOK().Get("chunk").Array(), 2)
	require.False(t, bundled(bob, room, root).Get(`m\.thread.current_user_participated`).Bool())
	reply := relate(bob, room, relatesTo("m.thread", root, "y"))
	require.Equal(t, []string{root, bobs}, ids(threads(bob, room, own).WantOK().Get("chunk")))
	require.True(t, bundled(bob, room, root).Get(`m\.thread.current_user_participated`).Bool())
	bob.Redact(room, reply).WantOK()
	require.False(t, bundled(bob, room, root).Get(`m\.thread.current_user_participated`).Bool())
}

// PA-18: a redacted child is out of the thread; the children of a redacted root remain.
func TestRedactionsInThreads(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	root, other := alice.Send(room, "root"), alice.Send(room, "other")
	first := relate(alice, room, relatesTo("m.thread", root, "1"))
	relate(alice, room, relatesTo("m.thread", other, "1"))
	second := relate(alice, room, relatesTo("m.thread", root, "2"))
	require.Equal(t, []string{root, other}, ids(threads(alice, room, nil).WantOK().Get("chunk")))

	alice.Redact(room, second).WantOK()
	thread := bundled(alice, room, root).Get(`m\.thread`)
	require.Equal(t, first, thread.Get("latest_event.event_id").String())
	require.EqualValues(t, 1, thread.Get("count").Int())
	require.Equal(t, []string{other, root}, ids(threads(alice, room, nil).WantOK().Get("chunk")), "in the order of what is left")

	alice.Redact(room, root).WantOK()
	require.Equal(t, first, bundled(alice, room, root).Get(`m\.thread.latest_event.event_id`).String())
	require.Equal(t, []string{other, root}, ids(threads(alice, room, nil).WantOK().Get("chunk")))
	alice.Redact(room, first).WantOK()
	require.Equal(t, []string{other}, ids(threads(alice, room, nil).WantOK().Get("chunk")), "a thread without events is none")
}

// PA-20: what cannot be asked.
func TestBadThreadRequests(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	for _, query := range []string{"from=x", "limit=0", "limit=-1", "limit=x", "include=some"} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		threads(alice, room, values).WantError(400, "M_INVALID_PARAM")
	}
	threads(bob, room, nil).WantError(403, "M_FORBIDDEN")
	threads(alice, "!unknown:x", nil).WantError(403, "M_FORBIDDEN")
}
