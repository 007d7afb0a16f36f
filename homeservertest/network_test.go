package homeservertest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

const keysPath = "/_matrix/key/v2/server"

// Servers of a network answer each other, and nobody whom a partition cuts off.
func TestNetwork(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	one, two := network.New("one.test"), network.New("two.test")
	keys := func(from, of *homeservertest.Server) (*http.Response, error) {
		r, err := http.NewRequest("GET", "https://"+of.Name()+keysPath, nil)
		require.NoError(t, err)
		return network.From(from.Name()).RoundTrip(r)
	}
	asked := func(from, of *homeservertest.Server) string {
		answer, err := keys(from, of)
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		var said struct {
			Name string `json:"server_name"`
		}
		require.NoError(t, json.NewDecoder(answer.Body).Decode(&said))
		return said.Name
	}
	require.Equal(t, "two.test", asked(one, two))
	require.Equal(t, "one.test", asked(two, one))

	network.Partition("one.test", "two.test")
	require.Contains(t, asked(one, two), "partitioned")
	require.Contains(t, asked(two, one), "partitioned")
	network.Heal()
	require.Equal(t, "two.test", asked(one, two))

	network.Loss(1, 7)
	require.Contains(t, asked(one, two), "lost")
	network.Loss(0, 7)

	network.Intercept(func(r *http.Request) *http.Response {
		if homeservertest.Origin(r) != "one.test" {
			return nil
		}
		return &http.Response{StatusCode: 200, Body: http.NoBody}
	})
	answer, err := keys(one, two)
	require.NoError(t, err)
	require.Equal(t, http.NoBody, answer.Body)
	require.Equal(t, "one.test", asked(two, one))
}

// Distance takes virtual time, both ways.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
		network.Latency(time.Second)
		began := time.Now()
		rogue.Send(hs, nil).WantOK()
		// The transaction and the question for its sender's keys.
		require.Equal(t, 4*time.Second, time.Since(began))
		settle(t, network)
	})
}

// Two servers see each other's keys: a signed request is taken only from who has signed it.
func TestServersKnowEachOther(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, rogue, other := network.New("hs.test"), network.Rogue("rogue.test"), network.Rogue("other.test")
	rogue.Send(hs, nil).WantOK()
	require.Len(t, rogue.Asked(keysPath), 1, "the keys are asked for once")
	rogue.Send(hs, nil).WantOK()
	require.Len(t, rogue.Asked(keysPath), 1, "and are known from then on")
	other.Send(hs, nil).WantOK()
}

// F-19: what is not signed by its sender for this server is not looked at.
func TestRequestsThatNobodySigned(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, rogue, other := network.New("hs.test"), network.Rogue("rogue.test"), network.Rogue("other.test")
	room, alice := roomWithTyping(t, hs, rogue)
	typing := rogue.Transaction(nil, homeservertest.EDU("m.typing", map[string]any{"room_id": room, "user_id": rogue.UserID("u"), "typing": true}))
	fresh := func(path string) *http.Request { return rogue.Request(hs, "PUT", path, typing) }
	header := func(r *http.Request, change func(string) string) *http.Request {
		r.Header.Set("Authorization", change(r.Header.Get("Authorization")))
		return r
	}
	path := "/_matrix/federation/v1/send/f19"
	tests := map[string]*http.Request{
		"no header":      header(fresh(path), func(string) string { return "" }),
		"another scheme": header(fresh(path), func(string) string { return "Bearer x" }),
		"another destination": header(fresh(path), func(h string) string {
			return strings.Replace(h, `destination="hs.test"`, `destination="two.test"`, 1)
		}),
		"another origin": header(fresh(path), func(h string) string {
			return strings.Replace(h, `origin="rogue.test"`, `origin="other.test"`, 1)
		}),
		"our own name": header(fresh(path), func(h string) string {
			return strings.Replace(h, `origin="rogue.test"`, `origin="hs.test"`, 1)
		}),
		"an unknown key": header(fresh(path), func(h string) string {
			return strings.Replace(h, `key="ed25519:rogue"`, `key="ed25519:other"`, 1)
		}),
		"signed for another server": rogue.Request(other, "PUT", path, typing),
		"signed for another path":   fresh(path + "0"),
		"signed for another body":   rogue.Request(hs, "PUT", path, rogue.Transaction(nil)),
		"two headers":               fresh(path),
	}
	tests["signed for another server"].URL.Host = "hs.test"
	tests["signed for another path"].URL.Path = path
	body := fresh(path)
	tests["signed for another body"].Body, tests["signed for another body"].ContentLength = body.Body, body.ContentLength
	tests["two headers"].Header.Add("Authorization", "X-Matrix origin=x")
	for name, r := range tests {
		t.Run(name, func(t *testing.T) {
			answer := rogue.Ask(r)
			require.Contains(t, []int{401, 403}, answer.Status, "%s", answer.Body)
		})
	}
	require.Empty(t, typists(alice, room))
	old := header(fresh("/_matrix/federation/v1/send/f19old"), func(h string) string {
		return strings.Replace(h, `destination="hs.test",`, "", 1)
	})
	rogue.Ask(old).WantOK()
	require.Equal(t, []string{rogue.UserID("u")}, typists(alice, room))
}

