package federation_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const v3 = "/_matrix/client/v3"

// join lets a user into a room of another server.
func join(t *testing.T, u *homeservertest.User, room, via string) {
	t.Helper()
	u.Do("POST", v3+"/join/"+url.PathEscape(room)+"?via="+via, map[string]any{}).WantOK()
}

// pages reads a room's history backwards to its end, and returns the ids of its events, newest first, and how many
// pages it took.
func pages(t *testing.T, u *homeservertest.User, room string, limit int) (ids []string, n int) {
	t.Helper()
	from := ""
	for n = 1; n < 200; n++ {
		query := url.Values{"dir": {"b"}, "limit": {fmt.Sprint(limit)}}
		if from != "" {
			query.Set("from", from)
		}
		page := u.Messages(room, query).WantOK()
		for _, e := range page.Get("chunk").Array() {
			ids = append(ids, e.Get("event_id").String())
		}
		end := page.Get("end").String()
		if end == "" {
			return ids, n
		}
		require.NotEqual(t, from, end, "no way forward after %d events", len(ids))
		from = end
	}
	t.Fatalf("no end after %d events", len(ids))
	return nil, 0
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
			want, _ := pages(t, alice, room, 50)
			got, _ := pages(t, bob, room, 37)
			require.Equal(t, want, got)
			require.Len(t, slices.Compact(slices.Sorted(slices.Values(got))), len(want))
			again, _ := pages(t, bob, room, 100)
			require.Equal(t, want, again)
			require.True(t, strings.HasPrefix(got[0], "$"))
		})
	}
}
