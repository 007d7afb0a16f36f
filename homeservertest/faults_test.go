package homeservertest_test

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// TestFaults: servers that federate through partitions, loss, restarts and slow peers lose no write that was answered
// with 200, have none twice, and agree on the state of every room in the end. Every client is told of each once, if it
// asks for what its timelines leave out.
//
// It lives for 20 virtual minutes with 12 servers, under the race detector for 10 with 10. The whole of it, 24 virtual hours with 20 servers, 50 people and 10
// rooms, takes about half a minute of processor time an hour:
//
//	HOMESERVER_TEST_HOURS=24 go test ./homeservertest -run TestFaults -timeout 3h -v
//
// Another seed, or again the one of a failure: -run TestFaults/seed=7.
func TestFaults(t *testing.T) {
	seed := seedOf(t)
	t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
		began := time.Now()
		homeservertest.Simulate(t, seed, func(t *testing.T, network *homeservertest.Network) {
			w := build(t, network, seed, scaleOf(t))
			w.live()
			w.calm()
			w.conclude()
			w.calm()
			w.audit()
		})
		t.Logf("seed %d took %v", seed, time.Since(began).Round(time.Second/10))
	})
}

// seedOf is the seed that -run names, or 1.
func seedOf(t *testing.T) uint64 {
	named := regexp.MustCompile(`seed=(\d+)`).FindStringSubmatch(flag.Lookup("test.run").Value.String())
	if named == nil {
		return 1
	}
	seed, err := strconv.ParseUint(named[1], 10, 64)
	require.NoError(t, err)
	return seed
}

// scale is how much there is in a world and how long it lives.
type scale struct {
	servers, users, halls int
	lasts                 time.Duration
	every                 time.Duration // between two acts of its people, on average
}

func scaleOf(t *testing.T) scale {
	s := scale{servers: faultServers, users: faultUsers, halls: faultHalls, lasts: faultLife, every: 1700 * time.Millisecond}
	if text := os.Getenv("HOMESERVER_TEST_HOURS"); text != "" {
		hours, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err, "HOMESERVER_TEST_HOURS")
		s = scale{servers: 20, users: 50, halls: 10, lasts: time.Duration(hours * float64(time.Hour)), every: 1500 * time.Millisecond}
	}
	return s
}

// world is servers, people and rooms that live through faults.
type world struct {
	t *testing.T
	scale
	seed    uint64
	network *homeservertest.Network
	servers []*homeservertest.Server
	people  []*citizen
	halls   []*hall
	ledger  ledger
	log     faultLog
	over    chan struct{} // closed when nobody does anything any more
	slow    sluggish
}

// hall is a room. Its core joins before the first fault and never leaves: at each of the core's servers everything the
// core sends has to arrive. Its visitors come and go.
type hall struct {
	id, version string
	core        []*citizen // the first two are its administrators
	visitors    []*citizen
}

func (h *hall) String() string { return "room " + h.id + " (version " + h.version + ")" }

// citizen is a user with what they are to do and what they were told.
type citizen struct {
	*homeservertest.User
	server *homeservertest.Server
	todo   chan act
	client client
}

// act is something that somebody does; roll decides everything about it.
type act struct {
	hall *hall
	n    int
	roll int
}

// build starts the servers and lets the core of every room join.
func build(t *testing.T, network *homeservertest.Network, seed uint64, s scale) *world {
	w := &world{t: t, scale: s, seed: seed, network: network, over: make(chan struct{})}
	for i := range s.servers {
		w.servers = append(w.servers, network.New(fmt.Sprintf("s%02d.test", i), func(cfg *homeserver.Config) {
			cfg.Logger = w.log.of(cfg.ServerName)
		}))
	}
	for i := range s.users {
		server := w.servers[i%s.servers]
		user := server.User(fmt.Sprintf("u%02d", i))
		w.people = append(w.people, &citizen{User: user, server: server, todo: make(chan act, 1<<12)})
	}
	w.meet()
	dice := w.dice("halls")
	for i := range s.halls {
		w.found(dice, []string{"6", "10", "11", "12"}[i%4])
	}
	settle(t, network)
	return w
}

