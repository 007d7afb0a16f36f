package syncing_test

import (
	"crypto/rand"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// changeDevices does something to a user's devices.
func changeDevices(u *homeservertest.User) {
	u.Do("PUT", "/_matrix/client/v3/devices/"+url.PathEscape(u.Device), object{"display_name": rand.Text()}).WantOK()
}

// lists are whose devices have changed and whose are needed no more, as an answer of /sync says.
func lists(s *homeservertest.Sync) (changed, left []string) {
	return names(s.Get("device_lists.changed")), names(s.Get("device_lists.left"))
}

func names(list gjson.Result) []string {
	all := []string{}
	for _, name := range list.Array() {
		all = append(all, name.Str)
	}
	return all
}

func sorted(users ...*homeservertest.User) []string {
	all := []string{}
	for _, u := range users {
		all = append(all, u.ID)
	}
	slices.Sort(all)
	return all
}

// follower is somebody who syncs on, and asks /keys/changes for the same.
type follower struct {
	t     *testing.T
	user  *homeservertest.User
	since string
}

func follow(t *testing.T, u *homeservertest.User) *follower {
	return &follower{t, u, u.Sync("").NextBatch}
}

// wants is what the next answer of /sync, and of /keys/changes, has to say.
func (f *follower) wants(changed, left []string) {
	f.t.Helper()
	s := f.user.Sync(f.since)
	gotChanged, gotLeft := lists(s)
	require.Equal(f.t, changed, gotChanged, "changed, %s", s.Body)
	require.Equal(f.t, left, gotLeft, "left, %s", s.Body)
	q := url.Values{"from": {f.since}, "to": {s.NextBatch}}
	r := f.user.Do("GET", "/_matrix/client/v3/keys/changes?"+q.Encode(), nil).WantOK()
	require.Equal(f.t, changed, names(r.Get("changed")), "changed, %s", r.Body)
	require.Equal(f.t, left, names(r.Get("left")), "left, %s", r.Body)
	f.since = s.NextBatch
	require.False(f.t, f.user.Sync(f.since).Get("device_lists").Exists(), "it is told once")
}

// TestDeviceLists is SY-32: whose devices a client has to ask for again, through all that can happen to memberships.
func TestDeviceLists(t *testing.T) {
	p := people(t, "alice", "bob", "carol", "dave")
	alice, bob, carol, dave := p[0], p[1], p[2], p[3]
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	initial := alice.Sync("")
	require.False(t, initial.Get("device_lists").Exists(), "only present on an incremental sync")
	f := follow(t, alice)

	changeDevices(bob)
	f.wants(sorted(bob), nil2())
	changeDevices(alice)
	f.wants(sorted(alice), nil2())
	changeDevices(carol)
	f.wants(nil2(), nil2())
	alice.Login()
	f.wants(sorted(alice), nil2())

	carol.MustJoin(room)
	f.wants(sorted(carol), nil2())
	carol.Do("PUT", "/_matrix/client/v3/profile/"+url.PathEscape(carol.ID)+"/displayname", object{"displayname": "C"}).WantOK()
	f.wants(nil2(), nil2())
	carol.MustLeave(room)
	f.wants(nil2(), sorted(carol))
	changeDevices(carol)
	f.wants(nil2(), nil2())
	carol.MustJoin(room)
	f.wants(sorted(carol), nil2())

	carol.MustLeave(room)
	changeDevices(carol)
	carol.MustJoin(room)
	f.wants(sorted(carol), nil2())

	alice.MustInvite(room, dave)
	f.wants(sorted(dave), nil2())
	dave.MustJoin(room)
	f.wants(sorted(dave), nil2())
	alice.MustKick(room, dave)
	f.wants(nil2(), sorted(dave))
	dave.MustJoin(room)
	dave.MustLeave(room)
	f.wants(nil2(), nil2())
}

func nil2() []string { return []string{} }

// TestDeviceListsTwoRooms: nobody has left who shares another room.
func TestDeviceListsTwoRooms(t *testing.T) {
	p := people(t, "alice", "bob", "carol")
	alice, bob, carol := p[0], p[1], p[2]
	one, two := alice.CreateRoom(public), alice.CreateRoom(public)
	bob.MustJoin(one)
	bob.MustJoin(two)
	f := follow(t, alice)
	bob.MustLeave(one)
	f.wants(nil2(), nil2())
	bob.MustLeave(two)
	f.wants(nil2(), sorted(bob))
	bob.MustJoin(one)
	bob.MustJoin(two)
	carol.MustJoin(two)
	f.wants(sorted(bob, carol), nil2())
	changeDevices(bob)
	alice.MustLeave(two)
	f.wants(sorted(bob), sorted(carol))
	alice.MustLeave(one)
	f.wants(nil2(), sorted(bob))
}

// TestDeviceListsOfOwnRooms: whoever comes into a room is told of everybody there, themselves too.
func TestDeviceListsOfOwnRooms(t *testing.T) {
	p := people(t, "alice", "bob", "carol", "dave")
	alice, bob, carol, dave := p[0], p[1], p[2], p[3]
	room := bob.CreateRoom(public)
	carol.MustJoin(room)
	bob.MustInvite(room, dave)
	f := follow(t, alice)
	alice.MustJoin(room)
	f.wants(sorted(alice, bob, carol, dave), nil2())
	carol.MustLeave(room)
	alice.MustLeave(room)
	f.wants(nil2(), sorted(bob, carol))
	alice.MustJoin(room)
	alice.MustLeave(room)
	f.wants(nil2(), nil2())
	alice.MustJoin(room)
	f.wants(sorted(alice, bob, dave), nil2())
	alice.MustLeave(room)
	changeDevices(bob)
	alice.MustJoin(room)
	f.wants(sorted(alice, bob, dave), nil2())
}

// TestDeviceListsOfLongAgo: memory does not know what happened; the answer is the same.
func TestDeviceListsOfLongAgo(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol, dave := hs.User("alice"), hs.User("bob"), hs.User("carol"), hs.User("dave")
	room, other := alice.CreateRoom(public), dave.CreateRoom(public)
	for _, u := range []*homeservertest.User{bob, carol} {
		u.MustJoin(room)
	}
	f := follow(t, alice)
	changeDevices(bob)
	carol.MustLeave(room)
	alice.MustJoin(other)
	changeDevices(carol)
	hs.Restart()
	f.wants(sorted(alice, bob, dave), sorted(carol))
	hs.Restart()
	carol.MustJoin(room)
	hs.Restart()
	f.wants(sorted(carol), nil2())
}

// TestDeviceListsDespiteFilters: a filter on rooms is none on devices.
func TestDeviceListsDespiteFilters(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	since := alice.Sync("").NextBatch
	bob.MustJoin(room)
	s := ask(alice, "since", since, "filter", `{"room":{"rooms":[]}}`)
	changed, _ := lists(s)
	require.Equal(t, sorted(bob), changed)
	changeDevices(bob)
	changed, _ = lists(ask(alice, "since", s.NextBatch, "filter", `{"room":{"rooms":[]}}`))
	require.Equal(t, sorted(bob), changed)
}

// TestDeviceListsWake: a change ends the waiting of those who share a room.
func TestDeviceListsWake(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	answer := poll(t.Context(), alice, alice.Sync("").NextBatch, "20000")
	changeDevices(bob)
	require.Equal(t, sorted(bob), names((<-answer).WantOK().Get("device_lists.changed")))
}

// TestKeyCountsWake is SY-33: what a device has left of keys is told, at once when it changes.
func TestKeyCountsWake(t *testing.T) {
	alice, bob := two(t)
	upload := object{"one_time_keys": object{"curve25519:A": "a2V5", "curve25519:B": "a2V5Mg"}}
	other := alice.Login()
	since := alice.Sync("").NextBatch
	answer := poll(t.Context(), alice, since, "20000")
	alice.Do("POST", "/_matrix/client/v3/keys/upload", upload).WantOK()
	require.EqualValues(t, 2, (<-answer).WantOK().Get("device_one_time_keys_count.curve25519").Int())
	require.EqualValues(t, 0, other.Sync("").Get("device_one_time_keys_count.curve25519").Int())
	bob.Do("POST", "/_matrix/client/v3/keys/claim", object{
		"one_time_keys": object{alice.ID: object{alice.Device: "curve25519"}},
	}).WantOK()
	require.EqualValues(t, 1, alice.Sync(since).Get("device_one_time_keys_count.curve25519").Int())
}
