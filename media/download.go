package media

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// How long somebody waits for a file that is not uploaded yet.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid
const (
	defaultWait = 20 * time.Second // "The default value is 20000 (20 seconds)."
	maxWait     = time.Minute
)

// usedEvery is how exactly it is known when a file was last asked for.
const usedEvery = time.Hour

// Wanted says which file is asked for, and how.
type Wanted struct {
	Server id.ServerName
	ID     string

	Wait        time.Duration // for its upload
	LocalOnly   bool          // do not ask other servers
	OldEndpoint bool          // asked without a token
}

// find returns what is known of a file that is here, of whichever server, or comes within Wanted.Wait.
func (s *Service) find(ctx context.Context, q Wanted) (storage.Media, error) {
	if !validID(q.ID) {
		return storage.Media{}, mxerr.NotFound.With("the media id is none")
	}
	if q.OldEndpoint && !s.WithoutToken {
		return storage.Media{}, mxerr.NotFound.With("there is no such file, or it is not given out without a token")
	}
	m, err := s.uploaded(ctx, q)
	if errors.Is(err, storage.ErrNotFound) && q.Server != s.ServerName && !q.LocalOnly {
		m, err = s.fetch(ctx, q)
	}
	switch {
	case errors.Is(err, storage.ErrNotFound), err == nil && m.Quarantined:
		return m, unknownFile()
	case err == nil:
		s.used(ctx, m)
	}
	return m, err
}

func unknownFile() error { return mxerr.NotFound.With("there is no such file") }

// validID: "should only be made of alphanumeric, _, and - characters"; whatever else must not be processed.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#matrix-content-mxc-uris
func validID(mediaID string) bool {
	return mediaID != "" && len(mediaID) <= 255 && strings.IndexFunc(mediaID, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
	}) < 0
}

// uploaded returns what is known of a file. For one that is not uploaded yet it waits.
func (s *Service) uploaded(ctx context.Context, q Wanted) (storage.Media, error) {
	done, forget := s.uploads.wait(q.ID) // before it is looked for, so that no upload goes unnoticed
	defer forget()
	m, err := s.known(ctx, q.Server, q.ID)
	if err != nil || m.File != "" {
		return m, err
	}
	if m.ExpiresMS <= s.Now().UnixMilli() {
		return m, storage.ErrNotFound
	}
	patience := time.NewTimer(q.Wait)
	defer patience.Stop()
	select {
	case <-done:
		return s.known(ctx, q.Server, q.ID)
	case <-patience.C:
		return m, mxerr.NotYetUploaded
	case <-s.closing.Done():
		return m, mxerr.NotYetUploaded
	case <-ctx.Done():
		return m, ctx.Err()
	}
}

func (s *Service) known(ctx context.Context, server id.ServerName, mediaID string) (m storage.Media, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		m, err = tx.Media(server, mediaID)
		return err
	})
	return m, err
}

// used notes that a file is asked for, unless it was noted lately. A file is given out even if that cannot be noted.
func (s *Service) used(ctx context.Context, m storage.Media) {
	now := s.Now().UnixMilli()
	if now-m.UsedMS < usedEvery.Milliseconds() {
		return
	}
	err := s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error { return tx.UseMedia(m.Server, m.ID, now) })
	if err != nil && ctx.Err() == nil {
		s.Log.WarnContext(ctx, "it could not be noted that a file was asked for", slog.Any("error", err))
	}
}

// open reads a file of the store from an offset on. One that is not there was deleted since it was found.
func (s *Service) open(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	body, _, err := s.Store.Get(ctx, key, offset, -1)
	switch {
	case errors.Is(err, ErrNotFound):
		s.Log.WarnContext(ctx, "the store does not have a file", slog.String("key", key))
		return nil, unknownFile()
	case err != nil:
		return nil, fmt.Errorf("read file %s: %w", key, err)
	}
	return body, nil
}

// content is a file that is given out.
type content struct {
	key         string // in the store
	size        int64
	etag        string // of the bytes
	kind        string
	disposition string
	public      bool // may be cached by others than who asked
	since       time.Time
}

// contentOf is a file as it was uploaded, under another name if one is given.
func contentOf(m storage.Media, name string) content {
	if name == "" {
		name = m.Name
	}
	return content{
		key: m.File, size: m.Size, etag: hex.EncodeToString(m.SHA256), kind: m.Type, disposition: disposition(m.Type, name),
		since: time.UnixMilli(m.CreatedMS),
	}
}

// inline are the types that browsers may show by themselves.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#serving-inline-content
var inline = []string{
	"text/css", "text/plain", "text/csv", "application/json", "application/ld+json", "image/jpeg", "image/gif", "image/png",
	"image/apng", "image/webp", "image/avif", "video/mp4", "video/webm", "video/ogg", "video/quicktime", "audio/mp4",
	"audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wav",
	"audio/flac", "audio/x-flac",
}

// disposition is the Content-Disposition of a file: what may carry scripts is never shown by the browser itself.
func disposition(kind, name string) string {
	how := "attachment"
	if slices.Contains(inline, baseType(kind)) {
		how = "inline"
	}
	if name == "" {
		return how
	}
	if full := mime.FormatMediaType(how, map[string]string{"filename": name}); full != "" {
		return full
	}
	return how
}

// contentSecurityPolicy keeps what is shown from doing anything.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#content-repository
const contentSecurityPolicy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; " +
	"style-src 'unsafe-inline'; object-src 'self';"

// serve gives a file out, or the part of it that is asked for. All content of users goes through here.
func (s *Service) serve(w http.ResponseWriter, r *http.Request, c content) error {
	file := &seeker{size: c.size, open: func(at int64) (io.ReadCloser, error) { return s.open(r.Context(), c.key, at) }}
	defer file.Close()
	if err := file.ready(); err != nil { // while there is still an error to be answered
		return err
	}
	h := w.Header()
	h.Set("Content-Type", c.kind)
	h.Set("Content-Disposition", c.disposition)
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Etag", `"`+c.etag+`"`)
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	if c.public {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(w, r, "", c.since, file)
	if r.Context().Err() != nil {
		return nil // the client has gone
	}
	return file.failed
}

// seeker reads a file from wherever it is asked to. It opens the file again only to read elsewhere.
type seeker struct {
	open   func(at int64) (io.ReadCloser, error)
	size   int64
	at     int64         // where the next Read begins
	from   io.ReadCloser // nil: not open
	fromAt int64         // where from reads on
	failed error         // of a Read, other than io.EOF
}

// ready opens the file where it is to be read.
func (f *seeker) ready() (err error) {
	if f.from != nil && f.fromAt == f.at {
		return nil
	}
	if err := f.Close(); err != nil {
		return err
	}
	f.fromAt = f.at
	f.from, err = f.open(f.at)
	return err
}

func (f *seeker) Read(p []byte) (n int, err error) {
	if err = f.ready(); err == nil {
		n, err = f.from.Read(p)
	}
	f.at += int64(n)
	f.fromAt = f.at
	if errors.Is(err, io.EOF) && f.at < f.size {
		err = fmt.Errorf("the store has %d bytes, not %d: %w", f.at, f.size, io.ErrUnexpectedEOF)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		f.failed = err
	}
	return n, err
}

func (f *seeker) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.size
	}
	if offset < 0 {
		return 0, errors.New("media: seek before the beginning")
	}
	f.at = offset
	return offset, nil
}

// Close frees what is open; the next Read opens it again.
func (f *seeker) Close() error {
	if f.from == nil {
		return nil
	}
	from := f.from
	f.from = nil
	return from.Close()
}
