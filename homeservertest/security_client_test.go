package homeservertest_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// clientCases are the cases of hostile clients: the tests that prove each, as "folder.TestName", or what becomes of it.
const clientCases = `
	C-01  homeservertest.TestEveryRouteAsksWhoCalls homeservertest.TestWrongTokens auth.TestTokenNeeded
	C-03  homeservertest.TestC03WhatIsOthers
	C-04  auth.TestProofIsBound auth.TestProofIsSpentOnce
	C-06  auth.TestProofByPassword
	C-08  auth.TestChangePassword; pushers: with push
	C-09  auth.TestRefresh auth.TestRefreshRace
	C-10  auth.TestLoginRefuses auth.TestLoginTiming
	C-11  auth.TestLoginRefuses auth.TestLockedAndSuspended; application services: later
	C-12  homeservertest.TestC12GuessedPasswords
	C-14  homeservertest.TestC14CrowdOfLogins
	C-16  auth.TestUserNames
	C-19  homeservertest.TestC19NoPollOutlivesItsToken homeservertest.TestLogoutEndsLongPoll
	C-20  homeservertest.TestTransactionIDsOfOthers
	C-23  homeservertest.TestEveryRouteAsksWhoCalls rooms.TestGuests homeservertest.TestRowsAgreeWithTheSpecification
	C-24  auth.TestSharedSecret auth.TestSharedSecretRefuses
	C-26  homeservertest.TestC26Floods httpapi.TestRateLimits
	C-27  homeservertest.TestBadInput homeservertest.TestWrongBodies
	C-28  homeservertest.TestWrongPaths homeservertest.TestBadInput httpapi.TestWrongMethodNamesTheRightOnes
	C-30  homeservertest.TestC30RequestsOfTwoMinds
	C-31  ; the host's: it brings the http.Server, and HTTP/2 with it
	C-33  homeservertest.TestC33WhoReadsWhat homeservertest.TestSecretsStaySecret
	C-35  homeservertest.TestC35NothingAfterLeaving rooms.TestFormerMembers sync.TestNothingAfterTheLeave
	C-37  rooms.TestRelationsAcrossRooms
	C-39  homeservertest.TestRedactedStateIsGone
	C-41  rooms.TestEditsAreBundled rooms.TestStateHasNoEdits
	C-43  rooms.TestHostileSearches rooms.TestSearchContext rooms.TestSearchShowsWhatOneMaySee
	C-45  homeservertest.TestC45IgnoredUsers sync.TestIgnoredUsers rooms.TestIgnoredUsersAreNotAggregated; push: with push
	C-47  homeservertest.TestC47TokensOfSync sync.TestParameters
	C-49  homeservertest.TestC49MembersOfOthersRooms rooms.TestMembersAtAPlaceBeforeJoining
	C-51  rooms.TestUserDirectoryKnowsNoRoomNames
	C-52  homeservertest.TestC03WhatIsOthers sync.TestServersOwnAccountData
	C-54  sync.TestPeeking sync.TestLookingIntoARoom
	C-55  homeservertest.TestReports
	C-57  homeservertest.TestC57AliasesOfOthers rooms.TestAliases rooms.TestDeleteAlias rooms.TestDeletedAliasIsNotCanonical
	C-59  homeservertest.TestC59UpgradeByThoseWhoMayNot rooms.TestUpgradeRefusals rooms.TestUpgradeCopiesBans
	C-60  homeservertest.TestHostileState
	C-61  homeservertest.TestC61Power homeservertest.TestHostileState
	C-62  homeservertest.TestC62RoomsThatCannotBe rooms.TestCreateRoomRefusals rooms.TestInitialStateIsBounded
	C-63  homeservertest.TestC63InvitesThatMakeNoSense rooms.TestMembershipTransitions; third-party identifiers: later
	C-65  ; with push
	C-66  ; with push
	C-67  homeservertest.TestC67Filters sync.TestBadFilters sync.TestStoredFilters
	C-69  homeservertest.TestC69Names rooms.TestProfileRefusals rooms.TestProfileLimitIsForTheWhole
	C-70  homeservertest.TestC70Crowd
	C-71  homeservertest.TestC71WalksBesideSenders rooms.TestMessagesRefusals
	C-73  e2ee.TestC73KeysAreBounded
	C-75  rooms.TestLongChains rooms.TestRecursion rooms.TestBadRelationRequests
	C-77  homeservertest.TestC77Typing rooms.TestTyping
	C-79  e2ee.TestC79SignaturesRefused
	C-81  e2ee.TestUploadRefuses e2ee.TestC81IdentityKeysStay
	C-83  e2ee.TestC83FallbackKeys e2ee.TestClaimsAtOnce
	C-84  e2ee.TestC84BackupRefuses e2ee.TestBackupReplacement e2ee.TestC84LargeBackups
	C-86  sync.TestToDevice sync.TestToDeviceWildcard; kill -9: with the appliance's TestKill
	C-88  e2ee.TestC88DeletedDevices e2ee.TestSignaturesOfADeviceGo sync.TestToDeviceDeleted; pushers: with push
	C-89  e2ee.TestC89QueryTellsNothingOfAccounts
`

