package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// The kinds of writes that are killed, with how often each is done.
const (
	sends           kind = "send"
	states          kind = "state"
	redactions      kind = "redaction"
	accountData     kind = "account data"
	roomData        kind = "room account data"
	tags            kind = "tag"
	receipts        kind = "public receipt"
	privateReceipts kind = "private receipt"
	readMarkers     kind = "read marker"
	profiles        kind = "profile"
	aliases         kind = "new alias"
	aliasRemovals   kind = "removed alias"
	filters         kind = "filter"
	logins          kind = "login"
	logouts         kind = "logout"
	passwords       kind = "password"
	creations       kind = "create room"
	leaves          kind = "leave"
	forgets         kind = "forget"
	keyUploads      kind = "key upload"
	keyClaims       kind = "key claim"
	toDevice        kind = "message to a device"
)

var kinds = []kind{
	sends, states, redactions, accountData, roomData, tags, receipts, privateReceipts, readMarkers, profiles, aliases,
	aliasRemovals, filters, logins, logouts, passwords, creations, leaves, forgets,
	keyUploads, keyClaims, toDevice,
}

// weights says how often a writer does what; what has to follow something else does nothing when there is none.
var weights = []struct {
	weight int
	kinds  []kind
	do     func(*writer, context.Context) error
}{
	{400, []kind{sends}, (*writer).send},
	{60, []kind{states}, (*writer).setState},
	{60, []kind{redactions}, (*writer).redact},
	{60, []kind{accountData}, (*writer).setAccountData},
	{60, []kind{roomData}, (*writer).setRoomData},
	{60, []kind{tags}, (*writer).setTag},
	{60, []kind{receipts}, (*writer).receipt},
	{60, []kind{privateReceipts}, (*writer).privateReceipt},
	{60, []kind{readMarkers}, (*writer).readMarker},
	{20, []kind{profiles}, (*writer).setProfile},
	{60, []kind{aliases, aliasRemovals}, (*writer).alias},
	{40, []kind{filters}, (*writer).filter},
	{40, []kind{logins, logouts}, (*writer).session},
	{15, []kind{passwords}, (*writer).setPassword},
	{30, []kind{creations, leaves, forgets}, (*writer).ownRoom},
	{40, []kind{keyUploads}, (*writer).uploadKeys},
	{120, []kind{keyClaims}, (*writer).claimKey},
	{120, []kind{toDevice}, (*writer).writeTo},
}

// writer writes one thing after the other, as fast as it is answered, and keeps a journal.
type writer struct {
	load      *load
	account   *account
	client    *client
	index     int  // among all writers
	first     bool // of its account
	random    *rand.Rand
	favourite kind
	next      int // makes what it writes unique
	journal   journal

	rooms    []string          // the shared rooms in which it alone sets its account's things
	last     map[string]string // its newest event in each shared room
	redacted map[string]bool   // events that it has tried to redact
	things   map[string]*cell  // its things that are written again and again
	sessions []credentials     // other devices of its account that it has not logged out
	named    string            // an alias of its that is there
	own      string            // a room of its own that is not forgotten
	passed   map[string]string // the event of its last receipt or marker, by thing
	keys     *oneTimeKeys
}

func newWriter(l *load, a *account, index, n int, random *rand.Rand) *writer {
	w := &writer{
		load: l, account: a, client: l.client.as(a.token), index: index, first: n == 0, random: random,
		last: make(map[string]string), redacted: make(map[string]bool), things: make(map[string]*cell),
		passed: make(map[string]string), keys: newOneTimeKeys(a, index),
	}
	for i, room := range l.rooms {
		if i%killWriters == n {
			w.rooms = append(w.rooms, room)
		}
	}
	return w
}

// run writes until the context ends or the server is gone.
func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.pick()(w, ctx)
		if refusal, ok := isRefused(err); ok {
			w.journal.faults = append(w.journal.faults, refusal)
			continue
		}
		if err != nil {
			return // killed
		}
	}
}

