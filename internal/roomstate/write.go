package roomstate

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/storage"
)

// Extremity is a forward extremity: an event that no other names as its predecessor yet.
type Extremity struct {
	ID    id.EventID `json:"i"`
	Depth int64      `json:"d"`
	Hash  string     `json:"h,omitempty"` // its reference hash, in versions whose references carry it
	State Root       `json:"s,omitempty"` // the state after it; 0 until it has its place
}

// Meta is what is stored beside a local event.
type Meta struct {
	Device id.DeviceID
	Txn    string    // the client's transaction id
	Hash   *[32]byte // identifies user, device, path and transaction id; nil without one
	AtMS   int64     // when, for the transaction's row

	NotTo id.ServerName // an event of another server that is sent on: who has it already

	Redacts *Event     // the event of this room that the new one redacts; its redacted form is stored with it
	Awaits  id.EventID // the event that a redaction would redact, while it is not here
	Clears  bool       // all that the target of this member event has sent is to be redacted: Cache.WatchClearings
}

// Pending is what was proposed to a room in one act and is on its way to storage.
type Pending struct {
	Events []*Event
	act    *storage.Act
}

// Wait returns when the events are durable and readers may be told of them, or with why they are not.
func (p *Pending) Wait(ctx context.Context) error { return p.act.Wait(ctx) }

// Writer is a room whose lock is held. Events are proposed one after the other, each on the state that
// those before it leave; Queue makes them one act. It is used by one goroutine.
type Writer struct {
	*Room
	ctx  context.Context
	act  storage.Act
	plan []proposal

	stripped []stripping // in the order in which that is done

	overlay     map[Key]*event.Event // state events of the plan
	extremities []Extremity
	created     bool // the act makes the room
	sent        bool // the act is queued
	err         error

	with, lead *Writer // whose events are part of this act; of whose act these events are part
}

// stripping is an event of the room that becomes its redacted form with the act, and the event because of which.
type stripping struct{ target, by *Event }

type proposal struct {
	*Event
	meta   Meta
	number int64 // of the state key, with state
	newKey bool
	auth   []*Event // with state: its auth events, nil for one that is not here
	sentTo []id.ServerName
	graft  *grafted // of an event that did not come about on the room's head

	stickyEnd int64 // until when it is sticky, in milliseconds; 0: it is not
}

// arrives reports whether the event becomes part of the timeline by this act.
func (p *proposal) arrives() bool { return p.Flags&storage.InTimeline != 0 && !p.backfilled() }

// moves reports whether the event changes what the room's head is.
func (p *proposal) moves() bool { return p.graft == nil || p.graft.onHead }

func (p *proposal) backfilled() bool { return p.graft != nil && p.graft.Ord != 0 }

// Lock waits for the right to write the room. Every Writer ends with Unlock.
func (c *Cache) Lock(ctx context.Context, roomID id.RoomID) (*Writer, error) {
	for {
		r, err := c.Room(ctx, roomID)
		if err != nil {
			return nil, err
		}
		if !r.pin() {
			continue
		}
		select {
		case r.lock <- struct{}{}:
		case <-ctx.Done():
			r.unpin()
			return nil, ctx.Err()
		}
		if !r.stale.Load() {
			return &Writer{Room: r, ctx: ctx, extremities: r.head.extremities}, nil
		}
		<-r.lock // a write was refused meanwhile: take what is stored
		r.unpin()
	}
}

// Create returns the Writer of a room that does not exist yet. It is seen by others once it is queued.
func (c *Cache) Create(ctx context.Context, roomID id.RoomID, rules *roomversion.Rules) (*Writer, error) {
	r, err := c.newRoom(roomID, c.db.NextRoom(), rules.Version)
	if err != nil {
		return nil, err
	}
	r.pin()
	r.lock <- struct{}{}
	return &Writer{Room: r, ctx: ctx, created: true}, nil
}

// Unlock gives the right to write back. What was proposed and not queued is forgotten.
func (w *Writer) Unlock() {
	if !w.sent {
		w.forgetKeys()
		w.cache.trees.settled(&w.act)
	}
	<-w.lock
	w.unpin()
}

// forgetKeys takes back the numbers that the plan has given to new state keys: the latest ones.
func (w *Writer) forgetKeys() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.plan) - 1; i >= 0; i-- {
		w.forgetKeyLocked(&w.plan[i])
	}
}

// forgetKey takes back the number that a proposal was given, the latest one, because nothing will come of it.
func (w *Writer) forgetKey(p *proposal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgetKeyLocked(p)
}

