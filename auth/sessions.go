package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// tokenHash is what is known of a token: its SHA-256. Tokens have 256 random bits, so nothing slower is needed,
// and looking a hash up tells an attacker nothing by its time.
type tokenHash [sha256.Size]byte

// longestToken bounds what is hashed for callers that nobody knows.
const longestToken = 512

func hashToken(token string) tokenHash { return sha256.Sum256([]byte(token)) }

// errExpired is the answer to a token whose session goes on once it is refreshed or its owner logs in again.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#soft-logout
func errExpired() error {
	return mxerr.UnknownToken.With("the token has expired").Set("soft_logout", true)
}

// Session implements httpapi.Sessions. It is on the way of every request: sessions are kept in memory until
// something about them changes.
func (s *Service) Session(ctx context.Context, token string, seen httpapi.Seen) (*httpapi.Session, error) {
	if token == "" || len(token) > longestToken {
		return nil, mxerr.UnknownToken
	}
	hash := hashToken(token)
	known := s.sessions.get(hash)
	if known == nil {
		var err error
		if known, err = s.loadSession(ctx, hash); err != nil {
			return nil, err
		}
	}
	now := s.nowMS()
	if known.expired(now) {
		return nil, errExpired()
	}
	s.sightings.note(known, now, seen)
	return &known.Session, nil
}

// loadSession finds a session in storage and remembers it.
func (s *Service) loadSession(ctx context.Context, hash tokenHash) (*session, error) {
	epoch := s.sessions.epoch.Load()
	var stored storage.Session
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		stored, err = tx.Session(hash[:])
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotFound) || err == nil && stored.Account.Deactivated:
		return nil, mxerr.UnknownToken
	case err != nil:
		return nil, fmt.Errorf("look up a session: %w", err)
	}
	found := s.newSession(stored)
	if found.expired(s.nowMS()) {
		return nil, errExpired()
	}
	if len(stored.Previous) > 0 {
		if err := s.confirmPair(ctx, stored.Refresh); err != nil {
			return nil, err
		}
	}
	s.sessions.add(hash, found, epoch)
	return found, nil
}

func (s *Service) newSession(stored storage.Session) *session {
	a := stored.Account
	return &session{
		Session: httpapi.Session{
			User: stored.User, Device: stored.Device, Guest: a.Guest, Admin: s.isAdmin(stored.User, a.Admin),
			Locked: a.Locked, Suspended: a.Suspended,
		},
		expiresMS: stored.ExpiresMS,
	}
}

// session is a session in memory. Only seenMS changes.
type session struct {
	httpapi.Session
	expiresMS int64 // 0: never
	seenMS    atomic.Int64
}

func (s *session) expired(nowMS int64) bool { return s.expiresMS > 0 && s.expiresMS <= nowMS }

// maxSessions is how many sessions are kept in memory: about 10 MiB.
const maxSessions = 20_000

// sessions is a cache of sessions by the hash of their token.
type sessions struct {
	// epoch counts what was forgotten: what was read from storage in an earlier epoch may be out of date, and
	// is not added.
	epoch atomic.Uint64

	mu sync.RWMutex // guards the following
	// byHash has the sessions, byUser the same ones by their user.
	byHash map[tokenHash]*session
	byUser map[id.UserID]map[tokenHash]struct{}
}

func (c *sessions) get(hash tokenHash) *session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byHash[hash]
}

// add remembers a session that was read in epoch.
func (c *sessions) add(hash tokenHash, found *session, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch.Load() != epoch {
		return
	}
	if c.byHash == nil {
		c.byHash, c.byUser = map[tokenHash]*session{}, map[id.UserID]map[tokenHash]struct{}{}
	}
	for other := range c.byHash { // any one: it can be read again
		if len(c.byHash) < maxSessions {
			break
		}
		c.dropLocked(other)
	}
	c.byHash[hash] = found
	if c.byUser[found.User] == nil {
		c.byUser[found.User] = map[tokenHash]struct{}{}
	}
	c.byUser[found.User][hash] = struct{}{}
}

// forget drops what is known of user; who comes again is read from storage. It is called after the commit of
// every change of the user's account, devices or tokens.
func (c *sessions) forget(user id.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch.Add(1)
	for hash := range c.byUser[user] {
		c.dropLocked(hash)
	}
}

func (c *sessions) dropLocked(hash tokenHash) {
	user := c.byHash[hash].User
	delete(c.byHash, hash)
	delete(c.byUser[user], hash)
	if len(c.byUser[user]) == 0 {
		delete(c.byUser, user)
	}
}

const (
	// sightingEvery is how far apart two sightings of a session are at least; storeEvery is how long one waits
	// for others before it is stored. The specification allows a few minutes.
	sightingEvery = time.Minute
	storeEvery    = 2 * time.Minute

	// maxSightings bounds those that wait; more are noted when the device is seen again.
	maxSightings = 20_000

	longestAgent = 512 // bytes of a User-Agent that are kept
)

// sightings are the devices that were seen and when, until they are stored.
type sightings struct {
	wake chan struct{} // capacity 1: there is something to store

	mu sync.Mutex // guards the following
	// waiting has the last sighting of each device.
	waiting map[deviceKey]storage.Device
}

type deviceKey struct {
	user   id.UserID
	device id.DeviceID
}

// note remembers that a session was seen, unless that was noted a moment ago.
func (g *sightings) note(known *session, nowMS int64, seen httpapi.Seen) {
	if nowMS-known.seenMS.Load() < sightingEvery.Milliseconds() {
		return
	}
	known.seenMS.Store(nowMS)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting == nil {
		g.waiting = map[deviceKey]storage.Device{}
	}
	if len(g.waiting) >= maxSightings {
		return
	}
	g.waiting[deviceKey{known.User, known.Device}] = sighting(known.User, known.Device, nowMS, seen)
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func sighting(user id.UserID, device id.DeviceID, nowMS int64, seen httpapi.Seen) storage.Device {
	d := storage.Device{User: user, ID: device, SeenMS: nowMS, SeenAgent: seen.UserAgent}
	d.SeenAgent = d.SeenAgent[:min(len(d.SeenAgent), longestAgent)]
	if seen.IP.IsValid() {
		d.SeenIP = seen.IP.String()
	}
	return d
}

// merge puts the sightings that are not stored yet into devices.
func (g *sightings) merge(devices []storage.Device) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range devices {
		d := &devices[i]
		if seen, ok := g.waiting[deviceKey{d.User, d.ID}]; ok && seen.SeenMS > d.SeenMS {
			d.SeenMS, d.SeenIP, d.SeenAgent = seen.SeenMS, seen.SeenIP, seen.SeenAgent
		}
	}
}

func (g *sightings) take() map[deviceKey]storage.Device {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := g.waiting
	g.waiting = nil
	return taken
}

// keepSightings stores sightings, many at once.
func (s *Service) keepSightings(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.sightings.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(storeEvery):
		}
		if err := s.storeSightings(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("store when devices were seen", "error", err)
		}
	}
}

// storeSightings writes those that wait. Those of a failed write are lost: the devices will be seen again.
func (s *Service) storeSightings(ctx context.Context) error {
	taken := s.sightings.take()
	if len(taken) == 0 {
		return nil
	}
	act := &storage.Act{Do: func(tx *storage.Tx, _ storage.Pos) error {
		for _, d := range taken {
			if err := tx.SeeDevice(d); err != nil {
				return err
			}
		}
		return nil
	}}
	s.db.Queue(act)
	return act.Wait(context.WithoutCancel(ctx))
}
