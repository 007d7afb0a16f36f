package homeservertest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// The identifiers and numbers of these tests, such as C-27, are those of the project's list of hostile inputs.

// scene is a server with something in it for requests to be about.
type scene struct {
	hs           *homeservertest.Server
	alice        *homeservertest.User
	room, event  string
	alias        string
	placeholders map[string]string
}

func newScene(t *testing.T) *scene {
	hs := homeservertest.New(t)
	s := &scene{hs: hs, alice: hs.User("alice"), alias: "#scene:" + homeservertest.Name}
	s.room = s.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_alias_name": "scene"})
	s.event = s.alice.Send(s.room, "hello")
	s.placeholders = map[string]string{
		"roomId": s.room, "roomIdOrAlias": s.room, "roomAlias": s.alias, "eventId": s.event, "userId": s.alice.ID,
		"deviceId": s.alice.Device, "eventType": "m.room.message", "stateKey": "", "receiptType": "m.read", "txnId": "1",
		"serverName": homeservertest.Name, "authType": "m.login.dummy", "parentEventId": s.event, "filterId": "0",
	}
	return s
}

var placeholder = regexp.MustCompile(`\{[A-Za-z0-9]+\}`)

// path fills in a path of the specification; hostile takes the place of each of its values in turn when n counts them.
func (s *scene) path(template string, n int, hostile string) (path string, values int) {
	path = placeholder.ReplaceAllStringFunc(template, func(p string) string {
		values++
		if values-1 == n {
			return hostile
		}
		value, ok := s.placeholders[strings.Trim(p, "{}")]
		if !ok {
			value = "x"
		}
		return url.PathEscape(value)
	})
	return path, values
}

// send sends a request with a token, whatever its path looks like.
func (s *scene) send(t *testing.T, token, method, path string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	u, err := url.Parse("http://" + homeservertest.Name + "/")
	require.NoError(t, err)
	raw, query, _ := strings.Cut(path, "?")
	u.RawQuery, u.Opaque = query, ""
	if decoded, err := url.PathUnescape(raw); err == nil {
		u.Path, u.RawPath = decoded, raw
	} else {
		u.Path = raw
	}
	r := httptest.NewRequest(method, "/", strings.NewReader(string(body)))
	r.URL, r.RequestURI = u, path
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.hs.ServeHTTP(w, r)
	return w
}

// wantCivil fails the test when an answer is a fault of the server, or an error without a code.
func wantCivil(t *testing.T, w *httptest.ResponseRecorder, what string, args ...any) {
	t.Helper()
	what = fmt.Sprintf(what, args...)
	require.Less(t, w.Code, 500, "%s: %s", what, w.Body)
	if w.Code < 400 || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		return
	}
	flows := w.Code == 401 && gjson.GetBytes(w.Body.Bytes(), "flows").Exists()
	require.True(t, flows || gjson.GetBytes(w.Body.Bytes(), "errcode").String() != "", "%s: %s", what, w.Body)
}

// fields are the names of what bodies have in them.
var fields = strings.Fields(`
	account address admin allow_remote allowed_room_ids alias alt_aliases aliases auth avatar_url ban body bind categories
	client_secret content content_uri creation_content current_device_id device_id device_ids device_keys device_name devices
	display_name displayname dir email erase event_id event_ids events event_fields event_format fallback_keys filter
	formatted_body generic_search_term guest_access_token history_visibility id_access_token id_server identifier
	inhibit_login initial_device_display_name initial_state invite invite_3pid is_direct join_rule kind lang limit logout_devices
	medium membership messages msgtype m.fully_read m.read m.read.private m.relates_to mac membership name new_password new_version
	nonce not_rooms notifications order password power_level_content_override preset presence profile_tag pushkey reason
	refresh_token redacts room room_alias_name room_id room_types room_version score search_categories search_term selector
	server_name session short_state sid since state_default status_msg submit_url terms thread_id third_party_signed timeline
	timeout token topic types typing type url user user_id username users users_default version via visibility
`)

// wrong are values that hardly any field expects: the first for each field by itself, all of them for all at once.
var wrong = []string{
	`-1`, `"\u0000"`, `[null]`, `{"x":{"x":[]}}`, strings.Repeat("[", 99) + strings.Repeat("]", 99),
	`null`, `true`, `0`, `1.5`, `1e400`, `9223372036854775808`, `"\ud800"`, `""`, `"x"`, `[]`, `[[]]`, `["\u0000"]`, `{}`,
	`{"":null}`, `[{"type":"m.room.member"}]`, `{"type":"m.login.password","user":1}`,
}

