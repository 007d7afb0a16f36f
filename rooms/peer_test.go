package rooms_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/ephemeral"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

const (
	here  = id.ServerName("hs.test")
	alice = id.UserID("@alice:hs.test") // the rooms' creator
	bob   = id.UserID("@bob:hs.test")
	mal   = id.UserID("@mal:peer.test")
	eve   = id.UserID("@eve:peer.test")
)

// federated is the rooms of a server that talks to one other, the peer.
type federated struct {
	*rooms.Service
	t    testing.TB
	peer *peer
	room *roomstate.Room
}

// newFederated returns a server with a public room of a version, of which alice, bob and the peer's mal are members.
func newFederated(t testing.TB, version string) *federated {
	t.Helper()
	f := emptyFederated(t, sqlite.Memory())
	room, err := f.Create(context.Background(), alice, rooms.NewRoom{Preset: "public_chat", Version: version})
	require.NoError(t, err)
	f.enter(room)
	f.join(bob)
	require.NoError(t, f.deliver(f.peer.member(mal, "join")))
	return f
}

func emptyFederated(t testing.TB, engine storage.Engine) *federated {
	t.Helper()
	db, err := storage.Open(context.Background(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	key, err := signing.Generate(rand.Reader)
	require.NoError(t, err)
	f := &federated{t: t}
	f.peer = newPeer(t, f)
	f.peer.keys[here] = key
	hub := notify.New(db.Published())
	f.Service = rooms.New(rooms.Config{
		ServerName: here, Key: key, DB: db, Cache: roomstate.NewCache(db, hub, roomstate.Config{}), Hub: hub,
		Typing: ephemeral.NewTyping("boot", func(id.RoomID) {}), Now: time.Now, Rand: rand.Reader, Remote: f.peer,
		Log: slog.New(slog.DiscardHandler),
	})
	return f
}

// enter makes a room the one that everything is about.
func (f *federated) enter(room id.RoomID) {
	f.t.Helper()
	var err error
	f.room, err = f.Cache.Room(context.Background(), room)
	require.NoError(f.t, err)
}

func (f *federated) join(user id.UserID) {
	f.t.Helper()
	require.NoError(f.t, f.SetMembership(context.Background(), rooms.Change{Room: f.room.ID, Sender: user, Target: user, Membership: "join"}))
}

// set changes a membership as a local user does.
func (f *federated) set(sender, target id.UserID, membership string) {
	f.t.Helper()
	require.NoError(f.t, f.SetMembership(context.Background(), rooms.Change{
		Room: f.room.ID, Sender: sender, Target: target, Membership: membership,
	}))
}

// say sends a message of a local user.
func (f *federated) say(user id.UserID, body string) *event.Event {
	f.t.Helper()
	return f.send(rooms.Draft{
		Sender: user, Type: "m.room.message", Content: contentOf(map[string]any{"msgtype": "m.text", "body": body}),
	})
}

func (f *federated) send(d rooms.Draft) *event.Event {
	f.t.Helper()
	d.Room = f.room.ID
	sent, err := f.Send(context.Background(), d)
	require.NoError(f.t, err)
	e, err := f.room.EventByID(context.Background(), sent)
	require.NoError(f.t, err)
	return e.Event
}

// put sets state as a local user does.
func (f *federated) put(user id.UserID, eventType, key string, c map[string]any) *event.Event {
	f.t.Helper()
	return f.send(rooms.Draft{Sender: user, Type: eventType, StateKey: &key, Content: contentOf(c)})
}

// receive takes events of the peer, and returns the results.
func (f *federated) receive(events ...*event.Event) []error {
	return f.Receive(context.Background(), "peer.test", f.room.ID, raws(events...))
}

// deliver is receive for one event.
func (f *federated) deliver(ev *event.Event) error { return f.receive(ev)[0] }

// deliverRaw is deliver for something that need not be an event.
func (f *federated) deliverRaw(raw []byte) error {
	return f.Receive(context.Background(), "peer.test", f.room.ID, []json.RawMessage{raw})[0]
}

// fan takes messages of the peer that all follow the same events.
func (f *federated) fan(n int, prev []id.EventID) (fan []*event.Event) {
	f.t.Helper()
	for i := range n {
		d := f.peer.text(mal, fmt.Sprint(i))
		d.PrevEvents = prev
		fan = append(fan, f.peer.make(d))
	}
	require.Equal(f.t, make([]error, n), f.receive(fan...))
	return fan
}

func raws(events ...*event.Event) []json.RawMessage {
	list := make([]json.RawMessage, len(events))
	for i, ev := range events {
		list[i] = json.RawMessage(ev.JSON)
	}
	return list
}

func (f *federated) extremities() []roomstate.Extremity {
	f.t.Helper()
	return extremitiesOf(f.t, f.Service, f.room.ID)
}

func extremitiesOf(t testing.TB, s *rooms.Service, room id.RoomID) []roomstate.Extremity {
	t.Helper()
	w, err := s.Cache.Lock(context.Background(), room)
	require.NoError(t, err)
	defer w.Unlock()
	return slices.Clone(w.Extremities())
}

func (f *federated) heads() []id.EventID { return headsOf(f.extremities()) }

func headsOf(extremities []roomstate.Extremity) (list []id.EventID) {
	for _, x := range extremities {
		list = append(list, x.ID)
	}
	return list
}

// stored returns an event as it is stored, nil when it is not.
func (f *federated) stored(ev *event.Event) *roomstate.Event {
	f.t.Helper()
	list, err := f.room.StoredByID(context.Background(), []id.EventID{ev.ID})
	require.NoError(f.t, err)
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// flags are what this server thinks of an event, -1 when it is not stored.
func (f *federated) flags(ev *event.Event) int64 {
	f.t.Helper()
	e := f.stored(ev)
	if e == nil {
		return -1
	}
	return e.Flags
}

// current returns an entry of the room's current state, nil for none.
func (f *federated) current(eventType, key string) *event.Event {
	f.t.Helper()
	e, err := f.room.StateEvent(context.Background(), f.room.View().State, eventType, key)
	require.NoError(f.t, err)
	if e == nil {
		return nil
	}
	return e.Event
}

// timeline are the ids of what clients are told, oldest first.
func (f *federated) timeline() []id.EventID {
	f.t.Helper()
	list, err := f.room.HistoryForwards(context.Background(), -1<<62, 1<<62, 10000)
	require.NoError(f.t, err)
	var ids []id.EventID
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	return ids
}

// alive proves that the room still works: local users and the peer send to it.
func (f *federated) alive() {
	f.t.Helper()
	f.say(alice, "still here")
	ev := f.peer.message(mal, "me too")
	require.NoError(f.t, f.deliver(ev))
	require.Contains(f.t, f.timeline(), ev.ID)
	f.sameFromStorage()
}

// sameFromStorage proves that what is in memory is what another process would read.
func (f *federated) sameFromStorage() {
	f.t.Helper()
	ctx := context.Background()
	fresh, err := roomstate.NewCache(f.DB, notify.New(0), roomstate.Config{}).Room(ctx, f.room.ID)
	require.NoError(f.t, err)
	memory, stored := map[roomstate.Key]storage.Pos{}, map[roomstate.Key]storage.Pos{}
	require.NoError(f.t, f.room.StateKeys(ctx, f.room.View().State, func(k roomstate.Key, pos storage.Pos) { memory[k] = pos }))
	require.NoError(f.t, fresh.StateKeys(ctx, fresh.View().State, func(k roomstate.Key, pos storage.Pos) { stored[k] = pos }))
	require.Equal(f.t, memory, stored)
	require.Equal(f.t, members(f.room), members(fresh))
	for k, pos := range memory {
		if k.Type == "m.room.member" {
			e, err := f.room.EventAt(ctx, pos)
			require.NoError(f.t, err)
			require.Equal(f.t, e.Membership(), members(f.room)[id.UserID(k.StateKey)], k.StateKey)
		}
	}
	for _, e := range f.room.View().Tail {
		same, err := fresh.EventAt(ctx, e.Pos)
		require.NoError(f.t, err)
		require.Equal(f.t, string(e.JSON), string(same.JSON))
		require.Equal(f.t, e.RedactedBy, same.RedactedBy)
		require.Equal(f.t, [4]int64{e.Ord, e.Before, e.After, e.Now}, [4]int64{same.Ord, same.Before, same.After, same.Now})
	}
}

func members(r *roomstate.Room) map[id.UserID]string {
	list := map[id.UserID]string{}
	r.Members(func(m roomstate.Member) bool { list[m.User] = m.Membership; return true })
	return list
}

func contentOf(c map[string]any) []byte {
	raw, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return raw
}

// peer is another server: it makes events, and answers what rooms ask of it. Its zero answers are errors.
type peer struct {
	rooms.RemoteMembership
	rooms.RemoteDirectory
	t    testing.TB
	f    *federated
	key  signing.Key
	keys map[id.ServerName]signing.Key

	mu    sync.Mutex // guards asked
	asked []string

	missing  func(earliest, latest []id.EventID, limit int) []*event.Event
	events   map[id.EventID]*event.Event
	auth     map[id.EventID][]*event.Event
	stateIDs map[id.EventID][]*event.Event
	states   map[id.EventID][]*event.Event
	raw      map[id.EventID]json.RawMessage // instead of events
}

func newPeer(t testing.TB, f *federated) *peer {
	key, err := signing.Generate(rand.Reader)
	require.NoError(t, err)
	return &peer{
		t: t, f: f, key: key, keys: map[id.ServerName]signing.Key{"peer.test": key},
		events: map[id.EventID]*event.Event{}, auth: map[id.EventID][]*event.Event{}, raw: map[id.EventID]json.RawMessage{},
		stateIDs: map[id.EventID][]*event.Event{}, states: map[id.EventID][]*event.Event{},
	}
}

// make builds an event. What a draft leaves open is what the room has now.
func (p *peer) make(d event.Draft) *event.Event {
	p.t.Helper()
	ev, err := p.try(d)
	require.NoError(p.t, err)
	return ev
}

func (p *peer) try(d event.Draft) (*event.Event, error) {
	p.t.Helper()
	room := p.f.room
	d.Room, d.Rules = room.ID, room.Rules
	if d.OriginServerTS == 0 {
		d.OriginServerTS = time.Now().UnixMilli()
	}
	if d.PrevEvents == nil {
		for _, x := range p.f.extremities() {
			d.PrevEvents, d.Depth = append(d.PrevEvents, x.ID), max(d.Depth, x.Depth+1)
		}
	}
	if d.AuthEvents == nil {
		for _, k := range eventauth.Needed(d) {
			if e := p.f.current(k.Type, k.StateKey); e != nil {
				d.AuthEvents = append(d.AuthEvents, e.ID)
			}
		}
	}
	if room.Rules.EventIDs == roomversion.EventIDInEvent {
		d.PrevHashes, d.AuthHashes = map[id.EventID]string{}, map[id.EventID]string{}
		for _, eventID := range d.PrevEvents {
			d.PrevHashes[eventID] = "x"
		}
		for _, eventID := range d.AuthEvents {
			d.AuthHashes[eventID] = "x"
		}
	}
	return event.Build(d, d.Sender.Server(), p.keys[d.Sender.Server()])
}

func (p *peer) message(sender id.UserID, body string) *event.Event {
	p.t.Helper()
	return p.make(p.text(sender, body))
}

func (p *peer) text(sender id.UserID, body string) event.Draft {
	return event.Draft{Sender: sender, Type: "m.room.message", Content: contentOf(map[string]any{"msgtype": "m.text", "body": body})}
}

// after is a message that follows these events.
func (p *peer) after(sender id.UserID, body string, prev ...*event.Event) *event.Event {
	p.t.Helper()
	d := p.text(sender, body)
	d.PrevEvents = idsOf(prev...)
	return p.make(d)
}

func (p *peer) state(sender id.UserID, eventType, key string, c map[string]any, prev ...*event.Event) *event.Event {
	p.t.Helper()
	d := event.Draft{Sender: sender, Type: eventType, StateKey: &key, Content: contentOf(c)}
	if len(prev) > 0 {
		d.PrevEvents = idsOf(prev...)
	}
	return p.make(d)
}

func (p *peer) member(user id.UserID, membership string, prev ...*event.Event) *event.Event {
	p.t.Helper()
	return p.state(user, "m.room.member", string(user), map[string]any{"membership": membership}, prev...)
}

func idsOf(events ...*event.Event) []id.EventID {
	var list []id.EventID
	for _, ev := range events {
		list = append(list, ev.ID)
	}
	return list
}

// forge changes an event after it was hashed and signed.
func forge(t testing.TB, ev *event.Event, change func(map[string]json.RawMessage)) []byte {
	t.Helper()
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(ev.JSON, &fields))
	change(fields)
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	return raw
}

// VerifyEvents checks signatures by the keys of all servers there are.
func (p *peer) VerifyEvents(_ context.Context, events []*event.Event) []error {
	errs := make([]error, len(events))
	for i, ev := range events {
		for _, server := range eventauth.Signers(ev) {
			key, known := p.keys[server]
			if !known {
				errs[i] = fmt.Errorf("the keys of %s are not known", server)
				break
			}
			if errs[i] = event.VerifySignature(ev, server, key.ID, key.Private.Public().(ed25519.PublicKey)); errs[i] != nil {
				break
			}
		}
	}
	return errs
}

var errNotHere = errors.New("404")

func (p *peer) ask(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what)
}

// forget returns what was asked so far and forgets it.
func (p *peer) forget() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

func (p *peer) MissingEvents(_ context.Context, _ id.ServerName, _ id.RoomID, earliest, latest []id.EventID, limit int, _ int64) ([]json.RawMessage, error) {
	p.ask("missing")
	if p.missing == nil {
		return nil, errNotHere
	}
	return raws(p.missing(earliest, latest, limit)...), nil
}

func (p *peer) Event(_ context.Context, _ id.ServerName, _ id.RoomID, eventID id.EventID) (json.RawMessage, error) {
	p.ask("event")
	if raw, ok := p.raw[eventID]; ok {
		return raw, nil
	}
	if ev := p.events[eventID]; ev != nil {
		return json.RawMessage(ev.JSON), nil
	}
	return nil, errNotHere
}

func (p *peer) EventAuth(_ context.Context, _ id.ServerName, _ id.RoomID, eventID id.EventID) ([]json.RawMessage, error) {
	p.ask("auth")
	if list, ok := p.auth[eventID]; ok {
		return raws(list...), nil
	}
	return nil, errNotHere
}

func (p *peer) StateIDs(_ context.Context, _ id.ServerName, _ id.RoomID, eventID id.EventID) (state, auth []id.EventID, err error) {
	p.ask("state_ids")
	if list, ok := p.stateIDs[eventID]; ok {
		return idsOf(list...), nil, nil
	}
	return nil, nil, errNotHere
}

func (p *peer) State(_ context.Context, _ id.ServerName, _ id.RoomID, eventID id.EventID) (state, auth []json.RawMessage, err error) {
	p.ask("state")
	if list, ok := p.states[eventID]; ok {
		return raws(list...), nil, nil
	}
	return nil, nil, errNotHere
}

func (p *peer) Backfill(context.Context, id.ServerName, id.RoomID, []id.EventID, int) ([]json.RawMessage, error) {
	p.ask("backfill")
	return nil, errNotHere
}

// serve lets the peer give these events to those who ask for them by id.
func (p *peer) serve(events ...*event.Event) {
	for _, ev := range events {
		p.events[ev.ID] = ev
	}
}

// roomState are the events of the room's current state.
func (f *federated) roomState() []*event.Event {
	f.t.Helper()
	list, err := f.room.State(context.Background(), f.room.View().State)
	require.NoError(f.t, err)
	var events []*event.Event
	for _, e := range list {
		events = append(events, e.Event)
	}
	return events
}

// with is a state in which events take the places of others.
func with(state []*event.Event, changed ...*event.Event) []*event.Event {
	list := slices.DeleteFunc(slices.Clone(state), func(old *event.Event) bool {
		return slices.ContainsFunc(changed, func(ev *event.Event) bool { return old.Is(ev.Type, *ev.StateKey) })
	})
	return append(list, changed...)
}
