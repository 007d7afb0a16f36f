package homeservertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// request is a request that can be broken in one place.
type request struct {
	as      *homeservertest.User
	method  string
	pattern string            // the path with {names}
	path    map[string]string // by name, escaped
	query   map[string]string // by name, escaped
	body    any               // nil: none
	raw     []byte            // instead of body
}

func (r *request) target() string {
	target := r.pattern
	for name, value := range r.path {
		target = strings.ReplaceAll(target, "{"+name+"}", value)
	}
	between := "?"
	for _, name := range slices.Sorted(maps.Keys(r.query)) {
		target += between + name + "=" + r.query[name]
		between = "&"
	}
	return target
}

// send sends the request. None may take long.
func (r *request) send(t *testing.T) *homeservertest.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	raw := r.raw
	if raw == nil && r.body != nil {
		var err error
		raw, err = json.Marshal(r.body)
		require.NoError(t, err)
	}
	return r.as.DoContext(ctx, r.method, r.target(), raw)
}

// trial breaks a request in one place.
type trial struct {
	name   string
	must   bool // the request has to be refused, not only borne
	change func(r *request)
}

// trials break every constraint of an operation.
func (a *asked) trials() (list []trial) {
	for _, p := range a.parameters {
		switch p.In {
		case "path":
			list = append(list, p.inPath()...)
		case "query":
			list = append(list, p.inQuery()...)
		}
	}
	if a.body != nil {
		list = append(list, wholeBodies(a.bodyNeeded)...)
		list = append(list, a.body.inBody(nil, 0)...)
	}
	return list
}

// inPath are segments that are hard to read, or no identifier.
func (p *parameter) inPath() (list []trial) {
	isID := slices.Contains([]string{"roomId", "userId", "eventId", "roomIdOrAlias", "roomAlias"}, p.Name) || p.Schema.Format != ""
	for _, segment := range []string{
		"x", "%00", "%ff", "%2F", "..%2f", "%2e%2e", ".", "%252F", "%20", "!", "@", "%23", "$", "%E2%80%AE", "'%22;--", "*", "%25", "a:b:c",
		"%21%00:hs.test", "@%00:hs.test", "@a%ff:hs.test", "%23%00:hs.test", "$%00", strings.Repeat("x", 300), strings.Repeat("x", 65536),
	} {
		list = append(list, trial{"path " + p.Name + " = " + brief(segment), isID, func(r *request) { r.path[p.Name] = segment }})
	}
	return list
}

// inQuery are texts that a parameter cannot be, or that are hard to read.
func (p *parameter) inQuery() (list []trial) {
	set := func(value string, must bool) {
		list = append(list, trial{"query " + p.Name + " = " + brief(value), must, func(r *request) { r.query[p.Name] = value }})
	}
	token := slices.Contains([]string{"from", "to", "since", "at", "next_batch", "filter"}, p.Name)
	typed := token || !p.Schema.takes("string") || len(p.Schema.Enum) > 0 || p.Schema.Format != ""
	for _, value := range []string{"zz%20z", "%00", "%ff", strings.Repeat("z", 65536)} {
		set(value, typed)
	}
	for _, value := range []string{"", "%7B", "-1", "%7B%22a%22:1%7D", "%5B%5D", "1.5", "1e3", "99999999999999999999999", "0", "-9223372036854775808", "+1", "TRUE"} {
		set(value, false)
	}
	if p.Name != "timeout" { // a long poll that waits as long as any may
		set("9007199254740993", false)
	}
	if p.Required {
		list = append(list, trial{"query without " + p.Name, true, func(r *request) { delete(r.query, p.Name) }})
	}
	return list
}