// C-27: no body makes the server fail.
func TestWrongBodies(t *testing.T) {
	s := newScene(t)
	bodies := [][]byte{
		nil, []byte("[]"), []byte("null"), []byte(`"x"`), []byte("1"), []byte("{"), []byte("{}x"), []byte("\xef\xbb\xbf{}"),
		[]byte("{\"a\":\"\xff\"}"), []byte(strings.Repeat("[", 9000)), []byte(strings.Repeat(`{"a":`, 9000)), []byte(`{"a":1,"a":2}`),
		[]byte(`{"":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`),
	}
	for n, value := range wrong {
		all := make([]string, len(fields))
		for i, field := range fields {
			if n < alone {
				bodies = append(bodies, fmt.Appendf(nil, "{%q:%s}", field, value))
			}
			all[i] = fmt.Sprintf("%q:%s", field, value)
		}
		bodies = append(bodies, []byte("{"+strings.Join(all, ",")+"}"))
	}
	for _, field := range strings.Fields("body displayname topic name reason device_id username password status_msg x") {
		bodies = append(bodies, fmt.Appendf(nil, `{%q:"%s"}`, field, strings.Repeat("a", 70000)))
	}
	for _, o := range operations(t) {
		if o.method == http.MethodGet {
			continue
		}
		path, _ := s.path(o.path, -1, "")
		if strings.Contains(path, "/logout") {
			continue // a body changes nothing there, and the token would be gone
		}
		for _, body := range bodies {
			w := s.send(t, s.alice.Token, o.method, path, body)
			wantCivil(t, w, "%s %.300s", o, body)
			if w.Code == 404 && gjson.GetBytes(w.Body.Bytes(), "errcode").String() == "M_UNRECOGNIZED" {
				break // not served
			}
		}
	}
	s.alice.Sync("")
	s.alice.Messages(s.room, url.Values{"dir": {"b"}}).WantOK()
}

// C-28, S-19: no path makes the server fail.
func TestWrongPaths(t *testing.T) {
	s := newScene(t)
	hostile := []string{
		"%2F", "..%2f", "%2e%2e", "%00", "%ff", "%252F", "%25", "'", "%22", "%25_%5C;--", "!", "@", "#", "$", "%23:", "!x:", "@:x", "%20",
		"-1", "9223372036854775808", "%F0%9F%98%80", strings.Repeat("a", 255), strings.Repeat("a", 70000), "%0d%0aX:%20y",
		"!x:%00", "@x:%00", "%24%00", "@x:hs.test%00",
	}
	queries := []string{
		"?limit=-1", "?limit=1000000000", "?limit=x", "?dir=x", "?from=x", "?from=&to=", "?dir=b&from=%00", "?since=%ff", "?timeout=-1",
		"?timeout=99999999999999999999", "?filter=%7B", "?filter=%7B%22room%22:1%7D", "?filter=99999999999999999999", "?at=x", "?ts=x",
		"?ts=9223372036854775808&dir=f", "?kind=x", "?format=x", "?membership=x", "?since=s1", "?access_token=", "?via=%00", "?;", "?%zz",
	}
	for _, o := range operations(t) {
		_, values := s.path(o.path, -1, "")
		for n := range values {
			for _, value := range hostile {
				path, _ := s.path(o.path, n, value)
				wantCivil(t, s.send(t, s.alice.Token, o.method, path, []byte("{}")), "%s %.300s", o.method, path)
			}
		}
		if o.method != http.MethodGet {
			continue
		}
		for _, query := range queries {
			path, _ := s.path(o.path, -1, "")
			wantCivil(t, s.send(t, s.alice.Token, o.method, path+query, nil), "%s%s", o, query)
		}
	}
}

