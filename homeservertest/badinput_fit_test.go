package homeservertest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// caller is somebody for whom a request would be right, but for what the test breaks of it. What it has is made when it
// is first needed, and anew when a request has used it up.
type caller struct {
	t    *testing.T
	hs   *homeservertest.Server
	n    int // makes names
	made map[string]string
	as   map[string]*homeservertest.User
}

func newCaller(t *testing.T, hs *homeservertest.Server) *caller {
	c := &caller{t: t, hs: hs}
	c.forget()
	return c
}

// forget has everything made anew.
func (c *caller) forget() { c.made, c.as = map[string]string{}, map[string]*homeservertest.User{} }

// user is a user of the test: everybody has a role.
func (c *caller) user(role string) *homeservertest.User {
	u, ok := c.as[role]
	if !ok {
		u = c.hs.User(role + c.number())
		c.as[role] = u
	}
	return u
}

// once makes something that is kept.
func (c *caller) once(name string, create func() string) string {
	if _, ok := c.made[name]; !ok {
		c.made[name] = create()
	}
	return c.made[name]
}

func (c *caller) number() string {
	c.n++
	return strconv.Itoa(c.n)
}

// room is where alice and bob are.
func (c *caller) room() string {
	return c.once("room", func() string {
		id := c.user("alice").CreateRoom(homeservertest.Public)
		c.user("bob").MustJoin(id)
		return id
	})
}

// other is a room of bob's into which everybody may come.
func (c *caller) other() string {
	return c.once("other", func() string { return c.user("bob").CreateRoom(homeservertest.Public) })
}

// left is a room that alice has left.
func (c *caller) left() string {
	return c.once("left", func() string {
		c.user("alice").MustJoin(c.other())
		c.user("alice").MustLeave(c.other())
		return c.other()
	})
}

// knockable is a room of bob's at which everybody may knock.
func (c *caller) knockable() string {
	return c.once("knockable", func() string {
		return c.user("bob").CreateRoomWith(object{"initial_state": []object{
			{"type": "m.room.join_rules", "content": object{"join_rule": "knock"}},
		}})
	})
}

// event is a message of alice's.
func (c *caller) event() string {
	return c.once("event", func() string { return c.user("alice").Send(c.room(), "hi") })
}

// state is a state event "org.example.state" with the key "key".
func (c *caller) state() string {
	return c.once("state", func() string {
		return c.user("alice").SetState(c.room(), "org.example.state", "key", object{"a": 1}).WantOK().Get("event_id").String()
	})
}

func (c *caller) filter() string {
	return c.once("filter", func() string {
		alice := c.user("alice")
		return alice.Do("POST", v3+"/user/"+url.PathEscape(alice.ID)+"/filter", object{}).WantOK().Get("filter_id").String()
	})
}

// data is account data of alice's, of herself and in the room.
func (c *caller) data() string {
	return c.once("data", func() string {
		mine := v3 + "/user/" + url.PathEscape(c.user("alice").ID)
		c.user("alice").Do("PUT", mine+"/account_data/org.example.note", object{"text": "milk"}).WantOK()
		c.user("alice").Do("PUT", mine+"/rooms/"+url.PathEscape(c.room())+"/account_data/org.example.note", object{"text": "milk"}).WantOK()
		return "org.example.note"
	})
}

// alias is an alias of the room.
func (c *caller) alias() string {
	return c.once("alias", func() string {
		alias := "#alias" + c.number() + ":hs.test"
		c.user("alice").Do("PUT", v3+"/directory/room/"+url.PathEscape(alias), object{"room_id": c.room()}).WantOK()
		return alias
	})
}

// name is a profile field of alice's.
func (c *caller) name() string {
	return c.once("name", func() string {
		alice := c.user("alice")
		alice.Do("PUT", v3+"/profile/"+url.PathEscape(alice.ID)+"/displayname", object{"displayname": "Alice"}).WantOK()
		return "displayname"
	})
}

func (c *caller) banned() *homeservertest.User {
	c.once("banned", func() string { c.user("alice").Ban(c.room(), c.user("carol")).WantOK(); return "" })
	return c.user("carol")
}

// administrator is one of the server.
func (c *caller) administrator() *homeservertest.User {
	u := c.user("root")
	require.NoError(c.t, c.hs.Homeserver().Admin().SetAdmin(c.t.Context(), u.ID, true))
	return u
}

// media is a file of alice's.
func (c *caller) media() string {
	return c.once("media", func() string { return c.upload("POST", "/_matrix/media/v3/upload") })
}

// promised is a name for a file that alice is going to upload.
func (c *caller) promised() string {
	return c.once("promised", func() string { return c.upload("POST", "/_matrix/media/v1/create") })
}

// upload sends a picture, and returns the media id that it gets.
func (c *caller) upload(method, path string) string {
	r := httptest.NewRequest(method, path, bytes.NewReader(picture()))
	r.Header.Set("Authorization", "Bearer "+c.user("alice").Token)
	r.Header.Set("Content-Type", "image/png")
	w := httptest.NewRecorder()
	c.hs.ServeHTTP(w, r)
	require.Equal(c.t, 200, w.Code, "%s: %s", path, w.Body)
	uri := gjson.Get(w.Body.String(), "content_uri").String()
	return uri[strings.LastIndex(uri, "/")+1:]
}

