package federation

import (
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// Media gives this server's own files out. give is called once, with the file's headers and bytes, unless there is an
// error that is the client's to know.
type Media interface {
	Own(ctx context.Context, mediaID string, wait time.Duration, give func(contentType, disposition string, body io.Reader) error) error
	OwnThumbnail(ctx context.Context, mediaID string, wait time.Duration, size ThumbnailSize,
		give func(contentType, disposition string, body io.Reader) error) error
}

// ThumbnailSize says which image made of another is asked for.
type ThumbnailSize = struct {
	Width, Height  int
	Crop, Animated bool
}

// How long a server waits for a file that is not uploaded yet.
const (
	defaultMediaWait = 20 * time.Second // "The default value is 20000 (20 seconds)."
	maxMediaWait     = time.Minute
	transferTime     = time.Hour // for the bytes of a file
)

// getContent implements GET /_matrix/federation/v1/media/download/{mediaId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediadownloadmediaid
func (s *Service) getContent(w http.ResponseWriter, c *httpapi.Call) error {
	wait, err := mediaWait(c)
	if err != nil {
		return err
	}
	return s.cfg.Media.Own(c.Request.Context(), c.PathValue("mediaId"), wait, s.giveMedia(w, c))
}

// getContentThumbnail implements GET /_matrix/federation/v1/media/thumbnail/{mediaId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediathumbnailmediaid
func (s *Service) getContentThumbnail(w http.ResponseWriter, c *httpapi.Call) error {
	wait, err := mediaWait(c)
	if err != nil {
		return err
	}
	size, err := thumbnailSize(c)
	if err != nil {
		return err
	}
	return s.cfg.Media.OwnThumbnail(c.Request.Context(), c.PathValue("mediaId"), wait, size, s.giveMedia(w, c))
}

func mediaWait(c *httpapi.Call) (time.Duration, error) {
	ms, err := c.Int64("timeout_ms", defaultMediaWait.Milliseconds())
	if err == nil && ms < 0 {
		err = mxerr.InvalidParam.With("timeout_ms is negative")
	}
	return time.Duration(min(ms, maxMediaWait.Milliseconds())) * time.Millisecond, err
}

// thumbnailSize reads which image is asked for.
func thumbnailSize(c *httpapi.Call) (size ThumbnailSize, err error) {
	for name, to := range map[string]*int{"width": &size.Width, "height": &size.Height} {
		if !c.HasQuery(name) {
			return size, mxerr.MissingParam.With("%s is missing", name)
		}
		if *to, err = c.Int(name, 0); err != nil {
			return size, err
		}
	}
	switch c.Query("method") {
	case "crop":
		size.Crop = true
	case "", "scale":
	default:
		return size, mxerr.InvalidParam.With("method is crop or scale")
	}
	size.Animated, err = c.Bool("animated", false)
	return size, err
}

// giveMedia writes a file as servers exchange them: "The first part has a Content-Type of application/json and
// describes the media metadata … The second part is … the media itself."
func (s *Service) giveMedia(w http.ResponseWriter, c *httpapi.Call) func(string, string, io.Reader) error {
	return func(contentType, disposition string, body io.Reader) error {
		c.ExtendDeadline(transferTime)
		parts := multipart.NewWriter(w)
		w.Header().Set("Content-Type", "multipart/mixed; boundary="+parts.Boundary())
		for _, part := range []struct {
			header textproto.MIMEHeader
			body   io.Reader
		}{
			{textproto.MIMEHeader{"Content-Type": {"application/json"}}, strings.NewReader("{}")},
			{textproto.MIMEHeader{"Content-Type": {contentType}, "Content-Disposition": {disposition}}, body},
		} {
			out, err := parts.CreatePart(part.header)
			if err != nil {
				return fmt.Errorf("write a part: %w", err)
			}
			if _, err := io.Copy(out, part.body); err != nil {
				return fmt.Errorf("write a file: %w", err)
			}
		}
		return parts.Close()
	}
}
