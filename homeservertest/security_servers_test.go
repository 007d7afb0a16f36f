package homeservertest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

// silent answers nothing until who asks gives up, and counts who asks.
type silent struct{ asked atomic.Int32 }

func (s *silent) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	<-r.Context().Done()
}

// F-22: events of fifty servers that never answer keep nobody else's waiting, and each server is asked once.
func TestF22ManyDeadServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := besiege(t, "11")
		other := s.network.Rogue("other.test")
		elsewhere := other.Join(s.hs, s.hs.User("bob").CreateRoom(homeservertest.Public), other.UserID("u"))
		var pdus []homeservertest.PDU
		dead := make([]silent, 50)
		for i := range dead {
			r := s.network.Rogue(fmt.Sprintf("dead%d.test", i))
			s.network.Add(r.Name(), &dead[i])
			pdus = append(pdus, r.Sign("11", decoded(t, s.room.Build(s.rogue.Text(r.UserID("u"), "dead"))), nil))
		}
		for range 2 {
			began := time.Now()
			var all sync.WaitGroup
			all.Go(func() { s.rogue.Send(s.hs, pdus).WantOK() })
			all.Go(func() {
				time.Sleep(100 * time.Millisecond)
				elsewhere.Send(s.hs, other.Text(other.UserID("u"), "alive"))
				require.Less(t, time.Since(began), time.Second)
			})
			all.Wait()
			require.Less(t, time.Since(began), 15*time.Second)
		}
		for i := range dead {
			require.EqualValues(t, 1, dead[i].asked.Load())
		}
		s.unseen("of dead servers", pdus...)
	})
}

// theirs is a siege in a room of the rogue's own, in which alice and bob are.
func theirs(t *testing.T) (s *siege, bob *homeservertest.User) {
	t.Helper()
	s = besiege(t, "11")
	bob = s.hs.User("bob")
	s.mal = s.rogue.UserID("creator")
	s.room = s.rogue.CreateRoom("11", s.mal)
	s.id = s.room.ID
	for _, user := range []*homeservertest.User{s.alice, bob} {
		user.Do("POST", v3+"/join/"+s.id+"?server_name=rogue.test", map[string]any{}).WantOK()
	}
	return s, bob
}

// F-52: who is kicked while she sends has sent nothing after that, and learns of it once.
func TestF52KickedWhileSending(t *testing.T) {
	s, bob := theirs(t)
	since := s.alice.Sync("").NextBatch
	halfway := make(chan struct{})
	var sending sync.WaitGroup
	var answers []*homeservertest.Response
	text := map[string]any{"msgtype": "m.text", "body": "no"}
	sending.Go(func() {
		for i := range 50 {
			if i == 10 {
				close(halfway)
			}
			answers = append(answers, s.alice.SendEvent(s.id, "m.room.message", text))
		}
	})
	<-halfway
	kick := s.room.Build(member(s.mal, s.alice.ID, "leave"))
	s.rogue.Send(s.hs, []homeservertest.PDU{kick}).WantOK()
	sending.Wait()
	for _, answer := range answers {
		require.Contains(t, []int{200, 403}, answer.Status, "%s", answer.Body)
	}
	s.alice.SendEvent(s.id, "m.room.message", text).WantError(403, "M_FORBIDDEN")
	kicked := false
	for _, e := range bob.Messages(s.id, url.Values{"dir": {"f"}, "limit": {"1000"}}).WantOK().Get("chunk").Array() {
		require.False(t, kicked && e.Get("sender").String() == s.alice.ID, "%s", e.Raw)
		kicked = kicked || e.Get("event_id").String() == kick.ID
	}
	require.True(t, kicked)
	first := s.alice.Sync(since)
	require.Equal(t, 1, strings.Count(string(first.Body), kick.ID), "%s", first.Body)
	require.NotEmpty(t, first.Left(s.id).Raw)
	require.Empty(t, s.alice.Sync(first.NextBatch).Left(s.id).Raw)
}

// F-53: a long poll of who is banned by another server ends with the room left; nothing of it comes after that.
func TestF53BannedWhilePolling(t *testing.T) {
	s, bob := theirs(t)
	since := s.alice.Sync("").NextBatch
	polled := make(chan *homeservertest.Sync)
	go func() { polled <- s.alice.SyncWith(url.Values{"since": {since}, "timeout": {"30000"}}) }()
	ban := s.room.Extend(member(s.mal, s.alice.ID, "ban"))
	s.rogue.Send(s.hs, []homeservertest.PDU{ban}).WantOK()
	answer := <-polled
	require.Contains(t, answer.Left(s.id).Raw, ban.ID)
	require.Empty(t, answer.Joined(s.id).Raw)
	later := s.room.Send(s.hs, s.rogue.Text(s.mal, "later"))
	bob.Expect(s.id, homeservertest.ID(later.ID))
	for _, token := range []string{answer.NextBatch, since, ""} {
		require.NotContains(t, string(s.alice.Sync(token).Body), "later")
	}
	require.NotContains(t, string(s.alice.Messages(s.id, url.Values{"dir": {"b"}}).Body), "later")
	require.Contains(t, []int{403, 404}, s.read("event", later.ID).Status)
}