// roomWithTyping is a room of alice in which rogue's user u is.
func roomWithTyping(t *testing.T, hs *homeservertest.Server, rogue *homeservertest.Rogue) (room string, alice *homeservertest.User) {
	t.Helper()
	alice = hs.User("alice")
	room = alice.CreateRoom(homeservertest.Public)
	rogue.Join(hs, room, rogue.UserID("u"))
	return room, alice
}

// typists are those who are said to type in a room now.
func typists(u *homeservertest.User, room string) (users []string) {
	for _, e := range u.Sync("").Joined(room).Get("ephemeral.events").Array() {
		if e.Get("type").String() == "m.typing" {
			for _, user := range e.Get("content.user_ids").Array() {
				users = append(users, user.String())
			}
		}
	}
	return users
}

// F-13: a transaction that is too large is refused as a whole.
func TestTransactionLimits(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
	room := rogue.CreateRoom("11", rogue.UserID("u"))
	pdus := func(n int) (list []homeservertest.PDU) {
		for i := range n {
			list = append(list, room.Extend(rogue.Text(rogue.UserID("u"), strconv.Itoa(i))))
		}
		return list
	}
	edus := func(n int) (list []any) {
		for range n {
			list = append(list, homeservertest.EDU("org.example.nothing", map[string]any{}))
		}
		return list
	}
	rogue.Send(hs, pdus(51)).WantError(400, "M_BAD_JSON")
	rogue.Send(hs, nil, edus(101)...).WantError(400, "M_BAD_JSON")
	answer := rogue.Send(hs, pdus(50), edus(100)...).WantOK()
	require.Len(t, answer.Get("pdus").Map(), 50)
	for eventID, verdict := range answer.Get("pdus").Map() {
		require.NotEmpty(t, verdict.Get("error").String(), "%s is of a room that is not here", eventID)
	}
}

// What is wrong with the parts of a transaction costs nobody else anything; what is wrong with the whole refuses it.
func TestOddTransactions(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
	whole := map[string]string{
		"another origin": `{"origin":"other.test","pdus":[]}`,
		"no origin name": `{"origin":"","pdus":[]}`,
		"a list":         `[]`,
		"no JSON":        `{"pdus":[}`,
		"two bodies":     `{"pdus":[]}{}`,
		"pdus no list":   `{"pdus":{}}`,
		"edus null":      `{"pdus":[],"edus":null}`,
	}
	for name, body := range whole {
		t.Run(name, func(t *testing.T) {
			answer := rogue.Do(hs, "PUT", "/_matrix/federation/v1/send/"+strconv.Itoa(len(body)), []byte(body))
			require.Contains(t, []int{400, 401}, answer.Status, "%s", answer.Body)
		})
	}
	deep := `{"content":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`
	items := []string{`0`, `null`, `"x"`, `[]`, `{}`, `{"room_id":7}`, `{"room_id":"!a:b"}`, `{"a":1,"a":2}`, deep, "\"\xff\"", `{"x":"\ud800"}`}
	for i, item := range items {
		edu := map[string]any{"edu_type": "m.typing", "content": json.RawMessage("1")}
		answer := rogue.SendTxn(hs, "odd"+strconv.Itoa(i), []homeservertest.PDU{{JSON: []byte(item)}}, []byte(item), edu)
		require.Equal(t, 200, answer.Status, "%.20s: %s", item, answer.Body)
	}
	absent := rogue.CreateRoom("12", rogue.UserID("u")).Extend(rogue.Text(rogue.UserID("u"), "hi"))
	answer := rogue.Send(hs, []homeservertest.PDU{absent}).WantOK()
	require.Contains(t, string(answer.Body), "does not know the room")
}

