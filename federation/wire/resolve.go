package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
)

const (
	defaultPort = 8448
	maxTargets  = 8 // records of one SRV answer and addresses of one name that are tried
)

// DNS is what resolving needs of the domain name system. A *net.Resolver is one.
type DNS interface {
	// LookupSRV returns the records of _service._proto.name, in any order.
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error)

	// LookupNetIP returns the addresses of host, best first. The network is "ip".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Target is one place at which a server may be reached.
type Target struct {
	Dial     string // host name or IP address to connect to, without brackets
	Port     uint16
	Host     string // for the Host header
	CertName string // host name or IP address that the certificate must be for; also the SNI, unless it is an address
}

// Resolver finds the servers behind server names. It is safe for many at once, owns no goroutine and needs no Close.
//
// Answers of well-known are cached for as long as their headers say, but at least 5 minutes and at most 48 hours, and
// 24 hours when they say nothing. That there is none is remembered for 5 minutes, which grows up to an hour while it
// stays so; a server that cannot be asked keeps its last answer for up to 48 hours. At most 10,000 answers are kept,
// and one request per name is under way. DNS answers are not cached: that is the DNS's own business, and names are
// only looked up to open connections.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#resolving-server-names
type Resolver struct {
	dns       DNS
	web       *http.Client
	userAgent string
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex // guards the following
	known   map[string]wellKnown
	flights map[string]chan struct{} // closed when the request has ended
}

func newResolver(cfg Config, n *network) *Resolver {
	return &Resolver{
		dns: cfg.DNS, web: n.webClient(), userAgent: cfg.UserAgent, now: cfg.Now, log: cfg.Log,
		known: map[string]wellKnown{}, flights: map[string]chan struct{}{},
	}
}

// Delegate returns the name under which a server is to be addressed: the one that its well-known file gives, or else
// its own. It is what belongs in the Host header. Only the end of ctx is an error.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#getwell-knownmatrixserver
func (r *Resolver) Delegate(ctx context.Context, server id.ServerName) (id.ServerName, error) {
	// 1. If the hostname is an IP literal, 2. If … the server name includes an explicit port: no well-known.
	if _, literal := address(server); literal || server.Port() != "" {
		return server, nil
	}
	delegated, err := r.wellKnown(ctx, server.Host())
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", server, err)
	}
	return cmp.Or(delegated, server), nil
}

// Targets returns where to reach a name that Delegate gave.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#resolving-server-names
func (r *Resolver) Targets(ctx context.Context, name id.ServerName) ([]Target, error) {
	port, err := portOf(name)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	// 1. and 3.1. If the hostname is an IP literal, then that IP address should be used, together with the given port
	// number, or 8448 if no port is given.
	if addr, literal := address(name); literal {
		return []Target{{addr.String(), cmp.Or(port, defaultPort), string(name), addr.String()}}, nil
	}
	// 2. and 3.2. … and <delegated_port> is present, an IP address is discovered.
	if port != 0 {
		return []Target{{name.Host(), port, string(name), name.Host()}}, nil
	}
	records, err := r.service(ctx, name.Host())
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	// 3.5. and 6. If no SRV record is found, an IP address is resolved … using port 8448.
	if len(records) == 0 {
		return []Target{{name.Host(), defaultPort, string(name), name.Host()}}, nil
	}
	var targets []Target
	for _, srv := range records[:min(len(records), maxTargets)] {
		targets = append(targets, Target{strings.TrimSuffix(srv.Target, "."), srv.Port, string(name), name.Host()})
	}
	return targets, nil
}

// service returns the SRV records of a host in the order in which to try them, none when there are none. DNS that
// cannot tell is as good as no record: whatever answers on port 8448 must have the certificate all the same.
func (r *Resolver) service(ctx context.Context, host string) ([]*net.SRV, error) {
	// 3.3. and 4. _matrix-fed._tcp; 3.4. and 5. (deprecated) _matrix._tcp.
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, err := r.dns.LookupSRV(ctx, service, "tcp", host)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if len(records) == 1 && strings.TrimSuffix(records[0].Target, ".") == "" {
			return nil, errNoService
		}
		records = usable(records)
		if len(records) > 0 { // even with an error, which is then about other records
			order(records, rand.IntN)
			return records, nil
		}
		if err != nil {
			r.log.Debug("no SRV record", "service", service, "host", host, "error", err)
		}
	}
	return nil, nil
}

// errNoService: a Target of "." means that the service is decidedly not available at this domain (RFC 2782).
var errNoService = errors.New("DNS says that the service is not available there")

func usable(records []*net.SRV) []*net.SRV {
	return slices.DeleteFunc(slices.Clone(records), func(srv *net.SRV) bool {
		return srv == nil || srv.Port == 0 || strings.TrimSuffix(srv.Target, ".") == ""
	})
}

// order sorts records by priority and, among equals, draws by weight as RFC 2782 describes it.
func order(records []*net.SRV, random func(int) int) {
	slices.SortStableFunc(records, func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Weight, b.Weight))
	})
	for from := 0; from < len(records); {
		to := from + 1
		for to < len(records) && records[to].Priority == records[from].Priority {
			to++
		}
		draw(records[from:to], random)
		from = to
	}
}

// draw puts the records of one priority in an order in which heavy ones tend to stand in front. Those of weight 0
// come first, so that they have a small chance.
func draw(records []*net.SRV, random func(int) int) {
	total := 0
	for _, srv := range records {
		total += int(srv.Weight)
	}
	for ; len(records) > 1; records = records[1:] {
		rest, chosen := random(total+1), 0
		for rest -= int(records[0].Weight); rest > 0; rest -= int(records[chosen].Weight) {
			chosen++
		}
		drawn := records[chosen]
		copy(records[1:], records[:chosen])
		records[0] = drawn
		total -= int(drawn.Weight)
	}
}

// address returns the IP address that a server name is, if it is a literal. What merely looks like a number is a name.
func address(name id.ServerName) (netip.Addr, bool) {
	host := strings.TrimSuffix(strings.TrimPrefix(name.Host(), "["), "]")
	addr, err := netip.ParseAddr(host)
	return addr, err == nil
}

// portOf returns the port in a server name, 0 if it has none.
func portOf(name id.ServerName) (uint16, error) {
	if name.Port() == "" {
		return 0, nil
	}
	port, err := strconv.ParseUint(name.Port(), 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("there is no port %q", name.Port())
	}
	return uint16(port), nil
}
