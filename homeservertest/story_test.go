package homeservertest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// person is somebody in the story with a client that speaks plain HTTP.
type person struct {
	t        *testing.T
	http     *http.Client
	user     string
	password string
	token    string
	refresh  string
	device   string
}

type object = map[string]any

// ask sends a request and returns its answer, which must have the status.
func (p *person) ask(status int, method, path string, body any) object {
	p.t.Helper()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		require.NoError(p.t, err)
		content = bytes.NewReader(data)
	}
	r, err := http.NewRequest(method, "http://hs.test"+path, content)
	require.NoError(p.t, err)
	if p.token != "" {
		r.Header.Set("Authorization", "Bearer "+p.token)
	}
	response, err := p.http.Do(r)
	require.NoError(p.t, err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	require.Equal(p.t, status, response.StatusCode, "%s %s: %s", method, path, data)
	var answer any
	require.NoError(p.t, json.Unmarshal(data, &answer), "%s %s: %s", method, path, data)
	if list, ok := answer.([]any); ok {
		return object{"list": list}
	}
	return answer.(object)
}

func (p *person) get(path string) object { p.t.Helper(); return p.ask(200, "GET", path, nil) }
func (p *person) put(path string, body any) object {
	p.t.Helper()
	return p.ask(200, "PUT", path, body)
}
func (p *person) post(path string, body any) object {
	p.t.Helper()
	return p.ask(200, "POST", path, body)
}

// prove sends a request that needs interactive authentication: once to be asked for it, once with proof.
func (p *person) prove(method, path string, body, proof object) object {
	p.t.Helper()
	asked := p.ask(401, method, path, body)
	require.NotEmpty(p.t, asked["session"], "%s %s: %v", method, path, asked)
	proof["session"] = asked["session"]
	body = maps.Clone(body)
	body["auth"] = proof
	return p.ask(200, method, path, body)
}

// secret proves who p is by password.
func (p *person) secret() object {
	return object{"type": "m.login.password", "password": p.password, "identifier": object{"type": "m.id.user", "user": p.user}}
}

// register makes an account and logs in with it.
func register(t *testing.T, client *http.Client, name string) *person {
	t.Helper()
	p := &person{t: t, http: client, password: "correct horse battery staple " + name}
	p.session(p.prove("POST", v3+"/register", object{"username": name, "password": p.password, "refresh_token": true}, object{"type": "m.login.dummy"}))
	return p
}

// login gives p a further session and device.
func (p *person) login() *person {
	p.t.Helper()
	again := &person{t: p.t, http: p.http, password: p.password}
	again.session(again.post(v3+"/login", object{
		"type": "m.login.password", "password": p.password, "refresh_token": true,
		"identifier": object{"type": "m.id.user", "user": p.user}, "initial_device_display_name": "another",
	}))
	return again
}

func (p *person) session(s object) {
	p.user, p.token, p.device = s["user_id"].(string), s["access_token"].(string), s["device_id"].(string)
	p.refresh, _ = s["refresh_token"].(string)
}

// room is the path of a room's endpoints.
func room(roomID string) string { return v3 + "/rooms/" + url.PathEscape(roomID) }

const v3 = "/_matrix/client/v3"

// tell has two people use every endpoint there is, as clients do.
func tell(t *testing.T, client *http.Client) {
	t.Helper()
	nobody := &person{t: t, http: client}
	discover(nobody)
	alice, bob := register(t, client, "alice"), register(t, client, "bob")
	renew(alice)
	describeThemselves(alice)
	keepData(alice)
	here := gather(alice, bob)
	talk(alice, bob, here)
	relate(alice, bob, here)
	show(alice)
	find(alice, bob)
	listen(alice, bob, here)
	encrypt(alice, bob)
	dehydrate(alice)
	nameRooms(alice, here)
	moderate(alice, bob, here)
	replace(alice, bob, here)
	manageDevices(alice)
	administer(alice, bob)
	leaveForGood(alice, bob)
}

