// Package token is the opaque strings by which clients name a place: in the stream of everything that /sync
// tells them, or in the history of one room that /messages pages through.
//
// Whatever Parse accepts is what String wrote: a token has one form.
package token

import (
	"errors"
	"strconv"
	"strings"
)

// ErrBad is the answer to a text that is no token of this server.
var ErrBad = errors.New("token: not a token of this server")

// maxPos bounds positions, so that a place computed from one cannot overflow.
const maxPos = 1 << 46

// maxOrd bounds places in a history likewise, in both directions.
const maxOrd = 1 << 62

// Stream is a next_batch: the position up to which a client has been told everything stored, and the number
// of the latest changes that are not stored, which mean something only beside the boot id of their process.
type Stream struct {
	Pos      int64
	Inbox    int64 // up to where messages to the device were told, while that is less than Pos; 0: up to Pos
	Typing   int64
	Presence int64  // 0: nothing was told of it
	Boot     string // letters and digits
}

// Messages is up to where messages to the device were told.
func (s Stream) Messages() int64 {
	if s.Inbox != 0 {
		return s.Inbox
	}
	return s.Pos
}

// String is "s" and three parts: the position and, unless it is 0, that of messages; the number of typing and, unless it
// is 0, that of presence; the boot id.
func (s Stream) String() string {
	b := append(make([]byte, 0, 64), 's')
	b = strconv.AppendInt(b, s.Pos, 10)
	if s.Inbox != 0 {
		b = strconv.AppendInt(append(b, '.'), s.Inbox, 10)
	}
	b = strconv.AppendInt(append(b, '_'), s.Typing, 10)
	if s.Presence != 0 {
		b = strconv.AppendInt(append(b, '.'), s.Presence, 10)
	}
	b = append(b, '_')
	return string(append(b, s.Boot...))
}

// ParseStream reads a next_batch.
func ParseStream(text string) (Stream, error) {
	parts := strings.Split(strings.TrimPrefix(text, "s"), "_")
	if len(parts) != 3 || !plain(parts[2]) {
		return Stream{}, ErrBad
	}
	s := Stream{Boot: parts[2]}
	err1 := parsePair(parts[0], &s.Pos, &s.Inbox)
	err2 := parsePair(parts[1], &s.Typing, &s.Presence)
	if err1 != nil || err2 != nil || s.Pos > maxPos || s.Inbox != 0 && s.Inbox >= s.Pos || s.String() != text {
		return Stream{}, ErrBad
	}
	return s, nil
}

// parsePair reads a number, and a second one behind a dot unless it is missing; none is negative.
func parsePair(text string, a, b *int64) (err error) {
	first, second, ok := strings.Cut(text, ".")
	if *a, err = strconv.ParseInt(first, 10, 64); err == nil && ok {
		*b, err = strconv.ParseInt(second, 10, 64)
	}
	if err == nil && (*a < 0 || *b < 0) {
		err = ErrBad
	}
	return err
}

func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}

// History is a prev_batch, or a start or end of a page: the place in a room's history just before what is
// at Ord. Backwards from it comes what is smaller, forwards what is at Ord or greater.
type History struct{ Ord int64 }

// String is "t" and the place.
func (h History) String() string {
	return string(strconv.AppendInt(append(make([]byte, 0, 24), 't'), h.Ord, 10))
}

// ParseHistory reads a token of a room's history.
func ParseHistory(text string) (History, error) {
	ord, err := strconv.ParseInt(strings.TrimPrefix(text, "t"), 10, 64)
	h := History{ord}
	if err != nil || ord > maxOrd || ord < -maxOrd || h.String() != text {
		return History{}, ErrBad
	}
	return h, nil
}
