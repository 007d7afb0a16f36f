package storage_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// event writes an event of a room and returns its position.
func event(t *testing.T, db *storage.DB, room int64, flags int64) storage.Pos {
	return queue(t, db, func(a *storage.Act, pos storage.Pos) {
		e := storage.Event{
			Pos: pos, Room: room, ID: id.EventID(fmt.Sprintf("$%d", pos)), Ord: pos << storage.OrdShift, Flags: flags,
			JSON: fmt.Appendf(nil, `{"n":%d}`, pos),
		}
		a.Add(storage.InsertEvent, e.Row()...)
	})
}

func TestSearch(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		put := func(room int64, late bool, key, text string) storage.Pos {
			pos := event(t, db, room, storage.InTimeline)
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				return tx.PutWords(&storage.Words{Pos: pos, Late: late, Room: room, Key: key, Words: strings.Fields(text)})
			})
			return pos
		}
		search := func(q storage.TextQuery, before int64, limit int) (docs []int64) {
			found, err := ask(t, db, func(tx *storage.Tx) (found []storage.Found, err error) {
				found, _, err = tx.Search(&q, before, limit)
				return found, err
			})
			require.NoError(t, err)
			for _, f := range found {
				docs = append(docs, f.Doc)
			}
			return docs
		}
		words := func(text string) (phrases [][]string) {
			for _, w := range strings.Fields(text) {
				phrases = append(phrases, []string{w})
			}
			return phrases
		}
		all := []int64{1, 2, 3}
		a := put(1, false, "body", "hello world ünïcode 東 京")
		b := put(2, false, "body", "world hello hello")
		c := put(1, true, "name", "hello a")
		require.Equal(t, []int64{b, a, -c}, search(storage.TextQuery{Phrases: words("hello"), Rooms: all}, math.MaxInt64, 10), "late ones count as older")
		require.Equal(t, []int64{b, a}, search(storage.TextQuery{Phrases: words("hello"), Rooms: all}, math.MaxInt64, 2))
		require.Equal(t, []int64{a, -c}, search(storage.TextQuery{Phrases: words("hello"), Rooms: all}, b, 10))
		require.Equal(t, []int64{a, -c}, search(storage.TextQuery{Phrases: words("hello"), Rooms: []int64{1}}, math.MaxInt64, 10))
		require.Equal(t, []int64{-c}, search(storage.TextQuery{Phrases: words("hello"), Rooms: all, Keys: []string{"name", "topic"}}, math.MaxInt64, 10))
		require.Empty(t, search(storage.TextQuery{Phrases: words("hello"), Rooms: all, Keys: []string{"topic"}}, math.MaxInt64, 10))
		require.Equal(t, []int64{b, a}, search(storage.TextQuery{Phrases: words("world hello"), Rooms: all}, math.MaxInt64, 10))
		require.Equal(t, []int64{a}, search(storage.TextQuery{Phrases: [][]string{{"hello", "world"}, {"ünïcode"}, {"東", "京"}}, Rooms: all}, math.MaxInt64, 10))
		require.Empty(t, search(storage.TextQuery{Phrases: [][]string{{"京", "東"}}, Rooms: all}, math.MaxInt64, 10))
		require.Empty(t, search(storage.TextQuery{Phrases: words("hello")}, math.MaxInt64, 10), "no rooms")
		require.Empty(t, search(storage.TextQuery{Rooms: all}, math.MaxInt64, 10), "no words")
		require.Empty(t, search(storage.TextQuery{Phrases: [][]string{{"\ue000r1"}, {"absent"}}, Rooms: all}, math.MaxInt64, 10))
		many := make([]int64, 1000)
		for i := range many {
			many[i] = int64(i + 2)
		}
		require.Equal(t, []int64{b}, search(storage.TextQuery{Phrases: words("hello"), Rooms: many}, math.MaxInt64, 10), "more rooms than are asked the index")
		for _, odd := range []string{`"`, `'`, `\`, `''`, `a'b"c\`, `*`, `:*`, `NEAR`, `OR`, `!`, `&`, `-`, `(`, `)`, `^`} {
			require.Empty(t, search(storage.TextQuery{Phrases: [][]string{{odd, "absent"}, {odd + "x"}}, Rooms: all}, math.MaxInt64, 10), odd)
			put(3, false, "body", odd)
		}

		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			return tx.PutWords(&storage.Words{Pos: a, Room: 1, Key: "body", Words: []string{"other", strings.Repeat("x", 2000)}})
		})
		require.Equal(t, []int64{a}, search(storage.TextQuery{Phrases: words("other"), Rooms: all}, math.MaxInt64, 10))
		require.Empty(t, search(storage.TextQuery{Phrases: words("ünïcode"), Rooms: all}, math.MaxInt64, 10), "replaced")
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DropWords(c) })
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DropWords(4711) })
		require.Equal(t, []int64{b}, search(storage.TextQuery{Phrases: words("hello"), Rooms: all}, math.MaxInt64, 10))
		long := put(3, false, "body", strings.Repeat("many ", 20000)+"last")
		require.Equal(t, []int64{long}, search(storage.TextQuery{Phrases: words("many"), Rooms: all}, math.MaxInt64, 10))
	})
}

