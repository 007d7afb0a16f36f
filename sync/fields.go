package syncing

import (
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
)

// fields is the parts of an event that a client wants: keys as they are written in canonical JSON, each with the
// parts of its value, nil for the whole. A nil fields is everything.
type fields map[string]fields

// compileFields reads the paths of event_fields; nil is no list.
//
// Spec: https://spec.matrix.org/latest/appendices/#dot-separated-property-paths
func compileFields(paths []string) fields {
	if paths == nil {
		return nil
	}
	f := fields{}
	for _, path := range paths {
		f.add(splitPath(path))
	}
	return f
}

func (f fields) add(path []string) {
	for i, name := range path {
		quoted := canonjson.AppendString(nil, name)
		key := string(quoted[1 : len(quoted)-1])
		next, known := f[key]
		switch {
		case known && next == nil: // the whole of it is wanted already
			return
		case i == len(path)-1:
			f[key] = nil
			return
		case !known:
			next = fields{}
			f[key] = next
		}
		f = next
	}
}

// splitPath cuts a path at its dots. "Any literal dot or backslash found in a property name should be escaped
// with a backslash. … Other escape sequences are left as-is."
func splitPath(path string) []string {
	var names []string
	var name strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			name.WriteByte(path[i])
		case c == '.':
			names = append(names, name.String())
			name.Reset()
		default:
			name.WriteByte(c)
		}
	}
	return append(names, name.String())
}

// append appends those parts of an object that are wanted. The object is written as canonical JSON is, though
// its keys may be in any order.
func (f fields) append(dst, object []byte) []byte {
	dst = append(dst, '{')
	for members := canonjson.Open(object); ; {
		key, value, ok := members.Next()
		if !ok {
			return append(dst, '}')
		}
		part, wanted := f[string(key)]
		if !wanted || part != nil && !canonjson.IsObject(value) {
			continue
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), key...), '"', ':')
		if part == nil {
			dst = append(dst, value...)
			continue
		}
		dst = part.append(dst, value)
	}
}
