package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// RemoteFile is a file of another server, whose Body must be closed.
type RemoteFile struct {
	Type, Name string // as the other server says
	Size       int64  // -1: not known
	Body       io.ReadCloser
}

// maxMediaAnswer is how many bytes a file may have when nobody has said so.
const maxMediaAnswer = 1 << 40

// mediaSlack is how many bytes of an answer may be something else than the file.
const mediaSlack = 64 << 10

// Media asks a server for one of its files, of at most maxSize bytes unless that is negative: more is mxerr.TooLarge.
// A server that does not know the endpoint is asked in the old way.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#content-repository
func (c *Client) Media(ctx context.Context, server id.ServerName, mediaID string, wait time.Duration, maxSize int64) (*RemoteFile, error) {
	limit := maxSize
	if limit < 0 {
		limit = maxMediaAnswer
	}
	query := url.Values{"timeout_ms": {strconv.FormatInt(wait.Milliseconds(), 10)}}
	request := get(server, "media/download/"+url.PathEscape(mediaID), query, limit+mediaSlack)
	request.Timeout = wait + mediaPatience
	stream, err := c.Wire.Stream(ctx, request)
	if unknownEndpoint(err) {
		return c.oldMedia(ctx, server, mediaID, query, limit, request.Timeout)
	}
	if err != nil {
		return nil, mediaError(err)
	}
	file, err := c.multipart(ctx, stream, limit)
	if err != nil {
		return nil, errors.Join(mediaError(err), stream.Body.Close())
	}
	return file, nil
}

// mediaPatience is how long a server may take to begin, beside the waiting for an upload.
const mediaPatience = 20 * time.Second

// unknownEndpoint: "If the … endpoint returns a 404 M_UNRECOGNIZED error, … fall back". Others answer 400.
func unknownEndpoint(err error) bool {
	var refused *wire.Error
	return errors.As(err, &refused) && (refused.Code == mxerr.Unrecognized.Code ||
		refused.Status == http.StatusNotFound && refused.Code == "" || refused.Status == http.StatusBadRequest)
}

// oldMedia asks in the way of before v1.11.
func (c *Client) oldMedia(ctx context.Context, server id.ServerName, mediaID string, query url.Values, limit int64, timeout time.Duration) (*RemoteFile, error) {
	query.Set("allow_remote", "false") // "… MUST set allow_remote to false". Redirects, which are not followed, are not asked for.
	stream, err := c.Wire.Stream(ctx, wire.Request{
		Destination: server, Method: http.MethodGet, Path: "/_matrix/media/v3/download/" + url.PathEscape(string(server)) + "/" + url.PathEscape(mediaID),
		Query: query, MaxAnswer: limit + 1, Unsigned: true, Timeout: timeout,
	})
	if err != nil {
		return nil, mediaError(err)
	}
	file := &RemoteFile{Type: stream.Header.Get("Content-Type"), Name: fileName(stream.Header.Get("Content-Disposition")), Size: -1}
	file.Body = bounded(stream.Body, stream.Body, limit)
	return file, nil
}

// multipart reads an answer up to the bytes of its file.
func (c *Client) multipart(ctx context.Context, stream *wire.Stream, limit int64) (*RemoteFile, error) {
	kind, params, err := mime.ParseMediaType(stream.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || params["boundary"] == "" {
		return nil, fmt.Errorf("the answer is %q, not multipart/mixed", stream.Header.Get("Content-Type"))
	}
	parts := multipart.NewReader(stream.Body, params["boundary"])
	if _, err := parts.NextRawPart(); err != nil {
		return nil, fmt.Errorf("the part about the file: %w", err)
	}
	part, err := parts.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("the file: %w", err)
	}
	file := &RemoteFile{Type: part.Header.Get("Content-Type"), Name: fileName(part.Header.Get("Content-Disposition")), Size: -1}
	elsewhere := part.Header.Get("Location")
	if elsewhere == "" {
		file.Body = bounded(part, stream.Body, limit)
		return file, nil
	}
	body, kind, err := c.Wire.WebStream(ctx, elsewhere, limit+1)
	if err != nil {
		return nil, err
	}
	_ = stream.Body.Close() // has told all that is wanted of it
	file.Type, file.Body = cmp.Or(kind, file.Type), bounded(body, body, limit)
	return file, nil
}

// bounded ends the bytes of a file with mxerr.TooLarge.
func bounded(r io.Reader, c io.Closer, limit int64) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{&boundedReader{r, limit}, c}
}

type boundedReader struct {
	of   io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.of.Read(p)
	if b.left -= int64(n); b.left < 0 || errors.Is(err, wire.ErrTooLarge) {
		return 0, mxerr.TooLarge
	}
	return n, err
}

// mediaError is what a client may be told of why a file did not come.
func mediaError(err error) error {
	switch {
	case errors.Is(err, mxerr.NotFound):
		return mxerr.NotFound.With("the file's server does not have it")
	case errors.Is(err, mxerr.NotYetUploaded):
		return mxerr.NotYetUploaded
	case errors.Is(err, mxerr.TooLarge), errors.Is(err, wire.ErrTooLarge):
		return mxerr.TooLarge
	}
	return err
}

// fileName is the name that a Content-Disposition gives a file, without any path; "" for none.
func fileName(disposition string) string {
	_, params, err := mime.ParseMediaType(disposition)
	if err != nil {
		return ""
	}
	name := params["filename"]
	return name[strings.LastIndexAny(name, `/\`)+1:]
}