// backup is the version of a backup of alice's keys.
func (c *caller) backup() string {
	return c.once("backup", func() string {
		return c.user("alice").Do("POST", v3+"/room_keys/version", []byte(newBackup)).WantOK().Get("version").String()
	})
}

const newBackup = `{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"public_key":"abc","signatures":{}}}`

// session is a session in the backup.
func (c *caller) session() string {
	return c.once("session", func() string {
		path := v3 + "/room_keys/keys/" + url.PathEscape(c.room()) + "/session?version=" + c.backup()
		c.user("alice").Do("PUT", path, object{"first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": object{}}).WantOK()
		return "session"
	})
}

// value is what stands for a name, in paths, queries and bodies, where goodRequests says nothing else.
func (c *caller) value(name string) (string, bool) {
	switch name {
	case "userId":
		return c.user("alice").ID, true
	case "user_id", "userid":
		return c.user("bob").ID, true
	case "roomId", "roomIdOrAlias", "room_id":
		return c.room(), true
	case "roomAlias":
		return c.alias(), true
	case "eventId", "event_id":
		return c.event(), true
	case "deviceId":
		return c.user("alice").Device, true
	case "filterId":
		return c.filter(), true
	case "type":
		return c.data(), true
	case "keyName":
		return c.name(), true
	case "txnId":
		return "txn" + c.number(), true
	case "username":
		return "user" + c.number(), true
	case "eventType":
		return "org.example.state", true
	case "stateKey":
		c.state()
		return "key", true
	case "mediaId":
		return c.media(), true
	case "version":
		return c.backup(), true
	case "sessionId":
		return c.session(), true
	case "from", "to":
		return c.user("alice").Sync("").NextBatch, true
	case "alias":
		return c.alias(), true
	case "url":
		return c.once("page", func() string { return webPage(c.t) }), true
	}
	text, ok := map[string]string{
		"width": "1", "height": "1", "fileName": "picture.png", "relType": "m.thread", "protocol": "irc",
		"tag": "u.work", "token": "none", "ts": "0", "new_version": "11", "new_password": "a long passphrase", "reason": "because",
		"search_term": "alice", "serverName": "hs.test",
	}[name]
	return text, ok
}

// fit says what is special about a good request of an operation.
type fit struct {
	status int                                  // of the answer; 0 is 200
	as     func(c *caller) *homeservertest.User // nil: alice
	values func(c *caller) map[string]string    // of the path
	body   func(c *caller) any
	needs  func(c *caller) string // what there has to be, though no part of the request names it
	spends bool                   // a request that succeeds uses the caller up
}

func fixed(body any) func(*caller) any { return func(*caller) any { return body } }

// at sets one value of a path.
func at(name string, value func(c *caller) string) func(*caller) map[string]string {
	return func(c *caller) map[string]string { return map[string]string{name: value(c)} }
}

// whom names a user in a body.
func whom(who func(c *caller) *homeservertest.User) func(*caller) any {
	return func(c *caller) any { return object{"user_id": who(c).ID} }
}

func bob(c *caller) *homeservertest.User { return c.user("bob") }

