package rooms_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// search sends a search for room events.
func search(u *homeservertest.User, term string, more ...map[string]any) *homeservertest.Response {
	return searchFrom(u, "", term, more...)
}

func searchFrom(u *homeservertest.User, next, term string, more ...map[string]any) *homeservertest.Response {
	criteria := map[string]any{"search_term": term}
	for _, m := range more {
		for k, v := range m {
			criteria[k] = v
		}
	}
	path := v3 + "/search"
	if next != "" {
		path += "?next_batch=" + url.QueryEscape(next)
	}
	return u.Do("POST", path, map[string]any{"search_categories": map[string]any{"room_events": criteria}})
}

const found = "search_categories.room_events"

// foundIDs are the events that were found.
func foundIDs(r *homeservertest.Response) []string {
	ids := []string{}
	r.WantOK().Get(found + ".results.#.result.event_id").ForEach(func(_, v gjson.Result) bool {
		ids = append(ids, v.String())
		return true
	})
	return ids
}

var recent = map[string]any{"order_by": "recent"}

func limited(n int, more map[string]any) map[string]any {
	f := map[string]any{"limit": n}
	for k, v := range more {
		f[k] = v
	}
	return map[string]any{"filter": f}
}

// PA-22: what is found.
func TestSearch(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoomWith(map[string]any{"name": "The Kitchen", "topic": "Cooking and Baking"})
	hello := alice.Send(room, "Hello, Wörld! it's über-nice")
	long := alice.Send(room, "hello and a lot of other words that nobody needs to read at all")
	cjk := alice.Send(room, "今日は東京タワーに行きます")
	require.Equal(t, []string{hello, long}, foundIDs(search(alice, "HELLO")), "the closest match first")
	require.Equal(t, []string{long, hello}, foundIDs(search(alice, "hello", recent)))
	require.Equal(t, []string{hello}, foundIDs(search(alice, "WÖRLD hello")), "all words")
	require.Empty(t, foundIDs(search(alice, `"wörld hello"`)), "a phrase is in order")
	require.Equal(t, []string{hello}, foundIDs(search(alice, `"hello wörld"`)))
	require.Equal(t, []string{cjk}, foundIDs(search(alice, "東京")))
	require.Empty(t, foundIDs(search(alice, "京東")))
	require.Empty(t, foundIDs(search(alice, "hell")))
	for key, term := range map[string]string{"content.name": "kitchen", "content.topic": "baking", "content.body": "nice"} {
		require.Len(t, foundIDs(search(alice, term)), 1, "all keys")
		require.Len(t, foundIDs(search(alice, term, map[string]any{"keys": []string{key}})), 1, key)
		require.Empty(t, foundIDs(search(alice, term, map[string]any{"keys": without(key)})), key)
	}
	r := search(alice, "wörld HELLO hello").WantOK()
	require.Equal(t, `["hello","wörld"]`, r.Get(found+".highlights").Raw)
	require.EqualValues(t, 1, r.Get(found+".count").Int())
	require.Greater(t, r.Get(found+".results.0.rank").Float(), 0.0)
	require.Equal(t, room, r.Get(found+".results.0.result.room_id").String())
	require.False(t, r.Get(found+".results.0.context").Exists())
	require.False(t, r.Get(found+".groups").Exists())
	require.False(t, r.Get(found+".state").Exists())
	require.False(t, r.Get(found+".next_batch").Exists())
	r = alice.Do("POST", v3+"/search", map[string]any{"search_categories": map[string]any{}}).WantOK()
	require.JSONEq(t, `{"search_categories":{}}`, string(r.Body))
	hs.Restart()
	require.Equal(t, []string{hello, long}, foundIDs(search(alice, "HELLO")), "the index is stored")
}

func without(key string) (keys []string) {
	for _, k := range []string{"content.body", "content.name", "content.topic"} {
		if k != key {
			keys = append(keys, k)
		}
	}
	return keys
}

// PA-22: the m.topic of MSC3765, and what is no text.
func TestSearchedKeys(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "short", "m.topic": map[string]any{"m.text": []any{
		map[string]any{"mimetype": "text/html", "body": "<b>bold</b>"}, map[string]any{"body": "plainly"},
	}}}).WantOK()
	require.Len(t, foundIDs(search(alice, "short plainly")), 1)
	require.Empty(t, foundIDs(search(alice, "bold")))
	alice.SetState(room, "m.room.topic", "", map[string]any{"topic": 5, "m.topic": map[string]any{"m.text": "x"}}).WantOK()
	alice.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "x", "secretive": "secretive"}).WantOK()
	alice.SendEvent(room, "m.room.encrypted", map[string]any{"body": "secretive", "algorithm": "x"}).WantOK()
	alice.SendEvent(room, "com.example.other", map[string]any{"body": "secretive", "name": "secretive"}).WantOK()
	alice.SetState(room, "m.room.message", "", map[string]any{"msgtype": "m.text", "body": "secretive"}).WantOK()
	require.Empty(t, foundIDs(search(alice, "secretive")))
}

