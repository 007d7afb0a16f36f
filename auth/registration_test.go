package auth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/auth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

var dummy = M{"type": "m.login.dummy"}

func TestRegister(t *testing.T) {
	s := newServer(t)

	first := s.post("/register", "", M{"username": "alice", "password": "secret"})
	session := first.asks("")
	require.Equal(t, []any{M{"stages": []any{"m.login.dummy"}}}, first.body["flows"])
	require.Equal(t, M{}, first.body["params"])

	body := s.post("/register", "", M{
		"username": "alice", "password": "secret", "auth": M{"type": "m.login.dummy", "session": session},
	}).ok()
	require.Equal(t, "@alice:example.org", body["user_id"])
	require.Equal(t, "example.org", body["home_server"])
	require.NotEmpty(t, body["device_id"])
	require.NotContains(t, body, "refresh_token")
	require.NotContains(t, body, "expires_in_ms")

	who := s.whoami(body["access_token"].(string)).ok()
	require.Equal(t, M{"user_id": "@alice:example.org", "device_id": body["device_id"], "is_guest": false}, who)
}

// Duties RE-02, RE-03, RE-12: what a name must be is said before any proof is asked for, the same at both endpoints.
func TestUserNames(t *testing.T) {
	s := newServer(t, func(c *auth.Config) {
		c.Exclusive = func(u id.UserID) bool { return strings.HasPrefix(string(u), "@_irc_") }
	})
	s.user("taken")
	s.user("gone")
	require.NoError(t, s.auth.Deactivate(context.Background(), "@gone:example.org", false))
	longest := strings.Repeat("x", 255-len("@:example.org"))

	tests := []struct {
		name, in, code string
	}{
		{"small letters", "alice", ""},
		{"every allowed character", "q3._=-/+", ""},
		{"capitals become small", "BoB", ""},
		{"dots only", "..", ""},
		{"as long as can be", longest, ""},
		{"one longer", longest + "x", "M_INVALID_USERNAME"},
		{"empty", "", "M_INVALID_USERNAME"},
		{"in use", "taken", "M_USER_IN_USE"},
		{"in use, other case", "TAKEN", "M_USER_IN_USE"},
		{"of a deactivated user", "gone", "M_USER_IN_USE"},
		{"reserved", "_irc_bob", "M_EXCLUSIVE"},
		{"whole id", "@alice:example.org", "M_INVALID_USERNAME"},
		{"colon", "a:b", "M_INVALID_USERNAME"},
		{"space", "a b", "M_INVALID_USERNAME"},
		{"escape", "%2f", "M_INVALID_USERNAME"},
		{"historical", "é", "M_INVALID_USERNAME"},
		{"capital that is not ASCII", "É", "M_INVALID_USERNAME"},
		{"NUL", "a\x00b", "M_INVALID_USERNAME"},
		{"newline", "a\n", "M_INVALID_USERNAME"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := s.post("/register", "", M{"username": tt.in, "password": "secret"})
			require.Equal(t, orAsk(tt.code), codeOf(a), a.what)
		})
	}
	t.Run("available", func(t *testing.T) {
		require.Equal(t, M{"available": true}, s.get("/register/available?username=BoB", "").ok())
		s.get("/register/available?username=taken", "").fails(400, "M_USER_IN_USE")
		s.get("/register/available?username=_irc_x", "").fails(400, "M_EXCLUSIVE")
		s.get("/register/available?username=a%20b", "").fails(400, "M_INVALID_USERNAME")
		s.get("/register/available?username=", "").fails(400, "M_INVALID_USERNAME")
		s.get("/register/available", "").fails(400, "M_MISSING_PARAM")
	})
}

// codeOf names an answer by its errcode, or by what it is when it has none.
func codeOf(a *answer) string {
	if code, ok := a.body["errcode"].(string); ok {
		return fmt.Sprint(a.status, " ", code)
	}
	return fmt.Sprint(a.status)
}

func orAsk(code string) string {
	if code == "" {
		return "401"
	}
	return "400 " + code
}

func TestRegisterInOneRequest(t *testing.T) {
	s := newServer(t)
	body := s.post("/register", "", M{"auth": dummy, "username": "User-UPPER", "password": "secret"}).ok()
	require.Equal(t, "@user-upper:example.org", body["user_id"])
}

