package syncing_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
	syncing "github.com/embedmatrix/homeserver/sync"
)

func filterPath(u *homeservertest.User, id string) string {
	p := "/_matrix/client/v3/user/" + url.PathEscape(u.ID) + "/filter"
	if id != "" {
		p += "/" + url.PathEscape(id)
	}
	return p
}

// define stores a filter and returns its id.
func define(u *homeservertest.User, filter string) string {
	return u.Do("POST", filterPath(u, ""), []byte(filter)).WantOK().Get("filter_id").Str
}

// TestStoredFilters is FI-01, FI-02 and FI-03.
func TestStoredFilters(t *testing.T) {
	alice, bob := two(t)
	const filter = `{"room":{"timeline":{"limit":1}},"org.unknown":[1.5]}`
	id := define(alice, filter)
	require.NotEmpty(t, id)
	require.False(t, strings.HasPrefix(id, "{"))
	require.JSONEq(t, filter, string(alice.Do("GET", filterPath(alice, id), nil).WantOK().Body), "as it was uploaded")
	require.Equal(t, id, define(alice, filter), "the same filter again")
	other := define(alice, `{}`)
	require.NotEqual(t, id, other)

	bob.Do("GET", filterPath(alice, id), nil).WantError(403, "M_FORBIDDEN")
	bob.Do("POST", filterPath(alice, ""), []byte(filter)).WantError(403, "M_FORBIDDEN")
	bob.Do("GET", filterPath(bob, id), nil).WantError(404, "M_NOT_FOUND")
	bob.Do("GET", syncPath+"?filter="+id, nil).WantError(400, "M_INVALID_PARAM")
	alice.Do("GET", filterPath(alice, "abc"), nil).WantError(404, "M_NOT_FOUND")
	alice.Do("POST", filterPath(alice, ""), []byte(`{"pad":"`+strings.Repeat("x", 70_000)+`"}`)).WantError(413, "M_TOO_LARGE")

	room := alice.CreateRoom(private)
	for _, f := range []string{id, filter} {
		require.Len(t, ask(alice, "filter", f).Joined(room).Get("timeline.events").Array(), 1, f)
	}
	require.Greater(t, len(ask(alice, "filter", other).Joined(room).Get("timeline.events").Array()), 1)
	id2 := define(bob, `{"room":{"timeline":{"limit":2}}}`)
	require.Equal(t, id, id2, "ids are the user's own")
	bob.MustJoin(bob.CreateRoom(private))
	require.Len(t, ask(bob, "filter", id2).Get("rooms.join.*.timeline.events").Array(), 2)
}

// TestBadFilters is the checks of FI-01, stored and inline.
func TestBadFilters(t *testing.T) {
	alice, _ := two(t)
	long := `["` + strings.Repeat(`m.a","`, 1001) + `m.b"]`
	tests := []struct{ name, filter, code string }{
		{"not an object", `[]`, "M_BAD_JSON"},
		{"room is no object", `{"room":[]}`, "M_BAD_JSON"},
		{"types is no list", `{"room":{"timeline":{"types":"m.room.message"}}}`, "M_BAD_JSON"},
		{"a type is no string", `{"account_data":{"types":[1]}}`, "M_BAD_JSON"},
		{"limit is no integer", `{"room":{"timeline":{"limit":"5"}}}`, "M_BAD_JSON"},
		{"limit is negative", `{"room":{"timeline":{"limit":-1}}}`, "M_INVALID_PARAM"},
		{"lazy_load_members is a string", `{"room":{"state":{"lazy_load_members":"true"}}}`, "M_BAD_JSON"},
		{"lazy_load_members is a number", `{"room":{"state":{"lazy_load_members":1}}}`, "M_BAD_JSON"},
		{"include_redundant_members is a number", `{"room":{"state":{"include_redundant_members":1}}}`, "M_BAD_JSON"},
		{"include_leave is a string", `{"room":{"include_leave":"yes"}}`, "M_BAD_JSON"},
		{"a room is no room id", `{"room":{"rooms":["#a:b"]}}`, "M_INVALID_PARAM"},
		{"an excluded room is no room id", `{"room":{"not_rooms":["x"]}}`, "M_INVALID_PARAM"},
		{"a room of a part is no room id", `{"room":{"ephemeral":{"rooms":["x"]}}}`, "M_INVALID_PARAM"},
		{"a sender is no user id", `{"room":{"state":{"senders":["alice"]}}}`, "M_INVALID_PARAM"},
		{"an excluded sender is no user id", `{"presence":{"not_senders":["alice"]}}`, "M_INVALID_PARAM"},
		{"unknown format", `{"event_format":"yaml"}`, "M_INVALID_PARAM"},
		{"event_fields is no list", `{"event_fields":"content"}`, "M_BAD_JSON"},
		{"a key twice", `{"room":{},"room":{}}`, "M_BAD_JSON"},
		{"a very long list", `{"room":{"timeline":{"types":` + long + `}}}`, "M_INVALID_PARAM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			alice.Do("POST", filterPath(alice, ""), []byte(tt.filter)).WantError(400, tt.code)
			if strings.HasPrefix(tt.filter, "{") {
				alice.Do("GET", syncPath+"?filter="+url.QueryEscape(tt.filter), nil).WantError(400, tt.code)
			}
		})
	}
}

