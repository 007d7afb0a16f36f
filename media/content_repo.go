package media

import (
	"context"
	"net/http"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// transferTime is how long the bytes of a file may take on their way: what timeouts the host's http.Server has are
// meant for smaller things.
const transferTime = time.Hour

type configured struct {
	UploadSize *int64 `json:"m.upload.size,omitempty"`
}

// getConfig implements GET /_matrix/client/v1/media/config.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediaconfig
func (s *Service) getConfig(context.Context, *httpapi.Call, *httpapi.None) (*configured, error) {
	if s.Limits.Upload < 0 {
		return &configured{}, nil
	}
	return &configured{&s.Limits.Upload}, nil
}

type location struct {
	URI     string `json:"content_uri"`
	Expires int64  `json:"unused_expires_at,omitempty"`
}

func (s *Service) uri(mediaID string) string { return "mxc://" + string(s.ServerName) + "/" + mediaID }

// uploadContent implements POST /_matrix/media/v3/upload.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixmediav3upload
func (s *Service) uploadContent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*location, error) {
	mediaID, err := s.Upload(ctx, uploadOf(c))
	return &location{URI: s.uri(mediaID)}, err
}

// uploadOf is what a request uploads.
func uploadOf(c *httpapi.Call) Upload {
	c.ExtendDeadline(transferTime)
	return Upload{
		Owner: c.User, Type: c.Request.Header.Get("Content-Type"), Name: c.Query("filename"), Size: c.Request.ContentLength,
		Body: c.Request.Body,
	}
}

// createContent implements POST /_matrix/media/v1/create.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixmediav1create
func (s *Service) createContent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*location, error) {
	mediaID, expires, err := s.Create(ctx, c.User)
	return &location{URI: s.uri(mediaID), Expires: expires.UnixMilli()}, err
}

// uploadContentToMXC implements PUT /_matrix/media/v3/upload/{serverName}/{mediaId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixmediav3uploadservernamemediaid
func (s *Service) uploadContentToMXC(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	return nil, s.Fill(ctx, c.ServerName("serverName"), c.PathValue("mediaId"), uploadOf(c))
}

// getContent implements GET /_matrix/client/v1/media/download/{serverName}/{mediaId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid
func (s *Service) getContent(w http.ResponseWriter, c *httpapi.Call) error {
	return s.download(w, c, false)
}

// getContentWithoutToken implements GET /_matrix/media/v3/download/{serverName}/{mediaId}.
//
// It is deprecated. Unless Config.WithoutToken says otherwise it knows of no file: "Homeservers SHOULD freeze".
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixmediav3downloadservernamemediaid
func (s *Service) getContentWithoutToken(w http.ResponseWriter, c *httpapi.Call) error {
	return s.download(w, c, true)
}

func (s *Service) download(w http.ResponseWriter, c *httpapi.Call, old bool) error {
	q, err := s.wanted(c, old)
	if err != nil {
		return err
	}
	c.ExtendDeadline(transferTime)
	m, err := s.find(c.Request.Context(), q)
	if err != nil {
		return err
	}
	out := contentOf(m, c.PathValue("fileName"))
	out.public = old
	return s.serve(w, c.Request, out)
}

// wanted reads which file is asked for.
func (s *Service) wanted(c *httpapi.Call, old bool) (Wanted, error) {
	q := Wanted{Server: id.ServerName(c.PathValue("serverName")), ID: c.PathValue("mediaId"), OldEndpoint: old}
	remote, err := c.Bool("allow_remote", true)
	if err != nil {
		return q, err
	}
	q.LocalOnly = !remote
	ms, err := c.Int64("timeout_ms", defaultWait.Milliseconds())
	if err == nil && ms < 0 {
		err = mxerr.InvalidParam.With("timeout_ms is negative")
	}
	q.Wait = time.Duration(min(ms, maxWait.Milliseconds())) * time.Millisecond
	return q, err
}
