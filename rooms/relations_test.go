package rooms_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

const v1 = "/_matrix/client/v1"

// newRoot is a user in a room of their own, with a message in it.
func newRoot(t *testing.T) (alice *homeservertest.User, room, root string) {
	alice = homeservertest.New(t).User("alice")
	room = alice.CreateRoom(homeservertest.Private)
	return alice, room, alice.Send(room, "root")
}

// newPair is two users in a room of the first that anybody may join.
func newPair(t *testing.T) (alice, bob *homeservertest.User, room string) {
	hs := homeservertest.New(t)
	alice, bob = hs.User("alice"), hs.User("bob")
	room = alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	return alice, bob, room
}

// relatesTo is the content of a message that relates to an event.
func relatesTo(relType, event, body string) map[string]any {
	return map[string]any{"msgtype": "m.text", "body": body, "m.relates_to": map[string]any{"rel_type": relType, "event_id": event}}
}

// edited is the content of an edit.
func edited(event, body string) map[string]any {
	content := relatesTo("m.replace", event, "* "+body)
	content["m.new_content"] = map[string]any{"msgtype": "m.text", "body": body}
	return content
}

// relate sends a message that relates to an event.
func relate(u *homeservertest.User, room string, content map[string]any) string {
	return u.SendEvent(room, "m.room.message", content).WantOK().Get("event_id").String()
}

// relations asks for what relates to an event.
func relations(u *homeservertest.User, room, event string, query url.Values, narrow ...string) *homeservertest.Response {
	path := v1 + "/rooms/" + url.PathEscape(room) + "/relations/" + url.PathEscape(event)
	for _, s := range narrow {
		path += "/" + url.PathEscape(s)
	}
	return u.Do("GET", path+"?"+query.Encode(), nil)
}

// bundled is what is told beside an event of what relates to it.
func bundled(u *homeservertest.User, room, event string) gjson.Result {
	return u.Do("GET", inRoom(room, "event", event), nil).WantOK().Get(`unsigned.m\.relations`)
}

// PA-12: the three forms of /relations.
func TestEventsThatRelate(t *testing.T) {
	alice, room, root := newRoot(t)
	reply := relate(alice, room, relatesTo("m.thread", root, "reply"))
	dummy := alice.SendEvent(room, "m.dummy", relatesTo("m.thread", root, "")).WantOK().Get("event_id").String()
	edit := relate(alice, room, edited(root, "edited"))
	alice.Send(room, "other")

	require.Equal(t, []string{edit, dummy, reply}, ids(relations(alice, room, root, nil).WantOK().Get("chunk")), "newest first")
	require.Equal(t, []string{dummy, reply}, ids(relations(alice, room, root, nil, "m.thread").WantOK().Get("chunk")))
	require.Equal(t, []string{reply}, ids(relations(alice, room, root, nil, "m.thread", "m.room.message").WantOK().Get("chunk")))
	oldest := url.Values{"dir": {"f"}}
	require.Equal(t, []string{reply, dummy, edit}, ids(relations(alice, room, root, oldest).WantOK().Get("chunk")), "oldest first")
	require.Equal(t, []string{reply, dummy}, ids(relations(alice, room, root, oldest, "m.thread").WantOK().Get("chunk")))
	none := relations(alice, room, root, nil, "org.example.unknown").WantOK()
	require.Equal(t, `{"chunk":[]}`, string(none.Body))
	require.Equal(t, `{"chunk":[]}`, string(relations(alice, room, reply, nil).WantOK().Body))
}