// TestEventFilter is FI-04, FI-05 and FI-08 in timelines.
func TestEventFilter(t *testing.T) {
	alice, bob := two(t)
	room := alice.CreateRoom(public)
	bob.MustJoin(room)
	sent := func(u *homeservertest.User, eventType string, content object) {
		content["body"] = eventType + " of " + u.ID[1:2]
		u.SendEvent(room, eventType, content).WantOK()
	}
	since := alice.Sync("").NextBatch
	sent(alice, "m.x.message", object{"url": "mxc://a/b"})
	sent(alice, "org.x.one", object{})
	sent(bob, "org.x.two", object{"info": object{"url": "nested"}})
	sent(bob, "m.x.message", object{})
	const message, one, two, bobs = `"m.x.message of a"`, `"org.x.one of a"`, `"org.x.two of b"`, `"m.x.message of b"`
	for filter, want := range map[string][]string{
		`{}`:                             {message, one, two, bobs},
		`{"types":["org.x.*"]}`:          {one, two},
		`{"types":["*.message","*o*e"]}`: {message, one, bobs},
		`{"types":["org.*"],"not_types":["*.two"]}`: {one},
		`{"types":["org"]}`:                         nil,
		`{"types":[]}`:                              nil,
		`{"not_types":[]}`:                          {message, one, two, bobs},
		`{"senders":["@bob:hs.test"]}`:              {two, bobs},
		`{"senders":["@bob:hs.test"],"not_senders":["@bob:hs.test"]}`: nil,
		`{"senders":[]}`:                   nil,
		`{"not_senders":["@bob:hs.test"]}`: {message, one},
		`{"contains_url":true}`:            {message},
		`{"contains_url":false}`:           {one, two, bobs},
		`{"rooms":["` + room + `"]}`:       {message, one, two, bobs},
		`{"rooms":[]}`:                     nil,
		`{"not_rooms":["` + room + `"]}`:   nil,
	} {
		s := ask(alice, "since", since, "filter", `{"room":{"timeline":`+filter+`}}`)
		var got []string
		for _, body := range s.Joined(room).Get("timeline.events.#.content.body").Array() {
			got = append(got, body.Raw)
		}
		require.Equal(t, want, got, filter)
		require.Equal(t, want != nil, s.Joined(room).Exists(), "a room without news: %s", filter)
		require.False(t, s.Joined(room).Get("timeline.limited").Bool(), filter)
	}
}

// TestRoomFilter is FI-06.
func TestRoomFilter(t *testing.T) {
	alice, _ := two(t)
	a, b := alice.CreateRoom(private), alice.CreateRoom(private)
	for filter, want := range map[string]string{
		`{}`:                          a + b,
		`{"rooms":["` + a + `"]}`:     a,
		`{"not_rooms":["` + a + `"]}`: b,
		`{"rooms":["` + a + `"],"not_rooms":["` + a + `"]}`:          "",
		`{"rooms":["` + a + `"],"timeline":{"rooms":["` + b + `"]}}`: a,
		`{"rooms":[]}`: "",
	} {
		s := ask(alice, "filter", `{"room":`+filter+`}`)
		for _, room := range []string{a, b} {
			require.Equal(t, strings.Contains(want, room), s.Joined(room).Exists(), filter)
		}
	}
}

