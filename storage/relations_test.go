package storage_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// related is a room of events that relate to each other; an event's place and position are its number.
type related struct {
	t  *testing.T
	db *storage.DB
}

const relatedRoom = 7

func child(n int64) id.EventID { return id.EventID(fmt.Sprint("$", n)) }

// add stores an event that relates to another one; a kind that is empty is none.
func (r *related) add(n, parent int64, kind string, sender id.UserID) {
	queue(r.t, r.db, func(a *storage.Act, _ storage.Pos) {
		e := storage.Event{Pos: n, Room: relatedRoom, ID: child(n), Ord: n, Flags: storage.InTimeline, JSON: []byte("{}")}
		a.Add(storage.InsertEvent, e.Row()...)
		if kind != "" {
			a.Also(func(tx *storage.Tx, _ storage.Pos) error { return r.relate(tx, n, parent, kind, sender) })
		}
	})
}

func (r *related) relate(tx *storage.Tx, n, parent int64, kind string, sender id.UserID) error {
	return tx.Relate(&storage.Relation{
		Room: relatedRoom, Ord: n, Pos: n, ID: child(n), Parent: child(parent), Kind: kind, Type: "t" + kind, Sender: sender, TS: 1000 - n,
	})
}

func (r *related) remove(n int64) {
	change(r.t, r.db, func(tx *storage.Tx, _ storage.Pos) error { return tx.Unrelate(n, child(n)) })
}

// of asks which events relate to one.
func (r *related) of(parent int64, q storage.RelationQuery) (list []int64) {
	r.t.Helper()
	q.Room, q.Parent = relatedRoom, child(parent)
	if q.Before == 0 {
		q.Before = 1 << 40
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	rows, err := ask(r.t, r.db, func(tx *storage.Tx) ([]storage.Relation, error) { return tx.Relations(&q) })
	require.NoError(r.t, err)
	for i := range rows {
		list = append(list, rows[i].Ord)
	}
	return list
}

func (r *related) threads(user id.UserID, without ...id.UserID) []storage.Thread {
	r.t.Helper()
	list, err := ask(r.t, r.db, func(tx *storage.Tx) ([]storage.Thread, error) {
		return tx.Threads(relatedRoom, user, 1<<40, 100, without)
	})
	require.NoError(r.t, err)
	return list
}

func TestRelations(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		r := &related{t, db}
		r.add(1, 0, "", alice)
		r.add(2, 1, "m.thread", alice)
		r.add(3, 1, "m.reference", bob)
		r.add(4, 2, "m.reference", alice)
		r.add(5, 4, "m.reference", alice)
		r.add(6, 5, "m.reference", alice)
		all := storage.RelationQuery{Recurse: true}
		require.Equal(t, []int64{3, 2}, r.of(1, storage.RelationQuery{}))
		require.Equal(t, []int64{2, 3}, r.of(1, storage.RelationQuery{Forwards: true}))
		require.Equal(t, []int64{3}, r.of(1, storage.RelationQuery{Kind: "m.reference"}))
		require.Equal(t, []int64{3}, r.of(1, storage.RelationQuery{Type: "tm.reference"}))
		require.Equal(t, []int64{2}, r.of(1, storage.RelationQuery{Kind: "m.thread", Type: "tm.thread", Forwards: true}))
		require.Empty(t, r.of(1, storage.RelationQuery{Kind: "m.thread", Type: "other"}))
		require.Equal(t, []int64{2}, r.of(1, storage.RelationQuery{Before: 3}))
		require.Equal(t, []int64{3}, r.of(1, storage.RelationQuery{After: 2}))
		require.Equal(t, []int64{5, 4, 3, 2}, r.of(1, all), "three steps")
		require.Equal(t, []int64{2, 3}, r.of(1, storage.RelationQuery{Recurse: true, Forwards: true, Limit: 2}))
		require.Equal(t, []int64{3}, r.of(1, storage.RelationQuery{Recurse: true, Kind: "m.reference"}), "all on the way have to match")
		require.Equal(t, []int64{6, 5, 4}, r.of(2, storage.RelationQuery{Recurse: true, Type: "tm.reference"}))
		r.remove(4)
		require.Equal(t, []int64{3, 2}, r.of(1, all), "the way is broken")
		require.Equal(t, []int64{6, 5}, r.of(4, all))
	})
}

