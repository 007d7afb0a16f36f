package e2ee_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"net/url"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// EK-06: in the order of uploads, each once.
func TestClaimOrder(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	for _, i := range []int{3, 1, 2} {
		alice.upload(M{"one_time_keys": alice.oneTime(i, i+1)}).WantOK()
	}
	for _, i := range []int{3, 1, 2} {
		name, key := bob.claim(alice)
		require.Equal(t, fmt.Sprintf("signed_curve25519:%04d", i), name)
		require.Equal(t, fmt.Sprintf("one time %d of %s", i, alice.Device), key)
	}
	r := bob.Do("POST", v3+"/keys/claim", M{"one_time_keys": M{alice.ID: M{alice.Device: "signed_curve25519"}, "@x:hs.test": M{"D": "a"}}}).WantOK()
	require.JSONEq(t, `{"one_time_keys":{},"failures":{}}`, string(r.Body))
}

// A key that was given out does not come back with an upload that is repeated.
func TestClaimedKeysDoNotComeBack(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	alice.publish(2)
	first, _ := bob.claim(alice)
	require.Equal(t, "signed_curve25519:0000", first)
	alice.publish(2)
	second, _ := bob.claim(alice)
	require.Equal(t, "signed_curve25519:0001", second)
	none, _ := bob.claim(alice)
	require.Empty(t, none)

	other := M{"signed_curve25519:0000": sign(t, alice.ID, alice.key, M{"key": "a key of the same name"})}
	alice.upload(M{"one_time_keys": other}).WantOK()
	_, key := bob.claim(alice)
	require.Equal(t, "a key of the same name", key)
}

// EK-07.
func TestClaimsAtOnce(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	alice.publish(50)
	const claimers, each = 10, 8
	got := make(chan string, claimers*each)
	var tasks sync.WaitGroup
	for i := range claimers {
		u := newDevice(t, hs.User(fmt.Sprintf("u%d", i)))
		tasks.Go(func() {
			for range each {
				name, _ := u.claim(alice)
				got <- name
			}
		})
	}
	tasks.Wait()
	close(got)
	seen := map[string]int{}
	for name := range got {
		seen[name]++
	}
	require.Equal(t, claimers*each-50, seen[""])
	require.Len(t, seen, 51)
}

// C-83: a fallback key is given out when nothing else is left, again and again, and /sync tells that it was.
func TestC83FallbackKeys(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	unused := func() []string {
		return texts(alice.Sync("").Get("device_unused_fallback_key_types"))
	}
	require.Empty(t, unused())
	alice.publish(1)
	alice.upload(M{"fallback_keys": alice.fallback("f1")}).WantOK()
	require.Equal(t, []string{"signed_curve25519"}, unused())
	name, _ := bob.claim(alice)
	require.Equal(t, "signed_curve25519:0000", name)
	require.Equal(t, []string{"signed_curve25519"}, unused())
	for range 2 {
		name, key := bob.claim(alice)
		require.Equal(t, "signed_curve25519:f1", name)
		require.Equal(t, "fallback f1", key)
		require.Empty(t, unused())
	}
	alice.upload(M{"fallback_keys": alice.fallback("f1")}).WantOK()
	require.Empty(t, unused(), "the same key stays a used one")
	alice.upload(M{"fallback_keys": alice.fallback("f2")}).WantOK()
	require.Equal(t, []string{"signed_curve25519"}, unused())
	name, _ = bob.claim(alice)
	require.Equal(t, "signed_curve25519:f2", name)
}

// What a device has left is in /sync, which is woken when it changes.
func TestCountsInSync(t *testing.T) {
	hs := homeservertest.New(t)
	d := users(t, hs, "alice", "bob")
	alice, bob := d[0], d[1]
	count := func(s *homeservertest.Sync) int64 { return s.Get("device_one_time_keys_count.signed_curve25519").Int() }
	alice.publish(3)
	s := alice.Sync("")
	require.EqualValues(t, 3, count(s))
	woken := make(chan int64, 1)
	go func() {
		woken <- count(alice.SyncWith(url.Values{"since": {s.NextBatch}, "timeout": {"20000"}}))
	}()
	time.Sleep(50 * time.Millisecond)
	bob.claim(alice)
	select {
	case n := <-woken:
		require.EqualValues(t, 2, n)
	case <-time.After(10 * time.Second):
		require.Fail(t, "/sync was not woken by a claim")
	}
}

func TestClaimRefuses(t *testing.T) {
	hs := homeservertest.New(t)
	alice := newDevice(t, hs.User("alice"))
	claim := func(body M) *homeservertest.Response { return alice.Do("POST", v3+"/keys/claim", body) }
	claim(M{}).WantError(400, "M_MISSING_PARAM")
	claim(M{"one_time_keys": M{alice.ID: "x"}}).WantError(400, "M_BAD_JSON")
	claim(M{"one_time_keys": M{alice.ID: M{"D": 1}}}).WantError(400, "M_BAD_JSON")
	claim(M{"one_time_keys": M{"alice": M{"D": "a"}}}).WantError(400, "M_INVALID_PARAM")
	claim(M{"one_time_keys": M{alice.ID: M{"D\x00": "a\x00"}}}).WantOK()
	require.True(t, at(claim(M{"one_time_keys": M{"@x:elsewhere.test": M{"D": "a"}}}).WantOK(), "failures", "elsewhere.test").Exists())
}
