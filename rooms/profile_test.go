package rooms_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// profilePath is the path of a profile, or of one of its fields.
func profilePath(user string, key ...string) string {
	p := v3 + "/profile/" + url.PathEscape(user)
	for _, k := range key {
		p += "/" + url.PathEscape(k)
	}
	return p
}

func setField(u *homeservertest.User, key string, value any) *homeservertest.Response {
	return u.Do("PUT", profilePath(u.ID, key), map[string]any{key: value})
}

// PR-01, PR-02, PR-03, PR-04.
func TestProfile(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	whole := func() string { return string(bob.Do("GET", profilePath(alice.ID), nil).WantOK().Body) }
	require.JSONEq(t, `{}`, whole())
	setField(alice, "displayname", "Alice <>&\u2028").WantOK()
	setField(alice, "avatar_url", "mxc://hs.test/abc").WantOK()
	setField(alice, "m.tz", "Europe/London").WantOK()
	setField(alice, "com.example.any", map[string]any{"a": []int{1}}).WantOK()
	setField(alice, "com.example.null", nil).WantOK()
	require.JSONEq(t, `{"displayname":"Alice <>&\u2028","avatar_url":"mxc://hs.test/abc","m.tz":"Europe/London",
		"com.example.any":{"a":[1]},"com.example.null":null}`, whole())
	hs.Restart()
	require.JSONEq(t, `{"displayname":"Alice <>&\u2028"}`, string(bob.Do("GET", profilePath(alice.ID, "displayname"), nil).WantOK().Body))
	require.JSONEq(t, `{"com.example.null":null}`, string(bob.Do("GET", profilePath(alice.ID, "com.example.null"), nil).WantOK().Body))
	for _, key := range []string{"com.example.any", "com.example.null", "m.tz", "m.tz", "avatar_url"} {
		alice.Do("DELETE", profilePath(alice.ID, key), nil).WantOK()
	}
	bob.Do("GET", profilePath(alice.ID, "m.tz"), nil).WantError(404, "M_NOT_FOUND")
	setField(alice, "displayname", "").WantOK()
	bob.Do("GET", profilePath(alice.ID, "displayname"), nil).WantError(404, "M_NOT_FOUND")
	require.JSONEq(t, `{}`, whole())
	bob.Do("GET", profilePath("@nobody:"+homeservertest.Name), nil).WantError(404, "M_NOT_FOUND")
	bob.Do("GET", profilePath("@nobody:"+homeservertest.Name, "displayname"), nil).WantError(404, "M_NOT_FOUND")
	bob.Do("GET", profilePath("@alice:elsewhere.test"), nil).WantError(404, "M_NOT_FOUND")
}

// PR-02, PR-03: the errors.
func TestProfileRefusals(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, guest := hs.User("alice"), hs.User("bob"), hs.Guest()
	tests := []struct{ name, key, body, code string }{
		{"other key in the body", "displayname", `{"avatar_url":"mxc://a/b"}`, "M_MISSING_PARAM"},
		{"empty body", "m.tz", `{}`, "M_MISSING_PARAM"},
		{"no object", "displayname", `"x"`, "M_BAD_JSON"},
		{"no JSON", "displayname", `{`, "M_NOT_JSON"},
		{"a number", "displayname", `{"displayname":1}`, "M_INVALID_PARAM"},
		{"null", "displayname", `{"displayname":null}`, "M_INVALID_PARAM"},
		{"an object", "avatar_url", `{"avatar_url":{}}`, "M_INVALID_PARAM"},
		{"a script", "avatar_url", `{"avatar_url":"javascript:alert(1)"}`, "M_INVALID_PARAM"},
		{"a script behind a space", "avatar_url", `{"avatar_url":" \tjava\nScript:alert(1)"}`, "M_INVALID_PARAM"},
		{"data", "avatar_url", `{"avatar_url":"data:text/html,x"}`, "M_INVALID_PARAM"},
		{"a page", "avatar_url", `{"avatar_url":"https://hs.test/a.png"}`, "M_INVALID_PARAM"},
		{"100 KB", "displayname", `{"displayname":"` + strings.Repeat("a", 100_000) + `"}`, "M_INVALID_PARAM"},
		{"a long name", "displayname", `{"displayname":"` + strings.Repeat("a", 1025) + `"}`, "M_INVALID_PARAM"},
		{"no namespace", "colour", `{"colour":1}`, "M_INVALID_PARAM"},
		{"capitals", "com.Example", `{"com.Example":1}`, "M_INVALID_PARAM"},
		{"starts with a digit", "1.x", `{"1.x":1}`, "M_INVALID_PARAM"},
		{"odd characters", "com.ex ample", `{"com.ex ample":1}`, "M_INVALID_PARAM"},
		{"not ASCII", "com.é", `{"com.é":1}`, "M_INVALID_PARAM"},
		{"long key", "a." + strings.Repeat("a", 254), `{"a.` + strings.Repeat("a", 254) + `":1}`, "M_KEY_TOO_LARGE"},
		{"64 KiB", "a.b", `{"a.b":"` + strings.Repeat("a", 65536) + `"}`, "M_PROFILE_TOO_LARGE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			alice.Do("PUT", profilePath(alice.ID, tt.key), []byte(tt.body)).WantError(400, tt.code)
		})
	}
	require.JSONEq(t, `{}`, string(alice.Do("GET", profilePath(alice.ID), nil).WantOK().Body), "nothing is kept of it")
	setField(alice, "a."+strings.Repeat("a", 253), 1).WantOK()
	alice.Do("DELETE", profilePath(alice.ID, "colour"), nil).WantError(400, "M_INVALID_PARAM")
	bob.Do("PUT", profilePath(alice.ID, "displayname"), map[string]any{"displayname": "x"}).WantError(403, "M_FORBIDDEN")
	bob.Do("DELETE", profilePath(alice.ID, "displayname"), nil).WantError(403, "M_FORBIDDEN")
	setField(guest, "displayname", "Guest").WantOK()
	setField(guest, "avatar_url", "mxc://a/b").WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.Do("DELETE", profilePath(guest.ID, "m.tz"), nil).WantError(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.Do("DELETE", profilePath(guest.ID, "displayname"), nil).WantOK()
}