// pick chooses what to write next: the favourite half of the time, otherwise by weight.
func (w *writer) pick() func(*writer, context.Context) error {
	favoured := w.favourite != "" && w.random.IntN(2) == 0
	n := w.random.IntN(totalWeight())
	for _, row := range weights {
		n -= row.weight
		if favoured && slices.Contains(row.kinds, w.favourite) || !favoured && n < 0 {
			return row.do
		}
	}
	return (*writer).send
}

func totalWeight() int {
	total := 0
	for _, row := range weights {
		total += row.weight
	}
	return total
}

// unique is a text that nothing else written by anybody has.
func (w *writer) unique() string {
	w.next++
	return fmt.Sprintf("w%d-%d", w.index, w.next)
}

func (w *writer) anyRoom() string   { return w.load.rooms[w.random.IntN(len(w.load.rooms))] }
func (w *writer) ownedRoom() string { return w.rooms[w.random.IntN(len(w.rooms))] }

// thing is what the writer has under a name; made when it is first named.
func (w *writer) thing(name string, look lookFunc) *cell {
	c := w.things[name]
	if c == nil {
		c = w.journal.cell(name, look)
		w.things[name] = c
	}
	return c
}

// set writes a thing.
func (w *writer) set(ctx context.Context, c *cell, k kind, value, method, path string, body, answer any) error {
	err := c.write(k, value, func() error { return w.client.do(ctx, k, method, path, body, answer) })
	if err != nil {
		return err
	}
	w.load.acknowledge(k)
	return nil
}

type eventID struct {
	ID string `json:"event_id"`
}

func (w *writer) send(ctx context.Context) error {
	mark, room := w.unique(), w.anyRoom()
	s := &sent{
		kind: sends, room: room, mark: mark,
		path: pathf("/rooms/%s/send/m.room.message/%s", room, mark),
		body: map[string]any{"msgtype": "m.text", "body": mark},
	}
	w.journal.events = append(w.journal.events, s)
	return w.put(ctx, s)
}

// put sends an event and notes its id.
func (w *writer) put(ctx context.Context, s *sent) error {
	var event eventID
	if err := w.client.do(ctx, s.kind, "PUT", s.path, s.body, &event); err != nil {
		return err
	}
	s.event = event.ID
	w.last[s.room] = event.ID
	w.load.acknowledge(s.kind)
	return nil
}

func (w *writer) setState(ctx context.Context) error {
	mark, room := w.unique(), w.ownedRoom()
	key := fmt.Sprintf("w%d", w.index)
	path := pathf("/rooms/%s/state/org.example.kill/%s", room, key)
	s := &sent{kind: states, room: room, mark: mark, path: path, body: map[string]any{"body": mark}}
	w.journal.states = append(w.journal.states, s)
	c := w.thing("state "+key+" "+room, contentOf(w.client, path, "body"))
	return c.write(states, mark, func() error { return w.put(ctx, s) })
}

// redact takes back an acknowledged message of this round.
func (w *writer) redact(ctx context.Context) error {
	target := w.redactable()
	if target == nil {
		return nil
	}
	w.redacted[target.event] = true
	mark := w.unique()
	s := &sent{
		kind: redactions, room: target.room, mark: mark,
		path: pathf("/rooms/%s/redact/%s/%s", target.room, target.event, mark),
		body: map[string]any{"reason": mark},
	}
	w.journal.events = append(w.journal.events, s)
	c := w.thing("redaction of "+target.event, redactionOf(w.client, target.room, target.event))
	c.acked = notRedacted
	return c.write(redactions, "redacted", func() error { return w.put(ctx, s) })
}

func (w *writer) redactable() *sent {
	for _, s := range slices.Backward(w.journal.events) {
		if s.kind == sends && s.event != "" && !w.redacted[s.event] {
			return s
		}
	}
	return nil
}

