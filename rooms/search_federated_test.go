package rooms_test

import (
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

const soon, often = 5 * time.Second, 20 * time.Millisecond

// PR-07, C-51: users of other servers are found by rooms alone: by everybody in open ones, else by those who share one,
// under the name that they have there. When the server has left a room, nobody finds its members.
func TestUserDirectoryOfOtherServers(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	alice := one.User("alice")
	bob, eve := two.User("bob"), two.User("eve")
	setField(alice, "displayname", "Alice Cooper").WantOK()
	private := alice.CreateRoom(homeservertest.Private)
	alice.SetState(private, "m.room.member", alice.ID, map[string]any{"membership": "join", "displayname": "Freddy"}).WantOK()
	alice.MustInvite(private, bob)
	bob.MustJoin(private)
	require.Equal(t, []string{alice.ID}, people(bob, "freddy"), "what was told when one joined")
	require.Empty(t, people(bob, "cooper"))
	require.Empty(t, people(eve, "freddy"))
	require.Empty(t, people(eve, "alice"))
	require.Equal(t, []string{bob.ID}, people(alice, "bob"))

	open := alice.CreateRoom(homeservertest.Public)
	bob.Do("POST", v3+"/join/"+open+"?server_name=one.test", map[string]any{}).WantOK()
	require.Equal(t, []string{alice.ID}, people(eve, "cooper"))
	require.Empty(t, people(eve, "freddy"))
	setField(alice, "displayname", "Alice B").WantOK()
	require.Eventually(t, func() bool { return len(people(eve, "alice b")) == 1 }, soon, often, "by events that come")
	require.Empty(t, people(eve, "cooper"))
	alice.SetState(open, "m.room.join_rules", "", map[string]any{"join_rule": "invite"}).WantOK()
	require.Eventually(t, func() bool { return len(people(eve, "alice")) == 0 }, soon, often)
	alice.SetState(open, "m.room.join_rules", "", map[string]any{"join_rule": "public"}).WantOK()
	require.Eventually(t, func() bool { return len(people(eve, "alice")) == 1 }, soon, often)
	bob.MustLeave(open)
	require.Empty(t, people(eve, "alice"), "this server is no longer in the room")
	require.Equal(t, []string{alice.ID}, people(bob, "alice"))
	bob.MustLeave(private)
	require.Empty(t, people(bob, "alice"))
}

// PA-22: what is said elsewhere is found, and so is history that comes later, which counts as older. PA-23: redactions
// and edits of others count.
func TestSearchOfOtherServers(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoomWith(map[string]any{"preset": "public_chat", "name": "needles", "topic": "needles"})
	early := alice.Send(room, "needle in the past")
	bob.Do("POST", v3+"/join/"+room+"?server_name=one.test", map[string]any{}).WantOK()
	body := map[string]any{"keys": []string{"content.body"}, "order_by": "recent"}
	require.Empty(t, foundIDs(search(bob, "needle", body)), "no server is asked")
	late := alice.Send(room, "needle now")
	require.Eventually(t, func() bool { return len(foundIDs(search(bob, "needle", body))) == 1 }, soon, often)
	bob.Messages(room, url.Values{"dir": {"b"}, "limit": {"100"}}).WantOK()
	require.Eventually(t, func() bool { return len(foundIDs(search(bob, "needle", body))) == 2 }, soon, often)
	require.Equal(t, []string{late, early}, foundIDs(search(bob, "needle", body)))
	require.Len(t, foundIDs(search(bob, "needles")), 2, "state that was told first, and found its place later")
	relate(alice, room, edited(early, "thread"))
	alice.Redact(room, late).WantOK()
	require.Eventually(t, func() bool { return len(foundIDs(search(bob, "needle", body))) == 0 }, soon, often)
	require.Equal(t, []string{early}, foundIDs(search(bob, "thread")))
}

// What was stored before there was an index is found.
func TestSearchInOldDatabases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	engine, err := sqlite.Open(path)
	require.NoError(t, err)
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.Storage = engine })
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	var sent []string
	for i := range 250 {
		sent = append(sent, alice.Send(room, fmt.Sprintf("needle %d", i)))
	}
	setField(alice, "displayname", "Alice Cooper").WantOK()
	search(alice, "needle").WantOK()

	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	defer db.Close()
	for _, table := range []string{"mx_search", "mx_search_edits", "mx_search_again", "mx_people", "mx_people_words", "mx_people_rooms", "mx_people_again"} {
		_, err := db.Exec("DELETE FROM " + table)
		require.NoError(t, err, table)
	}
	_, err = db.Exec("DELETE FROM mx_meta WHERE name = 'indexed'")
	require.NoError(t, err)
	hs.Restart()
	require.Len(t, foundIDs(search(alice, "needle", limited(100, nil))), 100)
	require.Equal(t, []string{sent[7]}, foundIDs(search(alice, "needle 7")))
	require.Equal(t, []string{alice.ID}, people(bob, "cooper"))
}
