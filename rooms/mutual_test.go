package rooms_test

import (
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const mutual = "/_matrix/client/v1/mutual_rooms"

func mutualRooms(u *homeservertest.User, path string, query url.Values) *homeservertest.Response {
	return u.Do("GET", path+"?"+query.Encode(), nil)
}

// ME-26: rooms in which both are.
func TestMutualRooms(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	both := []string{alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Public)}
	slices.Sort(both)
	invited, left := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Public)
	alice.CreateRoom(homeservertest.Public)
	bob.CreateRoom(homeservertest.Public)
	bob.MustJoin(both[0])
	bob.MustJoin(both[1])
	bob.MustJoin(left)
	bob.MustLeave(left)
	alice.MustInvite(invited, bob)
	want := `{"joined":["` + both[0] + `","` + both[1] + `"],"count":2}`
	for _, path := range []string{mutual, "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"} {
		require.JSONEq(t, want, string(mutualRooms(alice, path, url.Values{"user_id": {bob.ID}}).WantOK().Body))
		require.JSONEq(t, want, string(mutualRooms(bob, path, url.Values{"user_id": {alice.ID}}).WantOK().Body))
	}
	for _, user := range []string{"@nobody:hs.test", "@nobody:elsewhere.test"} {
		require.JSONEq(t, `{"joined":[],"count":0}`, string(mutualRooms(alice, mutual, url.Values{"user_id": {user}}).WantOK().Body))
	}
	for _, query := range []url.Values{
		{}, {"user_id": {""}}, {"user_id": {"bob"}}, {"user_id": {alice.ID}}, {"user_id": {bob.ID}, "from": {""}},
		{"user_id": {bob.ID}, "from": {"x"}}, {"user_id": {bob.ID}, "from": {"mx"}},
	} {
		mutualRooms(alice, mutual, query).WantError(400, "M_INVALID_PARAM")
	}
}

// ME-26: pages; the token lasts.
func TestMutualRoomsPages(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	var rooms []string
	for range 101 {
		room := alice.CreateRoom(homeservertest.Public)
		bob.MustJoin(room)
		rooms = append(rooms, room)
	}
	slices.Sort(rooms)
	first := mutualRooms(alice, mutual, url.Values{"user_id": {bob.ID}}).WantOK()
	require.Len(t, first.Get("joined").Array(), 100)
	require.EqualValues(t, 101, first.Get("count").Int())
	bob.MustLeave(rooms[99]) // the last that was told
	hs.Restart()
	second := mutualRooms(alice, mutual, url.Values{"user_id": {bob.ID}, "from": {first.Get("next_batch").String()}}).WantOK()
	require.JSONEq(t, `{"joined":["`+rooms[100]+`"],"count":100}`, string(second.Body))
}