func (w *writer) setAccountData(ctx context.Context) error {
	eventType := fmt.Sprintf("org.example.kill%d", w.index)
	path := pathf("/user/%s/account_data/%s", w.account.user, eventType)
	mark := w.unique()
	c := w.thing(thingName(accountData, w.account.user, eventType), contentOf(w.client, path, "body"))
	return w.set(ctx, c, accountData, mark, "PUT", path, map[string]any{"body": mark}, nil)
}

func (w *writer) setRoomData(ctx context.Context) error {
	room, mark := w.ownedRoom(), w.unique()
	path := pathf("/user/%s/rooms/%s/account_data/org.example.kill", w.account.user, room)
	c := w.thing(thingName(roomData, w.account.user, room), contentOf(w.client, path, "body"))
	return w.set(ctx, c, roomData, mark, "PUT", path, map[string]any{"body": mark}, nil)
}

const tagName = "u.kill"

func (w *writer) setTag(ctx context.Context) error {
	w.next++
	room, order := w.ownedRoom(), float64(w.next)/1_000_000
	path := pathf("/user/%s/rooms/%s/tags", w.account.user, room)
	c := w.thing(thingName(tags, w.account.user, room), tagOf(w.client, path))
	return w.set(ctx, c, tags, formatOrder(order), "PUT", path+"/"+tagName, map[string]any{"order": order}, nil)
}

func formatOrder(order float64) string { return strconv.FormatFloat(order, 'f', 6, 64) }

func (w *writer) receipt(ctx context.Context) error {
	return w.pass(ctx, receipts, "/rooms/%s/receipt/m.read/%s", receiptOf)
}

func (w *writer) privateReceipt(ctx context.Context) error {
	return w.pass(ctx, privateReceipts, "/rooms/%s/receipt/m.read.private/%s", receiptOf)
}

// pass sets a receipt to the writer's newest event in one of its rooms.
func (w *writer) pass(ctx context.Context, k kind, path string, look func(k kind, user, room string) lookFunc) error {
	room := w.ownedRoom()
	event, name := w.last[room], thingName(k, w.account.user, room)
	if event == "" || w.passed[name] == event {
		return nil
	}
	w.passed[name] = event
	c := w.thing(name, look(k, w.account.user, room))
	return w.set(ctx, c, k, event, "POST", pathf(path, room, event), struct{}{}, nil)
}

func (w *writer) readMarker(ctx context.Context) error {
	room := w.ownedRoom()
	event, name := w.last[room], thingName(readMarkers, w.account.user, room)
	if event == "" || w.passed[name] == event {
		return nil
	}
	w.passed[name] = event
	c := w.thing(name, contentOf(w.client, pathf("/user/%s/rooms/%s/account_data/m.fully_read", w.account.user, room), "event_id"))
	return w.set(ctx, c, readMarkers, event, "POST", pathf("/rooms/%s/read_markers", room), map[string]any{"m.fully_read": event}, nil)
}

func (w *writer) setProfile(ctx context.Context) error {
	if !w.first {
		return nil
	}
	name := w.unique()
	path := pathf("/profile/%s/displayname", w.account.user)
	c := w.thing("profile", contentOf(w.client, path, "displayname"))
	if c.acked == "" { // registration may have given one
		given, err := c.now(ctx, nil)
		if err != nil {
			return err
		}
		c.acked = given
	}
	return w.set(ctx, c, profiles, name, "PUT", path, map[string]any{"displayname": name}, nil)
}

// alias makes an alias, or removes the one that it made.
func (w *writer) alias(ctx context.Context) error {
	if alias := w.named; alias != "" {
		w.named = ""
		return w.set(ctx, w.things[alias], aliasRemovals, noAlias, "DELETE", pathf("/directory/room/%s", alias), nil, nil)
	}
	_, server, _ := strings.Cut(w.account.user, ":")
	name, _, _ := strings.Cut(w.account.user[1:], ":")
	alias := fmt.Sprintf("#%s-%s:%s", name, w.unique(), server)
	path, room := pathf("/directory/room/%s", alias), w.anyRoom()
	c := w.thing(alias, roomOfAlias(w.client, path))
	c.acked = noAlias
	err := w.set(ctx, c, aliases, room, "PUT", path, map[string]any{"room_id": room}, nil)
	if err == nil {
		w.named = alias
	}
	return err
}

