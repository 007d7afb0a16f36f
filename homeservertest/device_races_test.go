package homeservertest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// TestSigningKeysWhileAsked: cross-signing keys that are told while an older list is on its way are not lost.
func TestSigningKeysWhileAsked(t *testing.T) {
	s := newStage(t)
	old, _ := crossKey(t, s.mallory, "master")
	master, public := crossKey(t, s.mallory, "master")
	var asked atomic.Int32
	s.rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/_matrix/federation/v1/user/devices/") {
			return false
		}
		told := master
		if asked.Add(1) == 1 {
			told = old
			s.rogue.Send(s.hs, nil, homeservertest.EDU("m.signing_key_update", object{"user_id": s.mallory, "master_key": master}))
		}
		json.NewEncoder(w).Encode(object{"user_id": s.mallory, "stream_id": 1, "devices": []object{}, "master_key": told})
		return true
	})
	require.Eventually(t, func() bool {
		answer := s.alice.Do("POST", "/_matrix/client/v3/keys/query", object{"device_keys": object{s.mallory: []string{}}}).WantOK()
		return strings.Contains(answer.Get("master_keys").Raw, public)
	}, 10*time.Second, 50*time.Millisecond)
}

// TestDevicesOfAUserAreBounded: what another server tells bit by bit is as bounded as what it tells at once.
func TestDevicesOfAUserAreBounded(t *testing.T) {
	s := newStage(t)
	var devices []object
	for i := range 999 {
		devices = append(devices, s.device(fmt.Sprint("D", i), "", "key"))
	}
	s.tells(1, devices...)
	require.Equal(t, 999, len(queryKeys(s.alice, s.mallory).Map()))
	for i := 2; i < 5; i++ {
		s.update(i, []int{i - 1}, s.device(fmt.Sprint("E", i), "", "key"))
	}
	s.update(5, []int{4}, s.device("D0", "", "another"))
	known := queryKeys(s.alice, s.mallory)
	require.Equal(t, 1000, len(known.Map()))
	require.Equal(t, "another", keyOf(known, "D0"))
	require.Equal(t, 1, s.times())
}
