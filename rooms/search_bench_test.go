package rooms_test

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/postgres/postgrestest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// eachEngine runs a benchmark on a server over SQLite, and over PostgreSQL where there is one.
func eachEngine(b *testing.B, bench func(*testing.B, *homeservertest.Server)) {
	b.Run("sqlite", func(b *testing.B) {
		bench(b, homeservertest.New(b, func(c *homeserver.Config) { c.Storage = sqlite.Memory() }))
	})
	if postgrestest.Available() {
		b.Run("postgres", func(b *testing.B) {
			bench(b, homeservertest.New(b, func(c *homeserver.Config) { c.Storage = postgrestest.New(b) }))
		})
	}
}

// BenchmarkSearch searches 100,000 messages in 20 rooms: for a word that all have, by both orders, for one that 100 have,
// in one room of them and with context; and for one that none of the user's rooms has. With -short there are 10,000.
func BenchmarkSearch(b *testing.B) {
	eachEngine(b, func(b *testing.B, hs *homeservertest.Server) {
		messages := 5000
		if testing.Short() {
			messages = 500
		}
		alice, bob := hs.User("alice"), hs.User("bob")
		var wg sync.WaitGroup
		var rooms []string
		for range 20 {
			rooms = append(rooms, alice.CreateRoom(homeservertest.Public))
		}
		for i, room := range rooms {
			wg.Go(func() {
				for n := range messages {
					alice.SendEvent(room, "m.room.message", text(fmt.Sprintf("common word and number%d or rare%d of the room%d", n, n%1000, i)))
				}
			})
		}
		wg.Wait()
		bob.CreateRoom(homeservertest.Private)
		for search(alice, fmt.Sprintf("common number%d", messages-1), recent, limited(20, nil)).WantOK().Get(found+".count").Int() < 20 { //nolint:revive // until all is indexed
		}
		one := limited(10, map[string]any{"rooms": rooms[:1]})
		for _, bm := range []struct {
			name string
			user *homeservertest.User
			term string
			more []map[string]any
		}{
			{"common/recent", alice, "common", []map[string]any{recent}},
			{"common/rank", alice, "common", nil},
			{"rare/recent", alice, "rare7", []map[string]any{recent}},
			{"rare/room", alice, "rare7", []map[string]any{recent, one}},
			{"rare/context", alice, "rare7", []map[string]any{recent, {"event_context": map[string]any{"include_profile": true}}}},
			{"common/others", bob, "common", []map[string]any{recent}},
		} {
			b.Run(bm.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					search(bm.user, bm.term, bm.more...).WantOK()
				}
			})
		}
	})
}

// BenchmarkUserDirectory looks among 100,000 users in 10,000 rooms: for a name that few have, for the beginning of all
// names, and for a user id.
func BenchmarkUserDirectory(b *testing.B) {
	eachDatabase := func(b *testing.B, engine storage.Engine) {
		fillDirectory(b, engine)
		hs := homeservertest.New(b, func(c *homeserver.Config) { c.Storage = engine })
		eve := hs.User("eve")
		for range 50 {
			eve.CreateRoom(homeservertest.Private)
		}
		for _, term := range []string{"name4711", "n", "@user999", "family7 na"} {
			b.Run(url.PathEscape(term), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					lookUp(eve, term)
				}
			})
		}
	}
	b.Run("sqlite", func(b *testing.B) { eachDatabase(b, sqlite.Memory()) })
	if postgrestest.Available() {
		b.Run("postgres", func(b *testing.B) { eachDatabase(b, postgrestest.New(b)) })
	}
}

// unclosed is an engine that stays open for the next who opens it.
type unclosed struct{ storage.Engine }

func (unclosed) Close() error { return nil }

// fillDirectory stores people: half of the rooms are open.
func fillDirectory(b *testing.B, engine storage.Engine) {
	db, err := storage.Open(context.Background(), unclosed{engine})
	require.NoError(b, err)
	put := func(first int) {
		require.NoError(b, db.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error {
			for n := first; n < first+1000; n++ {
				room := int64(n%10000) + 1_000_000
				p := storage.Person{User: id.UserID(fmt.Sprintf("@user%d:hs.test", n)), Room: room, Name: fmt.Sprintf("Name%d Family%d", n, n%100)}
				if n%2 == 0 {
					p.Scope = room
				}
				for _, w := range []string{string(p.User[1:]), fmt.Sprintf("user%d", n), fmt.Sprintf("name%d", n), fmt.Sprintf("family%d", n%100)} {
					if err := tx.PutPersonWord(p.Scope, w, p.User); err != nil {
						return err
					}
				}
				if err := tx.PutPerson(p); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	for n := 0; n < 100_000; n += 1000 {
		put(n)
	}
	for n := range 100_000 {
		act := &storage.Act{}
		act.Add(storage.UpsertMember, int64(n%10000)+1_000_000, fmt.Sprintf("@user%d:hs.test", n), "join", int64(n), int64(n), false)
		db.Queue(act)
		if n%1000 == 999 {
			require.NoError(b, act.Wait(context.Background()))
		}
	}
	require.NoError(b, db.Close())
}

// BenchmarkSendIndexed is BenchmarkSend with the indexer beside it.
func BenchmarkSendIndexed(b *testing.B) {
	s := onDisk(b)
	s.Start()
	defer s.Close()
	room := newRoom(b, s, "@a:hs.test")
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		send(b, s, room, "@a:hs.test", fmt.Sprint(n))
	}
}