// PA-23, C-43: what is redacted or edited is not found by what it said.
func TestSearchFindsWhatIsSaidNow(t *testing.T) {
	alice, bob, room := newPair(t)
	gone, stays := alice.Send(room, "this will be redacted"), alice.Send(room, "this will not be redacted")
	require.Len(t, foundIDs(search(alice, "redacted")), 2)
	alice.Redact(room, gone).WantOK()
	for _, order := range []string{"rank", "recent"} {
		r := search(alice, "redacted", map[string]any{"order_by": order})
		require.Equal(t, []string{stays}, foundIDs(r))
		require.EqualValues(t, 1, r.Get(found+".count").Int())
	}

	original := alice.Send(room, "first draught")
	edit := func(u *homeservertest.User, target, body string) string {
		time.Sleep(2 * time.Millisecond) // of two edits at one time the greater id counts
		return relate(u, room, edited(target, body))
	}
	require.Equal(t, []string{original}, foundIDs(search(alice, "draught")))
	second := edit(alice, original, "second version")
	third := edit(alice, original, "third version")
	require.Empty(t, foundIDs(search(alice, "draught")))
	require.Empty(t, foundIDs(search(alice, "second")))
	require.Equal(t, []string{original}, foundIDs(search(alice, "third version")), "the hit is what was edited, once")
	r := search(alice, "third").WantOK().Get(found + ".results.0")
	require.Greater(t, r.Get("rank").Float(), 0.0)
	require.Equal(t, third, r.Get(`result.unsigned.m\.relations.m\.replace.event_id`).String(), "what it says now comes with it")
	edit(bob, original, "somebody else's")
	require.Empty(t, foundIDs(search(alice, "somebody")))
	require.Equal(t, []string{original}, foundIDs(search(alice, "third")))
	edit(alice, third, "nested")
	require.Empty(t, foundIDs(search(alice, "nested")), "edits are not edited")
	require.Equal(t, []string{original}, foundIDs(search(alice, "third")))
	alice.Redact(room, third).WantOK()
	require.Equal(t, []string{original}, foundIDs(search(alice, "second")))
	alice.Redact(room, second).WantOK()
	require.Equal(t, []string{original}, foundIDs(search(alice, "draught")))
	edit(alice, original, "fourth")
	alice.Redact(room, original).WantOK()
	for _, term := range []string{"draught", "second", "third", "fourth"} {
		require.Empty(t, foundIDs(search(alice, term)), term)
	}
	edit(alice, "$nothing", "homeless")
	require.Empty(t, foundIDs(search(alice, "homeless")))
}

// PA-22: pages, in both orders.
func TestSearchPages(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	var sent []string
	for i := range 20 {
		sent = append(sent, alice.Send(room, fmt.Sprintf("Message number %d", i)))
	}
	for _, order := range []string{"rank", "recent"} {
		t.Run(order, func(t *testing.T) {
			criteria := []map[string]any{{"order_by": order}, limited(10, nil)}
			r := search(alice, "message", criteria...)
			all := foundIDs(r)
			require.Len(t, all, 10)
			require.Equal(t, sent[19], all[0])
			require.EqualValues(t, 20, r.Get(found+".count").Int())
			alice.Send(room, "message that came meanwhile")
			r = searchFrom(alice, r.Get(found+".next_batch").String(), "message", criteria...)
			require.EqualValues(t, 20, r.Get(found+".count").Int())
			all = append(all, foundIDs(r)...)
			require.ElementsMatch(t, sent, all, "every one once")
			r = searchFrom(alice, r.Get(found+".next_batch").String(), "message", criteria...)
			require.Empty(t, foundIDs(r))
			require.EqualValues(t, 20, r.Get(found+".count").Int())
			require.False(t, r.Get(found+".next_batch").Exists())
			alice.Redact(room, foundIDs(search(alice, "meanwhile"))[0]).WantOK()
		})
	}
	require.Empty(t, foundIDs(search(alice, "message", limited(0, nil))))
}

