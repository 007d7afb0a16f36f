package syncing_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/internal/token"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
	syncing "github.com/embedmatrix/homeserver/sync"
)

// plant is what sync stands on, without HTTP and without rules: events are written as they are wished.
type plant struct {
	t     testing.TB
	db    *storage.DB
	hub   *notify.Hub
	cache *roomstate.Cache
	sync  *syncing.Service
	key   signing.Key
	rules *roomversion.Rules
}

func newPlant(t testing.TB) *plant {
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	p := &plant{t: t, db: db, hub: notify.New(db.Published())}
	p.cache = roomstate.NewCache(db, p.hub, roomstate.Config{})
	p.sync = syncing.New(syncing.Config{DB: db, Cache: p.cache, Hub: p.hub, Typing: ephemeral.NewTyping("boot", func(id.RoomID) {})})
	p.key, err = signing.Generate(rand.Reader)
	require.NoError(t, err)
	p.rules, _ = roomversion.Get("11")
	return p
}

func user(n int) id.UserID { return id.UserID(fmt.Sprintf("@user%d:x", n)) }

// draft is an event of a plant's room.
type draft struct {
	sender   id.UserID
	typ      string
	stateKey *string
	content  string
}

func message(sender id.UserID, text string) draft {
	return draft{sender, "m.room.message", nil, `{"body":"` + text + `","msgtype":"m.text"}`}
}

func stateOf(sender id.UserID, typ, key, content string) draft {
	return draft{sender, typ, &key, content}
}

// room makes a room with members, the first of whom owns it.
func (p *plant) room(n, members int) id.RoomID {
	room := id.RoomID(fmt.Sprintf("!room%d:x", n))
	w, err := p.cache.Create(context.Background(), room, p.rules)
	require.NoError(p.t, err)
	list := []draft{
		stateOf(user(0), "m.room.create", "", `{"room_version":"11"}`),
		stateOf(user(0), "m.room.member", string(user(0)), `{"membership":"join"}`),
		stateOf(user(0), "m.room.power_levels", "", `{}`),
		stateOf(user(0), "m.room.join_rules", "", `{"join_rule":"public"}`),
		stateOf(user(0), "m.room.history_visibility", "", `{"history_visibility":"shared"}`),
		stateOf(user(0), "m.room.name", "", `{"name":"a name"}`),
	}
	for i := 1; i < members; i++ {
		list = append(list, stateOf(user(i), "m.room.member", string(user(i)), `{"membership":"join"}`))
	}
	p.write(w, room, list...)
	return room
}

func (p *plant) send(room id.RoomID, list ...draft) {
	w, err := p.cache.Lock(context.Background(), room)
	require.NoError(p.t, err)
	p.write(w, room, list...)
}

func (p *plant) write(w *roomstate.Writer, room id.RoomID, list ...draft) {
	for _, d := range list {
		e := event.Draft{
			Room: room, Sender: d.sender, Type: d.typ, StateKey: d.stateKey, Content: []byte(d.content),
			OriginServerTS: time.Now().UnixMilli(), Rules: p.rules,
		}
		for _, x := range w.Extremities() {
			e.PrevEvents, e.Depth = append(e.PrevEvents, x.ID), max(e.Depth, x.Depth+1)
		}
		ev, err := event.Build(e, "x", p.key)
		require.NoError(p.t, err)
		require.NoError(p.t, w.Propose(ev, roomstate.Meta{}))
	}
	pending := w.Queue()
	w.Unlock()
	require.NoError(p.t, pending.Wait(context.Background()))
}

// filter reads a filter.
func (p *plant) filter(text string) *syncing.Filter {
	f, err := syncing.ParseFilter([]byte(text))
	require.NoError(p.t, err)
	return f
}

// now is the token of the present.
func (p *plant) now() *token.Stream { return &token.Stream{Pos: p.db.Published(), Boot: "boot"} }

// BenchmarkIncremental: one new message, for a user of one room and of many, with few members and many.
func BenchmarkIncremental(b *testing.B) {
	for _, size := range []struct{ rooms, members int }{{1, 2}, {1, 2000}, {300, 2}} {
		b.Run(fmt.Sprintf("rooms=%d/members=%d", size.rooms, size.members), func(b *testing.B) {
			p := newPlant(b)
			var room id.RoomID
			for i := range size.rooms {
				room = p.room(i, size.members)
			}
			for _, filter := range []string{`{}`, lazy} {
				b.Run("filter="+filter, func(b *testing.B) {
					q := syncing.Request{User: user(1), Device: "D", Filter: p.filter(filter), Since: p.now()}
					p.send(room, message(user(0), "hello"))
					b.ReportAllocs()
					var dst []byte
					for b.Loop() {
						a, err := p.sync.Sync(context.Background(), q)
						if err != nil {
							b.Fatal(err)
						}
						dst = a.AppendJSON(dst[:0])
					}
					b.ReportMetric(float64(len(dst)), "bytes/answer")
				})
			}
		})
	}
}