// TestEventFields is the first half of FI-07.
func TestEventFields(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	content := object{"body": "hi", "a.b": object{"c": 1, "d": 2}, `back\slash`: 3, `quo"te`: 4, "list": []int{1}}
	alice.SendEvent(room, "org.x", content).WantOK()
	for fields, want := range map[string]string{
		`["content.body"]`:                    `{"content":{"body":"hi"}}`,
		`["type","content.a\\.b.c"]`:          `{"content":{"a.b":{"c":1}},"type":"org.x"}`,
		`["content.a\\.b","content.a\\.b.c"]`: `{"content":{"a.b":{"c":1,"d":2}}}`,
		`["content.a\\.b.c","content.a\\.b"]`: `{"content":{"a.b":{"c":1,"d":2}}}`,
		`["content.back\\\\slash"]`:           `{"content":{"back\\slash":3}}`,
		`["content.quo\"te"]`:                 `{"content":{"quo\"te":4}}`,
		`["content.list.0","content.body.x"]`: `{"content":{}}`,
		`["none","content.none",""]`:          `{"content":{}}`,
		`[]`:                                  `{}`,
	} {
		r := ask(alice, "filter", `{"event_fields":`+fields+`,"room":{"timeline":{"limit":1}}}`).Joined(room)
		require.JSONEq(t, want, r.Get("timeline.events.0").Raw, fields)
	}
	state := ask(alice, "filter", `{"event_fields":["type"],"room":{"timeline":{"limit":1}}}`).Joined(room).Get("state.events")
	require.JSONEq(t, `{"type":"m.room.create"}`, state.Get("0").Raw, "events of the state too")
}

// TestFederationFormat is the other half of FI-07.
func TestFederationFormat(t *testing.T) {
	alice, _ := two(t)
	room := alice.CreateRoom(private)
	event := alice.Send(room, "hi")
	filter := define(alice, `{"event_format":"federation","room":{"timeline":{"limit":1}}}`)
	r := ask(alice, "filter", filter).Joined(room)
	for _, e := range append(r.Get("timeline.events").Array(), r.Get("state.events").Array()...) {
		for _, key := range []string{"event_id", "room_id", "sender", "type", "content", "origin_server_ts", "prev_events", "auth_events", "depth", "hashes", "signatures"} {
			require.True(t, e.Get(key).Exists(), "%s of %s", key, e.Raw)
		}
	}
	require.Equal(t, event, r.Get("timeline.events.0.event_id").Str)
	require.True(t, r.Get("ephemeral").Exists() && r.Get("state").Exists() && r.Get("timeline.prev_batch").Exists())
}

// FuzzParseFilter: what is accepted is an object that means the same when it is written out again, and what is
// asked of a filter has one answer: exclusions win, and an empty list lets nothing pass.
func FuzzParseFilter(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"room":{"timeline":{"limit":5,"types":["m.*"],"not_types":["m.room.name"]},"state":{"lazy_load_members":true}}}`,
		`{"event_fields":["content.a\\.b","type"],"event_format":"federation"}`, `{"room":{"rooms":["!a:b"],"include_leave":true}}`,
		`{"account_data":{"senders":["@a:b"],"types":null}}`, `{"presence":{"limit":0}}`, `{"Room":{"TIMELINE":{}}}`, `[]`, `{"room":1}`,
	} {
		f.Add([]byte(seed), "m.room.name", "@a:b")
	}
	f.Fuzz(func(t *testing.T, body []byte, eventType, sender string) {
		got, err := syncing.ParseFilter(body)
		if err != nil {
			return // refused, which is no panic
		}
		written, err := json.Marshal(got)
		require.NoError(t, err)
		again, err := syncing.ParseFilter(written)
		require.NoError(t, err, "%s was accepted, but not what it means: %s", body, written)
		require.Equal(t, got, again)
		e := &got.Room.Timeline
		passes := e.Passes(eventType, "", nil)
		require.Equal(t, passes, e.Passes(eventType, "", nil))
		if passes && (e.Types != nil && len(e.Types) == 0 || e.Senders != nil && len(e.Senders) == 0) {
			t.Errorf("%s: an empty list let %q pass", body, eventType)
		}
		e.NotTypes = append(e.NotTypes, eventType)
		if e.Passes(eventType, "", nil) {
			t.Errorf("%s lets %q pass that it excludes", body, eventType)
		}
	})
}
