package signing_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/stretchr/testify/require"
)

// specKey is the key of the specification's test vectors.
//
// Spec: https://spec.matrix.org/latest/appendices/#signing-key
func specKey(t testing.TB) signing.Key {
	seed, err := signing.Decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	require.NoError(t, err)
	key, err := signing.NewKey("1", seed)
	require.NoError(t, err)
	return key
}

// Spec: https://spec.matrix.org/latest/appendices/#json-signing
func TestSpecification(t *testing.T) {
	tests := []struct{ given, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"one": 1, "two": "Two"}`, `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
	}
	key := specKey(t)
	for _, tt := range tests {
		got, err := signing.SignJSON("domain", key, []byte(tt.given))
		require.NoError(t, err)
		require.Equal(t, tt.want, string(got))
		require.NoError(t, signing.VerifyJSON("domain", "ed25519:1", key.Public(), got))
	}
}

func TestSignJSONKeepsTheRest(t *testing.T) {
	key := specKey(t)
	bare, err := signing.SignJSON("domain", key, []byte(`{"a":1}`))
	require.NoError(t, err)
	signature := string(canonjson.Get(bare, "signatures", "domain", "ed25519:1"))
	tests := []struct{ name, given, want string }{
		{"unsigned is not covered", `{"unsigned":{"b":2},"a":1}`,
			`{"a":1,"signatures":{"domain":{"ed25519:1":` + signature + `}},"unsigned":{"b":2}}`},
		{"other signatures are not covered", `{"a":1,"signatures":{"other":{"ed25519:x":"y"},"domain":{"ed25519:0":"z"}}}`,
			`{"a":1,"signatures":{"domain":{"ed25519:0":"z","ed25519:1":` + signature + `},"other":{"ed25519:x":"y"}}}`},
		{"the same name is replaced", `{"a":1,"signatures":{"domain":{"ed25519:1":"old"}}}`, string(bare)},
		{"what is no object is replaced", `{"a":1,"signatures":[]}`, string(bare)},
		{"what is no object is replaced further down", `{"a":1,"signatures":{"domain":"x"}}`, string(bare)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := signing.SignJSON("domain", key, []byte(tt.given))
			require.NoError(t, err)
			require.Equal(t, tt.want, string(got))
		})
	}
}

// TestSignJSONIsCanonical: keys are sorted by code point even where their escapes would sort otherwise.
func TestSignJSONIsCanonical(t *testing.T) {
	got, err := signing.SignJSON("A", specKey(t), []byte(`{"signatures":{"\"":{}, "B":{}, "!":{}},"a":{"z":1,"b":2}}`))
	require.NoError(t, err)
	canonical, err := canonjson.Append(nil, got)
	require.NoError(t, err)
	require.Equal(t, string(canonical), string(got))
}

func TestSignJSONRefuses(t *testing.T) {
	for _, given := range []string{``, `[]`, `"x"`, `{"a":1,"a":2}`, `{`, "{\"a\":\"\xff\"}"} {
		_, err := signing.SignJSON("domain", specKey(t), []byte(given))
		require.Error(t, err, "SignJSON(%q)", given)
		err = signing.VerifyJSON("domain", "ed25519:1", specKey(t).Public(), []byte(given))
		require.Error(t, err, "VerifyJSON(%q)", given)
	}
}

func TestVerifyJSON(t *testing.T) {
	key := specKey(t)
	signed, err := signing.SignJSON("domain", key, []byte(`{"one":1,"two":"Two"}`))
	require.NoError(t, err)
	signature := strings.Trim(string(canonjson.Get(signed, "signatures", "domain", "ed25519:1")), `"`)
	with := func(signature string) string {
		return `{"one":1,"two":"Two","signatures":{"domain":{"ed25519:1":` + signature + `}}}`
	}
	flipped := "A" + signature[1:]
	tests := []struct {
		name, server, keyID, object string
		want                        error
	}{
		{"good", "domain", "ed25519:1", string(signed), nil},
		{"with unsigned", "domain", "ed25519:1", strings.Replace(string(signed), `{`, `{"unsigned":1,`, 1), nil},
		{"written differently", "domain", "ed25519:1", " " + strings.Replace(string(signed), `"two":"Two"`, `"t\u0077o" : "\u0054wo"`, 1), nil},
		{"with padding", "domain", "ed25519:1", with(`"` + signature + `=="`), nil},
		{"changed", "domain", "ed25519:1", strings.Replace(string(signed), "Two", "two", 1), signing.ErrInvalid},
		{"more members", "domain", "ed25519:1", strings.Replace(string(signed), `{`, `{"three":3,`, 1), signing.ErrInvalid},
		{"one bit of the signature flipped", "domain", "ed25519:1", with(`"` + flipped + `"`), signing.ErrInvalid},
		{"other server", "domain2", "ed25519:1", string(signed), signing.ErrMissing},
		{"other key", "domain", "ed25519:2", string(signed), signing.ErrMissing},
		{"no signatures", "domain", "ed25519:1", `{"one":1,"two":"Two"}`, signing.ErrMissing},
		{"signatures is no object", "domain", "ed25519:1", `{"one":1,"two":"Two","signatures":"x"}`, signing.ErrMissing},
		{"unknown algorithm", "domain", "rsa:1", `{"signatures":{"domain":{"rsa:1":"` + signature + `"}}}`, signing.ErrMissing},
		{"signature is no string", "domain", "ed25519:1", with(`1`), signing.ErrMalformed},
		{"signature is empty", "domain", "ed25519:1", with(`""`), signing.ErrMalformed},
		{"signature is too short", "domain", "ed25519:1", with(`"` + signature[:80] + `"`), signing.ErrMalformed},
		{"signature is too long", "domain", "ed25519:1", with(`"` + signature + `AAAA"`), signing.ErrMalformed},
		{"space in the signature", "domain", "ed25519:1", with(`" ` + signature + `"`), signing.ErrMalformed},
		{"line break in the signature", "domain", "ed25519:1", with(`"` + signature[:40] + `\n` + signature[40:] + `"`), signing.ErrMalformed},
		{"too much padding", "domain", "ed25519:1", with(`"` + signature + `==="`), signing.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := signing.VerifyJSON(tt.server, tt.keyID, key.Public(), []byte(tt.object))
			require.ErrorIs(t, err, tt.want)
		})
	}
	require.ErrorIs(t, signing.VerifyJSON("domain", "ed25519:1", nil, signed), signing.ErrMalformed)
	require.ErrorIs(t, signing.VerifyJSON("domain", "ed25519:1", make(ed25519.PublicKey, 32), signed), signing.ErrInvalid)
}