// F-54: what a server that the room keeps out sends on its own.
func TestF54KeptOut(t *testing.T) {
	s := besiege(t, "11")
	event := s.alice.Send(s.id, "hi")
	settle(t, s.network)
	s.alice.SetState(s.id, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{"rogue.test"}}).WantOK()
	p := s.room.Build(s.text())
	answer := s.rogue.Send(s.hs, []homeservertest.PDU{p},
		homeservertest.EDU("m.typing", map[string]any{"room_id": s.id, "user_id": s.mal, "typing": true}),
		homeservertest.EDU("m.receipt", map[string]any{s.id: map[string]any{"m.read": map[string]any{
			s.mal: map[string]any{"event_ids": []string{event}, "data": map[string]any{"ts": 1}},
		}}}),
	).WantOK()
	require.NotEmpty(t, answer.Get("pdus").Map()[p.ID].Get("error").String(), "%s", answer.Body)
	s.unseen("a message", p)
	require.Empty(t, typists(s.alice, s.id))
	require.Empty(t, receipts(s.alice, s.id))
	bob := s.hs.User("bob")
	invite := s.room.Build(member(s.mal, bob.ID, "invite"))
	body := map[string]any{"room_version": "11", "event": json.RawMessage(invite.JSON), "invite_room_state": []any{}}
	path := "/_matrix/federation/v2/invite/" + url.PathEscape(s.id) + "/" + url.PathEscape(invite.ID)
	s.rogue.Do(s.hs, "PUT", path, body).WantError(403, "M_FORBIDDEN")
	require.Empty(t, bob.Sync("").Invited(s.id).Raw)
}

// F-56: patterns that are slow for those who match them step by step, and lists of the wrong form.
func TestF56AccessControl(t *testing.T) {
	s := besiege(t, "11")
	evil := s.network.Rogue(strings.Repeat("a", 60) + "." + strings.Repeat("a", 60) + ".test")
	evil.Join(s.hs, s.id, evil.UserID("u"))
	event := s.alice.Send(s.id, "hi")
	ask := func() *homeservertest.Response {
		return evil.Do(s.hs, "GET", "/_matrix/federation/v1/state_ids/"+url.PathEscape(s.id)+"?event_id="+url.QueryEscape(event), nil)
	}
	for name, tt := range map[string]struct {
		acl    string
		status int
	}{
		"slow patterns":           {`{"allow":["*"],"deny":[` + strings.TrimSuffix(strings.Repeat(`"*a*a*a*a*a*a*a*b",`, 3000), ",") + `]}`, 200},
		"slow patterns to let in": {`{"allow":[` + strings.Repeat(`"*a*a*a*a*a*a*a*b",`, 3000) + `"x"]}`, 403},
		"deny is a string":        {`{"allow":["*"],"deny":"*"}`, 200},
		"deny has numbers":        {`{"allow":["*"],"deny":[1,null,{}]}`, 200},
		"no allow":                {`{"deny":[]}`, 403},
		"allow is a string":       {`{"allow":"*"}`, 403},
		"nothing":                 {`{}`, 403},
	} {
		s.alice.SetState(s.id, "m.room.server_acl", "", []byte(tt.acl)).WantOK()
		var took []time.Duration
		for range 21 {
			began := time.Now()
			answer := ask()
			took = append(took, time.Since(began))
			require.Equal(t, tt.status, answer.Status, "%s: %s", name, answer.Body)
		}
		slices.Sort(took)
		require.Less(t, took[10], 40*time.Millisecond, name)
	}
}

// F-63: who answers with events that lack ever more others is asked a bounded number of times.
func TestF63EndlessGaps(t *testing.T) {
	s := besiege(t, "11")
	unknown := func() (ids []string) {
		for range 20 {
			s.sent++
			ids = append(ids, fmt.Sprintf("$%043d", s.sent))
		}
		return ids
	}
	lacking := func() homeservertest.PDU {
		return s.room.Build(with(s.rogue.Text(s.mal, "lacking"), "prev_events", unknown()))
	}
	var mu sync.Mutex // of what makes events
	s.rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/get_missing_events/") {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		var events []json.RawMessage
		for range 20 {
			events = append(events, lacking().JSON)
		}
		json.NewEncoder(w).Encode(map[string]any{"events": events}) //nolint:errcheck // who has asked has gone
		return true
	})
	began, bad := time.Now(), lacking()
	s.alive(100, func() { s.rogue.Send(s.hs, []homeservertest.PDU{bad}).WantOK() })
	require.Less(t, time.Since(began), 30*time.Second)
	require.LessOrEqual(t, len(s.questions()), 20)
	s.unseen("an event without a past", bad)
	s.takes("a good event", s.room.Build(s.text()))
}

