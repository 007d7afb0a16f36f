package federation

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
)

// Receiver takes events that another server has sent; a *rooms.Service is one, and says what the methods promise.
type Receiver interface {
	Identify(ctx context.Context, pdu json.RawMessage) (id.RoomID, id.EventID, error)
	Receive(ctx context.Context, origin id.ServerName, room id.RoomID, pdus []json.RawMessage) []error
}

const (
	handledWithin = 55 * time.Second // a transaction; what is undecided then counts as refused, and is found later as missing
	toldWithin    = 10 * time.Second // what is in its EDUs; the rest is passed over
	maxRooms      = 8                // rooms of a transaction that are worked at together
	maxHeld       = 32 << 20         // bytes of the transactions of one server that wait or are being handled, if more than one,
	maxFlights    = 100              // and how many these are; one that keeps to the specification has one

	answersKept  = 24 * time.Hour
	forgetEvery  = 64 // transactions
	forgetAtOnce = 256
)

// inbox handles transactions, each once: those of a server one after the other, those of several beside each other.
type inbox struct {
	cfg  Config
	ctx  context.Context // of all work; ends with close
	stop context.CancelFunc
	work sync.WaitGroup // the goroutines

	mu      sync.Mutex // guards the following
	closed  bool
	flights map[[32]byte]*flight    // those that wait, are being handled or are not stored yet
	lanes   map[id.ServerName]*lane // of those who have flights
	handled int                     // transactions so far
}

// flight is a transaction that is being handled, for whoever asks.
type flight struct {
	*delivery
	key  [32]byte
	lane *lane

	done   chan struct{} // closed when the following are set
	answer []byte
	err    error
}

// lane is the transactions of one server that wait or are being handled.
type lane struct {
	turn    chan struct{} // capacity 1: the right to handle one of them
	flights int           // guarded by inbox.mu, as is
	held    int           // how many bytes they have
}

func newInbox(cfg Config) *inbox {
	in := &inbox{cfg: cfg, flights: map[[32]byte]*flight{}, lanes: map[id.ServerName]*lane{}}
	in.ctx, in.stop = context.WithCancel(context.Background())
	return in
}

func (in *inbox) close() {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	in.stop()
	in.work.Wait()
}

// take returns the answer to a transaction, which goes on being handled when ctx ends.
func (in *inbox) take(ctx context.Context, t *delivery) ([]byte, error) {
	f, err := in.join(t)
	if err != nil {
		return nil, err
	}
	select {
	case <-f.done:
		return f.answer, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errStopping = mxerr.Unknown.WithStatus(503).With("the server is stopping")

// join returns the flight of a transaction, a new one if there is none.
func (in *inbox) join(t *delivery) (*flight, error) {
	key := sha256.Sum256([]byte(string(t.origin) + "\x00" + t.id))
	in.mu.Lock()
	defer in.mu.Unlock()
	if f := in.flights[key]; f != nil {
		return f, nil
	}
	if in.closed {
		return nil, errStopping
	}
	s := in.lanes[t.origin]
	if s == nil {
		s = &lane{turn: make(chan struct{}, 1)}
	}
	if s.flights == maxFlights || s.flights > 0 && s.held+t.size > maxHeld {
		return nil, mxerr.LimitExceeded.With("earlier transactions are being handled").Set("retry_after_ms", 1000)
	}
	s.flights++
	s.held += t.size
	f := &flight{delivery: t, key: key, lane: s, done: make(chan struct{})}
	in.flights[key], in.lanes[t.origin] = f, s
	in.work.Go(func() { in.fly(f) })
	return f, nil
}

// part forgets a flight.
func (in *inbox) part(f *flight) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.flights, f.key)
	f.lane.held -= f.size
	if f.lane.flights--; f.lane.flights == 0 {
		delete(in.lanes, f.origin)
	}
}

