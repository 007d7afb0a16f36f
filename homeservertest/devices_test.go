package homeservertest_test

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// awaitSync syncs on from a token until an answer passes, for at most as long as the conformance demands, and returns it.
func awaitSync(t *testing.T, u *homeservertest.User, since string, within time.Duration, pass func(*homeservertest.Sync) bool) *homeservertest.Sync {
	t.Helper()
	for began := time.Now(); ; {
		s := u.SyncWith(url.Values{"since": {since}, "timeout": {"1000"}})
		if pass(s) {
			return s
		}
		require.Less(t, time.Since(began), within, "the last answer: %s", s.Body)
		since = s.NextBatch
	}
}

func hasChanged(user string) func(*homeservertest.Sync) bool {
	return func(s *homeservertest.Sync) bool {
		return slices.ContainsFunc(s.Get("device_lists.changed").Array(), func(r gjson.Result) bool { return r.Str == user })
	}
}

func hasMessage(text string) func(*homeservertest.Sync) bool {
	return func(s *homeservertest.Sync) bool {
		return s.Get(`to_device.events.#(content.text=="` + text + `")`).Exists()
	}
}

func sendTo(u *homeservertest.User, user, device, text string) {
	u.Do("PUT", "/_matrix/client/v3/sendToDevice/m.test/"+rand.Text(), object{
		"messages": object{user: object{device: object{"text": text}}},
	}).WantOK()
}

func rename(u *homeservertest.User, name string) {
	u.Do("PUT", "/_matrix/client/v3/devices/"+url.PathEscape(u.Device), object{"display_name": name}).WantOK()
}

// uploadKeys gives a device new keys, and returns the ed25519 one.
func uploadKeys(u *homeservertest.User) string {
	key := rand.Text()
	u.Do("POST", "/_matrix/client/v3/keys/upload", object{"device_keys": identityKeys(u.ID, u.Device, key)}).WantOK()
	return key
}

func identityKeys(user, device, key string) object {
	return object{
		"user_id": user, "device_id": device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": object{"ed25519:" + device: key}, "signatures": object{},
	}
}

// queryKeys asks for the devices of a user.
func queryKeys(u *homeservertest.User, user string) gjson.Result {
	return u.Do("POST", "/_matrix/client/v3/keys/query", object{"device_keys": object{user: []string{}}}).WantOK().Get("device_keys." + esc(user))
}

func esc(s string) string { return strings.NewReplacer(".", `\.`, ":", `\:`).Replace(s) }

// keyOf is the ed25519 key of a device in what queryKeys returned.
func keyOf(devices gjson.Result, device string) string {
	return devices.Get(esc(device) + ".keys.ed25519" + esc(":"+device)).Str
}

// federated are two servers with a user each, who share a room.
type federated struct {
	network    *homeservertest.Network
	one, two   *homeservertest.Server
	alice, bob *homeservertest.User
	room       string
}

func shareRoom(t *testing.T) *federated {
	f := &federated{network: homeservertest.NewNetwork(t)}
	f.one, f.two = f.network.New("one.test"), f.network.New("two.test")
	f.alice, f.bob = f.one.User("alice"), f.two.User("bob")
	f.room = f.alice.CreateRoom(homeservertest.Public)
	join(f.bob, f.room, "one.test")
	return f
}

func join(u *homeservertest.User, room, via string) {
	u.Do("POST", "/_matrix/client/v3/join/"+url.PathEscape(room)+"?server_name="+via, object{}).WantOK()
}

