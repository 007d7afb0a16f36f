package federation_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const v3 = "/_matrix/client/v3"

// join lets a user into a room of another server.
func join(t *testing.T, u *homeservertest.User, room, via string) {
	t.Helper()
	u.Do("POST", v3+"/join/"+url.PathEscape(room)+"?via="+via, map[string]any{}).WantOK()
}

// history pages through what a user can see of a room, backwards to its beginning: the newest event is the first.
func history(t *testing.T, u *homeservertest.User, room string, limit int) (events []gjson.Result) {
	t.Helper()
	query := url.Values{"dir": {"b"}, "limit": {fmt.Sprint(limit)}}
	for range 500 {
		page := u.Messages(room, query).WantOK()
		events = append(events, page.Get("chunk").Array()...)
		end := page.Get("end").String()
		if end == "" {
			return events
		}
		require.NotEqual(t, query.Get("from"), end, "no way forward behind %v", events)
		query.Set("from", end)
	}
	t.Fatalf("no end after %d events", len(events))
	return nil
}

// pages returns the ids of a room's history, newest first.
func pages(t *testing.T, u *homeservertest.User, room string, limit int) (ids []string) {
	t.Helper()
	for _, e := range history(t, u, room, limit) {
		ids = append(ids, e.Get("event_id").String())
	}
	return ids
}

// versions are those whose events differ in form.
var versions = []string{"1", "6", "10", "11", "12"}

func TestWhoJoinsLatePagesToTheStart(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			one, two := network.New("one.test"), network.New("two.test")
			alice, bob := one.User("alice"), two.User("bob")
			room := alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_version": version})
			for i := range 130 {
				alice.Send(room, fmt.Sprint("message ", i))
			}
			join(t, bob, room, "one.test")
			want := pages(t, alice, room, 50)
			got := pages(t, bob, room, 37)
			require.Equal(t, want, got)
			require.Len(t, slices.Compact(slices.Sorted(slices.Values(got))), len(want))
			again := pages(t, bob, room, 100)
			require.Equal(t, want, again)
			require.True(t, strings.HasPrefix(got[0], "$"))
		})
	}
}