// goodRequests are the operations whose good request is not made of names alone.
func goodRequests() map[string]fit {
	display := func(*caller) string { return "displayname" }
	administered := fit{as: (*caller).administrator, values: at("userId", func(c *caller) string { return c.user("bob").ID }), spends: true}
	backup := func(*caller) any { return json.RawMessage(newBackup) }
	return map[string]fit{
		"GET /_matrix/client/v1/admin/lock/{userId}":          administered,
		"PUT /_matrix/client/v1/admin/lock/{userId}":          administered,
		"GET /_matrix/client/v1/admin/suspend/{userId}":       administered,
		"PUT /_matrix/client/v1/admin/suspend/{userId}":       administered,
		"POST /_matrix/client/v1/login/get_token":             {status: 401},
		"PUT /_matrix/media/v3/upload/{serverName}/{mediaId}": {spends: true, values: at("mediaId", (*caller).promised)},
		"POST " + v3 + "/search":                              {body: fixed(object{"search_categories": object{"room_events": object{"search_term": "hi"}}})},
		"GET " + v3 + "/room_keys/version":                    {needs: (*caller).backup},
		"POST " + v3 + "/room_keys/version":                   {body: backup},
		"PUT " + v3 + "/room_keys/version/{version}":          {body: backup},
		"DELETE " + v3 + "/room_keys/version/{version}":       {spends: true},
		"POST " + v3 + "/login": {body: func(c *caller) any {
			return object{"type": "m.login.password", "password": c.user("alice").Password, "identifier": object{"type": "m.id.user", "user": c.user("alice").ID}}
		}},
		"POST " + v3 + "/refresh": {spends: true, body: func(c *caller) any {
			token := c.once("refresh", func() string {
				return c.hs.Guest().Do("POST", v3+"/login", object{
					"type": "m.login.password", "password": c.user("alice").Password, "refresh_token": true,
					"identifier": object{"type": "m.id.user", "user": c.user("alice").ID},
				}).WantOK().Get("refresh_token").String()
			})
			return object{"refresh_token": token}
		}},
		"POST " + v3 + "/register":                     {status: 401, spends: true},
		"POST " + v3 + "/account/password":             {status: 401},
		"POST " + v3 + "/account/deactivate":           {status: 401},
		"POST " + v3 + "/delete_devices":               {status: 401, body: func(c *caller) any { return object{"devices": []string{c.user("alice").Device}} }},
		"DELETE " + v3 + "/devices/{deviceId}":         {status: 401},
		"POST " + v3 + "/logout":                       {spends: true},
		"POST " + v3 + "/logout/all":                   {spends: true},
		"POST " + v3 + "/join/{roomIdOrAlias}":         {spends: true, values: at("roomIdOrAlias", (*caller).other)},
		"POST " + v3 + "/rooms/{roomId}/join":          {spends: true, values: at("roomId", (*caller).other)},
		"POST " + v3 + "/knock/{roomIdOrAlias}":        {spends: true, values: at("roomIdOrAlias", (*caller).knockable)},
		"POST " + v3 + "/rooms/{roomId}/leave":         {spends: true},
		"POST " + v3 + "/rooms/{roomId}/forget":        {spends: true, values: at("roomId", (*caller).left)},
		"POST " + v3 + "/rooms/{roomId}/invite":        {spends: true, body: whom(func(c *caller) *homeservertest.User { return c.user("dave") })},
		"POST " + v3 + "/rooms/{roomId}/kick":          {spends: true, body: whom(bob)},
		"POST " + v3 + "/rooms/{roomId}/ban":           {spends: true, body: whom(bob)},
		"POST " + v3 + "/rooms/{roomId}/unban":         {spends: true, body: whom((*caller).banned)},
		"POST " + v3 + "/rooms/{roomId}/upgrade":       {spends: true},
		"PUT " + v3 + "/directory/room/{roomAlias}":    {spends: true, values: at("roomAlias", func(c *caller) string { return "#new" + c.number() + ":hs.test" })},
		"DELETE " + v3 + "/directory/room/{roomAlias}": {spends: true},
		"PUT " + v3 + "/profile/{userId}/{keyName}":    {values: at("keyName", display), body: fixed(object{"displayname": "Alice"})},
		"DELETE " + v3 + "/profile/{userId}/{keyName}": {values: at("keyName", display)},
		"PUT " + v3 + "/presence/{userId}/status":      {body: fixed(object{"presence": "online"})},
		"PUT " + v3 + "/directory/list/room/{roomId}":  {body: fixed(object{"visibility": "public"})},
	}
}

// good makes the request of an operation that nothing is wrong with.
func (c *caller) good(a *asked, f fit) *request {
	c.t.Helper()
	as := c.user("alice")
	if f.as != nil {
		as = f.as(c)
	}
	if f.needs != nil {
		f.needs(c)
	}
	r := &request{as: as, method: a.method, pattern: a.path, path: map[string]string{}, query: map[string]string{}}
	var special map[string]string
	if f.values != nil {
		special = f.values(c)
	}
	for _, p := range a.parameters {
		value, ok := special[p.Name]
		switch {
		case !ok && (p.In == "path" || p.Required):
			value = c.fitting(a, p.Name, p.Schema)
		case !ok:
			continue
		}
		if p.In == "path" {
			r.path[p.Name] = url.PathEscape(value)
		} else {
			r.query[p.Name] = url.QueryEscape(value)
		}
	}
	switch {
	case f.body != nil:
		r.body = f.body(c)
	case a.body != nil:
		r.body = c.sample(a, "", a.body)
	}
	return r
}

// fitting is the text of a parameter.
func (c *caller) fitting(a *asked, name string, s *shape) string {
	c.t.Helper()
	if len(s.Enum) > 0 {
		return fmt.Sprint(s.Enum[0])
	}
	text, ok := c.value(name)
	require.True(c.t, ok, "%s: what fits {%s}? Say it in badinput_fit_test.go", a, name)
	return text
}

// sample is the smallest value of a shape.
func (c *caller) sample(a *asked, name string, s *shape) any {
	c.t.Helper()
	switch {
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.takes("object") && (len(s.Type) > 0 || len(s.Properties) > 0):
		o := object{}
		for _, key := range s.Required {
			o[key] = c.sample(a, key, s.Properties[key])
		}
		return o
	case s.takes("array") && len(s.Type) > 0:
		return []any{}
	case s.takes("boolean") && len(s.Type) > 0:
		return true
	case s.takes("integer") && len(s.Type) > 0:
		return 1
	}
	text, ok := c.value(name)
	require.True(c.t, ok, "%s: what fits %q in its body? Say it in badinput_fit_test.go", a, name)
	return text
}