// wholeBodies are bodies of which no part is read.
func wholeBodies(needed bool) (list []trial) {
	for name, raw := range map[string]func() string{
		"100,000 deep":       func() string { return strings.Repeat(`{"a":`, 100000) + `1` + strings.Repeat(`}`, 100000) },
		"100,000 open lists": func() string { return `{"a":` + strings.Repeat("[", 100000) },
		"10 MB":              func() string { return `{"a":"` + strings.Repeat("x", 10<<20) + `"}` },
	} {
		list = append(list, trial{"body of " + name, true, func(r *request) { r.raw = []byte(raw()) }})
	}
	for name, raw := range map[string]string{
		"a list": `[]`, "null": `null`, "a string": `"x"`, "a number": `1`, "true": `true`, "half an object": `{"a":1`, "a brace": `{`,
		"a byte order mark": "\ufeff{}", "more behind it": `{} {}`, "text behind it": `{}x`, "doubled keys": `{"a":1,"a":2}`,
		"doubled keys inside": `{"a":{"b":1,"b":2}}`, "no UTF-8": "{\"a\":\"\xff\"}", "a key that is no UTF-8": "{\"\xff\":1}",
		"a NUL": "{\"a\":\"\x00\"}", "a number that is none": `{"a":01}`, "NaN": `{"a":NaN}`, "single quotes": `{'a':1}`,
		"a comma too many": `{"a":1,}`, "UTF-16": "{\x00}\x00", "a form": "a=1&b=2",
	} {
		list = append(list, trial{"body of " + name, true, func(r *request) { r.raw = []byte(raw) }})
	}
	for name, raw := range map[string]string{
		"numbers of any size": `{"a":123456789012345678901234567890,"b":1e400,"c":1.5,"d":-0}`, "NUL": `{"a\u0000":"\u0000"}`,
		"half letters": `{"\ud800":"\udc00"}`, "unknown keys": `{"__proto__":{},"":null}`, "60 deep": strings.Repeat(`{"a":`, 60) + `1` + strings.Repeat(`}`, 60),
	} {
		list = append(list, trial{"body of " + name, false, func(r *request) { r.raw = []byte(raw) }})
	}
	return append(list, trial{"no body", false, func(r *request) { r.body = nil }})
}

// inBody are the values that break a part of a body: of an object with its parts, to a depth.
func (s *shape) inBody(at []string, depth int) (list []trial) {
	if depth > 6 {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
		part, place := s.Properties[key], append(slices.Clip(at), key)
		needed := slices.Contains(s.Required, key)
		if needed {
			list = append(list, trial{"body without " + strings.Join(place, "."), true, func(r *request) { r.put(place, ``) }})
		}
		list = append(list, part.at(place, needed, depth)...)
	}
	for pattern, part := range s.Patterns {
		list = append(list, part.at(append(slices.Clip(at), keyLike(pattern)), true, depth)...)
	}
	if s.Additional != nil {
		list = append(list, s.Additional.at(append(slices.Clip(at), "x"), true, depth)...)
	}
	if s.Items != nil {
		list = append(list, s.Items.at(append(slices.Clip(at), "[]"), true, depth)...)
	}
	return list
}

// at are the wrong values of a part at its place, and of its own parts.
func (s *shape) at(place []string, needed bool, depth int) (list []trial) {
	for _, w := range s.wrongs(needed) {
		list = append(list, trial{"body." + strings.Join(place, ".") + " = " + brief(w.value), w.must, func(r *request) { r.put(place, w.value) }})
	}
	return append(list, s.inBody(place, depth+1)...)
}

// keyLike is a key that fits a pattern.
func keyLike(pattern string) string {
	switch {
	case strings.HasPrefix(pattern, "^@"):
		return "@bob:hs.test"
	case strings.HasPrefix(pattern, "^!"):
		return "!room:hs.test"
	}
	return "x"
}

// put writes JSON to a place of the body, by its text; none leaves the place out.
func (r *request) put(place []string, value string) {
	const mark = "@@ the place @@"
	if value == "" {
		r.body = placed(r.body, place, nil, true)
		return
	}
	raw, _ := json.Marshal(placed(r.body, place, mark, false)) // what good has made can be written
	r.raw = bytes.Replace(raw, []byte(`"`+mark+`"`), []byte(value), 1)
}

// placed is a copy of body with a value at a place, where objects and lists are made as needed.
func placed(body any, place []string, value any, without bool) any {
	if len(place) == 0 {
		return value
	}
	if place[0] == "[]" {
		return []any{placed(nil, place[1:], value, without)}
	}
	o := object{}
	if old, ok := body.(object); ok {
		maps.Copy(o, old)
	}
	if without && len(place) == 1 {
		delete(o, place[0])
		return o
	}
	o[place[0]] = placed(o[place[0]], place[1:], value, without)
	return o
}

// brief is the beginning of a text that may be long.
func brief(text string) string {
	if len(text) > 40 {
		return fmt.Sprintf("%s… (%d)", text[:20], len(text))
	}
	return text
}

// standard is what every error looks like.
var standard = regexp.MustCompile(`^[A-Z][A-Z0-9_.]*_[A-Z0-9_.]+$`)