// TestFederatedToDevice is TD-04 and FT-14: messages arrive on other servers, once and in order, whoever is away or
// restarted meanwhile.
func TestFederatedToDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := shareRoom(t)
		since := f.bob.Sync("").NextBatch
		sendTo(f.alice, f.bob.ID, f.bob.Device, "one")
		s := awaitSync(t, f.bob, since, 30*time.Second, hasMessage("one"))
		require.JSONEq(t, `[{"content":{"text":"one"},"sender":"`+f.alice.ID+`","type":"m.test"}]`, s.Get("to_device.events").Raw)

		f.network.Partition("one.test")
		sendTo(f.alice, f.bob.ID, "*", "two")
		sendTo(f.alice, f.bob.ID, f.bob.Device, "three")
		time.Sleep(20 * time.Second)
		f.one.Restart()
		time.Sleep(10 * time.Second)
		f.two.Restart()
		f.network.Heal()
		var got []string
		s = awaitSync(t, f.bob, s.NextBatch, 30*time.Second, func(s *homeservertest.Sync) bool {
			for _, e := range s.Get("to_device.events").Array() {
				got = append(got, e.Get("content.text").Str)
			}
			return len(got) >= 2
		})
		require.Equal(t, []string{"two", "three"}, got)
		require.False(t, f.bob.Sync(s.NextBatch).Get("to_device").Exists())
		f.one.Restart()
		time.Sleep(time.Hour)
		require.False(t, f.bob.Sync(s.NextBatch).Get("to_device").Exists(), "it is sent once")
	})
}

// TestFederatedDeviceLists is FT-10, FT-13 and FT-14: whose devices have changed is told on other servers, exactly and
// whoever was away or restarted meanwhile.
func TestFederatedDeviceLists(t *testing.T) {
	for name, restart := range map[string]bool{"partition": false, "restarts": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := shareRoom(t)
				since := f.bob.Sync("").NextBatch
				keys := uploadKeys(f.alice)
				awaitSync(t, f.bob, since, 50*time.Second, hasChanged(f.alice.ID))
				awaitKey(t, f, keys)
				since = f.bob.Sync("").NextBatch

				f.network.Partition("two.test")
				second := f.alice.Login()
				keys = uploadKeys(second)
				rename(f.alice, "the first one")
				time.Sleep(20 * time.Second)
				if restart {
					f.one.Restart()
					f.two.Restart()
				}
				f.network.Heal()
				awaitSync(t, f.bob, since, 50*time.Second, hasChanged(f.alice.ID))
				f.network.Settle(t.Context())
				f.network.Partition("two.test")
				devices := queryKeys(f.bob, f.alice.ID)
				require.Equal(t, keys, keyOf(devices, second.Device), "%s", devices.Raw)
				require.Equal(t, "the first one", devices.Get(f.alice.Device+".unsigned.device_display_name").Str)
			})
		})
	}
}

// TestFederatedDeviceListsExactly is the story of those who try servers out.
func TestFederatedDeviceListsExactly(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	alice, bob := one.User("alice"), two.User("bob")
	room := alice.CreateRoomWith(map[string]any{"preset": "private_chat", "invite": []string{bob.ID}})
	sinceAlice := alice.Sync("").NextBatch
	sinceBob := ""
	require.Eventually(t, func() bool {
		s := bob.Sync("")
		sinceBob = s.NextBatch
		return s.Invited(room).Exists()
	}, 10*time.Second, 10*time.Millisecond)
	join(bob, room, "one.test")
	awaitSync(t, alice, sinceAlice, 10*time.Second, hasLists([]string{bob.ID}, []string{}))
	awaitSync(t, bob, sinceBob, 10*time.Second, hasLists([]string{alice.ID, bob.ID}, []string{}))
}

// hasLists passes an answer with exactly these lists; empty ones are left out.
func hasLists(changed, left []string) func(*homeservertest.Sync) bool {
	lists := object{}
	for name, list := range map[string][]string{"changed": changed, "left": left} {
		if len(list) > 0 {
			lists[name] = list
		}
	}
	want, _ := json.Marshal(lists)
	return func(s *homeservertest.Sync) bool { return s.Get("device_lists").Raw == string(want) }
}

