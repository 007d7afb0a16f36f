// Package e2ee keeps the public keys by which clients encrypt for each other: the identity keys of devices, their one-time
// and fallback keys, cross-signing keys, signatures of all of these, and backups of the keys of rooms. It can read
// nothing of what is encrypted; its promises are that nobody's keys are mixed up, and that a one-time key is given out once.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#end-to-end-encryption
package e2ee

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// Config is what a Service is made of. The fields up to Confirm are required.
type Config struct {
	ServerName id.ServerName
	DB         *storage.DB
	Cache      *roomstate.Cache // who shares rooms with whom
	Hub        *notify.Hub

	// Confirm has a caller prove who they are before body is acted on; see auth.Service.Confirm.
	Confirm func(ctx context.Context, c *httpapi.Call, body json.RawMessage) (json.RawMessage, error)

	// Changes tells whose devices changed between two tokens of /sync; see syncing.Service. Nil: nobody's.
	Changes func(ctx context.Context, user id.UserID, from, to string) (changed, left []id.UserID, err error)

	Remote Remote           // other servers; nil: there are none
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil discards

	// NoDeviceNames keeps the display names of devices from everybody but their owners.
	NoDeviceNames bool
}

// Service is the package's part of the server. Its methods may be called at once. It has no goroutines before Start.
type Service struct {
	Config
	waker  waker
	counts countCache
	asking asking
	stop   context.CancelFunc
	tasks  sync.WaitGroup
}

// New returns a Service. It does no I/O and starts nothing.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{Config: cfg, waker: newWaker()}
}

// Start begins to wake those who wait for changes of devices, until Close.
func (s *Service) Start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.tasks.Go(func() { s.wakeSharers(ctx) })
}

// Close returns when the last goroutine has ended.
func (s *Service) Close() {
	if s.stop == nil {
		return
	}
	s.stop()
	s.tasks.Wait()
}