// PA-22: more is found than one answer looks at.
func TestSearchGoesOn(t *testing.T) {
	alice, bob, room := newPair(t)
	first := bob.Send(room, "needle")
	for range 520 {
		alice.Send(room, "needle")
	}
	bobs := limited(10, map[string]any{"senders": []string{bob.ID}})
	r := search(alice, "needle", recent, bobs)
	require.Empty(t, foundIDs(r), "the answer is bounded")
	next := r.Get(found + ".next_batch").String()
	require.NotEmpty(t, next)
	r = searchFrom(alice, next, "needle", recent, bobs)
	require.Equal(t, []string{first}, foundIDs(r))
	require.False(t, r.Get(found+".next_batch").Exists())
	require.EqualValues(t, 500, search(alice, "needle").WantOK().Get(found+".count").Int(), "an estimate")
}

// PA-22: context with profiles.
func TestSearchContext(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	setField(alice, "displayname", "Alice then").WantOK()
	for i := 1; i <= 40; i++ {
		alice.Send(room, fmt.Sprintf("Message number %d", i))
	}
	setField(alice, "displayname", "Alice now").WantOK()
	around := func(wish map[string]any) gjson.Result {
		return search(alice, "20", map[string]any{"event_context": wish}).WantOK().Get(found + ".results.0.context")
	}
	c := around(map[string]any{"before_limit": 2, "after_limit": 2, "include_profile": true})
	require.Equal(t, "Message number 19", c.Get("events_before.0.content.body").String(), "newest first")
	require.Equal(t, "Message number 18", c.Get("events_before.1.content.body").String())
	require.Equal(t, "Message number 21", c.Get("events_after.0.content.body").String())
	require.Equal(t, "Message number 22", c.Get("events_after.1.content.body").String())
	require.JSONEq(t, `{"`+alice.ID+`":{"displayname":"Alice then"}}`, c.Get("profile_info").Raw)
	before := alice.Messages(room, url.Values{"dir": {"b"}, "from": {c.Get("start").String()}}).WantOK()
	require.Equal(t, "Message number 17", before.Get("chunk.0.content.body").String())
	after := alice.Messages(room, url.Values{"dir": {"f"}, "from": {c.Get("end").String()}}).WantOK()
	require.Equal(t, "Message number 23", after.Get("chunk.0.content.body").String())
	c = around(map[string]any{})
	require.Len(t, c.Get("events_before").Array(), 5)
	require.Len(t, c.Get("events_after").Array(), 5)
	require.False(t, c.Get("profile_info").Exists())
	c = around(map[string]any{"before_limit": 0, "after_limit": 0})
	require.Equal(t, `[][]`, c.Get("events_before").Raw+c.Get("events_after").Raw)
	c = around(map[string]any{"before_limit": 1000000, "after_limit": int64(9007199254740991)})
	require.LessOrEqual(t, len(c.Get("events_before").Array()), 20)
	require.Len(t, c.Get("events_after").Array(), 20)
}

// PA-22: state and groups.
func TestSearchGroups(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	one, two := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(one)
	bob.MustJoin(two)
	a1, b1, a2, b2 := alice.Send(one, "word"), bob.Send(one, "word"), alice.Send(two, "word"), bob.Send(two, "word")
	groups := map[string]any{"groupings": map[string]any{"group_by": []any{
		map[string]any{"key": "room_id"}, map[string]any{"key": "sender"}, map[string]any{"key": "sender"},
	}}}
	r := search(alice, "word", recent, groups, map[string]any{"include_state": true}).WantOK()
	path := func(s string) string { return strings.ReplaceAll(s, ".", `\.`) }
	group := func(by, name string) gjson.Result { return r.Get(found + ".groups." + by + "." + path(name)) }
	require.JSONEq(t, fmt.Sprintf(`{"order":1,"results":[%q,%q]}`, b2, a2), group("room_id", two).Raw)
	require.JSONEq(t, fmt.Sprintf(`{"order":2,"results":[%q,%q]}`, b1, a1), group("room_id", one).Raw)
	require.JSONEq(t, fmt.Sprintf(`{"order":2,"results":[%q,%q]}`, a2, a1), group("sender", alice.ID).Raw)
	require.Equal(t, len(alice.Do("GET", v3+"/rooms/"+one+"/state", nil).WantOK().Get("@this").Array()),
		len(r.Get(found+".state."+path(one)).Array()))

	r = search(alice, "word", recent, groups, limited(3, nil)).WantOK()
	next := group("room_id", one).Get("next_batch").String()
	require.Equal(t, []string{a1}, foundIDs(searchFrom(alice, next, "word", recent, limited(3, nil))))
	next = group("sender", bob.ID).Get("next_batch").String()
	require.Empty(t, foundIDs(searchFrom(alice, next, "word", recent, limited(3, nil))), "all of bob's were told")
	next = group("sender", alice.ID).Get("next_batch").String()
	require.Equal(t, []string{a1}, foundIDs(searchFrom(alice, next, "word", recent, limited(3, nil))))
}

