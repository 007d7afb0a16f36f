// Package token holds the tokens that clients carry from one request to the next: where their next sync goes
// on, and where a page of a room's history begins. Clients take them for opaque text; only what this package
// has written is a token.
package token

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrSyntax is the answer to a text that is no token.
var ErrSyntax = errors.New("token: not a token of this server")

// Stream is how far a client has been told everything: next_batch of /sync.
type Stream struct {
	Pos    int64  // in the order of what is stored, 0 is the beginning
	Typing int64  // in the order of what is not stored, which means something only
	Boot   string // beside the process that gave it
}

// maxBoot bounds the boot id of a token.
const maxBoot = 64

// String writes the token.
func (s Stream) String() string {
	b := append(make([]byte, 0, 40), 's')
	b = append(strconv.AppendInt(b, s.Pos, 10), '_')
	b = append(strconv.AppendInt(b, s.Typing, 10), '_')
	return string(append(b, s.Boot...))
}

// ParseStream reads a token of String. Pos and Typing are not negative; Boot has letters and digits only.
func ParseStream(text string) (Stream, error) {
	rest, ok := strings.CutPrefix(text, "s")
	first, rest, ok2 := strings.Cut(rest, "_")
	second, boot, ok3 := strings.Cut(rest, "_")
	pos, ok4 := number(first)
	typing, ok5 := number(second)
	if !(ok && ok2 && ok3 && ok4 && ok5) || pos < 0 || typing < 0 || !plain(boot) {
		return Stream{}, fmt.Errorf("sync token: %w", ErrSyntax)
	}
	return Stream{pos, typing, boot}, nil
}

// History is a place between two events of a room's history: prev_batch of /sync, start and end of /messages.
type History struct {
	Ord int64 // backwards come the events with a smaller place than this, forwards those with this one and larger ones
	Pos int64 // what had arrived when the token was given
}

// String writes the token.
func (h History) String() string {
	b := append(make([]byte, 0, 32), 't')
	b = append(strconv.AppendInt(b, h.Ord, 10), '_')
	return string(strconv.AppendInt(b, h.Pos, 10))
}

// ParseHistory reads a token of String. Ord may be negative, as it is of backfilled events.
func ParseHistory(text string) (History, error) {
	rest, ok := strings.CutPrefix(text, "t")
	first, second, ok2 := strings.Cut(rest, "_")
	ord, ok3 := number(first)
	pos, ok4 := number(second)
	if !(ok && ok2 && ok3 && ok4) || pos < 0 {
		return History{}, fmt.Errorf("history token: %w", ErrSyntax)
	}
	return History{ord, pos}, nil
}

// number reads an integer as strconv writes it, so that a token has one form only.
func number(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == text
}

func plain(boot string) bool {
	for _, c := range []byte(boot) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return len(boot) <= maxBoot
}
