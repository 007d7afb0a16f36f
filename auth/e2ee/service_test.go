package e2ee_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth/e2ee"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// newService is a Service over a database of its own.
func newService(t testing.TB, opts ...func(*e2ee.Config)) *e2ee.Service {
	t.Helper()
	db, err := storage.Open(context.Background(), sqlite.Memory())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	cfg := e2ee.Config{ServerName: "hs.test", DB: db, Hub: notify.New(db.Published())}
	for _, opt := range opts {
		opt(&cfg)
	}
	return e2ee.New(cfg)
}

// person is a device of a user, stored without a session.
func person(t testing.TB, s *e2ee.Service, user, name string) *device {
	t.Helper()
	d := newDevice(t, &homeservertest.User{ID: user, Device: name})
	require.NoError(t, s.DB.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error {
		_, err := tx.InsertDevice(storage.Device{User: id.UserID(user), ID: id.DeviceID(name), Name: "phone"})
		return err
	}))
	return d
}

// puts uploads keys of a device.
func (d *device) puts(t testing.TB, s *e2ee.Service, oneTime M) {
	t.Helper()
	in := e2ee.Upload{DeviceKeys: must(json.Marshal(d.keys())), OneTime: must(json.Marshal(oneTime))}
	_, err := s.Upload(context.Background(), id.UserID(d.ID), id.DeviceID(d.Device), in)
	require.NoError(t, err)
}

// FQ-07, CVE-2023-43796: other servers are told of local users only, whatever is known of others.
func TestOthersAreToldOfLocalUsersOnly(t *testing.T) {
	ctx := context.Background()
	s := newService(t)
	alice, far := person(t, s, "@alice:hs.test", "A"), person(t, s, "@far:away.test", "F")
	alice.puts(t, s, alice.oneTime(0, 1))
	far.puts(t, s, far.oneTime(0, 1))
	keys, err := s.QueryLocal(ctx, e2ee.Query{"@alice:hs.test": nil, "@far:away.test": nil, "@none:hs.test": nil})
	require.NoError(t, err)
	require.Len(t, keys.Devices, 2)
	require.NotContains(t, keys.Devices, id.UserID("@far:away.test"))
	require.NotContains(t, string(keys.AppendJSON(nil)), "user_signing_keys")
	require.True(t, json.Valid(keys.AppendJSON(nil)))

	claimed, err := s.ClaimLocal(ctx, e2ee.Claims{"@far:away.test": {"F": "signed_curve25519"}})
	require.NoError(t, err)
	require.JSONEq(t, `{"one_time_keys":{}}`, string(claimed.AppendJSON(nil)))
}

// DM-03: names of devices can be kept from others.
func TestNoDeviceNames(t *testing.T) {
	ctx := context.Background()
	s := newService(t, func(c *e2ee.Config) { c.NoDeviceNames = true })
	alice := person(t, s, "@alice:hs.test", "A")
	alice.puts(t, s, M{})
	for viewer, shown := range map[id.UserID]bool{"@alice:hs.test": true, "@bob:hs.test": false} {
		keys, err := s.Query(ctx, viewer, e2ee.Query{"@alice:hs.test": nil}, 0)
		require.NoError(t, err)
		text := string(keys.Devices["@alice:hs.test"]["A"])
		require.Equal(t, shown, strings.Contains(text, `"device_display_name":"phone"`), viewer)
	}
	require.NoError(t, s.DB.Read(ctx, func(tx *storage.Tx) error {
		published, err := s.Published(tx, "@alice:hs.test")
		require.Len(t, published.Devices, 1)
		require.Empty(t, published.Devices[0].Name)
		return err
	}))
}