// F-68: bodies of any kind that never end are not read to their end.
func TestF68EndlessBodies(t *testing.T) {
	hs := homeservertest.NewNetwork(t).New("hs.test")
	alice := hs.User("alice")
	for _, path := range []string{
		v3 + "/login", v3 + "/register", v3 + "/createRoom", v3 + "/join/!x:hs.test", v3 + "/account/password",
		"/_matrix/key/v2/query", v3 + "/user/" + alice.ID + "/filter", v3 + "/nothing",
	} {
		for _, kind := range []string{"multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/json", "\x00"} {
			body := &spring{}
			r := httptest.NewRequest("POST", "http://hs.test"+path, nil)
			r.Body, r.ContentLength = body, -1
			r.Header.Set("Content-Type", kind)
			r.Header.Set("Authorization", "Bearer "+alice.Token)
			w := httptest.NewRecorder()
			hs.Homeserver().ServeHTTP(w, r)
			require.GreaterOrEqual(t, w.Code, 400, "%s %s", kind, path)
			require.Less(t, w.Code, 500, "%s %s", kind, path)
			require.LessOrEqual(t, body.read, 11<<20, "%s %s", kind, path)
		}
	}
	alice.CreateRoom(homeservertest.Public)
}

// F-87: an invite of a server that has gone since is turned down all the same, and stays so.
func TestF87InviteOfADeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := besiege(t, "11")
		creator := s.rogue.UserID("creator")
		room := s.rogue.CreateRoom("11", creator)
		room.Invite(s.hs, creator, s.alice.ID)
		invited := s.alice.Sync("")
		require.NotEmpty(t, invited.Invited(room.ID).Raw)
		s.network.Add("rogue.test", &silent{})
		began := time.Now()
		s.alice.MustLeave(room.ID)
		require.Less(t, time.Since(began), 10*time.Second)
		for range 2 {
			next := s.alice.Sync(invited.NextBatch)
			require.NotEmpty(t, next.Left(room.ID).Raw, "%s", next.Body)
			require.Empty(t, s.alice.Sync("").Invited(room.ID).Raw)
			s.hs.Restart()
		}
	})
}

// trapped resolves every name to this machine.
type trapped struct{}

func (trapped) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, &net.DNSError{Err: "no such host", IsNotFound: true}
}

func (trapped) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1"), netip.IPv6Loopback()}, nil
}

// F-98: nothing that a user can name makes the server connect to networks that are denied.
func TestF98DeniedNetworks(t *testing.T) {
	trap, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var caught atomic.Int32
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer trap.Close()
	waiting.Go(func() {
		for {
			c, err := trap.Accept()
			if err != nil {
				return
			}
			caught.Add(1)
			c.Close()
		}
	})
	hs := homeservertest.New(t, func(cfg *homeserver.Config) {
		cfg.Federation = homeserver.Federation{Enabled: true, Resolver: trapped{}}
	})
	alice := hs.User("alice")
	port := trap.Addr().(*net.TCPAddr).Port
	for _, host := range []string{
		"127.0.0.1", "127.1", "[::1]", "[::ffff:7f00:1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "169.254.169.254", "10.0.0.1",
		"2130706433", "0x7f000001", "017700000001", "localhost", "trap.example.org", "[64:ff9b::7f00:1]", "[fe80::1]", "192.168.0.1",
	} {
		for _, server := range []string{host, fmt.Sprintf("%s:%d", host, port)} {
			began := time.Now()
			for _, answer := range []*homeservertest.Response{
				alice.Join("#a:" + server), alice.Do("POST", v3+"/join/!a:x?server_name="+url.QueryEscape(server), map[string]any{}),
				alice.Do("GET", v3+"/profile/"+url.PathEscape("@a:"+server), nil),
				alice.Do("GET", v3+"/publicRooms?server="+url.QueryEscape(server), nil),
			} {
				refused := answer.Status >= 400 && answer.Status < 500 || answer.Status == 502
				require.True(t, refused, "%s: %d %s", server, answer.Status, answer.Body)
			}
			keys := alice.Do("GET", "/_matrix/key/v2/query/"+url.PathEscape(server), nil)
			require.Empty(t, keys.Get("server_keys").Array(), "%s", keys.Body)
			require.Less(t, time.Since(began), 10*time.Second, server)
		}
	}
	require.Zero(t, caught.Load())
	reckless := homeservertest.New(t, func(cfg *homeserver.Config) {
		cfg.Federation = homeserver.Federation{Enabled: true, Resolver: trapped{}, AllowPrivate: true}
	})
	reckless.User("alice").Join(fmt.Sprintf("#a:trap.example.org:%d", port))
	require.NotZero(t, caught.Load(), "the trap catches those to whom nothing is denied")
}
