package federation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

var errGone = errors.New("nobody is there")

// outside is a database with events for others, and all those others.
type outside struct {
	t   testing.TB
	db  *storage.DB
	cfg federation.SenderConfig

	everybody int64 // the set that is meant, whatever is said; 0: the one that is said

	mu       sync.Mutex // guards the following
	sender   *federation.Sender
	sets     map[string]int64
	behave   map[id.ServerName]func(context.Context, received) error // nil: takes everything
	tries    map[id.ServerName][]time.Time
	got      map[id.ServerName][]received // transactions that were taken, each id once
	inFlight map[id.ServerName]int
	flying   int
	most     int // of flying
	held     []string
}

// received is a transaction as a server got it.
type received struct {
	id     string
	body   string
	events []int64
	edus   []string
}

func newOutside(t testing.TB) *outside {
	t.Helper()
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	o := &outside{
		t: t, db: db, sets: map[string]int64{}, behave: map[id.ServerName]func(context.Context, received) error{},
		tries: map[id.ServerName][]time.Time{}, got: map[id.ServerName][]received{}, inFlight: map[id.ServerName]int{},
	}
	o.cfg = federation.SenderConfig{DB: db, Client: o, ServerName: "own"}
	return o
}

// start starts a sender and returns what ends it.
func (o *outside) start() (end func()) {
	o.t.Helper()
	s := federation.NewSender(o.cfg)
	o.mu.Lock()
	o.sender = s
	o.mu.Unlock()
	require.NoError(o.t, s.Start(context.Background()))
	return sync.OnceFunc(func() {
		o.mu.Lock()
		o.sender = nil
		o.mu.Unlock()
		require.NoError(o.t, s.Close(context.Background()))
	})
}

// wake does what the room state does once an act is announced.
func (o *outside) wake(servers []id.ServerName) {
	o.mu.Lock()
	s := o.sender
	o.mu.Unlock()
	if s != nil {
		s.Wake(servers)
	}
}

// send stores an event for servers and returns its position.
func (o *outside) send(room int64, servers ...id.ServerName) storage.Pos {
	o.t.Helper()
	at, act := o.queue(room, fmt.Sprintf(`"room":%d`, room), servers)
	require.NoError(o.t, act.Wait(context.Background()))
	return *at
}

// queue queues an event for servers.
func (o *outside) queue(room int64, fields string, servers []id.ServerName) (*storage.Pos, *storage.Act) {
	at := new(storage.Pos)
	return at, o.act(1, servers, func(a *storage.Act, pos storage.Pos) {
		*at = pos
		e := storage.Event{
			Pos: pos, Room: room, ID: id.EventID(fmt.Sprintf("$%d", pos)), Ord: pos << storage.OrdShift,
			Flags: storage.InTimeline, JSON: fmt.Appendf(nil, `{"n":%d,%s}`, pos, fields),
		}
		a.Add(storage.InsertEvent, e.Row()...)
		a.Add(storage.InsertOutgoing, pos, room, pos, o.set(a, pos, servers))
	})
}

// act queues an act of n positions, after which servers are woken.
func (o *outside) act(n int, servers []id.ServerName, place func(*storage.Act, storage.Pos)) *storage.Act {
	act := &storage.Act{Positions: n, Place: place, Announced: func(storage.Pos) { o.wake(servers) }}
	o.db.Queue(act)
	return act
}

// set is the number of a set of servers.
func (o *outside) set(a *storage.Act, pos storage.Pos, servers []id.ServerName) int64 {
	if o.everybody != 0 {
		return o.everybody
	}
	names := slices.Sorted(slices.Values(servers))
	text, err := json.Marshal(names)
	require.NoError(o.t, err)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sets[string(text)] == 0 {
		o.sets[string(text)] = pos
		a.Add(storage.InsertServerSet, pos, text)
	}
	return o.sets[string(text)]
}

// Do is what happens to a request out there.
func (o *outside) Do(ctx context.Context, r wire.Request) (wire.Answer, error) {
	txn := o.parse(r)
	o.enter(r.Destination)
	defer o.leave(r.Destination)
	o.mu.Lock()
	behave := o.behave[r.Destination]
	o.mu.Unlock()
	if behave != nil {
		if err := behave(ctx, txn); err != nil {
			return wire.Answer{}, err
		}
	}
	o.take(r.Destination, txn)
	return wire.Answer{Status: http.StatusOK, Body: []byte(`{"pdus":{}}`)}, nil
}