// C-01: whatever needs a token is refused without a good one.
func TestWrongTokens(t *testing.T) {
	s := newScene(t)
	old := s.alice.Login()
	old.Do("POST", "/_matrix/client/v3/logout", map[string]any{}).WantOK()
	checked := 0
	for _, o := range operations(t) {
		path, _ := s.path(o.path, -1, "")
		if o.auth != "access token" {
			continue
		}
		for _, token := range []string{"", "null", "x", s.alice.Token + "x", old.Token} {
			w := s.send(t, token, o.method, path, []byte("{}"))
			if w.Code == 404 && gjson.GetBytes(w.Body.Bytes(), "errcode").String() == "M_UNRECOGNIZED" {
				continue // not served
			}
			require.Equal(t, 401, w.Code, "%s with %q: %s", o, token, w.Body)
			checked++
		}
	}
	require.Greater(t, checked, 200)
}

// C-33, C-35: who may not read an event finds it nowhere.
func TestSecretsStaySecret(t *testing.T) {
	const secret = "SECRET"
	reads := func(room, event string) []string {
		at := "/_matrix/client/v3/rooms/" + url.PathEscape(room)
		return []string{
			at + "/messages?dir=b&limit=1000", at + "/messages?dir=f&limit=1000", at + "/event/" + url.PathEscape(event),
			at + "/context/" + url.PathEscape(event) + "?limit=100", at + "/state", at + "/members", at + "/joined_members",
			at + "/state/m.room.topic", at + "/state/m.room.topic/?format=event", at + "/initialSync",
			"/_matrix/client/v3/sync", "/_matrix/client/v3/sync?full_state=true",
			"/_matrix/client/v3/sync?filter=" + url.QueryEscape(`{"room":{"include_leave":true,"timeline":{"limit":1000}}}`),
			"/_matrix/client/v3/sync?use_state_after=true&filter=" + url.QueryEscape(`{"room":{"include_leave":true}}`),
		}
	}
	histories := map[string]func(alice, bob *homeservertest.User, room string, tell func()){
		"never": func(_, _ *homeservertest.User, _ string, tell func()) { tell() },
		"left": func(_, bob *homeservertest.User, room string, tell func()) {
			bob.MustJoin(room)
			bob.MustLeave(room)
			tell()
		},
		"banned": func(alice, bob *homeservertest.User, room string, tell func()) {
			bob.MustJoin(room)
			alice.MustBan(room, bob)
			tell()
		},
		"left and invited again": func(alice, bob *homeservertest.User, room string, tell func()) {
			bob.MustJoin(room)
			bob.MustLeave(room)
			tell()
			alice.MustInvite(room, bob)
		},
		"invited, and gone": func(alice, bob *homeservertest.User, room string, tell func()) {
			bob.MustJoin(room)
			bob.MustLeave(room)
			alice.MustInvite(room, bob)
			tell()
			bob.MustLeave(room)
		},
	}
	for _, visibility := range []string{"shared", "joined"} {
		for name, history := range histories {
			t.Run(visibility+" "+name, func(t *testing.T) {
				hs := homeservertest.New(t)
				alice, bob := hs.User("alice"), hs.User("bob")
				room := alice.CreateRoomWith(map[string]any{"preset": "public_chat", "initial_state": []any{
					map[string]any{"type": "m.room.history_visibility", "content": map[string]any{"history_visibility": visibility}},
				}})
				var event string
				since := bob.Sync("").NextBatch
				history(alice, bob, room, func() {
					// Stripped state tells the name and topic to who is invited; what is kept from them is this.
					alice.SetState(room, "secret", "", map[string]any{"secret": secret}).WantOK()
					event = alice.Send(room, secret)
					alice.Redact(room, alice.Send(room, "x")).WantOK()
					alice.Do("PUT", "/_matrix/client/v3/profile/"+url.PathEscape(alice.ID)+"/displayname",
						map[string]any{"displayname": "Alice"}).WantOK()
				})
				paths := append(reads(room, event), "/_matrix/client/v3/sync?since="+url.QueryEscape(since))
				for _, path := range paths {
					r := bob.Do("GET", path, nil)
					require.Less(t, r.Status, 500, path)
					require.NotContains(t, string(r.Body), secret, path)
				}
				for _, path := range reads(room, event)[:4] {
					require.Contains(t, string(alice.Do("GET", path, nil).WantOK().Body), secret, "who may read it finds it")
				}
				unknown := bob.Do("GET", reads(room, "$unknown")[2], nil)
				known := bob.Do("GET", reads(room, event)[2], nil)
				require.Equal(t, unknown.Status, known.Status)
				require.Equal(t, string(unknown.Body), string(known.Body), "whether the event exists is not told")
			})
		}
	}
}

