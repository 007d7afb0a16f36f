package e2ee_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// pair is two servers with a user on each.
func pair(t *testing.T) (network *homeservertest.Network, alice, bob *device) {
	t.Helper()
	network = homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	return network, newDevice(t, one.User("alice")), newDevice(t, two.User("bob"))
}

func settle(t *testing.T, network *homeservertest.Network) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	network.Settle(ctx)
}

// EK-14, FQ-07: keys of users with whom no room is shared are asked for each time.
func TestQueryOverFederation(t *testing.T) {
	_, alice, bob := pair(t)
	bob.publish(0)
	bobs := newIdentity(t, bob, "one")
	bob.crossSign(bobs.all()).WantOK()
	bob.signatures(M{bob.ID: M{bob.Device: sign(t, bob.ID, named(bobs.self), with(bob.keys(), M{"signatures": M{}}))}})
	bob.Do("PUT", v3+"/devices/"+bob.Device, M{"display_name": "phone"}).WantOK()

	r := alice.query(bob.ID, "@nobody:two.test")
	told := at(r, "device_keys", bob.ID, bob.Device)
	require.Equal(t, "phone", told.Get("unsigned.device_display_name").String())
	require.Len(t, told.Get("signatures").Map()[bob.ID].Map(), 2)
	require.True(t, at(r, "master_keys", bob.ID).Exists())
	require.True(t, at(r, "self_signing_keys", bob.ID).Exists())
	require.JSONEq(t, `{}`, r.Get("user_signing_keys").Raw)
	require.JSONEq(t, `{}`, r.Get("failures").Raw)

	again := newDevice(t, bob.Login())
	again.publish(0)
	require.Len(t, at(alice.query(bob.ID), "device_keys", bob.ID).Map(), 2)
	one := M{"device_keys": M{bob.ID: []string{again.Device}}}
	require.Len(t, at(alice.Do("POST", v3+"/keys/query", one).WantOK(), "device_keys", bob.ID).Map(), 1)
}

// With users who share a room the answer comes from here, also while their server is away.
func TestQueryOfSharers(t *testing.T) {
	network, alice, bob := pair(t)
	bob.publish(0)
	shareRoom(t, alice, bob)
	settle(t, network)
	require.Len(t, at(alice.query(bob.ID), "device_keys", bob.ID).Map(), 1)

	network.Partition("two.test")
	r := alice.query(bob.ID)
	require.Len(t, at(r, "device_keys", bob.ID).Map(), 1)
	require.JSONEq(t, `{}`, r.Get("failures").Raw)
	network.Heal()

	_, since := alice.changed("")
	newDevice(t, bob.Login()).publish(0)
	require.Eventually(t, func() bool {
		changed, next := alice.changed(since)
		since = next
		return len(changed) > 0
	}, 10*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		return len(at(alice.query(bob.ID), "device_keys", bob.ID).Map()) == 2
	}, 10*time.Second, 10*time.Millisecond)
}

// EK-04, EK-06: servers that cannot be asked are failures, and others are not kept waiting.
func TestFailures(t *testing.T) {
	network, alice, bob := pair(t)
	network.Partition("two.test")
	own := newDevice(t, alice.Login())
	own.publish(1)
	r := alice.query(bob.ID, alice.ID)
	require.True(t, at(r, "failures", "two.test").IsObject())
	require.False(t, at(r, "device_keys", bob.ID).Exists())
	require.Len(t, at(r, "device_keys", alice.ID).Map(), 1)
	r = alice.Do("POST", v3+"/keys/claim", M{"one_time_keys": M{
		bob.ID: M{"D": "signed_curve25519"}, alice.ID: M{own.Device: "signed_curve25519"},
	}}).WantOK()
	require.True(t, at(r, "failures", "two.test").IsObject())
	require.True(t, at(r, "one_time_keys", alice.ID, own.Device).Exists())
}

// EK-06, FQ-07.
func TestClaimOverFederation(t *testing.T) {
	_, alice, bob := pair(t)
	bob.publish(2)
	bob.upload(M{"fallback_keys": bob.fallback("f")}).WantOK()
	for _, want := range []string{"0000", "0001", "f", "f"} {
		name, _ := alice.claim(bob)
		require.Equal(t, "signed_curve25519:"+want, name)
	}
	require.EqualValues(t, 0, bob.upload(M{}).Get("one_time_key_counts.signed_curve25519").Int())
}

