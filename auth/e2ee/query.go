package e2ee

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	// maxQueried is of how many users the keys are told in one answer. Clients ask for a few hundred at once.
	maxQueried = 5000

	// defaultTimeout and longestTimeout are how long other servers are waited for.
	defaultTimeout = 10 * time.Second
	longestTimeout = time.Minute

	// maxAsked is how many servers one request asks at a time, fewer if their answers may be large: each counts for as
	// many as its answer may have parts of askedPart bytes.
	maxAsked  = 50
	askedPart = 2 << 20

	// maxTold is how many bytes of what other servers say one answer tells. Who answers later counts as not asked.
	maxTold = 64 << 20

	// maxRemoteUser and maxRemoteKeys bound the answer of a server, in bytes: for each user, and in all.
	maxRemoteUser = 1 << 20
	maxRemoteKeys = 16 << 20
)

// Query says whose keys are looked for: the devices of each user, or all if there are none.
type Query map[id.UserID][]id.DeviceID

type queryRequest struct {
	TimeoutMS  *int64 `json:"timeout"`
	DeviceKeys Query  `json:"device_keys"`
}

// queryKeys implements POST /_matrix/client/v3/keys/query.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysquery
func (s *Service) queryKeys(ctx context.Context, c *httpapi.Call, in *queryRequest) (*Keys, error) {
	if in.DeviceKeys == nil {
		return nil, mxerr.MissingParam.With("device_keys is missing")
	}
	if err := checkUsers(in.DeviceKeys); err != nil {
		return nil, err
	}
	timeout := timeoutOf(in.TimeoutMS)
	c.ExtendDeadline(2 * timeout)
	return s.Query(ctx, c.User, in.DeviceKeys, timeout)
}

// checkUsers refuses what is no user id, and too many.
func checkUsers[V any](users map[id.UserID]V) error {
	if len(users) > maxQueried {
		return mxerr.InvalidParam.With("a request may be about %d users", maxQueried)
	}
	for user := range users {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return mxerr.InvalidParam.With("%q: %v", clip(string(user)), err)
		}
	}
	return nil
}

// timeoutOf is how long other servers are waited for.
func timeoutOf(ms *int64) time.Duration {
	if ms == nil {
		return defaultTimeout
	}
	return time.Duration(min(max(*ms, 0), longestTimeout.Milliseconds())) * time.Millisecond
}

// Keys are the keys of users, each in the form in which it is told. A map that is nil is left out.
type Keys struct {
	Devices     map[id.UserID]map[id.DeviceID][]byte
	Master      map[id.UserID][]byte
	SelfSigning map[id.UserID][]byte
	UserSigning map[id.UserID][]byte
	Failures    map[id.ServerName]error // servers that could not be asked

	signed signed // the signatures of these keys
}

func newKeys() *Keys {
	return &Keys{
		Devices: map[id.UserID]map[id.DeviceID][]byte{}, Master: map[id.UserID][]byte{}, SelfSigning: map[id.UserID][]byte{},
	}
}

// Query tells viewer, a local user, the keys of users. Every local user is in the answer, with no devices if there is no
// such user. Users of other servers are told from what is kept of them here, or else their servers are asked, all at
// once, for at most timeout; those that do not answer are failures.
//
// Display names of devices are told with them. Of signatures viewer sees those that users have made of their own keys,
// and the own ones.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#key-and-signature-security
func (s *Service) Query(ctx context.Context, viewer id.UserID, q Query, timeout time.Duration) (*Keys, error) {
	out := newKeys()
	out.UserSigning, out.Failures = map[id.UserID][]byte{}, map[id.ServerName]error{}
	here, elsewhere := s.refresh(ctx, q, out, timeout)
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		return s.read(tx, viewer, q, here, out)
	})
	if err != nil {
		return nil, fmt.Errorf("read the keys of %d users: %w", len(here), err)
	}
	out.leaveUnknown()
	s.ask(ctx, q, elsewhere, out, timeout)
	return out, nil
}