// Every case of hostile clients is proved by tests that there are, or says what becomes of it.
func TestClientCasesAreProved(t *testing.T) {
	names, cases := testNames(t), 0
	for line := range strings.Lines(strings.TrimSpace(clientCases)) {
		proof, reason, _ := strings.Cut(line, ";")
		words := strings.Fields(proof)
		for _, name := range words[1:] {
			require.True(t, names[name], "%s names %s, which is no test", words[0], name)
		}
		require.True(t, len(words) > 1 || strings.TrimSpace(reason) != "", "%s is proved by nothing, without a reason", words[0])
		cases++
	}
	require.Equal(t, 55, cases)
}

// ownPath is the path of what is a user's own.
func ownPath(u *homeservertest.User, rest string) string {
	return v3 + "/user/" + url.PathEscape(u.ID) + rest
}

// C-03, C-52: what belongs to a user is read and written by nobody else.
func TestC03WhatIsOthers(t *testing.T) {
	hs := homeservertest.New(t)
	alice, mal := hs.User("alice"), hs.User("mal")
	room := alice.CreateRoom(homeservertest.Public)
	mal.MustJoin(room)
	in := "/rooms/" + url.PathEscape(room)
	filter := alice.Do("POST", ownPath(alice, "/filter"), object{}).WantOK().Get("filter_id").String()
	alice.Do("PUT", ownPath(alice, "/account_data/org.example"), object{"mine": true}).WantOK()
	alice.Do("PUT", ownPath(alice, in+"/account_data/org.example"), object{"mine": true}).WantOK()
	alice.Do("PUT", ownPath(alice, in+"/tags/u.mine"), object{}).WantOK()
	asked := []struct {
		method, path string
		body         any
	}{
		{"POST", ownPath(alice, "/filter"), object{}},
		{"GET", ownPath(alice, "/filter/"+filter), nil},
		{"GET", ownPath(alice, "/account_data/org.example"), nil},
		{"PUT", ownPath(alice, "/account_data/org.example"), object{"mine": false}},
		{"GET", ownPath(alice, in+"/account_data/org.example"), nil},
		{"PUT", ownPath(alice, in+"/account_data/org.example"), object{"mine": false}},
		{"GET", ownPath(alice, in+"/tags"), nil},
		{"PUT", ownPath(alice, in+"/tags/u.yours"), object{}},
		{"DELETE", ownPath(alice, in+"/tags/u.mine"), nil},
		{"POST", ownPath(alice, "/openid/request_token"), object{}},
		{"PUT", v3 + "/profile/" + url.PathEscape(alice.ID) + "/displayname", object{"displayname": "Mal"}},
		{"DELETE", v3 + "/profile/" + url.PathEscape(alice.ID) + "/displayname", nil},
		{"PUT", v3 + "/presence/" + url.PathEscape(alice.ID) + "/status", object{"presence": "online"}},
		{"PUT", v3 + in + "/typing/" + url.PathEscape(alice.ID), object{"typing": true}},
	}
	for _, ask := range asked {
		mal.Do(ask.method, ask.path, ask.body).WantError(403, "M_FORBIDDEN")
	}
	for _, data := range []string{"/account_data/org.example", in + "/account_data/org.example"} {
		require.True(t, alice.Do("GET", ownPath(alice, data), nil).WantOK().Get("mine").Bool())
	}
	for _, ask := range asked {
		alice.Do(ask.method, ask.path, ask.body).WantOK()
	}
}