// fly handles a transaction when it is its turn. Its flight is there until the answer is stored: whoever sends it again
// meanwhile gets this answer, and whoever does later gets the stored one.
func (in *inbox) fly(f *flight) {
	defer in.part(f)
	stored := in.answer(f)
	close(f.done)
	if stored == nil {
		return
	}
	if err := stored.Wait(in.ctx); err != nil && in.ctx.Err() == nil {
		in.cfg.Log.Warn("an answer to a transaction is not remembered", slog.Any("server", f.origin), slog.Any("error", err))
	}
}

// answer sets the answer of a flight. The act that remembers it is under way then, unless it is nil.
func (in *inbox) answer(f *flight) (storing *storage.Act) {
	defer func() {
		if p := recover(); p != nil {
			f.err = mxerr.Unknown
			in.panicked(f.origin, p)
		}
	}()
	select {
	case f.lane.turn <- struct{}{}:
		defer func() { <-f.lane.turn }()
	case <-in.ctx.Done():
		f.err = errStopping
		return nil
	}
	known := false
	if f.answer, known, f.err = in.answered(f.key); known || f.err != nil {
		return nil
	}
	if f.answer, f.err = in.handle(f.delivery); f.err != nil {
		return nil
	}
	return in.remember(f)
}

func (in *inbox) panicked(origin id.ServerName, p any) {
	in.cfg.Log.Error("panic in a transaction", slog.Any("server", origin), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
}

// answered looks for how a transaction was answered before.
func (in *inbox) answered(key [32]byte) (answer []byte, known bool, err error) {
	err = in.cfg.DB.Read(in.ctx, func(tx *storage.Tx) (err error) {
		answer, err = tx.ReceivedAnswer(key[:])
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, false, nil
	}
	return answer, err == nil, err
}

// remember queues the answer to be stored, and now and then what is old to be forgotten.
func (in *inbox) remember(f *flight) *storage.Act {
	now := in.cfg.Now()
	a := &storage.Act{}
	a.Add(storage.InsertReceived, f.key[:], f.answer, now.UnixMilli())
	if in.count()%forgetEvery == 1 {
		a.Do = func(tx *storage.Tx, _ storage.Pos) error {
			return tx.DeleteReceivedBefore(now.Add(-answersKept).UnixMilli(), forgetAtOnce)
		}
	}
	in.cfg.DB.Queue(a)
	return a
}

func (in *inbox) count() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.handled++
	return in.handled
}

// handle handles the events, each once those before it in its room are, and then the EDUs, and returns the answer. An
// error is a fault of this server that may be over soon: the transaction is to be sent again.
func (in *inbox) handle(t *delivery) ([]byte, error) {
	ctx, cancel := context.WithTimeout(in.ctx, handledWithin)
	defer cancel()
	items := in.sort(ctx, t.pdus)
	in.receive(ctx, t.origin, byRoom(items))
	for _, p := range items {
		if temporary(p.err) {
			return nil, fmt.Errorf("handle a transaction of %s: %w", t.origin, p.err)
		}
	}
	if in.ctx.Err() != nil {
		return nil, errStopping
	}
	if err := in.tell(t); err != nil {
		return nil, fmt.Errorf("tell the EDUs of a transaction of %s: %w", t.origin, err)
	}
	return in.encode(t.origin, items)
}

// temporary reports whether an event or an EDU may be taken when it is sent again.
func temporary(err error) bool {
	return errors.Is(err, storage.ErrBusy) || errors.Is(err, storage.ErrAway) || errors.Is(err, storage.ErrClosed)
}

// item is an event of a transaction.
type item struct {
	raw   json.RawMessage
	room  id.RoomID
	event id.EventID // "" if nobody can tell
	err   error      // why it was not taken
}

// sort finds out which room each event belongs to.
func (in *inbox) sort(ctx context.Context, pdus []json.RawMessage) []*item {
	items := make([]*item, len(pdus))
	for i, raw := range pdus {
		items[i] = &item{raw: raw}
		items[i].room, items[i].event, items[i].err = in.cfg.Receiver.Identify(ctx, raw)
	}
	return items
}

// byRoom gathers the events of each room, in their order.
func byRoom(items []*item) [][]*item {
	var groups [][]*item
	at := map[id.RoomID]int{}
	for _, p := range items {
		if p.err != nil {
			continue
		}
		i, ok := at[p.room]
		if !ok {
			i = len(groups)
			at[p.room] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], p)
	}
	return groups
}

