package canonjson

import (
	"bytes"
	"unicode/utf8"
)

// Members walks the members of an object that is known to be canonical JSON. It is much faster
// than a general parser because it trusts its input: on anything else it may stop early
// (Whole tells) or give nonsense, but it does not panic.
type Members struct {
	data []byte
	pos  int
	end  int
	done bool
}

// Open begins a walk. A value that is not an object has no members.
func Open(object []byte) Members {
	if len(object) < 2 || object[0] != '{' {
		return Members{}
	}
	return Members{data: object, pos: 1}
}

// Next returns the next key, as it is written between its quotes, and its value.
func (m *Members) Next() (key, value []byte, ok bool) {
	if m.pos >= len(m.data) || m.data[m.pos] != '"' {
		m.done = m.pos == len(m.data)-1 && m.data[m.pos] == '}'
		return nil, nil, false
	}
	end := skipString(m.data, m.pos)
	if end >= len(m.data) || m.data[end] != ':' {
		return nil, nil, false
	}
	key = m.data[m.pos+1 : end-1]
	from := end + 1
	to := skip(m.data, from)
	if to == from || to >= len(m.data) {
		return nil, nil, false
	}
	value = m.data[from:to:to]
	m.pos, m.end = to, to
	if m.data[to] == ',' {
		m.pos++
	}
	return key, value, true
}

// Whole reports, after Next has returned false, whether the walk ended at the object's end.
func (m *Members) Whole() bool { return m.done }

// Get returns the value at a path of keys in canonical JSON, or nil.
func Get(object []byte, path ...string) []byte {
	for _, key := range path {
		if object = get(object, key); object == nil {
			return nil
		}
	}
	return object
}

func get(object []byte, key string) []byte {
	var buf [64]byte
	quoted := AppendString(buf[:0], key)
	want := quoted[1 : len(quoted)-1]
	m := Open(object)
	for {
		k, value, ok := m.Next()
		if !ok {
			return nil
		}
		if bytes.Equal(k, want) {
			return value
		}
	}
}

// End is the offset at which the last value ended.
func (m *Members) End() int { return m.end }

// Elements walks the elements of an array that is known to be canonical JSON; see Members.
type Elements struct {
	data []byte
	pos  int
	done bool
}

// OpenArray begins a walk. A value that is not an array has no elements.
func OpenArray(array []byte) Elements {
	if len(array) < 2 || array[0] != '[' {
		return Elements{}
	}
	return Elements{data: array, pos: 1}
}

// Next returns the next element.
func (e *Elements) Next() (value []byte, ok bool) {
	to := skip(e.data, e.pos)
	if to == e.pos || to >= len(e.data) {
		e.done = e.pos == len(e.data)-1 && e.data[e.pos] == ']'
		return nil, false
	}
	value = e.data[e.pos:to:to]
	e.pos = to
	if e.data[to] == ',' {
		e.pos++
	}
	return value, true
}

// Whole reports, after Next has returned false, whether the walk ended at the array's end.
func (e *Elements) Whole() bool { return e.done }

// IsString reports whether canonical JSON is a string, by its first byte; IsObject and IsArray are alike.
func IsString(value []byte) bool { return len(value) >= 2 && value[0] == '"' }

// IsObject reports whether canonical JSON is an object.
func IsObject(value []byte) bool { return len(value) >= 2 && value[0] == '{' }

// IsArray reports whether canonical JSON is an array.
func IsArray(value []byte) bool { return len(value) >= 2 && value[0] == '[' }

// String returns the text of a canonical string, or false when the value is something else.
func String(value []byte) (string, bool) {
	if !IsString(value) {
		return "", false
	}
	body := value[1 : len(value)-1]
	if bytes.IndexByte(body, '\\') < 0 {
		return string(body), true
	}
	return string(appendUnescaped(nil, body)), true
}

// AppendText appends the text of a canonical string to dst, or returns false when the value is something else.
func AppendText(dst, value []byte) ([]byte, bool) {
	if !IsString(value) {
		return dst, false
	}
	return appendUnescaped(dst, value[1:len(value)-1]), true
}

// Int returns a canonical integer that fits in 64 bits, or false when the value is something else.
func Int(value []byte) (int64, bool) {
	digits := value
	negative := len(digits) > 0 && digits[0] == '-'
	if negative {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range digits {
		if c -= '0'; c > 9 {
			return 0, false
		}
		n = n*10 + uint64(c)
	}
	if n > 1<<63-1 {
		return 0, false
	}
	if negative {
		return -int64(n), true
	}
	return int64(n), true
}

// AppendString appends s as a canonical string with its quotes. Bytes that are no UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		dst = append(dst, s[from:i]...)
		dst = appendRune(dst, r)
		i += n
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// skip returns where the value that begins at i ends; i itself when there is none.
func skip(data []byte, i int) int {
	if i >= len(data) {
		return i
	}
	switch data[i] {
	case '"':
		return skipString(data, i)
	case '{', '[':
		return skipNested(data, i)
	}
	for i < len(data) && data[i] != ',' && data[i] != '}' && data[i] != ']' {
		i++
	}
	return i
}

func skipNested(data []byte, i int) int {
	depth := 0
	for i < len(data) {
		switch data[i] {
		case '"':
			i = skipString(data, i)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
	return i
}

// skipString returns what follows the closing quote, or len(data) when there is none.
func skipString(data []byte, i int) int {
	for i = plain(data, i+1); i < len(data); i = plain(data, i) {
		if data[i] == '"' {
			return i + 1
		}
		i += 2 // a backslash and what it escapes
	}
	return len(data)
}