// F-68: nobody makes the server read more than a transaction may have.
func TestTransactionsThatAreTooLong(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
	long := rogue.Request(hs, "PUT", "/_matrix/federation/v1/send/long", rogue.Transaction(nil))
	endless := &spring{}
	long.Body, long.ContentLength = endless, -1
	rogue.Ask(long).WantError(413, "M_TOO_LARGE")
	require.LessOrEqual(t, endless.read, 11<<20)
	claimed := rogue.Request(hs, "PUT", "/_matrix/federation/v1/send/long", rogue.Transaction(nil))
	claimed.ContentLength = 200 << 20
	rogue.Ask(claimed).WantError(413, "M_TOO_LARGE")
	short := rogue.Request(hs, "PUT", "/_matrix/federation/v1/send/long", rogue.Transaction(nil))
	short.ContentLength += 10
	require.Equal(t, 400, rogue.Ask(short).Status)
}

// spring is a body without end.
type spring struct{ read int }

func (s *spring) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	s.read += len(p)
	return len(p), nil
}

func (s *spring) Close() error { return nil }

// F-59: a transaction that comes again gets the same answer, whether it is being handled, was, or was by a process
// before this one; what is in it is delivered once.
func TestTransactionsAreHandledOnce(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Public)
	joined := rogue.Join(hs, room, rogue.UserID("u"))
	body := rogue.Transaction([]homeservertest.PDU{
		joined.Extend(rogue.Text(rogue.UserID("u"), "once")),
		joined.Build(rogue.Text("@somebody:else.test", "never")),
	})
	ask := func() string {
		return string(rogue.Do(hs, "PUT", "/_matrix/federation/v1/send/f59", body).WantOK().Body)
	}
	answers := make([]string, 10)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i] = ask() })
	}
	all.Wait()
	hs.Restart()
	for _, answer := range append(answers, ask()) {
		require.Equal(t, answers[0], answer)
	}
	require.Len(t, gjson.Get(answers[0], "pdus").Map(), 2)
	alice.Expect(room, homeservertest.Text("once"))
	count := 0
	for _, e := range alice.Messages(room, map[string][]string{"dir": {"b"}, "limit": {"100"}}).Get("chunk").Array() {
		if e.Get("content.body").String() == "once" {
			count++
		}
	}
	require.Equal(t, 1, count)
}