func (w *Writer) forgetKeyLocked(p *proposal) {
	if p.newKey {
		delete(w.numbers, w.keys[p.number])
		w.keys = w.keys[:p.number]
		w.base.Add(-keyCost)
	}
}

// Extremities returns the events that the next one follows.
func (w *Writer) Extremities() []Extremity { return w.extremities }

// Pending returns the queued act of a transaction id, nil when there is none.
func (w *Writer) Pending(hash *[32]byte) *Pending { return w.head.txns[*hash] }

// Event returns the entry of the state that the next event would be authorised by, nil when it has none
// or cannot be read; Err tells the latter. A Writer is thus an eventauth.State.
func (w *Writer) Event(eventType, stateKey string) *event.Event {
	if e := w.overlay[Key{eventType, stateKey}]; e != nil {
		return e
	}
	e, err := w.Room.StateEvent(w.ctx, w.head.state, eventType, stateKey)
	if err != nil {
		w.err = errors.Join(w.err, err)
		return nil
	}
	if e == nil {
		return nil
	}
	return e.Event
}

// Levels returns the power levels of that state.
func (w *Writer) Levels() (*eventauth.PowerLevels, error) {
	return w.head.levels.Levels(w.Event("m.room.create", ""), w.Event("m.room.power_levels", ""))
}

// Settled returns the entry of that state if it is durable already, nil otherwise.
func (w *Writer) Settled(eventType, stateKey string) (*Event, error) {
	e, err := w.Room.StateEvent(w.ctx, w.head.state, eventType, stateKey)
	if e != nil && e.Pos > w.cache.db.Published() {
		e = nil
	}
	return e, err
}

// Unsettled returns the latest act of the room while it is on its way: what a Writer finds is durable once it
// is. It is nil when nothing is.
func (w *Writer) Unsettled() *Pending {
	if p := w.head.last; p != nil && !p.act.Done() {
		return p
	}
	return nil
}

// Context is that of the request for which the room was locked.
func (w *Writer) Context() context.Context { return w.ctx }

// Err is the first fault of reading the state.
func (w *Writer) Err() error { return w.err }

// Propose puts an event behind those already proposed. The caller has checked it.
func (w *Writer) Propose(ev *event.Event, meta Meta) error {
	p := proposal{Event: &Event{Event: ev, Device: meta.Device, Txn: meta.Txn, Flags: storage.InTimeline}, meta: meta}
	if ev.StateKey != nil {
		if err := w.proposeState(&p); err != nil {
			return err
		}
	}
	x, err := ExtremityOf(ev)
	if err != nil {
		return err
	}
	w.extremities = append(slices.DeleteFunc(slices.Clone(w.extremities), func(x Extremity) bool {
		return slices.Contains(ev.PrevEvents, x.ID)
	}), x)
	w.take(p)
	return nil
}

// take puts a proposal at the end of the plan.
func (w *Writer) take(p proposal) {
	w.plan = append(w.plan, p)
	if p.meta.Redacts != nil {
		w.Strip(p.meta.Redacts, p.Event)
	}
}

// Strip lets an event of the room become its redacted form with the act, because of another one.
func (w *Writer) Strip(target, by *Event) { w.stripped = append(w.stripped, stripping{target, by}) }

// proposeState puts a state event of the head into the state that the next one is proposed on.
func (w *Writer) proposeState(p *proposal) (err error) {
	k := Key{p.Type, *p.StateKey}
	if p.auth, err = w.authOf(p.Event.Event); err != nil {
		return err
	}
	p.number, p.newKey = w.numberOf(k)
	// Read the way to its entry now, so that nothing has to be read under the queue's lock.
	if _, err := w.cache.trees.path(w.ctx, w.head.state, p.number); err != nil {
		w.forgetKey(p)
		return err
	}
	if w.overlay == nil {
		w.overlay = map[Key]*event.Event{}
	}
	w.overlay[k] = p.Event.Event
	return nil
}

// authOf returns the auth events of an event that was built on the head.
func (w *Writer) authOf(ev *event.Event) ([]*Event, error) {
	list := make([]*Event, len(ev.AuthEvents))
	for i, eventID := range ev.AuthEvents {
		list[i] = w.planned(eventID)
	}
	for _, key := range eventauth.NeededBy(ev) {
		e, err := w.Room.StateEvent(w.ctx, w.head.state, key.Type, key.StateKey)
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		if i := slices.Index(ev.AuthEvents, e.ID); i >= 0 && list[i] == nil {
			list[i] = e
		}
	}
	return list, nil
}

// planned returns an event of the plan, nil if it has no such.
func (w *Writer) planned(eventID id.EventID) *Event {
	for i := len(w.plan) - 1; i >= 0; i-- { // it is the latest one as a rule
		if w.plan[i].ID == eventID {
			return w.plan[i].Event
		}
	}
	return nil
}

