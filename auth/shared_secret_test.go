package auth_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
)

const secretPath = "/_synapse/admin/v1/register"

func withSecret(c *auth.Config) { c.Registration = auth.Registration{SharedSecret: "sesame"} }

func (s *server) nonce() string {
	s.t.Helper()
	return s.call("GET", secretPath, "", nil).ok()["nonce"].(string)
}

func signed(secret string, body M) M {
	role := "notadmin"
	if body["admin"] == true {
		role = "admin"
	}
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(strings.Join([]string{body["nonce"].(string), body["username"].(string), body["password"].(string), role}, "\x00")))
	body["mac"] = hex.EncodeToString(mac.Sum(nil))
	return body
}

func TestSharedSecret(t *testing.T) {
	s := newServer(t, withSecret) // registration is closed otherwise
	body := s.call("POST", secretPath, "", signed("sesame", M{"nonce": s.nonce(), "username": "User-UPPER", "password": "pw-user-upper", "admin": false})).ok()
	require.Equal(t, "@user-upper:example.org", body["user_id"])
	require.NotEmpty(t, body["device_id"])
	s.as(body, "user-upper").again(nil)
	session, err := s.auth.Session(context.Background(), body["access_token"].(string), seenNowhere)
	require.NoError(t, err)
	require.False(t, session.Admin)

	body = s.call("POST", secretPath, "", signed("sesame", M{"nonce": s.nonce(), "username": "root", "password": "x", "admin": true})).ok()
	session, err = s.auth.Session(context.Background(), body["access_token"].(string), seenNowhere)
	require.NoError(t, err)
	require.True(t, session.Admin)

	s.call("POST", secretPath, "", signed("sesame", M{"nonce": s.nonce(), "username": "us,er", "password": "x"})).fails(400, "M_INVALID_USERNAME")
	s.call("POST", secretPath, "", signed("sesame", M{"nonce": s.nonce(), "username": "root", "password": "x"})).fails(400, "M_USER_IN_USE")
}

// C-24.
func TestSharedSecretRefuses(t *testing.T) {
	s := newServer(t, withSecret)
	fresh := func() M { return M{"nonce": s.nonce(), "username": "eve", "password": "x", "admin": false} }
	send := func(body M) *answer { return s.call("POST", secretPath, "", body) }

	flipped := signed("sesame", fresh())
	mac := []byte(flipped["mac"].(string))
	mac[0] = map[bool]byte{true: 'b', false: 'a'}[mac[0] == 'a']
	flipped["mac"] = string(mac)
	send(flipped).fails(403, "M_FORBIDDEN")
	send(signed("sesame", M{"nonce": flipped["nonce"], "username": "eve", "password": "x"})).fails(400, "M_UNKNOWN")

	raised := signed("sesame", fresh())
	raised["admin"] = true
	send(raised).fails(403, "M_FORBIDDEN")
	send(signed("", fresh())).fails(403, "M_FORBIDDEN")
	noMAC := signed("sesame", fresh())
	noMAC["mac"] = "nothing"
	send(noMAC).fails(403, "M_FORBIDDEN")
	for _, key := range []string{"nonce", "username", "password", "mac"} {
		body := signed("sesame", fresh())
		delete(body, key)
		send(body).fails(400, "M_MISSING_PARAM")
	}
	madeUp := fresh()
	madeUp["nonce"] = "made-up"
	send(signed("sesame", madeUp)).fails(400, "M_UNKNOWN")

	used := signed("sesame", fresh())
	send(used).ok()
	used["username"] = "again"
	send(signed("sesame", used)).fails(400, "M_UNKNOWN")

	late := fresh()
	s.clock.advance(2 * time.Minute)
	send(signed("sesame", late)).fails(400, "M_UNKNOWN")

	t.Run("nonces are bounded", func(t *testing.T) {
		first, last := s.nonce(), ""
		for range 1000 {
			last = s.nonce()
		}
		body := fresh()
		body["nonce"], body["username"] = first, "first"
		send(signed("sesame", body)).fails(400, "M_UNKNOWN")
		body["nonce"] = last
		send(signed("sesame", body)).ok()
	})
}
