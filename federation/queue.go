package federation

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	defaultInFlight     = 64
	defaultFirstRetry   = time.Second
	defaultLongestRetry = time.Hour
	defaultCatchUpRows  = 100
	defaultCatchUpAfter = time.Hour
	defaultSweepEvery   = 5 * time.Minute

	slowAfter    = 2 * time.Second  // an attempt that takes longer no longer keeps healthy servers waiting
	aliveSpacing = 10 * time.Second // between attempts that Alive brings about
	maxAlive     = 4096             // servers remembered because they have contacted us
)

// Requester sends requests to other servers; a *wire.Client is one.
type Requester interface {
	Do(ctx context.Context, r wire.Request) (wire.Answer, error)
}

// SenderConfig describes a Sender. DB, Client and ServerName are required.
type SenderConfig struct {
	DB         *storage.DB
	Client     Requester
	ServerName id.ServerName // this server

	Durable DurableEDUs              // EDUs that must arrive; nil: there are none
	Allowed func(id.ServerName) bool // which servers anything is sent to; nil: all. It may not wait

	// InFlight bounds the transactions under way to servers that answered the last time, and once more those to servers
	// that did not, are new or slow. 64 if zero.
	InFlight int

	FirstRetry   time.Duration // the pause after a first failure; 1 s if zero. Every further one is 2 to 2½ times as long
	LongestRetry time.Duration // the longest pause; 1 h if zero

	// A server that failed for CatchUpAfter (1 h if zero), or has missed more than CatchUpRows events (100 if zero) in
	// over a minute, gets the newest event of each room instead of all of them.
	CatchUpAfter time.Duration
	CatchUpRows  int

	// SweepEvery is how often it is looked for lost wake-ups, and for what everybody has got; 5 min if zero. Nothing is
	// looked for while nothing is sent.
	SweepEvery time.Duration

	Now func() time.Time // time.Now if nil
	Log *slog.Logger     // nil discards
}

