package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
)

const (
	paceWindow = 30 * time.Second // of waiting for an answer, in which at least paceBytes must come
	paceBytes  = 16 << 10
)

// exchange is one request and its answer.
type exchange struct {
	c     *Client
	r     Request
	req   *http.Request
	start time.Time

	ctx    context.Context // ends with the caller's, with timer and with the Client
	cancel context.CancelCauseFunc
	timer  *time.Timer // cancels with ErrTooSlow
	stop   func() bool // no longer ends with the Client
}

// begin makes an exchange, of which nothing is sent yet, and starts its time-out. An error is no fault of the
// destination.
func (c *Client) begin(ctx context.Context, r Request) (*exchange, error) {
	if err := c.admit(r); err != nil {
		return nil, r.wrap(err)
	}
	req, err := c.build(r)
	if err != nil {
		return nil, r.wrap(err)
	}
	timeout := r.Timeout
	if timeout == 0 {
		timeout = c.cfg.Timeout
	}
	e := &exchange{c: c, r: r, start: c.cfg.Now()}
	e.ctx, e.cancel = context.WithCancelCause(ctx)
	e.timer = time.AfterFunc(timeout, func() { e.cancel(ErrTooSlow) })
	e.stop = context.AfterFunc(c.closing, func() { e.cancel(ErrClosed) })
	e.req = req.WithContext(e.ctx)
	return e, nil
}

// end frees what begin has started.
func (e *exchange) end() {
	e.timer.Stop()
	e.stop()
	e.cancel(nil)
}

// whole sends the request and reads the answer.
func (e *exchange) whole() (Answer, error) {
	s, err := e.send()
	if err != nil {
		return Answer{}, err
	}
	defer s.Body.Close()
	body, err := io.ReadAll(s.Body)
	if err != nil {
		return Answer{}, err
	}
	if e.r.Loose {
		return Answer{s.Status, s.Header, body}, nil
	}
	if err := canonjson.CheckLenient(body); err != nil {
		return Answer{}, errAnswer{err}
	}
	return Answer{s.Status, s.Header, body}, nil
}

// send sends the request and returns the answer when its status is 2xx. Closing its body ends the exchange.
func (e *exchange) send() (*Stream, error) {
	if err := e.c.address(e.req, e.r.Destination); err != nil {
		return nil, e.cause(err)
	}
	resp, err := e.c.transport.RoundTrip(e.req)
	if err != nil {
		return nil, e.cause(err)
	}
	b := &body{of: resp.Body, e: e, left: e.r.MaxAnswer}
	b.timer = time.AfterFunc(paceWindow, func() { e.cancel(ErrTooSlow) })
	b.timer.Stop()
	if resp.StatusCode/100 != 2 {
		defer b.Close()
		return nil, readError(e.r.Destination, resp, b)
	}
	return &Stream{resp.StatusCode, resp.Header, b}, nil
}

// cause is why the exchange was ended, if it was, or else err.
func (e *exchange) cause(err error) error {
	if e.c.closing.Err() != nil {
		return ErrClosed
	}
	if cause := context.Cause(e.ctx); cause != nil {
		return cause
	}
	return err
}

// judge notes what the end of an exchange says about the destination, and names the request in the error.
func (e *exchange) judge(err error) error {
	var refused *Error
	switch {
	case err == nil:
		e.c.Alive(e.r.Destination)
		return nil
	case errors.As(err, &refused) && !refused.overloaded():
		e.c.Alive(e.r.Destination)
	case refused != nil:
		e.failed(err, refused.RetryAfter)
	case !neutral(err):
		e.failed(err, 0)
	}
	return e.r.wrap(err)
}

func (e *exchange) failed(err error, pause time.Duration) {
	until := e.c.backoff.failed(e.r.Destination, e.start, pause)
	e.c.cfg.Log.Debug("a server fails", "server", e.r.Destination, "until", until, "error", err)
}

// neutral reports whether an error says nothing about whether the destination is there.
func neutral(err error) bool {
	var bad errAnswer
	return errors.As(err, &bad) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrClosed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, errBusy)
}

// errAnswer is an answer that is no JSON.
type errAnswer struct{ err error }

func (e errAnswer) Error() string { return fmt.Sprintf("the answer: %s", e.err) }
func (e errAnswer) Unwrap() error { return e.err }

// body is the bounded body of an answer. Only time spent waiting for the peer counts, not time in which nobody reads.
type body struct {
	of    io.ReadCloser
	e     *exchange
	left  int64
	err   error       // what the last Read gave
	timer *time.Timer // runs while a Read waits

	waited time.Duration // since came was 0
	came   int
}

// Read reads at most one byte more than may come.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.left < int64(len(p)) {
		p = p[:b.left+1]
	}
	n, err := b.paced(p)
	if err != nil { // EOF too: what was cut off must not look whole
		err = b.e.cause(err)
	}
	if int64(n) > b.left {
		n, err = int(b.left), ErrTooLarge
	}
	b.left -= int64(n)
	b.err = err
	return n, err
}

// paced reads, unless too little has come in the whole window.
func (b *body) paced(p []byte) (int, error) {
	begun := time.Now()
	b.timer.Reset(paceWindow - b.waited)
	n, err := b.of.Read(p)
	b.timer.Stop()
	b.waited += time.Since(begun)
	if b.came += n; b.came >= paceBytes {
		b.waited, b.came = 0, 0
	}
	return n, err
}

// Close ends the exchange, so that nothing of an answer that was not read to its end keeps coming.
func (b *body) Close() error {
	err := b.of.Close()
	b.e.end()
	return err
}
