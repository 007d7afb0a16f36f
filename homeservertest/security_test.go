package homeservertest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// The cases of another server that means harm, against a whole server. Those that are proved elsewhere:
//
//	F-13            TestTransactionLimits
//	F-19            TestRequestsThatNobodySigned; federation TestDoor; federation/wire TestVerify
//	F-21            federation/keyring TestAnswers, TestHostileServers
//	F-23            federation TestNotaryRefusals, TestNotaryDoesNotWaitForever; federation/wire TestDeniedNetworks
//	F-44, F-46      federation TestSentMembersAreWhatTheySay, TestJoinOfAnotherServer, TestBannedWhoJoins
//	F-50            federation TestExchangeRefusals, TestExchangeWithKeysThatAreNoMore
//	F-59            TestTransactionsAreHandledOnce
//	F-61            federation TestF61BackfillIsBounded
//	F-65            federation TestF65PagesOfRejectedEventsEndNothing
//	F-72, F-73      TestRemoteReceipts, TestRemoteTyping
//	F-85, F-89      federation TestInvitesWithAnyState; TestInviteTakenBack
//	F-91, F-94      federation TestF91EventsOfOtherRoomsLookLikeUnknownOnes, TestF94ServersThatHaveLeft
//	F-92            federation TestF92RoomsThatAServerIsNotIn, TestTemplateRefusals, TestHierarchy
//	F-95, F-97      federation TestF95RedactedEventsAreToldRedacted, TestQueryProfile
//	F-105           federation/wire TestCertificates
//	F-100           federation/wire TestHostileWellKnown, TestWellKnownLifetime, TestTenRedirects
//	F-102           federation TestSenderDeadDestinations, TestSenderMemory, TestSenderBackoff

// siege is a server with a room of alice in which a rogue's user mal is, who has no power there.
type siege struct {
	t       *testing.T
	network *homeservertest.Network
	hs      *homeservertest.Server
	rogue   *homeservertest.Rogue
	alice   *homeservertest.User
	mal     string
	id      string
	room    *homeservertest.RogueRoom
	sent    int
}