// ExtremityOf is an event as a later one refers to it.
func ExtremityOf(ev *event.Event) (Extremity, error) {
	x := Extremity{ID: ev.ID, Depth: ev.Depth}
	if ev.Rules.EventIDs != roomversion.EventIDInEvent {
		return x, nil
	}
	hash, err := event.ReferenceHash(ev.Rules, ev.JSON)
	x.Hash = base64.RawStdEncoding.EncodeToString(hash)
	return x, err
}

// numberOf returns the number of a state key, giving it the next one when it is new.
func (w *Writer) numberOf(k Key) (number int64, fresh bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := w.numbers[k]; ok {
		return n, false
	}
	n := int64(len(w.keys))
	w.numbers[k] = n
	w.keys = append(w.keys, k)
	w.base.Add(keyCost)
	return n, true
}

// Act is where the caller adds what is to happen with the proposed events: rows, Do and Committed.
func (w *Writer) Act() *storage.Act {
	if w.lead != nil {
		return w.lead.Act()
	}
	return &w.act
}

// Join makes what is proposed to another room part of w's act, behind w's own events: both rooms change or
// neither does. Only w is queued then; both are unlocked.
func (w *Writer) Join(other *Writer) { w.with, other.lead = other, w }

// Queue makes what was proposed one act and gives it its place. From then on it is part of the head.
func (w *Writer) Queue() *Pending {
	p := &Pending{act: &w.act}
	w.enlist(p)
	then := w.act.Committed
	w.act.Place = w.place
	w.act.Committed = func(first storage.Pos) {
		w.cache.trees.settled(&w.act)
		w.committed()
		if then != nil {
			then(first)
		}
	}
	w.act.Announced = func(storage.Pos) { w.announced() }
	w.act.Refused = func(err error) {
		w.cache.trees.settled(&w.act)
		w.refused(err)
	}
	w.cache.db.Queue(&w.act)
	return p
}

// enlist makes the plan part of an act that is about to be queued.
func (w *Writer) enlist(p *Pending) {
	for i := range w.plan {
		p.Events = append(p.Events, w.plan[i].Event)
	}
	w.sent = true
	w.pin() // until it is committed or refused
	p.act.Positions += len(w.plan)
	w.remember(p)
	if w.created {
		w.cache.adopt(w.Room)
	}
	if w.with != nil {
		w.with.enlist(p)
	}
}

// keepTxns is how many transaction ids of finished acts may stay at hand.
const keepTxns = 16

// remember keeps the transaction ids of the act at hand until it is done and storage has them.
func (w *Writer) remember(p *Pending) {
	w.head.last = p
	if len(w.head.txns) >= max(keepTxns, w.head.pruneTxns) {
		maps.DeleteFunc(w.head.txns, func(_ [32]byte, q *Pending) bool { return q.act.Done() })
		w.head.pruneTxns = 2 * len(w.head.txns)
	}
	for i := range w.plan {
		if h := w.plan[i].meta.Hash; h != nil {
			w.head.txns[*h] = p
		}
	}
}

// place gives the events their positions and makes their rows.
func (w *Writer) place(act *storage.Act, first storage.Pos) {
	h := &w.head
	from := h.seq
	h.seq++ // first of all: when the act fails, so has everything behind it
	w.number(first)
	for i := range w.plan {
		if err := w.placeEvent(act, &w.plan[i], first+storage.Pos(i)); err != nil {
			act.Do = func(*storage.Tx, storage.Pos) error { return err }
			return
		}
	}
	h.extremities = w.extremities
	w.placeRoom(act, from)
	w.placeRedactions(act)
	if w.with != nil {
		w.with.place(act, first+storage.Pos(len(w.plan)))
	}
}

// number gives the new events of the plan their positions.
func (w *Writer) number(first storage.Pos) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.plan {
		p := &w.plan[i]
		if p.Pos == 0 {
			p.Pos = first + storage.Pos(i)
		}
		w.queued[p.Pos], w.onWay[p.ID] = p.Event, p.Event
	}
}