// meet lets every server ask every other one for something, so that they have each other's keys. An event of a server
// whose keys cannot be had is refused, and left out of states that others tell: who was not met before the faults began
// may be missing from a state for good.
func (w *world) meet() {
	for _, c := range w.people[:w.scale.servers] {
		for _, other := range w.people[:w.scale.servers] {
			c.Do("GET", "/_matrix/client/v3/profile/"+url.PathEscape(other.ID), nil).WantOK()
		}
	}
}

// dice is a source of chance for one purpose.
func (w *world) dice(purpose string) *rand.Rand {
	var sum uint64
	for _, b := range []byte(purpose) {
		sum = sum*31 + uint64(b)
	}
	return rand.New(rand.NewPCG(w.seed, sum))
}

// found makes a room with a core of four to eight servers, and three to five visitors of any.
func (w *world) found(dice *rand.Rand, version string) {
	order := dice.Perm(len(w.people))
	h := &hall{version: version}
	at := map[*homeservertest.Server]bool{}
	size, visitors := 4+dice.IntN(5), 3+dice.IntN(3)
	for _, i := range order {
		c := w.people[i]
		switch {
		case len(h.core) < size && !at[c.server]:
			at[c.server] = true
			h.core = append(h.core, c)
		case len(h.visitors) < visitors:
			h.visitors = append(h.visitors, c)
		}
	}
	h.id = h.core[0].CreateRoomWith(h.wish())
	for _, c := range h.core[1:] {
		c.enter(h).WantOK()
	}
	w.halls = append(w.halls, h)
}

// wish is the body of /createRoom.
func (h *hall) wish() map[string]any {
	users := map[string]any{h.core[1].ID: 100}
	if h.version != "12" { // there the creator is above all levels
		users[h.core[0].ID] = 100
	}
	return map[string]any{"preset": "public_chat", "room_version": h.version, "name": "Hall", "power_level_content_override": levels(users, 50)}
}

// levels are power levels: everybody may say what the room is about.
func levels(users map[string]any, kick int) map[string]any {
	return map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50, "invite": 0, "kick": kick, "ban": 50, "redact": 50,
		"events": map[string]any{"m.room.topic": 0, "m.room.name": 0},
	}
}

// enter joins a room over the servers of its administrators.
func (c *citizen) enter(h *hall) *homeservertest.Response {
	via := url.Values{"via": {h.core[0].server.Name(), h.core[1].server.Name()}, "server_name": {h.core[0].server.Name()}}
	return c.Do("POST", "/_matrix/client/v3/join/"+url.PathEscape(h.id)+"?"+via.Encode(), map[string]any{})
}

// live lets people act and faults happen for as long as the world lasts.
func (w *world) live() {
	var acting, watching, raging sync.WaitGroup
	for _, c := range w.people {
		c.client.begin(w, c)
		watching.Go(func() { c.client.watch() })
		acting.Go(func() { w.perform(c) })
	}
	for _, fault := range []func(){w.partitions, w.weather, w.sluggishness, w.restarts} {
		raging.Go(fault)
	}
	w.plan()
	close(w.over)
	raging.Wait()
	w.fairWeather()
	acting.Wait()
	watching.Wait()
}

// plan gives people things to do. It depends on nothing but the seed.
func (w *world) plan() {
	dice := w.dice("plan")
	for end, n := time.Now().Add(w.lasts), 0; time.Now().Before(end); n++ {
		time.Sleep(time.Duration(dice.ExpFloat64() * float64(w.every)))
		h := w.halls[dice.IntN(len(w.halls))]
		a := act{hall: h, n: n, roll: dice.IntN(1 << 30)}
		h.actor(a).todo <- a
	}
	for _, c := range w.people {
		close(c.todo)
	}
}

// sleep waits, and reports whether the world still goes on.
func (w *world) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-w.over:
		return false
	}
}

// between draws a time; short ones are as likely as long ones.
func between(dice *rand.Rand, shortest, longest time.Duration) time.Duration {
	ratio := float64(max(longest, shortest)) / float64(shortest)
	return time.Duration(float64(shortest) * math.Pow(ratio, dice.Float64()))
}