// TestRemoteDeviceListsAreNotStale: once no room is shared nothing that was known is believed any more.
func TestRemoteDeviceListsAreNotStale(t *testing.T) {
	tests := []struct {
		name        string
		leave, join func(f *federated)
	}{
		{"the other user leaves", func(f *federated) { f.alice.MustLeave(f.room) }, func(f *federated) { join(f.alice, f.room, "two.test") }},
		{"the own user leaves", func(f *federated) { f.bob.MustLeave(f.room) }, func(f *federated) { join(f.bob, f.room, "one.test") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := shareRoom(t)
			third := f.one.User("third") // the room outlives alice
			third.MustJoin(f.room)
			key := uploadKeys(f.alice)
			awaitKey(t, f, key)
			since := f.bob.Sync("").NextBatch
			tt.leave(f)
			since = awaitSync(t, f.bob, since, 10*time.Second, func(s *homeservertest.Sync) bool {
				return strings.Contains(s.Get("device_lists.left").Raw, f.alice.ID)
			}).NextBatch
			key = uploadKeys(f.alice.Login())
			tt.join(f)
			awaitSync(t, f.bob, since, 10*time.Second, hasChanged(f.alice.ID))
			require.Contains(t, queryKeys(f.bob, f.alice.ID).Raw, key)
		})
	}
}

// awaitKey waits until bob is told of a key of alice.
func awaitKey(t *testing.T, f *federated, key string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return strings.Contains(queryKeys(f.bob, f.alice.ID).Raw, key)
	}, 10*time.Second, 10*time.Millisecond)
}

// stage is a server with a user in a room of a rogue, whose users' devices the rogue tells.
type stage struct {
	t       *testing.T
	network *homeservertest.Network
	hs      *homeservertest.Server
	rogue   *homeservertest.Rogue
	room    *homeservertest.RogueRoom
	alice   *homeservertest.User
	mallory string

	mu      sync.Mutex // guards the following
	devices object     // what the rogue tells of mallory; nil: a refusal
	asked   int
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, network: homeservertest.NewNetwork(t)}
	s.hs, s.rogue = s.network.New("hs.test"), s.network.Rogue("rogue.test")
	s.alice, s.mallory = s.hs.User("alice"), s.rogue.UserID("mallory")
	s.rogue.Handle(s.handle)
	s.room = s.rogue.CreateRoom("11", s.mallory)
	join(s.alice, s.room.ID, "rogue.test")
	return s
}

func (s *stage) handle(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/_matrix/federation/v1/user/devices/") {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.devices == nil {
		w.WriteHeader(400)
		return true
	}
	json.NewEncoder(w).Encode(s.devices)
	return true
}

// tells sets what the rogue tells when it is asked for mallory's devices.
func (s *stage) tells(stream int, devices ...object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = object{"user_id": s.mallory, "stream_id": stream, "devices": devices}
}

func (s *stage) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *stage) device(id, name, key string) object {
	return object{"device_id": id, "device_display_name": name, "keys": identityKeys(s.mallory, id, key)}
}

// update sends an m.device_list_update.
func (s *stage) update(stream int, prev []int, content object) {
	content["user_id"], content["stream_id"], content["prev_id"] = s.mallory, stream, prev
	s.rogue.Send(s.hs, nil, homeservertest.EDU("m.device_list_update", content)).WantOK()
}

