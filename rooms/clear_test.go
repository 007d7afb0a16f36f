package rooms_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

const redactEvents = "org.matrix.msc4293.redact_events"

// said are those of the messages in a room, "" for those that were redacted.
func said(u *homeservertest.User, room string) (list []string) {
	chunk := u.Messages(room, url.Values{"dir": {"f"}, "limit": {"1000"}}).WantOK().Get("chunk").Array()
	for _, e := range chunk {
		if e.Get("type").String() == "m.room.message" {
			list = append(list, e.Get("content.body").String())
		}
	}
	return list
}

// MSC4293: who is banned, or kicked, with redact_events leaves nothing behind: neither messages nor state nor relations,
// nor words by which they are found.
func TestBanWithEverything(t *testing.T) {
	for how, n := range map[string]int{"ban": 250, "kick": 3} { // more than is done at once, and less
		t.Run(how, func(t *testing.T) {
			alice, bob, room := newPair(t)
			alice.SetState(room, "m.room.power_levels", "", map[string]any{"state_default": 0}).WantOK()
			root := alice.Send(room, "root")
			bob.SetState(room, "m.room.topic", "", map[string]any{"topic": "bob's rhubarb"}).WantOK()
			bob.Send(room, "rhubarb")
			relate(bob, room, relatesTo("m.thread", root, "bob's reply"))
			for i := range n {
				bob.Send(room, fmt.Sprint(i))
			}
			last := bob.Send(room, "last")
			alice.Do("POST", inRoom(room, how), map[string]any{"user_id": bob.ID, "reason": "spam", redactEvents: true}).WantOK()

			require.Eventually(t, func() bool {
				left := said(alice, room)
				return len(left) == n+4 && left[0] == "root" && fmt.Sprint(left[1:]) == fmt.Sprint(make([]string, n+3))
			}, 10*time.Second, 20*time.Millisecond)
			e := alice.Do("GET", inRoom(room, "event", last), nil).WantOK()
			require.Equal(t, "{}", e.Get("content").Raw)
			require.Equal(t, "m.room.member", e.Get("unsigned.redacted_because.type").String())
			require.Equal(t, "spam", e.Get("unsigned.redacted_because.content.reason").String())
			require.JSONEq(t, "{}", string(alice.Do("GET", inRoom(room, "state", "m.room.topic"), nil).WantOK().Body))
			require.Empty(t, relations(alice, room, root, nil).WantOK().Get("chunk").Array())
			require.Empty(t, foundIDs(search(alice, "rhubarb")))
		})
	}
}

// It takes the power to redact, an order in so many words, and another one who is put out.
func TestBanWithoutRedaction(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	levels := func(redact, redaction int) {
		alice.SetState(room, "m.room.power_levels", "", map[string]any{
			"users": map[string]any{carol.ID: 50}, "redact": redact, "events": map[string]any{"m.room.redaction": redaction},
		}).WantOK()
	}
	carol.MustJoin(room)
	member := func(by *homeservertest.User, membership string, flag any) {
		by.SetState(room, "m.room.member", bob.ID, map[string]any{"membership": membership, redactEvents: flag}).WantOK()
	}
	bob.Send(room, "stays")
	levels(51, 0)
	member(carol, "ban", true)
	levels(50, 51)
	member(carol, "ban", true)
	levels(50, 50)
	member(carol, "ban", "true")
	member(carol, "leave", false)
	bob.MustJoin(room)
	member(bob, "leave", true)
	carol.Send(room, "hers")
	require.Never(t, func() bool { return said(alice, room)[0] != "stays" }, 300*time.Millisecond, 50*time.Millisecond)
	bob.MustJoin(room)
	member(carol, "leave", true)
	require.Eventually(t, func() bool { return fmt.Sprint(said(alice, room)) == "[ hers]" }, 10*time.Second, 20*time.Millisecond)
	bob.MustJoin(room)
	bob.Send(room, "again")
	require.Equal(t, "[ hers again]", fmt.Sprint(said(alice, room)), "who is let in again writes as before")
}