func discover(nobody *person) {
	nobody.get("/_matrix/client/versions")
	nobody.get("/.well-known/matrix/client")
	nobody.get("/.well-known/matrix/server")
	nobody.get("/.well-known/matrix/support")
	nobody.get("/_matrix/key/v2/server")
	nobody.get("/_matrix/federation/v1/version")
	nobody.get(v3 + "/login")
	nobody.get(v3 + "/register/available?username=alice")
	nobody.get("/_matrix/client/v1/register/m.login.registration_token/validity?token=none")
}

// renew trades the refresh token for a new access token.
func renew(alice *person) {
	renewed := alice.post(v3+"/refresh", object{"refresh_token": alice.refresh})
	alice.token = renewed["access_token"].(string)
	require.Equal(alice.t, alice.user, alice.get(v3 + "/account/whoami")["user_id"])
	alice.get(v3 + "/capabilities")
}

func describeThemselves(alice *person) {
	profile := v3 + "/profile/" + url.PathEscape(alice.user)
	alice.put(profile+"/displayname", object{"displayname": "Alice"})
	alice.put(profile+"/avatar_url", object{"avatar_url": "mxc://hs.test/alice"})
	alice.put(profile+"/org.example.mood", object{"org.example.mood": "fine"})
	require.Equal(alice.t, object{"displayname": "Alice"}, alice.get(profile+"/displayname"))
	alice.get(profile + "/avatar_url")
	alice.get(profile + "/org.example.mood")
	alice.get(profile)
	alice.ask(200, "DELETE", profile+"/org.example.mood", nil)
}

func keepData(alice *person) {
	mine := v3 + "/user/" + url.PathEscape(alice.user)
	alice.put(mine+"/account_data/org.example.note", object{"text": "milk"})
	require.Equal(alice.t, object{"text": "milk"}, alice.get(mine+"/account_data/org.example.note"))
	filter := alice.post(mine+"/filter", object{"room": object{"timeline": object{"limit": 10}}})["filter_id"].(string)
	alice.get(mine + "/filter/" + url.PathEscape(filter))
	token := alice.post(mine+"/openid/request_token", object{})["access_token"].(string)
	nobody := &person{t: alice.t, http: alice.http}
	require.Equal(alice.t, alice.user, nobody.get("/_matrix/federation/v1/openid/userinfo?access_token=" + token)["sub"])
	alice.get(v3 + "/pushrules/")
	alice.get(v3 + "/pushrules/global/")
}

// gather brings both into a room, on every road that leads there.
func gather(alice, bob *person) (roomID string) {
	created := alice.post(v3+"/createRoom", object{"preset": "private_chat", "name": "Here", "topic": "Everything", "invite": []string{bob.user}})
	roomID = created["room_id"].(string)
	bob.get(v3 + "/sync") // with the invite
	bob.post(room(roomID)+"/join", object{})
	bob.post(room(roomID)+"/leave", object{})
	alice.post(room(roomID)+"/invite", object{"user_id": bob.user})
	bob.post(v3+"/join/"+url.PathEscape(roomID), object{})
	bob.get(v3 + "/joined_rooms")
	bob.get(room(roomID) + "/members")
	bob.get(room(roomID) + "/joined_members")
	return roomID
}

// find looks for what was said, and for each other.
func find(alice, bob *person) {
	alice.post(v3+"/search", object{"search_categories": object{"room_events": object{
		"search_term": "everything", "include_state": true, "event_context": object{"include_profile": true},
		"groupings": object{"group_by": []object{{"key": "room_id"}, {"key": "sender"}}},
	}}})
	require.Len(alice.t, bob.post(v3+"/user_directory/search", object{"search_term": "ali"})["results"], 1)
	require.NotZero(alice.t, bob.get("/_matrix/client/v1/mutual_rooms?user_id=" + url.QueryEscape(alice.user))["count"])
}

