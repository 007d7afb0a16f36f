package wire

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// maxAuthorization is how long an Authorization header may be, in bytes; two server names, a key id and a signature
// need less than 1 KiB.
const maxAuthorization = 8 << 10

// scheme is the auth scheme of federation. It is compared without regard to case.
const scheme = "X-Matrix"

// Credentials are what an X-Matrix header says: who sends the request, to whom, and the signature that proves it.
type Credentials struct {
	Origin      id.ServerName
	Destination id.ServerName // "" when the header has none, as with servers before v1.3
	KeyID       string        // "ed25519:" and a version
	Signature   string        // base64, with or without padding
}

// ParseAuthorization reads the value of an Authorization header. Names and values are valid, the signature is not
// checked yet: Verify does that.
//
// It takes what servers old and new send: parameters in any order, names in any case, values with and without quotes
// (unquoted ones may contain colons and whatever base64 and server names need), backslashes in quotes, white space
// round commas and equals signs, commas with nothing between them. Parameters it does not know are ignored. One that
// occurs twice is an error, and so is a header longer than 8 KiB. The signature may be called "sig", as in all
// examples, or "signature", as in the specification's list.
//
// An error is mxerr.Unauthorized, or mxerr.InvalidParam for an origin that is no server name.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#request-authentication
func ParseAuthorization(header string) (Credentials, error) {
	params, err := splitAuthorization(header)
	if err != nil {
		return Credentials{}, err
	}
	c := Credentials{KeyID: params["key"], Signature: params["sig"]}
	if c.Signature == "" {
		c.Signature = params["signature"]
	}
	if params["origin"] == "" {
		return Credentials{}, mxerr.Unauthorized.With("the X-Matrix header has no origin")
	}
	if c.Origin, err = id.ParseServerName(params["origin"]); err != nil {
		return Credentials{}, mxerr.InvalidParam.With("the origin in the X-Matrix header is no server name")
	}
	if destination, ok := params["destination"]; ok {
		if c.Destination, err = id.ParseServerName(destination); err != nil {
			return Credentials{}, mxerr.Unauthorized.With("the destination in the X-Matrix header is not valid")
		}
	}
	if !signing.ValidKeyID(c.KeyID) {
		return Credentials{}, mxerr.Unauthorized.With("the key in the X-Matrix header is missing or not an ed25519 key")
	}
	if c.Signature == "" {
		return Credentials{}, mxerr.Unauthorized.With("the X-Matrix header has no signature")
	}
	return c, nil
}

// splitAuthorization reads the scheme and the parameters, whose names it turns to lower case.
func splitAuthorization(header string) (map[string]string, error) {
	if len(header) > maxAuthorization {
		return nil, mxerr.Unauthorized.With("the Authorization header is too long")
	}
	rest := strings.TrimLeft(header, " \t")
	if len(rest) <= len(scheme) || !strings.EqualFold(rest[:len(scheme)], scheme) || !isSpace(rest[len(scheme)]) {
		return nil, mxerr.Unauthorized.With("an Authorization header with the scheme X-Matrix is required")
	}
	params := map[string]string{}
	for rest = strings.TrimLeft(rest[len(scheme):], " \t,"); rest != ""; rest = strings.TrimLeft(rest, " \t,") {
		name, value, after, ok := cutParam(rest)
		if !ok {
			return nil, mxerr.Unauthorized.With("the X-Matrix header cannot be read")
		}
		if _, twice := params[name]; twice {
			return nil, mxerr.Unauthorized.With("the X-Matrix header has a parameter twice")
		}
		params[name], rest = value, after
	}
	return params, nil
}

// cutParam reads name=value and what must follow it: a comma or the end.
func cutParam(s string) (name, value, rest string, ok bool) {
	equals := strings.IndexByte(s, '=')
	if equals < 0 {
		return "", "", "", false
	}
	name = strings.ToLower(strings.TrimRight(s[:equals], " \t"))
	if name == "" || strings.IndexFunc(name, notToken) >= 0 {
		return "", "", "", false
	}
	s = strings.TrimLeft(s[equals+1:], " \t")
	if strings.HasPrefix(s, `"`) {
		value, rest, ok = cutQuoted(s)
	} else {
		value, rest, ok = cutBare(s)
	}
	rest = strings.TrimLeft(rest, " \t")
	return name, value, rest, ok && (rest == "" || rest[0] == ',')
}

// cutQuoted reads a quoted-string; a backslash-character pair is replaced by the character that follows the backslash.
func cutQuoted(s string) (value, rest string, ok bool) {
	var text strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return text.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s) && isText(s[i+1]):
			i++
			text.WriteByte(s[i])
		case c == '\\' || !isText(c):
			return "", "", false
		default:
			text.WriteByte(c)
		}
	}
	return "", "", false
}