// partitions cut some servers off from all others, for one to forty minutes; in long lives one of eight for one to two
// hours, after which servers no longer send each other everything.
func (w *world) partitions() {
	dice := w.dice("partitions")
	for w.sleep(between(dice, 10*time.Second, min(20*time.Minute, w.lasts/4))) {
		order := dice.Perm(len(w.servers))
		size := 1 + dice.IntN(len(order)/2)
		for _, i := range order[:size] {
			for _, j := range order[size:] {
				w.network.Partition(w.servers[i].Name(), w.servers[j].Name())
			}
		}
		shortest, longest := time.Minute, min(40*time.Minute, w.lasts/2)
		if dice.IntN(8) == 0 && w.lasts > 4*time.Hour {
			shortest, longest = time.Hour, 2*time.Hour
		}
		w.sleep(between(dice, shortest, longest))
		w.network.Heal()
	}
}

// weather is loss of up to 20 %, and latency of 10 ms to 5 s.
func (w *world) weather() {
	dice := w.dice("weather")
	for w.sleep(between(dice, 10*time.Second, min(10*time.Minute, w.lasts/4))) {
		w.network.Loss(0.2*dice.Float64()*float64(dice.IntN(2)), dice.Uint64())
		w.network.Latency(between(dice, 10*time.Millisecond, 5*time.Second))
	}
}

// sluggishness lets some servers take up to 20 seconds to begin with whatever they are asked.
func (w *world) sluggishness() {
	dice := w.dice("sluggishness")
	w.network.Intercept(w.slow.delay)
	for w.sleep(between(dice, 10*time.Second, min(15*time.Minute, w.lasts/4))) {
		slow := map[string]time.Duration{}
		for range dice.IntN(4) {
			slow[w.servers[dice.IntN(len(w.servers))].Name()] = between(dice, time.Second, 20*time.Second)
		}
		w.slow.set(slow)
	}
}

// sluggish is which servers are slow.
type sluggish struct {
	mu sync.Mutex // guards by
	by map[string]time.Duration
}

func (s *sluggish) set(by map[string]time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by = by
}

func (s *sluggish) delay(r *http.Request) *http.Response {
	s.mu.Lock()
	d := s.by[r.URL.Host]
	s.mu.Unlock()
	if d > 0 {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	}
	return nil
}

// restarts closes servers and starts them again, now and then one a second time at once.
func (w *world) restarts() {
	dice := w.dice("restarts")
	for w.sleep(between(dice, 10*time.Second, min(20*time.Minute, w.lasts/4))) {
		s := w.servers[dice.IntN(len(w.servers))]
		for range 1 + dice.IntN(6)/5 {
			s.Restart()
		}
	}
}

// fairWeather ends all faults.
func (w *world) fairWeather() {
	w.network.Heal()
	w.network.Loss(0, 0)
	w.network.Latency(10 * time.Millisecond)
	w.network.Intercept(nil)
}

// calm waits until every server has got what is for it. That takes as long as the longest pause between two attempts.
func (w *world) calm() {
	began := time.Now()
	for !w.sent() {
		require.Less(w.t, time.Since(began), 3*time.Hour, "servers never get what is for them")
		time.Sleep(10 * time.Second)
	}
	settle(w.t, w.network)
	w.t.Logf("everything was sent after %v", time.Since(began))
}

// conclude lets the core of every room say a last word. An event that a server could not check in time was refused, as the
// specification wants it, and nobody sends it again; but what comes later names it, and then it is asked for.
func (w *world) conclude() {
	for i, h := range w.halls {
		for j, c := range h.core {
			w.say(c, act{hall: h, n: -1 - i*100 - j}, firm)
		}
	}
}

func (w *world) sent() bool {
	return !slices.ContainsFunc(w.servers, func(s *homeservertest.Server) bool {
		unsent, err := s.Homeserver().Admin().Unsent()
		require.NoError(w.t, err)
		return len(unsent) > 0
	})
}
