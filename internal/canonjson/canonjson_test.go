package canonjson_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/stretchr/testify/require"
)

// TestSpecification runs the examples of the specification, in testdata/specification.json.
//
// Spec: https://spec.matrix.org/latest/appendices/#examples
func TestSpecification(t *testing.T) {
	file, err := os.ReadFile("testdata/specification.json")
	require.NoError(t, err)
	var examples []struct {
		Given  json.RawMessage
		Want   string
		Strict bool
	}
	require.NoError(t, json.Unmarshal(file, &examples))
	require.Len(t, examples, 10)
	for _, ex := range examples {
		got, err := canonjson.Append(nil, ex.Given)
		require.NoError(t, err, "Append(%s)", ex.Given)
		require.Equal(t, ex.Want, string(got))
		require.Equal(t, ex.Strict, canonjson.Check(ex.Given) == nil, "Check(%s)", ex.Given)
	}
}

func TestAppend(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"white space", " \t\r\n{ \"b\" : [ 1 , 2 ] , \"a\" : { } , \"c\" : [ ] } \n", `{"a":{},"b":[1,2],"c":[]}`},
		{"words", `[true,false,null]`, `[true,false,null]`},
		{"a string alone", ` "x" `, `"x"`},
		{"order in nested objects", `{"b":{"d":1,"c":{"f":2,"e":3}},"a":0}`, `{"a":0,"b":{"c":{"e":3,"f":2},"d":1}}`},
		{"order inside an ordered object", `{"a":{"c":1,"b":2},"d":[{"f":1,"e":2}]}`, `{"a":{"b":2,"c":1},"d":[{"e":2,"f":1}]}`},
		{"a key is before its extension", `{"ab":1,"a":2}`, `{"a":2,"ab":1}`},
		{"empty key", `{"a":1,"":2}`, `{"":2,"a":1}`},
		{"order by code point, not by UTF-16", `{"` + "\U0001F600" + `":1,"` + "\uFFFD" + `":2}`, `{"` + "\uFFFD" + `":2,"` + "\U0001F600" + `":1}`},
		{"order by code point, not by escape", `{"a":1,"\n":2,"\"":3,"\\":4,"!":5,"]":6}`, `{"\n":2,"!":5,"\"":3,"\\":4,"]":6,"a":1}`},
		{"order of keys that are written with escapes", `{"\u0062":1,"a":2}`, `{"a":2,"b":1}`},
		{"escapes without need", `"\/\u0041\u00e9\u65E5\ud83D\uDE00\u007f"`, `"/Aé日😀` + "\x7f" + `"`},
		{"short escapes", `"\u0008\u0009\u000a\u000c\u000d\u0022\u005c"`, `"\b\t\n\f\r\"\\"`},
		{"short escapes stay", `"\b\t\n\f\r\"\\"`, `"\b\t\n\f\r\"\\"`},
		{"long escapes in lower case", `"\u0000\u000B\u001F\u001f"`, `"\u0000\u000b\u001f\u001f"`},
		{"separators stay", "\"\u2028\u2029<>&\"", "\"\u2028\u2029<>&\""},
		{"integers", `[0,1,-1,9007199254740991,-9007199254740991]`, `[0,1,-1,9007199254740991,-9007199254740991]`},
		{"minus zero", `[-0,1]`, `[0,1]`},
		{"integers with an exponent", `[1e10,1E2,-5e0,1e+3,100e-2,-0e7]`, `[10000000000,100,-5,1000,1,0]`},
		{"other numbers stay byte for byte", `[1.0,1.50,-0.0,1.5e3,1e16,1e-7,1e400,9007199254740992,123456789012345678901234567890]`,
			`[1.0,1.50,-0.0,1.5e3,1e16,1e-7,1e400,9007199254740992,123456789012345678901234567890]`},
		{"a number grows", `[1e15,1e15,1e15,1e15]`, `[1000000000000000,1000000000000000,1000000000000000,1000000000000000]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := canonjson.Append([]byte("kept "), []byte(tt.in))
			require.NoError(t, err)
			require.Equal(t, "kept "+tt.want, string(got))
			again, err := canonjson.Append(nil, []byte(tt.want))
			require.NoError(t, err)
			require.Equal(t, tt.want, string(again), "the canonical form of a canonical form")
		})
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name, in string
		want     error
	}{
		{"nothing", ``, canonjson.ErrSyntax},
		{"only space", ` `, canonjson.ErrSyntax},
		{"two values", `{} {}`, canonjson.ErrSyntax},
		{"byte order mark", "\ufeff{}", canonjson.ErrSyntax},
		{"NaN", `{"a":NaN}`, canonjson.ErrSyntax},
		{"Infinity", `[-Infinity]`, canonjson.ErrSyntax},
		{"word cut short", `[tru]`, canonjson.ErrSyntax},
		{"word in capitals", `[True]`, canonjson.ErrSyntax},
		{"comment", `{/**/}`, canonjson.ErrSyntax},
		{"single quotes", `{'a':1}`, canonjson.ErrSyntax},
		{"key without quotes", `{a:1}`, canonjson.ErrSyntax},
		{"number as key", `{1:1}`, canonjson.ErrSyntax},
		{"key alone", `{"a"}`, canonjson.ErrSyntax},
		{"no value", `{"a":}`, canonjson.ErrSyntax},
		{"comma behind the last member", `{"a":1,}`, canonjson.ErrSyntax},
		{"comma behind the last element", `[1,]`, canonjson.ErrSyntax},
		{"no comma", `[1 2]`, canonjson.ErrSyntax},
		{"object without end", `{"a":1`, canonjson.ErrSyntax},
		{"array without end", `[1`, canonjson.ErrSyntax},
		{"wrong bracket", `[1}`, canonjson.ErrSyntax},
		{"string without end", `"abc`, canonjson.ErrSyntax},
		{"string that ends in a backslash", `"abc\`, canonjson.ErrSyntax},
		{"line break in a string", "\"a\nb\"", canonjson.ErrSyntax},
		{"NUL in a string", "\"a\x00b\"", canonjson.ErrSyntax},
		{"unknown escape", `"\x41"`, canonjson.ErrSyntax},
		{"escape cut short", `"\u12"`, canonjson.ErrSyntax},
		{"escape that is not hexadecimal", `"\u12g4"`, canonjson.ErrSyntax},
		{"high surrogate alone", `"\ud83d"`, canonjson.ErrSyntax},
		{"low surrogate alone", `"\ude00"`, canonjson.ErrSyntax},
		{"two high surrogates", `"\ud83d\ud83d"`, canonjson.ErrSyntax},
		{"high surrogate and a letter", `"\ud83dabcdef"`, canonjson.ErrSyntax},
		{"invalid UTF-8", "\"\xff\"", canonjson.ErrSyntax},
		{"UTF-8 longer than needed", "\"\xc0\xaf\"", canonjson.ErrSyntax},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", canonjson.ErrSyntax},
		{"vertical tab as space", "\v{}", canonjson.ErrSyntax},
		{"leading zero", `[01]`, canonjson.ErrSyntax},
		{"leading plus", `[+1]`, canonjson.ErrSyntax},
		{"minus alone", `[-]`, canonjson.ErrSyntax},
		{"no digits before the point", `[.5]`, canonjson.ErrSyntax},
		{"no digits behind the point", `[1.]`, canonjson.ErrSyntax},
		{"no digits in the exponent", `[1e+]`, canonjson.ErrSyntax},
		{"hexadecimal number", `[0x10]`, canonjson.ErrSyntax},
		{"a key twice", `{"a":1,"a":2}`, canonjson.ErrDuplicateKey},
		{"a key twice, not side by side", `{"a":1,"c":0,"b":3,"a":2}`, canonjson.ErrDuplicateKey},
		{"a key twice, once with an escape", `{"a":1,"\u0061":2}`, canonjson.ErrDuplicateKey},
		{"a key twice, deep inside", `[{"x":{"b":1,"a":0,"b":2}}]`, canonjson.ErrDuplicateKey},
		{"too deep", strings.Repeat("[", 101) + strings.Repeat("]", 101), canonjson.ErrDepth},
		{"too deep without end", strings.Repeat("[", 60000), canonjson.ErrDepth},
		{"too deep in objects", strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101), canonjson.ErrDepth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst := []byte("kept")
			got, err := canonjson.Append(dst, []byte(tt.in))
			require.ErrorIs(t, err, tt.want)
			require.Equal(t, dst, got)
			require.ErrorIs(t, canonjson.CheckLenient([]byte(tt.in)), tt.want)
			require.ErrorIs(t, canonjson.Check([]byte(tt.in)), tt.want)
		})
	}
}

func TestStrictNumbers(t *testing.T) {
	tests := []struct {
		in string
		ok bool
	}{
		{`0`, true}, {`7`, true}, {`-7`, true}, {`1234567890123456`, true},
		{`9007199254740991`, true}, {`-9007199254740991`, true},
		{`9007199254740992`, false}, {`-9007199254740992`, false}, {`10000000000000000`, false},
		{`-0`, false}, {`1.0`, false}, {`0.5`, false}, {`1e3`, false}, {`1E3`, false}, {`-0.0`, false}, {`1e400`, false},
	}
	for _, tt := range tests {
		err := canonjson.Check([]byte(tt.in))
		require.Equal(t, tt.ok, err == nil, "Check(%s): %v", tt.in, err)
		_, appendErr := canonjson.AppendStrict(nil, []byte(tt.in))
		require.Equal(t, err, appendErr, "AppendStrict(%s)", tt.in)
		require.NoError(t, canonjson.CheckLenient([]byte(tt.in)), "CheckLenient(%s)", tt.in)
		if !tt.ok {
			require.ErrorIs(t, err, canonjson.ErrNumber)
		}
	}
}

func TestDeepestNesting(t *testing.T) {
	in := strings.Repeat(`{"b":[`, 50) + strings.Repeat(`],"a":0}`, 50)
	want := strings.Repeat(`{"a":0,"b":[`, 50) + strings.Repeat(`]}`, 50)
	got, err := canonjson.AppendStrict(nil, []byte(in))
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

// TestManyMembers has more open members than the scanner keeps without allocating.
func TestManyMembers(t *testing.T) {
	const n = 1000
	key := func(i int) string { return string(rune('a'+i%26)) + strings.Repeat("x", i/26) }
	given := map[string]any{}
	var in bytes.Buffer
	in.WriteString(`{`)
	for i := range n {
		given[key(i)] = map[string]any{"b": float64(i), "a": "y"}
		inner, _ := json.Marshal(i)
		in.WriteString(`"` + key(i) + `":{"b":` + string(inner) + `,"a":"y"},`)
	}
	in.Truncate(in.Len() - 1)
	in.WriteString(`}`)
	want, err := json.Marshal(given)
	require.NoError(t, err)
	got, err := canonjson.AppendStrict(nil, in.Bytes())
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func TestAllocations(t *testing.T) {
	canonical := []byte(`{"a":[1,2,{"b":"c"}],"d":{"e":"f","g":null}}`)
	unsorted := []byte(` {"d":{"g":null,"e":"f"}, "a":[1,2,{"b":"c"}]}`)
	dst := make([]byte, 0, 256)
	require.Zero(t, testing.AllocsPerRun(10, func() { dst, _ = canonjson.AppendStrict(dst[:0], canonical) }))
	require.Zero(t, testing.AllocsPerRun(10, func() { dst, _ = canonjson.AppendStrict(dst[:0], unsorted) }))
	require.Equal(t, 1.0, testing.AllocsPerRun(10, func() { _, _ = canonjson.AppendStrict(nil, unsorted) }))
	require.Zero(t, testing.AllocsPerRun(10, func() { _ = canonjson.Check(unsorted) }))
}

// FuzzAppend: what is accepted is JSON to others as well and keeps its meaning; the canonical form
// is its own canonical form, is sorted as encoding/json sorts and no longer than it must be; Check
// and Append agree; and strict is a part of lenient.
func FuzzAppend(f *testing.F) {
	for _, s := range []string{
		`{"b":2,"a":1}`, `{"a":"\u65E5","日":[1e10,-0,1.5]}`, ` [ { "x" : { } } ] `, `"\ud83d\ude00\/"`, `{"a":1,"\u0061":2}`,
		`{"b":{"d":1,"c":{"f":2,"e":3}},"a":0}`, `[9007199254740992,-9007199254740991]`, `{"\n":1,"":2,"\\":3}`, "\"\xff\"", `[[[[]]]]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := canonjson.Append(nil, in)
		require.Equal(t, err, canonjson.CheckLenient(in), "CheckLenient agrees with Append")
		strict, strictErr := canonjson.AppendStrict(nil, in)
		require.Equal(t, strictErr, canonjson.Check(in), "Check agrees with AppendStrict")
		if err != nil {
			require.Error(t, strictErr, "strict is a part of lenient")
			return
		}
		require.True(t, json.Valid(in), "accepted what is not JSON: %q", in)
		if strictErr == nil {
			require.Equal(t, out, strict)
			require.LessOrEqual(t, len(out), len(in))
		}
		again, err := canonjson.Append(nil, out)
		require.NoError(t, err)
		require.Equal(t, string(out), string(again), "canonical form of the canonical form")
		require.True(t, utf8.Valid(out))
		wantSameMeaning(t, in, out)
	})
}

func wantSameMeaning(t *testing.T, in, out []byte) {
	t.Helper()
	var before, after any
	if json.Unmarshal(in, &before) != nil {
		return // a number that no float64 holds
	}
	require.NoError(t, json.Unmarshal(out, &after))
	require.Equal(t, before, after, "%q and %q mean the same", in, out)
}

// What somebody else has signed keeps what no two parsers would read alike.
func TestAppendLoose(t *testing.T) {
	deep := strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000)
	for _, tt := range []struct{ name, in, want string }{
		{"sorted", `{"b": 1, "a": 1.5}`, `{"a":1.5,"b":1}`},
		{"a key twice", `{"b":1,"a":2,"b":0}`, `{"a":2,"b":1,"b":0}`},
		{"no UTF-8", "{\"b\":\"\xff\",\"a\":0}", "{\"a\":0,\"b\":\"\xff\"}"},
		{"half a pair", `{"b":"\ud800","a":"\u0041"}`, `{"a":"A","b":"\ud800"}`},
		{"deep", deep, deep},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := canonjson.AppendLoose(nil, []byte(tt.in))
			require.NoError(t, err)
			require.Equal(t, tt.want, string(got))
		})
	}
	for _, in := range []string{"", `{"a":1}x`, `{"a":"\u12"}`, strings.Repeat("[", 40_000)} {
		_, err := canonjson.AppendLoose(nil, []byte(in))
		require.Error(t, err, "%.20q", in)
	}
}

func TestAppendCompact(t *testing.T) {
	in := "{ \"b\" : 1e3 , \"a\":\"\\u0041 \\ud800 \xff\",\t\"b\":[ -0 , 1.50 ]}\n"
	got, err := canonjson.AppendCompact([]byte("x"), []byte(in))
	require.NoError(t, err)
	require.Equal(t, "x{\"b\":1e3,\"a\":\"\\u0041 \\ud800 \xff\",\"b\":[-0,1.50]}", string(got))
	_, err = canonjson.AppendCompact(nil, []byte(`{"a":1`))
	require.ErrorIs(t, err, canonjson.ErrSyntax)
}
