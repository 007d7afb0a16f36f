package federation_test

import (
	"bytes"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// key makes the key whose seed is 32 times b.
func key(t *testing.T, version string, b byte) signing.Key {
	t.Helper()
	k, err := signing.NewKey(version, bytes.Repeat([]byte{b}, 32))
	require.NoError(t, err)
	return k
}

func get(t *testing.T, cfg federation.Config, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	router := httpapi.NewRouter(httpapi.Config{}, federation.New(cfg).Routes())
	router.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func TestServerKeys(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	current, former := key(t, "new", 1), key(t, "old", 2)
	cfg := federation.Config{
		ServerName: "hs1:8448", Key: current, Version: "1",
		OldKeys: []federation.OldKey{{ID: former.ID, Public: former.Public(), ExpiredAt: now.Add(-time.Hour)}},
		Now:     func() time.Time { return now },
	}
	for _, path := range []string{"/_matrix/key/v2/server", "/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519:new", "/_matrix/key/v2/server/ed25519:gone"} {
		t.Run(path, func(t *testing.T) {
			w := get(t, cfg, path)
			require.Equal(t, 200, w.Code, "%s", w.Body)
			require.NoError(t, signing.VerifyJSON("hs1:8448", "ed25519:new", current.Public(), w.Body.Bytes()))
			unsigned := `{"old_verify_keys":{"ed25519:old":{"expired_ts":1699996400000,"key":"gTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5Q"}},` +
				`"server_name":"hs1:8448","signatures":{`
			require.Contains(t, w.Body.String(), unsigned)
			require.Contains(t, w.Body.String(), `"valid_until_ts":1700086400000,"verify_keys":{"ed25519:new":{"key":"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w"}}}`)
		})
	}
}

func TestServerKeysWithoutFormerOnes(t *testing.T) {
	w := get(t, federation.Config{ServerName: "hs1", Key: key(t, "a", 1)}, "/_matrix/key/v2/server")
	require.Contains(t, w.Body.String(), `"old_verify_keys":{}`)
}

func TestVersion(t *testing.T) {
	w := get(t, federation.Config{ServerName: "hs1", Key: key(t, "a", 1), Version: "0.1"}, "/_matrix/federation/v1/version")
	require.Equal(t, `{"server":{"name":"embedmatrix","version":"0.1"}}`, w.Body.String())
}
