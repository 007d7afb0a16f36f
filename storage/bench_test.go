package storage_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

func BenchmarkOpenMemory(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		db, err := storage.Open(context.Background(), sqlite.Memory())
		if err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite: how long is a message's act on its way, and how many pass in a second?
func BenchmarkWrite(b *testing.B) {
	for _, senders := range []int{1, 16, 64} {
		for name, engine := range engines() {
			b.Run(fmt.Sprintf("%s/%d", name, senders), func(b *testing.B) {
				benchmarkWrite(b, open(b, engine(b)), senders)
			})
		}
	}
}

func benchmarkWrite(b *testing.B, db *storage.DB, senders int) {
	rooms := makeRooms(b, db, min(4, senders))
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, senders)
	var all sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for i := range senders {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				a := rooms[i%len(rooms)].send(db)
				if err := a.Wait(context.Background()); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	each := slices.Concat(took...)
	slices.Sort(each)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acts/s")
	b.ReportMetric(float64(each[len(each)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(each[len(each)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(each[len(each)-1].Microseconds()), "max-µs")
}

// benchRoom is a room as its service keeps it: its lock and its head.
type benchRoom struct {
	mu   sync.Mutex
	num  int64
	seq  int64
	sent int
}

func makeRooms(tb testing.TB, db *storage.DB, n int) []*benchRoom {
	rooms := make([]*benchRoom, n)
	for i := range rooms {
		rooms[i] = &benchRoom{num: db.NextRoom()}
		a := &storage.Act{}
		a.Add(storage.InsertRoom, rooms[i].num, fmt.Sprintf("!room%d:example.org", i), "12", 0, 0, 0, []byte("[]"))
		db.Queue(a)
		require.NoError(tb, a.Wait(context.Background()))
	}
	return rooms
}

var body = make([]byte, 700)

// send queues the act of a message: its event, its transaction id, the room's head.
func (r *benchRoom) send(db *storage.DB) *storage.Act {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	r.sent++
	seq := r.seq
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d", r.num, seq))
	a := &storage.Act{Positions: 1}
	a.Place = func(a *storage.Act, pos storage.Pos) {
		e := storage.Event{
			Pos: pos, Room: r.num, ID: id.EventID(fmt.Sprintf("$%x", sum)), Ord: pos << storage.OrdShift,
			Flags: storage.InTimeline, Device: "DEVICE", JSON: body,
		}
		a.Add(storage.InsertEvent, e.Row()...)
		a.Add(storage.InsertTransaction, sum[:], string(e.ID), pos)
		a.Move(storage.RoomWrite{Room: r.num, FromSeq: seq - 1, ToSeq: seq, LastPos: pos, Extremities: sum[:]})
	}
	db.Queue(a)
	return a
}

// BenchmarkFloor: what the same rows cost in plain database/sql, n acts in a transaction.
func BenchmarkFloor(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("sqlite/%d", n), func(b *testing.B) { benchmarkFloor(b, n) })
	}
}

func benchmarkFloor(b *testing.B, n int) {
	path := filepath.Join(b.TempDir(), "floor.db")
	e, err := sqlite.Open(path)
	require.NoError(b, err)
	s, err := storage.Open(context.Background(), e)
	require.NoError(b, err)
	room := makeRooms(b, s, 1)[0].num
	require.NoError(b, s.Close())
	db, err := sql.Open("sqlite", path+"?_pragma=synchronous(FULL)&_txlock=immediate")
	require.NoError(b, err)
	defer db.Close()
	prepare := func(text string) *sql.Stmt {
		st, err := db.Prepare(text)
		require.NoError(b, err)
		return st
	}
	event := prepare("INSERT INTO mx_events (pos, room, event_id, ord, before, now, flags, redacted_by, device_id, txn, json) VALUES (?,?,?,?,?,?,?,?,?,?,?)")
	txn := prepare("INSERT INTO mx_transactions (txn_hash, event_id, at_ms) VALUES (?,?,?)")
	move := prepare("UPDATE mx_rooms SET seq = ?, state = ?, last_pos = ?, extremities = ? WHERE room = ?")
	pos := 1
	b.ReportAllocs()
	for b.Loop() {
		tx, err := db.Begin()
		require.NoError(b, err)
		run := func(st *sql.Stmt, args ...any) {
			if _, err := tx.Stmt(st).Exec(args...); err != nil {
				b.Fatal(err)
			}
		}
		for range n {
			pos++
			sum := sha256.Sum256(fmt.Appendf(nil, "%d", pos))
			eid := fmt.Sprintf("$%x", sum)
			run(event, pos, room, eid, pos<<storage.OrdShift, 0, 0, 1, 0, "DEVICE", nil, body)
			run(txn, sum[:], eid, pos)
		}
		run(move, pos, 0, pos, body[:32], room)
		require.NoError(b, tx.Commit())
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "acts/s")
}

// BenchmarkRead: what does a snapshot cost, and how many pass beside each other?
func BenchmarkRead(b *testing.B) {
	for name, engine := range engines() {
		db := open(b, engine(b))
		room := makeRooms(b, db, 1)[0]
		for range 1000 {
			require.NoError(b, room.send(db).Wait(context.Background()))
		}
		queries := map[string]func(*storage.Tx) error{
			"nothing": func(*storage.Tx) error { return nil },
			"one": func(tx *storage.Tx) error {
				_, err := tx.EventsAt([]storage.Pos{500})
				return err
			},
			"page100": func(tx *storage.Tx) error {
				_, err := tx.HistoryBackwards(room.num, 500<<storage.OrdShift, 0, 100)
				return err
			},
		}
		for what, query := range queries {
			b.Run(name+"/"+what, func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := db.Read(context.Background(), query); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}
