package media

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// Limits bound what is kept. Zero values mean the defaults named; negative ones no limit, but for Pixels and PendingFor.
type Limits struct {
	Upload       int64         // bytes of one file; 100 MiB
	Pixels       int64         // of an image of which thumbnails are made; 64 million
	PerUser      int64         // bytes of all files of a user; no limit
	Pending      int           // mxc: URIs that a user has asked for and not uploaded yet; 20
	PendingFor   time.Duration // how long such a URI may be uploaded; 24 hours
	Remote       int64         // bytes of one file of another server or of a web page; as Upload, and never more than RemoteCache
	RemoteCache  int64         // bytes of all files of other servers and web pages that are kept here, those used last; 10 GiB
	RemoteUnused time.Duration // after which one of these is dropped that nobody asked for; no limit
	LocalUnused  time.Duration // likewise for files of this server, for good; no limit
}

func (l Limits) withDefaults() Limits {
	if l.Upload == 0 {
		l.Upload = 100 << 20
	}
	if l.Pixels <= 0 {
		l.Pixels = 64e6
	}
	if l.Pending == 0 {
		l.Pending = 20
	}
	if l.PendingFor <= 0 {
		l.PendingFor = 24 * time.Hour
	}
	if l.Remote == 0 {
		l.Remote = l.Upload
	}
	if l.RemoteCache == 0 {
		l.RemoteCache = 10 << 30
	}
	if l.RemoteCache > 0 && (l.Remote < 0 || l.Remote > l.RemoteCache) {
		l.Remote = l.RemoteCache
	}
	return l
}

// maxDrawing is how many thumbnails are made at a time: each may take four bytes a pixel, and more.
const maxDrawing = 2

// Config is what a Service is made of. Fields up to Rand are required.
type Config struct {
	ServerName id.ServerName
	Store      Store
	DB         *storage.DB
	Now        func() time.Time
	Rand       io.Reader

	Limits Limits

	// Remote asks other servers for their files; nil: there are only those of this server.
	Remote Remote

	// Previews tell what web pages say of themselves; nil: nobody is told.
	Previews *Previews

	// WithoutToken serves every file by the old endpoints as well, which ask for no token. Otherwise they know of no
	// file.
	WithoutToken bool

	Log *slog.Logger // nil discards
}

// Service is the content repository: what is known of files in storage, their bytes in a Store.
//
// The bytes of a file are written before its row, and deleted behind it; what a crash leaves in between is cleaned up
// at the next start. Files of the same bytes are stored once.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#content-repository
type Service struct {
	Config
	uploads    waiters                // who waits for a URI to be uploaded
	fetching   flights[storage.Media] // files of other servers
	making     flights[storage.Thumbnail]
	fetchers   turns
	drawers    turns
	previewing flights[storage.Preview]
	cached     atomic.Int64 // bytes of the files that nobody here has uploaded
	shrinking  atomic.Bool  // somebody makes room for them

	closing context.Context
	stop    context.CancelFunc
	running sync.WaitGroup // flights and the sweeper
}

// New returns a Service. Start starts it.
func New(cfg Config) *Service {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{Config: cfg}
	s.closing, s.stop = context.WithCancel(context.Background())
	return s
}

// Start deletes what the process before has left unfinished, and begins to forget what is old.
func (s *Service) Start(ctx context.Context) error {
	var left []string
	var cached int64
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if left, err = tx.UnfinishedFiles(); err != nil {
			return err
		}
		cached, err = tx.CachedMediaSize()
		return err
	})
	if err != nil {
		return err
	}
	s.cached.Store(cached)
	s.running.Go(func() {
		s.discard(s.closing, left)
		s.sweep(s.closing)
	})
	return nil
}

// Close ends what the Service does by itself, and awaits it. Downloads under way belong to their requests.
func (s *Service) Close() {
	s.fetching.close()
	s.making.close()
	s.previewing.close()
	s.stop()
	s.running.Wait()
}

// dropTime bounds how long a request goes on deleting.
const dropTime = time.Minute

