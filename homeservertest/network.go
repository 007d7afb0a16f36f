package homeservertest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/internal/inprocess"
)

// Network is some servers that federate with each other in this process, with no port, name service or TLS. It works
// inside a testing/synctest bubble.
//
//	network := homeservertest.NewNetwork(t)
//	one, two := network.New("one.test"), network.New("two.test")
//	network.Partition("one.test", "two.test")
type Network struct {
	t testing.TB

	handlers sync.WaitGroup              // the requests that are being handled
	random   func(name string) io.Reader // what servers draw from; nil: the default. Set before the first

	mu sync.Mutex // guards the following
	// nodes are who is there, by name. flying counts the requests that are not answered yet.
	nodes  map[string]http.Handler
	own    []*Server
	flying int
	// cut has the pairs that do not reach each other, both ways round.
	cut       map[[2]string]bool
	latency   time.Duration
	loss      float64
	dice      *rand.Rand // of loss
	intercept func(*http.Request) *http.Response
}

// NewNetwork returns a network with nobody in it.
func NewNetwork(t testing.TB) *Network {
	n := &Network{t: t, nodes: map[string]http.Handler{}, cut: map[[2]string]bool{}}
	t.Cleanup(n.handlers.Wait)
	return n
}

// New starts a server with this name, as the function New does, that talks with the others of the network.
func (n *Network) New(name string, opts ...func(*homeserver.Config)) *Server {
	n.t.Helper()
	federated := func(cfg *homeserver.Config) {
		cfg.ServerName = name
		cfg.Federation = homeserver.Federation{Enabled: true, Transport: n.From(name)}
		if n.random != nil {
			cfg.Rand = n.random(name)
		}
	}
	s := New(n.t, append([]func(*homeserver.Config){federated}, opts...)...)
	n.Add(name, http.HandlerFunc(s.federate))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.own = append(n.own, s)
	return s
}

// Add puts whatever answers requests into the network under a name, in the place of who had it.
func (n *Network) Add(name string, handler http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[name] = handler
}

// Partition keeps name and each of the others from reaching each other; without others, name and everybody else.
// Requests that are under way are answered.
func (n *Network) Partition(name string, others ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(others) == 0 {
		for other := range n.nodes {
			others = append(others, other)
		}
	}
	for _, other := range others {
		n.cut[[2]string{name, other}], n.cut[[2]string{other, name}] = true, true
	}
}

// Heal ends every partition.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Latency lets every request and every answer take this long to arrive.
func (n *Network) Latency(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latency = d
}

// Loss lets requests get lost with a probability: half of them on their way, half of them once they were handled.
// The same seed loses the same ones, as far as their order is the same.
func (n *Network) Loss(probability float64, seed uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss, n.dice = probability, rand.New(rand.NewPCG(seed, seed))
}

// Intercept has fn see every request before it is on its way, several at once; Origin tells whose it is. What fn returns
// is the answer; nil lets the request pass. The body may only be read by who answers. A nil fn ends it.
func (n *Network) Intercept(fn func(*http.Request) *http.Response) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.intercept = fn
}

// originKey is of the context value that says who has sent a request.
type originKey struct{}

// Origin is the name of who sends a request over a network, signed or not.
func Origin(r *http.Request) string {
	name, _ := r.Context().Value(originKey{}).(string)
	return name
}

// From is what requests of name to others go through: the host of their URL is the name of their destination.
func (n *Network) From(name string) http.RoundTripper { return link{n, name} }

type link struct {
	*Network
	from string
}

// Why requests do not arrive.
var (
	errNobody = errors.New("homeservertest: there is no server of this name")
	errCut    = errors.New("homeservertest: the network is partitioned")
	errLost   = errors.New("homeservertest: the network has lost the request")
)

// RoundTrip sends a request and returns the answer.
func (l link) RoundTrip(r *http.Request) (*http.Response, error) {
	l.fly(1)
	defer l.fly(-1)
	r = r.WithContext(context.WithValue(r.Context(), originKey{}, l.from))
	response, err := l.carry(r)
	if response == nil || err != nil {
		closeBody(r)
	}
	return response, err
}

// fly counts a request that is under way.
func (n *Network) fly(by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.flying += by
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

func (l link) carry(r *http.Request) (*http.Response, error) {
	if planted := l.intercepted(r); planted != nil {
		closeBody(r)
		return planted, nil
	}
	before, after := l.fate()
	if err := l.travel(r.Context(), before); err != nil {
		return nil, err
	}
	handler, err := l.reach(r.URL.Host)
	if err != nil {
		return nil, err
	}
	response, err := inprocess.Transport{Handler: l.counted(handler)}.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := l.travel(r.Context(), after); err != nil {
		io.Copy(io.Discard, response.Body) //nolint:errcheck // it is lost anyway
		response.Body.Close()
		return nil, err
	}
	return response, nil
}

func (n *Network) intercepted(r *http.Request) *http.Response {
	n.mu.Lock()
	fn := n.intercept
	n.mu.Unlock()
	if fn == nil {
		return nil
	}
	return fn(r)
}

// fate says whether the request or its answer gets lost.
func (n *Network) fate() (before, after bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dice == nil || n.dice.Float64() >= n.loss {
		return false, false
	}
	before = n.dice.IntN(2) == 0
	return before, !before
}

// travel takes the time that one way takes.
func (n *Network) travel(ctx context.Context, lost bool) error {
	n.mu.Lock()
	latency := n.latency
	n.mu.Unlock()
	if latency > 0 {
		select {
		case <-time.After(latency):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if lost {
		return errLost
	}
	return nil
}

// reach finds the destination of a request.
func (l link) reach(name string) (http.Handler, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	handler := l.nodes[name]
	switch {
	case handler == nil:
		return nil, errNobody
	case l.cut[[2]string{l.from, name}]:
		return nil, errCut
	}
	return handler, nil
}

// counted is a handler whose requests are under way until it has handled them.
func (n *Network) counted(handler http.Handler) http.Handler {
	n.handlers.Add(1)
	n.fly(1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer n.handlers.Done()
		defer n.fly(-1)
		handler.ServeHTTP(w, r)
	})
}

// settled is how long nothing may have happened, and pause how often Settle looks.
const (
	settled = 20 * time.Millisecond
	pause   = time.Millisecond
)

// Settle waits until nothing is on its way between servers and nothing is to be sent any more, and fails the test when
// ctx ends before that. What waits for a server that is cut off is not waited for.
func (n *Network) Settle(ctx context.Context) {
	n.t.Helper()
	for quiet := time.Duration(0); quiet < settled; quiet += pause {
		if !n.quiet() {
			quiet = 0
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			require.FailNow(n.t, "the network does not settle", "%v", ctx.Err())
		}
	}
}

func (n *Network) quiet() bool {
	n.mu.Lock()
	busy, own := n.flying > 0, n.own
	n.mu.Unlock()
	for _, s := range own {
		busy = busy || n.sends(s)
	}
	return !busy
}

// sends reports whether a server has something for somebody whom it reaches.
func (n *Network) sends(s *Server) bool {
	unsent, _ := s.Homeserver().Admin().Unsent() // one that does not run sends nothing
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, u := range unsent {
		if n.nodes[u.Server] != nil && !n.cut[[2]string{s.Name(), u.Server}] {
			return true
		}
	}
	return false
}
