package media

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	switch {
	case errors.Is(err, storage.ErrNotFound) && q.Server != s.ServerName && !q.LocalOnly:
		m, err = s.fetch(ctx, q)
	case errors.Is(err, storage.ErrNotFound):
		return m, unknownFile()
	}
	if err == nil && m.Quarantined {
		return m, unknownFile()
	}
	return m, errors.Join(err, s.used(ctx, m, err))
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

// used notes that a file is asked for, unless it was noted lately, or failed to be found.
func (s *Service) used(ctx context.Context, m storage.Media, failed error) error {
	now := s.Now().UnixMilli()
	if failed != nil || now-m.UsedMS < usedEvery.Milliseconds() {
		return nil
	}
	return s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error { return tx.UseMedia(m.Server, m.ID, now) })
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
	if base, _, err := mime.ParseMediaType(kind); err == nil && slices.Contains(inline, base) {
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
	file := &seeker{ctx: r.Context(), store: s.Store, key: c.key, size: c.size}
	defer file.Close()
	if err := file.open(); err != nil { // while there is still an error to be answered
		for _, name := range []string{"Content-Disposition", "Content-Security-Policy", "Etag"} {
			h.Del(name)
		}
		return err
	}
	http.ServeContent(w, r, "", c.since, file)
	return nil
}

// seeker reads a file of a store from wherever it is asked to.
type seeker struct {
	ctx   context.Context
	store Store
	key   string
	size  int64
	at    int64
	from  io.ReadCloser // reads on at at; nil: not open
}

func (f *seeker) open() error {
	from, total, err := f.store.Get(f.ctx, f.key, f.at, -1)
	if err != nil {
		return fmt.Errorf("read file %s: %w", f.key, err)
	}
	if total != f.size {
		return errors.Join(fmt.Errorf("file %s has %d bytes in the store, not %d", f.key, total, f.size), from.Close())
	}
	f.from = from
	return nil
}

func (f *seeker) Read(p []byte) (int, error) {
	if f.from == nil {
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	n, err := f.from.Read(p)
	f.at += int64(n)
	return n, err
}

func (f *seeker) Seek(offset int64, whence int) (int64, error) {
	to := offset
	switch whence {
	case io.SeekCurrent:
		to += f.at
	case io.SeekEnd:
		to += f.size
	}
	if to < 0 {
		return 0, errors.New("media: seek before the beginning")
	}
	if to == f.at {
		return to, nil
	}
	f.at = to
	return to, f.Close()
}

// Close frees what is open; the next Read opens it again.
func (f *seeker) Close() error {
	if f.from == nil {
		return nil
	}
	defer func() { f.from = nil }()
	return f.from.Close()
}