// placeEvent gives an event its place at a position of the stream and adds its rows.
func (w *Writer) placeEvent(act *storage.Act, p *proposal, at storage.Pos) error {
	if p.graft != nil {
		return w.placeGraft(act, p, at)
	}
	h := &w.head
	p.Ord = at << storage.OrdShift
	p.Before = h.state
	if p.StateKey != nil {
		way, err := w.cache.trees.path(w.ctx, h.state, p.number)
		if err != nil {
			return err
		}
		h.state = w.cache.trees.set(act, h.state, way, p.Pos)
	}
	p.After, p.Now, h.lastPos = h.state, h.state, at
	before := w.head.set
	if p.Type == "m.room.member" && p.StateKey != nil {
		act.Add(storage.UpsertMember, w.Num, *p.StateKey, p.Membership(), p.Pos, at, false)
		w.move(Member{id.UserID(*p.StateKey), p.Membership(), p.Pos, at})
	}
	w.settle(p)
	w.stick(act, p)
	w.clear(act, p)
	w.addRows(act, p)
	w.send(act, p, before)
	return nil
}

// settle notes the state that an extremity leaves, now that there is one.
func (w *Writer) settle(p *proposal) {
	for i := range w.extremities {
		if x := &w.extremities[i]; x.ID == p.ID {
			x.State = p.After
		}
	}
}

// addRows adds the rows of a new event itself.
func (w *Writer) addRows(act *storage.Act, p *proposal) {
	if p.newKey {
		act.Add(storage.InsertStateKey, w.Num, p.number, []byte(p.Type), []byte(*p.StateKey))
	}
	if p.StateKey != nil {
		w.addToGraph(act, p)
	}
	if p.meta.Hash != nil {
		act.Add(storage.InsertTransaction, p.meta.Hash[:], string(p.ID), p.meta.AtMS)
	}
	if p.meta.Awaits != "" {
		act.Add(storage.InsertPendingRedaction, string(p.meta.Awaits), p.Pos)
	}
	row := w.rowOf(p.Event)
	act.Add(storage.InsertEvent, row.Row()...)
	w.relate(act, p)
}

// rowOf is an event as it is stored.
func (r *Room) rowOf(e *Event) storage.Event {
	row := storage.Event{
		Pos: e.Pos, Room: r.Num, ID: e.ID, Ord: e.Ord, Before: e.Before, After: e.After, Now: e.Now, Flags: e.Flags,
		RedactedBy: e.RedactedBy, Device: e.Device, JSON: e.JSON,
	}
	if e.Txn != "" {
		row.Txn = []byte(e.Txn)
	}
	return row
}

func (w *Writer) placeRoom(act *storage.Act, from int64) {
	h := &w.head
	extremities, err := json.Marshal(h.extremities)
	if err != nil {
		panic(fmt.Sprintf("roomstate: encode extremities: %v", err)) // strings and integers always can be
	}
	if w.created {
		act.Add(storage.InsertRoom, w.Num, string(w.ID), w.Rules.Version, h.seq, h.state, h.lastPos, extremities)
		return
	}
	act.Move(storage.RoomWrite{
		Room: w.Num, FromSeq: from, ToSeq: h.seq, State: h.state, LastPos: h.lastPos, Extremities: extremities,
	})
}

// placeRedactions lets the targets of redactions be replaced in the same act.
func (w *Writer) placeRedactions(act *storage.Act) {
	for _, r := range w.stripped {
		act.Also(func(tx *storage.Tx, _ storage.Pos) error { return w.writeRedacted(tx, r) })
		w.unrelate(act, r.target)
	}
}

func (w *Writer) writeRedacted(tx *storage.Tx, r stripping) error {
	redacted, err := r.target.Redacted()
	if err != nil {
		return err
	}
	if r.target.StateKey != nil {
		if err := tx.DeleteListing(w.Num); err != nil {
			return err
		}
	}
	return tx.RedactEvent(r.target.Pos, redacted.JSON, r.by.Pos)
}

// committed shows readers the events. It runs in the batcher, in the order of positions.
func (w *Writer) committed() {
	var changes []notify.Change
	for i := range w.plan {
		p := &w.plan[i]
		w.keepEvent(p)
		if !p.arrives() && !p.moves() && p.stickyEnd == 0 {
			continue
		}
		changes = append(changes, w.changes(p, p.Arrived())...)
		for _, m := range p.memberships() {
			w.cache.users.moved(w.ID, m)
		}
	}
	for _, r := range w.stripped {
		w.redact(r)
	}
	w.stuck()
	arrived := w.arrivals()
	if before := w.View().State; w.show() != before || w.redactsState() {
		w.cache.changed(w.Room)
	}
	for _, server := range arrived {
		w.cache.stickies.arrived(w.Room, server)
	}
	w.cache.hub.Record(changes...)
	if w.with != nil {
		w.with.committed()
	}
}

// redactsState reports whether what the state says has changed though its events have not.
func (w *Writer) redactsState() bool {
	return slices.ContainsFunc(w.stripped, func(r stripping) bool { return r.target.StateKey != nil })
}