// Whatever the order in which events come, they are found alike.
func TestRelationsInAnyOrder(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		r := &related{t, db}
		r.add(5, 4, "m.reference", alice)
		r.add(4, 3, "m.reference", alice)
		r.add(2, 1, "m.reference", alice)
		r.add(3, 2, "m.reference", alice)
		require.Equal(t, []int64{4, 3, 2}, r.of(1, storage.RelationQuery{Recurse: true}))
		require.Equal(t, []int64{5, 4, 3}, r.of(2, storage.RelationQuery{Recurse: true}))
		r.add(9, 9, "m.reference", alice)
		require.Equal(t, []int64{9}, r.of(9, storage.RelationQuery{Recurse: true}), "a relation to itself")
		r.add(10, 11, "m.reference", alice)
		r.add(11, 10, "m.reference", alice)
		require.ElementsMatch(t, []int64{10, 11}, r.of(10, storage.RelationQuery{Recurse: true}), "and in a circle")
	})
}

func TestThreads(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		r := &related{t, db}
		r.add(3, 1, "m.thread", alice)
		r.add(4, 2, "m.thread", bob)
		r.add(5, 1, "m.thread", bob)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return r.relate(tx, 5, 1, "m.thread", bob) }) // once more
		first := storage.Thread{Root: child(1), Newest: 5, NewestPos: 5, NewestSender: bob, Events: 2, Participated: true}
		second := storage.Thread{Root: child(2), Newest: 4, NewestPos: 4, NewestSender: bob, Events: 1}
		require.Equal(t, []storage.Thread{first, second}, r.threads(alice))
		first.Events, second.Events = 1, 0
		require.Equal(t, []storage.Thread{first, second}, r.threads(alice, bob), "those who are ignored do not count")
		r.remove(5)
		left := storage.Thread{Root: child(1), Newest: 3, NewestPos: 3, NewestSender: alice, Events: 1, Participated: true}
		require.Equal(t, []storage.Thread{second, left}, r.threads(alice, bob))
		r.remove(5)
		r.remove(3)
		require.Len(t, r.threads(alice), 1)
		events, err := ask(t, db, func(tx *storage.Tx) ([]storage.Relation, error) {
			return tx.ThreadEvents(relatedRoom, child(2), 1<<40, 10, nil)
		})
		require.NoError(t, err)
		require.Len(t, events, 1)
		some, err := ask(t, db, func(tx *storage.Tx) ([]storage.Thread, error) {
			return tx.ThreadsOf(relatedRoom, bob, []id.EventID{child(1), child(2)}, nil)
		})
		require.NoError(t, err)
		require.Len(t, some, 1)
		require.True(t, some[0].Participated)
	})
}