// polling polls until it is refused, and tells how.
func polling(u *homeservertest.User) <-chan int {
	since := u.Sync("").NextBatch
	done := make(chan int, 1)
	go func() {
		for {
			r := u.Do("GET", v3+"/sync?timeout=60000&since="+url.QueryEscape(since), nil)
			if since = r.Get("next_batch").String(); r.Status != 200 {
				done <- r.Status
				return
			}
		}
	}()
	return done
}

// C-19: whichever way a token ends, the poll that waits with it ends at once.
func TestC19NoPollOutlivesItsToken(t *testing.T) {
	proof := func(u *homeservertest.User, body object) object {
		body["auth"] = object{"type": "m.login.password", "password": u.Password, "identifier": object{"type": "m.id.user", "user": u.ID}}
		return body
	}
	for name, end := range map[string]func(u, other *homeservertest.User) *homeservertest.Response{
		"logout": func(u, _ *homeservertest.User) *homeservertest.Response { return u.Do("POST", v3+"/logout", nil) },
		"logout/all": func(_, other *homeservertest.User) *homeservertest.Response {
			return other.Do("POST", v3+"/logout/all", nil)
		},
		"a device is deleted": func(u, other *homeservertest.User) *homeservertest.Response {
			return other.Do("DELETE", v3+"/devices/"+u.Device, proof(other, object{}))
		},
		"devices are deleted": func(u, other *homeservertest.User) *homeservertest.Response {
			return other.Do("POST", v3+"/delete_devices", proof(other, object{"devices": []string{u.Device}}))
		},
		"another password": func(_, other *homeservertest.User) *homeservertest.Response {
			return other.Do("POST", v3+"/account/password", proof(other, object{"new_password": "another long passphrase"}))
		},
		"deactivation": func(_, other *homeservertest.User) *homeservertest.Response {
			return other.Do("POST", v3+"/account/deactivate", proof(other, object{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			hs := homeservertest.New(t)
			u := hs.User("alice")
			other, done := u.Login(), polling(u)
			time.Sleep(20 * time.Millisecond)
			end(u, other).WantOK()
			select {
			case status := <-done:
				require.Equal(t, 401, status)
			case <-time.After(time.Second):
				t.Fatal("the long poll goes on")
			}
		})
	}
}

// C-30: a request of which two readers could think differently is refused, and what comes behind it is no request. (Of one
// with a length and chunks net/http reads the chunks, as RFC 9112 lets it.)
func TestC30RequestsOfTwoMinds(t *testing.T) {
	address := homeservertest.New(t).Listen().Listener.Addr().String()
	const head = "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: hs.test\r\n"
	hidden := "GET /_matrix/client/versions HTTP/1.1\r\nHost: hs.test\r\n\r\n"
	for name, raw := range map[string]string{
		"two lengths":              head + "Content-Length: 2\r\nContent-Length: 90\r\n\r\n{}" + hidden,
		"two lengths in one":       head + "Content-Length: 2, 90\r\n\r\n{}" + hidden,
		"a signed length":          head + "Content-Length: +2\r\n\r\n{}" + hidden,
		"an odd encoding":          head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
		"two encodings":            head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
		"a space before the colon": head + "Content-Length : 2\r\n\r\n{}" + hidden,
		"no host":                  "GET /_matrix/client/versions HTTP/1.1\r\n\r\n",
		"two hosts":                "GET /_matrix/client/versions HTTP/1.1\r\nHost: hs.test\r\nHost: other.test\r\n\r\n",
		"a NUL in a header":        head + "X: \x00\r\n\r\n",
		"an odd version":           "GET /_matrix/client/versions HTTP/9.9\r\nHost: hs.test\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
			_, err = conn.Write([]byte(raw))
			require.NoError(t, err)
			answers := bufio.NewReader(conn)
			first, err := http.ReadResponse(answers, nil)
			require.NoError(t, err)
			require.GreaterOrEqual(t, first.StatusCode, 400)
			require.NotEqual(t, 500, first.StatusCode)
			require.Contains(t, []int{400, 501, 505}, first.StatusCode)
			require.True(t, first.Close, "the connection ends")
		})
	}
}

