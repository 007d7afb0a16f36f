package federation

import (
	"errors"
	"fmt"
	"io"

	"github.com/embedmatrix/homeserver/internal/mxerr"
)

var (
	errCut     = errors.New("it is no JSON")
	errTooLong = mxerr.TooLarge.WithStatus(502).With("a part of the answer is too large")
)

// cutter cuts JSON that comes in into its values. It does not look into them, for each is looked at by who gets it, and
// what is no JSON may be cut anywhere. It holds no more than one value.
type cutter struct {
	from io.Reader
	max  int    // bytes of a value; a longer one is an error that is mxerr.TooLarge
	rest []byte // what was read and not yet taken
	room []byte // what rest is part of
}

const cutterRoom = 32 << 10 // bytes, and more for a value that needs it

// more reads on; io.ErrUnexpectedEOF when nothing follows.
func (c *cutter) more() error {
	if len(c.rest) == 0 {
		c.rest = c.room[:0]
	}
	if len(c.rest) == cap(c.rest) {
		if len(c.rest) >= len(c.room)/2 {
			c.room = make([]byte, max(cutterRoom, 2*len(c.room)))
		}
		c.rest = c.room[:copy(c.room, c.rest)]
	}
	for range 100 {
		n, err := c.from.Read(c.rest[len(c.rest):cap(c.rest)])
		c.rest = c.rest[:len(c.rest)+n]
		switch {
		case n > 0:
			return nil
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// next returns the first byte that is no space, and leaves it there.
func (c *cutter) next() (byte, error) {
	for skipped := 0; ; {
		for i, b := range c.rest {
			if b != ' ' && b != '\t' && b != '\n' && b != '\r' {
				c.rest = c.rest[i:]
				return b, nil
			}
		}
		if skipped += len(c.rest); skipped > c.max {
			return 0, errTooLong
		}
		c.rest = c.rest[:0]
		if err := c.more(); err != nil {
			return 0, err
		}
	}
}

// take takes one of some bytes and returns which.
func (c *cutter) take(any string) (byte, error) {
	b, err := c.next()
	if err != nil {
		return 0, err
	}
	for i := range len(any) {
		if any[i] == b {
			c.rest = c.rest[1:]
			return b, nil
		}
	}
	return 0, fmt.Errorf("%w: %q instead of one of %q", errCut, b, any)
}

// value takes a value and returns it, until the next call.
func (c *cutter) value() ([]byte, error) {
	first, err := c.next()
	if err != nil {
		return nil, err
	}
	scan := inside{bare: first != '{' && first != '[' && first != '"'}
	for at := 0; ; {
		n, ended := scan.over(c.rest[at:])
		if at += n; at > c.max {
			return nil, errTooLong
		}
		if ended && at == 0 {
			return nil, fmt.Errorf("%w: %q instead of a value", errCut, first)
		}
		if ended {
			value := c.rest[:at:at]
			c.rest = c.rest[at:]
			return value, nil
		}
		if err := c.more(); err != nil {
			return nil, err
		}
	}
}

// inside is where in a value a cutter is.
type inside struct {
	bare    bool // in a number, true, false or null, which end where something else begins
	text    bool // in a string
	escaped bool // behind a backslash
	depth   int  // of objects and lists
}

// over goes over bytes and returns how many of them belong to the value, and whether it has ended.
func (s *inside) over(part []byte) (n int, ended bool) {
	for i, b := range part {
		switch {
		case s.bare:
			switch b {
			case ',', ']', '}', ':', ' ', '\t', '\n', '\r':
				return i, true
			}
		case s.escaped:
			s.escaped = false
		case s.text:
			s.escaped, s.text = b == '\\', b != '"'
		case b == '"':
			s.text = true
		case b == '{' || b == '[':
			s.depth++
		case b == '}' || b == ']':
			s.depth--
		}
		if s.depth == 0 && !s.text && !s.bare {
			return i + 1, true
		}
	}
	return len(part), false
}