// drop is discard for a request, whose client may have gone away.
func (s *Service) drop(ctx context.Context, keys ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTime)
	defer cancel()
	s.discard(ctx, keys)
}

// discard deletes bytes to which nothing refers any more. What cannot be deleted now is by the sweeper, or at the next
// start.
func (s *Service) discard(ctx context.Context, keys []string) {
	for _, key := range keys {
		if ctx.Err() != nil {
			return
		}
		if err := s.deleteBytes(ctx, key); err != nil && !errors.Is(err, context.Canceled) {
			s.Log.WarnContext(ctx, "a file that nobody needs could not be deleted", slog.String("key", key), slog.Any("error", err))
		}
	}
}

// deleteBytes deletes what the store has under a key, and notes that, or that it is still to be done.
func (s *Service) deleteBytes(ctx context.Context, key string) error {
	failed, note := s.Store.Delete(ctx, key), (*storage.Tx).ForgetFile
	if failed != nil {
		note = (*storage.Tx).EndFile
	}
	noted := s.DB.Write(context.WithoutCancel(ctx), func(tx *storage.Tx, _ storage.Pos) error { return note(tx, key) })
	return errors.Join(failed, noted)
}

// sweepEvery is how often old files are looked for.
const sweepEvery = time.Hour

// sweep forgets what is old, now and then, until ctx ends.
func (s *Service) sweep(ctx context.Context) {
	timer := time.NewTicker(sweepEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "old files could not be forgotten", slog.Any("error", err))
		}
	}
}

// Sweep forgets mxc: URIs that were not uploaded in time, and files that nobody asked for longer than Limits say, and
// deletes what could not be deleted before. The Service does so by itself every hour.
func (s *Service) Sweep(ctx context.Context) error {
	now := s.Now()
	err := s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error { return tx.ForgetExpiredMedia(now.UnixMilli()) })
	if err == nil && s.Limits.RemoteUnused > 0 {
		err = s.forgetUnused(ctx, false, now.Add(-s.Limits.RemoteUnused))
	}
	if err == nil && s.Limits.LocalUnused > 0 {
		err = s.forgetUnused(ctx, true, now.Add(-s.Limits.LocalUnused))
	}
	if err != nil {
		return err
	}
	return s.deleteDying(ctx)
}

func (s *Service) deleteDying(ctx context.Context) error {
	var dying []string
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		dying, err = tx.DyingFiles()
		return err
	})
	s.discard(ctx, dying)
	return err
}

// atOnce is how many old files are looked for at a time.
const atOnce = 100

// forgetUnused forgets files, of users of this server or of others, that nobody has asked for since a time.
func (s *Service) forgetUnused(ctx context.Context, local bool, since time.Time) error {
	for {
		var old []storage.Media
		err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			old, err = tx.OldMedia(local, since.UnixMilli(), atOnce)
			return err
		})
		if err != nil || len(old) == 0 {
			return err
		}
		for i := range old {
			if err := s.Delete(ctx, old[i].Server, old[i].ID); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
	}
}

// Delete forgets mxc://server/mediaID. Its bytes are deleted unless another URI has the same. storage.ErrNotFound: there
// is none.
func (s *Service) Delete(ctx context.Context, server id.ServerName, mediaID string) error {
	var dead []string
	var m storage.Media
	err := s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) (err error) {
		if m, err = tx.Media(server, mediaID); err != nil {
			return err
		}
		if err = tx.DeleteMedia(server, mediaID); err != nil || m.File == "" {
			return err
		}
		dead, err = tx.ReleaseFile(m.File)
		return err
	})
	if err != nil {
		return err
	}
	if m.Owner == "" {
		s.cached.Add(-m.Size)
	}
	s.drop(ctx, dead...)
	return nil
}

// Quarantine gives mxc://server/mediaID out no more, or again. storage.ErrNotFound: there is none.
func (s *Service) Quarantine(ctx context.Context, server id.ServerName, mediaID string, on bool) error {
	return s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		known, err := tx.QuarantineMedia(server, mediaID, on)
		if err == nil && !known {
			err = storage.ErrNotFound
		}
		return err
	})
}
