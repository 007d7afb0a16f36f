package media

import (
	"context"
	"io"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

// Own gives one of this server's own files to another server: the wildcard {mediaId} of the call.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediadownloadmediaid
func (s *Service) Own(c *httpapi.Call, give func(contentType, disposition string, body io.Reader) error) error {
	q, err := s.ownWanted(c)
	if err != nil {
		return err
	}
	m, err := s.find(c.Request.Context(), q)
	if err != nil {
		return err
	}
	return s.give(c.Request.Context(), contentOf(m, ""), give)
}

// OwnThumbnail is Own for an image that is made of the file.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediathumbnailmediaid
func (s *Service) OwnThumbnail(c *httpapi.Call, give func(contentType, disposition string, body io.Reader) error) error {
	q, err := s.ownWanted(c)
	if err != nil {
		return err
	}
	size, err := sizeWanted(c)
	if err != nil {
		return err
	}
	out, err := s.thumbnail(c.Request.Context(), q, size)
	if err != nil {
		return err
	}
	return s.give(c.Request.Context(), out, give)
}

// ownWanted reads which of this server's files is asked for.
func (s *Service) ownWanted(c *httpapi.Call) (Wanted, error) {
	c.ExtendDeadline(transferTime)
	q, err := s.wanted(c, false)
	q.Server = s.ServerName
	return q, err
}

func (s *Service) give(ctx context.Context, c content, give func(contentType, disposition string, body io.Reader) error) error {
	body, err := s.open(ctx, c.key, 0)
	if err != nil {
		return err
	}
	defer body.Close()
	return give(c.kind, c.disposition, body)
}