// F-72: receipts count that a server sends for its own users, for events of a room that they are in.
func TestRemoteReceipts(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
	room, alice := roomWithTyping(t, hs, rogue)
	event, elsewhere := alice.Send(room, "hi"), alice.Send(alice.CreateRoom(homeservertest.Public), "there")
	u := rogue.UserID("u")
	receipt := func(room, kind, user string, value any) any {
		return homeservertest.EDU("m.receipt", map[string]any{room: map[string]any{kind: map[string]any{user: value}}})
	}
	of := func(event string, data any) map[string]any {
		return map[string]any{"event_ids": []string{event}, "data": data}
	}
	ts := map[string]any{"ts": 1}
	for name, edu := range map[string]any{
		"of a user of this server": receipt(room, "m.read", alice.ID, of(event, ts)),
		"of a third server's user": receipt(room, "m.read", "@u:other.test", of(event, ts)),
		"of who is not there":      receipt(room, "m.read", rogue.UserID("v"), of(event, ts)),
		"for another room's event": receipt(room, "m.read", u, of(elsewhere, ts)),
		"for no event":             receipt(room, "m.read", u, of("$nothing", ts)),
		"in the far future":        receipt(room, "m.read", u, of(event, map[string]any{"ts": int64(1) << 60})),
		"before time":              receipt(room, "m.read", u, of(event, map[string]any{"ts": -1})),
		"at no time":               receipt(room, "m.read", u, of(event, map[string]any{})),
		"of a thread that is none": receipt(room, "m.read", u, of(event, map[string]any{"ts": 1, "thread_id": "x\x00"})),
		"of no form":               receipt(room, "m.read", u, []any{1}),
		"private":                  receipt(room, "m.read.private", u, of(event, ts)),
		"of a room unknown":        receipt("!x:rogue.test", "m.read", u, of(event, ts)),
		"of no room":               homeservertest.EDU("m.receipt", map[string]any{"x\x00": 1}),
	} {
		rogue.Send(hs, nil, edu).WantOK()
		require.Empty(t, receipts(alice, room), name)
	}
	rogue.Send(hs, nil, receipt(room, "m.read", u, of(event, ts))).WantOK()
	require.JSONEq(t, `{"`+event+`":{"m.read":{"`+u+`":{"ts":1}}}}`, receipts(alice, room))
}

// receipts are those of a room, "" when there are none.
func receipts(u *homeservertest.User, room string) string {
	for _, e := range u.Sync("").Joined(room).Get("ephemeral.events").Array() {
		if e.Get("type").String() == "m.receipt" {
			return e.Get("content").Raw
		}
	}
	return ""
}

// F-73: a server tells of its own users who type in a room that they are in, and who never stops does so by itself.
func TestRemoteTyping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
		room, alice := roomWithTyping(t, hs, rogue)
		u := rogue.UserID("u")
		send := func(room, user, typing any) {
			content := map[string]any{"room_id": room, "user_id": user, "typing": typing}
			rogue.Send(hs, nil, homeservertest.EDU("m.typing", content)).WantOK()
		}
		send(room, rogue.UserID("v"), true)
		send(room, alice.ID, true)
		send(room, "@u:other.test", true)
		send("!x:hs.test", u, true)
		send(7, u, true)
		send(room, u, "true")
		require.Empty(t, typists(alice, room))

		send(room, u, true)
		require.Equal(t, []string{u}, typists(alice, room))
		send(room, u, false)
		require.Empty(t, typists(alice, room))

		send(room, u, true)
		since := alice.Sync("").NextBatch
		began := time.Now()
		ended := alice.SyncWith(map[string][]string{"since": {since}, "timeout": {"300000"}})
		require.Equal(t, "[]", ended.Joined(room).Get("ephemeral.events.0.content.user_ids").Raw)
		require.LessOrEqual(t, time.Since(began), 2*time.Minute)

		alice.SetState(room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{"rogue.test"}}).WantOK()
		send(room, u, true)
		require.Empty(t, typists(alice, room), "the room keeps the server out")
	})
}

// Local users' typing and public receipts are told to the servers in the room, and nobody else.
func TestTypingAndReceiptsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		hs, rogue, stranger := network.New("hs.test"), network.Rogue("rogue.test"), network.Rogue("stranger.test")
		room, alice := roomWithTyping(t, hs, rogue)
		stranger.Send(hs, nil).WantOK()
		event := alice.Send(room, "hi")
		path := "/_matrix/client/v3/rooms/" + room
		alice.Do("PUT", path+"/typing/"+alice.ID, map[string]any{"typing": true, "timeout": 10000}).WantOK()
		alice.Do("POST", path+"/receipt/m.read.private/"+event, map[string]any{}).WantOK()
		settle(t, network)
		alice.Do("POST", path+"/receipt/m.read/"+event, map[string]any{}).WantOK()
		time.Sleep(20 * time.Second) // until the typing is over
		settle(t, network)
		require.Empty(t, stranger.Asked("/_matrix/federation/v1/send/"))
		var told []string
		for _, a := range rogue.Asked("/_matrix/federation/v1/send/") {
			for _, edu := range gjson.GetBytes(a.Body, "edus").Array() {
				told = append(told, edu.Get("edu_type").String()+" "+edu.Get("content.typing").Raw)
				require.NotContains(t, edu.Raw, "private")
			}
		}
		require.Equal(t, []string{"m.typing true", "m.receipt ", "m.typing false"}, told)
	})
}

