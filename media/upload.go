package media

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// Upload is a file that somebody uploads.
type Upload struct {
	Owner id.UserID
	Type  string    // "" is application/octet-stream
	Name  string    // "" is none
	Size  int64     // -1: not known yet
	Body  io.Reader // is read once, never kept in memory as a whole
}

// The bounds of what is kept beside a file.
const (
	maxType = 255  // bytes of a content type
	maxName = 1024 // bytes of a file name, of which the rest is left out
)

const octetStream = "application/octet-stream"

// described is the upload with a type and a name that fit in a header.
func (u Upload) described() (Upload, error) {
	if u.Type == "" {
		u.Type = octetStream
	}
	if len(u.Type) > maxType || strings.ContainsFunc(u.Type, isControl) {
		return u, mxerr.InvalidParam.With("the content type is none")
	}
	u.Name = clip(strings.Map(func(r rune) rune {
		if isControl(r) {
			return -1
		}
		return r
	}, u.Name), maxName)
	return u, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// clip cuts a text between two characters.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit
	for end > 0 && s[end]&0xc0 == 0x80 {
		end--
	}
	return s[:end]
}

// Upload keeps a file and returns the media id of its mxc: URI. Errors for the client: mxerr.TooLarge beyond
// Limits.Upload, mxerr.Forbidden beyond Limits.PerUser.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixmediav3upload
func (s *Service) Upload(ctx context.Context, u Upload) (string, error) {
	m, err := s.upload(ctx, u, s.Limits.Upload)
	return m.ID, err
}

// upload keeps a file of at most limit bytes under a new mxc: URI of this server.
func (s *Service) upload(ctx context.Context, u Upload, limit int64) (m storage.Media, err error) {
	if u, err = u.described(); err != nil {
		return m, err
	}
	mediaID, err := s.newID()
	if err != nil {
		return m, err
	}
	err = s.keep(ctx, u, limit, func(tx *storage.Tx, kept storage.Media) error {
		m = kept
		m.Server, m.ID = s.ServerName, mediaID
		return tx.InsertMedia(m)
	})
	return m, err
}

// newID draws a media id: "[A-Za-z0-9_-]", which nobody can guess.
func (s *Service) newID() (string, error) {
	var random [20]byte
	if _, err := io.ReadFull(s.Rand, random[:]); err != nil {
		return "", fmt.Errorf("draw a media id: %w", err)
	}
	return base32.StdEncoding.EncodeToString(random[:]), nil
}

// keep writes the bytes of an upload to the store and then, in one act, what is known of it: refer gives the file a
// name. What was written is deleted again when refer refuses, or when the same bytes are there already.
func (s *Service) keep(ctx context.Context, u Upload, limit int64, refer func(*storage.Tx, storage.Media) error) error {
	if err := s.mayUpload(ctx, u, limit); err != nil {
		return err
	}
	f, err := s.write(ctx, u, limit)
	if err != nil {
		return err
	}
	now := s.Now().UnixMilli()
	m := storage.Media{Owner: u.Owner, Type: u.Type, Name: u.Name, Size: f.Size, SHA256: f.SHA256, CreatedMS: now, UsedMS: now}
	err = s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) (err error) {
		if m.File, err = tx.FinishFile(f); err != nil {
			return err
		}
		if err := s.checkQuota(tx, u.Owner, f.Size); err != nil {
			return err
		}
		return refer(tx, m)
	})
	switch {
	case errors.Is(err, storage.ErrAway):
		return err // nobody knows whether it is kept: the next start does
	case err != nil, m.File != f.Key:
		s.drop(ctx, f.Key)
	}
	return err
}

// mayUpload refuses what is known to be too much before anything of it is read.
func (s *Service) mayUpload(ctx context.Context, u Upload, limit int64) error {
	if limit >= 0 && u.Size > limit {
		return tooLarge(limit)
	}
	if s.Limits.PerUser <= 0 || u.Owner == "" {
		return nil
	}
	return s.DB.Read(ctx, func(tx *storage.Tx) error { return s.checkQuota(tx, u.Owner, max(u.Size, 0)) })
}

func tooLarge(limit int64) error { return mxerr.TooLarge.With("a file may have %d bytes", limit) }

// checkQuota refuses bytes beyond what a user may have here.
func (s *Service) checkQuota(tx *storage.Tx, owner id.UserID, more int64) error {
	if s.Limits.PerUser <= 0 || owner == "" {
		return nil
	}
	have, err := tx.UploadedBy(owner)
	if err == nil && have+more > s.Limits.PerUser {
		err = mxerr.Forbidden.With("your files may have %d bytes together", s.Limits.PerUser)
	}
	return err
}

