package canonjson_test

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/stretchr/testify/require"
)

func TestGet(t *testing.T) {
	object := []byte(`{"a":{"b.c":{"d\"":"x"}},"e":[1],"f":"{}","g":{}}`)
	tests := []struct {
		name string
		path []string
		want string
	}{
		{"no path", nil, string(object)},
		{"one key", []string{"e"}, `[1]`},
		{"a key with a dot", []string{"a", "b.c"}, `{"d\"":"x"}`},
		{"a key with an escape", []string{"a", "b.c", `d"`}, `"x"`},
		{"absent", []string{"x"}, ``},
		{"absent in an empty object", []string{"g", "x"}, ``},
		{"into a string", []string{"f", "x"}, ``},
		{"into an array", []string{"e", "0"}, ``},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, string(canonjson.Get(object, tt.path...)))
		})
	}
}

func TestInt(t *testing.T) {
	tests := []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0", 0, true}, {"-1", -1, true}, {"9007199254740991", 1<<53 - 1, true},
		{"9223372036854775807", math.MaxInt64, true}, {"-9223372036854775807", -math.MaxInt64, true},
		{"9223372036854775808", 0, false}, {"99999999999999999999", 0, false},
		{"1.0", 0, false}, {"1e3", 0, false}, {`"1"`, 0, false}, {"true", 0, false}, {"", 0, false}, {"-", 0, false},
	}
	for _, tt := range tests {
		got, ok := canonjson.Int([]byte(tt.in))
		require.Equal(t, tt.ok, ok, "Int(%s)", tt.in)
		require.Equal(t, tt.want, got, "Int(%s)", tt.in)
	}
}

func TestAppendString(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", `""`},
		{"plain", `"plain"`},
		{"日本 <&>", `"日本 <&>"`},
		{"\"\\/\b\f\n\r\t", `"\"\\/\b\f\n\r\t"`},
		{"\x00\x1f\x7f", `"\u0000\u001f` + "\x7f" + `"`},
		{"a\xffb", `"a` + "\uFFFD" + `b"`},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, string(canonjson.AppendString(nil, tt.in)), "AppendString(%q)", tt.in)
	}
}

// FuzzAppendString: the JSON of a string is canonical and reads back as the string.
func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\n\x00日😀")
	f.Fuzz(func(t *testing.T, s string) {
		quoted := canonjson.AppendString(nil, s)
		canonical, err := canonjson.Append(nil, quoted)
		require.NoError(t, err)
		require.Equal(t, string(canonical), string(quoted))
		var want string
		require.NoError(t, json.Unmarshal(quoted, &want))
		got, ok := canonjson.String(quoted)
		require.True(t, ok)
		require.Equal(t, want, got)
	})
}

// FuzzMembers: on canonical JSON a walk sees exactly the members that encoding/json sees; on
// anything else it ends.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":{"c":["}",{}]}}`, `{}`, `{"a\"}":"\\","b":null}`, `{"a"`, `{"a":[}`, `[1,"]",[2]]`, `["\`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		walk(in)
		canonical, err := canonjson.Append(nil, in)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if canonjson.IsObject(canonical) && json.Unmarshal(canonical, &want) == nil {
			got, whole := walk(canonical)
			require.True(t, whole)
			require.Equal(t, want, got)
		}
		var elements []json.RawMessage
		if canonjson.IsArray(canonical) && json.Unmarshal(canonical, &elements) == nil {
			require.Equal(t, elements, walkArray(t, canonical))
		}
	})
}

func walk(object []byte) (members map[string]json.RawMessage, whole bool) {
	members = map[string]json.RawMessage{}
	for m := canonjson.Open(object); ; {
		key, value, ok := m.Next()
		if !ok {
			return members, m.Whole()
		}
		var buf []byte
		buf = append(append(append(buf, '"'), key...), '"')
		text, _ := canonjson.String(buf)
		members[text] = value
		_, _ = canonjson.String(value)
		_, _ = canonjson.Int(value)
	}
}

func walkArray(t *testing.T, array []byte) []json.RawMessage {
	elements := []json.RawMessage{}
	for e := canonjson.OpenArray(array); ; {
		value, ok := e.Next()
		if !ok {
			require.True(t, e.Whole())
			return elements
		}
		elements = append(elements, value)
	}
}

func BenchmarkMembers(b *testing.B) {
	object := []byte{'{'}
	for i := range 10 {
		object = append(object, `"key`+strconv.Itoa(i)+`":"a value of some length, as ids have",`...)
	}
	object[len(object)-1] = '}'
	b.ReportAllocs()
	for b.Loop() {
		canonjson.Get(object, "key9")
	}
}