// A server that a room's ACL denies hears nothing more of who types and what was read there, until it is let in again.
func TestDeniedServersAreToldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
		room, alice := roomWithTyping(t, hs, rogue)
		path := "/_matrix/client/v3/rooms/" + room
		acl := func(deny ...string) {
			alice.SetState(room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": deny}).WantOK()
		}
		told := func() (n int) {
			settle(t, network)
			for _, a := range rogue.Asked("/_matrix/federation/v1/send/") {
				for _, edu := range gjson.GetBytes(a.Body, "edus").Array() {
					if kind := edu.Get("edu_type").Str; kind == "m.typing" || kind == "m.receipt" {
						n++
					}
				}
			}
			return n
		}
		speak := func() {
			event := alice.Send(room, "hi")
			alice.Do("PUT", path+"/typing/"+alice.ID, map[string]any{"typing": true, "timeout": 1000}).WantOK()
			alice.Do("POST", path+"/receipt/m.read/"+event, map[string]any{}).WantOK()
			time.Sleep(2 * time.Second)
		}
		acl("rogue.*")
		before := told()
		speak()
		require.Equal(t, before, told())
		acl("else.*")
		speak()
		require.Greater(t, told(), before)
	})
}

// A server that is cut off gets what it missed when it is back.
func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
		room, alice := roomWithTyping(t, hs, rogue)
		settle(t, network)
		network.Partition("hs.test", "rogue.test")
		event := alice.Send(room, "missed")
		settle(t, network)
		unsent, err := hs.Homeserver().Admin().Unsent()
		require.NoError(t, err)
		require.Len(t, unsent, 1)
		_, known := rogue.Room(room).Event(event)
		require.False(t, known)
		network.Heal()
		soon, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		network.Settle(soon)
		_, known = rogue.Room(room).Event(event)
		require.True(t, known)
	})
}

// F-22: fifty servers that do not answer when they are asked for their keys delay one transaction, for a while, and
// nobody else's.
func TestServersThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := homeservertest.NewNetwork(t)
		hs, rogue, other := network.New("hs.test"), network.Rogue("rogue.test"), network.Rogue("other.test")
		room, alice := roomWithTyping(t, hs, rogue)
		elsewhere := other.Join(hs, alice.CreateRoom(homeservertest.Public), other.UserID("u"))
		asked := make(chan string, 1000)
		var pdus []homeservertest.PDU
		for i := range 50 {
			name := "dead" + strconv.Itoa(i) + ".test"
			network.Add(name, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				asked <- r.URL.Host
				<-r.Context().Done()
			}))
			d := rogue.Text("@u:"+name, "hi")
			d.After = func(event homeservertest.Fields) {
				event["signatures"] = map[string]any{name: map[string]any{"ed25519:k": strings.Repeat("A", 86)}}
			}
			pdus = append(pdus, rogue.Room(room).Build(d))
		}
		began := time.Now()
		var meanwhile sync.WaitGroup
		meanwhile.Go(func() {
			time.Sleep(time.Second)
			elsewhere.Send(hs, other.Text(other.UserID("u"), "meanwhile"))
			require.Less(t, time.Since(began), 2*time.Second)
		})
		answer := rogue.Send(hs, pdus).WantOK()
		require.Less(t, time.Since(began), 15*time.Second)
		meanwhile.Wait()
		require.Len(t, answer.Get("pdus").Map(), 50)
		require.Len(t, asked, 50, "each is asked once")
		alice.Expect(elsewhere.ID, homeservertest.Text("meanwhile"))
		rogue.Send(hs, pdus).WantOK()
		require.Len(t, asked, 50, "and not again at once")
	})
}