// fault says what is wrong about an answer, or "".
func (tr *trial) fault(answer *homeservertest.Response) string {
	switch {
	case answer.Status >= 500:
		return "an error of the server"
	case answer.Status == 401 && answer.Get("flows").IsArray() && tr.must:
		return "asked for a password first"
	case answer.Status == 401 && answer.Get("flows").IsArray():
		return ""
	case answer.Status >= 400:
		if !json.Valid(answer.Body) || !standard.MatchString(answer.Get("errcode").String()) || answer.Header.Get("Content-Type") != "application/json" {
			return "not a standard error"
		}
		return ""
	case answer.Status >= 300:
		return "a redirect"
	case tr.must:
		return "not refused"
	}
	return ""
}

// leniency is a set of requests that break a constraint and are served all the same.
type leniency struct {
	trials string // a pattern of "METHOD /path: trial"
	reason string
}

// lenient are all there are. What is listed is still never answered with an error of the server.
func lenient() []leniency {
	return []leniency{
		{`.*/keys/signatures/upload: body\..*`, "what cannot be stored is told in failures, key by key"},
		{`.*/room_keys/keys/.*: body.*session_data = .*`, "it is the clients' own, and some make it a text"},
		{`.*: body\.(one_time_keys|device_keys|messages)\..* = null`, "null is an empty list of devices, or what nobody has"},
		{`.*/thirdparty/.*: query fields = .*`, "each field is a parameter of its own name"},
		{`.*: query allow_redirect = .*`, "nothing is redirected, whatever it says"},
		{`.*: query via = .*`, "servers that cannot be are left out of those that may help"},
		{`.*: body\.(preset|visibility|event_format|search_categories\.room_events\.order_by|room\.\w+\.event_format) = ""`, "an empty text is none"},
		{`.*: body\.(.*\.)?(types|not_types|event_fields|devices|additional_creators)\.\[\] = null`, "null in a list of texts is an empty text, which is the name of nothing"},
	}
}

// excuses are leniencies with those that were needed.
type excuses map[*regexp.Regexp]bool

func newExcuses() excuses {
	all := excuses{}
	for _, l := range lenient() {
		all[regexp.MustCompile("^"+l.trials+"$")] = false
	}
	return all
}

func (e excuses) excuse(name string) bool {
	for pattern := range e {
		if pattern.MatchString(name) {
			e[pattern] = true
			return true
		}
	}
	return false
}

// broken tries everything that can be broken of an operation, or one in so many, and returns how many requests that were.
func (c *caller) broken(a *asked, f fit, e excuses) (sent int) {
	for i, tr := range a.trials() {
		if (i+len(a.path))%every != 0 {
			continue
		}
		sent++
		r := c.good(a, f)
		tr.change(r)
		answer := r.send(c.t)
		if answer.Status/100 == 2 && f.spends {
			c.forget()
		}
		name := a.String() + ": " + tr.name
		if fault := tr.fault(answer); fault != "" && (answer.Status >= 500 || !e.excuse(name)) {
			c.t.Errorf("%s: %s: %d %s", fault, name, answer.Status, brief(string(answer.Body)))
		}
	}
	return sent
}

// fits requires that the request which is broken is a good one, so that it is refused for nothing else.
func (c *caller) fits(a *asked, f fit) {
	answer := c.good(a, f).send(c.t)
	if want := max(f.status, 200); answer.Status != want {
		c.t.Errorf("%s: what should be a good request is answered with %d %s: see badinput_fit_test.go", a, answer.Status, answer.Body)
	}
}

// TestBadInput: a request that breaks a constraint of the specification is refused in the standard form, and none is
// answered with an error of the server. The requests are made from the specification's descriptions, one constraint of
// one operation at a time, and sent by somebody for whom they are right but for that.
func TestBadInput(t *testing.T) {
	spec := describe(t)
	if spec == nil {
		return
	}
	log := &logged{}
	hs := homeservertest.New(t, discoverable, func(cfg *homeserver.Config) { cfg.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	all, special, excused, sent := rows(t, packages(t)), goodRequests(), newExcuses(), 0
	c := newCaller(t, hs)
	for _, a := range spec.asked {
		if serving(all, operation{method: a.method, path: a.path}) == nil {
			continue
		}
		c.forget()
		sent += c.broken(a, special[a.String()], excused)
		c.fits(a, special[a.String()])
	}
	require.NotContains(t, log.String(), "panic")
	require.Greater(t, sent, 8000/every, "requests")
	for pattern, needed := range excused {
		require.True(t, needed || every > 1, "nothing is lenient about %s", pattern)
	}
}
