package wire

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
)

const (
	defaultTimeout   = 30 * time.Second
	defaultMaxAnswer = 10 << 20 // bytes that Do keeps in memory
	defaultMaxStream = 1 << 30  // bytes that pass through Stream
	streamTimeout    = 30 * time.Minute
)

// Why no answer came, beside what net, crypto/tls and context say.
var (
	// ErrBackingOff: the destination failed a while ago and is left alone until Client.Backoff.
	ErrBackingOff = errors.New("wire: the server did not answer lately")
	// ErrTooLarge: the answer is longer than Request.MaxAnswer.
	ErrTooLarge = errors.New("wire: the answer is too large")
	// ErrTooSlow: the answer did not come in time, or too few bytes of it.
	ErrTooSlow = errors.New("wire: the answer is too slow")
	// ErrNotAllowed: Config.Allowed keeps this server from talking with the destination. It is an mxerr.Forbidden.
	ErrNotAllowed error = mxerr.Forbidden.With("this server does not talk with the other one")
	// ErrClosed: the Client was closed.
	ErrClosed = errors.New("wire: the client is closed")
)

// Config describes a Client. Origin and Key are required.
type Config struct {
	Origin id.ServerName // this server
	Key    signing.Key   // signs its requests

	// Transport takes the requests instead of the network: each with the destination's server name as host of its URL,
	// without any resolution. Its answers must end with the request's context, their bodies too. Nil: connections of
	// the Client's own, for which the fields up to UserAgent are.
	Transport http.RoundTripper

	// Roots are the certificate authorities that are trusted. Nil: those of the system. To trust more than those, add
	// to what x509.SystemCertPool returns.
	Roots *x509.CertPool

	// DNS looks names up. Nil: the system's.
	DNS DNS

	// Dial opens a connection to an address, which is an IP address with a port and was allowed by Networks; it may
	// lead through a proxy. Nil: a net.Dialer, whose every socket is checked once more.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Allowed says which servers may be asked anything. Nil: all.
	Allowed func(id.ServerName) bool

	// Networks says where connections may lead. Its zero value: to the public internet.
	Networks Networks

	UserAgent string           // "embedmatrix" if empty
	Timeout   time.Duration    // for one request with its whole answer, unless it says otherwise; 30 s if zero
	Now       func() time.Time // time.Now if nil
	Log       *slog.Logger     // nil discards
}

func (cfg Config) withDefaults() Config {
	if cfg.DNS == nil {
		cfg.DNS = &net.Resolver{}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.UserAgent = cmp.Or(cfg.UserAgent, "embedmatrix")
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	return cfg
}

// Client sends requests to other servers. It is safe for many at once, has no goroutine of its own, and no socket for
// servers to which nothing was sent for 90 seconds.
//
// It remembers servers that fail: one that cannot be reached, is too slow (for the time-out or for a deadline of the
// caller's context), answers with 429 or with 5xx and no Matrix error of its own, is left alone for a second, then for
// twice as long and more, up to an hour. Any other answer, and Alive, ends that. At most 10,000 such servers are
// remembered, and 200 connections are being opened at a time.
type Client struct {
	cfg       Config
	transport http.RoundTripper
	resolver  *Resolver // nil when Config.Transport is set
	network   *network  // likewise
	backoff   *backoff
	closing   context.Context
	close     context.CancelFunc
}

// NewClient returns a Client. It starts nothing and does no I/O.
func NewClient(cfg Config) *Client {
	cfg = cfg.withDefaults()
	c := &Client{cfg: cfg, transport: cfg.Transport, backoff: newBackoff(cfg.Now)}
	c.closing, c.close = context.WithCancel(context.Background())
	if c.transport == nil {
		c.network = newNetwork(cfg)
		c.resolver = newResolver(cfg, c.network)
		c.transport = c.ownTransport()
	}
	return c
}

// Close ends the requests under way with ErrClosed, refuses further ones and closes all connections.
func (c *Client) Close() {
	c.close()
	if c.network != nil {
		c.network.close()
	}
}

// Backoff is when a server may be tried again, zero when it may be now.
func (c *Client) Backoff(server id.ServerName) time.Time { return c.backoff.until(server) }

// Alive says that a server has contacted us: it is tried again at once. Call it for authenticated requests only.
func (c *Client) Alive(server id.ServerName) {
	if c.backoff.alive(server) && c.resolver != nil {
		c.resolver.forget(server.Host())
	}
}

// Request is what one server asks of another.
type Request struct {
	Destination id.ServerName
	Method      string
	Path        string     // escaped, with a leading slash
	Query       url.Values // may be nil
	Body        []byte     // JSON; nil: none

	Unsigned  bool          // no Authorization, for /version and /_matrix/key/v2/server
	Force     bool          // try even if the destination failed a moment ago
	Timeout   time.Duration // Config.Timeout if zero
	Loose     bool          // the answer is taken apart by who asks, who checks each part: one odd event spoils no others
	MaxAnswer int64         // bytes; if zero 10 MiB for Do and 1 GiB for Stream
}

// Answer is an answer with a status of 2xx.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte // one JSON value, as canonjson.CheckLenient has it, unless Request.Loose
}