// FuzzCheckDeviceKeys: what is stored is canonical JSON of that device, and stays as it is.
func FuzzCheckDeviceKeys(f *testing.F) {
	f.Add([]byte(`{"user_id":"@a:x","device_id":"D","algorithms":["a"],"keys":{"ed25519:D":"k"},"signatures":{"@a:x":{"ed25519:D":"s"},"@b:x":{"c":"d"}},"unsigned":{}}`))
	f.Add([]byte(`{"user_id":"@a:x","device_id":"D","algorithms":[],"keys":{},"signatures":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		once, err := e2ee.CheckDeviceKeys("@a:x", "D", raw)
		if err != nil {
			return // refusing it is correct
		}
		twice, err := e2ee.CheckDeviceKeys("@a:x", "D", once)
		require.NoError(t, err, "%s", once)
		require.Equal(t, string(once), string(twice))
		_, err = signing.SignJSON("x", signing.Key{ID: "ed25519:1", Private: seeded("x")}, once)
		require.NoError(t, err)
	})
}

// crowd stores users with two devices each, cross-signing keys and signatures.
func crowd(b *testing.B, s *e2ee.Service, n int) e2ee.Query {
	q := e2ee.Query{}
	for i := range n {
		user := fmt.Sprintf("@user%04d:hs.test", i)
		q[id.UserID(user)] = nil
		i := &identity{t: b, user: user, master: seeded(user + "m"), self: seeded(user + "s"), userSigns: seeded(user + "u")}
		require.NoError(b, s.SetCrossSigning(context.Background(), id.UserID(user), readKeys(b, i), false))
		signed := e2ee.SignedKeys{id.UserID(user): {}}
		for _, name := range []string{"PHONEDEVICE", "DESKDEVICE"} {
			d := person(b, s, user, name)
			d.puts(b, s, M{})
			object := sign(b, user, named(i.self), with(d.keys(), M{"signatures": M{}}))
			signed[id.UserID(user)][name] = must(json.Marshal(object))
		}
		failures, err := s.AddSignatures(context.Background(), id.UserID(user), signed)
		require.NoError(b, err)
		require.Empty(b, failures)
	}
	return q
}

func readKeys(t testing.TB, i *identity) e2ee.CrossSigning {
	keys := e2ee.CrossSigning{}
	for usage, object := range map[string]M{"master": i.masterKey(), "self_signing": i.selfKey(), "user_signing": i.userKey()} {
		k, err := e2ee.CheckCrossSigningKey(id.UserID(i.user), usage, must(json.Marshal(object)))
		require.NoError(t, err)
		keys[usage] = k
	}
	return keys
}

// BenchmarkQuery1000: the keys of 1,000 users with two devices each, in one request.
func BenchmarkQuery1000(b *testing.B) {
	s := newService(b)
	q := crowd(b, s, 1000)
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	for b.Loop() {
		keys, err := s.Query(context.Background(), "@user0000:hs.test", q, 0)
		require.NoError(b, err)
		n = len(keys.AppendJSON(nil))
	}
	b.ReportMetric(float64(n), "answer-bytes")
}

// BenchmarkUpload100: 100 one-time keys in one request.
func BenchmarkUpload100(b *testing.B) {
	s := newService(b)
	d := person(b, s, "@alice:hs.test", "A")
	d.puts(b, s, M{})
	in := e2ee.Upload{OneTime: must(json.Marshal(d.oneTime(0, 100)))}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		_, err := s.Upload(context.Background(), "@alice:hs.test", "A", in)
		require.NoError(b, err)
		b.StopTimer()
		require.NoError(b, s.DB.Write(context.Background(), func(tx *storage.Tx, _ storage.Pos) error {
			return tx.DeleteDeviceKeys("@alice:hs.test", []id.DeviceID{"A"})
		}))
		d.puts(b, s, M{})
		b.StartTimer()
	}
}

// BenchmarkClaim: one key of one device.
func BenchmarkClaim(b *testing.B) {
	s := newService(b)
	d := person(b, s, "@alice:hs.test", "A")
	d.puts(b, s, M{})
	left, given := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		if left == 0 {
			b.StopTimer()
			left = 500
			d.puts(b, s, d.oneTime(given, given+left))
			given += left
			b.StartTimer()
		}
		left--
		_, err := s.Claim(context.Background(), e2ee.Claims{"@alice:hs.test": {"A": "signed_curve25519"}}, 0)
		require.NoError(b, err)
	}
}

// asked are servers that answer with as much as they may.
type asked struct {
	mu        sync.Mutex // guards the following
	now, most int        // bytes of the answers that are under way
}

func (a *asked) QueryKeys(_ context.Context, _ id.ServerName, users map[id.UserID][]id.DeviceID, size int) (*e2ee.RemoteKeys, error) {
	a.begin(size)
	defer a.begin(-size)
	time.Sleep(time.Second)
	out := &e2ee.RemoteKeys{Devices: map[id.UserID]map[id.DeviceID]json.RawMessage{}}
	for user := range users {
		out.Devices[user] = map[id.DeviceID]json.RawMessage{}
		for i := range size / len(users) / (15 << 10) {
			out.Devices[user][id.DeviceID(fmt.Sprint(i))] = must(json.Marshal(M{"x": strings.Repeat("x", 14<<10)}))
		}
	}
	return out, nil
}

func (a *asked) ClaimKeys(context.Context, id.ServerName, e2ee.Claims, int) (e2ee.ClaimedKeys, error) {
	return nil, nil
}

func (a *asked) begin(size int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now += size
	a.most = max(a.most, a.now)
}

// What other servers say is bounded together, under way and in the answer.
func TestManyLargeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remote := &asked{}
		s := newService(t, func(c *e2ee.Config) { c.Remote = remote })
		q := e2ee.Query{}
		for i := range 20 {
			for j := range 8 {
				q[id.UserID(fmt.Sprintf("@u%d:s%d.test", j, i))] = nil
			}
		}
		keys, err := s.Query(t.Context(), "@alice:hs.test", q, 50*time.Second)
		require.NoError(t, err)
		require.Less(t, remote.most, 101<<20)
		require.NotEmpty(t, keys.Devices)
		require.NotEmpty(t, keys.Failures)
		require.Less(t, len(keys.AppendJSON(nil)), 75<<20)

		keys, err = s.Query(t.Context(), "@alice:hs.test", e2ee.Query{"@u:s.test": nil}, 50*time.Second)
		require.NoError(t, err)
		require.Empty(t, keys.Failures)
		require.Less(t, len(keys.AppendJSON(nil)), 1<<20)
	})
}
