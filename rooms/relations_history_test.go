package rooms_test

import (
	"context"
	"encoding/json"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// bundled is what alice is told beside an event of what relates to it.
func (f *federated) bundled(ev *event.Event) gjson.Result {
	f.t.Helper()
	ctx := context.Background()
	v, err := f.room.Viewer(ctx, alice, "", time.Now(), f.DB.Published())
	require.NoError(f.t, err)
	e := f.stored(ev)
	require.NoError(f.t, v.Aggregate(ctx, []*roomstate.Event{e}))
	body, ok, err := v.Append(ctx, nil, e, true)
	require.NoError(f.t, err)
	require.True(f.t, ok)
	return gjson.GetBytes(body, `unsigned.m\.relations`)
}

// reply is a message of the peer in a thread.
func (p *peer) reply(root id.EventID, prev ...*event.Event) *event.Event {
	p.t.Helper()
	content, err := json.Marshal(relatesTo("m.thread", string(root), "reply"))
	require.NoError(p.t, err)
	d := p.text(mal, "")
	d.Content = content
	if len(prev) > 0 {
		d.PrevEvents = idsOf(prev...)
	}
	return p.make(d)
}

// What another server sends is aggregated, if it is accepted.
func TestRelationsOfOtherServers(t *testing.T) {
	f := newFederated(t, "11")
	root := f.say(alice, "root")
	reply := f.peer.reply(root.ID)
	require.NoError(t, f.deliver(reply))
	require.Equal(t, string(reply.ID), f.bundled(root).Get(`m\.thread.latest_event.event_id`).String())

	late := f.peer.reply(root.ID, reply)
	f.set(alice, mal, "ban")
	require.NoError(t, f.deliver(late))
	require.Equal(t, storage.SoftFailed, f.flags(late))
	require.EqualValues(t, 1, f.bundled(root).Get(`m\.thread.count`).Int(), "what is soft-failed is not told")
}

// An event may come after those that relate to it: memory notices, and a restart does too.
func TestRelationBeforeItsParent(t *testing.T) {
	f := newFederated(t, "11")
	start := f.say(alice, "start")
	root := f.peer.after(mal, "root", start)
	reply := f.peer.reply(root.ID, start)
	require.NoError(t, f.deliver(reply))
	require.NoError(t, f.deliver(root))
	require.Greater(t, f.stored(root).Ord, f.stored(reply).Ord)
	require.EqualValues(t, 1, f.bundled(root).Get(`m\.thread.count`).Int())

	cold := roomstate.NewCache(f.DB, f.Hub, roomstate.Config{})
	room, err := cold.Room(context.Background(), f.room.ID)
	require.NoError(t, err)
	require.True(t, room.MayBeRelated(f.stored(root).Ord))
	require.False(t, room.MayBeRelated(f.stored(root).Ord+1))
	after := f.say(alice, "after")
	require.False(t, f.room.MayBeRelated(f.stored(after).Ord), "memory knows that nothing relates to the latest")
}

// PA-18: a redaction of another server takes an event out of its thread; one that comes first keeps it out.
func TestRelationsRedactedElsewhere(t *testing.T) {
	f := newFederated(t, "11")
	root := f.say(alice, "root")
	first, second := f.peer.reply(root.ID), f.peer.reply(root.ID)
	require.NoError(t, f.deliver(first))
	require.EqualValues(t, 1, f.bundled(root).Get(`m\.thread.count`).Int())
	require.NoError(t, f.deliver(f.peer.redacts(mal, first.ID)))
	require.False(t, f.bundled(root).Exists())
	require.NoError(t, f.deliver(f.peer.redacts(mal, second.ID)))
	require.NoError(t, f.deliver(second))
	require.False(t, f.bundled(root).Exists())
}

// Rooms that were stored before relations were kept are gone through once.
func TestRelationsOfOldRooms(t *testing.T) {
	engine := sqlite.Memory()
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.Storage = engine })
	user := hs.User("alice")
	room := user.CreateRoom(homeservertest.Private)
	root := user.Send(room, "root")
	reply := relate(user, room, relatesTo("m.thread", root, "reply"))
	edit := relate(user, room, edited(reply, "edit"))
	gone := relate(user, room, relatesTo("m.thread", root, "gone"))
	user.Redact(room, gone).WantOK()
	require.NoError(t, hs.Homeserver().Close(context.Background()))
	forget(t, engine)
	hs.Restart()

	newer := relate(user, room, relatesTo("m.reference", root, "newer"))
	told := bundled(user, room, root)
	require.Equal(t, newer, told.Get(`m\.reference.chunk.0.event_id`).String())
	require.EqualValues(t, 1, told.Get(`m\.thread.count`).Int())
	require.Equal(t, edit, told.Get(`m\.thread.latest_event.unsigned.m\.relations.m\.replace.event_id`).String())
	require.Equal(t, []string{newer, edit, reply}, ids(relations(user, room, root, url.Values{"recurse": {"true"}}).WantOK().Get("chunk")))
	require.Equal(t, []string{root}, ids(threads(user, room, nil).WantOK().Get("chunk")))
	hs.Restart()
	require.EqualValues(t, 1, bundled(user, room, root).Get(`m\.thread.count`).Int(), "no more than once")
}

// forget makes a database look like one that was just brought up to date.
func forget(t *testing.T, engine storage.Engine) {
	tx, err := engine.Begin(context.Background(), false)
	require.NoError(t, err)
	for _, text := range []string{
		"DELETE FROM mx_relations", "DELETE FROM mx_threads", "DELETE FROM mx_thread_senders",
		"UPDATE mx_meta SET value = CAST('1000' AS BLOB) WHERE name = 'relations_from'",
	} {
		_, err := tx.ExecContext(context.Background(), text)
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
}