// PA-12: pages in both directions; next_batch ends with the last, prev_batch begins with the second.
func TestPagesOfRelations(t *testing.T) {
	alice, room, root := newRoot(t)
	var all []string
	for i := range 10 {
		all = append(all, relate(alice, room, relatesTo("m.thread", root, fmt.Sprint(i))))
	}
	for dir, want := range map[string][]string{"f": all, "b": reversed(all)} {
		for _, narrow := range [][]string{nil, {"m.thread"}, {"m.thread", "m.room.message"}} {
			query := url.Values{"limit": {"3"}, "dir": {dir}}
			var got []string
			for n := 0; ; n++ {
				r := relations(alice, room, root, query, narrow...).WantOK()
				got = append(got, ids(r.Get("chunk"))...)
				require.Equal(t, n > 0, r.Get("prev_batch").Exists())
				if n > 0 {
					require.Equal(t, query.Get("from"), r.Get("prev_batch").String())
				}
				if !r.Get("next_batch").Exists() {
					break
				}
				query.Set("from", r.Get("next_batch").String())
			}
			require.Equal(t, want, got, "%s %v", dir, narrow)
		}
	}
	exact := relations(alice, room, root, url.Values{"limit": {"10"}}).WantOK()
	require.False(t, exact.Get("next_batch").Exists(), "nothing is left")
}

// PA-13: tokens of /sync, /messages and /context.
func TestRelationsFromOtherTokens(t *testing.T) {
	alice, room, root := newRoot(t)
	before := relate(alice, room, relatesTo("m.thread", root, "before"))
	since := alice.Sync("").NextBatch
	after := relate(alice, room, relatesTo("m.thread", root, "after"))

	get := func(dir, from string) []string {
		return ids(relations(alice, room, root, url.Values{"dir": {dir}, "from": {from}}).WantOK().Get("chunk"))
	}
	require.Equal(t, []string{after}, get("f", since))
	require.Equal(t, []string{before}, get("b", since))
	page := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"1"}}).WantOK()
	require.Equal(t, []string{before}, get("b", page.Get("end").String()), "behind the page")
	require.Equal(t, []string{after}, get("f", page.Get("end").String()))
	require.Equal(t, []string{after, before}, get("b", page.Get("start").String()))
	context := alice.Do("GET", inRoom(room, "context", after)+"?limit=0", nil).WantOK()
	require.Equal(t, []string{before}, get("b", context.Get("start").String()))
	bounded := url.Values{"from": {page.Get("start").String()}, "to": {since}}
	require.Equal(t, []string{after}, ids(relations(alice, room, root, bounded).WantOK().Get("chunk")))
}

// PA-12: recurse goes three steps; a filter holds on the whole way.
func TestRecursion(t *testing.T) {
	alice, room, root := newRoot(t)
	first := relate(alice, room, relatesTo("m.thread", root, "1"))
	second := relate(alice, room, relatesTo("m.reference", first, "2"))
	third := relate(alice, room, relatesTo("m.reference", second, "3"))
	relate(alice, room, relatesTo("m.reference", third, "4"))
	beside := relate(alice, room, relatesTo("m.reference", root, "1b"))
	behind := relate(alice, room, relatesTo("m.reference", beside, "2b"))

	deep := url.Values{"recurse": {"true"}}
	r := relations(alice, room, root, deep).WantOK()
	require.Equal(t, []string{behind, beside, third, second, first}, ids(r.Get("chunk")))
	require.EqualValues(t, 3, r.Get("recursion_depth").Int())
	require.Equal(t, []string{behind, beside}, ids(relations(alice, room, root, deep, "m.reference").WantOK().Get("chunk")))
	require.Equal(t, []string{first}, ids(relations(alice, room, root, deep, "m.thread").WantOK().Get("chunk")))
	require.Equal(t, []string{third, second}, ids(relations(alice, room, first, url.Values{"recurse": {"true"}, "limit": {"2"}, "from": {tokenAt(alice, room, third)}}, "m.reference").WantOK().Get("chunk")))

	flat := relations(alice, room, root, url.Values{"recurse": {"false"}}).WantOK()
	require.Equal(t, []string{beside, first}, ids(flat.Get("chunk")))
	require.True(t, flat.Get("recursion_depth").Exists(), "whoever asks is told")
	require.False(t, relations(alice, room, root, nil).WantOK().Get("recursion_depth").Exists())

	query := url.Values{"recurse": {"true"}, "limit": {"2"}, "dir": {"f"}}
	var got []string
	for {
		r := relations(alice, room, root, query).WantOK()
		got = append(got, ids(r.Get("chunk"))...)
		if !r.Get("next_batch").Exists() {
			break
		}
		query.Set("from", r.Get("next_batch").String())
	}
	require.Equal(t, []string{first, second, third, beside, behind}, got)

	alice.Redact(room, second).WantOK()
	require.Equal(t, []string{behind, beside, first}, ids(relations(alice, room, root, deep).WantOK().Get("chunk")), "the way is broken")
	require.Equal(t, []string{third}, ids(relations(alice, room, second, nil).WantOK().Get("chunk")), "children of what is redacted remain")
}

