package canonjson

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// plain skips the bytes of a string that stand for themselves, from i on. The input is known to be
// UTF-8, so these are all but control characters, the quote and the backslash.
func plain(data []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(data); i += 8 { // eight bytes at a time
		v := binary.LittleEndian.Uint64(data[i:])
		quote, backslash := v^(ones*'"'), v^(ones*'\\')
		// A byte is zero, or below a space, if subtracting borrows into its highest bit.
		special := ((v-ones*' ')&^v | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
		if special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for i < len(data) && data[i] >= ' ' && data[i] != '"' && data[i] != '\\' {
		i++
	}
	return i
}

// text reads a string, from quote to quote, and reports whether it has a backslash.
func (w *writer) text() (escaped bool, err error) {
	w.pos++
	for {
		w.pos = plain(w.data, w.pos)
		if w.pos >= len(w.data) {
			return false, w.fail(ErrSyntax, "string without end")
		}
		switch w.data[w.pos] {
		case '"':
			w.pos++
			return escaped, nil
		case '\\':
			escaped = true
			if err := w.escape(); err != nil {
				return false, err
			}
		default:
			return false, w.fail(ErrSyntax, "control character in a string")
		}
	}
}

// escape reads one escape sequence and replaces it when it is not the shortest form.
func (w *writer) escape() error {
	r, n := unescape(w.data[w.pos:])
	if n == 0 && w.loose && hex4(w.data[w.pos:]) >= 0 {
		w.pos += 6 // half of a surrogate pair
		return nil
	}
	if n == 0 {
		return w.fail(ErrSyntax, "bad escape")
	}
	var buf [8]byte
	want := appendRune(buf[:0], r)
	if w.verbatim || string(want) == string(w.data[w.pos:w.pos+n]) {
		w.pos += n
		return nil
	}
	w.flush()
	w.write(want)
	w.pos += n
	w.flushed = w.pos
	return nil
}

// unescape reads the escape sequence at the beginning of b and its length, which is 0 when it
// is not valid. Half of a surrogate pair is not.
func unescape(b []byte) (r rune, n int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		return unescapeUnicode(b)
	}
	return 0, 0
}

func unescapeUnicode(b []byte) (r rune, n int) {
	r = hex4(b)
	if r < 0 {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	r = utf16.DecodeRune(r, hex4(b[6:]))
	if r == utf8.RuneError {
		return 0, 0
	}
	return r, 12
}

// hex4 reads \uXXXX, or returns -1.
func hex4(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// appendRune writes r as it stands in a canonical string.
func appendRune(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	if r < ' ' {
		const hex = "0123456789abcdef"
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
	return utf8.AppendRune(dst, r)
}

// number reads a number by the grammar of JSON.
func (w *writer) number() error {
	from := w.pos
	w.take('-')
	whole := w.digits()
	if whole == 0 || whole > 1 && w.data[w.pos-whole] == '0' {
		return w.fail(ErrSyntax, "unexpected character")
	}
	integer := w.data[from:w.pos]
	fraction, exponent := false, false
	if w.take('.') {
		if fraction = true; w.digits() == 0 {
			return w.fail(ErrSyntax, "number without fraction")
		}
	}
	if w.take('e') || w.take('E') {
		if exponent = true; !w.take('+') {
			w.take('-')
		}
		if w.digits() == 0 {
			return w.fail(ErrSyntax, "number without exponent")
		}
	}
	if w.strict && (fraction || exponent || !safe(integer)) {
		w.pos = from
		return w.fail(ErrNumber, "")
	}
	if !w.verbatim && (integer[0] == '-' && integer[1] == '0' && !fraction || exponent && !fraction) {
		w.rewrite(from)
	}
	return nil
}

func (w *writer) digits() int {
	from := w.pos
	for w.pos < len(w.data) && w.data[w.pos]-'0' <= 9 {
		w.pos++
	}
	return w.pos - from
}

// rewrite writes -0 and integers with an exponent, which end at pos, as plain integers.
// One that is not within ±MaxInteger stays as it is.
func (w *writer) rewrite(from int) {
	number := string(w.data[from:w.pos])
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < -MaxInteger || f > MaxInteger || f != float64(int64(f)) {
		return
	}
	to := w.pos
	w.pos = from
	w.flush()
	w.write(strconv.AppendInt(nil, int64(f), 10))
	w.pos, w.flushed = to, to
}

// safe reports whether an integer is within ±MaxInteger and not -0.
func safe(integer []byte) bool {
	digits := integer
	if digits[0] == '-' {
		digits = digits[1:]
		if digits[0] == '0' {
			return false
		}
	}
	if len(digits) < 16 {
		return true
	}
	return len(digits) == 16 && string(digits) <= "9007199254740991"
}