func (cfg SenderConfig) withDefaults() SenderConfig {
	cfg.InFlight = cmp.Or(cfg.InFlight, defaultInFlight)
	cfg.FirstRetry = cmp.Or(cfg.FirstRetry, defaultFirstRetry)
	cfg.LongestRetry = cmp.Or(cfg.LongestRetry, defaultLongestRetry)
	cfg.CatchUpAfter = cmp.Or(cfg.CatchUpAfter, defaultCatchUpAfter)
	cfg.CatchUpRows = cmp.Or(cfg.CatchUpRows, defaultCatchUpRows)
	cfg.SweepEvery = cmp.Or(cfg.SweepEvery, defaultSweepEvery)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// Sender sends events and EDUs to other servers: to each what is for it, in order, one transaction after the other.
//
// An event is the message: what is stored in mx_outgoing is sent even if the process dies, and a transaction that was
// not answered is sent again under the same id with the same content (but for events redacted meanwhile), also by the
// next process. Servers that fail are left alone for ever longer. There is a goroutine for every transaction under way
// and none for servers that wait; for those there is one timer.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#transactions
type Sender struct {
	cfg     SenderConfig
	journal *journal
	events  *eventCache
	ctx     context.Context // of every transaction; ends with Close
	stop    context.CancelFunc
	ends    sync.WaitGroup // goroutines and timers

	mu           sync.Mutex // guards the following, and of each destination the fields that say so
	running      bool       // Start was called, Close was not
	closed       bool
	destinations map[id.ServerName]*destination
	alive        map[id.ServerName]struct{} // have contacted us and are no destinations yet
	ready        [classes]line
	flying       [classes]int // transactions under way
	waiting      retries
	retry        alarm // at the first of waiting
	sweeper      alarm
	sweeping     bool // sweeper is set, or its sweep is under way
	sweepAgain   bool // somebody was woken since that sweep began
}

// class is what a destination is thought to be like.
type class int

// The classes of destinations.
const (
	healthy  class = iota // the last attempt was answered, or it has contacted us
	doubtful              // new, failing, or slow at the moment
	classes
)

// NewSender returns a Sender that remembers whom it is told to wake, and sends nothing until Start.
func NewSender(cfg SenderConfig) *Sender {
	cfg = cfg.withDefaults()
	s := &Sender{
		cfg: cfg, journal: newJournal(cfg.DB), events: newEventCache(cfg.DB, cfg.Now),
		destinations: map[id.ServerName]*destination{}, alive: map[id.ServerName]struct{}{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.retry.ends, s.sweeper.ends = &s.ends, &s.ends
	return s
}

// Start finds out what was not delivered by earlier processes and begins to send.
func (s *Sender) Start(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		return fmt.Errorf("load the destinations: %w", err)
	}
	if err := s.sweep(ctx); err != nil {
		return fmt.Errorf("look for what is to be sent: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = !s.closed
	s.sweepLaterLocked()
	s.armLocked()
	s.dispatchLocked()
	return nil
}

// Close ends the transactions under way, whose answers are lost, and returns when the last goroutine has ended or ctx
// has. What was not delivered goes out after the next start.
func (s *Sender) Close(ctx context.Context) error {
	s.mu.Lock()
	s.running, s.closed = false, true
	s.retry.unset()
	s.sweeper.unset()
	s.mu.Unlock()
	s.stop()
	ended := make(chan struct{})
	go func() { s.ends.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// load makes the destinations that are stored known, and those wake that have a transaction to be sent again.
func (s *Sender) load(ctx context.Context) error {
	var rows []storage.Destination
	var behind, owed []id.ServerName
	err := s.cfg.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if rows, err = tx.Destinations(); err != nil {
			return err
		}
		behind, err = tx.CatchingUp()
		return err
	})
	if err == nil && s.cfg.Durable != nil {
		owed, err = s.cfg.Durable.Waiting(ctx)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range rows {
		s.adoptLocked(row)
	}
	for _, name := range behind {
		d := s.destinationLocked(name)
		d.catchUp = true
		s.wakeLocked(d)
	}
	for _, name := range owed {
		s.wakeLocked(s.destinationLocked(name))
	}
	return nil
}

// adoptLocked makes a stored destination known.
func (s *Sender) adoptLocked(row storage.Destination) {
	d := s.destinationLocked(row.Server)
	d.row, d.past = row, row.Past
	d.retryAt = time.UnixMilli(row.RetryAtMS)
	d.class = healthy
	if row.FailingSinceMS != 0 {
		d.class = doubtful
	}
	if row.TxnID != "" {
		d.txn = decodeSending(row.TxnID, row.Txn, s.cfg.Log)
		s.wakeLocked(d)
	}
}

// destinationLocked returns a destination, a new one if need be.
func (s *Sender) destinationLocked(name id.ServerName) *destination {
	d, ok := s.destinations[name]
	if !ok {
		d = &destination{name: name, row: storage.Destination{Server: name}, class: doubtful, place: -1}
		if _, ok := s.alive[name]; ok {
			d.class = healthy
			delete(s.alive, name)
		}
		s.destinations[name] = d
	}
	return d
}

// Wake tells that there are events for these servers. It does not wait.
func (s *Sender) Wake(servers []id.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range servers {
		if s.sendsTo(name) {
			s.wakeLocked(s.destinationLocked(name))
		}
	}
	s.sweepLaterLocked()
	s.dispatchLocked()
}

// sendsTo reports whether anything is sent to a server.
func (s *Sender) sendsTo(name id.ServerName) bool {
	return name != s.cfg.ServerName && (s.cfg.Allowed == nil || s.cfg.Allowed(name))
}

// wakeLocked lets a destination be looked at, once its pause is over.
func (s *Sender) wakeLocked(d *destination) {
	d.woken = true
	if d.phase != idle {
		return
	}
	if s.cfg.Now().Before(d.retryAt) {
		d.phase = pausing
		heap.Push(&s.waiting, d)
		s.armLocked()
		return
	}
	s.readyLocked(d)
}

func (s *Sender) readyLocked(d *destination) {
	d.phase = ready
	s.ready[d.class].push(d)
}

// Alive says that a server has contacted us: what waits for it is tried again at once, though not more often than
// every 10 seconds. Call it for authenticated requests only.
func (s *Sender) Alive(server id.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.destinations[server]
	if !ok {
		s.noteAliveLocked(server)
		return
	}
	d.class = healthy
	at := d.triedAt.Add(aliveSpacing)
	if d.phase != pausing || !at.Before(d.retryAt) {
		return
	}
	d.retryAt = at
	heap.Fix(&s.waiting, d.place)
	s.dueLocked()
}

func (s *Sender) noteAliveLocked(server id.ServerName) {
	if server == s.cfg.ServerName {
		return
	}
	for name := range s.alive {
		if len(s.alive) < maxAlive {
			break
		}
		delete(s.alive, name)
	}
	s.alive[server] = struct{}{}
}

// due is called when the first pause is over.
func (s *Sender) due() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dueLocked()
}

func (s *Sender) dueLocked() {
	now := s.cfg.Now()
	for len(s.waiting) > 0 && !s.waiting[0].retryAt.After(now) {
		s.readyLocked(heap.Pop(&s.waiting).(*destination))
	}
	s.armLocked()
	s.dispatchLocked()
}

// armLocked sets the timer for the first pause that ends.
func (s *Sender) armLocked() {
	if !s.running || len(s.waiting) == 0 {
		return
	}
	s.retry.set(max(s.waiting[0].retryAt.Sub(s.cfg.Now()), 0), s.due)
}

// dispatchLocked begins as many transactions as may be under way.
func (s *Sender) dispatchLocked() {
	if !s.running {
		return
	}
	for c := range classes {
		for s.flying[c] < s.cfg.InFlight && s.ready[c].len() > 0 && s.flying[healthy]+s.flying[doubtful] < 3*s.cfg.InFlight {
			s.beginLocked(s.ready[c].pop())
		}
	}
}

// beginLocked begins an attempt.
func (s *Sender) beginLocked(d *destination) {
	d.phase, d.woken, d.flies, d.triedAt = flying, false, d.class, s.cfg.Now()
	s.flying[d.flies]++
	d.slow.ends = &s.ends
	d.slow.set(slowAfter, func() { s.slow(d) })
	s.ends.Go(func() { s.settle(d, s.attempt(s.ctx, d)) })
}

// slow lets a transaction that takes long count as one to a doubtful server.
func (s *Sender) slow(d *destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.phase != flying || s.cfg.Now().Sub(d.triedAt) < slowAfter {
		return
	}
	s.flying[d.flies]--
	d.flies = doubtful
	s.flying[d.flies]++
	s.dispatchLocked()
}

// settle says how a destination goes on after an attempt.
func (s *Sender) settle(d *destination, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.slow.unset()
	s.flying[d.flies]--
	d.phase, d.past = idle, d.row.Past
	switch o.verdict {
	case delivered:
		d.class, d.retryAt = healthy, time.Time{}
		s.readyLocked(d)
	case nothing:
		if d.woken {
			s.readyLocked(d)
		}
	case failed:
		d.class = doubtful
		d.retryAt = s.cfg.Now().Add(o.pause)
		s.wakeLocked(d)
	case hindered:
		d.retryAt = s.cfg.Now().Add(o.pause)
		s.wakeLocked(d)
	}
	s.dispatchLocked()
}

// line is a queue of destinations.
type line struct{ list []*destination }

func (l *line) len() int            { return len(l.list) }
func (l *line) push(d *destination) { l.list = append(l.list, d) }

func (l *line) pop() *destination {
	d := l.list[0]
	l.list[0] = nil
	if l.list = l.list[1:]; len(l.list) == 0 {
		l.list = nil
	}
	return d
}

// retries are the destinations that wait for the end of their pause: a heap, the first to end on top.
type retries []*destination

func (r retries) Len() int           { return len(r) }
func (r retries) Less(i, j int) bool { return r[i].retryAt.Before(r[j].retryAt) }

func (r retries) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].place, r[j].place = i, j
}

// Push implements heap.Interface.
func (r *retries) Push(x any) {
	d := x.(*destination)
	d.place = len(*r)
	*r = append(*r, d)
}

// Pop implements heap.Interface.
func (r *retries) Pop() any {
	last := len(*r) - 1
	d := (*r)[last]
	(*r)[last] = nil
	*r, d.place = (*r)[:last], -1
	return d
}

// alarm calls a function later. Its owner's lock guards it; the function runs without that, and is awaited by ends.
type alarm struct {
	ends  *sync.WaitGroup
	timer *time.Timer
}

// set lets fn be called after d, and whatever was set before not any more unless it is under way.
func (a *alarm) set(d time.Duration, fn func()) {
	a.unset()
	a.ends.Add(1)
	a.timer = time.AfterFunc(d, func() {
		defer a.ends.Done()
		fn()
	})
}

func (a *alarm) unset() {
	if a.timer != nil && a.timer.Stop() {
		a.ends.Done()
	}
	a.timer = nil
}