// subscribe wants to hear of a thread, and no more.
func subscribe(alice *person, here, root string) {
	subscription := "/_matrix/client/unstable/io.element.msc4306/rooms/" + url.PathEscape(here) + "/thread/" + url.PathEscape(root) + "/subscription"
	alice.put(subscription, object{})
	alice.get(subscription)
	alice.get("/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b")
	alice.ask(200, "DELETE", subscription, nil)
}

func talk(alice, bob *person, here string) {
	eventID := alice.put(room(here)+"/send/m.room.message/1", object{"msgtype": "m.text", "body": "hi"})["event_id"].(string)
	subscribe(alice, here, eventID)
	typo := alice.put(room(here)+"/send/m.room.message/2", object{"msgtype": "m.text", "body": "hy"})["event_id"].(string)
	alice.put(room(here)+"/redact/"+url.PathEscape(typo)+"/3", object{"reason": "typo"})
	alice.put(room(here)+"/state/org.example.state/key", object{"a": 1})
	alice.put(room(here)+"/state/m.room.topic", object{"topic": "Nothing"})
	require.Equal(alice.t, object{"a": 1.0}, bob.get(room(here)+"/state/org.example.state/key"))
	require.Equal(alice.t, "Nothing", bob.get(room(here) + "/state/m.room.topic/")["topic"])
	bob.get(room(here) + "/state")
	bob.get(room(here) + "/event/" + url.PathEscape(eventID))
	bob.get(room(here) + "/event/" + url.PathEscape(typo))
	bob.get(room(here) + "/context/" + url.PathEscape(eventID) + "?limit=4")
	bob.get("/_matrix/client/v1/rooms/" + url.PathEscape(here) + "/timestamp_to_event?dir=f&ts=0")
	page := bob.get(room(here) + "/messages?dir=b&limit=3")
	bob.get(room(here) + "/messages?dir=b&limit=100&from=" + url.QueryEscape(page["end"].(string)))
	bob.put(room(here)+"/typing/"+url.PathEscape(bob.user), object{"typing": true, "timeout": 30000})
	bob.post(room(here)+"/receipt/m.read/"+url.PathEscape(eventID), object{})
	bob.post(room(here)+"/read_markers", object{"m.fully_read": eventID, "m.read": eventID})
}

// listen syncs from nothing and from a token, with all that a room can have.
func listen(alice, bob *person, here string) {
	mine := v3 + "/user/" + url.PathEscape(alice.user) + "/rooms/" + url.PathEscape(here)
	alice.put(mine+"/account_data/org.example.note", object{"text": "here"})
	alice.get(mine + "/account_data/org.example.note")
	alice.put(mine+"/tags/u.work", object{"order": 0.5})
	alice.get(mine + "/tags")
	since := alice.get(v3 + "/sync")["next_batch"].(string)
	bob.put(v3+"/sendToDevice/org.example.secret/1", object{"messages": object{alice.user: object{"*": object{"text": "psst"}}}})
	alice.ask(200, "DELETE", mine+"/tags/u.work", nil)
	status := v3 + "/presence/" + url.PathEscape(bob.user) + "/status"
	bob.put(status, object{"presence": "online", "status_msg": "here"})
	require.Equal(alice.t, "here", alice.get(status)["status_msg"])
	bob.put(room(here)+"/send/m.room.message/1", object{"msgtype": "m.text", "body": "hello"})
	bob.put(room(here)+"/typing/"+url.PathEscape(bob.user), object{"typing": false})
	alice.get(v3 + "/events?timeout=0")
	alice.get(v3 + "/events?timeout=0&room_id=" + url.QueryEscape(here))
	alice.get(v3 + "/initialSync?limit=2")
	latest := alice.get(room(here) + "/initialSync?limit=2")["messages"].(object)["chunk"].([]any)
	alice.get(v3 + "/events/" + url.PathEscape(latest[0].(object)["event_id"].(string)))
	callOthers(alice, here)
	update := alice.get(v3 + "/sync?timeout=1000&since=" + url.QueryEscape(since))
	require.Contains(alice.t, update["rooms"].(object)["join"], here)
	alice.get(v3 + "/sync?full_state=true&use_state_after=true&since=" + url.QueryEscape(since))
}