// PA-22, HV-04, C-43: only what one may see, in rooms that one is or was in.
func TestSearchShowsWhatOneMaySee(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob, eve := hs.User("alice"), hs.User("bob"), hs.User("eve")
	room := alice.CreateRoom(homeservertest.Public)
	alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "joined"}).WantOK()
	alice.Send(room, "secret before")
	bob.MustJoin(room)
	during := alice.Send(room, "secret during")
	bob.MustLeave(room)
	alice.Send(room, "secret after")
	r := search(bob, "secret", map[string]any{"include_state": true})
	require.Equal(t, []string{during}, foundIDs(r))
	require.EqualValues(t, 1, r.Get(found+".count").Int(), "the count tells of nothing else")
	require.Len(t, foundIDs(search(alice, "secret")), 3)
	require.Empty(t, foundIDs(search(eve, "secret")))
	require.Zero(t, search(eve, "secret", limited(10, map[string]any{"rooms": []string{room}})).WantOK().Get(found+".count").Int())
	bob.Forget(room).WantOK()
	require.Empty(t, foundIDs(search(bob, "secret")))

	open := alice.CreateRoom(homeservertest.Public)
	alice.SetState(open, "m.room.history_visibility", "", map[string]any{"history_visibility": "world_readable"}).WantOK()
	alice.Send(open, "for everybody")
	require.Empty(t, foundIDs(search(eve, "everybody")), "in rooms that one was in")
	alice.MustInvite(room, eve)
	require.Empty(t, foundIDs(search(eve, "secret")))

	ignore(alice, bob)
	bob.MustJoin(room)
	bob.Send(room, "unwanted")
	require.Len(t, foundIDs(search(bob, "unwanted")), 1)
	require.Empty(t, foundIDs(search(alice, "unwanted")), "of who is ignored")
}

// PA-22, HV-04: an edit that one may not see is not what a message is found by.
func TestSearchKnowsNoHiddenEdits(t *testing.T) {
	alice, bob, room := newPair(t)
	alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "joined"}).WantOK()
	message := alice.Send(room, "draught")
	relate(alice, room, edited(message, "common draught"))
	require.Equal(t, []string{message}, foundIDs(search(bob, "common")))
	bob.MustLeave(room)
	time.Sleep(2 * time.Millisecond) // of two edits at one time the greater id counts
	relate(alice, room, edited(message, "secret draught"))
	for _, order := range []string{"rank", "recent"} {
		r := search(bob, "secret", map[string]any{"order_by": order})
		require.Empty(t, foundIDs(r))
		require.Zero(t, r.Get(found+".count").Int())
	}
	require.Equal(t, []string{message}, foundIDs(search(bob, "draught")), "as it was when they left")
	require.Equal(t, []string{message}, foundIDs(search(alice, "secret")))
}

// PA-22: filters.
func TestSearchFilters(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	one, two := alice.CreateRoom(homeservertest.Public), alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(one)
	a1, a2, b1 := alice.Send(one, "word"), alice.Send(two, "word"), bob.Send(one, "word")
	relate(bob, one, relatesTo("m.reference", a1, "other"))
	name := alice.SetState(two, "m.room.name", "", map[string]any{"name": "word"}).WantOK().Get("event_id").String()
	tests := []struct {
		name   string
		filter map[string]any
		want   []string
	}{
		{"rooms", map[string]any{"rooms": []string{one}}, []string{a1, b1}},
		{"no rooms", map[string]any{"rooms": []string{}}, []string{}},
		{"not rooms", map[string]any{"not_rooms": []string{one}}, []string{a2, name}},
		{"senders", map[string]any{"senders": []string{bob.ID}}, []string{b1}},
		{"not senders", map[string]any{"not_senders": []string{bob.ID}}, []string{a1, a2, name}},
		{"types", map[string]any{"types": []string{"m.room.name"}}, []string{name}},
		{"related by", map[string]any{"related_by_rel_types": []string{"m.reference"}}, []string{a1}},
		{"related by another", map[string]any{"related_by_senders": []string{alice.ID}}, []string{}},
		{"not types", map[string]any{"not_types": []string{"m.room.n*"}}, []string{a1, a2, b1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.ElementsMatch(t, tt.want, foundIDs(search(alice, "word", map[string]any{"filter": tt.filter})))
		})
	}
}

