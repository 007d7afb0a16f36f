package rooms_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// subscription is a request about a subscription to a thread.
func subscription(u *homeservertest.User, method, room, root string, body any) *homeservertest.Response {
	return u.Do(method, "/_matrix/client/unstable/io.element.msc4306/rooms/"+url.PathEscape(room)+"/thread/"+url.PathEscape(root)+"/subscription", body)
}

func subscriptions(u *homeservertest.User, query string) *homeservertest.Response {
	return u.Do("GET", "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b"+query, nil)
}

// MSC4306: by hand and automatically; what was chosen by hand stays.
func TestThreadSubscriptions(t *testing.T) {
	alice, room, root := newRoot(t)
	reply := relate(alice, room, relatesTo("m.thread", root, "reply"))
	automatic := map[string]any{"automatic": reply}

	subscription(alice, "GET", room, root, nil).WantError(404, "M_NOT_FOUND")
	subscription(alice, "DELETE", room, root, nil).WantOK()
	require.Equal(t, "{}", string(subscriptions(alice, "").WantOK().Body), "there was nothing to unsubscribe from")
	require.Equal(t, "{}", string(subscription(alice, "PUT", room, root, automatic).WantOK().Body))
	require.True(t, subscription(alice, "GET", room, root, nil).WantOK().Get("automatic").Bool())
	subscription(alice, "PUT", room, root, map[string]any{}).WantOK()
	require.False(t, subscription(alice, "GET", room, root, nil).WantOK().Get("automatic").Bool())
	subscription(alice, "PUT", room, root, automatic).WantOK()
	require.False(t, subscription(alice, "GET", room, root, nil).WantOK().Get("automatic").Bool(), "by hand it stays")
	subscription(alice, "DELETE", room, root, nil).WantOK()
	subscription(alice, "GET", room, root, nil).WantError(404, "M_NOT_FOUND")
}

// MSC4306: whoever has unsubscribed does not subscribe because of what was there then.
func TestUnsubscribingLasts(t *testing.T) {
	alice, room, root := newRoot(t)
	first := relate(alice, room, relatesTo("m.thread", root, "1"))
	subscription(alice, "PUT", room, root, map[string]any{"automatic": first}).WantOK()
	second := relate(alice, room, relatesTo("m.thread", root, "2"))
	subscription(alice, "DELETE", room, root, nil).WantOK()
	third := relate(alice, room, relatesTo("m.thread", root, "3"))
	for _, old := range []string{first, second} {
		subscription(alice, "PUT", room, root, map[string]any{"automatic": old}).WantError(409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
		subscription(alice, "GET", room, root, nil).WantError(404, "M_NOT_FOUND")
	}
	subscription(alice, "PUT", room, root, map[string]any{"automatic": third}).WantOK()
	subscription(alice, "GET", room, root, nil).WantOK()
}

// MSC4306: what cannot be subscribed to.
func TestBadThreadSubscriptions(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	root, other := alice.Send(room, "root"), alice.Send(room, "other")
	elsewhere := relate(alice, room, relatesTo("m.thread", other, "elsewhere"))
	for _, cause := range []string{root, elsewhere} {
		subscription(alice, "PUT", room, root, map[string]any{"automatic": cause}).WantError(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")
	}
	subscription(alice, "PUT", room, root, map[string]any{"automatic": "x"}).WantError(400, "M_INVALID_PARAM")
	subscription(alice, "PUT", room, root, map[string]any{"automatic": 5}).WantError(400, "M_BAD_JSON")
	subscription(alice, "PUT", room, root, map[string]any{"automatic": "$unknown"}).WantError(404, "M_NOT_FOUND")
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		subscription(alice, method, room, "$unknown:x", map[string]any{}).WantError(404, "M_NOT_FOUND")
		subscription(bob, method, room, root, map[string]any{}).WantError(404, "M_NOT_FOUND")
	}
}

// MSC4308: the latest changes first, in pages.
func TestListOfThreadSubscriptions(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	var roots []string
	for i := range 5 {
		root := alice.Send(room, fmt.Sprint(i))
		subscription(alice, "PUT", room, root, map[string]any{}).WantOK()
		roots = append(roots, root)
	}
	subscription(alice, "DELETE", room, roots[0], nil).WantOK()
	all := subscriptions(alice, "").WantOK()
	require.Len(t, all.Get("subscribed."+gjsonPath(room)).Map(), 4)
	require.True(t, all.Get("unsubscribed."+gjsonPath(room)+"."+gjsonPath(roots[0])+".bump_stamp").Exists())
	require.False(t, all.Get("end").Exists())

	first := subscriptions(alice, "&limit=2").WantOK()
	require.Contains(t, first.Get("subscribed."+gjsonPath(room)).Map(), roots[4])
	second := subscriptions(alice, "&limit=4&from="+first.Get("end").String()).WantOK()
	require.Len(t, second.Get("subscribed."+gjsonPath(room)).Map(), 3)
	require.False(t, second.Get("end").Exists())
	since := alice.Sync("").NextBatch
	require.Equal(t, "{}", string(subscriptions(alice, "&to="+url.QueryEscape(since)).WantOK().Body))
	for _, query := range []string{"&limit=0", "&limit=x", "&from=x", "&to=x"} {
		subscriptions(alice, query).WantError(400, "M_INVALID_PARAM")
	}
	alice.Do("GET", "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=f", nil).WantError(400, "M_INVALID_PARAM")
}
