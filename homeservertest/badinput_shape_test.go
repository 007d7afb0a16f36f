package homeservertest_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// shape is a schema as the specification's descriptions write it, as far as they do.
type shape struct {
	Ref        string            `json:"$ref"`
	Type       kinds             `json:"type"`
	Properties map[string]*shape `json:"properties"`
	Patterns   map[string]*shape `json:"patternProperties"`
	Additional *shape            `json:"additionalProperties"`
	Required   []string          `json:"required"`
	Items      *shape            `json:"items"`
	Enum       []any             `json:"enum"`
	Minimum    *float64          `json:"minimum"`
	Maximum    *float64          `json:"maximum"`
	Least      int               `json:"minProperties"`
	Format     string            `json:"format"`
	Pattern    string            `json:"pattern"`
	Example    any               `json:"example"`
	All        []*shape          `json:"allOf"`
	One        []*shape          `json:"oneOf"`
	Any        []*shape          `json:"anyOf"`
}

// UnmarshalJSON takes true and false too, which describe anything and nothing.
func (s *shape) UnmarshalJSON(data []byte) error {
	type plain shape
	if data[0] != '{' {
		return nil
	}
	return json.Unmarshal(data, (*plain)(s))
}

// kinds are the types that a value may have; none of them means any.
type kinds []string

func (k *kinds) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		*k = kinds{strings.Trim(string(data), `"`)}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(k))
}

// parameter is a parameter of an operation.
type parameter struct {
	Ref      string `json:"$ref"`
	Name     string `json:"name"`
	In       string `json:"in"` // path, query or header
	Required bool   `json:"required"`
	Schema   *shape `json:"schema"`
}

// asked is an operation as one asks for it.
type asked struct {
	method, path string
	parameters   []*parameter
	body         *shape // nil when no JSON is taken
	bodyNeeded   bool
}

func (a *asked) String() string { return a.method + " " + a.path }

// descriptions are what can be asked, with every reference followed.
type descriptions struct {
	asked []*asked
	defs  map[string]json.RawMessage
}