// A signature of the key of a user elsewhere is kept by the server of who made it.
func TestSignaturesOverFederation(t *testing.T) {
	network, alice, bob := pair(t)
	alices, bobs := newIdentity(t, alice, "one"), newIdentity(t, bob, "one")
	alice.crossSign(alices.all()).WantOK()
	bob.crossSign(bobs.all()).WantOK()
	signed := M{bob.ID: M{public(bobs.master): sign(t, alice.ID, named(alices.userSigns), bobs.masterKey())}}
	require.JSONEq(t, `{}`, alice.signatures(signed).Get("failures").Raw)
	seen := func() bool {
		return at(alice.query(bob.ID), "master_keys", bob.ID, "signatures", alice.ID).Exists()
	}
	require.True(t, seen())
	require.False(t, at(bob.query(bob.ID), "master_keys", bob.ID, "signatures").Exists())
	shareRoom(t, alice, bob)
	settle(t, network)
	require.Eventually(t, seen, 10*time.Second, 10*time.Millisecond)
}

// What other servers say is taken apart with care.
func TestHostileAnswers(t *testing.T) {
	network, alice, bob := pair(t)
	bob.publish(1)
	var answer atomic.Value
	answer.Store("")
	network.Intercept(func(r *http.Request) *http.Response {
		if !strings.Contains(r.URL.Path, "/user/") || answer.Load() == "" {
			return nil
		}
		body := io.NopCloser(strings.NewReader(answer.Load().(string)))
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body, Request: r}
	})
	key := `{"user_id":"` + bob.ID + `","device_id":"D","algorithms":[],"keys":{},"signatures":{"@x:y":{"ed25519:z":"s"}},"unsigned":{"device_display_name":"n"}}`
	for _, tt := range []struct{ name, answer, want string }{
		{"good, without signatures of others", `{"device_keys":{"` + bob.ID + `":{"D":` + key + `}}}`,
			`{"D":{"user_id":"` + bob.ID + `","device_id":"D","algorithms":[],"keys":{},"signatures":{},"unsigned":{"device_display_name":"n"}}}`},
		{"of another device", `{"device_keys":{"` + bob.ID + `":{"E":` + key + `}}}`, `{}`},
		{"of somebody else", `{"device_keys":{"@x:two.test":{"D":` + key + `}}}`, ``},
		{"with a fraction", `{"device_keys":{"` + bob.ID + `":{"D":{"user_id":"` + bob.ID + `","x":1.5}}}}`, `{}`},
		{"a list", `{"device_keys":{"` + bob.ID + `":{"D":[]}}}`, `{}`},
		{"nothing", `{}`, ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer.Store(tt.answer)
			r := alice.query(bob.ID)
			got := at(r, "device_keys", bob.ID).Raw
			if tt.want == "" {
				require.Empty(t, got)
				return
			}
			require.JSONEq(t, tt.want, got)
		})
	}
	for name, text := range map[string]string{"no keys": `{"device_keys":[]}`, "no JSON": `x`, "keys that occur twice": `{"device_keys":{},"device_keys":{}}`} {
		t.Run(name, func(t *testing.T) {
			answer.Store(text)
			require.True(t, at(alice.query(bob.ID), "failures", "two.test").Exists())
		})
	}
	for name, text := range map[string]string{
		"another algorithm": `{"one_time_keys":{"` + bob.ID + `":{"D":{"other:id":"k"}}}}`,
		"another device":    `{"one_time_keys":{"` + bob.ID + `":{"E":{"a:id":"k"}}}}`,
		"no key":            `{"one_time_keys":{"` + bob.ID + `":{"D":{"a:id":1}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			answer.Store(text)
			r := alice.Do("POST", v3+"/keys/claim", M{"one_time_keys": M{bob.ID: M{"D": "a"}}}).WantOK()
			require.JSONEq(t, `{}`, r.Get("one_time_keys").Raw)
		})
	}
}

// Many servers are asked at the same time.
func TestServersAreAskedAtOnce(t *testing.T) {
	network, alice, _ := pair(t)
	users := make([]string, 40)
	for i := range users {
		name := fmt.Sprintf("s%d.test", i)
		users[i] = "@x:" + name
		network.Add(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
			fmt.Fprint(w, `{"device_keys":{}}`)
		}))
	}
	start := time.Now()
	require.JSONEq(t, `{}`, alice.query(users...).Get("failures").Raw)
	require.Less(t, time.Since(start), 3*time.Second)
}