func (w *writer) filter(ctx context.Context) error {
	limit := w.random.IntN(1000) + 1
	body := map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": limit}}}
	var filter struct {
		ID string `json:"filter_id"`
	}
	path := pathf("/user/%s/filter", w.account.user)
	if err := w.client.do(ctx, filters, "POST", path, body, &filter); err != nil {
		return err
	}
	w.load.acknowledge(filters)
	c := w.thing("filter "+filter.ID, limitOfFilter(w.client, path+pathf("/%s", filter.ID)))
	c.kind, c.acked = filters, strconv.Itoa(limit)
	return nil
}

// session logs out one of the account's other devices, or logs in on a new one.
func (w *writer) session(ctx context.Context) error {
	if !w.first {
		return nil
	}
	if len(w.sessions) > 0 && w.random.IntN(2) == 0 {
		return w.logOut(ctx, w.sessions[0])
	}
	return w.logIn(ctx)
}

func (w *writer) logIn(ctx context.Context) error {
	session, err := logIn(ctx, w.load.client, logins, w.account.user, w.account.password.acked)
	if err != nil {
		return err
	}
	w.load.acknowledge(logins)
	c := w.thing("session "+session.Device, validityOf(w.client.as(session.Token)))
	c.kind, c.acked = logins, "valid"
	w.sessions = append(w.sessions, session)
	return nil
}

func (w *writer) logOut(ctx context.Context, session credentials) error {
	w.sessions = w.sessions[1:]
	other := *w
	other.client = w.client.as(session.Token)
	return other.set(ctx, w.things["session "+session.Device], logouts, "revoked", "POST", "/logout", nil, nil)
}

func logIn(ctx context.Context, c *client, k kind, user, password string) (credentials, error) {
	var session credentials
	err := c.do(ctx, k, "POST", "/login", map[string]any{
		"type":       "m.login.password",
		"identifier": map[string]any{"type": "m.id.user", "user": user},
		"password":   password,
	}, &session)
	return session, err
}

// setPassword changes it in the two ways of user-interactive authentication; the second is the write.
func (w *writer) setPassword(ctx context.Context) error {
	if !w.first {
		return nil
	}
	password := w.unique()
	body := map[string]any{"new_password": password, "logout_devices": false}
	err := w.client.do(ctx, "", "POST", "/account/password", body, nil)
	asked, ok := isRefused(err)
	if !ok || asked.Status != 401 {
		return err
	}
	body["auth"] = map[string]any{
		"type": "m.login.password", "session": asked.Session, "password": w.account.password.acked,
		"identifier": map[string]any{"type": "m.id.user", "user": w.account.user},
	}
	return w.set(ctx, w.account.password, passwords, password, "POST", "/account/password", body, nil)
}

// ownRoom makes a room, or leaves the one that it made, or forgets the one that it left.
func (w *writer) ownRoom(ctx context.Context) error {
	if w.own == "" {
		return w.create(ctx)
	}
	c := w.things[w.own]
	if c.acked == "joined" {
		err := w.set(ctx, c, leaves, "left", "POST", pathf("/rooms/%s/leave", w.own), struct{}{}, nil)
		if err != nil {
			w.own = ""
		}
		return err
	}
	err := w.set(ctx, c, forgets, "forgotten", "POST", pathf("/rooms/%s/forget", w.own), struct{}{}, nil)
	w.own = ""
	return err
}

func (w *writer) create(ctx context.Context) error {
	var room roomID
	if err := w.client.do(ctx, creations, "POST", "/createRoom", map[string]any{"preset": "private_chat"}, &room); err != nil {
		return err
	}
	w.load.acknowledge(creations)
	w.own = room.ID
	c := w.thing(room.ID, membershipOf(w.client, room.ID))
	c.kind, c.acked = creations, "joined"
	return nil
}