// TestDeviceListUpdates is FT-10: updates in order are taken as they come, and a gap lets the whole list be asked for.
func TestDeviceListUpdates(t *testing.T) {
	s := newStage(t)
	since := s.alice.Sync("").NextBatch
	s.tells(1, s.device("D", "old", "key1"))
	s.update(1, nil, s.device("D", "old", "key1"))
	since = awaitSync(t, s.alice, since, 10*time.Second, hasChanged(s.mallory)).NextBatch
	require.Equal(t, 1, s.times())

	s.update(2, []int{1}, s.device("D", "new", "key2"))
	answer := awaitSync(t, s.alice, since, 10*time.Second, hasChanged(s.mallory))
	require.Equal(t, "key2", keyOf(queryKeys(s.alice, s.mallory), "D"))
	require.Equal(t, "new", queryKeys(s.alice, s.mallory).Get("D.unsigned.device_display_name").Str)
	s.update(2, []int{1}, s.device("D", "new", "key2"))
	require.False(t, s.alice.Sync(answer.NextBatch).Get("device_lists").Exists(), "it is known")
	require.Equal(t, 1, s.times(), "nothing is missing")

	s.tells(4, s.device("D", "new", "key4"), s.device("E", "", "key3"))
	s.update(4, []int{3}, s.device("D", "new", "key4"))
	answer = awaitSync(t, s.alice, answer.NextBatch, 10*time.Second, hasChanged(s.mallory))
	devices := queryKeys(s.alice, s.mallory)
	require.Equal(t, []string{"key4", "key3"}, []string{keyOf(devices, "D"), keyOf(devices, "E")})
	require.Equal(t, 2, s.times())

	s.update(5, []int{4}, object{"device_id": "E", "deleted": true})
	awaitSync(t, s.alice, answer.NextBatch, 10*time.Second, hasChanged(s.mallory))
	require.False(t, queryKeys(s.alice, s.mallory).Get("E").Exists())
	s.mu.Lock()
	s.devices = nil
	s.mu.Unlock()
	require.Equal(t, "key4", keyOf(queryKeys(s.alice, s.mallory), "D"), "what is known is not asked for")
	require.Equal(t, 2, s.times())
}

// TestDeviceListRetries: a list that cannot be had is asked for again, also after a restart; clients are told.
func TestDeviceListRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.tells(1, s.device("D", "", "key1"))
		require.Equal(t, "key1", keyOf(queryKeys(s.alice, s.mallory), "D"))
		since := s.alice.Sync("").NextBatch
		s.mu.Lock()
		s.devices = nil
		s.mu.Unlock()
		s.update(3, []int{2}, s.device("D", "", "key3"))
		since = awaitSync(t, s.alice, since, 10*time.Second, hasChanged(s.mallory)).NextBatch
		time.Sleep(time.Minute)
		require.Greater(t, s.times(), 2)
		require.False(t, s.alice.Sync(since).Get("device_lists").Exists(), "that is told once")
		s.hs.Restart()
		s.tells(3, s.device("D", "", "key3"))
		awaitSync(t, s.alice, since, 50*time.Second, hasChanged(s.mallory))
		require.Equal(t, "key3", keyOf(queryKeys(s.alice, s.mallory), "D"))
	})
}

// TestDeviceListsOfStrangers: what a server tells of users of others, or of those who share no room, is not kept.
func TestDeviceListsOfStrangers(t *testing.T) {
	s := newStage(t)
	since := s.alice.Sync("").NextBatch
	s.mallory = s.rogue.UserID("stranger")
	s.tells(1, s.device("D", "", "key"))
	s.update(1, nil, s.device("D", "", "key"))
	s.mallory = s.alice.ID
	s.update(1, nil, s.device("D", "", "key"))
	s.rogue.Send(s.hs, nil,
		homeservertest.EDU("m.device_list_update", object{}), homeservertest.EDU("m.device_list_update", object{"user_id": 5}),
		homeservertest.EDU("m.signing_key_update", object{"user_id": s.alice.ID}), homeservertest.EDU("m.direct_to_device", object{}),
	).WantOK()
	require.False(t, s.alice.Sync(since).Get("device_lists").Exists())
	require.Zero(t, s.times())
}

// TestReceivedToDevice is FT-12 and TD-06: messages of a server's own users, each once.
func TestReceivedToDevice(t *testing.T) {
	s := newStage(t)
	message := func(sender, messageID, text string) any {
		return homeservertest.EDU("m.direct_to_device", object{
			"sender": sender, "type": "m.test", "message_id": messageID,
			"messages": object{s.alice.ID: object{"*": object{"text": text}}, "@x:other.test": object{"*": object{}}},
		})
	}
	s.rogue.Send(s.hs, nil, message(s.mallory, "m1", "one"), message(s.mallory, "m1", "one"), message("@bob:other.test", "m2", "forged")).WantOK()
	s.rogue.Send(s.hs, nil, message(s.alice.ID, "m3", "forged"), message(s.mallory, "m1", "one")).WantOK()
	s.hs.Restart()
	s.rogue.Send(s.hs, nil, message(s.mallory, "m1", "one"), message(s.mallory, "m4", "two")).WantOK()
	require.Equal(t, `["one","two"]`, s.alice.Sync("").Get("to_device.events.#.content.text").Raw)
}