// write streams bytes to the store, under a new key that storage knows first.
func (s *Service) write(ctx context.Context, u Upload, limit int64) (storage.File, error) {
	key, err := s.newID()
	if err != nil {
		return storage.File{}, err
	}
	err = s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error { return tx.BeginFile(key) })
	if err != nil {
		return storage.File{}, err
	}
	r := &measure{of: u.Body, announced: u.Size, limit: limit, hash: sha256.New()}
	if err := s.Store.Put(ctx, key, r, u.Size); err != nil {
		s.drop(ctx, key)
		return storage.File{}, r.cause(err)
	}
	return storage.File{Key: key, SHA256: r.hash.Sum(nil), Size: r.n}, nil
}

// measure counts and hashes what is read, up to a limit.
type measure struct {
	of        io.Reader
	announced int64 // -1: not
	limit     int64 // negative: none
	n         int64
	hash      hash.Hash
	err       error // of the reader, or that there is too much
}

func (m *measure) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	n, err := m.of.Read(p)
	m.n += int64(n)
	m.hash.Write(p[:n])
	if m.limit >= 0 && m.n > m.limit {
		err = tooLarge(m.limit)
	}
	m.err = err
	return n, err
}

// errEndedEarly says that whoever sends a file broke off.
var errEndedEarly = errors.New("media: the bytes ended early")

// cause is why Put failed: what the reader said first, a fault of whoever sends, or else the store's error.
func (m *measure) cause(err error) error {
	var mx *mxerr.Error
	switch {
	case errors.As(m.err, &mx):
		return mx
	case m.err != nil && (m.err != io.EOF || m.announced >= 0 && m.n < m.announced):
		return fmt.Errorf("%w: %w: %w", mxerr.BadRequest.With("the upload ended early"), errEndedEarly, m.err)
	}
	return err
}

// Create makes an mxc: URI to be uploaded later, and tells until when it may be. mxerr.LimitExceeded: the user has too
// many.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixmediav1create
func (s *Service) Create(ctx context.Context, owner id.UserID) (mediaID string, expires time.Time, err error) {
	if mediaID, err = s.newID(); err != nil {
		return "", time.Time{}, err
	}
	now := s.Now()
	expires = now.Add(s.Limits.PendingFor)
	err = s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		pending, err := tx.PendingMedia(owner, now.UnixMilli())
		if err != nil {
			return err
		}
		if s.Limits.Pending >= 0 && pending >= s.Limits.Pending {
			return mxerr.LimitExceeded.With("you have %d media ids to which nothing was uploaded yet", pending)
		}
		return tx.InsertMedia(storage.Media{
			Server: s.ServerName, ID: mediaID, Owner: owner, CreatedMS: now.UnixMilli(), UsedMS: now.UnixMilli(),
			ExpiresMS: expires.UnixMilli(),
		})
	})
	return mediaID, expires, err
}

// Fill uploads to an mxc: URI of Create, and answers those who wait for it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#put_matrixmediav3uploadservernamemediaid
func (s *Service) Fill(ctx context.Context, server id.ServerName, mediaID string, u Upload) error {
	u, err := u.described()
	if err != nil {
		return err
	}
	err = s.DB.Read(ctx, func(tx *storage.Tx) error { return s.mayFill(tx, server, mediaID, u.Owner) })
	if err != nil {
		return err
	}
	err = s.keep(ctx, u, s.Limits.Upload, func(tx *storage.Tx, m storage.Media) error {
		if err := s.mayFill(tx, server, mediaID, u.Owner); err != nil {
			return err
		}
		m.Server, m.ID = server, mediaID
		return tx.FillMedia(m)
	})
	if err == nil {
		s.uploads.wake(mediaID)
	}
	return err
}

// mayFill refuses to upload to a URI that is another's, has a file, or is not there (any more).
func (s *Service) mayFill(tx *storage.Tx, server id.ServerName, mediaID string, owner id.UserID) error {
	m, err := tx.Media(server, mediaID)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return mxerr.NotFound.With("there is no such media id")
	case err != nil:
		return err
	case m.Server != s.ServerName || m.Owner != owner:
		return mxerr.Forbidden.With("the media id belongs to somebody else")
	case m.File != "":
		return mxerr.CannotOverwriteMedia
	case m.ExpiresMS <= s.Now().UnixMilli():
		return mxerr.NotFound.With("the media id was not used in time")
	}
	return nil
}

// waiters wait for uploads.
type waiters struct {
	mu sync.Mutex // guards by
	by map[string]*waiting
}

type waiting struct {
	done chan struct{} // closed by the upload
	n    int           // how many wait
}

// wait returns a channel that the upload of a media id closes, and what to call when it is waited for no more.
func (w *waiters) wait(mediaID string) (<-chan struct{}, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[string]*waiting{}
	}
	here := w.by[mediaID]
	if here == nil {
		here = &waiting{done: make(chan struct{})}
		w.by[mediaID] = here
	}
	here.n++
	return here.done, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if here.n--; here.n == 0 && w.by[mediaID] == here {
			delete(w.by, mediaID)
		}
	}
}

func (w *waiters) wake(mediaID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if here := w.by[mediaID]; here != nil {
		close(here.done)
		delete(w.by, mediaID)
	}
}