// tokenAt is a token of the place right behind an event.
func tokenAt(u *homeservertest.User, room, event string) string {
	return u.Do("GET", inRoom(room, "context", event)+"?limit=0", nil).WantOK().Get("end").String()
}

// PA-12, C-75: what cannot be asked.
func TestBadRelationRequests(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Private)
	root := alice.Send(room, "root")
	for _, query := range []string{"dir=x", "from=x", "to=x", "limit=0", "limit=-1", "limit=x", "recurse=x", "from=s1_2", "limit=99999999999999999999"} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		relations(alice, room, root, values).WantError(400, "M_INVALID_PARAM")
	}
	relations(alice, room, root, url.Values{"limit": {"1000000000"}}).WantOK()
	relations(alice, room, "$unknown", nil).WantError(404, "M_NOT_FOUND")
	relations(alice, "!unknown:x", root, nil).WantError(404, "M_NOT_FOUND")
	relations(bob, room, root, nil).WantError(404, "M_NOT_FOUND")
}

// PA-14, PA-16, PA-17: the latest valid edit is told beside the event, which stays what it was.
func TestEditsAreBundled(t *testing.T) {
	alice, bob, room := newPair(t)
	message := alice.Send(room, "first")
	require.False(t, bundled(alice, room, message).Exists())
	edit := relate(alice, room, edited(message, "second"))
	time.Sleep(2 * time.Millisecond) // of edits of one moment the larger event id counts
	latest := relate(alice, room, edited(message, "third"))

	e := bob.Do("GET", inRoom(room, "event", message), nil).WantOK()
	require.Equal(t, "first", e.Get("content.body").String())
	told := e.Get(`unsigned.m\.relations.m\.replace`)
	require.Equal(t, latest, told.Get("event_id").String())
	for _, key := range []string{"content.m\\.new_content.body", "origin_server_ts", "sender", "type", "room_id", "unsigned.age"} {
		require.True(t, told.Get(key).Exists(), key)
	}
	require.Equal(t, edit, relations(alice, room, message, nil).WantOK().Get("chunk.1.event_id").String())

	invalid := []map[string]any{
		relatesTo("m.replace", message, "no new content"),
		{"msgtype": "m.text", "body": "x", "m.new_content": "text", "m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": message}},
	}
	for _, content := range invalid {
		relate(alice, room, content)
	}
	relate(bob, room, edited(message, "by another"))                                  // C-41
	alice.SendEvent(room, "org.example", edited(message, "of another type")).WantOK() // C-41
	alice.SetState(room, "m.room.message", "x", edited(message, "a state")).WantOK()
	relate(alice, room, edited(latest, "an edit of an edit"))
	require.Equal(t, latest, bundled(bob, room, message).Get(`m\.replace.event_id`).String())
	require.False(t, bundled(bob, room, latest).Exists(), "edits are not edited")

	alice.Redact(room, latest).WantOK()
	require.Equal(t, edit, bundled(bob, room, message).Get(`m\.replace.event_id`).String(), "a redacted edit is none")
	alice.Redact(room, message).WantOK()
	require.False(t, bundled(bob, room, message).Exists(), "what is redacted has no edits") // PA-18
}

// PA-16: nobody edits state. PA-15: nothing is bundled with state.
func TestStateHasNoEdits(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	topic := alice.SetState(room, "m.room.topic", "", map[string]any{"topic": "x"}).WantOK().Get("event_id").String()
	alice.SendEvent(room, "m.room.topic", edited(topic, "y")).WantOK()
	relate(alice, room, relatesTo("m.thread", topic, "a thread"))
	require.False(t, bundled(alice, room, topic).Exists())
	require.Len(t, relations(alice, room, topic, nil).WantOK().Get("chunk").Array(), 2)
}