// A clearing that another server has sent works alike; what comes late of its target is redacted at the door.
func TestClearingOfAnotherServer(t *testing.T) {
	for _, version := range []string{"1", "10", "12"} {
		f := newFederated(t, version)
		f.Start()
		defer f.Close()
		require.NoError(t, f.deliver(f.peer.member(eve, "join")))
		before := f.heads()
		early := f.peer.text(eve, "early")
		sent := f.peer.make(early)
		require.NoError(t, f.deliver(sent))
		late := f.peer.text(eve, "late")
		late.PrevEvents = before
		lateEvent := f.peer.make(late)
		key := string(eve)
		ban := f.put(alice, "m.room.member", key, map[string]any{"membership": "ban", redactEvents: true})
		require.NoError(t, f.deliver(lateEvent))
		e := f.stored(lateEvent)
		require.Equal(t, storage.SoftFailed, e.Flags)
		require.Equal(t, f.stored(ban).Pos, e.RedactedBy, version)
		require.JSONEq(t, `{}`, string(e.Content()))
		require.Eventually(t, func() bool { return f.stored(sent).RedactedBy == f.stored(ban).Pos }, 5*time.Second, 5*time.Millisecond)
		f.alive()
	}
	f := newFederated(t, "11")
	f.Start()
	defer f.Close()
	require.NoError(t, f.deliver(f.peer.member(eve, "join")))
	f.put(alice, "m.room.power_levels", "", map[string]any{"users": map[string]any{string(alice): 100, string(mal): 60}})
	sent := f.peer.message(eve, "spam")
	require.NoError(t, f.deliver(sent))
	key := string(eve)
	kick := f.peer.make(event.Draft{
		Sender: mal, Type: "m.room.member", StateKey: &key, Content: contentOf(map[string]any{"membership": "leave", redactEvents: true}),
	})
	require.NoError(t, f.deliver(kick))
	require.Eventually(t, func() bool { return f.stored(sent).RedactedBy == f.stored(kick).Pos }, 5*time.Second, 5*time.Millisecond)
	require.Zero(t, f.stored(f.current("m.room.create", "")).RedactedBy)
	f.alive()
}

// A clearing outlives the process.
func TestClearingGoesOn(t *testing.T) {
	path := t.TempDir() + "/db"
	open := func() *federated {
		engine, err := sqlite.Open(path)
		require.NoError(t, err)
		return emptyFederated(t, engine)
	}
	f := open() // nothing is started
	room, err := f.Create(context.Background(), alice, rooms.NewRoom{Preset: "public_chat"})
	require.NoError(t, err)
	f.enter(room)
	f.join(bob)
	spam := f.say(bob, "spam")
	f.put(alice, "m.room.member", string(bob), map[string]any{"membership": "ban", redactEvents: true})
	require.Zero(t, f.stored(spam).RedactedBy)
	require.NoError(t, f.DB.Close())
	f = open()
	f.enter(room)
	f.Start()
	defer f.Close()
	require.Eventually(t, func() bool { return f.stored(spam).RedactedBy != 0 }, 5*time.Second, 5*time.Millisecond)
	require.NoError(t, f.DB.Read(context.Background(), func(tx *storage.Tx) error {
		left, err := tx.Clearings(10)
		require.Empty(t, left)
		return err
	}))
}

// What others have said between stays, and is passed over.
func TestClearingPassesOverOthers(t *testing.T) {
	f := newFederated(t, "11")
	f.Start()
	defer f.Close()
	first := f.say(bob, "spam")
	var others []*event.Event
	for i := range 450 {
		others = append(others, f.say(alice, fmt.Sprint(i)))
	}
	last := f.say(bob, "more spam")
	f.put(alice, "m.room.member", string(bob), map[string]any{"membership": "ban", redactEvents: true})
	require.Eventually(t, func() bool {
		return f.stored(first).RedactedBy != 0 && f.stored(last).RedactedBy != 0
	}, 5*time.Second, 5*time.Millisecond)
	for _, ev := range others {
		require.Zero(t, f.stored(ev).RedactedBy)
	}
	require.Eventually(t, func() (done bool) {
		require.NoError(t, f.DB.Read(context.Background(), func(tx *storage.Tx) error {
			left, err := tx.Clearings(1)
			done = len(left) == 0
			return err
		}))
		return done
	}, 5*time.Second, 5*time.Millisecond)
}