// BenchmarkPresence: an incremental sync with one new message where presence is off, where it is on and 10,000 users are
// known of whom nobody has changed, and where one has; in a room of 2,000.
func BenchmarkPresence(b *testing.B) {
	for _, name := range []string{"off", "quiet", "changed"} {
		b.Run(name, func(b *testing.B) {
			p := newPlant(b)
			room := p.room(0, 2000)
			q := syncing.Request{User: user(1), Device: "D", Filter: p.filter(`{}`), Since: p.now()}
			presence := ephemeral.NewPresence(func() {})
			if name != "off" {
				q.SetPresence = ephemeral.Online
				cfg := p.sync.Config
				cfg.Presence, cfg.ServerName = presence, "x"
				p.sync = syncing.New(cfg)
				for i := range 10_000 {
					presence.Set(user(i), "D", ephemeral.Online, "")
				}
				q.Since.Presence = presence.Now()
			}
			if name == "changed" {
				presence.Set(user(7), "D", ephemeral.Unavailable, "")
			}
			p.send(room, message(user(0), "hello"))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				a, err := p.sync.Sync(context.Background(), q)
				if err != nil {
					b.Fatal(err)
				}
				dst = a.AppendJSON(dst[:0])
			}
			b.ReportMetric(float64(len(dst)), "bytes/answer")
		})
	}
}

// BenchmarkPresenceTold: what it costs to tell of one change in a room of 10,000 where 1,000 wait, without their looks.
func BenchmarkPresenceTold(b *testing.B) {
	p, presence := gathering(b, 10_000)
	for i := range 1000 {
		defer p.hub.Wait(user(i)).Close()
	}
	p.sync.Start()
	defer p.sync.Close()
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		presence.Set(user(n%10_000), "D", ephemeral.Online, fmt.Sprint(n))
	}
}

// BenchmarkInitial: 30 rooms of 20 events with 2 and with 200 members each.
func BenchmarkInitial(b *testing.B) {
	for _, members := range []int{2, 200} {
		p := newPlant(b)
		for i := range 30 {
			room := p.room(i, members)
			for range 20 {
				p.send(room, message(user(0), "hello"))
			}
		}
		for _, filter := range []string{`{"room":{"timeline":{"limit":20}}}`, `{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true}}}`} {
			b.Run(fmt.Sprintf("members=%d/filter=%s", members, filter), func(b *testing.B) {
				q := syncing.Request{User: user(1), Device: "D", Filter: p.filter(filter)}
				b.ReportAllocs()
				var dst []byte
				for b.Loop() {
					a, err := p.sync.Sync(context.Background(), q)
					if err != nil {
						b.Fatal(err)
					}
					dst = a.AppendJSON(dst[:0])
				}
				b.ReportMetric(float64(len(dst)), "bytes/answer")
			})
		}
	}
}

// BenchmarkFanOut: a message to a room in which 100 devices wait; one operation is a message delivered to all.
func BenchmarkFanOut(b *testing.B) {
	const waiting = 100
	p := newPlant(b)
	room := p.room(0, waiting+1)
	ctx, stop := context.WithCancel(context.Background())
	var told, readers sync.WaitGroup
	for i := range waiting {
		q := syncing.Request{User: user(i + 1), Device: "D", Filter: p.filter(`{}`), Since: p.now(), Timeout: time.Minute}
		readers.Go(func() {
			var dst []byte
			for {
				a, err := p.sync.Sync(ctx, q)
				if err != nil {
					return
				}
				dst = a.AppendJSON(dst[:0])
				next, err := token.ParseStream(a.Next())
				if err != nil {
					panic(err)
				}
				q.Since = &next
				told.Done()
			}
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		told.Add(waiting)
		p.send(room, message(user(0), "hello"))
		told.Wait()
	}
	b.ReportMetric(float64(b.N*waiting)/b.Elapsed().Seconds(), "deliveries/s")
	stop()
	readers.Wait()
}