// PA-16: the content of an encrypted edit cannot be looked into.
func TestEncryptedEdits(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	send := func(content map[string]any) string {
		return alice.SendEvent(room, "m.room.encrypted", content).WantOK().Get("event_id").String()
	}
	secret := send(map[string]any{"ciphertext": "x"})
	edit := send(map[string]any{"ciphertext": "y", "m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": secret}})
	require.Equal(t, edit, bundled(alice, room, secret).Get(`m\.replace.event_id`).String())
}

// PA-14: references are listed, annotations are not bundled.
func TestReferencesAreBundled(t *testing.T) {
	alice, room, message := newRoot(t)
	one := relate(alice, room, relatesTo("m.reference", message, "1"))
	two := relate(alice, room, relatesTo("m.reference", message, "2"))
	alice.SendEvent(room, "m.reaction", map[string]any{
		"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": message, "key": "x"},
	}).WantOK()
	require.JSONEq(t, fmt.Sprintf(`{"m.reference":{"chunk":[{"event_id":%q},{"event_id":%q}]}}`, one, two), bundled(alice, room, message).Raw)
	alice.Redact(room, one).WantOK()
	require.JSONEq(t, fmt.Sprintf(`{"m.reference":{"chunk":[{"event_id":%q}]}}`, two), bundled(alice, room, message).Raw)
	require.Len(t, relations(alice, room, message, nil).WantOK().Get("chunk").Array(), 2)
}

// C-75: a long page has fewer references of each event: those of all are bounded.
func TestReferencesOfLongPages(t *testing.T) {
	alice, room, message := newRoot(t)
	for i := range 60 {
		alice.Send(room, fmt.Sprint("other ", i))
	}
	for i := range 60 {
		relate(alice, room, relatesTo("m.reference", message, fmt.Sprint(i)))
	}
	const told = `m\.reference.chunk.#`
	require.EqualValues(t, 60, bundled(alice, room, message).Get(told).Int())
	page := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"121"}}).WantOK()
	require.EqualValues(t, 5000/121, page.Get(`chunk.120.unsigned.m\.relations.`+told).Int())
}

// PA-15, SY-36: wherever events come out, but not in states.
func TestWhereBundlesAre(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room := alice.CreateRoom(homeservertest.Private)
	start := alice.Sync("").NextBatch
	message := alice.Send(room, "first")
	inThread := relate(alice, room, relatesTo("m.thread", message, "in a thread"))
	edit := relate(alice, room, edited(inThread, "edited"))

	isWhole := func(where string, events gjson.Result, id string, key string) {
		t.Helper()
		for _, e := range events.Array() {
			if e.Get("event_id").String() == id {
				require.True(t, e.Get(`unsigned.m\.relations.`+key).Exists(), "%s: %s", where, e.Raw)
				return
			}
		}
		require.Fail(t, "not told", where)
	}
	const thread, replace = `m\.thread.latest_event.unsigned.m\.relations.m\.replace`, `m\.replace`
	isWhole("/messages", alice.Messages(room, url.Values{"dir": {"b"}}).WantOK().Get("chunk"), message, thread)
	around := alice.Do("GET", inRoom(room, "context", inThread), nil).WantOK()
	isWhole("/context", around.Get("events_before"), message, thread)
	isWhole("/context", gjson.Parse("["+around.Get("event").Raw+"]"), inThread, replace)
	isWhole("/relations", relations(alice, room, message, nil).WantOK().Get("chunk"), inThread, replace)
	isWhole("/threads", threads(alice, room, nil).WantOK().Get("chunk"), message, thread)
	isWhole("/search", search(alice, "first").WantOK().Get(found+".results.#.result"), message, thread)
	require.Equal(t, edit, bundled(alice, room, inThread).Get(replace+".event_id").String())

	timeline := "rooms.join." + gjsonPath(room) + ".timeline.events"
	isWhole("an initial /sync", alice.Sync("").Get(timeline), message, thread)
	limited := alice.SyncWith(url.Values{"since": {start}, "filter": {`{"room":{"timeline":{"limit":2}}}`}})
	isWhole("a limited /sync", limited.Get(timeline), inThread, replace)
	require.NotContains(t, limited.Get(timeline).Raw, "room_id", "what is bundled has the form of what it is bundled with")
	unlimited := alice.SyncWith(url.Values{"since": {start}})
	require.NotContains(t, unlimited.Get(timeline).Raw, "m.relations", "the client has the events themselves")
}