// besiege makes a siege in a room of a version. No test that ends has left a panic in the server's log.
func besiege(t *testing.T, version string, opts ...func(*homeserver.Config)) *siege {
	t.Helper()
	network, log := homeservertest.NewNetwork(t), &logged{}
	logs := func(cfg *homeserver.Config) { cfg.Logger = slog.New(slog.NewTextHandler(log, nil)) }
	s := &siege{t: t, network: network, hs: network.New("hs.test", append(opts, logs)...), rogue: network.Rogue("rogue.test")}
	t.Cleanup(func() { require.NotContains(t, log.String(), "panic") })
	s.alice, s.mal = s.hs.User("alice"), s.rogue.UserID("mal")
	s.enter(s.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_version": version}))
	return s
}

// enter lets mal into a room, which becomes the room of the siege.
func (s *siege) enter(room string) {
	s.t.Helper()
	s.id, s.room = room, s.rogue.Join(s.hs, room, s.mal)
}

// logged is a log that is kept.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// drops requires that events are dropped or rejected: the transaction is answered, what follows in it arrives, and
// nobody sees anything of them.
func (s *siege) drops(name string, bad ...homeservertest.PDU) {
	s.t.Helper()
	next := s.room.Build(s.text())
	began := time.Now()
	answer := s.rogue.Send(s.hs, append(slices.Clone(bad), next))
	require.Less(s.t, time.Since(began), 10*time.Second, name)
	require.Equal(s.t, 200, answer.Status, "%s: %s", name, answer.Body)
	s.arrived(name, answer, next)
	s.unseen(name, bad...)
}

// text is a message of mal.
func (s *siege) text() homeservertest.Draft {
	s.sent++
	return s.rogue.Text(s.mal, fmt.Sprint("good ", s.sent))
}

// arrived requires that an event of a transaction was taken and has come down to alice.
func (s *siege) arrived(name string, answer *homeservertest.Response, p homeservertest.PDU) {
	s.t.Helper()
	require.Equal(s.t, `{}`, answer.Get("pdus").Map()[p.ID].Raw, "%s: %s", name, answer.Body)
	s.room.Add(p)
	s.alice.Expect(s.id, homeservertest.ID(p.ID))
}

// takes requires that an event is taken, and seen.
func (s *siege) takes(name string, p homeservertest.PDU) {
	s.t.Helper()
	s.arrived(name, s.rogue.Send(s.hs, []homeservertest.PDU{p}).WantOK(), p)
}

// unseen requires that events appear nowhere, and that the server still answers.
func (s *siege) unseen(name string, bad ...homeservertest.PDU) {
	s.t.Helper()
	pages := s.pages()
	for _, p := range bad {
		require.Equal(s.t, 404, s.read("event", p.ID).Status, "%s: /event", name)
		require.Equal(s.t, 404, s.read("context", p.ID).Status, "%s: /context", name)
		told := s.rogue.Do(s.hs, "GET", "/_matrix/federation/v1/event/"+url.PathEscape(p.ID), nil)
		require.Contains(s.t, []int{403, 404}, told.Status, "%s: %s", name, told.Body)
		for path, page := range pages {
			require.NotContains(s.t, string(page.Body), p.ID, "%s: %s", name, path)
		}
	}
}

// pages are what a client sees of the room and of the server, all of it answered with 200.
func (s *siege) pages() map[string]*homeservertest.Response {
	s.t.Helper()
	pages := map[string]*homeservertest.Response{
		"/versions": s.alice.Do("GET", "/_matrix/client/versions", nil), "/sync": s.alice.Sync("").Response,
		"/messages": s.alice.Messages(s.id, url.Values{"dir": {"b"}, "limit": {"1000"}}),
		"/state":    s.read("state"), "/members": s.read("members"), "/context": s.read("context", s.newest()),
	}
	for path, page := range pages {
		require.Equal(s.t, 200, page.Status, "%s: %s", path, page.Body)
	}
	return pages
}

// read asks for something of the room as alice.
func (s *siege) read(segments ...string) *homeservertest.Response {
	s.t.Helper()
	path := v3 + "/rooms/" + url.PathEscape(s.id)
	for _, segment := range segments {
		path += "/" + url.PathEscape(segment)
	}
	return s.alice.Do("GET", path, nil)
}

// newest is the newest event that alice may see.
func (s *siege) newest() string {
	s.t.Helper()
	page := s.alice.Messages(s.id, url.Values{"dir": {"b"}, "limit": {"1"}}).WantOK()
	return page.Get("chunk.0.event_id").String()
}

// bodies are the texts of the room's messages, oldest first.
func (s *siege) bodies() (list []string) {
	s.t.Helper()
	page := s.alice.Messages(s.id, url.Values{"dir": {"f"}, "limit": {"1000"}}).WantOK()
	for _, e := range page.Get("chunk").Array() {
		if body := e.Get("content.body"); body.Exists() {
			list = append(list, body.String())
		}
	}
	return list
}

// state is the room's state for alice: event ids by type and state key.
func (s *siege) state() map[string]string {
	s.t.Helper()
	state := map[string]string{}
	for _, e := range s.read("state").WantOK().Get("@this").Array() {
		state[e.Get("type").String()+" "+e.Get("state_key").String()] = e.Get("event_id").String()
	}
	return state
}

// told are the events of the room that the rogue was sent, in their order, once nothing is under way.
func (s *siege) told() (list []gjson.Result) {
	s.t.Helper()
	settle(s.t, s.network)
	for _, asked := range s.rogue.Asked("/_matrix/federation/v1/send/") {
		for _, p := range gjson.GetBytes(asked.Body, "pdus").Array() {
			if p.Get("room_id").String() == s.id {
				list = append(list, p)
			}
		}
	}
	return list
}

// levels gives users power in the room, beside alice's own.
func (s *siege) levels(levels map[string]any, users map[string]int) {
	s.t.Helper()
	all := map[string]int{}
	if s.room.Version != "12" {
		all[s.alice.ID] = 100
	}
	for user, level := range users {
		all[user] = level
	}
	content := map[string]any{"users": all}
	for key, level := range levels {
		content[key] = level
	}
	s.alice.SetState(s.id, "m.room.power_levels", "", content).WantOK()
	settle(s.t, s.network)
}

// alive requires that the server answers quickly while fn runs and that little memory and few goroutines are left.
func (s *siege) alive(megabytes int, fn func()) {
	s.t.Helper()
	memory, routines := heap(), runtime.NumGoroutine()
	done, slowest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var worst time.Duration
		for {
			began := time.Now()
			s.alice.Do("GET", "/_matrix/client/versions", nil)
			worst = max(worst, time.Since(began))
			select {
			case <-done:
				slowest <- worst
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	fn()
	close(done)
	require.Less(s.t, <-slowest, time.Second, "/versions")
	settle(s.t, s.network)
	require.Less(s.t, heap()-memory, megabytes<<20, "bytes more than before")
	require.Less(s.t, runtime.NumGoroutine()-routines, 50, "goroutines more than before")
}

// heap is the memory in use, in bytes.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// decoded is an event without its hash and signatures, to be signed anew.
func decoded(t *testing.T, p homeservertest.PDU) homeservertest.Fields {
	t.Helper()
	fields := homeservertest.Fields{}
	d := json.NewDecoder(bytes.NewReader(p.JSON))
	d.UseNumber()
	require.NoError(t, d.Decode(&fields))
	delete(fields, "hashes")
	delete(fields, "signatures")
	return fields
}

// reworded changes the text of an event that is signed.
func reworded(t *testing.T, p homeservertest.PDU, old, new string) homeservertest.PDU {
	t.Helper()
	require.Contains(t, string(p.JSON), old)
	return homeservertest.PDU{ID: p.ID, JSON: []byte(strings.Replace(string(p.JSON), old, new, 1))}
}

// stateful is a state event.
func stateful(sender, eventType, key string, content any) homeservertest.Draft {
	return homeservertest.Draft{Type: eventType, Sender: sender, StateKey: &key, Content: content}
}

// member is a change of a membership.
func member(sender, target, membership string) homeservertest.Draft {
	return stateful(sender, "m.room.member", target, homeservertest.Fields{"membership": membership})
}