// RE-04: "If omitted, the homeserver MUST generate a Matrix ID local part."
func TestRegisterWithoutName(t *testing.T) {
	s := newServer(t)
	a := s.post("/register", "", M{"auth": dummy, "password": "secret"}).ok()
	b := s.post("/register", "", M{"auth": dummy, "password": "secret"}).ok()
	require.Regexp(t, `^@[a-z0-9]{8,}:example\.org$`, a["user_id"])
	require.NotEqual(t, a["user_id"], b["user_id"])
}

// RE-05, RE-10.
func TestRegisterOptions(t *testing.T) {
	s := newServer(t)
	t.Run("inhibit_login", func(t *testing.T) {
		body := s.post("/register", "", M{"auth": dummy, "username": "quiet", "password": "pw-quiet", "inhibit_login": true}).ok()
		require.Equal(t, M{"user_id": "@quiet:example.org", "home_server": "example.org"}, body)
	})
	t.Run("device", func(t *testing.T) {
		body := s.post("/register", "", M{
			"auth": dummy, "username": "dev", "password": "pw-dev", "device_id": "MINE", "initial_device_display_name": "phone", "refresh_token": true,
		}).ok()
		require.Equal(t, "MINE", body["device_id"])
		require.NotEmpty(t, body["refresh_token"])
		require.EqualValues(t, time.Hour.Milliseconds(), body["expires_in_ms"])
		device := s.get("/devices/MINE", body["access_token"].(string)).ok()
		require.Equal(t, "phone", device["display_name"])
	})
}