// cutBare reads an unquoted value, which is not empty. By RFC 9110 it is a token; older servers also send colons,
// brackets and base64.
func cutBare(s string) (value, rest string, ok bool) {
	end := 0
	for end < len(s) && s[end] > ' ' && s[end] < 0x7f && s[end] != ',' && s[end] != '"' && s[end] != '\\' {
		end++
	}
	return s[:end], s[end:], end > 0
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// isText: what may stand in a quoted-string beside quotes and backslashes.
func isText(c byte) bool { return c == '\t' || c >= ' ' && c != 0x7f }

func notToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}

// AppendAuthorization appends the value of the Authorization header for c to dst, in the form that every server can
// read: all values quoted, names in lower case, one space, no backslashes. Server names, key ids and base64 have no
// characters that would need one; others are dropped.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#request-authentication
func AppendAuthorization(dst []byte, c Credentials) []byte {
	dst = append(dst, scheme+" "...)
	dst = appendParam(dst, "origin", string(c.Origin))
	if c.Destination != "" {
		dst = appendParam(append(dst, ','), "destination", string(c.Destination))
	}
	dst = appendParam(append(dst, ','), "key", c.KeyID)
	return appendParam(append(dst, ','), "sig", c.Signature)
}

func appendParam(dst []byte, name, value string) []byte {
	dst = append(append(dst, name...), '=', '"')
	for i := range len(value) {
		if c := value[i]; c > ' ' && c < 0x7f && c != '"' && c != '\\' {
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// SigningObject is the canonical JSON that the signature of a request covers. The uri is the request target as it is
// sent, with the query and with its percent-encoding. The server names are those from before any delegation. Content
// is the body, any JSON; when it is empty, the object has no content.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#request-authentication
func SigningObject(method, uri string, origin, destination id.ServerName, content []byte) ([]byte, error) {
	return signingObject(canonjson.Append, method, uri, origin, destination, content)
}

func signingObject(canonical func(dst, data []byte) ([]byte, error), method, uri string, origin, destination id.ServerName, content []byte) ([]byte, error) {
	if !utf8.ValidString(method) || !utf8.ValidString(uri) {
		return nil, fmt.Errorf("request to sign: method or target: %w", canonjson.ErrSyntax)
	}
	dst := make([]byte, 0, len(content)+len(uri)+len(origin)+len(destination)+80)
	dst = append(dst, '{')
	if len(content) > 0 {
		var err error
		dst = append(dst, `"content":`...)
		if dst, err = canonical(dst, content); err != nil {
			return nil, fmt.Errorf("request to sign: content: %w", err)
		}
		dst = append(dst, ',')
	}
	dst = canonjson.AppendString(append(dst, `"destination":`...), string(destination))
	dst = canonjson.AppendString(append(dst, `,"method":`...), method)
	dst = canonjson.AppendString(append(dst, `,"origin":`...), string(origin))
	dst = canonjson.AppendString(append(dst, `,"uri":`...), uri)
	return append(dst, '}'), nil
}

// Sign makes the credentials of a request; the arguments are those of SigningObject.
func Sign(key signing.Key, method, uri string, origin, destination id.ServerName, content []byte) (Credentials, error) {
	object, err := SigningObject(method, uri, origin, destination, content)
	if err != nil {
		return Credentials{}, err
	}
	return Credentials{Origin: origin, Destination: destination, KeyID: key.ID, Signature: key.Sign(object)}, nil
}

// Verify returns nil when c proves that c.Origin, whose key c.KeyID is pub, sent this request to the server own.
// The uri is the request target as it was received, undecoded; content is the body as it was received.
//
// The body may be JSON that canonjson.AppendLoose takes: one bad event in a transaction must not refuse the others with
// it. Who reads the body decides what is too much.
//
// An error is mxerr.Unauthorized, or one of canonjson when the body is not JSON that could have been signed.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#request-authentication
func Verify(c Credentials, own id.ServerName, method, uri string, content []byte, pub ed25519.PublicKey) error {
	// "If this property is included, but the value does not match the receiving server's name, the receiving server
	// must deny the request with an HTTP status code 401 Unauthorized."
	if c.Destination != "" && c.Destination != own {
		return mxerr.Unauthorized.With("the request was signed for another server")
	}
	object, err := signingObject(canonjson.AppendLoose, method, uri, c.Origin, own, content)
	if err != nil {
		return err
	}
	signature, err := signing.Decode(c.Signature)
	if err != nil || signing.Verify(pub, object, signature) != nil {
		return mxerr.Unauthorized.With("the signature of the request by %s is not valid", c.Origin)
	}
	return nil
}
