package homeservertest_test

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// limited switches the limits on, and believes what a proxy says of addresses.
func limited(cfg *homeserver.Config) {
	cfg.Limits = homeserver.Limits{}
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// from sends a request without a token from an address.
func from(hs *homeservertest.Server, address, method, path string, body any) *httptest.ResponseRecorder {
	raw, _ := json.Marshal(body) //nolint:errchkjson // of a test
	r := httptest.NewRequest(method, path, bytes.NewReader(raw))
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("X-Forwarded-For", address)
	w := httptest.NewRecorder()
	hs.ServeHTTP(w, r)
	return w
}

func passwordLogin(user, password string) map[string]any {
	return map[string]any{"type": "m.login.password", "password": password, "identifier": map[string]any{"type": "m.id.user", "user": user}}
}

// C-12: who guesses passwords is stopped, and others log in all the same.
func TestC12GuessedPasswords(t *testing.T) {
	hs := homeservertest.New(t, limited)
	alice := hs.User("alice")
	guess := func() *httptest.ResponseRecorder {
		return from(hs, "203.0.113.1", "POST", clientPath("login"), passwordLogin(alice.ID, "wrong"))
	}
	stopped := 0
	for range 50 {
		w := guess()
		if w.Code == 403 {
			require.Zero(t, stopped)
			continue
		}
		stopped++
		require.Equal(t, 429, w.Code)
		require.Contains(t, w.Body.String(), `"errcode":"M_LIMIT_EXCEEDED"`)
		require.Contains(t, w.Body.String(), `"retry_after_ms":`)
		seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
		require.NoError(t, err)
		require.Positive(t, seconds)
	}
	require.GreaterOrEqual(t, stopped, 5)
	require.Equal(t, 200, from(hs, "203.0.113.2", "POST", clientPath("login"), passwordLogin(alice.ID, alice.Password)).Code)
	require.Equal(t, 200, from(hs, "203.0.113.1", "GET", "/_matrix/client/versions", nil).Code)
}

// C-14: a crowd that guesses passwords, each from an address of their own, does not keep others from their work.
func TestC14CrowdOfLogins(t *testing.T) {
	hs := homeservertest.New(t, limited, func(cfg *homeserver.Config) {
		cfg.PasswordCost.MemoryKiB, cfg.PasswordCost.Passes, cfg.PasswordCost.Threads = 4<<10, 1, 1
	})
	alice := hs.User("alice")
	var crowd sync.WaitGroup
	for i := range 200 {
		crowd.Go(func() {
			w := from(hs, "10.1.0."+strconv.Itoa(i), "POST", clientPath("login"), passwordLogin(alice.ID, "wrong"))
			if w.Code != 403 && w.Code != 429 {
				t.Errorf("a wrong login is answered with %d: %s", w.Code, w.Body)
			}
		})
	}
	since := ""
	for range 20 {
		began := time.Now()
		since = alice.Sync(since).NextBatch
		require.Less(t, time.Since(began), time.Second)
	}
	crowd.Wait()
}

// C-26: who floods is told when to come again; what others do, and what else the same user does, goes on.
func TestC26Floods(t *testing.T) {
	hs := homeservertest.New(t, limited)
	u, v := hs.User("u"), hs.User("v")
	room := u.CreateRoom(homeservertest.Public)
	own := v.CreateRoom(homeservertest.Public)
	name := func(i int) string { return "@x" + strconv.Itoa(i) + ":hs.test" }
	floods := []struct {
		name string
		most int
		call func(who *homeservertest.User, i int) *homeservertest.Response
	}{
		{"sends", 300, func(who *homeservertest.User, i int) *homeservertest.Response {
			in := map[bool]string{true: room, false: own}[who == u]
			return who.SendTxn(in, "m.room.message", "flood"+strconv.Itoa(i), map[string]any{"msgtype": "m.text", "body": "x"})
		}},
		{"createRoom", 30, func(who *homeservertest.User, i int) *homeservertest.Response {
			return who.Do("POST", clientPath("createRoom"), map[string]any{})
		}},
		{"invites", 100, func(who *homeservertest.User, i int) *homeservertest.Response {
			in := map[bool]string{true: room, false: own}[who == u]
			return who.Do("POST", clientPath("rooms", in, "invite"), map[string]any{"user_id": name(i)})
		}},
		{"joins", 100, func(who *homeservertest.User, i int) *homeservertest.Response {
			return who.Join(map[bool]string{true: room, false: own}[who == u])
		}},
		{"reports", 30, func(who *homeservertest.User, i int) *homeservertest.Response {
			return who.Do("POST", clientPath("rooms", room, "report"), map[string]any{"reason": "x"})
		}},
	}
	for _, f := range floods {
		i := 0
		answer := f.call(u, i)
		for ; answer.Status == 200 && i < f.most; i++ {
			answer = f.call(u, i+1)
		}
		answer.WantError(429, "M_LIMIT_EXCEEDED")
		require.NotEmpty(t, answer.Header.Get("Retry-After"), f.name)
		require.Positive(t, answer.Get("retry_after_ms").Int(), f.name)
		f.call(v, 0).WantOK()
	}
	u.Sync("")
	many := make([]string, 60)
	for i := range many {
		many[i] = name(i)
	}
	v.Do("POST", clientPath("createRoom"), map[string]any{"invite": many}).WantOK()
	v.Do("POST", clientPath("createRoom"), map[string]any{"invite": many[:1]}).WantError(429, "M_LIMIT_EXCEEDED")
	v.Do("POST", clientPath("createRoom"), map[string]any{}).WantOK()
}
