package federation

import (
	"context"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// maxKeysBody bounds what may be asked about keys: thousands of users.
const maxKeysBody = 1 << 20

// UserKeys has the keys of local users; see e2ee.Service.
type UserKeys interface {
	QueryLocal(ctx context.Context, q e2ee.Query) (*e2ee.Keys, error)
	ClaimLocal(ctx context.Context, claims e2ee.Claims) (*e2ee.Claimed, error)
}

type userKeysQuery struct {
	DeviceKeys e2ee.Query `json:"device_keys"`
}

// queryUserEncryptionKeys implements POST /_matrix/federation/v1/user/keys/query.
//
// https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysquery
func (s *Service) queryUserEncryptionKeys(ctx context.Context, _ *httpapi.Call, in *userKeysQuery) (*e2ee.Keys, error) {
	if in.DeviceKeys == nil {
		return nil, mxerr.MissingParam.With("device_keys is missing")
	}
	return s.cfg.Keys.QueryLocal(ctx, in.DeviceKeys)
}

type userKeysClaim struct {
	Keys e2ee.Claims `json:"one_time_keys"`
}

// claimUserEncryptionKeys implements POST /_matrix/federation/v1/user/keys/claim.
//
// https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysclaim
func (s *Service) claimUserEncryptionKeys(ctx context.Context, c *httpapi.Call, in *userKeysClaim) (*e2ee.Claimed, error) {
	if in.Keys == nil {
		return nil, mxerr.MissingParam.With("one_time_keys is missing")
	}
	if err := c.Charge(httpapi.KeyClaims, in.Keys.Devices()); err != nil {
		return nil, err
	}
	return s.cfg.Keys.ClaimLocal(ctx, in.Keys)
}
