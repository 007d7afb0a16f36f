package wire_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
)

func TestParseAuthorization(t *testing.T) {
	full := wire.Credentials{Origin: "a.org", Destination: "b.org", KeyID: "ed25519:key1", Signature: "AB+/c"}
	tests := []struct {
		name, header string
		want         wire.Credentials
	}{
		{"as in the specification", `X-Matrix origin="a.org",destination="b.org",key="ed25519:key1",sig="AB+/c"`, full},
		{"in any order", `X-Matrix sig="AB+/c",key="ed25519:key1",destination="b.org",origin="a.org"`, full},
		{"the scheme in another case", `x-MATRIX origin="a.org",destination="b.org",key="ed25519:key1",sig="AB+/c"`, full},
		{"names in another case", `X-Matrix Origin="a.org",DESTINATION="b.org",Key="ed25519:key1",sIg="AB+/c"`, full},
		{"more spaces", "X-Matrix   \t origin=\"a.org\" ,\t destination=\"b.org\"  , key=\"ed25519:key1\",sig=\"AB+/c\"  ", full},
		{"spaces round the equals sign", `X-Matrix origin = "a.org",destination= "b.org",key ="ed25519:key1",sig="AB+/c"`, full},
		{"tokens", `X-Matrix origin=a.org,destination=b.org,key="ed25519:key1",sig="AB+/c"`, full},
		{"a colon without quotes", `X-Matrix origin=a.org,destination=b.org,key=ed25519:key1,sig="AB+/c"`, full},
		{"nothing in quotes", `X-Matrix origin=a.org,destination=b.org,key=ed25519:key1,sig=AB+/c`, full},
		{"backslashes", `X-Matrix origin="a\.org",destination="\b.org",key="ed25519\:key1",sig="AB+\/c"`, full},
		{"several commas", `X-Matrix ,, origin="a.org",,destination="b.org" , ,key="ed25519:key1",sig="AB+/c",`, full},
		{"unknown parameters", `X-Matrix x=1,origin="a.org",destination="b.org",y="a,b=\"c\"",key="ed25519:key1",sig="AB+/c"`, full},
		{"the name of the list", `X-Matrix origin="a.org",destination="b.org",key="ed25519:key1",signature="AB+/c"`, full},
		{"padding", `X-Matrix origin=a.org,destination=b.org,key=ed25519:key1,sig=AA==`, wire.Credentials{Origin: "a.org", Destination: "b.org", KeyID: "ed25519:key1", Signature: "AA=="}},
		{"of old, without destination", `X-Matrix origin=a.org,key="ed25519:key1",sig="AB+/c"`, wire.Credentials{Origin: "a.org", KeyID: "ed25519:key1", Signature: "AB+/c"}},
		{"ports and IPv6", `X-Matrix origin=[::1]:80,destination="b.org:8448",key="ed25519:key1",sig="s"`, wire.Credentials{Origin: "[::1]:80", Destination: "b.org:8448", KeyID: "ed25519:key1", Signature: "s"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wire.ParseAuthorization(tt.header)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestParseAuthorizationRefuses(t *testing.T) {
	tests := []struct{ name, header string }{
		{"nothing", ""},
		{"another scheme", `Bearer origin="a.org",key="ed25519:1",sig="s"`},
		{"only the scheme", `X-Matrix`},
		{"only the scheme and a space", `X-Matrix `},
		{"no space", `X-Matrixorigin="a.org",key="ed25519:1",sig="s"`},
		{"no origin", `X-Matrix key="ed25519:1",sig="s"`},
		{"no key", `X-Matrix origin="a.org",sig="s"`},
		{"no signature", `X-Matrix origin="a.org",key="ed25519:1"`},
		{"an empty signature", `X-Matrix origin="a.org",key="ed25519:1",sig=""`},
		{"an empty bare value", `X-Matrix origin=,key="ed25519:1",sig="s"`},
		{"a name without a value", `X-Matrix origin="a.org",key="ed25519:1",sig="s",x`},
		{"a value without a name", `X-Matrix ="x",origin="a.org",key="ed25519:1",sig="s"`},
		{"a destination that is none", `X-Matrix origin="a.org",destination="",key="ed25519:1",sig="s"`},
		{"another algorithm", `X-Matrix origin="a.org",key="rsa:1",sig="s"`},
		{"the origin twice", `X-Matrix origin="a.org",Origin="b.org",key="ed25519:1",sig="s"`},
		{"quotes that do not close", `X-Matrix origin="a.org",key="ed25519:1",sig="s`},
		{"a backslash at the end", `X-Matrix origin="a.org",key="ed25519:1",sig="s\`},
		{"a line break", "X-Matrix origin=\"a.org\",key=\"ed25519:1\",sig=\"s\n\""},
		{"text behind the quotes", `X-Matrix origin="a.org"x,key="ed25519:1",sig="s"`},
		{"no commas", `X-Matrix origin="a.org" key="ed25519:1" sig="s"`},
		{"too long", `X-Matrix origin="a.org",key="ed25519:1",sig="s",x="` + strings.Repeat("x", 8<<10) + `"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := wire.ParseAuthorization(tt.header)
			require.ErrorIs(t, err, mxerr.Unauthorized)
		})
	}
}

func TestOriginThatIsNone(t *testing.T) {
	for _, origin := range []string{"a/b", "a:http", "a b", "[::1"} {
		_, err := wire.ParseAuthorization(`X-Matrix origin="` + origin + `",key="ed25519:1",sig="s"`)
		require.ErrorIs(t, err, mxerr.InvalidParam, origin)
	}
}

func TestAppendAuthorization(t *testing.T) {
	c := wire.Credentials{Origin: "a.org", Destination: "b.org:8448", KeyID: "ed25519:k", Signature: "AB+/c"}
	require.Equal(t, `X-Matrix origin="a.org",destination="b.org:8448",key="ed25519:k",sig="AB+/c"`, string(wire.AppendAuthorization(nil, c)))
}

// TestSigningObject: the example of the specification, and what content does to it.
func TestSigningObject(t *testing.T) {
	tests := []struct{ name, method, uri, content, want string }{
		{"without a body", "GET", "/target?a=%2F&b", "", `{"destination":"b.org","method":"GET","origin":"a.org","uri":"/target?a=%2F&b"}`},
		{"with one", "PUT", "/target", `{"b": 1, "a":[true , 1.5]}`, `{"content":{"a":[true,1.5],"b":1},"destination":"b.org","method":"PUT","origin":"a.org","uri":"/target"}`},
		{"quotes in the target", "GET", `/"\`, "", `{"destination":"b.org","method":"GET","origin":"a.org","uri":"/\"\\"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wire.SigningObject(tt.method, tt.uri, "a.org", "b.org", []byte(tt.content))
			require.NoError(t, err)
			require.Equal(t, tt.want, string(got))
			require.NoError(t, canonjson.Check(bytes.Replace(got, []byte("1.5"), []byte("1"), 1)))
		})
	}
}

func TestSigningObjectRefuses(t *testing.T) {
	for _, content := range []string{`{`, `{"a":1,"a":2}`, "\xff", `"\ud800"`} {
		_, err := wire.SigningObject("PUT", "/", "a.org", "b.org", []byte(content))
		require.Error(t, err, "content %q", content)
	}
	_, err := wire.SigningObject("GET", "/\xff", "a.org", "b.org", nil)
	require.ErrorIs(t, err, canonjson.ErrSyntax)
}

func testKey(t testing.TB, b byte) signing.Key {
	t.Helper()
	k, err := signing.NewKey("k", bytes.Repeat([]byte{b}, 32))
	require.NoError(t, err)
	return k
}

// TestVerify: F-19, whatever was changed after signing.
func TestVerify(t *testing.T) {
	key := testKey(t, 1)
	good, err := wire.Sign(key, "PUT", "/x?y=%20", "a.org", "b.org", []byte(`{"a":1}`))
	require.NoError(t, err)
	with := func(change func(*wire.Credentials)) wire.Credentials {
		c := good
		change(&c)
		return c
	}
	tests := []struct {
		name        string
		c           wire.Credentials
		own         id.ServerName
		method, uri string
		content     string
		ok          bool
	}{
		{"as it was", good, "b.org", "PUT", "/x?y=%20", `{"a":1}`, true},
		{"the body written otherwise", good, "b.org", "PUT", "/x?y=%20", ` { "a" : 1 } `, true},
		{"padded", with(func(c *wire.Credentials) { c.Signature += "==" }), "b.org", "PUT", "/x?y=%20", `{"a":1}`, true},
		{"of old, without destination", with(func(c *wire.Credentials) { c.Destination = "" }), "b.org", "PUT", "/x?y=%20", `{"a":1}`, true},
		{"to another server", good, "c.org", "PUT", "/x?y=%20", `{"a":1}`, false},
		{"without destination to another server", with(func(c *wire.Credentials) { c.Destination = "" }), "c.org", "PUT", "/x?y=%20", `{"a":1}`, false},
		{"another method", good, "b.org", "POST", "/x?y=%20", `{"a":1}`, false},
		{"another target", good, "b.org", "PUT", "/x?y=+", `{"a":1}`, false},
		{"another body", good, "b.org", "PUT", "/x?y=%20", `{"a":2}`, false},
		{"no body", good, "b.org", "PUT", "/x?y=%20", ``, false},
		{"another origin", with(func(c *wire.Credentials) { c.Origin = "c.org" }), "b.org", "PUT", "/x?y=%20", `{"a":1}`, false},
		{"no base64", with(func(c *wire.Credentials) { c.Signature = "!" }), "b.org", "PUT", "/x?y=%20", `{"a":1}`, false},
		{"a short signature", with(func(c *wire.Credentials) { c.Signature = "AAAA" }), "b.org", "PUT", "/x?y=%20", `{"a":1}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := wire.Verify(tt.c, tt.own, tt.method, tt.uri, []byte(tt.content), key.Public())
			require.Equal(t, tt.ok, err == nil, "Verify: %v", err)
			require.Equal(t, !tt.ok, errors.Is(err, mxerr.Unauthorized))
		})
	}
	require.ErrorIs(t, wire.Verify(good, "b.org", "PUT", "/x?y=%20", []byte(`{"a":1}`), testKey(t, 2).Public()), mxerr.Unauthorized)
	require.ErrorIs(t, wire.Verify(good, "b.org", "PUT", "/x?y=%20", []byte(`{"a":1}`), nil), mxerr.Unauthorized)
	require.ErrorIs(t, wire.Verify(good, "b.org", "PUT", "/x?y=%20", []byte(`{`), key.Public()), canonjson.ErrSyntax)
}

// FuzzAuthorization: what is accepted is valid, and reads the same when it is written by us.
func FuzzAuthorization(f *testing.F) {
	f.Add(`X-Matrix origin="a.org",destination="b.org",key="ed25519:key1",sig="AB+/c"`)
	f.Add(`x-matrix sig=AA==, , key=ed25519:1,	origin = [::1]:80, x="\"\\"`)
	f.Add(`X-Matrix origin="a`)
	f.Fuzz(func(t *testing.T, header string) {
		c, err := wire.ParseAuthorization(header)
		if err != nil {
			require.ErrorIs(t, err, mxerr.Unauthorized)
			return
		}
		_, err = id.ParseServerName(string(c.Origin))
		require.NoError(t, err)
		require.True(t, signing.ValidKeyID(c.KeyID))
		if _, err := signing.Decode(c.Signature); err != nil {
			return // Verify refuses it
		}
		again, err := wire.ParseAuthorization(string(wire.AppendAuthorization(nil, c)))
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

func BenchmarkSign(b *testing.B) {
	key, content := testKey(b, 1), []byte(`{"edus":[],"origin":"a.org","origin_server_ts":1,"pdus":[`+strings.Repeat(`{"a":"b"},`, 99)+`{}]}`)
	b.ReportAllocs()
	for b.Loop() {
		c, err := wire.Sign(key, "PUT", "/_matrix/federation/v1/send/1", "a.org", "b.org", content)
		require.NoError(b, err)
		wire.AppendAuthorization(nil, c)
	}
}

func BenchmarkVerify(b *testing.B) {
	key, content := testKey(b, 1), []byte(`{"edus":[],"origin":"a.org","origin_server_ts":1,"pdus":[`+strings.Repeat(`{"a":"b"},`, 99)+`{}]}`)
	c, err := wire.Sign(key, "PUT", "/_matrix/federation/v1/send/1", "a.org", "b.org", content)
	require.NoError(b, err)
	header, public := string(wire.AppendAuthorization(nil, c)), key.Public()
	b.ReportAllocs()
	for b.Loop() {
		c, err := wire.ParseAuthorization(header)
		require.NoError(b, err)
		require.NoError(b, wire.Verify(c, "b.org", "PUT", "/_matrix/federation/v1/send/1", content, public))
	}
}