// Stream is an answer with a status of 2xx whose body is still to be read.
type Stream struct {
	Status int
	Header http.Header

	// Body must be closed, which frees the connection. Reading it gives ErrTooLarge behind Request.MaxAnswer bytes, and ErrTooSlow when a read
	// waits for 30 seconds and less than 16 KiB came meanwhile, or after 30 minutes. It is not checked in any way.
	Body io.ReadCloser
}

// Do sends a request and returns the answer, which is JSON that every parser reads alike.
//
// A peer that refuses gives an *Error. Other errors are ErrBackingOff, at once and without any traffic, when the
// destination failed lately; ErrTooLarge; ErrTooSlow after the time-out; ErrDenied; ErrClosed; one of canonjson; the end
// of ctx; or what the network says. Redirects are not followed. A PUT may be sent a second time when a connection was closed meanwhile.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	r.MaxAnswer = cmp.Or(r.MaxAnswer, defaultMaxAnswer)
	e, err := c.begin(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	defer e.end()
	answer, err := e.whole()
	return answer, e.judge(err)
}

// Stream is Do for answers that are too large for memory or are no JSON. The time-out is for the header of the answer;
// the body is bounded as Stream.Body tells, and ends with ctx.
func (c *Client) Stream(ctx context.Context, r Request) (*Stream, error) {
	r.MaxAnswer = cmp.Or(r.MaxAnswer, defaultMaxStream)
	e, err := c.begin(ctx, r)
	if err != nil {
		return nil, err
	}
	s, err := e.send()
	if err != nil {
		defer e.end()
		return nil, e.judge(err)
	}
	e.timer.Reset(streamTimeout)
	return s, e.judge(nil)
}

// admit returns why a request is not even begun.
func (c *Client) admit(r Request) error {
	if c.closing.Err() != nil {
		return ErrClosed
	}
	if r.Destination == c.cfg.Origin {
		return errOwn
	}
	if c.cfg.Allowed != nil && !c.cfg.Allowed(r.Destination) {
		return ErrNotAllowed
	}
	if until := c.backoff.until(r.Destination); !r.Force && !until.IsZero() {
		return fmt.Errorf("%w: not before %s", ErrBackingOff, until.UTC().Format(time.RFC3339))
	}
	return nil
}

var errOwn = errors.New("wire: the destination is this server")

// build makes the HTTP request, signed but not addressed.
func (c *Client) build(r Request) (*http.Request, error) {
	target, err := r.url()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(r.Method, "", bodyOf(r.Body))
	if err != nil {
		return nil, err
	}
	req.URL, req.Host = target, string(r.Destination)
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Accept", "application/json")
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.Method == http.MethodPut {
		req.Header["X-Idempotency-Key"] = []string{} // for net/http: may be sent again. It is not on the wire.
	}
	if r.Unsigned {
		return req, nil
	}
	return req, c.sign(req, r)
}

// sign signs exactly what is sent.
func (c *Client) sign(req *http.Request, r Request) error {
	credentials, err := Sign(c.cfg.Key, r.Method, req.URL.RequestURI(), c.cfg.Origin, r.Destination, r.Body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", string(AppendAuthorization(nil, credentials)))
	return nil
}

// bodyOf keeps its type, by which net/http knows the length and can send it again.
func bodyOf(body []byte) io.Reader {
	if body == nil {
		return nil
	}
	return bytes.NewReader(body)
}

func (r Request) url() (*url.URL, error) {
	path, err := url.PathUnescape(r.Path)
	if err != nil || !strings.HasPrefix(r.Path, "/") || strings.ContainsAny(r.Path, "?#") {
		return nil, fmt.Errorf("wire: %q is not an escaped path", r.Path)
	}
	return &url.URL{Scheme: "https", Host: string(r.Destination), Path: path, RawPath: r.Path, RawQuery: r.Query.Encode()}, nil
}

// address gives a request the Host header under which the destination is to be addressed, and a URL by which
// connections are told apart: see pool.
func (c *Client) address(req *http.Request, server id.ServerName) error {
	if c.resolver == nil {
		return nil
	}
	name, err := c.resolver.Delegate(req.Context(), server)
	if err != nil {
		return err
	}
	req.Host, req.URL.Host = string(name), pool(name)
	return nil
}

// noPort stands for the port of a name that has none, since net/http would make it 443. No server has it.
const noPort = ":0"

// pool is the host of URLs for a name that Delegate gave. Connections are shared by those who delegate to the same name.
func pool(name id.ServerName) string {
	if name.Port() == "" {
		return string(name) + noPort
	}
	return string(name)
}

func (c *Client) ownTransport() *http.Transport {
	return &http.Transport{
		DialTLSContext: c.dialTLS, ForceAttemptHTTP2: true,
		MaxIdleConns: 200, MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// dialTLS opens a connection for URLs with the host pool(name).
func (c *Client) dialTLS(ctx context.Context, _, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.closing, cancel)()
	if err := c.network.enter(ctx); err != nil {
		return nil, err
	}
	defer c.network.leave()
	ctx, cancel = context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	targets, err := c.resolver.Targets(ctx, id.ServerName(strings.TrimSuffix(address, noPort)))
	if err != nil {
		return nil, err
	}
	return c.network.reach(ctx, targets)
}

func (r Request) wrap(err error) error {
	return fmt.Errorf("%s %s of %s: %w", r.Method, r.Path, r.Destination, err)
}
