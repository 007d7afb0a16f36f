package federation

import (
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

// Media gives this server's own files out: the one that a call names, or an image that is made of it. give is called
// once, with the file's headers and bytes, unless there is an error that is the client's to know.
type Media interface {
	Own(c *httpapi.Call, give func(contentType, disposition string, body io.Reader) error) error
	OwnThumbnail(c *httpapi.Call, give func(contentType, disposition string, body io.Reader) error) error
}

// getContent implements GET /_matrix/federation/v1/media/download/{mediaId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediadownloadmediaid
func (s *Service) getContent(w http.ResponseWriter, c *httpapi.Call) error {
	return s.cfg.Media.Own(c, giveMedia(w))
}

// getContentThumbnail implements GET /_matrix/federation/v1/media/thumbnail/{mediaId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediathumbnailmediaid
func (s *Service) getContentThumbnail(w http.ResponseWriter, c *httpapi.Call) error {
	return s.cfg.Media.OwnThumbnail(c, giveMedia(w))
}

// giveMedia writes a file as servers exchange them: "The first part has a Content-Type of application/json and
// describes the media metadata … The second part is … the media itself."
func giveMedia(w http.ResponseWriter) func(string, string, io.Reader) error {
	return func(contentType, disposition string, body io.Reader) error {
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