// C-39: what was redacted is nowhere any more, also where the next state tells what it replaced.
func TestRedactedStateIsGone(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	since := alice.Sync("").NextBatch
	secret := alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "SECRET"}).WantOK().Get("event_id").String()
	alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "next"}).WantOK()
	require.Contains(t, string(alice.Sync(since).Body), "SECRET")
	alice.Redact(room, secret).WantOK()
	for range 2 {
		for _, path := range []string{"/messages?dir=b&limit=100", "/messages?dir=f&limit=100", "/state", "/context/" + url.PathEscape(secret)} {
			r := alice.Do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+path, nil).WantOK()
			require.NotContains(t, string(r.Body), "SECRET", path)
		}
		require.NotContains(t, string(alice.Sync(since).Body), "SECRET")
		require.NotContains(t, string(alice.Sync("").Body), "SECRET")
		hs.Restart()
	}
}

// C-60, C-61: state that its sender may not set, or that is none.
func TestHostileState(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	tests := []struct {
		name, eventType, key, content string
		by                            *homeservertest.User
	}{
		{"a second create", "m.room.create", "", `{}`, alice},
		{"join of another", "m.room.member", alice.ID, `{"membership":"join"}`, bob},
		{"leave of another", "m.room.member", alice.ID, `{"membership":"leave"}`, bob},
		{"membership of nobody", "m.room.member", "x", `{"membership":"join"}`, alice},
		{"no membership", "m.room.member", alice.ID, `{}`, alice},
		{"unknown membership", "m.room.member", alice.ID, `{"membership":"x"}`, alice},
		{"levels in strings", "m.room.power_levels", "", `{"users_default":"100"}`, alice},
		{"levels with fractions", "m.room.power_levels", "", `{"users_default":0.5}`, alice},
		{"levels too large", "m.room.power_levels", "", `{"users_default":9007199254740992}`, alice},
		{"levels of nobody", "m.room.power_levels", "", `{"users":{"x":1}}`, alice},
		{"levels by a user", "m.room.power_levels", "", `{"users_default":100}`, bob},
		{"a key of another", "x", "@other:hs.test", `{}`, bob},
		{"a key of another, by an administrator", "x", bob.ID, `{}`, alice},
		{"too large", "x", "", `{"a":"` + strings.Repeat("a", 70000) + `"}`, alice},
		{"a number too large", "x", "", `{"a":9007199254740992}`, alice},
		{"a fraction", "x", "", `{"a":1.5}`, alice},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.by.SetState(room, tt.eventType, tt.key, []byte(tt.content))
			require.Contains(t, []int{400, 403, 413}, r.Status, string(r.Body))
		})
	}
	bob.Ban(room, alice).WantError(403, "M_FORBIDDEN")
	bob.Kick(room, alice).WantError(403, "M_FORBIDDEN")
}

// C-20: a transaction id belongs to a user, a device and a room.
func TestTransactionIDsOfOthers(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	one, two := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(one)
	seen := map[string]bool{}
	for _, r := range []*homeservertest.Response{
		alice.SendTxn(one, "x", "t", map[string]any{}), alice.SendTxn(two, "x", "t", map[string]any{}),
		alice.Login().SendTxn(one, "x", "t", map[string]any{}), bob.SendTxn(one, "x", "t", map[string]any{}),
	} {
		seen[r.WantOK().Get("event_id").String()] = true
	}
	require.Len(t, seen, 4)
}

// F-10: text that is legal and odd comes back as it went in.
func TestOddText(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	for _, odd := range []string{"\x00", "\u202e", "\ufffd", "😀", "\\u0000", `"`, "\u2028", " ", strings.Repeat("é", 1000)} {
		content, err := json.Marshal(map[string]any{"msgtype": "m.text", "body": odd, "x" + odd: 1})
		require.NoError(t, err)
		alice.SetState(room, "m.room.topic", "", map[string]any{"topic": odd}).WantOK()
		event := alice.SendEvent(room, "m.room.message", content).WantOK().Get("event_id").String()
		r := alice.Do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/event/"+url.PathEscape(event), nil).WantOK()
		require.Equal(t, odd, r.Get("content.body").String())
		alice.Sync("")
		alice.Messages(room, url.Values{"dir": {"b"}}).WantOK()
		alice.State(room, "m.room.topic", "").WantOK()
	}
}