func TestRegisterRefuses(t *testing.T) {
	s := newServer(t, func(c *auth.Config) { c.Registration.MinPasswordLength = 8 })
	tests := []struct {
		name   string
		body   any
		status int
		code   string
	}{
		{"weak password", M{"username": "a", "password": "1234567", "auth": dummy}, 400, "M_WEAK_PASSWORD"},
		{"endless password", M{"username": "a", "password": strings.Repeat("x", 513), "auth": dummy}, 400, "M_INVALID_PARAM"},
		{"no password", M{"username": "a", "auth": dummy}, 400, "M_MISSING_PARAM"},
		{"name of another type", M{"username": 1}, 400, "M_BAD_JSON"},
		{"device of another type", M{"device_id": []int{}}, 400, "M_BAD_JSON"},
		{"device with NUL", M{"device_id": "a\x00", "password": "12345678", "auth": dummy}, 400, "M_INVALID_PARAM"},
		{"long device", M{"device_id": strings.Repeat("x", 256)}, 400, "M_INVALID_PARAM"},
		{"auth of another type", M{"auth": "dummy"}, 400, "M_BAD_JSON"},
		{"auth.session of another type", M{"auth": M{"session": 1}}, 400, "M_BAD_JSON"},
		{"not JSON", `{`, 400, "M_NOT_JSON"},
		{"not an object", `[]`, 400, "M_BAD_JSON"},
		{"not UTF-8", "{\"username\":\"a\x81\"}", 400, "M_NOT_JSON"},
		{"too large", M{"username": strings.Repeat("x", 65<<10)}, 413, "M_TOO_LARGE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { s.post("/register", "", tt.body).fails(tt.status, tt.code) })
	}
	s.post("/register?kind=robot", "", M{}).fails(400, "M_INVALID_PARAM")
	_, err := s.auth.Account(context.Background(), "@a:example.org")
	require.ErrorIs(t, err, mxerr.NotFound)
}

// RE-08, UI-14: off is off, for everything about it.
func TestRegistrationClosed(t *testing.T) {
	s := newServer(t, func(c *auth.Config) { c.Registration = auth.Registration{} })
	s.post("/register", "", M{"auth": dummy, "username": "a", "password": "b"}).fails(403, "M_FORBIDDEN")
	s.post("/register?kind=guest", "", M{}).fails(403, "M_FORBIDDEN")
	s.get("/register/available?username=a", "").fails(403, "M_FORBIDDEN")
	s.call("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=x", "", nil).fails(403, "M_FORBIDDEN")
	s.call("GET", "/_synapse/admin/v1/register", "", nil).fails(404, "M_UNRECOGNIZED")
}

// RE-09: of many who race for one name one gets it.
func TestRegisterRace(t *testing.T) {
	s := newServer(t)
	var won atomic.Int32
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			a := s.post("/register", "", M{"auth": dummy, "username": "alice", "password": fmt.Sprint("pw", i)})
			if a.status == 200 {
				won.Add(1)
			} else {
				a.fails(400, "M_USER_IN_USE")
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 1, won.Load())
}

// RE-09: the name is looked at again after the proof.
func TestRegisterNameTakenMeanwhile(t *testing.T) {
	s := newServer(t)
	session := s.post("/register", "", M{"username": "alice", "password": "one"}).asks("")
	s.user("alice")
	s.post("/register", "", M{"auth": M{"session": session, "type": "m.login.dummy"}}).fails(400, "M_USER_IN_USE")
}

// SyTest: a registration that is repeated gives the same user; one with only "auth" uses what came first.
func TestRegisterAgain(t *testing.T) {
	s := newServer(t)
	session := s.post("/register", "", M{"username": "alice", "password": "secret", "device_id": "D"}).asks("")
	finish := M{"auth": M{"session": session, "type": "m.login.dummy"}}

	first := s.post("/register", "", finish).ok()
	again := s.post("/register", "", finish).ok()
	require.Equal(t, "D", first["device_id"])
	require.Equal(t, first["user_id"], again["user_id"])
	require.Equal(t, first["device_id"], again["device_id"])
	s.whoami(again["access_token"].(string)).ok()
	s.whoami(first["access_token"].(string)).fails(401, "M_UNKNOWN_TOKEN")

	t.Run("not with other parameters", func(t *testing.T) {
		s.post("/register", "", M{"username": "mallory", "auth": finish["auth"]}).fails(403, "M_FORBIDDEN")
		s.post("/register", "", M{"username": "alice", "password": "secret", "auth": finish["auth"]}).ok()
	})
	t.Run("not after the end of what it began", func(t *testing.T) {
		require.NoError(t, s.auth.LogoutAll(context.Background(), "@alice:example.org"))
		s.post("/register", "", finish).fails(403, "M_FORBIDDEN")
	})
}

// Some clients ask for the flows with an empty body and go on with that session.
func TestRegisterSessionOfAnEmptyBody(t *testing.T) {
	s := newServer(t)
	session := s.post("/register", "", M{}).asks("")
	s.post("/register", "", M{"username": "alice", "password": "secret", "auth": M{"session": session}}).asks("")
	body := s.post("/register", "", M{
		"username": "alice", "password": "secret", "auth": M{"session": session, "type": "m.login.dummy"},
	}).ok()
	require.Equal(t, "@alice:example.org", body["user_id"])
}

// UI-13.
func TestRegistrationToken(t *testing.T) {
	s := newServer(t, func(c *auth.Config) { c.Registration.Mode = auth.WithToken })
	ctx := context.Background()
	expires := s.clock.now().Add(time.Hour)
	token, err := s.auth.CreateRegistrationToken(ctx, auth.RegistrationToken{Token: "one.use", Uses: 1, Expires: expires})
	require.NoError(t, err)

	register := func(name, token string) *answer {
		return s.post("/register", "", M{
			"username": name, "password": "x", "auth": M{"type": "m.login.registration_token", "token": token},
		})
	}
	require.Equal(t, []any{M{"stages": []any{"m.login.registration_token"}}}, s.post("/register", "", M{}).body["flows"])
	s.post("/register", "", M{"username": "a", "password": "x", "auth": dummy}).asks("M_FORBIDDEN")
	s.post("/register", "", M{"auth": M{"type": "m.login.registration_token"}}).fails(400, "M_MISSING_PARAM")
	s.post("/register", "", M{"auth": M{"type": "m.login.registration_token", "token": 7}}).fails(400, "M_BAD_JSON")
	register("a", "unknown").asks("M_UNAUTHORIZED")
	register("a", "with\x00NUL").asks("M_UNAUTHORIZED")

	valid := func(token string) any {
		return s.call("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token="+token, "", nil).ok()["valid"]
	}
	require.Equal(t, true, valid(token))
	require.Equal(t, false, valid("unknown"))
	require.Equal(t, false, valid(strings.Repeat("x", 65)))
	s.call("GET", "/_matrix/client/v1/register/m.login.registration_token/validity", "", nil).fails(400, "M_MISSING_PARAM")

	register("alice", token).ok()
	require.Equal(t, false, valid(token))
	register("bob", token).asks("M_UNAUTHORIZED")

	t.Run("expires", func(t *testing.T) {
		s := newServer(t, func(c *auth.Config) { c.Registration.Mode = auth.WithToken })
		token, err := s.auth.CreateRegistrationToken(ctx, auth.RegistrationToken{Expires: s.clock.now().Add(time.Hour)})
		require.NoError(t, err)
		body := M{"username": "a", "password": "x", "auth": M{"type": "m.login.registration_token", "token": token}}
		s.clock.advance(time.Hour)
		s.post("/register", "", body).asks("M_UNAUTHORIZED")
	})
	t.Run("deleted", func(t *testing.T) {
		token, err := s.auth.CreateRegistrationToken(ctx, auth.RegistrationToken{})
		require.NoError(t, err)
		require.NoError(t, s.auth.DeleteRegistrationToken(ctx, token))
		register("carol", token).asks("M_UNAUTHORIZED")
		require.ErrorIs(t, s.auth.DeleteRegistrationToken(ctx, token), mxerr.NotFound)
	})
	t.Run("bad ones are not made", func(t *testing.T) {
		for _, bad := range []auth.RegistrationToken{{Token: "ä"}, {Token: strings.Repeat("x", 65)}, {Uses: -1}, {Token: "one.use"}} {
			_, err := s.auth.CreateRegistrationToken(ctx, bad)
			require.ErrorIs(t, err, mxerr.InvalidParam, "%+v", bad)
		}
	})
}

// A token of one use makes one account, however many come at once, and the others can try another token in their session.
func TestRegistrationTokenRace(t *testing.T) {
	for name, opt := range map[string]func(*auth.Config){
		"passwords here":    func(*auth.Config) {},
		"users of the host": func(c *auth.Config) { c.Authenticator = newHost() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, opt, func(c *auth.Config) { c.Registration.Mode = auth.WithToken })
			token, err := s.auth.CreateRegistrationToken(context.Background(), auth.RegistrationToken{Uses: 1})
			require.NoError(t, err)
			var won atomic.Int32
			var group sync.WaitGroup
			for i := range 10 {
				group.Go(func() {
					name := fmt.Sprint("user", i)
					a := s.post("/register", "", M{"username": name, "password": "pw-" + name, "auth": M{"type": "m.login.registration_token", "token": token}})
					if a.status == 200 {
						won.Add(1)
						return
					}
					a.asks("M_UNAUTHORIZED")
					(&user{s: s, name: name, password: "pw-" + name}).login(nil).fails(403, "M_FORBIDDEN")
				})
			}
			group.Wait()
			require.EqualValues(t, 1, won.Load())
		})
	}
}

