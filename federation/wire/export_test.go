package wire

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/id"
)

// NewResolver makes a Resolver of the DNS, Dial, Networks, Roots, UserAgent, Now and Log of cfg.
func NewResolver(cfg Config) *Resolver {
	cfg = cfg.withDefaults()
	return newResolver(cfg, newNetwork(cfg))
}

// Resolve returns where to reach a server, in the order in which to try, as a Client finds it out. All targets have the
// same Host and CertName.
func (r *Resolver) Resolve(ctx context.Context, server id.ServerName) ([]Target, error) {
	name, err := r.Delegate(ctx, server)
	if err != nil {
		return nil, err
	}
	return r.Targets(ctx, name)
}

// Remembered is how many answers of well-known are kept.
func Remembered(r *Resolver) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.known)
}

// Failing is how many destinations are remembered because they failed.
func Failing(c *Client) int {
	c.backoff.mu.Lock()
	defer c.backoff.mu.Unlock()
	return len(c.backoff.failing)
}

// ParseWellKnown reads the body of a well-known file.
var ParseWellKnown = parseWellKnown