func TestBundledRelations(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		r := &related{t, db}
		for n := int64(10); n < 20; n++ {
			r.add(n, 1, "m.replace", alice)
			r.add(n+10, 1, "m.reference", alice)
		}
		r.add(40, 1, "m.replace", bob)
		r.add(41, 2, "m.reference", bob)
		parents := []id.EventID{child(1), child(2), child(3)}
		places := func(query func(tx *storage.Tx) ([]storage.Relation, error)) (list []int64) {
			rows, err := ask(t, db, query)
			require.NoError(t, err)
			for i := range rows {
				list = append(list, rows[i].Ord)
			}
			return list
		}
		require.Equal(t, []int64{10, 11, 40}, places(func(tx *storage.Tx) ([]storage.Relation, error) {
			return tx.Edits(relatedRoom, parents, 1<<40, 2)
		}), "the latest by their time, of each sender")
		require.Equal(t, []int64{28, 29, 41}, places(func(tx *storage.Tx) ([]storage.Relation, error) {
			return tx.References(relatedRoom, parents, 1<<40, 2, nil)
		}))
		require.Equal(t, []int64{20}, places(func(tx *storage.Tx) ([]storage.Relation, error) {
			return tx.References(relatedRoom, parents, 21, 2, []id.UserID{bob})
		}))
		for _, tt := range []struct {
			kinds, senders []string
			want           []id.EventID
		}{
			{nil, nil, []id.EventID{child(1), child(2)}},
			{[]string{"m.replace"}, nil, []id.EventID{child(1)}},
			{nil, []string{string(bob)}, []id.EventID{child(1), child(2)}},
			{[]string{"m.reference"}, []string{string(alice)}, []id.EventID{child(1)}},
			{[]string{}, nil, nil},
		} {
			got, err := ask(t, db, func(tx *storage.Tx) ([]id.EventID, error) {
				return tx.RelatedBy(relatedRoom, parents, tt.kinds, tt.senders)
			})
			require.NoError(t, err)
			require.ElementsMatch(t, tt.want, got, "%v %v", tt.kinds, tt.senders)
		}
		latest, err := ask(t, db, func(tx *storage.Tx) ([]storage.RelatedPlaces, error) { return tx.LatestRelations(relatedRoom, 2) })
		require.NoError(t, err)
		require.Equal(t, []storage.RelatedPlaces{{child(2), 41, 41}, {child(1), 40, 40}}, latest, "the parents are not here")
	})
}

func TestSearchedRooms(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		from, err := ask(t, db, func(tx *storage.Tx) (int64, error) { return tx.RelationsFrom() })
		require.NoError(t, err)
		require.Zero(t, from, "a new database has no old rooms")
		for _, done := range []bool{false, true} {
			change(t, db, func(tx *storage.Tx, pos storage.Pos) error { return tx.PutRelated(1, pos, done) })
			var upTo storage.Pos
			got, err := ask(t, db, func(tx *storage.Tx) (done bool, err error) {
				upTo, done, err = tx.Related(1)
				return done, err
			})
			require.NoError(t, err)
			require.Equal(t, done, got)
			require.NotZero(t, upTo)
		}
	})
}

func TestThreadSubscriptions(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		queue(t, db, func(a *storage.Act, _ storage.Pos) {
			a.Add(storage.InsertRoom, int64(relatedRoom), "!r:x", "11", int64(1), int64(0), int64(0), []byte("[]"))
		})
		s := storage.Subscription{Room: "!r:x", Root: "$root", Subscribed: true, Automatic: true, Until: -5}
		s.Pos = change(t, db, func(tx *storage.Tx, pos storage.Pos) error {
			s.Pos = pos
			return tx.PutSubscription(alice, relatedRoom, &s)
		})
		got, err := ask(t, db, func(tx *storage.Tx) (storage.Subscription, error) {
			return tx.Subscription(alice, relatedRoom, "$root")
		})
		require.NoError(t, err)
		require.Equal(t, s, got)
		s.Subscribed, s.Automatic = false, false
		change(t, db, func(tx *storage.Tx, pos storage.Pos) error {
			s.Pos = pos
			return tx.PutSubscription(alice, relatedRoom, &s)
		})
		list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Subscription, error) { return tx.Subscriptions(alice, 0, s.Pos, 10) })
		require.NoError(t, err)
		require.Equal(t, []storage.Subscription{s}, list)
		_, err = ask(t, db, func(tx *storage.Tx) (storage.Subscription, error) { return tx.Subscription(bob, relatedRoom, "$root") })
		require.ErrorIs(t, err, storage.ErrNotFound)
		list, err = ask(t, db, func(tx *storage.Tx) ([]storage.Subscription, error) {
			return tx.Subscriptions(alice, s.Pos, s.Pos+9, 10)
		})
		require.NoError(t, err)
		require.Empty(t, list)
	})
}