// edus are the contents of the EDUs of a type that the rogue was sent.
func (s *stage) edus(eduType string) (list []gjson.Result) {
	for _, a := range s.rogue.Asked("/_matrix/federation/v1/send/") {
		for _, edu := range gjson.GetBytes(a.Body, "edus").Array() {
			if edu.Get("edu_type").Str == eduType {
				list = append(list, edu.Get("content"))
			}
		}
	}
	return list
}

// await waits for an m.device_list_update about a device in which a path has a value, and checks that every update about
// its user refers to the one before.
func (s *stage) await(u *homeservertest.User, path, value string) (found gjson.Result) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		for _, edu := range s.edus("m.device_list_update") {
			if found = edu; edu.Get("device_id").Str == u.Device && edu.Get(path).String() == value {
				return true
			}
		}
		return false
	}, 10*time.Second, 5*time.Millisecond, "%s is not %s in any of %v", path, value, s.edus("m.device_list_update"))
	prev := "[]"
	for _, edu := range s.edus("m.device_list_update") {
		if edu.Get("user_id").Str == u.ID {
			require.Equal(s.t, prev, edu.Get("prev_id").Raw, "%s", edu.Raw)
			prev = "[" + edu.Get("stream_id").Raw + "]"
		}
	}
	return found
}

// TestDeviceListUpdatesSent is FT-10 and FT-13: a server is told of a user who joins a room with it, and of every change
// after that, each referring to the one before.
func TestDeviceListUpdatesSent(t *testing.T) {
	s := newStage(t)
	s.await(s.alice, "user_id", s.alice.ID)
	bob := s.hs.User("bob")
	join(bob, s.room.ID, "rogue.test")
	s.await(bob, "user_id", bob.ID)

	ofDevice := "keys.keys.ed25519" + esc(":"+s.alice.Device)
	key := uploadKeys(s.alice)
	s.await(s.alice, ofDevice, key)
	keyOfBob := uploadKeys(bob)
	s.await(bob, "keys.keys.ed25519"+esc(":"+bob.Device), keyOfBob)
	rename(s.alice, "name")
	last := s.await(s.alice, "device_display_name", "name")

	told := s.rogue.Do(s.hs, "GET", "/_matrix/federation/v1/user/devices/"+url.PathEscape(s.alice.ID), nil).WantOK()
	require.Equal(t, last.Get("stream_id").Raw, told.Get("stream_id").Raw)
	require.Equal(t, key, told.Get("devices.0."+ofDevice).Str)
	require.Equal(t, "name", told.Get("devices.0.device_display_name").Str)

	gone := s.alice.Login()
	s.await(gone, "user_id", s.alice.ID)
	gone.Do("POST", "/_matrix/client/v3/logout", object{}).WantOK()
	s.await(gone, "deleted", "true")
	require.Empty(t, s.edus("m.signing_key_update"))
}

// crossKey is a cross-signing key for a use.
func crossKey(t *testing.T, user, usage string) (key object, public string) {
	pair, err := signing.Generate(nil)
	require.NoError(t, err)
	public = signing.Encode(pair.Public())
	return object{"user_id": user, "usage": []string{usage}, "keys": object{"ed25519:" + public: public}}, public
}