// C-35: who has left reads on from no token: not by pages, not by syncs.
func TestC35NothingAfterLeaving(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	alice.Send(room, "before")
	since := bob.Sync("").NextBatch
	bob.MustLeave(room)
	alice.Send(room, "after")
	after := alice.Sync("").NextBatch
	alice.Send(room, "later")
	latest := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1"}}).WantOK().Get("start").String()
	left := url.QueryEscape(`{"room":{"include_leave":true,"timeline":{"limit":100}}}`)
	for _, path := range []string{
		v3 + "/sync?since=" + url.QueryEscape(since), v3 + "/sync?filter=" + left, v3 + "/sync?full_state=true&filter=" + left,
		v3 + "/sync?filter=" + left + "&since=" + url.QueryEscape(after),
	} {
		requireUntold(t, bob.Do("GET", path, nil).WantOK())
	}
	for _, from := range []string{"", since, after, latest} {
		for _, dir := range []string{"f", "b"} {
			query := url.Values{"dir": {dir}, "limit": {"100"}}
			if from != "" {
				query.Set("from", from)
			}
			requireUntold(t, bob.Messages(room, query).WantOK())
		}
	}
	page := bob.Messages(room, url.Values{"dir": {"b"}, "limit": {"100"}}).WantOK()
	require.Contains(t, string(page.Body), `"before"`)
}

func requireUntold(t *testing.T, r *homeservertest.Response) {
	t.Helper()
	require.NotContains(t, string(r.Body), `"after"`)
	require.NotContains(t, string(r.Body), `"later"`)
}

// C-45: what somebody says whom one ignores comes on no road that lists; who asks for it by its id gets it.
func TestC45IgnoredUsers(t *testing.T) {
	hs := homeservertest.New(t)
	alice, mal := hs.User("alice"), hs.User("mal")
	room := alice.CreateRoom(homeservertest.Public)
	mal.MustJoin(room)
	first := alice.Send(room, "hello")
	alice.Do("PUT", ownPath(alice, "/account_data/m.ignored_user_list"), object{"ignored_users": object{mal.ID: object{}}}).WantOK()
	said := mal.Send(room, "NASTY words")
	mal.SendEvent(room, "m.room.message", object{"msgtype": "m.text", "body": "NASTY reply", "m.relates_to": object{"rel_type": "m.thread", "event_id": first}}).WantOK()
	mal.MustInvite(mal.CreateRoomWith(object{"name": "NASTY room"}), alice)
	in := "/rooms/" + url.PathEscape(room)
	for _, path := range []string{
		v3 + "/sync", v3 + in + "/messages?dir=b", v3 + in + "/messages?dir=f", v3 + in + "/context/" + url.PathEscape(first),
		"/_matrix/client/v1" + in + "/relations/" + url.PathEscape(first), "/_matrix/client/v1" + in + "/threads", v3 + in + "/event/" + url.PathEscape(first),
		v3 + in + "/initialSync",
	} {
		require.NotContains(t, string(alice.Do("GET", path, nil).WantOK().Body), "NASTY", path)
	}
	found := alice.Do("POST", v3+"/search", object{"search_categories": object{"room_events": object{"search_term": "NASTY"}}}).WantOK()
	require.NotContains(t, string(found.Body), said)
	require.Contains(t, string(mal.Do("GET", v3+in+"/messages?dir=b", nil).WantOK().Body), "NASTY")
}

