// Package canonjson checks JSON strictly and writes it in the canonical form that is signed and hashed.
//
// It refuses what two parsers may read differently: keys that occur twice, bytes that are no
// UTF-8, halves of surrogate pairs, nesting deeper than MaxDepth. Numbers are strict (Check,
// AppendStrict; room version 6 and later) or free (CheckLenient, Append).
//
// Spec: https://spec.matrix.org/latest/appendices/#canonical-json
package canonjson

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxDepth is how many objects and arrays may stand inside each other.
const MaxDepth = 100

// MaxInteger is the largest integer of canonical JSON, and -MaxInteger the smallest.
const MaxInteger = 1<<53 - 1

// looseDepth is MaxDepth of AppendLoose: as deep as 64 KiB can be nested, the size of an event.
const looseDepth = 1 << 15

// maxInput bounds the input so that offsets fit in 32 bits.
const maxInput = 1 << 28

// What may be wrong with JSON. Errors of this package wrap exactly one of these.
var (
	ErrSyntax       = errors.New("not JSON")
	ErrNumber       = errors.New("a number that canonical JSON does not allow")
	ErrDuplicateKey = errors.New("a key occurs twice")
	ErrDepth        = fmt.Errorf("nested deeper than %d levels", MaxDepth)
)

// Check reports whether data is one JSON value that has a canonical form under the strict rules:
// numbers are integers within ±MaxInteger, without fraction or exponent, and never -0.
func Check(data []byte) error {
	w := writer{data: data, strict: true, discard: true}
	return w.run()
}

// CheckLenient is Check with free numbers: for API bodies and for rooms of versions 1 to 5.
func CheckLenient(data []byte) error {
	w := writer{data: data, discard: true}
	return w.run()
}

// Append appends the canonical form of data, which must be one JSON value, to dst.
// Numbers that strict rules would refuse stay as they are, byte for byte, so that hashes of old
// events hold; only -0 becomes 0 and an integer like 1e10 is written out, as the specification's
// examples have it. On an error dst is returned unchanged.
func Append(dst, data []byte) ([]byte, error) {
	return appendCanonical(dst, data, false)
}

// AppendStrict is Append that refuses what Check refuses.
func AppendStrict(dst, data []byte) ([]byte, error) {
	return appendCanonical(dst, data, true)
}

// AppendLoose is Append for what somebody else has signed as a whole and that is taken apart before any of it is
// believed. It lets pass what Append refuses but for ErrSyntax: nesting up to 32,768 levels; keys that occur twice, in
// their order; bytes that are no UTF-8, and escaped halves of surrogate pairs, as they stand.
func AppendLoose(dst, data []byte) ([]byte, error) {
	w := writer{data: data, loose: true, out: dst, base: len(dst)}
	if err := w.run(); err != nil {
		return dst, err
	}
	return w.out, nil
}

// AppendCompact appends data without the white space between its tokens; all else stays as it stands. It takes what
// AppendLoose takes, and Members and Elements walk what it makes, but for keys and strings with escapes that canonical
// JSON would not have.
func AppendCompact(dst, data []byte) ([]byte, error) {
	w := writer{data: data, loose: true, verbatim: true, out: dst, base: len(dst)}
	if err := w.run(); err != nil {
		return dst, err
	}
	return w.out, nil
}

func appendCanonical(dst, data []byte, strict bool) ([]byte, error) {
	w := writer{data: data, strict: strict, out: dst, base: len(dst)}
	if err := w.run(); err != nil {
		return dst, err
	}
	return w.out, nil
}

// writer reads data once. What is canonical already is not touched: it stays pending, and is
// copied in one piece when something before or behind it has to change.
type writer struct {
	data    []byte
	pos     int // next byte to read
	flushed int // data[flushed:pos] is canonical and not yet in out
	strict  bool
	discard bool // only check

	loose    bool // see AppendLoose
	verbatim bool // see AppendCompact

	out  []byte
	base int // where our output begins in out

	members memberStack // of all objects that are open, outermost first
}

// memberStack keeps the first members inside itself, so that most documents need no allocation.
type memberStack struct {
	few  [48]member
	many []member // all of them, once they are more
	n    int
}

func (s *memberStack) push(m member) {
	switch {
	case s.many == nil && s.n < len(s.few):
		s.few[s.n] = m
	case s.many == nil:
		s.many = append(append(make([]member, 0, 4*s.n), s.few[:]...), m)
	default:
		s.many = append(s.many[:s.n], m)
	}
	s.n++
}

// from returns the members from the i-th on; they are valid until the next push.
func (s *memberStack) from(i int) []member {
	if s.many != nil {
		return s.many[i:s.n]
	}
	return s.few[i:s.n]
}

// member is one key and value of an object.
type member struct {
	keyFrom, keyTo uint32 // in data, between the quotes
	from, to       uint32 // in the output, from the key's quote to the end of the value
	escaped        bool   // the key contains a backslash
}

