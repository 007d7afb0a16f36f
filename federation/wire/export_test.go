package wire

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