// C-47: a token that is none, another's or of another time tells nobody what is not theirs.
func TestC47TokensOfSync(t *testing.T) {
	hs := homeservertest.New(t)
	alice, mal := hs.User("alice"), hs.User("mal")
	secret := alice.CreateRoomWith(object{"name": "SECRET"})
	hers := alice.Sync("").NextBatch
	alice.Send(secret, "SECRET")
	for _, since := range []string{hers, alice.Sync("").NextBatch} {
		r := mal.Do("GET", v3+"/sync?since="+url.QueryEscape(since), nil)
		require.Contains(t, []int{200, 400}, r.Status)
		require.NotContains(t, string(r.Body), secret)
	}
	for _, since := range []string{
		"garbage", "s", "s1", "s-1_0_0", "s99999999999999999999_0_0", "s9223372036854775807_0_0", hers + " ", hers + hers, " " + hers, "\x00",
		strings.Repeat("s1_", 1<<20), "s١_0", "$x", "0", "-1", "null", "s0x1_0.0_0",
	} {
		r := mal.Do("GET", v3+"/sync?timeout=0&since="+url.QueryEscape(since), nil)
		r.WantError(400, "M_INVALID_PARAM")
	}
	hs.Restart()
	require.Equal(t, "SECRET", alice.Sync(hers).Joined(secret).Get("timeline.events.0.content.body").String(), "tokens outlive the server")
}

// C-49: the members of a room are no stranger's business.
func TestC49MembersOfOthersRooms(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, mal := hs.User("alice"), hs.User("bob"), hs.User("mal")
	room := alice.CreateRoom(homeservertest.Private)
	alice.MustInvite(room, bob)
	in := v3 + "/rooms/" + url.PathEscape(room)
	at := "at=" + url.QueryEscape(alice.Sync("").NextBatch)
	for _, who := range []*homeservertest.User{bob, mal} {
		for _, path := range []string{"/members", "/members?" + at, "/members?not_membership=leave", "/members?membership=join", "/joined_members"} {
			who.Do("GET", in+path, nil).WantError(403, "M_FORBIDDEN")
		}
	}
	bob.MustJoin(room)
	bob.MustLeave(room)
	alice.MustInvite(room, mal)
	require.NotContains(t, string(bob.Do("GET", in+"/members", nil).WantOK().Body), mal.ID, "invited after bob had left")
	require.NotContains(t, string(bob.Do("GET", in+"/members?at="+url.QueryEscape(alice.Sync("").NextBatch), nil).Body), mal.ID)
	bob.Do("GET", in+"/joined_members", nil).WantError(403, "M_FORBIDDEN")
	require.NotContains(t, string(alice.Do("GET", in+"/members?not_membership=invite", nil).WantOK().Body), mal.ID)
}

// C-61: nobody gives what they do not have, nor acts against who has as much.
func TestC61Power(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	carol.MustJoin(room)
	levels := func(users object, rest ...object) object {
		all := object{"users": users}
		for _, more := range rest {
			for key, value := range more {
				all[key] = value
			}
		}
		return all
	}
	set := func(u *homeservertest.User, content object) *homeservertest.Response {
		return u.SetState(room, "m.room.power_levels", "", content)
	}
	creator := object{}
	if alice.State(room, "m.room.power_levels", "").WantOK().Get("users").Map()[alice.ID].Exists() {
		creator[alice.ID] = 100
	}
	with := func(more object) object {
		all := object{}
		for _, part := range []object{creator, more} {
			for key, value := range part {
				all[key] = value
			}
		}
		return all
	}
	set(alice, levels(with(object{bob.ID: 50, carol.ID: 50}))).WantOK()
	for name, content := range map[string]object{
		"more for oneself":     levels(with(object{bob.ID: 51, carol.ID: 50})),
		"more for another":     levels(with(object{bob.ID: 50, carol.ID: 75})),
		"less for an equal":    levels(with(object{bob.ID: 50, carol.ID: 0})),
		"an equal forgotten":   levels(with(object{bob.ID: 50})),
		"a level out of reach": levels(with(object{bob.ID: 50, carol.ID: 50}), object{"ban": 100}),
		"events out of reach":  levels(with(object{bob.ID: 50, carol.ID: 50}), object{"events": object{"m.room.name": 51}}),
	} {
		t.Run(name, func(t *testing.T) { set(bob, content).WantError(403, "M_FORBIDDEN") })
	}
	for name, content := range map[string]object{
		"a user who is none": levels(with(object{"bob": 1})), "no integer": levels(with(object{bob.ID: "50"})),
		"a list": {"users": []string{}}, "a fraction": levels(with(object{bob.ID: 50.5})),
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, 400, set(alice, content).Status) })
	}
	bob.Kick(room, carol).WantError(403, "M_FORBIDDEN")
	bob.Ban(room, carol).WantError(403, "M_FORBIDDEN")
	bob.Ban(room, bob).WantError(403, "M_FORBIDDEN")
	bob.Kick(room, alice).WantError(403, "M_FORBIDDEN")
	set(bob, levels(with(object{bob.ID: 0, carol.ID: 50}))).WantOK() // less for oneself
	set(bob, levels(with(object{bob.ID: 50, carol.ID: 50}))).WantError(403, "M_FORBIDDEN")
}

