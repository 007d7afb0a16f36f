package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// maxValues is how many wildcards a pattern may have.
const maxValues = 6

// node is a position between two segments of a path. A literal segment wins over a wildcard;
// when it leads nowhere, the wildcard is tried.
type node struct {
	literal   map[string]*node
	wildcard  *node
	endpoints []*endpoint // of the paths that end here, one for each method
}

// endpoint is one pattern of a route.
type endpoint struct {
	method string
	path   string
	names  []string // of the wildcards, in their order in the path
	route  *Route
}

// add puts a pattern of r into the tree. A pattern that is there already belongs to another route: a mistake
// in the program, hence the panic.
func (n *node) add(p pattern, r *Route) {
	e := &endpoint{method: p.method, path: p.path, route: r}
	path, slashOptional := strings.CutSuffix(p.path, "/{$}")
	at := n
	for segment := range strings.SplitSeq(path[1:], "/") {
		if name, ok := wildcard(segment); ok {
			e.names = append(e.names, name)
			at = at.wild()
		} else {
			at = at.child(segment)
		}
	}
	if len(e.names) > maxValues {
		panic(fmt.Sprintf("httpapi: more than %d wildcards in %s", maxValues, p.path))
	}
	at.end(e)
	if slashOptional {
		at.child("").end(e)
	}
}

func wildcard(segment string) (name string, ok bool) {
	if !strings.HasPrefix(segment, "{") || !strings.HasSuffix(segment, "}") {
		return "", false
	}
	return segment[1 : len(segment)-1], true
}

func (n *node) wild() *node {
	if n.wildcard == nil {
		n.wildcard = &node{}
	}
	return n.wildcard
}

func (n *node) child(segment string) *node {
	if n.literal == nil {
		n.literal = map[string]*node{}
	}
	if n.literal[segment] == nil {
		n.literal[segment] = &node{}
	}
	return n.literal[segment]
}

func (n *node) end(e *endpoint) {
	if old := n.endpoint(e.method); old != nil {
		if old.route == e.route {
			return
		}
		panic(fmt.Sprintf("httpapi: %s %s is the same as %s of %s", e.method, e.path, old.path, old.route.Name))
	}
	n.endpoints = append(n.endpoints, e)
}

func (n *node) endpoint(method string) *endpoint {
	for _, e := range n.endpoints {
		if e.method == method {
			return e
		}
	}
	return nil
}

// lookup is one search in the tree and what it found.
type lookup struct {
	method  string
	escaped bool // the path has its percent signs still

	endpoint *endpoint
	values   [maxValues]string
	n        int
	allow    []string // the methods of the path when there is none for this one
}

// find walks from n along path, which is "" or begins with a slash.
func (l *lookup) find(n *node, path string) bool {
	if path == "" {
		return l.arrive(n)
	}
	segment, rest := cutSegment(path)
	if l.escaped && strings.IndexByte(segment, '%') >= 0 {
		if decoded, err := url.PathUnescape(segment); err == nil {
			segment = decoded
		}
	}
	if next := n.literal[segment]; next != nil && l.find(next, rest) {
		return true
	}
	if n.wildcard == nil || segment == "" || l.n == maxValues {
		return false
	}
	l.values[l.n] = segment
	l.n++
	if l.find(n.wildcard, rest) {
		return true
	}
	l.n--
	return false
}

func cutSegment(path string) (segment, rest string) {
	path = path[1:]
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}

// arrive takes the endpoint of n for the method; HEAD is served by GET.
func (l *lookup) arrive(n *node) bool {
	e := n.endpoint(l.method)
	if e == nil && l.method == http.MethodHead {
		e = n.endpoint(http.MethodGet)
	}
	if e != nil {
		l.endpoint = e
		return true
	}
	for _, other := range n.endpoints {
		if !slices.Contains(l.allow, other.method) {
			l.allow = append(l.allow, other.method)
		}
	}
	return false
}

// routePath returns the path to route on and whether it is still escaped.
//
// net/url keeps RawPath only where decoding lost something, such as a %2F that is no separator. Without it
// Path can be split as it is. A RawPath that no longer belongs to Path, because the host's middleware
// changed only one of them, is ignored as net/url does.
func routePath(u *url.URL) (path string, escaped bool) {
	if u.RawPath != "" && decodesTo(u.RawPath, u.Path) {
		return u.RawPath, true
	}
	return u.Path, false
}

// decodesTo reports whether raw, percent-decoded, is path. It does not allocate.
func decodesTo(raw, path string) bool {
	i := 0
	for j := 0; j < len(raw); i, j = i+1, j+1 {
		b := raw[j]
		if b == '%' {
			if j+2 >= len(raw) {
				return false
			}
			hi, lo := unhex(raw[j+1]), unhex(raw[j+2])
			if hi < 0 || lo < 0 {
				return false
			}
			b = byte(hi<<4 | lo)
			j += 2
		}
		if i >= len(path) || path[i] != b {
			return false
		}
	}
	return i == len(path)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