// PR-02, PR-06, C-69: what is legal is kept as it is, and told to rooms and to whoever looks for the user; also under the
// paths of MSC4133, with the time zone of MSC4175.
func TestProfileKeepsWhatIsLegal(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	const odd = "a\x00b \u202egnp.exe\u2066 \u0301"
	for _, avatar := range []string{"LemurLover", "mxc://hs.test/a", "é\x00: no scheme"} {
		setField(alice, "avatar_url", avatar).WantOK()
		require.Equal(t, avatar, bob.Do("GET", profilePath(alice.ID), nil).WantOK().Get("avatar_url").String())
	}
	setField(alice, "displayname", odd).WantOK()
	require.Equal(t, odd, bob.Do("GET", profilePath(alice.ID), nil).WantOK().Get("displayname").String())
	require.Equal(t, odd, alice.State(room, "m.room.member", alice.ID).WantOK().Get("displayname").String())
	found := lookUp(bob, "gnp").Get("results.0")
	require.Equal(t, odd, found.Get("display_name").String())
	require.False(t, found.Get("avatar_url").Exists(), "what is no mxc URI is found nowhere")

	const unstable = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/"
	path := unstable + url.PathEscape(alice.ID) + "/us.cloke.msc4175.tz"
	alice.Do("PUT", path, map[string]any{"us.cloke.msc4175.tz": "Europe/Paris"}).WantOK()
	require.JSONEq(t, `{"us.cloke.msc4175.tz":"Europe/Paris"}`, string(bob.Do("GET", path, nil).WantOK().Body))
	require.Equal(t, "Europe/Paris", bob.Do("GET", unstable+url.PathEscape(alice.ID), nil).WantOK().Get(`us\.cloke\.msc4175\.tz`).String())
	alice.Do("DELETE", path, nil).WantOK()
	bob.Do("GET", path, nil).WantError(404, "M_NOT_FOUND")
}

// PR-02: the limit is on all fields together, and what is replaced counts no longer.
func TestProfileLimitIsForTheWhole(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	half := strings.Repeat("a", 32<<10)
	setField(alice, "a.one", half).WantOK()
	setField(alice, "a.two", half).WantError(400, "M_PROFILE_TOO_LARGE")
	setField(alice, "a.one", half+half[:20<<10]).WantOK()
	setField(alice, "a.one", "").WantOK()
	setField(alice, "a.two", half).WantOK()
}

// PR-05: a new name or picture is told to every room one is in, and to no other.
func TestProfileChangesAreToldToRooms(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	setField(bob, "displayname", "Robert").WantOK()
	var in []string
	for range 20 {
		room := alice.CreateRoom(homeservertest.Public)
		bob.MustJoin(room)
		in = append(in, room)
	}
	left, invited := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Private)
	bob.MustJoin(left)
	bob.MustLeave(left)
	alice.MustInvite(invited, bob)
	member := func(room string) *homeservertest.Response {
		return alice.State(room, "m.room.member", bob.ID).WantOK()
	}
	require.JSONEq(t, `{"membership":"join","displayname":"Robert"}`, string(member(in[0]).Body))
	setField(bob, "displayname", "Bob").WantOK()
	setField(bob, "avatar_url", "mxc://a/b").WantOK()
	for _, room := range in {
		require.JSONEq(t, `{"membership":"join","displayname":"Bob","avatar_url":"mxc://a/b"}`, string(member(room).Body))
	}
	require.Equal(t, "leave", member(left).Get("membership").String())
	require.JSONEq(t, `{"membership":"invite","displayname":"Robert"}`, string(member(invited).Body))
	before := len(ids(alice.Messages(in[0], url.Values{"dir": {"b"}, "limit": {"100"}}).WantOK().Get("chunk")))
	setField(bob, "m.tz", "Europe/London").WantOK()
	require.Len(t, ids(alice.Messages(in[0], url.Values{"dir": {"b"}, "limit": {"100"}}).WantOK().Get("chunk")), before, "custom fields are not told")
	bob.Do("DELETE", profilePath(bob.ID, "avatar_url"), nil).WantOK()
	require.JSONEq(t, `{"membership":"join","displayname":"Bob"}`, string(member(in[3]).Body))
	bob.MustJoin(invited)
	require.JSONEq(t, `{"membership":"join","displayname":"Bob"}`, string(member(invited).Body))
}