// enter checks that a server has one transaction in flight at most.
func (o *outside) enter(server id.ServerName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tries[server] = append(o.tries[server], time.Now())
	if o.inFlight[server]++; o.inFlight[server] > 1 {
		o.held = append(o.held, fmt.Sprintf("two transactions to %s at once", server))
	}
	o.flying++
	o.most = max(o.most, o.flying)
}

func (o *outside) leave(server id.ServerName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inFlight[server]--
	o.flying--
}

// take keeps a transaction unless it is known: then it has to be the same.
func (o *outside) take(server id.ServerName, txn received) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.got[server], func(r received) bool { return r.id == txn.id })
	switch {
	case i < 0:
		o.got[server] = append(o.got[server], txn)
	case o.got[server][i].body != txn.body:
		o.held = append(o.held, fmt.Sprintf("transaction %s to %s has changed:\n%s\n%s", txn.id, server, o.got[server][i].body, txn.body))
	}
}

func (o *outside) parse(r wire.Request) received {
	var body struct {
		Origin string `json:"origin"`
		TS     int64  `json:"origin_server_ts"`
		PDUs   []struct {
			N int64 `json:"n"`
		} `json:"pdus"`
		EDUs []struct {
			Type    string          `json:"edu_type"`
			Content json.RawMessage `json:"content"`
		} `json:"edus"`
	}
	err := json.Unmarshal(r.Body, &body)
	dir, txnID := path.Split(r.Path)
	ok := err == nil && body.Origin == "own" && body.TS > 0 && dir == "/_matrix/federation/v1/send/" && r.Method == "PUT" &&
		len(body.PDUs) <= 50 && len(body.EDUs) <= 100 && len(body.PDUs)+len(body.EDUs) > 0
	if !ok {
		o.mu.Lock()
		o.held = append(o.held, fmt.Sprintf("%s %s %s: %v", r.Method, r.Path, r.Body, err))
		o.mu.Unlock()
	}
	txn := received{id: txnID, body: string(r.Body)}
	for _, p := range body.PDUs {
		txn.events = append(txn.events, p.N)
	}
	for _, e := range body.EDUs {
		txn.edus = append(txn.edus, e.Type+string(e.Content))
	}
	return txn
}

// check says what was held against the sender.
func (o *outside) check() {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	require.Empty(o.t, o.held)
}

// is lets a server behave.
func (o *outside) is(server id.ServerName, behave func(context.Context, received) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.behave[server] = behave
}

func dead(context.Context, received) error { return errGone }

// refusing is a server that takes everything but one event.
func refusing(event int64, err error) func(context.Context, received) error {
	return func(_ context.Context, txn received) error {
		if slices.Contains(txn.events, event) {
			return err
		}
		return nil
	}
}

// hole never answers.
func hole(ctx context.Context, _ received) error {
	select {
	case <-ctx.Done():
	case <-time.After(30 * time.Second):
	}
	return errGone
}

func status(code int, errcode string) error { return &wire.Error{Status: code, Code: errcode} }

func (o *outside) transactions(server id.ServerName) []received {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got[server])
}

// events are those that a server has got, in the order in which it got them.
func (o *outside) events(server id.ServerName) (events []int64) {
	for _, txn := range o.transactions(server) {
		events = append(events, txn.events...)
	}
	return events
}

func (o *outside) edus(server id.ServerName) (edus []string) {
	for _, txn := range o.transactions(server) {
		edus = append(edus, txn.edus...)
	}
	return edus
}

func (o *outside) triedAt(server id.ServerName) []time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.tries[server])
}

// rows counts what is stored of a query.
func (o *outside) rows() (outgoing []storage.Outgoing, destinations []storage.Destination) {
	o.t.Helper()
	require.NoError(o.t, o.db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		if outgoing, err = tx.Outgoing(0, 1<<60, 1<<20); err != nil {
			return err
		}
		destinations, err = tx.Destinations()
		return err
	}))
	return outgoing, destinations
}

// mostAtOnce is how many transactions were under way at once.
func (o *outside) mostAtOnce() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.most
}
