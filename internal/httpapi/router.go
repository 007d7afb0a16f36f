package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// Config is what a Router needs to know.
type Config struct {
	Sessions        Sessions       // who a token is; needed unless every route is Public or Server
	Peers           Peers          // who has signed a request; needed for Server routes
	Log             *slog.Logger   // nil discards
	Limits          Limits         // of RateLimited routes
	TrustedProxies  []netip.Prefix // whose X-Forwarded-For is believed; nobody's by default
	AllowQueryToken bool           // take ?access_token= where there is no Authorization header
}

// Sessions tells whose access token it is: mxerr.UnknownToken for one that is not valid (any more).
type Sessions interface {
	Session(ctx context.Context, token string, seen Seen) (*Session, error)
}

// Peers tells which other server has sent a request, whose signature covers the body too. body reads that, once
// and within the bounds of its route; nobody has to read it before it is clear who claims to have sent it. An error
// of body is returned as it is; mxerr.Unauthorized says that nobody has signed.
type Peers interface {
	Peer(ctx context.Context, r *http.Request, body func() ([]byte, error)) (id.ServerName, error)
}

// Seen is where a token was seen, for the list of devices.
type Seen struct {
	IP        netip.Addr // not valid when unknown
	UserAgent string
}

// Session is who a valid token stands for.
type Session struct {
	User      id.UserID
	Device    id.DeviceID
	Guest     bool
	Admin     bool
	Locked    bool // refused everywhere but on EvenLocked routes
	Suspended bool // for handlers: what a suspended user may do depends on the act
	Unlimited bool // no rate limit, as some application services have
}

// Router is the http.Handler made of routes. It starts nothing and holds nothing to close.
type Router struct {
	sessions   Sessions
	peers      Peers
	log        *slog.Logger
	limits     *limits
	proxies    []netip.Prefix
	queryToken bool
	root       node
	encoders   sync.Pool // of *encoder
}

// NewRouter returns the handler that serves routes, and a JSON error for every other path.
// Two routes for one method and path are a mistake in the program: it panics.
func NewRouter(cfg Config, routes []Route) http.Handler {
	rt := &Router{
		sessions:   cfg.Sessions,
		peers:      cfg.Peers,
		log:        cfg.Log,
		limits:     newLimits(cfg.Limits),
		proxies:    cfg.TrustedProxies,
		queryToken: cfg.AllowQueryToken,
	}
	if rt.log == nil {
		rt.log = slog.New(slog.DiscardHandler)
	}
	rt.encoders.New = func() any { return newEncoder() }
	for i := range routes {
		for _, p := range routes[i].patterns() {
			rt.root.add(p, &routes[i])
		}
	}
	return rt
}

// ServeHTTP answers every request: CORS first, so that a browser can read whatever follows.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setCORS(w.Header())
	if r.Method == http.MethodOptions {
		rt.preflight(w)
		return
	}
	look := lookup{method: r.Method}
	path, escaped := routePath(r.URL)
	look.escaped = escaped
	if path == "" || path[0] != '/' || !look.find(&rt.root, path) {
		rt.unrecognized(w, &look)
		return
	}
	c := &Call{Request: r, route: look.endpoint.route, names: look.endpoint.names, values: look.values, w: w, limits: rt.limits}
	rt.call(w, c)
}

// call serves one routed request and answers its error or panic.
func (rt *Router) call(w http.ResponseWriter, c *Call) {
	tracked := &tracker{ResponseWriter: w}
	defer rt.catch(tracked, c)
	if err := rt.handle(tracked, c); err != nil {
		rt.fail(tracked, c, err)
	}
}

// handle is the way of a request through the door. What costs the caller nothing to send, such as
// a body, is not looked at before the caller is known.
func (rt *Router) handle(w http.ResponseWriter, c *Call) error {
	c.IP = clientIP(c.Request, rt.proxies)
	if err := rt.identify(c); err != nil {
		return err
	}
	if err := c.checkValues(); err != nil {
		return err
	}
	return c.route.serve(rt, w, c)
}

// identify finds out who calls and whether they may call this route now.
func (rt *Router) identify(c *Call) error {
	if err := rt.findCaller(c); err != nil {
		if limited := rt.limit(c); limited != nil {
			return limited
		}
		return err
	}
	s := c.Session
	if s != nil && s.Locked && !c.route.evenLocked {
		return mxerr.UserLocked.Set("soft_logout", true)
	}
	if s != nil && s.Guest && c.route.Access == Authed {
		return mxerr.GuestAccessForbidden
	}
	if c.route.adminOnly && !c.Admin {
		return mxerr.Forbidden.With("only administrators of this server may do this")
	}
	return rt.limit(c)
}

func (rt *Router) findCaller(c *Call) (err error) {
	switch c.route.Access {
	case Public:
		return nil
	case Server:
		c.Origin, err = rt.peers.Peer(c.Request.Context(), c.Request, c.readBody)
		return err
	}
	return rt.findSession(c)
}

func (rt *Router) findSession(c *Call) error {
	token := accessToken(c.Request, rt.queryToken)
	if token == "" {
		if c.route.Access == OptionalToken {
			return nil
		}
		return mxerr.MissingToken
	}
	s, err := rt.sessions.Session(c.Request.Context(), token, Seen{IP: c.IP, UserAgent: c.Request.UserAgent()})
	if err != nil {
		return err
	}
	c.Session, c.User, c.Device, c.Guest, c.Admin = s, s.User, s.Device, s.Guest, s.Admin
	return nil
}

// limit counts the call against its user, or against its address when nobody is known. Other servers have no
// limit but of KeyClaims.
func (rt *Router) limit(c *Call) error {
	if !c.route.rateLimited {
		return nil
	}
	return c.Charge(c.route.budget, 1)
}
