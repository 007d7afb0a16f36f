package federation

import (
	"context"
	"errors"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// getUserDevices implements GET /_matrix/federation/v1/user/devices/{userId}.
//
// Devices without keys are left out. The stream_id is that of the last update that the server that asks was told of.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1userdevicesuserid
func (s *Service) getUserDevices(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*UserDevices, error) {
	user := c.UserID("userId")
	if user.Server() != s.cfg.ServerName {
		return nil, mxerr.InvalidParam.With("%s is not a user of this server", user)
	}
	out := &UserDevices{User: user, Devices: []UserDevice{}}
	err := s.cfg.DB.Read(ctx, func(tx *storage.Tx) error {
		if _, err := tx.Account(user); err != nil {
			return err
		}
		public, err := s.cfg.Outbox.publish(tx, user)
		if err != nil {
			return err
		}
		for _, d := range public.Devices {
			if d.Keys != nil {
				out.Devices = append(out.Devices, UserDevice{ID: d.ID, Keys: d.Keys, Name: d.Name})
			}
		}
		out.Master, out.SelfSigning = public.Master, public.SelfSigning
		out.Stream, err = s.cfg.Outbox.streamFor(tx, user, c.Origin, maxPosition)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.With("this server has no user %s", user)
	}
	return out, err
}

// maxPosition is behind all positions.
const maxPosition storage.Pos = 1<<63 - 1