// receive gives the events of each room to the rooms, maxRooms at a time.
func (in *inbox) receive(ctx context.Context, origin id.ServerName, groups [][]*item) {
	var working sync.WaitGroup
	free := make(chan struct{}, maxRooms)
	for _, group := range groups {
		free <- struct{}{}
		working.Go(func() {
			in.receiveRoom(ctx, origin, group)
			<-free
		})
	}
	working.Wait()
}

func (in *inbox) receiveRoom(ctx context.Context, origin id.ServerName, group []*item) {
	defer func() {
		if p := recover(); p != nil {
			in.panicked(origin, p)
			fail(group, mxerr.Unknown)
		}
	}()
	raws := make([]json.RawMessage, len(group))
	for i, p := range group {
		raws[i] = p.raw
	}
	for i, err := range in.cfg.Receiver.Receive(ctx, origin, group[0].room, raws) {
		group[i].err = err
	}
}

func fail(group []*item, err error) {
	for _, p := range group {
		p.err = err
	}
}

// encode makes the answer. An event whose id nobody can tell has no place in it.
func (in *inbox) encode(origin id.ServerName, items []*item) ([]byte, error) {
	type verdict struct {
		Error string `json:"error,omitempty"`
	}
	verdicts := map[id.EventID]verdict{}
	for _, p := range items {
		if p.event != "" {
			verdicts[p.event] = verdict{in.reason(origin, p)}
		}
	}
	return json.Marshal(map[string]any{"pdus": verdicts})
}

// reason is what the sender is told of an event: "" when all is well.
func (in *inbox) reason(origin id.ServerName, p *item) string {
	var own *mxerr.Error
	switch {
	case p.err == nil, errors.Is(p.err, rooms.ErrRejected), errors.Is(p.err, rooms.ErrPostponed):
		return "" // "If no error is present, the PDU can be considered successfully handled."
	case errors.As(p.err, &own):
		return own.Message
	case errors.Is(p.err, context.DeadlineExceeded):
		return "the event could not be checked in time"
	}
	in.cfg.Log.Error("an event could not be taken", slog.Any("server", origin), slog.Any("room", p.room),
		slog.Any("event", p.event), slog.Any("error", p.err))
	return mxerr.Unknown.Message
}

// tell hands every EDU to whom it concerns. An error says that one may have been lost which must not be, as messages to
// devices.
func (in *inbox) tell(t *delivery) (lost error) {
	ctx, cancel := context.WithTimeout(in.ctx, toldWithin)
	defer cancel()
	for _, raw := range t.edus {
		err := in.tellOne(ctx, t.origin, raw)
		if err == nil {
			continue
		}
		in.cfg.Log.Debug("an EDU was passed over", slog.Any("server", t.origin), slog.Any("error", err))
		if temporary(err) || ctx.Err() != nil {
			lost = err
		}
	}
	return lost
}

func (in *inbox) tellOne(ctx context.Context, origin id.ServerName, raw json.RawMessage) (err error) {
	defer func() {
		if p := recover(); p != nil {
			in.panicked(origin, p)
			err = mxerr.Unknown
		}
	}()
	e, err := readEDU(raw)
	if err != nil {
		return err
	}
	handle := in.cfg.EDUs[e.eduType]
	if handle == nil {
		return nil
	}
	return handle(ctx, origin, e.content)
}