// What is said in other rooms, however often, does not hide what is said in one's own; and there is an end to looking.
func TestSearchAmongOthers(t *testing.T) {
	const atOnce, inVain = 20, 400
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		var mine []storage.Pos
		for i := range 22 {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return nil }) // a position for nothing
			act := &storage.Act{Positions: atOnce, Do: func(tx *storage.Tx, first storage.Pos) error {
				for pos := first; pos < first+atOnce; pos++ {
					room := int64(1 + i%2)
					if pos == first {
						room = 7
					}
					if err := tx.PutWords(&storage.Words{Pos: pos, Room: room, Key: "body", Words: []string{"word"}}); err != nil {
						return err
					}
				}
				return nil
			}, Place: func(a *storage.Act, first storage.Pos) {
				mine = append(mine, first)
				for pos := first; pos < first+atOnce; pos++ {
					e := storage.Event{Pos: pos, Room: 1, ID: id.EventID(fmt.Sprintf("$%d", pos)), Ord: pos << storage.OrdShift, Flags: 1, JSON: []byte("{}")}
					if pos == first {
						e.Room = 7
					}
					a.Add(storage.InsertEvent, e.Row()...)
				}
			}}
			db.Queue(act)
			require.NoError(t, act.Wait(context.Background()))
		}
		search := func(rooms []int64, before int64, limit int) (docs []storage.Pos, last int64) {
			found, err := ask(t, db, func(tx *storage.Tx) (found []storage.Found, err error) {
				found, last, err = tx.SearchWithin(&storage.TextQuery{Phrases: [][]string{{"word"}}, Rooms: rooms}, before, limit, atOnce, inVain)
				return found, err
			})
			require.NoError(t, err)
			for _, f := range found {
				docs = append(docs, f.Pos())
			}
			return docs, last
		}
		slices.Reverse(mine)
		for _, rooms := range [][]int64{{7}, {7, 8}} {
			docs, last := search(rooms, math.MaxInt64, 5)
			require.Equal(t, mine[:5], docs)
			require.Equal(t, mine[4], last)
			docs, last = search(rooms, last, 50)
			require.Equal(t, mine[5:], docs)
			require.Zero(t, last)
			docs, _ = search(rooms, math.MaxInt64, 50)
			require.Equal(t, mine, docs, "the index is asked for the rooms before there is an end")
		}
		many := []int64{7}
		for n := range int64(40) {
			many = append(many, 100+n)
		}
		docs, last := search(many, math.MaxInt64, 50)
		require.Equal(t, mine[:20], docs)
		require.NotZero(t, last, "it has looked at enough")
		docs, last = search(many, last, 50)
		require.Equal(t, mine[20:], docs)
		require.Zero(t, last)
	})
}

func TestIndexed(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		indexed := func() storage.Pos {
			pos, err := ask(t, db, (*storage.Tx).Indexed)
			require.NoError(t, err)
			return pos
		}
		require.Zero(t, indexed())
		for _, pos := range []storage.Pos{5, 1 << 60} {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.SetIndexed(pos) })
			require.Equal(t, pos, indexed())
		}
		one, two, three := event(t, db, 1, 1), event(t, db, 2, 0), event(t, db, 1, 2)
		between := func(from, to storage.Pos, limit int) (list []storage.Pos) {
			events, err := ask(t, db, func(tx *storage.Tx) ([]storage.Event, error) { return tx.EventsBetween(from, to, limit) })
			require.NoError(t, err)
			for _, e := range events {
				list = append(list, e.Pos)
			}
			return list
		}
		require.Equal(t, []storage.Pos{one, two, three}, between(0, three, 10))
		require.Equal(t, []storage.Pos{two}, between(one, two, 10))
		require.Equal(t, []storage.Pos{one, two}, between(0, three, 2))
	})
}