// gjsonPath escapes a room id for gjson.
func gjsonPath(room string) string {
	path := ""
	for _, c := range room {
		if c == '.' || c == '!' || c == ':' {
			path += `\`
		}
		path += string(c)
	}
	return path
}

// PA-19: whom the user ignores neither is told of nor counts.
func TestIgnoredUsersAreNotAggregated(t *testing.T) {
	alice, bob, room := newPair(t)
	message := alice.Send(room, "root")
	mine := relate(alice, room, relatesTo("m.thread", message, "mine"))
	his := relate(bob, room, relatesTo("m.thread", message, "his"))
	hisReference := relate(bob, room, relatesTo("m.reference", message, "his"))
	hisRoot := bob.Send(room, "root of his")
	relate(alice, room, relatesTo("m.thread", hisRoot, "mine"))
	onlyHis := alice.Send(room, "root of nothing")
	relate(bob, room, relatesTo("m.thread", onlyHis, "his"))

	thread := bundled(alice, room, message).Get(`m\.thread`)
	require.EqualValues(t, 2, thread.Get("count").Int())
	require.Equal(t, his, thread.Get("latest_event.event_id").String())
	ignore(alice, bob)
	thread = bundled(alice, room, message).Get(`m\.thread`)
	require.EqualValues(t, 1, thread.Get("count").Int())
	require.Equal(t, mine, thread.Get("latest_event.event_id").String())
	require.False(t, bundled(alice, room, message).Get(`m\.reference`).Exists())
	require.Equal(t, []string{mine}, ids(relations(alice, room, message, nil).WantOK().Get("chunk")))
	require.Contains(t, ids(relations(bob, room, message, nil).WantOK().Get("chunk")), hisReference)
	chunk := alice.Messages(room, url.Values{"dir": {"b"}, "limit": {"100"}}).WantOK().Get("chunk")
	require.NotContains(t, ids(chunk), his) // C-45
	require.Contains(t, chunk.Raw, `"membership":"join"`, "state events are told")

	list := threads(alice, room, nil).WantOK().Get("chunk")
	require.Equal(t, []string{hisRoot, message}, ids(list))
	require.Equal(t, "{}", list.Get("0.content").Raw, "the root of an ignored user is told redacted") // PA-20
	require.EqualValues(t, 1, list.Get(`0.unsigned.m\.relations.m\.thread.count`).Int())
	require.Len(t, threads(bob, room, nil).WantOK().Get("chunk").Array(), 3)
}

func ignore(u, other *homeservertest.User) {
	path := v3 + "/user/" + url.PathEscape(u.ID) + "/account_data/m.ignored_user_list"
	u.Do("PUT", path, map[string]any{"ignored_users": map[string]any{other.ID: map[string]any{}}}).WantOK()
}

// HV-04: what the user may not see is neither bundled nor listed.
func TestHiddenEventsAreNotAggregated(t *testing.T) {
	hs := homeservertest.New(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	room := alice.CreateRoom(homeservertest.Public)
	alice.SetState(room, "m.room.history_visibility", "", map[string]any{"history_visibility": "joined"}).WantOK()
	bob.MustJoin(room)
	message := alice.Send(room, "root")
	seen := relate(alice, room, relatesTo("m.thread", message, "seen"))
	bob.MustLeave(room)
	hidden := relate(alice, room, relatesTo("m.thread", message, "hidden"))
	relate(alice, room, edited(message, "hidden"))
	relate(alice, room, relatesTo("m.reference", message, "hidden"))

	check := func() {
		t.Helper()
		told := bundled(bob, room, message)
		require.False(t, told.Get(`m\.replace`).Exists(), told.Raw)
		require.False(t, told.Get(`m\.reference`).Exists(), told.Raw)
		require.Equal(t, seen, told.Get(`m\.thread.latest_event.event_id`).String())
		require.EqualValues(t, 1, told.Get(`m\.thread.count`).Int())
		require.Equal(t, []string{seen}, ids(relations(bob, room, message, nil).WantOK().Get("chunk")))
		require.Equal(t, []string{message}, ids(threads(bob, room, nil).WantOK().Get("chunk")))
		require.NotContains(t, string(threads(bob, room, nil).Body), "hidden")
	}
	check()
	bob.MustJoin(room)
	check()
	relations(bob, room, hidden, nil).WantError(404, "M_NOT_FOUND")
	require.EqualValues(t, 2, bundled(alice, room, message).Get(`m\.thread.count`).Int())
}

// C-37: what stands in another room is no relation.
func TestRelationsAcrossRooms(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	room, other := alice.CreateRoom(homeservertest.Private), alice.CreateRoom(homeservertest.Private)
	message := alice.Send(room, "root")
	for _, relType := range []string{"m.thread", "m.reference"} {
		relate(alice, other, relatesTo(relType, message, "elsewhere"))
	}
	relate(alice, other, edited(message, "elsewhere"))
	require.False(t, bundled(alice, room, message).Exists())
	require.Empty(t, relations(alice, room, message, nil).WantOK().Get("chunk").Array())
	require.Empty(t, threads(alice, room, nil).WantOK().Get("chunk").Array())
	require.Empty(t, threads(alice, other, nil).WantOK().Get("chunk").Array(), "the root is not there")
	relations(alice, other, message, nil).WantError(404, "M_NOT_FOUND")
}

// PA-21: a relation that is malformed is none, and does no harm.
func TestMalformedRelations(t *testing.T) {
	alice, room, message := newRoot(t)
	long := make([]byte, 256)
	for i := range long {
		long[i] = 'a'
	}
	for _, rel := range []any{
		"text", 5, nil, []any{}, map[string]any{}, map[string]any{"rel_type": "m.thread"}, map[string]any{"event_id": message},
		map[string]any{"rel_type": 5, "event_id": message}, map[string]any{"rel_type": "", "event_id": message},
		map[string]any{"rel_type": "m.thread", "event_id": 5}, map[string]any{"rel_type": "m.thread", "event_id": "root"},
		map[string]any{"rel_type": string(long), "event_id": message}, map[string]any{"rel_type": "a\x00", "event_id": message},
	} {
		alice.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "x", "m.relates_to": rel}).WantOK()
	}
	require.Empty(t, relations(alice, room, message, nil).WantOK().Get("chunk").Array())
	require.False(t, bundled(alice, room, message).Exists())
}

// C-75: a long chain costs no more than three steps.
func TestLongChains(t *testing.T) {
	alice, room, root := newRoot(t)
	chain := []string{root}
	for i := range 300 {
		chain = append(chain, relate(alice, room, relatesTo("m.reference", chain[i], "x")))
	}
	want := slices.Clone(chain[1:4])
	slices.Reverse(want)
	require.Equal(t, want, ids(relations(alice, room, root, url.Values{"recurse": {"true"}, "limit": {"1000"}}).WantOK().Get("chunk")))
}

// MSC3874 and MSC3440: /messages by how events relate to others.
func TestMessagesByRelation(t *testing.T) {
	alice, bob, room := newPair(t)
	since := alice.Sync("").NextBatch
	root := alice.Send(room, "root")
	thread := relate(bob, room, relatesTo("m.thread", root, "thread"))
	reference := relate(alice, room, relatesTo("m.reference", thread, "reference"))
	get := func(filter string) []string {
		return ids(alice.Messages(room, url.Values{"dir": {"f"}, "from": {since}, "filter": {filter}}).WantOK().Get("chunk"))
	}
	for _, prefix := range []string{"", "org.matrix.msc3874."} {
		require.Equal(t, []string{thread}, get(`{"`+prefix+`rel_types":["m.thread"]}`))
		require.Equal(t, []string{thread, reference}, get(`{"`+prefix+`rel_types":["m.reference","m.thread"]}`))
		require.Equal(t, []string{root, reference}, get(`{"`+prefix+`not_rel_types":["m.thread"]}`))
		require.Equal(t, []string{root}, get(`{"`+prefix+`not_rel_types":["m.thread","m.reference"]}`))
		require.Empty(t, get(`{"`+prefix+`rel_types":[]}`))
		alice.Messages(room, url.Values{"dir": {"f"}, "filter": {`{"` + prefix + `rel_types":[1]}`}}).WantError(400, "M_BAD_JSON")
	}
	require.Equal(t, []string{root}, get(`{"related_by_rel_types":["m.thread"]}`))
	require.Equal(t, []string{root, thread}, get(`{"related_by_rel_types":["m.thread","m.reference"]}`))
	require.Equal(t, []string{thread}, get(`{"related_by_senders":["`+alice.ID+`"]}`))
	require.Empty(t, get(`{"related_by_rel_types":["m.thread"],"related_by_senders":["`+alice.ID+`"]}`))
	require.Empty(t, get(`{"related_by_rel_types":[]}`))
}

// MSC3912: with_rel_types redacts what relates to the event too, as far as that is allowed.
func TestRedactionWithRelations(t *testing.T) {
	alice, bob, room := newPair(t)
	redact := func(u *homeservertest.User, event string, body map[string]any) {
		u.Do("PUT", inRoom(room, "redact", event, "txn"+event), body).WantOK()
	}
	kinds := func(event string) (list []string) {
		for _, e := range relations(alice, room, event, nil).WantOK().Get("chunk").Array() {
			list = append(list, e.Get("content.body").String())
		}
		return list
	}
	start := func(u *homeservertest.User) string {
		message := u.Send(room, "message")
		relate(u, room, edited(message, "edit"))
		relate(u, room, relatesTo("m.reference", message, "reference"))
		relate(alice, room, relatesTo("m.thread", message, "of alice"))
		return message
	}
	message := start(alice)
	redact(alice, message, map[string]any{"with_rel_types": []string{"m.replace", "m.reference"}})
	require.Equal(t, []string{"of alice"}, kinds(message))
	message = start(alice)
	redact(alice, message, map[string]any{"org.matrix.msc3912.with_relations": []string{"*"}, "reason": "why"})
	require.Empty(t, kinds(message))
	message = start(alice)
	redact(alice, message, map[string]any{"with_rel_types": []string{""}})
	require.Len(t, kinds(message), 3, "nothing relates in no way")
	message = start(alice)
	since := alice.Sync("").NextBatch
	redact(alice, message, map[string]any{
		"with_rel_types": []string{"m.replace", "m.replace"}, "org.matrix.msc3912.with_relations": []string{"m.replace"},
	})
	told := alice.Messages(room, url.Values{"dir": {"f"}, "from": {since}}).WantOK().Get("chunk")
	require.Len(t, told.Array(), 2, "each event once")
	message = start(bob)
	redact(bob, message, map[string]any{"with_rel_types": []string{"*"}})
	require.Equal(t, []string{"of alice"}, kinds(message), "who may not redact the events of others does not")
	alice.Do("PUT", inRoom(room, "redact", message, "x"), map[string]any{"with_rel_types": "m.replace"}).WantError(400, "M_BAD_JSON")
}

// ST-04: administrators of the server redact the events of its users, in a room where they may not do more than others.
func TestAdministratorsRedact(t *testing.T) {
	hs := homeservertest.New(t, func(cfg *homeserver.Config) { cfg.Admins = []string{"@root:" + cfg.ServerName} })
	alice, bob, root := hs.User("alice"), hs.User("bob"), hs.User("root")
	room := alice.CreateRoom(homeservertest.Public)
	bob.MustJoin(room)
	message := alice.Send(room, "message")
	root.Redact(room, message).WantError(403, "M_FORBIDDEN") // not in the room
	root.MustJoin(room)
	bob.Redact(room, message).WantError(403, "M_FORBIDDEN")
	root.Redact(room, message).WantOK()
	require.Equal(t, "{}", alice.Do("GET", inRoom(room, "event", message), nil).WantOK().Get("content").Raw)
	message = alice.Send(room, "another")
	root.SendEvent(room, "m.room.redaction", map[string]any{"redacts": message}).WantOK()
	require.Equal(t, "{}", alice.Do("GET", inRoom(room, "event", message), nil).WantOK().Get("content").Raw)
}