// callOthers uses what calls need, and what stands for people and places elsewhere.
func callOthers(alice *person, here string) {
	alice.get(v3 + "/voip/turnServer")
	alice.get("/_matrix/client/unstable/org.matrix.msc4143/rtc/transports")
	for _, path := range []string{
		"protocols", "protocol/irc", "location/irc?channel=go", "location?alias=%23irc_go:hs.test", "user/irc?nick=bob", "user?userid=@irc_bob:hs.test",
	} {
		alice.get(v3 + "/thirdparty/" + path)
	}
	const delayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
	for i, action := range []string{"cancel", "restart", "send"} {
		leave := room(here) + "/state/org.example.call/" + strconv.Itoa(i) + "?org.matrix.msc4140.delay=60000"
		id := alice.put(leave, object{"a": i})["delay_id"].(string)
		alice.get(delayed)
		alice.post(delayed+"/"+id+"/"+action, object{})
		if action == "restart" {
			alice.post(delayed+"/"+id, object{"action": "cancel"})
		}
	}
	mine := "/_matrix/client/unstable/org.matrix.msc3391/user/" + url.PathEscape(alice.user)
	alice.ask(200, "DELETE", mine+"/account_data/org.example.note", nil)
	alice.ask(200, "DELETE", mine+"/rooms/"+url.PathEscape(here)+"/account_data/org.example.note", nil)
}

func nameRooms(alice *person, here string) {
	alias := v3 + "/directory/room/" + url.PathEscape("#here:"+alice.user[len("@alice:"):])
	alice.put(alias, object{"room_id": here})
	require.Equal(alice.t, here, alice.get(alias)["room_id"])
	alice.get(room(here) + "/aliases")
	alice.ask(200, "DELETE", alias, nil)
	listed := v3 + "/directory/list/room/" + url.PathEscape(here)
	alice.put(listed, object{"visibility": "public"})
	alice.get(listed)
	alice.get(v3 + "/publicRooms?limit=10")
	require.Len(alice.t, alice.post(v3+"/publicRooms", object{"filter": object{"generic_search_term": "here"}})["chunk"], 1)
	alice.put(listed, object{"visibility": "private"})
	const v1 = "/_matrix/client/v1"
	space := alice.post(v3+"/createRoom", object{"name": "Space", "creation_content": object{"type": "m.space"}})["room_id"].(string)
	alice.put(room(space)+"/state/m.space.child/"+url.PathEscape(here), object{"via": []string{"hs.test"}, "suggested": true})
	tree := alice.get(v1 + "/rooms/" + url.PathEscape(space) + "/hierarchy?limit=1")
	alice.get(v1 + "/rooms/" + url.PathEscape(space) + "/hierarchy?from=" + tree["next_batch"].(string))
	require.Equal(alice.t, "join", alice.get(v1 + "/room_summary/" + url.PathEscape(here))["membership"])
}

func moderate(alice, bob *person, here string) {
	first := bob.get(room(here) + "/messages?dir=f&limit=1")["chunk"].([]any)[0].(object)["event_id"].(string)
	bob.post(room(here)+"/report/"+url.PathEscape(first), object{"reason": "dull"})
	bob.post(room(here)+"/report", object{"reason": "dull"})
	bob.post(v3+"/users/"+url.PathEscape(alice.user)+"/report", object{"reason": ""})
	alice.post(room(here)+"/kick", object{"user_id": bob.user, "reason": "loud"})
	alice.post(room(here)+"/ban", object{"user_id": bob.user})
	bob.get(v3 + "/sync?filter=" + url.QueryEscape(`{"room":{"include_leave":true}}`))
	alice.post(room(here)+"/unban", object{"user_id": bob.user})
	bob.post(room(here)+"/forget", object{})
	alice.put(room(here)+"/state/m.room.join_rules/", object{"join_rule": "knock"})
	bob.post(v3+"/knock/"+url.PathEscape(here), object{"reason": "please"})
	bob.get(v3 + "/sync") // with the knock
}