// QueryLocal tells another server the keys of local users; others are left out.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysquery
func (s *Service) QueryLocal(ctx context.Context, q Query) (*Keys, error) {
	if err := checkUsers(q); err != nil {
		return nil, err
	}
	out := newKeys()
	var here []id.UserID
	for user := range q {
		if user.Server() == s.ServerName {
			here = append(here, user)
		}
	}
	return out, s.DB.Read(ctx, func(tx *storage.Tx) error { return s.read(tx, "", q, here, out) })
}

// leaveUnknown takes those out of whom nothing is known because their servers did not answer: a user without devices is
// something else.
func (out *Keys) leaveUnknown() {
	for user, devices := range out.Devices {
		if len(devices) == 0 && out.Failures[user.Server()] != nil {
			delete(out.Devices, user)
		}
	}
}

// refresh splits users into those whose keys are in storage and those whose servers have to be asked.
func (s *Service) refresh(ctx context.Context, q Query, out *Keys, timeout time.Duration) (here, elsewhere []id.UserID) {
	var remote []id.UserID
	for user := range q {
		if user.Server() == s.ServerName {
			here = append(here, user)
		} else {
			remote = append(remote, user)
		}
	}
	if s.Lists == nil || len(remote) == 0 {
		return here, remote
	}
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	failed := s.Lists.Refresh(ctx, remote)
	for _, user := range remote {
		err := failed[user]
		if errors.Is(err, ErrNotShared) {
			elsewhere = append(elsewhere, user)
			continue
		}
		if err != nil {
			out.Failures[user.Server()] = err
		}
		here = append(here, user) // with an error, what was known last
	}
	return here, elsewhere
}

// read adds the keys of users that are in storage.
func (s *Service) read(tx *storage.Tx, viewer id.UserID, q Query, users []id.UserID, out *Keys) error {
	var err error
	if out.signed, err = signatures(tx, viewer, slices.Collect(maps.Keys(q))); err != nil || len(users) == 0 {
		return err
	}
	for _, user := range users {
		out.Devices[user] = map[id.DeviceID][]byte{}
	}
	devices, err := tx.DeviceKeys(users...)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if listed(q[d.User], d.Device) {
			keys := out.signed.of(d.User, string(d.Device), d.Keys)
			out.Devices[d.User][d.Device] = withName(keys, s.nameFor(viewer, d))
		}
	}
	return out.readCrossSigning(tx, viewer, users)
}

func (out *Keys) readCrossSigning(tx *storage.Tx, viewer id.UserID, users []id.UserID) error {
	keys, err := tx.CrossSigningKeys(users...)
	if err != nil {
		return err
	}
	for _, k := range keys {
		told := out.signed.of(k.User, k.Public, k.Key)
		switch k.Usage {
		case usageMaster:
			out.Master[k.User] = told
		case usageSelfSigning:
			out.SelfSigning[k.User] = told
		case usageUserSigning:
			if k.User == viewer { // "only visible to the user that it belongs to"
				out.UserSigning[k.User] = told
			}
		}
	}
	return nil
}

// nameFor is the display name of a device as viewer, or with none another server, is told.
func (s *Service) nameFor(viewer id.UserID, d storage.DeviceKeys) string {
	if s.NoDeviceNames && d.User.Server() == s.ServerName && d.User != viewer {
		return ""
	}
	return d.Name
}

// listed reports whether a device is among those that are asked for.
func listed(devices []id.DeviceID, device id.DeviceID) bool {
	return len(devices) == 0 || slices.Contains(devices, device)
}

// signed has the signatures that were uploaded apart from keys, by the user and the name of the key.
type signed map[[2]string][]storage.KeySignature

func signatures(tx *storage.Tx, viewer id.UserID, users []id.UserID) (signed, error) {
	list, err := tx.KeySignatures(viewer, users...)
	by := signed{}
	for _, s := range list {
		name := [2]string{string(s.User), s.KeyName}
		by[name] = append(by[name], s)
	}
	return by, err
}