// UI-15.
func TestTerms(t *testing.T) {
	s := newServer(t, func(c *auth.Config) {
		c.Registration.Terms = map[string]auth.Policy{
			"privacy": {Version: "1.2", Texts: map[string]auth.PolicyText{"en": {Name: "Privacy", URL: "https://example.org/privacy"}}},
		}
	})
	a := s.post("/register", "", M{"username": "alice", "password": "x"})
	session := a.asks("")
	require.Equal(t, []any{M{"stages": []any{"m.login.terms"}}}, a.body["flows"])
	require.Equal(t, M{"m.login.terms": M{"policies": M{"privacy": M{
		"version": "1.2", "en": M{"name": "Privacy", "url": "https://example.org/privacy"},
	}}}}, a.body["params"])
	s.post("/register", "", M{"auth": M{"type": "m.login.terms", "session": session}}).ok()
	account, err := s.auth.Account(context.Background(), "@alice:example.org")
	require.NoError(t, err)
	require.JSONEq(t, `{"privacy":"1.2"}`, string(account.Terms))
}

// UI-02, UI-05, UI-06: stages in order, each once.
func TestStagesInOrder(t *testing.T) {
	s := newServer(t, func(c *auth.Config) {
		c.Registration.Mode = auth.WithToken
		c.Registration.Terms = map[string]auth.Policy{"p": {Version: "1", Texts: map[string]auth.PolicyText{"en": {Name: "P", URL: "https://x.org"}}}}
	})
	token, err := s.auth.CreateRegistrationToken(context.Background(), auth.RegistrationToken{})
	require.NoError(t, err)
	a := s.post("/register", "", M{"username": "alice", "password": "x"})
	session := a.asks("")
	require.NotContains(t, a.body, "completed")

	step := func(kind string) *answer {
		return s.post("/register", "", M{"auth": M{"type": kind, "session": session, "token": token}})
	}
	out := step("m.login.terms")
	out.asks("M_FORBIDDEN")
	require.Equal(t, []any{}, out.body["completed"])

	half := step("m.login.registration_token")
	require.Equal(t, session, half.asks(""))
	require.Equal(t, []any{"m.login.registration_token"}, half.body["completed"])
	repeat := step("m.login.registration_token")
	require.Equal(t, session, repeat.asks(""))
	require.Equal(t, half.body["completed"], repeat.body["completed"])
	// UI-07: the session alone asks how it stands.
	alone := s.post("/register", "", M{"auth": M{"session": session}})
	alone.asks("")
	require.Equal(t, half.body["completed"], alone.body["completed"])
	// UI-08: after a stage the parameters stand.
	s.post("/register", "", M{"username": "mallory", "auth": M{"type": "m.login.terms", "session": session}}).fails(403, "M_FORBIDDEN")

	require.Equal(t, "@alice:example.org", step("m.login.terms").ok()["user_id"])
}

