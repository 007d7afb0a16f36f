package media

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Own gives one of this server's own files to another server.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediadownloadmediaid
func (s *Service) Own(ctx context.Context, mediaID string, wait time.Duration, give func(contentType, disposition string, body io.Reader) error) error {
	m, err := s.find(ctx, Wanted{Server: s.ServerName, ID: mediaID, Wait: wait})
	if err != nil {
		return err
	}
	return s.give(ctx, contentOf(m, ""), give)
}

// OwnThumbnail is Own for an image that is made of the file.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1mediathumbnailmediaid
func (s *Service) OwnThumbnail(ctx context.Context, mediaID string, wait time.Duration, size ThumbnailSize,
	give func(contentType, disposition string, body io.Reader) error,
) error {
	out, err := s.thumbnail(ctx, Wanted{Server: s.ServerName, ID: mediaID, Wait: wait}, size)
	if err != nil {
		return err
	}
	return s.give(ctx, out, give)
}

func (s *Service) give(ctx context.Context, c content, give func(contentType, disposition string, body io.Reader) error) error {
	body, _, err := s.Store.Get(ctx, c.key, 0, -1)
	if err != nil {
		return fmt.Errorf("read file %s: %w", c.key, err)
	}
	defer body.Close()
	return give(c.kind, c.disposition, body)
}