// What has changed since it was looked at is looked at again: redacted events, and those that got a place.
func TestSearchAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		one, two := event(t, db, 1, 1), event(t, db, 1, storage.Outlier)
		change(t, db, func(tx *storage.Tx, pos storage.Pos) error { return tx.RedactEvent(one, []byte(`{}`), pos) })
		change(t, db, func(tx *storage.Tx, pos storage.Pos) error {
			return tx.PlaceEvent(&storage.Event{Pos: two, Ord: pos << storage.OrdShift, Flags: 1})
		})
		again := func(limit int) []storage.Pos {
			due, err := ask(t, db, func(tx *storage.Tx) ([]storage.Pos, error) { return tx.SearchAgain(limit) })
			require.NoError(t, err)
			return due
		}
		require.Equal(t, []storage.Pos{one, two}, again(10))
		require.Equal(t, []storage.Pos{one}, again(1))
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.SearchedAgain([]storage.Pos{one, 4711}) })
		require.Equal(t, []storage.Pos{two}, again(10))
	})
}

func TestEdits(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		one, two, three := event(t, db, 1, 1), event(t, db, 1, 1), event(t, db, 1, 1)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			for range 2 {
				for _, pos := range []storage.Pos{three, two} {
					if err := tx.PutEdit(&storage.Edit{Pos: pos, Target: "$target", Sender: alice}); err != nil {
						return err
					}
				}
			}
			return tx.PutEdit(&storage.Edit{Pos: one, Target: "$other", Sender: alice})
		})
		edits := func(targets ...id.EventID) map[id.EventID][]storage.Pos {
			list, err := ask(t, db, func(tx *storage.Tx) (map[id.EventID][]storage.Event, error) { return tx.EditsOf(targets) })
			require.NoError(t, err)
			by := map[id.EventID][]storage.Pos{}
			for target, events := range list {
				for _, e := range events {
					by[target] = append(by[target], e.Pos)
				}
			}
			return by
		}
		require.Equal(t, map[id.EventID][]storage.Pos{"$target": {two, three}, "$other": {one}}, edits("$target", "$other", "$none"))
		target, err := ask(t, db, func(tx *storage.Tx) (id.EventID, error) { return tx.EditedBy(two) })
		require.NoError(t, err)
		require.Equal(t, id.EventID("$target"), target)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.DropEdit(two) })
		_, err = ask(t, db, func(tx *storage.Tx) (id.EventID, error) { return tx.EditedBy(two) })
		require.ErrorIs(t, err, storage.ErrNotFound)
		require.Equal(t, map[id.EventID][]storage.Pos{"$target": {three}}, edits("$target"))

		var many []storage.Pos
		for n := range int64(12) {
			pos := event(t, db, 1, 1)
			many = append(many, pos)
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				return tx.PutEdit(&storage.Edit{Pos: pos, Target: "$many", Sender: alice, TS: 100 - n})
			})
		}
		bobs := event(t, db, 1, 1)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			return tx.PutEdit(&storage.Edit{Pos: bobs, Target: "$many", Sender: bob})
		})
		require.Equal(t, append(many[:8], bobs), edits("$many")["$many"], "the latest of each by their time")
	})
}

func TestPeople(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		member := func(room int64, user id.UserID, membership string) {
			queue(t, db, func(a *storage.Act, pos storage.Pos) {
				a.Add(storage.UpsertMember, room, string(user), membership, pos, pos, false)
			})
		}
		person := func(p storage.Person, words ...string) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
				for _, w := range words {
					if err := tx.PutPersonWord(p.Scope, w, p.User); err != nil {
						return err
					}
				}
				return tx.PutPerson(p)
			})
		}
		people := func(prefix string, limit int, scopes ...int64) []storage.Person {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.Person, error) { return tx.People(scopes, prefix, limit) })
			require.NoError(t, err)
			return list
		}
		member(7, alice, "join")
		member(7, bob, "leave")
		shown, hidden := storage.Person{Scope: 7, User: alice, Room: 7, Name: "Ali\x00ce", Avatar: "mxc://a/b"}, storage.Person{Scope: 7, User: bob, Room: 7}
		everywhere := storage.Person{Scope: storage.ByLocalName, User: bob}
		person(shown, "ali\x00ce", "alice", "alice")
		person(hidden, "alibob")
		person(everywhere, "alibob", "bob")
		require.Equal(t, []storage.Person{shown}, people("alice", 10, 7, 8, storage.ByEverybody))
		require.Equal(t, []storage.Person{shown, shown}, people("ali", 10, 7), "who has left is not shown")
		require.Len(t, people("ali", 1, 7), 1)
		require.Empty(t, people("alice", 10, storage.ByEverybody, 8))
		require.Equal(t, []storage.Person{everywhere}, people("b", 10, storage.ByLocalName))
		require.Len(t, people("", 10, storage.ByLocalName), 2)

		all, err := ask(t, db, func(tx *storage.Tx) ([]storage.Person, error) { return tx.PersonEverywhere(bob) })
		require.NoError(t, err)
		require.ElementsMatch(t, []storage.Person{hidden, everywhere}, all)
		change(t, db, func(tx *storage.Tx, _ storage.Pos) error {
			if err := tx.DropPersonWord(7, "alice", alice); err != nil {
				return err
			}
			return tx.DropPerson(storage.ByLocalName, bob)
		})
		require.Empty(t, people("alice", 10, 7))
		require.Empty(t, people("b", 10, storage.ByLocalName))
		_, err = ask(t, db, func(tx *storage.Tx) (storage.Person, error) { return tx.Person(storage.ByLocalName, bob) })
		require.ErrorIs(t, err, storage.ErrNotFound)
	})
}