// TestSigningKeyUpdates is FT-11: cross-signing keys are told to other servers, and taken from them.
func TestSigningKeyUpdates(t *testing.T) {
	s := newStage(t)
	s.tells(1, s.device("D", "", "key"))
	queryKeys(s.alice, s.mallory)
	since := s.alice.Sync("").NextBatch
	for _, eduType := range []string{"m.signing_key_update", "org.matrix.signing_key_update"} {
		master, public := crossKey(t, s.mallory, "master")
		s.rogue.Send(s.hs, nil, homeservertest.EDU(eduType, object{"user_id": s.mallory, "master_key": master})).WantOK()
		since = awaitSync(t, s.alice, since, 10*time.Second, hasChanged(s.mallory)).NextBatch
		answer := s.alice.Do("POST", "/_matrix/client/v3/keys/query", object{"device_keys": object{s.mallory: []string{}}}).WantOK()
		require.Contains(t, answer.Get("master_keys").Raw, public)
	}
	require.Equal(t, 1, s.times())

	master, public := crossKey(t, s.alice.ID, "master")
	s.alice.Do("POST", "/_matrix/client/v3/keys/device_signing/upload", object{"master_key": master}).WantOK()
	require.Eventually(t, func() bool {
		list := s.edus("m.signing_key_update")
		return len(list) > 0 && strings.Contains(list[0].Get("master_key").Raw, public) && list[0].Get("user_id").Str == s.alice.ID
	}, 10*time.Second, 5*time.Millisecond, "%v", s.edus("m.signing_key_update"))
}

// TestUserDevices is FQ-06 for those who are not there.
func TestUserDevices(t *testing.T) {
	s := newStage(t)
	ask := func(user string) *homeservertest.Response {
		return s.rogue.Do(s.hs, "GET", "/_matrix/federation/v1/user/devices/"+url.PathEscape(user), nil)
	}
	ask("@nobody:hs.test").WantError(404, "M_NOT_FOUND")
	ask("@x:other.test").WantError(400, "M_INVALID_PARAM")
	require.Equal(t, "[]", ask(s.alice.ID).WantOK().Get("devices").Raw)
}

// TestDeviceUpdatesCoalesce: a server that was away is told of each device once, with what it is now.
func TestDeviceUpdatesCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		time.Sleep(time.Second)
		before := len(s.edus("m.device_list_update"))
		s.network.Partition("rogue.test")
		for range 30 {
			rename(s.alice, rand.Text())
		}
		second := s.alice.Login()
		rename(s.alice, "last")
		time.Sleep(time.Minute)
		s.network.Heal()
		time.Sleep(10 * time.Minute)
		news := s.edus("m.device_list_update")[before:]
		require.Len(t, news, 3, "the first was on its way already")
		names := map[string]string{}
		for _, u := range news[1:] {
			names[u.Get("device_id").Str] = u.Get("device_display_name").Str
		}
		require.Equal(t, map[string]string{s.alice.Device: "last", second.Device: ""}, names)
		for i, u := range news {
			require.Equal(t, "["+s.edus("m.device_list_update")[before+i-1].Get("stream_id").Raw+"]", u.Get("prev_id").Raw)
		}
	})
}

// TestMuchNewsForOthers: what a server is owed of a user's devices is not forgotten because others are told of much.
func TestMuchNewsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := shareRoom(t)
		uploadKeys(f.alice)
		name := func() string {
			return queryKeys(f.bob, f.alice.ID).Get(esc(f.alice.Device) + ".unsigned.device_display_name").Str
		}
		rename(f.alice, "first")
		require.Eventually(t, func() bool { return name() == "first" }, time.Minute, time.Second)
		carol, dave := f.one.User("carol"), f.network.New("three.test").User("dave")
		other := carol.CreateRoom(homeservertest.Public)
		join(dave, other, "one.test")

		f.network.Partition("two.test")
		for _, name := range []string{"second", "third"} { // the second is tried again and again, the third waits for that
			rename(f.alice, name)
			time.Sleep(time.Second)
		}
		for range 140 { // each time three.test is told of her device
			join(f.alice, other, "one.test")
			time.Sleep(time.Second)
			f.alice.Do("POST", "/_matrix/client/v3/rooms/"+url.PathEscape(other)+"/leave", object{}).WantOK()
			time.Sleep(time.Second)
		}
		f.network.Heal()
		require.Eventually(t, func() bool { return name() == "third" }, 2*time.Hour, time.Second)
	})
}
