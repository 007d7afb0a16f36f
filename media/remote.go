package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// Remote asks other servers for their files; a *federation.Client is one.
type Remote interface {
	// Media asks a server for one of its files, whose bytes are bounded by maxSize; negative is no bound. Errors that
	// are mxerr.Error are told to the client: mxerr.NotFound, mxerr.NotYetUploaded, mxerr.TooLarge.
	Media(ctx context.Context, server id.ServerName, mediaID string, wait time.Duration, maxSize int64) (*RemoteFile, error)
}

// RemoteFile is a file that another server sends.
type RemoteFile struct {
	Type, Name string
	Size       int64 // -1: not known yet
	Body       io.ReadCloser
}

// fetchTime bounds how long a file of another server may take, the waiting for its turn included.
const fetchTime = 10 * time.Minute

// How many files are fetched at a time. A server that is slow on purpose keeps nobody else's files from coming.
const (
	maxFetched   = 64
	maxFetchedOf = 8 // of one server
)

// maxFlights bounds how many things of a kind are asked for at a time.
const maxFlights = 1024

// fetch gets a file of another server, once for all who ask for it at the same time, and keeps it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#content-repository
func (s *Service) fetch(ctx context.Context, q Wanted) (storage.Media, error) {
	if s.Remote == nil {
		return storage.Media{}, unknownFile()
	}
	f, err := s.fetching.join(string(q.Server)+"/"+q.ID, func(f *flight[storage.Media]) {
		s.running.Go(func() {
			// However long those who asked go on waiting.
			ctx, cancel := context.WithTimeout(s.closing, fetchTime)
			defer cancel()
			s.fetching.land(f, func() (storage.Media, error) { return s.bring(ctx, q) })
		})
	})
	if err != nil {
		return storage.Media{}, err
	}
	return f.wait(ctx)
}

// bring asks the server of a file for it, when it is its turn, and keeps what comes.
func (s *Service) bring(ctx context.Context, q Wanted) (m storage.Media, err error) {
	for _, group := range []turnOf{{string(q.Server), maxFetchedOf}, {"", maxFetched}} {
		done, err := s.fetchers.take(ctx, group)
		if err != nil {
			return m, err
		}
		defer done()
	}
	if m, err = s.known(ctx, q.Server, q.ID); err == nil {
		return m, nil // it has come meanwhile
	}
	file, err := s.Remote.Media(ctx, q.Server, q.ID, q.Wait, s.Limits.Remote)
	if err != nil {
		return m, s.unreachable(ctx, q, err)
	}
	defer file.Body.Close()
	u, err := Upload{Type: file.Type, Name: file.Name, Size: file.Size, Body: file.Body}.described()
	if err != nil { // its type is no type
		u.Type = octetStream
	}
	err = s.keep(ctx, u, s.Limits.Remote, func(tx *storage.Tx, kept storage.Media) error {
		m = kept
		m.Server, m.ID = q.Server, q.ID
		return tx.InsertMedia(m)
	})
	switch {
	case errors.Is(err, errEndedEarly), errors.Is(err, mxerr.TooLarge):
		return m, s.unreachable(ctx, q, err)
	case err != nil:
		return m, err
	}
	s.cache(ctx, m.Size)
	return m, nil
}

// unreachable is what a client is told of a file that another server did not send.
func (s *Service) unreachable(ctx context.Context, q Wanted, err error) error {
	var mx *mxerr.Error
	switch {
	case errors.Is(err, mxerr.TooLarge):
		return mxerr.TooLarge.WithStatus(502).With("the file is larger than this server keeps")
	case errors.As(err, &mx) && !errors.Is(err, errEndedEarly):
		return mx
	}
	s.Log.DebugContext(ctx, "a file of another server could not be had", slog.String("server", string(q.Server)), slog.Any("reason", err))
	return mxerr.NotFound.With("%s does not give the file out now", q.Server)
}

// cache counts a file that nobody here has uploaded. It drops those that were not asked for longest, until the others
// fit.
func (s *Service) cache(ctx context.Context, size int64) {
	s.cached.Add(size)
	if s.Limits.RemoteCache < 0 || !s.shrinking.CompareAndSwap(false, true) {
		return
	}
	defer s.shrinking.Store(false)
	for s.cached.Load() > s.Limits.RemoteCache {
		var old []storage.Media
		err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			old, err = tx.OldMedia(false, 1<<62, atOnce)
			return err
		})
		if err != nil || len(old) == 0 {
			s.failed(ctx, err)
			return
		}
		for i := range old {
			if s.cached.Load() <= s.Limits.RemoteCache {
				return
			}
			if err := s.Delete(ctx, old[i].Server, old[i].ID); err != nil && !errors.Is(err, storage.ErrNotFound) {
				s.failed(ctx, err)
				return
			}
		}
	}
}

func (s *Service) failed(ctx context.Context, err error) {
	if err != nil {
		s.Log.WarnContext(ctx, "files of other servers could not be dropped", slog.Any("error", err))
	}
}

// flights are things that are made or fetched once for all who ask for them at the same time.
type flights[T any] struct {
	mu     sync.Mutex // guards the following
	by     map[string]*flight[T]
	closed bool
}

type flight[T any] struct {
	key    string
	landed chan struct{} // closed when the following are there
	thing  T
	err    error
}

// join returns the flight of a thing; the first to ask begins it.
func (fs *flights[T]) join(key string, begin func(*flight[T])) (*flight[T], error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.by[key]; f != nil {
		return f, nil
	}
	if fs.closed || len(fs.by) >= maxFlights {
		return nil, mxerr.LimitExceeded.With("too many files are being made or fetched")
	}
	if fs.by == nil {
		fs.by = map[string]*flight[T]{}
	}
	f := &flight[T]{key: key, landed: make(chan struct{})}
	fs.by[key] = f
	begin(f)
	return f, nil
}

// land makes or fetches the thing of a flight.
func (fs *flights[T]) land(f *flight[T], thing func() (T, error)) {
	defer func() {
		if p := recover(); p != nil { // images from outside meet decoders; whoever asked is told
			f.err = fmt.Errorf("%s: panic: %v", f.key, p)
		}
		fs.mu.Lock()
		delete(fs.by, f.key)
		fs.mu.Unlock()
		close(f.landed)
	}()
	f.thing, f.err = thing()
}

// close lets nobody begin any more.
func (fs *flights[T]) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
}

// wait returns the thing once it is there, or the error of ctx.
func (f *flight[T]) wait(ctx context.Context) (T, error) {
	select {
	case <-f.landed:
		return f.thing, f.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