func TestPeopleRooms(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		room := func(num int64) storage.PeopleRoom {
			r, err := ask(t, db, func(tx *storage.Tx) (storage.PeopleRoom, error) { return tx.PeopleRoom(num) })
			require.NoError(t, err)
			return r
		}
		require.Equal(t, storage.PeopleRoom{Room: 7}, room(7))
		put := func(r storage.PeopleRoom) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.PutPeopleRoom(r) })
		}
		put(storage.PeopleRoom{Room: 7, Present: true, Open: true})
		require.Equal(t, storage.PeopleRoom{Room: 7, Present: true, Open: true}, room(7))
		due, err := ask(t, db, (*storage.Tx).PeopleRoomDue)
		require.NoError(t, err)
		require.Equal(t, storage.PeopleRoom{Room: 7, Present: true, Open: true}, due)
		open := func() (int64, error) {
			return ask(t, db, func(tx *storage.Tx) (int64, error) { return tx.OpenRoomOf(alice) })
		}
		_, err = open()
		require.ErrorIs(t, err, storage.ErrNotFound)
		queue(t, db, func(a *storage.Act, pos storage.Pos) {
			a.Add(storage.UpsertMember, int64(7), string(alice), "join", pos, pos, false)
		})
		num, err := open()
		require.NoError(t, err)
		require.EqualValues(t, 7, num)
		put(storage.PeopleRoom{Room: 7, Present: true, Done: true})
		_, err = ask(t, db, (*storage.Tx).PeopleRoomDue)
		require.ErrorIs(t, err, storage.ErrNotFound)
		_, err = open()
		require.ErrorIs(t, err, storage.ErrNotFound)
		m, err := ask(t, db, func(tx *storage.Tx) (storage.Member, error) { return tx.Member(7, alice) })
		require.NoError(t, err)
		require.Equal(t, "join", m.Membership)
		_, err = ask(t, db, func(tx *storage.Tx) (storage.Member, error) { return tx.Member(7, bob) })
		require.ErrorIs(t, err, storage.ErrNotFound)
	})
}

// Changes of accounts and profiles are noted; one that comes while an earlier one is looked at is not lost.
func TestPeopleChanged(t *testing.T) {
	everywhere(t, func(t *testing.T, db *storage.DB, _ *storagetest.Faulty) {
		changed := func() []storage.PersonChange {
			list, err := ask(t, db, func(tx *storage.Tx) ([]storage.PersonChange, error) { return tx.PeopleChanged(10) })
			require.NoError(t, err)
			return list
		}
		done := func(c storage.PersonChange) {
			change(t, db, func(tx *storage.Tx, _ storage.Pos) error { return tx.PersonFoundOut(c) })
		}
		acts := []func(tx *storage.Tx, _ storage.Pos) error{
			func(tx *storage.Tx, _ storage.Pos) error {
				_, err := tx.InsertAccount(storage.Account{User: alice})
				return err
			},
			func(tx *storage.Tx, _ storage.Pos) error {
				return tx.UpdateAccount(storage.Account{User: alice, Locked: true})
			},
			func(tx *storage.Tx, _ storage.Pos) error {
				return tx.PutProfileField(alice, storage.ProfileField{Name: "displayname", Value: []byte(`"a"`)})
			},
			func(tx *storage.Tx, _ storage.Pos) error {
				_, err := tx.DeleteProfileField(alice, "displayname")
				return err
			},
			func(tx *storage.Tx, _ storage.Pos) error { return tx.DeleteProfile(alice) },
		}
		for i, act := range acts {
			change(t, db, act)
			list := changed()
			require.Equal(t, []storage.PersonChange{{User: alice, Times: 1}}, list, "act %d", i)
			done(list[0])
			require.Empty(t, changed())
		}
		change(t, db, acts[1])
		first := changed()
		change(t, db, acts[1])
		done(first[0])
		require.Equal(t, []storage.PersonChange{{User: alice, Times: 2}}, changed())
		require.NoError(t, db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error {
			_, err := tx.DeleteProfileField(alice, "absent")
			return err
		}))
		require.Equal(t, []storage.PersonChange{{User: alice, Times: 2}}, changed())
	})
}