// PA-22: with a room come those that it was upgraded from.
func TestSearchInUpgradedRooms(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	old := alice.CreateRoom(homeservertest.Private)
	before := alice.Send(old, "message before upgrade")
	room := alice.Do("POST", v3+"/rooms/"+old+"/upgrade", map[string]any{"new_version": "11"}).WantOK().Get("replacement_room").String()
	after := alice.Send(room, "message after upgrade")
	in := func(rooms ...string) map[string]any { return map[string]any{"filter": map[string]any{"rooms": rooms}} }
	body := map[string]any{"keys": []string{"content.body"}}
	require.ElementsMatch(t, []string{before, after}, foundIDs(search(alice, "upgrade", body, in(room))))
	require.Equal(t, []string{before}, foundIDs(search(alice, "upgrade message", body, in(old))))
	require.ElementsMatch(t, []string{before, after}, foundIDs(search(alice, "upgrade", body, in(old, room))))
	require.EqualValues(t, 2, search(alice, "upgrade", body, in(old, room)).WantOK().Get(found+".count").Int())
}

// C-43: nothing in a term is an operator; bad input is an error of the standard form.
func TestHostileSearches(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	sent := alice.Send(room, "a NEAR b OR words rowid")
	for _, term := range []string{
		`"`, `""`, `"""`, `*`, `a*`, `a" OR "b`, `NEAR(a b)`, `a OR`, `a AND NOT b`, `';--`, `words : a`, `{words} : a`, `^a`, `-a`, `a + b`,
		`(a`, `a)`, `'`, `\`, `a:*`, `a & !b`, `a <-> b`, "\x00", "\ue000r1", "\ue000kbody", "the of and", "", "   ", strings.Repeat("x ", 31),
		strings.Repeat("x", 4000), strings.Repeat("東", 300), "%s", "$1",
	} {
		require.Empty(t, foundIDs(search(alice, term+" absent")), "%q", term)
		search(alice, term).WantOK()
	}
	require.Equal(t, []string{sent}, foundIDs(search(alice, "NEAR or b")))
	bad := func(body string) *homeservertest.Response { return alice.Do("POST", v3+"/search", []byte(body)) }
	criteria := func(c string) string { return `{"search_categories":{"room_events":` + c + `}}` }
	tests := []struct{ name, body, code string }{
		{"nothing", `{}`, "M_MISSING_PARAM"},
		{"no term", criteria(`{}`), "M_MISSING_PARAM"},
		{"a term that is a number", criteria(`{"search_term":1}`), "M_BAD_JSON"},
		{"many words", criteria(`{"search_term":"` + strings.Repeat("x ", 33) + `"}`), "M_INVALID_PARAM"},
		{"a long term", criteria(`{"search_term":"` + strings.Repeat("x", 10000) + `"}`), "M_INVALID_PARAM"},
		{"another key", criteria(`{"search_term":"x","keys":["content.formatted_body"]}`), "M_INVALID_PARAM"},
		{"another order", criteria(`{"search_term":"x","order_by":"random"}`), "M_INVALID_PARAM"},
		{"another group", criteria(`{"search_term":"x","groupings":{"group_by":[{"key":"type"}]}}`), "M_INVALID_PARAM"},
		{"a negative context", criteria(`{"search_term":"x","event_context":{"before_limit":-1}}`), "M_INVALID_PARAM"},
		{"a negative limit", criteria(`{"search_term":"x","filter":{"limit":-1}}`), "M_INVALID_PARAM"},
		{"a list for an object", criteria(`[]`), "M_BAD_JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { bad(tt.body).WantError(400, tt.code) })
	}
	for _, next := range []string{"x", "e30=", "bnVsbA", "W10", "eyJkIjoiYSJ9", "eyJ4IjoxfQ", "eyJzIjotMX0", strings.Repeat("A", 3000)} {
		searchFrom(alice, next, "a").WantError(400, "M_INVALID_PARAM")
	}
	alice.Send(room, "a")
	next := search(alice, "a", recent, limited(1, nil)).WantOK().Get(found + ".next_batch").String()
	searchFrom(alice, next, "a", limited(1, nil)).WantError(400, "M_INVALID_PARAM")
}
