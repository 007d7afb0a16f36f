package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// load is people who write everything that the appliance promises to keep, and their devices that sync.
type load struct {
	client   *client
	accounts []*account
	rooms    []string
	writers  []*writer
	watchers []*watcher
	history  map[string][]string // every event of the shared rooms, oldest first, as of the last verification
	fresh    map[string][]string // those of them that it found
	acks     atomic.Int64
	counts   sync.Map // kind → *atomic.Int64, of this round
}

// account is a user. Writer 0 of it alone touches password and sessions.
type account struct {
	user     string
	token    string // of the writers' device, which is never logged out
	device   string
	password *cell
}

type size struct{ users, rooms int }

// newLoad registers the users and has them join the shared rooms.
func newLoad(t *testing.T, url string, random *rand.Rand, size size) *load {
	t.Helper()
	l := &load{client: newClient(url), history: make(map[string][]string), fresh: make(map[string][]string)}
	run := random.Uint32()
	for i := range size.users {
		l.accounts = append(l.accounts, l.register(t, fmt.Sprintf("user%d-%08x", i, run)))
	}
	for range size.rooms {
		l.rooms = append(l.rooms, l.sharedRoom(t))
	}
	for i, a := range l.accounts {
		for n := range killWriters {
			l.writers = append(l.writers, newWriter(l, a, i*killWriters+n, n, rand.New(rand.NewPCG(random.Uint64(), 0))))
		}
		l.watchers = append(l.watchers, newWatcher(t, l, a))
	}
	require.Empty(t, l.verify(t.Context()), "before the load")
	return l
}

const firstPassword = "correct horse battery staple"

type credentials struct {
	User   string `json:"user_id"`
	Token  string `json:"access_token"`
	Device string `json:"device_id"`
}

// register makes an account, answering the server's question.
func register(t *testing.T, c *client, name string) (session credentials) {
	t.Helper()
	body := map[string]any{"username": name, "password": firstPassword}
	err := c.do(t.Context(), "", "POST", "/register", body, nil)
	asked, ok := isRefused(err)
	require.True(t, ok && asked.Status == 401, "POST /register without auth: %v", err)
	body["auth"] = map[string]any{"type": "m.login.dummy", "session": asked.Session}
	require.NoError(t, c.do(t.Context(), "", "POST", "/register", body, &session), "POST /register")
	return session
}

func (l *load) register(t *testing.T, name string) *account {
	t.Helper()
	session := register(t, l.client, name)
	password := &cell{kind: passwords, name: "password of " + session.User, acked: firstPassword}
	password.look = passwordOf(l.client, session.User, password)
	return &account{user: session.User, token: session.Token, device: session.Device, password: password}
}

type roomID struct {
	ID string `json:"room_id"`
}

func (l *load) sharedRoom(t *testing.T) string {
	t.Helper()
	everybody := make(map[string]int)
	for _, a := range l.accounts {
		everybody[a.user] = 50
	}
	owner := l.client.as(l.accounts[0].token)
	everybody[l.accounts[0].user] = 100
	var room roomID
	body := map[string]any{"preset": "public_chat", "power_level_content_override": map[string]any{"state_default": 50, "users": everybody}}
	if err := owner.do(t.Context(), "", "POST", "/createRoom", body, &room); err != nil {
		// From room version 12 on a creator's power is not written down.
		delete(everybody, l.accounts[0].user)
		require.NoError(t, owner.do(t.Context(), "", "POST", "/createRoom", body, &room), "POST /createRoom")
	}
	for _, a := range l.accounts[1:] {
		c := l.client.as(a.token)
		require.NoError(t, c.do(t.Context(), "", "POST", pathf("/join/%s", room.ID), struct{}{}, nil), "POST /join")
	}
	return room.ID
}

// run starts writers and watchers. The function it returns stops them and returns when they have stopped.
func (l *load) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	l.acks.Store(0)
	l.counts.Clear()
	var writers, watchers sync.WaitGroup
	for _, w := range l.writers {
		writers.Go(func() { w.run(ctx) })
	}
	for _, w := range l.watchers {
		watchers.Go(func() { w.run(ctx) })
	}
	return func() {
		cancel()
		writers.Wait()
		watchers.Wait()
		l.client.http.CloseIdleConnections()
	}
}

func (l *load) acknowledged() int { return int(l.acks.Load()) }

func (l *load) count(k kind) int {
	n, ok := l.counts.Load(k)
	if !ok {
		return 0
	}
	return int(n.(*atomic.Int64).Load())
}

func (l *load) acknowledge(k kind) {
	n, _ := l.counts.LoadOrStore(k, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	l.acks.Add(1)
}

// favour makes writes of a kind as frequent as all others together.
func (l *load) favour(k kind) {
	for _, w := range l.writers {
		w.favourite = k
	}
}

// enough says whether a round has its writes, some of each kind.
func (l *load) enough() bool {
	return l.acknowledged() >= killWrites && !slices.ContainsFunc(kinds, func(k kind) bool { return l.count(k) < killWritesOfKind })
}

func (l *load) summary() string {
	parts := make(map[kind]string)
	for _, k := range kinds {
		parts[k] = fmt.Sprintf("%d %s", l.count(k), k)
	}
	return fmt.Sprintf("%d acknowledged: %s", l.acknowledged(), strings.Join(slices.Sorted(maps.Values(parts)), ", "))
}