func (w *writer) run() error {
	if len(w.data) > maxInput {
		return w.fail(ErrSyntax, "too long")
	}
	if !w.loose && !utf8.Valid(w.data) {
		return w.fail(ErrSyntax, "invalid UTF-8")
	}
	w.space()
	if err := w.value(0); err != nil {
		return err
	}
	w.space()
	if w.pos != len(w.data) {
		return w.fail(ErrSyntax, "something follows the value")
	}
	w.flush()
	return nil
}

func (w *writer) value(depth int) error {
	if w.pos >= len(w.data) {
		return w.fail(ErrSyntax, "unexpected end")
	}
	switch w.data[w.pos] {
	case '"':
		_, err := w.text()
		return err
	case '{':
		return w.object(depth + 1)
	case '[':
		return w.array(depth + 1)
	case 't':
		return w.literal("true")
	case 'f':
		return w.literal("false")
	case 'n':
		return w.literal("null")
	}
	return w.number()
}

func (w *writer) tooDeep(depth int) bool {
	return depth > looseDepth || depth > MaxDepth && !w.loose
}

func (w *writer) literal(s string) error {
	if len(w.data)-w.pos < len(s) || string(w.data[w.pos:w.pos+len(s)]) != s {
		return w.fail(ErrSyntax, "unknown word")
	}
	w.pos += len(s)
	return nil
}

func (w *writer) array(depth int) error {
	if w.tooDeep(depth) {
		return w.fail(ErrDepth, "")
	}
	w.pos++
	w.space()
	if w.take(']') {
		return nil
	}
	for {
		if err := w.value(depth); err != nil {
			return err
		}
		w.space()
		if w.take(']') {
			return nil
		}
		if !w.take(',') {
			return w.fail(ErrSyntax, "want , or ]")
		}
		w.space()
	}
}

func (w *writer) object(depth int) error {
	if w.tooDeep(depth) {
		return w.fail(ErrDepth, "")
	}
	w.pos++
	w.space()
	if w.take('}') {
		return nil
	}
	first, sorted := w.members.n, true
	for {
		if err := w.key(first, &sorted); err != nil {
			return err
		}
		i := w.members.n - 1
		if err := w.value(depth); err != nil {
			return err
		}
		w.members.from(i)[0].to = w.at()
		w.space()
		if w.take('}') {
			break
		}
		if !w.take(',') {
			return w.fail(ErrSyntax, "want , or }")
		}
		w.space()
	}
	var err error
	if !sorted && !w.verbatim {
		err = w.sort(first)
	}
	w.members.n = first
	return err
}

// key reads a key with its colon and opens a member. It clears sorted when the key should have come earlier.
func (w *writer) key(first int, sorted *bool) error {
	if w.pos >= len(w.data) || w.data[w.pos] != '"' {
		return w.fail(ErrSyntax, "want a key")
	}
	m := member{keyFrom: uint32(w.pos + 1), from: w.at()}
	var err error
	if m.escaped, err = w.text(); err != nil {
		return err
	}
	m.keyTo = uint32(w.pos - 1)
	if n := w.members.n; n > first {
		order := w.compare(w.members.from(n - 1)[0], m)
		if order == 0 && !w.loose {
			return w.fail(ErrDuplicateKey, "")
		}
		*sorted = *sorted && order <= 0
	}
	w.members.push(m)
	w.space()
	if !w.take(':') {
		return w.fail(ErrSyntax, "want :")
	}
	w.space()
	return nil
}

// space skips white space, which canonical JSON has none of.
func (w *writer) space() {
	if w.pos < len(w.data) && w.data[w.pos] <= ' ' {
		w.skipSpace()
	}
}

func (w *writer) skipSpace() {
	w.flush()
	for w.pos < len(w.data) {
		switch w.data[w.pos] {
		case ' ', '\t', '\n', '\r':
			w.pos++
		default:
			w.flushed = w.pos
			return
		}
	}
	w.flushed = w.pos
}

func (w *writer) take(c byte) bool {
	if w.pos < len(w.data) && w.data[w.pos] == c {
		w.pos++
		return true
	}
	return false
}

// at is where the next byte will stand in the output, counted from its beginning.
func (w *writer) at() uint32 {
	return uint32(len(w.out) - w.base + w.pos - w.flushed)
}

// flush moves what is pending into the output.
func (w *writer) flush() {
	if w.flushed < w.pos {
		w.write(w.data[w.flushed:w.pos])
		w.flushed = w.pos
	}
}

// write puts b, which replaces something of the input, behind what was flushed.
func (w *writer) write(b []byte) {
	if w.discard {
		return
	}
	if need := len(w.data) - w.flushed; cap(w.out)-len(w.out) < need {
		w.out = append(make([]byte, 0, len(w.out)+max(need, len(b))), w.out...)
	}
	w.out = append(w.out, b...)
}

func (w *writer) fail(err error, detail string) error {
	if detail == "" {
		return fmt.Errorf("canonjson: %w at byte %d", err, w.pos)
	}
	return fmt.Errorf("canonjson: %w: %s at byte %d", err, detail, w.pos)
}