// RE-06: "all parameters in the request body with the exception of initial_device_display_name MUST BE ignored".
func TestGuest(t *testing.T) {
	s := newServer(t)
	body := s.post("/register?kind=guest", "", M{
		"username": "alice", "password": "x", "device_id": "MINE", "inhibit_login": true, "refresh_token": true,
		"initial_device_display_name": "kiosk", "auth": M{"type": "nonsense"},
	}).ok()
	require.NotEqual(t, "@alice:example.org", body["user_id"])
	require.NotEqual(t, "MINE", body["device_id"])
	require.NotContains(t, body, "refresh_token")
	token := body["access_token"].(string)
	require.Equal(t, true, s.whoami(token).ok()["is_guest"])
	require.Equal(t, "kiosk", s.get("/devices/"+body["device_id"].(string), token).ok()["display_name"])

	s.call("PUT", client+"/devices/"+body["device_id"].(string), token, M{"display_name": "new"}).ok()
	for _, path := range []string{"/account/password", "/account/deactivate", "/delete_devices", "/logout", "/logout/all"} {
		s.post(path, token, M{"new_password": "x", "devices": []string{}}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	}
	s.get("/capabilities", token).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	s.post("/register?kind=guest", "", M{"initial_device_display_name": 1}).fails(400, "M_BAD_JSON")
}

// RE-07.
func TestGuestBecomesUser(t *testing.T) {
	s := newServer(t)
	g, other := guest(s), guest(s)
	upgrade := M{"username": g.name, "password": "pw-" + g.name, "guest_access_token": g.token}

	s.post("/register", "", M{"username": g.name, "password": "x", "auth": dummy}).fails(400, "M_USER_IN_USE")
	s.post("/register", "", M{"username": g.name, "password": "x", "guest_access_token": other.token, "auth": dummy}).fails(403, "M_FORBIDDEN")
	s.post("/register", "", M{"password": "x", "guest_access_token": g.token, "auth": dummy}).fails(403, "M_FORBIDDEN")
	s.post("/register", "", M{"username": g.name, "guest_access_token": "nonsense"}).fails(403, "M_FORBIDDEN")

	session := s.post("/register", "", upgrade).asks("")
	upgrade["auth"] = M{"type": "m.login.dummy", "session": session}
	body := s.post("/register", "", upgrade).ok()
	require.Equal(t, string(g.id), body["user_id"])
	require.Equal(t, false, s.whoami(body["access_token"].(string)).ok()["is_guest"])
	s.whoami(g.token).fails(401, "M_UNKNOWN_TOKEN")
	g.login(nil).ok()

	t.Run("not twice", func(t *testing.T) {
		s.post("/register", "", M{"username": g.name, "password": "x", "guest_access_token": body["access_token"], "auth": dummy}).fails(403, "M_FORBIDDEN")
	})
	t.Run("keeps the device it names", func(t *testing.T) {
		kept := s.post("/register", "", M{
			"username": other.name, "password": "x", "guest_access_token": other.token, "device_id": other.device, "auth": dummy,
		}).ok()
		require.Equal(t, other.device, kept["device_id"])
		s.whoami(other.token).fails(401, "M_UNKNOWN_TOKEN")
	})
}

// Two who have the guest's token race: who comes second does not get the first one's account.
func TestGuestUpgradeRace(t *testing.T) {
	var s *server
	var g *user
	upgrade := func(password string) *answer {
		return s.post("/register", "", M{"username": g.name, "password": password, "guest_access_token": g.token, "auth": dummy})
	}
	first := true
	s = newServer(t, func(c *auth.Config) {
		c.Hooks.CheckRegister = func(context.Context, string) error { // after the guest's token was looked at
			if first {
				first = false
				upgrade("pw-" + g.name).ok()
			}
			return nil
		}
	})
	g = guest(s)
	upgrade("mine").fails(400, "M_USER_IN_USE")
	g.login(nil).ok()
}

// A token that ends between its stage and the end of the registration: the session goes on with another one.
func TestRegistrationTokenEndsMeanwhile(t *testing.T) {
	var s *server
	ctx := context.Background()
	s = newServer(t, func(c *auth.Config) {
		c.Registration.Mode = auth.WithToken
		c.Hooks.CheckRegister = func(context.Context, string) error {
			_ = s.auth.DeleteRegistrationToken(ctx, "first")
			return nil
		}
	})
	for _, token := range []string{"first", "second"} {
		_, err := s.auth.CreateRegistrationToken(ctx, auth.RegistrationToken{Token: token})
		require.NoError(t, err)
	}
	stage := func(session, token string) M {
		return M{"auth": M{"type": "m.login.registration_token", "token": token, "session": session}}
	}
	session := s.post("/register", "", M{"username": "alice", "password": "x"}).asks("")
	a := s.post("/register", "", stage(session, "first"))
	require.Equal(t, session, a.asks("M_UNAUTHORIZED"))
	require.Equal(t, []any{}, a.body["completed"])
	require.Equal(t, "@alice:example.org", s.post("/register", "", stage(session, "second")).ok()["user_id"])
}

func TestHooksOfRegistration(t *testing.T) {
	var seen []string
	s := newServer(t, func(c *auth.Config) {
		c.Hooks.CheckRegister = func(_ context.Context, u string) error {
			if u == "@spammer:example.org" {
				return errors.New("no spam here")
			}
			return nil
		}
		c.Hooks.OnRegister = func(_ context.Context, u string, guest bool) { seen = append(seen, fmt.Sprintf("%s %t", u, guest)) }
		c.Hooks.OnLogin = func(_ context.Context, u, _ string) { seen = append(seen, fmt.Sprintf("%s in", u)) }
	})
	refused := s.post("/register", "", M{"username": "spammer", "password": "x", "auth": dummy}).fails(403, "M_FORBIDDEN")
	require.Equal(t, "no spam here", refused["error"])
	s.user("alice")
	require.Equal(t, []string{"@alice:example.org false", "@alice:example.org in"}, seen)
}

func TestCreateUser(t *testing.T) {
	s := newServer(t, func(c *auth.Config) { c.Registration = auth.Registration{} })
	ctx := context.Background()
	alice, err := s.auth.CreateUser(ctx, auth.NewUser{Localpart: "Alice", Password: "pw-alice", Admin: true})
	require.NoError(t, err)
	require.Equal(t, id.UserID("@alice:example.org"), alice)
	_, err = s.auth.CreateUser(ctx, auth.NewUser{Localpart: "alice"})
	require.ErrorIs(t, err, mxerr.UserInUse)
	_, err = s.auth.CreateUser(ctx, auth.NewUser{Localpart: "a b"})
	require.ErrorIs(t, err, mxerr.InvalidUsername)

	u := (&user{s: s, name: "alice", password: "pw-alice"}).again(nil)
	session, err := s.auth.Session(ctx, u.token, seenNowhere)
	require.NoError(t, err)
	require.True(t, session.Admin)

	_, err = s.auth.CreateUser(ctx, auth.NewUser{Localpart: "bot"})
	require.NoError(t, err)
	s.post("/login", "", M{"type": "m.login.password", "user": "bot", "password": ""}).fails(403, "M_FORBIDDEN")
	g, err := s.auth.Login(ctx, auth.LoginRequest{User: "@bot:example.org", Device: "BOT"})
	require.NoError(t, err)
	require.Equal(t, "BOT", s.whoami(g.AccessToken).ok()["device_id"])
}
