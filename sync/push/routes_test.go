package push_test

import (
	"context"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/sync/push"
)

// alice is the only session there is.
type alice struct{}

func (alice) Session(_ context.Context, token string, _ httpapi.Seen) (*httpapi.Session, error) {
	if token != "alice" {
		return nil, mxerr.UnknownToken
	}
	return &httpapi.Session{User: "@alice:example.org", Device: "A"}, nil
}

func TestPushRules(t *testing.T) {
	router := httpapi.NewRouter(httpapi.Config{Sessions: alice{}}, push.New().Routes())
	for _, tt := range []struct {
		name, path, token string
		status            int
		want              string
	}{
		{"all", "/_matrix/client/v3/pushrules/", "alice", 200, `"global":{"override":[{"rule_id":".m.rule.master"`},
		{"without the slash", "/_matrix/client/v3/pushrules", "alice", 200, `"global":`},
		{"the old version", "/_matrix/client/r0/pushrules/", "alice", 200, `"global":`},
		{"one scope", "/_matrix/client/v3/pushrules/global/", "alice", 200, `{"override":[{"rule_id":".m.rule.master"`},
		{"another scope", "/_matrix/client/v3/pushrules/device/", "alice", 404, "M_UNRECOGNIZED"},
		{"nobody", "/_matrix/client/v3/pushrules/", "", 401, "M_MISSING_TOKEN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", tt.path, nil)
			if tt.token != "" {
				r.Header.Set("Authorization", "Bearer "+tt.token)
			}
			w := httptest.NewRecorder()
			router.ServeHTTP(w, r)
			require.Equal(t, tt.status, w.Code, "GET %s: %s", tt.path, w.Body)
			require.Contains(t, w.Body.String(), tt.want)
		})
	}
}