// of is a key with its signatures.
func (by signed) of(user id.UserID, name string, key []byte) []byte {
	for _, s := range by[[2]string{string(user), name}] {
		if with, err := signing.AddSignature(key, string(s.Signer), s.KeyID, s.Signature); err == nil {
			key = with
		}
	}
	return key
}

// withName is the keys of a device with unsigned, which has the display name if there is one.
func withName(keys []byte, name string) []byte {
	out := make([]byte, 0, len(keys)+len(name)+64)
	out = append(out, keys[:len(keys)-1]...)
	unsigned := []byte("{")
	if name != "" {
		unsigned = canonjson.AppendString([]byte(`{"device_display_name":`), name)
	}
	return appendMember(out, []byte("unsigned"), append(unsigned, "}}"...))
}

// ask adds the keys of users of other servers that are not kept here.
func (s *Service) ask(ctx context.Context, q Query, users []id.UserID, out *Keys, timeout time.Duration) {
	if len(users) == 0 {
		return
	}
	by := map[id.ServerName]Query{}
	for _, user := range users {
		if by[user.Server()] == nil {
			by[user.Server()] = Query{}
		}
		by[user.Server()][user] = append([]id.DeviceID{}, q[user]...)
	}
	maps.Copy(out.Failures, askAll(ctx, timeout, by, question[Query, *RemoteKeys]{
		size: func(q Query) int { return min(len(q)*maxRemoteUser, maxRemoteKeys) },
		ask: func(ctx context.Context, server id.ServerName, q Query, size int) (*RemoteKeys, error) {
			if s.Remote == nil {
				return nil, errAlone
			}
			return s.Remote.QueryKeys(ctx, server, q, size)
		},
		take: out.take,
	}))
}

// errAlone is why other servers are not asked by one that does not federate.
var errAlone = mxerr.NotFound.With("this server does not talk with other servers")

// errTooMuch is why the answer of a server is not told.
var errTooMuch = mxerr.TooLarge.With("other servers have said too much")

// question is what several servers are asked.
type question[Q, A any] struct {
	size func(Q) int // how many bytes the answer may have
	ask  func(ctx context.Context, server id.ServerName, q Q, size int) (A, error)
	take func(Q, A) (told int) // takes an answer, one at a time, and returns how many bytes of it are told
}

// askAll asks servers at the same time, some at once, and returns why some have not answered.
func askAll[Q, A any](ctx context.Context, timeout time.Duration, by map[id.ServerName]Q, what question[Q, A]) map[id.ServerName]error {
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	var mu sync.Mutex // guards the following
	failures, told := map[id.ServerName]error{}, 0
	var tasks sync.WaitGroup
	places := make(chan struct{}, maxAsked)
	for server, q := range by {
		size := what.size(q)
		parts := min(max(size/askedPart, 1), maxAsked)
		for range parts {
			places <- struct{}{}
		}
		tasks.Go(func() {
			defer func() {
				for range parts {
					<-places
				}
			}()
			answer, err := what.ask(ctx, server, q, size)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && told >= maxTold {
				err = errTooMuch
			}
			if err != nil {
				failures[server] = err
				return
			}
			told += what.take(q, answer)
		})
	}
	tasks.Wait()
	return failures
}

// take adds what a server says of the users it was asked about, and returns how many bytes that is. What is not as it
// should be is left out.
func (out *Keys) take(asked Query, answer *RemoteKeys) (n int) {
	for user, devices := range asked {
		if told, ok := answer.Devices[user]; ok {
			out.Devices[user] = checkedDevices(user, devices, told)
			for _, keys := range out.Devices[user] {
				n += len(keys)
			}
		}
		if k, err := CheckCrossSigningKey(user, usageMaster, answer.Master[user]); err == nil {
			out.Master[user] = out.signed.of(user, k.Public, k.Key)
		}
		if k, err := CheckCrossSigningKey(user, usageSelfSigning, answer.SelfSigning[user]); err == nil {
			out.SelfSigning[user] = k.Key
		}
		n += len(out.Master[user]) + len(out.SelfSigning[user])
	}
	return n
}