// keepEvent puts an event where readers look.
func (w *Writer) keepEvent(p *proposal) {
	if p.graft != nil && p.graft.Stored != nil {
		w.cache.events.replace(p.Pos, p.Event, p.cost())
		return
	}
	w.cache.events.put(p.Pos, p.Event, p.cost())
}

// show moves the view and the members on, and returns the state that the room has now.
func (w *Writer) show() Root {
	v := w.View()
	next := View{Pos: v.Pos, State: v.State, Tail: v.Tail, Whole: v.Whole}
	for i := range w.plan {
		p := &w.plan[i]
		if p.moves() {
			next.State = p.Now
		}
		if !p.arrives() {
			continue
		}
		if p.graft != nil && p.graft.begins() {
			next.Tail, next.Whole = nil, false
			w.tail.Store(0)
		}
		next.Tail = append(next.Tail, p.Event)
		w.tail.Add(int64(p.cost()))
		next.Pos = p.Arrived()
	}
	if len(next.Tail) > 4*tailLength {
		next.Tail, next.Whole = slices.Clone(next.Tail[len(next.Tail)-tailLength:]), false
		w.tail.Store(costOf(next.Tail))
	}
	w.mu.Lock()
	for i := range w.plan {
		p := &w.plan[i]
		w.leaveQueueLocked(p)
		for _, m := range p.memberships() {
			w.setMemberLocked(m)
			if w.head.moved[m.User] == m {
				delete(w.head.moved, m.User)
			}
		}
	}
	w.mu.Unlock()
	w.view.Store(&next)
	return next.State
}

func (w *Writer) leaveQueueLocked(p *proposal) {
	if w.queued[p.Pos] == p.Event { // and not a later act's value of the same event
		delete(w.queued, p.Pos)
		delete(w.onWay, p.ID)
	}
}

// memberships are the current memberships that an event has changed.
func (p *proposal) memberships() []Member {
	if p.graft != nil {
		return p.graft.members
	}
	if p.Type != "m.room.member" || p.StateKey == nil {
		return nil
	}
	return []Member{{id.UserID(*p.StateKey), p.Membership(), p.Pos, p.Arrived()}}
}

// redact puts the redacted form of an event where readers look.
func (w *Writer) redact(r stripping) {
	t := r.target
	ev, err := t.Redacted()
	if err != nil {
		return // its act would have been refused
	}
	redacted := &Event{
		Event: ev, Pos: t.Pos, Ord: t.Ord, Before: t.Before, After: t.After, Now: t.Now, Flags: t.Flags,
		RedactedBy: r.by.Pos, Device: t.Device, Txn: t.Txn,
	}
	w.cache.events.replace(t.Pos, redacted, redacted.cost())
	v := *w.View()
	if i := slices.IndexFunc(v.Tail, func(e *Event) bool { return e.Pos == t.Pos }); i >= 0 {
		v.Tail = slices.Clone(v.Tail)
		v.Tail[i] = redacted
		w.view.Store(&v)
	}
}

func (w *Writer) announced() {
	var users []id.UserID
	for i := range w.plan {
		for _, m := range w.plan[i].memberships() {
			users = append(users, m.User)
		}
	}
	if len(w.plan) > 0 { // of what is only stripped nobody is told
		w.cache.hub.Wake(Joined{w.Room}, users...)
	}
	w.wakeSender()
	w.wakeClearer()
	w.done()
	if w.with != nil {
		w.with.announced()
	}
}

// refused makes the next user of the room load it again.
func (w *Writer) refused(err error) {
	w.stale.Store(true)
	w.mu.Lock()
	for i := range w.plan {
		w.leaveQueueLocked(&w.plan[i])
	}
	w.mu.Unlock()
	if errors.Is(err, storage.ErrAway) {
		w.doubt()
	}
	w.done()
	if w.with != nil {
		w.with.refused(err)
	}
}

// doubt forgets what is kept elsewhere of what the act would have changed: perhaps it was stored after all.
func (w *Writer) doubt() {
	w.cache.changed(w.Room)
	for i := range w.plan {
		p := &w.plan[i]
		w.cache.hub.Doubt(max(p.Pos, p.Arrived()))
		for _, m := range p.memberships() {
			w.cache.users.forget(m.User)
		}
	}
}

// done lets the room be evicted again.
func (w *Writer) done() { w.unpin() }

// adopt makes a new room known before its first act is queued.
func (c *Cache) adopt(r *Room) {
	e := &entry{id: r.ID, ready: make(chan struct{}), room: r}
	close(e.ready)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rooms[r.ID] = c.order.PushFront(e)
	c.measureLocked(e)
}