// C-67: limits that no answer has are those that one has, and lists have an end.
func TestC67Filters(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	for i := range 30 {
		alice.Send(room, strconv.Itoa(i))
	}
	ask := func(filter string) *homeservertest.Response {
		return alice.Do("GET", v3+"/sync?filter="+url.QueryEscape(filter), nil)
	}
	for _, limit := range []string{"1000000000", "9007199254740991", "2147483648", "4294967296"} {
		ask(`{"room":{"timeline":{"limit":` + limit + `}}}`).WantOK()
		alice.Messages(room, url.Values{"dir": {"b"}, "limit": {limit}}).WantOK()
	}
	require.Empty(t, ask(`{"room":{"timeline":{"limit":0}}}`).WantOK().Get("rooms.join.*.timeline.events").Array())
	many := `"@a:b"` + strings.Repeat(`,"@a:b"`, 50000)
	require.Contains(t, []int{400, 413}, ask(`{"room":{"timeline":{"senders":[`+many+`]}}}`).Status)
	for _, fields := range []string{`["a.b\\.c"]`, `["content.body"]`, `[]`, `["."]`, `[".."]`, `["\\"]`, `["a.` + strings.Repeat("b.", 200) + `c"]`} {
		require.Contains(t, []int{200, 400}, ask(`{"event_fields":`+fields+`}`).Status, fields)
	}
	for _, broken := range []string{"{", `{"room":`, "{}{}", "[]", `{"room":{"timeline":{"limit":1e9999}}}`, `{"room":{"timeline":{"limit":-1}}}`} {
		require.Equal(t, 400, ask(broken).Status, broken)
	}
}

// C-69: a name is text, and comes back as it was; what is too long for one is refused.
func TestC69Names(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	profile := v3 + "/profile/" + url.PathEscape(alice.ID)
	for _, name := range []string{"\x00", "\u202eecila", "<script>alert(1)</script>", "javascript:alert(1)", "a\nb", strings.Repeat("é", 100), "', '--", "  "} {
		alice.Do("PUT", profile+"/displayname", object{"displayname": name}).WantOK()
		require.Equal(t, name, alice.Do("GET", profile+"/displayname", nil).WantOK().Get("displayname").String())
		require.Equal(t, name, alice.State(room, "m.room.member", alice.ID).WantOK().Get("displayname").String())
		alice.Sync("")
	}
	alice.Do("PUT", profile+"/displayname", object{"displayname": strings.Repeat("x", 100<<10)}).WantError(400, "M_INVALID_PARAM")
	alice.Do("PUT", profile+"/avatar_url", object{"avatar_url": strings.Repeat("x", 100<<10)}).WantError(400, "M_INVALID_PARAM")
	alice.Do("PUT", profile+"/org.example.x", object{"org.example.x": strings.Repeat("x", 70<<10)}).WantError(400, "M_PROFILE_TOO_LARGE")
	for _, url := range []string{"javascript:alert(1)", "http://x.test/", "mxc://", "mxc://../x"} {
		r := alice.Do("PUT", profile+"/avatar_url", object{"avatar_url": url})
		require.Contains(t, []int{200, 400}, r.Status)
		alice.Sync("")
	}
}