// replace upgrades a room of the two to another version, and bob follows.
func replace(alice, bob *person, here string) {
	alice.put(room(here)+"/state/m.room.join_rules", object{"join_rule": "public"})
	there := alice.post(room(here)+"/upgrade", object{"new_version": "11"})["replacement_room"].(string)
	require.Equal(alice.t, there, alice.get(room(here) + "/state/m.room.tombstone")["replacement_room"])
	bob.post(room(there)+"/join", object{})
	again := alice.post(room(there)+"/upgrade", object{"new_version": "12", "additional_creators": []string{bob.user}})
	bob.post(v3+"/join/"+url.PathEscape(again["replacement_room"].(string)), object{})
	bob.get(v3 + "/sync")
}

func manageDevices(alice *person) {
	device := func(of *person) string { return v3 + "/devices/" + url.PathEscape(of.device) }
	alice.get(v3 + "/devices")
	alice.put(device(alice), object{"display_name": "phone"})
	alice.get(device(alice))
	second, third := alice.login(), alice.login()
	alice.prove("DELETE", device(second), object{}, alice.secret())
	alice.prove("POST", v3+"/delete_devices", object{"devices": []string{third.device}}, alice.secret())
}

// administer has alice, who is an administrator, do what those do; and somebody log in by a token of hers.
func administer(alice, bob *person) {
	alice.get(v3 + "/admin/whois/" + url.PathEscape(bob.user))
	for verb, key := range map[string]string{"lock": "locked", "suspend": "suspended"} {
		path := "/_matrix/client/v1/admin/" + verb + "/" + url.PathEscape(bob.user)
		alice.put(path, object{key: true})
		require.Equal(alice.t, object{key: true}, alice.get(path))
		alice.put(path, object{key: false})
	}
	token := alice.prove("POST", "/_matrix/client/v1/login/get_token", object{}, alice.secret())["login_token"]
	nobody := &person{t: alice.t, http: alice.http}
	nobody.post(v3+"/login", object{"type": "m.login.token", "token": token})
}

func leaveForGood(alice, bob *person) {
	proof := alice.secret()
	alice.prove("POST", v3+"/account/password", object{"new_password": "another long passphrase", "logout_devices": false}, proof)
	alice.password = "another long passphrase"
	alice.login().post(v3+"/logout", nil)
	alice.post(v3+"/logout/all", nil)
	bob.prove("POST", v3+"/account/deactivate", object{"erase": false}, bob.secret())
}

// judge tells the story to a server with open registration, as its clients and as another server of its network, and
// checks every answer against the specification and that no routed operation was left out.
func judge(t *testing.T, network *homeservertest.Network, server *homeservertest.Server) {
	t.Helper()
	spec := loadSpecification(t)
	tell(t, &http.Client{Transport: &watched{t: t, spec: spec, to: server}})
	federate(t, network, server, spec)
	if spec == nil {
		return
	}
	all := rows(t, packages(t))
	for _, o := range operations(t) {
		if serving(all, o) != nil && spec.Describes(o.method, o.path) && !spec.Met(o.method, o.path) && !unanswered(o) {
			t.Errorf("%s is routed but no good answer of it was seen", o)
		}
	}
}

// unanswered reports whether there is no good answer of an operation: the types of queries that the specification knows
// are operations of their own.
func unanswered(o operation) bool { return o.path == "/_matrix/federation/v1/query/{queryType}" }

// survivors are the goroutines that run code of this module, but for the test's own.
func survivors() []string {
	stacks := make([]byte, 1<<20)
	all := strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n")
	return slices.DeleteFunc(all[1:], func(stack string) bool {
		return !strings.Contains(stack, module) || strings.Contains(stack, "testing.tRunner")
	})
}
