package canonjson

import (
	"bytes"
	"slices"
	"unicode/utf8"
)

// sort brings the members of the innermost object, from first on, into order, here and in the output.
func (w *writer) sort(first int) error {
	w.flushBeforeBrace()
	members := w.members.from(first)
	begin := members[0].from
	slices.SortStableFunc(members, w.compare)
	for i := 1; i < len(members) && !w.loose; i++ {
		if w.compare(members[i-1], members[i]) == 0 {
			return w.fail(ErrDuplicateKey, "")
		}
	}
	if !w.discard {
		w.permute(members, w.out[w.base+int(begin):])
	}
	return nil
}

// flushBeforeBrace moves everything but the brace that was just read into the output.
func (w *writer) flushBeforeBrace() {
	w.pos--
	w.flush()
	w.pos++
}

// permute writes the members into region, where they stand in another order.
func (w *writer) permute(members []member, region []byte) {
	var buf [2048]byte // most objects fit: no allocation
	old := append(buf[:0], region...)
	begin := len(w.out) - w.base - len(region)
	to := region[:0]
	for i, m := range members {
		if i > 0 {
			to = append(to, ',')
		}
		to = append(to, old[int(m.from)-begin:int(m.to)-begin]...)
	}
}

// compare orders two members by their keys.
func (w *writer) compare(a, b member) int {
	x, y := w.data[a.keyFrom:a.keyTo], w.data[b.keyFrom:b.keyTo]
	if !a.escaped && !b.escaped {
		return bytes.Compare(x, y) // the order of UTF-8 is the order of code points
	}
	return compareText(x, y)
}

// Compare orders two keys, as they are written between their quotes, as canonical JSON sorts them.
func Compare(a, b []byte) int {
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return bytes.Compare(a, b)
	}
	return compareText(a, b)
}

func compareText(a, b []byte) int {
	var bufA, bufB [128]byte
	return bytes.Compare(appendUnescaped(bufA[:0], a), appendUnescaped(bufB[:0], b))
}

// appendUnescaped appends the text of a valid string that is given without its quotes.
func appendUnescaped(dst, s []byte) []byte {
	for len(s) > 0 {
		i := bytes.IndexByte(s, '\\')
		if i < 0 {
			return append(dst, s...)
		}
		dst = append(dst, s[:i]...)
		r, n := unescape(s[i:])
		if n == 0 {
			return dst
		}
		dst = utf8.AppendRune(dst, r)
		s = s[i+n:]
	}
	return dst
}