// C-70: many who sync at once, from nothing or waiting, keep nobody else from their work.
func TestC70Crowd(t *testing.T) {
	const rooms = 50
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	for range rooms {
		alice.CreateRoom(homeservertest.Private)
	}
	own := bob.CreateRoom(homeservertest.Private)
	var crowd sync.WaitGroup
	since := url.QueryEscape(alice.Sync("").NextBatch)
	polls := make(chan int, idle)
	for range idle {
		go func() { polls <- alice.Do("GET", v3+"/sync?timeout=60000&since="+since, nil).Status }()
	}
	for range busy {
		crowd.Go(func() {
			if n := len(alice.Sync("").Get("rooms.join").Map()); n != rooms {
				t.Errorf("%d rooms", n)
			}
		})
	}
	var took []time.Duration
	for i := range 20 {
		began := time.Now()
		bob.Send(own, strconv.Itoa(i))
		bob.Sync("")
		took = append(took, time.Since(began))
	}
	crowd.Wait()
	slices.Sort(took)
	require.Less(t, took[18], 4*time.Second, "what others do, all but the slowest: %v", took)
	hs.Homeserver().Drain()
	for range idle {
		require.Equal(t, 200, <-polls)
	}
}

// C-71: what many say at once is told once each, whichever way one walks; a token of another room tells nothing of it.
func TestC71WalksBesideSenders(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Public)
	var senders sync.WaitGroup
	var mu sync.Mutex
	want := map[string]int{}
	for i := range 12 {
		u := hs.User("sender" + strconv.Itoa(i))
		u.MustJoin(room)
		senders.Go(func() {
			for n := range 33 {
				event := u.Send(room, fmt.Sprint(i, " ", n))
				mu.Lock()
				want[event] = 1
				mu.Unlock()
			}
		})
	}
	senders.Wait()
	for _, limit := range []string{"1", "10", "100", "1000"} {
		for _, dir := range []string{"f", "b"} {
			require.Equal(t, want, walked(alice, room, dir, limit), "%s by %s", dir, limit)
		}
	}
	other := alice.CreateRoom(homeservertest.Private)
	foreign := alice.Messages(other, url.Values{"dir": {"b"}, "limit": {"1"}}).WantOK().Get("end").String()
	page := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1000"}, "from": {foreign}})
	require.Contains(t, []int{200, 400}, page.Status)
	require.NotContains(t, string(page.Body), other)
	newest := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1"}}).WantOK()
	for _, query := range []url.Values{
		{"dir": {"b"}, "from": {newest.Get("end").String()}, "to": {newest.Get("start").String()}},
		{"dir": {"b"}, "from": {newest.Get("end").String()}, "to": {newest.Get("end").String()}},
	} {
		require.Empty(t, alice.Messages(room, query).WantOK().Get("chunk").Array(), "%v", query)
	}
	alice.Messages(room, url.Values{"dir": {"x"}}).WantError(400, "M_INVALID_PARAM")
	require.LessOrEqual(t, len(alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1000000000"}}).WantOK().Get("chunk").Array()), 1000)
}

// walked counts how often a walk through a room tells of each message.
func walked(u *homeservertest.User, room, dir, limit string) map[string]int {
	seen, query := map[string]int{}, url.Values{"dir": {dir}, "limit": {limit}}
	for {
		page := u.Messages(room, query).WantOK()
		for _, e := range page.Get("chunk").Array() {
			if e.Get("type").String() == "m.room.message" {
				seen[e.Get("event_id").String()]++
			}
		}
		if query.Set("from", page.Get("end").String()); !page.Get("end").Exists() {
			return seen
		}
	}
}

// C-77: typing that says it will never end ends all the same, and is one's own.
func TestC77Typing(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	typing := func(u *homeservertest.User, of *homeservertest.User, timeout string) *homeservertest.Response {
		return u.Do("PUT", v3+"/rooms/"+url.PathEscape(room)+"/typing/"+url.PathEscape(of.ID), []byte(`{"typing":true,"timeout":`+timeout+`}`))
	}
	for _, timeout := range []string{"0", "-1", "1", "9007199254740991", "4611686018427387904"} {
		require.Contains(t, []int{200, 400}, typing(alice, alice, timeout).Status, timeout)
	}
	for _, timeout := range []string{"1.5", `"1"`, "1e99", "{}", "18446744073709551616"} {
		require.Equal(t, 400, typing(alice, alice, timeout).Status, timeout)
	}
	typing(bob, alice, "1000").WantError(403, "M_FORBIDDEN")
	require.Contains(t, bob.Sync("").Joined(room).Get("ephemeral").Raw, alice.ID)
}