func TestKeyIDs(t *testing.T) {
	object := []byte(`{"signatures":{"a.b":{"ed25519:1":"x","ed25519:2":"y","rsa:1":"z"},"c":{}}}`)
	require.Equal(t, []string{"ed25519:1", "ed25519:2"}, signing.KeyIDs(object, "a.b"))
	require.Empty(t, signing.KeyIDs(object, "c"))
	require.Empty(t, signing.KeyIDs(object, "d"))
	require.Empty(t, signing.KeyIDs([]byte(`{"signatures":[]}`), "d"))
}

func TestNewKey(t *testing.T) {
	tests := []struct {
		name, version string
		seed          int
		ok            bool
	}{
		{"good", "a_Z0", 32, true},
		{"empty version", "", 32, false},
		{"version with a colon", "a:b", 32, false},
		{"version with a dash", "a-b", 32, false},
		{"short seed", "a", 31, false},
		{"a private key instead of a seed", "a", 64, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key, err := signing.NewKey(tt.version, make([]byte, tt.seed))
			require.Equal(t, tt.ok, err == nil, "NewKey(%q, %d bytes): %v", tt.version, tt.seed, err)
			require.Equal(t, tt.ok, signing.ValidKeyID(key.ID))
		})
	}
}

func TestGenerate(t *testing.T) {
	one, err := signing.Generate(nil)
	require.NoError(t, err)
	two, err := signing.Generate(nil)
	require.NoError(t, err)
	require.True(t, signing.ValidKeyID(one.ID), one.ID)
	require.NotEqual(t, one.ID, two.ID)
	require.False(t, bytes.Equal(one.Private, two.Private))
	_, err = signing.Generate(strings.NewReader("too short"))
	require.Error(t, err)
}

func TestBase64(t *testing.T) {
	tests := []struct{ text, encoded string }{
		{"", ""}, {"f", "Zg"}, {"fo", "Zm8"}, {"foo", "Zm9v"}, {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"},
		{"\xfb\xff", "+/8"},
	}
	for _, tt := range tests {
		require.Equal(t, tt.encoded, signing.Encode([]byte(tt.text)))
		for _, encoded := range []string{tt.encoded, base64.StdEncoding.EncodeToString([]byte(tt.text))} {
			got, err := signing.Decode(encoded)
			require.NoError(t, err, "Decode(%q)", encoded)
			require.Equal(t, tt.text, string(got))
		}
	}
	for _, encoded := range []string{"Z", "Zg=", "Zm8==", "Zg===", "=", "====", "Zm9v=", "Zm9v====", "Z g", "Zm\n8", "Zm8\r", "-_8", "Zg==Zg=="} {
		_, err := signing.Decode(encoded)
		require.Error(t, err, "Decode(%q)", encoded)
	}
}

// FuzzSignVerify: what was signed verifies, however it is written, and the result is canonical.
func FuzzSignVerify(f *testing.F) {
	for _, s := range []string{`{}`, `{"b":1,"a":[1.5,1e3,-0]}`, `{"signatures":{"a":{"b":"c"}},"unsigned":1}`, `{"signatures":3,"\"":1}`} {
		f.Add(s, "example.org")
	}
	key := specKey(f)
	f.Fuzz(func(t *testing.T, object, server string) {
		signed, err := signing.SignJSON(server, key, []byte(object))
		if err != nil {
			return // not an object
		}
		canonical, err := canonjson.Append(nil, signed)
		require.NoError(t, err)
		require.Equal(t, string(canonical), string(signed))
		require.NoError(t, signing.VerifyJSON(server, key.ID, key.Public(), signed))
		spaced := " " + strings.Replace(string(signed), "{", "{\n", 1)
		require.NoError(t, signing.VerifyJSON(server, key.ID, key.Public(), []byte(spaced)))
	})
}

func BenchmarkSignJSON(b *testing.B) {
	key := specKey(b)
	object := []byte(`{"method":"PUT","uri":"/_matrix/federation/v1/send/1","origin":"a","destination":"b","content":{"x":1}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := signing.SignJSON("a", key, object); err != nil {
			b.Fatal(err)
		}
	}
}
