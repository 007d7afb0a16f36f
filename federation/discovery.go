package federation

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

type version struct {
	Server software `json:"server"`
}

type software struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// getVersion implements GET /_matrix/federation/v1/version.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1version
func (s *Service) getVersion(context.Context, *httpapi.Call, *httpapi.None) (*version, error) {
	return &version{software{s.cfg.Software, s.cfg.Version}}, nil
}