// describe reads the descriptions of the client-server API; nil when they are not there, as loadSpecification says.
func describe(t *testing.T) *descriptions {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(specificationFolder(), "bundled", "client-server.json"))
	if err != nil {
		require.Empty(t, os.Getenv("CI"), "CI generates requests from the specification: %v", err)
		t.Logf("no requests are generated from the specification: set MATRIX_SPEC_OPENAPI to its OpenAPI folder (%v)", err)
		return nil
	}
	var api struct {
		Paths map[string]map[string]json.RawMessage
		Defs  map[string]json.RawMessage `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal(data, &api))
	d := &descriptions{defs: api.Defs}
	for _, path := range slices.Sorted(maps.Keys(api.Paths)) {
		for _, method := range []string{"get", "put", "post", "delete"} {
			if description, ok := api.Paths[path][method]; ok {
				d.read(t, strings.ToUpper(method), path, description)
			}
		}
	}
	return d
}

// body is what an operation says of its body.
type body struct {
	Ref      string `json:"$ref"`
	Required bool   `json:"required"`
	Content  map[string]struct {
		Schema *shape `json:"schema"`
	} `json:"content"`
}

func (d *descriptions) read(t *testing.T, method, path string, description []byte) {
	t.Helper()
	var operation struct {
		Parameters  []*parameter `json:"parameters"`
		RequestBody body         `json:"requestBody"`
	}
	require.NoError(t, json.Unmarshal(description, &operation), "%s %s", method, path)
	a := &asked{method: method, path: path, bodyNeeded: operation.RequestBody.Required}
	for _, p := range operation.Parameters {
		d.follow(t, p.Ref, p)
		p.Schema = d.whole(t, p.Schema)
		a.parameters = append(a.parameters, p)
	}
	d.follow(t, operation.RequestBody.Ref, &operation.RequestBody)
	if content, ok := operation.RequestBody.Content["application/json"]; ok {
		a.body = d.whole(t, content.Schema)
	}
	d.asked = append(d.asked, a)
}

// follow reads what a reference names into to; "" is no reference.
func (d *descriptions) follow(t *testing.T, ref string, to any) {
	t.Helper()
	if ref == "" {
		return
	}
	target, ok := d.defs[strings.TrimPrefix(ref, "#/$defs/")]
	require.True(t, ok, "%s names nothing", ref)
	require.NoError(t, json.Unmarshal(target, to), ref)
}

// whole is a shape without references, with what allOf adds to it.
func (d *descriptions) whole(t *testing.T, s *shape) *shape {
	t.Helper()
	if s == nil {
		return &shape{}
	}
	if ref := s.Ref; ref != "" {
		s = &shape{}
		d.follow(t, ref, s)
		return d.whole(t, s)
	}
	whole := *s
	whole.Properties = map[string]*shape{}
	for _, part := range s.All {
		whole.add(d.whole(t, part))
	}
	whole.add(&shape{Properties: d.each(t, s.Properties)})
	whole.Patterns = d.each(t, s.Patterns)
	if s.Additional != nil {
		whole.Additional = d.whole(t, s.Additional)
	}
	if s.Items != nil {
		whole.Items = d.whole(t, s.Items)
	}
	for _, one := range slices.Concat(s.One, s.Any) {
		whole.either(d.whole(t, one))
	}
	return &whole
}

func (d *descriptions) each(t *testing.T, of map[string]*shape) map[string]*shape {
	t.Helper()
	all := map[string]*shape{}
	for name, s := range of {
		all[name] = d.whole(t, s)
	}
	return all
}

// add joins what another schema demands as well.
func (s *shape) add(more *shape) {
	maps.Copy(s.Properties, more.Properties)
	s.Required = append(slices.Clip(s.Required), more.Required...)
	if len(s.Type) == 0 {
		s.Type = more.Type
	}
	if s.Additional == nil {
		s.Additional = more.Additional
	}
}

// either allows what an alternative allows. What alternatives demand is not demanded.
func (s *shape) either(one *shape) {
	for _, kind := range one.Type {
		if !slices.Contains(s.Type, kind) {
			s.Type = append(s.Type, kind)
		}
	}
	if s.Pattern == "" {
		s.Format, s.Pattern = one.Format, one.Pattern
	}
}

// takes reports whether a JSON value of a type may stand where s does.
func (s *shape) takes(kind string) bool {
	return len(s.Type) == 0 || slices.Contains(s.Type, kind) || kind == "integer" && slices.Contains(s.Type, "number")
}

// misfit is a value that does not fit: JSON as it is written, or the text of a parameter.
type misfit struct {
	value string
	must  bool // it has to be refused, not only borne
}

// odd are values of every type, and some that are hard to bear.
var odd = []struct{ kind, value string }{
	{"null", `null`}, {"boolean", `true`}, {"integer", `7`}, {"number", `1.5`}, {"string", `"x"`}, {"array", `[]`}, {"array", `["x"]`},
	{"array", `[null]`}, {"object", `{}`}, {"object", `{"x":1}`}, {"string", `""`}, {"string", `"\u0000"`}, {"string", `"\ud800"`},
	{"string", `"` + strings.Repeat("x", 70000) + `"`}, {"integer", `-1`}, {"integer", `9007199254740993`}, {"number", `1e30`},
	{"integer", `99999999999999999999999`}, {"integer", `-0`}, {"number", `1e999`},
}

// wrongs are the values that s does not take, and those whose form is odd. needed says that the value cannot be left
// out, for which null stands too.
func (s *shape) wrongs(needed bool) (list []misfit) {
	for _, o := range odd {
		unfit := !s.takes(o.kind) && (o.kind != "null" || needed)
		listed := o.kind == "string" && len(s.Enum) > 0
		list = append(list, misfit{o.value, unfit || listed})
	}
	if s.Minimum != nil {
		list = append(list, misfit{strconv.Itoa(int(*s.Minimum) - 1), true})
	}
	if s.Maximum != nil {
		list = append(list, misfit{strconv.Itoa(int(*s.Maximum) + 1), true})
	}
	if s.Format != "" && s.takes("string") {
		for _, text := range []string{"@", "!", "#", "$", "@a", "a:b", "@:", "@\u0000:x"} {
			quoted, _ := json.Marshal(text) // a string always can be
			list = append(list, misfit{string(quoted), false})
		}
	}
	return list
}
