package rooms_test

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// kept is an engine that stays open when a server or a DB that used it closes.
type kept struct{ storage.Engine }

func (kept) Close() error { return nil }

// writer writes events into a room, one behind the other, without a server. They are not signed.
type writer struct {
	b    *testing.B
	db   *storage.DB
	room storage.Room
	like storage.Event // the room's newest event: the new ones are like it
	n    int
}

// write writes n events and returns their ids.
func (w *writer) write(n int, eventType string, content func(i int) map[string]any) []id.EventID {
	ids := make([]id.EventID, n)
	for i := 0; i < n; {
		act := &storage.Act{Positions: min(1000, n-i)}
		act.Place = func(act *storage.Act, first storage.Pos) {
			for k := range act.Positions {
				ids[i] = w.add(act, first+storage.Pos(k), eventType, content(i))
				i++
			}
			w.room.LastPos = first + storage.Pos(act.Positions) - 1
			act.Move(storage.RoomWrite{
				Room: w.room.Num, FromSeq: w.room.Seq, ToSeq: w.room.Seq + 1, State: w.room.State, LastPos: w.room.LastPos, Extremities: w.room.Extremities,
			})
			w.room.Seq++
		}
		w.db.Queue(act)
		require.NoError(w.b, act.Wait(context.Background()))
	}
	return ids
}

func (w *writer) add(act *storage.Act, pos storage.Pos, eventType string, content map[string]any) id.EventID {
	e := w.like
	w.n++
	e.Pos, e.Ord, e.ID, e.Txn = pos, pos<<storage.OrdShift, id.EventID(fmt.Sprintf("$%043d", w.n)), nil
	e.Before, e.After = e.Now, e.Now
	var err error
	e.JSON, err = sjson.SetBytes(e.JSON, "type", eventType)
	require.NoError(w.b, err)
	e.JSON, err = sjson.SetBytes(e.JSON, "content", content)
	require.NoError(w.b, err)
	e.JSON, err = canonjson.Append(nil, e.JSON)
	require.NoError(w.b, err)
	act.Add(storage.InsertEvent, e.Row()...)
	relType := gjson.GetBytes(e.JSON, `content.m\.relates_to.rel_type`).String()
	if relType == "" {
		return e.ID
	}
	row := storage.Relation{
		Room: e.Room, Ord: e.Ord, Pos: e.Pos, ID: e.ID, Kind: relType, Type: eventType,
		Parent: id.EventID(gjson.GetBytes(e.JSON, `content.m\.relates_to.event_id`).String()),
		Sender: id.UserID(gjson.GetBytes(e.JSON, "sender").String()), TS: gjson.GetBytes(e.JSON, "origin_server_ts").Int() + int64(w.n),
	}
	act.Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.Relate(&row) })
	return e.ID
}

// related100k is a room of 100,000 events: 500 threads of 20, one of 10,000, 20,000 reactions, 5,000 edits.
func related100k(b *testing.B) (alice *homeservertest.User, room string, roots []id.EventID) {
	engine, err := sqlite.Open(filepath.Join(b.TempDir(), "db"))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, engine.Close()) })
	hs := homeservertest.New(b, func(c *homeserver.Config) { c.Storage = kept{engine} })
	alice = hs.User("alice")
	room = alice.CreateRoom(homeservertest.Private)
	last := alice.Send(room, "the first")
	require.NoError(b, hs.Homeserver().Close(context.Background()))
	roots = fill100k(b, engine, id.RoomID(room), id.EventID(last))
	hs.Restart()
	return alice, room, roots
}

func fill100k(b *testing.B, engine storage.Engine, room id.RoomID, like id.EventID) (roots []id.EventID) {
	db, err := storage.Open(context.Background(), kept{engine})
	require.NoError(b, err)
	w := &writer{b: b, db: db}
	require.NoError(b, db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		if w.room, err = tx.Room(room); err == nil {
			w.like, err = tx.EventByID(like)
		}
		return err
	}))
	plain := func(i int) map[string]any { return map[string]any{"msgtype": "m.text", "body": fmt.Sprint(i)} }
	root := func(i int) string { return string(roots[i]) }
	w.write(54000, "m.room.message", plain)
	roots = w.write(1001, "m.room.message", plain)
	w.write(10000, "m.room.message", func(i int) map[string]any { return relatesTo("m.thread", root(500), fmt.Sprint(i)) })
	w.write(10000, "m.room.message", func(i int) map[string]any { return relatesTo("m.thread", root(i%500), fmt.Sprint(i)) })
	w.write(20000, "m.reaction", func(i int) map[string]any { return relatesTo("m.annotation", root(i%1001), "") })
	w.write(5000, "m.room.message", func(i int) map[string]any { return edited(root(i%1001), fmt.Sprint(i)) })
	require.NoError(b, db.Close())
	return roots
}

// BenchmarkRelated reads pages of a room of 100,000 events.
func BenchmarkRelated(b *testing.B) {
	alice, room, roots := related100k(b)
	relations := func(event id.EventID) string {
		return v1 + "/rooms/" + url.PathEscape(room) + "/relations/" + url.PathEscape(string(event))
	}
	threads := v1 + "/rooms/" + url.PathEscape(room) + "/threads"
	middle := url.QueryEscape(tokenAt(alice, room, string(roots[1000])))
	for _, ask := range []struct{ name, path string }{
		{"messages/20-newest", inRoom(room, "messages") + "?dir=b&limit=20"},
		{"messages/100-of-roots", inRoom(room, "messages") + "?dir=b&limit=100&from=" + middle},
		{"messages/20-of-roots", inRoom(room, "messages") + "?dir=b&limit=20&from=" + middle},
		{"event/root", inRoom(room, "event", string(roots[0]))},
		{"relations/20-of-10000", relations(roots[500]) + "?limit=20"},
		{"relations/20-of-10000-recurse", relations(roots[500]) + "?limit=20&recurse=true"},
		{"relations/20-of-45", relations(roots[0]) + "/m.thread?limit=20"},
		{"threads/20-of-501", threads + "?limit=20"},
		{"threads/20-participated", threads + "?limit=20&include=participated"},
	} {
		b.Run(ask.name, func(b *testing.B) {
			b.ReportAllocs()
			var r *homeservertest.Response
			for b.Loop() {
				r = alice.Do("GET", ask.path, nil).WantOK()
			}
			b.ReportMetric(float64(len(r.Body)), "bytes/answer")
		})
	}
}

// BenchmarkReact sends reactions, whose relations are kept, and for comparison messages of the same size.
func BenchmarkReact(b *testing.B) {
	alice := filed(b).User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	root := alice.Send(room, "root")
	for name, relType := range map[string]string{"plain": "", "annotation": "m.annotation", "thread": "m.thread", "reference": "m.reference"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				content := relatesTo(relType, root, "x")
				content["m.relates_to"].(map[string]any)["key"] = fmt.Sprint(b.N, i)
				alice.SendEvent(room, "m.room.message", content).WantOK()
			}
		})
	}
}
