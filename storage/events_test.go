package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

func TestArrivalAfter(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		queue(t, db, func(a *storage.Act, pos storage.Pos) {
			for num, name := range map[int64]string{1: "!a:x", 2: "!b:x", 3: "!c:x"} {
				a.Add(storage.InsertRoom, num, name, "11", int64(1), int64(0), pos, []byte("[]"))
			}
		})
		a := event(t, db, 1, storage.InTimeline)
		event(t, db, 3, storage.InTimeline)
		b := event(t, db, 2, storage.InTimeline)
		queue(t, db, func(act *storage.Act, pos storage.Pos) {
			e := storage.Event{Pos: pos, Room: 1, ID: "$filled", Ord: a<<storage.OrdShift + 1, Flags: storage.InTimeline, JSON: []byte("{}")}
			act.Add(storage.InsertEvent, e.Row()...)
		})
		c := event(t, db, 1, storage.InTimeline)
		after := func(from, to storage.Pos, others int) storage.Pos {
			pos, err := ask(t, db, func(tx *storage.Tx) (storage.Pos, error) {
				return tx.ArrivalAfter([]id.RoomID{"!a:x", "!b:x", "!none:x"}, from, to, others)
			})
			require.NoError(t, err)
			return pos
		}
		require.Equal(t, []storage.Pos{a, b, c, 0}, []storage.Pos{after(0, c, 0), after(0, c, 1), after(0, c, 2), after(0, c, 3)})
		require.Equal(t, b, after(a, c, 0), "not what is at from")
		require.Zero(t, after(b, c-1, 0), "nor what is behind to")
	})
}
