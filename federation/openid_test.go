package federation_test

import (
	"io"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// TestOpenIDUserinfo is FQ-08: whoever holds a token learns whose it is, without a signature; other tokens, and none, get
// 401. It does not take federation.
func TestOpenIDUserinfo(t *testing.T) {
	hs := homeservertest.New(t, func(cfg *homeserver.Config) { cfg.NoQueryTokens = true })
	alice := hs.User("alice")
	request := "/_matrix/client/v3/user/" + url.PathEscape(alice.ID) + "/openid/request_token"
	token := alice.Do("POST", request, map[string]any{}).WantOK().Get("access_token").Str
	tests := []struct {
		name, query string
		status      int
		body        string
	}{
		{"good", "?access_token=" + token, 200, `{"sub":"` + alice.ID + `"}`},
		{"unknown", "?access_token=an/invalid/token", 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"the access token is unknown or has expired"}`},
		{"none", "", 401, `{"errcode":"M_MISSING_TOKEN","error":"access_token is missing"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			response, err := hs.Homeserver().HTTPClient().Get("http://hs.test/_matrix/federation/v1/openid/userinfo" + tt.query)
			require.NoError(t, err)
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.Equal(t, tt.status, response.StatusCode, "%s", body)
			require.JSONEq(t, tt.body, string(body))
		})
	}
}
