package homeservertest_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// FQ-11: a server with a list of others talks with those alone, whoever begins.
func TestOnlyServersOnTheList(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	closed := network.New("closed.test", func(cfg *homeserver.Config) { cfg.Federation.Allow = []string{"friend.test"} })
	friend, stranger := network.New("friend.test"), network.New("stranger.test")
	alice, fay, sam := closed.User("alice"), friend.User("fay"), stranger.User("sam")

	open := alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_alias_name": "open"})
	fay.MustJoin("#open:closed.test")
	alice.Send(open, "welcome")
	fay.Expect(open, homeservertest.Text("welcome"))
	sam.Join("#open:closed.test").WantError(403, "M_FORBIDDEN")
	sam.Do("POST", clientPath("join", open)+"?via=closed.test", map[string]any{}).WantError(403, "M_FORBIDDEN")

	var asked []string
	network.Intercept(func(r *http.Request) *http.Response {
		if homeservertest.Origin(r) == "closed.test" && r.URL.Host == "stranger.test" {
			asked = append(asked, r.URL.Path)
		}
		return nil
	})
	theirs := sam.CreateRoomWith(map[string]any{"preset": "public_chat", "room_alias_name": "theirs"})
	alice.Do("POST", clientPath("join", theirs)+"?via=stranger.test", map[string]any{}).WantError(403, "M_FORBIDDEN")
	alice.Invite(open, sam).WantError(403, "M_FORBIDDEN")
	sam.Invite(theirs, alice).WantError(403, "M_FORBIDDEN")
	require.Empty(t, asked, "the closed server has asked a stranger")

	shared := fay.CreateRoom(homeservertest.Public) // whom others talk with is theirs to say
	sam.Do("POST", clientPath("join", shared)+"?via=friend.test", map[string]any{}).WantOK()
	alice.Do("POST", clientPath("join", shared)+"?via=friend.test", map[string]any{}).WantOK()
	alice.Send(shared, "for friends")
	fay.Expect(shared, homeservertest.Text("for friends"))
	network.Settle(t.Context())
	require.Empty(t, asked)
	unsent, err := closed.Homeserver().Admin().Unsent()
	require.NoError(t, err)
	require.Empty(t, unsent, "what is for a stranger waits for nothing")
}

// FD-19: what a former key has signed stays valid, for this server and for others, as long as it is told.
func TestFormerSigningKey(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	file := filepath.Join(t.TempDir(), "hs.db")
	stored := func(cfg *homeserver.Config) {
		engine, err := sqlite.Open(file)
		require.NoError(t, err)
		cfg.Storage = engine
	}
	before := network.New("one.test", stored)
	alice := before.User("alice")
	room := alice.CreateRoom(homeservertest.Public)
	old := alice.Send(room, "signed by the old key")
	keyID, public, err := before.Homeserver().Admin().SigningKey()
	require.NoError(t, err)
	require.NoError(t, before.Homeserver().Close(context.Background()))

	_, fresh, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	ended := time.Now()
	after := network.New("one.test", stored, func(cfg *homeserver.Config) {
		cfg.SigningKey = fresh
		cfg.OldSigningKeys = []homeserver.OldSigningKey{{ID: keyID, Public: public, ExpiredAt: ended}}
	})
	told := after.Client("").Do("GET", keysPath, nil).WantOK()
	require.Equal(t, ended.UnixMilli(), told.Get("old_verify_keys").Map()[keyID].Get("expired_ts").Int())
	require.NotContains(t, told.Get("verify_keys").Map(), keyID)
	newID, _, err := after.Homeserver().Admin().SigningKey()
	require.NoError(t, err)
	require.Contains(t, told.Get("verify_keys").Map(), newID)

	bob := network.New("two.test").User("bob")
	bob.Do("POST", clientPath("join", room)+"?via=one.test", map[string]any{}).WantOK()
	page := bob.Messages(room, map[string][]string{"dir": {"b"}, "limit": {"50"}}).WantOK()
	require.Equal(t, "signed by the old key", page.Get(`chunk.#(event_id=="`+old+`").content.body`).String(), page.Body)
	alice = after.Client(alice.Token)
	e := gjson.ParseBytes(alice.Do("PUT", clientPath("rooms", room, "send", "m.room.message", "n1"), map[string]any{"msgtype": "m.text", "body": "new"}).WantOK().Body)
	bob.Expect(room, homeservertest.ID(e.Get("event_id").String()))
}

// Guests come into the rooms of other servers where guests may, and are out when they may no longer.
func TestGuestsInRoomsOfOthers(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	here, there := network.New("here.test"), network.New("there.test")
	bob := there.User("bob")
	access := func(room, access string) {
		bob.SetState(room, "m.room.guest_access", "", map[string]any{"guest_access": access}).WantOK()
	}
	invite := func(guest *homeservertest.User) (room string) {
		room = bob.CreateRoom(homeservertest.Private)
		access(room, "can_join")
		bob.MustInvite(room, guest)
		return room
	}
	guest := here.Guest()
	room := invite(guest)
	guest.MustJoin(room)
	guest.Send(room, "hello")
	bob.Expect(room, homeservertest.Text("hello"))

	closed := invite(guest)
	access(closed, "forbidden")
	guest.Join(closed).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
	network.Settle(t.Context())
	require.Equal(t, "leave", bob.State(closed, "m.room.member", guest.ID).WantOK().Get("membership").String())
	public := bob.CreateRoom(homeservertest.Public)
	guest.Do("POST", clientPath("join", public)+"?via=there.test", map[string]any{}).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
	require.False(t, guest.Sync("").Joined(public).Exists())

	alice := here.User("alice") // who is no guest and stays
	bob.MustInvite(room, alice)
	alice.MustJoin(room)
	access(room, "forbidden")
	alice.Expect(room, func(e gjson.Result) bool {
		return e.Get("type").String() == "m.room.member" && e.Get("state_key").String() == guest.ID && e.Get("content.membership").String() == "leave"
	})
	network.Settle(t.Context())
	require.Equal(t, "leave", bob.State(room, "m.room.member", guest.ID).Get("membership").String())
	require.Equal(t, "join", bob.State(room, "m.room.member", alice.ID).Get("membership").String())
}

// LK-07: nobody is invited from elsewhere into a room that administrators have blocked.
func TestBlockedRoomsOfOthers(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	here, there := network.New("here.test"), network.New("there.test")
	alice, bob := here.User("alice"), there.User("bob")
	room := bob.CreateRoom(homeservertest.Public)
	alice.Do("POST", clientPath("join", room)+"?via=there.test", map[string]any{}).WantOK()
	failed, err := here.Homeserver().Admin().RemoveRoom(t.Context(), room, true)
	require.NoError(t, err)
	require.Empty(t, failed)
	network.Settle(t.Context())
	require.Equal(t, "leave", bob.State(room, "m.room.member", alice.ID).Get("membership").String())
	bob.Invite(room, alice).WantError(403, "M_FORBIDDEN")
	alice.Do("POST", clientPath("join", room)+"?via=there.test", map[string]any{}).WantError(403, "M_FORBIDDEN")
}
