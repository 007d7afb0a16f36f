package e2ee

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	// maxClaims is for how many devices one request claims keys.
	maxClaims = 2000

	// maxRemoteClaims and maxRemoteClaim bound the answer of a server, in bytes: with no key, and for each device more.
	maxRemoteClaims = 64 << 10
	maxRemoteClaim  = 2 * maxKey
)

type claimRequest struct {
	TimeoutMS *int64 `json:"timeout"`
	Keys      Claims `json:"one_time_keys"`
}

// Claimed is the answer to a claim.
type Claimed struct {
	Keys     ClaimedKeys
	Failures map[id.ServerName]error // servers that could not be asked; nil is left out
}

// AppendJSON appends the answer to dst.
func (out *Claimed) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if out.Failures != nil {
		dst = append(appendFailures(append(dst, `"failures":`...), out.Failures), ',')
	}
	dst = appendMap(append(dst, `"one_time_keys":`...), out.Keys, func(dst []byte, devices map[id.DeviceID]map[string]json.RawMessage) []byte {
		return appendMap(dst, devices, func(dst []byte, keys map[string]json.RawMessage) []byte {
			return appendMap(dst, keys, func(dst []byte, key json.RawMessage) []byte { return append(dst, key...) })
		})
	})
	return append(dst, '}')
}

// claimKeys implements POST /_matrix/client/v3/keys/claim.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysclaim
func (s *Service) claimKeys(ctx context.Context, c *httpapi.Call, in *claimRequest) (*Claimed, error) {
	if in.Keys == nil {
		return nil, mxerr.MissingParam.With("one_time_keys is missing")
	}
	if err := c.Charge(httpapi.KeyClaims, in.Keys.Devices()); err != nil {
		return nil, err
	}
	timeout := timeoutOf(in.TimeoutMS)
	c.ExtendDeadline(timeout)
	return s.Claim(ctx, in.Keys, timeout)
}

// Claim gives out a one-time key for each device, or its fallback key when there is none left; a device without either is
// not in the answer. Users of other servers have theirs there: those servers are asked at the same time, for at most
// timeout. No one-time key is ever given out twice, whoever asks at once and whatever happens to the process.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysclaim
func (s *Service) Claim(ctx context.Context, claims Claims, timeout time.Duration) (*Claimed, error) {
	if err := checkClaims(claims); err != nil {
		return nil, err
	}
	local, remote := Claims{}, map[id.ServerName]Claims{}
	for user, devices := range claims {
		server := user.Server()
		if server == s.ServerName {
			local[user] = devices
			continue
		}
		if remote[server] == nil {
			remote[server] = Claims{}
		}
		remote[server][user] = devices
	}
	keys, err := s.claimLocal(ctx, local)
	if err != nil {
		return nil, err
	}
	out := &Claimed{Keys: keys}
	out.Failures = s.claimRemote(ctx, remote, keys, timeout)
	return out, nil
}

// ClaimLocal is Claim for another server, which gets keys of local users only.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysclaim
func (s *Service) ClaimLocal(ctx context.Context, claims Claims) (*Claimed, error) {
	if err := checkClaims(claims); err != nil {
		return nil, err
	}
	local := maps.Clone(claims)
	maps.DeleteFunc(local, func(user id.UserID, _ map[id.DeviceID]string) bool { return user.Server() != s.ServerName })
	keys, err := s.claimLocal(ctx, local)
	return &Claimed{Keys: keys}, err
}

// Devices returns for how many devices keys are claimed; more than a request may claim is one too many.
func (claims Claims) Devices() (n int) {
	for _, devices := range claims {
		n += len(devices)
	}
	return min(n, maxClaims+1)
}

func checkClaims(claims Claims) error {
	if claims.Devices() > maxClaims {
		return mxerr.InvalidParam.With("a request may be about %d devices", maxClaims)
	}
	return checkUsers(claims)
}

// claimLocal takes the keys of local users out of storage. They are gone for good before anybody is told of them.
func (s *Service) claimLocal(ctx context.Context, claims Claims) (ClaimedKeys, error) {
	taken := ClaimedKeys{}
	if len(claims) == 0 {
		return taken, nil
	}
	err := s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		clear(taken)
		for user, devices := range claims {
			for device, algorithm := range devices {
				if err := s.take(tx, taken, user, device, algorithm); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("claim keys: %w", err)
	}
	return taken, nil
}

// take takes a key of one device.
func (s *Service) take(tx *storage.Tx, taken ClaimedKeys, user id.UserID, device id.DeviceID, algorithm string) error {
	if !validName(algorithm) || !validName(string(device)) {
		return nil
	}
	k, err := tx.TakeOneTimeKey(user, device, algorithm)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return s.takeFallback(tx, taken, user, device, algorithm)
	case err != nil:
		return err
	}
	taken.put(user, device, algorithm+":"+k.KeyID, k.Key)
	s.recount(tx, user, device)
	sum := sha256.Sum256(k.Key)
	k.Key = sum[:]
	return tx.PutSpentKey(user, device, k)
}

// takeFallback gives out the fallback key of a device, which stays.
func (s *Service) takeFallback(tx *storage.Tx, taken ClaimedKeys, user id.UserID, device id.DeviceID, algorithm string) error {
	keys, err := tx.FallbackKeys(user, device)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(keys, func(k storage.FallbackKey) bool { return k.Algorithm == algorithm })
	if i < 0 {
		return nil
	}
	k := keys[i]
	taken.put(user, device, algorithm+":"+k.KeyID, k.Key)
	if k.Used {
		return nil
	}
	k.Used = true
	s.recount(tx, user, device)
	return tx.PutFallbackKey(user, device, k)
}

func (keys ClaimedKeys) put(user id.UserID, device id.DeviceID, name string, key []byte) {
	if keys[user] == nil {
		keys[user] = map[id.DeviceID]map[string]json.RawMessage{}
	}
	keys[user][device] = map[string]json.RawMessage{name: key}
}

// claimRemote adds the keys that other servers give out, and returns which servers failed.
func (s *Service) claimRemote(ctx context.Context, by map[id.ServerName]Claims, into ClaimedKeys, timeout time.Duration) map[id.ServerName]error {
	return askAll(ctx, timeout, by, question[Claims, ClaimedKeys]{
		size: func(claims Claims) int { return min(maxRemoteClaims+claims.Devices()*maxRemoteClaim, maxRemoteKeys) },
		ask: func(ctx context.Context, server id.ServerName, claims Claims, size int) (ClaimedKeys, error) {
			if s.Remote == nil {
				return nil, errAlone
			}
			return s.Remote.ClaimKeys(ctx, server, claims, size)
		},
		take: into.take,
	})
}

// take adds the keys that a server gives out for the devices it was asked for, and returns how many bytes they have.
func (keys ClaimedKeys) take(asked Claims, answer ClaimedKeys) (n int) {
	for user, devices := range asked {
		for device, algorithm := range devices {
			n += keys.takeTold(user, device, algorithm, answer[user][device])
		}
	}
	return n
}

// takeTold adds the key of a device that another server tells, if it is one.
func (keys ClaimedKeys) takeTold(user id.UserID, device id.DeviceID, algorithm string, told map[string]json.RawMessage) int {
	for name, raw := range told {
		if k, err := checkKey(name, raw); err == nil && k.Algorithm == algorithm {
			keys.put(user, device, name, k.Key)
			return len(k.Key)
		}
	}
	return 0
}
